"""The backfill flow: what it shows and refuses; on threads, Dask and Ray it leaves the same tables."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from prefect.client.orchestration import get_client

from flows.backfill import backfill
from infra.wiring import connect
from up_home import REGISTRY, T0, fill

DAYS = 24


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    home = tmp_path_factory.mktemp("alone")
    fill(home, DAYS, 50)
    with connect(REGISTRY, home) as store:
        store.materialize("weekly", T0, T0 + timedelta(days=DAYS))
    return rows(home)


def rows(home: Path) -> pl.DataFrame:
    with connect(REGISTRY, home) as store:
        found = store.current_rows("weekly").select("card_id", "event_timestamp", "spent_sum_7d").collect()
    return found.sort("event_timestamp", "card_id")


def page(key: str = "backfill-weekly") -> str:
    asked = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC", "limit": 1}
    with get_client(sync_client=True) as client:
        (found,) = client.request("POST", "/artifacts/filter", json=asked).json()
    return str(found["data"])


@pytest.mark.usefixtures("prefect")
@pytest.mark.parametrize(
    ("runner", "module", "processes"),
    [
        ("threads", "prefect", 1),
        pytest.param("dask", "prefect_dask", 2, marks=pytest.mark.prove),
        pytest.param("ray", "prefect_ray", 2, marks=pytest.mark.prove),
    ],
)
def test_every_task_runner_leaves_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: str, module: str, processes: int, wanted: pl.DataFrame
) -> None:
    pytest.importorskip(module, reason=f"the extra for {runner} is not installed")
    for name, value in {
        "HOME": tmp_path,
        "REGISTRY": "up_home:REGISTRY",
        "TASK_RUNNER": runner,
    }.items():
        monkeypatch.setenv(f"FEATUREFAB_{name}", str(value))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
    fill(tmp_path, DAYS, 50)
    (facts,) = backfill(T0, T0 + timedelta(days=DAYS), "weekly", chunk_days=1, parallel=2)
    assert (facts["chunks"], facts["rows"]) == (DAYS, wanted.height)
    assert_frame_equal(rows(tmp_path), wanted, rel_tol=1e-12)  # sums of floats, in whatever order they came
    assert f"| processes at work | {processes} |" in page()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEATUREFAB_HOME", str(tmp_path))
    monkeypatch.setenv("FEATUREFAB_REGISTRY", "up_home:REGISTRY")
    fill(tmp_path, 3, 20)
    return tmp_path


@pytest.mark.usefixtures("prefect")
def test_a_dry_run_shows_what_would_change_and_writes_nothing(home: Path) -> None:
    (facts,) = backfill(T0, T0 + timedelta(days=2), "doubled", chunk_days=1, dry_run=True, reason="a price was wrong")
    assert facts["dry_run"]
    shown = page("backfill-plan-doubled")
    assert "Nothing was written, because a price was wrong." in shown
    assert "| 1 | 2025-01-01 | 2025-01-02 |" in shown
    with connect(REGISTRY, home) as store:
        assert store.current_rows("doubled").collect().is_empty()
    (done,) = backfill(T0, T0 + timedelta(days=2), "doubled", chunk_days=1)
    assert facts["new"] == done["rows"] > 0


@pytest.mark.usefixtures("prefect", "home")
def test_an_end_before_the_start_fails_with_a_sentence() -> None:
    state: Any = backfill(T0 + timedelta(days=1), T0, "doubled", return_state=True)
    assert state.is_failed()
    assert "start 2025-01-02 00:00:00 is not before end 2025-01-01 00:00:00" in state.message


@pytest.mark.usefixtures("prefect")
def test_a_future_end_is_cut_and_said(home: Path) -> None:
    now = T0 + timedelta(days=2, hours=12)
    (facts,) = backfill(T0, T0 + timedelta(days=30), "doubled", chunk_days=1, now=now)
    assert facts["note"].startswith("the end was moved to now, 2025-01-03 12:00:00 UTC")
    with connect(REGISTRY, home) as store:
        found = store.current_rows("doubled").collect()
    assert facts["rows"] == found.height > 0
    assert found["event_timestamp"].max() <= now


@pytest.mark.usefixtures("prefect")
def test_days_without_a_row_are_done_and_leave_nothing(home: Path) -> None:
    before = T0 - timedelta(days=3)
    (facts,) = backfill(before, T0, "doubled", chunk_days=1)
    assert (facts["chunks"], facts["rows"]) == (3, 0)
    assert page("backfill-doubled").count("| done | 0 |") == 3
    with connect(REGISTRY, home) as store:
        assert store.current_rows("doubled").collect().is_empty()
