"""The STDF reader: real files, and values, limits and names of files built record by record."""

from __future__ import annotations

import gzip
import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from features.errors import UnreadableFile
from features.source import RECORD_OFFSET
from infra.sources.stdf import SOURCES, StdfReader
from support_stdf import BEGIN, BIG, LITTLE, Stdf, parts_of, read, results_of, small_file

WAFER_DATA = Path(__file__).resolve().parents[3] / "shared/data/wafer"
needs_real_files = pytest.mark.skipif(not WAFER_DATA.is_dir(), reason="the folder of real wafer files is absent")


# ------------------------------------------------------------------------------------ real files


@needs_real_files
def test_lot2_as_recorded() -> None:
    delivery = StdfReader().read(WAFER_DATA / "lot2.stdf.gz")
    wafers, parts, results = (delivery.tables[source.name] for source in SOURCES)
    dies = parts.group_by("x", "y").len()
    assert (delivery.truncated_at, delivery.note) == (None, None)
    assert (parts.height, dies.height, (dies["len"] > 1).sum()) == (1569, 1456, 113)
    assert not parts["retest"].any()
    assert (results.height, results["test_num"].n_unique()) == (52_403, 74)
    assert results["part_index"].n_unique() == 784
    assert results["part_index"].null_count() == 0
    assert parts["test_time_ms"].null_count() == 1569
    assert set(parts["head"]) == {1}
    assert set(parts["site"]) == {0}
    assert wafers["start_time"].to_list() == [datetime(2001, 6, 5, 20, 50, 22, tzinfo=UTC)]
    assert parts["tested_at"].is_sorted()
    assert parts["tested_at"].n_unique() == 1569
    assert parts["tested_at"].max() == wafers["finish_time"][0]


@needs_real_files
@pytest.mark.parametrize(("name", "parts", "results", "invalid"), [("2site", 22, 572, 0), ("9site", 9, 592, 48)])
def test_final_test_as_recorded(name: str, parts: int, results: int, invalid: int) -> None:
    tables = StdfReader().read(WAFER_DATA / f"final_test_{name}.std").tables
    assert (tables["parts"].height, tables["test_results"].height) == (parts, results)
    assert tables["test_results"]["result"].null_count() == invalid
    assert tables["test_results"]["passed"].null_count() == invalid
    assert tables["test_results"]["part_index"].n_unique() == parts
    assert tables["test_results"]["part_index"].null_count() == 0
    assert tables["wafers"]["wafer_id"].to_list() == [None]
    assert tables["parts"]["x"].null_count() == parts


@needs_real_files
def test_two_site_parts_all_fail() -> None:
    parts = StdfReader().read(WAFER_DATA / "final_test_2site.std").tables["parts"]
    assert parts["passed"].to_list() == [False] * 22
    assert parts["head"].unique().to_list() == [0]
    assert sorted(parts["site"].unique()) == [0, 1]


@needs_real_files
def test_nine_site_missing_bin_is_null() -> None:
    parts = StdfReader().read(WAFER_DATA / "final_test_9site.std").tables["parts"]
    assert parts["hard_bin"].null_count() == 1


@needs_real_files
def test_record_coverage_reads() -> None:
    delivery = StdfReader().read(WAFER_DATA / "record_coverage.stdf.bz2")
    results = delivery.tables["test_results"]
    assert results["kind"].to_list() == ["MPR"] * 6 + ["FTR"]
    assert results["pin"].to_list() == [1, 3, 5, 7, 9, 11, None]
    assert delivery.tables["wafers"]["wafer_id"].to_list() == ["WAFER_ID"]
    assert delivery.truncated_at is None


@needs_real_files
@pytest.mark.parametrize("whole", [1_000_000, 4_000_000])
def test_lot2_cut_lands_the_same_rows(tmp_path: Path, whole: int) -> None:
    data = gzip.decompress((WAFER_DATA / "lot2.stdf.gz").read_bytes())
    full = StdfReader().read(WAFER_DATA / "lot2.stdf.gz").tables["test_results"]
    cut = read(data[:whole], tmp_path)
    assert cut.truncated_at is not None
    assert whole - 200 < cut.truncated_at <= whole
    values = ["test_num", "test_name", "result", "lo_limit", "hi_limit", RECORD_OFFSET]
    expected = full.filter(pl.col(RECORD_OFFSET) < cut.truncated_at)
    assert_frame_equal(cut.tables["test_results"].select(values), expected.select(values))


@needs_real_files
def test_lot2_overwritten_in_the_middle_is_corrupt(tmp_path: Path) -> None:
    data = bytearray(gzip.decompress((WAFER_DATA / "lot2.stdf.gz").read_bytes()))
    data[2_000_000:2_000_200] = hashlib.shake_256(b"noise").digest(200)
    with pytest.raises(UnreadableFile, match="corrupt") as caught:
        read(bytes(data), tmp_path)
    assert caught.value.offset is not None
    assert 2_000_000 <= caught.value.offset <= 2_070_000


# ------------------------------------------------------------------------------- shapes and values


def test_tables_have_the_sources_columns_and_offsets(tmp_path: Path) -> None:
    file = small_file()
    delivery = read(file, tmp_path)
    assert list(delivery.tables) == [source.name for source in SOURCES]
    for source in SOURCES:
        assert dict(delivery.tables[source.name].schema) == {**source.dtypes, RECORD_OFFSET: pl.Int64()}
    starts = [0, *file.ends]
    assert delivery.tables["wafers"][RECORD_OFFSET].to_list() == [starts[3]]
    assert delivery.tables["parts"][RECORD_OFFSET].to_list() == [starts[6], starts[9]]
    assert delivery.tables["test_results"][RECORD_OFFSET].to_list() == [starts[5], starts[8]]


def test_a_part_and_its_result(tmp_path: Path) -> None:
    tables = read(small_file(), tmp_path).tables
    first, second = tables["parts"].to_dicts()
    context = {"lot_id": "LOT", "wafer_id": "W1", "product": "PROD", "tester_id": "T1"}
    assert {k: first[k] for k in context} == context
    assert (first["x"], first["y"], first["passed"], first["hard_bin"], first["soft_bin"]) == (3, -4, True, 1, 1)
    assert (second["x"], second["y"], second["passed"]) == (None, None, False)
    assert (second["hard_bin"], second["soft_bin"]) == (5, None)
    assert (first["die_width_mm"], first["die_height_mm"], first["wafer_size_mm"]) == (4, 5, 200)
    assert (first["center_x"], first["center_y"]) == (3, None)
    result = tables["test_results"].row(1, named=True)
    assert {k: result[k] for k in context} == context
    assert (result["part_id"], result["part_index"], result["test_index"]) == ("2", 1, 0)
    assert (result["test_num"], result["test_name"], result["kind"], result["pin"]) == (7, "vdd", "PTR", None)
    assert (result["result"], result["passed"], result["unit"]) == (2.5, False, "V")
    assert result["tested_at"] == second["tested_at"]
    wafer = tables["wafers"].row(0, named=True)
    assert (wafer["part_count"], wafer["good_count"]) == (2, 1)
    assert (wafer["start_time"], wafer["finish_time"]) == (BEGIN, BEGIN + timedelta(seconds=90))


def test_both_byte_orders_read_alike(tmp_path: Path) -> None:
    little, big = read(small_file(LITTLE), tmp_path), read(small_file(BIG), tmp_path)
    for source in SOURCES:
        assert_frame_equal(little.tables[source.name], big.tables[source.name])


@pytest.mark.parametrize(("units", "millimetres"), [(0, None), (1, 50.8), (2, 20.0), (3, 2.0), (4, 0.0508)])
def test_die_size_in_millimetres(tmp_path: Path, units: int, millimetres: float | None) -> None:
    file = Stdf().mir().wcr(8, 2, 2, units).wir().pir().prr().wrr().mrr()
    assert parts_of(file, tmp_path)["die_width_mm"].to_list() == pytest.approx([millimetres])


def test_missing_die_size_takes_the_default(tmp_path: Path) -> None:
    file = Stdf().mir().wcr(0, 0, 7, 3).pir().prr().mrr()
    part = read(file, tmp_path, default_die_mm=(2.0, 3.0)).tables["parts"].row(0, named=True)
    assert (part["die_width_mm"], part["die_height_mm"], part["wafer_size_mm"]) == (7, 3, None)


def test_part_flags(tmp_path: Path) -> None:
    file = Stdf().mir()
    for flag in (0x00, 0x08, 0x10, 0x01, 0x02):
        file.pir().prr(flag=flag)
    parts = parts_of(file.mrr(), tmp_path)
    assert parts["passed"].to_list() == [True, False, None, True, True]
    assert parts["retest"].to_list() == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("flag", "result", "passed"),
    [
        (0x00, 1.0, True),
        (0x80, 1.0, False),
        (0x02, None, None),  # result invalid
        (0x10, None, None),  # not executed
        (0x92, None, None),
        (0x40, 1.0, None),  # no pass/fail indication
        (0x01, 1.0, True),  # alarm
    ],
)
def test_result_flags(tmp_path: Path, flag: int, result: float | None, passed: bool | None) -> None:
    row = results_of(Stdf().mir().pir().ptr(1.0, flag=flag).prr().mrr(), tmp_path).row(0, named=True)
    assert (row["result"], row["passed"]) == (result, passed)


def test_nan_result_and_infinite_limit_are_null(tmp_path: Path) -> None:
    file = Stdf().mir().pir().ptr(float("nan"), limits=(float("-inf"), 2.0)).prr().mrr()
    row = results_of(file, tmp_path).row(0, named=True)
    assert (row["result"], row["lo_limit"], row["hi_limit"]) == (None, None, 2.0)


@pytest.mark.parametrize(("size", "result", "passed"), [(12, 1.5, False), (8, None, False), (6, None, None)])
def test_a_record_that_ends_early_has_nulls_not_zeros(
    tmp_path: Path, size: int, result: float | None, passed: bool | None
) -> None:
    file = Stdf().mir().pir()
    file.add(15, 10, file.pack("IBBBBf", 7, 1, 1, 0x80, 0, 1.5)[:size]).prr().mrr()
    row = results_of(file, tmp_path).row(0, named=True)
    assert (row["result"], row["passed"], row["test_name"]) == (result, passed, None)


# ----------------------------------------------------------------------- limits, units and names


def limits_of(file: Stdf, tmp_path: Path) -> list[tuple[float | None, float | None, str | None]]:
    return results_of(file, tmp_path).select("lo_limit", "hi_limit", "unit").rows()


def test_limits_and_unit_are_inherited_from_the_first_record(tmp_path: Path) -> None:
    file = Stdf().mir().pir().ptr(limits=(1, 2)).ptr(name="other", limits=(5, 6), unit="A").prr()
    file.pir().ptr().ptr(name="other").prr().mrr()
    assert limits_of(file, tmp_path) == [(1, 2, "V"), (5, 6, "A")] * 2


def test_the_test_key_is_number_and_text(tmp_path: Path) -> None:
    """One real file repeats a number thousands of times under other texts."""
    file = Stdf().mir().pir()
    for i in range(3):
        file.ptr(num=1, name=f"pin{i}", limits=(i, i + 1))
    for i in (2, 0, 1):
        file.ptr(num=1, name=f"pin{i}")
    lows = [low for low, _, _ in limits_of(file.prr().mrr(), tmp_path)]
    assert lows == [0, 1, 2, 2, 0, 1]


@pytest.mark.parametrize(
    ("opt", "expected"),
    [
        (0x00, (3, 4)),  # its own
        (0x10, (1, 4)),  # low limit of the first record
        (0x20, (3, 2)),  # high limit of the first record
        (0x40, (None, 4)),  # no low limit
        (0x80, (3, None)),  # no high limit
        (0x30, (1, 2)),
        (0xC0, (None, None)),
    ],
)
def test_opt_flag_says_which_limits_count(tmp_path: Path, opt: int, expected: tuple[float | None, ...]) -> None:
    file = Stdf().mir().pir().ptr(limits=(1, 2)).ptr(limits=(3, 4), opt=opt).prr().mrr()
    assert limits_of(file, tmp_path)[1][:2] == expected


def test_no_limit_is_inherited_as_no_limit(tmp_path: Path) -> None:
    file = Stdf().mir().pir().ptr(limits=(9, 2), opt=0x40).ptr().ptr(limits=(5, 6)).ptr().prr().mrr()
    assert limits_of(file, tmp_path) == [(None, 2, "V"), (None, 2, "V"), (5, 6, "V"), (None, 2, "V")]


@pytest.mark.parametrize("kept", [12, 13, *range(16, 36)])
def test_a_tail_cut_at_any_byte_inherits_what_is_missing(tmp_path: Path, kept: int) -> None:
    file = Stdf().mir().pir().ptr(limits=(1, 2), unit="V")
    whole = Stdf().ptr(limits=(3, 4), unit="A").data[10:]
    file.add(15, 10, whole[:kept]).prr().mrr()
    # RESULT 12, TEST_TXT 16, ALARM_ID 17, OPT_FLAG 18, scales 21, LO_LIMIT 25, HI_LIMIT 29, UNITS 31
    low, high, unit = limits_of(file, tmp_path)[1]
    assert (low, high) == (3 if kept >= 25 else 1, 4 if kept >= 29 else 2)
    assert unit == ("A" if kept >= 31 else "V")


def test_an_omitted_text_is_the_numbers_only_text(tmp_path: Path) -> None:
    file = Stdf().mir().pir().ptr(num=1, name="one", limits=(1, 2)).ptr(num=1, name="")
    file.ptr(num=2, name="a").ptr(num=2, name="b").ptr(num=2, name="").ptr(num=3, name="").prr().mrr()
    results = results_of(file, tmp_path)
    assert results["test_name"].to_list() == ["one", "one", "a", "b", None, None]
    assert results["lo_limit"].to_list() == [1, 1, None, None, None, None]
