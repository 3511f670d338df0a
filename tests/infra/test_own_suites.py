"""A project names its suites as it names its registry; ingestion, quarantine and pushes judge by them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from expectations.suites import SUITES, suite_for
from features import Source
from features.errors import InvalidInput, SettingsError
from infra.ingest import open_ingestor
from infra.quarantine import open_quarantine
from infra.settings import PREFIX, isolated_environment, load_settings
from infra.wiring import open_platform

PROJECT = """
import polars as pl
from expectations.result import Severity
from expectations.rules import Between, Expression, suite_for, suite_of_group
from features import Entity, Feature, FeatureGroup, Registry, Source

orders = Source(
    "orders", schema={"id": pl.Int64, "at": pl.Datetime("us", "UTC"), "price": pl.Float64}, event_timestamp="at"
)
prices = FeatureGroup(
    "prices", "1.0.0", Entity("order", keys={"id": pl.Int64}), orders, [Feature("price", pl.col("price"))],
    grain="event", owner="shop", description="What an order cost.",
)
REGISTRY = Registry([prices])
SUITES = {
    "orders": suite_for(orders, rows=[Between(name="price_range", column="price", low=0)]),
    "prices": suite_of_group(
        prices,
        rows=[
            Between(name="price_sane", column="price", high=1000),
            Expression(name="whole", ok=pl.col("price") % 1 == 0, why="'price' has cents", severity=Severity.LOW),
        ],
    ),
}
MISSPELT = {"order": SUITES["orders"]}
LISTED = list(SUITES.values())
NAMESAKES = Registry([prices, Source("prices", orders.schema, "at")])
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a module of definitions and a file with a negative price."""
    (tmp_path / "tills.py").write_text(PROJECT)
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders/day.csv").write_text("id,at,price\n1,2026-03-01T00:00:00Z,5\n2,2026-03-01T00:00:00Z,-5\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv(f"{PREFIX}HOME", str(tmp_path / "home"))
    monkeypatch.setenv(f"{PREFIX}REGISTRY", "tills:REGISTRY")
    yield tmp_path
    sys.modules.pop("tills", None)


def quarantined(project: Path) -> list[list[str]]:
    with open_platform() as platform:
        open_ingestor(platform).ingest([project / "orders"])
        return open_quarantine(platform).rows("orders")["_rules"].to_list()


def test_rows_are_judged_by_the_projects_suite(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}SUITES", "tills:SUITES")
    assert quarantined(project) == [["price_range"]]
    with open_platform() as platform:
        assert open_quarantine(platform).release("orders").waiting == 1
    monkeypatch.delenv(f"{PREFIX}SUITES")
    with open_platform() as platform:
        assert open_quarantine(platform).release("orders").rows == 1


def test_without_one_the_definition_alone_counts(project: Path) -> None:
    assert quarantined(project) == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("MISSPELT", "['order'] are neither sources nor feature groups of the registry, which has ['orders'] and ["),
        ("LISTED", "'LISTED' is no mapping of names to suites in that module"),
        ("NOWHERE", "'NOWHERE' is no mapping of names to suites in that module"),
    ],
)
def test_suites_that_would_check_nothing_are_refused(
    project: Path, name: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{PREFIX}SUITES", f"tills:{name}")
    with open_platform() as platform:
        for opened in (open_ingestor, open_quarantine):
            with pytest.raises(SettingsError, match=re.escape(says)):
                opened(platform)
        with pytest.raises(SettingsError, match=re.escape(says)):
            platform.store.push("prices", [price(5.0)])
        assert platform.store.get_online_features(["prices:price"], [{"id": 1}]).to_dict()["price"] == [None]
    assert not (project / "home/lake/bronze").exists()


def price(amount: float, order: int = 1) -> dict[str, object]:
    return {"id": order, "event_timestamp": datetime(2026, 3, 1, tzinfo=UTC), "price": amount}


@pytest.mark.usefixtures("project")
def test_a_push_is_judged_by_the_projects_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}SUITES", "tills:SUITES")
    with open_platform() as platform:
        store = platform.store
        for rows in ([price(1001.0)], [price(1.0), price(1002.0, 2)]):
            with pytest.raises(InvalidInput, match=r"nothing was pushed: 'price' is above 1000 in 1 row\(s\)$"):
                store.push("prices", rows)
        assert store.push("prices", [price(5.5)]).rows == 1  # what is low is no reason
        assert store.push("prices", [price(6.5, 2), price(7.0, 3)]).rows == 2
    monkeypatch.delenv(f"{PREFIX}SUITES")
    with open_platform() as platform:
        assert platform.store.push("prices", [price(1001.0)]).rows == 1


@pytest.mark.usefixtures("project")
def test_a_name_that_means_a_source_and_a_group_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}SUITES", "tills:SUITES")
    monkeypatch.setenv(f"{PREFIX}REGISTRY", "tills:NAMESAKES")
    says = "suites 'tills:SUITES': ['prices'] are names of both a source and a feature group: rename one of the two"
    with open_platform() as platform, pytest.raises(SettingsError, match=re.escape(says)):
        open_ingestor(platform)


def test_a_module_that_is_not_there_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}SUITES", "cellar:SUITES")
    with open_platform() as platform, pytest.raises(SettingsError, match="suites 'cellar:SUITES': there is no module"):
        open_ingestor(platform)
    assert project.exists()


def test_flows_in_processes_of_their_own_find_the_suites_too(project: Path) -> None:
    assert f"{PREFIX}SUITES" not in isolated_environment(load_settings())
    (project / "featurefab.toml").write_text('suites = "tills:SUITES"\n')
    assert isolated_environment(load_settings())[f"{PREFIX}SUITES"] == "tills:SUITES"


def test_a_shipped_suite_is_for_the_shipped_source_alone() -> None:
    shipped = SUITES["parts"]
    namesake = Source("parts", schema={"at": pl.Datetime, "n": pl.Int64}, event_timestamp="at")
    assert suite_for(namesake).name == "parts"
    assert [rule.name for rule in suite_for(namesake).rows] == ["at_not_null"]
    assert suite_for(namesake, {"parts": shipped}) is shipped
