"""The simulated fab: what its files hold is its truth, and only the process change moves it."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import stdf_convert
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from features.errors import InvalidInput
from infra.sources.simulated_fab import SimulatedFab, SimulatedWafer, big_wafer
from infra.sources.simulated_probing import TESTS, round_map
from infra.sources.stdf_writer import ProbedParts, ProbeTest, WaferRun, stdf_bytes, touchdown_of

SMALL = SimulatedFab(days=4, dies_per_wafer=60)
NAMED_RANGES = {"vdd": (1.0, 1.4), "idd": (0, 200), "frequency": (1000, 3000), "temperature": (-40, 125)}
COLUMN = {test.name: i for i, test in enumerate(TESTS)}
Read = Callable[[bytes], dict[str, pl.DataFrame]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Parse a file's bytes with stdf-convert into a frame per record type."""

    def parse(content: bytes) -> dict[str, pl.DataFrame]:
        path = tmp_path / ("file.stdf.gz" if content[:2] == b"\x1f\x8b" else "file.stdf")
        path.write_bytes(content)
        return {name: pl.DataFrame(table) for name, table in stdf_convert.tables(path).items()}

    return parse


def wafers(fab: SimulatedFab) -> list[SimulatedWafer]:
    return [wafer for day in range(fab.days) for wafer in fab.wafers_of(day)]


def headers(content: bytes, order: str) -> Iterator[tuple[int, int, int]]:
    """A walk over the record headers by hand: (REC_TYP, REC_SUB, REC_LEN)."""
    at = 0
    while at < len(content):
        length, kind, sub = struct.unpack_from(f"{order}HBB", content, at)
        at += 4 + length
        yield kind, sub, length
    assert at == len(content), "the last record ends with the file"


def bits(column: pl.Series, mask: int) -> np.ndarray:
    return np.array([bool(value[0] & mask) for value in column])


def in_part_order(results: pl.DataFrame, parts: pl.DataFrame) -> pl.DataFrame:
    """Results by part and test: the n-th record of a test on a site belongs to the site's n-th part."""
    results = results.with_columns(n=pl.int_range(pl.len()).over("SITE_NUM", "TEST_NUM"))
    parts = parts.with_row_index("part").select("SITE_NUM", "part", n=pl.int_range(pl.len()).over("SITE_NUM"))
    return results.join(parts, on=["SITE_NUM", "n"]).sort("part", "TEST_NUM")


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_holds_the_truth(read: Read, big_endian: bool, zipped: bool) -> None:
    fab = SimulatedFab(days=1, dies_per_wafer=60, big_endian=big_endian, gzip=zipped)
    for wafer in fab.wafers_of(0):
        tables, truth = read(wafer.content), wafer.parts
        prr = tables["PRR"]
        assert len(tables["PIR"]) == len(prr) == wafer.part_count
        assert len(tables["PTR"]) + len(tables["FTR"]) == wafer.result_count == wafer.part_count * len(TESTS)
        for name, column in {"X_COORD": truth.x, "Y_COORD": truth.y, "TEST_T": truth.test_ms}.items():
            assert prr[name].to_list() == column.tolist()
        assert prr["HARD_BIN"].to_list() == truth.hard_bins(TESTS).tolist()
        assert prr["SOFT_BIN"].to_list() == truth.soft_bins(TESTS).tolist()
        assert prr["PART_ID"].to_list() == [f"{i:06d}" for i in range(1, wafer.part_count + 1)]
        assert (bits(prr["PART_FLG"], 0x08) == ~truth.passed).all()

        ptr, ftr = (in_part_order(tables[kind], prr) for kind in ("PTR", "FTR"))
        parametric = [i for i, test in enumerate(TESTS) if not test.functional]
        shape = (wafer.part_count, len(parametric))
        assert (ptr["RESULT"].to_numpy().reshape(shape) == truth.values[:, parametric]).all()
        assert (bits(ptr["TEST_FLG"], 0x80).reshape(shape) == truth.failed[:, parametric]).all()
        assert (bits(ftr["TEST_FLG"], 0x80) == truth.failed[:, COLUMN["at_speed"]]).all()
        assert ptr["TEST_TXT"].to_list() == [TESTS[i].name for i in parametric] * wafer.part_count
        assert ftr["TEST_TXT"].unique().to_list() == ["at_speed"]


@pytest.mark.parametrize("big_endian", [False, True])
def test_records_follow_each_other_as_the_specification_says(big_endian: bool) -> None:
    wafer = next(SimulatedFab(days=1, dies_per_wafer=30, big_endian=big_endian).wafers_of(0))
    assert wafer.content[:6] == (b"\x00\x02" if big_endian else b"\x02\x00") + bytes([0, 10, 2 - big_endian, 4])
    kinds = [(kind, sub) for kind, sub, _ in headers(wafer.content, ">" if big_endian else "<")]
    assert kinds[:5] == [(0, 10), (1, 10), (1, 80), (2, 30), (2, 10)]  # FAR MIR SDR WCR WIR
    assert kinds[-1] == (1, 20)  # MRR
    one_part = [(5, 10), *[(15, 20) if test.functional else (15, 10) for test in TESTS], (5, 20)]
    assert kinds[5 : 5 + len(one_part)] == one_part, "the first die is probed alone"
    touchdown = [kind for kind in one_part for _ in range(4)]
    assert kinds[5 + len(one_part) :][: len(touchdown)] == touchdown, "then four sites interleave"


def test_only_a_test_s_first_record_has_limits_and_unit(read: Read) -> None:
    ptr = read(next(SMALL.wafers_of(0)).content)["PTR"]
    first = ptr.unique("TEST_NUM", keep="first", maintain_order=True)
    for test, record in zip(TESTS, first.iter_rows(named=True), strict=False):
        assert (record["TEST_NUM"], record["TEST_TXT"], record["UNITS"]) == (test.number, test.name, test.unit)
        assert (record["LO_LIMIT"], record["HI_LIMIT"]) == (np.float32(test.lo), np.float32(test.hi))
        assert record["OPT_FLAG"][0] & 0xF0 == 0, "both limits are valid"
    later = ptr.join(first, on="byte_offset", how="anti")
    assert later.height == ptr.height - len(first)
    short = later.group_by("TEST_NUM").agg(pl.col("rec_len").n_unique(), longest=pl.col("rec_len").max())
    assert short["rec_len"].to_list() == [1] * len(first)
    assert max(short["longest"].to_list()) < min(first["rec_len"].to_list())


def test_header_times_geometry_and_summaries_agree(read: Read) -> None:
    for wafer in SMALL.wafers_of(1):
        tables, run = read(wafer.content), wafer.run
        (mir,), (wir,), (wrr,), (mrr,), (wcr,), (pcr,) = (
            tables[kind].to_dicts() for kind in ("MIR", "WIR", "WRR", "MRR", "WCR", "PCR")
        )
        assert mir["START_T"] == wir["START_T"] == run.started_at.timestamp()
        assert wrr["FINISH_T"] == mrr["FINISH_T"] == wafer.finished_at.timestamp()
        assert (mir["LOT_ID"], mir["PART_TYP"], mir["NODE_NAM"]) == (run.lot_id, run.product, run.tester)
        assert wir["WAFER_ID"] == wrr["WAFER_ID"] == wafer.wafer_id
        assert wcr["WF_UNITS"] == 3, "millimetres"
        assert (wcr["DIE_WID"], wcr["DIE_HT"]) == (np.float32(run.die_width_mm), np.float32(run.die_height_mm))
        assert (wcr["CENTER_X"], wcr["CENTER_Y"]) == (run.center_x, run.center_y)
        for counts in (wrr, pcr):
            assert counts["PART_CNT"] == wafer.part_count
            assert counts["RTST_CNT"] == wafer.part_count - wafer.die_count
            assert counts["GOOD_CNT"] == wafer.parts.passed.sum()
        for kind, bins in (("HBIN", wafer.parts.hard_bins(TESTS)), ("SBIN", wafer.parts.soft_bins(TESTS))):
            summary = tables[f"{kind[0]}BR"]
            assert dict(zip(summary[f"{kind}_NUM"], summary[f"{kind}_CNT"], strict=True)) == {
                int(number): int((bins == number).sum()) for number in np.unique(bins)
            }
        assert tables["TSR"]["FAIL_CNT"].to_list() == wafer.parts.failed.sum(axis=0).tolist()


def test_the_same_seed_gives_the_same_bytes_whatever_else_is_generated(tmp_path: Path) -> None:
    whole = {wafer.file_name: wafer.content for wafer in wafers(SMALL)}
    told: list[str] = []
    paths = SimulatedFab(days=4, dies_per_wafer=60).write(
        tmp_path / "landing", range(2, 4), progress=lambda wafer: told.append(wafer.file_name)
    )
    assert [path.name for path in paths] == told == list(whole)[10:]
    assert all(path.read_bytes() == whole[path.name] for path in paths)
    assert len(set(whole.values())) == len(whole) == 20
    other = SimulatedFab(seed=8, days=4, dies_per_wafer=60)
    assert not {wafer.content for wafer in wafers(other)} & set(whole.values())
    zipped = {wafer.file_name: wafer.content for wafer in wafers(SimulatedFab(days=4, dies_per_wafer=60, gzip=True))}
    assert {name.removesuffix(".gz"): gzip.decompress(content) for name, content in zipped.items()} == whole
    assert all(content[4:8] == b"\0" * 4 for content in zipped.values()), "no time in the gzip header"


def test_a_tester_runs_one_wafer_at_a_time_within_its_day() -> None:
    fab = SimulatedFab(days=2, dies_per_wafer=60, wafers_per_day=14, testers=("T1", "T2", "T3"))
    runs = [wafer.run for wafer in wafers(fab)]
    for tester in fab.testers:
        mine = [run for run in runs if run.tester == tester]
        assert len(mine) >= 8
        assert all(before.finished_at <= after.started_at for before, after in pairwise(mine))
    for day in range(2):
        begin = fab.start + timedelta(days=day)
        todays = runs[14 * day : 14 * (day + 1)]
        assert all(begin < run.started_at < run.finished_at < begin + timedelta(hours=23.5) for run in todays)
        assert todays[-1].started_at - todays[0].started_at > timedelta(hours=15), "spread over the day"


def test_parts_take_no_longer_than_their_wafer() -> None:
    for wafer in SMALL.wafers_of(0):
        touchdown = touchdown_of(wafer.part_count, SMALL.sites)
        slowest = [wafer.parts.test_ms[touchdown == i].max() for i in range(touchdown[-1] + 1)]
        assert sum(slowest) / 1000 < (wafer.finished_at - wafer.run.started_at).total_seconds()


def test_every_day_runs_the_same_mix_of_lots_products_and_testers() -> None:
    mixes = []
    for day in range(SMALL.days):
        runs = [wafer.run for wafer in SMALL.wafers_of(day)]
        mixes.append([(run.product, run.tester, run.wafer_id) for run in runs])
        assert len({run.lot_id for run in runs}) == 2
    assert mixes == [mixes[0]] * SMALL.days
    assert {(product, tester) for product, tester, _ in mixes[0]} == {
        (product, tester) for product in SMALL.products for tester in SMALL.testers
    }
    runs = [wafer.run for wafer in wafers(SMALL)]
    assert len({(run.lot_id, run.wafer_id) for run in runs}) == len(runs)


def test_the_defaults_are_a_fab_of_the_demo_s_size() -> None:
    fab = SimulatedFab()
    per_day = list(fab.wafers_of(0))
    assert fab.days * len({wafer.lot_id for wafer in per_day}) >= 40
    assert fab.days * len(per_day) >= 200
    assert min(wafer.die_count for wafer in per_day) * fab.days * len(per_day) >= 60_000
    assert sum(wafer.result_count for wafer in per_day) * fab.days >= 500_000


@pytest.mark.parametrize(
    ("dies", "width", "height"), [(1, 2.0, 2.0), (300, 2.4, 2.1), (300, 2.0, 2.5), (999, 1.0, 4.0)]
)
def test_die_maps_are_round_and_symmetric(dies: int, width: float, height: float) -> None:
    wafer = round_map(dies, width, height)
    cells = set(zip(wafer.x.tolist(), wafer.y.tolist(), strict=True))
    assert dies <= len(cells) == len(wafer.x) <= dies + 8
    assert (wafer.x.min(), wafer.y.min()) == (1, 1)
    x, y = wafer.center
    assert {(2 * x - a, 2 * y - b) for a, b in cells} == cells
    distance = {(a, b): np.hypot((a - x) * width, (b - y) * height) for a, b in cells}
    reach = max(distance.values())
    edge = {(a + i, b + j) for a, b in cells for i, j in ((1, 0), (-1, 0), (0, 1), (0, -1))} - cells
    assert all(np.hypot((a - x) * width, (b - y) * height) > reach for a, b in edge), "no hole, no corner"
    assert wafer.wafer_mm > 2 * reach


def test_some_failing_dies_are_probed_again_under_a_new_id() -> None:
    fab = SimulatedFab(days=10)
    retested = recovered = failing = 0
    for wafer in wafers(fab):
        cells = list(zip(wafer.parts.x.tolist(), wafer.parts.y.tolist(), strict=True))
        first, again = cells[: wafer.die_count], cells[wafer.die_count :]
        assert len(set(first)) == len(first), "every die once, then the retests"
        passed = dict(zip(first, wafer.parts.passed.tolist(), strict=False))
        assert not any(passed[cell] for cell in again)
        retested += len(again)
        recovered += int(wafer.parts.passed[wafer.die_count :].sum())
        failing += len(first) - sum(passed.values())
    assert 0.3 < retested / failing < 0.5, "the default retest rate is 0.4"
    assert 0 < recovered < retested
    never = SimulatedFab(days=1, retest_rate=0.0)
    assert all(wafer.part_count == wafer.die_count for wafer in never.wafers_of(0))


def test_yield_falls_towards_the_edge_and_differs_between_wafers() -> None:
    run = wafers(SimulatedFab(days=10, products=("ALPHA",)))
    radius = round_map(300, 2.4, 2.1).radius
    fails = np.array([~wafer.parts.passed[: wafer.die_count] for wafer in run])
    inner, outer = fails[:, radius < 0.5].mean(), fails[:, radius > 0.92].mean()
    assert outer > 2 * inner
    # Without clusters, a wafer's number of fails would vary like a binomial count.
    per_wafer = fails.sum(axis=1)
    assert per_wafer.var() > 1.5 * (fails.mean(axis=0) * (1 - fails.mean(axis=0))).sum()


def test_clean_values_stay_in_the_validated_ranges() -> None:
    for wafer in wafers(SimulatedFab(days=6, process_change_day=3)):
        for name, (low, high) in NAMED_RANGES.items():
            values = wafer.parts.values[:, COLUMN[name]].astype(np.float64)
            assert low <= values.min()
            assert values.max() <= high
        assert wafer.parts.test_ms.min() >= 10
        assert wafer.parts.test_ms.max() <= 500


def test_planted_readings_are_out_of_range_and_the_rest_is_untouched() -> None:
    clean, planted = SimulatedFab(days=5), SimulatedFab(days=5, bad_reading_rate=0.01, retest_rate=1.0)
    bad = 0
    for before, after in zip(wafers(clean), wafers(planted), strict=True):
        dies = before.die_count
        differs = ~np.isclose(before.parts.values[:dies], after.parts.values[:dies], rtol=0, equal_nan=True)
        for row, column in np.argwhere(differs):
            low, high = NAMED_RANGES[TESTS[column].name]
            assert not low <= after.parts.values[row, column] <= high
            assert after.parts.failed[row, column]
        bad += int(differs.any(axis=1).sum())
    assert 0.007 < bad / (25 * 302) < 0.013


def test_the_process_change_moves_vdd_and_yield_and_nothing_else() -> None:
    before, after = SimulatedFab(days=6), SimulatedFab(days=6, process_change_day=3)
    for day in range(6):
        for old, new in zip(before.wafers_of(day), after.wafers_of(day), strict=True):
            if day < 3:
                assert old.content == new.content
                continue
            dies, vdd, at_speed = old.die_count, COLUMN["vdd"], COLUMN["at_speed"]
            others = [i for i in range(len(TESTS)) if i not in (vdd, at_speed)]
            assert np.array_equal(old.parts.values[:dies, others], new.parts.values[:dies, others])
            assert np.array_equal(old.parts.failed[:dies, others], new.parts.failed[:dies, others])
            assert np.array_equal(old.parts.test_ms[:dies], new.parts.test_ms[:dies])
            assert np.allclose(new.parts.values[:dies, vdd] - old.parts.values[:dies, vdd], 0.05, atol=1e-6)
            assert new.parts.failed[:dies, at_speed].sum() > old.parts.failed[:dies, at_speed].sum()


def test_the_supply_is_what_the_process_says() -> None:
    fab = SimulatedFab(days=4, process_change_day=2)
    means = [np.concatenate([w.parts.values[:, COLUMN["vdd"]] for w in fab.wafers_of(day)]).mean() for day in range(4)]
    assert np.allclose(means, [1.2, 1.2, 1.25, 1.25], atol=0.001)
    yields = [np.concatenate([w.parts.passed for w in fab.wafers_of(day)]).mean() for day in range(4)]
    assert min(yields[:2]) - max(yields[2:]) > 0.04


def test_no_other_test_drifts_from_day_to_day() -> None:
    days = [np.concatenate([wafer.parts.values for wafer in SimulatedFab(days=30).wafers_of(day)]) for day in range(30)]
    spread = np.concatenate(days)[:, :-1].std(axis=0)
    daily = np.array([values[:, :-1].mean(axis=0) for values in days]) / spread
    # A day has 1,500 parts: their mean has a standard error of 0.026; 4 of them is far for 330 such means.
    assert np.abs(daily - daily.mean(axis=0)).max() < 0.13
    slope = np.polyfit(np.arange(30), daily, 1)[0]
    assert np.abs(slope * 30).max() < 0.08, "no trend over the month"


def test_the_early_tests_predict_the_final_bin() -> None:
    probed = [wafer.parts for wafer in wafers(SimulatedFab(days=12))]
    early = np.concatenate([parts.values[:, :10] for parts in probed])
    caught = np.concatenate([parts.failed[:, :10].any(axis=1) for parts in probed])
    fails = np.concatenate([~parts.passed for parts in probed])
    half = len(fails) // 2
    for rows in (np.ones(len(fails), dtype=bool), ~caught):  # all parts; those that no early limit catches
        train, test = rows.copy(), rows.copy()
        train[half:], test[:half] = False, False
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(early[train], fails[train])
        auc = roc_auc_score(fails[test], model.predict_proba(early[test])[:, 1])
        assert 0.75 < auc < 0.97, "worth predicting, and not given away"


@pytest.mark.parametrize("parts", [1, 2, 4, 5, 6])
@pytest.mark.parametrize("sites", [1, 4])
def test_any_number_of_parts_and_sites_can_be_written(read: Read, parts: int, sites: int) -> None:
    tests = (ProbeTest(1, "low only", lo=0.5), ProbeTest(2, "high only", "µV", hi=0.5), ProbeTest(3, "no limit"))
    values = np.linspace(0, 1, 3 * parts, dtype=np.float32).reshape(parts, 3)
    failed = np.stack([values[:, 0] < 0.5, values[:, 1] > 0.5, np.zeros(parts, dtype=bool)], axis=1)
    count = np.arange(parts)
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    run = WaferRun("L", "W", "P", "T", midnight, midnight, 1.0, 1.0, 50.0, 0, 0, sites=sites)
    tables = read(stdf_bytes(run, tests, ProbedParts(count, -count, count, values, failed), repeat_limits=True))
    assert tables["PRR"]["Y_COORD"].to_list() == (-count).tolist()
    assert set(tables["PRR"]["SITE_NUM"]) <= set(range(1, sites + 1))
    ptr = in_part_order(tables["PTR"], tables["PRR"])
    assert (ptr["RESULT"].to_numpy().reshape(parts, 3) == values).all()
    flags = np.array([value[0] for value in ptr["OPT_FLAG"]]).reshape(parts, 3)
    assert (flags & 0xC0 == [0x80, 0x40, 0xC0]).all(), "bit 6: no low limit, bit 7: no high limit"
    crossed = np.array([value[0] for value in ptr["PARM_FLG"]]).reshape(parts, 3)
    assert ((crossed & 0x10 > 0)[:, 0] == failed[:, 0]).all(), "bit 4: below the low limit"
    assert ((crossed & 0x08 > 0)[:, 1] == failed[:, 1]).all(), "bit 3: above the high limit"


def test_the_big_wafer_is_one_clean_large_file(read: Read) -> None:
    content = big_wafer(parts=1_000, tests=40)
    tables = read(content)
    assert (len(tables["PRR"]), len(tables["PTR"])) == (1_000, 40_000)
    assert 75 < len(content) / 40_000 < 85, "so a million results make about 80 MB"
    assert tables["PTR"]["TEST_TXT"].n_unique() == 40
    for name, (low, high) in NAMED_RANGES.items():
        assert tables["PTR"].filter(pl.col("TEST_TXT") == name)["RESULT"].is_between(low, high).all()
    assert 0.8 < (tables["PRR"]["HARD_BIN"] == 1).to_numpy().mean() < 1
    assert big_wafer(parts=1_000, tests=40) == content != big_wafer(parts=1_000, tests=40, seed=8)
    assert read(big_wafer(parts=1_000, tests=40, big_endian=True))["PTR"]["RESULT"].equals(tables["PTR"]["RESULT"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"days": 0}, "at least one"),
        ({"testers": ()}, "at least one"),
        ({"seed": -1}, "seed >= 0"),
        ({"start": datetime(2026, 3, 2, 6, tzinfo=UTC)}, "midnight"),
        ({"wafers_per_day": 500}, "too many for 2 tester"),
        ({"products": ("P" * 300,)}, "PART_TYP .* 300 bytes"),
    ],
)
def test_settings_that_make_no_fab_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        list(SimulatedFab(**settings).wafers_of(0))  # type: ignore[arg-type]


def test_a_day_outside_the_fab_is_refused() -> None:
    with pytest.raises(InvalidInput, match="day 4 is none of this fab's: give 0 to 3"):
        SMALL.wafers_of(4)
