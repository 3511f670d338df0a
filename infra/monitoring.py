"""Monitoring: gather what a night must be judged by, judge it, write the report and remember the verdict.

The day watched is the UTC day before ``now``; its baseline are the 30 days before that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import polars as pl
from sklearn.base import is_classifier

from expectations.baseline import kind_of
from expectations.drift import ColumnData, ColumnDrift, detect
from expectations.performance import CLUSTER, LABEL, LABELLED_AT, PREDICTED_AT, by_day, classification, regression
from expectations.pictures import picture
from features.entity import DataType
from features.errors import InvalidInput
from features.feature_group import FeatureGroup
from features.feature_rows import EVENT
from features.model import ModelSpec
from features.source import EVENT_DATE, Source
from features.times import UTC_US, duration, to_micros
from infra.feature_quality import open_feature_quality
from infra.landing import VERDICTS
from infra.ledger import REJECTED, TRUNCATED, Ledger
from infra.model_runs import judged
from infra.reports.nightly_report import (
    Freshness,
    ModelNight,
    NightlyReport,
    Provenance,
    QualityCount,
    Volume,
    heat_row,
    render,
    to_json,
)
from infra.wiring import Platform

BASELINE_DAYS = 30
DRIFT_LOG = "drift/columns"


@dataclass(frozen=True)
class Written:
    """A report on disk, and what it says."""

    path: Path
    verdict: str
    drifted: list[str]
    checked: int


@dataclass(frozen=True)
class Watched:
    """The columns of one table over the baseline days and the day judged."""

    name: str
    version: int
    rows: pl.DataFrame
    day: date

    def columns(self) -> dict[str, ColumnData]:
        """Each column by its reference, "group:feature" or "source:column"."""
        today = self.rows[EVENT_DATE] == self.day
        before, now = self.rows.filter(~today), self.rows.filter(today)
        return {
            f"{self.name}:{column}": ColumnData(before[column], before[EVENT_DATE], now[column])
            for column in self.rows.columns
            if column != EVENT_DATE
        }

    def provenance(self) -> Provenance:
        """Where the two samples come from."""
        batch = int((self.rows[EVENT_DATE] == self.day).sum())
        return Provenance(self.name, str(self.version), self.rows.height - batch, str(self.version), batch)


def day_before(now: datetime) -> tuple[datetime, datetime]:
    """The UTC day before ``now``, as [start, end).

    >>> day_before(datetime(2026, 3, 2, 7, tzinfo=UTC))[0].isoformat()
    '2026-03-01T00:00:00+00:00'
    """
    end = datetime.combine(now.astimezone(UTC).date(), time(), UTC)
    return end - timedelta(days=1), end


def write_report(platform: Platform) -> Written:
    """Judge the day before now and write its report as HTML and JSON below the home's reports."""
    store = platform.store
    start, end = day_before(store.now())
    tables = list(_watched(platform, start, end))
    columns = {ref: data for table in tables for ref, data in table.columns().items()}
    drift = detect(columns)
    report = NightlyReport(
        title=f"Night of {start:%Y-%m-%d}",
        now=store.now(),
        day=start.date(),
        drift=drift,
        pictures={d.ref: picture(columns[d.ref]) for d in drift if d.state == "drift"},
        heat=[heat_row(columns[d.ref], d, start.date()) for d in drift if d.state in ("drift", "ok")],
        provenance=[table.provenance() for table in tables],
        quality=_quality(platform),
        freshness=[freshness(platform, group) for group in store.registry.groups.values() if group.online],
        volume=[_volume(platform, source, end) for source in store.registry.sources.values()],
        models=[night for spec in store.registry.models.values() if (night := _model(platform, spec)) is not None],
        untested=_untested(platform, tables),
        changes=_changes(platform, drift),
    )
    _remember(platform, report)
    folder = platform.settings.reports
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{start:%Y-%m-%d}.html"
    path.write_text(render(report), "utf-8")
    path.with_suffix(".json").write_text(json.dumps(to_json(report), indent=1), "utf-8")
    return Written(path, report.sentence, list(report.drifted), report.checked)


def _watched(platform: Platform, start: datetime, end: datetime) -> Iterable[Watched]:
    """Every served feature and every measured source column, over the baseline days and the day."""
    store, since = platform.store, start - timedelta(days=BASELINE_DAYS)
    for group in store.registry.groups.values():
        if group.online:
            rows = store.current_rows(group, since, end)
            features = _comparable(rows, group.feature_names)
            kept = rows.select(*features, pl.col(EVENT).dt.date().alias(EVENT_DATE)).collect()
            version = platform.lake.table(f"features/{group.table_id}").version()
            yield Watched(group.name, version or 0, kept, start.date())
    for source in store.registry.sources.values():
        raw = platform.lake.scan_source(source.name, None, since.date(), start.date())
        if raw is not None:
            kept = raw.select(*_comparable(raw, _measured(source)), EVENT_DATE).collect()
            yield Watched(source.name, store.offline.source_version(source.name) or 0, kept, start.date())


def _measured(source: Source) -> list[str]:
    """The columns of a source that measure something: numbers and booleans that are no key."""
    keys = {*(source.keys or ()), source.event_timestamp}
    return [c for c, t in source.schema.items() if c not in keys and (t.is_numeric() or t == pl.Boolean)]


def _comparable(rows: pl.LazyFrame, columns: Iterable[str]) -> list[str]:
    """The columns whose type has a distribution; one that the definition was just given may not be there yet."""
    schema, found = rows.collect_schema(), []
    for column in (c for c in columns if c in schema):
        try:
            kind_of(schema[column])
        except InvalidInput:
            continue
        found.append(column)
    return found


def _quality(platform: Platform) -> list[QualityCount]:
    """What validation found in the files and in the feature rows of the last day."""
    now = platform.store.now()
    counts = []
    verdicts = platform.lake.scan_log(VERDICTS)
    if verdicts is not None:
        recent = verdicts.filter(pl.col("judged_at") > now - timedelta(days=1), pl.col("judged_at") <= now)
        broken = recent.filter(pl.col("rule").is_not_null())
        summed = broken.group_by("source", "rule", "severity").agg(pl.col("failed").sum()).collect()
        outcomes = {"critical": "file blocked", "low": "noted"}
        for source, rule, severity, failed in summed.sort("source", "rule").iter_rows():
            counts.append(QualityCount(source, rule, severity, failed, outcomes.get(severity, "rows quarantined")))
    made = open_feature_quality(platform).verdicts(now - timedelta(days=1), now).drop_nulls("rule")
    summed = made.group_by("group", "rule", "severity").agg(pl.col("failed").sum()).sort("group", "rule")
    for group, rule, severity, failed in summed.iter_rows():
        counts.append(QualityCount(group, rule, severity, failed, "rows kept"))
    ledger = Ledger(platform.lake).entries()
    ledger = ledger.filter(pl.col("ingested_at") > now - timedelta(days=1), pl.col("ingested_at") <= now)
    if rejected := ledger.filter(pl.col("status") == REJECTED).height:
        counts.append(QualityCount("ingest_ledger", "file refused", "critical", rejected, "nothing landed"))
    if truncated := ledger.filter(pl.col("status") == TRUNCATED).height:
        counts.append(QualityCount("ingest_ledger", "file truncated", "high", truncated, "whole records landed"))
    return counts


def freshness(platform: Platform, group: FeatureGroup) -> Freshness:
    """A group's newest event time, and the ages that it may reach."""
    newest = platform.store.current_rows(group).select(pl.col(EVENT).max()).collect().item()
    return Freshness(group.name, newest, group.ttl_span, duration(group.sla) if group.sla else None)


def _volume(platform: Platform, source: Source, end: datetime) -> Volume:
    raw = platform.lake.scan_source(source.name, None, (end - timedelta(days=BASELINE_DAYS)).date(), end.date())
    counts: Mapping[date, int] = {}
    if raw is not None:
        counts = dict(raw.group_by(EVENT_DATE).len().collect().iter_rows())
    return Volume(source.name, counts)


def _model(platform: Platform, spec: ModelSpec) -> ModelNight | None:
    """How a model's predictions of the last days turned out; a label counts once ``label_delay`` has passed."""
    now = platform.store.now()
    group = platform.store.versions.current().group(spec.label_ref.head)
    rows = judged(platform.store, platform.lake, spec)
    rows = rows.filter(pl.col(EVENT) > now - timedelta(days=BASELINE_DAYS), pl.col(PREDICTED_AT) <= now)
    if rows.is_empty():
        return None
    known = pl.col(EVENT) + duration(spec.label_delay) <= now
    cluster = [k for k in group.prepare_by if k in rows.columns] or group.keys[:1]
    rows = rows.with_columns(
        pl.when(known).then(pl.col(LABEL).cast(pl.Float64)).alias(LABEL),
        (pl.col(EVENT) + duration(spec.label_delay)).alias(LABELLED_AT),
        pl.concat_str(cluster, separator="/").alias(CLUSTER),
        pl.col(EVENT).dt.date().alias("day"),
    )
    judge = classification if is_classifier(spec.estimator) else regression
    return ModelNight(judge(spec.name, rows), by_day(judge, spec.name, rows, "day"))


def _untested(platform: Platform, tables: list[Watched]) -> list[tuple[str, str]]:
    """What the night could not judge, and why."""
    reasons = [(t.name, "no row on the day or before") for t in tables if t.rows.is_empty()]
    silent = [n for n in platform.store.registry.models if platform.lake.scan_log(f"predictions/{n}") is None]
    why = "it made no prediction yet: no registered version, or nothing to ask"
    return reasons + [(f"model {name}", why) for name in silent]


def _changes(platform: Platform, drift: list[ColumnDrift]) -> list[str]:
    """How the drifted columns differ from those of the night before."""
    log = platform.lake.scan_log(DRIFT_LOG)
    if log is None:
        return []
    last = log.filter(pl.col("now") < platform.store.now()).filter(pl.col("now") == pl.col("now").max()).collect()
    before = set(last.filter(pl.col("state") == "drift")["ref"])
    today = {d.ref for d in drift if d.state == "drift"}
    sentences = [f"{ref} drifts, the night before it did not." for ref in sorted(today - before)]
    return sentences + [f"{ref} no longer drifts." for ref in sorted(before - today)]


def _remember(platform: Platform, report: NightlyReport) -> None:
    """Keep the verdict on every column: the report's own memory, once per moment."""
    rows = [(report.now, report.day, d.ref, d.state, d.daily_z, d.effect, d.q_value, d.message) for d in report.drift]
    number = pl.Float64()
    schema: dict[str, DataType] = {"now": UTC_US, "day": pl.Date(), "ref": pl.String(), "state": pl.String()}
    schema |= {"daily_z": number, "effect": number, "q_value": number, "message": pl.String()}
    if rows:
        frame = pl.DataFrame(rows, schema=schema, orient="row")
        platform.lake.append_log(DRIFT_LOG, frame, app_id=f"drift:{to_micros(report.now)}", number=1)
