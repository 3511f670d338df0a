"""Reads of requests that come at the same time, as one: a store on the network takes as long for many as for one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from features.errors import StorageError
from features.online import OnlineRead
from features.stores import Key, OnlineColumns, OnlineStore

Found = list[OnlineColumns | StorageError]


class _Waiting(NamedTuple):
    reads: Sequence[OnlineRead]
    found: asyncio.Future[Found]


class GatheringReader:
    """Reads from a store in a thread: what is asked for meanwhile is read together afterwards.

    A store that failed is left in peace for ``pause`` seconds: what is asked then is answered from memory, or with the
    same failure, at once. With ``most`` requests waiting no other one is taken. ``failed`` is told of each
    failure. To be used on one event loop.
    """

    def __init__(
        self,
        online: OnlineStore,
        most: int = 1_000,
        pause: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self._failed = failed
        self._failures = 0
        self._online = online
        self._most = most
        self._pause = pause
        self._clock = clock
        self._error: StorageError | None = None
        self._resting = 0.0
        self._thread = ThreadPoolExecutor(1, "online-reads")
        self._waiting: list[_Waiting] = []
        self._busy = False

    @property
    def full(self) -> bool:
        """Whether as many requests wait as may."""
        return len(self._waiting) >= self._most

    def read(self, reads: Sequence[OnlineRead]) -> asyncio.Future[Found]:
        """What is found for each read, or why the store cannot say."""
        loop = asyncio.get_running_loop()
        asked = _Waiting(reads, loop.create_future())
        self._waiting.append(asked)
        if not self._busy:
            self._busy = True
            loop.call_soon(self._start, loop)  # after the other requests of this turn
        return asked.found

    def close(self) -> None:
        """End the thread, after what it is at."""
        self._thread.shutdown()

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        taken, self._waiting = self._waiting, []
        work = self._thread.submit(self._read_together, [asked.reads for asked in taken])
        work.add_done_callback(lambda done: loop.call_soon_threadsafe(self._deliver, loop, taken, done))

    def _deliver(self, loop: asyncio.AbstractEventLoop, taken: Sequence[_Waiting], done: Future[list[Found]]) -> None:
        error = done.exception()
        for _ in range(self._failures):
            self._failed()
        self._failures = 0
        for number, asked in enumerate(taken):
            if asked.found.done():  # whoever asked is gone
                continue
            if error is None:
                asked.found.set_result(done.result()[number])
            else:
                asked.found.set_exception(error)
        if self._waiting:
            self._start(loop)
        else:
            self._busy = False

    def _read_together(self, requests: Sequence[Sequence[OnlineRead]]) -> list[Found]:
        """What each request finds; equal features of a table are read once for all of them."""
        keys: dict[tuple[str, tuple[str, ...]], list[Key]] = {}
        starts = []
        for reads in requests:
            for read in reads:
                together = keys.setdefault((read.table_id, read.features), [])
                starts.append(len(together))
                together += read.keys
        found = {what: self._ask(OnlineRead(what[0], asked, what[1])) for what, asked in keys.items()}
        at = iter(starts)
        return [[self._part(found[r.table_id, r.features], r, next(at)) for r in reads] for reads in requests]

    def _ask(self, read: OnlineRead) -> OnlineColumns | StorageError:
        if self._error is not None and self._clock() < self._resting:
            return self._error
        try:
            found = self._online.read_columns(*read)
        except StorageError as error:
            self._failures += 1
            self._error, self._resting = error, self._clock() + self._pause
            return error
        self._error = None
        return found

    def _part(self, found: OnlineColumns | StorageError, read: OnlineRead, start: int) -> OnlineColumns | StorageError:
        """What is one request's, from ``start`` on; without a store, what is remembered of that."""
        if isinstance(found, StorageError):
            return read.without(self._online, found)
        end = start + len(read.keys)
        values = {name: column[start:end] for name, column in found.values.items()}
        return OnlineColumns(found.event_timestamps[start:end], values, found.cached)
