"""Online answers: the newest row of each entity, with ttl, statuses and derived features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

import polars as pl

from features.derived import Selection, column, request_value, select
from features.entity import DataType
from features.errors import InvalidInput, StorageError
from features.feature_group import REQUEST_TIMESTAMP, FeatureGroup
from features.feature_service import FeatureService
from features.frames import as_frame
from features.online_derived import OnlineDerivation, online_derivations
from features.point_in_time import NOT_FOUND, NULL_VALUE, OUTSIDE_MAX_AGE, PRESENT, entity_keys
from features.registry import Registry
from features.stored_types import key_dtypes, typed_value
from features.stores import OnlineRow, OnlineStore
from features.times import UTC_US


@dataclass(frozen=True)
class OnlineResponse:
    """Answers by name: values, statuses and event timestamps, one list entry per entity row.

    An event timestamp says as of when an answer stands, also that of a row that is OUTSIDE_MAX_AGE (while
    the store still has it); a derived feature is as old as the oldest it reads. ``origins`` says by name where
    answers come from: "store", or "default" where the store could not be asked; these are as of no moment.
    """

    entities: pl.DataFrame
    values: Mapping[str, list[Any]]
    statuses: Mapping[str, list[str]]
    event_timestamps: Mapping[str, list[datetime | None]]
    dtypes: Mapping[str, DataType]
    origins: Mapping[str, str]

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
        self._prepared = lru_cache(maxsize=1_000)(self._prepare)  # definitions do not change while it lives

    def get(
        self,
        features: FeatureService | Sequence[str],
        entity_rows: Any,
        *,
        request: Mapping[str, Any] | None,
        full_feature_names: bool,
        defaults: bool,
        now: datetime,
    ) -> OnlineResponse:
        """Answer features for entity rows; see FeatureStore.get_online_features."""
        asked = features if isinstance(features, FeatureService) else tuple(features)
        prepared = self._prepared(asked, full_feature_names)
        entities = as_frame(entity_rows)
        prepared.refuse_collisions(entities)
        work = _Columns()
        for group, named, wanted in prepared.groups:
            keys = _keys(group, named, entities)
            try:
                found = self._online.read(group.table_id, keys)
            except StorageError:
                known = prepared.defaults(group, wanted) if defaults else {}
                if len(known) < len(wanted):
                    raise
                work.default(known, wanted, entities.height)
            else:
                work.add(found, wanted, group, now)
        if prepared.derived:
            work.values |= prepared.request_values(request or {}, entities, now)
        elif request:
            prepared.request_values(request, entities, now)
        for derivation in prepared.derived:
            work.derive(derivation, entities.height)
        return _response(entities, prepared, work)

    def _prepare(self, features: FeatureService | tuple[str, ...], full_feature_names: bool) -> _Prepared:
        selection = select(self._registry, features, full_feature_names=full_feature_names)
        groups: list[_Read] = []
        for place, wanted in selection.stored.items():
            ref = selection.reads[place]
            group = self._registry.group(ref.head)
            if not group.online:
                raise InvalidInput(
                    f"feature group {group.name!r} is not served online (online=False): read it with "
                    f"get_historical_features, or define it with online=True, apply and sync"
                )
            groups.append((group, dict(ref.keys), {feature: column(place, feature) for feature in wanted}))
        return _Prepared(selection, groups, *online_derivations(self._registry, selection))


_Read = tuple[FeatureGroup, Mapping[str, str], Mapping[str, str]]


@dataclass(frozen=True)
class _Prepared:
    """What a request needs that does not depend on its rows.

    ``groups`` are the groups to read, the columns that other keys come from, and by stored feature the column
    it is worked on in.
    """

    selection: Selection
    groups: Sequence[_Read]
    derived: Sequence[OnlineDerivation]
    dtypes: Mapping[str, DataType]

    def refuse_collisions(self, entities: pl.DataFrame) -> None:
        """InvalidInput where an entity row already has a column with the name of an answer."""
        clash = sorted(set(entities.columns) & set(self.selection.outputs))
        if clash:
            remedy = "rename them or use full_feature_names=True"
            raise InvalidInput(f"the entity rows already have column(s) {clash}: {remedy}")

    def defaults(self, group: FeatureGroup, wanted: Mapping[str, str]) -> dict[str, Any]:
        """The declared answers of features where no store can be asked; of those that declare one."""
        declared = [f for f in group.features if f.name in wanted and f.default is not None]
        return {f.name: typed_value(f.name, f.default, self.dtypes[wanted[f.name]]) for f in declared}

    def request_values(
        self, given: Mapping[str, Any], entities: pl.DataFrame, now: datetime
    ) -> dict[str, Sequence[Any]]:
        """The request values by column, one for each entity row; InvalidInput where one lacks or is too much."""
        known = self.selection.request
        unknown = [name for name in given if name not in known]
        if unknown:
            takes = f"it takes {list(known)}" if known else "it takes none"
            raise InvalidInput(f"request value(s) {unknown} are not asked for: {takes}")
        missing = [name for name in known if name not in given and name not in entities.columns]
        if missing:
            raise InvalidInput(f"the service needs request value(s) {missing}: pass request={{name: [values]}}")
        found: dict[str, Sequence[Any]] = {REQUEST_TIMESTAMP: [now] * entities.height}
        for name, dtype in known.items():
            value = given[name] if name in given else entities[name]
            found[name] = request_value(name, value, dtype, entities.height).to_list()
        return found


@dataclass
class _Columns:
    """The columns of a request while it is worked on: values, statuses and moments by column."""

    values: dict[str, Sequence[Any]] = field(default_factory=dict)
    statuses: dict[str, list[str]] = field(default_factory=dict)
    moments: dict[str, list[datetime | None]] = field(default_factory=dict)
    defaulted: set[str] = field(default_factory=set)

    def default(self, known: Mapping[str, Any], wanted: Mapping[str, str], rows: int) -> None:
        """Features of a group whose store could not be asked."""
        for feature, there in wanted.items():
            self.values[there], self.statuses[there] = [known[feature]] * rows, [PRESENT] * rows
            self.moments[there] = [None] * rows
            self.defaulted.add(there)

    def add(
        self, found: Sequence[OnlineRow | None], wanted: Mapping[str, str], group: FeatureGroup, now: datetime
    ) -> None:
        """The stored features of a group, from the rows that the store has at ``now``."""
        rows = [None if row is None or row.deleted else row for row in found]
        times = [None if row is None else row.event_timestamp for row in rows]
        ttl = group.ttl_span
        if ttl is not None:
            rows = [None if row is None or now - row.event_timestamp > ttl else row for row in rows]
        missing = [NOT_FOUND if time is None else OUTSIDE_MAX_AGE for time in times]
        for feature, there in wanted.items():
            values = [None if row is None else row.values.get(feature) for row in rows]
            self.values[there], self.moments[there] = values, times
            self.statuses[there] = [
                PRESENT if value is not None else reason if row is None else NULL_VALUE
                for value, row, reason in zip(values, rows, missing, strict=True)
            ]

    def derive(self, derived: OnlineDerivation, rows: int) -> None:
        """A derived feature, from the columns that it reads."""
        name, read = derived.derivation.name, [c for c in derived.reads if c in self.statuses]
        self.values[name] = values = derived.values(self.values, rows)
        self.statuses[name] = derived.statuses(values, [self.statuses[c] for c in read])
        self.moments[name] = [_oldest([self.moments[c][row] for c in read]) for row in range(rows)]
        if not self.defaulted.isdisjoint(read):
            self.defaulted.add(name)


def _keys(group: FeatureGroup, named: Mapping[str, str], entities: pl.DataFrame) -> list[tuple[Any, ...]]:
    return entity_keys(entities, key_dtypes(group.entity), named).rows() if entities.height else []


def _oldest(times: Sequence[datetime | None]) -> datetime | None:
    """As of when a derived value stands: its oldest input."""
    return min((t for t in times if t is not None), default=None)


def _response(entities: pl.DataFrame, prepared: _Prepared, work: _Columns) -> OnlineResponse:
    """The answers under their output names."""
    selection = prepared.selection
    where = {selection.names[ref]: column(ref.place, ref.feature) for ref in selection.refs}
    where |= {derived.derivation.name: derived.derivation.name for derived in prepared.derived}
    where = {name: where[name] for name in selection.outputs}
    return OnlineResponse(
        entities,
        {name: list(work.values[there]) for name, there in where.items()},
        {name: work.statuses[there] for name, there in where.items()},
        {name: work.moments[there] for name, there in where.items()},
        {name: prepared.dtypes[there] for name, there in where.items()},
        {name: "default" if there in work.defaulted else "store" for name, there in where.items()},
    )
