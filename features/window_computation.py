"""Computation of window groups: from tiles where features decompose, from raw rows where they do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import polars as pl

from features.compute import compute, translated
from features.feature_group import FeatureGroup
from features.feature_rows import EVENT
from features.inputs import ARRIVAL, Input
from features.intervals import Interval
from features.stores import Plan
from features.tiles import TileLayout, from_tiles
from features.tiling import Tiling
from features.times import EPOCH as BEGINNING
from features.times import duration, micros


@dataclass(frozen=True)
class Computed:
    """The rows computed for an interval and the scope they cover (None: all)."""

    rows: pl.DataFrame
    scope: pl.DataFrame | None


RowsOf = Callable[[Interval], Computed | None]
"""What a run computes for an interval; None where nothing can have changed."""


class WindowComputation:
    """The rows that runs of a window group have in an interval."""

    def __init__(self, tiling: Tiling) -> None:
        self._tiling = tiling

    def start(self, group: FeatureGroup, inputs: Mapping[str, Input], plan: Plan, *, keep_tiles: bool) -> RowsOf:
        """Get ready for a plan: bring the tiles up to date, find the entities whose past rows may change.

        Without ``keep_tiles`` nothing is written: all comes from raw rows.
        """
        item, start = next(iter(inputs.values())), plan.chunks[0][0]
        layout = self._tiling.layout(group, item, plan.sources[item.name][1]) if keep_tiles else None
        late: pl.DataFrame | None = None
        if layout is not None:
            self._tiling.bring(group, layout, item, plan, start)
        if plan.kind == "incremental" and plan.previous is not None and start < plan.previous:
            late = self._late(group, layout, item, plan)
        return partial(self._rows, group, layout, inputs, plan, late)

    def _late(self, group: FeatureGroup, layout: TileLayout | None, item: Input, plan: Plan) -> pl.DataFrame | None:
        """The entities whose rows up to the last incremental run may change; None where that cannot be told."""
        touched = None if layout is None else self._tiling.touched(group, layout, plan, plan.chunks[0][0])
        if layout is not None and len(layout.members) == len(group.features):
            return touched
        # What reads raw rows may change where no tile does.
        after, version = plan.sources[item.name]
        if group.prepare is not None or after is None:
            return None
        changed = item.changes(after, version, group.keys)
        return changed if touched is None else pl.concat([changed, touched], how="vertical_relaxed").unique()

    def _rows(
        self,
        group: FeatureGroup,
        layout: TileLayout | None,
        inputs: Mapping[str, Input],
        plan: Plan,
        late: pl.DataFrame | None,
        interval: Interval,
    ) -> Computed | None:
        """The rows of one interval; None where no entity can have any that changed."""
        past = plan.previous is not None and interval.end <= plan.previous
        scope = late if past else None
        if scope is not None and scope.is_empty():
            return None
        tiled = [] if layout is None else [m.name for m in layout.members]
        raw = [name for name in group.feature_names if name not in tiled]
        rows = None
        if layout is not None:
            end = min(interval.end, interval.cutoff)
            tiles = self._tiling.rows(group, layout, interval.start, end)
            wide = self._tiling.wide_rows(group, layout, interval.start, end)
            if scope is not None:
                tiles = tiles.join(scope.lazy(), on=group.keys, how="semi")
                wide = None if wide is None else wide.join(scope.lazy(), on=group.keys, how="semi")
            with translated(group):
                rows = from_tiles(group, layout, tiles, wide, interval)
        if raw:
            frames = self._frames(group, inputs, plan, interval, scope)
            found = compute(group, frames, interval, only=raw).drop(ARRIVAL)
            rows = found if rows is None else rows.join(found, on=[*group.keys, EVENT], how="left")
        assert rows is not None  # a group has features
        known = rows.with_columns(pl.col(EVENT).alias(ARRIVAL))
        return Computed(known.select(*group.keys, EVENT, *group.feature_names, ARRIVAL), scope)

    def _frames(
        self,
        group: FeatureGroup,
        inputs: Mapping[str, Input],
        plan: Plan,
        interval: Interval,
        scope: pl.DataFrame | None,
    ) -> dict[str, pl.LazyFrame]:
        """The raw rows that windows at the interval's boundaries look at, key groups whole."""
        longest = max(micros(f.window or "") for f in group.features)
        start = max(BEGINNING, interval.start - timedelta(microseconds=longest) - duration(group.every or "0s"))

        frames = {}
        for name, item in inputs.items():
            version, late = plan.sources[name][1], item.arrives_late
            within = scope if group.prepare is None else None
            frames[name] = item.scan(version, plan.stamp, start, interval.end, within, superseded=late)
        if not group.prepare_by:
            return frames
        by = list(group.prepare_by)
        whole = pl.concat([f.select(by) for f in frames.values()], how="vertical_relaxed").unique().collect()
        return {
            name: item.scan(plan.sources[name][1], plan.stamp, scope=whole, superseded=item.arrives_late)
            for name, item in inputs.items()
        }
