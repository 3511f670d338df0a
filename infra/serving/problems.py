"""What goes wrong with a request, as problem documents (RFC 9457) that name the field."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from features.errors import (
    FeatureFabError,
    GroupHeld,
    IncompatibleFeatureVersion,
    NotRegistered,
    StorageError,
)

PROBLEM_JSON = "application/problem+json"
_TITLES = {
    400: "The body cannot be read",
    401: "Nobody who is known",
    403: "Not allowed",
    404: "There is no such thing",
    405: "Wrong method",
    406: "Not in that format",
    409: "Not in this state",
    413: "Too much at once",
    422: "The request does not fit",
    429: "Too much at the moment",
    500: "The server failed",
    503: "A store cannot be asked",
}
_HEADERS = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": "1"}, 503: {"retry-after": "1"}}
_WHERE = re.compile(r" - at `\$\.?(.*)`$")


class Problem(Exception):
    """Why a request is not answered: an HTTP status, what is wrong, and in which field of the body."""

    def __init__(self, status: int, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.field = field

    @property
    def headers(self) -> Mapping[str, str]:
        """What the status asks for beside the document."""
        return _HEADERS.get(self.status, {})

    def document(self) -> bytes:
        """The problem as JSON."""
        facts = {"type": "about:blank", "title": _TITLES[self.status], "status": self.status, "detail": self.detail}
        return msgspec.json.encode(facts if self.field is None else {**facts, "field": self.field})


FAILED = Problem(500, "the server failed: its log says how")
"""The problem of a request that met a mistake of ours."""


def unreadable(error: msgspec.DecodeError) -> Problem:
    """The problem of a body that is not JSON, or not of the shape that is asked for."""
    if not isinstance(error, msgspec.ValidationError):
        return Problem(400, f"the body is not JSON: {error}")
    said = str(error)
    where = _WHERE.search(said)
    named = re.search(r"field `(\w+)`", said)
    field = named.group(1) if named else where.group(1) if where else None
    return Problem(422, _WHERE.sub("", said), field or None)


def refused(error: FeatureFabError, field: str) -> Problem:
    """The problem of a request that the store refuses; ``field`` names what it knows by name."""
    match error:
        case NotRegistered():
            return Problem(404, str(error), field)
        case IncompatibleFeatureVersion() | GroupHeld():
            return Problem(409, str(error))
        case StorageError():
            return Problem(503, str(error))
        case _:
            return Problem(422, str(error))
