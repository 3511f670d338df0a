"""A benchmark of known size, for the runner's own test."""

from __future__ import annotations

from benchmarks.measurement import Measurement


def hundred_megabytes() -> Measurement:
    """Hold 100 MB for a moment."""
    held = b"x" * 100_000_000
    return Measurement(len(held), "bytes", baseline=2.0 * len(held), ratio=0.5)


def broken() -> Measurement:
    """Fail."""
    raise RuntimeError("broken on purpose")
