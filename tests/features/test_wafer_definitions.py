"""The shipped wafer definitions: complete, worth their words, and without the label among the features."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pandas as pd
import polars as pl
import pytest
import skops.io
from polars.testing import assert_frame_equal
from sklearn.base import clone

from features.definitions import REGISTRY
from features.definitions.wafer import (
    device_parametrics,
    die_outcomes,
    spatial_correlations,
    temporal_trends,
    wafer_aggregates,
    wafer_outcomes,
)
from features.definitions.wafer_models import test_fail as fail_model
from features.definitions.wafer_models import test_fail_prediction as fail_service
from features.definitions.wafer_models import yield_prediction as yield_service
from features.feature_group import Feature, FeatureGroup
from features.model import ModelSpec
from features.times import duration
from wafer_frames import START, random_wafers

GROUPS = list(REGISTRY.groups.values())
MODELS = list(REGISTRY.models.values())
FEATURES = [pytest.param(g, f, id=f"{g.name}:{f.name}") for g in GROUPS for f in (*g.features, *g.derived)]

SAVED_TYPES = {
    # What a fitted estimator may hold beyond the types that skops trusts by itself; none of them runs code.
    "numpy.dtype",
    "sklearn.compose._column_transformer.make_column_selector",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
}


def frames(group: FeatureGroup, parts: pl.DataFrame, results: pl.DataFrame) -> dict[str, pl.LazyFrame]:
    """The group's inputs by name."""
    there = {"parts": parts, "results": results}
    return {name: there[name].lazy() for name in group.inputs}


def computed(
    group: FeatureGroup, parts: pl.DataFrame, results: pl.DataFrame, within: pl.Expr | bool = True
) -> pl.DataFrame:
    """The group's features per entity (per row for the event grain) over the rows ``within``."""
    assert group.prepare is not None
    prepared = group.prepare(**frames(group, parts, results)).filter(within)
    stored = [f.expr.alias(f.name) for f in group.features]
    derived = [f.expr.alias(f.name) for f in group.derived]
    if group.grain == "event":
        rows = prepared.select(*group.keys, "tested_at", *stored)
    else:
        rows = prepared.group_by(group.keys).agg(stored)
    return rows.with_columns(derived).sort(group.keys).collect()


def handmade(values: Sequence[tuple[bool | None, float | None, float | None]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One wafer of dies in a row, 5 mm by 4 mm, one a minute: passed, vdd and idd of each."""
    parts, results = random_wafers(0, side=10, retests=0, datalogged=1.0, die_mm=(5.0, 4.0))
    index = pl.Series("part_index", range(len(values)), dtype=pl.Int64)
    told = pl.DataFrame(
        {
            "part_index": index,
            "passed": [v[0] for v in values],
            "vdd": [v[1] for v in values],
            "idd": [v[2] for v in values],
        },
        schema_overrides={"passed": pl.Boolean, "vdd": pl.Float64, "idd": pl.Float64},
    )
    when = (pl.lit(START) + pl.duration(minutes="part_index")).alias("tested_at")
    chosen = parts.drop("passed").join(told, on="part_index").with_columns(when)
    named = told.unpivot(["vdd", "idd"], index="part_index", variable_name="test_name", value_name="told").drop_nulls()
    values_of = results.join(named, on=["part_index", "test_name"]).with_columns(pl.col("told").alias("result"), when)
    return chosen.select(parts.columns), values_of.select(results.columns)


# --------------------------------------------------------------------------------------- completeness


def test_the_registry_holds_what_the_domain_promises() -> None:
    assert set(REGISTRY.groups) == {
        *("wafer_aggregates", "device_parametrics", "spatial_correlations", "temporal_trends"),
        *("wafer_outcomes", "die_outcomes"),
    }
    assert set(REGISTRY.models) == {"wafer_yield", "test_fail"}


@pytest.mark.parametrize(("group", "feature"), FEATURES)
def test_every_feature_says_what_it_is(group: FeatureGroup, feature: Feature) -> None:
    assert feature.unit
    assert feature.description.endswith(".")
    schema = computed(group, *random_wafers(0)).schema
    text = schema[feature.name] == pl.String
    assert (feature.range is None) == text


@pytest.mark.parametrize("group", GROUPS, ids=lambda g: g.name)
def test_every_group_has_an_owner_a_description_and_a_ttl(group: FeatureGroup) -> None:
    assert group.owner
    assert group.description.endswith(".")
    assert group.ttl_span is not None
    assert group.tags
    assert group.online == ("label" not in group.tags)
    assert (group.sla is not None) == group.online


@pytest.mark.parametrize("source", REGISTRY.sources.values(), ids=lambda s: s.name)
def test_every_source_is_described(source: object) -> None:
    assert getattr(source, "description", "").endswith(".")


# --------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("group", GROUPS, ids=lambda g: g.name)
@pytest.mark.parametrize("die_mm", [(2.0, 1.5), None])
def test_random_wafers_stay_within_the_ranges(group: FeatureGroup, die_mm: tuple[float, float] | None) -> None:
    parts, results = random_wafers(11, wafers=3, side=8, die_mm=die_mm, wafer_mm=40.0)
    rows = computed(group, parts, results)
    assert rows.height
    for feature in (*group.features, *group.derived):
        if feature.range is None:
            continue
        low, high = feature.range
        values = rows[feature.name].cast(pl.Float64).drop_nulls()
        assert values.is_finite().all()
        assert low is None or (values >= low).all()
        assert high is None or (values <= high).all()


@pytest.mark.parametrize("group", GROUPS, ids=lambda g: g.name)
def test_no_rows_give_no_rows_and_the_same_types(group: FeatureGroup) -> None:
    parts, results = random_wafers(0)
    full = computed(group, parts, results)
    empty = computed(group, parts.clear(), results.clear())
    assert empty.is_empty()
    assert empty.schema == full.schema


def test_wafer_aggregates_of_a_wafer_known_by_heart() -> None:
    dies = [(True, 1.20, 50.0), (True, 1.22, 60.0), (False, 1.18, 100.0), (None, None, None), (True, None, None)]
    row = computed(wafer_aggregates, *handmade(dies)).row(0, named=True)
    assert row["yield_pct"] == pytest.approx(75.0)
    assert row["device_count"] == 5
    assert row["avg_vdd"] == pytest.approx(1.20)
    assert row["std_vdd"] == pytest.approx(0.02)
    assert row["vdd_cv"] == pytest.approx(0.02 / 1.20)
    assert row["avg_idd"] == pytest.approx(70.0)
    assert row["idd_percentile_95"] == pytest.approx(np.percentile([50, 60, 100], 95))
    assert row["avg_test_time_ms"] == 200


def test_a_wafer_without_datalog_has_a_yield_and_no_measurements() -> None:
    parts, results = handmade([(True, None, None), (False, None, None)])
    row = computed(wafer_aggregates, parts, results).row(0, named=True)
    assert (row["yield_pct"], row["device_count"]) == (50.0, 2)
    assert (row["avg_vdd"], row["std_vdd"], row["idd_percentile_95"], row["vdd_cv"]) == (None,) * 4


def test_a_retested_die_counts_once_by_its_last_attempt() -> None:
    parts, results = handmade([(False, 1.1, 50.0), (True, 1.3, 60.0)])
    same_die = parts.with_columns(pl.lit(0, pl.Int32).alias("x"), pl.lit(0, pl.Int32).alias("y"))
    row = computed(wafer_aggregates, same_die, results).row(0, named=True)
    assert (row["yield_pct"], row["device_count"], row["avg_vdd"]) == (100.0, 1, 1.3)
    assert computed(die_outcomes, same_die, results)["failed"].to_list() == [False]
    assert computed(wafer_outcomes, same_die, results)["yield_pct"].item() == 100.0
    trend = computed(temporal_trends, same_die, results).row(0, named=True)
    assert trend["lot_yield_7d"] == 50.0


def test_trends_of_a_line_known_by_heart() -> None:
    parts, results = handmade([(True, 1.2, 50.0), (False, 1.3, None), (None, None, 70.0), (True, None, None)])
    hourly = pl.lit(START) + pl.duration(minutes=pl.col("part_index") * 45)
    parts, results = (f.with_columns(hourly.alias("tested_at")) for f in (parts, results))
    row = computed(temporal_trends, parts, results).row(0, named=True)
    assert row["vdd_mean_24h"] == pytest.approx(1.25)
    assert row["idd_mean_24h"] == pytest.approx(60.0)
    assert row["lot_yield_7d"] == row["lot_yield_30d"] == pytest.approx(200 / 3)
    assert row["defect_density_30d"] == pytest.approx(1 / (3 * 0.5 * 0.4))
    assert row["equipment_uptime_ratio_7d"] == pytest.approx(3 / 168)  # 0:00, 0:45, 1:30, 2:15


def test_an_emptied_window_is_null_and_not_a_division_by_zero() -> None:
    assert temporal_trends.prepare is not None
    prepared = temporal_trends.prepare(**frames(temporal_trends, *random_wafers(0))).filter(False)  # noqa: FBT003
    row = prepared.select(f.expr.alias(f.name) for f in temporal_trends.features).collect().row(0, named=True)
    assert row.pop("equipment_uptime_ratio_7d") == 0
    assert set(row.values()) == {None}


def test_a_full_week_is_an_uptime_of_one() -> None:
    parts, results = random_wafers(0, side=13, sites=1, retests=0)
    hourly = pl.lit(START) + pl.duration(hours="part_index")
    week = pl.col("tested_at") < START + timedelta(days=7)
    row = computed(temporal_trends, parts.with_columns(hourly.alias("tested_at")), results, week)
    assert row["equipment_uptime_ratio_7d"].item() == 1.0


def test_the_labels_carry_the_keys_of_the_wafer_s_line() -> None:
    parts, results = random_wafers(0, wafers=2)
    rows = computed(wafer_outcomes, parts, results)
    assert rows["tester_id"].to_list() == ["T0", "T1"]
    assert rows["product"].to_list() == ["chip", "chip"]
    missing = {
        key
        for model in MODELS
        for ref in model.service.refs
        for key in REGISTRY.group(ref.group).keys
        if key not in (label := REGISTRY.group(model.label_ref.group)).keys and key not in label.feature_names
    }
    assert not missing


# ---------------------------------------------------------------------------------- no label in a feature


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_no_model_reads_its_label_group(model: ModelSpec) -> None:
    assert model.label_ref.group not in {ref.group for ref in model.service.refs}
    assert not REGISTRY.group(model.label_ref.group).online


def test_no_outcome_enters_the_yield_model_s_features() -> None:
    parts, results = random_wafers(12, wafers=3)
    turned = parts.with_columns((~pl.col("passed")).alias("passed"), pl.lit(1, pl.Int32).alias("hard_bin"))
    judged = results.with_columns((~pl.col("passed")).alias("passed"))
    for group in (wafer_aggregates, temporal_trends):
        read = [ref.feature for ref in yield_service.refs if ref.group == group.name]
        assert read
        before, after = computed(group, parts, results), computed(group, turned, judged)
        assert_frame_equal(after.select(read), before.select(read))
        assert not after.equals(before)


def test_the_fail_model_reads_only_groups_that_are_proved_causal() -> None:
    assert {ref.group for ref in fail_service.refs} == {device_parametrics.name, spatial_correlations.name}


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_labels_are_known_only_after_the_model_was_asked(model: ModelSpec) -> None:
    assert duration(model.predict_after) < duration(model.label_delay) <= model.embargo_span


# ------------------------------------------------------------------------------------------- estimators


def inputs(model: ModelSpec, n: int, seed: int) -> pd.DataFrame:
    """Features in service order as an estimator gets them: floats with gaps, text as objects."""
    rng = np.random.default_rng(seed)
    columns = {}
    for ref in model.service.refs:
        gaps = rng.random(n) < 0.2
        if ref.feature == "first_failing_test":
            columns[str(ref)] = pd.Series([None if gap else "vdd" for gap in gaps], dtype=object)
        else:
            columns[str(ref)] = pd.Series(np.where(gaps, np.nan, rng.normal(size=n)))
    return pd.DataFrame(columns)


def label(model: ModelSpec, frame: pd.DataFrame) -> np.ndarray:
    """A label that the first feature decides."""
    first: np.ndarray = frame.iloc[:, 0].fillna(0).to_numpy()
    return (first > 0).astype(np.int8) if model is fail_model else 90 - 5 * first


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_estimators_learn_from_gaps_and_text(model: ModelSpec) -> None:
    train, test = inputs(model, 400, 1), inputs(model, 200, 2)
    fitted = clone(model.estimator).fit(train, label(model, train))
    assert fitted.score(test, label(model, test)) > 0.8
    empty = test.copy()
    empty.iloc[:, :] = np.nan
    assert np.isfinite(fitted.predict(empty)).all()


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_an_always_empty_feature_does_not_stop_training(model: ModelSpec) -> None:
    train = inputs(model, 100, 3)
    train.iloc[:, 1] = np.nan
    fitted = clone(model.estimator).fit(train, label(model, train))
    assert len(fitted.predict(train)) == 100


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_fitted_estimators_are_saved_with_known_types_only(model: ModelSpec) -> None:
    train = inputs(model, 100, 4)
    fitted = clone(model.estimator).fit(train, label(model, train))
    saved = skops.io.dumps(fitted)
    assert set(skops.io.get_untrusted_types(data=saved)) <= SAVED_TYPES
    again = skops.io.loads(saved, trusted=sorted(SAVED_TYPES))
    assert np.array_equal(again.predict(train), fitted.predict(train))
