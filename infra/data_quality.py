"""Data quality of a home: what validation said of the files that were taken in, gathered into a report."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from expectations.quality import HORIZON
from expectations.quarantine import RULES, SEVERITY
from expectations.result import Severity
from features.source import EVENT_DATE, FILE_SHA256, INGESTED_AT, RECORD_OFFSET, Source
from infra.feature_quality import open_feature_quality
from infra.ledger import REJECTED, Ledger
from infra.quality import open_quality
from infra.reports.quality_report import (
    MASKED,
    AcceptedChange,
    BrokenByFeatures,
    BrokenRule,
    Example,
    QualityDay,
    QualityReport,
    UnusualDay,
    render,
    to_json,
)
from infra.wiring import Platform

_SHORT = 12
"""Characters of a hash that are shown."""
_RANK = pl.col("severity").replace_strict({s.label: s.value for s in Severity}, return_dtype=pl.Int64)


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
    # A batch is stamped after what was there before, and its days are judged at the clock's now.
    now = platform.store.now()
    title = f"Quality of the files of {last:%Y-%m-%d %H:%M} UTC"
    report = _report(platform, title, taken, min(first, now), max(last, now))
    return _written(platform, report, f"run-{last:%Y-%m-%dT%H%M%S}")


def write_quality(platform: Platform, days: int) -> WrittenQuality:
    """The report of the last days up to now: of every file and every feature row that came in after that moment.

    Feature rows that no run judged yet are judged.
    """
    open_feature_quality(platform).judge_all()
    until = platform.store.now()
    since = until - timedelta(days=days)
    taken = Ledger(platform.lake).entries()
    taken = taken.filter(pl.col("ingested_at") > since, pl.col("ingested_at") <= until)
    report = _report(platform, f"Quality of the last {days} days", taken, since, until)
    made = open_feature_quality(platform).verdicts(since, until)
    checked = int(made.filter(pl.col("rule").is_null())["checked"].sum())
    return _written(platform, replace(report, feature_rows=checked, features=_made(made.drop_nulls("rule"))), "latest")


def _written(platform: Platform, report: QualityReport, name: str) -> WrittenQuality:
    folder = platform.settings.reports / "quality"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.html"
    path.write_text(render(report), "utf-8")
    path.with_suffix(".json").write_text(json.dumps(to_json(report), indent=1), "utf-8")
    return WrittenQuality(report, path)


def _report(platform: Platform, title: str, taken: pl.DataFrame, since: datetime, until: datetime) -> QualityReport:
    """What was found in files, given by their ledger rows, and in days that were judged from ``since`` on."""
    quality = open_quality(platform)
    verdicts = quality.verdicts(since).filter(pl.col("judged_at") <= until)
    of_days = verdicts.filter(pl.col("day").is_not_null())
    files = taken.select(pl.col("file_sha256").alias(FILE_SHA256), pl.col("ingested_at").alias("judged_at"))
    of_files = verdicts.join(files, on=[FILE_SHA256, "judged_at"], how="semi")
    refused = taken.filter(pl.col("status") == REJECTED)
    sources = platform.store.registry.sources.values()
    return QualityReport(
        title,
        since,
        until,
        files=taken.height,
        days=_days(taken, since, until),
        judged=int(of_files["rules"].sum()),
        broken=_broken(of_files.drop_nulls("rule")),
        unusual=_unusual(of_days),
        accepted=_accepted(quality.accepted(), until),
        refused=[(path, reason or "") for path, reason in refused.select("path", "reason").sort("path").iter_rows()],
        examples=[example for source in sources for example in _examples(platform, source, taken)],
    )


def _days(taken: pl.DataFrame, since: datetime, until: datetime) -> list[QualityDay]:
    """A line for each UTC day, those without files too."""
    days = pl.date_range(since.date(), until.date(), eager=True).alias("day")
    sums = taken.group_by(pl.col("ingested_at").dt.date().alias("day")).agg(pl.col("rows", "quarantined").sum())
    per_day = days.to_frame().join(sums, on="day", how="left").fill_null(0).sort("day")
    return [QualityDay(*row) for row in per_day.iter_rows()]


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
    ranked = sums.sort(_RANK, "failed", "source", "rule", descending=[True, True, False, False])
    return [BrokenRule(**row) for row in ranked.to_dicts()]


def _made(found: pl.DataFrame) -> list[BrokenByFeatures]:
    """Findings in feature rows by group, rule and severity, the worst and most frequent first."""
    sums = found.group_by("group", "rule", "severity", maintain_order=True).agg(
        pl.col("column", "message").last(), pl.col("failed", "checked").sum(), pl.col("plan").n_unique().alias("runs")
    )
    ranked = sums.sort(_RANK, "failed", "group", "rule", descending=[True, True, False, False])
    return [BrokenByFeatures(**row) for row in ranked.to_dicts()]


def _unusual(found: pl.DataFrame) -> list[UnusualDay]:
    """Findings about days, the worst first, then the newest."""
    ranked = found.sort(_RANK, "day", "source", "rule", descending=[True, True, False, False], maintain_order=True)
    columns = ("source", "day", "cohort", "rule", "severity", "column", "message")
    return [UnusualDay(**row) for row in ranked.select(columns).to_dicts()]


def _accepted(changes: pl.DataFrame, until: datetime) -> list[AcceptedChange]:
    """The changes that shorten baselines at a moment, the newest first."""
    known = changes.filter(pl.col("accepted_at") <= until, pl.col("since") > until.date() - HORIZON)
    ranked = known.sort("since", "number", descending=True)
    return [AcceptedChange(**row) for row in ranked.select("source", "since", "reason", "accepted_at").to_dicts()]


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
