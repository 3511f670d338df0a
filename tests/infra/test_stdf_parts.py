"""The STDF reader: which part and wafer a record belongs to, and when parts were tested."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import UnreadableFile
from support_stdf import BEGIN, START, Stdf, parts_of, read, results_of, seconds

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


@pytest.mark.parametrize("cut", [True, False], ids=["without finish", "without start"])
def test_test_times_that_run_out_of_what_stdf_can_date_are_not_believed(tmp_path: Path, cut: bool) -> None:
    """TEST_T with all bits set is 50 days: it took a wafer past the year 9999, and its table could not be read."""
    start, finish = (2**32 - 100, 0) if cut else (0, 1_000)
    file = Stdf().mir(start=start).wir(start=start)
    for part in range(3):
        file.pir().prr(str(part), test_ms=2**32 - 1)
    times = parts_of(file.wrr(finish=finish).mrr(finish), tmp_path)["tested_at"].dt.epoch("us").to_list()
    first = start * 1_000_000 + 1 if cut else finish * 1_000_000 - 2
    assert times == [first, first + 1, first + 2]


def test_parts_that_do_not_fit_after_1970_make_a_file_unreadable(tmp_path: Path) -> None:
    """More parts than there are microseconds until the finish; it ended the ingest."""
    parts = Stdf().add(5, 20, bytes([1, 1])).data[6:] * 1_000_002
    with pytest.raises(UnreadableFile, match="before 1970"):
        read(Stdf().data + parts + Stdf().mrr(1).data[6:], tmp_path)


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
