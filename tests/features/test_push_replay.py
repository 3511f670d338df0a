"""What is pushed between runs, syncs and folds is answered alike online and offline, at every step and ever after."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from card_payments import HOUR, T0, amount, group, paid, payments, total
from features import Feature, FeatureStore, Registry
from features.errors import StorageError
from infra.storage.delta import DeltaLake
from infra.storage.lmdb_store import LmdbOnlineStore
from infra.storage.push_log import LmdbPushLog

CARDS = [1, 2]
GRAINS = {
    "event": group("g", [Feature("v", amount)], grain="event", ttl="20h"),
    "entity": group("g", [Feature("v", total)], grain="entity", settle="2h"),
    "window": group("g", [Feature("v", total, window="12h")], grain="window", every="3h", ttl="30h"),
}

PUSH = (st.sampled_from(CARDS), st.integers(-9, 0), st.integers(1, 9))
ACTION = st.one_of(
    st.tuples(st.just("tick"), st.integers(1, 6)),
    st.tuples(st.just("write"), st.sampled_from(CARDS), st.integers(-9, 0), st.integers(1, 9)),
    st.tuples(st.just("push"), *PUSH),
    st.tuples(st.just("push"), *PUSH),
    st.tuples(st.just("push_in_vain"), *PUSH),
    st.just(("incremental",)),
    st.tuples(st.just("backfill"), st.integers(0, 9), st.integers(1, 30)),
    st.just(("sync",)),
    st.just(("fold",)),
)


class World:
    """A store on a folder, a clock, and what was asked and answered so far."""

    def __init__(self, folder, group):
        self.folder = folder
        self.group = group
        self.now = T0 + 12 * HOUR
        self.written = 0
        self.asked = []
        self.open()

    def open(self):
        self.log, online = LmdbPushLog(self.folder / "push_log"), LmdbOnlineStore(self.folder / "online")
        self.store = FeatureStore(
            Registry([self.group]),
            DeltaLake(self.folder / "lake"),
            online,
            clock=lambda: self.now,
            push_log=self.log,
            fold_after=2 * HOUR,
        )

    def act(self, name, *arguments):
        self.now += timedelta(seconds=1)  # asked at the very moment of a publication, either answer is right
        getattr(self, name)(*arguments)
        self.now += timedelta(seconds=1)
        self.ask()

    def tick(self, hours):
        self.now += hours * HOUR

    def write(self, card_id, age, amount):
        self.store.write_source(payments, paid((self.written, card_id, float(amount), self.now + age * HOUR)))
        self.written += 1

    def push(self, card_id, age, value):
        moment = (self.now + age * HOUR).replace(minute=0, second=0)  # often one that is there already
        self.store.push(self.group, [{"card_id": card_id, "event_timestamp": moment, "v": float(value)}])

    def push_in_vain(self, *arguments):
        """The log takes it and the online store does not, as when the process is killed in between."""
        self.store.online.close()
        with pytest.raises(StorageError, match="safe in the push log"):
            self.push(*arguments)
        self.store.close()
        self.open()

    def incremental(self):
        self.store.materialize_incremental(self.group)

    def backfill(self, start, length):
        self.store.materialize(self.group, T0 + start * HOUR, T0 + (start + length) * HOUR)

    def sync(self):
        self.store.sync(self.group)

    def fold(self):
        self.store.fold(self.group)

    def ask(self):
        asked = [(c, self.now) for c in CARDS]
        online = self.store.get_online_features(["g:v"], [{"card_id": c} for c in CARDS]).to_polars()
        answers = list(online.select("v", "v__status").iter_rows())
        assert self.served(asked) == answers
        self.asked += zip(asked, answers, strict=True)

    def served(self, asked):
        rows = pl.DataFrame(asked, schema=["card_id", "event_timestamp"], orient="row")
        found = self.store.get_historical_features(rows, ["g:v"], history="as_served")
        return list(zip(found.to_polars()["v"], found.statuses["v"], strict=True))


@pytest.mark.parametrize("grain", GRAINS)
@settings(max_examples=4)
@given(actions=st.lists(ACTION, min_size=4, max_size=12))
def test_online_and_as_served_agree_at_every_step_and_afterwards(tmp_path_factory, grain, actions):
    check_agreement(tmp_path_factory.mktemp("world"), grain, actions)


@pytest.mark.prove
@pytest.mark.parametrize("grain", GRAINS)
@settings(max_examples=60)
@given(actions=st.lists(ACTION, min_size=4, max_size=20))
def test_online_and_as_served_agree_at_many_steps_and_afterwards(tmp_path_factory, grain, actions):
    check_agreement(tmp_path_factory.mktemp("world"), grain, actions)


def check_agreement(folder, grain, actions):
    world = World(folder, GRAINS[grain])
    for action in actions:
        world.act(*action)
    for last in ("fold", "sync"):
        assert world.served([asked for asked, _ in world.asked]) == [answer for _, answer in world.asked]
        world.act(last)
    world.store.close()
