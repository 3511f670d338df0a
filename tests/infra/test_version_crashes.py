"""Rollbacks, releases and applies that are killed, or done by two processes at once.

Children are killed by SIGKILL exactly before or after one commit and run again; then every table and the
online store hold what an undisturbed run leaves, to the row and the stamp.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import version_child
from crash_child import CARDS, last_payment
from infra.storage.delta import DeltaLake
from infra.storage.lmdb_store import LmdbOnlineStore
from version_child import GROUP, ROLLBACK, STEPS, open_store, tenfold

ROOT = Path(__file__).resolve().parents[2]
KILLED = -9
REFUSED = ("features.errors.ConcurrentRun", "features.errors.IncompatibleFeatureVersion")
"""What a process says that another was faster than."""
TABLE = last_payment.table_id
ENTITIES = [(number,) for number in range(CARDS)]

PLAN = "append lake/features/last_payment/v1"  # opened, a chunk for each date or two, closed
PUBLISHED = ["write online", "append lake/publish_log"]
HOLD = "append lake/registry/holds"
COMMITS = [
    *["create lake/registry/holds", HOLD, *[PLAN] * 5, *PUBLISHED],
    "append lake/bronze/payments",
    *[*[PLAN] * 5, *PUBLISHED, HOLD],
    *[*[PLAN] * 4, *PUBLISHED],
]
QUICK = {("after", 2), ("after", 4), ("before", 8), ("after", 8), ("after", 9), ("after", 16), ("before", 18)}


def start(line: str, home: Path, *fate: object) -> subprocess.Popen[str]:
    """A child that is about to work on a home, and waits for a word."""
    child = [sys.executable, str(ROOT / "tests/version_child.py"), line, str(home), *map(str, fate)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        child, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


def run(home: Path, *fate: object) -> tuple[int, list[str]]:
    """A child's exit code and what it printed after it was ready."""
    child = start("steps", home, *fate)
    printed, errors = child.communicate()
    assert child.returncode in (0, KILLED), errors
    return child.returncode, printed.splitlines()[1:]


def run_at_once(line: str, home: Path, firsts: list[int]) -> list[int]:
    """The exit codes of children that begin at the same moment; each ends well or is refused clearly."""
    children = [start(line, home, first) for first in firsts]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    errors = [child.communicate()[1] for child in children]
    codes = [child.returncode for child in children]
    for code, error in zip(codes, errors, strict=True):
        assert code == 0 or any(name in error for name in REFUSED), error
    return codes


def content(home: Path) -> dict[str, list]:
    """Every row of every Delta table and of the online store, in an order of its own."""
    found = {}
    for log in sorted((home / "lake").rglob("_delta_log")):
        frame = pl.read_delta(str(log.parent))
        found[str(log.parent.relative_to(home))] = sorted(frame.select(sorted(frame.columns)).rows(), key=repr)
    online = LmdbOnlineStore(home / "online")
    found["online"] = [*online.read(TABLE, ENTITIES), *online.publications(TABLE)]
    online.close()
    return found


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A home where two versions wrote and nothing was rolled back yet."""
    home = tmp_path_factory.mktemp("begun") / "home"
    version_child.run_steps(home, 0, ROLLBACK)
    return home


@pytest.fixture(scope="module")
def undisturbed(begun, tmp_path_factory) -> tuple[list[str], dict[str, list]]:
    """What an undisturbed child commits, and what it leaves."""
    home = tmp_path_factory.mktemp("undisturbed") / "home"
    shutil.copytree(begun, home)
    code, printed = run(home, ROLLBACK)
    assert code == 0
    return [text for text in printed if not text.isdigit()], content(home)


def test_these_are_the_commits(undisturbed):
    assert undisturbed[0] == COMMITS


@pytest.mark.parametrize(
    ("when", "number"),
    [
        pytest.param(when, number, id=f"{when}-{number}-{what}", marks=marks)
        for number, what in enumerate(COMMITS, 1)
        for when in ("before", "after")
        for marks in [() if (when, number) in QUICK else (pytest.mark.prove,)]
    ],
)
def test_killed_at_a_commit_and_run_again_leaves_what_an_undisturbed_run_leaves(
    tmp_path, begun, undisturbed, when, number
):
    home = tmp_path / "home"
    shutil.copytree(begun, home)
    code, printed = run(home, ROLLBACK, when, number)
    assert code == KILLED
    version_child.run_steps(home, int(printed[-1]))
    assert content(home) == undisturbed[1]


@pytest.mark.parametrize("step", [ROLLBACK, ROLLBACK + 2], ids=["rollback", "release"])
def test_two_at_once_do_it_once(tmp_path, begun, step):
    home, alone = tmp_path / "at-once/home", tmp_path / "alone/home"
    for one in (home, alone):
        shutil.copytree(begun, one)
        version_child.run_steps(one, ROLLBACK, step)
    version_child.run_rollback(alone, step)
    assert 0 in run_at_once("rollback", home, [step, step])
    version_child.run_rollback(home, step)
    assert content(home) == content(alone)


def test_of_two_applies_at_once_both_survive_or_one_fails_clearly(tmp_path, begun):
    home = tmp_path / "home"
    shutil.copytree(begun, home)
    shutil.rmtree(home / "lake/registry")
    with open_store(home, 0, last_payment) as store:
        store.apply()
    codes = run_at_once("apply", home, [1, 2])
    applied = DeltaLake(home / "lake").definitions()
    assert codes.count(0) == 1
    assert sorted(applied["version"]) == ["1.0.0", "1.1.0"]


def test_a_killed_rollback_keeps_runs_from_undoing_it(tmp_path, begun):
    home = tmp_path / "home"
    shutil.copytree(begun, home)
    assert run(home, ROLLBACK, "after", 2)[0] == KILLED  # held, and no row written yet
    with open_store(home, len(STEPS), tenfold) as store:
        assert store.versions.resting(store.registry.group(GROUP)).startswith("held at 1.0.0")
