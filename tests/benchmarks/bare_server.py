"""The least that answers features over HTTP: a Starlette handler that decodes, gets and encodes, and nothing else."""

from __future__ import annotations

import sys

import lmdb
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_pack, _unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
_encode, _decode = msgspec.json.Encoder().encode, msgspec.json.Decoder().decode


def serve(folder: str, port: int, cards: int, features: int) -> None:
    """Fill a folder and serve it."""
    env = lmdb.open(folder, map_size=1 << 30)
    with env.begin(write=True) as txn:
        for card in range(cards):
            txn.put(_pack([card]), _pack([card / (n + 1) for n in range(features)]))
    names = [f"v{n}" for n in range(features)]

    async def get(request: Request) -> Response:
        cards = _decode(await request.body())["entities"]["card_id"]
        with env.begin() as txn:
            rows = [_unpack(txn.get(_pack([card]), b"")) for card in cards]
        present = ["PRESENT"] * len(cards)
        results = [{"values": column, "statuses": present} for column in (cards, *zip(*rows, strict=True))]
        answer = {"metadata": {"feature_names": ["card_id", *names]}, "results": results}
        return Response(_encode(answer), media_type="application/json")

    app = Starlette(routes=[Route("/get-online-features", get, methods=["POST"])])
    uvicorn.run(app, port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    serve(sys.argv[1], *map(int, sys.argv[2:]))
