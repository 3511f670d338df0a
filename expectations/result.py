"""What validation returns: findings, a verdict for each file, and the rows split in two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import polars as pl


class Severity(IntEnum):
    """How bad a finding is: critical blocks the file, high alerts, medium is logged, low informs.

    >>> max(Severity.MEDIUM, Severity.HIGH).label
    'high'
    """

    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4

    @property
    def label(self) -> str:
        """The severity as it is stored and shown."""
        return self.name.lower()


@dataclass(frozen=True)
class Finding:
    """One rule that one file broke: ``failed`` of the ``checked`` values (0 of 0 for the schema)."""

    rule: str
    severity: Severity
    column: str | None
    failed: int
    checked: int
    message: str


@dataclass(frozen=True)
class Split:
    """The rows that may land, and those that may not with all their reasons.

    ``rejected`` has the columns of ``valid`` and ``_rules`` (List[String], the rules the row broke,
    in the suite's order) and ``_severity`` (String, the worst of them in the row's file).
    """

    valid: pl.DataFrame
    rejected: pl.DataFrame


@dataclass(frozen=True)
class FileVerdict:
    """What was found in one file's rows, and how many of its rows are rejected."""

    findings: tuple[Finding, ...]
    rows: int
    rejected: int

    @property
    def severity(self) -> Severity | None:
        """The worst finding's severity; None for a clean file."""
        return max((finding.severity for finding in self.findings), default=None)

    @property
    def blocked(self) -> bool:
        """Whether nothing of the file may land, in this table or any other."""
        return self.severity is Severity.CRITICAL


@dataclass(frozen=True)
class BatchVerdict:
    """The verdict on each file of a batch, by its hash, and the split of the files not blocked.

    ``findings`` concern the batch as a whole (its schema, a rule that could not be judged, no row
    at all); each is repeated in the verdict of every file.
    """

    files: Mapping[str, FileVerdict]
    findings: tuple[Finding, ...]
    split: Split

    @property
    def blocked(self) -> list[str]:
        """The files that must not land."""
        return [file for file, verdict in self.files.items() if verdict.blocked]
