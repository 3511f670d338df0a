from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from features.entity import check_name
from features.errors import DefinitionError
from infra.turns import turn

HOLDER = """
import sys
from pathlib import Path
from infra.turns import turn

with turn(Path(sys.argv[1]), sys.argv[2], sys.argv[3]) as holder:
    print(holder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(folder: Path, name: str, owner: str) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the turn until its input ends."""
    command = [sys.executable, "-c", HOLDER, str(folder), name, owner]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "None\n"
        yield process


def test_one_at_a_time_holds_the_turn_of_a_name(tmp_path: Path) -> None:
    with held(tmp_path, "amounts", "the nightly run"):
        with turn(tmp_path, "amounts", "mine", wait=0) as holder:
            assert holder == "the nightly run"
        with turn(tmp_path, "weights", "mine", wait=0) as holder:
            assert holder is None
    with turn(tmp_path, "amounts", "mine", wait=0) as holder:
        assert holder is None


def test_who_waits_is_told_once_for_whom_and_gets_the_turn_when_it_is_free(tmp_path: Path) -> None:
    told: list[str] = []
    with held(tmp_path, "amounts", "the nightly run") as other:
        with turn(tmp_path, "amounts", "mine", wait=0.6, waiting=told.append) as holder:  # looks at it three times
            assert holder == "the nightly run"
        assert told == ["the nightly run"]

        def leave(_: str) -> None:
            assert other.stdin is not None
            other.stdin.close()

        with turn(tmp_path, "amounts", "mine", waiting=leave) as holder:
            assert holder is None
            with turn(tmp_path, "amounts", "another", wait=0) as second:
                assert second == "mine"


def test_the_turn_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with held(tmp_path, "amounts", "the nightly run") as other:
        other.kill()
        other.wait()
        with turn(tmp_path, "amounts", "mine", wait=0) as holder:
            assert holder is None


def test_who_did_not_get_the_turn_does_not_end_it(tmp_path: Path) -> None:
    with held(tmp_path, "amounts", "the nightly run"):
        for _ in range(2):
            with turn(tmp_path, "amounts", "mine", wait=0) as holder:
                assert holder == "the nightly run"


def test_an_error_ends_the_turn(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), turn(tmp_path, "amounts", "mine"):
        raise ZeroDivisionError
    with turn(tmp_path, "amounts", "another", wait=0) as holder:
        assert holder is None


def test_a_name_has_one_file_that_names_its_last_owner_alone(tmp_path: Path) -> None:
    for owner in ["a backfill of everything", *["the nightly run"] * 20]:
        with turn(tmp_path / "turns", "amounts", owner):
            pass
    (file,) = (tmp_path / "turns").iterdir()
    assert file.read_text() == "the nightly run"


@pytest.mark.parametrize("name", ["../amounts", "a/b", "/amounts", "..", ""])
def test_what_could_leave_the_folder_is_no_group_name(name: str) -> None:
    with pytest.raises(DefinitionError):
        check_name("feature group", name)
