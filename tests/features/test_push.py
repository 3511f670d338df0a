"""Push: what is taken, what is refused, and that every reader sees it alike until and after it is folded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from card_payments import HOUR, T0, group
from features import Feature, FeatureStore, Registry, Source
from features.errors import InvalidInput, NotRegistered, StorageError
from features.feature_rows import AS_IF, CREATED, PLAN, pushed_plans
from features.push import Push
from infra.storage.delta import DeltaLake
from infra.storage.lmdb_store import LmdbOnlineStore
from infra.storage.memory_store import MemoryOnlineStore
from infra.storage.push_log import LmdbPushLog

TICK = timedelta(microseconds=1)
payments = Source(
    "payments",
    schema={"card_id": pl.Int64, "amount": pl.Float64, "shop": pl.String, "at": pl.Datetime("us", "UTC")},
    event_timestamp="at",
)
FEATURES = [Feature("amount", pl.col("amount"), range=(0, 1000), unit="USD"), Feature("shop", pl.col("shop"))]
last = group("last", FEATURES, source=payments, grain="event", ttl="20h")
first = group("first", FEATURES, source=payments, grain="event", on_conflict="first")
hidden = group("hidden", FEATURES, source=payments, grain="event", online=False)
REGISTRY = Registry([last, first, hidden])
REFS = ["last:amount", "last:shop"]


class World:
    """A store on a folder, and its clock."""

    def __init__(self, folder, backend, fold_after=None):
        self.folder = folder
        self.backend = backend
        self.fold_after = fold_after
        self.now = T0 + 12 * HOUR
        self.memory = MemoryOnlineStore()
        self.open()

    def open(self, row_check=None):
        self.lake = DeltaLake(self.folder / "lake")
        self.log = LmdbPushLog(self.folder / "push_log")
        self.online = self.memory if self.backend == "memory" else LmdbOnlineStore(self.folder / "online")
        extra = {} if row_check is None else {"row_check": row_check}
        self.store = FeatureStore(
            REGISTRY,
            self.lake,
            self.online,
            clock=lambda: self.now,
            push_log=self.log,
            fold_after=self.fold_after,
            **extra,
        )

    def pay(self, *rows):
        schema = dict(payments.schema)
        self.store.write_source(payments, pl.DataFrame(rows, schema=schema, orient="row"))

    def answers(self, *cards, history=None, at=None):
        """(amount, shop, status of amount) of each card: online, or offline in a history at a moment."""
        if history is None:
            found = self.store.get_online_features(REFS, [{"card_id": c} for c in cards]).to_polars()
            return list(found.select("amount", "shop", "amount__status").iter_rows())
        asked = [{"card_id": c, "event_timestamp": at or self.now} for c in cards]
        found = self.store.get_historical_features(asked, REFS, history=history)
        return list(zip(*found.to_polars().select("amount", "shop"), found.statuses["amount"], strict=True))

    def table(self, group=last):
        columns = ["card_id", "event_timestamp", "created_timestamp", "amount", "shop", PLAN, AS_IF]
        return self.lake.table(f"features/{group.table_id}").scan().select(columns).sort(columns[:3]).collect()


def row(card_id=1, at=T0 + 11 * HOUR, **features):
    return {"card_id": card_id, "event_timestamp": at, **(features or {"amount": 5.0, "shop": "a"})}


@pytest.fixture(params=["memory", "lmdb"])
def world(request, tmp_path):
    world = World(tmp_path, request.param)
    yield world
    world.store.close()


def test_a_pushed_row_is_answered_online_and_offline_at_once(world):
    assert world.store.push("last", [row()]) == Push("last", 1, world.now)
    pushed, world.now = world.now, world.now + HOUR
    assert world.answers(1, 2) == [(5.0, "a", "PRESENT"), (None, None, "NOT_FOUND")]
    for history in ("as_served", "backfilled"):
        assert world.answers(1, 2, history=history) == world.answers(1, 2)
        assert world.answers(1, history=history, at=pushed) == [(5.0, "a", "PRESENT")]
        assert world.answers(1, history=history, at=pushed - TICK) == [(None, None, "NOT_FOUND")]
    world.now += 20 * HOUR
    assert world.answers(1) == world.answers(1, history="as_served") == [(None, None, "OUTSIDE_MAX_AGE")]


def test_folding_moves_rows_into_the_table_and_changes_no_answer(world):
    world.store.push("last", [row(1, amount=1.0), row(2, amount=2.0)])
    pushed, world.now = world.now, world.now + HOUR
    world.store.push("last", [row(1, T0 + 12 * HOUR, amount=3.0)])
    asked = [(h, at) for h in ("as_served", "backfilled") for at in (pushed - TICK, pushed, world.now)]
    before = [world.answers(1, 2, history=history, at=at) for history, at in asked]
    world.now += HOUR
    run = world.store.fold(last)
    assert (run.plan, run.rows) == (1, 3)
    assert world.store.fold(last).plan is None
    assert [world.answers(1, 2, history=history, at=at) for history, at in asked] == before
    table = world.table()
    assert table[CREATED].to_list() == [pushed, pushed + HOUR, pushed]
    assert (table[PLAN].to_list(), table[AS_IF].to_list()) == ([1, 1, 1], [None] * 3)
    assert pushed_plans(world.lake.publications(last.table_id)).to_list() == [1]
    assert world.log.ends(last.table_id).newest is None


def test_current_rows_hold_what_is_pushed_before_it_is_folded(world):
    world.pay((1, 1.0, "a", T0 + 11 * HOUR), (2, 2.0, "b", T0 + 11 * HOUR))
    world.store.materialize_incremental(last)
    world.store.sync(last)
    world.now += HOUR
    world.store.push("last", [row(1, amount=9.0), row(3, T0 + 12 * HOUR, amount=3.0)])

    def standing(*interval):
        rows = world.store.current_rows(last, *interval).sort("card_id")
        return rows.select("card_id", "amount", "shop").collect().to_dict(as_series=False)

    online = world.store.get_online_features(REFS, {"card_id": [1, 2, 3]})
    assert standing() == online.to_dict()
    assert online.to_dict()["amount"] == [9.0, 2.0, 3.0]
    assert standing(None, T0 + 12 * HOUR)["card_id"] == [1, 2]
    assert standing(T0 + 12 * HOUR)["card_id"] == [3]
    world.store.fold(last)
    assert standing() == online.to_dict()


def test_a_sync_after_a_push_neither_doubles_rows_nor_moves_their_publication(world):
    world.pay((3, 1.0, "x", T0 + HOUR), (1, 9.0, "x", T0 + 2 * HOUR))
    world.store.materialize_incremental(last)
    pushed = world.store.push(last, [row()]).created_timestamp
    world.now += HOUR
    world.store.fold(last)
    world.now += HOUR
    assert world.store.sync(last).plan == 2
    synced, world.now = world.now, world.now + HOUR
    assert world.answers(1, 3) == [(5.0, "a", "PRESENT"), (1.0, "x", "PRESENT")]
    assert world.answers(1, 3, history="as_served", at=pushed) == [(5.0, "a", "PRESENT"), (None, None, "NOT_FOUND")]
    assert world.answers(3, history="as_served", at=synced - TICK) == [(None, None, "NOT_FOUND")]
    assert world.answers(1, 3, history="as_served", at=synced) == world.answers(1, 3)
    assert world.table().height == 3
    assert world.store.sync(last).rows == 0


def test_a_run_sees_what_was_pushed_and_comes_after_it(world):
    moment = T0 + 11 * HOUR
    world.store.push(last, [row(1, moment, amount=5.0, shop="a"), row(2, moment, amount=6.0, shop="a")])
    pushed = world.now  # the clock stands still
    world.pay((1, 7.0, "b", moment), (2, 6.0, "a", moment))
    assert world.store.materialize_incremental(last).rows == 1  # the other one says what was pushed
    world.store.sync(last)
    assert world.table()[CREATED].to_list() == [pushed, pushed + TICK, pushed]
    assert world.answers(1, 2) == [(7.0, "b", "PRESENT"), (6.0, "a", "PRESENT")]
    world.store.push(last, [row(1, moment, amount=8.0, shop="c")])
    assert world.answers(1) == [(8.0, "c", "PRESENT")]
    world.now += HOUR
    assert world.answers(1, history="as_served") == world.answers(1)


def test_a_clock_that_steps_back_changes_nothing(world):
    first_stamp = world.store.push(last, [row(1, amount=1.0)]).created_timestamp
    world.now -= HOUR / 2
    assert world.store.push(last, [row(1, amount=2.0)]).created_timestamp == first_stamp + TICK
    assert world.answers(1) == [(2.0, None, "PRESENT")]
    world.now += HOUR
    assert world.answers(1, history="as_served") == [(2.0, None, "PRESENT")]


def test_a_push_is_a_whole_row_what_it_does_not_give_is_null(world):
    world.store.push(last, [row(shop="a", amount=1.0)])
    world.store.push(last, [row(amount=2.0)])
    assert world.answers(1) == [(2.0, None, "PRESENT")]


def test_of_several_rows_of_an_entity_all_are_kept_and_the_latest_is_served(world):
    rows = [row(1, T0 + h * HOUR, amount=float(h)) for h in (5, 11, 7)]
    assert world.store.push(last, rows).rows == 3
    assert world.answers(1) == [(11.0, None, "PRESENT")]
    world.store.fold(last)
    assert world.table()["amount"].to_list() == [5.0, 7.0, 11.0]


def test_where_the_first_row_counts_later_ones_of_that_moment_are_left_out(world):
    moment = T0 + 11 * HOUR
    world.pay((1, 1.0, "a", moment))
    world.store.materialize_incremental(first)
    world.store.sync(first)
    assert world.store.push(first, [row(1, moment, amount=2.0), row(2, moment, amount=2.0)]).rows == 1
    assert world.store.push(first, [row(2, moment, amount=3.0)]) == Push("first", 0, None)
    found = world.store.get_online_features(["first:amount"], [{"card_id": 1}, {"card_id": 2}])
    assert found.to_dict()["amount"] == [1.0, 2.0]
    world.store.fold(first)
    assert world.table(first)["amount"].to_list() == [1.0, 2.0]


def test_a_push_with_an_id_is_taken_once(world):
    done = world.store.push(last, [row()], push_id="a")
    world.now += HOUR
    assert world.store.push(last, [row()], push_id="a") == Push("last", 0, None)
    world.store.fold(last)
    world.store.fold(last)
    assert world.store.push(last, [row()], push_id="a").rows == 0
    assert world.store.push(last, [row(2)], push_id="b").rows == 1
    world.store.fold(last)
    assert world.table()[CREATED].to_list() == [done.created_timestamp, world.now]


def test_no_rows_are_no_push(world):
    empty = pl.DataFrame(
        schema={"card_id": pl.Int64, "event_timestamp": pl.Datetime("us", "UTC"), "amount": pl.Float64}
    )
    assert world.store.push(last, empty) == Push("last", 0, None)
    assert world.store.fold(last).plan is None


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([{"card_id": 1, "amount": 1.0}], InvalidInput, r"lack column\(s\) \['event_timestamp'\]"),
        ([{"event_timestamp": T0, "amount": 1.0}], InvalidInput, r"lack column\(s\) \['card_id'\]"),
        ([row(amuont=1.0)], NotRegistered, r"no feature\(s\) \['amuont'\]: it has \['amount', 'shop'\]"),
        ([row(_plan=1, amount=1.0)], NotRegistered, r"no feature\(s\) \['_plan'\]"),
        ([{"card_id": 1, "event_timestamp": T0}], InvalidInput, "hold no feature"),
        ([row(None)], InvalidInput, "1 pushed row.* no 'card_id'"),
        ([row(1, None), row()], InvalidInput, "1 pushed row.* no 'event_timestamp'"),
        ([row("one")], InvalidInput, "wrong type"),
        ([row(1.5)], InvalidInput, "'card_id' holds fractions"),
        ([row(amount="much")], InvalidInput, "wrong type"),
        ([row(1, "yesterday")], InvalidInput, "'event_timestamp' is String, not a time"),
        ([row(1, T0 + 13 * HOUR)], InvalidInput, "1 pushed row.* later than now, 2026-03-01 12:00:00 UTC"),
        ([row(1, datetime(1969, 1, 1, tzinfo=UTC))], InvalidInput, "before 1970"),
        ([row(), row()], InvalidInput, "2 pushed rows share entity and 'event_timestamp'"),
        (
            [row(amount=1001.0), row(2, amount=-1.0)],
            InvalidInput,
            r"2 value\(s\) of 'amount' outside its range \(0, 1000\)",
        ),
        ("rows", InvalidInput, "give a Polars, pandas or Arrow table, or dicts"),
    ],
)
def test_what_does_not_fit_is_refused_whole(world, rows, error, message):
    with pytest.raises(error, match=message):
        world.store.push(last, rows)
    assert world.answers(1) == [(None, None, "NOT_FOUND")]
    assert world.log.ends(last.table_id).newest is None


def test_types_and_time_zones_are_brought_to_those_of_the_table(world):
    moments = (
        pl.Series(["2026-03-01T06:00"])
        .str.to_datetime()
        .dt.replace_time_zone("America/New_York")
        .dt.cast_time_unit("ms")
    )
    frame = pl.DataFrame({"card_id": ["1"], "event_timestamp": moments, "amount": [5], "shop": ["a"]})
    frame = frame.with_columns(pl.col("card_id").cast(pl.Int8), pl.col("shop").cast(pl.Categorical))
    world.store.push(last, frame.to_pandas())
    world.store.fold(last)
    assert world.table().row(0)[:2] == (1, T0 + 11 * HOUR)
    assert world.answers(1) == [(5.0, "a", "PRESENT")]


def test_a_group_that_is_offline_only_or_unknown_cannot_be_pushed_to(world):
    with pytest.raises(InvalidInput, match="'hidden' is offline only"):
        world.store.push("hidden", [row()])
    with pytest.raises(NotRegistered, match="'lst' is not registered; there are"):
        world.store.push("lst", [row()])


def test_without_a_push_log_there_is_no_push(tmp_path):
    store = FeatureStore(REGISTRY, DeltaLake(tmp_path), MemoryOnlineStore(), clock=lambda: T0)
    with pytest.raises(StorageError, match=r"no push log: make it with infra\.connect"):
        store.push(last, [row()])
    assert store.fold(last).plan is None


def test_a_value_that_is_missing_is_out_of_no_range(world):
    world.store.push(last, [row(1, amount=None), row(2, amount=float("nan"))])
    assert str(world.answers(1, 2)) == "[(None, None, 'NULL_VALUE'), (nan, None, 'PRESENT')]"


def test_the_row_check_is_asked_and_its_reasons_are_told(world):
    world.open(row_check=lambda group, rows: [f"{group.name}: {rows.height} too many"])
    with pytest.raises(InvalidInput, match="nothing was pushed: last: 1 too many"):
        world.store.push(last, [row(amount=5000.0)])


def test_pushes_fold_what_has_waited_long_enough(tmp_path):
    world = World(tmp_path, "memory", fold_after=timedelta(seconds=10))
    for seconds in (0, 9, 10, 11, 21):
        world.now = T0 + 12 * HOUR + timedelta(seconds=seconds)
        world.store.push(last, [row(amount=float(seconds))])
    # The third push found that the first had waited for ten seconds, the fifth that the fourth had.
    assert world.table()[PLAN].to_list() == [1, 1, 1, 2, 2]


def outage(world):
    """A push while the online store cannot be reached; then it can again."""
    world.online.close()
    with pytest.raises(StorageError, match="pushed rows are safe in the push log but not online yet"):
        world.store.push(last, [row(amount=9.0)])
    world.log.close()
    world.memory = MemoryOnlineStore()
    world.open()


@pytest.mark.parametrize("recover", ["push", "sync", "fold", "run"])
def test_what_was_pushed_during_an_outage_goes_online_later_and_history_says_when(tmp_path, recover):
    world = World(tmp_path, "lmdb")
    world.store.push(last, [row(amount=1.0)])
    during = world.now = world.now + HOUR
    outage(world)
    world.now += HOUR
    assert world.answers(1) == world.answers(1, history="as_served") == [(1.0, None, "PRESENT")]
    again = {
        "push": lambda: world.store.push(last, [row(2)]),
        "sync": lambda: world.store.sync(last),
        "fold": lambda: world.store.fold(last),
        "run": lambda: world.store.materialize_incremental(last),
    }
    again[recover]()
    recovered, world.now = world.now, world.now + HOUR
    for _ in range(2):
        assert world.answers(1) == world.answers(1, history="as_served") == [(9.0, None, "PRESENT")]
        assert world.answers(1, history="as_served", at=during + TICK) == [(1.0, None, "PRESENT")]
        assert world.answers(1, history="as_served", at=recovered + TICK) == [(9.0, None, "PRESENT")]
        world.store.fold(last)
    assert world.table().filter(card_id=1).height == 2


def test_what_was_acknowledged_keeps_its_moment_when_the_online_store_is_lost(tmp_path):
    world = World(tmp_path, "memory")
    world.pay((3, 1.0, "x", T0 + HOUR))
    world.store.materialize_incremental(last)
    world.store.sync(last)
    stamps = [world.store.push(last, [row(1)]).created_timestamp, world.store.push(last, [row(2)]).created_timestamp]
    world.store.push(last, [row(4)])
    world.log.close()
    world.memory = MemoryOnlineStore()
    world.open()
    world.now += HOUR
    world.store.sync(last)
    assert [status for *_, status in world.answers(1, 2, 3, 4)] == ["PRESENT"] * 4
    world.store.fold(last)
    assert world.table().filter(pl.col("card_id") < 3)[CREATED].to_list() == stamps


def test_a_training_set_with_rows_not_folded_yet_is_read_again_to_the_bit(world):
    world.pay((3, 1.0, "x", T0 + HOUR))
    world.store.materialize_incremental(last)
    world.store.sync(last)
    world.now += HOUR
    asked = [{"card_id": c, "event_timestamp": world.now} for c in (1, 2, 3)]
    world.store.push(last, [row(1, amount=1.0)])
    found = world.store.get_historical_features(asked, REFS)
    facts = found.manifest["groups"]["last"]
    pins = {
        "last": facts["table_version"],
        "last:pushed": facts["pushed"],
        "publish_log": found.manifest["publish_log_version"],
    }
    world.store.push(last, [row(1, amount=2.0), row(2)])
    for _ in range(2):
        again = world.store.get_historical_features(asked, REFS, pins=pins)
        assert again.manifest["content_hash"] == found.manifest["content_hash"]
        world.store.fold(last)
        world.now += HOUR
        world.store.push(last, [row(2, amount=7.0)])


def test_a_fold_left_open_elsewhere_is_not_finished_without_its_pushes(world, tmp_path):
    world.store.push(last, [row()])
    table = world.lake.feature_table(
        last.table_id, {"card_id": pl.Int64(), "amount": pl.Float64(), "shop": pl.String()}, ["card_id"]
    )
    plan = world.store._runs._waiting.plan(last, table)
    table.open_plan(plan)
    other = FeatureStore(
        REGISTRY, world.lake, MemoryOnlineStore(), clock=lambda: world.now, push_log=LmdbPushLog(tmp_path / "other")
    )
    with pytest.raises(StorageError, match="folds pushes that lie in another push log"):
        other.materialize_incremental(last)
    other.close()
    bare = FeatureStore(REGISTRY, world.lake, MemoryOnlineStore(), clock=lambda: world.now)
    with pytest.raises(StorageError, match=r"plan 1 \(push\) was left open"):
        bare.materialize_incremental(last)
    world.store.materialize_incremental(last)
    assert world.table().height == 1


def test_a_push_log_that_was_moved_away_hides_no_later_push(world):
    world.store.push(last, [row(1)])
    world.store.fold(last)
    world.store.push(last, [row(2)])
    world.log.close()
    (world.folder / "push_log").rename(world.folder / "old")
    world.open()
    world.now -= HOUR / 2
    world.store.push(last, [row(3)])
    assert [status for *_, status in world.answers(1, 2, 3)] == ["PRESENT"] * 3
    world.store.fold(last)
    assert world.table()["card_id"].to_list() == [1, 3]


def test_a_run_buries_nothing_that_was_pushed(world):
    world.store.push(last, [row(1), row(2)])
    world.pay((2, 7.0, "b", T0 + 11 * HOUR), (3, 8.0, "b", T0 + 11 * HOUR))
    assert world.store.materialize_incremental(last).rows == 2  # of that moment, and not of card 1
    world.store.sync(last)
    assert world.answers(1, 2, 3) == [(5.0, "a", "PRESENT"), (7.0, "b", "PRESENT"), (8.0, "b", "PRESENT")]
    world.now += HOUR
    world.store.materialize(last, T0, world.now)
    assert world.table().height == 4
