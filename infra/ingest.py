"""Ingestion: new files by content, each exactly once, judged, split and landed in bronze.

Whatever is killed or repeated, a file's rows land once: a batch's files are frozen when it is opened,
every table takes the batch in one commit under the batch's number, and the ledger closes it. A file that
is gone or changed before the run that finishes its batch comes to read it cannot be completed: the ledger
rejects it, then what an earlier run landed of it is deleted, and it is taken anew when it comes again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import polars as pl

from expectations.gate import Table, validate_together
from expectations.result import BatchVerdict, FileVerdict, Severity
from expectations.rules import Suite
from features.errors import InvalidInput, UnreadableFile
from features.registry import Registry
from features.source import BOOKKEEPING, EVENT_DATE, FILE_SHA256, INGESTED_AT, Source
from features.store import ingestion_stamp
from features.times import TICK, UTC_US, Clock
from infra.landing import Landing
from infra.ledger import INGESTED, REJECTED, TRUNCATED, Batch, Candidate, Entry, Ledger
from infra.quality import Quality
from infra.sources.base import Delivery, FileReader, file_sha256, unopenable
from infra.sources.stdf import StdfReader
from infra.sources.tabular import TabularReader
from infra.storage.delta import DeltaLake
from infra.suites import suites_of
from infra.wiring import Platform

Progress = Callable[[int, int], None]
"""Told (files done, files in all)."""

READ_THREADS = 2


@dataclass(frozen=True)
class IngestResult:
    """Ledger rows of the files taken in, files skipped as known, and paths that were no use."""

    entries: pl.DataFrame
    known: int
    problems: Sequence[str]

    def count(self, status: str) -> int:
        """How many of the files have a status."""
        return self.entries.filter(pl.col("status") == status).height


class Ingestor:
    """Takes files into bronze.

    One per home at a time: a second one helps to finish the batch that is open, then fails with
    ConcurrentRun if the first one goes on; nothing lands twice and nothing is lost.
    """

    def __init__(
        self,
        lake: DeltaLake,
        registry: Registry,
        stdf: FileReader,
        tabular: Callable[[Source], FileReader],
        suites: Callable[[Source], Suite],
        clock: Clock,
        batch_files: int = 64,
        batch_bytes: int = 256 * 2**20,
    ) -> None:
        self._lake = lake
        self._registry = registry
        self._stdf = stdf
        self._tabular = tabular
        self._suites = suites
        self._clock = clock
        self._ledger = Ledger(lake)
        self._landing = Landing(lake, registry)
        self._quality = Quality(lake, registry, clock)
        self._batch_files = batch_files
        self._batch_bytes = batch_bytes

    def ingest(
        self,
        paths: Iterable[Path],
        source: str | None = None,
        progress: Progress | None = None,
        *,
        retry: bool = False,
    ) -> IngestResult:
        """Take in every new file at or below the paths; with ``retry`` those rejected before as well.

        STDF files feed their three sources; others need ``source`` or lie in a folder named after one.
        Raises InvalidInput only where no path was any use, ConcurrentRun where another ingest goes on,
        StorageError where a source's table has other types than its definition.
        """
        for known_source in self._registry.sources.values():
            self._lake.check_source(known_source.name, {**known_source.dtypes, **BOOKKEEPING})
        done = []
        last, unfinished = self._ledger.last()
        if unfinished is not None:
            done.append(self._take(unfinished, resumed=True))
        else:
            self._settle(self._ledger.batch_entries(last))
        files, problems = self._files(paths, source)
        candidates, known = self._new(files, problems, retry=retry)
        if problems and not candidates and not known:
            raise InvalidInput("; ".join(problems))
        taken = 0
        for number, group in enumerate(self._batches(candidates), last + 1):
            done.append(self._take(self._ledger.open(number, group, self._stamp())))
            taken += len(group)
            if progress is not None:
                progress(taken, len(candidates))
        self._quality.judge()
        entries = pl.concat(done) if done else self._ledger.entries().clear()
        return IngestResult(entries, known, problems)

    def _files(self, paths: Iterable[Path], source: str | None) -> tuple[list[tuple[Path, str | None]], list[str]]:
        """The files to look at with the source they feed, and what was wrong with the rest."""
        named = None if source is None else self._registry.source(source)
        found: list[tuple[Path, str | None]] = []
        problems = []
        for path in paths:
            if not path.exists():
                problems.append(f"{path}: there is no such file or folder")
                continue
            below = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
            files = below if path.is_dir() else [path]
            if not files:
                problems.append(f"{path}: the folder is empty")
            for file in files:
                owner = self._owner(file, named, searched=path.is_dir())
                if owner is not None:
                    found.append((file, owner or None))
                elif not path.is_dir():
                    problems.append(f"{file}: not an STDF file by its name; say which source it feeds (--source NAME)")
        if not found and not problems:
            problems.append("no file below the path(s) feeds a known source: STDF, or a folder named after a source")
        return found, problems

    def _owner(self, file: Path, named: Source | None, *, searched: bool) -> str | None:
        """The source a file feeds ('' for the STDF tables), or None if it is not ours to read."""
        if named is not None:
            return named.name
        if self._stdf.accepts(file):
            return ""
        folder = file.parent.name
        if folder in self._registry.sources and self._tabular(self._registry.source(folder)).accepts(file):
            return folder
        # A single file given by hand without a telling name is tried as STDF: its bytes decide.
        return None if searched or file.suffix in {".csv", ".parquet", ".ndjson", ".jsonl"} else ""

    def _new(
        self, files: Sequence[tuple[Path, str | None]], problems: list[str], *, retry: bool
    ) -> tuple[list[Candidate], int]:
        """Of the files those whose content the ledger does not know, each content once; and how many it knows.

        A file that cannot be opened is added to the problems: it is tried again by the next ingest.
        """
        with ThreadPoolExecutor(READ_THREADS) as pool:
            found = list(pool.map(lambda item: _candidate(*item), files))
        landed, rejected = self._ledger.known()
        seen = set(landed) if retry else landed | rejected
        fresh = []
        for candidate in found:
            if isinstance(candidate, UnreadableFile):
                problems.append(candidate.reason)
            elif candidate.sha256 not in seen:
                seen.add(candidate.sha256)
                fresh.append(candidate)
        again = [c for c in found if isinstance(c, Candidate) and c.sha256 in rejected - landed]
        if again and not retry:
            problems.append(f"{len(again)} file(s) were rejected before and are not read again (--retry reads them)")
        unreadable = sum(isinstance(candidate, UnreadableFile) for candidate in found)
        return fresh, len(files) - len(fresh) - unreadable

    def _batches(self, candidates: Sequence[Candidate]) -> Iterable[list[Candidate]]:
        batch: list[Candidate] = []
        size = 0
        for candidate in candidates:
            if batch and (len(batch) == self._batch_files or size + candidate.size > self._batch_bytes):
                yield batch
                batch, size = [], 0
            batch.append(candidate)
            size += candidate.size
        if batch:
            yield batch

    def _take(self, batch: Batch, *, resumed: bool = False) -> pl.DataFrame:
        """Read, judge and land a batch; every step is done at most once per batch number."""
        with ThreadPoolExecutor(READ_THREADS) as pool:
            read = list(pool.map(self._read, batch.files))
        deliveries = {f.sha256: d for f, d in zip(batch.files, read, strict=True) if isinstance(d, Delivery)}
        failures = {f.sha256: d for f, d in zip(batch.files, read, strict=True) if isinstance(d, UnreadableFile)}
        names = list(dict.fromkeys(name for delivery in deliveries.values() for name in delivery.tables))
        judged = validate_together([self._table(name, deliveries, batch) for name in names])
        verdicts = dict(zip(names, judged, strict=True))
        blocked = {sha for verdict in verdicts.values() for sha in verdict.blocked}
        landed = [
            one for n, verdict in verdicts.items() for one in self._landing.land(n, verdict, blocked, batch.number)
        ]
        suites = {name: self._suites(self._registry.source(name)) for name in names}
        self._landing.record(verdicts, suites, batch.number, batch.ingested_at)
        hashes = [file.sha256 for file in batch.files]
        for sha in self._landing.disputed(hashes, landed, batch.number, resumed=resumed):
            if not isinstance(failures.get(sha), _Gone):
                failures[sha] = _Gone("an earlier run read something else, of which nothing is kept; deliver it again")
        entries = [_entry(f, deliveries.get(f.sha256), failures.get(f.sha256), verdicts) for f in batch.files]
        rows = self._ledger.close(batch, entries, self._landing.versions(names, landed))
        self._settle(rows)
        return rows

    def _settle(self, entries: pl.DataFrame) -> None:
        """Delete what landed of a batch's files that, by the ledger, are to be delivered again.

        The ledger decides first: a run that is killed here leaves the rest to the next one.
        """
        gone = entries.filter(pl.col("redeliver"))
        if not gone.is_empty():
            self._landing.withdraw(gone["file_sha256"].to_list(), gone["ingested_at"][0])

    def _stamp(self) -> datetime:
        """When a batch is taken in: after every batch and everything that any source got before."""
        now, newest = self._clock(), self._ledger.newest_stamp()
        stamps = [ingestion_stamp(self._lake, name, now) for name in self._registry.sources]
        return max([now, *stamps, *([newest + TICK] if newest is not None else [])])

    def _read(self, file: Candidate) -> Delivery | UnreadableFile:
        path = Path(file.path)
        reader = self._stdf if file.source is None else self._tabular(self._registry.source(file.source))
        delivery: Delivery | UnreadableFile
        try:
            delivery = reader.read(path)
        except UnreadableFile as error:
            delivery = error
        try:
            # Afterwards: what was read is what was listed only if the file is still that.
            if file_sha256(path) != file.sha256:
                return _Gone("its content changed after it was listed; deliver it again")
        except UnreadableFile as error:
            return _Gone(f"{error.reason}, though it was there when it was listed; deliver it again")
        if isinstance(delivery, UnreadableFile):
            return delivery
        tables = {name: rows for name, rows in delivery.tables.items() if name in self._registry.sources}
        if not tables:
            return UnreadableFile(f"it feeds {sorted(delivery.tables)}, none of which the registry has")
        return replace(delivery, tables=tables)

    def _table(self, name: str, deliveries: Mapping[str, Delivery], batch: Batch) -> Table:
        """What the files deliver to one source, joined, and the suite that judges it."""
        source = self._registry.source(name)
        frames = []
        for sha256, delivery in deliveries.items():
            if name in delivery.tables:
                frames.append(delivery.tables[name].with_columns(pl.lit(sha256).alias(FILE_SHA256)))
        rows = pl.concat(frames).with_columns(
            pl.lit(batch.ingested_at, UTC_US).alias(INGESTED_AT),
            pl.col(source.event_timestamp).dt.date().alias(EVENT_DATE),
        )
        files = [sha for sha, delivery in deliveries.items() if name in delivery.tables]
        return Table(self._suites(source), rows, files)


class _Gone(UnreadableFile):
    """A file of a batch that is no longer what was listed: nothing is said of its content."""


def _candidate(path: Path, source: str | None) -> Candidate | UnreadableFile:
    """The file as a batch lists it, or why it cannot be opened."""
    try:
        return Candidate(str(path.resolve()), file_sha256(path), path.stat().st_size, source)
    except UnreadableFile as error:
        return error
    except OSError as error:
        return unopenable(path, error)


def _entry(
    file: Candidate,
    delivery: Delivery | None,
    failure: UnreadableFile | None,
    verdicts: Mapping[str, BatchVerdict],
) -> Entry:
    """What the ledger says of one file."""
    if failure is not None or delivery is None:
        reason, offset = (failure.reason, failure.offset) if failure else ("could not be read", None)
        gone = isinstance(failure, _Gone)
        return Entry(file, REJECTED, reason, offset, Severity.CRITICAL.label, redeliver=gone)
    judged = {name: verdicts[name].files[file.sha256] for name in delivery.tables}
    worst = max((v.severity for v in judged.values() if v.severity is not None), default=None)
    if any(verdict.blocked for verdict in judged.values()):
        return Entry(file, REJECTED, _complaint(judged), delivery.truncated_at, Severity.CRITICAL.label)
    if delivery.truncated_at is not None:
        worst = max(worst or Severity.HIGH, Severity.HIGH)
    return Entry(
        file,
        INGESTED if delivery.truncated_at is None else TRUNCATED,
        delivery.note,
        delivery.truncated_at,
        worst.label if worst else None,
        sum(verdict.rejected for verdict in judged.values()),
        {name: table.height for name, table in delivery.tables.items()},
    )


def _complaint(judged: Mapping[str, FileVerdict]) -> str:
    """The critical findings of a blocked file, in one line."""
    critical = [
        f"{name}: {finding.message}"
        for name, verdict in judged.items()
        for finding in verdict.findings
        if finding.severity is Severity.CRITICAL
    ]
    return "; ".join(critical)


def open_ingestor(platform: Platform) -> Ingestor:
    """The ingestor of a home, with the shipped readers and the home's suites."""
    settings = platform.settings
    scratch = settings.home / "scratch"
    return Ingestor(
        platform.lake,
        platform.store.registry,
        StdfReader((settings.die_width_mm, settings.die_height_mm), scratch),
        lambda source: TabularReader(source, scratch),
        suites_of(platform),
        platform.store.now,
        batch_bytes=settings.ingest_batch_mb * 2**20,
    )
