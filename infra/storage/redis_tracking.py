"""What changes in a Redis or Valkey of what was read from it, as the server tells it (client-side caching).

The server remembers which keys a connection reads, and tells another connection, the listener, when they change:
https://redis.io/docs/latest/develop/reference/client-side-caching/
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread
from typing import Any

from infra.storage.row_cache import RowCache

_CHANNEL = b"__redis__:invalidate"
_TICK, _PATIENCE, _PAUSE = 0.5, 6, 0.2
"""Seconds between looks at the listener; silent looks until it is asked whether it lives; seconds after its end."""


def begun(connection: Any) -> None:
    """Set up a connection that was just made, perhaps once more: of it, nothing is followed yet."""
    connection.followed_by = None
    connection.on_connect()


class Tracking:
    """Listens to a server for what changes, and tells a cache of it, from a thread of its own.

    ``connect`` makes a connection to the server and may raise any of ``errors``.
    """

    def __init__(self, connect: Callable[[], Any], errors: tuple[type[Exception], ...], cache: RowCache) -> None:
        self.listener: int | None = None
        self._connect = connect
        self._errors = errors
        self._cache = cache
        self._ended = Event()
        Thread(target=self._listen, name="online-changes", daemon=True).start()

    def follow(self, connection: Any) -> bool:
        """Have the server tell of changes in what a connection reads; whether it does."""
        listener = self.listener
        if listener is None:
            return False
        if connection.followed_by != listener:
            connection.send_command("CLIENT", "TRACKING", "ON", "REDIRECT", listener)
            connection.read_response()
            connection.followed_by = listener
        return True

    def close(self) -> None:
        """Stop listening, within a tick."""
        self._ended.set()

    def _listen(self) -> None:
        while not self._ended.is_set():
            connection = None
            try:
                connection = self._connect()
                self._subscribe(connection)
                self._tell(connection)
            except self._errors:
                self._ended.wait(_PAUSE)
            finally:
                self.listener = None
                self._cache.distrust()
                if connection is not None:
                    connection.disconnect()

    def _subscribe(self, connection: Any) -> None:
        connection.connect()
        connection.send_command("CLIENT", "ID")
        listener = connection.read_response()
        connection.send_command("SUBSCRIBE", _CHANNEL)
        connection.read_response()
        self._cache.trust()
        self.listener = listener

    def _tell(self, connection: Any) -> None:
        """Tell the cache of changes until listening ends or the connection does."""
        silent = 0
        while not self._ended.is_set():
            if connection.can_read(timeout=_TICK):
                kind, _, *said = connection.read_response()
                if kind == b"message":
                    self._cache.forget(said[0])
                silent = 0
                continue
            silent += 1
            if silent == _PATIENCE:
                connection.send_command("PING")
            elif silent == 2 * _PATIENCE:
                raise TimeoutError("the listener got no answer")
