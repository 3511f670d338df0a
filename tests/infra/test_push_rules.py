"""A connected store refuses a push that breaks a rule of the group's definition, one row or many."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from card_payments import group
from features import Feature, Registry
from features.errors import InvalidInput
from infra.wiring import connect

NOW = datetime(2026, 3, 1, tzinfo=UTC)
AMOUNTS = [Feature("amount", pl.col("amount"), range=(0, 1000), unit="USD"), Feature("payment", pl.col("payment_id"))]
PAID = group("paid", AMOUNTS, grain="event")


def row(card: int, amount: float | None) -> dict[str, object]:
    return {"card_id": card, "event_timestamp": NOW, "amount": amount}


def test_a_push_is_judged_by_the_rules_of_the_group(tmp_path: Path) -> None:
    with connect(Registry([PAID]), tmp_path, clock=lambda: NOW) as store:
        for rows in ([row(1, 1000.5)], [row(1, 5.0), row(2, -1.0), row(3, None)]):
            with pytest.raises(InvalidInput, match=r"nothing was pushed: 'amount' is outside 0 to 1000 USD in 1 row"):
                store.push(PAID, rows)
        assert store.push(PAID, [row(1, 1000.0)]).rows == 1
        assert store.push(PAID, [row(2, None), row(3, 0.0)]).rows == 2
        cards = [{"card_id": card} for card in (1, 2, 3, 4)]
        found = store.get_online_features(["paid:amount", "paid:payment"], cards).to_dict()
        assert found["amount"] == [1000.0, None, 0.0, None]
