"""A web server in a process of its own on a loopback port, which never outlives its parent.

The parent binds a free port and hands the socket to the child, so that no other program can take the
port in between and requests made too early wait instead of failing. The child also holds the read end
of a pipe from its parent: when the parent ends, however it ends, the pipe closes and the child stops.
"""

from __future__ import annotations

import http.client
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

    ``module`` is run as ``python -m module FD`` and calls ``serve``. What it prints goes to ``log``.
    A context manager: entering starts the server without waiting for it, leaving stops it.
    """

    def __init__(self, module: str, log: Path) -> None:
        self._log = log
        listener = socket.create_server((LOOPBACK, 0))
        self.port: int = listener.getsockname()[1]
        log.parent.mkdir(parents=True, exist_ok=True)
        # -P: a folder called features in the working folder must not shadow the package.
        command = [sys.executable, "-P", "-m", module, str(listener.fileno())]
        # From here on only the child listens: if it dies, requests fail instead of waiting for ever.
        with listener, log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )

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
        if self._process.returncode is not None:
            return
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
        lines = self._log.read_text("utf-8", errors="replace").strip().splitlines()
        last = f" (it says: {lines[-1].strip()})" if lines else ""
        return f"the server at {self.url} did not start{last}; see {self._log}"


def serve(app: Any, arguments: Sequence[str]) -> None:
    """The child's side: serve an ASGI application on the inherited socket until the parent is gone."""
    import uvicorn  # noqa: PLC0415 - only the child pays for it

    threading.Thread(target=_end_with_parent, daemon=True).start()
    config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="on")
    with socket.socket(fileno=int(arguments[0])) as listener:
        uvicorn.Server(config).run(sockets=[listener])


def _end_with_parent() -> None:
    sys.stdin.buffer.read()  # returns when the parent's end of the pipe closes
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_STOP_SECONDS)
    os._exit(1)
