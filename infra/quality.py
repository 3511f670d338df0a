"""The memory of data quality in Delta: the verdict on every file, and the days of every source with theirs.

Days are computed anew from bronze: those that commits touched since the last time, and those that were not over when
they were judged. So a late file, a row let in from quarantine or one withdrawn counts, and a day that was judged
again has its older lines in the table but not in what is read. One commit per source holds the lines, their findings
and the bronze version they were read at: a run that is killed leaves the rest to the next.

A person may accept that a source changed for good: then days before the change are no baseline of those after it, which
are judged anew.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta

import polars as pl

from expectations.days import Watch, measure_days
from expectations.quality import HORIZON, JUDGED, judge
from expectations.result import Severity
from expectations.suites.watches import watch_for
from features.entity import DataType
from features.errors import ConcurrentRun, InvalidInput, StorageError
from features.registry import Registry
from features.source import EVENT_DATE, FILE_SHA256, Source
from features.times import UTC_US, Clock
from infra.landing import VERDICT_COLUMNS, VERDICTS
from infra.ledger import LEDGER
from infra.storage.delta import DeltaLake
from infra.wiring import Platform

_ROWS = 2_000_000
"""Rows that are measured at once; a day of more is measured by itself."""
_APP_ID, _READ, _KNOWN = "quality", "bronze", "accepted"
ACCEPTED = "quality/accepted"
_CHANGE: dict[str, DataType] = {
    "number": pl.Int64(),
    "source": pl.String(),
    "since": pl.Date(),
    "reason": pl.String(),
    "accepted_at": UTC_US,
}
DAYS: dict[str, DataType] = {
    "number": pl.Int64(),
    "version": pl.Int64(),
    "judged_at": UTC_US,
    **JUDGED,
}
"""A judged line in Delta: by which judgement (``number``), at which version of bronze, when."""


class Quality:
    """What a home knows of the quality of its sources."""

    def __init__(
        self, lake: DeltaLake, registry: Registry, clock: Clock, watches: Callable[[Source], Watch] = watch_for
    ) -> None:
        self._lake = lake
        self._registry = registry
        self._clock = clock
        self._watches = watches

    def judge(self) -> None:
        """Judge the days of every source about which there is news."""
        for source in self._registry.sources.values():
            self._judge(source, self._clock())

    def accept(self, source: str, since: date, reason: str) -> None:
        """Record that a source is as it should be from a day on, and judge its days from then on anew.

        They are compared with each other alone, with no day before. What is accepted already is not recorded again.
        Raises NotRegistered for an unknown source, InvalidInput for a day in the future or no reason, ConcurrentRun
        where somebody else accepted something in the meantime.
        """
        known, now, held = self._registry.source(source), self._clock(), self.accepted()
        if since > now.date():
            raise InvalidInput(f"source {source!r}: {since} is after today, {now:%F} in UTC: name a day that has begun")
        if not reason.strip():
            raise InvalidInput(f"source {source!r}: give a reason for whoever asks later why it changed")
        if held.filter(pl.col("source") == source, pl.col("since") == since).is_empty():
            number = held.height + 1
            said = pl.DataFrame([(number, source, since, reason, now)], schema=_CHANGE, orient="row")
            if self._lake.append_log(ACCEPTED, said, app_id=_APP_ID, number=number) is None:
                raise ConcurrentRun("somebody else accepted a change in the meantime: look again, then accept")
        self._judge(known, now)

    def accepted(self) -> pl.DataFrame:
        """What was accepted so far, a line each: number, source, since, reason and accepted_at."""
        held = self._lake.scan_log(ACCEPTED)
        return pl.DataFrame(schema=_CHANGE) if held is None else held.sort("number").collect()

    def verdicts(self, since: datetime | None = None) -> pl.DataFrame:
        """What was found, in files and in days, judged at ``since`` or later; in the order of judgement.

        Each file has a line per source without ``rule``: its rows (``checked``), those rejected (``failed``), how many
        ``rules`` were asked, and the worst severity (null: clean). Every finding has a line with its ``rule``: of a
        file, or of a ``day`` of a source and a cohort.
        """
        held = self._lake.scan_log(VERDICTS)
        files = pl.DataFrame(schema=VERDICT_COLUMNS) if held is None else held.collect()
        days = [self._day_findings(name) for name in self._registry.sources]
        found = pl.concat([files, *days], how="diagonal")
        found = found if since is None else found.filter(pl.col("judged_at") >= since)
        return found.sort("judged_at", "source", "day", FILE_SHA256, "rule", nulls_last=False, maintain_order=True)

    def days(self, source: str, since: date | None = None) -> pl.DataFrame:
        """The days of a source as they were judged last: a line per day, cohort, column and quantity."""
        held = self._lake.scan_log(_path(self._registry.source(source).name))
        if held is None:
            return pl.DataFrame(schema=DAYS)
        held = held if since is None else held.filter(pl.col("day") >= since)
        newest = held.filter(pl.col("number") == pl.col("number").max().over("day"))
        return newest.sort("day", "cohort", "column", "quantity").collect()

    def _day_findings(self, source: str) -> pl.DataFrame:
        found = self.days(source).filter(pl.col("findings").list.len() > 0).explode("findings").unnest("findings")
        return found.select(
            pl.lit(source).alias("source"),
            *("number", "rule", "severity", "column", "failed", "checked", "message", "judged_at", "day", "cohort"),
        )

    def _judge(self, source: Source, now: datetime) -> None:
        version = self._lake.source_version(source.name)
        if version is None:
            return
        table = self._lake.table(_path(source.name))
        table.handle()
        number, through = max(table.reached(_APP_ID), 0) + 1, table.reached(_READ)
        touched = self._touched(source, through, version)
        # Read after the table: what is accepted from here on is news to the next judgement.
        accepted = self.accepted().filter(pl.col("source") == source.name)
        unknown = accepted.filter(pl.col("number") > table.reached(_KNOWN))
        due = self._due(source, touched, min(unknown["since"], default=None), now.date())
        if not due:
            return
        spoiling = self._spoiling()
        history = self.days(source.name, min(due) - HORIZON).select(list(JUDGED))
        judged = []
        for days in self._batches(source, version, sorted(due)):
            rows = self._rows(source, version, days)
            spoiled = set(rows.filter(pl.col(FILE_SHA256).is_in(spoiling.implode()))[EVENT_DATE])
            lines = measure_days(rows, self._watches(source), days)
            for day in days:
                first = max([day - HORIZON, *(since for since in accepted["since"] if since <= day)])
                history = history.filter(pl.col("day") != day, pl.col("day") >= first)
                of_day = lines.filter(pl.col("day") == day)
                judged.append(judge(of_day, history, over=day < now.date(), spoiled=day in spoiled))
                history = pl.concat([history, judged[-1]])
        said = {"number": number, "version": version, "judged_at": now}
        news = pl.concat(judged).with_columns(pl.lit(value, DAYS[name]).alias(name) for name, value in said.items())
        marks = {_READ: version, _KNOWN: max(accepted["number"], default=0)}
        table.append_once(news.select(list(DAYS)), _APP_ID, number, marks=marks)

    def _touched(self, source: Source, through: int, version: int) -> set[date]:
        """The days of which bronze commits after a version (-1: from the first) brought or took rows."""
        if through >= version:
            return set()
        if through >= 0:
            try:
                return set(self._lake.source_changes(source.name, through, version, [EVENT_DATE])[EVENT_DATE])
            except StorageError:
                pass  # the change feed was vacuumed: every day may have changed
        return set(self._lake.source_days(source.name, version)[EVENT_DATE])

    def _due(self, source: Source, touched: set[date], anew: date | None, today: date) -> set[date]:
        """The days to judge: those touched, those judged before they were over, all from ``anew``, a silent yesterday.

        But none so old that no baseline reaches it: years that are imported at once are not measured day by day.
        """
        held = self._lake.scan_log(_path(source.name))
        judged = pl.DataFrame(schema={"day": pl.Date, "on": pl.Date})
        if held is not None:
            whole = held.filter(pl.col("column") == "")
            judged = whole.group_by("day").agg(pl.col("judged_at").max().dt.date().alias("on")).collect()
        past = [day for day in {*judged["day"], *touched} if day <= today]
        newest, yesterday = max(past, default=today), today - timedelta(days=1)
        early = (pl.col("day") < today) & (pl.col("on") <= pl.col("day"))
        again = judged.filter(early | (pl.col("day") >= anew) if anew else early)
        silent = {yesterday} if past and newest < yesterday else set()
        return {day for day in {*touched, *again["day"]} if day > newest - HORIZON} | silent

    def _batches(self, source: Source, version: int, due: list[date]) -> list[list[date]]:
        """Days in order, those together that are measured at once: as many as have so many rows."""
        days = self._lake.source_days(source.name, version)
        counts = dict(zip(days[EVENT_DATE], days["rows"], strict=True))
        batches: list[list[date]] = []
        size = _ROWS + 1
        for day in due:
            size += counts.get(day, 0)
            if size > _ROWS:
                batches.append([])
                size = counts.get(day, 0)
            batches[-1].append(day)
        return batches

    def _rows(self, source: Source, version: int, days: list[date]) -> pl.DataFrame:
        """The rows of some days, as far as they are watched."""
        raw = self._lake.scan_source(source.name, version, days[0], days[-1])
        assert raw is not None  # it has a version
        there = raw.collect_schema()
        watched = [c for c in self._watches(source).needed if c in there]
        return raw.filter(pl.col(EVENT_DATE).is_in(days)).select(*watched, FILE_SHA256, EVENT_DATE).collect()

    def _spoiling(self) -> pl.Series:
        """The files in which something high, or worse, was found."""
        high = [severity.label for severity in Severity if severity >= Severity.HIGH]
        held = self._lake.scan_log(LEDGER)
        if held is None:
            return pl.Series(dtype=pl.String)
        return held.filter(pl.col("severity").is_in(high)).select("file_sha256").collect()["file_sha256"]


def _path(source: str) -> str:
    return f"quality/days/{source}"


def open_quality(platform: Platform) -> Quality:
    """The quality of a home, with the shipped watches."""
    return Quality(platform.lake, platform.store.registry, platform.store.now)
