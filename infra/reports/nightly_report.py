"""The nightly report: one self-contained HTML page under 1 MB, and the same facts as JSON.

It holds aggregates and inline SVG only, never raw rows, and refers to nothing outside itself. The page
shows the strongest entries of long lists and says how many more the JSON has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Literal

from expectations.comparison import ColumnData
from expectations.drift import ColumnDrift
from expectations.performance import Performance
from expectations.pictures import Picture, daily_shifts
from infra.reports import charts
from infra.reports.pages import environment, plain

Level = Literal["action", "attention", "clear"]

HEAT_DAYS = 30
MOST = {"drift": 150, "pictures": 12, "heat": 60, "quality": 100, "freshness": 100, "volume": 24, "models": 12}
"""How many entries of each list the page shows, so that it stays under 1 MB and readable."""
MOST |= {"provenance": 100, "untested": 100}


@dataclass(frozen=True)
class Provenance:
    """What was compared: a table with the version and rows of its baseline and of the night's batch."""

    name: str
    baseline_version: str
    baseline_rows: int
    batch_version: str
    batch_rows: int


@dataclass(frozen=True)
class QualityCount:
    """How many rows of a table (or files) broke a rule, and what became of them."""

    table: str
    rule: str
    severity: Literal["critical", "high", "medium", "low"]
    rows: int
    outcome: str


@dataclass(frozen=True)
class Freshness:
    """A group's newest event time, and the ages it may reach: ``ttl`` (answers end), ``sla`` (promised)."""

    group: str
    newest: datetime | None
    ttl: timedelta | None = None
    sla: timedelta | None = None

    def state(self, now: datetime) -> Literal["no rows", "expired", "late", "fresh"]:
        """Where the group stands at ``now``; exactly ttl or sla old still keeps it."""
        if self.newest is None:
            return "no rows"
        age = now - self.newest
        if self.ttl is not None and age > self.ttl:
            return "expired"
        return "late" if self.sla is not None and age > self.sla else "fresh"


@dataclass(frozen=True)
class Volume:
    """The rows a source delivered per day; days not named delivered none."""

    source: str
    rows: Mapping[date, int]


@dataclass(frozen=True)
class ModelNight:
    """A model over the whole window, and day by day."""

    performance: Performance
    days: Sequence[tuple[date, Performance]] = ()

    @property
    def drawn(self) -> str:
        """The error that is drawn per day: the Brier score of a classifier, else the MAE."""
        return "brier" if self.performance.figure("brier") else "mae"


@dataclass(frozen=True)
class HeatRow:
    """One column's shift per day, in SDs of the baseline's daily means."""

    ref: str
    shifts: Mapping[date, float]


def heat_row(data: ColumnData, drift: ColumnDrift, day: date) -> HeatRow:
    """The column's baseline days and the night's ``day`` as a row of the heat map."""
    today = {} if drift.daily_z is None else {day: drift.daily_z}
    return HeatRow(drift.ref, daily_shifts(data) | today)


@dataclass(frozen=True)
class NightlyReport:
    """Everything one night's report says. ``now`` is the moment it is judged at, ``day`` the day judged.

    ``drift`` comes ranked from ``detect``; ``pictures`` belong to drifted columns, by ref. ``untested``
    lists (what, why) beyond the columns whose state says so. ``changes`` are sentences on what
    differs from yesterday. ``verdict`` None: written from the facts.

    >>> from datetime import UTC
    >>> night = NightlyReport("Night of 1 March", datetime(2026, 3, 2, 2, tzinfo=UTC), date(2026, 3, 1))
    >>> night.level, night.sentence
    ('attention', 'Nothing was checked: no column was compared.')
    >>> html = render(night)
    >>> html.startswith("<!doctype html>") and "Night of 1 March" in html
    True

    Filled by a flow::

        columns = {ref: ColumnData(baseline[ref], days, current[ref]) for ref in refs}
        drift = detect(columns)
        report = NightlyReport(
            title,
            now,
            day,
            drift=drift,
            pictures={d.ref: picture(columns[d.ref]) for d in drift if d.state == "drift"},
            heat=[heat_row(columns[d.ref], d, day) for d in drift if d.state in ("drift", "ok")],
            models=[ModelNight(regression("yield", frame), by_day(regression, "yield", frame, "day"))],
        )
        Path(...).write_text(render(report))
        json.dumps(to_json(report))
    """

    title: str
    now: datetime
    day: date
    drift: Sequence[ColumnDrift] = ()
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    heat: Sequence[HeatRow] = ()
    provenance: Sequence[Provenance] = ()
    quality: Sequence[QualityCount] = ()
    freshness: Sequence[Freshness] = ()
    volume: Sequence[Volume] = ()
    models: Sequence[ModelNight] = ()
    untested: Sequence[tuple[str, str]] = ()
    changes: Sequence[str] = ()
    code_version: str = ""
    verdict: str | None = None

    @property
    def drifted(self) -> list[str]:
        """The drifted columns, strongest first."""
        return [c.ref for c in self.drift if c.state == "drift"]

    @property
    def checked(self) -> int:
        """How many columns could be judged."""
        return sum(c.state in ("drift", "ok") for c in self.drift)

    @property
    def overdue(self) -> list[Freshness]:
        """The groups that are late, expired or empty."""
        return [f for f in self.freshness if f.state(self.now) != "fresh"]

    @property
    def serious(self) -> int:
        """Rows that broke a rule of critical or high severity."""
        return sum(q.rows for q in self.quality if q.severity in ("critical", "high"))

    @property
    def level(self) -> Level:
        """Whether somebody has to act, should look, or may sleep on."""
        if self.drifted or self.serious or self.overdue:
            return "action"
        failed = any(c.state == "error" for c in self.drift)
        unlabelled = any(m.performance.state != "ok" for m in self.models)
        return "attention" if failed or unlabelled or not self.checked else "clear"

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        return self.verdict if self.verdict is not None else _sentence(self)

    @property
    def not_tested(self) -> list[tuple[str, str]]:
        """Everything without a judgement, and why."""
        columns = [(c.ref, f"{c.state.replace('_', ' ')}: {c.message}") for c in self.drift]
        judged = {c.ref for c in self.drift if c.state in ("drift", "ok")}
        models = [
            (f"model {m.performance.model}", m.performance.message) for m in self.models if not m.performance.figures
        ]
        return [pair for pair in columns if pair[0] not in judged] + models + list(self.untested)


def render(report: NightlyReport) -> str:
    """The report as one HTML page; everything in it is escaped."""
    days = [report.day - timedelta(days=back) for back in range(HEAT_DAYS, -1, -1)]
    return (
        environment()
        .get_template("nightly_report.html.j2")
        .render(
            title=report.title,
            report=report,
            days=days,
            most=MOST,
            pictures=[(c, report.pictures[c.ref]) for c in report.drift if c.ref in report.pictures],
            heat=_heat(report, days),
            volume=[(v, [v.rows.get(day, 0) for day in days[1:]]) for v in report.volume],
            models=[(m, _error_points(m)) for m in report.models],
            charts=charts,
        )
    )


def to_json(report: NightlyReport) -> dict[str, Any]:
    """The report as plain JSON values: times in ISO 8601, spans in seconds, infinite figures null."""
    facts: dict[str, Any] = plain(report)
    said = {"level": report.level, "verdict": report.sentence, "drifted": report.drifted, "checked": report.checked}
    states = [{**plain(f), "state": f.state(report.now)} for f in report.freshness]
    return facts | said | {"freshness": states, "untested": plain(report.not_tested)}


def _sentence(report: NightlyReport) -> str:
    judged, total = report.checked, len(report.drift)
    if not total:
        parts = ["Nothing was checked: no column was compared"]
    elif not report.drifted:
        parts = [f"No drift in the {judged} of {total} columns that could be checked"]
    else:
        first = next(c for c in report.drift if c.state == "drift")
        parts = [f"{len(report.drifted)} of {judged} checked columns drifted, {first.ref} most ({first.message})"]
    if report.serious:
        parts.append(f"{report.serious:,} rows broke a critical or high rule")
    if report.overdue:
        names = [f.group for f in report.overdue]
        parts.append(f"{', '.join(names[:3])}{' and more' if len(names) > 3 else ''} not fresh")
    return "; ".join(parts) + "."


def _heat(report: NightlyReport, days: Sequence[date]) -> list[tuple[str, list[float | None], bool]]:
    drifted = set(report.drifted)
    return [(row.ref, [row.shifts.get(day) for day in days], row.ref in drifted) for row in report.heat]


def _error_points(model: ModelNight) -> list[tuple[date, float, float | None, float | None]]:
    figures = [(day, judged.figure(model.drawn)) for day, judged in model.days]
    return [(day, f.value, f.low, f.high) for day, f in figures if f is not None]
