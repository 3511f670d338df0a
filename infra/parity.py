"""The parity check of a home: a sample of entities, asked online and offline as of now."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import polars as pl

from features.compute import stored_schema
from features.errors import InvalidInput
from features.feature_group import FeatureGroup
from features.feature_rows import EVENT
from features.online import OnlineResponse
from features.parity import GroupParity, compare, sample_entities
from features.registry import Registry
from features.store import FeatureStore
from infra.wiring import fixed_clock, open_platform

SAMPLE = 1_000
"""How many entities of a group are asked unless told otherwise."""


def parity_of_home(
    name: str | None = None, *, sample: int = SAMPLE, now: datetime | None = None, home: Path | None = None
) -> list[GroupParity]:
    """Compare the stores of a home at ``now`` (None: the present); see ``check_parity``.

    A sync that is repeated for the same moment publishes after it: the check is made at the publication.
    """
    with open_platform(home=home, clock=fixed_clock(now)) as platform:
        store = platform.store
        published = [store.online.publications(g.table_id) for g in store.registry.groups.values() if g.online]
        moment = max([store.now(), *(log[-1].published_at for log in published if log)])
    with open_platform(home=home, clock=fixed_clock(moment)) as platform:
        return check_parity(platform.store, name, sample)


def check_parity(store: FeatureStore, name: str | None = None, sample: int = SAMPLE) -> list[GroupParity]:
    """Compare what both stores answer now for ``sample`` entities of each group.

    ``name`` is a group or a service (its stored features and those derived in its groups); None for
    every group that is served online. The sample is another one each day. Raises InvalidInput where the
    group is not served, or ``sample`` is less than one.
    """
    if sample < 1:
        raise InvalidInput(f"parity: a sample of {sample} entities compares nothing; ask for one or more")
    return [_parity(store, group, names, sample) for group, names in _asked(store.registry, name)]


def _asked(registry: Registry, name: str | None) -> list[tuple[FeatureGroup, list[str]]]:
    """The groups to compare, each with its features."""
    if name in registry.services:
        found: dict[FeatureGroup, list[str]] = {}
        for ref in registry.resolve(registry.service(name)):
            found.setdefault(registry.group(ref.head), []).append(ref.feature)
        return list(found.items())
    chosen = [group for group in registry.in_order() if group.online] if name is None else [registry.group(name)]
    for group in chosen:
        if not group.online:
            raise InvalidInput(f"feature group {group.name!r} is offline only (online=False): nothing to compare")
    return [(group, [f.name for f in (*group.features, *group.derived)]) for group in chosen]


def _parity(store: FeatureStore, group: FeatureGroup, names: Sequence[str], sample: int) -> GroupParity:
    shown = store.registry.name_of(group)
    now = store.now()
    if not store.offline.has_feature_table(group.table_id):
        return GroupParity(shown, 0, [])
    table = store.offline.feature_table(group.table_id, stored_schema(group), group.keys)
    entities = sample_entities(table.scan(), group.keys, sample, seed=now.toordinal())
    refs = [f"{shown}:{name}" for name in names]
    asked = entities.with_columns(pl.lit(now).alias(EVENT))
    answers = store.get_historical_features(asked, refs, history="as_served")
    statuses = answers.statuses.rename({name: f"{name}__status" for name in names})
    offline = answers.to_polars().hstack(statuses)
    online = _frame(store.get_online_features(refs, entities, defaults=False))
    return GroupParity(shown, entities.height, compare(group.keys, names, online, offline))


def _frame(answer: OnlineResponse) -> pl.DataFrame:
    """Values and statuses alone: the moments of ``to_polars`` take most of its time and are not compared."""
    values = [pl.Series(name, column, dtype=answer.dtypes[name]) for name, column in answer.values.items()]
    statuses = [pl.Series(f"{name}__status", column, dtype=pl.String) for name, column in answer.statuses.items()]
    return answer.entities.with_columns(values + statuses)
