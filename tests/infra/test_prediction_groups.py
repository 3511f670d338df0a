"""A model's predictions as features: trained, scored, read by groups, and traced back to the source."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sklearn.linear_model import LinearRegression

from features import Entity, Feature, FeatureGroup, FeatureService, ModelSpec, Registry, Source
from features.feature_rows import AS_IF, CREATED
from features.leakcheck import leakcheck
from infra.catalog import describe
from infra.lineage import platform_lineage
from infra.maintenance import maintain, pinned_versions
from infra.model_runs import score, train
from infra.wiring import open_platform

T0 = datetime(2026, 3, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ABOUT = {"owner": "o", "description": "d"}
wafer, tester = Entity("wafer", keys={"wafer": pl.Int64}), Entity("tester", keys={"tester": pl.String})
SCHEMA = {"wafer": pl.Int64, "tester": pl.String, "vdd": pl.Float64, "good": pl.Float64, "at": pl.Datetime("us", "UTC")}
probed = Source("probed", SCHEMA, "at", keys=["wafer"])
measured = FeatureGroup("measured", "1.0.0", wafer, probed, [Feature("vdd", pl.col("vdd"))], grain="event", **ABOUT)
outcome = FeatureGroup(
    "outcome", "1.0.0", wafer, probed, [Feature("good", pl.col("good"))], grain="event", online=False, **ABOUT
)
service = FeatureService("service", [measured], **ABOUT)
options = {"predict_after": "26h", "label_delay": "1h"}  # asked when the night's run has published
yields = ModelSpec("yields", service, "outcome:good", LinearRegression(), **options, **ABOUT)


def compared(predicted: pl.LazyFrame, wafers: pl.LazyFrame) -> pl.LazyFrame:
    wafers = wafers.select("wafer", "tester", "good")
    return predicted.join(wafers, on="wafer").with_columns((pl.col("prediction") - pl.col("good")).alias("error"))


READ = {"source": {"predicted": yields.predictions(wafer), "wafers": probed}, "prepare": compared, **ABOUT}
ERROR = [Feature("error", pl.col("error"))]
RECENT = [
    Feature("mean_of_last_5_7d", pl.col("prediction").tail(5).mean(), window="7d"),
    Feature("mean_abs_error_2d", pl.col("error").abs().mean(), window="2d"),
]


def errors_of(name: str) -> FeatureGroup:
    return FeatureGroup(name, "1.0.0", wafer, features=ERROR, grain="event", prepare_by=["wafer"], **READ)


def recent_of(name: str) -> FeatureGroup:
    by = {"every": "1d", "prepare_by": ["wafer"]}
    return FeatureGroup(name, "1.0.0", tester, features=RECENT, grain="window", **by, **READ)


errors, recent = errors_of("errors"), recent_of("recent")
backfilled = {errors: errors_of("errors_then"), recent: recent_of("recent_then")}
watched = FeatureService("watched", [recent, errors], **ABOUT)
REGISTRY = Registry([outcome, yields, watched, *backfilled.values()])
DAYS = 5


def of_day(day: int) -> pl.DataFrame:
    """24 wafers, one an hour, on two testers by turns."""
    hours = range(24 * day, 24 * (day + 1))
    values = [float(hour % 7) for hour in hours]
    rows = {"wafer": hours, "tester": ["a", "b"] * 12, "vdd": values, "good": [v * 2 + v % 2 for v in values]}
    return pl.DataFrame({**rows, "at": [T0 + hour * HOUR for hour in hours]})


@pytest.fixture(scope="module")
def fab(tmp_path_factory):
    """Five nights, an hour after midnight: the model learns on the third; that day and the next ones are scored."""
    clock = [T0]
    with open_platform(REGISTRY, tmp_path_factory.mktemp("fab"), lambda: clock[0]) as platform:
        store, runs = platform.store, []
        for day in range(DAYS):
            clock[0] = T0 + (day + 1) * DAY + HOUR
            store.write_source(probed, of_day(day))
            for group in (measured, outcome):
                store.materialize_incremental(group)
            store.sync(measured)
            if day == 2:
                train(store, platform.tracker, yields)
            if day >= 2:
                score(store, platform.tracker, platform.lake, yields, T0 + day * DAY, T0 + (day + 1) * DAY)
            for group in (errors, recent):
                runs.append((day, store.materialize_incremental(group)))
                store.sync(group)
        yield platform, clock, runs


def answers(platform) -> pl.DataFrame:
    """What was predicted, from the table itself."""
    return platform.lake.scan_log("predictions/yields").collect().join(of_all(), on="wafer")


def of_all() -> pl.DataFrame:
    return pl.concat([of_day(day) for day in range(DAYS)])


def test_new_predictions_drive_the_increment(fab):
    platform, _, runs = fab
    rows = {(day, run.group): run.rows for day, run in runs}
    assert [rows[day, "errors"] for day in range(DAYS)] == [0, 0, 24, 24, 24]
    found = platform.store.current_rows(errors).sort("wafer").collect()
    expected = answers(platform).sort("wafer").select("wafer", error=pl.col("prediction") - pl.col("good"))
    assert found.select("wafer", "error").equals(expected)
    assert found[CREATED].n_unique() == 3
    version = store_version(platform)
    again = platform.store.materialize_incremental(errors)
    assert (again.rows, store_version(platform)) == (0, version)


def store_version(platform) -> int | None:
    return platform.lake.table("features/errors/v1").version()


def test_a_window_counts_a_prediction_once_it_was_given(fab):
    platform, _, _ = fab
    rows = platform.store.current_rows(recent).sort("event_timestamp", "tester").collect()
    # Given at 1:00 after midnight, the answers about a day are part of the boundary at the next midnight.
    assert rows["event_timestamp"].unique().sort().to_list() == [T0 + 4 * DAY, T0 + 5 * DAY]
    known = answers(platform).filter(pl.col("predicted_at") <= T0 + 5 * DAY, pl.col("tester") == "a").sort("at")
    error = (known["prediction"] - known["good"]).abs().filter(known["at"] >= T0 + 3 * DAY).mean()
    last = rows.filter(pl.col("event_timestamp") == T0 + 5 * DAY, pl.col("tester") == "a")
    assert last["mean_of_last_5_7d"].item() == pytest.approx(known["prediction"].tail(5).mean())
    assert last["mean_abs_error_2d"].item() == pytest.approx(error)


def test_asked_about_a_moment_nothing_is_answered_that_was_predicted_later(fab):
    platform, _, _ = fab
    given = T0 + 4 * DAY + HOUR  # about the wafers of day 3
    moments = [given - timedelta(microseconds=1), given]
    asked = pl.DataFrame({"wafer": [80, 80], "event_timestamp": moments})
    for history in ("backfilled", "as_served"):
        found = platform.store.get_historical_features(asked, ["errors:error"], history=history)
        assert found.statuses["error"].to_list() == ["NOT_FOUND", "PRESENT"], history


def test_a_backfill_says_what_a_schedule_would_have_and_from_when_it_could_be_known(fab):
    platform, _, _ = fab
    for live, then in backfilled.items():
        platform.store.materialize(then, T0, T0 + 6 * DAY)
        columns = [*live.keys, "event_timestamp", *live.feature_names]
        rows = [platform.store.current_rows(group).select(columns).sort(columns).collect() for group in (live, then)]
        assert_frame_equal(*rows)
    known = platform.store.current_rows("errors_then").collect().join(answers(platform), on="wafer")
    assert known[AS_IF].to_list() == known["predicted_at"].to_list()


def test_lineage_goes_from_a_column_over_model_and_version_to_the_feature(fab):
    platform, _, _ = fab
    found = platform_lineage(platform, "recent:mean_of_last_5_7d")
    way = {(edge.source.name, edge.target.name) for edge in found.edges}
    steps = ["probed:vdd", "measured:vdd", "service", "yields", "yields@1", "predictions/yields"]
    steps += ["recent:mean_of_last_5_7d", "watched"]
    assert set(pairwise(steps)) <= way


def test_the_catalog_says_who_reads_predictions(fab):
    platform, _, _ = fab
    inputs = describe(platform.store, "recent")["read from"]
    assert [(row["kind"], row["name"]) for row in inputs] == [
        ("predictions", "predictions/yields"),
        ("source", "probed"),
    ]
    readers = {row["name"] for row in describe(platform.store, "yields")["used by"]}
    assert readers == {"errors", "recent", "errors_then", "recent_then"}


@pytest.mark.parametrize("name", ["errors", "recent"])
def test_predictions_given_later_leak_into_nothing(fab, name):
    platform, clock, _ = fab
    report = leakcheck(REGISTRY, platform.lake, name, now=clock[0], moments=4)
    assert report.rows > 0
    assert report.leaks == []


def test_what_predictions_made_is_pinned_and_reproduced(fab):
    platform, clock, _ = fab
    store = platform.store
    asked = pl.DataFrame({"wafer": [80, 100], "tester": ["a", "b"], "event_timestamp": [T0 + 5 * DAY + HOUR] * 2})
    logged = store.get_historical_features(asked, watched)
    run = store.log_training_set(logged)
    table = platform.lake.table("predictions/yields")
    version = logged.manifest["groups"]["errors"]["sources"]["predictions/yields"]
    assert version in pinned_versions([logged.manifest], REGISTRY)["predictions/yields"]
    clock[0] += DAY
    score(store, platform.tracker, platform.lake, yields, T0, T0 + 5 * DAY)  # second thoughts about all of it
    assert table.version() == version + 1
    assert store.materialize_incremental(errors).rows >= 48
    maintain(platform)
    assert store.reproduce(run).to_polars().equals(logged.to_polars())
