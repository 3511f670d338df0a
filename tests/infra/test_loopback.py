from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from features.errors import FeatureFabError
from infra.loopback import LoopbackServer

SERVER = """
import sys
from infra.loopback import serve

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    status = 200 if scope["path"] == "/good" else 503
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})

serve(app, sys.argv[1:])
"""

PARENT = """
import sys
from pathlib import Path
from infra.loopback import LoopbackServer

server = LoopbackServer(sys.argv[1], Path(sys.argv[2]))
server.wait_until_healthy("/good")
print(server.port, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "a_test_server.py").write_text(SERVER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "a_test_server"


def test_a_server_answers_from_the_moment_it_is_made_until_it_is_stopped(module: str, tmp_path: Path) -> None:
    with LoopbackServer(module, tmp_path / "log") as server:
        server.wait_until_healthy("/good")
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", "/good")
        assert connection.getresponse().read() == b"hello"
        connection.close()
        assert server.url == f"http://127.0.0.1:{server.port}"
    with pytest.raises(ProcessLookupError):
        os.killpg(server.pid, 0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))
    server.stop()


def test_an_unhealthy_server_is_told_apart(module: str, tmp_path: Path) -> None:
    with (
        LoopbackServer(module, tmp_path / "log") as server,
        pytest.raises(FeatureFabError, match="it answers 503 at /bad"),
    ):
        server.wait_until_healthy("/bad")


def test_a_server_that_crashes_at_start_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with (
        LoopbackServer("no_such_server_module", tmp_path / "log") as server,
        pytest.raises(FeatureFabError, match=r"did not start \(it says: .*no_such_server_module.*; see "),
    ):
        server.wait_until_healthy("/good")


def test_a_server_ends_with_its_parent_even_a_killed_one(module: str, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, module, str(tmp_path / "log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            parent.kill()
            assert connection.recv(1) == b""  # returns when the server closes the connection
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
