"""Reads of requests that come at the same time, as one: a store on the network takes as long for many as for one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
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

    To be used on one event loop.
    """

    def __init__(self, online: OnlineStore) -> None:
        self._online = online
        self._thread = ThreadPoolExecutor(1, "online-reads")
        self._waiting: list[_Waiting] = []
        self._busy = False

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
        work = self._thread.submit(_read_together, self._online, [asked.reads for asked in taken])
        work.add_done_callback(lambda done: loop.call_soon_threadsafe(self._deliver, loop, taken, done))

    def _deliver(self, loop: asyncio.AbstractEventLoop, taken: Sequence[_Waiting], done: Future[list[Found]]) -> None:
        for asked, found in zip(taken, done.result(), strict=True):
            if not asked.found.done():
                asked.found.set_result(found)
        if self._waiting:
            self._start(loop)
        else:
            self._busy = False


def _read_together(online: OnlineStore, requests: Sequence[Sequence[OnlineRead]]) -> list[Found]:
    """What each request finds; equal features of a table are read once for all of them."""
    keys: dict[tuple[str, tuple[str, ...]], list[Key]] = {}
    places = []
    for reads in requests:
        for read in reads:
            together = keys.setdefault((read.table_id, read.features), [])
            places.append((read.table_id, read.features, len(together), len(together) + len(read.keys)))
            together += read.keys
    found = {what: OnlineRead(what[0], asked, what[1]).of(online) for what, asked in keys.items()}
    parts = iter([_part(found[table, features], start, end) for table, features, start, end in places])
    return [[next(parts) for _ in reads] for reads in requests]


def _part(found: OnlineColumns | StorageError, start: int, end: int) -> OnlineColumns | StorageError:
    if isinstance(found, StorageError):
        return found
    values = {name: column[start:end] for name, column in found.values.items()}
    return OnlineColumns(found.event_timestamps[start:end], values)
