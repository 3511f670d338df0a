"""The content hash: one for equal frames, another for anything that differs."""

from __future__ import annotations

import polars as pl
import pytest

from card_payments import T0
from features.content_hash import content_hash
from features.errors import InvalidInput


@pytest.mark.parametrize("values", [[1.5, None, float("nan")], ["a", None, "b"], [True, None, False], [T0, None, T0]])
def test_the_content_hash_tells_null_nan_order_and_names_apart(values):
    frame = pl.DataFrame({"a": values})
    chunked = pl.concat([frame.slice(0, 1), frame.slice(1)], rechunk=False)
    assert content_hash(chunked) == content_hash(frame)
    others = [
        frame.reverse(),
        frame.rename({"a": "b"}),
        frame.head(2),
        frame.with_columns(pl.col("a").fill_null(values[0])),
    ]
    assert len({content_hash(f) for f in [frame, *others]}) == 5 - (values[0] == values[2])


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (pl.UInt64, [0, None, 2**63 + 1, 1]),
        (pl.Int128, [0, None, 2**70, 1]),
        (pl.Decimal(10, 2), ["0.00", None, "1.10", "0.11"]),
        (pl.List(pl.Float64), [[1.0, 2.0], [1.0], [], None, [None], [float("nan")], [float("inf")], [0.0]]),
        (pl.List(pl.Binary), [[b"ab"], [b"a", b"b"], [b"\xff"], None]),
        (pl.Array(pl.Int8, 2), [[1, 2], [2, 1], None, [1, None]]),
        (pl.Struct({"a": pl.Int8, "b": pl.String}), [{"a": 1, "b": None}, {"a": None, "b": "1"}, None]),
        (pl.Enum(["a", "b"]), ["a", "b", None]),
    ],
    ids=str,
)
def test_the_content_hash_takes_every_type_and_tells_values_apart(dtype, values):
    series = pl.Series("a", values).cast(dtype) if dtype.is_decimal() else pl.Series("a", values, dtype=dtype)
    hashes = {content_hash(series.slice(i, 1).to_frame()) for i in range(len(values))}
    assert len(hashes) == len(values)
    assert content_hash(series.to_frame()) == content_hash(pl.concat([series.head(1), series.tail(-1)]).to_frame())


def test_the_content_hash_refuses_python_objects():
    with pytest.raises(InvalidInput, match="Python objects"):
        content_hash(pl.DataFrame({"a": pl.Series([object()], dtype=pl.Object)}))
