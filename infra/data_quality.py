"""Data quality of a home: what validation said of the files that were taken in, gathered into a report."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from expectations.quarantine import RULES, SEVERITY
from expectations.result import Severity
from features.source import EVENT_DATE, FILE_SHA256, INGESTED_AT, RECORD_OFFSET, Source
from infra.landing import VERDICTS
from infra.ledger import REJECTED, Ledger
from infra.reports.quality_report import (
    MASKED,
    BrokenRule,
    Example,
    QualityDay,
    QualityReport,
    render,
    to_json,
)
from infra.suites import suites_of
from infra.wiring import Platform

_SHORT = 12
"""Characters of a hash that are shown."""


@dataclass(frozen=True)
class WrittenQuality:
    """A quality report, and where its page is; its JSON lies beside it."""

    report: QualityReport
    path: Path


def write_run_quality(platform: Platform, batches: Collection[int]) -> WrittenQuality:
    """The report of what one run took in, by the numbers of its batches (at least one)."""
    taken = Ledger(platform.lake).entries().filter(pl.col("plan").is_in(list(batches)))
    first, last = taken["ingested_at"].min(), taken["ingested_at"].max()
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    report = _report(platform, f"Quality of the files of {last:%Y-%m-%d %H:%M} UTC", taken, first, last)
    return _written(platform, report, f"run-{last:%Y-%m-%dT%H%M%S}")


def write_quality(platform: Platform, days: int) -> WrittenQuality:
    """The report of the last days up to now: of every file that was taken in after that moment."""
    until = platform.store.now()
    since = until - timedelta(days=days)
    taken = Ledger(platform.lake).entries()
    taken = taken.filter(pl.col("ingested_at") > since, pl.col("ingested_at") <= until)
    return _written(platform, _report(platform, f"Quality of the last {days} days", taken, since, until), "latest")


def _written(platform: Platform, report: QualityReport, name: str) -> WrittenQuality:
    folder = platform.settings.reports / "quality"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.html"
    path.write_text(render(report), "utf-8")
    path.with_suffix(".json").write_text(json.dumps(to_json(report), indent=1), "utf-8")
    return WrittenQuality(report, path)


def _report(platform: Platform, title: str, taken: pl.DataFrame, since: datetime, until: datetime) -> QualityReport:
    """What was found in files, given by their ledger rows."""
    found, sources = _found(platform, taken), platform.store.registry.sources.values()
    refused = taken.filter(pl.col("status") == REJECTED)
    return QualityReport(
        title,
        since,
        until,
        files=taken.height,
        days=_days(taken, since, until),
        judged=_judged(platform, taken, found),
        broken=_broken(found),
        refused=[(path, reason or "") for path, reason in refused.select("path", "reason").sort("path").iter_rows()],
        examples=[example for source in sources for example in _examples(platform, source, taken)],
    )


def _found(platform: Platform, taken: pl.DataFrame) -> pl.DataFrame:
    """The findings about the files."""
    verdicts = platform.lake.scan_log(VERDICTS)
    if verdicts is None:
        return pl.DataFrame(schema={"source": pl.String, "rule": pl.String, FILE_SHA256: pl.String})
    files = taken.lazy().select(pl.col("file_sha256").alias(FILE_SHA256), pl.col("ingested_at").alias("judged_at"))
    return verdicts.join(files, on=[FILE_SHA256, "judged_at"], how="semi").collect()


def _days(taken: pl.DataFrame, since: datetime, until: datetime) -> list[QualityDay]:
    """A line for each UTC day, those without files too."""
    days = pl.date_range(since.date(), until.date(), eager=True).alias("day")
    sums = taken.group_by(pl.col("ingested_at").dt.date().alias("day")).agg(pl.col("rows", "quarantined").sum())
    per_day = days.to_frame().join(sums, on="day", how="left").fill_null(0).sort("day")
    return [QualityDay(*row) for row in per_day.iter_rows()]


def _judged(platform: Platform, taken: pl.DataFrame, found: pl.DataFrame) -> int:
    """How many rules were judged, file by file: those of each source that a file fed."""
    suite_of = suites_of(platform)
    suites = {name: suite_of(source) for name, source in platform.store.registry.sources.items()}
    rules = {name: len(suite.schema) + len(suite.rows) for name, suite in suites.items()}
    fed = {(sha, name) for sha, fed in taken.select("file_sha256", "delivered").iter_rows() for name in json.loads(fed)}
    fed |= set(found.select(FILE_SHA256, "source").iter_rows())
    return sum(rules.get(name, 0) for _, name in fed)


def _broken(found: pl.DataFrame) -> list[BrokenRule]:
    """Findings by source, rule and severity, the worst and most frequent first."""
    if found.is_empty():
        return []
    sums = found.group_by("source", "rule", "severity", maintain_order=True).agg(
        pl.col("column").first(),
        pl.col("failed", "checked").sum(),
        pl.col(FILE_SHA256).n_unique().alias("files"),
        pl.col("message").last(),
    )
    rank = pl.col("severity").replace_strict({s.label: s.value for s in Severity}, return_dtype=pl.Int64)
    ranked = sums.sort(rank, "failed", "source", "rule", descending=[True, True, False, False])
    return [BrokenRule(**row) for row in ranked.to_dicts()]


def _examples(platform: Platform, source: Source, taken: pl.DataFrame) -> list[Example]:
    """Of each set of rules that rows in quarantine broke, the last row of the newest file."""
    held = platform.lake.scan_log(f"quarantine/{source.name}")
    if held is None:
        return []
    files = taken.lazy().select(pl.col("file_sha256").alias(FILE_SHA256), pl.col("ingested_at").alias(INGESTED_AT))
    mine = held.join(files, on=[FILE_SHA256, INGESTED_AT], how="semi").sort(INGESTED_AT, FILE_SHA256, RECORD_OFFSET)
    rows = mine.unique(RULES, keep="last", maintain_order=True).collect()
    return [_example(source, row) for row in rows.reverse().to_dicts()]


def _example(source: Source, row: dict[str, Any]) -> Example:
    """A row as it is shown."""
    rules, severity, file, offset = row.pop(RULES), row.pop(SEVERITY), row.pop(FILE_SHA256), row.pop(RECORD_OFFSET)
    own = {name: value for name, value in row.items() if value is not None and name not in (INGESTED_AT, EVENT_DATE)}
    values = {name: MASKED if name in source.sensitive else str(value) for name, value in own.items()}
    return Example(source.name, rules, severity or "", file[:_SHORT], offset, values)
