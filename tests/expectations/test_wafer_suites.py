from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from expectations.gate import validate
from expectations.suites import SUITES
from features.definitions import wafer_sources
from infra.sources.stdf import StdfReader

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "wafer"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
WAFER_RULE = "wafer_in_range"

CLEAN = {
    "wafers": {"finish_time": NOW, "wafer_index": 0, "part_count": 9, "good_count": 9},
    "parts": {
        "part_index": 0, "head": 1, "site": 0, "tested_at": NOW, "test_time_ms": 200, "hard_bin": 1, "soft_bin": 1,
    },
    "test_results": {
        "head": 1, "site": 0, "test_index": 0, "test_num": 10, "kind": "PTR", "tested_at": NOW,
        "test_name": "vdd", "unit": "V", "result": 1.2,
    },
}  # fmt: skip
"""A row of each table with nothing but what every file has; all else is null."""


def table(source, *changes):
    """A hundred clean rows and one more for each change, each of a wafer or part of its own."""
    dtypes = getattr(wafer_sources, source).dtypes
    number = "wafer_index" if source == "wafers" else "part_index"
    records = [{**CLEAN[source], number: n, **change} for n, change in enumerate([*[{}] * 100, *changes])]
    return pl.DataFrame([{c: r.get(c) for c in dtypes} for r in records], schema=dtypes).with_columns(
        _file_sha256=pl.lit("f")
    )


def reading(test_name, result, unit):
    return {"test_name": test_name, "result": result, "unit": unit}


GOOD = [
    ("wafers", {"part_count": 0, "good_count": 0}),
    ("wafers", {"part_count": None, "good_count": None}),
    *[("parts", {"test_time_ms": time}) for time in (10, 500, None)],
    *[("parts", {"hard_bin": number, "soft_bin": number}) for number in (0, 32767, None)],
    *[("test_results", {"kind": kind}) for kind in ("PTR", "MPR", "FTR")],
    *[
        ("test_results", reading("vdd", value, unit))
        for value, unit in [(1.0, "V"), (1.4, "v"), (1400.0, "mV"), (1.4, None)]
    ],
    *[
        ("test_results", reading("idd", value, unit))
        for value, unit in [(0.0, "mA"), (200.0, "mA"), (0.2, "A"), (200.0, None)]
    ],
    *[
        ("test_results", reading("frequency", value, unit))
        for value, unit in [(1000.0, "MHz"), (3.0, "GHz"), (3e9, "Hz")]
    ],
    *[("test_results", reading("temperature", value, unit)) for value, unit in [(-40.0, "C"), (125.0, "degC")]],
    ("test_results", reading("vdd", None, "V")),
    ("test_results", reading("VDD_CORE", 99.0, "furlong")),
    ("test_results", reading(None, 1e30, None)),
]

BAD = [
    ("wafers", {"finish_time": None}, "finish_time_not_null"),
    ("wafers", {"wafer_index": None}, "wafer_index_not_null"),
    ("wafers", {"part_count": -1, "good_count": None}, "part_count_range"),
    ("wafers", {"good_count": 10}, "good_count_within_parts"),
    *[("parts", {column: None}, f"{column}_not_null") for column in ("part_index", "head", "site", "tested_at")],
    *[("parts", {"test_time_ms": time}, "test_time_range") for time in (9, 501, -1)],
    ("parts", {"hard_bin": 32768}, "hard_bin_range"),
    ("parts", {"soft_bin": -1}, "soft_bin_range"),
    *[
        ("test_results", {column: None}, f"{column}_not_null")
        for column in ("head", "site", "test_index", "test_num", "kind", "tested_at")
    ],
    ("test_results", {"kind": "PSR"}, "kind_known"),
    ("test_results", {"test_name": "other", "result": float("nan")}, "result_finite"),
    ("test_results", {"test_name": "other", "result": float("-inf")}, "result_finite"),
    *[
        ("test_results", reading("vdd", v, u), "vdd_range")
        for v, u in [(0.999, "V"), (1.401, None), (1.2, "mV"), (1401, "MV")]
    ],
    *[("test_results", reading("idd", v, u), "idd_range") for v, u in [(-0.1, "mA"), (0.201, "A"), (201.0, None)]],
    *[("test_results", reading("frequency", v, u), "frequency_range") for v, u in [(999.0, "MHz"), (3.1, "GHz")]],
    *[("test_results", reading("temperature", v, u), "temperature_range") for v, u in [(-41.0, "C"), (126.0, "°C")]],
    ("test_results", reading("vdd", 1.2, "furlong"), "unit_fits"),
    ("test_results", reading("temperature", 25.0, "mA"), "unit_fits"),
]


@pytest.mark.parametrize("source", SUITES)
def test_what_real_files_lack_or_reach_is_no_finding(source):
    verdict = validate(SUITES[source], table(source, *(change for name, change in GOOD if name == source)))
    assert verdict.files["f"].findings == ()
    assert verdict.split.rejected.is_empty()


@pytest.mark.parametrize("source", SUITES)
def test_each_defect_is_found_by_its_rule_alone(source):
    defects = [(change, rule) for name, change, rule in BAD if name == source]
    verdict = validate(SUITES[source], table(source, *(change for change, _ in defects)))
    assert verdict.split.rejected["_rules"].to_list() == [[rule] for _, rule in defects]
    assert verdict.split.valid.height == 100
    assert {finding.rule for finding in verdict.files["f"].findings} == {rule for _, rule in defects}


@pytest.mark.parametrize("source", SUITES)
def test_every_rule_on_rows_is_tried_by_a_defect(source):
    """But for the one that looks at whole wafers: test_wafer_rejection.py tries it."""
    tried = {rule for name, _, rule in BAD if name == source}
    assert tried | {"record_unique", WAFER_RULE} == {rule.name for rule in SUITES[source].rows}


@pytest.mark.parametrize("source", SUITES)
def test_a_record_that_a_file_holds_twice_is_told_of_and_lands(source):
    once = table(source)
    corrected = validate(SUITES[source], pl.concat([once, once.with_columns(_file_sha256=pl.lit("g"))]))
    assert {name: file.findings for name, file in corrected.files.items()} == {"f": (), "g": ()}
    verdict = validate(SUITES[source], pl.concat([once, once]))
    assert verdict.split.valid.height == 200
    (finding,) = verdict.files["f"].findings
    assert (finding.rule, finding.severity.label, finding.failed, finding.checked) == ("record_unique", "low", 200, 200)


def test_many_out_of_range_alert():
    verdict = validate(SUITES["parts"], table("parts", *[{"test_time_ms": 600}] * 6))
    assert [(f.rule, f.severity.label) for f in verdict.files["f"].findings] == [("test_time_range", "high")]


def test_a_file_without_results_is_normal_and_one_without_parts_is_not():
    for source, severity in (("test_results", "low"), ("parts", "high")):
        verdict = validate(SUITES[source], table(source).clear(), files=["f"])
        assert [f.severity.label for f in verdict.files["f"].findings] == [severity]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real STDF files are not beside the project")
def test_real_files_land_completely_but_for_test_times_above_the_range():
    reader, tables = StdfReader(), {source: [] for source in SUITES}
    for path in sorted(REAL.iterdir()):
        for source, rows in reader.read(path).tables.items():
            tables[source].append(rows.with_columns(_file_sha256=pl.lit(path.name)))
    verdicts = {source: validate(SUITES[source], pl.concat(frames)) for source, frames in tables.items()}
    assert [verdict.blocked for verdict in verdicts.values()] == [[], [], []]
    refused = {source: verdict.split.rejected for source, verdict in verdicts.items()}
    assert (refused["wafers"].height, refused["test_results"].height) == (0, 0)
    assert verdicts["test_results"].files["lot2.stdf.gz"].rows == 52_403
    # The 9-site final test takes two thirds of a second a part; its ninth part was not timed.
    assert refused["parts"]["_file_sha256"].unique().to_list() == ["final_test_9site.std"]
    assert refused["parts"]["test_time_ms"].is_between(501, 671).all()
    assert (refused["parts"].height, verdicts["parts"].files["lot2.stdf.gz"].rows) == (8, 1_569)
