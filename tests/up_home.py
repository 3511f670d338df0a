"""A home in which ``featurefab up`` runs: how it is started, asked and ended, and the payments it holds."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import polars as pl

from features import Entity, Feature, FeatureGroup, Registry, Source
from infra.wiring import connect

T0 = datetime(2025, 1, 1, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[1]

card = Entity("card", keys={"card_id": pl.Int64()})
payments = Source(
    "payments",
    schema={"card_id": pl.Int64(), "at": pl.Datetime("us", "UTC"), "amount": pl.Float64()},
    event_timestamp="at",
)
about = {"owner": "cards", "description": "What cards pay."}


def _event(name: str, feature: str, times: int) -> FeatureGroup:
    return FeatureGroup(
        name, "1.0.0", card, payments, [Feature(feature, pl.col("amount") * times)], grain="event", **about
    )


doubled, tripled = _event("doubled", "twice", 2), _event("tripled", "thrice", 3)
weekly = FeatureGroup(
    "weekly",
    "1.0.0",
    card,
    payments,
    [Feature("spent_sum_7d", pl.col("amount").sum(), window="7d")],
    grain="window",
    every="1d",
    **about,
)
REGISTRY = Registry([doubled, tripled, weekly])

Found = TypeVar("Found")


def fill(home: Path, days: int, rows: int) -> None:
    """So many days with so many payments each, at moments of their own."""
    random, count = np.random.default_rng(0), days * rows
    offsets = pl.Series("at", np.sort(random.choice(days * 86_400_000, count, replace=False))) * 1000
    frame = pl.DataFrame({"card_id": random.integers(0, 500, count), "amount": random.normal(50, 10, count)})
    at = (pl.lit(T0, pl.Datetime("us", "UTC")) + pl.lit(offsets).cast(pl.Duration("us"))).alias("at")
    with connect(REGISTRY, home) as store:
        store.write_source("payments", frame.with_columns(at))


class Up:
    """``featurefab up`` in a process of its own, with its Prefect and MLflow at free ports."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.home = home
        self.log = home / "up.log"
        self._ports = [_free_port(), _free_port(), _free_port()]
        names = ("prefect", "mlflow", "features")
        ports = [f"--port-{name}={port}" for name, port in zip(names, self._ports, strict=True)]
        own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
        named = {"FEATUREFAB_HOME": str(home), "FEATUREFAB_REGISTRY": "up_home:REGISTRY"}
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows", "up", *ports, *arguments],
                env=own | named | {"PYTHONPATH": path},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.client = httpx.Client(base_url=f"{self.prefect}/api/", timeout=60, trust_env=False)

    @property
    def prefect(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def mlflow(self) -> str:
        return f"http://127.0.0.1:{self._ports[1]}"

    @property
    def features(self) -> str:
        return f"http://127.0.0.1:{self._ports[2]}"

    def wait(self) -> None:
        """Until everything answers."""
        until(lambda: "up after" in self.log.read_text() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()

    def ask(self, method: str, path: str, **body: Any) -> Any:
        """What the Prefect API answers."""
        answer = self.client.request(method, path, json=body or None)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def deployment(self, name: str) -> dict[str, Any]:
        """A deployment of the flow of its name."""
        return self.ask("GET", f"deployments/name/{name}/{name}")

    def begin(self, name: str, **parameters: Any) -> str:
        """Start a run as the UI's form does; its id."""
        identity = self.deployment(name)["id"]
        return self.ask("POST", f"deployments/{identity}/create_flow_run", parameters=parameters)["id"]

    def run(self, identity: str) -> dict[str, Any]:
        return self.ask("GET", f"flow_runs/{identity}")

    def end(self, identity: str) -> dict[str, Any]:
        """A run when it is over; one that crashed is run again."""
        over = ("COMPLETED", "FAILED", "CANCELLED")
        return until(lambda: run if (run := self.run(identity))["state_type"] in over else None)

    def artifacts(self, key: str) -> list[dict[str, Any]]:
        return self.ask("POST", "artifacts/filter", artifacts={"key": {"any_": [key]}}, sort="KEY_ASC")

    def logged(self, identity: str) -> str:
        """What a run's log says by now, line by line."""
        lines = self.ask("POST", "logs/filter", logs={"flow_run_id": {"any_": [identity]}})
        return "\n".join(line["message"] for line in lines)

    def holder(self, name: str) -> str | None:
        """Who has, or had last, the turn of a name."""
        file = self.home / "turns" / f"{name}.turn"
        return file.read_text() if file.exists() else None

    def children(self, what: str) -> list[int]:
        """The processes that work on the home and whose command has a word."""
        listed = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
        lines = [line.split(maxsplit=1) for line in listed.splitlines()]
        return [int(pid) for pid, args in lines if what in args and _home_of(int(pid)) == str(self.home)]

    def stop(self) -> int:
        """End it as Ctrl-C does; its exit code."""
        self.client.close()
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


@contextmanager
def running(home: Path, *arguments: str) -> Iterator[Up]:
    """``featurefab up`` while the block lasts, once everything answers."""
    up = Up(home, *arguments)
    try:
        up.wait()
        yield up
    finally:
        up.client.close()
        if up.process.poll() is None:
            up.stop()


def until(found: Callable[[], Found | None], seconds: float = 180) -> Found:
    """What is found, as soon as it is."""
    last = time.monotonic() + seconds
    while not (there := found()):
        assert time.monotonic() < last, f"not within {seconds} s"
        time.sleep(0.1)
    return there


def _home_of(pid: int) -> str | None:
    """The home that a process was told to use."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    named = [word.partition(b"=")[2].decode() for word in words if word.startswith(b"FEATUREFAB_HOME=")]
    return named[0] if named else None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
