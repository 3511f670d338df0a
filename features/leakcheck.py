"""The leak check: recompute a group on inputs cut off at past moments; no value visible then may change.

A timestamp says when a row may be used, not what its values were made from: a ``prepare`` that takes a
neighbour tested later, or the mean of a whole day, writes the future into rows of the past. So the
group is computed on all rows there are and on those until a moment t: every row that could be served
at t must be in both, with the same values (SEMANTICS.md §7, leak).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from features.compute import first_time, input_dtypes, scope_columns
from features.errors import InvalidInput
from features.feature_group import FeatureGroup
from features.feature_rows import EVENT
from features.inputs import ARRIVAL, Input
from features.leak_cause import Leak, explain
from features.registry import Registry
from features.rewind import Rewind, differences, moved
from features.stores import OfflineStore
from features.times import duration

MOMENTS = 10
"""How many moments are tried unless told otherwise."""

_GOLDEN = 0.6180339887498949
"""Multiples of it, modulo one, are spread evenly and keep step with no day or shift."""


@dataclass(frozen=True)
class FeatureCheck:
    """How often a feature was compared, over all moments, how often it had changed, and one such case."""

    feature: str
    compared: int
    changed: int
    leak: Leak | None


@dataclass(frozen=True)
class LeakReport:
    """What the leak check of one group found; ``rows`` are those that it has up to the last arrival."""

    group: str
    moments: Sequence[datetime]
    rows: int
    features: Sequence[FeatureCheck]

    @property
    def leaks(self) -> list[Leak]:
        """One example per feature that leaks."""
        return [check.leak for check in self.features if check.leak is not None]


def leakcheck(
    registry: Registry,
    offline: OfflineStore,
    name: str,
    *,
    now: datetime,
    moments: int = MOMENTS,
    entities: int | None = None,
) -> LeakReport:
    """Check a group on the source rows until ``now``, at some moments spread over them.

    ``entities`` looks at so many key groups (``prepare_by``, else entities) and their rows only. A
    label counts as visible once it counts as known, ``label_delay`` after its event time. Raises
    InvalidInput where ``moments`` or ``entities`` is less than one.
    """
    if moments < 1 or (entities is not None and entities < 1):
        raise InvalidInput(f"leak check of {name!r}: ask for at least one moment and one entity")
    group = registry.group(name)
    inputs = {n: Input(n, origin, input_dtypes(origin), offline) for n, origin in group.inputs.items()}
    full = _rewind(group, inputs, now, entities)
    present = full.rows(now, last=full.last_arrival())
    wait = _wait(registry, group)
    late = any(item.arrives_late for item in inputs.values())
    chosen = _moments(full, present, wait, moments)
    compared = dict.fromkeys(group.feature_names, 0)
    changed, first = dict(compared), dict[str, tuple[datetime, bool, pl.DataFrame]]()
    for moment in chosen:
        for arrived in (False, True) if late else (False,):
            both = _at(full, present, moment, wait, arrived=arrived)
            for feature in group.feature_names:
                cases = both.filter(moved(feature))
                compared[feature] += both.height
                changed[feature] += cases.height
                if not cases.is_empty():
                    first.setdefault(feature, (moment, arrived, cases.sort(EVENT, *group.keys).head(1)))
    leaks = {feature: explain(full, feature, case, at, now, arrived) for feature, (at, arrived, case) in first.items()}
    checks = [FeatureCheck(f, compared[f], changed[f], leaks.get(f)) for f in group.feature_names]
    return LeakReport(group.name, chosen, present.height, checks)


def _wait(registry: Registry, group: FeatureGroup) -> timedelta:
    """How long after its moment a row can be visible at the earliest."""
    wait = group.delay + duration(group.settle or "0s")
    served = {ref.group for service in registry.services.values() for ref in service.refs}
    known = [duration(m.label_delay) for m in registry.models.values() if m.label_ref.group == group.name]
    return max(wait, min(known)) if known and group.name not in served else wait


def _rewind(group: FeatureGroup, inputs: Mapping[str, Input], now: datetime, entities: int | None) -> Rewind:
    """The raw rows until now; with ``entities`` those of so many key groups, evenly out of all."""
    versions = {name: item.version() for name, item in inputs.items()}
    scope = None
    if entities is not None:
        first = next(iter(inputs.values()))
        by = scope_columns(group)
        by = [k for k in group.keys if k in first.dtypes] if by == [first_time(group)] else by
        if by:
            there = first.scan(versions[first.name], now).select(by).unique().sort(by).collect()
            scope = there.gather_every(-(-max(there.height, 1) // entities))
    held = {}
    for name, item in inputs.items():
        # Windows tell for each boundary what was known at it, so they look at replaced rows too.
        past = item.arrives_late and group.grain == "window"
        held[name] = item.scan(versions[name], now, scope=scope, superseded=past).collect()
    return Rewind(group, {name: item.time for name, item in inputs.items()}, held)


def _moments(full: Rewind, present: pl.DataFrame, wait: timedelta, count: int) -> list[datetime]:
    """Moments at which a row could first be served, or a raw row arrives, while others were still to come."""
    last = full.last_arrival()
    if last is None:
        return []
    told = pl.concat([full.event_times() + wait, present[EVENT] + wait, full.arrivals().rename(EVENT)])
    found = told.filter(told < last).unique().sort().to_list()
    places = {int(len(found) * ((number + 0.5) * _GOLDEN % 1)) for number in range(count)}
    return [found[place] for place in sorted(places)] if found else []


def _at(full: Rewind, present: pl.DataFrame, moment: datetime, wait: timedelta, *, arrived: bool) -> pl.DataFrame:
    """How the rows visible at a moment differ from what could be computed then.

    Without ``arrived`` the past is all rows up to the moment's event time, late ones too: what comes
    later in event time must neither change nor take away a row. With it the past is what had arrived,
    and a row that claims to have been known then must be as it is; what came late may add rows.
    """
    before = full.rows(moment, arrived=arrived)
    visible = pl.col(EVENT) + wait <= moment
    if not arrived:
        return differences(full.group, present.filter(visible), before.filter(visible))
    claimed = present.filter(visible & (pl.col(ARRIVAL) <= moment))
    return differences(full.group, claimed, before.join(claimed, on=[*full.group.keys, EVENT], how="semi"))
