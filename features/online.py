"""Online answers: the newest row of each entity, with ttl, statuses and derived features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from features import derived as deriving
from features.compute import stored_schema
from features.derived import Selection, column
from features.entity import DataType
from features.errors import InvalidInput
from features.feature_group import FeatureGroup
from features.feature_service import FeatureService
from features.frames import as_frame
from features.point_in_time import NOT_FOUND, NULL_VALUE, OUTSIDE_MAX_AGE, PRESENT, entity_keys
from features.registry import Registry
from features.stored_types import key_dtypes
from features.stores import OnlineRow, OnlineStore
from features.times import UTC_US


@dataclass(frozen=True)
class OnlineResponse:
    """Answers by name: values, statuses and event timestamps, one list entry per entity row."""

    entities: pl.DataFrame
    values: Mapping[str, list[Any]]
    statuses: Mapping[str, list[str]]
    event_timestamps: Mapping[str, list[datetime | None]]
    dtypes: Mapping[str, DataType]

    def to_dict(self) -> dict[str, list[Any]]:
        """Entity keys and features as {name: [values]}."""
        return {**self.entities.to_dict(as_series=False), **self.values}

    def to_polars(self) -> pl.DataFrame:
        """Entity rows, features, and ``<name>__status`` and ``<name>__event_timestamp`` of each."""
        columns = [pl.Series(n, v, dtype=self.dtypes[n]) for n, v in self.values.items()]
        for name in self.values:
            columns.append(pl.Series(f"{name}__status", self.statuses[name], dtype=pl.String))
            columns.append(pl.Series(f"{name}__event_timestamp", self.event_timestamps[name], dtype=UTC_US))
        return self.entities.with_columns(columns)


class OnlineRetrieval:
    """Reads features from the online store."""

    def __init__(self, registry: Registry, online: OnlineStore) -> None:
        self._registry = registry
        self._online = online

    def get(
        self,
        features: FeatureService | Sequence[str],
        entity_rows: Any,
        *,
        request: Mapping[str, Any] | None,
        full_feature_names: bool,
        now: datetime,
    ) -> OnlineResponse:
        """Answer features for entity rows; see FeatureStore.get_online_features."""
        entities = as_frame(entity_rows)
        selection = deriving.select(self._registry, features, full_feature_names=full_feature_names)
        values: dict[str, list[Any]] = {}
        statuses: dict[str, list[str]] = {}
        moments: dict[str, list[datetime | None]] = {}
        dtypes: dict[str, DataType] = {}
        for name, wanted in selection.stored.items():
            group = self._registry.group(name)
            found = self._online.read(group.table_id, _keys(group, entities))
            rows = [_answer(row, group, now) for row in found]
            times = [row.event_timestamp if row else None for row, _ in rows]
            for feature in wanted:
                there = column(name, feature)
                values[there] = [row.values.get(feature) if row else None for row, _ in rows]
                statuses[there] = [_status(s, v) for (_, s), v in zip(rows, values[there], strict=True)]
                moments[there], dtypes[there] = times, stored_schema(group)[feature]
        return _response(entities, selection, values, statuses, moments, dtypes, request or {})


def _keys(group: FeatureGroup, entities: pl.DataFrame) -> list[tuple[Any, ...]]:
    return entity_keys(entities, key_dtypes(group.entity)).rows() if entities.height else []


def _answer(row: OnlineRow | None, group: FeatureGroup, now: datetime) -> tuple[OnlineRow | None, str]:
    """The row if it can be served at ``now``, and the status of the row as a whole."""
    if row is None or row.deleted:
        return None, NOT_FOUND
    ttl = group.ttl_span
    if ttl is not None and now - row.event_timestamp > ttl:
        return None, OUTSIDE_MAX_AGE
    return row, PRESENT


def _oldest(times: Sequence[datetime | None]) -> datetime | None:
    """As of when a derived value stands: its oldest input."""
    return min((t for t in times if t is not None), default=None)


def _status(row_status: str, value: Any) -> str:
    return NULL_VALUE if row_status == PRESENT and value is None else row_status


def _response(
    entities: pl.DataFrame,
    selection: Selection,
    values: dict[str, list[Any]],
    statuses: dict[str, list[str]],
    moments: dict[str, list[datetime | None]],
    dtypes: dict[str, DataType],
    request: Mapping[str, Any],
) -> OnlineResponse:
    """The answers under their output names, derived features computed."""
    where = {selection.names[ref]: column(ref.head, ref.feature) for ref in selection.refs}
    if selection.derived:
        missing = [name for name in selection.request if name not in request and name not in entities.columns]
        if missing:
            raise InvalidInput(f"the service needs request value(s) {missing}: pass request={{name: [values]}}")
        frame = pl.DataFrame([pl.Series(n, v, dtype=dtypes[n]) for n, v in values.items()])
        given = [
            deriving.request_value(n, request[n] if n in request else entities[n], dtype, entities.height)
            for n, dtype in selection.request.items()
        ]
        frame = deriving.evaluate(frame.with_columns(given), selection)
        for name, _, columns in selection.derived:
            read = [c for c in columns.values() if c in statuses]
            where[name] = name
            values[name], dtypes[name] = frame[name].to_list(), frame.schema[name]
            statuses[name] = deriving.status(
                frame[name], [pl.Series(statuses[c], dtype=pl.String) for c in read]
            ).to_list()
            moments[name] = [_oldest([moments[c][row] for c in read]) for row in range(entities.height)]
    out = selection.outputs
    return OnlineResponse(
        entities,
        {n: values[where[n]] for n in out},
        {n: statuses[where[n]] for n in out},
        {n: moments[where[n]] for n in out},
        {n: dtypes[where[n]] for n in out},
    )
