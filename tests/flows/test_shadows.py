"""A working folder with Python files under the name of one of our packages: one line, whatever is run there."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from features.errors import SettingsError
from flows.backfill import backfill
from flows.materialize import materialize
from flows.nightly import take_in
from infra.settings import load_settings
from infra.shadows import PACKAGES, refuse_shadows
from infra.wiring import connect, load_registry

ROOT = Path(__file__).resolve().parents[2]
CONSOLE = [str(Path(sys.executable).parent / "featurefab")]
MODULE = [sys.executable, "-m", "flows"]
EMPTY = "from features import Registry\nREGISTRY = Registry([])\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def refusal(folder: Path) -> str:
    return f"{folder} has the name of a package that featurefab consists of: rename it"


def write(file: Path, text: str = "") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("start", "path", "name", "command"),
    [
        (CONSOLE, [], "features", "status"),
        (CONSOLE, [], "infra", "config"),
        (CONSOLE, ["."], "features", "plan"),
        (CONSOLE, ["."], "infra", "nightly"),
        (MODULE, [], "features", "config"),
        (MODULE, [], "infra", "status"),
    ],
)
def test_a_command_says_what_to_rename(here: Path, start: list[str], path: list[str], name: str, command: str) -> None:
    write(here / name / "__init__.py")
    environment = {"PATH": os.defpath, "HOME": str(here), "PYTHONPATH": os.pathsep.join([*path, str(ROOT)])}
    done = subprocess.run([*start, command], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {refusal(here / name)}\n")
    assert [entry.name for entry in here.iterdir()] == [name]


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("file", ["{}.py", "{}/__init__.py"])
def test_modules_and_folders_are_found_by_settings_and_registry(here: Path, name: str, file: str) -> None:
    write(here / "own_definitions.py", EMPTY)
    write(here / file.format(name))
    for ask in (load_settings, connect, lambda: load_registry("own_definitions:REGISTRY")):
        with pytest.raises(SettingsError) as refused:
            ask()
        assert str(refused.value) == refusal(here / file.format(name).split("/")[0])


@pytest.mark.usefixtures("here")
def test_a_flow_run_is_refused() -> None:
    write(Path("features/__init__.py"))
    day = datetime(2026, 3, 1, tzinfo=UTC)
    for run in (materialize.fn, lambda: backfill.fn(day, day), lambda: take_in(None, day)):
        with pytest.raises(SettingsError, match="features has the name of a package"):
            run()


@pytest.mark.parametrize("file", ["features/definitions/mine.py", "features/definitions.py"])
def test_definitions_are_not_taken_from_our_package_where_a_file_here_was_meant(here: Path, file: str) -> None:
    write(here / file, EMPTY)
    with pytest.raises(SettingsError, match="features has the name of a package"):
        load_registry("features.definitions:REGISTRY")


def test_other_files_of_that_name_and_deeper_ones_hide_nothing(here: Path) -> None:
    write(here / "own_definitions_too.py", EMPTY)
    write(here / "features" / "2026.csv")
    write(here / "infra" / "deploy.py")
    write(here / "infra" / "cloud" / "__init__.py")
    (here / "flows").touch()
    load_settings()
    assert load_registry("own_definitions_too:REGISTRY").groups == {}
    del sys.modules["own_definitions_too"]


def test_a_checkout_of_ours_is_no_shadow(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("features/__init__.py", "infra/__init__.py", "infra/shadows.py"):  # one that is not the one running
        write(here / file)
    refuse_shadows()
    monkeypatch.chdir(ROOT)
    refuse_shadows("features.definitions")
