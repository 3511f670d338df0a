"""Answers in the formats of the wire: JSON as Feast has it, msgpack of the same shape, and Arrow."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import polars as pl

from features.online import OnlineResponse
from features.point_in_time import PRESENT
from features.times import EPOCH

JSON, MSGPACK, ARROW = "application/json", "application/msgpack", "application/vnd.apache.arrow.stream"

_encode = msgspec.json.Encoder(decimal_format="string").encode
_pack = msgspec.msgpack.Encoder(decimal_format="string").encode


def as_json(answer: OnlineResponse) -> bytes:
    """One result per entity key and feature, columns over the entity rows.

    Times are ISO 8601 in UTC; an answer as of no moment has the epoch, as in Feast, whose client reads a time
    there. NaN and infinities become null, for JSON has none.
    """
    return _encode(_document(answer, _encode, EPOCH))


def as_msgpack(answer: OnlineResponse) -> bytes:
    """The document of ``as_json`` in msgpack; an answer as of no moment has null, and NaN is NaN."""
    return _pack(_document(answer, _pack, None))


def as_arrow(answer: OnlineResponse) -> bytes:
    """``OnlineResponse.to_polars`` as an Arrow IPC stream: a row for each entity row."""
    stream = io.BytesIO()
    answer.to_polars().write_ipc_stream(stream, compat_level=pl.CompatLevel.oldest())
    return stream.getvalue()


FORMATS: Mapping[str, Callable[[OnlineResponse], bytes]] = {JSON: as_json, MSGPACK: as_msgpack, ARROW: as_arrow}
"""What writes an answer, by media type."""


def _document(answer: OnlineResponse, encode: Callable[[Any], bytes], never: datetime | None) -> Mapping[str, Any]:
    """The answer as it is written; ``never`` stands for no moment.

    Statuses and times are encoded once for features next to each other that share them, as those of a group do.
    """
    keys, rows = answer.asked.columns, answer.asked.height
    statuses: Sequence[Any] = [PRESENT] * rows
    times: Sequence[Any] = [never] * rows
    said, moments = msgspec.Raw(encode(statuses)), msgspec.Raw(encode(times))
    results: list[Mapping[str, Any]] = [
        {"values": v if isinstance(v, list) else list(v), "statuses": said, "event_timestamps": moments}
        for v in keys.values()
    ]
    for name, values in answer.values.items():
        if answer.statuses[name] is not statuses:
            statuses = answer.statuses[name]
            said = msgspec.Raw(encode(statuses))
        if answer.event_timestamps[name] is not times:
            times = answer.event_timestamps[name]
            moments = msgspec.Raw(encode([time or never for time in times]))
        results.append({"values": values, "statuses": said, "event_timestamps": moments})
    return {"metadata": {"feature_names": [*keys, *answer.values], "origins": answer.origins}, "results": results}
