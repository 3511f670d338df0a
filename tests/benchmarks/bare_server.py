"""The least that answers features over HTTP: a Starlette handler that decodes, gets and encodes, and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import lmdb
import msgspec
import redis
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_pack, _unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
_encode, _decode = msgspec.json.Encoder().encode, msgspec.json.Decoder().decode


def serve(place: str, port: int, cards: int, features: int) -> None:
    """Fill a folder of LMDB or a server of Redis and serve it."""
    pairs = {_pack([card]): _pack([card / (n + 1) for n in range(features)]) for card in range(cards)}
    find = _in_redis(place, pairs) if "://" in place else _in_lmdb(place, pairs)
    names = [f"v{n}" for n in range(features)]

    async def get(request: Request) -> Response:
        cards = _decode(await request.body())["entities"]["card_id"]
        rows = [_unpack(row) for row in find([_pack([card]) for card in cards])]
        present = ["PRESENT"] * len(cards)
        results = [{"values": column, "statuses": present} for column in (cards, *zip(*rows, strict=True))]
        answer = {"metadata": {"feature_names": ["card_id", *names]}, "results": results}
        return Response(_encode(answer), media_type="application/json")

    app = Starlette(routes=[Route("/get-online-features", get, methods=["POST"])])
    uvicorn.run(app, port=port, log_level="error", access_log=False)


def _in_lmdb(folder: str, pairs: dict[bytes, bytes]) -> Callable[[Sequence[bytes]], list[bytes]]:
    env = lmdb.open(folder, map_size=1 << 30)
    with env.begin(write=True) as txn:
        for key, value in pairs.items():
            txn.put(key, value)

    def find(keys: Sequence[bytes]) -> list[bytes]:
        with env.begin() as txn:
            return [txn.get(key, b"") for key in keys]

    return find


def _in_redis(url: str, pairs: dict[bytes, bytes]) -> Callable[[Sequence[bytes]], list[bytes]]:
    client = redis.Redis.from_url(url, protocol=2)
    client.mset(pairs)
    return client.mget


if __name__ == "__main__":
    serve(sys.argv[1], *map(int, sys.argv[2:]))
