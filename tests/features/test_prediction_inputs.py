"""Predictions as inputs of groups: what definitions with them mean, and which are refused."""

from __future__ import annotations

from itertools import pairwise

import polars as pl
import pytest

from features import Entity, Feature, FeatureGroup, FeatureService, ModelSpec, Registry, Source
from features.compute import stored_schema
from features.errors import DefinitionError
from features.lineage import lineage

ABOUT = {"owner": "o", "description": "d"}
wafer = Entity("wafer", keys={"lot": pl.String, "wafer": pl.Int32})
tester = Entity("tester", keys={"tester": pl.String})
SCHEMA = {"lot": pl.String, "wafer": pl.Int32, "tester": pl.String, "vdd": pl.Float64, "good": pl.Float64}
tests = Source("tests", {**SCHEMA, "at": pl.Datetime}, "at")
measured = FeatureGroup("measured", "1.0.0", wafer, tests, [Feature("vdd", pl.col("vdd"))], grain="event", **ABOUT)
outcome = FeatureGroup("outcome", "1.0.0", wafer, tests, [Feature("good", pl.col("good"))], grain="event", **ABOUT)


def model(reads=(measured,), label="outcome:good", name="yields"):
    return ModelSpec(name, FeatureService(f"{name}_service", reads, **ABOUT), label, None, **ABOUT)


def by_tester(predicted, wafers):
    return predicted.join(wafers.select("lot", "wafer", "tester"), on=["lot", "wafer"])


def group_over(predictions, name="recent", version="1.0.0"):
    last = Feature("mean_of_last_5_30d", pl.col("prediction").tail(5).mean(), window="30d")
    source = {"predicted": predictions, "wafers": tests}
    return FeatureGroup(
        name, version, tester, source, [last], grain="window", every="1d", prepare=by_tester,
        prepare_by=["lot", "wafer"], **ABOUT,
    )  # fmt: skip


def test_a_group_brings_its_model_with_it_and_no_source_to_write_to():
    recent = group_over(model().predictions(wafer))
    registry = Registry([recent, outcome])
    assert list(registry.models) == ["yields"]
    assert list(registry.sources) == ["tests"]
    assert registry.in_order().index(recent) == 2
    assert stored_schema(recent)["mean_of_last_5_30d"] == pl.Float64


def test_two_groups_read_the_same_predictions():
    spec = model()
    assert spec.predictions(wafer) is spec.predictions(wafer)
    one, other = group_over(spec.predictions(wafer)), group_over(spec.predictions(wafer), "other")
    assert {"recent", "other"} <= set(Registry([one, other, outcome]).groups)


def test_lineage_goes_through_the_model():
    registry = Registry([group_over(model().predictions(wafer)), outcome])
    found = lineage(registry, "recent:mean_of_last_5_30d")
    way = ["tests:vdd", "measured:vdd", "yields_service", "yields", "predictions/yields", "recent:mean_of_last_5_30d"]
    edges = {(e.source.name, e.target.name): e.role for e in found.edges}
    assert [edges[step] for step in pairwise(way)] == ["value"] * 5
    assert edges["outcome:good", "yields"] == "label"
    assert edges["tests:tester", "recent:mean_of_last_5_30d"] == "structure"
    for ref in ("tests:vdd", "measured:vdd", "yields", "predictions/yields"):
        assert "recent:mean_of_last_5_30d" in {node.name for node in lineage(registry, ref).nodes}, ref


def test_a_group_cannot_be_made_of_predictions_made_of_it():
    spec = model(["recent:mean_of_last_5_30d"])
    way = "'recent' reads predictions of model 'yields', which learns from 'recent'"
    with pytest.raises(DefinitionError, match=f"form a cycle: {way}; take one of these inputs out"):
        Registry([group_over(spec.predictions(wafer)), outcome])


def test_nor_of_predictions_of_a_model_that_learned_from_it_by_its_label_or_by_another_group():
    by_label = model(label="above:mean", name="by_label")
    recent = group_over(by_label.predictions(tester))
    mean = [Feature("mean", pl.col("mean_of_last_5_30d"))]
    above = FeatureGroup("above", "1.0.0", tester, recent, mean, grain="event", **ABOUT)
    with pytest.raises(DefinitionError, match="'by_label', which learns from 'above' reads 'recent';"):
        Registry([recent, above])


def test_a_reference_without_a_major_may_come_to_mean_the_one_that_reads_the_predictions():
    bare, pinned = (model([f"recent{major}:mean_of_last_5_30d"], name="yields") for major in ("", "@2"))
    plain = [Feature("mean_of_last_5_30d", pl.col("vdd"))]
    second = FeatureGroup("recent", "2.0.0", wafer, tests, plain, grain="event", **ABOUT)
    with pytest.raises(DefinitionError, match="'recent' reads predictions of model 'yields', which learns from 'rec"):
        Registry([group_over(bare.predictions(wafer)), second, outcome])  # a rollback would close the cycle
    assert Registry([group_over(pinned.predictions(wafer)), second, outcome]).models


def test_predictions_are_of_the_entity_of_the_label():
    with pytest.raises(DefinitionError, match=r"'recent': model 'yields' predicts for entity 'wafer': read its pred"):
        Registry([group_over(model().predictions(Entity("wafer", keys=wafer.keys))), outcome])


def test_keys_cannot_be_called_like_columns_of_predictions():
    run = Entity("run", keys={"run_id": pl.String})
    with pytest.raises(DefinitionError, match=r"\['run_id'\] of their own: rename these keys of entity 'run'"):
        model().predictions(run)
