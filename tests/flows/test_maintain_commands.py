"""The commands ``maintain`` and ``reproduce`` and the maintain flow, on a small home."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner, Result

import crash_child
from card_payments import DAY, T0, last_payment, payments
from crash_child import payments_of
from flows.cli import app
from flows.maintain import maintain
from infra.wiring import fixed_clock, open_platform

FEATURES = ["last_payment:amount_last"]


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def document(*arguments: object) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of three days, whose tables have several small files."""
    monkeypatch.setenv("FEATUREFAB_REGISTRY", "crash_child:REGISTRY")
    monkeypatch.setenv("FEATUREFAB_HOME", str(tmp_path / "home"))
    for day in range(3):
        with open_platform(crash_child.REGISTRY, tmp_path / "home", fixed_clock(T0 + (day + 1) * DAY)) as platform:
            platform.store.write_source(payments, payments_of(day))
            platform.store.materialize_incremental(last_payment)
            platform.store.sync(last_payment)
    return tmp_path / "home"


@pytest.mark.usefixtures("home")
def test_a_dry_run_says_what_maintenance_then_does() -> None:
    said = {row["table"]: row["merged"] for row in document("maintain", "--dry-run")}
    assert said["bronze/payments"] == 4  # two dates with two files each
    assert "would be maintained" in run("maintain", "--dry-run").stdout
    assert {row["table"]: row["merged"] for row in document("maintain")} == said
    again = document("maintain")
    assert {(row["merged"], row["removed"]) for row in again} == {(0, 0)}  # nothing is old enough to remove


def test_a_training_set_is_reproduced_and_written(home: Path, tmp_path: Path) -> None:
    asked = pl.DataFrame({"card_id": [0, 1, 2], "event_timestamp": [T0 + DAY] * 3})
    with open_platform(crash_child.REGISTRY, home, fixed_clock(T0 + 4 * DAY)) as platform:
        made = platform.store.get_historical_features(asked, FEATURES)
        run_id = platform.store.log_training_set(made)
    shown = run("reproduce", run_id).stdout
    assert made.manifest["content_hash"] in shown
    assert "last_payment" in shown
    found = document("reproduce", run_id, "--output", tmp_path / "set.parquet")
    assert (found["equal"], found["rows"], found["content_hash"]) == (True, 3, made.manifest["content_hash"])
    assert pl.read_parquet(tmp_path / "set.parquet").equals(made.to_polars())
    refused = run("reproduce", "nosuch", code=1)
    assert (refused.stdout, refused.stderr.count("\n")) == ("", 1)
    assert "run 'nosuch' cannot be reproduced" in refused.stderr


@pytest.mark.usefixtures("home", "prefect")
def test_the_flow_removes_what_is_old_at_its_moment() -> None:
    assert sum(fact["removed"] for fact in maintain()) == 0
    facts = {fact["table"]: fact for fact in maintain(now=datetime.now(UTC) + timedelta(days=40))}
    assert facts["bronze/payments"]["removed"] == 4
