"""The ingest ledger: one row per delivered file, and the plan of the batch that is being taken in.

A batch is a plan like those of feature tables: opened with its list of files frozen in the commit's
metadata, done table by table, closed together with the ledger rows of its files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

import polars as pl

from features.entity import DataType
from features.errors import ConcurrentRun, StorageError
from features.times import UTC_US
from infra.storage.delta import DeltaLake
from infra.storage.delta_io import translated

LEDGER = "ingest_ledger"
_PLAN = "featurefab.plan"

COLUMNS: dict[str, DataType] = {
    "file_sha256": pl.String(),
    "path": pl.String(),
    "size": pl.Int64(),
    "source": pl.String(),
    "status": pl.String(),
    "reason": pl.String(),
    "offset": pl.Int64(),
    "severity": pl.String(),
    "rows": pl.Int64(),
    "quarantined": pl.Int64(),
    "delivered": pl.String(),
    "versions": pl.String(),
    "plan": pl.Int64(),
    "ingested_at": UTC_US,
    "redeliver": pl.Boolean(),
}
"""Ledger columns. ``offset`` is the byte in the decompressed stream where a cut or corrupt file ends;
``delivered`` (JSON) counts the rows per source, quarantined ones included; ``versions`` (JSON) are the
Delta versions of the tables after the file landed; ``redeliver`` marks a rejected file that was not judged
by its content, but gone or changed before it had landed: the same content is taken when it comes again."""

INGESTED = "ingested"
TRUNCATED = "truncated"
REJECTED = "rejected"


@dataclass(frozen=True)
class Candidate:
    """A file that is new by its content, and which sources it feeds (None: STDF, its three tables)."""

    path: str
    sha256: str
    size: int
    source: str | None


@dataclass(frozen=True)
class Entry:
    """What became of one file."""

    candidate: Candidate
    status: str
    reason: str | None = None
    offset: int | None = None
    severity: str | None = None
    quarantined: int = 0
    delivered: Mapping[str, int] = field(default_factory=dict)
    redeliver: bool = False


@dataclass(frozen=True)
class Batch:
    """A frozen plan: these files, taken in at this moment."""

    number: int
    files: Sequence[Candidate]
    ingested_at: datetime


class Ledger:
    """The ledger table, and the batches it opens and closes."""

    def __init__(self, lake: DeltaLake) -> None:
        self._table = lake.table(LEDGER)

    def entries(self) -> pl.DataFrame:
        """Every file seen so far, in the order of their batches."""
        frame = self._table.scan()
        return pl.DataFrame(schema=COLUMNS) if frame is None else frame.sort("plan", "path").collect()

    def known(self) -> tuple[set[str], set[str]]:
        """The hashes of the files that landed, and of those that were rejected by their content."""
        frame = self._table.scan()
        if frame is None:
            return set(), set()
        rows = frame.filter(~pl.col("redeliver")).select("file_sha256", pl.col("status") == REJECTED).collect()
        rejected = rows["status"]
        return set(rows.filter(~rejected)["file_sha256"]), set(rows.filter(rejected)["file_sha256"])

    def newest_stamp(self) -> datetime | None:
        """When the newest batch that was closed was taken in; None for none."""
        frame = self._table.scan()
        return None if frame is None else frame.select(pl.col("ingested_at").max()).collect().item()

    def last(self) -> tuple[int, Batch | None]:
        """The newest batch's number (0: there was none), and the batch itself while it is open."""
        self._table.handle()
        number = max(self._table.reached("plan"), 0)
        return number, None if max(self._table.reached("done"), 0) >= number else self._batch(number)

    def open(self, number: int, files: Sequence[Candidate], ingested_at: datetime) -> Batch:
        """Freeze a batch; raises ConcurrentRun if another process opened one of that number first.

        ``number`` follows the last one that was there before the files were looked up as unknown: so no
        batch in between can have held one of them.
        """
        batch = Batch(number, files, ingested_at)
        content = {"number": number, "ingested_at": ingested_at.isoformat(), "files": [asdict(f) for f in files]}
        metadata = {_PLAN: json.dumps(content)}
        if self._table.append_once(pl.DataFrame(schema=COLUMNS), "plan", number, metadata=metadata) is None:
            raise ConcurrentRun("another ingest began in the meantime and goes on; run again for what it leaves")
        return batch

    def close(self, batch: Batch, entries: Sequence[Entry], versions: Mapping[str, int]) -> pl.DataFrame:
        """Write the batch's rows and close it, in one commit, unless another process did; the rows that stand."""
        rows = pl.DataFrame([_row(batch, entry, versions) for entry in entries], schema=COLUMNS, orient="row")
        if self._table.append_once(rows, "done", batch.number) is None:
            return self.batch_entries(batch.number)
        return rows

    def batch_entries(self, number: int) -> pl.DataFrame:
        """The rows of one batch; none while it is open."""
        return self.entries().filter(pl.col("plan") == number)

    def _batch(self, number: int) -> Batch:
        """The batch of that number, as it was frozen."""
        handle = self._table.handle()
        assert handle is not None  # a batch was opened
        with translated(self._table.uri):
            for limit in (16, None):  # an open plan is at the end of the log
                for commit in handle.history(limit):
                    if _PLAN in commit and (content := json.loads(commit[_PLAN]))["number"] == number:
                        files = [Candidate(**file) for file in content["files"]]
                        return Batch(number, files, datetime.fromisoformat(content["ingested_at"]))
        raise StorageError(f"{self._table.uri}: ingest plan {number} is not in the log; was its log cleaned up?")


def _row(batch: Batch, entry: Entry, versions: Mapping[str, int]) -> dict[str, object]:
    file = entry.candidate
    landed = {name: versions[name] for name in entry.delivered if name in versions}
    return {
        "file_sha256": file.sha256,
        "path": str(Path(file.path)),
        "size": file.size,
        "source": file.source or "stdf",
        "status": entry.status,
        "reason": entry.reason,
        "offset": entry.offset,
        "severity": entry.severity,
        "rows": sum(entry.delivered.values()),
        "quarantined": entry.quarantined,
        "delivered": json.dumps(dict(entry.delivered)),
        "versions": json.dumps(landed),
        "plan": batch.number,
        "ingested_at": batch.ingested_at,
        "redeliver": entry.redeliver,
    }
