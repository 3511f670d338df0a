"""Windows over what ``prepare`` makes of several rows: each boundary sees these as they were known at it."""

from __future__ import annotations

from itertools import groupby

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from card_payments import HOUR, T0, Home, group, hours, total
from features import Feature, Source
from features.errors import InvalidInput

SCHEMA = {"payment_id": pl.Int64, "card_id": pl.Int64, "shop": pl.String, "amount": pl.Float64, "at": pl.Datetime}
live = Source("payments", SCHEMA, "at", keys=["payment_id"], live_since=T0 - 99 * HOUR)
history = Source("payments", SCHEMA, "at", keys=["payment_id"])
WINDOW, EVERY = 6 * HOUR, 3 * HOUR


def centred(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Each payment against the mean of all of its shop."""
    return frame.with_columns(amount=pl.col("amount") - pl.col("amount").mean().over("shop"))


def centred_alone(frame: pl.LazyFrame) -> pl.LazyFrame:
    """The same, of which nobody can tell whose shop it was."""
    return centred(frame).drop("shop")


def renamed(frame: pl.LazyFrame) -> pl.LazyFrame:
    return centred(frame).with_columns(shop=pl.col("shop").str.to_uppercase())


def prepared(source, prepare, by="shop"):
    features = [Feature("n", pl.len(), window="6h"), Feature("total", total, window="6h")]
    return group(
        "w", features, source=source, grain="window", every="3h", prepare=prepare, prepare_by=[by] if by else []
    )


@pytest.mark.parametrize("source", [live, history], ids=["live", "history"])
@pytest.mark.parametrize("late", [False, True])
def test_no_boundary_sees_a_later_row_whether_or_not_another_one_was_late(tmp_path, source, late):
    one = prepared(source, centred)
    home = Home(tmp_path, [one])
    home.now = hours(2.1)
    home.write([(1, 1, "a", 10.0, hours(1)), (2, 1, "a", 20.0, hours(2))], source=source)
    home.now = hours(7.1)
    home.write([(3, 1, "a", 60.0, hours(7))], source=source)
    if late:
        home.write([(4, 2, "b", 1.0, hours(1))], source=source)
    home.now = hours(9)
    home.store.materialize(one, T0, hours(9))
    found = home.values(one).filter(card_id=1)
    assert found.rows() == [(1, hours(3), 2, 0.0), (1, hours(9), 1, 30.0)]


def test_a_prepare_that_changes_the_names_of_its_key_groups_is_refused(tmp_path):
    one = prepared(live, renamed)
    home = Home(tmp_path, [one])
    home.now = hours(9)
    home.write([(1, 1, "a", 10.0, hours(1))], source=live)
    with pytest.raises(InvalidInput, match=r"feature group 'w': `prepare` changes values of \['shop'\]"):
        home.store.materialize_incremental(one)


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["pay", "pay", "pay", "correct", "run", "backfill"]),
        st.integers(0, 5),  # which payment is corrected, or how many hours pass
        st.sampled_from([1, 2]),
        st.sampled_from(["a", "b", None]),
        st.integers(1, 9),
        st.integers(0, 8),
    ),
    min_size=2,
    max_size=9,
)
PREPARES = pytest.mark.parametrize(
    ("prepare", "by", "kept"),
    [(centred, "shop", True), (centred_alone, "shop", True), (lambda f: f.sort("at"), None, False)],
    ids=["by shop", "shop forgotten", "by row"],
)


@PREPARES
@settings(max_examples=6)
@given(is_live=st.booleans(), actions=ACTIONS)
def test_what_stands_at_each_boundary_is_made_of_what_was_known(tmp_path_factory, prepare, by, kept, is_live, actions):
    check_boundaries(tmp_path_factory.mktemp("lake"), prepare, by, kept, is_live, actions)


@pytest.mark.prove
@PREPARES
@settings(max_examples=200)
@given(is_live=st.booleans(), actions=ACTIONS)
def test_what_stands_at_each_boundary_is_made_of_what_was_known_at_length(
    tmp_path_factory, prepare, by, kept, is_live, actions
):
    check_boundaries(tmp_path_factory.mktemp("lake"), prepare, by, kept, is_live, actions)


def check_boundaries(folder, prepare, by, kept, is_live, actions):
    source = live if is_live else history
    one = prepared(source, prepare, by)
    home, versions, records = Home(folder, [one], rows=40), [], []
    home.now = hours(10)
    for what, number, card_id, shop, amount, age in actions:
        home.now += HOUR / 60
        if what == "run":
            home.now += number * HOUR
            home.store.materialize_incremental(one)
        elif what == "backfill":
            home.store.materialize(one, hours(number), home.now)
        elif what == "pay" or records:
            moment = home.now - age * HOUR if what == "pay" else records[number % len(records)]
            record = len(records) if what == "pay" else number % len(records)
            records += [moment] if what == "pay" else []
            home.write([(record, card_id, shop, float(amount), moment)], source=source)
            arrival = home.now if is_live else moment
            known = {"record": record, "entity": card_id, "shop": shop, "amount": amount}
            versions.append({**known, "at": moment, "arrival": arrival})
    home.now += 9 * HOUR
    home.store.materialize_incremental(one)
    home.store.materialize(one, T0, home.now)
    assert home.store.materialize(one, T0 + HOUR, home.now).rows == 0
    rows = {card: list(own) for card, own in groupby(home.values(one).rows(), key=lambda row: row[0])}
    boundary = oracle.next_boundary(T0, EVERY)
    while boundary <= home.now:
        known = {v["record"]: v for v in versions if v["arrival"] <= boundary and v["at"] < boundary}
        for card_id in (1, 2):
            stands = [row[2:] for row in rows.get(card_id, []) if row[1] <= boundary]
            wanted = by_hand(list(known.values()), card_id, boundary, kept)
            assert (stands[-1] if stands else (0, 0.0)) == pytest.approx(wanted, abs=1e-9), (card_id, boundary)
        boundary += EVERY


def by_hand(known, card_id, boundary, kept):
    """Number and total of a card's window, each payment less the mean of its shop if ``kept``."""

    def mean(shop):
        amounts = [v["amount"] for v in known if v["shop"] == shop]
        return sum(amounts) / len(amounts) if kept else 0

    own = [v for v in known if v["entity"] == card_id and v["at"] >= boundary - WINDOW]
    return len(own), float(sum(v["amount"] - mean(v["shop"]) for v in own))
