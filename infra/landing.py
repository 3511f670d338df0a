"""Landing: where a batch of files goes: bronze, quarantine and the findings about it.

Every table takes a batch in one commit under the batch's number, whoever repeats it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from expectations.quarantine import REASONS
from expectations.result import BatchVerdict
from expectations.rules import Suite
from features.entity import DataType
from features.registry import Registry
from features.source import BOOKKEEPING, FILE_SHA256, INGESTED_AT
from features.times import UTC_US
from infra.storage.delta import DeltaLake

APP_ID = "ingest"
VERDICTS = "quality/verdicts"
_JUDGED_AT = "judged_at"
FINDING_COLUMNS: dict[str, DataType] = {
    "rule": pl.String(),
    "severity": pl.String(),
    "column": pl.String(),
    "failed": pl.Int64(),
    "checked": pl.Int64(),
    "message": pl.String(),
    "rules": pl.Int64(),
}
"""What a line of verdicts says of whatever was judged."""
VERDICT_COLUMNS: dict[str, DataType] = {
    "number": pl.Int64(),
    FILE_SHA256: pl.String(),
    "source": pl.String(),
    **FINDING_COLUMNS,
    _JUDGED_AT: UTC_US,
}
"""The verdict on a file's rows of a source. The line without a ``rule`` is about all of them: ``checked`` rows, of
which ``failed`` were rejected, by so many ``rules``; its severity is the worst, null for a clean file. Each finding
has a line too. ``number`` is the batch's."""


@dataclass(frozen=True)
class Landed:
    """What a batch put into a table; ``version`` is None where the table had taken the batch before."""

    path: str
    rows: pl.DataFrame
    version: int | None


class Landing:
    """The tables that hold rows of files, and what a batch does to them."""

    def __init__(self, lake: DeltaLake, registry: Registry) -> None:
        self._lake = lake
        self._registry = registry
        self._places = [path for name in registry.sources for path in (f"bronze/{name}", f"quarantine/{name}")]

    def land(self, name: str, verdict: BatchVerdict, blocked: set[str], number: int) -> list[Landed]:
        """Append a source's rejected rows to quarantine and its valid ones to bronze, each table once per number.

        Nothing of the files (hashes) in ``blocked`` lands.
        """
        dtypes = {**self._registry.source(name).dtypes, **BOOKKEEPING}
        lands = ~pl.col(FILE_SHA256).is_in(blocked)
        landed = []
        rejected = verdict.split.rejected.filter(lands).select(*dtypes, *REASONS)
        if not rejected.is_empty():
            path = f"quarantine/{name}"
            version = self._lake.append_log(path, rejected, app_id=APP_ID, number=number)
            landed.append(Landed(path, rejected, version))
        valid = verdict.split.valid.filter(lands).select(list(dtypes))
        if not valid.is_empty():
            version = self._lake.append_source(name, valid, app_id=APP_ID, number=number, dtypes=dtypes)
            landed.append(Landed(f"bronze/{name}", valid, version))
        return landed

    def record(
        self, verdicts: Mapping[str, BatchVerdict], suites: Mapping[str, Suite], number: int, judged_at: datetime
    ) -> None:
        """Keep the verdict on every file, clean ones too, and every finding: the reports' memory."""
        rows: list[tuple[object, ...]] = []
        for name, verdict in verdicts.items():
            rules = len(suites[name].schema) + len(suites[name].rows)
            for sha, file in verdict.files.items():
                worst = file.severity.label if file.severity else None
                rows.append((number, sha, name, None, worst, None, file.rejected, file.rows, None, rules, judged_at))
                rows += [
                    (
                        number,
                        sha,
                        name,
                        f.rule,
                        f.severity.label,
                        f.column,
                        f.failed,
                        f.checked,
                        f.message,
                        None,
                        judged_at,
                    )
                    for f in file.findings
                ]
        if rows:
            frame = pl.DataFrame(rows, schema=VERDICT_COLUMNS, orient="row")
            self._lake.append_log(VERDICTS, frame, app_id=APP_ID, number=number)

    def versions(self, names: Iterable[str], landed: Sequence[Landed]) -> dict[str, int]:
        """The version of each source's table in which the batch landed (its newest, where that was before)."""
        ours = {one.path: one.version for one in landed if one.version is not None}
        found = {name: ours.get(f"bronze/{name}") or self._lake.source_version(name) for name in names}
        return {name: version for name, version in found.items() if version is not None}

    def disputed(self, files: Sequence[str], landed: Sequence[Landed], number: int, *, resumed: bool) -> set[str]:
        """The files of which a table that had taken the batch before holds another number of rows than were read now.

        A run that resumes a batch looks at every table: it may have read nothing for one of them.
        """
        ours = {one.path for one in landed if one.version is not None}
        before = {one.path for one in landed} - ours
        if resumed:
            before |= {path for path in self._places if self._lake.table(path).took(APP_ID, number)} - ours
        read = {one.path: one.rows.lazy() for one in landed}
        found: set[str] = set()
        for path in before:
            held = self._lake.scan_log(path)
            assert held is not None  # it took the batch
            there = _rows_per_file(held.filter(pl.col(FILE_SHA256).is_in(files)))
            here = _rows_per_file(read[path]) if path in read else {}
            found |= {file for file in files if there.get(file, 0) != here.get(file, 0)}
        return found

    def withdraw(self, files: Sequence[str], ingested_at: datetime) -> None:
        """Delete what landed of these files (hashes) with the batch of that moment; the change feed tells of it."""
        for path in self._places:
            self._lake.table(path).delete({FILE_SHA256: files, INGESTED_AT: [ingested_at]})
        self._lake.table(VERDICTS).delete({FILE_SHA256: files, _JUDGED_AT: [ingested_at]})


def _rows_per_file(rows: pl.LazyFrame) -> dict[str, int]:
    return dict(rows.group_by(FILE_SHA256).len().collect().iter_rows())
