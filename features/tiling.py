"""Tiling: keeps the tiles of window groups up to date with the commits of their source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from features.capacity import Capacity
from features.compute import prepared
from features.decomposition import TILE
from features.feature_group import FeatureGroup
from features.feature_rows import CREATED, PLAN
from features.inputs import Input
from features.intervals import DAY, cut
from features.stores import OfflineStore, Plan, TileTable
from features.tiles import (
    KNOWN_FROM,
    TileLayout,
    changed_states,
    standing_states,
    states,
    tile_columns,
    tile_layout,
)
from features.times import EPOCH as BEGINNING
from features.times import UTC_US, from_micros, to_micros

_FOREVER = datetime(9999, 1, 1, tzinfo=UTC)  # tiles hold rows of the future too: boundaries do not reach them
_SAMPLED_TILES = 4


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

        That is tried on the newest tiles until the first were built (SEMANTICS.md §3).
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

        Each step is committed once; a killed run goes on where it stopped.
        """
        table, version = self.table(group, layout), plan.sources[item.name][1]
        if version is None or table.finished(plan.number):
            return
        start = _looked_at(layout, start)
        covered, cursor = table.covered(), table.cursor(item.name)
        for number, step in enumerate(self._steps(group, layout, item, version, start, covered, cursor)):
            if not table.took(plan.number, number):
                table.append(plan.number, number, self._rows(group, layout, table, item, plan, step))
        table.finish(plan.number, {item.name: version}, start if covered is None else min(start, covered))

    def rows(self, group: FeatureGroup, layout: TileLayout, start: datetime, end: datetime) -> pl.LazyFrame:
        """The tile table's rows of tiles that windows at boundaries in (start, end] look at."""
        first = _looked_at(layout, start)
        return self.table(group, layout).scan(first.date(), end.date()).filter(pl.col(TILE) >= first)

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
        start: datetime,
        covered: datetime | None,
        cursor: int | None,
    ) -> Iterator[Step]:
        """First what commits changed in tiles that are there, then tiles further back than these."""
        days, room = item.days(version), self._capacity.rows_of(group)
        width = timedelta(microseconds=layout.width)
        if covered is not None and cursor is not None and cursor < version:
            keys = group.keys if group.prepare is None else []
            changed = item.changes(cursor, version, [*keys, item.time])
            tile = (pl.col(item.time).dt.timestamp("us") // layout.width * layout.width).alias(TILE)
            tiles = changed.filter(pl.col(item.time) >= covered).select(*keys, tile).unique()
            for first, last in _runs(tiles[TILE].unique().sort(), layout.width):
                for low, high in cut(days, room, from_micros(first), from_micros(last) + width, width=width):
                    there = tiles.filter((pl.col(TILE) >= to_micros(low)) & (pl.col(TILE) < to_micros(high)))
                    if there.height:
                        yield Step(low, high, there.select(keys).unique() if keys else None)
        if covered is None or start < covered:
            dates = days["event_date"]
            if dates.is_empty():
                return
            newest, oldest = (datetime.combine(d, datetime.min.time(), UTC) for d in (dates[-1], dates[0]))
            begin = max(start, from_micros(to_micros(oldest) // layout.width * layout.width))
            for low, high in cut(days, room, begin, covered or newest + DAY, width=width):
                yield Step(low, high, None)

    def _rows(
        self, group: FeatureGroup, layout: TileLayout, table: TileTable, item: Input, plan: Plan, step: Step
    ) -> pl.DataFrame:
        """What a step appends: the states of its tiles that are new or differ from those that stand."""
        version = plan.sources[item.name][1]
        late = item.arrives_late
        raw = item.scan(version, _FOREVER, step.start, step.end, step.keys, superseded=late)
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
        return stamped.sort([*group.keys, TILE, KNOWN_FROM])


def commutes(group: FeatureGroup, layout: TileLayout, item: Input, version: int) -> bool:
    """Whether ``prepare`` makes the same of the newest tiles at once as of one after the other."""
    days = item.days(version)
    if days.is_empty():
        return True
    width = timedelta(microseconds=layout.width)
    newest = item.scan(version, _FOREVER, datetime.combine(days["event_date"][-1], datetime.min.time(), UTC))
    last = newest.select(pl.col(item.time).max()).collect().item()
    if last is None:
        return True
    end = from_micros(to_micros(last) // layout.width * layout.width) + width
    first = max(end - _SAMPLED_TILES * width, BEGINNING)
    raw = item.scan(version, _FOREVER, first, end).collect()
    whole = prepared(group, {item.name: raw.lazy()}).collect()
    tile = pl.col(item.time).dt.timestamp("us") // layout.width
    parts = [
        prepared(group, {item.name: part.lazy()}).collect()
        for part in raw.with_columns(tile.alias(TILE)).partition_by(TILE, include_key=False)
    ]
    joined = pl.concat(parts).select(whole.columns)
    order = [name for name, dtype in whole.schema.items() if not dtype.is_nested()]
    return whole.sort(order).equals(joined.sort(order))


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
