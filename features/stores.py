"""Ports: what the engine needs from storage and tracking, as protocols.

``infra`` implements them and ``connect`` injects them; nothing in ``features`` does I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, NamedTuple, Protocol

import polars as pl

from features.entity import DataType

Key = tuple[Any, ...]
"""The values of an entity's key columns, in declared order."""


@dataclass(frozen=True)
class Plan:
    """One run over one group: what it reads, up to where, and in which pieces.

    Frozen when it is opened; whoever finishes it does exactly this. ``sources`` maps each input to
    (version after which its commits count as new, version that is read); the first is None for a
    backfill, which reads everything. ``chunks`` are half-open intervals of event time. ``stamp`` is
    the run's created_timestamp, ``previous`` the stamp of the group's last incremental run before it.
    ``details`` are a kind's own facts (JSON); with "epoch" among them, closing raises the table's epoch;
    with "log" and "through", closing marks that log's pushes as folded up to a stamp in µs.
    """

    number: int
    kind: str
    stamp: datetime
    previous: datetime | None
    sources: Mapping[str, tuple[int | None, int | None]]
    chunks: Sequence[tuple[datetime, datetime]]
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TableState:
    """Where a group's table stands: its Delta version, newest plans, newest stamp and rollback epoch.

    ``through`` is the stamp of the newest incremental run that closed.
    """

    version: int
    opened: int
    closed: int
    stamp: datetime | None
    through: datetime | None
    epoch: int


class FeatureTable(Protocol):
    """One group's major version in the offline store; one handle for checks and writes."""

    def state(self, version: int | None = None) -> TableState:
        """The state as of the newest commit, or as it was at a version."""

    def cursor(self, source: str) -> int | None:
        """The version of an input up to which its commits were taken in; None for never."""

    def open_plan(self, plan: Plan) -> None:
        """Freeze a plan; raises ConcurrentRun if another runner opened one first."""

    def unfinished(self) -> Plan | None:
        """The plan that is open, if any."""

    def plan(self, number: int) -> Plan:
        """The plan of that number, as it was frozen."""

    def newest_plan(self, detail: str, value: object) -> int:
        """The newest closed plan whose details say so ("version", "held" or "released"); 0 for none."""

    def epochs(self, through: int) -> Sequence[tuple[int, datetime]]:
        """The number and the stamp of each plan that raised the epoch, up to the one that made it ``through``."""

    def has_chunk(self, plan: Plan, chunk: int) -> bool:
        """Whether a chunk of the plan was committed."""

    def append(self, plan: Plan, chunk: int, rows: pl.DataFrame) -> int | None:
        """Append a chunk's rows exactly once; the table's version after it, None if it was there already."""

    def close_plan(self, plan: Plan, cursors: Mapping[str, int]) -> None:
        """Close the plan and move the cursors in one commit."""

    def scan(self, version: int | None = None, since: date | None = None, until: date | None = None) -> pl.LazyFrame:
        """All rows of closed and open plans, bookkeeping included; dates are inclusive bounds."""

    def folded(self, log: str, version: int | None = None) -> datetime | None:
        """The stamp up to which pushes of a log are among the rows, now or at a version; None for none."""

    def changes(self, after: int | None, through: int, columns: Sequence[str]) -> pl.DataFrame:
        """The values of columns in rows that commits (after, through] added, some more than once."""

    def days(self, version: int) -> pl.DataFrame:
        """About how many rows each event date has: event_date, rows; sorted."""

    def settled_version(self) -> int:
        """The newest version at which no plan was open."""


class TileTable(Protocol):
    """The tiles of one group in one layout (features.tiles), written step by step within a plan."""

    def cursor(self, source: str) -> int | None:
        """The version of an input whose commits the tiles have taken in; None for never."""

    def covered(self) -> tuple[datetime, datetime] | None:
        """From when to when all tiles are there (half-open); None while there are none."""

    def took(self, plan: int, step: int) -> bool:
        """Whether a step of a plan was committed."""

    def append(self, plan: int, step: int, rows: pl.DataFrame) -> None:
        """Append a step's rows exactly once."""

    def finished(self, plan: int) -> bool:
        """Whether a plan brought the tiles up to date."""

    def finish(self, plan: int, cursors: Mapping[str, int], covered: tuple[datetime, datetime]) -> None:
        """Say that a plan brought the tiles up to these versions, and from when to when all are there."""

    def scan(self, since: date | None = None, until: date | None = None) -> pl.LazyFrame:
        """All rows of tiles that begin on these dates, both included."""


class OfflineStore(Protocol):
    """Sources, feature tables and the publish log, in tables with versions."""

    def append_source(
        self, name: str, rows: pl.DataFrame, *, app_id: str, number: int, dtypes: Mapping[str, DataType]
    ) -> int | None:
        """Append rows once per (app_id, number) and return the table's version; None if there already.

        ``rows`` carry their bookkeeping columns; ``number`` only grows within an app_id.
        """

    def last_ingested(self, name: str) -> datetime | None:
        """The newest moment at which rows of a source were taken in; None while there are none."""

    def source_version(self, name: str) -> int | None:
        """The newest version of a source's table; None while it has none."""

    def scan_source(
        self, name: str, version: int | None = None, since: date | None = None, until: date | None = None
    ) -> pl.LazyFrame | None:
        """A source's rows, bookkeeping included, at a version; dates are inclusive bounds; None without a table."""

    def source_columns(self, name: str, version: int) -> Collection[str]:
        """The columns that a source's table has at a version; a definition may have been given more since."""

    def source_days(self, name: str, version: int) -> pl.DataFrame:
        """About how many rows each event date of a source has: event_date, rows; sorted."""

    def source_changes(self, name: str, after: int | None, through: int, columns: Sequence[str]) -> pl.DataFrame:
        """The values of columns in rows that commits (after, through] added or deleted, some more than once."""

    def feature_table(self, table_id: str, columns: Mapping[str, DataType], keys: Sequence[str]) -> FeatureTable:
        """The table of a group's major version, created (or widened by new columns) when needed."""

    def has_feature_table(self, table_id: str) -> bool:
        """Whether the group's major was ever materialized."""

    def tile_table(self, table_id: str, layout: str, columns: Mapping[str, DataType]) -> TileTable:
        """The tiles of a group's major in a layout, created when needed."""

    def publications(self, table_id: str, version: int | None = None) -> pl.DataFrame:
        """The publish log of a group: target, after, plan (plans after ``after`` through ``plan``), published_at."""

    def append_publications(self, entries: pl.DataFrame, *, app_id: str, number: int) -> None:
        """Copy publish entries (group, plan, target, published_at), once per (app_id, number)."""

    def definitions(self) -> pl.DataFrame:
        """Every applied group definition: name, version, fingerprint, definition (JSON), applied_at, applied_by."""

    def record_definition(self, row: pl.DataFrame, number: int) -> bool:
        """Append a group's definition (one row) as its ``number``-th; False if another was faster."""

    def holds(self) -> pl.DataFrame:
        """Every hold and release of a group: name, number, version (null: released), frozen, at, by."""

    def record_hold(self, row: pl.DataFrame) -> bool:
        """Append a hold or release (one row) under the group's ``number``; False if another was faster."""

    def publish_log_version(self) -> int | None:
        """The newest version of the publish log."""


@dataclass(frozen=True)
class OnlineRow:
    """One entity's newest row as the online store holds it; ``values`` by feature name."""

    event_timestamp: datetime
    epoch: int
    created_timestamp: datetime
    deleted: bool
    values: Mapping[str, Any]

    @property
    def order(self) -> tuple[int, datetime, datetime]:
        """What decides between two rows of one entity: the greater wins."""
        return (self.epoch, self.event_timestamp, self.created_timestamp)


class OnlineColumns(NamedTuple):
    """The newest rows of some entities, column by column: an entry per entity, None where it has no row.

    ``event_timestamps`` are UTC. A deleted row is none. A feature that a row lacks is None. ``cached`` ones are what
    this process remembers of a store on the network.
    """

    event_timestamps: Sequence[datetime | None]
    values: Mapping[str, Sequence[Any]]
    cached: bool = False


@dataclass(frozen=True)
class Publication:
    """That plans after ``after`` through ``plan`` of a group became visible on a target."""

    table_id: str
    after: int
    plan: int
    published_at: datetime


class OnlineStore(Protocol):
    """The newest row of every entity, readable in microseconds.

    ``target`` names the store in the publish log. Of one that is ``at_once``, rows may be at hand.
    """

    target: str
    at_once: bool

    def write(self, table_id: str, keys: Sequence[str], rows: pl.DataFrame, publication: Publication) -> int:
        """Merge rows by their order, move the watermark and keep the publication, in one transaction.

        ``rows`` have keys, event_timestamp, created_timestamp, _epoch, _deleted and features, one row
        an entity. Returns how many rows won.
        """

    def push(self, table_id: str, keys: Sequence[str], rows: pl.DataFrame, through: datetime) -> int:
        """Merge pushed rows by their order and note that pushes up to a stamp are here, in one transaction.

        ``rows`` are as for ``write``; the watermark of plans stays. Returns how many rows won.
        """

    def pushed(self, table_id: str) -> datetime | None:
        """The stamp up to which pushes are here; None for no push at all."""

    def read(self, table_id: str, keys: Sequence[Key]) -> list[OnlineRow | None]:
        """The rows of some entities, in order; None where there is none."""

    def read_columns(self, table_id: str, keys: Sequence[Key], features: Sequence[str]) -> OnlineColumns:
        """Some features of some entities, in order: what ``read`` finds, without a row for each."""

    def at_hand(
        self, table_id: str, keys: Sequence[Key], features: Sequence[str], *, stale: bool = False
    ) -> OnlineColumns | None:
        """What ``read_columns`` says where that takes no waiting, else None.

        ``stale`` asks for what was so a short while ago, for the store does not answer.
        """

    def watermark(self, table_id: str) -> int:
        """The last plan that was published; 0 for none."""

    def publications(self, table_id: str) -> list[Publication]:
        """Every publication kept with the data, oldest first."""

    def count(self, table_id: str) -> int:
        """How many entities the group has here, deleted ones not counted."""

    def close(self) -> None:
        """Release the store."""


@dataclass(frozen=True)
class PushEnds:
    """Where a table's part of the push log ends, in stamps of pushes; None for no push.

    Pushes after ``served`` may not have reached the online store; ``oldest`` and ``newest`` are kept.
    """

    oldest: datetime | None
    newest: datetime | None
    served: datetime | None


class PushLog(Protocol):
    """Pushed rows until they are folded into their group's table: durable, in one order per table.

    A push is known by its stamp, the created_timestamp of its rows; stamps only grow. ``name`` tells
    this log from every other one.
    """

    name: str

    def lock(self, table_id: str) -> AbstractContextManager[None]:
        """Held by one pusher of a table at a time, over all processes; a killed one lets go of it."""

    def reserve(self, table_id: str, floor: datetime) -> datetime:
        """A stamp, not before ``floor``, that no push has or will have."""

    def append(
        self, table_id: str, rows: pl.DataFrame, *, floor: datetime, served: datetime | None, push_id: str | None
    ) -> datetime | None:
        """Keep a push under a new stamp, not before ``floor``, safe on disk when this returns.

        ``served`` is noted along with it. None if ``push_id`` was given to an earlier push.
        """

    def restamp(self, table_id: str, after: datetime | None, floor: datetime) -> None:
        """Give the pushes after a stamp new ones, in the same order, unless none is before ``floor``."""

    def serve(self, table_id: str, through: datetime) -> None:
        """Note that pushes up to a stamp reached the online store."""

    def ends(self, table_id: str) -> PushEnds:
        """The stamps at which the table's pushes begin and end."""

    def read(
        self, table_id: str, dtypes: Mapping[str, DataType], after: datetime | None, through: datetime | None
    ) -> pl.DataFrame:
        """The rows of pushes with stamps in (after, through], null where a push lacks a column.

        The result has created_timestamp, the push's stamp, and the columns of ``dtypes``.
        """

    def drop(self, table_id: str, through: datetime) -> None:
        """Forget the pushes up to a stamp, for they were folded; their ids are remembered for a week."""

    def close(self) -> None:
        """Release the log."""


@dataclass(frozen=True)
class ModelVersion:
    """A registered model version and the facts of the run that made it."""

    name: str
    version: str
    run_id: str
    aliases: Sequence[str] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LoggedTrainingSet:
    """What a run keeps of the training set it used: its manifest and the entity rows as they were given."""

    manifest: Mapping[str, Any]
    entity_rows: pl.DataFrame


class Tracker(Protocol):
    """The experiment tracker and model registry."""

    def log_training(
        self,
        name: str,
        model: Any,
        *,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        manifest: Mapping[str, Any],
        entity_rows: pl.DataFrame,
        sample: pl.DataFrame,
        trained_at: datetime,
        tags: Mapping[str, str],
    ) -> ModelVersion:
        """Log one training run and register its model under ``name`` with the alias "champion"."""

    def log_training_set(self, logged: LoggedTrainingSet, at: datetime, run_id: str | None = None) -> str:
        """Keep a training set with a run, or with a new one that stands for it alone; the run's id."""

    def training_set(self, run_id: str) -> LoggedTrainingSet:
        """The training set that a run keeps. Raises TrackingError if there is no such run, or it keeps none."""

    def model_version(self, name: str, version: str | None = None) -> ModelVersion:
        """A registered version; None means the champion. Raises TrackingError if there is none."""

    def load_model(self, name: str, version: str | None = None) -> Any:
        """The fitted estimator of a registered version."""
