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
_AGAIN = 0.8
"""The share of the room for rows that were asked for again."""
_SHARE, _SAMPLE = 4, 200_000
"""Of so many reads the keys of one are noted, and so many keys at most."""


class Unknown:
    """That a row is not remembered; None says that there is none."""


UNKNOWN: Final = Unknown()

Remembered = bytes | None | Unknown
_Entry = tuple[bytes | None, float]


@dataclass
class CacheStats:
    """What a cache has done, in rows: found, not found, thrown out for room, forgotten since they changed."""

    hits: int = 0
    misses: int = 0
    evicted: int = 0
    changed: int = 0


class _Rows:
    """Rows by key with the moment when they came, at most ``size`` bytes of them.

    Those that were asked for again are kept apart from the others, up to a share of the room, so that a passing
    crowd does not drive them out (a segmented LRU: Karedla, Love and Wherry, Computer 27(3), 1994).
    """

    def __init__(self, size: int) -> None:
        self.weight = 0
        self._size = size
        self._once: OrderedDict[bytes, _Entry] = OrderedDict()
        self._again: OrderedDict[bytes, _Entry] = OrderedDict()
        self._again_bytes = 0

    def __len__(self) -> int:
        return len(self._once) + len(self._again)

    def use(self, key: bytes, oldest: float) -> Remembered:
        """A row, if there is one that came at ``oldest`` or later."""
        entry = self._again.get(key)
        if entry is not None and entry[1] >= oldest:
            self._again.move_to_end(key)
            return entry[0]
        entry = self._once.get(key)
        if entry is None or entry[1] < oldest:
            return UNKNOWN
        self._again[key] = self._once.pop(key)
        self._again_bytes += _weight(key, entry[0])
        while self._again_bytes > _AGAIN * self._size:
            least, its = self._again.popitem(last=False)
            self._again_bytes -= _weight(least, its[0])
            self._once[least] = its
        return entry[0]

    def put(self, key: bytes, row: bytes | None, now: float) -> int:
        """Add a row in place of what was there; returns how many others had to go."""
        self.pop(key)
        self._once[key] = row, now
        self.weight += _weight(key, row)
        gone = 0
        while self.weight > self._size:
            self.pop(next(iter(self._once or self._again)))
            gone += 1
        return gone

    def pop(self, key: bytes) -> bool:
        """Take a row away, if there is one."""
        entry = self._once.pop(key, None)
        if entry is None:
            entry = self._again.pop(key, None)
            if entry is None:
                return False
            self._again_bytes -= _weight(key, entry[0])
        self.weight -= _weight(key, entry[0])
        return True


class RowCache:
    """The rows that are asked for most, by key: at most ``size`` bytes of them, none older than ``seconds``.

    Whoever fills it tells it of changes: while it is ``trusted``, every change of a remembered row is followed by
    ``forget``. A row that is on its way here when it changes is not remembered: ``expect`` says that it is.
    Rows that were not found are remembered, too. Threads may share it.
    """

    def __init__(self, size: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.stats = CacheStats()
        self.trusted = False
        self._size = size
        self._seconds = seconds
        self._clock = clock
        self._lock = Lock()
        self._rows = _Rows(size)
        self._coming: dict[bytes, object] = {}
        self._asked: deque[bytes] = deque(maxlen=_SAMPLE)
        self._turn = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def weight(self) -> int:
        """About how many bytes they take."""
        return self._rows.weight

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
                if self._rows.pop(key):
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
                    self.stats.evicted += self._rows.put(key, row, now)

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
        oldest = self._clock() - self._seconds
        return [self._rows.use(key, oldest) for key in keys]

    def _clear(self) -> None:
        self._rows = _Rows(self._size)
        self._coming.clear()


def _weight(key: bytes, row: bytes | None) -> int:
    return _OVERHEAD + len(key) + len(row or b"")
