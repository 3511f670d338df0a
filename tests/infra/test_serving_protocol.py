"""Connections: what comes in one go or in pieces is answered in turn, at once or by the application."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import polars as pl
import pytest

from card_payments import T0, hours, last_payment, payments
from features import FeatureStore, Registry
from infra.serving.requests import Limits
from infra.storage.delta import DeltaLake
from infra.storage.memory_store import MemoryOnlineStore
from serving_store import listening

CARDS = 40
LIMIT = 2_000


class FarStore(MemoryOnlineStore):
    """A store that is read as one on the network is."""

    at_once = False

    def at_hand(self, *_arguments, **_options):
        return None


@pytest.fixture(scope="module", params=[MemoryOnlineStore, FarStore], ids=["local", "far"])
def address(request, tmp_path_factory) -> Iterator[tuple[str, int]]:
    """Where a server answers, over a store of each kind."""
    lake = DeltaLake(tmp_path_factory.mktemp("lake"))
    store = FeatureStore(Registry([last_payment]), lake, request.param(), lambda: hours(2))
    rows = [(n, n, n / 2, T0) for n in range(CARDS)]
    store.write_source(payments, pl.DataFrame(rows, schema=dict(payments.schema), orient="row"))
    store.materialize_incremental(last_payment)
    store.sync(last_payment)
    with listening(store, Limits(body=LIMIT)) as address:
        yield address


class Wire:
    """A connection on which bytes are sent as they are."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=20)
        self._stream = self._socket.makefile("rb")

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self._socket.sendall(part)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next response: its status, headers and body."""
        status = int(self._stream.readline().split()[1])
        headers = {}
        while (line := self._stream.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        return status, headers, self._stream.read(int(headers.get("content-length", 0)))

    def amount(self) -> float:
        """The amount that the next response says."""
        status, _, body = self.answer()
        assert status == 200, body
        return json.loads(body)["results"][1]["values"][0]

    def ended(self) -> bool:
        """Whether the server closed the connection."""
        return self._stream.read() == b""

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


@pytest.fixture
def wire(address) -> Iterator[Wire]:
    wire = Wire(address)
    yield wire
    wire.close()


def asks(card: int, path: str = "/get-online-features", version: str = "1.1", *headers: str) -> bytes:
    """A request for the amount of a card."""
    body = json.dumps({"features": ["last_payment:amount_last"], "entities": {"card_id": [card]}})
    lines = [f"POST {path} HTTP/{version}", "host: here", f"content-length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def test_requests_that_come_together_are_answered_in_turn(wire):
    wire.send(b"".join(asks(card) for card in range(20)))
    assert [wire.amount() for _ in range(20)] == [card / 2 for card in range(20)]


def test_what_is_answered_at_once_waits_for_what_is_not(wire):
    health = b"GET /health HTTP/1.1\r\nhost: here\r\n\r\n"
    wire.send(asks(2) + health + asks(4) + health + asks(6, "/get-online-features?x=1") + asks(8))
    assert wire.amount() == 1.0
    assert wire.answer()[0] == 200
    assert wire.amount() == 2.0
    assert wire.answer()[0] == 200
    assert (wire.amount(), wire.amount()) == (3.0, 4.0)


def test_a_request_in_pieces_is_one(wire):
    whole = asks(10)
    wire.send(*(whole[at : at + 7] for at in range(0, len(whole), 7)))
    assert wire.amount() == 5.0


def test_a_body_in_chunks_is_read_to_its_end(wire):
    head, _, body = asks(12).partition(b"\r\n\r\n")
    head = head.replace(f"content-length: {len(body)}".encode(), b"transfer-encoding: chunked")
    wire.send(
        head + b"\r\n\r\n" + b"%x\r\n" % 9 + body[:9] + b"\r\n", b"%x\r\n" % len(body[9:]) + body[9:] + b"\r\n0\r\n\r\n"
    )
    assert wire.amount() == 6.0


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "in chunks"])
def test_a_body_that_is_too_long_is_refused_as_soon_as_that_is_known(wire, declared):
    head = b"POST /get-online-features HTTP/1.1\r\nhost: here\r\n"
    if declared:
        wire.send(head + b"content-length: 9999\r\n\r\n")
    else:
        wire.send(head + b"transfer-encoding: chunked\r\n\r\n" + b"%x\r\n" % (LIMIT + 1) + b" " * (LIMIT + 1) + b"\r\n")
    assert wire.answer()[0] == 413


def test_who_waits_to_be_told_to_go_on_is_told(wire):
    head, _, body = asks(14, "/get-online-features", "1.1", "expect: 100-continue").partition(b"\r\n\r\n")
    wire.send(head + b"\r\n\r\n")
    assert wire.answer()[0] == 100
    wire.send(body)
    assert wire.amount() == 7.0


@pytest.mark.parametrize(
    "asked", [asks(16, version="1.0"), asks(16, "/get-online-features", "1.1", "connection: close")]
)
def test_who_wants_one_answer_gets_one_and_the_end(wire, asked):
    wire.send(asked)
    status, headers, _ = wire.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert wire.ended()


def test_each_answer_says_when_it_was_given_and_by_whom(wire):
    wire.send(asks(1) + b"GET /health HTTP/1.1\r\nhost: here\r\n\r\n")
    (_, one, _), (_, other, _) = wire.answer(), wire.answer()
    assert {"date", "server", "content-type", "content-length"} <= one.keys() & other.keys()


def test_what_is_no_http_is_a_400(wire):
    wire.send(b"\x00\x01\x02 not http\r\n\r\n")
    assert wire.answer()[0] == 400
    assert wire.ended()
