"""What groups make of other groups: equal to one run over the upstream's final table, whatever happened to it."""

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
ABOUT = {"owner": "o", "description": "d"}
card = Entity("card", keys={"card_id": pl.Int64})
SCHEMA = {"payment_id": pl.Int64, "card_id": pl.Int64, "amount": pl.Float64, "at": pl.Datetime("us", "UTC")}
payments = Source("payments", SCHEMA, "at", keys=["payment_id"])
amount = pl.col("amount")

FIRST = FeatureGroup("up", "1.0.0", card, payments, [Feature("amount", amount)], grain="event", **ABOUT)
LATER = FeatureGroup(
    "up", "1.1.0", card, payments, [Feature("amount", amount), Feature("twice", amount * 2)], grain="event", **ABOUT
)


def windowed(up: FeatureGroup, version: str) -> FeatureGroup:
    windows = [Feature("n_6h", pl.len(), window="6h"), Feature("total_1d", amount.sum(), window="1d")]
    return FeatureGroup("down", version, card, up, windows, grain="window", every="3h", **ABOUT)


def by_event(up: FeatureGroup, version: str) -> FeatureGroup:
    return FeatureGroup("down", version, card, up, [Feature("double", amount * 2)], grain="event", **ABOUT)


ACTION = st.one_of(
    st.tuples(st.just("tick"), st.integers(1, 10)),
    st.tuples(st.just("write"), st.integers(1, 2), st.integers(0, 1_800), st.integers(0, 9)),
    st.tuples(st.just("correct"), st.integers(0, 9), st.integers(1, 2), st.integers(0, 9)),
    st.just(("upstream",)),
    st.just(("downstream",)),
    st.tuples(st.just("backfill"), st.integers(-24, 30), st.integers(1, 40)),
    st.just(("roll_back_and_release",)),
)


class World:
    """A store over an upstream group in its second version and a group that reads it."""

    def __init__(self, folder, down):
        self.folder, self.online, self.now = folder, MemoryOnlineStore(), T0 + 6 * HOUR
        self.payments: list[datetime] = []
        self.store = self._store(FIRST, down(FIRST, "1.0.0"))
        self.write(1, 60, 1)
        self.upstream()
        self.downstream()
        self.store = self._store(LATER, down(LATER, "1.0.0"))
        self.store.apply()

    def _store(self, *groups):
        return FeatureStore(Registry([*groups]), DeltaLake(self.folder), self.online, clock=lambda: self.now)

    def act(self, name, *arguments):
        self.now += timedelta(seconds=1)
        getattr(self, name)(*arguments)

    def tick(self, hours):
        self.now += hours * HOUR

    def write(self, card_id, minutes_ago, value):
        self.payments.append(self.now - timedelta(minutes=minutes_ago))
        self._append(len(self.payments) - 1, card_id, value)

    def correct(self, which, card_id, value):
        self._append(which % len(self.payments), card_id, value)

    def _append(self, number, card_id, value):
        row = (number, card_id, float(value), self.payments[number])
        self.store.write_source(payments, pl.DataFrame([row], schema=SCHEMA, orient="row"))

    def upstream(self):
        self.store.materialize_incremental("up")

    def downstream(self):
        self.store.materialize_incremental("down")

    def backfill(self, start, length):
        begin = T0 + start * HOUR
        if begin < self.now:
            self.store.materialize("up", begin, begin + length * HOUR)

    def roll_back_and_release(self):
        self.upstream()  # else the second version may have no plan of its own
        self.store.rollback("up", "1.0.0")
        self.now += timedelta(seconds=1)
        self.downstream()  # sees what is held
        self.store.release("up")

    def rows(self, store, group):
        key = ["card_id", "event_timestamp"]
        return store.current_rows(group).select(*key, *group.feature_names).collect().sort(key)


@pytest.mark.parametrize("down", [windowed, by_event])
@settings(max_examples=4, deadline=None)
@given(actions=st.lists(ACTION, min_size=3, max_size=10))
def test_increments_over_a_group_equal_one_run_over_all_that_became_of_it(tmp_path_factory, down, actions):
    world = World(tmp_path_factory.mktemp("lake"), down)
    for action in actions:
        world.act(*action)
    world.act("upstream")
    world.act("downstream")
    found = world.rows(world.store, world.store.registry.group("down"))
    anew = down(LATER, "2.0.0")
    again = world._store(LATER, anew)
    again.apply()
    again.materialize_incremental(anew)
    assert found.equals(world.rows(again, anew))
