"""Keys and rows as bytes: no two keys collide, and every value comes back as it went in."""

import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_series_equal
from polars.testing.parametric import dataframes, series

from features.errors import InvalidInput, StorageError
from features.times import UTC_US
from infra.storage.codec import Rows, TableCodec, row_order
from infra.storage.keys import KEY_LIMIT, encode_each, encode_key, encode_keys
from infra.storage.msgpack_block import FIXED_WIDTH, array_header, encode_block

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

# ------------------------------------------------------------------------------------------------- keys

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
_values = st.one_of(
    st.integers(-3, 3),
    st.integers(-(2**70), 2**70),
    st.booleans(),
    _text,
    _text.map(str.encode),
    st.floats(),
    st.dates(),
    st.datetimes(timezones=st.just(UTC)),
    st.times(),
    st.timedeltas(),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.sampled_from(["x" * 600, "x" * 601, b"x" * 600, "1", b"1", 1, 1.0, True, Decimal(1), 0.0, -0.0]),
)


def _identity(value):
    """What makes two key values the same, written another way."""
    if isinstance(value, float):
        return ("float", "nan" if math.isnan(value) else value)
    return (type(value).__name__, value)


@settings(max_examples=400)
@given(st.lists(_values, min_size=1, max_size=3), st.lists(_values, min_size=1, max_size=3))
def test_keys_are_equal_only_where_all_values_and_their_types_are(one, other):
    same = list(map(_identity, one)) == list(map(_identity, other))
    assert (encode_key(tuple(one)) == encode_key(tuple(other))) == same


@given(st.lists(_values, min_size=1, max_size=3))
def test_a_key_never_outgrows_its_limit_and_never_changes(values):
    key = encode_key(tuple(values))
    assert len(key) <= KEY_LIMIT
    # The byte before a hash starts no msgpack value, so no other key can be made to equal it.
    assert (key[0] == 0xC1) == any(isinstance(v, (str, bytes)) and len(v) > KEY_LIMIT for v in values)
    assert encode_key(tuple(values)) == key


@settings(max_examples=200)
@given(st.lists(st.lists(st.none() | _values, min_size=1, max_size=3), max_size=4))
def test_many_keys_are_those_of_each(keys):
    asked = [tuple(values) for values in keys]
    assert encode_each(asked) == [encode_key(key) for key in asked]


def test_a_key_with_a_null_is_none():
    assert encode_key((1, None)) is None


def test_equal_moments_and_numbers_are_equal_keys():
    tokyo = timezone(timedelta(hours=9))
    assert encode_key((NOON,)) == encode_key((NOON.astimezone(tokyo),)) == encode_key((NOON.replace(tzinfo=None),))
    assert encode_key((Decimal("1.50"),)) == encode_key((Decimal("1.5"),))
    assert encode_key((Decimal("0.00"),)) == encode_key((Decimal("-0"),))
    assert encode_key((np.int64(7), np.str_("a"), np.bool_(True))) == encode_key((7, "a", True))  # noqa: FBT003
    assert encode_key((np.float64(0.5),)) == encode_key((np.float32(0.5),)) == encode_key((0.5,))


@pytest.mark.parametrize("value", [[1], {"a": 1}, object(), 1j])
def test_what_no_key_column_holds_is_refused(value):
    with pytest.raises(InvalidInput, match=r"key value .* is a "):
        encode_key((value,))


def test_text_that_is_not_unicode_is_refused():
    with pytest.raises(InvalidInput, match="not valid text"):
        encode_key(("\ud800",))


def test_fractions_count_as_floats():
    assert encode_key((Fraction(1, 2),)) == encode_key((0.5,))


_KEY_TYPES = [
    *(pl.Int8, pl.Int64, pl.UInt64, pl.Float64, pl.Boolean, pl.String, pl.Binary),
    *(pl.Date, UTC_US, pl.Time, pl.Datetime("ms"), pl.Duration("us"), pl.Decimal),
]


@settings(max_examples=60, deadline=None)
@given(dataframes(min_cols=1, max_cols=3, allowed_dtypes=_KEY_TYPES, allow_null=False))
def test_a_frame_of_keys_is_encoded_like_its_rows(frame):
    assert encode_keys(frame) == [encode_key(row) for row in frame.rows()]


# ------------------------------------------------------------------------------------------------- rows

_FIXED = sorted(FIXED_WIDTH, key=str)


@settings(max_examples=150, deadline=None)
@given(dataframes(min_cols=1, max_cols=20, max_size=5, allowed_dtypes=_FIXED, allow_null=True))
def test_a_block_is_what_msgpack_reads_row_by_row(frame):
    head = array_header(1 + frame.width) + b"\x07"
    decoded = [msgspec.msgpack.decode(value) for value in encode_block(frame, head)]
    assert repr(decoded) == repr([[7, *row] for row in frame.rows()])  # repr, for NaN and -0.0


def stored(*columns: pl.Series) -> pl.DataFrame:
    """Rows of as many entities as the columns are long."""
    rows = pl.DataFrame(list(columns)).with_row_index("id")
    times = {"event_timestamp": NOON, "created_timestamp": NOON}
    return rows.with_columns(*(pl.lit(v, UTC_US).alias(k) for k, v in times.items()), _epoch=0, _deleted=False)


def through_the_store(values: pl.Series) -> list[object]:
    rows = Rows(stored(values), ["id"])
    codec, schema = TableCodec().including(rows.columns)
    codec = TableCodec.unpack(codec.pack())
    (batch,) = rows.batches(schema)
    found = {key: codec.decode(value).values for key, value in zip(batch.keys, batch.values, strict=True)}
    return [found[encode_key((i,))][values.name] for i in range(len(values))]


_MOMENTS = [datetime(1, 1, 2, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC), NOON, None]
_RECENT = pl.Series(_MOMENTS[1:], dtype=UTC_US)
_SPANS = [timedelta(days=-3, milliseconds=1), timedelta(0), None]
_EVERY_TYPE = [
    pl.Series([0, -(2**7), 2**7 - 1, None], dtype=pl.Int8),
    pl.Series([0, -(2**15), 2**15 - 1, None], dtype=pl.Int16),
    pl.Series([0, -(2**31), 2**31 - 1, None], dtype=pl.Int32),
    pl.Series([0, -(2**63), 2**63 - 1, None], dtype=pl.Int64),
    pl.Series([0, -(2**127), 2**127 - 1, None], dtype=pl.Int128),
    pl.Series([0, 2**8 - 1, None], dtype=pl.UInt8),
    pl.Series([0, 2**16 - 1, None], dtype=pl.UInt16),
    pl.Series([0, 2**32 - 1, None], dtype=pl.UInt32),
    pl.Series([0, 2**64 - 1, None], dtype=pl.UInt64),
    pl.Series([0.1, -0.0, math.nan, math.inf, -math.inf, 5e-324, None], dtype=pl.Float64),
    pl.Series([0.1, -0.0, math.nan, math.inf, -math.inf, 1e-45, None], dtype=pl.Float32),
    pl.Series([0.1, -0.0, math.nan, None], dtype=pl.Float16),
    pl.Series([True, False, None]),
    pl.Series(["", "a\0b", "ü", "x" * 100_000, None]),
    pl.Series([b"", b"\0\xff\xc1", None]),
    pl.Series([date(1, 1, 1), date(9999, 12, 31), date(1969, 12, 31), None]),
    *(pl.Series(_MOMENTS, dtype=pl.Datetime(unit, "UTC")) for unit in ("ms", "us")),
    *(_RECENT.dt.convert_time_zone(zone) for zone in ("Asia/Tokyo", "America/New_York", "+02:00")),
    *(_RECENT.dt.cast_time_unit(unit).dt.replace_time_zone(None) for unit in ("ms", "us", "ns")),
    pl.Series([datetime(2026, 10, 25, h, 30, tzinfo=UTC) for h in (0, 1)]).dt.convert_time_zone("Europe/Berlin"),
    *(pl.Series(_SPANS, dtype=pl.Duration(unit)) for unit in ("ms", "us", "ns")),
    pl.Series([time(0), time(23, 59, 59, 999_999), None]),
    pl.Series([Decimal("1.50"), Decimal("-12345678901234567890123456789012345.678"), None], dtype=pl.Decimal(38, 3)),
    pl.Series(["new", None, "old"], dtype=pl.Enum(["old", "new"])),
    pl.Series(["new", None, "old"], dtype=pl.Categorical),
    pl.Series([None, None], dtype=pl.Null),
    pl.Series([[1, None], [], None], dtype=pl.List(pl.Int16)),
    pl.Series([["a", None], [], None], dtype=pl.List(pl.String)),
    pl.Series([[NOON, None], [], None], dtype=pl.List(UTC_US)),
    pl.Series([[Decimal("1.50"), None], [], None], dtype=pl.List(pl.Decimal(10, 2))),
    pl.Series([[[date(2026, 1, 1)], None], [], None], dtype=pl.List(pl.List(pl.Date))),
    pl.Series([[1.5, None], None], dtype=pl.Array(pl.Float64, 2)),
]


@pytest.mark.parametrize("values", _EVERY_TYPE, ids=lambda values: str(values.dtype))
def test_values_come_back_as_polars_gives_them(values):
    found = through_the_store(values.alias("x"))
    assert repr(found) == repr(values.to_list())  # repr tells -0.0 from 0.0, NaN from null, 1.50 from 1.5
    assert_series_equal(pl.Series("x", found, dtype=values.dtype), values.alias("x"), check_exact=True)


_SCALARS = [pl.Int32, pl.UInt64, pl.Float32, pl.Boolean, pl.String, pl.Binary, pl.Date, UTC_US, pl.Time, pl.Null]


@settings(max_examples=60, deadline=None)
@given(
    series(
        name="x", min_size=1, max_size=6, allowed_dtypes=[*_SCALARS, pl.List(pl.Float64), pl.Decimal], allow_null=True
    )
)
def test_any_values_come_back(values):
    assert repr(through_the_store(values)) == repr(values.to_list())


def test_columns_that_a_table_has_are_not_kept_again():
    rows = Rows(stored(*(values.head(1).alias(f"x{i}") for i, values in enumerate(_EVERY_TYPE))), ["id"])
    codec = TableCodec.unpack(TableCodec().including(rows.columns)[0].pack())
    assert codec.including(rows.columns) == (codec, 0)


def test_a_row_is_small_and_knows_its_order():
    floats = [pl.Series(f"f{i}", [0.5]) for i in range(10)]
    rows = Rows(stored(*floats), ["id"])
    (batch,) = rows.batches(0)
    assert len(batch.values[0]) < 130  # ten floats take 90
    assert row_order(batch.values[0]) == (next(batch.orders), False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pl.Series("x", [{"a": 1}]), r"column 'x' is Struct.*one column per field"),
        (pl.Series("x", [[{"a": 1}]]), r"column 'x' is Struct"),
        (pl.Series("x", [object()], dtype=pl.Object), r"column 'x' is Object"),
        (pl.Series("x", [1]).cast(pl.Datetime("ns")), r"column 'x' .* has nanoseconds.*truncate it"),
        (pl.Series("x", [[1]]).cast(pl.List(pl.Datetime("ns"))), r"column 'x' .* has nanoseconds"),
        (pl.Series("x", [1]).cast(pl.Time), r"column 'x' .* has nanoseconds"),
        (pl.Series("x", [1]).cast(pl.Duration("ns")), r"column 'x' .* has nanoseconds"),
        (pl.Series("x", [10_000_000]).cast(pl.Date), r"column 'x' .* beyond Python's years"),
        (pl.Series("x", [2**60]).cast(pl.Datetime("us", "UTC")), r"column 'x' .* beyond Python's years"),
        (pl.Series("x", [2**62]).cast(pl.Duration("ms")), r"column 'x' .* beyond Python's"),
    ],
    ids=lambda value: str(getattr(value, "dtype", value)),
)
def test_what_cannot_come_back_exactly_is_refused_with_column_and_remedy(values, message):
    with pytest.raises(InvalidInput, match=message):
        Rows(stored(values), ["id"])


@pytest.mark.parametrize("value", [b"", b"garbage", b"\x91\x00", msgspec.msgpack.encode([9, 0, 0, 0, False])])
def test_bytes_that_are_no_row_are_an_error_with_a_remedy(value):
    codec, _ = TableCodec().including([("x", ["Int64"])])
    with pytest.raises(StorageError, match="full sync"):
        codec.decode(value)
