"""Online answers: the newest row of each entity, with ttl, statuses and derived features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import polars as pl

from features.derived import Selection, column, request_value, select
from features.entity import DataType
from features.entity_rows import Entities
from features.errors import InvalidInput, StorageError
from features.feature_group import REQUEST_TIMESTAMP, FeatureGroup
from features.feature_service import FeatureService
from features.online_derived import OnlineDerivation, online_derivations
from features.point_in_time import NOT_FOUND, NULL_VALUE, OUTSIDE_MAX_AGE, PRESENT
from features.registry import Registry
from features.stored_types import key_dtypes, typed_value
from features.stores import Key, OnlineColumns, OnlineStore
from features.times import UTC_US, Clock

STORE, CACHE, DEFAULT = "store", "cache", "default"
"""Where answers come from."""


@dataclass(frozen=True)
class OnlineResponse:
    """Answers by name: values, statuses and event timestamps, one list entry per entity row.

    An event timestamp says as of when an answer stands, also that of a row that is OUTSIDE_MAX_AGE (while
    the store still has it); a derived feature is as old as the oldest it reads. ``origins`` says by name where
    answers come from: "store", "cache" (what this process remembers of the store), or "default" where the store could
    not be asked; these are as of no moment.
    ``asked`` are the entity rows as columns of equal length. Features of one group share their lists.
    """

    asked: Entities
    values: Mapping[str, Sequence[Any]]
    statuses: Mapping[str, Sequence[str]]
    event_timestamps: Mapping[str, Sequence[datetime | None]]
    dtypes: Mapping[str, DataType]
    origins: Mapping[str, str]

    @property
    def entities(self) -> pl.DataFrame:
        """The entity rows."""
        return self.asked.frame

    def to_dict(self) -> dict[str, list[Any]]:
        """Entity keys and features as {name: [values]}."""
        return {**self.entities.to_dict(as_series=False), **{name: list(v) for name, v in self.values.items()}}

    def to_polars(self) -> pl.DataFrame:
        """Entity rows, features, and ``<name>__status`` and ``<name>__event_timestamp`` of each."""
        columns = [pl.Series(n, v, dtype=self.dtypes[n]) for n, v in self.values.items()]
        for name in self.values:
            columns.append(pl.Series(f"{name}__status", self.statuses[name], dtype=pl.String))
            columns.append(pl.Series(f"{name}__event_timestamp", self.event_timestamps[name], dtype=UTC_US))
        return self.entities.with_columns(columns)


class OnlineRead(NamedTuple):
    """Features of a table to be read for some entities; a key per entity row."""

    table_id: str
    keys: Sequence[Key]
    features: tuple[str, ...]

    def of(self, online: OnlineStore) -> OnlineColumns | StorageError:
        """What a store answers, or why it cannot."""
        try:
            return online.read_columns(self.table_id, self.keys, self.features)
        except StorageError as error:
            return self.without(online, error)

    def without(self, online: OnlineStore, error: StorageError) -> OnlineColumns | StorageError:
        """What is remembered of a store that does not answer, or why it does not."""
        remembered = online.at_hand(self.table_id, self.keys, self.features, stale=True)
        return error if remembered is None else remembered

    def at_hand(self, online: OnlineStore) -> OnlineColumns | StorageError | None:
        """What a store answers without waiting, or why it cannot; None where one has to wait."""
        try:
            return online.at_hand(self.table_id, self.keys, self.features)
        except StorageError as error:
            return error


class OnlineFeatures:
    """Asks for features online. ``served`` is the registry by which features are answered now."""

    def __init__(
        self, served: Callable[[FeatureService | Sequence[str]], Registry], online: OnlineStore, now: Clock
    ) -> None:
        self._served = served
        self._online = online
        self._now = now
        self._retrieval: OnlineRetrieval | None = None

    def ask(
        self,
        features: FeatureService | Sequence[str],
        entity_rows: Any,
        *,
        request: Mapping[str, Any] | None = None,
        full_feature_names: bool = False,
        defaults: bool = True,
    ) -> OnlineQuestion:
        """What ``get`` reads, for those who read it by themselves; raises as that does, but for StorageError."""
        registry = self._served(features)
        if self._retrieval is None or self._retrieval.registry is not registry:
            self._retrieval = OnlineRetrieval(registry)
        prepared = self._retrieval.prepared(
            features if isinstance(features, FeatureService) else tuple(features), full_feature_names
        )
        return OnlineQuestion(prepared, Entities(entity_rows), request, self._now(), defaults=defaults)

    def get(self, features: FeatureService | Sequence[str], entity_rows: Any, **options: Any) -> OnlineResponse:
        """Answer features for entity rows; see FeatureStore.get_online_features."""
        question = self.ask(features, entity_rows, **options)
        return question.answer([read.of(self._online) for read in question.reads])


class OnlineQuestion:
    """Features that are asked for some entities: what has to be read, and what it makes of that."""

    def __init__(
        self,
        prepared: _Prepared,
        entities: Entities,
        request: Mapping[str, Any] | None,
        now: datetime,
        *,
        defaults: bool,
    ) -> None:
        prepared.refuse_collisions(entities)
        self._prepared = prepared
        self._entities = entities
        self._now = now
        self._defaults = defaults
        self._given = prepared.request_values(request or {}, entities, now) if prepared.derived or request else {}
        self.reads = [
            OnlineRead(group.table_id, entities.keys(dtypes, named), tuple(wanted))
            for group, dtypes, named, wanted in prepared.groups
        ]

    def answer(self, found: Sequence[OnlineColumns | StorageError]) -> OnlineResponse:
        """The answer, given what was found for each of ``reads``.

        Raises the StorageError of a group that could not be read and has no defaults.
        """
        work, prepared, height = _Columns(), self._prepared, self._entities.height
        for (group, _, _, wanted), columns in zip(prepared.groups, found, strict=True):
            if isinstance(columns, StorageError):
                known = prepared.defaults(group, wanted) if self._defaults else {}
                if len(known) < len(wanted):
                    raise columns
                work.default(known, wanted, height)
            else:
                work.add(columns, wanted, group, self._now)
        if prepared.derived:
            work.values |= self._given
        for derivation in prepared.derived:
            work.derive(derivation, height)
        return _response(self._entities, prepared, work)


class OnlineRetrieval:
    """What requests need of a registry, prepared once for each selection of features."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.prepared = lru_cache(maxsize=1_000)(self._prepare)  # definitions do not change while it lives

    def _prepare(self, features: FeatureService | tuple[str, ...], full_feature_names: bool) -> _Prepared:
        selection = select(self.registry, features, full_feature_names=full_feature_names)
        groups: list[_Read] = []
        for place, wanted in selection.stored.items():
            ref = selection.reads[place]
            group = self.registry.group(ref.head)
            if not group.online:
                raise InvalidInput(
                    f"feature group {group.name!r} is not served online (online=False): read it with "
                    f"get_historical_features, or define it with online=True, apply and sync"
                )
            columns = {feature: column(place, feature) for feature in wanted}
            groups.append(_Read(group, key_dtypes(group.entity), dict(ref.keys), columns))
        return _Prepared(selection, groups, *online_derivations(self.registry, selection))


class _Read(NamedTuple):
    """A group to read: the types of its keys, the columns that other keys come from, and what is read into which."""

    group: FeatureGroup
    keys: Mapping[str, DataType]
    named: Mapping[str, str]
    wanted: Mapping[str, str]


@dataclass(frozen=True)
class _Prepared:
    """What a request needs that does not depend on its rows."""

    selection: Selection
    groups: Sequence[_Read]
    derived: Sequence[OnlineDerivation]
    dtypes: Mapping[str, DataType]

    @cached_property
    def outputs(self) -> dict[str, str]:
        """The column that holds the answer to each output name, in order."""
        where = {self.selection.names[ref]: column(ref.place, ref.feature) for ref in self.selection.refs}
        where |= {derived.derivation.name: derived.derivation.name for derived in self.derived}
        return {name: where[name] for name in self.selection.outputs}

    @cached_property
    def output_types(self) -> dict[str, DataType]:
        """The type of each answer."""
        return {name: self.dtypes[there] for name, there in self.outputs.items()}

    @cached_property
    def stored(self) -> dict[str, str]:
        """Where each answer comes from where all come from the store."""
        return self.origins({})

    def origins(self, elsewhere: Mapping[str, str]) -> dict[str, str]:
        """Where each answer comes from, given the columns that do not come from the store."""
        return {name: elsewhere.get(there, STORE) for name, there in self.outputs.items()}

    def refuse_collisions(self, entities: Entities) -> None:
        """InvalidInput where an entity row already has a column with the name of an answer."""
        if clash := sorted(self.outputs.keys() & entities.columns.keys()):
            remedy = "rename them or use full_feature_names=True"
            raise InvalidInput(f"the entity rows already have column(s) {clash}: {remedy}")

    def defaults(self, group: FeatureGroup, wanted: Mapping[str, str]) -> dict[str, Any]:
        """The declared answers of features where no store can be asked; of those that declare one."""
        declared = [f for f in group.features if f.name in wanted and f.default is not None]
        return {f.name: typed_value(f.name, f.default, self.dtypes[wanted[f.name]]) for f in declared}

    def request_values(self, given: Mapping[str, Any], entities: Entities, now: datetime) -> dict[str, Sequence[Any]]:
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
            value = given[name] if name in given else entities.columns[name]
            found[name] = request_value(name, value, dtype, entities.height).to_list()
        return found


@dataclass
class _Columns:
    """The columns of a request while it is worked on: values, statuses and moments by column."""

    values: dict[str, Sequence[Any]] = field(default_factory=dict)
    statuses: dict[str, Sequence[str]] = field(default_factory=dict)
    moments: dict[str, Sequence[datetime | None]] = field(default_factory=dict)
    elsewhere: dict[str, str] = field(default_factory=dict)

    def default(self, known: Mapping[str, Any], wanted: Mapping[str, str], rows: int) -> None:
        """Features of a group whose store could not be asked."""
        for feature, there in wanted.items():
            self.values[there], self.statuses[there] = [known[feature]] * rows, [PRESENT] * rows
            self.moments[there] = [None] * rows
            self.elsewhere[there] = DEFAULT

    def add(self, found: OnlineColumns, wanted: Mapping[str, str], group: FeatureGroup, now: datetime) -> None:
        """The stored features of a group, from what the store has at ``now``."""
        times, ttl = found.event_timestamps, group.ttl_span
        reasons = [NOT_FOUND if time is None else PRESENT for time in times]
        if ttl is not None:
            late = [time is not None and now - time > ttl for time in times]
            reasons = [OUTSIDE_MAX_AGE if old else reason for old, reason in zip(late, reasons, strict=True)]
        complete = reasons.count(PRESENT) == len(reasons)
        for feature, there in wanted.items():
            values, statuses = found.values[feature], reasons
            if not complete:
                values = [v if reason is PRESENT else None for v, reason in zip(values, reasons, strict=True)]
            if None in values:
                each = zip(values, reasons, strict=True)
                statuses = [NULL_VALUE if v is None and reason is PRESENT else reason for v, reason in each]
            self.values[there], self.statuses[there], self.moments[there] = values, statuses, times
            if found.cached:
                self.elsewhere[there] = CACHE

    def derive(self, derived: OnlineDerivation, rows: int) -> None:
        """A derived feature, from the columns that it reads."""
        name, read = derived.derivation.name, [c for c in derived.reads if c in self.statuses]
        self.values[name] = values = derived.values(self.values, rows)
        self.statuses[name] = derived.statuses(values, [self.statuses[c] for c in read])
        self.moments[name] = [_oldest([self.moments[c][row] for c in read]) for row in range(rows)]
        origins = {self.elsewhere.get(c, STORE) for c in read}
        if read and (origin := next(o for o in (DEFAULT, STORE, CACHE) if o in origins)) != STORE:
            self.elsewhere[name] = origin


def _oldest(times: Sequence[datetime | None]) -> datetime | None:
    """As of when a derived value stands: its oldest input."""
    return min((t for t in times if t is not None), default=None)


def _response(entities: Entities, prepared: _Prepared, work: _Columns) -> OnlineResponse:
    """The answers under their output names."""
    outputs = prepared.outputs
    return OnlineResponse(
        entities,
        {name: work.values[there] for name, there in outputs.items()},
        {name: work.statuses[there] for name, there in outputs.items()},
        {name: work.moments[there] for name, there in outputs.items()},
        prepared.output_types,
        prepared.stored if not work.elsewhere else prepared.origins(work.elsewhere),
    )
