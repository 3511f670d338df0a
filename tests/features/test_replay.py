"""The promise: what the offline store says was served is what the online store answered at that moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import Entity, Feature, FeatureGroup, FeatureStore, Registry, Source
from infra.storage.delta import DeltaLake
from infra.storage.memory_store import MemoryOnlineStore

T0 = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
card = Entity("card", keys={"card_id": pl.Int64})
payments = Source(
    "payments",
    schema={"payment_id": pl.Int64, "card_id": pl.Int64, "amount": pl.Float64, "at": pl.Datetime("us", "UTC")},
    event_timestamp="at",
    keys=["payment_id"],
)
ABOUT = {"owner": "o", "description": "d"}
total = pl.col("amount").sum()
event = FeatureGroup("g", "1.0.0", card, payments, [Feature("v", pl.col("amount"))], grain="event", ttl="20h", **ABOUT)
entity = FeatureGroup("g", "1.0.0", card, payments, [Feature("v", total)], grain="entity", settle="2h", **ABOUT)
window = FeatureGroup(
    "g", "1.0.0", card, payments, [Feature("v", total, window="12h")], grain="window", every="3h", ttl="30h", **ABOUT
)

ACTION = st.one_of(
    st.tuples(st.just("tick"), st.integers(1, 6)),
    st.tuples(st.just("write"), st.integers(1, 2), st.integers(-12, 0), st.integers(1, 9), st.booleans()),
    st.tuples(st.just("correct"), st.integers(0, 9), st.integers(1, 9)),
    st.just(("incremental",)),
    st.tuples(st.just("backfill"), st.integers(0, 30), st.integers(1, 30)),
    st.just(("sync",)),
)


class World:
    """A store, a clock, and what was asked and answered so far."""

    def __init__(self, folder, group):
        self.now = T0 + 12 * HOUR
        self.group = group
        self.store = FeatureStore(Registry([group]), DeltaLake(folder), MemoryOnlineStore(), clock=lambda: self.now)
        self.written: list[tuple] = []
        self.asked: list[tuple] = []

    def act(self, name, *arguments):
        self.now += timedelta(seconds=1)  # asked at the very moment of a publication, either answer is right
        getattr(self, name)(*arguments)
        self.now += timedelta(seconds=1)
        self.ask()

    def tick(self, hours):
        self.now += hours * HOUR

    def write(self, card_id, age, amount, whole):
        moment = self.now + age * HOUR
        moment = moment if whole else moment + timedelta(minutes=17)
        self._append((len(self.written), card_id, float(amount), min(moment, self.now)))

    def correct(self, which, amount):
        if self.written:
            number, card_id, _, moment = self.written[which % len(self.written)]
            self._append((number, card_id, float(amount), moment))

    def _append(self, row):
        if row[0] == len(self.written):
            self.written.append(row)
        self.store.write_source(payments, pl.DataFrame([row], schema=dict(payments.schema), orient="row"))

    def incremental(self):
        self.store.materialize_incremental(self.group)

    def backfill(self, start, length):
        begin = T0 + start * HOUR
        if begin < self.now:
            self.store.materialize(self.group, begin, begin + length * HOUR)

    def sync(self):
        self.store.sync(self.group)

    def ask(self):
        answer = self.store.get_online_features(["g:v"], [{"card_id": 1}, {"card_id": 2}]).to_polars()
        for card_id, value, status in answer.select("card_id", "v", "v__status").iter_rows():
            self.asked.append((card_id, self.now, value, status))


@pytest.mark.parametrize("group", [event, entity, window], ids=["event", "entity", "window"])
@settings(max_examples=30, deadline=None)
@given(actions=st.lists(ACTION, min_size=4, max_size=14))
def test_as_served_is_what_was_answered_and_now_all_agree(tmp_path_factory, group, actions):
    world = World(tmp_path_factory.mktemp("lake"), group)
    for action in actions:
        world.act(*action)
    asked = pl.DataFrame([(c, t) for c, t, _, _ in world.asked], schema=["card_id", "event_timestamp"], orient="row")
    found = world.store.get_historical_features(asked, ["g:v"], history="as_served")
    replayed = list(zip(found.to_polars()["v"], found.statuses["v"], strict=True))
    assert replayed == [(value, status) for _, _, value, status in world.asked]

    world.act("sync")
    now = asked.tail(2).with_columns(pl.lit(world.now).alias("event_timestamp"))
    online = world.store.get_online_features(["g:v"], now.select("card_id")).to_polars()
    for history in ("as_served", "backfilled"):
        offline = world.store.get_historical_features(now, ["g:v"], history=history)
        assert offline.to_polars()["v"].to_list() == online["v"].to_list()
        assert offline.statuses["v"].to_list() == online["v__status"].to_list()
