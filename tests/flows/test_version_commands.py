"""plan, apply, rollback and release from the command line, and what scheduled runs make of a hold."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from features.errors import FeatureFabError
from flows.cli import app

pytestmark = pytest.mark.usefixtures("hotel")

DEFINITIONS = """
from datetime import date
import polars as pl
from features import Entity, Feature, FeatureGroup, FeatureService, Registry, Source

stays = Source(
    "stays", schema={{"guest": pl.String, "nights": pl.Int64, "left_at": pl.Datetime("us")}},
    event_timestamp="left_at", keys=["guest"],
)
group = FeatureGroup(
    "guest_stays", "{version}", Entity("guest", keys={{"guest": pl.String}}), stays,
    [Feature("nights_sum", {expr})], grain="event", owner="o", description="d", retire={retire},
)
REGISTRY = Registry([group, FeatureService("offer", ["guest_stays:nights_sum"], owner="o", description="d")])
"""


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def document(*arguments: object, code: int = 0) -> Any:
    return json.loads(run(*arguments, "--json", code=code).stdout)


def define(version: str, expr: str, retire: str = "None") -> None:
    """Write the definitions of a version, to be read by the next command."""
    Path("hotel_versions.py").write_text(DEFINITIONS.format(version=version, expr=expr, retire=retire))
    sys.modules.pop("hotel_versions", None)


@pytest.fixture
def hotel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a home where version 1.0.0 was materialized and published."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # the file changes within a second
    monkeypatch.setenv("FEATUREFAB_REGISTRY", "hotel_versions:REGISTRY")
    monkeypatch.setenv("FEATUREFAB_HOME", str(tmp_path / "home"))
    define("1.0.0", "pl.col('nights')")
    folder = tmp_path / "stays"
    folder.mkdir()
    (folder / "monday.csv").write_text("guest,nights,left_at\nann,2,2026-03-01T10:00\n")
    for command in (["ingest", folder], ["materialize"], ["sync"]):
        run(*command)
    yield tmp_path
    sys.modules.pop("hotel_versions", None)


def nights() -> int:
    return document("get-online", "guest_stays:nights_sum", "-e", "guest=ann")["values"]["nights_sum"][0]


def test_plan_ends_with_the_code_that_says_what_is_lacking() -> None:
    assert document("plan")["exit_code"] == 0
    define("1.0.0", "pl.col('nights') * 2")
    found = run("plan", code=3)
    assert "expression" in found.stdout
    assert "offer" in found.stdout
    assert "raise the version to 1.0.1 or more (patch)" in " ".join(found.stderr.split())
    define("1.1.0", "pl.col('guest')")
    (group,) = document("plan", code=2)["groups"]
    assert group["difference"]["breaking"] == ["nights_sum: type Int64 → String"]
    assert group["affected"]["services"] == ["offer"]
    assert "nothing was applied" in run("apply", code=1).stderr
    define("1.0.1", "pl.col('nights') * 2")
    assert run("plan").stderr == ""
    assert "changed" in run("apply").stdout
    assert document("plan")["groups"][0]["status"] == "unchanged"


def test_a_rollback_is_held_until_it_is_released() -> None:
    define("1.0.1", "pl.col('nights') * 10")
    run("apply")
    run("backfill", "2026-01-01", "2026-06-01")
    run("sync")
    assert nights() == 20
    assert document("rollback", "guest_stays", "1.0.0")["rows"] == 1
    assert nights() == 2
    passed_over = run("materialize")
    assert "guest_stays is passed over: held at 1.0.0" in " ".join(passed_over.stderr.split())
    assert "release it to go on" in " ".join(run("materialize", "guest_stays", code=1).stderr.split())
    assert document("plan")["groups"][0]["held"].startswith("held at 1.0.0")
    assert "released" in run("release", "guest_stays").stdout
    assert nights() == 20
    assert run("materialize").stderr == ""


@pytest.mark.usefixtures("prefect")
def test_flows_pass_over_what_is_held_or_retired() -> None:
    from flows.materialize import materialize  # noqa: PLC0415  # Prefect reads its environment when it is imported

    now = datetime(2026, 4, 1, tzinfo=UTC)
    assert "skipped" not in materialize(now=now)[0]
    define("1.0.0", "pl.col('nights')", retire="date(2026, 3, 31)")
    (fact,) = materialize(now=now)
    assert (fact["rows"], fact["skipped"]) == (0, "retired since 2026-03-31")
    assert nights() == 2


def test_what_cannot_be_rolled_back_is_one_line() -> None:
    for version in ("0.1.0", "1.0.0"):
        found = run("rollback", "guest_stays", version, code=1)
        assert found.stderr.startswith("error: feature group 'guest_stays'")
        assert not isinstance(found.exception, FeatureFabError)
