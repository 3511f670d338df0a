"""A load that does not wait: requests at a fixed rate over many connections, each answer looked through.

    python -m benchmarks.open_load URL CONNECTIONS RATE SECONDS CARDS FEATURES FILE

Each request asks for one card at the moment it is due, whether or not the ones before were answered, or as soon as a
connection is free; its latency counts from when it was due. So a server that stands still for a while is late for all
that were due meanwhile, of which a wrk, whose connections wait for it, would count a few. The connections take turns.
Once they are open, a line is printed.
FILE gets an Arrow table with the moment (`time.perf_counter`) and the latency in seconds of each request, null where
there was no right answer, and its outcome: "same" where all values of the row are, "differing" where they are not,
"wrong" for any other answer, "lost" where the connection was closed, "unanswered" where nothing came in time.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import cast
from urllib.parse import urlsplit

import msgspec
import polars as pl
import uvloop

_AT_ONCE = 200  # connections that are opened at a time
_TICK = 0.001
_PATIENCE = 10.0  # seconds for the answers to the last requests


class Result(msgspec.Struct):
    """What is read of a column of an answer."""

    values: list[float | None]
    statuses: list[str]


class Answer(msgspec.Struct):
    """What is read of an answer."""

    results: list[Result]


_read = msgspec.json.Decoder(Answer).decode


class Asking(asyncio.Protocol):
    """One connection; ``due`` is when its request was due, None while it has none."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._due: float | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none of asyncio's

    def ask(self, request: bytes, due: float) -> None:
        """Send a request."""
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Note the answer once it is complete."""
        self._received += data
        head, ended, body = self._received.partition(b"\r\n\r\n")
        if not ended or len(body) < _length(head):
            return
        self._received = b""
        due, self._due = self._due, None
        assert due is not None
        self._log.answered(self, due, head, body)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Note what was not answered; this connection asks no more."""
        if self._due is not None:
            self._log.lost(self._due)


class Log:
    """The answers so far, and the connections that are free."""

    def __init__(self) -> None:
        self.free: deque[Asking] = deque()
        self.rows: list[tuple[float, float | None, str]] = []

    def answered(self, asking: Asking, due: float, head: bytes, body: bytes) -> None:
        """Note an answer and free its connection."""
        taken = time.perf_counter() - due
        outcome = _outcome(head, body)
        self.rows.append((due, None if outcome == "wrong" else taken, outcome))
        self.free.append(asking)

    def lost(self, due: float) -> None:
        """Note a request that has no answer."""
        self.rows.append((due, None, "lost"))


async def load(url: str, connections: int, rate: int, seconds: float, cards: int, features: Sequence[str]) -> Log:
    """Ask at a rate; `Log.rows` has a row for each request."""
    log, requests = Log(), _requests(url, cards, features)
    await _open(url, connections, log, next(requests))
    print("open", flush=True)
    begin, sent, total = time.perf_counter(), 0, int(rate * seconds)
    waiting: deque[float] = deque()
    while len(log.rows) < total and (now := time.perf_counter() - begin) < seconds + _PATIENCE:
        due = min(total, int(now * rate))
        waiting.extend(begin + number / rate for number in range(sent, due))
        sent = due
        while waiting and log.free:
            log.free.popleft().ask(next(requests), waiting.popleft())
        await asyncio.sleep(_TICK)
    log.rows += [(begin, None, "unanswered")] * (total - len(log.rows))
    return log


async def _open(url: str, connections: int, log: Log, request: bytes) -> None:
    """Open connections, until the server has taken the last one: it answers a request there, which is not counted."""
    parts, loop = urlsplit(url), asyncio.get_running_loop()
    for start in range(0, connections, _AT_ONCE):
        opening = [
            loop.create_connection(lambda: Asking(log), parts.hostname, parts.port)
            for _ in range(min(_AT_ONCE, connections - start))
        ]
        log.free.extend(asking for _, asking in await asyncio.gather(*opening))
    log.free.pop().ask(request, time.perf_counter())
    while not log.rows:  # noqa: ASYNC110 - an event would have to be looked at for every answer
        await asyncio.sleep(_TICK)
    log.rows.clear()


def _requests(url: str, cards: int, features: Sequence[str]) -> Iterator[bytes]:
    """Requests for one card each, drawn anew each time."""
    parts, asked = urlsplit(url), ",".join(f'"{name}"' for name in features)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    while True:
        body = f'{{"features":[{asked}],"entities":{{"card_id":[{random.randrange(cards)}]}}}}'
        yield f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def _outcome(head: bytes, body: bytes) -> str:
    """What kind of answer it is."""
    if not head.startswith(b"HTTP/1.1 200"):
        return "wrong"
    _, *features = _read(body).results
    if any(feature.statuses != ["PRESENT"] for feature in features):
        return "wrong"
    return "same" if all(feature.values == features[0].values for feature in features) else "differing"


def _length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0])


def main(url: str, connections: str, rate: str, seconds: str, cards: str, features: str, file: str) -> None:
    """Load, and write what came of it."""
    gc.disable()  # a collection would count as the server's
    done = load(url, int(connections), int(rate), float(seconds), int(cards), features.split(","))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        log = runner.run(done)
    schema = {"at": pl.Float64, "latency": pl.Float64, "outcome": pl.String}
    pl.DataFrame(log.rows, schema=schema, orient="row").write_ipc(file)


if __name__ == "__main__":
    main(*sys.argv[1:])
