"""What a benchmark returns, and its stopwatch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """One figure in a base unit, with what it is compared to.

    ``ratio`` is value/baseline for times; where more is better, benchmarks give baseline/value.
    None stands for what was not measured. ``peak_mb`` is the peak memory of the work alone, where the
    benchmark knows it; else the runner gives that of the benchmark's process and its children.
    """

    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    peak_mb: float | None = None


def seconds(run: Callable[[], object]) -> float:
    """How long something takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
