"""The endpoints: reading and pushing features, each an ASGI application of its own.

They are plain ASGI, since requests and responses as objects would take as long as the answer does. What is at hand is
read on the event loop: that takes microseconds. Whatever waits for a network or for the disk, as a push does, goes to a
thread.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Sequence
from typing import ClassVar, NamedTuple

import msgspec
from anyio import to_thread
from starlette.types import Message, Receive, Scope, Send

from features.compute import stored_schema
from features.errors import FeatureFabError, NotRegistered, StorageError
from features.feature_group import EVENT_TIMESTAMP
from features.feature_service import FeatureService
from features.online import OnlineQuestion
from features.store import FeatureStore
from features.stored_types import key_dtypes
from features.times import UTC_US, duration
from infra.serving.access import PUSH, READ, Access, Visit
from infra.serving.answers import FORMATS, JSON
from infra.serving.gathering import Found, GatheringReader
from infra.serving.latency import Figures
from infra.serving.problems import FAILED, PROBLEM_JSON, Problem, refused
from infra.serving.protocol import BEGUN, Headers, Reply
from infra.serving.requests import GetOnlineFeatures, Limits, Push, check_size, decoded, from_text, numbers, textual

_LOG = logging.getLogger("featurefab.serving")


class Endpoint:
    """An ASGI application for one path: reads the body, answers, counts, and words what went wrong."""

    path: ClassVar[str]

    def __init__(self, store: FeatureStore, limits: Limits, figures: Figures, access: Access) -> None:
        self._store = store
        self._limits = limits
        self._access = access
        self._figures = figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or what was begun of one (``BEGUN``)."""
        begun = scope.get("state", {}).pop(BEGUN, None)
        reply = await (self._answered(scope, receive) if begun is None else begun)
        await send({"type": "http.response.start", "status": reply.status, "headers": reply.raw_headers()})
        await send({"type": "http.response.body", "body": reply.body})

    async def _answered(self, scope: Scope, receive: Receive) -> Reply:
        began, headers = time.perf_counter(), dict(scope["headers"])
        visit = self._access.visit(self.path, headers)
        try:
            _refuse_pages(headers)
            visit.admit()
            body = await _body(headers, receive, self._limits.body)
            reply = Reply(200, *await self.answer(body, headers, visit))
        except Exception as error:  # noqa: BLE001 - who asked gets a document, whatever it was
            reply = self._worded(error)
        return self._over(reply, visit, began)

    def _over(self, reply: Reply, visit: Visit, began: float) -> Reply:
        """Count and note a request that is answered."""
        visit.over(reply.status)
        self._figures.answered(self.path, reply.status, time.perf_counter() - began)
        return reply

    def _worded(self, error: Exception) -> Reply:
        """What is said of an error; the log has how one came about that is no problem of the request."""
        if not isinstance(error, Problem):
            _LOG.error("%s failed", self.path, exc_info=error)
            error = FAILED
        return Reply(error.status, PROBLEM_JSON, error.document(), error.headers)

    async def answer(self, body: bytes, headers: Headers, visit: Visit) -> tuple[str, bytes]:
        """The media type and the body of the answer; Problem where there is none."""
        raise NotImplementedError

    def close(self) -> None:
        """Release what the endpoint opened; it is asked nothing afterwards."""


class GetOnlineFeaturesEndpoint(Endpoint):
    """The newest features of some entities; those that are not at hand are read for many requests at once."""

    path = READ
    _decoder = msgspec.json.Decoder(GetOnlineFeatures)

    def __init__(self, store: FeatureStore, limits: Limits, figures: Figures, access: Access) -> None:
        super().__init__(store, limits, figures, access)
        self._texts = textual({k: t for e in store.registry.entities.values() for k, t in key_dtypes(e).items()})
        self._reader = GatheringReader(
            store.online, failed=lambda: figures.count("store_failures", store.online.target)
        )
        slas = {service.name: service.sla for service in store.registry.services.values()}
        self._slas = {name: duration(sla).total_seconds() for name, sla in slas.items() if sla is not None}

    async def answer(self, body: bytes, headers: Headers, visit: Visit) -> tuple[str, bytes]:
        """The features in the format that is accepted."""
        asked = self._asked(body, headers, visit)
        found = self._at_hand(asked.question)
        return asked.kind, self._written(asked, await self._read(asked) if found is None else found)

    def at_once(self, body: bytes, headers: Headers) -> Reply | Awaitable[Reply]:
        """The response to a request; where the store has to be waited for, what waits for it."""
        began, visit = time.perf_counter(), self._access.visit(self.path, headers)
        try:
            _refuse_pages(headers)
            visit.admit()
            asked = self._asked(body, headers, visit)
            found = self._at_hand(asked.question)
            if found is None:
                return self._later(asked, visit)
            reply = Reply(200, asked.kind, self._written(asked, found))
        except Exception as error:  # noqa: BLE001 - who asked gets a document, whatever it was
            reply = self._worded(error)
        return self._over(reply, visit, began)

    async def _later(self, asked: _Asked, visit: Visit) -> Reply:
        try:
            reply = Reply(200, asked.kind, self._written(asked, await self._read(asked)))
        except Exception as error:  # noqa: BLE001 - who asked gets a document, whatever it was
            reply = self._worded(error)
        return self._over(reply, visit, asked.began)

    async def _read(self, asked: _Asked) -> Found:
        if self._reader.full:
            raise Problem(429, "too many requests wait for the online store: ask again in a moment")
        return await self._reader.read(asked.question.reads)

    def close(self) -> None:
        """End what reads."""
        self._reader.close()

    def _asked(self, body: bytes, headers: Headers, visit: Visit) -> _Asked:
        """What is asked; Problem where it may not be."""
        began, kind = time.perf_counter(), _accepted(headers)
        asked = decoded(body, self._decoder)
        check_size(asked, self._limits)
        try:
            visit.reads(asked)
            question = self._store.online_features.ask(
                self._features(asked),
                from_text(asked.entities, self._texts, "entities") if self._texts else asked.entities,
                request=asked.request and {name: numbers(value) for name, value in asked.request.items()},
                full_feature_names=asked.full_feature_names,
            )
        except FeatureFabError as error:
            raise refused(error, "features") from error
        return _Asked(kind, question, asked.feature_service, began, time.perf_counter())

    def _features(self, asked: GetOnlineFeatures) -> FeatureService | Sequence[str]:
        if asked.feature_service is not None:
            return self._store.registry.service(asked.feature_service)
        return asked.features or []

    def _at_hand(self, question: OnlineQuestion) -> Found | None:
        """What is found without waiting, for all reads or None."""
        found: Found = []
        for read in question.reads:
            columns = read.at_hand(self._store.online)
            if columns is None:
                return None
            found.append(columns)
        return found

    def _written(self, asked: _Asked, found: Found) -> bytes:
        """The answer in its format; how long each part took is counted."""
        read, took = time.perf_counter(), self._figures.took
        try:
            answer = asked.question.answer(found)
            made = time.perf_counter()
            written = FORMATS[asked.kind](answer)
        except FeatureFabError as error:
            raise refused(error, "features") from error
        now, cached = time.perf_counter(), all(not isinstance(one, StorageError) and one.cached for one in found)
        took("part", "decode", asked.known - asked.began)
        took("part", "cache" if found and cached else "store", read - asked.known)
        took("part", "compute", made - read)
        took("part", "serialise", now - made)
        for one in asked.question.reads:
            took("group", one.table_id, read - asked.known)
        if asked.service is not None:
            took("service", asked.service, now - asked.began)
            if now - asked.began > self._slas.get(asked.service, math.inf):
                self._figures.count("breaches", asked.service)
        return written


class _Asked(NamedTuple):
    """A request: the format to answer in, what is asked, of which service; when it came and when that was known."""

    kind: str
    question: OnlineQuestion
    service: str | None
    began: float
    known: float


class PushEndpoint(Endpoint):
    """Feature rows from outside, online and offline at once."""

    path = PUSH
    _decoder = msgspec.json.Decoder(Push)

    async def answer(
        self,
        body: bytes,
        headers: Headers,  # noqa: ARG002 - JSON alone
        visit: Visit,
    ) -> tuple[str, bytes]:
        """How many rows were written, and their created_timestamp."""
        pushed = decoded(body, self._decoder)
        visit.pushes(pushed)
        if len({len(values) for values in pushed.df.values()}) > 1:
            raise Problem(422, "each column must have as many values as the others", "df")
        try:
            group = self._store.registry.group(pushed.group)
            rows = from_text(pushed.df, textual({EVENT_TIMESTAMP: UTC_US, **stored_schema(group)}), "df")
        except FeatureFabError as error:
            raise refused(error, "group") from error
        try:
            done = await to_thread.run_sync(self._store.push, pushed.group, rows, pushed.push_id)
        except NotRegistered as error:
            raise Problem(422, str(error), "df") from error
        except FeatureFabError as error:
            raise refused(error, "df") from error
        said = {"group": done.group, "rows": done.rows, "created_timestamp": done.created_timestamp}
        return JSON, msgspec.json.encode(said)


async def _body(headers: Headers, receive: Receive, limit: int) -> bytes:
    """The body of a request; Problem where it is longer than it may be, as soon as that is known."""
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > limit:
        raise Problem(413, f"the body may have {limit:,} bytes, not {int(declared):,}")
    body, more = b"", True
    while more:
        message: Message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > limit:
            raise Problem(413, f"the body may have {limit:,} bytes: send less at once")
    return body


def _refuse_pages(headers: Headers) -> None:
    """Problem for what a page in a browser sends across sites: it could reach a server on loopback."""
    if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
        raise Problem(403, "pages of other sites may not ask this server")


def _accepted(headers: Headers) -> str:
    """The format to answer in: the first one accepted that there is, JSON where none is named."""
    accept = headers.get(b"accept")
    if accept in {None, b"*/*", b"application/json"}:
        return JSON
    assert accept is not None
    named = [part.partition(";")[0].strip() for part in accept.decode("latin-1").split(",")]
    for kind in named:
        if kind in FORMATS:
            return kind
        if kind in ("*/*", "application/*"):
            return JSON
    raise Problem(406, f"there are {', '.join(FORMATS)}: accept one of them")
