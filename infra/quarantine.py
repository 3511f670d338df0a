"""Quarantined rows, and what people decide about them: let them in after a fix, or drop them for good.

Quarantine itself is only appended to. A decision is a commit in a table of its own that names the rows; a row
waits until one does. What is let in lands in bronze once, under the decision's number, taken in at that moment: no
feature of an earlier moment sees it. A run that dies in between leaves a decision that the next one carries out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from expectations.gate import Table, validate_together
from expectations.groups import group_rules
from expectations.quarantine import REASONS, RULES, SEVERITY
from expectations.rules import Suite
from features.entity import DataType
from features.errors import ConcurrentRun, NotRegistered
from features.registry import Registry
from features.source import BOOKKEEPING, FILE_SHA256, INGESTED_AT, RECORD_OFFSET, Source
from features.store import ingestion_stamp
from features.times import UTC_US, Clock
from infra.ledger import Ledger
from infra.storage.delta import DeltaLake, source_path
from infra.suites import suites_of
from infra.wiring import Platform

DECISIONS = "quality/decisions"
_APP_ID = "quarantine"
_ROW = [FILE_SHA256, RECORD_OFFSET]
"""What names a row: its file and where it begins there. Rows that share both wait, and go, together."""
_DECIDED: dict[str, DataType] = {
    "number": pl.Int64(),
    "source": pl.String(),
    "decision": pl.String(),
    FILE_SHA256: pl.String(),
    RECORD_OFFSET: pl.Int64(),
    "decided_at": UTC_US,
    "reason": pl.String(),
}
RELEASED, DROPPED = "released", "dropped"


@dataclass(frozen=True)
class Decided:
    """How many rows a decision was about, and how many of those asked for wait on, since they break a rule still."""

    rows: int
    waiting: int = 0


class Quarantine:
    """The rows of a home that wait for a decision. One decision at a time: another one raises ConcurrentRun."""

    def __init__(self, lake: DeltaLake, registry: Registry, suites: Callable[[Source], Suite], clock: Clock) -> None:
        self._lake = lake
        self._registry = registry
        self._suites = suites
        self._clock = clock
        self._ledger = Ledger(lake)

    def summary(self) -> pl.DataFrame:
        """What waits: a row for each source, severity and set of broken rules, with rows, files and since when."""
        found = []
        for name in self._registry.sources:
            rows = self.rows(name).lazy()
            by = [pl.lit(name).alias("source"), SEVERITY, pl.col(RULES).list.join(", ").alias("rules")]
            counts = [pl.len().alias("rows"), pl.col(FILE_SHA256).n_unique().alias("files")]
            since = pl.col(INGESTED_AT).min().alias("since")
            found.append(rows.group_by(by).agg(*counts, since).rename({SEVERITY: "severity"}))
        return pl.concat(found).sort("source", "rows", descending=[False, True]).collect()

    def rows(self, source: str, files: Sequence[str] = (), rules: Sequence[str] = ()) -> pl.DataFrame:
        """The rows of a source that wait, with their reasons; of some files, or that broke one of some rules.

        Files are named by their hash or its first characters. Raises NotRegistered for an unknown source or file.
        """
        dtypes = {**self._registry.source(source).dtypes, **BOOKKEEPING, **REASONS}
        held = self._lake.scan_log(f"quarantine/{source}")
        # What the batch that is open put there may yet be withdrawn.
        landed, _ = self._ledger.known()
        for file in files:
            if not any(sha256.startswith(file) for sha256 in landed):
                raise NotRegistered(
                    f"no file whose hash begins with {file!r} was taken in: `quarantine show` lists them"
                )
        if held is None:
            return pl.DataFrame(schema=dtypes)
        wanted = [sha256 for sha256 in landed if not files or sha256.startswith(tuple(files))]
        mine = held.filter(pl.col(FILE_SHA256).is_in(wanted))
        if rules:
            mine = mine.filter(pl.col(RULES).list.eval(pl.element().is_in(list(rules))).list.any())
        decided = self._decisions().filter(pl.col("source") == source)
        return mine.join(decided, on=_ROW, how="anti").select(list(dtypes)).sort(_ROW).collect()

    def release(self, source: str, files: Sequence[str] = (), rules: Sequence[str] = (), reason: str = "") -> Decided:
        """Judge waiting rows by the rules as they are now, and let those in that keep them.

        Where a rule looks at groups, it looks at all that the rows' files delivered of a group: what landed, what
        waits and what was dropped. So it makes no difference which of a group's rows are asked for.
        """
        self.finish()
        asked = self.rows(source, files, rules)
        if asked.is_empty():
            return Decided(0)
        judged = validate_together(self._tables(source, asked))[0]
        good = asked.select(_ROW).unique().join(self._still_bad(asked, judged.split.valid), on=_ROW, how="anti")
        freed = asked.join(good, on=_ROW, how="semi")
        if not freed.is_empty():
            self._decide(source, RELEASED, freed, reason)
            self.finish()
        return Decided(freed.height, asked.height - freed.height)

    def drop(self, source: str, files: Sequence[str] = (), rules: Sequence[str] = (), reason: str = "") -> Decided:
        """Decide that waiting rows never come in; they stay in quarantine for whoever asks later."""
        self.finish()
        asked = self.rows(source, files, rules)
        if not asked.is_empty():
            self._decide(source, DROPPED, asked, reason)
        return Decided(asked.height)

    def finish(self) -> None:
        """Carry out the newest decision, if the run that made it did not."""
        number = self._last()
        decided = self._decisions().filter((pl.col("number") == number) & (pl.col("decision") == RELEASED)).collect()
        if decided.is_empty():
            return
        name = decided["source"][0]
        dtypes = {**self._registry.source(name).dtypes, **BOOKKEEPING}
        held = self._lake.scan_log(f"quarantine/{name}")
        assert held is not None  # the decision names rows of it
        if self._lake.table(source_path(name)).took(_APP_ID, number):
            return
        stamp = ingestion_stamp(self._lake, name, self._clock())
        freed = held.join(decided.lazy(), on=_ROW, how="semi").with_columns(pl.lit(stamp, UTC_US).alias(INGESTED_AT))
        self._lake.append_source(
            name, freed.select(list(dtypes)).sort(_ROW).collect(), app_id=_APP_ID, number=number, dtypes=dtypes
        )

    def _tables(self, source: str, asked: pl.DataFrame) -> list[Table]:
        """The rows to judge, and beside them what rules over groups look at, in all sources that share one."""
        suites = {name: self._suites(held) for name, held in self._registry.sources.items()}
        rows = asked.drop(list(REASONS))
        shared = set(group_rules(suites[source]))
        if not shared:
            return [Table(suites[source], rows)]
        others = [name for name in suites if name != source and shared & set(group_rules(suites[name]))]
        delivered = {name: self._delivered(name, asked) for name in (source, *others)}
        return [
            Table(suites[source], rows, beside=delivered[source]),
            *(Table(suites[name], delivered[name].clear(), beside=delivered[name]) for name in others),
        ]

    def _delivered(self, source: str, asked: pl.DataFrame) -> pl.DataFrame:
        """All that the files of some quarantined rows delivered to a source; a released row may come twice."""
        dtypes = {**self._registry.source(source).dtypes, **BOOKKEEPING}
        logs = self._lake.scan_source(source), self._lake.scan_log(f"quarantine/{source}")
        # A file's rows all came at one moment, and the moment is in the tables' statistics: other batches are not read.
        at = pl.col(INGESTED_AT).is_between(asked[INGESTED_AT].min(), asked[INGESTED_AT].max())
        mine = at & pl.col(FILE_SHA256).is_in(asked[FILE_SHA256].unique().to_list())
        found = [log.filter(mine).select(list(dtypes)) for log in logs if log is not None]
        return pl.concat([pl.LazyFrame(schema=dtypes), *found]).collect()

    def _still_bad(self, asked: pl.DataFrame, valid: pl.DataFrame) -> pl.DataFrame:
        """The names of rows of which not all are valid."""
        counts = asked.group_by(_ROW).len().join(valid.group_by(_ROW).len(), on=_ROW, how="left", suffix="_valid")
        return counts.filter(pl.col("len") != pl.col("len_valid").fill_null(0))

    def _decide(self, source: str, decision: str, rows: pl.DataFrame, reason: str) -> None:
        number, at = self._last() + 1, self._clock()
        said = {"number": number, "source": source, "decision": decision, "decided_at": at, "reason": reason}
        named = rows.select(_ROW).unique().with_columns(pl.lit(v, _DECIDED[k]).alias(k) for k, v in said.items())
        if self._lake.append_log(DECISIONS, named.select(list(_DECIDED)), app_id=_APP_ID, number=number) is None:
            raise ConcurrentRun("somebody else decided about quarantined rows in the meantime: look again, then decide")

    def _decisions(self) -> pl.LazyFrame:
        found = self._lake.scan_log(DECISIONS)
        return pl.LazyFrame(schema=_DECIDED) if found is None else found

    def _last(self) -> int:
        """The newest decision's number; 0 before the first."""
        return int(self._decisions().select(pl.col("number").max()).collect().item() or 0)


def open_quarantine(platform: Platform) -> Quarantine:
    """The quarantine of a home, with its suites."""
    return Quarantine(platform.lake, platform.store.registry, suites_of(platform), platform.store.now)
