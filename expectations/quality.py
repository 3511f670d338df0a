"""A day of a source against its good days: means, missing values, outliers, volume, freshness, columns.

The unit that varies freely is the day, so today is measured by how much the good days differ among themselves: a
finding needs a shift beyond a Student prediction limit over all questions of the day, beyond everything the good days
showed, and large enough to matter. Rates must also be more than chance makes of today's few rows. Below ``MIN_DAYS``
good days nothing is said: the state is insufficient_data. A finding rejects no row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import polars as pl

from expectations import statistics
from expectations.comparison import MIN_DAYS, MIN_ROWS
from expectations.days import KEY, LINE, OUTLIERS
from expectations.drift import DAY_ALPHA
from expectations.result import Finding, Severity
from expectations.rules import FEW
from features.entity import DataType

GOOD_DAYS = 30
"""How many of the last good days are the baseline."""
HORIZON = timedelta(days=90)
"""Older days are no baseline: what changed for good is learnt anew once the days before have left it, or have been
called out of date."""
MEAN_FLOOR = 0.1
"""The least shift of a mean that matters, in SDs of the values within a day."""
RATE_FLOOR = 0.005
"""The least rise that matters of a share of missing values or outliers."""
VOLUME_FLOOR = 0.2
"""The least change of a day's rows that matters, as a share of the usual."""

_FINDING: dict[str, DataType] = {
    "rule": pl.String(),
    "severity": pl.String(),
    "failed": pl.Int64(),
    "checked": pl.Int64(),
    "message": pl.String(),
}
JUDGED: dict[str, DataType] = {
    **LINE,
    "state": pl.String(),
    "good": pl.Boolean(),
    "findings": pl.List(pl.Struct(_FINDING)),
}
"""A line and what is said of it: ``state`` is ok, drift (there are findings) or insufficient_data; ``good`` lines are
the baseline of later days."""

_Key = tuple[str, str, str]
_TABLE: _Key = ("", "", "")
"""The line that counts the day's rows; what concerns the table as a whole is said there."""


def judge(lines: pl.DataFrame, history: pl.DataFrame, *, over: bool, spoiled: bool = False) -> pl.DataFrame:
    """The lines of one day with their findings; ``history`` are the judged lines of days before it is compared with.

    ``over``: the day is past, so its volume can be compared. ``spoiled``: a file with a high finding, or worse, fed it.
    """
    day = lines["day"].first()
    assert isinstance(day, date)  # there is always the line of the table
    history = history.filter(pl.col("day") < day, pl.col("day") >= day - HORIZON)
    asked = _measures(lines, volume=over).join(_reference(history), on=[*KEY, "rule"])
    asked = asked.filter(pl.col("days") >= MIN_DAYS)
    findings = [*_shifts(asked), *_columns(lines, history), *(_silence(lines, history, day) if over else ())]
    said = _by_line(findings)
    known = asked.select(KEY).unique().with_columns(pl.lit(value=True).alias("known"))
    high = pl.col("worst").fill_null(0) >= Severity.HIGH
    state = pl.when(pl.col("worst").is_not_null()).then(pl.lit("drift"))
    judged = lines.join(said, on=KEY, how="left").join(known, on=KEY, how="left")
    return judged.with_columns(
        state.when("known").then(pl.lit("ok")).otherwise(pl.lit("insufficient_data")).alias("state"),
        ((pl.col("rows") >= MIN_ROWS) & ~high & pl.lit(value=not spoiled)).alias("good"),
        pl.col("findings").fill_null([]),
    ).select(pl.col(column).cast(dtype) for column, dtype in JUDGED.items())


def _by_line(findings: Iterable[tuple[_Key, Finding]]) -> pl.DataFrame:
    """The findings of each line that has any, and the worst of their severities."""
    rows = [(*key, f.severity.value, f.rule, f.severity.label, f.failed, f.checked, f.message) for key, f in findings]
    schema = {**dict.fromkeys(KEY, pl.String()), "worst": pl.Int64(), **_FINDING}
    listed = pl.DataFrame(rows, schema=schema, orient="row")
    return listed.group_by(KEY, maintain_order=True).agg(pl.max("worst"), pl.struct(list(_FINDING)).alias("findings"))


def _measures(lines: pl.DataFrame, *, volume: bool) -> pl.DataFrame:
    """What is compared of each line: a rule, its value, and the ``failed`` among ``checked`` rows it rests on.

    Few values say nothing.
    """
    present = pl.col("rows") - pl.col("nulls") - pl.col("nonfinite")
    column = pl.col("column") != ""
    parts = [_measure(lines.filter(column & pl.col("mean").is_not_null()), "mean_shift", pl.lit(0), present, "mean")]
    parts.append(_measure(lines.filter(column), "null_rate", pl.col("nulls") + pl.col("nonfinite"), pl.col("rows")))
    numeric = lines.filter(column & pl.col(OUTLIERS[0]).is_not_null())
    parts += [_measure(numeric, rule, pl.col(rule), present) for rule in OUTLIERS]
    if volume:
        whole = lines.filter(~column & (pl.col("rows") > 0))
        parts.append(_measure(whole, "volume", pl.lit(0), pl.lit(MIN_ROWS), "rows"))
    return pl.concat(parts).filter(pl.col("checked") >= MIN_ROWS)


def _measure(
    lines: pl.DataFrame, rule: str, failed: pl.Expr, checked: pl.Expr, value: str | None = None
) -> pl.DataFrame:
    """One rule's measure of lines: a column, or else the share that failed, as the angle whose sine is its root.

    Shares near zero are skewed, and scatter the less the smaller they are; their angles do neither.
    """
    angle = (failed / checked).sqrt().arcsin()
    return lines.select(
        *KEY,
        "day",
        pl.lit(rule).alias("rule"),
        (angle if value is None else pl.col(value).cast(pl.Float64)).alias("value"),
        pl.col("sd").alias("spread"),
        failed.cast(pl.Int64).alias("failed"),
        checked.cast(pl.Int64).alias("checked"),
    )


def _reference(history: pl.DataFrame) -> pl.DataFrame:
    """What the last good days of each line and rule showed."""
    days = _measures(history.filter("good").sort("day"), volume=True)
    last = days.group_by(*KEY, "rule", maintain_order=True).tail(GOOD_DAYS)
    value = pl.col("value")
    return last.group_by(*KEY, "rule").agg(
        pl.len().alias("days"),
        value.mean().alias("usual"),
        value.std().alias("daily_sd"),
        value.min().alias("lowest"),
        value.max().alias("highest"),
        pl.col("spread").mean().alias("within"),
        pl.col("failed").sum().alias("failed_before"),
        pl.col("checked").sum().alias("checked_before"),
        (1 / pl.col("checked")).mean().alias("inverse"),
    )


def _shifts(asked: pl.DataFrame) -> Iterator[tuple[_Key, Finding]]:
    """The measures that today are where no good day was."""
    value, usual = pl.col("value"), pl.col("usual")
    shift = value - usual
    limits = {days: statistics.student_limit(days, asked.height, DAY_ALPHA) for days in asked["days"].unique()}
    limit = pl.col("days").replace_strict(limits, return_dtype=pl.Float64)
    # Fewer rows than those days had scatter more; at worst, days differ only because their rows are few.
    fewer = pl.max_horizontal(pl.lit(1.0), (1 / pl.col("checked") / pl.col("inverse")).sqrt())
    outside = (value < pl.col("lowest")) | (value > pl.col("highest"))
    rise = pl.col("failed") / pl.col("checked") - pl.col("failed_before") / pl.col("checked_before")
    matters = (
        pl.when(pl.col("rule") == "mean_shift")
        .then(shift.abs() >= MEAN_FLOOR * pl.col("within").fill_null(0.0))
        .when(pl.col("rule") == "volume")
        .then(shift.abs() >= VOLUME_FLOOR * usual)
        .otherwise((rise >= RATE_FLOOR) & (pl.col("chance") <= DAY_ALPHA / max(asked.height, 1)))
    )
    counts = ("failed", "checked", "failed_before", "checked_before")
    chance = statistics.excess_p_value(*(asked[column].to_numpy() for column in counts))
    beyond = shift.abs() > pl.max_horizontal(limit * fewer * pl.col("daily_sd"), 1e-9 * usual.abs())  # not rounding
    hits = asked.with_columns(pl.Series("chance", chance)).filter(outside & beyond & matters)
    for hit in hits.sort(*KEY, "rule").iter_rows(named=True):
        yield (hit["cohort"], hit["column"], hit["quantity"]), _finding(hit)


def _finding(hit: Mapping[str, Any]) -> Finding:
    """A measure that is out, in one sentence: what, baseline, now, shift."""
    rule, column, now, usual = hit["rule"], hit["column"], hit["value"], hit["usual"]
    days = f"over {hit['days']} good days"
    if rule == "volume":
        return Finding(rule, Severity.MEDIUM, None, 0, 0, f"{now:,.0f} rows; {usual:,.0f} a day {days}{_by(hit)}")
    what = _named(hit["cohort"], column, hit["quantity"])
    if rule == "mean_shift":
        message = f"{what}: mean {usual:.5g} {days}, {now:.5g} now{_by(hit)}"
        return Finding(rule, Severity.HIGH, column, 0, hit["checked"], message)
    share, before = hit["failed"] / hit["checked"], hit["failed_before"] / hit["checked_before"]
    severity, noun = Severity.LOW, f"outliers ({rule.removeprefix('outliers_').upper()})"
    if rule == "null_rate":
        severity, noun = Severity.HIGH if share > FEW else Severity.MEDIUM, "missing or not finite"
    message = f"{what}: {before:.2%} {noun} {days}, {share:.2%} now{_by(hit)}"
    return Finding(rule, severity, column, hit["failed"], hit["checked"], message)


def _by(hit: Mapping[str, Any]) -> str:
    """How far today is from the days."""
    if not hit["daily_sd"]:
        return ", and no two of those days differed"
    return f": {(hit['value'] - hit['usual']) / hit['daily_sd']:+.1f} SDs of the daily values"


def _named(cohort: str, column: str, quantity: str) -> str:
    """What a line is about: "'result' of vdd (tester_id=T1)"."""
    return repr(column) + (f" of {quantity}" if quantity else "") + (f" ({cohort})" if cohort else "")


def _columns(lines: pl.DataFrame, history: pl.DataFrame) -> Iterator[tuple[_Key, Finding]]:
    """Columns that are new, gone, or of another type than on the last days with rows; and so quantities."""
    days = _days_with_rows(history)[-MIN_DAYS:]
    if len(days) < MIN_DAYS or _rows(lines) < MIN_ROWS:
        return
    there = (pl.col("cohort") == "") & (pl.col("column") != "") & (pl.col("rows") > pl.col("nulls"))
    ever, now = history.filter(there), lines.filter(there)
    always = _names(ever.filter(pl.col("day").is_in(days)), least=MIN_DAYS)
    before, today = _names(ever), _names(now)
    rows, left = _rows(lines), {column for column, _ in today}
    for column, quantity in sorted(always - today):
        severity = Severity.LOW if column in left else Severity.HIGH
        said = f"{_named('', column, quantity)} is gone: it had values on each of the last {MIN_DAYS} days with rows"
        yield _TABLE, Finding("column_gone", severity, column, 0, rows, said)
    for column, quantity in sorted(today - before):
        said = f"{_named('', column, quantity)} is new: it had no value in {HORIZON.days} days"
        yield _TABLE, Finding("column_new", Severity.LOW, column, 0, rows, said)
    last = dict(ever.sort("day").select("column", "dtype").iter_rows())
    for column, dtype in now.select("column", "dtype").unique().sort("column").iter_rows():
        if column in last and last[column] != dtype:
            said = f"{column!r} is {dtype}, before it was {last[column]}"
            yield _TABLE, Finding("column_type", Severity.HIGH, column, 0, rows, said)


def _names(lines: pl.DataFrame, least: int = 1) -> set[tuple[str, str]]:
    """The columns and quantities that have a line on at least so many days."""
    counts = lines.group_by("column", "quantity").len().filter(pl.col("len") >= least)
    return set(counts.select("column", "quantity").iter_rows())


def _silence(lines: pl.DataFrame, history: pl.DataFrame, day: date) -> Iterable[tuple[_Key, Finding]]:
    """Whether a day without rows is one too many."""
    days = _days_with_rows(history.filter("good"))[-GOOD_DAYS:]
    if _rows(lines) or len(days) < MIN_DAYS:
        return
    longest = max(later - earlier for earlier, later in pairwise(days))
    newest = _days_with_rows(history)[-1]
    if day - newest >= longest:
        said = f"no rows since {newest}, {(day - newest).days} day(s) before; "
        said += f"over {len(days)} good days there were rows at least every {longest.days} day(s)"
        yield _TABLE, Finding("freshness", Severity.MEDIUM, None, 0, 0, said)


def _days_with_rows(history: pl.DataFrame) -> list[date]:
    counted = history.filter((pl.col("column") == "") & (pl.col("rows") > 0))
    return counted["day"].unique().sort().to_list()


def _rows(lines: pl.DataFrame) -> int:
    return int(lines.filter(pl.col("column") == "")["rows"].sum())
