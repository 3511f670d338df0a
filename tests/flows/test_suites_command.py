"""`featurefab suites`: by which rules sources and feature groups are judged, shown or saved."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from flows.cli import app

PROJECT = """
import polars as pl
from dataclasses import replace
from expectations.result import Severity
from expectations.rules import Between, Expression, suite_for, suite_of_group
from features import Entity, Feature, FeatureGroup, Registry, Source

orders = Source(
    "orders", schema={"id": pl.Int64, "at": pl.Datetime("us", "UTC"), "price": pl.Float64}, event_timestamp="at"
)
price = Feature("price", pl.col("price"), range=(0, None))
prices = FeatureGroup(
    "prices", "1.0.0", Entity("order", keys={"id": pl.Int64}), orders, [price],
    grain="event", owner="shop", description="What an order cost.",
)
REGISTRY = Registry([prices, replace(prices, version="2.0.0")])
NAMESAKES = Registry([prices, Source("prices", orders.schema, "at")])
whole = Expression(name="whole", ok=pl.col("price") % 1 == 0, why="'price' has cents", severity=Severity.LOW)
SUITES = {"orders": suite_for(orders, rows=[whole]), "prices@1": suite_of_group(prices, rows=[whole])}
MISSPELT = {"price": SUITES["prices@1"]}
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "stalls.py").write_text(PROJECT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("FEATUREFAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FEATUREFAB_REGISTRY", "stalls:REGISTRY")
    monkeypatch.setenv("FEATUREFAB_SUITES", "stalls:SUITES")
    yield tmp_path
    sys.modules.pop("stalls", None)


def told(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["suites", *(str(argument) for argument in arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def complaint(*arguments: object) -> str:
    result = told(*arguments, code=1)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def rules(row: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    return row["schema_rules"], row["row_rules"]


def test_every_source_and_group_has_its_line() -> None:
    orders, *groups = json.loads(told("--json").stdout)
    assert (orders["name"], orders["of"]) == ("orders", "source")
    assert rules(orders) == ({"critical": 1, "high": 3, "medium": 2}, {"medium": 1, "low": 1})
    assert {(group["name"], group["of"]) for group in groups} == {("prices", "group"), ("prices@1", "group")}
    implied = {"high": 1, "medium": 3}
    assert {group["name"]: rules(group)[1] for group in groups} == {
        "prices": implied,
        "prices@1": {**implied, "low": 1},
    }
    title, head, first, *_ = told().stdout.splitlines()
    assert (title, head.split(), first.split()[:2]) == (
        "suites", ["name", "of", "schema", "rules", "row", "rules"], ["orders", "source"],
    )  # fmt: skip


def test_they_are_saved_as_great_expectations_reads_them(project: Path) -> None:
    saved = json.loads(told("--save", project / "gx/expectations", "--json").stdout)
    assert [Path(row["file"]).name for row in saved] == [f"{row['name']}.json" for row in saved]
    assert {path.name for path in (project / "gx/expectations").iterdir()} == {Path(row["file"]).name for row in saved}
    for row in saved:
        suite = json.loads(Path(row["file"]).read_text("utf-8"))
        assert suite["name"] == row["name"]
        assert len(suite["expectations"]) == sum(sum(counts.values()) for counts in rules(row))
    assert "prices@1.json" in told("--save", "gx").stdout


def test_what_cannot_be_told_or_saved_is_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "taken").touch()
    assert "suites cannot be saved in taken: " in complaint("--save", "taken")
    monkeypatch.setenv("FEATUREFAB_SUITES", "stalls:MISSPELT")
    assert "['price'] are neither sources nor feature groups" in complaint()
    monkeypatch.delenv("FEATUREFAB_SUITES")
    monkeypatch.setenv("FEATUREFAB_REGISTRY", "stalls:NAMESAKES")
    assert "suites of ['prices'] cannot be saved" in complaint("--save", "gx")
    assert not (project / "gx").exists()
