"""What a definition computes from raw rows, and what it says where it cannot."""

from __future__ import annotations

import polars as pl
import pytest

from card_payments import ABOUT, HOUR, T0, card
from features import Feature, FeatureGroup, Source
from features.compute import compute
from features.errors import InvalidInput
from features.inputs import ARRIVAL
from features.intervals import Interval

DAY = Interval(T0, T0 + 24 * HOUR, T0 + 24 * HOUR)
payments = Source("payments", {"card_id": pl.Int64, "code": pl.String, "at": pl.Datetime}, "at")


def raw(*codes, hour=1):
    times = [T0 + hour * HOUR] * len(codes)
    frame = pl.DataFrame({"card_id": [1] * len(codes), "code": codes, "at": times}, schema=payments.dtypes)
    return frame.lazy().with_columns(pl.col("at").alias(ARRIVAL))


def test_a_window_that_empties_holds_nothing_of_a_list_and_zero_of_a_count():
    features = [Feature("n", pl.len(), window="3h"), Feature("codes", pl.col("code").head(2), window="3h")]
    group = FeatureGroup("recent", "1.0.0", card, payments, features, grain="window", every="3h", **ABOUT)
    rows = compute(group, {"payments": raw("a", "b", "c")}, DAY).sort("event_timestamp")
    assert rows.select("n", "codes").rows() == [(3, ["a", "b"]), (0, None)]


@pytest.mark.parametrize("options", [{"grain": "event"}, {"grain": "entity", "settle": "1h"}])
def test_values_that_an_expression_cannot_take_are_named_with_the_group(options):
    number = pl.col("code").cast(pl.Int64)
    features = [Feature("number", number if options["grain"] == "event" else number.sum())]
    group = FeatureGroup("numbers", "1.0.0", card, payments, features, **options, **ABOUT)
    with pytest.raises(InvalidInput, match=r"feature group 'numbers' cannot be computed: .*; mend the expression"):
        compute(group, {"payments": raw("1", "x")}, DAY)


def test_inputs_may_have_integer_keys_of_other_widths():
    narrow = Source("narrow", {"card_id": pl.Int32, "at": pl.Datetime}, "at")
    both = {
        "prepare": lambda wide, narrow: wide.join(narrow.select("card_id"), on="card_id"),
        "prepare_by": ["card_id"],
    }
    inputs = {"wide": payments, "narrow": narrow}
    n = [Feature("n", pl.len())]
    group = FeatureGroup("counted", "1.0.0", card, inputs, n, grain="entity", settle="1h", **both, **ABOUT)
    other = raw("a", hour=2).select(pl.col("card_id").cast(pl.Int32), "at", ARRIVAL)
    rows = compute(group, {"wide": raw("a", "b"), "narrow": other}, DAY)
    assert rows.select("event_timestamp", "n").rows() == [(T0 + 2 * HOUR, 2)]
