"""Windows: at each boundary b, aggregates over the pieces in [b - window, b) that were known by then.

A piece is a raw row or a tile. It counts at boundary b from the one at which it was known until the one
at which something newer took its place: late rows and corrections change later boundaries, never ones
already served (SEMANTICS.md §3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

import polars as pl

from features.feature_group import Feature
from features.feature_rows import EVENT
from features.intervals import Interval
from features.times import UTC_US

AT = "_at"
"""When a piece happened, or where its tile begins (UTC µs as Int64)."""
KNOWN = "_known"
"""The first boundary at which a piece counts (µs)."""
REPLACED = "_replaced"
"""The boundary from which a piece counts no more since another took its place (µs); null for never."""

_BOUNDARY = "_boundary"
_ASKED = "_asked"
_BLOCK = "_block"
_FIRST, _LAST = "_first", "_last"
_PRESENT = "_present"

_Moment = TypeVar("_Moment", int, pl.Expr)


@dataclass(frozen=True)
class Member:
    """One feature of a window: its span in µs, its expression over pieces and its value over none.

    ``combined`` says what ``expr`` reads of several pieces that become one; None where they cannot.
    """

    name: str
    span: int
    expr: pl.Expr
    nothing: Any
    combined: Mapping[str, pl.Expr] | None = None


def of_nothing(feature: Feature, frame: pl.LazyFrame) -> Any:
    """What a feature is over no rows: 0 for counts and sums, null where there is no such value (0/0 is none)."""
    values = pl.DataFrame(schema=frame.collect_schema()).select(feature.expr.alias(feature.name)).to_series()
    value = values[0] if len(values) else None
    return None if isinstance(value, float) and math.isnan(value) else value


def boundary_after(moment: pl.Expr, every: int) -> pl.Expr:
    """The first boundary later than a moment (µs)."""
    return (moment // every + 1) * every


def boundary_from(moment: pl.Expr, every: int) -> pl.Expr:
    """The first boundary at or after a moment (µs)."""
    return -((-moment) // every) * every


@dataclass(frozen=True)
class Placed:
    """Pieces and the boundaries, from ``first`` to ``last`` (µs), at which a window holds each of them."""

    pieces: pl.LazyFrame
    first: pl.Expr
    last: pl.Expr


def placed(pieces: pl.LazyFrame, span: int, every: int) -> Placed:
    """Where pieces lie in windows of a span: from when they are known until the window has passed them."""
    return Placed(pieces, pl.col(KNOWN), (pl.col(AT) + span) // every * every)


def aggregated(
    moments: pl.DataFrame,
    keys: Sequence[str],
    members: Sequence[Member],
    inside: Callable[[int], Sequence[Placed]],
    interval: Interval,
    every: int,
    order: Sequence[str] = (),
    block: int | None = None,
) -> pl.LazyFrame:
    """The features of each entity at the moments at which it emits (see ``emissions``).

    ``inside`` gives the pieces in windows of a span: the keys, AT, KNOWN, REPLACED and what the members'
    expressions read, which see them in the ``order`` of these columns, if any. Boundaries are worked on
    in blocks of ``block`` µs: the pieces that windows hold throughout one are combined once. The result
    has the keys, event_timestamp and the members.
    """
    low, high = interval.boundaries(every)
    rows = due = moments.with_row_index(_ASKED).lazy()

    def alike(member: Member) -> tuple[int, bool]:
        return member.span, member.combined is None

    for (span, apart), group in groupby(sorted(members, key=alike), alike):
        chosen = list(group)
        combined = None if apart else {name: expr for m in chosen for name, expr in (m.combined or {}).items()}
        blocks = _Blocks(low, high, every, block or every * math.isqrt(max(span // every, 1)))
        pieces = blocks.join(inside(span), due, keys, combined)
        pieces = pieces.sort(order, nulls_last=True) if order else pieces
        # The number of a moment takes half the time; but grouped by one integer, Polars 2.1 makes 0 of some
        # variances of nulls, and what is not combined may be any expression.
        moment = [*keys, _BOUNDARY] if apart else [_ASKED]
        found = pieces.group_by(moment).agg(m.expr.alias(m.name) for m in chosen)
        rows = rows.join(found.with_columns(pl.lit(True).alias(_PRESENT)), on=moment, how="left")
        filled = [
            pl.when(_PRESENT).then(pl.col(m.name)).otherwise(pl.lit(m.nothing)).alias(m.name)
            for m in chosen
            if m.nothing is not None
        ]
        rows = rows.with_columns(filled).drop(_PRESENT)
    return rows.with_columns(pl.col(_BOUNDARY).cast(UTC_US).alias(EVENT)).drop(_ASKED, _BOUNDARY)


@dataclass(frozen=True)
class _Blocks:
    """The boundaries from ``low`` to ``high``, one each ``every``, in blocks of ``width`` (µs).

    Block n has those in (n·width, (n+1)·width], so that a day's boundaries are the ones after it began.
    """

    low: int
    high: int
    every: int
    width: int

    def join(
        self, parts: Sequence[Placed], due: pl.LazyFrame, keys: Sequence[str], combined: Mapping[str, pl.Expr] | None
    ) -> pl.LazyFrame:
        """Each piece once for every moment of its entity at which a window holds it, combined ones as one.

        ``due`` are the moments: the keys, their boundary and number.
        """
        there = [self._there(part) for part in parts]
        if self.low == self.high:
            found = pl.concat(there).join(due, on=keys)
            return found if combined is None else found.select(_ASKED, *combined)
        on, begin, end = list(keys), pl.lit(self.low), pl.lit(self.high)
        if self._of(self.low) < self._of(self.high):
            blocks = pl.int_ranges(self._of(pl.col(_FIRST)), self._of(pl.col(_LAST)) + 1)
            there, on = [p.with_columns(blocks.alias(_BLOCK)).explode(_BLOCK) for p in there], [*keys, _BLOCK]
            due = due.with_columns(self._of(pl.col(_BOUNDARY)).alias(_BLOCK))
            begin = pl.max_horizontal(pl.col(_BLOCK) * self.width + self.every, begin)
            end = pl.min_horizontal((pl.col(_BLOCK) + 1) * self.width, end)
        held = pl.col(_BOUNDARY).is_between(_FIRST, _LAST)
        if combined is None:
            return pl.concat(there).join(due, on=on).filter(held)
        throughout = (pl.col(_FIRST) <= begin) & (pl.col(_LAST) >= end)
        columns, schema = [_ASKED, *combined], there[0].collect_schema()
        exprs = [e.cast(schema[n]).alias(n) for n, e in combined.items()]
        ones = pl.concat(p.filter(throughout).group_by(on).agg(exprs) for p in there)
        others = pl.concat(p.filter(~throughout).select(*on, _FIRST, _LAST, *combined) for p in there)
        return pl.concat([ones.join(due, on=on).select(columns), others.join(due, on=on).filter(held).select(columns)])

    def _there(self, part: Placed) -> pl.LazyFrame:
        """The pieces that windows hold at some of the boundaries, with the first and last of these."""
        first = pl.max_horizontal(part.first, KNOWN, pl.lit(self.low))
        last = pl.min_horizontal(part.last, pl.col(REPLACED) - self.every, pl.lit(self.high))
        pieces = part.pieces.with_columns(first.alias(_FIRST), last.alias(_LAST))
        return pieces.filter(pl.col(_FIRST) <= pl.col(_LAST))

    def _of(self, boundary: _Moment) -> _Moment:
        return (boundary - self.every) // self.width


def emissions(
    pieces: pl.LazyFrame, keys: Sequence[str], spans: Sequence[int], interval: Interval, every: int
) -> pl.LazyFrame:
    """The boundaries of an interval at which a piece of an entity enters a window, leaves one or is replaced.

    ``spans`` are all windows of the group: they decide together when an entity emits.
    """
    low, high = interval.boundaries(every)
    at, known, replaced = pl.col(AT), pl.col(KNOWN), pl.col(REPLACED)
    stays = at + max(spans)
    whole = pl.all_horizontal(pl.col(k).is_not_null() for k in keys)
    pieces = pieces.filter(whole & (known <= high) & (stays + every >= low))

    def moments(boundary: pl.Expr, there: pl.Expr) -> pl.LazyFrame:
        inside = (boundary >= low) & (boundary <= high)
        return pieces.filter(there & inside).select(*keys, boundary.alias(_BOUNDARY))

    changes = [moments(known, known <= stays), moments(replaced, replaced <= stays)]
    for span in spans:
        left = boundary_after(at + span, every)
        changes.append(moments(left, (known <= at + span) & (replaced.is_null() | (replaced >= left))))
    return pl.concat(changes).unique()
