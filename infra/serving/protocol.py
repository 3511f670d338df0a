"""HTTP/1.1 as uvicorn speaks it, but in fewer steps: each of them costs as much as a part of the answer.

Requests that can be answered at once are answered where they are read, without a task, and head and body of any answer
go out in one write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Protocol, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

Headers = dict[bytes, bytes]
"""The headers of a request by their names in lower case."""


class Reply(NamedTuple):
    """A response: its status, its media type, its body and its other headers."""

    status: int
    kind: str
    body: bytes
    headers: Mapping[str, str] = {}

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers as they are sent."""
        own = [(b"content-type", self.kind.encode()), (b"content-length", b"%d" % len(self.body))]
        return own + [(name.encode(), value.encode()) for name, value in self.headers.items()]


Answer = Callable[[bytes, Headers], Reply | Awaitable[Reply]]
"""Answers a request with that body at once, or says what to wait for; raises nothing."""

BEGUN = "featurefab.begun"
"""Where in the state of a request's scope that is which the application has to wait for."""


class Immediate(Protocol):
    """An application that answers some POST requests at once; by path, bodies of at most ``longest`` bytes."""

    immediate: Mapping[bytes, Answer]
    longest: int


class ImmediateProtocol(HttpToolsProtocol):
    """A connection over an application that is Immediate."""

    _answer: Answer | None = None
    _parts: list[bytes]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn types it
        """Take a connection."""
        super().connection_made(cast("asyncio.Transport", _Gathering(transport, self.loop)))

    def on_headers_complete(self) -> None:
        """Find out whether the request can be answered as soon as its body is there."""
        before = cast(
            "RequestResponseCycle | None", self.cycle
        )  # None before the first one, whatever it is declared as
        self._answer = self._found() if before is None or before.response_complete else None
        if self._answer is None:
            super().on_headers_complete()
        else:
            self._parts = []

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if self._answer is None:
            super().on_body(body)
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """Answer, if that is done here."""
        if self._answer is None:
            super().on_message_complete()
            return
        answer, self._answer, body = self._answer, None, b"".join(self._parts)
        reply = answer(body, dict(self.headers))
        if isinstance(reply, Reply):
            self._send(reply)
            return
        self.scope["state"][BEGUN] = reply
        super().on_headers_complete()
        super().on_body(body)
        super().on_message_complete()

    def _found(self) -> Answer | None:
        """What answers the request; None where it is the application's as any other, in turn and with its limits."""
        app = cast("Immediate", self.app)
        answer = app.immediate.get(self.url)
        if answer is None or self.parser.get_method() != b"POST" or self.parser.should_upgrade():
            return None
        if self.expect_100_continue or self.flow.write_paused:
            return None
        length = next((value for name, value in self.headers if name == b"content-length"), b"")
        return answer if length.isdigit() and int(length) <= app.longest else None

    def _send(self, reply: Reply) -> None:
        keep = self.parser.should_keep_alive()
        head = [STATUS_LINE[reply.status]]
        for name, value in self.server_state.default_headers + reply.raw_headers():
            head += [name, b": ", value, b"\r\n"]
        head.append(b"\r\n" if keep else b"connection: close\r\n\r\n")
        self.transport.write(b"".join(head) + reply.body)
        if keep:
            self.on_response_complete()  # counts it, and waits for the next request for a while
        else:
            self.server_state.total_requests += 1
            self.transport.close()


class _Gathering:
    """A transport that writes what came in one turn of the event loop at once; all else is the transport's."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write with whatever else comes in this turn."""
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(data)

    def close(self) -> None:
        """Close after what was written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._waiting:
            self._transport.write(b"".join(self._waiting))
            self._waiting.clear()
