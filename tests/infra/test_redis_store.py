"""The Redis store in one server: many writers, expiry, kills, restarts and what looks alike."""

import os
import random
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import redis_child
from features.errors import SettingsError, StorageError
from features.stores import Publication
from features.times import EPOCH, LATEST, TICK, UTC_US, from_micros
from infra.storage.keys import encode_key
from infra.storage.redis_address import RedisAddress
from infra.storage.redis_layout import TableKeys
from infra.storage.redis_server import RedisServer
from infra.storage.redis_store import RedisOnlineStore
from redis_child import BEGIN, CARDS
from valkey_servers import ValkeyServer, free_port

PROJECT = Path(__file__).resolve().parents[2]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def server():
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def client(server):
    with server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
def url(server, client):
    client.flushall()
    return server.url


class Moving:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


def rows(*given: tuple, **columns) -> pl.DataFrame:
    """Rows of (card, value, event, created, epoch, deleted), the last ones optional."""
    defaults = (0, 0.0, NOON, NOON, 0, False)
    schema = {"card_id": pl.Int64, "value": pl.Float64, "event_timestamp": UTC_US, "created_timestamp": UTC_US}
    schema |= {"_epoch": pl.Int64, "_deleted": pl.Boolean}
    frame = pl.DataFrame([row + defaults[len(row) :] for row in given], schema, orient="row")
    return frame.with_columns(**columns)


def sync(store: RedisOnlineStore, frame: pl.DataFrame, table_id: str = CARDS) -> int:
    at = store.watermark(table_id)
    return store.write(table_id, ["card_id"], frame, Publication(table_id, at, at + 1, NOON))


def values(store: RedisOnlineStore, *cards: int, table_id: str = CARDS) -> list[object]:
    return [found and found.values["value"] for found in store.read(table_id, [(card,) for card in cards])]


# ---------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("url", "kind", "hosts", "options"),
    [
        ("redis://h", "server", [("h", 6379)], {"db": 0}),
        ("redis://me:p%40ss@h:7000/3", "server", [("h", 7000)], {"db": 3, "username": "me", "password": "p@ss"}),
        ("redis://:pass@[::1]:7000?db=2", "server", [("::1", 7000)], {"db": 2, "password": "pass"}),
        (
            "unix://:pass@/run/v.sock?db=1",
            "server",
            [],
            {"db": 1, "password": "pass", "unix_socket_path": "/run/v.sock"},
        ),
        ("rediss://h?ssl_ca_certs=/ca.pem", "server", [("h", 6379)], {"db": 0, "ssl": True, "ssl_ca_certs": "/ca.pem"}),
        ("redis+sentinel://a,b:7001/main?db=4", "sentinel", [("a", 26379), ("b", 7001)], {"db": 4}),
        ("rediss+cluster://a:1,b:2", "cluster", [("a", 1), ("b", 2)], {"ssl": True}),
    ],
)
def test_the_forms_of_a_url(url, kind, hosts, options):
    address = RedisAddress.parse(url)
    timeouts = {"socket_timeout": 5.0, "socket_connect_timeout": 5.0}
    assert (address.kind, address.hosts, address.options) == (kind, hosts, timeouts | options)
    assert "pass" not in f"{address} {address.shown}"


def test_sentinels_have_users_and_passwords_of_their_own():
    address = RedisAddress.parse("redis+sentinel://me:one@a/main?sentinel_password=two&replicas=read")
    assert (address.service, address.read_replicas) == ("main", True)
    assert (address.options["password"], address.sentinel_options["password"]) == ("one", "two")
    assert "two" not in repr(address)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://me:hidden@h", "begins with one of redis, rediss"),
        ("redis://me:hidden@h?tiemout=3", "no parameter 'tiemout'"),
        ("redis://me:hidden@h?timeout=soon", "timeout is a number"),
        ("redis://me:hidden@h:port", "write hosts like host:port"),
        ("redis://me:hidden@a,b", "several hosts are a redis\\+sentinel"),
        ("redis://me:hidden@h/x", "'x' is no number of a database"),
        ("redis://me:hidden@h?replicas=read", "with sentinels or a cluster"),
        ("redis://me:hidden@h?ssl_ca_certs=x", "write rediss"),
        ("redis+sentinel://me:hidden@h", "name the service"),
        ("redis+cluster://me:hidden@h?db=1", "a cluster has one database"),
        ("unix://me:hidden@run/v.sock", "the socket's whole path"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_secrets(url, says):
    with pytest.raises(SettingsError, match=says) as caught:
        RedisOnlineStore(url)
    assert "hidden" not in str(caught.value)


# ------------------------------------------------------------------------------------------- many writers


def greatest(seeds: range) -> dict[int, tuple]:
    """Of each entity the row that must be left, of whatever order they were written in."""
    kept: dict[int, tuple] = {}
    for seed in seeds:
        for batch in redis_child.batches(seed):
            for card, event, created, epoch, deleted, value in batch.rows():
                kept[card] = max(kept.get(card, ()), (epoch, event, created, deleted, value))
    return kept


def held(store: RedisOnlineStore) -> dict[int, tuple]:
    found = store.read(CARDS, [(card,) for card in range(redis_child.ENTITIES)])
    return {n: (*row.order, row.deleted, row.values["value"]) for n, row in enumerate(found) if row is not None}


@pytest.mark.parametrize("first", [pytest.param(0, marks=pytest.mark.prove), 10])
def test_whatever_processes_write_at_once_the_greatest_order_is_left(url, first):
    seeds = range(first, first + 3)
    command = [sys.executable, str(PROJECT / "tests/redis_child.py"), url]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    children = [subprocess.Popen([*command, str(seed)], env=environment) for seed in seeds[1:]]
    redis_child.write_all(url, seeds[0])
    assert [child.wait() for child in children] == [0, 0]
    store = RedisOnlineStore(url)
    expected = greatest(seeds)
    assert held(store) == expected
    assert store.count(CARDS) == sum(not row[3] for row in expected.values())
    published = store.publications(CARDS)
    assert [p.after for p in published] == [0, *(p.plan for p in published[:-1])]
    assert store.watermark(CARDS) == published[-1].plan
    assert store.pushed(CARDS) == BEGIN + timedelta(seconds=2_900 + seeds[-1])
    store.close()


@pytest.mark.parametrize("seed", range(4))
def test_threads_that_share_a_store_leave_the_greatest_order(url, seed):
    store = RedisOnlineStore(url)
    mixed = [batch for own in range(3) for batch in redis_child.batches(own)]
    random.Random(seed).shuffle(mixed)

    def push(part: list[pl.DataFrame]) -> None:
        for number, batch in enumerate(part):
            store.push(CARDS, ["card_id"], batch, BEGIN + timedelta(seconds=number))

    threads = [threading.Thread(target=push, args=(mixed[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held(store) == greatest(range(3))
    store.close()


def test_of_two_syncs_of_the_same_plan_one_publishes_it(url):
    stores, ready = [RedisOnlineStore(url), RedisOnlineStore(url)], threading.Barrier(2)
    frame = rows(*((card, 1.0) for card in range(20_000)))
    won: list[int] = []

    def write(store: RedisOnlineStore) -> None:
        ready.wait()
        won.append(store.write(CARDS, ["card_id"], frame, Publication(CARDS, 0, 1, NOON)))

    threads = [threading.Thread(target=write, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(won) == 20_000
    assert stores[0].publications(CARDS) == [Publication(CARDS, 0, 1, NOON)]
    assert stores[0].count(CARDS) == 20_000
    for store in stores:
        store.close()


def test_clients_that_add_columns_at_once_agree_on_the_formats(url):
    frames = [rows((n, float(n)), **{f"own_{n}": pl.lit(n)}) for n in range(6)]
    ready = threading.Barrier(6)

    def push(n: int) -> None:
        store = RedisOnlineStore(url)
        ready.wait()
        store.push(CARDS, ["card_id"], frames[n], NOON)
        store.close()

    threads = [threading.Thread(target=push, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = RedisOnlineStore(url)
    for n, found in enumerate(store.read(CARDS, [(n,) for n in range(6)])):
        own = {f"own_{other}": n if other == n else None for other in range(6)}
        assert found.values == {"value": float(n)} | own
    store.close()


def test_a_reader_learns_columns_that_came_after_it_began(url):
    reader, writer = RedisOnlineStore(url), RedisOnlineStore(url)
    writer.push(CARDS, ["card_id"], rows((1, 1.0)), NOON)
    assert reader.read(CARDS, [(1,)])[0].values == {"value": 1.0}
    writer.push(CARDS, ["card_id"], rows((2, 2.0), more=pl.lit("x")), NOON)
    assert [row.values["more"] for row in reader.read(CARDS, [(1,), (2,)])] == [None, "x"]
    reader.close()
    writer.close()


def test_a_client_notices_that_the_server_was_emptied_and_filled_by_another(url, client):
    old, new = RedisOnlineStore(url), RedisOnlineStore(url)
    old.push(CARDS, ["card_id"], rows((1, 1.0), other=pl.lit("a")), NOON)
    assert values(old, 1) == [1.0]
    client.flushall()
    new.push(CARDS, ["card_id"], rows((1, 2.0)).with_columns(another=pl.lit(value=True)), NOON)
    old.push(CARDS, ["card_id"], rows((2, 3.0), other=pl.lit("b")), NOON)
    first, second = old.read(CARDS, [(1,), (2,)])
    assert first.values == {"value": 2.0, "another": True, "other": None}
    assert second.values == {"value": 3.0, "another": None, "other": "b"}
    assert new.read(CARDS, [(1,), (2,)]) == [first, second]
    old.close()
    new.close()


# --------------------------------------------------------------------------------- orders, keys and sizes


@pytest.mark.parametrize("which", ["event", "created"])
@pytest.mark.parametrize("start", [LATEST - timedelta(days=2), datetime(1, 1, 3, tzinfo=UTC), EPOCH - TICK])
def test_orders_are_exact_to_the_microsecond_at_any_time(url, start, which):
    store = RedisOnlineStore(url)
    moments = [start + timedelta(microseconds=step) for step in (0, 2, 1, 3, 3)]
    for step, moment in enumerate(moments):
        times = (moment, NOON) if which == "event" else (NOON, moment)
        store.push(CARDS, ["card_id"], rows((1, float(step), *times)), NOON)
    (found,) = store.read(CARDS, [(1,)])
    assert found.values == {"value": 3.0}
    assert (found.event_timestamp if which == "event" else found.created_timestamp) == start + timedelta(microseconds=3)
    store.close()


def test_epochs_are_compared_as_numbers(url):
    store = RedisOnlineStore(url)
    for epoch in (9, 10, 256, 255, -1):
        store.push(CARDS, ["card_id"], rows((1, float(epoch), NOON, NOON, epoch)), NOON)
    assert values(store, 1) == [256.0]
    store.close()


def test_stores_and_tables_of_like_names_share_nothing(url):
    names = ["a", "a:b", "a}", "a{", "a%7D", "a*", "ä", "", "a\0"]
    homes = [("home", "b:c/v1"), ("home:b", "c/v1"), ("ho*", "c/v1"), ("ho*", "*"), *(("home", name) for name in names)]
    stores = [RedisOnlineStore(url, namespace=namespace) for namespace, _ in homes]
    for number, (store, (_, table_id)) in enumerate(zip(stores, homes, strict=True)):
        assert sync(store, rows((1, float(number))), table_id) == 1
    for number, (store, (_, table_id)) in enumerate(zip(stores, homes, strict=True)):
        assert values(store, 1, table_id=table_id) == [float(number)]
        assert (store.count(table_id), store.watermark(table_id), len(store.publications(table_id))) == (1, 1, 1)
        store.close()


@given(st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), min_size=2, max_size=9, unique=True))
def test_no_two_keys_are_the_same(pairs):
    found = [TableKeys(namespace, table_id) for namespace, table_id in pairs]
    keys = [k for t in found for k in (t.about, t.published, *t.counts, t.row(b"\x91\x01"), t.row(b"\xc1}n"))]
    assert len(set(keys)) == len(keys)


def test_more_keys_than_one_question_holds(url):
    store = RedisOnlineStore(url)
    store.push(CARDS, ["card_id"], rows(*((card, float(card)) for card in range(2_500))), NOON)
    asked = [*range(2_499, -1, -1), -1, 7]
    assert values(store, *asked) == [float(card) if card >= 0 else None for card in asked]
    assert store.read(CARDS, []) == []
    store.close()


# -------------------------------------------------------------------------------------------------- expiry


def lives(client) -> list[int]:
    """How many ms the rows that are there still live, -1 for ever."""
    return sorted(client.pttl(key) for key in client.scan_iter("*}\x91*".encode("latin-1")))


def test_rows_live_until_event_timestamp_plus_ttl(url, client):
    store = RedisOnlineStore(url, ttl_of={CARDS: HOUR}.get, clock=lambda: NOON)
    gone = (1, 1.0, NOON - HOUR - timedelta(microseconds=1))
    last = (2, 2.0, NOON - HOUR + timedelta(minutes=10))
    tombstone = (3, None, NOON, NOON, 0, True)
    assert store.push(CARDS, ["card_id"], rows(gone, last, tombstone), NOON) == 2
    assert store.push("other/v1", ["card_id"], rows((4, 4.0, NOON - 9 * HOUR)), NOON) == 1
    forever, short, long = lives(client)
    assert forever == -1
    assert 540_000 < short <= 600_000
    assert 3_540_000 < long <= 3_600_000
    assert values(store, 1, 2) == [None, 2.0]
    store.close()


def test_a_row_that_is_exactly_ttl_old_is_kept(url):
    store = RedisOnlineStore(url, ttl_of={CARDS: HOUR}.get, clock=lambda: NOON)
    assert store.push(CARDS, ["card_id"], rows((1, 1.0, NOON - HOUR)), NOON) == 1
    store.close()


def test_a_late_winner_that_is_past_its_ttl_hides_the_row_that_it_beats(url):
    """A rollback can put back an old row over a young one; forgetting the old row must not bring back the young one."""
    store = RedisOnlineStore(url, ttl_of={CARDS: HOUR}.get, clock=lambda: NOON)
    store.push(CARDS, ["card_id"], rows((1, 1.0, NOON - HOUR / 2)), NOON)
    store.push(CARDS, ["card_id"], rows((1, 2.0, NOON - 2 * HOUR, NOON, 1)), NOON)
    (found,) = store.read(CARDS, [(1,)])
    assert (found.epoch, found.event_timestamp) == (1, NOON - 2 * HOUR)  # which readers call OUTSIDE_MAX_AGE
    store.close()


class Forgetful:
    """The store, with a server that forgets rows by a clock of the test instead of the machine's."""

    def __init__(self, url, client, ttl):
        client.flushall()
        self._client, self.clock, self._ttl = client, Moving(), ttl
        self.store = RedisOnlineStore(url, ttl_of={CARDS: ttl}.get, clock=self.clock)
        self._ends: dict[bytes, datetime] = {}

    def push(self, card, *row):
        won = self.store.push(CARDS, ["card_id"], rows((card, *row)), NOON)
        if won:
            key = TableKeys("featurefab", CARDS).row(encode_key((card,)))
            # Minutes are what the test counts in; the server has begun to count down in the meantime.
            self._ends[key] = self.clock.now + timedelta(minutes=-(-self._client.pttl(key) // 60_000))

    def wait(self, minutes):
        self.clock.now += timedelta(minutes=minutes)
        for key in [key for key, end in self._ends.items() if end < self.clock.now]:
            self._client.delete(key)
            del self._ends[key]

    def answer(self, card):
        (row,) = self.store.read(CARDS, [(card,)])
        return _seen(row and (row.deleted, row.event_timestamp, row.values["value"]), self.clock.now, self._ttl)


def _seen(row, now, ttl):
    return None if row is None or row[0] or now - row[1] > ttl else row[2]


_steps = st.tuples(
    st.integers(0, 25),  # minutes that pass before it
    st.integers(0, 1),  # the entity
    st.integers(0, 100),  # how old the row is, in minutes
    st.integers(0, 2),  # how many epochs behind the newest
    st.booleans(),  # whether it is a tombstone
    st.booleans(),  # whether a rollback comes first
)


@given(st.lists(_steps, max_size=14))
def test_with_rows_that_expire_no_answer_differs_from_that_of_a_store_that_keeps_everything(server, steps):
    ttl = timedelta(minutes=60)
    with server.client() as client:
        kept = Forgetful(server.url, client, ttl)
        raised = [NOON]
        every: dict[int, list[tuple]] = {0: [], 1: []}
        for number, (minutes, card, age, behind, deleted, rollback) in enumerate(steps):
            kept.wait(minutes)
            now = kept.clock.now
            if rollback:
                raised.append(now)
            epoch = max(0, len(raised) - 1 - behind)
            # What was written before a rollback, and comes late, is no younger than it.
            event = min([now, *raised[epoch + 1 : epoch + 2]]) - timedelta(minutes=age)
            created = NOON + timedelta(microseconds=number)
            kept.push(card, float(number), event, created, epoch, deleted)
            every[card].append((epoch, event, created, deleted, float(number)))
            for asked, history in every.items():
                best = max(history, default=None)
                expected = _seen(best and (best[3], best[1], best[4]), now, ttl)
                assert kept.answer(asked) == expected
        kept.store.close()


def test_expired_rows_are_no_longer_counted(url, client):
    clock = Moving()
    store = RedisOnlineStore(url, ttl_of={CARDS: HOUR}.get, clock=clock)
    tombstone = (99, None, NOON, NOON, 0, True)
    sync(store, rows(*((card, 1.0, NOON - card * HOUR / 10) for card in range(10)), tombstone))
    assert store.count(CARDS) == 10
    sync(store, rows((0, 2.0, NOON, NOON + HOUR), (9, 2.0, NOON, NOON)))  # one of them lives longer now
    assert store.count(CARDS) == 10
    clock.now = NOON + HOUR / 2 + timedelta(minutes=1)  # 6, 7, 8 and 5 ended
    assert store.count(CARDS) == 6
    clock.now = NOON + HOUR + timedelta(minutes=1)
    assert store.count(CARDS) == 0
    assert list(client.scan_iter("*n")) == []  # nothing is left of counts that passed
    store.close()


def test_a_raised_ttl_asks_for_all_rows_again(url, client):
    short = RedisOnlineStore(url, ttl_of={CARDS: HOUR}.get, clock=lambda: NOON)
    frame = rows((1, 1.0, NOON - 2 * HOUR), (2, 2.0, NOON))
    assert short.write(CARDS, ["card_id"], frame, Publication(CARDS, 0, 3, NOON)) == 1
    long = RedisOnlineStore(url, ttl_of={CARDS: 3 * HOUR}.get, clock=lambda: NOON)
    assert (short.watermark(CARDS), long.watermark(CARDS)) == (3, 0)
    assert long.push(CARDS, ["card_id"], rows((3, 3.0)), NOON) == 1
    assert long.watermark(CARDS) == 0  # a push does not bring back what is gone
    assert long.write(CARDS, ["card_id"], frame, Publication(CARDS, 0, 3, NOON)) == 1
    assert values(long, 1, 2, 3) == [1.0, 2.0, 3.0]
    first, second, third = lives(client)
    assert 3_540_000 < first <= 3_600_000
    assert 10_740_000 < second <= third <= 10_800_000
    assert (long.watermark(CARDS), long.count(CARDS)) == (3, 3)
    assert long.publications(CARDS) == [Publication(CARDS, 0, 3, NOON)]
    # Lowered, rows end sooner from then on; raised again, that has to be made good again.
    assert (short.watermark(CARDS), sync(short, rows((4, 4.0)))) == (3, 1)
    assert long.watermark(CARDS) == 0
    forever = RedisOnlineStore(url, clock=lambda: NOON)
    assert forever.watermark(CARDS) == 0
    assert forever.write(CARDS, ["card_id"], frame, Publication(CARDS, 0, 4, NOON)) == 0
    assert (forever.watermark(CARDS), lives(client)[:2], forever.count(CARDS)) == (4, [-1, -1], 4)
    for store in (short, long, forever):
        store.close()


# -------------------------------------------------------------------------------- kills, restarts, refusals

SYNC = """
import sys
sys.path.insert(0, sys.argv[2])
from test_redis_store import CARDS, NOON, Publication, RedisOnlineStore, rows

store = RedisOnlineStore(sys.argv[1])
frame = rows(*((card, 2.0) for card in range(100_000)))
store.write(CARDS, ["card_id"], frame, Publication(CARDS, 0, 1, NOON))
"""


@pytest.mark.parametrize("there", [100, pytest.param(60_000, marks=pytest.mark.prove)])
def test_a_sync_that_was_killed_is_made_good_by_the_next(url, client, there):
    command = [sys.executable, "-c", SYNC, url, str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])}
    with subprocess.Popen(command, env=environment) as syncing:
        while client.dbsize() < there:
            assert syncing.poll() is None
        syncing.kill()
    store = RedisOnlineStore(url)
    assert (store.watermark(CARDS), store.publications(CARDS)) == (0, [])
    frame = rows(*((card, 2.0) for card in range(100_000)))
    some = store.count(CARDS)
    assert 0 < some < 100_000
    assert store.write(CARDS, ["card_id"], frame, Publication(CARDS, 0, 1, NOON)) == 100_000 - some
    assert (store.count(CARDS), store.watermark(CARDS)) == (100_000, 1)
    assert set(values(store, *range(100_000))) == {2.0}
    store.close()


def test_a_server_that_dies_is_an_error_and_one_that_is_back_is_used_again():
    with ValkeyServer("--appendonly", "yes", "--appendfsync", "always") as server:
        store = RedisOnlineStore(server.url)
        sync(store, rows((1, 1.0)))
        server.kill()
        for call in (
            lambda: values(store, 1),
            lambda: store.watermark(CARDS),
            lambda: store.count(CARDS),
            lambda: store.push(CARDS, ["card_id"], rows((1, 2.0)), NOON),
            lambda: store.write(CARDS, ["card_id"], rows((1, 2.0)), Publication(CARDS, 1, 2, NOON)),
        ):
            with pytest.raises(StorageError, match=rf"online store {server.place}: .*check that it runs"):
                call()
        server.start()
        assert (values(store, 1), store.watermark(CARDS)) == ([1.0], 1)
        assert store.push(CARDS, ["card_id"], rows((1, 2.0, NOON, NOON + HOUR)), NOON) == 1
        store.close()


def test_a_server_that_was_started_anew_in_the_middle_of_a_write_fails_it():
    """It may have lost what was written before; were the write to go on, its watermark would hide that."""
    with ValkeyServer() as server:
        connection = RedisServer(server.url)
        with pytest.raises(StorageError, match="a test failed"), connection.talk("a test") as talk:  # noqa: PT012
            assert talk([("SET", "a", 1)]) == [b"OK"]
            server.kill()
            server.start()
            talk([("SET", "b", 2)])
        assert connection.read("a test", [("GET", "a"), ("GET", "b")]) == [None, None]
        connection.close()


def test_a_table_that_was_reset_while_it_was_synced_is_not_called_published(url, client):
    store = RedisOnlineStore(url)
    sync(store, rows((1, 1.0)))
    absorb = store._absorb

    def reset(*arguments):
        won = absorb(*arguments)
        client.flushall()
        return won

    store._absorb = reset
    with pytest.raises(StorageError, match=r"'cards/v1' was reset there while it was synced: sync again"):
        store.write(CARDS, ["card_id"], rows((2, 2.0)), Publication(CARDS, 1, 2, NOON))
    assert store.watermark(CARDS) == 0
    store.close()


def test_a_row_that_is_none_says_so(url, client):
    store = RedisOnlineStore(url)
    sync(store, rows((1, 1.0), (2, 2.0)))
    key = TableKeys("featurefab", CARDS).row(b"\x91\x01")
    assert client.strlen(key) > 0
    client.setrange(key, 25, b"\xc1\xc1\xc1")
    with pytest.raises(StorageError, match="cannot be read: rebuild the online store by a full sync"):
        values(store, 1, 2)
    assert values(store, 2) == [2.0]
    store.close()


def test_a_table_of_a_later_format_says_what_to_do(url, client):
    store, later = RedisOnlineStore(url), RedisOnlineStore(url)
    sync(later, rows((1, 1.0)))
    client.hset(TableKeys("featurefab", CARDS).about, "format", 99)
    for call in (lambda: values(store, 1), lambda: sync(store, rows((1, 2.0, NOON, NOON + HOUR)))):
        with pytest.raises(StorageError, match="another version's format: update featurefab"):
            call()
    store.close()
    later.close()


def test_what_a_server_refuses_is_told_with_its_remedy_and_without_secrets():
    with ValkeyServer("--maxmemory", "3mb", port=free_port()) as server, server.client() as client:
        store = RedisOnlineStore(server.url)
        with pytest.raises(StorageError, match=r"a sync of 'cards/v1' failed .*raise its maxmemory"):
            sync(store, rows(*((card, 1.0) for card in range(100_000))))
        assert store.watermark(CARDS) == 0
        client.config_set("maxmemory", 0)
        client.execute_command("REPLICAOF", "127.0.0.1", free_port())
        with pytest.raises(StorageError, match="it is a replica: name the primary"):
            sync(store, rows((1, 1.0)))
        client.execute_command("REPLICAOF", "NO", "ONE")
        client.config_set("requirepass", "right")
        client.execute_command("AUTH", "right")
        client.execute_command("ACL", "SETUSER", "reader", "on", ">hidden", "~*", "+@read")
        store.close()
        for user_info, says in (
            ("", "Authentication required"),
            (":hidden@", "password"),
            ("reader:hidden@", "may do"),
        ):
            other = RedisOnlineStore(f"redis://{user_info}127.0.0.1:{server.port}?timeout=2")
            with pytest.raises(StorageError, match=says) as caught:
                sync(other, rows((1, 1.0)))
            assert "hidden" not in f"{caught.value} {caught.value.__cause__} {other!r} {vars(other)}"
            other.close()


def test_the_clock_of_lives_is_the_stores_own(url):
    """A home whose clock stands in the past still serves the rows of its present."""
    store = RedisOnlineStore(url, ttl_of={CARDS: HOUR}.get, clock=lambda: from_micros(0))
    assert store.push(CARDS, ["card_id"], rows((1, 1.0, from_micros(0))), NOON) == 1
    assert values(store, 1) == [1.0]
    store.close()
