"""Naive answers, written without the project: loops over rows, as anybody would check by hand."""

from __future__ import annotations

from datetime import datetime, timedelta

MICRO = timedelta(microseconds=1)
EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def winner(rows: list[dict], at: datetime) -> dict | None:
    """Of the rows available at or before ``at`` the one with the greatest order."""
    seen = [r for r in rows if r["available"] is not None and r["available"] <= at]
    return max(seen, key=lambda r: (r["epoch"], r["event_timestamp"], r["created"]), default=None)


def answer(rows: list[dict], at: datetime, now: datetime, ttl: timedelta | None) -> tuple[object, str]:
    """Value and status that the online store would have given at ``at``."""
    row = winner(rows, min(at, now))
    if row is None or row["deleted"]:
        return None, "NOT_FOUND"
    if ttl is not None and at - row["event_timestamp"] > ttl:
        return None, "OUTSIDE_MAX_AGE"
    return row["value"], "PRESENT" if row["value"] is not None else "NULL_VALUE"


def next_boundary(moment: datetime, every: timedelta) -> datetime:
    """The first multiple of ``every`` since the epoch after ``moment``."""
    return EPOCH + ((moment - EPOCH) // every + 1) * every


def window_rows(events: list[tuple[int, datetime, float]], every: timedelta, windows: list[timedelta]) -> dict:
    """{(entity, boundary): [values in each window]} at every boundary where a row enters or leaves."""
    found: dict[tuple[int, datetime], list[list[float]]] = {}
    for entity, moment, _ in events:
        moments = {next_boundary(moment, every), *(next_boundary(moment + w, every) for w in windows)}
        for boundary in moments:
            found[entity, boundary] = [
                [v for e, t, v in events if e == entity and boundary - w <= t < boundary] for w in windows
            ]
    return found


def settled_rows(events: list[tuple[int, datetime, float]], settle: timedelta, stamp: datetime) -> dict:
    """{(entity, event_timestamp): values so far} for each quiet of ``settle`` after a row."""
    found = {}
    for entity in {e for e, _, _ in events}:
        times = sorted({t for e, t, _ in events if e == entity})
        for moment, after in zip(times, [*times[1:], None], strict=True):
            if (after if after is not None else stamp) - moment >= settle:
                found[entity, moment] = [v for e, t, v in events if e == entity and t <= moment]
    return found


def windows_as_known(
    versions: list[dict], every: timedelta, windows: list[timedelta], delay: timedelta, until: datetime
) -> dict:
    """{(entity, boundary): [records in each window]} at every boundary up to ``until`` at which one of these changes.

    ``versions`` have record, entity, at, arrival and number (the order of ingestion). At a boundary b a
    record is its newest version with arrival ≤ b + delay, and it is in a window if b - window ≤ at < b.
    """
    if not versions:
        return {}
    found: dict[tuple[int, datetime], list[list[dict]]] = {}
    before: dict[int, list[list[int]]] = {}
    boundary = next_boundary(min(v["at"] for v in versions), every)
    while boundary <= until:
        newest: dict[object, dict] = {}
        for version in sorted(versions, key=lambda v: v["number"]):
            if version["arrival"] <= boundary + delay:
                newest[version["record"]] = version
        for entity in {v["entity"] for v in versions}:
            own = [v for v in newest.values() if v["entity"] == entity]
            seen = [[v for v in own if boundary - w <= v["at"] < boundary] for w in windows]
            numbers = [sorted(v["number"] for v in part) for part in seen]
            if numbers != before.get(entity, [[] for _ in windows]):
                found[entity, boundary] = seen
            before[entity] = numbers
        boundary += every
    return found


def boundary_rows(events: list[tuple[int, datetime, float]], every: timedelta, stamp: datetime) -> dict:
    """{(entity, boundary): values so far} at the boundary after each row, up to ``stamp``."""
    moments = {(e, next_boundary(t, every)) for e, t, _ in events}
    return {(e, b): [v for x, t, v in events if x == e and t < b] for e, b in moments if b <= stamp}


def states_at(keys: set, events: list[tuple[int, datetime, float]], *, seen_at_moment: bool) -> dict:
    """{(entity, moment): values so far} for the keys that have any, with those of the moment itself or without."""
    found = {(e, m): [v for x, t, v in events if x == e and (t < m or (seen_at_moment and t == m))] for e, m in keys}
    return {key: values for key, values in found.items() if values}
