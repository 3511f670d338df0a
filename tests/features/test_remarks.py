"""What a backfill says of an end in the future and of inputs that hold nothing for it."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest

from card_payments import T0, Home, daily, group, hours, last_payment, windows
from features import Feature, Source
from features.errors import InvalidInput


@pytest.fixture
def home(tmp_path):
    """A payment of each hour from the first to the ninth, looked at in the hundredth."""
    home = Home(tmp_path)
    home.now = hours(100)
    home.write([(i, i % 3, float(i), hours(i)) for i in range(1, 10)])
    return home


def note(home, group, start, end):
    """The note of a backfill, which its preview has said before."""
    foretold = home.store.preview(group, start, end).note
    told = home.store.materialize(group, start, end).note
    assert told == foretold
    return told


def test_of_what_is_as_asked_nothing_is_said(home):
    assert note(home, last_payment, T0, hours(100)) == ""
    assert note(home, last_payment, hours(5), hours(6)) == ""
    assert home.store.materialize_incremental(last_payment).note == ""


def test_an_end_in_the_future_is_moved_to_now(home):
    said = note(home, last_payment, T0, hours(101))
    assert said.startswith(f"the end was moved to now, {hours(100):%F %T} UTC")
    assert "rows" in said
    assert home.rows("last_payment").height == 9


def test_a_backfill_that_only_finishes_the_one_before_says_the_same(home):
    said = home.store.materialize(last_payment, T0, datetime(9999, 1, 1, tzinfo=UTC))
    again = home.store.materialize(last_payment, T0, datetime(9999, 1, 1, tzinfo=UTC))
    assert said.note[:30] == again.note[:30] == "the end was moved to now, 2026"


def test_an_interval_that_begins_in_the_future_is_refused(home):
    with pytest.raises(InvalidInput, match=f"is not before end {hours(100):%F %T}, which is now"):
        home.store.materialize(last_payment, hours(200), hours(300))


@pytest.mark.parametrize(
    ("start", "end"),
    [(hours(24), hours(72)), (hours(10), hours(20)), (hours(0), hours(1)), (hours(30), hours(31))],
    ids=["whole dates", "later that date", "earlier that date", "part of a date"],
)
def test_an_interval_without_rows_names_the_source(home, start, end):
    assert (
        note(home, last_payment, start, end) == f"source 'payments' has no rows from {start:%F %T} to {end:%F %T} UTC"
    )


def test_a_window_that_reaches_back_to_rows_has_them(home):
    assert note(home, daily, hours(10), hours(30)) == ""
    assert "source 'payments' has no rows from" in note(home, daily, hours(80), hours(90))
    assert note(home, windows, hours(78), hours(81)) == ""
    assert "source 'payments' has no rows from" in note(home, windows, hours(84), hours(90))


def test_a_source_that_never_got_rows_is_named(tmp_path):
    home = Home(tmp_path)
    home.now = hours(100)
    assert note(home, last_payment, T0, hours(101)).endswith("; source 'payments' has no rows yet")


def test_of_several_inputs_each_is_named_that_is_empty_and_only_the_first_must_have_rows_in_the_interval(tmp_path):
    fees = Source("fees", {"card_id": pl.Int64, "fee": pl.Float64, "at": pl.Datetime("us", "UTC")}, "at")
    joined = group(
        "joined",
        [Feature("fee", pl.col("fee"))],
        source={"last": last_payment, "fees": fees},
        prepare=lambda last, fees: last.join(fees.select("card_id", "fee"), on="card_id", how="left"),
        prepare_by=["card_id"],
        grain="event",
    )
    home = Home(tmp_path, [last_payment, joined])
    home.now = hours(100)
    nothing = "feature group 'last_payment' has no rows yet; source 'fees' has no rows yet"
    assert note(home, joined, T0, hours(48)) == nothing
    home.write([(1, 1, 1.0, hours(1))])
    home.store.materialize(last_payment, T0, hours(100))
    assert note(home, joined, T0, hours(48)) == "source 'fees' has no rows yet"
    home.write([(1, 0.5, hours(60))], source=fees)
    assert note(home, joined, T0, hours(48)) == ""
