"""A web server in a process of its own on a loopback port, which never outlives its parent.

The parent binds a free port and hands the socket to the child, so that no other program can take the
port in between and requests made too early wait instead of failing. The child also holds the read end
of a pipe from its parent: when the parent ends, however it ends, the pipe closes and the child stops.
"""

from __future__ import annotations

import http.client
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from features.errors import FeatureFabError
from infra.settings import LOOPBACK

_STOP_SECONDS = 5.0


class LoopbackServer:
    """The parent's side: start a module as a server, wait until it answers, stop it.

    ``module`` is run as ``python -m module FD`` and calls ``serve``, or ``end_with_parent`` and
    ``answer_health``. What it prints goes to ``log``, which begins anew unless ``append``. It listens at a free
    port, or at ``listener``, which stays open here: while the server is started anew, requests wait.
    A context manager: entering starts the server without waiting for it, leaving stops it.
    """

    def __init__(self, module: str, log: Path, listener: socket.socket | None = None, *, append: bool = False) -> None:
        self._log = log
        self._stopped = False
        own = listener is None
        listener = listener or socket.create_server((LOOPBACK, 0))
        self.port: int = listener.getsockname()[1]
        log.parent.mkdir(parents=True, exist_ok=True)
        # -P: a folder called features in the working folder must not shadow the package.
        command = [sys.executable, "-P", "-m", module, str(listener.fileno())]
        try:
            with log.open("ab" if append else "wb") as output:
                self._own = output.tell()  # from here on the words in the log are this server's
                self._process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                    command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[listener.fileno()],
                    start_new_session=True,
                )
        finally:
            if own:  # from here on only the child listens: if it dies, requests fail instead of waiting for ever
                listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The address, without a path."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        """The child's process id, also the id of its process group."""
        return self._process.pid

    @property
    def ended(self) -> str | None:
        """How the child ended, with its last words where it did so by itself; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}{self._last_words()}"

    def wait_until_healthy(self, path: str, timeout: float = 60.0) -> None:
        """Return once GET ``path`` answers 200; FeatureFabError after ``timeout`` seconds or a crash.

        One request is enough: it queues at the socket until the server is up.
        """
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=timeout)
        try:
            connection.request("GET", path)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            raise FeatureFabError(f"{self._what_happened()}: {error}") from error
        finally:
            connection.close()
        if status != http.client.OK:
            raise FeatureFabError(f"{self._what_happened()}: it answers {status} at {path}")

    def stop(self) -> None:
        """End the whole process group; kill what does not end in time. Does nothing the second time."""
        if self._stopped:
            return
        self._stopped = True
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._signal(signal.SIGKILL)
            self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS: PermissionError once only zombies are left
            os.killpg(self._process.pid, number)

    def _what_happened(self) -> str:
        return f"the server at {self.url} did not start{self._last_words()}; see {self._log}"

    def _last_words(self) -> str:
        lines = self._log.read_bytes()[self._own :].decode("utf-8", errors="replace").strip().splitlines()
        return f" (it says: {lines[-1].strip()})" if lines else ""


def serve(app: Any, arguments: Sequence[str]) -> None:
    """The child's side: serve an ASGI application on the inherited socket until the parent is gone."""
    import uvicorn  # noqa: PLC0415 - only the child pays for it

    end_with_parent()
    config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="on")
    with socket.socket(fileno=int(arguments[0])) as listener:
        uvicorn.Server(config).run(sockets=[listener])


def answer_health(arguments: Sequence[str]) -> None:
    """The child's side of what serves nothing else: from now on each GET on the inherited socket answers 200."""
    server = http.server.HTTPServer((LOOPBACK, 0), _Healthy, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=int(arguments[0]))
    threading.Thread(target=server.serve_forever, daemon=True).start()


class _Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(http.client.OK)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing: health is asked for often."""


def end_with_parent() -> None:
    """The child's side: end this process, and all that it starts, when the parent is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # Until the parent's end of the pipe closes; not by `sys.stdin`, whose lock would be held when Python ends: fatal.
    while os.read(sys.stdin.fileno(), 1):
        pass
    own = os.getpgrp()  # the parent made this process the leader of a group of its own
    os.killpg(own, signal.SIGTERM)
    threading.Event().wait(_STOP_SECONDS)
    os.killpg(own, signal.SIGKILL)
