"""The Redis store over a cluster of three nodes, and behind a sentinel that changes the primary."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from features.errors import StorageError
from features.stores import Publication
from features.times import UTC_US
from infra.storage.redis_store import RedisOnlineStore
from valkey_servers import ValkeyServer, free_port, until

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
CARDS = "cards/v1"
MANY = 5_000
SLOTS = 16_384


def rows(cards: int, value: float, created: datetime = NOON, **columns) -> pl.DataFrame:
    times = {"event_timestamp": pl.lit(NOON, UTC_US), "created_timestamp": pl.lit(created, UTC_US)}
    frame = pl.select(card_id=pl.int_range(cards), value=pl.lit(value), _epoch=0, _deleted=False)
    return frame.with_columns(**times, **columns)


def values(store: RedisOnlineStore, cards: int) -> set[float | None]:
    return {found and found.values["value"] for found in store.read(CARDS, [(card,) for card in range(cards)])}


@contextlib.contextmanager
def cluster(replicas: int = 0) -> Iterator[list[ValkeyServer]]:
    """Three primaries that share the slots, and replicas of the first one."""
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--repl-ping-replica-period", "1"]
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(ValkeyServer(*options, port=free_port())) for _ in range(3 + replicas)]
        clients = [stack.enter_context(node.client()) for node in nodes]
        for number, client in enumerate(clients[:3]):
            client.execute_command("CLUSTER ADDSLOTSRANGE", number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1)
        for number, client in enumerate(clients):
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
            client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port)
        for client in clients:
            until(lambda c=client: _joined(c, len(nodes)))
        for client in clients[3:]:
            client.execute_command("CLUSTER REPLICATE", clients[0].execute_command("CLUSTER MYID"))
            until(lambda c=client: _linked(c))
        for client in clients:  # all of them know of the replicas
            until(lambda c=client: _replicas(c) == replicas)
        yield nodes


def _joined(client, nodes: int) -> bool:
    facts = client.execute_command("CLUSTER INFO")
    return facts["cluster_state"] == "ok" and int(facts["cluster_known_nodes"]) == nodes


def _replicas(client) -> int:
    """How many replicas a node would send readers to; a new one is not among them at once."""
    return sum(len(nodes) - 1 for _, _, *nodes in client.execute_command("CLUSTER SLOTS"))


def _caught_up(primary, replica) -> bool:
    return primary.info("replication")["master_repl_offset"] <= replica.info("replication")["slave_repl_offset"]


def _linked(client) -> bool:
    return client.info("replication").get("master_link_status") == "up"


@pytest.fixture(scope="module")
def nodes():
    with cluster(replicas=1) as nodes:
        yield nodes


@pytest.fixture
def url(nodes):
    for node in nodes[:3]:
        with node.client() as client:
            client.flushall()
    return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in nodes[:3])}?timeout=60"


def test_rows_spread_over_a_cluster_and_are_all_found(url, nodes):
    store = RedisOnlineStore(url)
    assert store.write(CARDS, ["card_id"], rows(MANY, 1.0), Publication(CARDS, 0, 1, NOON)) == MANY
    for node in nodes[:3]:
        with node.client() as client:
            assert client.dbsize() > MANY / 5
    assert values(store, MANY) == {1.0}
    assert [found and found.values["value"] for found in store.read(CARDS, [(7,), (-7,), (None,)])] == [1.0, None, None]
    assert (store.count(CARDS), store.watermark(CARDS)) == (MANY, 1)
    assert store.publications(CARDS) == [Publication(CARDS, 0, 1, NOON)]
    store.close()


def test_in_a_cluster_the_greater_order_wins(url):
    store, other = RedisOnlineStore(url), RedisOnlineStore(url)
    assert store.push(CARDS, ["card_id"], rows(100, 2.0, NOON + HOUR), NOON + HOUR) == 100
    late = Publication(CARDS, 0, 1, NOON)
    assert other.write(CARDS, ["card_id"], rows(200, 1.0, extra=pl.lit("x")), late) == 100
    assert other.write(CARDS, ["card_id"], rows(200, 3.0), late) == 0
    assert values(store, 100) == {2.0}
    assert [row.values for row in store.read(CARDS, [(99,), (100,)])] == [
        {"value": 2.0, "extra": None},
        {"value": 1.0, "extra": "x"},
    ]
    assert (store.pushed(CARDS), other.count(CARDS)) == (NOON + HOUR, 200)
    store.close()
    other.close()


def test_in_a_cluster_rows_expire(url, nodes):
    store = RedisOnlineStore(url, ttl_of={CARDS: HOUR}.get, clock=lambda: NOON)
    store.push(CARDS, ["card_id"], rows(300, 1.0), NOON)
    expiring = 0
    for node in nodes[:3]:
        with node.client() as client:
            expiring += client.info("keyspace")["db0"]["expires"]
    assert expiring == 300
    assert store.count(CARDS) == 300
    store.close()


def test_slots_that_moved_to_another_node_are_found_there(url, nodes):
    store = RedisOnlineStore(url)
    store.push(CARDS, ["card_id"], rows(500, 1.0), NOON)
    with nodes[0].client() as giver, nodes[1].client() as taker:
        ids = [client.execute_command("CLUSTER MYID") for client in (giver, taker)]
        key = next(giver.scan_iter("*n"))
        slot = giver.execute_command("CLUSTER KEYSLOT", key)
        taker.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
        giver.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
        moved = list(giver.scan_iter(key[:-1] + b"*"))
        giver.execute_command("MIGRATE", "127.0.0.1", nodes[1].port, "", 0, 5_000, "KEYS", *moved)
        for client in (taker, giver):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[1])
        assert len(moved) > 1
    assert store.push(CARDS, ["card_id"], rows(500, 2.0), NOON) == 0
    assert store.push(CARDS, ["card_id"], rows(500, 3.0, NOON + HOUR), NOON) == 500
    assert (values(store, 500), store.count(CARDS)) == ({3.0}, 500)
    store.close()


def test_reads_may_go_to_the_replicas_of_a_cluster(url, nodes):
    store, reader = RedisOnlineStore(url), RedisOnlineStore(f"{url}&replicas=read")
    store.push(CARDS, ["card_id"], rows(500, 1.0), NOON)
    with nodes[0].client() as primary, nodes[3].client() as replica:
        until(lambda: _caught_up(primary, replica))
        before = _gets(replica)
        assert [values(reader, 500) for _ in range(4)] == [{1.0}] * 4
        assert _gets(replica) > before
        before = _gets(replica)
        assert values(store, 500) == {1.0}
        assert _gets(replica) == before
    store.close()
    reader.close()


def _gets(client) -> int:
    """How often a server was asked for rows."""
    return client.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"]


def test_a_cluster_that_cannot_be_reached_is_an_error():
    store = RedisOnlineStore(f"redis+cluster://me:hidden@127.0.0.1:{free_port()}?timeout=1")
    with pytest.raises(StorageError, match=r"check that it runs") as caught:
        store.watermark(CARDS)
    assert "hidden" not in str(caught.value)
    store.close()


@contextlib.contextmanager
def watched() -> Iterator[tuple[ValkeyServer, ValkeyServer, ValkeyServer]]:
    """A primary, its replica and a sentinel that watches both."""
    with ValkeyServer(port=free_port()) as primary:
        replica_of = f"127.0.0.1 {primary.port}"
        with ValkeyServer("--replicaof", replica_of, port=free_port()) as replica, replica.client() as client:
            until(lambda: _linked(client))
            facts = (
                f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
                "sentinel down-after-milliseconds main 300\n"
                "sentinel failover-timeout main 3000"
            )
            with ValkeyServer(port=free_port(), sentinel=facts) as sentinel, sentinel.client() as asked:
                until(lambda: asked.execute_command("SENTINEL REPLICAS", "main"))
                yield primary, replica, sentinel


def test_behind_a_sentinel_writes_follow_the_primary_and_reads_may_go_to_replicas():
    with watched() as (primary, replica, sentinel):
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main?timeout=60"
        store, reader = RedisOnlineStore(url), RedisOnlineStore(f"{url}&replicas=read")
        assert store.write(CARDS, ["card_id"], rows(50, 1.0), Publication(CARDS, 0, 1, NOON)) == 50
        with primary.client() as one, replica.client() as other:
            until(lambda: _caught_up(one, other))
            before = _gets(one), _gets(other)
            assert values(reader, 50) == {1.0}
            assert (_gets(one), _gets(other)) == (before[0], before[1] + 1)
        primary.kill()
        until(lambda: _taken(store))
        assert (values(store, 50), store.watermark(CARDS)) == ({2.0}, 2)
        store.close()
        reader.close()


def _taken(store: RedisOnlineStore) -> bool:
    """Whether a sync went through."""
    try:
        return store.write(CARDS, ["card_id"], rows(50, 2.0, NOON + HOUR), Publication(CARDS, 1, 2, NOON)) == 50
    except StorageError:
        return False
