"""Fifty rules on one record of 22 columns: compiled to Python, against the batch engine on a frame of that row."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from statistics import median, quantiles
from typing import Any

import polars as pl

from benchmarks.measurement import Measurement
from expectations.gate import validate
from expectations.rows import compile_rules
from expectations.rules import Between, ColumnPresent, Expression, HasType, InSet, NotNull, Suite
from features.times import UTC_US

CALLS, BATCHES = 30_000, 20
FLOATS, WHOLES, TEXTS = 14, 4, 3
"""Columns of each kind; the last is a moment."""

COLUMNS: dict[str, pl.DataType] = {
    **{f"f{n}": pl.Float64() for n in range(FLOATS)},
    **{f"i{n}": pl.Int64() for n in range(WHOLES)},
    **{f"s{n}": pl.String() for n in range(TEXTS)},
    "at": UTC_US,
}


def suite() -> Suite:
    """Fifty rules on rows, beside those on the columns and their types."""
    rows = [
        *(NotNull(name=f"{column}_not_null", column=column) for column in COLUMNS),
        *(Between(name=f"f{n}_range", column=f"f{n}", low=0, high=100) for n in range(FLOATS)),
        *(Between(name=f"i{n}_range", column=f"i{n}", low=0, high=100) for n in range(WHOLES)),
        *(InSet(name=f"s{n}_known", column=f"s{n}", values=["a", "b", "c"]) for n in range(TEXTS)),
        *(Between(name=f"f{n}_if", column=f"f{n}", high=50, where={"s0": "a"}) for n in range(3)),
        *(
            Expression(name=f"f{n}_near", ok=pl.col(f"f{n}") <= pl.col(f"f{n + 1}") * 2 + 10, why="too far off")
            for n in range(4)
        ),
    ]
    assert len(rows) == 50
    schema = [rule for column, dtype in COLUMNS.items() for rule in (ColumnPresent(column), HasType(column, dtype))]
    return Suite("records", schema=schema, rows=rows)


def record(number: int) -> dict[str, Any]:
    """A record that keeps the rules, another one for each number."""
    return {
        **{f"f{n}": (number + n) % 40 + 0.5 for n in range(FLOATS)},
        **{f"i{n}": (number + n) % 100 for n in range(WHOLES)},
        **{f"s{n}": "abc"[(number + n) % 3] for n in range(TEXTS)},
        "at": datetime(2026, 3, 1, number % 24, tzinfo=UTC),
    }


def row_check() -> Measurement:
    """The median."""
    return _measured(median)


def row_check_p99() -> Measurement:
    """The time that one call in a hundred exceeds."""
    return _measured(lambda times: quantiles(times, n=100)[-1])


def _measured(middle: Callable[[list[float]], float]) -> Measurement:
    rules = suite()
    check = compile_rules(rules)
    assert not check.uncompiled
    records = [record(number) for number in range(CALLS)]
    frames = [pl.DataFrame([each], schema=COLUMNS).with_columns(_file_sha256=pl.lit("f")) for each in records[:BATCHES]]
    assert [check(each) for each in records[:BATCHES]] == [_by_the_gate(rules, frame) for frame in frames]
    value = middle(_times(check, records))
    baseline = middle(_times(lambda frame: validate(rules, frame), frames))
    return Measurement(value, "s", baseline, value / baseline)


def _by_the_gate(rules: Suite, frame: pl.DataFrame) -> list[str]:
    return [finding.rule for finding in validate(rules, frame).files["f"].findings]


def _times(call: Callable[[Any], object], arguments: list[Any]) -> list[float]:
    found = []
    for argument in arguments:
        began = time.perf_counter()
        call(argument)
        found.append(time.perf_counter() - began)
    return found
