"""Increments on a real Delta lake: each grain against brute force, late rows, corrections, exactly once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from card_payments import GROUPS, HOUR, T0, Home, hours, last_payment, sessions
from features.source import INGESTED_AT


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


STREAM = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 120), st.integers(1, 9)), min_size=1, max_size=25)


CUT = st.integers(20, 100)


@settings(max_examples=5)
@given(stream=STREAM, cut=CUT)
def test_each_grain_equals_brute_force_whether_written_at_once_or_in_pieces(tmp_path_factory, stream, cut):
    check_each_grain(tmp_path_factory.mktemp("lake"), stream, cut)


@pytest.mark.prove
@settings(max_examples=100)
@given(stream=STREAM, cut=CUT)
def test_each_grain_equals_brute_force_on_many_streams(tmp_path_factory, stream, cut):
    check_each_grain(tmp_path_factory.mktemp("lake"), stream, cut)


def check_each_grain(folder, stream, cut):
    events = [(i, card_id, float(v), hours(h)) for i, (card_id, h, v) in enumerate(stream)]
    home = Home(folder)
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


def test_of_two_records_with_one_key_in_one_batch_the_later_wins(home):
    home.now = hours(10)
    rows = [(1, 1, 5.0, hours(1)), (1, 1, 7.0, hours(1)), *((n, 2, 0.0, hours(2)) for n in range(2, 50))]
    home.write(rows)
    home.store.materialize_incremental(last_payment)
    assert home.rows("last_payment").filter(card_id=1)["amount_last"].to_list() == [7.0]


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


def test_a_clock_that_steps_back_changes_nothing(home):
    home.now = hours(10)
    home.write([(1, 1, 5.0, hours(1))])
    home.store.materialize_incremental(last_payment)
    home.now = hours(5)
    home.write([(1, 1, 7.0, hours(1))])
    home.store.materialize_incremental(last_payment)
    assert home.rows("last_payment")["amount_last"].to_list() == [7.0]


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


@pytest.mark.parametrize("chunk_rows", [None, 3])
@pytest.mark.parametrize("one", GROUPS, ids=lambda g: g.name)
def test_what_rows_deleted_from_a_source_had_made_is_withdrawn(tmp_path, one, chunk_rows):
    home, never = Home(tmp_path / "a", rows=chunk_rows), Home(tmp_path / "b")
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
    assert home.values(one).equals(never.values(one))
