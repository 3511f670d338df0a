"""What every online store promises of pushed rows: one test body, run over each backend."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from features.stores import Publication
from features.times import UTC_US
from infra.storage.lmdb_store import LmdbOnlineStore
from infra.storage.memory_store import MemoryOnlineStore
from infra.storage.redis_store import RedisOnlineStore
from valkey_servers import ValkeyServer

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
CARD = "cards/v1"


@pytest.fixture(params=["memory", "lmdb", "valkey"], scope="module")
def opened(request, tmp_path_factory):
    """What opens a store that holds nothing yet."""
    if request.param == "memory":
        yield MemoryOnlineStore
    elif request.param == "lmdb":
        yield lambda: LmdbOnlineStore(tmp_path_factory.mktemp("pushes") / "online")
    else:
        with ValkeyServer() as server, server.client() as client:

            def fresh() -> RedisOnlineStore:
                client.flushall()
                return RedisOnlineStore(server.url)

            yield fresh


@pytest.fixture
def store(opened):
    store = opened()
    yield store
    store.close()


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def rows(*values: tuple[int, float, datetime, datetime]) -> pl.DataFrame:
    schema = {"card_id": pl.Int64, "amount": pl.Float64, "event_timestamp": UTC_US, "created_timestamp": UTC_US}
    frame = pl.DataFrame(list(values), schema=schema, orient="row")
    return frame.with_columns(_epoch=pl.lit(0, pl.Int64), _deleted=pl.lit(value=False))


def amounts(store, *cards):
    return [found and found.values["amount"] for found in store.read(CARD, [(card,) for card in cards])]


def test_a_store_that_nobody_pushed_to_says_so(store):
    assert store.pushed(CARD) is None
    store.write(CARD, ["card_id"], rows((1, 1.0, NOON, NOON)), Publication(CARD, 0, 1, at(1)))
    assert store.pushed(CARD) is None


def test_pushed_rows_are_there_with_the_stamp_they_reach_to_and_no_plan_is_published(store):
    assert store.push(CARD, ["card_id"], rows((1, 1.0, NOON, at(1)), (2, 2.0, NOON, at(1))), at(1)) == 2
    assert amounts(store, 1, 2, 3) == [1.0, 2.0, None]
    assert (store.pushed(CARD), store.watermark(CARD), store.publications(CARD)) == (at(1), 0, [])
    assert store.count(CARD) == 2


def test_pushed_and_published_rows_merge_by_their_order(store):
    store.write(CARD, ["card_id"], rows((1, 1.0, at(5), at(6)), (2, 2.0, at(5), at(6))), Publication(CARD, 0, 1, at(7)))
    assert store.push(CARD, ["card_id"], rows((1, 3.0, at(4), at(8)), (2, 4.0, at(5), at(8))), at(8)) == 1
    assert amounts(store, 1, 2) == [1.0, 4.0]
    assert store.write(CARD, ["card_id"], rows((2, 5.0, at(5), at(7))), Publication(CARD, 1, 2, at(9))) == 0
    assert (store.pushed(CARD), store.watermark(CARD)) == (at(8), 2)
    assert amounts(store, 1, 2) == [1.0, 4.0]


def test_a_push_written_again_changes_nothing_and_the_stamp_never_falls(store):
    for through, won in ((at(2), 1), (at(2), 0), (at(1), 0)):
        assert store.push(CARD, ["card_id"], rows((1, 1.0, NOON, at(2))), through) == won
    assert store.push(CARD, ["card_id"], rows(), at(3)) == 0
    assert store.pushed(CARD) == at(3)


def test_tables_have_stamps_of_their_own(store):
    store.push(CARD, ["card_id"], rows((1, 1.0, NOON, at(2))), at(2))
    assert store.pushed("cards/v2") is None


def kept_stamp(opened) -> None:
    store = opened()
    store.push(CARD, ["card_id"], rows((1, 1.0, NOON, at(2))), at(2))
    store.close()
    again = opened()
    assert (again.pushed(CARD), amounts(again, 1)) == (at(2), [1.0])
    again.close()


def test_the_stamp_is_kept_with_the_rows_in_a_folder(tmp_path):
    kept_stamp(lambda: LmdbOnlineStore(tmp_path))


def test_the_stamp_is_kept_with_the_rows_in_a_server():
    with ValkeyServer() as server:
        kept_stamp(lambda: RedisOnlineStore(server.url))
