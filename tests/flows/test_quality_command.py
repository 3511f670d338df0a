"""`featurefab quality`: the report of the last days, and what is accepted as the new normal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from features.times import utc_now
from flows.cli import app
from flows.quality_page import quality_markdown
from infra.reports.quality_report import AcceptedChange, QualityReport
from shop_orders import orders_with, write_orders

DEFINITIONS = """
from shop_orders import orders_with, registry_of
REGISTRY = registry_of(orders_with())
"""
WHY = "<b>a new price list</b>"


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture
def shifted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[date]:
    """Eleven days of orders until today, taken in; the prices trebled on the first day that is returned."""
    (tmp_path / "counters.py").write_text(DEFINITIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("FEATUREFAB_REGISTRY", "counters:REGISTRY")
    monkeypatch.setenv("FEATUREFAB_HOME", str(tmp_path / "home"))
    first, draw = utc_now().date() - timedelta(days=10), np.random.default_rng(1)
    for number in range(11):
        day, prices = first + timedelta(days=number), draw.normal(30 if number > 7 else 10, 1, 50)
        write_orders(tmp_path, f"{day}", orders_with(), [f"{i},{day}T00:00:00Z,{p}" for i, p in enumerate(prices)])
    run("ingest", "orders")
    yield first + timedelta(days=8)
    sys.modules.pop("counters", None)


def test_a_shift_is_to_be_acted_on_until_it_is_accepted(shifted: date) -> None:
    before = json.loads(run("quality", "--json", code=1).stdout)
    assert [(found["rule"], found["day"]) for found in before["unusual"]] == [
        ("mean_shift", f"{shifted + timedelta(days=n)}") for n in (2, 1, 0)
    ]
    assert before["accepted"] == []
    asked = ("quality", "--accept", "orders", "--since", shifted, "--reason", WHY)
    assert json.loads(run(*asked, "--json").stdout) == {
        "source": "orders", "since": f"{shifted}", "days": 3, "findings": 0,
    }  # fmt: skip
    shown = run("quality").stdout
    assert WHY in shown
    after = json.loads(run("quality", "--json").stdout)
    assert (after["unusual"], after["level"]) == ([], "clear")
    (accepted,) = after["accepted"]
    assert (accepted["source"], accepted["since"], accepted["reason"]) == ("orders", f"{shifted}", WHY)
    assert "&lt;b&gt;a new price list&lt;/b&gt;" in Path(after["report"]).read_text("utf-8")
    assert "accepted as the new normal" in run(*asked).stdout


def test_what_cannot_be_accepted_is_one_line(shifted: date) -> None:
    tomorrow = utc_now().date() + timedelta(days=1)
    since, why = ("--since", shifted), ("--reason", WHY)
    for asked, says in {
        ("--accept", "orders", *why): "say of which source (--accept), since which day (--since), and why",
        (*since, *why): "say of which source (--accept)",
        why: "say of which source (--accept)",
        ("--accept", "orders", *since): "source 'orders': give a reason",
        ("--accept", "order", *since, *why): "source 'order' is not registered; there are ['orders']",
        ("--accept", "orders", "--since", "monday", *why): "'monday' is not a day: write it like 2026-03-01",
        ("--accept", "orders", "--since", tomorrow + timedelta(days=1), *why): "is after today",
    }.items():
        result = run("quality", *asked, code=1)
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert says in line
    assert len(json.loads(run("quality", "--json", code=1).stdout)["unusual"]) == 3


def test_the_page_in_prefect_says_what_was_accepted() -> None:
    now = datetime(2026, 3, 2)  # noqa: DTZ001 - it is not shown
    change = AcceptedChange("orders", date(2026, 3, 1), "a new price list", now)
    text = quality_markdown(QualityReport("A day", now, now, accepted=[change]), "page.html")
    assert "- orders is as it should be since 2026-03-01: a new price list" in text
