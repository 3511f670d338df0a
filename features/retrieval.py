"""Retrieval: training sets from the offline store and answers from the online store."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from features import derived as deriving
from features.compute import stored_schema
from features.content_hash import content_hash
from features.derived import Selection, column
from features.description import fingerprint
from features.errors import InvalidInput
from features.feature_group import REQUEST_TIMESTAMP, FeatureGroup
from features.feature_rows import CREATED, EVENT
from features.feature_service import FeatureService
from features.fingerprint import serialized
from features.folding import Folding
from features.frames import as_frame
from features.point_in_time import History, StoredRows, Visibility, feature_status, join
from features.registry import Registry
from features.stored_types import key_dtypes
from features.stores import FeatureTable, OfflineStore, TableState
from features.times import from_micros, to_micros, utc_column

Pins = Mapping[str, int]
"""Delta versions to read instead of the newest: by group name, and "publish_log".

"<group>:pushed" is the stamp, in µs, up to which pushes count that were not in the table yet.
"""


@dataclass(frozen=True)
class TrainingSet:
    """The entity rows with the features they would have been answered, and where those came from.

    ``statuses`` is a frame with the same rows and a column per feature (PRESENT, NULL_VALUE,
    NOT_FOUND, OUTSIDE_MAX_AGE). ``manifest`` says what was read, in enough detail to read it again.
    """

    frame: pl.DataFrame
    statuses: pl.DataFrame
    features: Sequence[str]
    manifest: Mapping[str, Any]

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
    ) -> None:
        self._registry = registry
        self._offline = offline
        self._target = target
        self._code_version = code_version
        self._pushes = pushes

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
        moment = utc_column(event_timestamp, given.schema[event_timestamp]).alias(EVENT)
        asked = given.with_columns(moment)
        _warn_of_the_future(asked, now)
        work = [deriving.request_value(n, given[n], dtype, given.height) for n, dtype in selection.request.items()]
        work.append(asked[EVENT].alias(REQUEST_TIMESTAMP))
        statuses, groups = {}, {}
        # One state for what is read and what the manifest says was read: another run may be at work.
        read = {name: self._state(self._registry.group(name), name, pins or {}) for name in selection.stored}
        # The tables before the log, which says how pushed rows were published before a table shows them.
        log_version = (pins or {}).get("publish_log", self._offline.publish_log_version())
        for name, wanted in selection.stored.items():
            group = self._registry.group(name)
            table, state, pushed = read[name]
            rows = StoredRows(table.scan(state.version), state.closed, state.epoch, pushed)
            answers = self._answers(group, rows, asked, wanted, history, log_version, now)
            work += [answers[f].alias(column(name, f)) for f in wanted]
            for feature in wanted:
                statuses[column(name, feature)] = answers.select(feature_status(feature)).to_series()
            newest = None if pushed is None or pushed.is_empty() else to_micros(pushed[CREATED].max())  # type: ignore[arg-type]  # a datetime
            groups[name] = provenance(group, table, state) | {"pushed": newest}
        frame, shown = _output(given, pl.DataFrame(work), statuses, selection)
        manifest = {
            "features": [str(ref) for ref in selection.refs],
            "service": features.name if isinstance(features, FeatureService) else None,
            "groups": groups,
            "derived": {f.name: expression_mark(f.expr) for f in getattr(features, "derived", ())},
            "full_feature_names": full_feature_names,
            "event_timestamp": event_timestamp,
            "publish_log_version": log_version,
            "target": self._target,
            "history": history,
            "now": now.isoformat(),
            "code_version": self._code_version(),
            "entity_hash": content_hash(given),
            "rows": frame.height,
            "content_hash": content_hash(frame),
        }
        return TrainingSet(frame, shown, selection.outputs, manifest)

    def _state(
        self, group: FeatureGroup, name: str, pins: Pins
    ) -> tuple[FeatureTable, TableState, pl.DataFrame | None]:
        """A group's table, the state in which it is read, and the pushed rows that it lacks in that state."""
        table = self._offline.feature_table(group.table_id, stored_schema(group), group.keys)
        if self._pushes is None:
            return table, table.state(pins.get(name)), None
        pushed = pins.get(f"{name}:pushed")
        through = None if pushed is None else from_micros(pushed)
        return table, *self._pushes.snapshot(group, table, pins.get(name), through)

    def _answers(
        self,
        group: FeatureGroup,
        rows: StoredRows,
        asked: pl.DataFrame,
        wanted: Sequence[str],
        history: History,
        log_version: int | None,
        now: datetime,
    ) -> pl.DataFrame:
        log = self._offline.publications(group.table_id, log_version)
        log = log.filter(pl.col("target") == self._target)
        keys = key_dtypes(group.entity)
        visibility = Visibility(log, history, group.online)
        return join(asked, rows, visibility, keys=keys, features=list(wanted), now=now, ttl=group.ttl_span)


def _refuse_collisions(given: pl.DataFrame, selection: Selection) -> None:
    clash = sorted(set(given.columns) & set(selection.outputs))
    if clash:
        remedy = "rename them or use full_feature_names=True"
        raise InvalidInput(f"the entity rows already have column(s) {clash}: {remedy}")
    missing = [name for name in selection.request if name not in given.columns]
    if missing:
        raise InvalidInput(f"the service needs request value(s) {missing} as columns of the entity rows")


def _warn_of_the_future(asked: pl.DataFrame, now: datetime) -> None:
    """One warning for all entity rows later than now: they see what is visible now."""
    if later := asked.filter(pl.col(EVENT) > now).height:
        warnings.warn(
            f"{later} entity row(s) are later than now, {now:%F %T} UTC: they see what is visible now", stacklevel=4
        )


def provenance(group: FeatureGroup, table: FeatureTable, state: TableState) -> dict[str, Any]:
    """What a manifest says of one group whose table was read in a state."""
    sources = table.plan(state.closed).sources if state.closed else {}
    inputs = group.inputs  # a plan of an earlier version may know an input by another name
    return {
        "version": group.version,
        "fingerprint": fingerprint(group),
        "ttl": group.ttl,
        "table_version": state.version,
        "plan": state.closed,
        "sources": {inputs[name].name if name in inputs else name: read for name, (_, read) in sources.items()},
    }


def expression_mark(expr: pl.Expr) -> str:
    """What tells a service's derived feature from another one; those of a group are in its fingerprint."""
    return hashlib.sha256(serialized(expr).encode()).hexdigest()


def _output(
    given: pl.DataFrame, work: pl.DataFrame, statuses: Mapping[str, pl.Series], selection: Selection
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The entity rows with the answers, and the statuses, under their output names."""
    work = deriving.evaluate(work, selection)
    known = dict(statuses)
    for name, _, columns in selection.derived:
        known[name] = deriving.status(work[name], [known[c] for c in columns.values() if c in known])
    derived = {name for name, _, _ in selection.derived}
    names = {selection.names[ref]: column(ref.head, ref.feature) for ref in selection.refs}
    values, shown = [], []
    for name in selection.outputs:
        if name in derived:
            series = work[name]
            shown.append(known[name])
        else:
            series = work[names[name]].alias(name)
            shown.append(statuses[names[name]].alias(name))
        values.append(series)
    return given.with_columns(values), pl.DataFrame(shown)
