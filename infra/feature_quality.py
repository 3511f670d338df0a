"""The quality of feature rows: whatever came into a group's table, judged by the group's suite.

Runs bring rows exactly once, and nothing holds them back: those they are made of were let in. But a definition may be
wrong, or a rule be about what comes out. So the rows are judged once they are in, plan by plan, each plan once: the
findings, and how far they go, are one commit to ``quality/groups/<table>``. A judgement that is killed is made by the
next one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import date, datetime

import polars as pl

from expectations.masks import mask, prepare, row_findings
from expectations.result import Finding, Severity
from expectations.rules import SchemaRule, Suite, Unique
from features.compute import stored_schema
from features.entity import DataType
from features.feature_group import FeatureGroup
from features.feature_rows import AS_IF, CREATED, DELETED, EVENT, PLAN
from features.registry import Registry
from features.source import EVENT_DATE
from features.times import UTC_US, Clock
from infra.landing import FINDING_COLUMNS
from infra.storage.delta import DeltaLake
from infra.suites import group_suites_of
from infra.wiring import Platform

_ROWS = 2_000_000
"""Rows that are judged at once; a day of more is judged by itself."""
_APP_ID, _PLAN = "quality", "plan"
_KNOWN = "_known"
GROUP_VERDICTS: dict[str, DataType] = {
    "number": pl.Int64(),
    "group": pl.String(),
    "plan": pl.Int64(),
    **FINDING_COLUMNS,
    "judged_at": UTC_US,
}
"""The verdict on the rows that a plan brought into a group's table. The line without a ``rule`` is about all of them:
``checked`` rows, judged by so many ``rules``, the worst severity (null: clean). Each finding has a line too."""
_SAID: dict[str, DataType] = {"plan": pl.Int64(), **FINDING_COLUMNS}
_NO_COUNTS = pl.DataFrame(schema={"file": pl.String, "rule": pl.String, "failed": pl.Int64, "checked": pl.Int64})


class FeatureQuality:
    """What a home knows of the quality of its feature rows; ``suite_of`` says what a group is judged by."""

    def __init__(
        self, lake: DeltaLake, registry: Registry, suite_of: Callable[[FeatureGroup], Suite], clock: Clock
    ) -> None:
        self._lake = lake
        self._registry = registry
        self._suite_of = suite_of
        self._clock = clock

    def judge(self, group: str) -> pl.DataFrame:
        """Judge what plans that are closed brought since the last judgement: what was found now, as in GROUP_VERDICTS.

        Of two who judge the same at the same moment, one finds it.
        """
        known = self._registry.group(group)
        if not self._lake.has_feature_table(known.table_id):
            return pl.DataFrame(schema=GROUP_VERDICTS)
        rows = self._lake.feature_table(known.table_id, stored_schema(known), known.keys)
        log = self._lake.table(_path(known))
        log.handle()
        number, through, state = max(log.reached(_APP_ID), 0) + 1, log.reached(_PLAN), rows.state()
        if state.closed <= max(through, 0):
            return pl.DataFrame(schema=GROUP_VERDICTS)
        fresh = rows.scan(state.version).filter(pl.col(PLAN) > through, pl.col(PLAN) <= state.closed, ~pl.col(DELETED))
        lines = _judged(_versions_apart(self._suite_of(known)), known, fresh)
        said = {"number": number, "group": group, "judged_at": self._clock()}
        news = lines.with_columns(pl.lit(value, GROUP_VERDICTS[name]).alias(name) for name, value in said.items())
        ours = log.append_once(news.select(list(GROUP_VERDICTS)), _APP_ID, number, marks={_PLAN: state.closed})
        return news.clear() if ours is None else news.filter(pl.col("rule").is_not_null())

    def judge_all(self) -> None:
        """Judge every group about which there is news."""
        for group in self._registry.groups:
            self.judge(group)

    def verdicts(self, since: datetime, until: datetime) -> pl.DataFrame:
        """What was said of the groups' rows in [since, until]: the columns of GROUP_VERDICTS, in that order of time."""
        held = [self._lake.scan_log(_path(group)) for group in self._registry.groups.values()]
        there = [frame for frame in held if frame is not None]
        if not there:
            return pl.DataFrame(schema=GROUP_VERDICTS)
        lines = pl.concat(there).filter(pl.col("judged_at") >= since, pl.col("judged_at") <= until)
        return lines.sort("judged_at", "group", "plan", maintain_order=True).collect()


def _judged(suite: Suite, group: FeatureGroup, rows: pl.LazyFrame) -> pl.DataFrame:
    """The lines about the rows of some plans, each plan by itself; the rows of few days are in memory at once."""
    plan, known = pl.col(PLAN).cast(pl.String), pl.coalesce(AS_IF, CREATED).alias(_KNOWN)
    counts: list[pl.DataFrame] = []
    checked, findings = Counter[str](), dict[str, dict[str, Finding]]()
    for days in _batches(rows):
        of_days = rows.filter(pl.col(EVENT_DATE).is_in(days)).select(plan, known, EVENT, *stored_schema(group))
        for batch in of_days.collect().partition_by(PLAN, maintain_order=True):
            masks, number = mask(suite, prepare(suite, batch, PLAN), PLAN), batch[PLAN][0]
            checked[number] += batch.height
            found = findings.setdefault(number, {})
            found |= {rule.name: _missed(rule) for rule in suite.schema if not rule.holds(batch.schema)}
            found |= {name: _unjudged(name, reason) for name, reason in masks.errors.items()}
            counts.append(masks.counts)
    summed = pl.concat(counts).group_by("file", "rule", maintain_order=True).sum() if counts else _NO_COUNTS
    for number, finding in row_findings(suite, summed):
        findings[number].setdefault(finding.rule, finding)
    asked = len(suite.schema) + len(suite.rows)
    lines = [line for number in findings for line in _lines(number, findings[number], checked[number], asked)]
    return pl.DataFrame(lines, schema=_SAID, orient="row").sort("plan", maintain_order=True)


def _lines(plan: str, found: Mapping[str, Finding], rows: int, asked: int) -> Iterator[tuple[object, ...]]:
    """What a plan's rows are said to be, in the columns of _SAID."""
    worst = max((finding.severity for finding in found.values()), default=None)
    yield int(plan), None, worst.label if worst else None, None, None, rows, None, asked
    for f in sorted(found.values(), key=lambda finding: (-finding.severity, finding.rule)):
        yield int(plan), f.rule, f.severity.label, f.column, f.failed, f.checked, f.message, None


def _missed(rule: SchemaRule) -> Finding:
    return Finding(rule.name, rule.severity, rule.column, 0, 0, rule.complaint)


def _unjudged(rule: str, reason: str) -> Finding:
    return Finding(rule, Severity.CRITICAL, None, 0, 0, f"rule {rule!r} could not be judged: {reason}")


def _versions_apart(suite: Suite) -> Suite:
    """The suite for rows of which there are versions: a plan may take in a row and, pushed later, its correction."""
    rules = [replace(rule, among=[*rule.among, _KNOWN]) if isinstance(rule, Unique) else rule for rule in suite.rows]
    return replace(suite, rows=rules)


def _batches(rows: pl.LazyFrame) -> Iterator[list[date]]:
    """The days of some rows in order, those together that are judged at once."""
    days: list[date] = []
    size = 0
    for day, count in rows.group_by(EVENT_DATE).len().sort(EVENT_DATE).collect().iter_rows():
        if days and size + count > _ROWS:
            yield days
            days, size = [], 0
        days.append(day)
        size += count
    if days:
        yield days


def _path(group: FeatureGroup) -> str:
    return f"quality/groups/{group.table_id}"


def open_feature_quality(platform: Platform) -> FeatureQuality:
    """The quality of a home's feature rows, judged by the home's suites; raises SettingsError where these are wrong."""
    return FeatureQuality(platform.lake, platform.store.registry, group_suites_of(platform), platform.store.now)
