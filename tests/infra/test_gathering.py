"""Requests at the same time over a store on the network are read together, and each gets its own answer."""

from __future__ import annotations

import asyncio

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from card_payments import hours, last_payment, payments, windows
from features import FeatureStore, Registry
from features.errors import StorageError
from infra.serving.gathering import GatheringReader
from infra.storage.delta import DeltaLake
from infra.storage.memory_store import MemoryOnlineStore

CARDS = 12
FEATURES = ["last_payment:amount_last", "windows:n_1d", "windows:sum_3d"]


class Counting(MemoryOnlineStore):
    """A store that counts how often it is read, and fails for a while where it is told to."""

    reads, down = 0, frozenset()

    def read_columns(self, table_id, keys, features):
        self.reads += 1
        if table_id in self.down:
            raise StorageError(f"{table_id} is down")
        return super().read_columns(table_id, keys, features)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    online = Counting()
    store = FeatureStore(
        Registry([last_payment, windows]), DeltaLake(tmp_path_factory.mktemp("lake")), online, lambda: hours(9)
    )
    rows = [(n, n % CARDS, n / 2, hours(n % 3)) for n in range(40)]
    store.write_source(payments, pl.DataFrame(rows, schema=dict(payments.schema), orient="row"))
    for group in (last_payment, windows):
        store.materialize_incremental(group)
        store.sync(group)
    return store


def read(store, questions):
    """What is found for questions that are asked at the same time, one after the other answered."""

    async def ask_all():
        reader = GatheringReader(store.online)
        found = await asyncio.gather(*(reader.read(question.reads) for question in questions))
        reader.close()
        return found

    return asyncio.run(ask_all())


asked = st.lists(
    st.tuples(
        st.lists(st.sampled_from(FEATURES), min_size=1, max_size=3, unique=True),
        st.lists(st.none() | st.integers(0, CARDS + 3), max_size=8),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(asked=asked)
def test_each_gets_what_it_would_get_alone(store, asked):
    questions = [store.online_features.ask(features, {"card_id": cards}) for features, cards in asked]
    found = read(store, questions)
    for (features, cards), question, columns in zip(asked, questions, found, strict=True):
        alone = store.get_online_features(features, {"card_id": cards})
        answer = question.answer(columns)
        assert (answer.values, answer.statuses, answer.event_timestamps) == (
            alone.values, alone.statuses, alone.event_timestamps,
        )  # fmt: skip


def test_many_at_once_are_few_reads(store):
    questions = [store.online_features.ask(FEATURES[:1], {"card_id": [n % CARDS]}) for n in range(100)]
    before = store.online.reads
    read(store, questions)
    assert store.online.reads - before == 1


def test_a_table_that_fails_fails_for_those_who_read_it(store):
    both, other = FEATURES[:2], FEATURES[1:2]
    questions = [store.online_features.ask(features, {"card_id": [1]}) for features in (both, other)]
    store.online.down = frozenset({last_payment.table_id})
    try:
        (failed, fine), (alone,) = read(store, questions)
    finally:
        store.online.down = frozenset()
    assert isinstance(failed, StorageError)
    assert fine == alone
    with pytest.raises(StorageError, match="is down"):
        questions[0].answer([failed, fine])


class Far(Counting):
    """A store on the network that remembers the rows of some cards, and fails when it is told to."""

    known, fails = frozenset(), False

    def read_columns(self, table_id, keys, features):
        if self.fails:
            self.reads += 1
            raise StorageError("nobody answers")
        return super().read_columns(table_id, keys, features)

    def at_hand(self, table_id, keys, features, *, stale=False):
        if not stale or not {key[0] for key in keys} <= self.known:
            return None
        return MemoryOnlineStore.read_columns(self, table_id, keys, features)._replace(cached=True)


@pytest.fixture
def far(tmp_path):
    store = FeatureStore(Registry([last_payment]), DeltaLake(tmp_path), Far(), lambda: hours(9))
    rows = [(n, n, n / 2, hours(n)) for n in range(3)]
    store.write_source(payments, pl.DataFrame(rows, schema=dict(payments.schema), orient="row"))
    store.materialize_incremental(last_payment)
    store.sync(last_payment)
    return store


def test_a_store_that_fails_is_left_in_peace_for_a_while_and_what_is_remembered_answers(far):
    now, far.online.known = [0.0], frozenset({1})
    asked = [far.online_features.ask(FEATURES[:1], {"card_id": [card]}) for card in (1, 2)]

    async def story():
        failures = []
        reader = GatheringReader(far.online, pause=1.0, clock=lambda: now[0], failed=lambda: failures.append(1))

        async def told():
            found = await asyncio.gather(*(reader.read(question.reads) for question in asked))
            return [
                "503" if isinstance(one, StorageError) else next(iter(question.answer([one]).origins.values()))
                for question, (one,) in zip(asked, found, strict=True)
            ]

        said = [await told()]
        far.online.fails, before = True, far.online.reads
        for moment in (0.1, 0.2, 0.9):
            now[0] = moment
            said.append(await told())
        once = far.online.reads - before
        now[0] = 1.2
        said.append(await told())
        far.online.fails = False
        now[0] = 2.0
        said.append(await told())
        now[0] = 2.3
        said.append(await told())
        reader.close()
        return said, once, len(failures)

    said, once, failures = asyncio.run(story())
    assert said == [["store"] * 2, *[["cache", "503"]] * 5, ["store"] * 2]
    assert (once, failures) == (1, 2)


def test_only_so_many_wait(far):
    asked = far.online_features.ask(FEATURES[:1], {"card_id": [1]})

    async def story():
        reader = GatheringReader(far.online, most=3)
        full = []
        for _ in range(4):
            full.append(reader.full)
            reader.read(asked.reads)
        await reader.read(asked.reads)
        reader.close()
        return full, reader.full

    assert asyncio.run(story()) == ([False, False, False, True], False)
