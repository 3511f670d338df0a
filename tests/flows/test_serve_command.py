"""`featurefab serve`: features over a real port from a process of its own, with workers that may die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from infra.wiring import connect
from up_home import REGISTRY, ROOT, T0, fill, until

ASKED = {"features": ["doubled:twice"], "entities": {"card_id": list(range(20))}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("serve") / "home"
    fill(home, 3, 200)
    with connect(REGISTRY, home) as store:
        store.materialize("doubled", T0, T0 + timedelta(days=3))
        store.sync("doubled")
    return home


@contextmanager
def served(home: Path, port: int, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, once it has said where it listens."""
    named = {"FEATUREFAB_HOME": str(home), "FEATUREFAB_REGISTRY": "up_home:REGISTRY"}
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-m", "flows", "serve", f"--port={port}", *arguments]
    with subprocess.Popen(
        command, env={**os.environ, **named, **path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def children(process: subprocess.Popen[str]) -> set[int]:
    """The workers of a server with several."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    lines = [line.split(maxsplit=2) for line in listed.splitlines()]
    return {int(pid) for pid, parent, words in lines if int(parent) == process.pid and "multiprocessing.spawn" in words}


def listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    ("workers", "how"),
    [
        pytest.param(1, signal.SIGINT, id="one"),
        pytest.param(2, signal.SIGTERM, id="two", marks=pytest.mark.prove),
        pytest.param(2, signal.SIGKILL, id="killed"),
    ],
)
def test_it_answers_what_the_store_answers_and_leaves_nothing_behind(
    home: Path, workers: int, how: signal.Signals
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with connect(REGISTRY, home) as store:
        expected = store.get_online_features(ASKED["features"], ASKED["entities"]).values["twice"]
    with served(home, port, f"--workers={workers}") as process:
        assert process.stdout is not None
        assert f"{url}/docs" in process.stdout.readline()
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            assert client.post("/get-online-features", json=ASKED).json()["results"][1]["values"] == expected
        if workers > 1:
            first = children(process)
            assert len(first) == workers
            os.kill(min(first), signal.SIGKILL)
            until(lambda: children(process) - first)
            for _ in range(10):
                with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
                    assert client.post("/get-online-features", json=ASKED).json()["results"][1]["values"] == expected
        process.send_signal(how)
        process.wait(60)
    until(lambda: not listens(port))


def test_a_taken_port_is_said_in_a_sentence(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with served(home, port) as process:
            assert process.wait(60) == 1
            assert process.stderr is not None
            assert f"error: port {port} cannot be used" in process.stderr.read()
