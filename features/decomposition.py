"""How an aggregate falls into partial aggregates: one per tile, merged for each window.

An expression decomposes where every aggregate in it does and what is made of the aggregates is
element-wise. Variances merge as (n, mean, M2), since sums of squares lose all digits at 1e9 (Chan, Golub
& LeVeque, Algorithms for computing the sample variance, 1983, eq. 2.1).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import polars as pl

from features.aggregates import bucket_of, ewm_mean, slope
from features.elementwise import not_elementwise
from features.entity import DataType
from features.fingerprint import serialized

Tree = Any
"""An expression as Polars writes it in JSON: nested dicts, lists and plain values."""

DtypeOf = Callable[[pl.Expr], DataType]
"""The type that an expression has over the raw rows."""

TILE = "_tile"
"""The column with a tile's start, by which tiles are ordered."""

Merge = Callable[..., pl.Expr]
Combine = Callable[..., Sequence[pl.Expr]]


@dataclass(frozen=True)
class Parts:
    """How one aggregate decomposes.

    ``partials`` are aggregates over the raw rows of a tile, ``merge`` makes the aggregate from their columns
    over tiles, ``combine`` the partials of all these tiles together, each from the same columns. It is None
    where tiles must be told apart to the end, as the first of them.
    """

    partials: Sequence[pl.Expr]
    merge: Merge
    combine: Combine | None


@dataclass(frozen=True)
class Decomposition:
    """Partial aggregates by the name of their tile column, and the feature as an expression over those.

    All are evaluated within groups: ``partials`` over the raw rows of a tile in order of time,
    ``merged`` over the tiles of a window, ``combined`` over any tiles, of which it makes one; None where
    some aggregate cannot be made from such ones.
    """

    partials: Mapping[str, pl.Expr]
    merged: pl.Expr
    combined: Mapping[str, pl.Expr] | None


class Undecomposed(Exception):
    """Why an expression does not decompose; never leaves this package."""


def decompose(expr: pl.Expr, dtype_of: DtypeOf) -> Decomposition:
    """Take an aggregating expression apart; raises Undecomposed with the reason where that cannot be.

    >>> frame = pl.DataFrame({"tile": [1, 1, 2], "x": [1.0, 2.0, 6.0]})
    >>> parts = decompose(pl.col("x").mean(), lambda expr: frame.select(expr).dtypes[0])
    >>> tiles = frame.group_by("tile").agg(expr.alias(name) for name, expr in parts.partials.items())
    >>> tiles.select(parts.merged).item()
    3.0
    """
    found: list[Parts] = []
    outline = _outline(_tree(expr), found, dtype_of)
    if reason := not_elementwise(_expr(outline)):
        raise Undecomposed(reason)
    partials: dict[str, pl.Expr] = {}
    combined: dict[str, pl.Expr] = {}
    merged = []
    for parts in found:
        names = [_name(partial) for partial in parts.partials]
        columns = [pl.col(name) for name in names]
        partials |= dict(zip(names, parts.partials, strict=True))
        combined |= {} if parts.combine is None else dict(zip(names, parts.combine(*columns), strict=True))
        merged.append(_tree(parts.merge(*columns)))
    several = combined if all(parts.combine is not None for parts in found) else None
    return Decomposition(partials, _expr(_filled(outline, merged)), several)


def _outline(tree: Tree, found: list[Parts], dtype_of: DtypeOf) -> Tree:
    """The tree with a numbered column in place of each aggregate; those are added to ``found``."""
    if (parts := _parts(tree, dtype_of)) is not None:
        found.append(parts)
        return {"Column": _numbered(len(found) - 1)}
    if isinstance(tree, dict):
        if isinstance(tree.get("Column"), str):
            raise Undecomposed(f"it reads {tree['Column']!r} outside of an aggregate")
        return {key: _outline(value, found, dtype_of) for key, value in tree.items()}
    return [_outline(value, found, dtype_of) for value in tree] if isinstance(tree, list) else tree


def _filled(outline: Tree, merged: Sequence[Tree]) -> Tree:
    """The outline with the numbered columns replaced."""
    if isinstance(outline, dict):
        numbered = {_numbered(number): tree for number, tree in enumerate(merged)}
        column = outline.get("Column")
        if isinstance(column, str) and column in numbered:
            return numbered[column]
        return {key: _filled(value, merged) for key, value in outline.items()}
    return [_filled(value, merged) for value in outline] if isinstance(outline, list) else outline


def _parts(tree: Tree, dtype_of: DtypeOf) -> Parts | None:
    """How a node decomposes; None where it is no aggregate; Undecomposed where it does not."""
    if tree == "Len":
        return _same([pl.len()], lambda n: n.sum())
    if not isinstance(tree, dict):
        return None
    for pattern, parts in _patterns():
        bound: dict[str, Tree] = {}
        if _matches(pattern, tree, bound):
            return parts(*(_expr(bound[name]) for name in sorted(bound)))
    if isinstance(aggregate := tree.get("Agg"), dict):
        kind, content = next(iter(aggregate.items()))
        return _aggregate(kind, content, dtype_of)
    if isinstance(function := tree.get("Function"), dict):
        return _function(function["function"], function["input"])
    return None


def _aggregate(kind: str, content: Tree, dtype_of: DtypeOf) -> Parts:
    """How one of Polars' aggregates decomposes."""
    tree = content[0] if isinstance(content, list) else content
    tree = tree["input"] if isinstance(tree, dict) and "input" in tree else tree
    x = _separable(tree)
    match kind:
        case "Sum":
            return _same([_wide(x, dtype_of(x)).sum()], lambda s: s.sum())
        case "Count":
            return _same([_expr({"Agg": {kind: content}})], lambda n: n.sum())
        case "Min" | "Max":
            return _same([_expr({"Agg": {kind: content}})], _extreme(kind, content["propagate_nans"]))
        case "Mean":
            return _mean(_numeric(x, dtype_of(x)))
        case "Std" | "Var":
            var = _variance(_numeric(x, dtype_of(x)), content[1])
            return var if kind == "Var" else replace(var, merge=lambda n, mean, m2: var.merge(n, mean, m2).sqrt())
        case "First" | "Last":
            value = x.first() if kind == "First" else x.last()
            return Parts([x.len(), value], lambda n, value: _edge(kind, value, n > 0), None)
        case "FirstNonNull" | "LastNonNull":
            known = x.drop_nulls()
            value = known.first() if kind == "FirstNonNull" else known.last()
            edge = kind.removesuffix("NonNull")
            return Parts([value], lambda value: _edge(edge, value, value.is_not_null()), None)
        case "NUnique":
            values = [x.unique().sort().implode()]
            return Parts(values, lambda v: _members(v).n_unique(), lambda v: [_members(v).unique().sort().implode()])
    raise Undecomposed(f"{kind} does not decompose")


def _function(function: Tree, inputs: Sequence[Tree]) -> Parts | None:
    """How a function that aggregates decomposes; None where it does not aggregate."""
    match function:
        case "NullCount":
            return _same([_separable(inputs[0]).null_count()], lambda n: n.sum())
        case "Product":
            return _same([_separable(inputs[0]).product()], lambda p: p.product())
        case {"Boolean": {"Any": {"ignore_nulls": ignore}}}:
            return _same([_separable(inputs[0]).any(ignore_nulls=ignore)], lambda v: v.any(ignore_nulls=ignore))
        case {"Boolean": {"All": {"ignore_nulls": ignore}}}:
            return _same([_separable(inputs[0]).all(ignore_nulls=ignore)], lambda v: v.all(ignore_nulls=ignore))
        case {"Quantile": {"method": "Lower"}} if _is_bucket(inputs[0]):
            return _bucket_quantile(_separable(inputs[0]), _expr(inputs[1]))
        case {"Quantile": _}:
            raise Undecomposed("an exact quantile needs every value; aggregates.approx_quantile decomposes")
        case {"Correlation": {"method": {"Covariance": ddof}}}:
            return _covariance(_separable(inputs[0]), _separable(inputs[1]), ddof)
        case {"Correlation": _}:
            raise Undecomposed("a correlation needs every pair of values")
    return None


def _extreme(kind: str, propagate_nans: bool) -> Merge:
    if kind == "Min":
        return (lambda best: best.nan_min()) if propagate_nans else (lambda best: best.min())
    return (lambda best: best.nan_max()) if propagate_nans else (lambda best: best.max())


def _same(partials: Sequence[pl.Expr], merge: Merge) -> Parts:
    """An aggregate that is its own partial: of several together it is what it is of one."""
    return Parts(partials, merge, lambda *columns: [merge(*columns)])


def _members(lists: pl.Expr) -> pl.Expr:
    """What lists hold, all together."""
    return lists.filter(lists.list.len() > 0).explode()


def _mean(x: pl.Expr) -> Parts:
    def combine(n: pl.Expr, mean: pl.Expr) -> list[pl.Expr]:
        return [n.sum(), _weighted(n, mean)]

    return Parts([x.count(), x.mean()], _weighted, combine)


def _variance(x: pl.Expr, ddof: int) -> Parts:
    m2 = ((x - x.mean()) ** 2).sum()

    def combine(n: pl.Expr, mean: pl.Expr, m2: pl.Expr) -> list[pl.Expr]:
        return [n.sum(), _weighted(n, mean), _joint(n, mean, mean, m2)]

    def merge(n: pl.Expr, mean: pl.Expr, m2: pl.Expr) -> pl.Expr:
        return pl.when(n.sum() > ddof).then(_joint(n, mean, mean, m2) / (n.sum() - ddof))

    return Parts([x.count(), x.mean(), m2], merge, combine)


def _covariance(x: pl.Expr, y: pl.Expr, ddof: int) -> Parts:
    x, y = x.cast(pl.Float64), y.cast(pl.Float64)
    both = x.is_not_null() & y.is_not_null()
    x, y = x.filter(both), y.filter(both)

    def combine(n: pl.Expr, mx: pl.Expr, my: pl.Expr, c: pl.Expr) -> list[pl.Expr]:
        return [n.sum(), _weighted(n, mx), _weighted(n, my), _joint(n, mx, my, c)]

    def merge(n: pl.Expr, mx: pl.Expr, my: pl.Expr, c: pl.Expr) -> pl.Expr:
        return pl.when(n.sum() > ddof).then(_joint(n, mx, my, c) / (n.sum() - ddof))

    return Parts([x.len(), x.mean(), y.mean(), ((x - x.mean()) * (y - y.mean())).sum()], merge, combine)


def _slope(time: pl.Expr, value: pl.Expr) -> Parts:
    """Least squares from (n, start, mean time since then, mean value, Σdt·dy, Σdt²)."""
    known = value.is_not_null() & time.is_not_null()
    y, t = value.cast(pl.Float64).filter(known), time.filter(known)
    since = _seconds(t - t.min())
    dt = since - since.mean()

    def combine(
        n: pl.Expr, start: pl.Expr, since: pl.Expr, mean: pl.Expr, joint: pl.Expr, square: pl.Expr
    ) -> list[pl.Expr]:
        at = _seconds(start - start.min()) + since
        both, spread = _joint(n, at, mean, joint), _joint(n, at, at, square)
        return [n.sum(), start.min(), _weighted(n, at), _weighted(n, mean), both, spread]

    def merge(*columns: pl.Expr) -> pl.Expr:
        *_, joint, spread = combine(*columns)
        return pl.when(spread > 0).then(joint / spread)

    return Parts(
        [y.len(), t.min(), since.mean(), y.mean(), (dt * (y - y.mean())).sum(), (dt * dt).sum()], merge, combine
    )


def _ewm(rate: pl.Expr, time: pl.Expr, value: pl.Expr) -> Parts:
    """Weighted sums relative to a tile's newest value, brought down to the window's newest."""
    known = value.is_not_null() & time.is_not_null()
    y, t = value.cast(pl.Float64).filter(known), time.filter(known)
    weight = (_seconds(t.max() - t) * rate).exp()

    def combine(newest: pl.Expr, weighted: pl.Expr, total: pl.Expr) -> list[pl.Expr]:
        down = (_seconds(newest.max() - newest) * rate).exp()
        return [newest.max(), (weighted * down).sum(), (total * down).sum()]

    def merge(*columns: pl.Expr) -> pl.Expr:
        _, weighted, total = combine(*columns)
        return pl.when(total > 0).then(weighted / total)

    return Parts([t.max(), (y * weight).sum(), weight.sum()], merge, combine)


def _bucket_quantile(bucket: pl.Expr, q: pl.Expr) -> Parts:
    """The lower quantile of bucket numbers from how many values each tile has in each bucket."""
    runs = bucket.sort().rle()

    def merge(places: pl.Expr, counts: pl.Expr) -> pl.Expr:
        place, n = _members(places), _members(counts)
        rank = ((n.sum().cast(pl.Float64) - 1) * q).floor()
        return place.sort().filter(n.sort_by(place).cum_sum() > rank).first()

    def combine(places: pl.Expr, counts: pl.Expr) -> list[pl.Expr]:
        return [_members(places).implode(), _members(counts).implode()]

    return Parts([runs.struct.field("value").implode(), runs.struct.field("len").implode()], merge, combine)


def _edge(kind: str, value: pl.Expr, there: pl.Expr) -> pl.Expr:
    """The value of the first or last tile that has one."""
    ordered = value.filter(there).sort_by(pl.col(TILE).filter(there))
    return ordered.first() if kind == "First" else ordered.last()


def _weighted(n: pl.Expr, mean: pl.Expr) -> pl.Expr:
    """The mean of all rows from the numbers and means of parts; null for no rows."""
    return pl.when(n.sum() > 0).then((n * mean).sum() / n.sum())


def _joint(n: pl.Expr, mx: pl.Expr, my: pl.Expr, joint: pl.Expr) -> pl.Expr:
    """Σ(x-mean(x))·(y-mean(y)) of all rows from the numbers, means and such sums of parts."""
    return joint.sum() + (n * (mx - _weighted(n, mx)) * (my - _weighted(n, my))).sum()


def _seconds(span: pl.Expr) -> pl.Expr:
    return span.dt.total_microseconds() / 1_000_000


def _wide(x: pl.Expr, dtype: DataType) -> pl.Expr:
    """Sums of short floats lose digits that depend on how rows are cut into tiles."""
    if dtype == pl.Float32:
        return x.cast(pl.Float64)
    if dtype.is_numeric() or dtype in (pl.Boolean, pl.Duration):
        return x
    raise Undecomposed(f"a sum of {dtype} does not decompose")


def _numeric(x: pl.Expr, dtype: DataType) -> pl.Expr:
    if not (dtype.is_numeric() or dtype == pl.Boolean):
        raise Undecomposed(f"a mean of {dtype} does not decompose")
    return x.cast(pl.Float64)


def _separable(tree: Tree) -> pl.Expr:
    """An aggregate's input: element-wise over rows, of which a filter may keep some."""
    inner = tree
    if isinstance(tree, dict) and isinstance(kept := tree.get("Filter"), dict):
        inner = kept["input"]
        if reason := not_elementwise(_expr(kept["by"])):
            raise Undecomposed(reason)
    elif isinstance(tree, dict) and isinstance(call := tree.get("Function"), dict) and call["function"] == "DropNulls":
        inner = call["input"][0]
    if reason := not_elementwise(_expr(inner)):
        raise Undecomposed(reason)
    if not _expr(inner).meta.root_names():
        raise Undecomposed("an aggregate of a literal does not look at rows")
    return _expr(tree)


def _is_bucket(tree: Tree) -> bool:
    """Whether a tree has the shape of what aggregates.approx_quantile has a quantile of, for any value and accuracy."""
    return _matches(_bucket_pattern(), tree, {}, any_literal=True)


@cache
def _bucket_pattern() -> Tree:
    return _tree(bucket_of(pl.col("@x"), 0.01).drop_nulls())


@cache
def _patterns() -> Sequence[tuple[Tree, Callable[..., Parts]]]:
    """Shapes that only decompose as a whole; their bound parts come in alphabetical order."""
    x, t = pl.col("@x"), pl.col("@t")
    rate = json.dumps(_tree(pl.lit(-math.log(2) / 86_400)))
    weighted = json.dumps(_tree(ewm_mean(x, t, "1d"))).replace(rate, json.dumps({"Column": "@rate"}))
    return [(json.loads(weighted), _ewm), (_tree(slope(x, t)), _slope)]


def _matches(pattern: Tree, tree: Tree, bound: dict[str, Tree], *, any_literal: bool = False) -> bool:
    """Whether a tree is the pattern with its "@" columns replaced, each by the same subtree throughout."""
    if isinstance(pattern, dict):
        name = pattern.get("Column")
        if isinstance(name, str) and name.startswith("@"):
            return bool(bound.setdefault(name, tree) == tree)
        if any_literal and "Literal" in pattern and isinstance(tree, dict) and "Literal" in tree:
            return True
        same = isinstance(tree, dict) and pattern.keys() == tree.keys()
        return same and all(_matches(pattern[k], tree[k], bound, any_literal=any_literal) for k in pattern)
    if isinstance(pattern, list):
        same = isinstance(tree, list) and len(pattern) == len(tree)
        return same and all(_matches(p, t, bound, any_literal=any_literal) for p, t in zip(pattern, tree, strict=True))
    return bool(pattern == tree)


def _numbered(number: int) -> str:
    return f"@{number}"


def _name(partial: pl.Expr) -> str:
    """A tile column's name: what the partial says, so that features share it and changes part ways."""
    return "p_" + hashlib.sha256(serialized(partial).encode()).hexdigest()[:16]


def _tree(expr: pl.Expr) -> Tree:
    return json.loads(expr.meta.serialize(format="json"))


def _expr(tree: Tree) -> pl.Expr:
    try:
        return pl.Expr.deserialize(json.dumps(tree).encode(), format="json")
    except pl.exceptions.ComputeError as error:  # inf and nan have no JSON
        raise Undecomposed(
            "it holds a literal (inf, nan) that cannot be taken apart: write pl.lit('inf').cast(...)"
        ) from error
