"""How often something may happen: token buckets."""

from __future__ import annotations

import time
from collections.abc import Callable


class Bucket:
    """So many times a second, and as many at once after a second without any.

    >>> now = 0.0
    >>> bucket = Bucket(2, clock=lambda: now)
    >>> [bucket.take() for _ in range(3)]
    [True, True, False]
    >>> now = 0.5
    >>> [bucket.take() for _ in range(2)]
    [True, False]
    """

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._left = float(rate)
        self._at = clock()

    def take(self) -> bool:
        """Whether it may happen now; then it counts."""
        now = self._clock()
        self._left = min(self._rate, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
