"""Examples: which entities a model is asked about and when, from the rows of its label group."""

from __future__ import annotations

from datetime import datetime

import polars as pl

from features.errors import DefinitionError
from features.feature_rows import EVENT
from features.model import ModelSpec
from features.store import FeatureStore
from features.times import duration

LABELLED_AT = "labelled_at"
"""The event time of the label row."""


def examples(
    store: FeatureStore, spec: ModelSpec, start: datetime | None = None, end: datetime | None = None
) -> pl.DataFrame:
    """One row per entity whose newest label row lies in [start, end): keys, event_timestamp, label.

    ``event_timestamp`` is the moment the model is asked: the label row's event time, kept as
    ``labelled_at``, plus ``predict_after``. Keys of other entities in the service come from the label
    group's features of that name. Raises DefinitionError where one is missing.
    """
    registry = store.versions.current()
    group = registry.group(spec.label_ref.head)
    refs = registry.resolve(spec.service)
    needed = list(dict.fromkeys(dict(ref.keys).get(key, key) for ref in refs for key in registry.group(ref.head).keys))
    missing = [k for k in needed if k not in (*group.keys, *group.feature_names)]
    if missing:
        raise DefinitionError(
            f"model {spec.name!r}: its service needs key(s) {missing}, which the label group {group.name!r} lacks: "
            f"add them as features of that group"
        )
    rows = store.current_rows(group, start, end).sort(EVENT).unique(subset=group.keys, keep="last")
    columns = list(dict.fromkeys([*group.keys, *needed, spec.label_ref.feature]))
    asked = pl.col(EVENT) + duration(spec.predict_after)
    spine = rows.select(*columns, asked.alias(EVENT), pl.col(EVENT).alias(LABELLED_AT))
    return spine.sort(EVENT, *group.keys).collect()
