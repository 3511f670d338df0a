"""Stores whose commits can be cut short or interrupted: crashes and races at a chosen commit, in one process.

Every subclass here is a real store; around each commit it asks ``Faults`` what is to happen.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

from infra.storage.delta import DeltaLake
from infra.storage.delta_io import Table
from infra.storage.lmdb_store import LmdbOnlineStore
from infra.storage.memory_store import MemoryOnlineStore
from infra.storage.push_log import LmdbPushLog

T = TypeVar("T")


class Crash(BaseException):
    """The end of a process, as far as one process can play it: nothing but the test catches it."""


class Faults:
    """What happens at the commits of the next action: nothing, a crash or something in between.

    ``done`` are the names of the commits that were made since it was armed.
    """

    def __init__(self) -> None:
        self.done: list[str] = []
        self._left, self._lake_left = 0, 0
        self._after = False
        self._between: Callable[[], None] | None = None

    def crash(self, number: int, *, after: bool) -> None:
        """Crash at a commit (1 is the next), before or after it is made."""
        self.done, self._left, self._after = [], number, after

    def interrupt(self, number: int, between: Callable[[], None]) -> None:
        """Let something else happen just before a commit (1 is the next) that no lock guards."""
        self.done, self._lake_left, self._between = [], number, between

    def disarm(self) -> None:
        """Let commits be made as usual."""
        self._left = self._lake_left = 0

    def commit(self, name: str, step: Callable[[], T], *, locked: bool = False) -> T:
        """Make a commit, or crash."""
        self._left -= 1
        due = self._left == 0
        if due and not self._after:
            raise Crash(name)
        if not locked:
            self._lake_left -= 1
            if self._lake_left == 0 and self._between is not None:
                self._between()
        made = step()
        self.done.append(name)
        if due:
            raise Crash(name)
        return made


class FaultyLake(DeltaLake):
    """A Delta lake with faults."""

    def __init__(self, root, faults):
        super().__init__(root)
        self._faults = faults

    def table(self, path):
        if path not in self._tables:
            self._tables[path] = FaultyTable(f"{self.root}/{path}", path, self._faults)
        return self._tables[path]


class FaultyTable(Table):
    def __init__(self, uri, path, faults):
        super().__init__(uri)
        self._path, self._faults = path, faults

    def append_once(self, rows, app_id, number, **options):
        step, plan = super().append_once, (options.get("metadata") or {}).get("featurefab.plan")
        name = f"{self._path} {app_id} {json.loads(plan).get('kind', '')}" if plan else f"{self._path} {app_id}"
        return self._faults.commit(name, lambda: step(rows, app_id, number, **options))


def faulty_online(kind):
    """A class of online stores with faults; ``faults`` is set on its objects."""

    class FaultyOnline(kind):
        faults = Faults()

        def write(self, *arguments):
            step = super().write
            return self.faults.commit("online write", lambda: step(*arguments))

        def push(self, *arguments):
            step = super().push
            return self.faults.commit("online push", lambda: step(*arguments), locked=True)

    return FaultyOnline


FaultyMemory = faulty_online(MemoryOnlineStore)
FaultyLmdb = faulty_online(LmdbOnlineStore)


class FaultyPushLog(LmdbPushLog):
    """A push log with faults."""

    def __init__(self, path, faults):
        super().__init__(path)
        self._faults = faults

    def _commit(self, name, step):
        return self._faults.commit(f"log {name}", step, locked=True)

    def append(self, *arguments, **options):
        step = super().append
        return self._commit("append", lambda: step(*arguments, **options))

    def restamp(self, *arguments):
        step = super().restamp
        return self._commit("restamp", lambda: step(*arguments))

    def serve(self, *arguments):
        step = super().serve
        return self._commit("serve", lambda: step(*arguments))

    def drop(self, *arguments):
        step = super().drop
        return self._commit("drop", lambda: step(*arguments))
