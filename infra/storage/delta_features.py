"""A group's feature table on Delta: rows, plans and cursors in one transaction log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

import polars as pl

from features.entity import DataType
from features.errors import ConcurrentRun, StorageError
from features.feature_rows import table_columns
from features.source import EVENT_DATE
from features.stored_types import table_dtype, widest
from features.stores import Plan, TableState
from features.times import from_micros, to_micros
from infra.storage.delta_io import Table, translated

_PLAN = "featurefab.plan"
_CURSOR = "cursor:"
_MARKED = {"version", "held", "released"}
"""The details by which a closed plan is found again."""
_FOLDED = "folded:"


class DeltaFeatureTable:
    """Implements features.stores.FeatureTable.

    Plans are app transactions: ``plan`` and ``done`` count them, ``stamp`` is the newest run's
    created_timestamp in µs, ``through`` that of the newest incremental run that closed, ``epoch`` counts
    rollbacks and releases, ``epoch:n`` is the plan of the n-th and ``since:n`` its stamp in µs, ``chunk:i`` is
    the last plan whose chunk i is in, ``cursor:<input>`` the input's version up to which commits were taken
    in, ``folded:<log>`` the stamp in µs up to which that log's pushes are.
    The plan's content rides in the opening commit's metadata.

    Features are kept in the widest type of their kind and read as declared: Delta cannot change the type of
    a column, and a feature's may widen with a minor version. Durations (µs) and times of day (ns) are kept as
    integers, for Delta has no such types.
    """

    def __init__(self, table: Table, columns: Mapping[str, DataType], keys: Sequence[str]) -> None:
        self._table = table
        self._columns = table_columns(columns, keys)
        self._kept = {
            c: widest(table_dtype(t)) if c in columns and c not in keys else t for c, t in self._columns.items()
        }
        table.ensure(self._kept, [EVENT_DATE])
        self._newest: TableState | None = None  # to read it takes several times as long as to see that it still holds
        self._asked: Plan | None = None

    def state(self, version: int | None = None) -> TableState:
        """The state as of the newest commit, or as it was at a version."""
        # Another thread's commit between two marks would make a state that never was, and it would be kept.
        with self._table.held() as handle:
            assert handle is not None  # ensured in __init__
            if version is not None and version != handle.version():
                return self._state(version, version)
            if self._newest is None or self._newest.version != handle.version():
                self._newest = self._state(handle.version(), None)
            return self._newest

    def _state(self, version: int, past: int | None) -> TableState:
        stamp, through = self._table.reached("stamp", past), self._table.reached("through", past)
        return TableState(
            version=version,
            opened=max(self._table.reached("plan", past), 0),
            closed=max(self._table.reached("done", past), 0),
            stamp=from_micros(stamp) if stamp >= 0 else None,
            through=from_micros(through) if through >= 0 else None,
            epoch=max(self._table.reached("epoch", past), 0),
        )

    def cursor(self, source: str) -> int | None:
        """The version of an input up to which its commits were taken in; None for never."""
        reached = self._table.reached(_CURSOR + source)
        return reached if reached >= 0 else None

    def open_plan(self, plan: Plan) -> None:
        """Freeze a plan; raises ConcurrentRun if another runner opened one first."""
        marks, content = {"stamp": to_micros(plan.stamp)}, {_PLAN: json.dumps(_to_json(plan))}
        if self._table.append_once(self._empty(), "plan", plan.number, marks=marks, metadata=content) is None:
            raise ConcurrentRun(f"{self._table.uri}: another run opened plan {plan.number} first; run again")

    def unfinished(self) -> Plan | None:
        """The plan that is open, if any."""
        state = self.state()
        return self.plan(state.opened) if state.opened > state.closed else None

    def plan(self, number: int) -> Plan:
        """The plan of that number, as it was frozen."""
        if self._asked is not None and self._asked.number == number:
            return self._asked
        handle = self._table.handle()
        assert handle is not None  # ensured in __init__
        with translated(self._table.uri):
            for limit in (64, None):  # an open plan is near the end of the log
                for commit in handle.history(limit):
                    if _PLAN in commit and (content := json.loads(commit[_PLAN]))["number"] == number:
                        self._asked = _from_json(content)
                        return self._asked
        raise StorageError(f"{self._table.uri}: plan {number} is not in the log; was its log cleaned up?")

    def append(self, plan: Plan, chunk: int, rows: pl.DataFrame) -> int | None:
        """Append a chunk's rows exactly once; the table's version after it, None if it was there already."""
        dated = rows.with_columns(pl.col("event_timestamp").dt.date().alias(EVENT_DATE)).select(list(self._columns))
        dated = dated.cast({c: t for c, t in self._kept.items() if t != self._columns[c]})
        return self._table.append_once(dated, f"chunk:{chunk}", plan.number)

    def newest_plan(self, detail: str, value: object) -> int:
        """The newest closed plan whose details say so ("version", "held" or "released"); 0 for none."""
        assert detail in _MARKED
        self._table.handle()
        return max(self._table.reached(f"{detail}:{value}"), 0)

    def epochs(self, through: int) -> list[tuple[int, datetime]]:
        """The number and the stamp of each plan that raised the epoch, up to the one that made it ``through``."""
        begun = [(self._table.reached(f"epoch:{n}"), self._table.reached(f"since:{n}")) for n in range(1, through + 1)]
        return [(plan, from_micros(stamp)) for plan, stamp in begun]

    def has_chunk(self, plan: Plan, chunk: int) -> bool:
        """Whether a chunk of the plan was committed."""
        return self._table.took(f"chunk:{chunk}", plan.number)

    def close_plan(self, plan: Plan, cursors: Mapping[str, int]) -> None:
        """Close the plan and move the cursors in one commit, unless another run did."""
        marks = {_CURSOR + source: version for source, version in cursors.items()}
        if plan.kind == "incremental":
            marks["through"] = to_micros(plan.stamp)
        if "epoch" in plan.details:
            epoch = plan.details["epoch"]
            marks |= {"epoch": epoch, f"epoch:{epoch}": plan.number, f"since:{epoch}": to_micros(plan.stamp)}
        for kind in _MARKED & plan.details.keys():
            marks[f"{kind}:{plan.details[kind]}"] = plan.number
        if "log" in plan.details:
            marks[_FOLDED + plan.details["log"]] = plan.details["through"]
        self._table.append_once(self._empty(), "done", plan.number, marks=marks)

    def scan(self, version: int | None = None, since: date | None = None, until: date | None = None) -> pl.LazyFrame:
        """All rows, those of a plan still open included; dates are inclusive bounds."""
        frame = self._table.scan(version, since, until)
        assert frame is not None  # ensured in __init__
        # Of a frame of its own: once a frame was asked for its schema, Polars no longer hands filters to its files.
        other = self._table.scan(version)
        assert other is not None
        there = other.collect_schema().names()
        declared = [pl.col(c).cast(t) for c, t in self._columns.items() if c in there and t != self._kept[c]]
        # An old version lacks the columns of later features: they are null there.
        missing = [pl.lit(None, self._columns[c]).alias(c) for c in sorted(set(self._columns) - set(there))]
        # As it is where nothing differs: even a step that does nothing keeps filters from the files' statistics.
        return frame.with_columns(*declared, *missing) if declared or missing else frame

    def folded(self, log: str, version: int | None = None) -> datetime | None:
        """The stamp up to which pushes of a log are among the rows, now or at a version; None for none."""
        handle = self._table.handle()
        assert handle is not None  # ensured in __init__
        past = None if version in (None, handle.version()) else version
        stamp = self._table.reached(_FOLDED + log, past)
        return from_micros(stamp) if stamp >= 0 else None

    def changes(self, after: int | None, through: int, columns: Sequence[str]) -> pl.DataFrame:
        """The values of columns in rows that commits (after, through] added, some more than once."""
        return self._table.changes(after, through, columns).cast({c: self._columns[c] for c in columns})

    def days(self, version: int) -> pl.DataFrame:
        """About how many rows each event date has: event_date, rows; sorted."""
        return self._table.days(version)

    def settled_version(self) -> int:
        """The newest version at which no plan was open."""
        handle, state = self._table.handle(), self.state()
        assert handle is not None  # ensured in __init__
        if state.opened == state.closed:
            return state.version
        with translated(self._table.uri):
            opened = [
                c["version"] for c in handle.history() if _PLAN in c and json.loads(c[_PLAN])["number"] == state.opened
            ]
        return int(opened[0]) - 1

    def _empty(self) -> pl.DataFrame:
        return pl.DataFrame(schema=self._kept)


def _to_json(plan: Plan) -> dict[str, Any]:
    return {
        "number": plan.number,
        "kind": plan.kind,
        "stamp": plan.stamp.isoformat(),
        "previous": plan.previous.isoformat() if plan.previous else None,
        "sources": {name: list(span) for name, span in plan.sources.items()},
        "chunks": [[start.isoformat(), end.isoformat()] for start, end in plan.chunks],
        "details": dict(plan.details),
    }


def _from_json(content: Mapping[str, Any]) -> Plan:
    moment = datetime.fromisoformat
    return Plan(
        number=content["number"],
        kind=content["kind"],
        stamp=moment(content["stamp"]),
        previous=moment(content["previous"]) if content["previous"] else None,
        sources={name: (span[0], span[1]) for name, span in content["sources"].items()},
        chunks=[(moment(start), moment(end)) for start, end in content["chunks"]],
        details=content["details"],
    )
