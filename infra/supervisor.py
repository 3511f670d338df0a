"""A supervisor: servers on ports of their own, started together, started anew when they end, never orphaned."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from features.errors import FeatureFabError, SettingsError
from infra.loopback import LoopbackServer
from infra.settings import LOOPBACK

_LOOK_SECONDS = 0.5
_ASK_SECONDS = 2.0
_PAUSES = (1.0, 2.0, 5.0, 15.0, 60.0)
"""Seconds before a server that ends again and again is started anew."""
_LASTING = 60.0
"""A server that ran for so many seconds before it ended is started anew as if for the first time."""


@dataclass(frozen=True)
class Service:
    """A server: ``module`` is run (see `LoopbackServer`) on ``port`` (0: a free one); GET ``health`` answers 200."""

    name: str
    module: str
    port: int
    health: str


@dataclass
class Patience:
    """How long to wait before a server is started anew: the longer, the oftener it ended soon."""

    ends: int = 0

    def pause(self, lasted: float) -> float:
        """The seconds to wait after a server ended that had lasted so many.

        >>> patience = Patience()
        >>> [patience.pause(lasted) for lasted in (3600, 0, 0, 0, 0, 0, 3600)]
        [1.0, 2.0, 5.0, 15.0, 60.0, 60.0, 1.0]
        """
        self.ends = 1 if lasted > _LASTING else self.ends + 1
        return _PAUSES[min(self.ends, len(_PAUSES)) - 1]


class Supervisor:
    """Runs services until it is left; a context manager.

    Their ports are bound first, and kept while a service is started anew: requests wait meanwhile. Raises
    SettingsError where a port is taken.
    """

    def __init__(self, services: Sequence[Service], logs: Path) -> None:
        self._services = list(services)
        self._logs = logs
        self._ports = ExitStack()
        self._listeners: dict[str, socket.socket] = {}
        self._servers: dict[str, LoopbackServer] = {}
        try:
            for service in services:
                self._listeners[service.name] = self._ports.enter_context(_bound(service))
        except BaseException:
            self._ports.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The last started is the first to end: what depends on another stands after it.
        for service in reversed(self._services):
            if service.name in self._servers:
                self._servers[service.name].stop()
        self._ports.close()

    def url(self, name: str) -> str:
        """A service's address, without a path."""
        return f"http://{LOOPBACK}:{self._listeners[name].getsockname()[1]}"

    def log(self, name: str) -> Path:
        """Where a service's output goes: it begins anew with the supervisor, and goes on where one is started anew."""
        return self._logs / f"{name}.log"

    def start(self) -> None:
        """Start all services without waiting for any: requests queue until they answer."""
        for service in self._services:
            self._start(service)

    def wait_until_healthy(self, timeout: float = 120.0) -> None:
        """Return once all answer; FeatureFabError where one does not start within ``timeout`` seconds."""
        last = time.monotonic() + timeout
        for service in self._services:
            server = self._servers[service.name]
            while True:
                try:
                    server.wait_until_healthy(service.health, _ASK_SECONDS)
                    break
                except FeatureFabError:
                    if (how := server.ended) is not None:
                        raise FeatureFabError(f"{service.name} {how}; see {self.log(service.name)}") from None
                    if time.monotonic() > last:
                        raise

    def watch(self, stop: threading.Event, tell: Callable[[str], None]) -> None:
        """Start anew what ends, after a pause that grows, until ``stop`` is set; ``tell`` is told of it."""
        began = dict.fromkeys(self._servers, time.monotonic())
        patience = {name: Patience() for name in self._servers}
        due: dict[str, float] = {}
        while not stop.wait(_LOOK_SECONDS):
            for service in self._services:
                name, now = service.name, time.monotonic()
                if name not in due and (how := self._servers[name].ended) is not None:
                    self._servers[name].stop()  # what it had started ends with it
                    pause = patience[name].pause(now - began[name])
                    due[name] = now + pause
                    what = f"{name} {how}; it is started anew in {pause:.0f} s"
                    self._note(name, what)
                    tell(f"{what} (see {self.log(name)})")
                elif name in due and now >= due[name]:
                    del due[name]
                    self._start(service, append=True)  # why it ended stays in its log
                    began[name] = now

    def _start(self, service: Service, *, append: bool = False) -> None:
        name = service.name
        self._servers[name] = LoopbackServer(service.module, self.log(name), self._listeners[name], append=append)

    def _note(self, name: str, what: str) -> None:
        """Write in a service's log what its own words do not say: that it was killed, and when."""
        with suppress(OSError), self.log(name).open("a", encoding="utf-8") as log:  # a full disk must not end all
            log.write(f"--- {datetime.now().astimezone():%Y-%m-%d %H:%M:%S} {what}\n")


def _bound(service: Service) -> socket.socket:
    try:
        return socket.create_server((LOOPBACK, service.port), backlog=512)
    except OSError as error:
        raise SettingsError(
            f"port {service.port} for {service.name} is taken ({error.strerror}): stop what uses it, or name another "
            f"with --port-{service.name}"
        ) from error
