"""Backfills on a real Delta lake: what the schedule emits, in chunks, previewed, finished by the next run."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from card_payments import GROUPS, T0, Home, daily, hours, last_payment
from features.errors import InvalidInput


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


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
    left, right = scheduled.values(one), filled.values(one)
    assert left.height > 0
    # The schedule also sees the run's own end, which lies after the last backfilled interval.
    inside = pl.col("event_timestamp") <= hours(200)
    assert left.filter(inside).equals(right.filter(inside))


@pytest.mark.parametrize("one", GROUPS, ids=lambda g: g.name)
def test_a_preview_says_what_a_backfill_then_does_and_writes_nothing(home, one):
    home.now = hours(100)
    home.write([(i, i % 3, float(i), hours(5 * i % 70)) for i in range(20)])
    home.store.materialize(one, T0, hours(40))
    home.now = hours(101)
    home.write([(3, 0, 99.0, hours(15)), (4, 2, 4.0, hours(20)), (21, 1, 1.0, hours(22))])
    before = home.rows(one.name)
    planned = home.store.preview(one, T0, hours(60)).chunks
    assert home.rows(one.name).equals(before)
    told = [sum(getattr(chunk, part) for chunk in planned) for part in ("new", "changed", "withdrawn")]
    run = home.store.materialize(one, T0, hours(60))
    assert sum(told) == run.rows > 0
    assert told[0] > 0
    assert all(chunk.read > 0 for chunk in planned)


def test_a_backfill_of_nothing_is_refused(home):
    with pytest.raises(InvalidInput, match=r"start .* is not before end"):
        home.store.materialize(last_payment, hours(2), hours(2))


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


def test_a_training_set_pinned_to_an_open_plan_never_sees_its_rows(tmp_path):
    home = Home(tmp_path, rows=5)
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


PAID = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3), st.integers(1, 9)), min_size=1, max_size=8)
MOVED = pytest.mark.parametrize("one", [last_payment, daily], ids=lambda g: g.name)


@MOVED
@settings(max_examples=4)
@given(first=PAID, then=PAID)
def test_a_record_that_moves_to_another_entity_counts_once_however_it_is_computed(tmp_path_factory, one, first, then):
    check_moves(tmp_path_factory.mktemp("moves"), one, first, then)


@pytest.mark.prove
@MOVED
@settings(max_examples=100)
@given(first=PAID, then=PAID)
def test_many_records_that_move_to_another_entity_count_once(tmp_path_factory, one, first, then):
    check_moves(tmp_path_factory.mktemp("moves"), one, first, then)


def check_moves(folder, one, first, then):
    def rows(stream):
        return [(number, card_id, float(value), hours(7 * number)) for number, card_id, value in stream]

    stepwise, whole, chunked = Home(folder / "a"), Home(folder / "b"), Home(folder / "c", rows=1, parallel=2)
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
    states = [home.values(one).rows() for home in (stepwise, whole, chunked)]
    assert states[1] == states[2]
    assert set(states[1]) <= set(states[0])
    if one.grain == "event":
        assert states[0] == states[1]
