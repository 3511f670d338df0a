"""One column against its baseline: the tests that rows allow, and how ordinary the day is.

What only the whole night can answer (corrected p-values, limits, states) is in ``expectations.drift``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import copysign, inf
from typing import Literal

import numpy as np
import polars as pl

from expectations import statistics
from expectations.baseline import ColumnBaseline, category_codes, finite_sorted, kind_of
from expectations.statistics import Counts, Floats
from features.errors import InvalidInput

Idle = tuple[Literal["insufficient_data", "constant", "error"], str]
"""Why a column's values have no test: a state and the reason."""

MIN_DAYS = 7
"""Fewer good days give no usable SD of daily means."""
MIN_ROWS = 4
"""With fewer rows even two disjoint samples (D = 1) do not stand out among fifty columns."""


@dataclass(frozen=True)
class ColumnData:
    """What one column is judged on: its baseline rows with their dates, and the current rows.

    ``frozen`` is a stored baseline of the same rows, if there is one; else it is built from them.
    """

    baseline: pl.Series
    day: pl.Series
    current: pl.Series
    frozen: ColumnBaseline | None = None

    @cached_property
    def profile(self) -> ColumnBaseline:
        """The frozen baseline."""
        return self.frozen or ColumnBaseline.of(self.baseline, self.day)


@dataclass(frozen=True)
class Guard:
    """How far today is out (``z``) by the measure of ``days`` ordinary days, and whether beyond each of them.

    Of a day's mean or SD, z is the shift from the mean day in SDs of the days; of a distance (which
    has no sign), today's distance over the root mean square distance of one day to all others. For
    two classes the two are the same figure. ``fewer`` (at least 1) is by how much z may stray more
    because today has fewer rows than those days had; it takes the worst case, that days differ only
    because their rows are few.
    """

    z: float
    outside: bool
    days: int
    fewer: float


@dataclass(frozen=True)
class Check:
    """One test of a column: its statistic, its effect, and what the days say (``guards``, means first)."""

    test: str
    statistic: float
    p_value: float
    effect: float
    effect_name: str
    guards: tuple[Guard, ...]


@dataclass(frozen=True)
class Comparison:
    """All that can be said of a column without the others.

    ``psi`` is the index, its critical value and the Jensen-Shannon divergence; ``missing`` the shares
    of null, NaN and infinite values, ``means`` those of the others: each baseline, then current.
    """

    n_baseline: int
    n_current: int
    checks: tuple[Check, ...] = ()
    idle: Idle | None = None
    psi: tuple[float, float, float] | None = None
    wasserstein: float | None = None
    missing: tuple[float, float] | None = None
    means: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True)
class _Values:
    """The comparison of the values that are there."""

    check: Check | None = None
    idle: Idle | None = None
    wasserstein: float | None = None
    means: tuple[float | None, float | None] = (None, None)


def compare(data: ColumnData) -> Comparison:
    """Everything about one column; what cannot be computed ends in ``idle``, never in an exception."""
    n, m = len(data.baseline), len(data.current)
    if not n or not m:
        return Comparison(n, m, idle=("insufficient_data", f"{n} baseline and {m} current rows"))
    try:
        return _compare(aligned(data))
    except Exception as error:  # noqa: BLE001  whatever one column holds, the night's others must be judged
        return Comparison(n, m, idle=("error", (str(error) or type(error).__name__).splitlines()[0]))


def aligned(data: ColumnData) -> ColumnData:
    """The data with both sides of one kind; an all-null side takes the other's type.

    Raises InvalidInput where the two cannot be compared.
    """
    if data.baseline.null_count() == len(data.baseline) and data.current.dtype != pl.Null:
        return ColumnData(data.baseline.cast(data.current.dtype), data.day, data.current)
    if data.current.null_count() == len(data.current):
        return ColumnData(data.baseline, data.day, data.current.cast(data.baseline.dtype), data.frozen)
    before, now = kind_of(data.baseline.dtype), kind_of(data.current.dtype)
    if before != now:
        raise InvalidInput(f"the baseline is {before} but today is {now}: the type changed at its source")
    return data


def _compare(data: ColumnData) -> Comparison:
    profile = data.profile
    reference, today = np.array(profile.counts, dtype=np.int64), profile.count(data.current)
    values = _numeric(data) if profile.kind == "numeric" else _categories(data, reference, today)
    presence = _presence(profile, reference), _presence(profile, today)
    checks = [values.check, _missing(profile, *presence)]
    return Comparison(
        profile.n,
        len(data.current),
        checks=tuple(c for c in checks if c is not None),
        idle=values.idle,
        psi=(
            statistics.population_stability(reference, today),
            statistics.population_stability_critical(reference, today),
            statistics.jensen_shannon(reference, today),
        ),
        wasserstein=values.wasserstein,
        missing=(float(presence[0][1:].sum() / profile.n), float(presence[1][1:].sum() / len(data.current))),
        means=values.means,
    )


def _numeric(data: ColumnData) -> _Values:
    profile = data.profile
    before, now = (profile.clip(finite_sorted(values)) for values in (data.baseline, data.current))
    means = (float(before.mean()) if len(before) else None, float(now.mean()) if len(now) else None)
    daily = [d for d in profile.days if d.mean is not None]
    if (idle := _idle(len(before), len(now), len(daily))) is not None:
        return _Values(idle=idle, means=means)
    if before[0] == before[-1] == now[0] == now[-1]:
        return _Values(idle=("constant", f"every value is {before[0]:.6g}, then and now"), means=means)
    d, p, distance = statistics.kolmogorov_smirnov(before, now)
    fewer = _fewer(len(now), [d.present for d in daily])
    size = float(max(np.abs(before[[0, -1]]).max(), np.abs(now[[0, -1]]).max()))
    guards = [_location(float(now.mean()), [d.mean for d in daily if d.mean is not None], size, fewer)]
    spread = [d.sd for d in daily if d.sd is not None]
    if len(spread) >= MIN_DAYS:
        guards.append(_location(float(now.std(ddof=1)), spread, size, fewer))
    scaled = distance / profile.scale if profile.scale else inf
    return _Values(Check("ks", d, p, d, "KS D", tuple(guards)), None, scaled, means)


def _categories(data: ColumnData, reference: Counts, today: Counts) -> _Values:
    profile = data.profile
    before, now = np.delete(reference, -2), np.delete(today, -2)  # every bin but null
    means = (_share_true(data.baseline), _share_true(data.current)) if profile.kind == "boolean" else (None, None)
    days = [d for d in profile.days if d.present]
    if (idle := _idle(int(before.sum()), int(now.sum()), len(days))) is not None:
        return _Values(idle=idle, means=means)
    used = (before + now) > 0
    if used.sum() == 1:
        return _Values(idle=("constant", f"every value is {profile.categories[0]!r}, then and now"), means=means)
    test, statistic, p = statistics.contingency(before[used], now[used])
    effect = float(statistics.cramers_v(before / before.sum(), now / now.sum()))
    fewer = _fewer(int(now.sum()), [d.present for d in days])
    if means[1] is not None:
        guard = _location(means[1], [d.mean for d in days if d.mean is not None], 1.0, fewer)
    else:
        guard = _distance(effect, left_out(daily_counts(data), statistics.cramers_v), fewer)
    return _Values(Check(test, statistic, p, effect, "Cramér's V", (guard,)), None, None, means)


def _idle(before: int, now: int, days: int) -> Idle | None:
    """Why values cannot be compared, if so."""
    if not before and not now:
        return ("constant", "every value is missing, then and now")
    if before < MIN_ROWS or now < MIN_ROWS:
        return ("insufficient_data", f"{before} baseline and {now} current values; {MIN_ROWS} of each are needed")
    if days < MIN_DAYS:
        return ("insufficient_data", f"{days} baseline day(s) with values; {MIN_DAYS} are needed")
    return None


def _missing(profile: ColumnBaseline, before: Counts, now: Counts) -> Check | None:
    """The shares of present, null and not finite as a test of their own; None if there is nothing to test."""
    used = (before + now) > 0
    if used.sum() < 2 or len(profile.days) < MIN_DAYS or now.sum() < MIN_ROWS:
        return None
    _, statistic, p = statistics.contingency(before[used], now[used])
    effect = float(statistics.total_variation(before / before.sum(), now / now.sum()))
    daily = np.array([[d.present, d.nulls, d.nonfinite] for d in profile.days], dtype=np.int64)
    fewer = _fewer(int(now.sum()), [d.rows for d in profile.days])
    guard = _distance(effect, left_out(daily, statistics.total_variation), fewer)
    return Check("missing", statistic, p, effect, "share missing", (guard,))


def _presence(profile: ColumnBaseline, counts: Counts) -> Counts:
    """A baseline's bins summed to present, null, not finite."""
    if profile.kind == "numeric":
        return np.array([counts[:-2].sum(), counts[-2], counts[-1]], dtype=np.int64)
    return np.array([counts.sum() - counts[-2], counts[-2], 0], dtype=np.int64)


def _share_true(values: pl.Series) -> float | None:
    return float(values.drop_nulls().to_numpy().mean()) if values.null_count() < len(values) else None


def daily_counts(data: ColumnData) -> Counts:
    """Rows per baseline day and category (last: not listed), days without any left out."""
    rows = pl.DataFrame({"day": data.day.cast(pl.Date), "value": data.baseline.cast(pl.String)}).drop_nulls()
    codes = category_codes(rows["value"], data.profile.categories)
    days, index = np.unique(rows["day"].to_physical().to_numpy(), return_inverse=True)
    width = len(data.profile.categories) + 1
    flat = np.bincount(index * width + codes, minlength=len(days) * width)
    return flat.reshape(-1, width).astype(np.int64)


def left_out(daily: Counts, distance: Callable[[Floats, Floats], Floats]) -> Floats:
    """The distance of each day's shares from those of all other days together."""
    others = daily.sum(axis=0) - daily
    own, rest = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) for counts in (daily, others))
    return distance(own, rest)


def _fewer(today: int, days: Sequence[int]) -> float:
    """How much wider a mean of today's rows scatters than one of the days' rows; at least 1."""
    return max(1.0, float(np.sqrt(1 / today / np.mean(1 / np.asarray(days)))))


def _location(today: float, days: Sequence[float], size: float, fewer: float) -> Guard:
    """The guard of a daily mean or SD; ``size`` is the column's largest magnitude."""
    z = ratio(today - float(np.mean(days)), float(np.std(days, ddof=1)), size)
    return Guard(z, today < min(days) or today > max(days), len(days), fewer)


def _distance(today: float, days: Floats, fewer: float) -> Guard:
    return Guard(ratio(today, float(np.sqrt(np.mean(days**2))), 1.0), today > days.max(), len(days), fewer)


def ratio(shift: float, scale: float, size: float) -> float:
    """Shift over scale; differences that are only rounding (1e-12 of ``size``) count as none."""
    if abs(shift) <= 1e-12 * size:
        return 0.0
    return shift / scale if scale > 1e-12 * size else copysign(inf, shift)
