"""``featurefab init``: a project that stands in a folder of its own and does at once what its README says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from features.times import utc_now
from flows.cli import app
from flows.deployments import deployments
from infra.settings import PREFIX, load_settings
from infra.sources.tabular import TabularReader
from infra.wiring import load_registry

ROOT = Path(__file__).resolve().parents[2]
CONSOLE = Path(sys.executable).parent / "featurefab"
FILES = {"README.md", "featurefab.toml", "landing/orders/fortnight.csv", "shop.py"}


def shell(folder: Path, line: str) -> str:
    """What a line prints that is typed into a shell of its own, without trouble."""
    environment = {"PATH": f"{CONSOLE.parent}:{os.defpath}", "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    command = ["bash", "-euc", line]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new project, as the working folder."""
    result = CliRunner().invoke(app, ["init", str(tmp_path / "my shop")])
    assert result.exit_code == 0, result.output
    monkeypatch.chdir(tmp_path / "my shop")
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("HOME", "REGISTRY"):
        monkeypatch.delenv(f"{PREFIX}{name}")
    yield tmp_path / "my shop"
    sys.modules.pop("shop", None)


def typed(project: Path) -> list[str]:
    """The commands that the project's README says to type."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (project / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_the_small_line_from_the_file_to_what_is_served(tmp_path: Path) -> None:
    made = json.loads(shell(tmp_path, "featurefab init 'my shop' --json"))
    project = tmp_path / "my shop"
    assert (made["folder"], set(made["files"])) == (str(project), FILES)
    assert files(project) == FILES

    (taken,) = json.loads(shell(project, "featurefab ingest landing/ --json"))["files"]
    assert (taken["status"], taken["rows"], taken["quarantined"]) == ("ingested", 14, 0)
    shell(project, "featurefab materialize")
    shell(project, "featurefab sync")

    # Within seven days Ann ordered for 60, 30 and 90, Bob for 18; Dan did ten days ago, Eve never.
    names = ["ann", "bob", "dan", "eve"]
    ask = " ".join(["featurefab get-online --json", *(f"-e customer_id={name}" for name in names)])
    assert json.loads(shell(project, f"{ask} checkout"))["values"] == {
        "customer_id": names,
        "orders_7d": [3, 1, 0, None],
        "mean_order_7d": [60.0, 18.0, None, None],
        "last_amount": [90.0, 18.0, 99.9, None],
        "times_usual": [1.5, 1.0, None, None],
    }
    assert json.loads(shell(project, f"{ask} weekly_spending:spent_7d last_order:price_per_item"))["values"] == {
        "customer_id": names,
        "spent_7d": [180.0, 18.0, 0.0, None],
        "price_per_item": [45.0, 9.0, 24.975, None],
    }


@pytest.mark.prove
def test_what_the_readme_says_to_type_prints_what_it_says(project: Path) -> None:
    *first, read, _ = typed(project)
    for line in first:
        shell(project, line)
    shown = [line.split() for line in shell(project, read).splitlines()]
    assert {(row[0], row[1]) for row in shown if "PRESENT" in row} == {
        *(("orders_7d", "3"), ("mean_order_7d", "60"), ("last_amount", "90"), ("times_usual", "1.5")),
    }


def test_the_readme_names_commands_and_files_that_there_are(project: Path) -> None:
    text = (project / "README.md").read_text("utf-8")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined] # a group has commands
    named = set(re.findall(r"featurefab ([a-z-]+)", "\n".join([*typed(project), *re.findall(r"`([^`\n]+)`", text)])))
    assert len(named) > 5
    assert named - commands.keys() == set()
    assert all((project / name).exists() for name in re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))


def test_its_orders_are_two_weeks_until_yesterday(project: Path) -> None:
    source = load_registry("shop:REGISTRY").source("orders")
    delivered = TabularReader(source).read(project / "landing/orders/fortnight.csv").tables["orders"]
    days = [at.date() for at in delivered["ordered_at"]]
    today = utc_now().date()
    assert days == [days[-1] - timedelta(days=ago) for ago in reversed(range(14))]
    assert today - days[-1] in (timedelta(days=1), timedelta(days=2))  # two where midnight has just passed


def test_its_deployments_are_for_its_own_groups(project: Path) -> None:
    settings = load_settings()
    assert settings.home == project / "home"
    made = {deployment.name: deployment for deployment in deployments(settings)}
    own = {name for name in made if name.startswith("materialize-")}
    assert own == {"materialize-weekly_spending", "materialize-last_order"}
    assert made["materialize-last_order"].parameters == {"groups": ["last_order"]}
    (schedule,) = made["materialize-weekly_spending"].schedules or []
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("15 0 * * *", "UTC")


@pytest.mark.parametrize("name", [".", "shop.py", "landing"])
def test_a_folder_that_holds_something_is_left_alone(project: Path, name: str) -> None:
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    result = CliRunner().invoke(app, ["init", name])
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, result.stdout) == (1, "")
    assert line.startswith(f"error: {name} ")
    assert line.endswith(": name another folder")
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["init", str(tmp_path)])
    assert result.exit_code == 0
    assert files(tmp_path) == FILES
    assert set(result.stdout.splitlines()[:-1]) == {str(tmp_path / name) for name in FILES}
