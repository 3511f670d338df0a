"""Frozen baselines: what a column looked like on its good days, ready to be stored and compared with.

A baseline is aggregates only: bin edges with their counts, robust location and scale, and one line
per day. It never changes once built; a new one gets a new ``id``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import polars as pl

from expectations.statistics import Counts, Floats
from features.errors import InvalidInput

Kind = Literal["numeric", "boolean", "category"]

FORMAT = 1
"""The version of the stored layout."""
BINS = 10
MAX_CATEGORIES = 1_000
REACH = 10
"""How many widths of the central 98 % a value may lie beyond it before it counts as wild."""
_TOP = 1e150  # beyond it squares overflow


@dataclass(frozen=True)
class DayStats:
    """One day of a column: row counts, and the spread of its finite values (clipped to the fence).

    ``rows`` includes ``nulls`` and ``nonfinite``. Of a boolean, ``mean`` is the share of true and the
    rest is None; of a category everything is. ``sd`` is None for a single value.
    """

    day: date
    rows: int
    nulls: int
    nonfinite: int
    mean: float | None = None
    sd: float | None = None
    min: float | None = None
    max: float | None = None
    p25: float | None = None
    p50: float | None = None
    p75: float | None = None
    p95: float | None = None

    @property
    def present(self) -> int:
        """Rows with a value."""
        return self.rows - self.nulls - self.nonfinite


@dataclass(frozen=True)
class ColumnBaseline:
    """A column's reference: bins, counts, location, scale, days.

    ``edges`` are the inner bin edges of a numeric column, open to ±∞ at both ends, bins closed on the
    right; ``categories`` the values of the others, most frequent first. ``counts`` are the rows per
    bin: value bins, then null, then "not finite" (numeric) or "unseen" (others: any category not
    listed). ``fence`` is where wild values are clipped before anything is averaged; ``scale`` is a
    robust sigma, 0 for a constant.
    """

    kind: Kind
    edges: tuple[float, ...]
    categories: tuple[str, ...]
    counts: tuple[int, ...]
    fence: tuple[float, float]
    scale: float
    days: tuple[DayStats, ...]
    format: int = FORMAT

    @classmethod
    def of(cls, values: pl.Series, days: pl.Series) -> ColumnBaseline:
        """Freeze the baseline of a column; ``days`` gives the date of each row.

        Raises InvalidInput where the column's type cannot be compared by distribution.
        """
        kind = kind_of(values.dtype)
        if len(values) != len(days):
            raise InvalidInput(f"the baseline has {len(values)} values but {len(days)} days: give one day per value")
        if kind == "numeric":
            return _numeric(values, days)
        return _categorical(kind, values, days)

    @property
    def n(self) -> int:
        """Rows, nulls included."""
        return sum(self.counts)

    @property
    def labels(self) -> list[str]:
        """A name per bin, in the order of ``counts``."""
        if self.kind != "numeric":
            return [*self.categories, "null", "unseen"]
        bounds = ["-∞", *(f"{e:.6g}" for e in self.edges), "∞"]
        return [f"({lo}, {hi}]" for lo, hi in pairwise(bounds)] + ["null", "not finite"]

    @property
    def id(self) -> str:
        """Twelve hex digits of the content; another baseline has another id."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def count(self, values: pl.Series) -> Counts:
        """How many of a column's values fall into each bin of this baseline."""
        nulls = values.null_count()
        if self.kind == "numeric":
            finite = finite_sorted(values)
            inner = bin_counts(finite, self.edges)
            return np.array([*inner, nulls, len(values) - nulls - len(finite)], dtype=np.int64)
        codes = category_codes(values, self.categories)
        inner = np.bincount(codes, minlength=len(self.categories) + 1)
        return np.array([*inner[:-1], nulls, inner[-1]], dtype=np.int64)

    def clip(self, values: Floats) -> Floats:
        """Ascending values with the wild ones brought inside the fence, or as near to their own middle half.

        So a column that moved as a whole keeps its values, and one wild value among few is still held.
        """
        if not len(values):
            return values
        low, high = self.fence
        reach = REACH / (2 * REACH + 1) * (high - low)
        return np.clip(values, min(low, _quantile(values, 0.25) - reach), max(high, _quantile(values, 0.75) + reach))

    def to_dict(self) -> dict[str, Any]:
        """The baseline as plain JSON values."""
        plain = asdict(self)
        plain["days"] = [{**day, "day": day["day"].isoformat()} for day in plain["days"]]
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ColumnBaseline:
        """The baseline that ``to_dict`` wrote; raises InvalidInput for another format."""
        if plain.get("format") != FORMAT:
            raise InvalidInput(f"baseline format {plain.get('format')!r} is not {FORMAT}: build the baseline again")
        days = tuple(DayStats(**{**day, "day": date.fromisoformat(day["day"])}) for day in plain["days"])
        lists = {name: tuple(plain[name]) for name in ("edges", "categories", "counts", "fence")}
        return cls(**{**plain, **lists, "days": days})


def build(frame: pl.DataFrame, columns: Sequence[str], day: str) -> dict[str, ColumnBaseline]:
    """Freeze the baseline of each named column; ``day`` names the column with each row's date.

    >>> frame = pl.DataFrame({"day": [date(2026, 3, 1)] * 4, "vdd": [1.19, 1.2, 1.21, None]})
    >>> vdd = build(frame, ["vdd"], "day")["vdd"]
    >>> vdd.n, vdd.days[0].nulls, round(vdd.days[0].mean, 6)
    (4, 1, 1.2)
    """
    missing = [c for c in [*columns, day] if c not in frame.columns]
    if missing:
        raise InvalidInput(f"the baseline frame lacks column(s) {missing}; it has {frame.columns}")
    return {column: ColumnBaseline.of(frame[column], frame[day]) for column in columns}


def kind_of(dtype: pl.DataType) -> Kind:
    """How a type's distribution is compared; raises InvalidInput for types that have none.

    An all-null column without a type counts as numeric.
    """
    if dtype.is_numeric() or dtype == pl.Null:
        return "numeric"
    if dtype == pl.Boolean:
        return "boolean"
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return "category"
    raise InvalidInput(f"type {dtype} has no distribution to compare: leave the column out or derive a number")


def finite_sorted(values: pl.Series) -> Floats:
    """The finite values of a numeric column as floats, ascending; beyond ±1e150 they count as ±1e150."""
    floats = values.drop_nulls().cast(pl.Float64).to_numpy()
    ordered: Floats = np.sort(floats[np.isfinite(floats)])
    return ordered.clip(-_TOP, _TOP)


def bin_counts(ordered: Floats, edges: Sequence[float]) -> Counts:
    """How many of the ascending values fall into each right-closed bin, outermost bins open."""
    below = np.searchsorted(ordered, np.asarray(edges, dtype=np.float64), side="right")
    return np.diff(np.concatenate([[0], below, [len(ordered)]])).astype(np.int64)


def category_codes(values: pl.Series, categories: Sequence[str]) -> Counts:
    """The position of each non-null value in ``categories``; its length for a value not listed."""
    known = values.drop_nulls().cast(pl.String).cast(pl.Enum(categories), strict=False)
    return known.to_physical().cast(pl.Int64).fill_null(len(categories)).to_numpy()


def _quantile(ordered: Floats, q: float) -> float:
    return float(ordered[max(int(np.ceil(q * len(ordered))) - 1, 0)])


def _edges(ordered: Floats) -> tuple[float, ...]:
    """Decile edges without repeats; a value that spans several deciles gets a bin of its own.

    (80 % zeros would otherwise share a bin with everything below them.)
    """
    if not len(ordered):
        return ()
    deciles = [_quantile(ordered, i / BINS) for i in range(1, BINS)]
    tied = {e for e in deciles if deciles.count(e) > 1}
    return tuple(sorted({*deciles, *(float(np.nextafter(e, -np.inf)) for e in tied)}))


def _fence(ordered: Floats) -> tuple[float, float]:
    """``REACH`` times the central 98 % beyond it: far outside any drift, yet one value of 1e9 cannot swamp a mean."""
    if not len(ordered):
        return (-_TOP, _TOP)
    low, high = _quantile(ordered, 0.01), _quantile(ordered, 0.99)
    reach = REACH * (high - low)
    if reach == 0.0 or not np.isfinite(reach):
        return (-_TOP, _TOP)
    return (max(low - reach, -_TOP), min(high + reach, _TOP))


def _scale(ordered: Floats) -> float:
    """A robust sigma: from the quartiles, else (many ties) from the 5-95 % range, else the SD."""
    if not len(ordered):
        return 0.0
    for low, high, normal in ((0.25, 0.75, 1.349), (0.05, 0.95, 3.290)):
        if (spread := _quantile(ordered, high) - _quantile(ordered, low)) > 0:
            return spread / normal
    return float(ordered.std()) if ordered[0] < ordered[-1] else 0.0


def _numeric(values: pl.Series, days: pl.Series) -> ColumnBaseline:
    ordered = finite_sorted(values)
    fence = _fence(ordered)
    frame = pl.DataFrame({"day": days.cast(pl.Date), "value": values.cast(pl.Float64)}).drop_nulls("day")
    value = pl.col("value")
    finite = value.filter(value.is_finite()).clip(*fence)
    quantiles = [finite.quantile(q / 100).alias(f"p{q}") for q in (25, 50, 75, 95)]
    daily = frame.group_by("day").agg(
        pl.len().alias("rows"),
        value.null_count().alias("nulls"),
        (~value.is_finite()).sum().alias("nonfinite"),
        finite.mean().alias("mean"),
        finite.std().alias("sd"),
        finite.min().alias("min"),
        finite.max().alias("max"),
        *quantiles,
    )
    edges = _edges(ordered)
    nulls = values.null_count()
    counts = [*map(int, bin_counts(ordered, edges)), nulls, len(values) - nulls - len(ordered)]
    scale = _scale(np.clip(ordered, *fence))
    return ColumnBaseline("numeric", edges, (), tuple(counts), fence, scale, _day_stats(daily))


def _categorical(kind: Kind, values: pl.Series, days: pl.Series) -> ColumnBaseline:
    text = values.cast(pl.String).alias("value")
    ranked = text.drop_nulls().value_counts().sort(["count", "value"], descending=[True, False])
    categories = tuple(ranked["value"].head(MAX_CATEGORIES).to_list())
    unseen = int(ranked["count"].slice(MAX_CATEGORIES).sum())
    counts = (*ranked["count"].head(MAX_CATEGORIES).to_list(), text.null_count(), unseen)
    frame = pl.DataFrame({"day": days.cast(pl.Date), "value": values}).drop_nulls("day")
    daily = frame.group_by("day").agg(
        pl.len().alias("rows"),
        pl.col("value").null_count().alias("nulls"),
        pl.lit(0).alias("nonfinite"),
        *([pl.col("value").mean().alias("mean")] if kind == "boolean" else []),
    )
    return ColumnBaseline(kind, (), categories, counts, (-_TOP, _TOP), 0.0, _day_stats(daily))


def _day_stats(daily: pl.DataFrame) -> tuple[DayStats, ...]:
    """A line per day (tens of them, so a Python loop), oldest first."""
    return tuple(DayStats(**row) for row in daily.sort("day").iter_rows(named=True))
