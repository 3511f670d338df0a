"""What a benchmark returns, and the helper that most of them need."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """One figure in a base unit, with what it is compared to.

    ``ratio`` is value/baseline for times; where more is better, benchmarks give baseline/value.
    None stands for what was not measured.
    """

    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None


def best_seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """The shortest of several runs: what disturbs a run only ever makes it longer."""

    def once() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return min(once() for _ in range(rounds))
