"""Whether an expression is element-wise: each row's answer depends on that row alone.

Decided by walking the expression's tree against what is known to be element-wise; what is not known is
refused. Polars' own ``is_row_separable`` will not do: it passes ``a - a.mean()``.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from features.errors import DefinitionError

Node = Any
"""A node of an expression's tree as Polars writes it: a name, or {name: contents}."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FUNCTIONS = _words(
    "Abs AsStruct Atan2 Ceil Clip Coalesce Cut Erf Erfc Exp FillNull Floor Log Log1p MaxHorizontal MeanHorizontal "
    "MinHorizontal Negate Reinterpret RepeatBy Replace ReplaceStrict Round RoundSF Sign SumHorizontal Truncate"
)
_BOOLEAN = _words(
    "AllHorizontal AnyHorizontal IsBetween IsClose IsFinite IsIn IsInfinite IsNan IsNotNan IsNotNull IsNull Not"
)
_BITWISE = _words("CountOnes CountZeros LeadingOnes LeadingZeros TrailingOnes TrailingZeros")
_RANGES = _words("DateRanges DatetimeRanges IntRanges LinearSpaces TimeRanges")
_WITHIN = {"Boolean": _BOOLEAN, "Bitwise": _BITWISE, "Range": _RANGES}
"""Families of functions of which only these are element-wise."""
_EXCEPT = {
    "ArrayExpr": {"Explode"},
    "BinaryExpr": set(),
    "Business": set(),
    "Categorical": set(),
    "ListExpr": {"Sample"},
    "Pow": set(),
    "StringExpr": {"ConcatVertical"},
    "StructExpr": set(),
    "TemporalExpr": set(),
    "Trigonometry": set(),
}
"""Families of functions of which all but these are element-wise."""
_TAKING_SETS = _words("IsIn ContainsAny ReplaceMany ExtractMany FindMany Replace ReplaceStrict")
"""Functions that read a whole column where another gives them one; with literals they are element-wise."""
_NODES = _words("Alias BinaryExpr Cast Column Field KeepName Literal RenameAlias Ternary")
_FLAGS = {"ROW_SEPARABLE", "LENGTH_PRESERVING"}
_REMEDY = "let each row's answer depend on that row alone"
_HINTS = {
    "Agg": "compute it as a stored feature of grain 'entity' or 'window' and derive from that",
    "Len": "count in a stored feature of grain 'entity' or 'window' and derive from that",
    "Over": "look at other rows in `prepare`, or in a stored feature of grain 'entity' or 'window'",
    "Filter": "write it as pl.when(...).then(...)",
    "DropNulls": "write it as fill_null(...) or pl.when(...).then(...)",
    "FillNullWithStrategy": "write it as fill_null(value)",
    "FoldHorizontal": "write it with arithmetic or sum_horizontal, max_horizontal, all_horizontal, ...",
    "ReduceHorizontal": "write it with arithmetic or sum_horizontal, max_horizontal, all_horizontal, ...",
    "AnonymousFunction": "use map_elements, or say map_batches(..., is_elementwise=True) if it is",
    "FfiPlugin": "register the plugin with is_elementwise=True if it is",
    "Selector": "name each column",
}


def not_elementwise(expr: pl.Expr) -> str | None:
    """Why an expression is not known to be element-wise, with what to do; None if it is.

    Raises DefinitionError where the expression cannot be read (see ``expression_tree``).

    >>> not_elementwise((pl.col("a") / pl.col("b")).clip(0, 1))
    >>> print(not_elementwise(pl.col("a") - pl.col("a").mean()))
    mean() looks at other rows: compute it as a stored feature of grain 'entity' or 'window' and derive from that
    >>> print(not_elementwise(pl.col("a").cum_sum()))
    cum_sum() is not known to be element-wise: let each row's answer depend on that row alone
    """
    return next(_objections(expression_tree(expr)), None)


def chooses_columns(expr: pl.Expr) -> bool:
    """Whether an expression takes several columns at once, by name or pattern, which hides what it reads.

    >>> chooses_columns(pl.sum_horizontal(pl.col("a", "b"))), chooses_columns(pl.sum_horizontal("a", "b"))
    (True, False)
    """
    return "Selector" in set(_names(expression_tree(expr)))


def expression_tree(expr: pl.Expr) -> Node:
    """An expression as the tree that Polars serializes: columns, literals and functions by name.

    Raises DefinitionError where it nests too deeply to be read, or holds a function that cannot be written
    down.
    """
    try:
        return json.loads(expr.meta.serialize(format="json"))
    except RecursionError as error:
        raise DefinitionError(
            f"expression {str(expr)[:80]!r}... nests too deeply: write long sums as pl.sum_horizontal(...) and long "
            f"chains of when/then as replace_strict(...)"
        ) from error
    except (TypeError, pickle.PicklingError, pl.exceptions.PolarsError) as error:
        raise DefinitionError(
            f"expression {str(expr)[:80]!r} holds a function that cannot be written down ({error}): let it hold plain "
            f"values only"
        ) from error


def split_node(node: Node) -> tuple[str, Any]:
    """A node's name and contents; a bare name has none.

    >>> split_node({"Column": "a"}), split_node("Abs")
    (('Column', 'a'), ('Abs', None))
    """
    if isinstance(node, Mapping) and len(node) == 1:
        return next(iter(node.items()))
    return str(node), None


def as_written(name: str) -> str:
    """A node's name as users write it.

    >>> as_written("CumSum"), as_written("NUnique"), as_written("RollingExpr")
    ('cum_sum', 'n_unique', 'rolling')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower().replace("_expr", "")


def _objections(tree: Node) -> Iterator[str]:
    """What is not element-wise in a tree, found from its root on."""
    waiting = [tree]
    while waiting:
        kind, inside = split_node(waiting.pop())
        if kind == "Function":
            yield from _about_function(inside["function"], inside["input"])
            waiting += _operands(inside)
        elif kind == "AnonymousFunction":
            if not _declared(inside["options"]["flags"]):
                yield _refusal(kind, "map_batches()")
            waiting += inside["input"]
        elif kind in ("Eval", "StructEval"):
            yield from _about_nested(kind, inside)
            waiting.append(inside["expr"])
        elif kind == "Literal":
            if split_node(inside)[0] == "Series":
                yield "a literal Series has rows of its own: give the values as a column or one value"
        elif kind in _NODES:
            waiting += _children(kind, inside)
        elif kind != "Selector" or split_node(inside)[0] != "ByName":
            yield _about_node(kind, inside)


def _about_node(kind: str, inside: Any) -> str:
    if kind == "Agg":
        return f"{as_written(split_node(inside)[0])}() looks at other rows: {_HINTS[kind]}"
    if kind == "Selector":
        return f"columns chosen by a pattern differ from frame to frame: {_HINTS[kind]}"
    verb = "looks at other rows" if kind in ("Over", "Len", "Filter") else "is not known to be element-wise"
    return f"{as_written(kind)}() {verb}: {_HINTS.get(kind, _REMEDY)}"


def _about_function(function: Node, operands: Sequence[Node]) -> Iterator[str]:
    family, inside = split_node(function)
    name = split_node(inside)[0] if family in _WITHIN or family in _EXCEPT else family
    if family in _WITHIN:
        known = name in _WITHIN[family]
    elif family in _EXCEPT:
        known = name not in _EXCEPT[family]
    elif family == "Bin":  # into a number of bins, or by quantiles, the bins depend on all rows
        known = "Breaks" in split_node(inside["method"].get("Intervals", {}).get("spec"))
    else:
        known = family in _FUNCTIONS or (family == "FfiPlugin" and _declared(str(inside.get("flags"))))
    if not known:
        yield _refusal(name, f"{as_written(name)}()")
    elif name in _TAKING_SETS and any(split_node(node)[0] != "Literal" for node in _sets(name, operands)):
        yield f"{as_written(name)}() of a column reads all its rows: give it literal values, or use list.contains"
    elif name == "Strptime" and inside[name][1]["format"] is None:
        yield "a time read without a format takes its format from other rows: give the format"


def _sets(name: str, operands: Sequence[Node]) -> Sequence[Node]:
    """The operands of which a set-taking function reads all rows."""
    return operands[1:3] if name in ("Replace", "ReplaceStrict", "ReplaceMany") else operands[1:2]


def _operands(inside: Mapping[str, Any]) -> list[Node]:
    """The operands to look into; values of a set (and holidays) may be a literal Series."""
    family, detail = split_node(inside["function"])
    name = split_node(detail)[0] if family in _WITHIN or family in _EXCEPT else family
    if name in _TAKING_SETS or family == "Business":
        return [node for node in inside["input"] if split_node(node)[0] != "Literal"]
    return list(inside["input"])


def _about_nested(kind: str, inside: Mapping[str, Any]) -> Iterator[str]:
    """Within one row's list, array or struct anything goes that stays within it and does not draw lots."""
    variant = split_node(inside["variant"])[0]
    if variant == "Cumulative":
        yield f"cumulative_eval() looks at other rows: {_REMEDY}"
    elif kind == "StructEval":
        for part in inside["evaluation"]:
            yield from _objections(part)
    else:
        names = set(_names(inside["evaluation"]))
        if "Column" in names:
            yield "a list or array expression that names a column looks at all its rows: use element() alone"
        if "Random" in names:
            yield f"sample() and shuffle() answer differently each time: {_REMEDY}"


def _names(tree: Node) -> Iterator[str]:
    """The names of all nodes of a tree that have contents."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Mapping):
            yield from node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _children(kind: str, inside: Any) -> list[Node]:
    """The expressions directly under a node of a kind without functions."""
    match kind:
        case "Alias":
            return [inside[0]]
        case "BinaryExpr":
            return [inside["left"], inside["right"]]
        case "Ternary":
            return [inside["predicate"], inside["truthy"], inside["falsy"]]
        case "Cast" | "RenameAlias":
            return [inside["expr"]]
        case "KeepName":
            return [inside]
    return []


def _declared(flags: str) -> bool:
    """Whether a user's function says that it is element-wise."""
    return set(flags.split(" | ")) >= _FLAGS


def _refusal(name: str, written: str) -> str:
    return f"{written} is not known to be element-wise: {_HINTS.get(name, _REMEDY)}"
