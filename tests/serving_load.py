"""`featurefab serve` in a process of its own, clients that ask it without a pause, and what their answers may be."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import httpx
import polars as pl

from infra.parity import check_parity
from infra.wiring import connect
from state_home import CARDS, NOT_ASKED, REGISTRY, made_at, pushed, state, twin
from up_home import until

ROOT = Path(__file__).resolve().parents[1]
READ, PUSH = "/get-online-features", "/push"
FIRST_PUSHED = 1_000_000
"""From here on the cards are the pushers' own, one each."""
Card = tuple[int | None, int | None, datetime, str]
"""What is answered of a card: version and twin, their time and status."""


class Processes:
    """The server and the children that work on a home, with settings of their own."""

    def __init__(self, home: Path, settings: Mapping[str, str], *options: str) -> None:
        named = {"FEATUREFAB_HOME": str(home), "FEATUREFAB_REGISTRY": "state_home:REGISTRY", **settings}
        path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        self._environment = {**os.environ, **named, **path}
        self._log = home.parent / "log"
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = int(listener.getsockname()[1])
        self._options = options
        self._server: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self) -> None:
        """Start the server; it listens when this returns."""
        self._server = self._start("-m", "flows", "serve", f"--port={self.port}", *self._options)
        said = self._server.stdout.readline()  # type: ignore[union-attr]
        assert self.url in said, self._log.read_text()

    def kill_server(self) -> None:
        """End the server by SIGKILL, and wait until nobody listens."""
        if self._server is not None:
            self._server.kill()
            self._server.communicate()
            self._server = None
            until(lambda: not self._listens())

    def syncer(self) -> subprocess.Popen[str]:
        """A child that makes versions, about to be ready."""
        return self._start(str(ROOT / "tests/state_home.py"))

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        with self._log.open("a") as log:
            return subprocess.Popen(
                [sys.executable, *arguments],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def _listens(self) -> bool:
        with socket.socket() as asking:
            return asking.connect_ex(("127.0.0.1", self.port)) == 0


@dataclass
class Load:
    """Clients that read and push in a loop. What they are answered is counted, and what is wrong of it is kept.

    A synced card has a version from ``done``, as it was before the question, to ``begun``, and never an older one than
    before; a pushed card has the version that was acknowledged last. ``lost`` is true while a store has come back
    empty: a card may then be missing or old.
    """

    url: str
    begun: int = 0
    done: int = 0
    lost: bool = False
    told: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    acknowledged: dict[int, list[tuple[datetime, int]]] = field(default_factory=dict)
    _over: Event = field(default_factory=Event)
    _given_up: Event = field(default_factory=Event)
    _lock: Lock = field(default_factory=Lock)

    @contextmanager
    def running(self, seed: int, readers: int = 2, pushers: int = 2) -> Iterator[None]:
        """Ask and push while the block lasts, and if it ends well until every push that was begun is acknowledged."""
        threads = [Thread(target=self._read, args=(random.Random(seed + number),)) for number in range(readers)]
        threads += [Thread(target=self._push, args=(FIRST_PUSHED + number,)) for number in range(pushers)]
        for thread in threads:
            thread.start()
        try:
            yield
        except BaseException:
            self._given_up.set()
            raise
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def answers(self, more: int) -> None:
        """Wait for so many more answers from the store, and as many pushes as there are pushers."""
        stored, pushes = self.told["store"] + more, self.told["pushed"] + 2
        until(lambda: self.wrong or (self.told["store"] >= stored and self.told["pushed"] >= pushes))
        assert not self.wrong, self.wrong[:3]

    def _read(self, chosen: random.Random) -> None:
        newest: Counter[tuple[str, int]] = Counter()
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as client:
            while not self._over.is_set():
                group, cards = chosen.choice(("state", "backed")), chosen.sample(range(CARDS), 20)
                least, lost = self.done, self.lost
                origin, found = self._cards(client, group, cards)
                lost = lost or self.lost
                for card_id, answer in zip(cards, found, strict=bool(found)):
                    version, status = answer[0], answer[3]
                    if origin == "default":
                        right = answer[:2] == (NOT_ASKED, NOT_ASKED) and group == "backed"
                    elif status == "NOT_FOUND":
                        right = lost
                    else:
                        least_now = 0 if lost else max(least, newest[group, card_id])
                        right = least_now <= (version or 0) <= self.begun and whole(card_id, answer)
                        right = right and answer[2] == made_at(version or 0)
                        newest[group, card_id] = version or 0
                    if not right:
                        self._complain(f"{group} {card_id} from {origin}, {least} to {self.begun}: {answer}")

    def _push(self, card_id: int) -> None:
        done = self.acknowledged.setdefault(card_id, [])
        at, version = made_at(0), 0
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as client:
            while not self._over.is_set():
                version, at = version + 1, max(datetime.now(UTC), at + timedelta(microseconds=1))
                row = {"group": "state", "df": pushed(card_id, version, at), "push_id": f"{card_id}/{version}"}
                until(partial(self._pushed, client, row))
                if self._given_up.is_set():
                    return
                done.append((at, version))
                self._count("pushed")
                lost = self.lost
                _, found = self._cards(client, "state", [card_id])
                lost = lost or self.lost
                for answer in found:
                    if not (lost or (answer[0], answer[2]) == (version, at)) or not whole(card_id, answer):
                        self._complain(f"pushed {card_id} {version} at {at}: {answer}")

    def _pushed(self, client: httpx.Client, row: dict[str, Any]) -> bool:
        return self._given_up.is_set() or self._ask(client, PUSH, row) is not None

    def _cards(self, client: httpx.Client, group: str, cards: list[int]) -> tuple[str, list[Card]]:
        """Where an answer comes from, and what it says of each card; nothing where there is none."""
        asked = {"features": [f"{group}:version", f"{group}:twin"], "entities": {"card_id": cards}}
        said = self._ask(client, READ, asked)
        if said is None:
            return "", []
        version, other = said["results"][1:]
        (origin,) = set(said["metadata"]["origins"].values())
        self._count("missing" if "NOT_FOUND" in version["statuses"] else origin)
        times = map(datetime.fromisoformat, version["event_timestamps"])
        return origin, list(zip(version["values"], other["values"], times, version["statuses"], strict=True))

    def _ask(self, client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """What is answered; None where nobody answers, or where a store cannot be asked."""
        try:
            answer = client.post(path, json=body)
        except httpx.TransportError:
            self._count("nobody")
            time.sleep(0.01)
            return None
        if answer.status_code == 200:
            said: dict[str, Any] = answer.json()
            return said
        if (answer.status_code, answer.headers.get("retry-after")) == (503, "1"):
            self._count("503 read" if path == READ else "503 push")
            time.sleep(0.01)
        else:
            self._complain(f"{path}: {answer.status_code} {answer.text}")
        return None

    def _count(self, kind: str) -> None:
        with self._lock:
            self.told[kind] += 1

    def _complain(self, about: str) -> None:
        with self._lock:
            self.wrong.append(about)
        self._over.set()


def whole(card_id: int, answer: Card) -> bool:
    """Whether an answer is of one version."""
    return answer[0] is None or answer[1] == twin(card_id, answer[0])


def check_home(home: Path, load: Load) -> None:
    """Every push is in the table, once, and both stores say the same of every card."""
    with connect(REGISTRY, home) as store:
        store.fold(state)
        table = pl.read_delta(str(home / "lake/features/state/v1")).filter(pl.col("card_id") >= FIRST_PUSHED)
        rows = table.select("card_id", "event_timestamp", "version").rows()
        pushes = [(card_id, at, version) for card_id, done in load.acknowledged.items() for at, version in done]
        assert sorted(rows) == sorted(pushes)
        agreed = {found.group: (found.entities, found.agreement) for found in check_parity(store, sample=2 * CARDS)}
    assert agreed == {"state": (CARDS + len(load.acknowledged), 1.0), "backed": (CARDS, 1.0)}
