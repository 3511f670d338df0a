"""Tiles: partial aggregates of a window group, which its windows share and its runs keep.

A tile is the greatest span of which all windows and ``every`` are multiples. For each entity, tile and
boundary from which something new was known of the tile there is one row: the state of the whole tile as
known from then, until the next such row. (SEMANTICS.md §3 merges what each boundary added; a state says
the same and can also take something away, as a correction does.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import gcd, isqrt

import polars as pl

from features.compute import input_dtypes, prepared, raw_pieces, stored_schema, time_order
from features.decomposition import TILE, Decomposition, DtypeOf, Undecomposed, decompose
from features.entity import DataType
from features.errors import DefinitionError
from features.feature_group import Feature, FeatureGroup
from features.feature_rows import CREATED, PLAN
from features.fingerprint import captured, source_text
from features.inputs import ARRIVAL
from features.intervals import Interval
from features.source import Source
from features.stored_types import stored_dtype
from features.times import UTC_US, micros
from features.windows import (
    AT,
    KNOWN,
    REPLACED,
    Member,
    Placed,
    aggregated,
    boundary_after,
    boundary_from,
    emissions,
    of_nothing,
    placed,
)

KNOWN_FROM = "_known_from"
"""The boundary from which a tile's state is known (UTC)."""
ROWS = "_rows"
"""How many raw rows a state is made of; 0 where a correction took the last one away."""
FOLLOWS = "_follows"
"""Whether a state follows or replaces another one of the same tile."""

_ODD = "_odd"
_LONG = 16
"""From so many tiles on a window is long."""


@dataclass(frozen=True)
class TileLayout:
    """What the tiles of a group hold: their width, partial aggregates and what features make of them.

    ``width``, ``every`` and the ``longest`` window are in µs.
    ``name`` tells layouts apart: it changes with what tiles hold, not with what is made of it. Where
    windows are long there are ``wide`` tiles too, of so many µs.
    ``members`` are the features that decompose, ``columns`` the partial aggregates' stored types.
    """

    name: str
    width: int
    wide: int | None
    every: int
    longest: int
    partials: Mapping[str, pl.Expr]
    columns: Mapping[str, DataType]
    members: Sequence[Member]


@cache
def tile_layout(group: FeatureGroup) -> TileLayout | None:
    """The layout of a window group's tiles; None where no feature of it decomposes."""
    if group.grain != "window" or _unsplittable(group) is not None:
        return None
    frame = _no_rows(group)
    partials: dict[str, pl.Expr] = {}
    members = []
    for feature in group.features:
        try:
            parts = _decomposed(feature, frame)
        except Undecomposed:
            continue
        partials |= parts.partials
        span, nothing = micros(feature.window or ""), of_nothing(feature, frame)
        members.append(Member(feature.name, span, parts.merged, nothing, parts.combined))
    if not members:
        return None
    widths = [micros(f.window or "") for f in group.features]
    columns = _stored(frame, partials)
    every = micros(group.every or "")
    width, name = gcd(every, *widths), _named(group, gcd(every, *widths), partials)
    return TileLayout(name, width, _wide(width, max(widths)), every, max(widths), partials, columns, members)


def wide_layout(layout: TileLayout) -> TileLayout | None:
    """The layout of the wide tiles of a layout."""
    if layout.wide is None:
        return None
    return replace(layout, name=f"{layout.name}-{layout.wide // 1_000_000}s", width=layout.wide, wide=None)


def _wide(width: int, longest: int) -> int | None:
    """How wide the tiles in the middle of a long window are: a window then has about 2·√n pieces instead of n."""
    tiles = longest // width
    if tiles < _LONG:
        return None
    day = micros("1d")
    return day if day % width == 0 and width < day <= longest // 4 else width * isqrt(tiles)


def pieces_of_row(group: FeatureGroup) -> int:
    """At about how many boundaries a run of a group looks at one raw row, or at the tile that holds it."""
    if group.grain != "window":
        return 1
    layout, every = tile_layout(group), micros(group.every or "")
    whole = max(micros(f.window or "") for f in group.features) // every
    if layout is None or len(layout.members) < len(group.features) or layout.wide is None:
        return max(1, whole)
    # Half of the boundaries at each end of a window; few of them are an entity's, and what is there is small.
    return max(1, layout.wide // every // 8)


@cache
def undecomposed(group: FeatureGroup) -> dict[str, str]:
    """The features of a window group that read raw rows at every run, and why."""
    if group.grain != "window":
        return {}
    if (reason := _unsplittable(group)) is not None:
        return {f.name: reason for f in group.features}
    frame, reasons = _no_rows(group), {}
    for feature in group.features:
        try:
            _decomposed(feature, frame)
        except Undecomposed as error:
            reasons[feature.name] = str(error)
    return reasons


def states(group: FeatureGroup, layout: TileLayout, frame: pl.LazyFrame) -> pl.DataFrame:
    """Every state of the tiles that raw rows lie in: keys, TILE, KNOWN_FROM, ROWS, FOLLOWS and partials.

    ``frame`` has all prepared rows of these tiles, ARRIVAL and, where records may have been corrected
    since, SUPERSEDED.
    """
    tile = [*group.keys, TILE]
    whole = pl.all_horizontal(pl.col(k).is_not_null() for k in group.keys)
    pieces = raw_pieces(group, frame).filter(whole)
    pieces = pieces.with_columns((pl.col(AT) // layout.width * layout.width).alias(TILE))
    # A tile counts when it is over; before that a window looks at narrower ones.
    over = boundary_from(pl.col(TILE) + layout.width, layout.every)
    replaced = pl.when(pl.col(REPLACED).is_not_null()).then(pl.max_horizontal(REPLACED, over))
    pieces = pieces.with_columns(pl.max_horizontal(KNOWN, over).alias(KNOWN), replaced.alias(REPLACED))
    pieces = pieces.filter(pl.col(REPLACED).is_null() | (pl.col(REPLACED) > pl.col(KNOWN)))
    if any(word in expr.meta.serialize(format="json") for expr in layout.partials.values() for word in _ORDERED):
        pieces = pieces.sort(time_order(group, frame), nulls_last=True)
    values = [expr.alias(name) for name, expr in layout.partials.items()]
    odd = (pl.col(KNOWN).min() != pl.col(KNOWN).max()) | pl.col(REPLACED).is_not_null().any()
    found = pieces.group_by(tile).agg(*values, pl.len().alias(ROWS), pl.col(KNOWN).min(), odd.alias(_ODD)).collect()
    plain = found.filter(~pl.col(_ODD)).drop(_ODD).with_columns(pl.lit(False).alias(FOLLOWS))
    if plain.height < found.height:
        several = _successive(pieces, found.filter(_ODD).select(tile), tile, values)
        plain = pl.concat([plain, several.select(plain.columns).cast(plain.schema)])
    return _shaped(group, layout, plain)


_ORDERED = ('"First', '"Last')


def _successive(pieces: pl.LazyFrame, tiles: pl.DataFrame, tile: list[str], values: Sequence[pl.Expr]) -> pl.DataFrame:
    """The states of tiles of which more became known over time, one for each moment at which it did."""
    there = pieces.join(tiles.lazy(), on=tile, how="semi", maintain_order="left").collect().lazy()
    first = there.select(*tile, pl.col(KNOWN).alias("_moment"))
    later = there.select(*tile, pl.col(REPLACED).alias("_moment")).drop_nulls("_moment")
    moments = pl.concat([first, later]).unique()
    valid = (pl.col(KNOWN) <= pl.col("_moment")) & (pl.col(REPLACED).is_null() | (pl.col(REPLACED) > pl.col("_moment")))
    then = there.join(moments, on=tile, maintain_order="left").filter(valid)
    known = then.group_by([*tile, "_moment"]).agg(*values, pl.len().alias(ROWS))
    every = moments.join(known, on=[*tile, "_moment"], how="left").with_columns(pl.col(ROWS).fill_null(0))
    follows = (pl.col("_moment") > pl.col("_moment").min().over(tile)).alias(FOLLOWS)
    return every.with_columns(follows).rename({"_moment": KNOWN}).collect()


def _shaped(group: FeatureGroup, layout: TileLayout, found: pl.DataFrame) -> pl.DataFrame:
    """States in the types they are stored in."""
    schema = stored_schema(group)
    return found.select(
        *(pl.col(k).cast(schema[k]) for k in group.keys),
        pl.col(TILE).cast(UTC_US),
        pl.col(KNOWN).cast(UTC_US).alias(KNOWN_FROM),
        pl.col(ROWS).cast(pl.Int64),
        pl.col(FOLLOWS),
        *(pl.col(name).cast(dtype) for name, dtype in layout.columns.items()),
    )


def changed_states(group: FeatureGroup, layout: TileLayout, fresh: pl.DataFrame, old: pl.DataFrame) -> pl.DataFrame:
    """The states to append: new ones, those that differ from what stands, and empty ones for those gone."""
    tile, key = [*group.keys, TILE], [*group.keys, TILE, KNOWN_FROM]
    content = [ROWS, *layout.columns]
    if old.is_empty():
        return fresh
    stood = old.select(*key, *(pl.col(c).alias(f"{c}_old") for c in content))
    both = fresh.join(stood, on=key, how="left")
    # To the last bit: what differs little here may be all that a difference of two of them is.
    moved = pl.any_horizontal(pl.col(c).ne_missing(pl.col(f"{c}_old")) for c in content)
    both = both.filter(pl.col(f"{ROWS}_old").is_null() | moved)
    seen = both.join(old.select(tile).unique().with_columns(pl.lit(True).alias("_seen")), on=tile, how="left")
    follows = pl.col(FOLLOWS) | pl.col("_seen").fill_null(value=False)
    rows = seen.select(*key, *content, follows.alias(FOLLOWS))
    gone = old.filter(pl.col(ROWS) > 0).join(fresh, on=key, how="anti")
    empty = [pl.lit(None, dtype).alias(name) for name, dtype in layout.columns.items()]
    emptied = gone.select(*key, pl.lit(0, pl.Int64).alias(ROWS), *empty, pl.lit(True).alias(FOLLOWS))
    return pl.concat([rows, emptied])


def standing_states(rows: pl.LazyFrame, keys: Sequence[str]) -> pl.LazyFrame:
    """Of a tile table's rows the newest of each state."""
    return rows.sort(PLAN).unique(subset=[*keys, TILE, KNOWN_FROM], keep="last")


def tile_pieces(rows: pl.LazyFrame, keys: Sequence[str]) -> pl.LazyFrame:
    """A tile table's rows as pieces of windows (features.windows), each until its next state.

    Tiles of which one state alone was ever known, nearly all, are taken as they are.
    """
    tile = [*keys, TILE]
    followed = rows.filter(FOLLOWS).select(tile).unique().collect()
    once = rows.with_columns(pl.lit(None, UTC_US).alias(REPLACED))
    if not followed.is_empty():
        several = standing_states(rows.join(followed.lazy(), on=tile, how="semi"), keys).sort(KNOWN_FROM)
        several = several.with_columns(pl.col(KNOWN_FROM).shift(-1).over(tile).alias(REPLACED))
        once = pl.concat(
            [once.join(followed.lazy(), on=tile, how="anti"), several.select(once.collect_schema().names())]
        )
    numbers = {AT: TILE, KNOWN: KNOWN_FROM, REPLACED: REPLACED}
    pieces = once.with_columns(pl.col(column).dt.timestamp("us").alias(name) for name, column in numbers.items())
    return pieces.filter(pl.col(ROWS) > 0)


def from_tiles(
    group: FeatureGroup, layout: TileLayout, rows: pl.LazyFrame, wide: pl.LazyFrame | None, interval: Interval
) -> pl.DataFrame:
    """The members of the layout at each boundary of the interval at which an entity emits.

    ``rows`` are the tile table's from the longest window before the interval on, ``wide`` those of the
    wide tiles, if the layout has some. Columns: keys, event_timestamp, the members in their stored types.
    """
    schema, every = stored_schema(group), layout.every
    spans = sorted({micros(f.window or "") for f in group.features})
    needed = [*group.keys, TILE, KNOWN_FROM, ROWS, FOLLOWS, PLAN, *layout.columns]
    pieces = tile_pieces(rows.select(needed), group.keys)
    blocks = None if wide is None else tile_pieces(wide.select(needed), group.keys)

    def inside(span: int) -> list[Placed]:
        if blocks is None or layout.wide is None or span < layout.wide:
            return [placed(pieces, span, every)]
        return _with_blocks(pieces, blocks, span, layout.wide, every)

    moments = emissions(pieces, group.keys, spans, interval, every).collect(engine="streaming")
    found = aggregated(moments, group.keys, layout.members, inside, interval, every, block=layout.wide)
    return found.with_columns(pl.col(m.name).cast(schema[m.name]) for m in layout.members).collect(engine="streaming")


def _with_blocks(pieces: pl.LazyFrame, blocks: pl.LazyFrame, span: int, wide: int, every: int) -> list[Placed]:
    """Wide tiles where a window holds them whole, and narrow ones at its two ends."""
    block, end = pl.col(AT) // wide * wide, pl.col(AT) + wide
    near = placed(pieces, span, every)
    return [
        replace(near, last=pl.min_horizontal(near.last, boundary_from(block + wide, every) - every)),
        replace(near, first=boundary_after(block + span, every)),
        replace(placed(blocks, span, every), first=boundary_from(end, every)),
    ]


def tile_columns(group: FeatureGroup, layout: TileLayout) -> dict[str, DataType]:
    """The columns of a group's tile table."""
    schema = stored_schema(group)
    own: dict[str, DataType] = {TILE: UTC_US, KNOWN_FROM: UTC_US, ROWS: pl.Int64(), FOLLOWS: pl.Boolean()}
    own |= {CREATED: UTC_US, PLAN: pl.Int64()}
    return {**{k: schema[k] for k in group.keys}, **own, **layout.columns}


def _unsplittable(group: FeatureGroup) -> str | None:
    """Why none of a group's features can come from tiles; None if they may."""
    if len(group.inputs) > 1:
        return "the group has several inputs"
    if group.prepare_by:
        return "`prepare` looks across rows of other tiles (`prepare_by`)"
    origin = next(iter(group.inputs.values()))
    late = isinstance(origin, FeatureGroup) or origin.live_since is not None
    if group.prepare is not None and late:
        return "`prepare` must see late and corrected rows as they were known at each boundary"
    return None


def _no_rows(group: FeatureGroup) -> pl.LazyFrame:
    """The group's prepared rows, none of them."""
    frames = {n: pl.LazyFrame(schema={**input_dtypes(o), ARRIVAL: UTC_US}) for n, o in group.inputs.items()}
    return prepared(group, frames)


def _decomposed(feature: Feature, frame: pl.LazyFrame) -> Decomposition:
    """How a feature decomposes, tried over no rows; raises Undecomposed."""
    parts = decompose(feature.expr, _typed(frame))
    try:
        values = [expr.alias(name) for name, expr in parts.partials.items()]
        for dtype in frame.group_by(pl.lit(1).alias("_one")).agg(values).collect_schema().dtypes()[1:]:
            _refuse_lossy(dtype)
        _stored(frame, parts.partials)
    except (pl.exceptions.PolarsError, DefinitionError) as error:
        raise Undecomposed(str(error).splitlines()[0]) from error
    return parts


def _refuse_lossy(dtype: pl.DataType) -> None:
    """Refuse partials whose order, unit or zone would be lost in a table."""
    inner = dtype.inner if isinstance(dtype, pl.List) else dtype
    other = (isinstance(inner, pl.Datetime) and inner != UTC_US) or inner in (pl.Duration("ms"), pl.Duration("ns"))
    if other or inner.base_type() in (pl.Enum, pl.Categorical):
        raise Undecomposed(f"tables do not keep the order, unit or zone of {dtype}")


def _typed(frame: pl.LazyFrame) -> DtypeOf:
    return lambda expr: frame.select(expr).collect_schema().dtypes()[0]


def _stored(frame: pl.LazyFrame, partials: Mapping[str, pl.Expr]) -> dict[str, DataType]:
    values = [expr.alias(name) for name, expr in partials.items()]
    schema = frame.group_by(pl.lit(1).alias("_one")).agg(values).collect_schema()
    return {name: stored_dtype("tile", name, schema[name]) for name in partials}


def _named(group: FeatureGroup, width: int, partials: Mapping[str, pl.Expr]) -> str:
    """A name that changes with anything that decides what the tiles hold."""
    prepare = [source_text(group.prepare), *captured(group.prepare)] if group.prepare else []
    origins = [origin.name for origin in group.inputs.values()]
    late = [str(o.live_since) if isinstance(o, Source) else o.table_id for o in group.inputs.values()]
    facts = [sorted(partials), prepare, origins, late, group.keys, width, group.every, micros(group.delay)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
