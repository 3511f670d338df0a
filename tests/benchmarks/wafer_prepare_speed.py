"""How long the wafer groups take over 60,000 dies of 200 wafers, and over one wafer of 10,000 dies.

Run it from the project's root: ``PYTHONPATH=.:tests python tests/benchmarks/wafer_prepare_speed.py``.
"""

from __future__ import annotations

import sys
import time

from features.definitions import REGISTRY
from features.feature_group import FeatureGroup
from wafer_frames import random_wafers

FABS = {
    "200 wafers, 60,000 attempts, 5.0 x 5.0 mm": {"wafers": 200, "side": 17, "die_mm": (5.0, 5.0), "wafer_mm": 150.0},
    "200 wafers, 60,000 attempts, 2.0 x 1.5 mm": {"wafers": 200, "side": 17, "die_mm": (2.0, 1.5), "wafer_mm": 50.0},
    "1 wafer, 10,400 attempts, 2.6 x 2.7 mm": {"wafers": 1, "side": 100, "die_mm": (2.6, 2.7), "wafer_mm": 300.0},
}


def seconds(group: FeatureGroup, frames: dict, runs: int = 3) -> float:
    """The best of some runs of the group's prepare and expressions."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        prepared = group.prepare(**{name: frames[name] for name in group.inputs})
        values = [f.expr.alias(f.name) for f in group.features]
        rows = prepared.select(*values) if group.grain == "event" else prepared.group_by(group.keys).agg(values)
        rows.collect()
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    """Print a line per fab and group."""
    for name, fab in FABS.items():
        parts, results = random_wafers(0, retests=0.04, **fab)
        frames = {"parts": parts.lazy(), "results": results.lazy()}
        for group in REGISTRY.groups.values():
            if set(group.inputs) <= set(frames):
                sys.stdout.write(
                    f"{name}, {results.height:,} results: {group.name:22} {seconds(group, frames):.3f} s\n"
                )


if __name__ == "__main__":
    main()
