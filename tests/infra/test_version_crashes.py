"""Rollbacks, releases and applies that are killed, or done by two processes at once.

Children are killed by SIGKILL exactly before or after one commit and run again; then every table and the
online store hold what an undisturbed run leaves, to the row and the stamp.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import version_child
from card_payments import last_payment
from children import KILLED, run, run_at_once, tables
from crash_child import CARDS
from infra.storage.delta import DeltaLake
from infra.storage.lmdb_store import LmdbOnlineStore
from version_child import GROUP, ROLLBACK, STEPS, open_store, tenfold

CHILD = "version_child.py"
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


def content(home: Path) -> dict[str, list]:
    """Every row of every Delta table and of the online store, in an order of its own."""
    found = tables(home)
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
    _, printed = run(CHILD, "steps", home, ROLLBACK)
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
    code, printed = run(CHILD, "steps", home, ROLLBACK, when, number)
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
    assert 0 in run_at_once(CHILD, home, [("rollback", step)] * 2, *REFUSED)
    version_child.run_rollback(home, step)
    assert content(home) == content(alone)


def test_of_two_applies_at_once_both_survive_or_one_fails_clearly(tmp_path, begun):
    home = tmp_path / "home"
    shutil.copytree(begun, home)
    shutil.rmtree(home / "lake/registry")
    with open_store(home, 0, last_payment) as store:
        store.apply()
    codes = run_at_once(CHILD, home, [("apply", 1), ("apply", 2)], *REFUSED)
    applied = DeltaLake(home / "lake").definitions()
    assert codes.count(0) == 1
    assert sorted(applied["version"]) == ["1.0.0", "1.1.0"]


def test_a_killed_rollback_keeps_runs_from_undoing_it(tmp_path, begun):
    home = tmp_path / "home"
    shutil.copytree(begun, home)
    assert run(CHILD, "steps", home, ROLLBACK, "after", 2)[0] == KILLED  # held, and no row written yet
    with open_store(home, len(STEPS), tenfold) as store:
        assert store.versions.resting(store.registry.group(GROUP)).startswith("held at 1.0.0")
