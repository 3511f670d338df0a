"""Steps of plans and batches on Delta tables, as seen by runs that come late or work at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from features.errors import ConcurrentRun, StorageError
from features.stores import Plan
from infra.ledger import Candidate, Entry, Ledger
from infra.storage.delta import DeltaLake
from infra.storage.delta_io import Table

T0 = datetime(2026, 3, 1, tzinfo=UTC)
ROWS = pl.DataFrame({"name": ["O'Hara", "x"], "value": [1, 2]})


def plan(number: int, chunks: int = 1) -> Plan:
    stamp = T0 + timedelta(hours=number)
    return Plan(number, "incremental", stamp, None, {"payments": (None, number)}, [(T0, stamp)] * chunks)


def feature_table(folder):
    """The table as a process of its own would open it."""
    return DeltaLake(folder).feature_table("daily/v1", {"card_id": pl.Int64(), "n": pl.Int64()}, ["card_id"])


def test_a_plan_is_opened_by_one_run_alone(tmp_path):
    first, second = feature_table(tmp_path), feature_table(tmp_path)
    first.open_plan(plan(1))
    with pytest.raises(ConcurrentRun, match="another run opened plan 1 first; run again"):
        second.open_plan(plan(1))


def test_a_plan_closed_late_takes_nothing_back(tmp_path):
    first, second = feature_table(tmp_path), feature_table(tmp_path)
    for number in (1, 2):
        first.open_plan(plan(number))
        first.close_plan(plan(number), {"payments": 10 * number})
    second.close_plan(plan(1), {"payments": 10})
    assert second.state().closed == 2
    assert second.cursor("payments") == 20
    assert second.unfinished() is None


def test_an_ingest_cannot_list_files_that_another_took_since_it_looked_them_up(tmp_path):
    first, second = Ledger(DeltaLake(tmp_path)), Ledger(DeltaLake(tmp_path))
    file = Candidate("a.stdf", "hash", 10, None)
    last, _ = first.last()
    assert first.known() == (set(), set())
    second.close(second.open(1, [file], T0), [Entry(file, "ingested")], {})
    with pytest.raises(ConcurrentRun, match="run again"):
        first.open(last + 1, [file], T0)
    assert first.entries().height == 1


def test_the_first_to_close_a_batch_decides_what_the_ledger_says(tmp_path):
    first, second = Ledger(DeltaLake(tmp_path)), Ledger(DeltaLake(tmp_path))
    file = Candidate("a.stdf", "hash", 10, None)
    batch = first.open(1, [file], T0)
    second.close(batch, [Entry(file, "rejected", "gone", redeliver=True)], {})
    assert first.close(batch, [Entry(file, "ingested")], {})["status"].to_list() == ["rejected"]
    assert first.known() == (set(), set())


def test_threads_that_share_a_table_do_a_step_once(tmp_path):
    table = Table(str(tmp_path / "table"))
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda step: table.append_once(ROWS, "step", step // 8), range(40)))
    assert sum(version is not None for version in versions) == 5
    assert table.scan().collect().height == 5 * ROWS.height


def test_marks_never_go_back(tmp_path):
    table = Table(str(tmp_path / "table"))
    for number, mark in enumerate((5, 3), 1):
        table.append_once(ROWS, "step", number, marks={"newest": mark})
    assert table.reached("newest") == 5


def test_deleted_rows_are_told_by_the_change_feed(tmp_path):
    table = Table(str(tmp_path / "table"))
    version = table.append_once(ROWS, "step", 1)
    table.delete({"name": ["O'Hara", "nobody"]})
    assert table.scan().collect()["name"].to_list() == ["x"]
    assert table.changes(version, table.version(), ["name"])["name"].to_list() == ["O'Hara"]


def test_nothing_is_committed_where_no_row_is_to_be_deleted(tmp_path):
    table = Table(str(tmp_path / "table"))
    table.delete({"name": ["x"]})
    assert table.version() is None
    version = table.append_once(ROWS, "step", 1)
    table.delete({"name": ["x' OR '1' = '1"]})
    assert table.version() == version
    assert table.took("step", 1)
    assert not table.took("step", 2)


def test_definitions_recorded_at_once_are_all_kept(tmp_path):
    lakes = [DeltaLake(tmp_path) for _ in range(4)]
    fields = {"version": "1.0.0", "fingerprint": "f", "definition": "{}", "applied_at": T0, "applied_by": "me"}
    rows = [pl.DataFrame([{"name": f"g{i}", **fields}]) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda lake, row: lake.record_definition(row, 1), lakes, rows))
    assert not lakes[0].record_definition(rows[0], 1)
    assert lakes[0].record_definition(rows[0], 2)
    assert sorted(lakes[1].definitions()["name"]) == ["g0", "g0", "g1", "g2", "g3"]


@pytest.mark.parametrize("name", ["a b", "ü", "a#b", "a?b", "a{b}", "plain"])
def test_a_folder_may_have_any_name_that_delta_can_hold(tmp_path, name):
    table = Table(str(tmp_path / name / "table"))
    rows = pl.DataFrame({"n": [1, 2], "event_date": [date(2026, 3, 1), date(2026, 3, 2)]})
    assert table.append_once(rows, "app", 1, partition_by=["event_date"]) == 1
    assert Table(str(tmp_path / name / "table")).scan(1, since=date(2026, 3, 2)).collect()["n"].to_list() == [2]


def test_a_column_of_another_type_is_refused_by_name(tmp_path):
    table = Table(str(tmp_path / "table"))
    table.append_once(pl.DataFrame({"n": [1]}), "app", 1)
    with pytest.raises(StorageError, match=r"column\(s\) n \(.*long.*\) with another type"):
        table.append_once(pl.DataFrame({"n": [0.5]}), "app", 2)
