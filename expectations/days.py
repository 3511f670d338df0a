"""Days: what one day of a source looked like, a line for each of its columns, for all its rows and for each cohort.

Lines are aggregates only and go into Delta as they are. ``expectations.quality`` compares a day's with those before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import polars as pl

from expectations.baseline import kind_of
from features.entity import DataType
from features.errors import InvalidInput
from features.source import EVENT_DATE, Source

KEY = ["cohort", "column", "quantity"]
"""What a line is about within its day."""
LINE: dict[str, pl.DataType] = {
    "day": pl.Date(),
    "cohort": pl.String(),
    "column": pl.String(),
    "quantity": pl.String(),
    "dtype": pl.String(),
    "rows": pl.Int64(),
    "nulls": pl.Int64(),
    "nonfinite": pl.Int64(),
    "mean": pl.Float64(),
    "sd": pl.Float64(),
    "min": pl.Float64(),
    "max": pl.Float64(),
    "p25": pl.Float64(),
    "p50": pl.Float64(),
    "p75": pl.Float64(),
    "p95": pl.Float64(),
    "outliers_iqr": pl.Int64(),
    "outliers_z": pl.Int64(),
    "outliers_mad": pl.Int64(),
}
"""The columns of a line. ``cohort`` is "" (all rows) or like "tester_id=T1"; ``column`` is "" in the one line that
counts the day's rows; ``quantity`` is what a row of a long table measures, else "". ``rows`` includes ``nulls`` and
``nonfinite``; the others are of the finite values: mean and SD of a boolean are of 0 and 1, a category has none.
Outliers lie beyond 1.5 interquartile ranges, 3 SDs or 3.5 scaled MADs, each by the day's own measure."""

OUTLIERS = ["outliers_iqr", "outliers_z", "outliers_mad"]
IQRS, SDS, MADS = 1.5, 3.0, 3.5
REACH = 30
"""How many interquartile ranges beyond the quartiles a value counts as lying there in mean and SD: about 40 sigma, so
that one value of 1e9 is an outlier and no shift of the mean."""
_TOP = 1e150  # beyond it squares overflow
_NORMAL_MAD = 1.4826  # sigmas in a MAD of normal values


@dataclass(frozen=True, eq=False)
class Watch:
    """What is measured of a source day by day.

    ``columns`` are numbers, booleans or categories. Where each row is one measurement, ``quantity`` names what it
    measures, and every quantity has a line of its own. ``cohorts`` are columns, such as the tester: each value of each
    has lines of its own, beside those of all rows.
    """

    columns: Sequence[str]
    quantity: pl.Expr | None = None
    cohorts: Sequence[str] = ()

    @classmethod
    def of(cls, source: Source) -> Watch:
        """What a source's definition implies: every column with a distribution but keys and event time, no cohorts."""
        apart = {source.event_timestamp, *(source.keys or ())}
        return cls([c for c, dtype in source.dtypes.items() if c not in apart and _comparable(dtype)])

    @property
    def needed(self) -> list[str]:
        """The columns of a source that must be read."""
        named = [] if self.quantity is None else self.quantity.meta.root_names()
        return list(dict.fromkeys([*self.columns, *self.cohorts, *named]))


def measure(rows: pl.DataFrame, watch: Watch, day: date) -> pl.DataFrame:
    """The lines of a day, given its rows; columns that are not there, or have no distribution, have none.

    >>> at = date(2026, 3, 1)
    >>> lines = measure(pl.DataFrame({"tester": ["A", "B", "B"], "vdd": [1.0, 1.2, None]}), Watch(["vdd"]), at)
    >>> lines.select("column", "rows", "nulls", "mean").rows()
    [('', 3, 0, None), ('vdd', 3, 1, 1.1)]
    """
    return measure_days(rows.with_columns(pl.lit(day).alias(EVENT_DATE)), watch, [day])


def measure_days(rows: pl.DataFrame, watch: Watch, days: Sequence[date]) -> pl.DataFrame:
    """The lines of some days, given their rows with the day of each in EVENT_DATE: what ``measure`` says of each.

    Many days take little longer than one.
    """
    parts = [pl.DataFrame(schema=LINE), _table_lines(rows, days)]
    if not rows.is_empty():
        parts += _column_lines(rows, watch)
    found = pl.concat(parts, how="diagonal_relaxed").cast(pl.Schema(LINE))
    return found.sort("day", *KEY)


def _table_lines(rows: pl.DataFrame, days: Sequence[date]) -> pl.DataFrame:
    """The line that counts a day's rows, of each day."""
    counts = rows[EVENT_DATE].alias("day").value_counts(name="rows")
    asked = pl.DataFrame({"day": days}, schema={"day": pl.Date})
    named = [pl.lit("").alias(name) for name in KEY]
    lines = asked.join(counts, on="day", how="left").with_columns(pl.col("rows").fill_null(0).cast(pl.Int64), *named)
    return lines.with_columns(pl.lit(0).alias("nulls"), pl.lit(0).alias("nonfinite"))


def _column_lines(rows: pl.DataFrame, watch: Watch) -> Iterator[pl.DataFrame]:
    """The lines of each column, for all rows and for each cohort."""
    columns = [rows[name] for name in watch.columns if name in rows.columns and _comparable(rows.schema[name])]
    named = watch.quantity
    if named is None or not set(named.meta.root_names()) <= set(rows.columns):
        named = pl.lit("")
    quantity = _Numbered.of(rows.with_columns(named.fill_null("").alias("quantity"))["quantity"])
    day = _Numbered.of(rows[EVENT_DATE])
    whole = _Groups.of(day, _Numbered(pl.Series([""]), pl.zeros(rows.height, pl.UInt32, eager=True)), quantity)
    of_all = [_statistics(whole.codes, column) for column in columns]
    yield from map(whole.named, of_all, columns)
    for name in watch.cohorts:
        if name in rows.columns:
            groups = _Groups.of(day, _Numbered.of(rows[name].cast(pl.String), f"{name}="), quantity)
            alike = groups.codes.equals(whole.codes)  # such as where there is one tester
            found = of_all if alike else [_statistics(groups.codes, column) for column in columns]
            yield from map(groups.named, found, columns)


@dataclass(frozen=True)
class _Numbered:
    """The names in a column, and for each row the number of its name (null: it has none)."""

    names: pl.Series
    numbers: pl.Series

    @classmethod
    def of(cls, column: pl.Series, prefix: str = "") -> _Numbered:
        """Number the values of a column; of text, a prefix makes names."""
        names = column.drop_nulls().unique().sort()
        if len(names) == 1 and not column.null_count():
            numbers = pl.zeros(len(column), pl.UInt32, eager=True)
        elif column.dtype == pl.String:
            numbers = column.cast(pl.Enum(names)).to_physical()
        else:
            numbers = names.search_sorted(column)
        return cls(prefix + names if prefix else names, numbers.cast(pl.UInt32))


@dataclass(frozen=True)
class _Groups:
    """The day, cohort and quantity of each row as one small number (null: it has no cohort), which groups fast."""

    codes: pl.Series
    days: pl.Series
    cohorts: pl.Series
    quantities: pl.Series

    @classmethod
    def of(cls, day: _Numbered, cohort: _Numbered, quantity: _Numbered) -> _Groups:
        """Number the triples that there may be."""
        pairs = day.numbers * len(cohort.names) + cohort.numbers
        return cls(pairs * len(quantity.names) + quantity.numbers, day.names, cohort.names, quantity.names)

    def named(self, found: pl.DataFrame, column: pl.Series) -> pl.DataFrame:
        """Statistics by number as the lines of a column."""
        code, width = found["group"], len(self.quantities)
        return found.drop("group").with_columns(
            self.days.gather(code // (width * len(self.cohorts))).alias("day"),
            self.cohorts.gather(code // width % len(self.cohorts)).alias("cohort"),
            self.quantities.gather(code % width).alias("quantity"),
            pl.lit(column.name).alias("column"),
            pl.lit(str(column.dtype)).alias("dtype"),
        )


def _statistics(groups: pl.Series, values: pl.Series) -> pl.DataFrame:
    """The figures of a line for each group of rows."""
    kind = kind_of(values.dtype)
    rows = pl.DataFrame({"group": groups, "value": values if kind == "category" else values.cast(pl.Float64)})
    rows = rows.drop_nulls("group")
    value = pl.col("value")
    counts = [pl.len().alias("rows"), value.null_count().alias("nulls")]
    if kind == "category":
        return rows.group_by("group").agg(*counts, pl.lit(0).alias("nonfinite"))
    counts.append((~value.is_finite()).sum().alias("nonfinite"))
    if kind == "boolean":
        return rows.group_by("group").agg(*counts, value.mean().alias("mean"), value.std().alias("sd"))
    counted = rows.group_by("group").agg(counts)
    spread = _spread(rows.filter(value.is_finite()).with_columns(value.clip(-_TOP, _TOP)))
    return counted.join(spread, on="group", how="left").with_columns(pl.col(OUTLIERS).fill_null(0))


def _spread(finite: pl.DataFrame) -> pl.DataFrame:
    """Quantiles, mean, SD and outliers of finite values: one pass each, since each needs what the one before found."""
    value, low, high = pl.col("value"), pl.col("p25"), pl.col("p75")
    quantiles = [value.quantile(q / 100, "linear").alias(f"p{q}") for q in (25, 50, 75, 95)]
    first = finite.group_by("group").agg(value.min().alias("min"), value.max().alias("max"), *quantiles)
    width = high - low
    reach = pl.when(width > 0).then(REACH * width).otherwise(2 * _TOP)
    bounds = first.select("group", "p50", floor=low - reach, ceiling=high + reach)
    placed = finite.join(bounds, on="group").select(
        "group",
        "value",
        (value - pl.col("p50")).abs().alias("away"),
        value.clip("floor", "ceiling").alias("tame"),
    )
    tame = pl.col("tame")
    second = placed.group_by("group").agg(
        tame.mean().alias("mean"), tame.std().alias("sd"), pl.col("away").median().alias("mad")
    )
    scale = MADS * _NORMAL_MAD * pl.col("mad")
    limits = first.join(second, on="group").select(
        "group",
        "mean",
        least=low - IQRS * width,
        most=high + IQRS * width,
        far=SDS * pl.col("sd"),
        # Where most values are equal, none is far from the others by the MAD, which is 0.
        apart=pl.when(scale > 0).then(scale),
    )
    outlying = placed.join(limits, on="group").select(
        "group",
        ((value < pl.col("least")) | (value > pl.col("most"))).alias("outliers_iqr"),
        ((value - pl.col("mean")).abs() > pl.col("far")).alias("outliers_z"),
        (pl.col("away") > pl.col("apart")).alias("outliers_mad"),
    )
    outliers = outlying.filter(pl.any_horizontal(OUTLIERS)).group_by("group").agg(pl.sum(*OUTLIERS))
    return first.join(second.drop("mad"), on="group").join(outliers, on="group", how="left")


def _comparable(dtype: DataType) -> bool:
    try:
        kind_of(dtype() if isinstance(dtype, type) else dtype)
    except InvalidInput:
        return False
    return True
