"""Reproduction: whatever happened since, a run's training set is rebuilt equal, or the error says what is gone."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable
from sklearn.linear_model import LinearRegression

from card_payments import ABOUT, DAY, HOUR, T0, card, paid, payments
from features import Feature, FeatureGroup, FeatureService, ModelSpec, Registry
from features.content_hash import content_hash
from features.errors import ReproductionError, TrackingError
from features.retrieval import TrainingSet
from infra.maintenance import maintain
from infra.model_runs import train
from infra.wiring import Platform, fixed_clock, open_platform


def last_group(version: str = "1.0.0", expr: pl.Expr | None = None, **options) -> FeatureGroup:
    amount = Feature("amount", pl.col("amount") if expr is None else expr)
    return FeatureGroup("last", version, card, payments, [amount], grain="event", **{"ttl": "2d", **ABOUT, **options})


def spending_group(*, online: bool = True) -> FeatureGroup:
    sums = [Feature("sum_1d", pl.col("amount").sum(), window="1d"), Feature("n_1d", pl.len(), window="1d")]
    return FeatureGroup("spending", "1.0.0", card, payments, sums, grain="window", every="6h", online=online, **ABOUT)


def service_of(*extra: Feature, ratio: pl.Expr | None = None, features: Sequence[object] = ()) -> FeatureService:
    share = Feature("share", pl.col("amount") / pl.col("basket") if ratio is None else ratio)
    wanted = ["last:amount", "spending:sum_1d", *features]
    return FeatureService("risk", wanted, request={"basket": pl.Float64}, derived=[share, *extra], **ABOUT)


def registry(*groups: FeatureGroup, service: FeatureService | None = None) -> Registry:
    return Registry([*(groups or (last_group(), spending_group())), *([service] if service else [])])


def days(first: int, count: int, amount: float = 0.0) -> pl.DataFrame:
    rows = [
        (100 * day + i, (12 * day + i) % 60, amount + day + i / 3, T0 + day * DAY + 2 * i * HOUR)
        for day in range(first, first + count)
        for i in range(12)
    ]
    return paid(*rows)


def open_home(home: Path, now: datetime, definitions: Registry | None = None) -> Platform:
    return open_platform(definitions or registry(), home, fixed_clock(now))


def fill(home: Path) -> None:
    """Six days, four of them live."""
    with open_home(home, T0 + 2 * DAY) as platform:
        platform.store.write_source(payments, days(0, 2))
        for group in ("last", "spending"):
            platform.store.materialize(group, T0, T0 + 2 * DAY)
            platform.store.sync(group)
    for day in range(2, 6):
        run_day(home, day, days(day, 1))


def run_day(home: Path, day: int, rows: pl.DataFrame) -> None:
    with open_home(home, T0 + (day + 1) * DAY) as platform:
        platform.store.write_source(payments, rows)
        for group in ("last", "spending"):
            platform.store.materialize_incremental(group)
            platform.store.sync(group)


def asked() -> pl.DataFrame:
    """Entity rows with doubles, a null key, an unknown entity, an order of their own and columns of their own."""
    rows = [(i % 62, T0 + (7 * i % 144) * HOUR, 10.0 + i, f"note {i}") for i in range(60)]
    rows += [rows[3], (None, T0 + DAY, 1.0, None)]
    schema = {"card_id": pl.Int64, "event_timestamp": pl.Datetime("us", "UTC"), "basket": pl.Float64, "note": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def log_sets(home: Path, now: datetime) -> dict[str, TrainingSet]:
    """Training sets of several kinds, each with a run of its own."""
    renamed = asked().rename({"event_timestamp": "moment"}).with_columns(pl.col("moment").dt.replace_time_zone(None))
    references, found = ["spending:n_1d", "last:amount"], {}
    with open_home(home, now) as platform:
        store = platform.store
        for made in (
            store.get_historical_features(asked(), references),
            store.get_historical_features(asked(), references, history="as_served", full_feature_names=True),
            store.get_historical_features(renamed, references, event_timestamp="moment"),
        ):
            found[store.log_training_set(made)] = made
    return found


def check_equal(home: Path, sets: dict[str, TrainingSet], now: datetime, definitions: Registry | None = None) -> None:
    with open_home(home, now, definitions) as platform:
        for run_id, made in sets.items():
            again = platform.store.reproduce(run_id)
            assert again.to_polars().equals(made.to_polars())
            assert again.statuses.equals(made.statuses)
            assert content_hash(again.to_polars()) == made.manifest["content_hash"]


def copy(filled: tuple[Path, dict[str, TrainingSet]], home: Path) -> dict[str, TrainingSet]:
    """A copy of a home, and its training sets."""
    shutil.copytree(filled[0], home, dirs_exist_ok=True)
    return filled[1]


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> tuple[Path, dict[str, TrainingSet]]:
    home = tmp_path_factory.mktemp("filled")
    fill(home)
    return home, log_sets(home, T0 + 6 * DAY)


def test_equal_after_the_source_was_overwritten_features_backfilled_and_tables_maintained_for_two_years(
    filled, tmp_path
):
    sets, now = copy(filled, tmp_path), T0 + 6 * DAY
    with open_home(tmp_path, now) as platform:
        newest = platform.store.get_historical_features(asked(), ["last:amount"]).to_polars()
    run_day(tmp_path, 6, days(0, 6, amount=1000.0))  # every record corrected
    with open_home(tmp_path, T0 + 8 * DAY) as platform:
        platform.lake.table("bronze/payments").delete({"at": [T0 + 2 * HOUR, T0 + 3 * DAY]})
        for group in ("last", "spending"):
            platform.store.materialize(group, T0, T0 + 6 * DAY)
            platform.store.sync(group)
        # The past as a backfill tells it now is another one: reproducing it is no accident.
        assert not platform.store.get_historical_features(asked(), ["last:amount"]).to_polars().equals(newest)
    check_equal(tmp_path, sets, T0 + 8 * DAY)
    removed = 0
    for month in range(1, 25):
        with open_home(tmp_path, datetime.now(UTC) + month * timedelta(days=31)) as platform:
            removed += sum(done.removed for done in maintain(platform))
        if month % 6 == 0:
            run_day(tmp_path, 7 + month, days(7 + month, 1))
    assert removed > 50
    check_equal(tmp_path, sets, datetime.now(UTC) + timedelta(days=800))


def test_a_training_set_made_before_anything_was_published_stays_empty(tmp_path):
    with open_home(tmp_path, T0 + 2 * DAY) as platform:
        store = platform.store
        store.write_source(payments, days(0, 2))
        store.materialize_incremental("last")
        rows = asked().filter(pl.col("event_timestamp") < store.now())
        made = store.get_historical_features(rows, ["last:amount"], history="as_served")
        run_id = store.log_training_set(made)
        assert made.to_polars()["amount"].null_count() == rows.height > 0
        store.sync("last")
    check_equal(tmp_path, {run_id: made}, T0 + 9 * DAY)


def test_a_service_is_reproduced_with_its_derived_features_though_it_has_grown_since(filled, tmp_path):
    copy(filled, tmp_path)
    first = registry(service=service_of())
    with open_home(tmp_path, T0 + 6 * DAY, first) as platform:
        made = platform.store.get_historical_features(asked(), first.service("risk"))
        run_id = platform.store.log_training_set(made)
        assert made.to_polars()["share"].is_not_null().any()
    more = Feature("double", pl.col("amount") * 2)
    grown = registry(service=service_of(more, features=["spending:n_1d"]))
    check_equal(tmp_path, {run_id: made}, T0 + 6 * DAY, grown)
    other = registry(service=service_of(ratio=pl.col("amount") * pl.col("basket")))
    without = registry(service=FeatureService("risk", ["last:amount"], **ABOUT))
    for definitions, reason in (
        (other, "derived feature 'share' of service 'risk' has another expression"),
        (without, "derived feature 'share' of service 'risk' is defined no more"),
        (registry(), "feature service 'risk' is defined no more"),
    ):
        with open_home(tmp_path, T0 + 6 * DAY, definitions) as platform, pytest.raises(ReproductionError, match=reason):
            platform.store.reproduce(run_id)


def test_another_ttl_or_a_group_that_is_gone_is_named(filled):
    home, sets = filled
    for definitions, reason in (
        (registry(last_group(ttl="1h"), spending_group()), "feature group 'last' 1.0.0 had ttl 2d, it has 1h now"),
        (registry(last_group()), "feature group 'spending' 1.0.0 is defined no more"),
    ):
        with open_home(home, T0 + 6 * DAY, definitions) as platform, pytest.raises(ReproductionError, match=reason):
            platform.store.reproduce(next(iter(sets)))


def test_a_new_major_beside_the_old_one_changes_nothing(filled):
    home, sets = filled
    newer = last_group("2.0.0", pl.col("amount") * 100)
    both = registry(last_group(), newer, spending_group())
    with open_home(home, T0 + 6 * DAY, both) as platform:
        platform.store.reproduce(next(iter(sets)))


def test_runs_that_keep_no_training_set_are_refused(filled):
    home, _ = filled
    with open_home(home, T0 + 6 * DAY) as platform:
        with pytest.raises(ReproductionError, match=r"run .nosuch. cannot be reproduced: .*nosuch.* not found"):
            platform.store.reproduce("nosuch")
        with platform.tracker._mlflow.session("cannot make a run") as client:
            bare = client.create_run("0").info.run_id  # MLflow's default experiment; nothing is written
        with pytest.raises(ReproductionError, match="keeps no training set"):
            platform.store.reproduce(bare)


def test_a_training_set_is_kept_with_the_run_that_is_named_once(filled):
    home, _ = filled
    with open_home(home, T0 + 6 * DAY) as platform:
        with platform.tracker._mlflow.session("cannot make a run") as client:
            run_id = client.create_run(client.create_experiment("mine", (home / "mine").as_uri())).info.run_id
        made = platform.store.get_historical_features(asked(), ["last:amount"])
        assert platform.store.log_training_set(made, run_id) == run_id
        assert platform.store.reproduce(run_id).to_polars().equals(made.to_polars())
        with pytest.raises(TrackingError, match="keeps a training set already"):
            platform.store.log_training_set(made, run_id)


def remove_by_force(table: DeltaTable, column: str) -> None:
    """Rewrite a table's files and delete those of all earlier versions."""
    table.optimize.z_order([column])
    table.vacuum(0, dry_run=False, enforce_retention_duration=False)


@pytest.mark.parametrize(("path", "group"), [("features/last/v1", "last"), ("features/spending/v1", "spending")])
def test_a_version_removed_by_force_is_named_with_its_table(filled, tmp_path, path, group):
    sets = copy(filled, tmp_path)
    version = next(iter(sets.values())).manifest["groups"][group]["table_version"]
    remove_by_force(DeltaTable(str(tmp_path / "lake" / path)), "card_id")
    with (
        open_home(tmp_path, T0 + 6 * DAY) as platform,
        pytest.raises(ReproductionError, match=f"version {version} of table '{group}/v1' is gone"),
    ):
        platform.store.reproduce(next(iter(sets)))


def test_the_publish_logs_version_removed_by_force_is_named(filled, tmp_path):
    sets, table = copy(filled, tmp_path), DeltaTable(str(tmp_path / "lake/publish_log"))
    version = table.version()
    remove_by_force(table, "table_id")
    with (
        open_home(tmp_path, T0 + 6 * DAY) as platform,
        pytest.raises(ReproductionError, match=f"version {version} of the publish log is gone"),
    ):
        platform.store.reproduce(next(iter(sets)))


def test_entity_rows_that_are_not_those_given_are_refused(tmp_path):
    with open_home(tmp_path, T0 + 6 * DAY) as platform:
        platform.store.write_source(payments, days(0, 1))
        platform.store.materialize_incremental("last")
        run_id = platform.store.log_training_set(platform.store.get_historical_features(asked(), ["last:amount"]))
    (kept,) = (tmp_path / "mlflow_artifacts").rglob(f"{run_id}/**/entity_rows.parquet")
    asked().reverse().write_parquet(kept)
    with open_home(tmp_path, T0 + 6 * DAY) as platform:
        with pytest.raises(ReproductionError, match="its entity rows are not those it was given"):
            platform.store.reproduce(run_id)
        kept.write_bytes(kept.read_bytes()[:100])
        with pytest.raises(ReproductionError, match=r"entity_rows\.parquet, cannot be read"):
            platform.store.reproduce(run_id)
        kept.unlink()
        with pytest.raises(ReproductionError, match=r"entity_rows\.parquet"):
            platform.store.reproduce(run_id)


def test_a_models_run_is_reproduced_and_pins_what_it_was_made_from(tmp_path):
    labels = FeatureGroup(
        "labels", "1.0.0", card, payments, [Feature("y", pl.col("amount") * 2)], grain="event", online=False, **ABOUT
    )
    service = FeatureService("inputs", ["last:amount"], **ABOUT)
    spec = ModelSpec("model", service, "labels:y", LinearRegression(), label_delay="1h", **ABOUT)
    definitions = Registry([last_group(), spending_group(), labels, spec])
    with open_home(tmp_path, T0 + 6 * DAY, definitions) as platform:
        platform.store.write_source(payments, days(0, 6))
        for group in ("last", "labels"):
            platform.store.materialize(group, T0, T0 + 6 * DAY)
        platform.store.sync("last")
        version = train(platform.store, platform.tracker, spec)
        again = platform.store.reproduce(version.run_id)
        assert again.manifest["content_hash"] == version.manifest["content_hash"]
        assert again.manifest["code_version"].startswith("featurefab ")
        (manifest,) = platform.tracker.manifests()
        assert manifest == version.manifest


def test_a_store_without_a_tracker_says_so(filled):
    home, _ = filled
    with open_home(home, T0 + 6 * DAY) as platform:
        platform.store._training_sets._tracker = None
        with pytest.raises(TrackingError, match="this store has no tracker"):
            platform.store.log_training_set(platform.store.get_historical_features(asked(), ["last:amount"]))
