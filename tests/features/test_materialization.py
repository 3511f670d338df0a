"""Materialization on a real Delta lake: each grain against brute force, increments, corrections, exactly once."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from features import Entity, Feature, FeatureGroup, FeatureStore, Registry, Source
from features.capacity import Capacity
from features.compute import stored_schema
from features.errors import DefinitionChanged, DefinitionError, InvalidInput
from features.source import INGESTED_AT
from infra.storage.delta import DeltaLake
from infra.storage.memory_store import MemoryOnlineStore

T0 = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
card = Entity("card", keys={"card_id": pl.Int64})
payments = Source(
    "payments",
    schema={"payment_id": pl.Int64, "card_id": pl.Int64, "amount": pl.Float64, "at": pl.Datetime("us", "UTC")},
    event_timestamp="at",
    keys=["payment_id"],
)
ABOUT = {"owner": "payments", "description": "About a card."}


def group(name, features, **options):
    return FeatureGroup(name, "1.0.0", card, payments, features, **(ABOUT | options))


amount, total = pl.col("amount"), pl.col("amount").sum()
last_payment = group("last_payment", [Feature("amount_last", amount)], grain="event")
sessions = group("sessions", [Feature("n", pl.len()), Feature("total", total)], grain="entity", settle="2h")
daily = group("daily", [Feature("n", pl.len())], grain="entity", every="1d")
windows = group(
    "windows",
    [Feature("n_1d", pl.len(), window="1d"), Feature("sum_3d", total, window="3d")],
    grain="window",
    every="6h",
)
GROUPS = [last_payment, sessions, daily, windows]


class Home:
    """A store on a folder with a clock to turn."""

    def __init__(self, folder, groups=GROUPS, chunk_rows=5_000_000):
        self.now = T0
        self.lake = DeltaLake(folder)
        online = MemoryOnlineStore()
        self.store = FeatureStore(Registry(groups), self.lake, online, lambda: self.now, Capacity(rows=chunk_rows))

    def write(self, rows, batch=None):
        frame = pl.DataFrame(rows, schema=dict(payments.schema), orient="row")
        return self.store.write_source(payments, frame, batch)

    def rows(self, name):
        return self.store.current_rows(name).collect()


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def hours(n):
    return T0 + n * HOUR


STREAM = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 120), st.integers(1, 9)), min_size=1, max_size=25)


@settings(max_examples=12, deadline=None)
@given(stream=STREAM, cut=st.integers(20, 100))
def test_each_grain_equals_brute_force_whether_written_at_once_or_in_pieces(tmp_path_factory, stream, cut):
    events = [(i, card_id, float(v), hours(h)) for i, (card_id, h, v) in enumerate(stream)]
    home = Home(tmp_path_factory.mktemp("lake"))
    for until in (cut, 121):
        home.now = hours(until)
        home.write([e for e in events if e[3] < home.now], f"until-{until}")
        for one in GROUPS:
            home.store.materialize_incremental(one)
    plain = [(c, t, v) for _, c, v, t in events]
    expected = {
        (c, b): (len(day), sum(three))
        for (c, b), (day, three) in oracle.window_rows(plain, 6 * HOUR, [24 * HOUR, 72 * HOUR]).items()
        if b <= home.now
    }
    found = {(r["card_id"], r["event_timestamp"]): (r["n_1d"], r["sum_3d"]) for r in home.rows("windows").to_dicts()}
    assert found == expected
    settled = oracle.settled_rows(plain, 2 * HOUR, home.now)
    found = {(r["card_id"], r["event_timestamp"]): (r["n"], r["total"]) for r in home.rows("sessions").to_dicts()}
    late = set(found) - set(settled)  # states that stood before a late row joined two sessions
    assert {k: v for k, v in found.items() if k not in late} == {k: (len(v), sum(v)) for k, v in settled.items()}
    newest = {(c, t): v for i, c, v, t in sorted(events)}
    found = {(r["card_id"], r["event_timestamp"]): r["amount_last"] for r in home.rows("last_payment").to_dicts()}
    assert found == newest


@pytest.mark.parametrize("one", GROUPS, ids=lambda g: g.name)
def test_a_backfill_emits_what_the_schedule_emits(tmp_path, one):
    events = [(i, i % 3, float(i), hours(7 * i % 100)) for i in range(40)]
    scheduled, filled = Home(tmp_path / "a"), Home(tmp_path / "b")
    for home in (scheduled, filled):
        home.now = hours(200)
        home.write(events)
    scheduled.store.materialize_incremental(one)
    for start in range(0, 200, 50):
        filled.store.materialize(one, hours(start), hours(start + 50))
    values = [*one.keys, "event_timestamp", *one.feature_names]
    left, right = (h.rows(one.name).select(values).sort(values) for h in (scheduled, filled))
    assert left.height > 0
    # The schedule also sees the run's own end, which lies after the last backfilled interval.
    inside = pl.col("event_timestamp") <= hours(200)
    assert left.filter(inside).equals(right.filter(inside))


@pytest.mark.parametrize("one", GROUPS, ids=lambda g: g.name)
def test_a_second_run_appends_nothing(home, one):
    home.now = hours(100)
    home.write([(1, 1, 5.0, hours(1)), (2, 2, 6.0, hours(30))])
    assert home.store.materialize_incremental(one).rows > 0
    assert home.store.materialize_incremental(one).plan is None
    assert home.store.materialize(one, T0, hours(100)).rows == 0


def test_a_batch_lands_once_whatever_is_repeated(home):
    rows = [(1, 1, 5.0, hours(1))]
    assert home.write(rows, "b1") is not None
    assert home.write(rows, "b1") is None
    assert home.lake.scan_source("payments").collect().height == 1


def test_a_late_correction_is_appended_and_the_old_row_stays(home):
    home.now = hours(10)
    home.write([(1, 1, 5.0, hours(1))])
    home.store.materialize_incremental(last_payment)
    home.now = hours(11)
    home.write([(1, 1, 7.0, hours(1))])  # the same record, corrected
    assert home.store.materialize_incremental(last_payment).rows == 1
    assert home.rows("last_payment")["amount_last"].to_list() == [7.0]
    table = home.lake.table("features/last_payment/v1").scan().collect()
    assert table.height == 2


def test_rows_in_the_future_wait_for_their_moment(home):
    home.now = hours(10)
    home.write([(1, 1, 5.0, hours(12))])
    assert home.store.materialize_incremental(last_payment).rows == 0
    home.now = hours(13)
    assert home.store.materialize_incremental(last_payment).rows == 1


def test_an_unsettled_entity_is_revisited_without_a_new_commit(home):
    home.now = hours(2)
    home.write([(1, 1, 5.0, hours(1))])
    assert home.store.materialize_incremental(sessions).rows == 0
    home.now = hours(3)
    assert home.store.materialize_incremental(sessions).rows == 1


def test_a_key_that_a_recompute_no_longer_yields_gets_a_tombstone(home):
    home.now = hours(10)
    home.write([(1, 1, 5.0, hours(1))])
    home.store.materialize_incremental(last_payment)
    home.store.sync(last_payment)
    home.now = hours(11)
    home.write([(1, 2, 5.0, hours(1))])  # it was another card's payment
    home.store.materialize_incremental(last_payment)
    home.store.sync(last_payment)
    answer = home.store.get_online_features(["last_payment:amount_last"], [{"card_id": 1}, {"card_id": 2}])
    assert answer.to_polars()["amount_last__status"].to_list() == ["NOT_FOUND", "PRESENT"]


@pytest.mark.parametrize("chunk_rows", [5_000_000, 3])
@pytest.mark.parametrize("one", GROUPS, ids=lambda g: g.name)
def test_what_rows_deleted_from_a_source_had_made_is_withdrawn(tmp_path, one, chunk_rows):
    home, never = Home(tmp_path / "a", chunk_rows=chunk_rows), Home(tmp_path / "b")
    for each in (home, never):
        each.now = hours(100)
        each.write([(i, i % 2, float(i), hours(7 * i % 60)) for i in range(9)])
    home.now = hours(101)
    home.write([(50 + i, 7, float(i), hours(9 * i)) for i in range(6)])
    home.store.materialize_incremental(one)
    assert 7 in home.rows(one.name)["card_id"]
    home.lake.table("bronze/payments").delete({INGESTED_AT: [home.now]})
    home.now = never.now = hours(102)
    home.store.materialize_incremental(one)
    never.store.materialize_incremental(one)
    values = [*one.keys, "event_timestamp", *one.feature_names]
    left, right = (each.rows(one.name).select(values).sort(values) for each in (home, never))
    assert left.equals(right)


def test_live_rows_are_known_from_their_publication_and_counterfactual_ones_from_their_as_if(home):
    home.now = hours(50)
    home.write([(1, 1, 5.0, hours(1)), (2, 1, 6.0, hours(48))])
    home.store.materialize(last_payment, T0, hours(24))
    home.store.materialize_incremental(last_payment)
    home.now = hours(51)
    home.store.sync(last_payment)
    asked = pl.DataFrame({"card_id": [1] * 3, "event_timestamp": [hours(2), hours(49), hours(51)]})
    for history, expected in {"backfilled": [5.0, 5.0, 6.0], "as_served": [None, None, 6.0]}.items():
        found = home.store.get_historical_features(asked, ["last_payment:amount_last"], history=history)
        assert found.to_polars()["amount_last"].to_list() == expected


def test_an_open_plan_is_finished_by_the_next_run(home):
    home.now = hours(10)
    home.write([(i, i % 3, 1.0, hours(i)) for i in range(9)])

    def die(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        home.store.materialize(last_payment, T0, hours(10), progress=die)
    run = home.store.materialize(last_payment, T0, hours(10))
    assert (run.plan, run.rows) == (1, 0)  # it was the same backfill: nothing is left to do
    assert home.rows("last_payment").height == 9


def test_a_clock_that_steps_back_changes_nothing(home):
    home.now = hours(10)
    home.write([(1, 1, 5.0, hours(1))])
    home.store.materialize_incremental(last_payment)
    home.now = hours(5)
    home.write([(1, 1, 7.0, hours(1))])
    home.store.materialize_incremental(last_payment)
    assert home.rows("last_payment")["amount_last"].to_list() == [7.0]


def test_a_backfill_of_nothing_is_refused(home):
    with pytest.raises(InvalidInput, match=r"start .* is not before end"):
        home.store.materialize(last_payment, hours(2), hours(2))


def test_a_changed_definition_needs_a_new_version(tmp_path):
    Home(tmp_path).store.materialize_incremental(last_payment)
    changed = group("last_payment", [Feature("amount_last", amount * 2)], grain="event")
    with pytest.raises(DefinitionChanged, match="raise its version"):
        Home(tmp_path, [changed]).store.materialize_incremental(changed)


def test_a_new_feature_is_null_in_old_rows_until_they_are_computed_again(tmp_path):
    old = Home(tmp_path)
    old.now = hours(10)
    old.write([(1, 1, 5.0, hours(1))])
    old.store.materialize_incremental(last_payment)
    features = [*last_payment.features, Feature("twice", amount * 2)]
    wider = FeatureGroup("last_payment", "1.1.0", card, payments, features, grain="event", **ABOUT)
    new = Home(tmp_path, [wider])
    new.now = hours(11)
    new.store.apply()
    assert new.rows("last_payment")["twice"].to_list() == [None]
    assert new.store.materialize(wider, T0, hours(11)).rows == 1
    assert new.rows("last_payment")["twice"].to_list() == [10.0]


def test_of_two_records_with_one_key_in_one_batch_the_later_wins(home):
    home.now = hours(10)
    rows = [(1, 1, 5.0, hours(1)), (1, 1, 7.0, hours(1)), *((n, 2, 0.0, hours(2)) for n in range(2, 50))]
    home.write(rows)
    home.store.materialize_incremental(last_payment)
    assert home.rows("last_payment").filter(card_id=1)["amount_last"].to_list() == [7.0]


def test_the_entity_grain_reads_groups_and_sources_whose_time_is_called_event_timestamp(tmp_path):
    schema = {"card_id": pl.Int64, "amount": pl.Float64, "event_timestamp": pl.Datetime("us", "UTC")}
    named_alike = Source("named_alike", schema=schema, event_timestamp="event_timestamp")
    counted = FeatureGroup(
        "counted", "1.0.0", card, named_alike, sessions.features, grain="entity", every="1d", **ABOUT
    )
    summed = [Feature("sum_of_last", pl.col("amount_last").sum())]
    above = FeatureGroup("above", "1.0.0", card, last_payment, summed, grain="entity", settle="2h", **ABOUT)
    home = Home(tmp_path, [counted, last_payment, above])
    home.now = hours(30)
    home.write([(1, 1, 5.0, hours(1)), (2, 1, 6.0, hours(2))])
    home.store.write_source(named_alike, pl.DataFrame([(1, 5.0, hours(1)), (1, 6.0, hours(2))], schema, orient="row"))
    for one in (counted, last_payment, above):
        home.store.materialize_incremental(one)
    assert home.rows("counted").select("event_timestamp", "n", "total").rows() == [(hours(24), 2, 11.0)]
    assert home.rows("above").select("event_timestamp", "sum_of_last").rows() == [(hours(2), 11.0)]


def test_an_increment_leaves_alone_what_other_values_of_prepare_by_had_made(tmp_path):
    raw = Source("raw", {**payments.schema, "shop": pl.String}, "at", keys=["payment_id"])
    before = pl.int_range(pl.len()).over("shop", order_by="at")
    within = {"prepare": lambda frame: frame.with_columns(before=before), "prepare_by": ["shop"]}
    queue = FeatureGroup(
        "queue", "1.0.0", card, raw, [Feature("before", pl.col("before"))], grain="event", **within, **ABOUT
    )
    home = Home(tmp_path, [queue])
    for number, shop in enumerate("aba", 1):
        home.now = hours(10 + number)
        row = (number, number, 1.0, hours(number), shop)
        home.store.write_source(raw, pl.DataFrame([row], raw.schema, orient="row"))
        assert home.store.materialize_incremental(queue).rows == 1
    assert sorted(home.rows("queue").select("card_id", "before").rows()) == [(1, 0), (2, 0), (3, 1)]


@pytest.mark.parametrize("shop", ["a", None])
def test_a_counterfactual_row_is_known_when_the_late_rows_are_that_prepare_looked_at(tmp_path, shop):
    raw = Source("raw", {**payments.schema, "shop": pl.String}, "at", keys=["payment_id"], live_since=T0)
    earlier = pl.col("amount").shift().over("shop", order_by="at")
    within = {"prepare": lambda frame: frame.with_columns(earlier=earlier), "prepare_by": ["shop"]}
    one = FeatureGroup("g", "1.0.0", card, raw, [Feature("v", pl.col("earlier"))], grain="event", **within, **ABOUT)
    home = Home(tmp_path, [one])
    for now, row in ((2, (2, 1, 20.0, hours(2), shop)), (10, (1, 1, 10.0, hours(1), shop))):
        home.now = hours(now)
        home.store.write_source(raw, pl.DataFrame([row], raw.schema, orient="row"))
    home.now = hours(12)
    home.store.materialize(one, T0, hours(12))
    asked = pl.DataFrame({"card_id": [1, 1], "event_timestamp": [hours(9), hours(10)]})
    assert home.store.get_historical_features(asked, ["g:v"]).to_polars()["v"].to_list() == [None, 10.0]


@pytest.mark.parametrize("chunk_rows", [5_000_000, 1])
def test_windows_see_whole_what_prepare_may_look_across(tmp_path, chunk_rows):
    within = {"prepare": lambda frame: frame.with_columns(size=pl.len().over("card_id")), "prepare_by": ["card_id"]}
    largest = Feature("size", pl.col("size").max(), window="6h")
    one = group("sized", [largest], grain="window", every="6h", **within)
    home = Home(tmp_path, [one], chunk_rows)
    home.now = hours(30)
    home.write([(1, 1, 1.0, hours(20)), (2, 1, 1.0, hours(23))])
    home.store.materialize_incremental(one)
    home.now = hours(100)
    home.write([(3, 1, 1.0, hours(48))])  # on the next day, it changes what was made of the day before
    home.store.materialize_incremental(one)
    found = home.rows("sized").sort("event_timestamp")
    assert found["event_timestamp"].to_list() == [hours(24), hours(30), hours(54), hours(60)]
    assert found["size"].to_list() == [3, None, 3, None]


TYPED = [
    (pl.UInt8, [1, 255], pl.Int16),
    (pl.UInt64, [1, 2**63 - 1], pl.Int64),
    (pl.Categorical, ["b", "a"], pl.String),
    (pl.Enum(["lo", "hi"]), ["lo", "hi"], pl.String),
    (pl.Decimal(10, 2), [Decimal("1.10"), Decimal("2.20")], pl.Decimal(10, 2)),
    (pl.Date, [date(2026, 1, 1), date(2026, 1, 2)], pl.Date),
    (pl.Datetime("ns"), [datetime(2026, 1, 1), datetime(2026, 1, 2)], pl.Datetime("us", "UTC")),  # noqa: DTZ001
    (pl.Datetime("ms", "America/New_York"), [T0, T0 + HOUR], pl.Datetime("us", "UTC")),
]


@pytest.mark.parametrize(("declared", "values", "stored"), TYPED, ids=lambda v: str(v) if isinstance(v, type) else None)
def test_every_type_of_a_key_and_a_feature_stays_alike_in_sources_tables_and_answers(
    tmp_path, declared, values, stored
):
    thing = Entity("thing", keys={"thing_id": declared})
    schema = {"thing_id": declared, "amount": pl.Float64, "at": pl.Datetime("us", "UTC")}
    typed = Source("typed", schema=schema, event_timestamp="at")
    settled = [Feature("same", pl.col("thing_id").last())]
    groups = [
        FeatureGroup("entity", "1.0.0", thing, typed, settled, grain="entity", settle="1h", **ABOUT),
        FeatureGroup("event", "1.0.0", thing, typed, [Feature("a", pl.col("amount"))], grain="event", **ABOUT),
        FeatureGroup(
            "w", "1.0.0", thing, typed, [Feature("w", pl.len(), window="1d")], grain="window", every="6h", **ABOUT
        ),
    ]
    home = Home(tmp_path, groups)
    ids = pl.Series("thing_id", values, dtype=declared)
    for hour in (1, 2):
        home.now = hours(20 + hour)
        rows = pl.DataFrame({"thing_id": ids, "amount": [1.0, 2.0], "at": [hours(hour), hours(hour)]})
        home.store.write_source(typed, rows)
        for one in groups:
            home.store.materialize_incremental(one)
            home.store.sync(one)
    refs = ["entity:same", "event:a", "w:w"]
    asked = pl.DataFrame({"thing_id": ids, "event_timestamp": [home.now] * 2})
    offline = home.store.get_historical_features(asked, refs).to_polars().select("same", "a", "w")
    online = home.store.get_online_features(refs, pl.DataFrame({"thing_id": ids})).to_polars().select("same", "a", "w")
    assert offline.equals(online)
    assert offline.schema["same"] == stored
    assert offline.select("a", "w").rows() == [(1.0, 2), (2.0, 2)]
    assert home.store.materialize("entity", T0, hours(10)).rows == 0


def test_types_that_no_table_can_hold_are_refused_where_they_are_declared():
    with pytest.raises(DefinitionError, match=r"'span' is Duration.*cannot be stored"):
        Source("s", {"span": pl.Duration(), "at": pl.Datetime()}, "at")
    text = Source("s", {"card_id": pl.String(), "at": pl.Datetime()}, "at")
    one = FeatureGroup("g", "1.0.0", card, text, [Feature("n", pl.len())], grain="entity", settle="1h", **ABOUT)
    with pytest.raises(
        DefinitionError, match="'card_id' is String in input 's' and Int64 in entity 'card': declare it"
    ):
        stored_schema(one)


def test_a_training_set_pinned_to_an_open_plan_never_sees_its_rows(tmp_path):
    home = Home(tmp_path)
    home.store = FeatureStore(Registry(GROUPS), home.lake, MemoryOnlineStore(), lambda: home.now, Capacity(rows=5))
    home.now = hours(100)
    home.write([(n, 1, float(n), hours(5 * n)) for n in range(15)])
    asked = pl.DataFrame({"card_id": [1], "event_timestamp": [hours(99)]})
    seen = []

    def look(done, of):
        if done < of:
            seen.append(home.store.get_historical_features(asked, ["last_payment:amount_last"]))

    home.store.materialize(last_payment, T0, hours(100), progress=look)
    assert len(seen) > 0
    for found in seen:
        assert found.to_polars()["amount_last"].to_list() == [None]
        pins = {"last_payment": found.manifest["groups"]["last_payment"]["table_version"]}
        again = home.store.get_historical_features(asked, ["last_payment:amount_last"], pins=pins)
        assert again.manifest["content_hash"] == found.manifest["content_hash"]


@settings(max_examples=15, deadline=None)
@given(
    first=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3), st.integers(1, 9)), min_size=1, max_size=8),
    then=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3), st.integers(1, 9)), min_size=1, max_size=8),
)
@pytest.mark.parametrize("one", [last_payment, daily], ids=lambda g: g.name)
def test_a_record_that_moves_to_another_entity_counts_once_however_it_is_computed(tmp_path_factory, one, first, then):
    def rows(stream):
        return [(number, card_id, float(value), hours(7 * number)) for number, card_id, value in stream]

    folder = tmp_path_factory.mktemp("moves")
    stepwise, whole, chunked = (Home(folder / name) for name in ("stepwise", "whole", "chunked"))
    small = Capacity(rows=1, parallel=2)
    chunked.store = FeatureStore(Registry(GROUPS), chunked.lake, MemoryOnlineStore(), lambda: chunked.now, small)
    for home in (stepwise, whole, chunked):
        home.now = hours(100)
        home.write(rows(first))
        if home is stepwise:
            home.store.materialize_incremental(one)
        home.now = hours(101)
        home.write(rows(then))
    stepwise.store.materialize_incremental(one)
    for home in (whole, chunked):
        home.store.materialize(one, T0, hours(101))
    values = [*one.keys, "event_timestamp", *one.feature_names]
    states = [home.rows(one.name).select(values).sort(values).rows() for home in (stepwise, whole, chunked)]
    assert states[1] == states[2]
    assert set(states[1]) <= set(states[0])
    if one.grain == "event":
        assert states[0] == states[1]


@pytest.mark.parametrize("one", GROUPS, ids=lambda g: g.name)
def test_a_preview_says_what_a_backfill_then_does_and_writes_nothing(home, one):
    home.now = hours(100)
    home.write([(i, i % 3, float(i), hours(5 * i % 70)) for i in range(20)])
    home.store.materialize(one, T0, hours(40))
    home.now = hours(101)
    home.write([(3, 0, 99.0, hours(15)), (4, 2, 4.0, hours(20)), (21, 1, 1.0, hours(22))])
    before = home.rows(one.name)
    planned = home.store.preview(one, T0, hours(60))
    assert home.rows(one.name).equals(before)
    told = [sum(getattr(chunk, part) for chunk in planned) for part in ("new", "changed", "withdrawn")]
    run = home.store.materialize(one, T0, hours(60))
    assert sum(told) == run.rows > 0
    assert told[0] > 0
    assert all(chunk.read > 0 for chunk in planned)
