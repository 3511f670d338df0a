"""Turns: one run at a time is a night of a home, takes files in, works on a feature group or trains a model.

Another one waits, or leaves it.

A turn is a lock of the operating system on a file, which falls with its process however that ends. Runs on
other machines are kept apart by the tables themselves (ConcurrentRun).
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NIGHT, INGEST = "night-flow", "ingest-files"
"""Turns that are no group's: no group's name has a hyphen."""

_LOOK_SECONDS = 0.5


def training(model: str) -> str:
    """The name of the turn to train a model."""
    return f"train-{model}"


@contextmanager
def turn(
    folder: Path, name: str, owner: str, *, wait: float | None = None, waiting: Callable[[str], None] = lambda _: None
) -> Iterator[str | None]:
    """Hold the turn of a name; yields None, or who has it where it did not come within ``wait`` seconds.

    ``owner`` is what others are told of the holder, ``wait`` None is for ever. ``waiting`` is called once, with the
    holder, before the first wait.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.turn").open("a+", encoding="utf-8") as file:
        holder = _taken(file.fileno(), owner, file.name, wait, waiting)
        try:
            yield holder
        finally:
            if holder is None:
                fcntl.flock(file, fcntl.LOCK_UN)


def _taken(descriptor: int, owner: str, path: str, wait: float | None, waiting: Callable[[str], None]) -> str | None:
    began, told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = Path(path).read_text("utf-8") or "another run"
            if not told:
                waiting(holder)
            if wait is not None and time.monotonic() - began >= wait:
                return holder
            told = True
            time.sleep(_LOOK_SECONDS)
        else:
            Path(path).write_text(owner, "utf-8")
            return None
