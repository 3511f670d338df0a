"""What runs of groups say on the command line: which groups, what was moved or empty, and the version."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from importlib.metadata import version

import polars as pl
import pytest
from typer.testing import CliRunner

from flows.choice import chosen, served
from flows.cli import app
from infra.wiring import connect

DEFINITIONS = """
import polars as pl
from features import Entity, Feature, FeatureGroup, Registry, Source

guest = Entity("guest", keys={"guest_id": pl.String})
stays, meals = (
    Source(name, schema={"guest_id": pl.String, "cost": pl.Float64, "at": pl.Datetime("us")}, event_timestamp="at")
    for name in ("stays", "meals")
)
ABOUT = {"grain": "event", "owner": "front-desk", "description": "What a guest paid."}
old, new = (
    FeatureGroup("stay_costs", number, guest, stays, [Feature("cost", pl.col("cost"))], **ABOUT)
    for number in ("1.0.0", "2.0.0")
)
eaten = FeatureGroup("meal_costs", "1.0.0", guest, meals, [Feature("cost", pl.col("cost"))], online=False, **ABOUT)
REGISTRY = Registry([old, eaten, new])
"""
FAR = "2999-01-01"


@pytest.fixture(autouse=True)
def inn(tmp_path, monkeypatch):
    """A home with a stay of the first of March and no meal."""
    (tmp_path / "inn_of_two_majors.py").write_text(DEFINITIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("FEATUREFAB_REGISTRY", "inn_of_two_majors:REGISTRY")
    monkeypatch.setenv("FEATUREFAB_HOME", str(tmp_path / "home"))
    with connect() as store:
        store.write_source(
            "stays", pl.DataFrame({"guest_id": ["ann"], "cost": [90.0], "at": [datetime(2026, 3, 1, 10, tzinfo=UTC)]})
        )
    yield store.registry
    sys.modules.pop("inn_of_two_majors", None)


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def said(result):
    """The notes on standard error, by group."""
    lines = [line.removeprefix("note: ") for line in result.stderr.splitlines()]
    return {line.partition(": ")[0]: line.partition(": ")[2] for line in lines}


def test_each_major_is_chosen_once_by_the_name_that_means_it(inn):
    assert sorted(chosen(inn)) == ["meal_costs", "stay_costs@1", "stay_costs@2"]
    assert chosen(inn, ["stay_costs@2", "stay_costs", "meal_costs"]) == ["meal_costs", "stay_costs@2"]
    assert [inn.group(name).version for name in chosen(inn, ["stay_costs@1"])] == ["1.0.0"]
    assert sorted(served(inn)) == ["stay_costs@1", "stay_costs@2"]
    assert served(inn, ["meal_costs"]) == ["meal_costs"]


def test_runs_tell_the_majors_apart():
    done = json.loads(run("materialize", "--json").stdout)
    assert {fact["group"]: fact["rows"] for fact in done} == {"stay_costs@1": 1, "stay_costs@2": 1, "meal_costs": 0}
    assert sorted(fact["group"] for fact in json.loads(run("sync", "--json").stdout)) == [
        "stay_costs@1",
        "stay_costs@2",
    ]
    shown = run("backfill", "2026-03-01", "2026-03-02", "stay_costs@1").stdout
    assert "stay_costs@1" in shown
    assert "@2" not in shown


def test_a_backfill_and_its_dry_run_say_what_was_moved_and_what_is_empty():
    foretold = run("backfill", "2026-03-01", FAR, "--dry-run")
    assert "nothing written" in foretold.stdout
    done = run("backfill", "2026-03-01", FAR)
    for notes in (said(foretold), said(done)):
        assert set(notes) == {"stay_costs@1", "stay_costs@2", "meal_costs"}
        assert all(note.startswith("the end was moved to now, 2") for note in notes.values())
        assert {name for name, note in notes.items() if "source 'meals' has no rows yet" in note} == {"meal_costs"}
    assert "moved" not in done.stdout


def test_notes_are_in_the_json_too():
    moved = run("backfill", "2026-03-01", FAR, "stay_costs", "--json")
    (fact,) = json.loads(moved.stdout)
    assert fact["note"] == said(moved)["stay_costs@2"]
    assert fact["rows"] == 1
    empty = "source 'stays' has no rows from 2026-03-02 00:00:00 to 2026-03-03 00:00:00 UTC"
    for interval, note in ((("2026-03-01", "2026-03-02"), ""), (("2026-03-02", "2026-03-03"), empty)):
        done = run("backfill", *interval, "stay_costs", "--json")
        assert [fact["note"] for fact in json.loads(done.stdout)] == [note]
        preview = run("backfill", *interval, "stay_costs", "--json", "--dry-run")
        assert json.loads(preview.stdout)["stay_costs@2"]["note"] == note
        assert said(done) == said(preview) == ({"stay_costs@2": note} if note else {})


def test_an_interval_in_the_future_is_one_line():
    result = run("backfill", "2998-01-01", FAR, "meal_costs", code=1)
    assert result.stdout == ""
    assert "start 2998-01-01 00:00:00 is not before end 2" in result.stderr
    assert "which is now" in result.stderr


@pytest.mark.usefixtures("prefect")
def test_the_flow_hands_the_note_on():
    from flows.backfill import backfill  # noqa: PLC0415  # Prefect reads its environment when it is imported

    (noted,) = backfill("2026-03-01", "2026-03-02", "meal_costs")
    assert (noted["group"], noted["note"]) == ("meal_costs", "source 'meals' has no rows yet")
    (fact,) = backfill("2026-03-01", "2026-03-02", "stay_costs")
    assert ("note" in fact, fact["rows"]) == (False, 1)


def test_the_version_is_told():
    assert run("--version").stdout == f"featurefab {version('featurefab')}\n"
