"""What wafer-test data must look like: suites for wafers, parts and test results.

Required is what every tester delivers and every table needs. Lot, wafer, part id, bins, coordinates and
readings may be missing: a final test has no wafer, an invalid result no value. Ranges of named tests hold
for tests of exactly that name.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from expectations.result import Severity
from expectations.rules import Between, Expression, InSet, suite_for
from features.definitions import wafer_sources as sources

_READING = "reading"

# One of a quantity's unit, in the unit its range is given in (V, mA, MHz, °C).
_PER_UNIT: Mapping[str, Mapping[str, float]] = {
    "vdd": {"V": 1, "mV": 1e3, "uV": 1e6},
    "idd": {"mA": 1, "A": 1e-3, "uA": 1e3, "nA": 1e6},
    "frequency": {"MHz": 1, "GHz": 1e-3, "kHz": 1e3, "KHz": 1e3, "Hz": 1e6},
    "temperature": {"C": 1, "degC": 1, "°C": 1, "Deg C": 1},
}
_RANGES = {"vdd": (1.0, 1.4), "idd": (0, 200), "frequency": (1000, 3000), "temperature": (-40, 125)}
"""V, mA, MHz, °C."""


def _reading() -> pl.Expr:
    """The result in its range's unit; a missing unit is taken to be that one, an unknown one gives null."""
    divisors = {unit: float(per) for units in _PER_UNIT.values() for unit, per in units.items()}
    per_unit = pl.col("unit").replace_strict(divisors, default=None, return_dtype=pl.Float64)
    return pl.col("result") / pl.when(pl.col("unit").is_null()).then(1.0).otherwise(per_unit)


def _unit_known() -> pl.Expr:
    """Whether a named test's result comes in a unit of its quantity; true for other tests."""
    named = [pl.col("test_name").ne_missing(name) | pl.col("unit").is_in(list(u)) for name, u in _PER_UNIT.items()]
    return pl.col("unit").is_null() | pl.all_horizontal(named)


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
    ],
)

test_results = suite_for(
    sources.test_results,
    required=["head", "site", "test_index", "test_num", "kind", "tested_at"],
    derived={_READING: _reading()},
    rows=[
        InSet(name="kind_known", column="kind", values=["PTR", "MPR", "FTR"]),
        Expression(name="result_finite", ok=pl.col("result").is_finite(), why="'result' is NaN or infinite"),
        Expression(name="unit_known", ok=_unit_known(), why="a named test's 'unit' is not one of its quantity"),
        *(
            Between(name=f"{test}_range", column=_READING, low=low, high=high, where={"test_name": test})
            for test, (low, high) in _RANGES.items()
        ),
    ],
    # Functional-only and sampled datalogs are normal.
    empty=Severity.LOW,
)
