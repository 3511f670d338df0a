"""Defects planted in clean files: each is found with its severity, nothing else is, and clean files raise nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from expectations.gate import Table, validate_together
from expectations.suites import SUITES
from features.definitions import REGISTRY
from features.source import FILE_SHA256
from infra.ingest import IngestResult, open_ingestor
from infra.ledger import INGESTED, REJECTED, TRUNCATED
from infra.sources.simulated_fab import SimulatedFab
from infra.sources.simulated_probing import TESTS
from infra.sources.stdf import StdfReader
from infra.sources.stdf_writer import stdf_bytes
from infra.wiring import open_platform
from support_stdf import Stdf

CLEAN = next(SimulatedFab(days=1, dies_per_wafer=100, retest_rate=0).wafers_of(0))
DIES = CLEAN.part_count
FEW, MANY, TOO_MANY = DIES // 25, DIES // 12, DIES // 8
"""Dies: up to 5 % of a wafer's, more than that, more than 10 %."""
Findings = dict[tuple[str, str], str]
"""Severity by table and rule."""


def probed(test: str, value: float, dies: int) -> bytes:
    """The clean file where so many dies read another value."""
    values = CLEAN.parts.values.copy()
    values[:dies, [one.name for one in TESTS].index(test)] = value
    return stdf_bytes(CLEAN.run, TESTS, replace(CLEAN.parts, values=values))


def timed(test_ms: int, dies: int) -> bytes:
    """The clean file where so many dies took another time."""
    times = np.where(np.arange(DIES) < dies, test_ms, CLEAN.parts.test_ms)
    return stdf_bytes(CLEAN.run, TESTS, replace(CLEAN.parts, test_ms=times))


def in_unit(unit: str) -> bytes:
    """The clean file where vdd comes in another unit."""
    tests = [replace(test, unit=unit) if test.name == "vdd" else test for test in TESTS]
    return stdf_bytes(CLEAN.run, tests, CLEAN.parts)


@dataclass(frozen=True)
class Planted:
    """A file with one defect, and all that is to be said of it."""

    data: bytes
    status: str
    severity: str | None
    quarantined: int = 0
    findings: Findings = field(default_factory=dict)


def wafer_rejected(**own: str) -> Findings:
    """What a rejected wafer raises in each table, beside the rule in test_results that its dies broke."""
    whole = {(source, "wafer_in_range"): "high" for source in SUITES}
    return whole | {("test_results", rule): severity for rule, severity in own.items()}


def results(rule: str, severity: str) -> Findings:
    return {("test_results", rule): severity}


FILES = {
    "clean": Planted(CLEAN.content, INGESTED, None),
    "no STDF": Planted(b"lot,wafer\n1,2\n", REJECTED, "critical"),
    "unreadable": Planted(CLEAN.content[:5_000] + b"\xee" * 500 + CLEAN.content[5_500:], REJECTED, "critical"),
    "without any time": Planted(Stdf().pir().ptr().prr().data, REJECTED, "critical"),
    "truncated": Planted(CLEAN.content[: len(CLEAN.content) * 2 // 3 + 1], TRUNCATED, "high"),
    "without results": Planted(Stdf().mir().pir().prr().mrr().data, INGESTED, "low", 0, results("not_empty", "low")),
    "without parts": Planted(
        Stdf().mir().mrr().data, INGESTED, "high", 0, {("parts", "not_empty"): "high", **results("not_empty", "low")}
    ),
    "few out of range": Planted(probed("vdd", 9.9, FEW), INGESTED, "medium", FEW, results("vdd_range", "medium")),
    "many out of range": Planted(probed("idd", 999.0, MANY), INGESTED, "high", MANY, results("idd_range", "high")),
    "a wafer out of range": Planted(
        probed("temperature", 999.0, TOO_MANY),
        INGESTED,
        "high",
        1 + DIES + DIES * len(TESTS),
        wafer_rejected(temperature_range="high"),
    ),
    "few infinite": Planted(probed("gain", np.inf, FEW), INGESTED, "medium", FEW, results("result_finite", "medium")),
    "few slow": Planted(timed(501, FEW), INGESTED, "medium", FEW, {("parts", "test_time_range"): "medium"}),
    "many fast": Planted(timed(9, MANY), INGESTED, "high", MANY, {("parts", "test_time_range"): "high"}),
    "a unit that does not fit": Planted(in_unit("bar"), INGESTED, "medium", DIES, results("unit_fits", "medium")),
}


def found(tables: dict[str, pl.DataFrame]) -> Findings:
    """What the gate says of one file's tables."""
    given = [
        Table(SUITES[name], rows.with_columns(pl.lit("f").alias(FILE_SHA256)), ["f"]) for name, rows in tables.items()
    ]
    verdicts = zip(tables, validate_together(given), strict=True)
    return {(name, f.rule): f.severity.label for name, verdict in verdicts for f in verdict.files["f"].findings}


def ingested(landing: Path) -> IngestResult:
    with open_platform(home=landing.parent / "home", clock=lambda: datetime(2026, 4, 20, tzinfo=UTC)) as platform:
        return open_ingestor(platform).ingest([landing])


def test_the_ledger_says_of_each_planted_file_what_is_wrong_with_it(tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    landing.mkdir()
    for name, planted in FILES.items():
        (landing / f"{name}.stdf").write_bytes(planted.data)
    said = ingested(landing).entries.select("path", "status", "severity", "quarantined").rows()
    expected = {name: (planted.status, planted.severity, planted.quarantined) for name, planted in FILES.items()}
    assert {Path(path).stem: entry for path, *entry in said} == {name: [*entry] for name, entry in expected.items()}


@pytest.mark.parametrize("name", [name for name, planted in FILES.items() if planted.status != REJECTED])
def test_the_gate_finds_what_was_planted_in_a_file_and_nothing_else(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.stdf").write_bytes(FILES[name].data)
    assert found(StdfReader().read(tmp_path / "file.stdf").tables) == FILES[name].findings


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pl.DataFrame]:
    """The clean file's tables."""
    path = tmp_path_factory.mktemp("clean") / "file.stdf"
    path.write_bytes(CLEAN.content)
    return StdfReader().read(path).tables


def with_value(table: str, column: str, value: object, rows: int | None = None) -> tuple[str, pl.Expr]:
    """The first rows of a table (None: all) with another value in a column."""
    instead = pl.lit(value, REGISTRY.source(table).dtypes[column])
    changed = instead if rows is None else pl.when(pl.int_range(pl.len()) < rows).then(instead).otherwise(column)
    return table, changed.alias(column)


IN_TABLES: dict[str, tuple[tuple[str, pl.Expr], Findings]] = {
    "all null": (with_value("parts", "head", None), {("parts", "head_not_null"): "critical"}),
    "many nulls": (with_value("parts", "site", None, MANY), {("parts", "site_not_null"): "high"}),
    "few nulls": (with_value("parts", "site", None, FEW), {("parts", "site_not_null"): "medium"}),
    "an unexpected category": (with_value("test_results", "kind", "PSR", FEW), results("kind_known", "medium")),
    "many unexpected categories": (with_value("test_results", "kind", "PSR"), results("kind_known", "medium")),
    "another type": (("parts", pl.col("x").cast(pl.Int64)), {("parts", "x_type"): "high"}),
    "a bin that cannot be": (with_value("parts", "soft_bin", 40_000, FEW), {("parts", "soft_bin_range"): "medium"}),
    "more good parts than parts": (
        with_value("wafers", "part_count", 0),
        {("wafers", "good_count_within_parts"): "high"},
    ),
}


@pytest.mark.parametrize("name", IN_TABLES)
def test_the_gate_finds_what_was_planted_in_a_table_and_nothing_else(clean: dict[str, pl.DataFrame], name: str) -> None:
    (table, change), expected = IN_TABLES[name]
    assert found(clean | {table: clean[table].with_columns(change)}) == expected


MISSING: dict[tuple[str, str], Findings] = {
    ("parts", "head"): {("parts", "head_present"): "critical", ("parts", "head_not_null"): "critical"},
    ("parts", "product"): {("parts", "product_present"): "medium"},
    ("wafers", "program"): {("wafers", "program_present"): "medium"},
    # No rule that needs it can be judged, and so not the one about the wafer either.
    ("parts", "soft_bin"): {
        ("parts", "soft_bin_present"): "medium",
        ("parts", "soft_bin_range"): "critical",
        **{(source, "wafer_in_range"): "critical" for source in SUITES},
    },
}


@pytest.mark.parametrize(("table", "column"), MISSING)
def test_the_gate_says_what_a_missing_column_means(clean: dict[str, pl.DataFrame], table: str, column: str) -> None:
    assert found(clean | {table: clean[table].drop(column)}) == MISSING[table, column]


def test_two_hundred_clean_files_raise_no_alarm(tmp_path: Path) -> None:
    """Both products and testers, lots and retests, before the process changes and after."""
    fab = SimulatedFab(seed=11, days=10, wafers_per_day=20, dies_per_wafer=12, process_change_day=5)
    fab.write(tmp_path / "landing")
    entries = ingested(tmp_path / "landing").entries
    assert entries.height == 200
    assert entries.select("status", "severity", "quarantined").unique().rows() == [(INGESTED, None, 0)]
