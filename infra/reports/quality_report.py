"""The quality report: how much of what was delivered is clean, what was wrong with the rest, and what to do.

Of one run, or over days; as one self-contained page and as JSON. Of the data it shows a few examples, whose
sensitive columns are masked.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal

from expectations.result import Severity
from infra.reports import charts
from infra.reports.pages import environment, plain

TARGET = 0.999
"""The share of clean rows to be kept."""
MASKED = "***"
MOST = {"broken": 100, "features": 100, "unusual": 100, "accepted": 20, "fields": 20, "refused": 100, "examples": 12}
"""How many entries of each list the page shows."""
_DRAWN = 12

_RECOMMENDATIONS = {
    Severity.CRITICAL: "Nothing of these files landed. Ask whoever delivers them for correct ones, which are taken by "
    "themselves; after a mended rule or reader, `featurefab ingest --retry` reads the same ones again.",
    Severity.HIGH: "Alert the owner today. Rows of files wait: `featurefab quarantine show SOURCE`, then `release` "
    "after the rule was mended or `drop` what is wrong for good. Feature rows are in their table: mend the "
    "definition, then backfill.",
    Severity.MEDIUM: "Few rows; those of files wait in quarantine. Look at them this week, and whether they become "
    "more.",
    Severity.LOW: "For information: nothing was held back.",
}


@dataclass(frozen=True)
class QualityDay:
    """What came in on a UTC day: rows of files that landed, and how many of these are in quarantine."""

    day: date
    rows: int
    quarantined: int


@dataclass(frozen=True)
class BrokenRule:
    """A rule of a source that files broke: ``failed`` of the ``checked`` values (0 of 0 for the schema)."""

    source: str
    rule: str
    severity: str
    column: str | None
    failed: int
    checked: int
    files: int
    message: str


@dataclass(frozen=True)
class BrokenByFeatures:
    """A rule of a feature group that rows broke which ``runs`` brought into its table; they are there all the same."""

    group: str
    rule: str
    severity: str
    column: str | None
    failed: int
    checked: int
    runs: int
    message: str


@dataclass(frozen=True)
class UnusualDay:
    """A finding about a day of a source, or of a cohort of it, compared with its good days."""

    source: str
    day: date
    cohort: str
    rule: str
    severity: str
    column: str | None
    message: str


@dataclass(frozen=True)
class AcceptedChange:
    """What a person said of a source: that it is as it should be from a day on, and why."""

    source: str
    since: date
    reason: str
    accepted_at: datetime


@dataclass(frozen=True)
class BrokenField:
    """A column ("source.column", "group.feature") with the values that failed, and how many rules they broke."""

    field: str
    failed: int
    rules: int


@dataclass(frozen=True)
class SeverityCount:
    """How many findings of a severity there are, in how many values, and what to do.

    A finding is a rule in a file or in the rows of a run, or about a day.
    """

    severity: str
    findings: int
    failed: int
    recommendation: str


@dataclass(frozen=True)
class Example:
    """A row in quarantine with what it broke; ``values`` are texts, without columns that are null."""

    source: str
    rules: Sequence[str]
    severity: str
    file: str
    offset: int | None
    values: Mapping[str, str]


@dataclass(frozen=True)
class QualityReport:
    """What validation said of the files taken in during [since, until] (UTC).

    ``judged`` counts rules times files; ``broken`` are the worst first. Files that are ``refused`` (path, reason)
    could not be read or are blocked: their rows count nowhere. ``features`` are the rules that feature rows broke, of
    the ``feature_rows`` that were judged then. ``unusual`` are findings about days judged then, ``accepted`` the
    changes before which no day is compared with those since.

    >>> from datetime import UTC
    >>> start, end = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)
    >>> clean = QualityReport("A day", start, end, files=2, days=[QualityDay(start.date(), 5_000, 5)], judged=40)
    >>> clean.clean_share, clean.pass_rate, clean.level
    (0.999, 1.0, 'clear')
    """

    title: str
    since: datetime
    until: datetime
    files: int = 0
    days: Sequence[QualityDay] = ()
    judged: int = 0
    broken: Sequence[BrokenRule] = ()
    feature_rows: int = 0
    features: Sequence[BrokenByFeatures] = ()
    unusual: Sequence[UnusualDay] = ()
    accepted: Sequence[AcceptedChange] = ()
    refused: Sequence[tuple[str, str]] = ()
    examples: Sequence[Example] = ()

    @property
    def rows(self) -> int:
        """Rows of the files that landed, those in quarantine included."""
        return sum(day.rows for day in self.days)

    @property
    def quarantined(self) -> int:
        """Rows that a rule held back."""
        return sum(day.quarantined for day in self.days)

    @property
    def clean_share(self) -> float | None:
        """The share of the rows that landed; None where there are none."""
        return 1 - self.quarantined / self.rows if self.rows else None

    @property
    def pass_rate(self) -> float | None:
        """The share of rules, file by file, that nothing broke; None where nothing was judged."""
        return 1 - sum(broken.files for broken in self.broken) / self.judged if self.judged else None

    @property
    def severities(self) -> list[SeverityCount]:
        """Findings of each severity there is, the worst first; refused files are critical."""
        found = []
        for severity in sorted(Severity, reverse=True):
            ours = [broken for broken in self.broken if broken.severity == severity.label]
            findings, failed = sum(broken.files for broken in ours), sum(broken.failed for broken in ours)
            made = [broken for broken in self.features if broken.severity == severity.label]
            findings += sum(broken.runs for broken in made)
            failed += sum(broken.failed for broken in made)
            findings += sum(unusual.severity == severity.label for unusual in self.unusual)
            if severity is Severity.CRITICAL:
                findings = max(findings, len(self.refused))  # of an unreadable file nothing else is said
            if findings:
                found.append(SeverityCount(severity.label, findings, failed, _RECOMMENDATIONS[severity]))
        return found

    @property
    def fields(self) -> list[BrokenField]:
        """The columns with the most failed values."""
        found: dict[str, list[int]] = defaultdict(list)
        for broken in self.broken:
            if broken.column is not None:
                found[f"{broken.source}.{broken.column}"].append(broken.failed)
        for made in self.features:
            if made.column is not None:
                found[f"{made.group}.{made.column}"].append(made.failed)
        ranked = [BrokenField(name, sum(failed), len(failed)) for name, failed in found.items()]
        return sorted(ranked, key=lambda field: (-field.failed, field.field))

    @property
    def level(self) -> Literal["action", "attention", "clear"]:
        """Whether somebody has to act, should look, or need not."""
        worst = {found.severity for found in self.severities}
        if worst & {Severity.CRITICAL.label, Severity.HIGH.label}:
            return "action"
        missed = self.clean_share is None or self.clean_share < TARGET
        return "attention" if missed or Severity.MEDIUM.label in worst else "clear"

    @property
    def sentence(self) -> str:
        """The report in one sentence."""
        if self.clean_share is None:
            said = ["No row came in"]
        else:
            held = "keeps" if self.clean_share >= TARGET else "misses"
            share = f"{share_text(self.clean_share)} of {self.rows:,} rows are clean"
            said = [f"{share}, which {held} the target of {share_text(TARGET)}"]
        if self.refused:
            said.append(f"{len(self.refused):,} of {self.files:,} files were refused")
        if self.broken:
            worst = self.broken[0]
            said.append(f"worst: {worst.source}, {worst.rule} ({worst.severity}), {worst.failed:,} values")
        if self.features:
            worst_made = self.features[0]
            said.append(
                f"of {self.feature_rows:,} feature rows, worst: {worst_made.group}, {worst_made.rule} "
                f"({worst_made.severity}), {worst_made.failed:,} values"
            )
        if high := [unusual for unusual in self.unusual if unusual.severity == Severity.HIGH.label]:
            said.append(f"{len(high):,} findings about days, first: {high[0].source}, {high[0].message}")
        return "; ".join(said) + "."


def share_text(value: float | None) -> str:
    """A share as a percentage that is rounded down, so that nearly all is never called all.

    >>> share_text(0.99996), share_text(1.0), share_text(0.29), share_text(None)
    ('99.99 %', '100 %', '29.00 %', '-')
    """
    if value is None:
        return "-"
    return "100 %" if value == 1 else f"{math.floor(round(value * 10_000, 6)) / 100:.2f} %"


def render(report: QualityReport) -> str:
    """The report as one HTML page; everything in it is escaped."""
    pages = environment()
    pages.filters["share"] = share_text
    top = [(f"{b.source}: {b.rule}", b.failed, b.severity) for b in report.broken if b.failed]
    return pages.get_template("quality_report.html.j2").render(
        title=report.title,
        report=report,
        target=TARGET,
        most=MOST,
        days=[day.day for day in report.days],
        shares=[day.quarantined / day.rows if day.rows else None for day in report.days],
        top=sorted(top, key=lambda bar: -bar[1])[:_DRAWN],
        charts=charts,
    )


def to_json(report: QualityReport) -> dict[str, Any]:
    """The report as plain JSON values: times in ISO 8601."""
    facts: dict[str, Any] = plain(report)
    names = ("level", "sentence", "rows", "quarantined", "clean_share", "pass_rate", "severities", "fields")
    return facts | {"target": TARGET} | {name: plain(getattr(report, name)) for name in names}
