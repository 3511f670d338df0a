"""The night goes on where files have not come or a station fails, says so, and the next night repairs it."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from prefect.client.orchestration import get_client

from expectations.rules import Expression, suite_of_group
from features import Entity, Feature, FeatureGroup, Registry, Source
from features.errors import InvalidInput, StationsLost
from flows.nightly import nightly, take_in
from infra.wiring import connect

NOW = datetime(2026, 3, 2, tzinfo=UTC)
ABOUT = {"owner": "front-desk", "description": "Stays of a guest.", "grain": "event", "sla": "1d"}

guest = Entity("guest", keys={"guest_id": pl.Int64()})
SOURCES = [
    Source(name, schema={"guest_id": pl.Int64(), "at": pl.Datetime("us", "UTC")}, event_timestamp="at")
    for name in ("stays", "meals")
]
REGISTRY = Registry(
    [
        FeatureGroup(source.name, "1.0.0", guest, source, [Feature("there", pl.lit(value=True))], **ABOUT)
        for source in SOURCES
    ]
)
eaten = FeatureGroup("eaten", "1.0.0", guest, SOURCES[1], [Feature("there", pl.lit(value=True))], **ABOUT)
EATEN = Registry([eaten])
SUITES = {"eaten": suite_of_group(eaten, rows=[Expression(name="away", ok=~pl.col("there"), why="still there")])}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hotel with one stay and one meal."""
    monkeypatch.setenv("FEATUREFAB_HOME", str(tmp_path))
    monkeypatch.setenv("FEATUREFAB_REGISTRY", f"{__name__}:REGISTRY")
    with connect(REGISTRY, tmp_path, lambda: NOW) as store:
        for source in SOURCES:
            store.write_source(source, pl.DataFrame({"guest_id": [1], "at": [NOW - timedelta(hours=3)]}))
    return tmp_path


def page() -> str:
    """The newest page of a night."""
    asked = {"artifacts": {"key": {"any_": ["night"]}}, "sort": "CREATED_DESC", "limit": 1}
    with get_client(sync_client=True) as client:
        (found,) = client.request("POST", "/artifacts/filter", json=asked).json()
    return str(found["data"])


def told(text: str) -> dict[str, str]:
    """Its lines."""
    lines = [line.removeprefix("- **").split("**: ", 1) for line in text.splitlines() if line.startswith("- **")]
    return dict(lines)


@pytest.mark.usefixtures("prefect")
def test_a_landing_without_a_file_for_us_does_not_end_the_night(tmp_path):
    assert take_in(str(tmp_path), NOW) == {"files": 0, "skipped": f"nothing in {tmp_path}"}
    (tmp_path / ".gitkeep").touch()
    assert take_in(str(tmp_path), NOW)["skipped"] == f"{tmp_path}: the folder is empty"
    (tmp_path / "README.txt").write_text("Put files here.")
    assert "no file below the path(s) feeds a known source" in take_in(str(tmp_path), NOW)["skipped"]


def test_a_landing_that_is_named_must_be_there(tmp_path):
    with pytest.raises(InvalidInput, match="there is no such folder"):
        take_in(str(tmp_path / "nowhere"), NOW)


@pytest.mark.usefixtures("prefect", "home")
def test_a_good_night_has_a_page_that_says_so():
    state: Any = nightly(now=NOW, return_state=True)
    assert state.is_completed()
    text = page()
    assert text.startswith("## Night of 2026-03-02: all is well\n")
    assert told(text) | {"report": ""} == {
        "came in": "nothing in " + told(text)["came in"].removeprefix("nothing in "),
        "refused": "nothing",
        "changed": "stays 1 rows; meals 1 rows",
        "rules broken": "nothing",
        "passed over": "nothing",
        "late": "nothing",
        "online agrees": "100.00% of 2 entities",
        "quality": "No row came in.",
        "report": "",
    }


@pytest.mark.usefixtures("prefect", "home")
def test_a_night_whose_rows_break_a_rule_says_which_and_once(monkeypatch):
    monkeypatch.setenv("FEATUREFAB_REGISTRY", f"{__name__}:EATEN")
    monkeypatch.setenv("FEATUREFAB_SUITES", f"{__name__}:SUITES")
    (fact,) = nightly(now=NOW)["materialized"]
    assert fact["broken"] == ["away: still there in 1 of 1 rows (100.0%)"]
    assert page().startswith("## Night of 2026-03-02: with warnings\n")
    assert told(page())["rules broken"] == "eaten, away: still there in 1 of 1 rows (100.0%)"
    assert "of 1 feature rows, worst: eaten, away (high), 1 values" in told(page())["quality"]
    nightly(now=NOW + timedelta(hours=1))
    assert told(page())["rules broken"] == "nothing"


@pytest.mark.usefixtures("prefect")
def test_a_night_with_a_blocked_file_is_completed_with_a_warning(home):
    folder = home / "landing" / "stays"
    folder.mkdir(parents=True)
    (folder / "march.csv").write_text("guest_id,at\nnobody,yesterday\n")
    state: Any = nightly(now=NOW, return_state=True)
    assert state.is_completed()
    assert "## Night of 2026-03-02: with warnings" in page()
    assert "march.csv" in told(page())["refused"]


@pytest.mark.usefixtures("prefect")
def test_a_station_that_fails_is_named_and_the_next_night_does_its_work(home):
    source = home / "lake" / "bronze" / "stays"
    shutil.move(source / "event_date=2026-03-01", home / "elsewhere")
    with pytest.raises(StationsLost) as lost:
        nightly(now=NOW)
    assert "materialize stays" in lost.value.lost
    (facts,) = lost.value.facts
    assert [fact["group"] for fact in facts["materialized"]] == ["meals"]
    text = page()
    assert text.startswith("## Night of 2026-03-02: lost a station\n")
    assert "a table cannot be read" in told(text)["lost materialize stays"]

    shutil.move(home / "elsewhere", source / "event_date=2026-03-01")
    repaired = nightly(now=NOW + timedelta(hours=1))
    assert {fact["group"]: fact["rows"] for fact in repaired["materialized"]} == {"stays": 1, "meals": 0}
    assert "all is well" in page()


@pytest.mark.usefixtures("prefect", "home")
def test_a_night_says_what_is_late():
    nightly(now=NOW)
    nightly(now=NOW + timedelta(days=2))
    assert "with warnings" in page()
    assert told(page())["late"] == "stays, newest of 2026-03-01 21:00; meals, newest of 2026-03-01 21:00"
