"""What wafer-test data must look like: suites for wafers, parts and test results.

Required is what every tester delivers and every table needs. Lot, wafer, part id, bins, coordinates and
readings may be missing: a final test has no wafer, an invalid result no value. Ranges of named tests hold
for tests of exactly that name.

A wafer with more than a tenth of its parts out of range is rejected whole: its parts, its results and its own
row; what its file says of other wafers lands. A final test names no wafer, and loses only its bad rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from expectations.groups import GroupInRange
from expectations.result import Severity
from expectations.rules import Between, Expression, InSet, suite_for
from features.definitions import wafer_sources as sources

_READING = "reading"

# How many of a unit make one of the unit of the range: V, mA, MHz, °C. Testers write units in either case.
_UNITS: Mapping[str, Mapping[str, float]] = {
    "vdd": {"v": 1.0, "mv": 1e3, "uv": 1e6},
    "idd": {"ma": 1.0, "a": 1e-3, "ua": 1e3, "na": 1e6},
    "frequency": {"mhz": 1.0, "ghz": 1e-3, "khz": 1e3, "hz": 1e6},
    "temperature": {"c": 1.0, "degc": 1.0, "deg c": 1.0, "°c": 1.0},
}
_RANGES = {"vdd": (1.0, 1.4), "idd": (0, 200), "frequency": (1000, 3000), "temperature": (-40, 125)}
_UNIT = pl.col("unit").str.to_lowercase()


def _reading() -> pl.Expr:
    """The result in the unit of its range; a missing unit is taken to be that one, an unknown one gives null."""
    divisors = {unit: per for units in _UNITS.values() for unit, per in units.items()}
    divisor = _UNIT.replace_strict(divisors, default=None, return_dtype=pl.Float64)
    return pl.col("result") / pl.when(pl.col("unit").is_null()).then(1.0).otherwise(divisor)


def _unit_fits() -> pl.Expr:
    """Whether a named test's result comes in a unit of its quantity, or in none; true for other tests."""
    fits = [pl.col("test_name").ne_missing(test) | _UNIT.is_in(list(units)) for test, units in _UNITS.items()]
    return pl.col("unit").is_null() | pl.all_horizontal(fits)


_WAFER_IN_RANGE = GroupInRange(name="wafer_in_range", group=["lot_id", "wafer_id"], unit="part_index", share=0.1)

wafers = suite_for(
    sources.wafers,
    required=["finish_time", "wafer_index"],
    rows=[
        Between(name="part_count_range", column="part_count", low=0),
        Expression(
            name="good_count_within_parts",
            ok=pl.col("good_count") <= pl.col("part_count"),
            why="'good_count' is above 'part_count'",
        ),
        _WAFER_IN_RANGE,
    ],
)

parts = suite_for(
    sources.parts,
    required=["part_index", "head", "site", "tested_at"],
    rows=[
        Between(name="test_time_range", column="test_time_ms", low=10, high=500),
        # STDF V4: bins are 0 to 32767, and 65535 says that there is none (null here).
        Between(name="hard_bin_range", column="hard_bin", low=0, high=32767),
        Between(name="soft_bin_range", column="soft_bin", low=0, high=32767),
        _WAFER_IN_RANGE,
    ],
)

test_results = suite_for(
    sources.test_results,
    required=["head", "site", "test_index", "test_num", "kind", "tested_at"],
    derived={_READING: _reading()},
    rows=[
        InSet(name="kind_known", column="kind", values=["PTR", "MPR", "FTR"]),
        Expression(name="result_finite", ok=pl.col("result").is_finite(), why="'result' is NaN or infinite"),
        Expression(
            name="unit_fits",
            ok=_unit_fits(),
            why="'unit' is no unit of vdd, idd, frequency or temperature",
            tolerance=None,
        ),
        *(
            Between(name=f"{test}_range", column=_READING, low=low, high=high, where={"test_name": test})
            for test, (low, high) in _RANGES.items()
        ),
        _WAFER_IN_RANGE,
    ],
    # Functional-only and sampled datalogs are normal.
    empty=Severity.LOW,
)
