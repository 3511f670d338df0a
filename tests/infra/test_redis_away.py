"""A Redis that does not answer: reads are tried again when it goes, and once each while it is away."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest

from features.errors import StorageError
from infra.storage.redis_store import RedisOnlineStore
from valkey_servers import ValkeyServer, free_port

TABLE = "cards/v1"


@contextmanager
def closing(port: int) -> Iterator[list[object]]:
    """A listener that closes every connection at once, and who came."""
    came: list[object] = []
    with socket.create_server(("127.0.0.1", port)) as listener:

        def turn_away() -> None:
            while True:
                connection, who = listener.accept()
                with connection:
                    if connection.recv(4) == b"over":
                        return
                    came.append(who)

        thread = Thread(target=turn_away)
        thread.start()
        try:
            yield came
        finally:
            with socket.create_connection(("127.0.0.1", port)) as last:
                last.sendall(b"over")
            thread.join()


def test_reads_wait_for_an_answer_once_and_not_again_until_there_was_one():
    with ValkeyServer(port=free_port()) as server:
        store = RedisOnlineStore(f"{server.place}?timeout=60")
        for _ in range(2):
            assert store.watermark(TABLE) == 0
            server.kill()
            with closing(server.port) as came:
                for attempts in (3, 4, 5):
                    with pytest.raises(StorageError, match="check that it runs"):
                        store.watermark(TABLE)
                    assert len(came) == attempts
            server.start()
        store.close()
