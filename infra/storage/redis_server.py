"""Conversations with a Redis or Valkey: one server, one behind sentinels, or a cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

from features.errors import SettingsError, StorageError
from infra.storage.redis_address import RedisAddress
from infra.storage.redis_tracking import Tracking, begun
from infra.storage.row_cache import RowCache

Found = TypeVar("Found")

Command = tuple[Any, ...]
"""A command and its arguments."""

Talk = Callable[[Sequence[Command]], list[Any]]
"""Sends commands in one go and returns their replies; raises the first error among them."""

_PAUSES = (0.05, 0.25, None)  # seconds after a failed attempt to read; None: give up
_REACH = "check that it runs and can be reached from here"
_REMEDIES = {
    "AuthenticationError": "check user and password in the URL",
    "AuthorizationError": "check what this user may do",
    "NoPermissionError": "check what this user may do",
    "BusyLoadingError": "it is still loading its data: try again",
    "OutOfMemoryError": "raise its maxmemory, or remove what else it holds",
    "ReadOnlyError": "it is a replica: name the primary, or its sentinels",
    "MovedError": "it is part of a cluster: write redis+cluster:// before its host",
    "TryAgainError": "some of its keys are on their way to another node: try again",
    "ClusterDownError": "some of its nodes are away: start them, or let it fail over",
    "ConnectionError": _REACH,
    "TimeoutError": f"{_REACH}, or raise timeout= in the URL",
    "OSError": _REACH,
    "RedisClusterException": _REACH,
}
"""What to do, by the name of the nearest class of an error."""


class RedisServer:
    """Where commands go; connects when it is first asked, and again after a connection was lost.

    Threads may share it, and a forked process makes connections of its own. What fails is a
    StorageError; only ``read`` tries again, and while nobody answers not even that: whoever waits for
    answers in a row, as a server does, waits for the pauses once.
    """

    def __init__(self, url: str) -> None:
        self._address = RedisAddress.parse(url)
        self.shown = self._address.shown
        self.clustered = self._address.kind == "cluster"
        # Here, since it takes as long as half of what a home on LMDB imports.
        self._redis: Any = import_module("redis")
        self._errors = (self._redis.RedisError, self._redis.RedisClusterException, OSError)
        self._lock = threading.Lock()
        self._there = True
        self._clients: dict[bool, Any] | None = {}
        self._tracking: Tracking | None = None

    def __repr__(self) -> str:
        return f"RedisServer({self.shown!r})"

    def read(self, doing: str, commands: Sequence[Command], *, newest: bool = False) -> list[Any]:
        """The replies to commands that change nothing; from replicas where the URL allows it, unless ``newest``."""
        replicas = self._address.read_replicas and not newest

        def attempt() -> list[Any]:
            with self._conversation(replicas=replicas) as talk:
                return talk(commands)

        return self._tried(doing, attempt)

    def read_followed(self, doing: str, commands: Sequence[Command]) -> tuple[list[Any], bool]:
        """The replies to commands that change nothing, and whether the cache will be told of changes (``follow``)."""
        tracking = self._tracking
        assert tracking is not None  # `follow` was called

        def attempt() -> tuple[list[Any], bool]:
            with self._connection(replicas=False) as connection:
                followed = tracking.follow(connection)
                return self._ask(connection, commands), followed

        return self._tried(doing, attempt)

    def follow(self, cache: RowCache) -> None:
        """Tell a cache of changes in what ``read_followed`` reads, from now on; raises SettingsError for a cluster."""
        if self.clustered:
            raise SettingsError(
                f"online store {self.shown}: rows of a cluster are not cached yet: set online_cache_mb to 0"
            )
        pool = self._client(replicas=False).connection_pool
        self._tracking = Tracking(pool.make_connection, self._errors, cache)

    @contextmanager
    def talk(self, doing: str) -> Iterator[Talk]:
        """One conversation with the primary.

        On a single server it keeps to one connection: a server that was started anew in the middle, and
        may have lost what was written before, is an error.
        """
        try:
            with self._conversation(replicas=False) as talk:
                yield talk
        except self._errors as error:
            raise self._error(doing, error) from error

    def close(self) -> None:
        """Close every connection."""
        if self._tracking is not None:
            self._tracking.close()
        with self._lock:
            clients, self._clients = self._clients or {}, None
        for client in clients.values():
            client.close()

    @contextmanager
    def _conversation(self, *, replicas: bool) -> Iterator[Talk]:
        if self.clustered:
            yield partial(self._ask_cluster, self._client(replicas=replicas))
            return
        with self._connection(replicas=replicas) as connection:
            yield partial(self._ask, connection)

    @contextmanager
    def _connection(self, *, replicas: bool) -> Iterator[Any]:
        pool = self._client(replicas=replicas).connection_pool
        connection = pool.get_connection()
        try:
            yield connection
        except BaseException:
            connection.disconnect()  # there may be replies that nobody read
            raise
        finally:
            pool.release(connection)

    def _tried(self, doing: str, attempt: Callable[[], Found]) -> Found:
        """What an attempt returns, made again where it failed for something that passes."""
        for pause in _PAUSES if self._there else _PAUSES[-1:]:
            try:
                found = attempt()
            except self._errors as error:
                passing = self._passing(error)
                if pause is None or not passing:
                    self._there = not passing
                    raise self._error(doing, error) from error
                time.sleep(pause)
            else:
                self._there = True
                return found
        raise AssertionError("the last attempt returns or raises")

    def _client(self, *, replicas: bool) -> Any:
        with self._lock:
            if self._clients is None:
                raise StorageError(f"the online store {self.shown} is closed: open it again")
            if replicas not in self._clients:
                self._clients[replicas] = self._connect(replicas=replicas)
            return self._clients[replicas]

    def _error(self, doing: str, error: Exception) -> StorageError:
        known = [_REMEDIES[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _REMEDIES]
        remedy = known[0] if known else "look into the server's log"
        return StorageError(f"online store {self.shown}: {doing} failed ({error}): {remedy}")

    def _passing(self, error: Exception) -> bool:
        """Whether it may go better in a moment."""
        refused = isinstance(error, (self._redis.AuthenticationError, self._redis.exceptions.AuthorizationError))
        return isinstance(error, (self._redis.ConnectionError, self._redis.TimeoutError, OSError)) and not refused

    def _connect(self, *, replicas: bool) -> Any:
        """A client; of a cluster or of sentinels, it knows the primaries from then on."""
        address, redis = self._address, self._redis
        options = address.options | {"protocol": 2, "redis_connect_func": begun}
        once = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        if address.kind == "cluster":
            nodes = [redis.cluster.ClusterNode(host, port) for host, port in address.hosts]
            spread = redis.cluster.LoadBalancingStrategy.ROUND_ROBIN if replicas else None
            return redis.RedisCluster(startup_nodes=nodes, load_balancing_strategy=spread, **options)
        if address.kind == "sentinel":
            sentinel = redis.Sentinel(address.hosts, sentinel_kwargs=address.sentinel_options | {"retry": once})
            find = sentinel.slave_for if replicas else sentinel.master_for
            return find(address.service, redis_class=redis.Redis, retry=once, **options)
        for host, port in address.hosts:
            options |= {"host": host, "port": port}
        return redis.Redis(retry=once, **options)

    def _ask(self, connection: Any, commands: Sequence[Command]) -> list[Any]:
        # In one piece: each would be a system call of its own.
        connection.send_packed_command([b"".join(map(_packed, commands))])
        return _sound([self._reply(connection) for _ in commands])

    def _reply(self, connection: Any) -> Any:
        try:
            return connection.read_response()
        except self._redis.ResponseError as error:  # the replies after it still have to be read
            return error

    def _ask_cluster(self, cluster: Any, commands: Sequence[Command]) -> list[Any]:
        with cluster.pipeline() as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return _sound(pipeline.execute(raise_on_error=False))


def _packed(command: Command) -> bytes:
    """A command as it is sent; redis-py's own packing takes most of the time of a large sync."""
    parts = [part if type(part) is bytes else str(part).encode() for part in command]
    return b"".join([b"*%d\r\n" % len(parts), *[b"$%d\r\n%b\r\n" % (len(part), part) for part in parts]])


def _sound(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies
