"""Retrieval: training sets from the offline store and answers from the online store."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import polars as pl

from features import derived as deriving
from features.compute import stored_schema
from features.content_hash import content_hash
from features.derived import Selection, column
from features.errors import InvalidInput
from features.feature_group import REQUEST_TIMESTAMP, FeatureGroup
from features.feature_rows import EVENT
from features.feature_service import FeatureService, Ref
from features.fingerprint import serialized
from features.folding import Folding
from features.frames import as_frame
from features.point_in_time import ANY_LIMITS, PRESENT, STATUS, History, Limits, Visibility, entity_keys, feature_status
from features.reading import GroupReading, Reading
from features.registry import Registry
from features.replay import near_keys
from features.stored_types import key_dtypes
from features.stores import OfflineStore
from features.times import from_micros, utc_column

Pins = Mapping[str, int]
"""Delta versions to read instead of the newest: by group name, and "publish_log".

"<group>:pushed" is the stamp, in µs, up to which pushes count that were not in the table yet.
"""


@dataclass(frozen=True)
class TrainingSet:
    """The entity rows with the features they would have been answered, and where those came from.

    ``manifest`` says what was read, in enough detail to read it again. ``shown`` makes the statuses.
    """

    frame: pl.DataFrame
    shown: pl.LazyFrame
    features: Sequence[str]
    manifest: Mapping[str, Any]

    @cached_property
    def statuses(self) -> pl.DataFrame:
        """The same rows with a column per feature: PRESENT, NULL_VALUE, NOT_FOUND or OUTSIDE_MAX_AGE."""
        return self.shown.collect()

    @property
    def entity_rows(self) -> pl.DataFrame:
        """The entity rows as they were given."""
        return self.frame.drop(self.features)

    def to_polars(self) -> pl.DataFrame:
        """The entity rows' own columns, then the features."""
        return self.frame

    def lazy(self) -> pl.LazyFrame:
        """The same as a LazyFrame."""
        return self.frame.lazy()

    def to_pandas(self) -> Any:
        """The same as a pandas DataFrame."""
        return self.frame.to_pandas()

    def to_arrow(self) -> Any:
        """The same as a pyarrow Table."""
        return self.frame.to_arrow()


class HistoricalRetrieval:
    """Point-in-time retrieval over the offline store."""

    def __init__(
        self,
        registry: Registry,
        offline: OfflineStore,
        target: str,
        code_version: Callable[[], str | None],
        pushes: Folding | None = None,
        limits: Limits = ANY_LIMITS,
    ) -> None:
        self._registry = registry
        self._offline = offline
        self._target = target
        self._code_version = code_version
        self._pushes = pushes
        self._limits = limits

    def get(
        self,
        entity_df: Any,
        features: FeatureService | Sequence[str],
        *,
        event_timestamp: str,
        full_feature_names: bool,
        history: History,
        pins: Pins | None,
        now: datetime,
    ) -> TrainingSet:
        """Join features to entity rows; see FeatureStore.get_historical_features."""
        given = as_frame(entity_df)
        if event_timestamp not in given.columns:
            raise InvalidInput(f"the entity rows have no column {event_timestamp!r}; they have {given.columns}")
        if history not in ("backfilled", "as_served"):
            raise InvalidInput(f"history {history!r} is neither 'backfilled' nor 'as_served'")
        selection = deriving.select(self._registry, features, full_feature_names=full_feature_names)
        _refuse_collisions(given, selection)
        asked = given.with_columns(utc_column(event_timestamp, given.schema[event_timestamp]).alias(EVENT))
        _check_moments(asked[EVENT], event_timestamp, now)
        reading = self._reading(selection, pins or {}, history, now)
        answers = reading.answers(asked, selection, list(selection.stored))
        facts = _asked_for(features, full_feature_names) | {"event_timestamp": event_timestamp}
        return self._training_set(given, asked[EVENT], answers, selection, reading, facts)

    def between(
        self,
        features: FeatureService | Sequence[str],
        start: datetime,
        end: datetime,
        *,
        entities: Any,
        full_feature_names: bool,
        history: History,
        pins: Pins | None,
        now: datetime,
    ) -> TrainingSet:
        """The rows of the first feature's group; see FeatureStore.get_offline_features."""
        if start >= end:
            raise InvalidInput(f"start {start:%F %T} is not before end {end:%F %T}: give an interval [start, end)")
        selection = deriving.select(self._registry, features, full_feature_names=full_feature_names)
        if selection.request:
            values = list(selection.request)
            raise InvalidInput(f"request value(s) {values} belong to entity rows: use get_historical_features")
        if not selection.stored:
            raise InvalidInput("no stored feature is asked for, whose rows could be read: name one first")
        reading = self._reading(selection, pins or {}, history, now)
        first, *others = selection.stored
        spine = _spine(reading, selection, start, end, None if entities is None else as_frame(entities))
        answers = {first: spine.select(*selection.stored[first], EVENT, pl.lit(PRESENT, STATUS).alias("status"))}
        answers |= reading.answers(spine, selection, others)
        given = spine.select(c for c in _spine_columns(reading, selection) if c not in selection.outputs)
        facts = _asked_for(features, full_feature_names) | {
            "event_timestamp": EVENT,
            "start": start.isoformat(),
            "end": end.isoformat(),
        }
        return self._training_set(given, spine[EVENT], answers, selection, reading, facts)

    def _training_set(
        self,
        given: pl.DataFrame,
        moments: pl.Series,
        answers: Mapping[str, pl.DataFrame],
        selection: Selection,
        reading: Reading,
        facts: Mapping[str, Any],
    ) -> TrainingSet:
        frame, shown = _output(given, moments, answers, selection)
        manifest = self._manifest(reading, selection, frame) | {**facts, "entity_hash": content_hash(given)}
        return TrainingSet(frame, shown, selection.outputs, manifest)

    def _reading(self, selection: Selection, pins: Pins, history: History, now: datetime) -> Reading:
        # One state for what is read and what the manifest says was read: another run may be at work.
        heads = dict.fromkeys(selection.reads[place].head for place in selection.stored)
        tables = {head: self._table(self._registry.group(head), head, pins) for head in heads}
        # The tables before the log, which says how pushed rows were published before a table shows them.
        log_version = pins.get("publish_log", self._offline.publish_log_version())
        logs = {}
        for head, read in tables.items():
            log = self._offline.publications(read.group.table_id, log_version)
            log = log.filter(pl.col("target") == self._target)
            logs[head] = Visibility(log, history, read.group.online, read.table.epochs(read.state.epoch))
        return Reading(tables, logs, log_version, history, now, self._limits)

    def _table(self, group: FeatureGroup, head: str, pins: Pins) -> GroupReading:
        """A group's table, the state in which it is read, and the pushed rows that it lacks in that state."""
        table = self._offline.feature_table(group.table_id, stored_schema(group), group.keys)
        if self._pushes is None:
            return GroupReading(group, table, table.state(pins.get(head)), None)
        pushed = pins.get(f"{head}:pushed")
        through = None if pushed is None else from_micros(pushed)
        return GroupReading(group, table, *self._pushes.snapshot(group, table, pins.get(head), through))

    def _manifest(self, reading: Reading, selection: Selection, frame: pl.DataFrame) -> dict[str, Any]:
        return {
            "features": [str(ref) for ref in selection.refs],
            "groups": {head: read.provenance() for head, read in reading.tables.items()},
            "publish_log_version": reading.log_version,
            "target": self._target,
            "history": reading.history,
            "now": reading.now.isoformat(),
            "code_version": self._code_version(),
            "rows": frame.height,
            "content_hash": content_hash(frame),
        }


def _asked_for(features: FeatureService | Sequence[str], full_feature_names: bool) -> dict[str, Any]:
    """What a manifest says of the question."""
    return {
        "service": features.name if isinstance(features, FeatureService) else None,
        "derived": {f.name: expression_mark(f.expr) for f in getattr(features, "derived", ())},
        "full_feature_names": full_feature_names,
    }


def _spine_columns(reading: Reading, selection: Selection) -> list[str]:
    """The columns that entity rows need for all groups of a selection: the first one's keys, the time, others' keys."""
    first = next(iter(selection.stored))
    needed = [(c, place) for place in selection.stored for c in _key_columns(reading, selection.reads[place])]
    own = _key_columns(reading, selection.reads[first])
    there = {*own, *reading.tables[selection.reads[first].head].group.feature_names}
    missing = {c: place for c, place in needed if c not in there}
    if missing:
        column, place = next(iter(missing.items()))
        raise InvalidInput(
            f"{place!r} needs the key {column!r}, which the rows of {first!r} lack: name first a feature of a group "
            f"that has it, or take the key from one of its features, like 'group[{column}=feature]:name'"
        )
    return list(dict.fromkeys([*own, EVENT, *(c for c, _ in needed)]))


def _key_columns(reading: Reading, ref: Ref) -> list[str]:
    return [dict(ref.keys).get(key, key) for key in reading.tables[ref.head].group.keys]


def _spine(
    reading: Reading, selection: Selection, start: datetime, end: datetime, entities: pl.DataFrame | None
) -> pl.DataFrame:
    """The first group's rows between two moments: its keys and features, and what other groups are asked by."""
    columns, first = _spine_columns(reading, selection), next(iter(selection.stored))
    ref = selection.reads[first]
    read, named = reading.tables[ref.head], dict(ref.keys)
    near, mine = pl.lit(True), None
    if entities is not None:
        mine = entity_keys(entities, key_dtypes(read.group.entity), named).drop_nulls().unique()
        near = near_keys(mine)
    rows = read.standing(start, end, near)
    if mine is not None:
        rows = rows.join(mine.lazy(), on=mine.columns, how="semi")
    keys = [pl.col(key).alias(named.get(key, key)) for key in read.group.keys]
    others = dict.fromkeys([*columns, *selection.stored[first]])
    features = [name for name in others if name in read.group.feature_names]
    spine = rows.select(*keys, EVENT, *features).collect(engine="streaming")
    return spine.sort(EVENT, *(named.get(key, key) for key in read.group.keys))


def _refuse_collisions(given: pl.DataFrame, selection: Selection) -> None:
    clash = sorted(set(given.columns) & set(selection.outputs))
    if clash:
        remedy = "rename them or use full_feature_names=True"
        raise InvalidInput(f"the entity rows already have column(s) {clash}: {remedy}")
    missing = [name for name in selection.request if name not in given.columns]
    if missing:
        raise InvalidInput(f"the service needs request value(s) {missing} as columns of the entity rows")


def _check_moments(moments: pl.Series, column: str, now: datetime) -> None:
    """Every entity row needs a moment; one warning for all that are later than now: they see what is visible now."""
    if missing := moments.null_count():
        raise InvalidInput(f"{missing} entity row(s) have no {column!r}: leave them out, or say when they were asked")
    if later := int((moments > now).sum()):
        warnings.warn(
            f"{later} entity row(s) are later than now, {now:%F %T} UTC: they see what is visible now", stacklevel=5
        )


def expression_mark(expr: pl.Expr) -> str:
    """What tells a service's derived feature from another one; those of a group are in its fingerprint."""
    return hashlib.sha256(serialized(expr).encode()).hexdigest()


def _output(
    given: pl.DataFrame, moments: pl.Series, answers: Mapping[str, pl.DataFrame], selection: Selection
) -> tuple[pl.DataFrame, pl.LazyFrame]:
    """The entity rows with the answers, and what makes the statuses, under their output names."""
    work = [deriving.request_value(n, given[n], dtype, given.height) for n, dtype in selection.request.items()]
    work.append(moments.alias(REQUEST_TIMESTAMP))
    row_statuses = []
    for place, found in answers.items():
        work += [found[f].alias(column(place, f)) for f in selection.stored[place]]
        row_statuses.append(found["status"].alias(column(place, "")))  # no feature is called so
    stored = {column(place, f): place for place, wanted in selection.stored.items() for f in wanted}
    known = pl.DataFrame(work).hstack(row_statuses).lazy()
    status = {there: feature_status(there, column(place, "")).alias(there) for there, place in stored.items()}
    values = deriving.evaluate(pl.DataFrame(work), selection)
    for name, _, columns in selection.derived:
        read = [status[there] for there in columns.values() if there in status]
        missing = known.select(read).collect().get_columns() if read else []
        status[name] = pl.lit(deriving.status(values[name], missing).cast(STATUS))
    names = {selection.names[ref]: column(ref.place, ref.feature) for ref in selection.refs}
    derived = {name for name, _, _ in selection.derived}
    places = {name: name if name in derived else names[name] for name in selection.outputs}
    shown = known.select(status[place].alias(name) for name, place in places.items())
    return given.with_columns(values[place].alias(name) for name, place in places.items()), shown
