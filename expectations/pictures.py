"""What a column's drift looks like: two histograms, quantiles, and a month of daily means, as aggregates.

Small enough to store and to draw; never raw rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl

from expectations.baseline import ColumnBaseline, finite_sorted
from expectations.comparison import ColumnData, aligned, daily_counts, left_out, ratio
from expectations.statistics import Counts, Floats, cramers_v

FEWEST_BARS, MOST_BARS = 12, 40
TOP_CATEGORIES = 12
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Picture:
    """One column, its baseline beside today.

    ``edges`` bound the bars of a numeric column (one more than there are bars; the outermost bars
    also hold what lies beyond), ``labels`` name those of another. ``baseline`` and ``current`` are
    shares of the present values per bar, ``quantiles_*`` at ``QUANTILES``. ``days`` and ``means`` are
    the baseline's daily means, None on a day without values; a category has none.
    """

    edges: tuple[float, ...]
    labels: tuple[str, ...]
    baseline: tuple[float, ...]
    current: tuple[float, ...]
    days: tuple[date, ...]
    means: tuple[float | None, ...]
    today: float | None
    quantiles_baseline: tuple[float, ...] = ()
    quantiles_current: tuple[float, ...] = ()
    new: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()


def picture(data: ColumnData) -> Picture:
    """The picture of a column; raises InvalidInput for a type that has no distribution.

    >>> day = pl.Series([date(2026, 3, 1), date(2026, 3, 2)])
    >>> picture(ColumnData(pl.Series(["a", "b"]), day, pl.Series(["a", "c"]))).new
    ('c',)
    """
    data = aligned(data)
    if data.profile.kind == "numeric":
        return _numeric(data)
    return _categories(data)


def daily_shifts(data: ColumnData) -> dict[date, float]:
    """How far each baseline day lay from its baseline, on the scale of ``ColumnDrift.daily_z``.

    Days without values are left out; a baseline of fewer than two days has none.
    """
    profile = data.profile
    if profile.kind == "category":
        present = [d.day for d in profile.days if d.present]
        if len(present) < 2:
            return {}
        distances = left_out(daily_counts(data), cramers_v)
        usual = float(np.sqrt(np.mean(distances**2)))
        return {day: ratio(float(d), usual, 1.0) for day, d in zip(present, distances, strict=True)}
    means = {d.day: d.mean for d in profile.days if d.mean is not None}
    if len(means) < 2:
        return {}
    values = np.array(list(means.values()))
    centre, scale, size = float(values.mean()), float(values.std(ddof=1)), float(np.abs(values).max())
    return {day: ratio(mean - centre, scale, size) for day, mean in means.items()}


def _numeric(data: ColumnData) -> Picture:
    profile = data.profile
    before, now = (profile.clip(finite_sorted(values)) for values in (data.baseline, data.current))
    edges = _bar_edges(before, now)
    inner = np.asarray(edges[1:-1])
    bars = [np.diff([0, *np.searchsorted(x, inner, side="right"), len(x)]) for x in (before, now)]
    return Picture(
        edges,
        (),
        _shares(bars[0]),
        _shares(bars[1]),
        *_daily(profile),
        float(now.mean()) if len(now) else None,
        quantiles_baseline=tuple(map(float, np.quantile(before, QUANTILES))) if len(before) else (),
        quantiles_current=tuple(map(float, np.quantile(now, QUANTILES))) if len(now) else (),
    )


def _bar_edges(before: Floats, now: Floats) -> tuple[float, ...]:
    """Equal bars over the central 99 % of both samples, fewer for small ones; few whole numbers get a bar each."""
    parts = [x for x in (before, now) if len(x)]
    if not parts:
        return (0.0, 1.0)
    low = min(float(np.quantile(x, 0.005)) for x in parts)
    high = max(float(np.quantile(x, 0.995)) for x in parts)
    if low == high:
        return (low - 0.5, high + 0.5)
    whole = all(bool((x == np.round(x)).all()) for x in parts)
    if whole and high - low < MOST_BARS:
        return tuple(float(x) for x in np.arange(low - 0.5, high + 1))
    bars = int(np.clip(2 * min(map(len, parts)) ** 0.5, FEWEST_BARS, MOST_BARS))
    return tuple(float(x) for x in np.linspace(low, high, bars + 1))


def _categories(data: ColumnData) -> Picture:
    sides = [values.drop_nulls().cast(pl.String).alias("value") for values in (data.baseline, data.current)]
    counted = [dict(zip(*s.value_counts().get_columns(), strict=True)) for s in sides]
    sizes = [max(len(s), 1) for s in sides]
    names = sorted(
        counted[0] | counted[1],
        key=lambda k: (-max(counted[0].get(k, 0) / sizes[0], counted[1].get(k, 0) / sizes[1]), k),
    )
    shown, rest = names[:TOP_CATEGORIES], names[TOP_CATEGORIES:]
    bars = [
        np.array([c.get(k, 0) for k in shown] + ([sum(c.get(k, 0) for k in rest)] if rest else [])) for c in counted
    ]
    today = data.current.cast(pl.Boolean).mean() if data.profile.kind == "boolean" else None
    return Picture(
        (),
        (*shown, *(["(other)"] if rest else [])),
        _shares(bars[0]),
        _shares(bars[1]),
        *_daily(data.profile),
        today if isinstance(today, float) else None,
        new=tuple(k for k in names if k not in counted[0])[:TOP_CATEGORIES],
        vanished=tuple(k for k in names if k not in counted[1])[:TOP_CATEGORIES],
    )


def _shares(counts: Counts) -> tuple[float, ...]:
    total = max(int(counts.sum()), 1)
    return tuple(float(c) / total for c in counts)


def _daily(profile: ColumnBaseline) -> tuple[tuple[date, ...], tuple[float | None, ...]]:
    return tuple(d.day for d in profile.days), tuple(d.mean for d in profile.days)
