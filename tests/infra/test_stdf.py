"""The STDF reader on real files and on files built record by record."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from features.errors import StorageError, UnreadableFile
from features.source import RECORD_OFFSET
from infra.sources.base import Delivery, file_sha256
from infra.sources.stdf import SOURCES, StdfReader
from support_stdf import BIG, LITTLE, START, Stdf, small_file

WAFER_DATA = Path(__file__).resolve().parents[3] / "shared/data/wafer"
needs_real_files = pytest.mark.skipif(not WAFER_DATA.is_dir(), reason="the folder of real wafer files is absent")
BEGIN = datetime.fromtimestamp(START, UTC)


def read(file: Stdf | bytes, tmp_path: Path, name: str = "file.stdf", **options: tuple[float, float]) -> Delivery:
    path = tmp_path / name
    path.write_bytes(file.data if isinstance(file, Stdf) else file)
    return StdfReader(scratch=tmp_path, **options).read(path)


def parts_of(file: Stdf | bytes, tmp_path: Path) -> pl.DataFrame:
    return read(file, tmp_path).tables["parts"]


def results_of(file: Stdf | bytes, tmp_path: Path) -> pl.DataFrame:
    return read(file, tmp_path).tables["test_results"]


def seconds(parts: pl.DataFrame) -> list[float]:
    """Seconds from the file's start to each part's end."""
    return [(t - BEGIN) / timedelta(seconds=1) for t in parts["tested_at"]]


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


# --------------------------------------------------------------------------- MPR, FTR and parts


def test_mpr_is_a_row_per_pin_result(tmp_path: Path) -> None:
    file = Stdf().mir().pir().ptr().mpr([1.0, 2.0, 3.0], pins=[4, 5]).ptr().mpr([7.0, 8.0]).ftr(flag=0x80).prr().mrr()
    rows = results_of(file, tmp_path)
    assert rows["kind"].to_list() == ["PTR", *["MPR"] * 3, "PTR", *["MPR"] * 2, "FTR"]
    assert rows["test_index"].to_list() == list(range(8))
    assert rows["pin"].to_list() == [None, 4, 5, None, None, 4, 5, None]
    assert rows["result"].to_list() == [1.0, 1.0, 2.0, 3.0, 1.0, 7.0, 8.0, None]
    assert rows["hi_limit"].to_list() == [None, 9, 9, 9, None, 9, 9, None]
    assert rows["passed"].to_list() == [True] * 7 + [False]


def test_mpr_without_results_keeps_its_verdict(tmp_path: Path) -> None:
    row = results_of(Stdf().mir().pir().mpr([]).prr().mrr(), tmp_path).row(0, named=True)
    assert (row["kind"], row["pin"], row["result"], row["passed"]) == ("MPR", None, None, True)


def test_mpr_too_short_for_its_results_has_nulls(tmp_path: Path) -> None:
    file = Stdf().mir().pir()
    file.add(15, 15, file.pack("IBBBBHHf", 8, 1, 1, 0, 0, 0, 3, 1.0)).prr().mrr()
    assert results_of(file, tmp_path)["result"].to_list() == [1.0, None, None]


def test_a_file_of_functional_tests_only(tmp_path: Path) -> None:
    rows = results_of(Stdf().mir().pir().ftr().ftr(flag=0x80).prr().mrr(), tmp_path)
    assert rows.select("kind", "passed").rows() == [("FTR", True), ("FTR", False)]


def test_interleaved_sites_keep_their_results(tmp_path: Path) -> None:
    file = Stdf().mir().pir(0).pir(1).pir(0, head=0)
    file.ptr(10, site=0).ptr(11, site=1).ptr(12, site=0, head=0).ptr(20, site=0).ptr(21, site=1)
    file.prr("b", site=1).pir(1).ptr(31, site=1).prr("a", site=0).prr("c", site=1).prr("d", site=0, head=0).mrr()
    rows = results_of(file, tmp_path)
    found = rows.select("result", "part_id", "part_index", "test_index", "head", "site").rows()
    assert found == [
        (10, "a", 1, 0, 1, 0),
        (11, "b", 0, 0, 1, 1),
        (12, "d", 3, 0, 0, 0),
        (20, "a", 1, 1, 1, 0),
        (21, "b", 0, 1, 1, 1),
        (31, "c", 2, 0, 1, 1),
    ]


EVENTS = st.lists(st.tuples(st.sampled_from(["pir", "ptr", "ptr", "prr"]), st.integers(0, 1), st.integers(0, 1)))


@given(events=EVENTS)
def test_results_find_their_parts_as_a_plain_loop_does(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, int, int]]
) -> None:
    file = Stdf().mir()
    sockets: dict[tuple[int, int], list[int]] = {}
    owner: dict[int, int] = {}
    results = parts = 0
    for kind, head, site in events:
        getattr(file, kind)(head=head, site=site)
        if kind == "pir":
            sockets[head, site] = []
        elif kind == "ptr":
            sockets.get((head, site), []).append(results)
            results += 1
        else:
            owner |= dict.fromkeys(sockets.pop((head, site), []), parts)
            parts += 1
    rows = results_of(file.mrr(), tmp_path_factory.mktemp("sockets"))
    owners = [owner.get(i) for i in range(results)]
    assert rows["part_index"].to_list() == owners
    assert rows["test_index"].to_list() == [owners[:i].count(part) for i, part in enumerate(owners)]


def test_results_outside_any_part_stay(tmp_path: Path) -> None:
    file = Stdf().mir().wir().ptr(1).pir().ptr(2).pir().ptr(3).prr("a").ptr(4).pir().ptr(5).wrr().mrr()
    tables = read(file, tmp_path).tables
    rows = tables["test_results"].select("result", "part_id", "part_index", "test_index", "wafer_id").rows()
    assert rows == [
        (1, None, None, 0, "W1"),
        (2, None, None, 1, "W1"),  # its part was opened again, so never closed
        (3, "a", 0, 0, "W1"),
        (4, None, None, 2, "W1"),
        (5, None, None, 3, "W1"),
    ]
    finish = tables["wafers"]["finish_time"][0]
    assert tables["test_results"].filter(pl.col("part_index").is_null())["tested_at"].unique().to_list() == [finish]


def test_parts_without_results_and_retests_stay(tmp_path: Path) -> None:
    file = Stdf().mir().pir().ptr().prr("1", xy=(1, 1)).pir().prr("2", xy=(1, 2)).pir().prr("3", xy=(1, 1)).mrr()
    tables = read(file, tmp_path).tables
    assert tables["parts"]["part_id"].to_list() == ["1", "2", "3"]
    assert tables["test_results"]["part_id"].to_list() == ["1"]


# -------------------------------------------------------------------------------------- wafers


def test_several_wafers_in_a_file(tmp_path: Path) -> None:
    file = Stdf().mir()
    for i, wafer in enumerate(("A", "B")):
        file.wir(wafer, START + 100 * i).pir().ptr(i).prr(str(i)).wrr(wafer, START + 100 * i + 50)
    tables = read(file.mrr(), tmp_path).tables
    assert tables["wafers"].select("wafer_id", "wafer_index", "part_count").rows() == [("A", 0, 1), ("B", 1, 1)]
    assert tables["parts"]["wafer_id"].to_list() == ["A", "B"]
    assert tables["test_results"]["wafer_id"].to_list() == ["A", "B"]
    assert seconds(tables["parts"]) == [50, 150]


def test_two_heads_test_two_wafers_at_once(tmp_path: Path) -> None:
    file = Stdf().mir().wir("A", head=1).wir("B", head=2)
    file.pir(head=1).pir(head=2).prr("a", head=1).prr("b", head=2).wrr("B", head=2).wrr("A", head=1).mrr()
    assert parts_of(file, tmp_path).select("part_id", "wafer_id").rows() == [("a", "A"), ("b", "B")]


def test_a_wafer_known_by_its_end_only(tmp_path: Path) -> None:
    file = Stdf().mir().pir().prr("a").wrr("A").wir("B").pir().prr("b").wrr("B").mrr()
    tables = read(file, tmp_path).tables
    assert tables["parts"].select("part_id", "wafer_id").rows() == [("a", "A"), ("b", "B")]
    assert tables["wafers"]["wafer_id"].to_list() == ["A", "B"]


def test_a_file_without_wafers_is_one_row(tmp_path: Path) -> None:
    wafers = read(Stdf().mir().pir().prr().mrr(), tmp_path).tables["wafers"]
    assert wafers.select("lot_id", "wafer_id", "part_count").rows() == [("LOT", None, 1)]


# --------------------------------------------------------------------------------------- times


def times(file: Stdf, tmp_path: Path) -> list[float]:
    return seconds(parts_of(file, tmp_path))


def test_times_follow_test_t_by_touchdown(tmp_path: Path) -> None:
    file = Stdf().mir().wir()
    for slow in (300, 500):
        file.pir(1).pir(2).prr(site=1, test_ms=slow).prr(site=2, test_ms=100)
    assert times(file.wrr().mrr(), tmp_path) == [0.299999, 0.3, 0.799999, 0.8]


@pytest.mark.parametrize("test_ms", [0, 40_000])
def test_times_spread_evenly_where_test_t_does_not_do(tmp_path: Path, test_ms: int) -> None:
    """Unknown, or three times 40 s running past the 90 s that the wafer took."""
    file = Stdf().mir().wir()
    for _ in range(3):
        file.pir().prr(test_ms=test_ms)
    assert times(file.wrr().mrr(), tmp_path) == [30, 60, 90]


def test_times_without_finish_follow_one_another(tmp_path: Path) -> None:
    file = Stdf().mir().pir().prr(test_ms=100).pir().prr(test_ms=100)
    delivery = read(file, tmp_path)
    assert seconds(delivery.tables["parts"]) == [0.1, 0.2]
    assert delivery.tables["wafers"]["finish_time"].to_list() == [BEGIN + timedelta(milliseconds=200)]
    assert times(Stdf().mir().pir().prr().pir().prr(), tmp_path) == [0.000001, 0.000002]


def test_times_without_start_count_back(tmp_path: Path) -> None:
    file = Stdf().pir().prr(test_ms=1000).pir().prr(test_ms=2000).mrr(START + 10)
    assert times(file, tmp_path) == [8, 10]


def test_finish_before_start_is_no_finish(tmp_path: Path) -> None:
    file = Stdf().mir().wir().pir().prr().wrr(finish=START - 5).mrr(START + 40)
    assert times(file, tmp_path) == [40]


def test_setup_time_stands_in_for_start(tmp_path: Path) -> None:
    file = Stdf().mir(start=0, setup=START).pir().prr(test_ms=1000).mrr()
    assert times(file, tmp_path) == [1]


def test_a_file_without_any_time_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="no time anywhere"):
        read(Stdf().pir().prr().mrr(0), tmp_path)


@given(
    insertions=st.lists(st.lists(st.sampled_from([0, 1, 50, 4_000_000]), min_size=1, max_size=4), max_size=6),
    lasted=st.sampled_from([0, 1, 3600, None]),
    begun=st.booleans(),
)
def test_times_never_run_past_the_finish_nor_backwards(
    tmp_path_factory: pytest.TempPathFactory, insertions: list[list[int]], lasted: int | None, begun: bool
) -> None:
    if lasted is None and not begun:
        return
    file = Stdf().mir(start=START if begun else 0)
    for sites in insertions:
        for site in range(len(sites)):
            file.pir(site)
        for site, test_ms in enumerate(sites):
            file.prr(site=site, test_ms=test_ms)
    if lasted is not None:
        file.mrr(START + lasted)
    tables = read(file, tmp_path_factory.mktemp("times")).tables
    ends = tables["parts"]["tested_at"]
    wafer = tables["wafers"].row(0, named=True)
    assert ends.len() == sum(map(len, insertions))
    assert ends.is_sorted()
    assert all(t <= wafer["finish_time"] for t in ends)
    assert not begun or all(t >= wafer["start_time"] for t in ends)
    if lasted != 0 or not begun:
        assert ends.n_unique() == ends.len()


# --------------------------------------------------------------------- cut, corrupt, packed, lying


def test_cut_at_every_byte_lands_whole_records_or_says_why(tmp_path: Path) -> None:
    file = small_file()
    whole = read(file, tmp_path).tables["test_results"]
    for size in range(len(file.data)):
        last = max((end for end in file.ends if end <= size), default=0)
        if last < file.ends[1]:
            with pytest.raises(UnreadableFile):
                read(file.data[:size], tmp_path)
            continue
        delivery = read(file.data[:size], tmp_path)
        assert delivery.truncated_at == last
        assert delivery.note is not None
        assert str(last) in delivery.note
        expected = whole.filter(pl.col(RECORD_OFFSET) < last)["result"].to_list()
        assert delivery.tables["test_results"]["result"].to_list() == expected
        assert delivery.tables["parts"].height == sum(end <= last for end in (file.ends[6], file.ends[9]))


def test_a_cut_on_a_record_boundary_counts_as_cut(tmp_path: Path) -> None:
    file = small_file()
    delivery = read(file.data[: file.ends[8]], tmp_path)
    assert delivery.truncated_at == file.ends[8]
    assert delivery.note == f"no MRR: it may be cut after its last record, at byte {file.ends[8]}"
    assert delivery.tables["test_results"]["part_index"].to_list() == [0, None]


@pytest.mark.parametrize("cpu", [0, 1, 2, 77])
@pytest.mark.parametrize("order", [LITTLE, BIG])
def test_a_lying_cpu_type_changes_nothing(tmp_path: Path, order: str, cpu: int) -> None:
    lie = read(small_file(order, cpu), tmp_path)
    truth = read(small_file(order), tmp_path)
    for source in SOURCES:
        assert_frame_equal(lie.tables[source.name], truth.tables[source.name])
    assert (lie.note is None) == (cpu in {77, {LITTLE: 2, BIG: 1}[order]})


@pytest.mark.parametrize(("declared", "real"), [(LITTLE, BIG), (BIG, LITTLE)])
def test_a_far_in_the_wrong_byte_order_is_seen_through(tmp_path: Path, declared: str, real: str) -> None:
    data = small_file(declared).data[:6] + small_file(real).data[6:]
    lie = read(data, tmp_path)
    assert (lie.truncated_at, lie.note) == (None, "its FAR lies about the byte order")
    assert_frame_equal(lie.tables["test_results"], results_of(small_file(real), tmp_path))


def test_garbage_in_the_middle_is_corrupt_at_its_byte(tmp_path: Path) -> None:
    file = small_file()
    at = file.ends[6]
    with pytest.raises(UnreadableFile, match=f"corrupt: no STDF record starts at byte {at}") as caught:
        read(file.data[:at] + b"\x10\x00\xee\xee" + bytes(range(200, 250)) + file.data[at:], tmp_path)
    assert caught.value.offset == at


def test_a_testers_own_record_type_is_skipped(tmp_path: Path) -> None:
    file = Stdf().mir().pir().add(220, 7, b"vendor").ptr(1.5).prr().mrr()
    delivery = read(file, tmp_path)
    assert (delivery.truncated_at, delivery.note) == (None, "1 record(s) of unknown type were skipped")
    assert delivery.tables["test_results"]["result"].to_list() == [1.5]


def test_zero_padding_after_the_end_is_no_cut(tmp_path: Path) -> None:
    delivery = read(small_file().data + bytes(512), tmp_path)
    assert delivery.truncated_at is None
    assert delivery.tables["parts"].height == 2


@pytest.mark.parametrize(
    ("data", "reason", "offset"),
    [
        (b"", "empty", 0),
        (b"lot,wafer\n1,2\n", "not an STDF file", 0),
        (b"\x02\x00\x00", "cut within", 0),
        (b"\x02\x00\x00\x0a\x02", "cut within", 0),
        (b"\x02\x00\x00\x0a\x02\x03", "STDF version 3", 5),
        (b"\x02\x00\x00\x0a\x02\x04", "no time anywhere", None),
    ],
)
def test_what_is_no_stdf_says_so(tmp_path: Path, data: bytes, reason: str, offset: int | None) -> None:
    with pytest.raises(UnreadableFile, match=reason) as caught:
        read(data, tmp_path)
    assert caught.value.offset == offset


def test_a_malformed_record_that_nobody_reads_does_no_harm(tmp_path: Path) -> None:
    file = Stdf().mir().add(0, 30, b"\x05").pir().ptr().prr().mrr()
    assert results_of(file, tmp_path).height == 1


@given(changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_anywhere_never_escapes_the_error_tree(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(small_file().mpr([1.0], [2]).ftr().data)
    for at, value in changes:
        data[at % len(data)] = value
    try:
        delivery = read(bytes(data), tmp_path_factory.mktemp("damage"))
    except UnreadableFile:
        return
    assert list(delivery.tables) == [source.name for source in SOURCES]


def zipped(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


PLAIN = small_file().data
PACKED = {
    "a.stdf.gz": gzip.compress(PLAIN),
    "a.std.bz2": bz2.compress(PLAIN),
    "a.zip": zipped(("folder/", b""), ("folder/a.stdf", PLAIN)),
    "A.STDF.GZ": gzip.compress(PLAIN),
    "members.stdf.gz": gzip.compress(PLAIN[:100]) + gzip.compress(PLAIN[100:]),
    "members.stdf.bz2": bz2.compress(PLAIN[:100]) + bz2.compress(PLAIN[100:]),
    "misnamed.stdf": gzip.compress(PLAIN),
    "misnamed.stdf.gz": PLAIN,
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_files_read_like_plain_ones(tmp_path: Path, name: str) -> None:
    assert StdfReader().accepts(Path(name))
    packed, plain = read(PACKED[name], tmp_path, name), read(PLAIN, tmp_path)
    assert (packed.truncated_at, packed.note) == (None, None)
    for source in SOURCES:
        assert_frame_equal(packed.tables[source.name], plain.tables[source.name])


def test_a_zip_of_several_files_says_which_was_read(tmp_path: Path) -> None:
    delivery = read(zipped(("a.stdf", PLAIN), ("b.stdf", PLAIN)), tmp_path, "two.zip")
    assert delivery.note == "the zip holds 2 files, of which only the first, 'a.stdf', was read"


@pytest.mark.parametrize("packing", ["gz", "bz2"])
def test_a_cut_packed_file_lands_what_unpacks(tmp_path: Path, packing: str) -> None:
    file = Stdf().mir()
    noise = hashlib.shake_256(b"noise").digest(64 * 30_000)
    body = b"".join(b"\x40\x00\xb4\x00" + noise[i : i + 64] for i in range(0, len(noise), 64))
    data = file.pir().ptr(1.5).prr("1").data + body + Stdf().mrr().data[6:]
    packed = gzip.compress(data) if packing == "gz" else bz2.compress(data)
    delivery = read(packed[: len(packed) * 2 // 3], tmp_path, f"cut.stdf.{packing}")
    assert delivery.truncated_at is not None
    assert len(data) // 3 < delivery.truncated_at < len(data)
    assert delivery.tables["test_results"]["result"].to_list() == [1.5]


@pytest.mark.parametrize("kept", range(4, len(gzip.compress(PLAIN)), 7))
def test_a_gzip_cut_anywhere_lands_or_says_why(tmp_path: Path, kept: int) -> None:
    data = gzip.compress(PLAIN)[:kept]
    try:
        delivery = read(data, tmp_path, "cut.stdf.gz")
    except UnreadableFile as error:
        assert "cut" in error.reason or "no time" in error.reason  # noqa: PT017
        return
    assert delivery.truncated_at is not None
    assert delivery.note is not None
    assert "cut" in delivery.note


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.zip", zipped(("a.stdf", PLAIN))[:60], "the zip cannot be read"),
        ("a.zip", zipped(), "the zip holds no file"),
        ("a.stdf.gz", gzip.compress(PLAIN)[:-8] + bytes(8), "the gzip data is damaged"),
        ("a.stdf.gz", gzip.compress(b""), "the gzip file is empty"),
        ("a.stdf.gz", gzip.compress(PLAIN)[:12], "the gzip file is cut before any data"),
        ("a.stdf.bz2", bz2.compress(PLAIN)[:60], "the bzip2 file is cut before any data"),
    ],
)
def test_damaged_packing_says_so(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableFile, match=reason):
        read(data, tmp_path, name)


def test_a_missing_file_or_a_folder_says_so(tmp_path: Path) -> None:
    for path in (tmp_path / "none.stdf", tmp_path):
        with pytest.raises(UnreadableFile, match="cannot open"):
            StdfReader().read(path)
        with pytest.raises(UnreadableFile, match="cannot open"):
            file_sha256(path)


def test_nothing_is_left_in_scratch(tmp_path: Path) -> None:
    scratch = tmp_path / "made" / "when needed"
    path = tmp_path / "cut.stdf.gz"
    path.write_bytes(gzip.compress(PLAIN[:150]))
    StdfReader(scratch=scratch).read(path)
    assert list(scratch.iterdir()) == []


def test_a_scratch_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "a.stdf.gz"
    path.write_bytes(PACKED["a.stdf.gz"])
    with pytest.raises(StorageError, match="no temporary folder"):
        StdfReader(scratch=tmp_path / "file" / "scratch").read(path)


def test_file_sha256_is_of_the_bytes_as_delivered(tmp_path: Path) -> None:
    path = tmp_path / "a.stdf.gz"
    path.write_bytes(PACKED["a.stdf.gz"])
    assert file_sha256(path) == hashlib.sha256(PACKED["a.stdf.gz"]).hexdigest()
