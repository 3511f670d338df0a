"""Retrieval: training sets from the offline store and answers from the online store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from features import derived as deriving
from features.compute import stored_schema
from features.content_hash import content_hash
from features.derived import Selection, column
from features.errors import InvalidInput
from features.feature_group import FeatureGroup
from features.feature_rows import EVENT, PLAN
from features.feature_service import FeatureService
from features.fingerprint import fingerprint
from features.point_in_time import History, feature_status, join, with_availability
from features.registry import Registry
from features.stored_types import key_dtypes
from features.stores import FeatureTable, OfflineStore
from features.times import utc_column

Pins = Mapping[str, int]
"""Delta versions to read instead of the newest: by group name, and "publish_log"."""


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

    def __init__(self, registry: Registry, offline: OfflineStore, target: str) -> None:
        self._registry = registry
        self._offline = offline
        self._target = target

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
        work, statuses, groups = given, {}, {}
        for name, wanted in selection.stored.items():
            group = self._registry.group(name)
            table = self._offline.feature_table(group.table_id, stored_schema(group), group.keys)
            version = (pins or {}).get(name)
            answers = self._answers(group, table, version, asked, wanted, history, pins, now)
            renamed = answers.select(pl.col(f).alias(column(name, f)) for f in wanted)
            work = pl.concat([work, renamed], how="horizontal")
            for feature in wanted:
                statuses[column(name, feature)] = answers.select(feature_status(feature)).to_series()
            groups[name] = provenance(group, table, version)
        frame, shown = _output(given, work, statuses, selection)
        manifest = {
            "features": [str(ref) for ref in selection.refs],
            "service": features.name if isinstance(features, FeatureService) else None,
            "groups": groups,
            "publish_log_version": (pins or {}).get("publish_log", self._offline.publish_log_version()),
            "target": self._target,
            "history": history,
            "now": now.isoformat(),
            "entity_hash": content_hash(given),
            "rows": frame.height,
            "content_hash": content_hash(frame),
        }
        return TrainingSet(frame, shown, selection.outputs, manifest)

    def _answers(
        self,
        group: FeatureGroup,
        table: FeatureTable,
        version: int | None,
        asked: pl.DataFrame,
        wanted: Sequence[str],
        history: History,
        pins: Pins | None,
        now: datetime,
    ) -> pl.DataFrame:
        rows = table.scan(version).filter(pl.col(PLAN) <= table.state().closed)
        log = self._offline.publications(group.table_id, (pins or {}).get("publish_log"))
        log = log.filter(pl.col("target") == self._target)
        available = with_availability(rows, log, history, online=group.online)
        keys = key_dtypes(group.entity)
        return join(asked, available, keys=keys, features=list(wanted), now=now, ttl=group.ttl_span)


class _ArrowStream:
    """Any table by its Arrow stream alone: what Polars does for pandas drops time zones with a warning."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


def as_frame(data: Any) -> pl.DataFrame:
    """Entity rows as a Polars frame: from Polars (lazy or not), pandas, Arrow or a list of dicts."""
    if isinstance(data, pl.DataFrame):
        return data
    if isinstance(data, pl.LazyFrame):
        return data.collect()
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return pl.from_dicts([dict(row) for row in data], infer_schema_length=None) if data else pl.DataFrame()
    try:
        return pl.DataFrame(_ArrowStream(data) if hasattr(data, "__arrow_c_stream__") else data)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        kind = type(data).__name__
        raise InvalidInput(f"entity rows are a {kind}: give a Polars, pandas or Arrow table, or dicts") from error


def _refuse_collisions(given: pl.DataFrame, selection: Selection) -> None:
    clash = sorted(set(given.columns) & set(selection.outputs))
    if clash:
        remedy = "rename them or use full_feature_names=True"
        raise InvalidInput(f"the entity rows already have column(s) {clash}: {remedy}")
    missing = [name for name in selection.request if name not in given.columns]
    if missing:
        raise InvalidInput(f"the service needs request value(s) {missing} as columns of the entity rows")


def provenance(group: FeatureGroup, table: FeatureTable, version: int | None) -> dict[str, Any]:
    """What a manifest says of one group."""
    state = table.state()
    sources = table.plan(state.closed).sources if state.closed else {}
    return {
        "version": group.version,
        "fingerprint": fingerprint(group),
        "table_version": state.version if version is None else version,
        "plan": state.closed,
        "sources": {group.inputs[name].name: read for name, (_, read) in sources.items()},
    }


def _output(
    given: pl.DataFrame, work: pl.DataFrame, statuses: Mapping[str, pl.Series], selection: Selection
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The entity rows with the answers, and the statuses, under their output names."""
    work = deriving.evaluate(work, selection)
    known = dict(statuses)
    for name, _, columns in selection.derived:
        known[name] = deriving.status(work[name], [known[c] for c in columns.values() if c in known])
    derived = {name for name, _, _ in selection.derived}
    names = {selection.names[ref]: column(ref.group, ref.feature) for ref in selection.refs}
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
