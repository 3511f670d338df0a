"""`featurefab quarantine`: what waits is shown, let in after a fix, or dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from support_stdf import Stdf


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that took in a file of thirty parts, one of which measured 123 456.75 V."""
    monkeypatch.setenv("FEATUREFAB_HOME", str(tmp_path / "home"))
    file = Stdf().mir("L1").wcr(200, 5, 4, 3).wir()
    for x, volts in enumerate([1.2] * 29 + [123_456.75]):
        file.pir().ptr(volts, limits=(1.0, 1.4)).prr(str(x), xy=(x, 0), test_ms=100)
    (tmp_path / "a.stdf").write_bytes(file.wrr().mrr().data)
    told("ingest", tmp_path / "a.stdf")
    return tmp_path


def told(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def document(*arguments: object) -> Any:
    return json.loads(told("quarantine", *arguments, "--json"))


@pytest.mark.usefixtures("home")
def test_what_waits_is_listed_and_shown():
    (waiting,) = document("list")["waiting"]
    assert (waiting["source"], waiting["rules"], waiting["rows"]) == ("test_results", "vdd_range", 1)
    shown = told("quarantine", "show", "test_results")
    assert "broke vdd_range (medium)" in shown
    assert "123456.75" in shown
    (row,) = document("show", "test_results", "--rule", "vdd_range")["rows"]
    assert row["result"] == 123_456.75
    assert document("show", "test_results", "--rule", "idd_range")["rows"] == []


@pytest.mark.usefixtures("home")
def test_a_row_that_breaks_its_rule_still_waits_until_it_is_dropped():
    done = document("release", "test_results", "--reason", "let us see")
    assert done == {"source": "test_results", "decision": "release", "rows": 0, "still_broken": 1}
    assert document("drop", "test_results")["rows"] == 1
    assert document("list") == {"waiting": []}


@pytest.mark.usefixtures("home")
def test_the_source_must_be_named():
    assert "say of which source, one of ['parts', 'test_results', 'wafers']" in told("quarantine", "drop", code=1)
