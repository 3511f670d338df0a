"""Children that work on a home and are killed: how they are started and met, and what their homes hold.

A child is a script beside this file (``crash_child.py`` says what it takes and prints) that is told by
name what to do. It is ready once it says so, and begins when it is told to or its input ends.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import polars as pl

ROOT = Path(__file__).resolve().parents[1]
KILLED = -9
"""The exit code of a child that SIGKILL ended."""


def start(script: str, line: str, home: Path, *fate: object) -> subprocess.Popen[str]:
    """A child that is about to work on a home, and waits for a word."""
    child = [sys.executable, str(ROOT / "tests" / script), line, str(home), *map(str, fate)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        child, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


def run(script: str, line: str, home: Path, *fate: object) -> tuple[int, list[str]]:
    """The exit code of a child that ended well or was killed, and what it printed after it was ready."""
    child = start(script, line, home, *fate)
    printed, errors = child.communicate()
    assert child.returncode in (0, KILLED), errors
    return child.returncode, printed.splitlines()[1:]


def run_for(seconds: float, script: str, line: str, home: Path) -> list[str]:
    """What a child printed that was killed so long after it began, if it had not ended by then."""
    child = start(script, line, home)
    assert child.stdout.readline() == "ready\n"
    child.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        child.wait(seconds)
    child.kill()
    assert child.wait() in (0, KILLED)
    printed = child.stdout.read().splitlines()
    child.stdout.close()
    child.stderr.close()
    return printed


def run_at_once(script: str, home: Path, lines: Sequence[tuple[str, int]], *refused: str) -> list[int]:
    """The exit codes of children that begin at the same moment; each ends well or with an error that is named."""
    children = [start(script, line, home, first) for line, first in lines]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    errors = [child.communicate()[1] for child in children]
    codes = [child.returncode for child in children]
    for code, error in zip(codes, errors, strict=True):
        assert code == 0 or any(name in error for name in refused), error
    return codes


def tables(home: Path) -> dict[str, list[tuple]]:
    """Every row of every Delta table of a home, in an order of its own."""
    found = {}
    for log in sorted((home / "lake").rglob("_delta_log")):
        frame = pl.read_delta(str(log.parent))
        rows = frame.select(sorted(frame.columns)).rows()
        found[str(log.parent.relative_to(home))] = sorted(rows, key=repr)
    return found
