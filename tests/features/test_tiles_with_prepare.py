"""Tiles of groups with a ``prepare``: kept only where a sample of tiles shows that it commutes with cutting by tile."""

from __future__ import annotations

import polars as pl
import pytest

from card_payments import HOUR, T0, Home, amount, group, hours, total
from features import Feature
from features.errors import InvalidInput
from features.tiles import tile_layout


def since_the_last(frame: pl.LazyFrame) -> pl.LazyFrame:
    """The rise over the card's payment before, which may lie in another tile."""
    before = pl.col("amount").shift(1, fill_value=0.0).over("card_id", order_by="at")
    return frame.with_columns(amount=pl.col("amount") - before)


def in_cents(frame: pl.LazyFrame) -> pl.LazyFrame:
    return frame.with_columns(amount=pl.col("amount") * 100)


def spending(prepare):
    features = [Feature("sum_10d", total, window="10d")]
    return group("spending", features, grain="window", every="3h", prepare=prepare)


def kept_tiles(home, one) -> int:
    """How many rows the group's tile table has."""
    return home.lake.scan_log(f"tiles/{one.table_id}/{tile_layout(one).name}").collect().height


def run_after(home, hour, *rows) -> None:
    home.now = hours(hour)
    home.write(rows)
    home.store.materialize_incremental("spending")


def payment(number, card_id, value, hour):
    return (number, card_id, value, hours(hour))


BATCHES = {
    "a single tile, then another": [[payment(1, 1, 10.0, 1)], [payment(2, 1, 15.0, 4)]],
    "a long gap": [[payment(1, 1, 10.0, 1), payment(2, 1, 15.0, 80)], [payment(3, 1, 18.0, 85)]],
    "cards that meet in the oldest tiles only": [
        [
            payment(1, 1, 10.0, 1),
            payment(2, 1, 15.0, 4),
            *(payment(number, number, 1.0, 3 * number) for number in range(3, 9)),
        ],
        [payment(9, 1, 18.0, 40)],
    ],
}


@pytest.mark.parametrize("batches", BATCHES.values(), ids=BATCHES)
def test_a_prepare_that_looks_over_the_edge_of_a_tile_gets_raw_rows(tmp_path, batches) -> None:
    one = spending(since_the_last)
    home = Home(tmp_path, [one])
    for rows in batches:
        run_after(home, (rows[-1][3] - T0) / HOUR + 3, *rows)
    newest = home.values(one).filter(pl.col("card_id") == 1)["sum_10d"].to_list()[-1]
    mine = [row for rows in batches for row in rows if row[1] == 1]
    assert newest == mine[-1][2]  # rises add up to the last amount
    assert kept_tiles(home, one) == 0


def test_a_prepare_row_by_row_gets_tiles_once_two_of_them_show_it(tmp_path) -> None:
    one = spending(in_cents)
    home = Home(tmp_path, [one])
    run_after(home, 3, payment(1, 1, 10.0, 1), payment(2, 1, 20.0, 2))
    assert kept_tiles(home, one) == 0
    run_after(home, 90, payment(3, 1, 5.0, 88))
    assert kept_tiles(home, one) == 2
    assert home.values(one)["sum_10d"].to_list() == [3000.0, 3500.0]


def test_a_prepare_that_fails_on_the_rows_there_are_is_said_plainly(tmp_path) -> None:
    def whole(frame):
        return frame.with_columns(amount=amount.cast(pl.String).cast(pl.Int64).cast(pl.Float64))

    home = Home(tmp_path, [spending(whole)])
    with pytest.raises(InvalidInput, match="'spending' cannot be computed"):
        run_after(home, 10, payment(1, 1, 0.5, 1), payment(2, 1, 0.5, 8))
