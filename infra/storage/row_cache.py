"""Rows of a store on the network that this process remembers, as long as it is told when they change."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final

_OVERHEAD = 200
"""About how many bytes an entry takes beside its key and row."""
_SHARE, _SAMPLE = 4, 200_000
"""Of so many reads the keys of one are noted, and so many keys at most."""


class Unknown:
    """That a row is not remembered; None says that there is none."""


UNKNOWN: Final = Unknown()

Remembered = bytes | None | Unknown


@dataclass
class CacheStats:
    """What a cache has done, in rows: found, not found, thrown out for room, forgotten since they changed."""

    hits: int = 0
    misses: int = 0
    evicted: int = 0
    changed: int = 0


class RowCache:
    """The rows that were used last, by key: at most ``size`` bytes of them, none older than ``seconds``.

    Whoever fills it tells it of changes: while it is ``trusted``, every change of a remembered row is followed by
    ``forget``. A row that is on its way here when it changes is not remembered: ``expect`` says that it is.
    Rows that were not found are remembered, too. Threads may share it.
    """

    def __init__(self, size: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.stats = CacheStats()
        self.trusted = False
        self.bytes = 0
        self._size = size
        self._seconds = seconds
        self._clock = clock
        self._lock = Lock()
        self._rows: OrderedDict[bytes, tuple[bytes | None, float]] = OrderedDict()
        self._coming: dict[bytes, object] = {}
        self._asked: deque[bytes] = deque(maxlen=_SAMPLE)
        self._turn = 0

    def __len__(self) -> int:
        return len(self._rows)

    def trust(self) -> None:
        """From now on changes are told of; what was remembered before may have changed unnoticed."""
        with self._lock:
            self._clear()
            self.trusted = True

    def distrust(self) -> None:
        """Changes are no longer told of: what is remembered is kept for those whom that is enough."""
        with self._lock:
            self.trusted = False
            self._coming.clear()

    def forget(self, keys: Iterable[bytes] | None) -> None:
        """These rows changed; None: any row may have."""
        with self._lock:
            if keys is None:
                self._clear()
                return
            for key in keys:
                self._coming.pop(key, None)
                if self._drop(key):
                    self.stats.changed += 1

    def find(self, keys: Sequence[bytes]) -> list[Remembered]:
        """The rows of some keys, or UNKNOWN; counted as hits and misses."""
        with self._lock:
            found = self._find(keys, stale=False)
            self._note(keys)
            missed = found.count(UNKNOWN)
            self.stats.misses += missed
            self.stats.hits += len(found) - missed
            return found

    def find_all(self, keys: Sequence[bytes], *, stale: bool = False) -> list[bytes | None] | None:
        """The rows of all of these keys, counted as hits; None, and nothing is counted, where one is unknown.

        ``stale`` ones will do where rows cannot be asked for: they are not too old, but may have changed.
        """
        with self._lock:
            found = self._find(keys, stale=stale)
            known = [row for row in found if not isinstance(row, Unknown)]
            if len(known) < len(found):
                return None
            self._note(keys)
            self.stats.hits += len(found)
            return known

    def expect(self, keys: Sequence[bytes]) -> object:
        """Say that rows are about to be read; what is returned is handed to ``put``."""
        ticket = object()
        with self._lock:
            if self.trusted:
                self._coming |= dict.fromkeys(keys, ticket)
        return ticket

    def put(self, ticket: object, keys: Sequence[bytes], rows: Sequence[bytes | None]) -> None:
        """Remember rows that were read, those of them that have not changed since they were expected."""
        now = self._clock()
        with self._lock:
            for key, row in zip(keys, rows, strict=True):
                if self._coming.get(key) is ticket:
                    del self._coming[key]
                    self._drop(key)
                    self._rows[key] = row, now
                    self.bytes += _weight(key, row)
            while self.bytes > self._size:
                self._drop(next(iter(self._rows)))
                self.stats.evicted += 1

    def forgo(self, ticket: object, keys: Sequence[bytes]) -> None:
        """Say that rows that were expected do not come."""
        with self._lock:
            for key in keys:
                if self._coming.get(key) is ticket:
                    del self._coming[key]

    def hot(self, most: int) -> list[bytes]:
        """The keys that were asked for most, of a share of what was asked; whether they are remembered or not."""
        with self._lock:
            asked = Counter(self._asked)
        return [key for key, _ in asked.most_common(most)]

    def _note(self, keys: Sequence[bytes]) -> None:
        self._turn += 1
        if self._turn % _SHARE == 0:
            self._asked.extend(keys)

    def _find(self, keys: Sequence[bytes], *, stale: bool) -> list[Remembered]:
        if not self.trusted and not stale:
            return [UNKNOWN] * len(keys)
        rows, oldest, found = self._rows, self._clock() - self._seconds, list[Remembered]()
        for key in keys:
            entry = rows.get(key)
            if entry is None or entry[1] < oldest:
                found.append(UNKNOWN)
            else:
                rows.move_to_end(key)
                found.append(entry[0])
        return found

    def _drop(self, key: bytes) -> bool:
        entry = self._rows.pop(key, None)
        if entry is None:
            return False
        self.bytes -= _weight(key, entry[0])
        return True

    def _clear(self) -> None:
        self._rows.clear()
        self._coming.clear()
        self.bytes = 0


def _weight(key: bytes, row: bytes | None) -> int:
    return _OVERHEAD + len(key) + len(row or b"")
