"""What a benchmark returns."""

from __future__ import annotations

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
