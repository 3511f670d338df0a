"""A store served over HTTP, on a port of its own in a thread of this process."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import httpx
import uvicorn

from features import FeatureStore
from infra.serving.access import Access
from infra.serving.app import FeatureServer
from infra.serving.requests import Limits
from infra.serving.server import configured


@contextmanager
def listening(
    store: FeatureStore, limits: Limits | None = None, access: Access | None = None
) -> Iterator[tuple[str, int]]:
    """Where a server over the store listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(configured(FeatureServer(store, limits, access=access)))
        thread = Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def serving(store: FeatureStore, limits: Limits | None = None, access: Access | None = None) -> Iterator[httpx.Client]:
    """A client of a server over the store."""
    with (
        listening(store, limits, access) as (_, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        yield client
