"""What makes a value change once later rows are known: the example that a leak report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from features.compute import first_time, prepared
from features.feature_group import Feature
from features.feature_rows import EVENT
from features.rewind import Rewind, differences, moved, then


@dataclass(frozen=True)
class Leak:
    """A value that was visible at a moment and is another one now.

    ``then`` is what could be computed at ``moment``, ``now`` what is computed now; None for null and for
    no row at all. ``later`` names the input and the event time of the first later rows that change it.
    """

    feature: str
    entity: Mapping[str, Any]
    event_timestamp: datetime
    moment: datetime
    then: Any
    now: Any
    cause: str
    later: str | None


def explain(full: Rewind, feature: str, case: pl.DataFrame, moment: datetime, now: datetime, arrived: bool) -> Leak:
    """The leak of a feature in one row of ``differences`` at a moment, with its likely cause."""
    group = full.group
    row = case.row(0, named=True)
    entity = {key: row[key] for key in group.keys}
    if arrived:
        cause, later = "the row was made from rows that arrived after the moment from which it counts as known", None
    else:
        here = _smaller(full, feature, case, moment, now)
        cause = _cause(here, next(f for f in group.features if f.name == feature), case, moment, now)
        later = _later(here, feature, case, moment)
    return Leak(feature, entity, row[EVENT], moment, row[then(feature)], row[feature], cause, later)


def _changes(full: Rewind, feature: str, case: pl.DataFrame, before: pl.DataFrame, until: datetime) -> bool:
    """Whether the case's value among the rows until a moment is another than before."""
    key = [*full.group.keys, EVENT]
    after, before = (rows.join(case, on=key, how="semi") for rows in (full.rows(until), before))
    return bool(differences(full.group, after, before)[moved(feature)].any())


def _smaller(full: Rewind, feature: str, case: pl.DataFrame, moment: datetime, now: datetime) -> Rewind:
    """The raw rows of the case's own key group, if the leak shows in them alone; else all."""
    group = full.group
    by = [key for key in group.keys if key in group.prepare_by] or group.keys
    alone = full.only(case.select(by))
    return alone if _changes(alone, feature, case, alone.rows(moment), now) else full


def _cause(here: Rewind, feature: Feature, case: pl.DataFrame, moment: datetime, now: datetime) -> str:
    group, time = here.group, first_time(here.group)
    expression = f"the expression of {feature.name!r} looks at later rows"
    if group.prepare is None:
        return expression
    seen = []
    for until in (moment, now):
        rows = prepared(group, here.frames(until)).join(case.lazy(), on=group.keys, how="semi")
        seen.append(rows.filter(pl.col(time) <= case[EVENT].item()).collect())
    if seen[0].height != seen[1].height:
        return "`prepare` keeps or drops a row by later ones"
    flat = [c for c in seen[0].columns if not seen[0].schema[c].is_nested()]
    ordered = [frame.sort([time, *(c for c in flat if c != time)]) for frame in seen]
    for root in feature.expr.meta.root_names():
        if root in ordered[0].columns and not ordered[0][root].equals(ordered[1][root]):
            return f"`prepare` makes column {root!r} from later rows"
    return expression


def _later(here: Rewind, feature: str, case: pl.DataFrame, moment: datetime) -> str | None:
    """The input and event time of rows that change the value once they are known; none after ``moment``: None."""
    times = here.event_times()
    candidates = times.filter(times > moment).to_list()
    before, low, high = here.rows(moment), 0, len(candidates) - 1
    if high < 0:
        return None
    while low < high:
        middle = (low + high) // 2
        if _changes(here, feature, case, before, candidates[middle]):
            high = middle  # the value is another one here, and not yet before `low`
        else:
            low = middle + 1
    found = candidates[high]
    names = [name for name, rows in here.held.items() if (rows[here.times[name]] == found).any()]
    return f"{' and '.join(names)} of {found:%Y-%m-%d %H:%M:%S}"
