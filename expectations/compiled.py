"""Row rules as Python functions of one record: true where it breaks the rule, as the masks say of a batch.

What cannot be told to answer as Polars does raises NotImplementedError, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import singledispatch
from operator import itemgetter

import polars as pl

from expectations.rules import Between, Expression, InSet, NotNull, RowRule
from features.entity import DataType
from features.row_closure import row_closure, uncompiled
from features.row_terms import BITS, BOOLEAN, FLOAT, STRING, Row, Run

Breaks = Callable[[Row], bool]

_INTEGER = pl.Int64()
_HALF = 1 << 63
_WIDE: Mapping[DataType, DataType] = {
    **dict.fromkeys([pl.Float32(), FLOAT], FLOAT),
    **dict.fromkeys([*BITS, pl.UInt8(), pl.UInt16(), pl.UInt32()], _INTEGER),
}
"""The types in which rules see numbers, as ``masks.looked_at`` makes them."""


@dataclass(frozen=True)
class Value:
    """What a rule looks at in a record: the value's type, and how it is read."""

    dtype: DataType
    read: Run


def breaks(rule: RowRule, dtypes: Mapping[str, DataType], computed: Mapping[str, pl.Expr]) -> Breaks:
    """The rule for records whose columns have these types, in a suite that computes these columns.

    Raises OverflowError, when it is called, where Polars would say what is wrong with the record.
    """
    broken = _broken(rule, _value(rule.target, dtypes, computed))
    conditions = [_equals(_value(name, dtypes, computed), value) for name, value in rule.where.items()]
    if not conditions:
        return broken

    def within(row: Row) -> bool:
        found = broken(row)
        for holds in conditions:  # each of them always: what cannot be computed must be heard of
            found &= holds(row)
        return found

    return within


def _value(name: str, dtypes: Mapping[str, DataType], computed: Mapping[str, pl.Expr]) -> Value:
    if name in computed:
        closure = row_closure(computed[name], dtypes)
        if closure is None:
            raise NotImplementedError(uncompiled(computed[name], dtypes))
        return Value(_WIDE.get(closure.dtype, closure.dtype), closure.run)
    if name not in dtypes:
        raise NotImplementedError(f"the type of column {name!r} is not known")
    return Value(_WIDE.get(dtypes[name], dtypes[name]), itemgetter(name))


def _equals(value: Value, wanted: str | int) -> Breaks:
    """Whether the record is one that the rule is about; null and NaN equal nothing."""
    read, equal = value.read, wanted
    match value.dtype, wanted:
        case (pl.String(), str()) | (pl.Boolean(), bool()):
            return lambda row: read(row) == equal
        case (pl.Int64(), int()) if _whole(wanted):
            return lambda row: read(row) == equal
    raise NotImplementedError(f"a condition of {value.dtype} being {wanted!r} is not compiled")


@singledispatch
def _broken(rule: RowRule, value: Value) -> Breaks:
    raise NotImplementedError(f"{type(rule).__name__} of {value.dtype} is not compiled")


@_broken.register
def _(rule: NotNull, value: Value) -> Breaks:
    del rule
    read = value.read
    if value.dtype != FLOAT:
        return lambda row: read(row) is None
    return lambda row: (found := read(row)) is None or math.isnan(found)


@_broken.register
def _(rule: Between, value: Value) -> Breaks:
    read = value.read
    low = -math.inf if rule.low is None else float(rule.low)
    high = math.inf if rule.high is None else float(rule.high)
    if value.dtype not in (FLOAT, _INTEGER) or math.isnan(low) or math.isnan(high):
        raise NotImplementedError(f"a range of {value.dtype} is not compiled")
    if value.dtype == FLOAT:
        return lambda row: (found := read(row)) is not None and (found < low or found > high)  # NaN is neither
    return lambda row: (found := read(row)) is not None and not low <= float(found) <= high


@_broken.register
def _(rule: InSet, value: Value) -> Breaks:
    read, known = value.read, frozenset(rule.values)
    texts = value.dtype == STRING and all(isinstance(item, str) for item in known)
    wholes = value.dtype == _INTEGER and all(_whole(item) for item in known)
    if not known or not (texts or wholes):
        raise NotImplementedError(f"a set of {sorted({type(v).__name__ for v in known})} is not compiled")
    return lambda row: (found := read(row)) is not None and found not in known


@_broken.register
def _(rule: Expression, value: Value) -> Breaks:
    del rule
    if value.dtype != BOOLEAN:
        raise NotImplementedError(f"an expression of type {value.dtype} is not compiled")
    read = value.read
    return lambda row: read(row) is False


def _whole(value: object) -> bool:
    return type(value) is int and -_HALF <= value < _HALF
