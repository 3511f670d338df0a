from __future__ import annotations

import os
import queue
import re
import select
import signal
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from features.errors import FeatureFabError, SettingsError
from infra.supervisor import Service, Supervisor

STEADY = """
import os, sys, threading
from infra.loopback import answer_health, end_with_parent

end_with_parent()
print("process", os.getpid(), flush=True)
answer_health(sys.argv[1:])
threading.Event().wait()
"""

STUBBORN = """
import os, subprocess, sys, threading
from pathlib import Path
from infra.loopback import answer_health, end_with_parent

end_with_parent()
alive = os.open(Path(__file__).with_name("alive"), os.O_WRONLY)
child = subprocess.Popen(["sh", "-c", "trap '' TERM; exec sleep 1000"], pass_fds=[alive])
answer_health(sys.argv[1:])
threading.Event().wait()
"""
"""Its child ignores SIGTERM, and holds open a pipe as it does itself."""

BROKEN = "raise SystemExit('there is no licence')"


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("a_steady", STEADY), ("a_stubborn", STUBBORN), ("a_broken", BROKEN)):
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)


def service(name: str, module: str = "a_steady", port: int = 0) -> Service:
    return Service(name, module, port, "/health")


@contextmanager
def watched(supervisor: Supervisor) -> Iterator[queue.Queue[str]]:
    """What is told while the block lasts."""
    told: queue.Queue[str] = queue.Queue()
    stop = threading.Event()
    watch = threading.Thread(target=supervisor.watch, args=(stop, told.put))
    watch.start()
    try:
        yield told
    finally:
        stop.set()
        watch.join()


def status(supervisor: Supervisor, name: str) -> int:
    with urllib.request.urlopen(f"{supervisor.url(name)}/health", timeout=60) as answer:
        return int(answer.status)


def processes(supervisor: Supervisor, name: str) -> list[int]:
    """The processes that a steady service had, the first one first."""
    return [int(found) for found in re.findall(r"^process (\d+)$", supervisor.log(name).read_text(), re.MULTILINE)]


def test_all_services_answer_at_ports_of_their_own(tmp_path: Path) -> None:
    with Supervisor([service("one"), service("two")], tmp_path / "logs") as supervisor:
        supervisor.start()
        supervisor.wait_until_healthy()
        assert supervisor.url("one") != supervisor.url("two")
        assert [status(supervisor, name) for name in ("one", "two")] == [200, 200]
        ports = [int(supervisor.url(name).rpartition(":")[2]) for name in ("one", "two")]
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_a_taken_port_is_an_error_and_the_others_are_let_go(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        port, other = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        with pytest.raises(SettingsError, match=rf"port {port} for two is taken .*: stop .* with --port-two"):
            Supervisor([service("one", port=other), service("two", port=port)], tmp_path)
        socket.create_server(("127.0.0.1", other)).close()


def test_a_service_that_is_killed_is_started_anew_and_requests_wait_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "one.log").write_text("words of a day before\n")
    with Supervisor([service("one"), service("two")], tmp_path) as supervisor:
        supervisor.start()
        supervisor.wait_until_healthy()
        url = supervisor.url("one")
        with watched(supervisor) as told:
            os.kill(processes(supervisor, "one")[0], signal.SIGKILL)
            what = told.get(timeout=60)
            assert status(supervisor, "one") == 200
        assert supervisor.url("one") == url
        assert len(processes(supervisor, "two")) == 1
    first, second = processes(supervisor, "one")
    assert what == f"one was killed by SIGKILL; it is started anew in 1 s (see {tmp_path / 'one.log'})"
    lines = (tmp_path / "one.log").read_text().splitlines()
    assert [lines[0], lines[2]] == [f"process {first}", f"process {second}"]  # nothing of the day before
    assert re.fullmatch(r"--- \d{4}-\d\d-\d\d \d\d:\d\d:\d\d one was killed by SIGKILL; .* in 1 s", lines[1])


def test_words_that_stood_in_a_log_before_are_not_those_of_who_ended(tmp_path: Path) -> None:
    (tmp_path / "a_silent.py").write_text("raise SystemExit(3)")
    with Supervisor([service("one", "a_silent")], tmp_path) as supervisor:
        supervisor.start()
        with watched(supervisor) as told:
            assert [told.get(timeout=60).partition(" (see")[0] for _ in range(2)] == [
                f"one ended with exit code 3; it is started anew in {pause} s" for pause in (1, 2)
            ]


def test_a_service_that_cannot_start_is_an_error_with_its_last_words_and_its_log(tmp_path: Path) -> None:
    with Supervisor([service("one", "a_broken")], tmp_path) as supervisor:
        supervisor.start()
        with pytest.raises(FeatureFabError) as error:
            supervisor.wait_until_healthy()
    assert str(error.value) == (
        f"one ended with exit code 1 (it says: there is no licence); see {tmp_path / 'one.log'}"
    )


def test_nothing_that_a_service_started_outlives_the_supervisor(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "alive")
    alive = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    with Supervisor([service("one", "a_stubborn")], tmp_path) as supervisor:
        supervisor.start()
        supervisor.wait_until_healthy()
        with pytest.raises(BlockingIOError):  # somebody holds the other end
            os.read(alive, 1)
    assert select.select([alive], [], [], 60)[0]
    assert os.read(alive, 1) == b""  # nobody does
    os.close(alive)
