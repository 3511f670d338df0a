"""Entity rows as columns: with and without a frame the keys are the same."""

from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.entity_rows import Entities
from features.errors import InvalidInput
from features.frames import as_frame
from features.point_in_time import entity_keys

_TYPES = [pl.Int8(), pl.Int64(), pl.UInt16(), pl.String(), pl.Boolean(), pl.Float64()]
_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.integers(-130, 130), st.text(max_size=3), st.floats()
)


def keys_or_error(made: Any) -> Any:
    try:
        return [tuple(map(repr, row)) for row in made()]
    except InvalidInput:
        return "refused"


@given(
    columns=st.integers(1, 3).flatmap(
        lambda height: st.fixed_dictionaries(
            {name: st.lists(_VALUES, min_size=height, max_size=height) for name in ("lot", "wafer")}
        )
    ),
    dtypes=st.tuples(st.sampled_from(_TYPES), st.sampled_from(_TYPES)),
    as_dicts=st.booleans(),
)
def test_the_keys_are_those_of_a_frame(columns, dtypes, as_dicts):
    wanted = dict(zip(("lot", "wafer"), dtypes, strict=True))
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    given_rows = rows if as_dicts else columns
    expected = keys_or_error(lambda: entity_keys(as_frame(given_rows), wanted).rows())
    assert keys_or_error(lambda: Entities(given_rows).keys(wanted, {})) == expected


def test_a_key_may_come_from_a_column_of_another_name():
    asked = Entities({"buyer": [3, None], "note": ["a", "b"]})
    assert asked.keys({"card_id": pl.Int64()}, {"card_id": "buyer"}) == [(3,), (None,)]
    assert asked.frame.rows() == [(3, "a"), (None, "b")]


@pytest.mark.parametrize(
    "rows",
    [{"card_id": [1], "x": [1, 2]}, "card 1", None],
    ids=["ragged", "text", "none"],
)
def test_what_is_no_table_is_refused(rows):
    with pytest.raises(InvalidInput, match="entity rows"):
        Entities(rows)


def test_a_missing_key_column_is_named():
    with pytest.raises(InvalidInput, match="lack key column"):
        Entities({"card": [1]}).keys({"card_id": pl.Int64()}, {})


def test_rows_that_lack_a_column_have_null_there():
    asked = Entities([{"card_id": 1, "shop": "s"}, {"card_id": 2}])
    assert asked.keys({"card_id": pl.Int64(), "shop": pl.String()}, {}) == [(1, "s"), (2, None)]


@pytest.mark.parametrize("value", [10**60, Decimal("1e60"), Decimal("NaN")], ids=str)
def test_values_that_no_column_holds_are_refused_in_a_line(value):
    for rows in ({"card_id": [value]}, [{"card_id": value}]):
        with pytest.raises(InvalidInput, match=r"^entity rows are a (dict|list): .*$") as raised:
            _ = Entities(rows).frame
        assert "\n" not in str(raised.value)
