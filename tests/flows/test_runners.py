"""Backfills on threads, Dask and Ray leave the same tables."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

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


def page() -> str:
    asked = {"artifacts": {"key": {"any_": ["backfill-weekly"]}}, "sort": "CREATED_DESC", "limit": 1}
    with get_client(sync_client=True) as client:
        (found,) = client.request("POST", "/artifacts/filter", json=asked).json()
    return str(found["data"])


@pytest.mark.usefixtures("prefect")
@pytest.mark.parametrize(
    ("runner", "module", "processes"),
    [
        ("threads", "prefect", 1),
        ("dask", "prefect_dask", 2),
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
