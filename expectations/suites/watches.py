"""What is measured of each source day by day, by the name of the source."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from expectations.days import Watch
from features.definitions import wafer_sources as sources
from features.source import Source

_COHORTS = ["tester_id", "product"]
# Null where there is a name: most tests have one, and writing out a million numbers takes its time.
_NAMELESS = pl.when(pl.col("test_name").is_null()).then("test_num")

WATCHES: Mapping[str, Watch] = {
    sources.wafers.name: Watch(
        ["part_count", "good_count", "die_width_mm", "die_height_mm", "wafer_size_mm", "tester_type"],
        cohorts=_COHORTS,
    ),
    sources.parts.name: Watch(
        ["passed", "retest", "test_time_ms", "test_count", "x", "y", "wafer_id"],
        cohorts=_COHORTS,
    ),
    # The test's name is what people know it by; where the file has none, its number must do.
    sources.test_results.name: Watch(
        ["result", "passed"],
        quantity=pl.coalesce("test_name", pl.format("test {}", _NAMELESS)),
        cohorts=_COHORTS,
    ),
}
"""The watches written for a source."""


def watch_for(source: Source) -> Watch:
    """The watch written for the source, else the one its definition implies."""
    return WATCHES.get(source.name) or Watch.of(source)
