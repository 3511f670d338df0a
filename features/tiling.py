"""Tiling: keeps the tiles of window groups up to date with the commits of their source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from features.capacity import Capacity
from features.compute import prepared, translated
from features.decomposition import TILE
from features.feature_group import FeatureGroup
from features.feature_rows import CREATED, PLAN
from features.frames import by_key_and_time
from features.inputs import Input
from features.intervals import DAY, cut
from features.source import EVENT_DATE
from features.stores import OfflineStore, Plan, TileTable
from features.tiles import (
    KNOWN_FROM,
    TileLayout,
    changed_states,
    standing_states,
    states,
    tile_columns,
    tile_layout,
    wide_layout,
)
from features.times import TICK, UTC_US, from_micros, micros, to_micros

_FOREVER = datetime(9999, 1, 1, tzinfo=UTC)  # tiles hold rows of the future too: boundaries do not reach them
_NEWEST, _OLDEST = 4, 2  # tiles with rows on which `prepare` is tried

ROOM = "room"
"""A plan's detail: how many rows its steps and chunks were cut for."""


@dataclass(frozen=True)
class Step:
    """One piece of the work: the tiles that begin in [start, end), of some entities or of all."""

    start: datetime
    end: datetime
    keys: pl.DataFrame | None


class Tiling:
    """The tiles of groups: where they can be used, and how runs bring them up to date."""

    def __init__(self, store: OfflineStore, capacity: Capacity) -> None:
        self._store = store
        self._capacity = capacity

    def layout(self, group: FeatureGroup, item: Input, version: int | None) -> TileLayout | None:
        """The layout if the group's tiles can be used: ``prepare`` must commute with cutting by tile.

        That is tried on a sample of tiles at every run until the first were built (SEMANTICS.md §3).
        """
        layout = tile_layout(group)
        if layout is None or version is None:
            return None
        if group.prepare is not None and self.table(group, layout).covered() is None:
            return layout if commutes(group, layout, item, version) else None
        return layout

    def table(self, group: FeatureGroup, layout: TileLayout) -> TileTable:
        """The table of a group's tiles in a layout."""
        return self._store.tile_table(group.table_id, layout.name, tile_columns(group, layout))

    def bring(self, group: FeatureGroup, layout: TileLayout, item: Input, plan: Plan, start: datetime) -> None:
        """Take in the commits that a plan reads, and cover all that windows from ``start`` on look back at.

        Each step is committed once; a killed run goes on where it stopped. Wide tiles are built when they
        are over.
        """
        self._bring(group, layout, item, plan, start, _FOREVER)
        if (wide := wide_layout(layout)) is not None:
            over = from_micros(to_micros(plan.stamp) // wide.width * wide.width)
            self._bring(group, wide, item, plan, start, over)

    def _bring(
        self, group: FeatureGroup, layout: TileLayout, item: Input, plan: Plan, start: datetime, end: datetime
    ) -> None:
        table, version = self.table(group, layout), plan.sources[item.name][1]
        if version is None or table.finished(plan.number):
            return
        # As it was when the plan was opened: steps go by number, and a killed run may go on with other settings.
        room = plan.details.get(ROOM, self._capacity.rows_of(group))
        covered = table.covered()
        start = min(_looked_at(layout, start), end)
        wanted = (start, end) if covered is None else (min(start, covered[0]), max(end, covered[1]))
        for number, step in enumerate(self._steps(group, layout, item, version, wanted, table, room)):
            if not table.took(plan.number, number):
                table.append(plan.number, number, self._rows(group, layout, table, item, plan, step))
        table.finish(plan.number, {item.name: version}, wanted)

    def rows(self, group: FeatureGroup, layout: TileLayout, start: datetime, end: datetime) -> pl.LazyFrame:
        """The tile table's rows that matter to windows at boundaries in (start, end].

        Where wide tiles stand for the middle of windows, these are the tiles at both ends of each window,
        and those of which something became known late.
        """
        table, first = self.table(group, layout), _looked_at(layout, start)
        whole = table.scan(first.date(), end.date()).filter(pl.col(TILE) >= first)
        if layout.wide is None:
            return whole
        ends = _ends(layout, {micros(f.window or "") for f in group.features}, start, end)
        parts = [table.scan(low.date(), (high - TICK).date()).filter(_within(low, high)) for low, high in ends]
        middle = whole.filter(~pl.any_horizontal(_within(low, high) for low, high in ends))
        middle = middle.filter(pl.col(KNOWN_FROM) > start)
        late = middle.select(*group.keys, TILE).unique().collect()
        if late.height:
            oldest, newest = late.select(pl.col(TILE).min().alias("oldest"), pl.col(TILE).max()).row(0)
            parts.append(table.scan(oldest.date(), newest.date()).join(late.lazy(), on=[*group.keys, TILE], how="semi"))
        return pl.concat(parts)

    def wide_rows(self, group: FeatureGroup, layout: TileLayout, start: datetime, end: datetime) -> pl.LazyFrame | None:
        """The same of the wide tiles; None where the layout has none."""
        wide, first = wide_layout(layout), _looked_at(layout, start)
        if wide is None:
            return None
        return self.table(group, wide).scan(first.date(), end.date()).filter(pl.col(TILE) >= first)

    def touched(self, group: FeatureGroup, layout: TileLayout, plan: Plan, start: datetime) -> pl.DataFrame:
        """The entities of which something known by the last incremental run was found different since."""
        rows = self.rows(group, layout, start, plan.stamp)
        late = (pl.col(CREATED) > plan.previous) & (pl.col(KNOWN_FROM) <= plan.previous)
        return rows.filter(late).select(group.keys).unique().collect()

    def _steps(
        self,
        group: FeatureGroup,
        layout: TileLayout,
        item: Input,
        version: int,
        wanted: tuple[datetime, datetime],
        table: TileTable,
        room: int,
    ) -> Iterator[Step]:
        """First what commits changed in tiles that are there, then tiles before and after these."""
        days = item.days(version)
        width, covered = timedelta(microseconds=layout.width), table.covered()
        if covered is not None:
            yield from self._changed(group, layout, item, version, covered, table, room)
        if days.is_empty():
            return
        newest, oldest = (
            datetime.combine(d, datetime.min.time(), UTC) for d in (days["event_date"][-1], days["event_date"][0])
        )
        first = max(wanted[0], from_micros(to_micros(oldest) // layout.width * layout.width))
        last = min(wanted[1], newest + DAY + width)
        gaps = [(first, last)] if covered is None else [(first, min(covered[0], last)), (max(covered[1], first), last)]
        for start, end in gaps:
            if start < end:
                for low, high in cut(days, room, start, end, width=width):
                    yield Step(low, high, None)

    def _changed(
        self,
        group: FeatureGroup,
        layout: TileLayout,
        item: Input,
        version: int,
        covered: tuple[datetime, datetime],
        table: TileTable,
        room: int,
    ) -> Iterator[Step]:
        """The tiles, among those that are there, in which new commits have rows."""
        cursor = table.cursor(item.name)
        if cursor is None or cursor >= version:
            return
        days, width = item.days(version), timedelta(microseconds=layout.width)
        keys = group.keys if group.prepare is None else []
        changed = item.changes(cursor, version, [*keys, item.time])
        there = (pl.col(item.time) >= covered[0]) & (pl.col(item.time) < covered[1])
        tile = (pl.col(item.time).dt.timestamp("us") // layout.width * layout.width).alias(TILE)
        tiles = changed.filter(there).select(*keys, tile).unique()
        for first, last in _runs(tiles[TILE].unique().sort(), layout.width):
            for low, high in cut(days, room, from_micros(first), from_micros(last) + width, width=width):
                mine = tiles.filter((pl.col(TILE) >= to_micros(low)) & (pl.col(TILE) < to_micros(high)))
                if mine.height:
                    yield Step(low, high, mine.select(keys).unique() if keys else None)

    def _rows(
        self, group: FeatureGroup, layout: TileLayout, table: TileTable, item: Input, plan: Plan, step: Step
    ) -> pl.DataFrame:
        """What a step appends: the states of its tiles that are new or differ from those that stand."""
        version = plan.sources[item.name][1]
        late = item.arrives_late
        raw = item.scan(version, _FOREVER, step.start, step.end, step.keys, superseded=late)
        with translated(group):
            fresh = states(group, layout, prepared(group, {item.name: raw}))
        inside = (pl.col(TILE) >= step.start) & (pl.col(TILE) < step.end)
        old = table.scan(step.start.date(), step.end.date()).filter(inside)
        if step.keys is not None:
            names = dict(zip(step.keys.columns, group.keys, strict=True))
            same = step.keys.rename(names).cast({k: fresh.schema[k] for k in group.keys})
            old = old.join(same.lazy(), on=group.keys, how="semi")
        rows = changed_states(group, layout, fresh, standing_states(old, group.keys).collect())
        stamped = rows.with_columns(
            pl.lit(plan.stamp, UTC_US).alias(CREATED), pl.lit(plan.number, pl.Int64).alias(PLAN)
        )
        return by_key_and_time(stamped, group.keys, TILE)


def commutes(group: FeatureGroup, layout: TileLayout, item: Input, version: int) -> bool:
    """Whether ``prepare`` makes the same of the newest and the oldest tiles at once as of one after the other.

    Tiles without rows prove nothing, nor does a single one: False while there are no two.
    """
    newest = _occupied(layout, item, version, _NEWEST, backward=True)
    oldest = _occupied(layout, item, version, _OLDEST, backward=False)
    tiles = sorted({*newest, *oldest})
    if len(tiles) < 2:
        return False
    width = timedelta(microseconds=layout.width)
    parts = [item.scan(version, _FOREVER, start, start + width).collect() for start in map(from_micros, tiles)]
    with translated(group):
        whole = prepared(group, {item.name: pl.concat(parts).lazy()}).collect()
        each = [prepared(group, {item.name: part.lazy()}).collect() for part in parts]
    order = [name for name, dtype in whole.schema.items() if not dtype.is_nested()]
    return whole.sort(order).equals(pl.concat(each).select(whole.columns).sort(order))


def _occupied(layout: TileLayout, item: Input, version: int, wanted: int, *, backward: bool) -> list[int]:
    """Where the newest or the oldest tiles with rows begin, in µs: as many as wanted, or all there are."""
    width = max(layout.width, micros("1d"))
    midnight = pl.col(EVENT_DATE).cast(pl.Datetime("us")).to_physical()
    spans = pl.concat_list(midnight // width, (midnight + micros("1d") - 1) // width).explode()
    numbers = item.days(version).filter(pl.col("rows") > 0).select(spans.unique().sort(descending=backward))
    tile = pl.col(item.time).dt.timestamp("us") // layout.width * layout.width
    found: list[int] = []
    for number in numbers.to_series():
        rows = item.scan(version, _FOREVER, from_micros(number * width), from_micros((number + 1) * width))
        there = rows.select(tile.unique().sort(descending=backward)).collect().to_series()
        found = list(dict.fromkeys([*found, *there]))  # a tile may lie over two dates
        if len(found) >= wanted:
            break
    return found[:wanted]


def _within(start: datetime, end: datetime) -> pl.Expr:
    return (pl.col(TILE) >= start) & (pl.col(TILE) < end)


def _ends(layout: TileLayout, spans: set[int], start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """Where tiles begin that enter or leave windows at boundaries in (start, end], or lie there in a wide one.

    At a boundary b these are the tiles of the wide one in which b lies and, for a window as long as a wide tile,
    those of the one in which b - span lies.
    """
    every, wide = layout.every, layout.wide or 0
    before, last = to_micros(start) // every * every, to_micros(end)  # the last boundary before the interval
    short = max((span for span in spans if span < wide), default=0)
    ranges = [(min((before + every) // wide * wide, before - short), last)]
    ranges += [(before - span, -(-(last - span) // wide) * wide) for span in spans if span >= wide]
    merged: list[tuple[int, int]] = []
    for first, last in sorted((max(first, 0), max(last, 0)) for first, last in ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return [(from_micros(first), from_micros(last)) for first, last in merged]


def _looked_at(layout: TileLayout, start: datetime) -> datetime:
    """Where the oldest tile begins that is in a window at the first boundary after ``start``, or just left one."""
    return from_micros(max(to_micros(start) - layout.longest - layout.every, 0) // layout.width * layout.width)


def _runs(tiles: pl.Series, width: int) -> list[tuple[int, int]]:
    """Tiles that follow each other within a day, as (first, last)."""
    runs: list[tuple[int, int]] = []
    for tile in tiles:
        if runs and tile - runs[-1][1] <= max(width, 86_400_000_000):
            runs[-1] = (runs[-1][0], tile)
        else:
            runs.append((tile, tile))
    return runs
