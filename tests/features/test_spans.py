"""Durations and times of day as features: tables keep them as integers, and nobody who reads them sees that."""

from __future__ import annotations

from datetime import time, timedelta

import polars as pl
import pytest

from card_payments import DAY, HOUR, T0, Home, group, hours
from features import Entity, Feature, FeatureStore, Registry, Source
from features.errors import DefinitionError
from features.stored_types import key_dtypes
from features.tiles import tile_layout, undecomposed
from infra.parity import check_parity
from infra.storage.delta import DeltaLake
from infra.storage.lmdb_store import LmdbOnlineStore
from infra.storage.memory_store import MemoryOnlineStore
from infra.storage.push_log import LmdbPushLog

MINUTE = timedelta(minutes=1)
SPAN = pl.Duration("us")
visits = Source("visits", {"card_id": pl.Int64, "came": pl.Datetime("us", "UTC"), "at": pl.Datetime("us", "UTC")}, "at")
stay, came = pl.col("at") - pl.col("came"), pl.col("came").dt.time()


def grouped(name, features, **options):
    return group(name, features, source=visits, **options)


FEATURES = [Feature("stay", stay), Feature("came", came)]
event = grouped("event", FEATURES, grain="event")
entity = grouped(
    "entity",
    [Feature("longest", stay.max()), Feature("stays", stay.implode()), Feature("earliest", came.min())],
    grain="entity",
    every="1h",
)
SUMS = [Feature("sum_9h", stay.sum(), window="9h"), Feature("last_9h", stay.last(), window="9h")]
TIMES = [Feature("first_9h", came.first(), window="9h"), Feature("kinds_9h", stay.n_unique(), window="9h")]
window = grouped("window", [*SUMS, *TIMES, Feature("low_9h", stay.min(), window="9h")], grain="window", every="3h")
GROUPS = [event, entity, window]
TYPES = {"stay": SPAN, "came": pl.Time(), "longest": SPAN, "stays": pl.List(SPAN), "earliest": pl.Time()}
TYPES |= {"sum_9h": SPAN, "last_9h": SPAN, "first_9h": pl.Time(), "low_9h": SPAN}
REFS = [f"{g.name}:{f}" for g in GROUPS for f in g.feature_names if f in TYPES]
ROWS = [  # (card, how long it stayed, until when)
    (1, 5 * MINUTE, hours(1)),
    (1, 2 * MINUTE + timedelta(microseconds=1), hours(4)),
    (2, timedelta(0), hours(2)),
]
CAME = [time(3, 57, 59, 999999), time(2)]
WANTED = {
    "stay": [ROWS[1][1], timedelta(0)],
    "came": CAME,
    "longest": [5 * MINUTE, timedelta(0)],
    "stays": [[5 * MINUTE, ROWS[1][1]], [timedelta(0)]],
    "earliest": [time(0, 55), time(2)],
    "sum_9h": [5 * MINUTE + ROWS[1][1], timedelta(0)],
    "last_9h": [ROWS[1][1], timedelta(0)],
    "first_9h": [time(0, 55), time(2)],
    "low_9h": [ROWS[1][1], timedelta(0)],
}
STORES = {"memory": lambda _: MemoryOnlineStore(), "lmdb": lambda folder: LmdbOnlineStore(folder / "online")}


class World:
    """A store on a folder, and its clock."""

    def __init__(self, folder, online):
        self.now = hours(3)
        self.lake = DeltaLake(folder / "lake")
        log = LmdbPushLog(folder / "log")
        self.store = FeatureStore(Registry(GROUPS), self.lake, online, lambda: self.now, push_log=log, fold_after=None)

    def run(self, *rows):
        frame = pl.DataFrame([(c, end - span, end) for c, span, end in rows], dict(visits.schema), orient="row")
        self.store.write_source(visits, frame)
        for one in GROUPS:
            self.store.materialize_incremental(one)
            self.store.sync(one)

    def answers(self, *cards):
        """What is answered online and what offline, as columns."""
        asked = pl.DataFrame({"card_id": cards})
        online = self.store.get_online_features(REFS, asked).to_polars().select(list(TYPES))
        offline = self.store.get_historical_features(asked.with_columns(event_timestamp=self.now), REFS)
        return online, offline.to_polars().select(list(TYPES))


@pytest.fixture(params=STORES.values(), ids=STORES)
def world(request, tmp_path):
    found = World(tmp_path, request.param(tmp_path))
    found.run(ROWS[0], ROWS[2])
    found.now = hours(7)
    found.run(ROWS[1])
    yield found
    found.store.close()


def test_they_are_answered_as_they_were_made_online_and_offline(world):
    online, offline = world.answers(1, 2)
    assert online.equals(offline)
    assert dict(online.schema) == dict(offline.schema) == TYPES
    assert online.to_dict(as_series=False) == WANTED
    assert [found.agreement for found in check_parity(world.store)] == [1.0] * 3


def test_tables_keep_them_as_integers(world):
    kept = world.lake.table("features/event/v1").scan().collect_schema()
    assert (kept["stay"], kept["came"]) == (pl.Int64, pl.Int64)


def test_what_did_not_change_is_not_written_again(world):
    assert [world.store.materialize(one, T0, hours(7)).rows for one in GROUPS] == [0, 0, 0]


def test_windows_over_them_come_from_tiles(world):
    assert undecomposed(window) == {}
    tiles = world.lake.scan_log(f"tiles/{window.table_id}/{tile_layout(window).name}").collect()
    assert tiles.height == 3


def test_they_are_pushed_and_folded(world):
    world.now += HOUR
    row = {"card_id": 1, "event_timestamp": world.now, "stay": MINUTE, "came": time(1, 2, 3, 4)}
    world.store.push(event, [row])
    for fold in (False, True):
        if fold:
            world.store.fold(event)
        online, offline = world.answers(1)
        assert online.equals(offline)
        assert (online["stay"].item(), online["came"].item()) == (MINUTE, time(1, 2, 3, 4))


def test_a_version_that_adds_one_leaves_it_null_in_old_rows_and_one_of_another_type_is_a_major(tmp_path):
    before = grouped("g", [Feature("seconds", stay.dt.total_seconds())], grain="event")
    after = grouped("g", [*before.features, *FEATURES], version="1.1.0", grain="event")
    other = grouped("g", [Feature("seconds", stay), *FEATURES], version="1.2.0", grain="event")
    old = Home(tmp_path, [before])
    old.now = hours(5)
    old.write([(1, hours(1), hours(2))], source=visits)
    old.store.materialize_incremental(before)
    new = Home(tmp_path, [after])
    new.now = hours(6)
    new.store.apply()
    assert new.rows("g").select("stay", "came").rows() == [(None, None)]
    new.store.materialize(after, T0, T0 + DAY)
    assert new.rows("g").select("seconds", "stay", "came").rows() == [(3600, HOUR, time(1))]
    [planned] = Home(tmp_path, [other]).store.plan().groups
    assert any("seconds: type Int64 → Duration" in text for text in planned.difference.breaking)


def test_a_group_reads_those_of_another_and_by_them(tmp_path):
    again = group(
        "again",
        [Feature("twice", pl.col("stay") * 2), Feature("hour", pl.col("came").dt.hour())],
        source=event,
        grain="event",
        prepare=lambda rows: rows,
        prepare_by=["stay"],
    )
    home = Home(tmp_path, [event, again])
    for hour, came_at in ((5, hours(1)), (6, hours(3))):
        home.now = hours(hour)
        home.write([(hour, came_at, came_at + MINUTE)], source=visits)
        home.store.materialize_incremental(event)
        home.store.materialize_incremental(again)
    assert home.values(again).select("card_id", "twice", "hour").rows() == [(5, 2 * MINUTE, 1), (6, 2 * MINUTE, 3)]


def test_sums_in_another_unit_than_is_stored_read_raw_rows() -> None:
    short = Feature("sum_6h", stay.cast(pl.Duration("ns")).sum(), window="6h")
    reasons = undecomposed(grouped("w", [short], grain="window", every="3h"))
    assert reasons == {"sum_6h": "tables do not keep the order, unit or zone of Duration(time_unit='ns')"}


def test_a_source_and_a_key_are_plain_for_others_to_read():
    with pytest.raises(DefinitionError, match=r"'stay' is Duration.* only a feature can be: declare an integer"):
        Source("s", {"stay": pl.Duration(), "at": pl.Datetime()}, "at")
    shift = Entity("shift", keys={"begins": pl.Time})
    with pytest.raises(DefinitionError, match="entity 'shift': 'begins' is Time, which only a feature can be"):
        key_dtypes(shift)
