"""Expressions compiled to Python closures for one row, where a row through Polars would cost 80 µs.

A closure answers bit for bit what Polars answers over a column; what cannot be matched exactly does not
compile, and ``uncompiled`` says why. A column has at least two rows: for one row alone Polars takes other
kernels, whose last bits differ (``x / 3.7`` multiplies by the inverse in a column and divides in a row). It does so
too where every row takes the same literal of a ``when`` or a ``coalesce``, which no single row can know; arithmetic
whose answer hangs on that does not compile.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from features import row_operations as op
from features.elementwise import Node, as_written, expression_tree, split_node
from features.entity import DataType
from features.errors import DefinitionError
from features.row_terms import (
    BITS,
    BOOLEAN,
    FLOAT,
    MOMENTS,
    NULL,
    SPAN,
    Row,
    Run,
    Term,
    both,
    column,
    common_type,
    constant,
    converted,
    distinct,
    literal,
    refuse_constants,
    unary,
    weekday,
)

_FAMILIES = ("Boolean", "ListExpr", "Pow", "StringExpr", "StructExpr", "TemporalExpr", "Trigonometry")
_PARTS = {"Year": 32, "Month": 8, "Day": 8, "Hour": 8, "Minute": 8, "Second": 8, "WeekDay": 8}
_DATE_PARTS = ("Year", "Month", "Day", "WeekDay")
_UNITS = {"Days": 86_400_000_000, "Hours": 3_600_000_000, "Minutes": 60_000_000, "Seconds": 1_000_000}
_UNITS |= {"Milliseconds": 1_000, "Microseconds": 1}
_ARITHMETIC = {"Plus": operator.add, "Minus": operator.sub, "Multiply": operator.mul}
_FLOAT_ONLY = {"TrueDivide": op.divide, "FloorDivide": op.floor_divide, "Modulus": op.modulo}
_INT_ONLY = {"FloorDivide": op.int_floor_divide, "Modulus": op.int_modulo}
_COMPARE = {
    "Eq": (operator.eq, op.equal),
    "NotEq": (operator.ne, op.not_equal),
    "Lt": (operator.lt, op.less),
    "LtEq": (operator.le, op.less_equal),
    "Gt": (operator.gt, op.greater),
    "GtEq": (operator.ge, op.greater_equal),
    "EqValidity": (operator.eq, op.equal),
    "NotEqValidity": (operator.ne, op.not_equal),
}
"""Of plain values, and of floats."""
_OF_FLOATS: Mapping[str, op.Unary] = {
    "Abs": abs,
    "Ceil": op.ceil,
    "Exp": op.exponential,
    "Floor": op.floor,
    "Log1p": op.logarithm_plus_one,
    "Negate": operator.neg,
    "Sign": op.sign,
    "Sqrt": op.square_root,
}
_TO_FLOAT = ("Exp", "Log", "Log1p", "Sqrt")
"""Functions that answer floats, of integers too."""
_POWERS: Mapping[Any, op.Unary] = {2: op.square, 3: op.cube}
_OF_INTS: Mapping[str, Callable[..., int]] = {
    "Abs": abs,
    "Negate": operator.neg,
    "Sign": op.int_sign,
    "Ceil": int,
    "Floor": int,
}
_FLOAT_TESTS: Mapping[str, op.Unary] = {
    "IsNan": math.isnan,
    "IsNotNan": lambda a: not math.isnan(a),
    "IsFinite": math.isfinite,
    "IsInfinite": math.isinf,
}


@dataclass(frozen=True)
class RowClosure:
    """A compiled expression: called with a row's values by column name it answers one value of ``dtype``.

    Raises OverflowError where a strict cast does not fit: Polars then says what is wrong.
    """

    dtype: DataType
    run: Run

    def __call__(self, row: Row) -> Any:
        """The answer for one row."""
        return self.run(row)


def row_closure(expr: pl.Expr, dtypes: Mapping[str, DataType]) -> RowClosure | None:
    """The expression as a closure over columns of these types; None where it does not compile.

    >>> closure = row_closure(pl.col("a") / 2, {"a": pl.Float64})
    >>> closure({"a": 3.0}), closure({"a": None})
    (1.5, None)
    """
    compiled = _compiled(expr, dtypes)
    return compiled if isinstance(compiled, RowClosure) else None


def uncompiled(expr: pl.Expr, dtypes: Mapping[str, DataType]) -> str | None:
    """Why the expression does not compile, and pays Polars' price per request; None where it does.

    >>> uncompiled(pl.col("a").sin(), {"a": pl.Float64})
    'sin() of Float64 is not compiled'
    """
    compiled = _compiled(expr, dtypes)
    return compiled if isinstance(compiled, str) else None


def _compiled(expr: pl.Expr, dtypes: Mapping[str, DataType]) -> RowClosure | str:
    """The closure, or why there is none."""
    exact = {name: dtype() if isinstance(dtype, type) else dtype for name, dtype in dtypes.items()}
    try:
        term = _term(expression_tree(expr), exact)
        there = pl.LazyFrame(schema=exact).select(expr.alias("found")).collect_schema()["found"]
    except (NotImplementedError, DefinitionError) as reason:  # the first is how the parts below say so
        return str(reason)
    except RecursionError:
        return "it nests too deeply"
    except pl.exceptions.PolarsError as error:
        return str(error).splitlines()[0]
    if there != term.dtype:
        return f"its type is {there}, which is not what its parts suggest ({term.dtype})"
    return RowClosure(term.dtype, term.run)


def _term(node: Node, dtypes: Mapping[str, DataType]) -> Term:
    kind, inside = split_node(node)
    match kind:
        case "Column":
            return column(inside, dtypes)
        case "Literal":
            return literal(*split_node(inside))
        case "Alias":
            return _term(inside[0], dtypes)
        case "Cast":
            return _cast(_term(inside["expr"], dtypes), inside["dtype"], inside["options"])
        case "BinaryExpr":
            return _binary(inside["op"], _term(inside["left"], dtypes), _term(inside["right"], dtypes))
        case "Ternary":
            return _ternary(*(_term(inside[part], dtypes) for part in ("predicate", "truthy", "falsy")))
        case "Function":
            return _function(inside["function"], [_term(operand, dtypes) for operand in inside["input"]])
    raise NotImplementedError(f"{as_written(kind)}() is not compiled")


def _binary(name: str, left: Term, right: Term) -> Term:
    if name in ("And", "Or"):
        return _logical(left, right, absorbing=name == "Or")
    if name in _COMPARE:
        return _comparison(name, left, right)
    if name == "Minus" and left.dtype == right.dtype and left.dtype in (*MOMENTS, pl.Date()):
        return both(left, right, operator.sub, SPAN)
    dtype = FLOAT if name == "TrueDivide" else common_type([left, right])
    _require_numbers(name, left, right)
    left, right = converted(left, dtype), converted(right, dtype)
    if dtype == FLOAT:
        return _float_arithmetic(name, left, right)
    if operation := _ARITHMETIC.get(name) or _INT_ONLY.get(name):
        return both(left, right, op.wrapping(operation, BITS[dtype]), dtype)
    raise NotImplementedError(f"{as_written(name)}() of {dtype} is not compiled")


def _float_arithmetic(name: str, left: Term, right: Term) -> Term:
    """Arithmetic of floats; of a literal and a column by the rules that Polars has for these."""
    refuse_constants(left, right)
    _refuse_settled(name, left, right)
    first, by = (term.value if term.literal else None for term in (left, right))
    if by == 0.0 and name in ("Plus", "Minus"):
        return left  # even where the sum of zeros would have another sign
    if first == 0.0 and name in ("Plus", "Minus"):
        return right if name == "Plus" else unary(right, operator.neg, FLOAT)
    if by is not None and name in ("TrueDivide", "FloorDivide"):
        times = both(left, constant(FLOAT, op.divide(1.0, by)), operator.mul, FLOAT)
        return times if name == "TrueDivide" else unary(times, op.floor, FLOAT)
    if by is not None and name == "Modulus":
        return unary(left, op.modulo_by(by), FLOAT)
    if operation := _ARITHMETIC.get(name) or _FLOAT_ONLY.get(name):
        return both(left, right, operation, FLOAT)
    raise NotImplementedError(f"{as_written(name)}() of floats is not compiled")


def _refuse_settled(name: str, left: Term, right: Term) -> None:
    """Refuse what Polars answers in another way where all rows share one literal: division, and sums of zeros."""
    of_left, of_right = (bool(term.settled) and not term.literal for term in (left, right))
    hangs = False
    if name in _FLOAT_ONLY:
        hangs = (of_left and right.literal) or (of_right and not left.literal)
    elif name in ("Plus", "Minus"):
        hangs = (of_left or of_right) and 0.0 in (*left.settled, *right.settled)
    if hangs:
        raise NotImplementedError(f"{as_written(name)}() of what may be one literal in all rows is not compiled")


def _require_numbers(name: str, *terms: Term) -> None:
    for term in terms:
        if term.dtype not in BITS and term.dtype != FLOAT:
            raise NotImplementedError(f"{as_written(name)}() of {term.dtype} is not compiled")


def _comparison(name: str, left: Term, right: Term) -> Term:
    dtype = common_type([left, right])
    left, right = converted(left, dtype), converted(right, dtype)
    operation = _COMPARE[name][dtype == FLOAT]
    if not name.endswith("Validity"):
        return both(left, right, operation, BOOLEAN)
    refuse_constants(left, right)
    first, second, differ = left.run, right.run, name == "NotEqValidity"

    def run(row: Row) -> bool:
        a, b = first(row), second(row)
        if a is None or b is None:
            return (a is not b) is differ
        return bool(operation(a, b))

    return Term(BOOLEAN, run, settled=_either(left, right))


def _logical(left: Term, right: Term, *, absorbing: bool) -> Term:
    """``&`` and ``|`` by Kleene: null unless the other side decides (True for ``|``, False for ``&``)."""
    if (left.dtype, right.dtype) != (BOOLEAN, BOOLEAN):
        raise NotImplementedError(f"& and | of {left.dtype} and {right.dtype} are not compiled")
    refuse_constants(left, right)
    first, second = left.run, right.run

    def run(row: Row) -> Any:
        a = first(row)
        if a is absorbing:
            return absorbing
        b = second(row)
        if b is absorbing:
            return absorbing
        return None if a is None or b is None else not absorbing

    return Term(BOOLEAN, run, settled=_either(left, right))


def _either(*operands: Term) -> tuple[bool, ...]:
    """What a test may answer for all rows at once, where that may be."""
    return (False, True) if any(term.settled for term in operands) else ()


def _ternary(predicate: Term, truthy: Term, falsy: Term) -> Term:
    if predicate.dtype != BOOLEAN or predicate.literal:
        raise NotImplementedError(f"a condition of {predicate.dtype} is not compiled")
    dtype = common_type([truthy, falsy])
    yes, no = converted(truthy, dtype), converted(falsy, dtype)
    holds, first, second = predicate.run, yes.run, no.run
    return Term(
        dtype, lambda row: first(row) if holds(row) else second(row), settled=distinct(yes.settled + no.settled)
    )


def _cast(term: Term, written: Node, options: str) -> Term:
    """Casts between numbers; one that overflows answers null, or is left to Polars where it is strict."""
    name = written.get("Literal") if isinstance(written, dict) else None
    found = [dtype for dtype in (FLOAT, *BITS) if str(dtype) == name]
    sources = (BOOLEAN, FLOAT, *BITS)
    if not found or term.dtype not in sources or options not in ("Strict", "NonStrict"):
        raise NotImplementedError(f"a cast of {term.dtype} to {name or 'that type'} is not compiled")
    dtype = found[0]
    if dtype == FLOAT:
        return constant(FLOAT, float(term.value)) if term.literal else unary(term, float, FLOAT)
    return unary(term, op.to_int(BITS[dtype], strict=options == "Strict"), dtype)


def _function(function: Node, operands: Sequence[Term]) -> Term:
    family, inside = split_node(function)
    first = operands[0]
    name, detail = split_node(inside) if family in _FAMILIES else (family, inside)
    if name in ("IsNull", "IsNotNull") and not first.literal:
        run, missing = first.run, name == "IsNull"
        return Term(BOOLEAN, lambda row: (run(row) is None) is missing, settled=_either(first))
    if name == "Not" and first.dtype == BOOLEAN:
        return unary(first, operator.not_, BOOLEAN)
    if name in _FLOAT_TESTS and first.dtype == FLOAT:
        return unary(first, _FLOAT_TESTS[name], BOOLEAN)
    if name in ("FillNull", "Coalesce"):
        return _first_known(operands, fills=name == "FillNull")
    if name in ("MinHorizontal", "MaxHorizontal"):
        return _extreme(operands, least=name == "MinHorizontal")
    if name == "IsBetween" and detail["closed"] == "Both" and NULL not in [term.dtype for term in operands]:
        return _logical(
            _comparison("GtEq", first, operands[1]), _comparison("LtEq", first, operands[2]), absorbing=False
        )
    if family == "TemporalExpr":
        return _temporal(first, name, detail)
    return _numeric(name, detail, operands)


def _numeric(name: str, detail: Any, operands: Sequence[Term]) -> Term:
    """A function of one number, and of literals that say more."""
    first, *others = operands
    literals = [term.value for term in others if term.literal]
    if len(literals) == len(others):
        if first.dtype in BITS and name in _TO_FLOAT:
            first = converted(first, FLOAT)
        if first.dtype in BITS and name in _OF_INTS and not others:
            operation: op.Unary = op.wrapping(_OF_INTS[name], BITS[first.dtype])
            return unary(first, operation, first.dtype)
        if first.dtype == FLOAT and name in _OF_FLOATS:
            return unary(first, _OF_FLOATS[name], FLOAT)
        if first.dtype == FLOAT and name == "Round" and detail["mode"] == "HalfToEven" and detail["decimals"] < 16:
            return unary(first, op.round_to(detail["decimals"]), FLOAT)
        if first.dtype == FLOAT and name == "Log" and literals[0] is not None and literals[0] > 0:
            return unary(first, op.logarithm_to(float(literals[0])), FLOAT)
        if first.dtype == FLOAT and name == "Generic" and literals[0] in _POWERS:
            return unary(first, _POWERS[literals[0]], FLOAT)
        if name == "Clip" and None not in literals and common_type(operands) == first.dtype:
            return _clip(first, detail, [converted(bound, first.dtype).value for bound in others])
    raise NotImplementedError(f"{as_written(name)}() of {first.dtype} is not compiled")


def _clip(first: Term, detail: Mapping[str, bool], bounds: Sequence[Any]) -> Term:
    low = bounds[0] if detail["has_min"] else None
    high = bounds[-1] if detail["has_max"] else None
    if any(isinstance(bound, float) and math.isnan(bound) for bound in bounds) or (
        low is not None and high is not None and low > high
    ):
        raise NotImplementedError("clip with bounds that are NaN or cross is not compiled")

    def clipped(a: Any) -> Any:
        if low is not None and a < low:
            return low
        return high if high is not None and a > high else a

    return unary(first, clipped, first.dtype)


def _first_known(operands: Sequence[Term], *, fills: bool) -> Term:
    """The first value that is not null; a column that ``fills`` stays a column, whatever all rows are filled with."""
    dtype = common_type(operands)
    refuse_constants(*operands)
    terms = [converted(term, dtype) for term in operands]
    runs = [term.run for term in terms]

    def run(row: Row) -> Any:
        return next((found for each in runs if (found := each(row)) is not None), None)

    if fills and not terms[0].settled:
        return Term(dtype, run)
    return Term(dtype, run, settled=distinct(value for term in terms for value in term.settled))


def _extreme(operands: Sequence[Term], *, least: bool) -> Term:
    """The least or greatest of the values that are not null."""
    dtype = common_type(operands)
    better: op.Binary = (op.least if least else op.greatest) if dtype == FLOAT else (min if least else max)
    refuse_constants(*operands)
    if dtype == BOOLEAN:
        raise NotImplementedError("the least and greatest of Boolean are not compiled")
    terms = [converted(term, dtype) for term in operands]
    runs = [term.run for term in terms]

    def run(row: Row) -> Any:
        best = None
        for each in runs:
            found = each(row)
            if best is None:
                best = found
            elif found is not None:
                best = better(best, found)
        return best

    settled = distinct(value for term in terms for value in term.settled) if all(t.settled for t in terms) else ()
    return Term(dtype, run, settled=settled)


def _temporal(term: Term, name: str, detail: Any) -> Term:
    """Parts of a moment, and the length of a duration in whole or fractional units."""
    if name in _PARTS and (term.dtype in MOMENTS or (term.dtype == pl.Date() and name in _DATE_PARTS)):
        part = weekday if name == "WeekDay" else operator.attrgetter(name.lower())
        return unary(term, part, pl.Int32() if _PARTS[name] == 32 else pl.Int8())
    unit = _UNITS.get(name.removeprefix("Total"))
    if unit is not None and name.startswith("Total") and term.dtype == SPAN:
        if detail["fractional"]:
            return unary(term, op.total_fraction(unit), FLOAT)
        return unary(term, op.total(unit), pl.Int64())
    raise NotImplementedError(f"{as_written(name)}() of {term.dtype} is not compiled")
