"""The feature store: one object for writing sources, materializing, syncing and reading features."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import date, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Self

import polars as pl

from features.capacity import ANY_CAPACITY, Capacity
from features.computation import Computation
from features.definition_plan import DefinitionPlan
from features.errors import StorageError
from features.feature_group import FeatureGroup
from features.feature_rows import DELETED, EVENT, PLAN, winners
from features.feature_service import FeatureService
from features.folding import Folding
from features.frames import as_frame
from features.intervals import whole_days
from features.lineage import Lineage, lineage
from features.materialization import Backfill, Materializer, Preview
from features.online import OnlineFeatures, OnlineResponse
from features.point_in_time import History, Limits
from features.push import Push, Pusher, RowCheck, check_ranges
from features.reading import provenance
from features.registry import Registry
from features.reinstatement import RELEASE, ROLLBACK, Reinstatement
from features.reproduce import TrainingSets
from features.retrieval import HistoricalRetrieval, Pins, TrainingSet
from features.rollback import Reinstated, Rollbacks
from features.runs import PUSH, ChunkRun, Progress, Run, Runs, Work
from features.source import BOOKKEEPING, Source
from features.stores import OfflineStore, OnlineStore, PushLog, Tracker
from features.sync import Syncer, SyncRun
from features.times import TICK, Clock, as_utc, utc_now
from features.versions import RegisteredModels, Versions


def ingestion_stamp(offline: OfflineStore, source: str, now: datetime) -> datetime:
    """When rows written now are taken in: after all rows before them, whatever the clock does."""
    last = offline.last_ingested(source)
    return now if last is None else max(now, last + TICK)


@contextmanager
def _readable(*groups: FeatureGroup) -> Iterator[None]:
    """Turn what is raised over a file that is missing or cut into StorageError naming the groups."""
    try:
        yield
    except (OSError, pl.exceptions.ComputeError, pl.exceptions.PanicException) as error:
        names, reason = [group.name for group in groups], str(error).splitlines()[0]
        raise StorageError(
            f"feature group(s) {names}: a table cannot be read: {reason}; was a file removed?"
        ) from error


class FeatureStore:
    """What users hold: made by ``infra.connect``, or from a registry and two stores.

    All moments are UTC; intervals are half-open. Nothing reads the wall clock but ``clock``.
    """

    def __init__(
        self,
        registry: Registry,
        offline: OfflineStore,
        online: OnlineStore,
        clock: Clock = utc_now,
        capacity: Capacity = ANY_CAPACITY,
        code_version: Callable[[], str | None] = lambda: None,
        tracker: Tracker | None = None,
        push_log: PushLog | None = None,
        row_check: RowCheck = check_ranges,
        fold_after: timedelta | None = timedelta(seconds=10),
        models: RegisteredModels | None = None,
        user: str = "unknown",
    ) -> None:
        self.registry = registry
        self.offline = offline
        self.online = online
        self._clock = clock
        self.versions = Versions(registry, offline, self.now, user, models)
        computation, reinstatement = Computation(offline, capacity), Reinstatement()
        works: dict[str, Work] = {"incremental": computation, "backfill": computation}
        works |= {ROLLBACK: reinstatement, RELEASE: reinstatement}
        self._pusher = self._folding = None
        if push_log is not None:
            self._pusher = Pusher(offline, online, push_log, self.now, row_check, fold_after)
            works[PUSH] = self._folding = Folding(offline, online.target, push_log, self._pusher)
        self._runs = Runs(offline, self.now, works, self._folding, self.versions.check_held, capacity.parallel)
        self._materializer = Materializer(self._runs, computation, capacity)
        self._syncer = Syncer(offline, online, self.now)
        self._rollbacks = Rollbacks(registry, offline, self.versions, self._runs, self._syncer, capacity)
        limits = Limits.within(capacity.memory)
        self._retrieval = partial(
            HistoricalRetrieval, offline=offline, code_version=code_version, pushes=self._folding, limits=limits
        )
        self._training_sets = TrainingSets(registry, offline, self._retrieval, tracker, self.now)
        self.online_features = OnlineFeatures(self.versions.served, online, self.now)

    def now(self) -> datetime:
        """The clock's moment, in UTC."""
        return as_utc(self._clock())

    def write_source(self, source: Source | str, df: Any, batch_id: str | None = None) -> int | None:
        """Append rows to a source, exactly once per ``batch_id`` (None: a fresh id per call).

        Returns the source's new table version, or None if that batch was there already. Raises
        InvalidInput where columns are missing or do not fit the schema.
        """
        known = self.registry.source(source)
        stamp = ingestion_stamp(self.offline, known.name, self.now())
        rows = known.taken_in(as_frame(df, f"rows of source {known.name!r}"), stamp)
        app_id = f"batch:{batch_id or uuid.uuid4().hex}"
        dtypes = {**known.dtypes, **BOOKKEEPING}
        return self.offline.append_source(known.name, rows, app_id=app_id, number=1, dtypes=dtypes)

    def materialize(
        self,
        group: FeatureGroup | str,
        start: datetime | date | str,
        end: datetime | date | str,
        progress: Progress | None = None,
    ) -> Run:
        """Backfill a half-open UTC interval [start, end) of event time; an end in the future is moved to now.

        The run's ``note`` says so, and where there is nothing to read. Raises GroupHeld after a rollback, and
        InvalidInput where start is not before end or not before now.
        """
        known = self.versions.computing(group)
        with _readable(known):
            return self._materializer.backfill(known, as_utc(start), as_utc(end), progress)

    def preview(
        self,
        group: FeatureGroup | str,
        start: datetime | date | str,
        end: datetime | date | str,
        chunk: str | None = None,
    ) -> Preview:
        """What a backfill of [start, end) would read and change, chunk by chunk; nothing is written.

        ``chunk`` is the longest that one may be, in whole days like "7d"; None leaves it to the memory setting.
        """
        known = self.versions.computing(group)
        with _readable(known):
            return self._materializer.preview(known, as_utc(start), as_utc(end), whole_days(chunk))

    def open_backfill(
        self,
        group: FeatureGroup | str,
        start: datetime | date | str,
        end: datetime | date | str,
        chunk: str | None = None,
    ) -> Backfill:
        """Begin what ``materialize`` does, for others to do its chunks; a backfill that is open is taken up instead.

        Its ``interval`` says whether it is the one that was asked for. ``chunk``: see ``preview``.
        """
        known = self.versions.computing(group)
        with _readable(known):
            return self._materializer.open_backfill(known, as_utc(start), as_utc(end), whole_days(chunk))

    def do_chunks(self, group: FeatureGroup | str, plan: int, chunks: Sequence[int]) -> list[ChunkRun]:
        """Do chunks of an open backfill by their numbers, each exactly once, whoever else does the others.

        Raises ConcurrentRun where that plan is no longer open.
        """
        known = self.versions.computing(group)
        with _readable(known):
            return self._materializer.do_chunks(known, plan, chunks)

    def close_backfill(self, group: FeatureGroup | str, plan: int) -> Run:
        """End an open backfill of which every chunk is done; StorageError where some are not."""
        known = self.versions.computing(group)
        with _readable(known):
            return self._materializer.close_backfill(known, plan)

    def materialize_incremental(self, group: FeatureGroup | str, progress: Progress | None = None) -> Run:
        """The live path: emit what new source commits and the passing of time made necessary.

        Raises GroupHeld after a rollback.
        """
        known = self.versions.computing(group)
        with _readable(known):
            return self._materializer.incremental(known, progress)

    def sync(self, group: FeatureGroup | str) -> SyncRun:
        """Publish what was materialized since the last sync to the online store."""
        known = self.versions.writing(group)
        if self._pusher and known.online:
            self._pusher.deliver(known)
        with _readable(known):
            return self._syncer.sync(known)

    def push(self, group: FeatureGroup | str, df: Any, push_id: str | None = None) -> Push:
        """Put whole feature rows online and offline at once: keys, event_timestamp and features.

        A feature that is not given is null. The rows are on disk before they go online, and are folded
        into the group's table now and then; every reader sees them at once. With ``push_id`` they are
        taken once, however often they are pushed within a week. Where ``on_conflict="first"``, rows whose
        entity has one of that event_timestamp are left out. Raises InvalidInput where rows do not fit or
        the row check refuses them (then nothing is pushed), and StorageError where the online store cannot
        be reached: the rows are kept and go online later, and pushing them again does no harm.
        """
        known = self.versions.computing(group, recent=True)
        if self._pusher is None:
            raise StorageError("this store has no push log: make it with infra.connect, or pass one")
        done = self._pusher.push(known, df, push_id)
        if self._pusher.overdue(known):
            with suppress(StorageError):  # what was pushed is safe: it is folded when the table can be written
                self.fold(known)
        return done

    def fold(self, group: FeatureGroup | str) -> Run:
        """Take what was pushed into the group's table, unless a run is at work on it; every run does so first."""
        known = self.versions.writing(group)
        return self._runs.fold(known, self._runs.table(known))

    def get_historical_features(
        self,
        entity_df: Any,
        features: FeatureService | Sequence[str],
        *,
        event_timestamp: str = "event_timestamp",
        full_feature_names: bool = False,
        history: History = "backfilled",
        pins: Pins | None = None,
    ) -> TrainingSet:
        """For each entity row the features as they would have been answered at its moment.

        ``history="as_served"`` counts only what was really published by then, "backfilled" also what
        a backfill could have known. Entity rows keep their order, number and own columns.
        """
        retrieve = partial(
            HistoricalRetrieval.get,
            entity_df=entity_df,
            features=features,
            event_timestamp=event_timestamp,
            full_feature_names=full_feature_names,
            history=history,
            pins=pins,
        )
        return self._retrieved(features, retrieve)

    def get_offline_features(
        self,
        features: FeatureService | Sequence[str],
        start: datetime | date | str,
        end: datetime | date | str,
        *,
        entities: Any = None,
        full_feature_names: bool = False,
        history: History = "backfilled",
        pins: Pins | None = None,
    ) -> TrainingSet:
        """Features without a list of moments: of all entities, or of some (a frame of keys), in [start, end).

        The rows are those that stand in the group of the first feature, corrections included and whenever they
        were published, one per entity and event_timestamp, by time and keys. Features of other groups are as
        they would have been answered at that event_timestamp; their keys may be features of the first group.
        """
        retrieve = partial(
            HistoricalRetrieval.between,
            features=features,
            start=as_utc(start),
            end=as_utc(end),
            entities=entities,
            full_feature_names=full_feature_names,
            history=history,
            pins=pins,
        )
        return self._retrieved(features, retrieve)

    def _retrieved(self, features: FeatureService | Sequence[str], retrieve: Callable[..., TrainingSet]) -> TrainingSet:
        """What one way of retrieval finds in the definitions as they are applied and held."""
        registry = self.versions.asked(features)
        heads = dict.fromkeys(ref.head for ref in registry.resolve(features))
        with _readable(*map(registry.group, heads)):
            found = retrieve(self._retrieval(registry, target=self.online.target), now=self.now())
        groups = {head: self.versions.stated(registry.group(head), f) for head, f in found.manifest["groups"].items()}
        return replace(found, manifest={**found.manifest, "groups": groups})

    def log_training_set(self, training_set: TrainingSet, run_id: str | None = None) -> str:
        """Keep a training set with a run of the tracker (None: a new one), for ``reproduce``; the run's id."""
        return self._training_sets.log(training_set, run_id)

    def reproduce(self, run_id: str) -> TrainingSet:
        """Rebuild the training set that a run kept and compare its content hash.

        Raises ReproductionError, which names what is gone or was changed, where it is not equal.
        """
        return self._training_sets.reproduce(run_id)

    def get_online_features(
        self,
        features: FeatureService | Sequence[str],
        entity_rows: Any,
        *,
        request: Mapping[str, Any] | None = None,
        full_feature_names: bool = False,
        defaults: bool = True,
    ) -> OnlineResponse:
        """The newest published features of some entities (a list of dicts or a frame of keys).

        ``request`` has the values that a service asks for, one for all entity rows or one for each; they may
        be columns of the entity rows instead. Raises InvalidInput where one lacks, is not asked for or does
        not fit, and where a group is not online. While the online store cannot be asked, groups whose features
        here all declare a default answer these, as the answer's ``origins`` say; where one has none, or without
        ``defaults``, StorageError is raised. Definitions that another process applied, held or released
        are known at most five seconds later.
        """
        return self.online_features.get(
            features, entity_rows, request=request, full_feature_names=full_feature_names, defaults=defaults
        )

    def current_rows(
        self, group: FeatureGroup | str, start: datetime | None = None, end: datetime | None = None
    ) -> pl.LazyFrame:
        """The rows that stand in the offline store, one per entity and event time in [start, end).

        Pushed rows count as soon as they are served; those not folded into the table yet have no ``_plan``.
        """
        known = self.versions.reading(group)
        table = self._runs.table(known)
        state, waiting = (table.state(), None) if self._folding is None else self._folding.snapshot(known, table)
        start, end = (None if moment is None else as_utc(moment) for moment in (start, end))
        rows = table.scan(state.version, start.date() if start else None, end.date() if end else None)
        rows = rows.filter(pl.col(PLAN) <= state.closed)
        if waiting is not None and not waiting.is_empty():
            rows = pl.concat([rows, waiting.lazy()], how="diagonal")  # the table may have columns of old definitions
        rows = rows if start is None else rows.filter(pl.col(EVENT) >= start)
        rows = rows if end is None else rows.filter(pl.col(EVENT) < end)
        return winners(rows, [*known.keys, EVENT]).filter(~pl.col(DELETED))

    def provenance(self, group: FeatureGroup | str) -> dict[str, Any]:
        """What a manifest says of a group as it stands: version, fingerprint, table version, sources."""
        known = self.versions.reading(group)
        table = self._runs.table(known)
        return self.versions.stated(known, provenance(known, table, table.state()))

    def plan(self) -> DefinitionPlan:
        """What applying the code's definitions would change, for whom, and whether their versions say so."""
        return self.versions.plan()

    def apply(self) -> DefinitionPlan:
        """Record the code's definitions as applied; see ``features.versions.Versions.apply`` for what it refuses."""
        return self.versions.apply()

    def rollback(self, group: str, version: str, progress: Progress | None = None) -> Reinstated:
        """Take a group back to an applied version, definition, offline answers and online values together.

        What its entities were answered when that version last wrote is appended and published, and the
        group is held: it is not computed, and not changed by ``apply``, until ``release``. Going back to
        another major makes the group's bare name mean that one. A rollback that was killed is finished by
        calling it again. Raises InvalidInput where there is nothing to go back to.
        """
        return self._rollbacks.rollback(group, version, progress)

    def release(self, group: str, progress: Progress | None = None) -> Reinstated:
        """Undo a rollback: append and publish what was answered before it, and let runs go on from there."""
        return self._rollbacks.release(group, progress)

    def lineage(self, ref: str) -> Lineage:
        """What is above and below a source, group, service or model, or one column or feature of it.

        Columns are traced by running the definitions over empty sources: nothing is read.
        """
        return lineage(self.registry, ref)

    def close(self) -> None:
        """Release the online store and the push log."""
        self.online.close()
        if self._pusher:
            self._pusher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
