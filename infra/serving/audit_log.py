"""The audit log: who asked for what, without a value or an entity key, a file for each day."""

from __future__ import annotations

import fcntl
import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from threading import Lock

import msgspec

from features.times import Clock, utc_now
from infra.serving.rates import Bucket

_LOG = logging.getLogger("featurefab.serving")
_MOST = 20_000
"""So many lines wait for the disk at most."""
_REFUSALS = 100
"""So many refusals a second are written: anybody can be refused, and the disk is finite."""


class Line(msgspec.Struct, frozen=True):
    """A request: the key's name (null where there was none that is known), and how much was asked for."""

    at: datetime
    key: str | None
    path: str
    status: int
    groups: Sequence[str]
    features: int
    entities: int


class _LeftOut(msgspec.Struct, frozen=True):
    """How many requests should have been written since the last such line, and were not."""

    at: datetime
    left_out: int


class AuditLog:
    """Lines for ``audit-<UTC date>.ndjson`` of a folder; ``add`` keeps them, ``flush`` writes them in one piece.

    The two may be called by different threads, and several processes may write at once. Lines that the disk does not
    take are counted and given up: nobody's request fails for them.
    """

    def __init__(self, folder: Path, clock: Clock = utc_now) -> None:
        self._folder = folder
        self._clock = clock
        self._lock = Lock()
        self._waiting: list[Line] = []
        self._refusals = Bucket(_REFUSALS)
        self._left_out = 0
        self._failing = False

    def add(self, line: Line, *, refused: bool) -> None:
        """Keep a line for the next flush."""
        with self._lock:
            if len(self._waiting) >= _MOST or (refused and not self._refusals.take()):
                self._left_out += 1
            else:
                self._waiting.append(line)

    def flush(self) -> None:
        """Write what waits; waits for the disk."""
        with self._lock:
            lines, self._waiting = self._waiting, []
            left_out, self._left_out = self._left_out, 0
        days: defaultdict[date, list[Line | _LeftOut]] = defaultdict(list)
        for line in lines:
            days[line.at.date()].append(line)
        if left_out:
            now = self._clock()
            days[now.date()].append(_LeftOut(now, left_out))
        for day, written in days.items():
            try:
                self._append(self._folder / f"audit-{day}.ndjson", msgspec.json.Encoder().encode_lines(written))
                self._failing = False
            except OSError as error:
                with self._lock:
                    self._left_out += sum(line.left_out if isinstance(line, _LeftOut) else 1 for line in written)
                if not self._failing:  # once, not every second
                    _LOG.error("the audit log in %s cannot be written: %s", self._folder, error.strerror)
                self._failing = True

    @staticmethod
    def _append(path: Path, lines: bytes) -> None:
        """Append all lines or none."""
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # closing gives it back
            end = os.lseek(descriptor, 0, os.SEEK_END)
            try:
                left = memoryview(lines)
                while left:
                    left = left[os.write(descriptor, left) :]
            except OSError:
                os.ftruncate(descriptor, end)  # where the disk is full: no half line, to which another would be added
                raise
        finally:
            os.close(descriptor)
