"""The feature server as an application: its paths, and what it opens when it starts."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from functools import lru_cache
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from threading import Thread

import msgspec
from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import Lifespan, Receive, Scope, Send

from features.errors import FeatureFabError
from features.store import FeatureStore
from infra.serving.access import METRICS, Access, open_access
from infra.serving.answers import JSON
from infra.serving.endpoints import Endpoint, GetOnlineFeaturesEndpoint, PushEndpoint
from infra.serving.freshness import GroupFreshness
from infra.serving.metrics import METRICS_TEXT, metrics_text
from infra.serving.openapi import document, page
from infra.serving.problems import FAILED, PROBLEM_JSON, Problem
from infra.serving.requests import Limits
from infra.serving.workers import BEAT, Worker
from infra.settings import load_settings
from infra.storage.redis_store import RedisOnlineStore
from infra.storage.row_cache import RowCache
from infra.wiring import open_platform

_LOG = logging.getLogger("featurefab.serving")


class FeatureServer:
    """The application over a store: the endpoints that are in a hurry, and Starlette for the rest.

    ``closing`` is called when it ends; ``worker`` counts what it does, alone or among others. Without ``access``
    everybody may ask everything.
    """

    def __init__(
        self,
        store: FeatureStore,
        limits: Limits | None = None,
        closing: Callable[[], None] | None = None,
        worker: Worker | None = None,
        access: Access | None = None,
    ) -> None:
        limits, access, self._worker = limits or Limits(), access or Access(), worker or Worker()
        parts = store, limits, self._worker.figures, access
        reading, pushing = GetOnlineFeaturesEndpoint(*parts), PushEndpoint(*parts)
        self._endpoints = {endpoint.path: endpoint for endpoint in (reading, pushing)}
        self._others = _others(store, limits, self._worker, access, self._lifespan)
        self._closing = closing
        self.immediate = {reading.path.encode(): reading.at_once} if store.online.at_once else {}
        self.longest = limits.body

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        beating = asyncio.create_task(self._beat())
        yield
        beating.cancel()
        self._worker.close()
        for endpoint in self._endpoints.values():
            endpoint.close()
        if self._closing is not None:
            self._closing()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            try:
                await to_thread.run_sync(self._worker.beat, self._worker.own())
            except Exception:  # noqa: BLE001 - such as a full disk: the next beat may do, and features are answered
                _LOG.exception("the figures of this worker cannot be written, or its cache not be looked after")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; Starlette's layers would take as long as most answers."""
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" else None
        if endpoint is None or scope["method"] != "POST":
            await self._others(scope, receive, send)
        else:
            await endpoint(scope, receive, send)


_ENDPOINTS: tuple[type[Endpoint], ...] = (GetOnlineFeaturesEndpoint, PushEndpoint)


def create() -> FeatureServer:
    """The application over the home of the settings, opened in this process: what each worker runs."""
    settings = load_settings()
    size = settings.online_cache_mb * 1_000_000
    cache = RowCache(size, settings.online_cache_seconds) if size and settings.online == "redis" else None
    store = open_platform(row_cache=cache).store
    warm = store.online.warm if isinstance(store.online, RedisOnlineStore) else None
    access, worker = open_access(settings, store.registry), Worker(settings.serving, cache, warm)
    gc.collect()
    gc.freeze()  # what is there now stays: collections need not look through it again and again
    if (parent := parent_process()) is not None:
        Thread(target=_end_with, args=(parent,), daemon=True).start()
    with ExitStack() as held:
        held.callback(store.close)
        held.callback(access.close)
        return FeatureServer(store, closing=held.pop_all().close, worker=worker, access=access)


def _end_with(parent: BaseProcess) -> None:
    """End this worker when the process that started it is gone, however it ended."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _others(
    store: FeatureStore, limits: Limits, worker: Worker, access: Access, lifespan: Lifespan[Starlette]
) -> Starlette:
    """All paths but those above, and the words for what is no path."""
    described, freshness = document(limits), GroupFreshness(store)
    docs = lru_cache(maxsize=1)(lambda: page(described))

    async def health(_: Request) -> Response:
        return _json({"status": "ok"})

    async def ready(_: Request) -> Response:
        try:
            await to_thread.run_sync(_ask, store)
        except FeatureFabError as error:
            return _problem(Problem(503, str(error)))
        return _json({"status": "ok", "groups": len(store.registry.groups)})

    async def metrics(request: Request) -> Response:
        visit = access.visit(METRICS, dict(request.scope["headers"]))
        try:
            visit.admit()
        except Problem as problem:
            visit.over(problem.status)
            return _problem(problem)
        fresh = await to_thread.run_sync(freshness.now)
        visit.over(200)
        return Response(metrics_text(worker.all(), fresh), media_type=METRICS_TEXT)

    async def openapi(_: Request) -> Response:
        return _json(described)

    async def show_docs(_: Request) -> Response:
        return HTMLResponse(docs())

    plain = {"/health": health, "/ready": ready, METRICS: metrics, "/openapi.json": openapi, "/docs": show_docs}
    return Starlette(
        routes=[
            *(Route(path, answer, methods=["GET"]) for path, answer in plain.items()),
            *(Route(endpoint.path, _refuse, methods=["POST"]) for endpoint in _ENDPOINTS),  # any other method: 405
        ],
        exception_handlers={HTTPException: _unrouted, 500: _failed},
        lifespan=lifespan,
    )


def _ask(store: FeatureStore) -> None:
    """Ask the online store for something; StorageError where it does not answer."""
    for group in store.registry.groups.values():
        if group.online:
            store.online.watermark(group.table_id)
            return


async def _refuse(_: Request) -> Response:
    raise HTTPException(404)


async def _unrouted(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(Problem(error.status_code, str(error.detail)), error.headers)  # a 405 names what is allowed


async def _failed(_: Request, error: Exception) -> Response:  # noqa: ARG001 - the server logs it
    return _problem(FAILED)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type=JSON)


def _problem(problem: Problem, more: Mapping[str, str] | None = None) -> Response:
    return Response(problem.document(), problem.status, {**problem.headers, **(more or {})}, PROBLEM_JSON)
