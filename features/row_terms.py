"""The typed parts that ``features.row_closure`` builds closures of: columns, literals and null's ways.

What cannot be built to answer as Polars does raises NotImplementedError, with the reason.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import product
from typing import Any

import polars as pl

from features.elementwise import split_node
from features.entity import DataType
from features.row_operations import Binary, Unary
from features.times import UTC_US, from_micros

Row = Mapping[str, Any]
Run = Callable[[Row], Any]

BITS: Mapping[DataType, int] = {pl.Int8(): 8, pl.Int16(): 16, pl.Int32(): 32, pl.Int64(): 64}
"""Integers by their width."""
FLOAT, BOOLEAN, STRING, NULL, SPAN = pl.Float64(), pl.Boolean(), pl.String(), pl.Null(), pl.Duration("us")
MOMENTS = (UTC_US, pl.Datetime("us"))
_MOST_SETTLED = 64
_KNOWN: Sequence[DataType] = (FLOAT, BOOLEAN, STRING, pl.Date(), SPAN, *MOMENTS, *BITS)


@dataclass(frozen=True)
class Term:
    """A part of an expression: its type and how to get its value from a row.

    A literal has its value at hand; a weak one (a Python number) takes the type of what it meets. ``settled`` are
    the values that every row may share because each takes the same literal (of a ``when``, a ``coalesce``): Polars
    then goes on with one number, see ``features.row_closure``.
    """

    dtype: DataType
    run: Run
    literal: bool = False
    weak: bool = False
    settled: tuple[Any, ...] = ()

    @property
    def value(self) -> Any:
        """A literal's value."""
        return self.run({})


def column(name: str, dtypes: Mapping[str, DataType]) -> Term:
    """A column of the row."""
    dtype = dtypes.get(name)
    if dtype is None:
        raise NotImplementedError(f"column {name!r} is not known")
    if dtype not in _KNOWN:
        raise NotImplementedError(f"column {name!r} is {dtype}, which is not compiled")
    return Term(dtype, operator.itemgetter(name))


def constant(dtype: DataType, value: Any, *, weak: bool = False) -> Term:
    """A literal."""
    return Term(dtype, lambda _: value, literal=True, weak=weak, settled=(value,))


def literal(kind: str, inside: Any) -> Term:
    """A literal as Polars writes it: ``Dyn`` for a Python number, ``Scalar`` for a value of one type."""
    name, value = split_node(inside)
    if kind == "Dyn" and name == "Int" and -(2**31) <= value < 2**31:
        return constant(pl.Int32(), value, weak=True)
    if kind == "Dyn" and name == "Float" and value is not None:  # NaN and inf are written as null
        return constant(FLOAT, float(value), weak=True)
    if kind == "Scalar":
        plain = {str(dtype): dtype for dtype in (*BITS, FLOAT, STRING, BOOLEAN)}
        if name == "Null":
            return constant(NULL, None)
        if name in plain and value is not None:
            return constant(plain[name], float(value) if name == "Float64" else value)
        if name in ("Date", "Duration", "Datetime"):
            return _time(name, value)
    raise NotImplementedError(f"a literal of {name} is not compiled")


def _time(name: str, value: Any) -> Term:
    match name, value:
        case "Date", int(days):
            return constant(pl.Date(), date(1970, 1, 1) + timedelta(days=days))
        case "Duration", [int(count), "Microseconds"]:
            return constant(SPAN, timedelta(microseconds=count))
        case "Datetime", [int(count), "Microseconds", None]:
            return constant(pl.Datetime("us"), from_micros(count).replace(tzinfo=None))
        case "Datetime", [int(count), "Microseconds", {"inner": "UTC"}]:
            return constant(UTC_US, from_micros(count))
    raise NotImplementedError(f"a literal {name} of another unit or zone than UTC microseconds is not compiled")


def unary(operand: Term, operation: Unary, dtype: DataType) -> Term:
    """An operation on one part; null stays null."""
    refuse_constants(operand)
    run = operand.run
    return Term(
        dtype, lambda row: None if (a := run(row)) is None else operation(a), settled=settle(operation, operand)
    )


def both(left: Term, right: Term, operation: Binary, dtype: DataType) -> Term:
    """An operation on two parts that is null where either is."""
    refuse_constants(left, right)
    first, second = left.run, right.run
    settled = settle(operation, left, right)
    if any(term.literal and term.value is None for term in (left, right)):
        return Term(dtype, lambda _: None, settled=settled)
    if right.literal:
        b = right.value
        return Term(dtype, lambda row: None if (a := first(row)) is None else operation(a, b), settled=settled)
    if left.literal:
        a = left.value
        return Term(dtype, lambda row: None if (b := second(row)) is None else operation(a, b), settled=settled)

    def run(row: Row) -> Any:
        a, b = first(row), second(row)
        return None if a is None or b is None else operation(a, b)

    return Term(dtype, run, settled=settled)


def settle(operation: Callable[..., Any], *operands: Term) -> tuple[Any, ...]:
    """What an operation (null where an operand is) answers where each operand is one value for all rows."""
    found = []
    for values in product(*(term.settled for term in operands)):
        with suppress(OverflowError):  # a strict cast: Polars fails too
            found.append(None if None in values else operation(*values))
    return distinct(found)


def distinct(values: Iterable[Any]) -> tuple[Any, ...]:
    """The values once each, -0.0 apart from 0.0."""
    found = tuple({str(value): value for value in values}.values())
    if len(found) > _MOST_SETTLED:
        raise NotImplementedError(f"more than {_MOST_SETTLED} literals that a whole column may be are not compiled")
    return found


def refuse_constants(*operands: Term) -> None:
    """Refuse literals alone: Polars folds them before they meet a column, by rules of their own."""
    if all(operand.literal for operand in operands):
        raise NotImplementedError("a calculation of literals alone is not compiled")


def common_type(terms: Sequence[Term]) -> DataType:
    """The type in which values of several parts meet: Polars' supertype."""
    strong = {term.dtype for term in terms if not term.weak and term.dtype != NULL}
    weak = {term.dtype for term in terms if term.weak}
    if len(strong) == 1 and not weak:
        return strong.pop()
    numbers = strong or weak
    if not numbers or any(dtype not in BITS and dtype != FLOAT for dtype in numbers):
        raise NotImplementedError(f"{' and '.join(sorted(map(str, strong | weak))) or 'null'} together is not compiled")
    if FLOAT in numbers | weak:
        return FLOAT
    widest = max(numbers, key=lambda dtype: BITS[dtype])
    half = 1 << (BITS[widest] - 1)
    if any(not -half <= term.value < half for term in terms if term.weak):
        raise NotImplementedError(f"a literal that does not fit {widest} is not compiled")
    return widest


def converted(term: Term, dtype: DataType) -> Term:
    """A part in its common type with others (see ``common_type``)."""
    if dtype != FLOAT or term.dtype in (FLOAT, NULL):
        return Term(dtype, term.run, term.literal, settled=term.settled)
    return constant(FLOAT, float(term.value)) if term.literal else unary(term, float, FLOAT)


def weekday(moment: date) -> int:
    """The day of the week, 1 for Monday."""
    return moment.isoweekday()
