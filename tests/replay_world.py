"""A world to replay: groups, a clock, and a store whose every action may crash or be interrupted.

The world writes down what the online store answered, when and whether it may be compared: where a clock
was stepped back, moments happened twice, and what was answered at them is forgotten.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

import polars as pl

from faults import Crash, Faults, FaultyLake, FaultyLmdb, FaultyMemory, FaultyPushLog
from features import Entity, Feature, FeatureGroup, FeatureStore, Registry, Source
from features.capacity import Capacity
from features.errors import ConcurrentRun, GroupHeld, InvalidInput

T0 = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECOND, MICRO = timedelta(seconds=1), timedelta(microseconds=1)
START = T0 + 24 * HOUR
CARDS = [1, 2, 3]
REFS = ["g:v", "g:w"]
ABOUT = {"owner": "o", "description": "d"}
SCHEMA = {"payment_id": pl.Int64, "card_id": pl.Int64, "amount": pl.Float64, "at": pl.Datetime("us", "UTC")}
card = Entity("card", keys={"card_id": pl.Int64})
amount, hours = pl.col("amount"), pl.col("at").dt.epoch("s") / 3600

SHAPES = {
    "event": {"grain": "event", "ttl": "20h", "publish_delay": "30m"},
    "first": {"grain": "event", "on_conflict": "first"},
    "settle": {"grain": "entity", "settle": "2h", "publish_delay": "1h"},
    "every": {"grain": "entity", "every": "3h", "ttl": "30h"},
    "window": {"grain": "window", "every": "3h", "ttl": "30h"},
    "delayed": {"grain": "window", "every": "2h", "publish_delay": "90m"},
}
WINDOWS = {"window": ("12h", "5h"), "delayed": ("6h", "4h")}
LIVE = {"history": None, "midway": START + 12 * HOUR, "live": T0 - 99 * HOUR}


@dataclass(frozen=True)
class Setting:
    """What one world is made of: a shape of SHAPES, a kind of LIVE, and so on."""

    shape: str
    live: str = "live"
    keyed: bool = True
    lmdb: bool = False
    rows: int | None = None


@cache
def source(live: str, keyed: bool) -> Source:
    return Source("payments", SCHEMA, "at", keys=["payment_id"] if keyed else None, live_since=LIVE[live])


@cache
def registry(shape: str, live: str, keyed: bool, version: str) -> Registry:
    """The group in one of its two versions, of which the second has another expression and a further feature."""
    factor = 1 if version == "1.0.0" else 10
    long, short = WINDOWS.get(shape, (None, None))
    values = {"v": amount * factor, "w": hours, "x": amount + 1}
    if SHAPES[shape]["grain"] != "event":
        # What "delayed" has a median of does not decompose into tiles.
        values = {"v": (amount * factor).sum(), "w": hours.max(), "x": amount.min()}
        values |= {"w": amount.median()} if shape == "delayed" else {}
    spans = {"v": long, "w": short, "x": short}
    names = ["v", "w"] if version == "1.0.0" else ["v", "w", "x"]
    features = [Feature(name, values[name], window=spans[name]) for name in names]
    return Registry([FeatureGroup("g", version, card, source(live, keyed), features, **SHAPES[shape], **ABOUT)])


_DECISIVE = {
    "write": "bronze/payments batch:",
    "correct": "bronze/payments batch:",
    "move": "bronze/payments batch:",
    "incremental": "features/g/v1 plan incremental",
    "backfill": "features/g/v1 plan backfill",
    "push": "log append",
}
"""The commit that decides whether an action has happened: whoever comes next completes it. Others always happen."""


class World:
    """A store over one group, what was written to it, and what it answered."""

    def __init__(self, folder, setting: Setting):
        self.folder, self.setting = folder, setting
        self.now, self.high = START, T0
        self.version, self.held = "1.0.0", False
        self.faults = Faults()
        self.memory = FaultyMemory()
        self.records: list[tuple] = []
        self.ingested = T0
        self.versions: list[dict] = []
        self.pushed: set[tuple[int, datetime]] = set()
        self.asked: list[tuple[int, datetime]] = []
        self.answers: list[tuple] = []
        self.until: datetime | None = None
        self.altered: float | None = None
        self.pushing = False
        self.undone: set[int] = set()
        self.raced: list[tuple] = []
        self.number = -1
        self.open()

    def open(self):
        """A process that begins: it knows nothing but what was committed."""
        self.faults.disarm()
        self.online = FaultyLmdb(self.folder / "online") if self.setting.lmdb else self.memory
        self.online.faults = self.faults
        self.store = self._store(self.faults)

    def _store(self, faults: Faults) -> FeatureStore:
        setting = self.setting
        self.lake = FaultyLake(self.folder / "lake", faults)
        return FeatureStore(
            registry(setting.shape, setting.live, setting.keyed, self.version),
            self.lake,
            self.online,
            lambda: self.now,
            Capacity(rows=setting.rows),
            push_log=FaultyPushLog(self.folder / "push_log", faults),
            fold_after=None,
        )

    def close(self):
        """A process that ends; what is in memory only stands for a server that goes on."""
        self.store._pusher.close()
        if self.setting.lmdb:
            self.online.close()

    def act(self, action):
        """Do one action and ask afterwards."""
        self.number += 1
        self.now += SECOND  # asked at the very moment of a publication, either answer is right
        self.perform(action)
        self.now += SECOND
        self.ask()

    def perform(self, action):
        """One action; what a rollback forbids is forbidden, and nothing else."""
        name, *arguments = action
        computing = name in ("incremental", "backfill", "push")
        try:
            getattr(self, name)(*arguments)
        except GroupHeld:
            assert computing
            assert self.held
        else:
            assert not (computing and self.held)

    # ------------------------------------------------------------------------------- time and rows

    def tick(self, hours):
        self.now += hours * HOUR

    def back(self, hours):
        """The clock steps back: what was answered at moments that happen again cannot be told apart."""
        self.high = max(self.high, self.now)
        self.now -= hours * HOUR
        kept = [place for place, (_, moment) in enumerate(self.asked) if moment < self.now]
        self.asked, self.answers = ([each[place] for place in kept] for each in (self.asked, self.answers))

    def write(self, *rows):
        """Payments as (card, hours from now, amount, minutes)."""
        self._append(self._recorded(("write", *rows)))

    def correct(self, which, value):
        self._append(self._recorded(("correct", which, value)))

    def move(self, which, card_id, value):
        self._append(self._recorded(("move", which, card_id, value)))

    def _recorded(self, action) -> list[tuple]:
        """The rows of an action, noted as written whether they are or not: later ones refer to them by number."""
        name, *arguments = action
        if name == "write":
            base = self.now.replace(minute=0, second=0, microsecond=0)
            new = [(c, float(v), base + age * HOUR + timedelta(minutes=m)) for c, age, v, m in arguments]
            rows = [(len(self.records) + n, *row) for n, row in enumerate(new)]
            self.records += rows
            return rows
        if not self.records:
            return []
        which, *card_id, value = arguments
        number, old_card, _, moment = self.records[which % len(self.records)]
        row = (number, card_id[0] if card_id else old_card, float(value), moment)
        self.records[number] = row
        return [row]

    def arrival(self, moment: datetime) -> datetime:
        """When a row of a moment arrives if it is written now."""
        live, stamp = LIVE[self.setting.live], max(self.now, self.ingested + MICRO)
        return moment if live is None or stamp < live else max(stamp, moment)

    def _admitted(self, value, arrival: datetime) -> float | None:
        """The value of a row, or what is to take its place if it arrives after ``until``."""
        if self.until is None or arrival <= self.until:
            return value
        return None if self.altered is None else value + self.altered

    def _append(self, rows):
        seen = [(n, c, self._admitted(v, self.arrival(at)), at) for n, c, v, at in rows]
        if rows := [row for row in seen if row[2] is not None]:
            for number, card_id, value, moment in rows:
                at = {"entity": card_id, "at": moment, "amount": value, "arrival": self.arrival(moment)}
                record = number if self.setting.keyed else len(self.versions)
                self.versions.append({"number": len(self.versions), "record": record, **at})
            self.ingested = max(self.now, self.ingested + MICRO)
            self.store.write_source("payments", pl.DataFrame(rows, schema=SCHEMA, orient="row"))

    # ------------------------------------------------------------------------------- runs

    def incremental(self):
        self.store.materialize_incremental("g")

    def backfill(self, start, length):
        begin = min(START + start * HOUR, self.now - HOUR)  # one of the future alone would be refused
        self.store.materialize("g", begin, begin + length * HOUR)

    def sync(self):
        self.store.sync("g")

    def push(self, card_id, age, value):
        moment = (self.now + age * HOUR).replace(minute=0, second=0)  # often one that is there already
        self.pushed.add((card_id, moment))
        admitted = self._admitted(float(value), self.now)
        if admitted is None and self.pushing:  # the key becomes live, whatever is pushed
            admitted = value + 100.0
        if admitted is not None:
            self.store.push("g", [{"card_id": card_id, "event_timestamp": moment, "v": admitted, "w": None}])

    def fold(self):
        self.store.fold("g")

    def deploy(self):
        """From now on the code defines the second version."""
        self.version = "1.1.0"
        self.close()
        self.open()
        self.store.apply()

    def rollback(self):
        with suppress(InvalidInput):  # the second version was not applied yet, or the first never wrote a row
            self.store.rollback("g", "1.0.0")
            self.held = True

    def release(self):
        self.store.release("g")
        self.held = False

    # ------------------------------------------------------------------------------- crashes and races

    def crash(self, number, after, action):
        """An action that dies at a commit; a rollback or release is then begun again until it is done."""
        self.faults.crash(number, after=after)
        written = list(self.records), list(self.versions), self.ingested
        try:
            self.perform(action)
        except Crash:
            if not any(step.startswith(_DECISIVE.get(action[0], "")) for step in self.faults.done or [""]):
                self.undone.add(self.number)
                self.records, self.versions, self.ingested = written
            self.close()
            self.open()
            if action[0] in ("rollback", "release", "deploy"):
                self.perform(action)
        self.faults.disarm()

    def race(self, number, other, action):
        """An action with another one, of another process, in the midst of it; either may be refused."""
        mine = self.store

        def between():
            self.store = self._store(Faults())
            self._unless_refused(other)
            self.store._pusher.close()
            self.store = mine

        self.faults.interrupt(number, between)
        self._unless_refused(action)
        self.faults.disarm()

    def _unless_refused(self, action):
        with suppress(ConcurrentRun):
            self.perform(action)
            self.raced.append(action)

    def both(self, *actions):
        """One action after the other at the same moment."""
        for action in actions:
            self.perform(action)

    # ------------------------------------------------------------------------------- questions

    def ask(self):
        """Ask the online store for every card, unless this moment was there before."""
        if self.now > self.high:
            self.asked += [(card_id, self.now) for card_id in CARDS]
            self.answers += self.online_answers()

    def online_answers(self) -> list[tuple]:
        """Per card (v, w, status of v, status of w) from the online store."""
        found = self.store.get_online_features(REFS, [{"card_id": c} for c in CARDS]).to_polars()
        return found.select("v", "w", "v__status", "w__status").rows()

    def open_since(self) -> datetime | None:
        """Since when a killed sync is open, whose publication is online and not in the log yet; None if none is."""
        table_id = self.store.registry.group("g").table_id
        logged = set(self.lake.publications(table_id).drop_nulls("published_at")["plan"])
        return min((p.published_at for p in self.online.publications(table_id) if p.plan not in logged), default=None)

    def offline_answers(self, asked, history) -> list[tuple]:
        """The same for any (card, moment) from the offline store."""
        columns = {"card_id": pl.Int64, "event_timestamp": pl.Datetime("us", "UTC")}
        rows = pl.DataFrame(asked, schema=columns, orient="row")
        found = self.store.get_historical_features(rows, REFS, history=history)
        return list(zip(*found.to_polars().select("v", "w"), *found.statuses.select("v", "w"), strict=True))

    def settle(self):
        """Bring everything to its end: no hold, nothing waiting, every plan published."""
        self.now = max(self.now, self.high) + SECOND
        for name in ("release", "incremental", "sync"):
            self.act((name,))

    def events(self) -> list[tuple[int, datetime, float]]:
        """(card, moment, amount) of every payment as it is known now, that of a greater number last."""
        newest = {version["record"]: version for version in self.versions}
        known = [v for _, v in sorted(newest.items()) if v["at"] <= self.now]
        return [(v["entity"], v["at"], v["amount"]) for v in known]

    def content(self) -> list[tuple]:
        """The rows that stand."""
        rows = self.store.current_rows("g")
        return sorted(rows.select("card_id", "event_timestamp", "v", "w").collect().rows(), key=str)
