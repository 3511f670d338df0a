"""Withdrawals: history "backfilled" knows that a row is gone only from when a correction took it."""

from __future__ import annotations

import polars as pl
import pytest

from card_payments import SCHEMA, T0, Home, amount, group, hours
from features import Feature, Source

LIVE = Source("live", SCHEMA, "at", keys=["payment_id"], live_since=T0)
ABOVE_ZERO = {"prepare": lambda frame: frame.filter(amount > 0)}
RENAMED = {"prepare": lambda frame: frame.with_columns(card_id=pl.col("card_id") + 100)}
NARROWED = {"prepare": lambda frame: frame.select("card_id", "at", "amount")}


def written(folder, one, *writes, backfilled=(2, 20)):
    """A home after writes, (hour, rows), and backfills of everything at some of these hours."""
    home = Home(folder, [one])
    for hour, *rows in writes:
        home.now = hours(hour)
        home.write(rows, source=LIVE)
        if hour in backfilled:
            home.store.materialize(one, T0, home.now)
    home.now = hours(40)
    return home


def answers(home, *asked):
    """What history "backfilled" answers a card at an hour."""
    rows = [(card_id, hours(hour)) for card_id, hour in asked]
    asked = pl.DataFrame(rows, {"card_id": pl.Int64, "event_timestamp": pl.Datetime("us", "UTC")}, orient="row")
    return home.store.get_historical_features(asked, ["g:v"]).to_polars()["v"].to_list()


@pytest.mark.parametrize(
    ("options", "card_id", "corrected"),
    [
        ({}, 1, (1, 2, 5.0, hours(1))),
        (ABOVE_ZERO, 1, (1, 1, -5.0, hours(1))),
        (RENAMED, 101, (1, 2, 5.0, hours(1))),
        (NARROWED, 1, (1, 2, 5.0, hours(1))),
    ],
    ids=["moved", "filtered by prepare", "keys made by prepare", "columns dropped by prepare"],
)
def test_what_a_correction_withdraws_is_answered_until_the_correction_arrives(tmp_path, options, card_id, corrected):
    one = group("g", [Feature("v", amount)], source=LIVE, grain="event", **options)
    home = written(tmp_path, one, (2, (1, 1, 5.0, hours(1))), (20, corrected))
    assert answers(home, (card_id, 1), (card_id, 19), (card_id, 20)) == [None, 5.0, None]


@pytest.mark.parametrize(
    ("options", "other"), [({}, 2), (ABOVE_ZERO, 2), (RENAMED, 102)], ids=["plain", "filter", "keys made by prepare"]
)
def test_others_of_the_same_moment_are_known_when_they_were(tmp_path, options, other):
    one = group("g", [Feature("v", amount)], source=LIVE, grain="event", **options)
    rows = [(1, 1, 5.0, hours(1)), (2, 2, 6.0, hours(1))]
    home = written(tmp_path, one, (2, *rows), (20, (1, 3, 5.0, hours(1))), backfilled=[20])
    assert answers(home, (other, 1), (other, 2)) == [None, 6.0]


def test_a_row_that_a_withdrawn_one_had_hidden_is_known_when_that_is_gone(tmp_path):
    one = group("g", [Feature("v", amount)], source=LIVE, grain="event")
    rows = [(1, 1, 5.0, hours(1)), (2, 1, 6.0, hours(1))]
    home = written(tmp_path, one, (2, *rows), (20, (2, 2, 6.0, hours(1))))
    assert answers(home, (1, 19), (1, 20), (2, 19), (2, 20)) == [6.0, 5.0, None, 6.0]
