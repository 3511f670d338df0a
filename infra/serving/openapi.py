"""The server's own description: an OpenAPI 3.1 document, and a page made of it that needs nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from features.feature_group import EVENT_TIMESTAMP
from infra.reports.pages import environment
from infra.serving.answers import ARROW, JSON, MSGPACK
from infra.serving.problems import PROBLEM_JSON
from infra.serving.requests import GetOnlineFeatures, Limits, Push

_PROBLEMS = {
    "400": "The body is not JSON.",
    "401": "A key is needed, or is not known.",
    "403": "The key may not do that or is not granted a group; or a page of another site asked.",
    "404": "A feature, service or group is not registered.",
    "406": "No format that is accepted.",
    "409": "A group is held at a version that does not have what is asked for.",
    "413": "The body or the number of entities is over the limit.",
    "422": "The request does not fit; `field` says where.",
    "429": "The key asks too often, or too many requests wait: try again after Retry-After seconds.",
    "500": "The server failed; its log says how.",
    "503": "A store cannot be asked: try again after Retry-After seconds.",
}
_READ_EXAMPLE = {
    "features": ["wafer_aggregates:yield_pct"],
    "entities": {"lot_id": ["LOT-1", "LOT-1"], "wafer_id": ["W01", "W02"]},
}
_PUSH_EXAMPLE = {
    "group": "last_payment",
    "df": {"card_id": [7], "event_timestamp": ["2026-03-01T12:00:00Z"], "amount_last": [19.9]},
    "push_id": "till-3/4711",
}
_TIME = {"type": "string", "format": "date-time"}
_RESULT = {
    "type": "object",
    "required": ["values", "statuses", "event_timestamps"],
    "properties": {
        "values": {"type": "array"},
        "statuses": {
            "type": "array",
            "items": {"enum": ["PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"]},
        },
        "event_timestamps": {"type": "array", "items": _TIME},
    },
}
_SCHEMAS = {
    "Answer": {
        "description": "A result for each name in metadata.feature_names: keys, then features; columns over the "
        "entity rows. metadata.origins says where a feature's answers come from: the store, what is remembered of it, "
        "or declared defaults.",
        "type": "object",
        "required": ["metadata", "results"],
        "properties": {
            "metadata": {
                "type": "object",
                "required": ["feature_names", "origins"],
                "properties": {
                    "feature_names": {"type": "array", "items": {"type": "string"}},
                    "origins": {"type": "object", "additionalProperties": {"enum": ["store", "cache", "default"]}},
                },
            },
            "results": {"type": "array", "items": _RESULT},
        },
    },
    "Pushed": {
        "description": "How many rows were written; none where all were known (created_timestamp is null then).",
        "type": "object",
        "required": ["group", "rows", "created_timestamp"],
        "properties": {
            "group": {"type": "string"},
            "rows": {"type": "integer"},
            "created_timestamp": {"anyOf": [_TIME, {"type": "null"}]},
        },
    },
    "Problem": {
        "description": "Why a request was not answered (RFC 9457).",
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "field": {"type": "string"},
        },
    },
}
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key that `featurefab keys add` made."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
}
_PLAIN = {
    "/health": ("The process answers", JSON, ()),
    "/ready": ("The online store can be asked", JSON, ("503",)),
    "/metrics": ("Requests and how long they took, for Prometheus", "text/plain", ("401", "403", "429")),
    "/openapi.json": ("This document", JSON, ()),
    "/docs": ("This document as a page", "text/html", ()),
}


def document(limits: Limits) -> dict[str, Any]:
    """The OpenAPI document."""
    read = _posted("GetOnlineFeatures", _READ_EXAMPLE, "Answer", (JSON, MSGPACK, ARROW))
    push = _posted("Push", _PUSH_EXAMPLE, "Pushed", (JSON,))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "featurefab feature server",
            "version": version("featurefab"),
            "description": "Features of entities as they were synced or pushed last. A request may ask for "
            f"{limits.entities:,} entities and {limits.features:,} features, in {limits.body:,} bytes.",
        },
        "security": [{}, {"bearer": []}, {"header": []}],  # none where the server asks for no key
        "paths": {
            "/get-online-features": {"post": {"summary": "The newest features of some entities", **read}},
            "/push": {"post": {"summary": "Put feature rows online and offline at once", **push}},
            **{
                path: {"get": {"summary": summary, "responses": _responses({"content": {kind: {}}}, problems)}}
                for path, (summary, kind, problems) in _PLAIN.items()
            },
        },
        "components": {"schemas": {**_bodies(limits), **_SCHEMAS}, "securitySchemes": _KEYS},
    }


def page(described: Mapping[str, Any]) -> str:
    """The document as HTML."""
    return environment().get_template("api.html.j2").render(title=described["info"]["title"], doc=described, json=_json)


def _bodies(limits: Limits) -> dict[str, Any]:
    """The schemas of what is posted: its types, and what is checked beyond them."""
    _, bodies = msgspec.json.schema_components([GetOnlineFeatures, Push], ref_template="#/components/schemas/{name}")
    for body in bodies.values():
        body["description"] = body["description"].replace("``", "`")
    read, push = bodies[GetOnlineFeatures.__name__], bodies[Push.__name__]
    fields = read["properties"]
    fields["entities"] |= {"minProperties": 1, "additionalProperties": {"type": "array", "maxItems": limits.entities}}
    fields["features"]["anyOf"][0] |= {"minItems": 1, "maxItems": limits.features}
    either = {"features": "array", "feature_service": "string"}
    read["oneOf"] = [{"required": [name], "properties": {name: {"type": kind}}} for name, kind in either.items()]
    push["properties"]["df"]["required"] = [EVENT_TIMESTAMP]
    return bodies


def _posted(body: str, example: Mapping[str, Any], answer: str, kinds: Sequence[str]) -> dict[str, Any]:
    content = {kind: {"schema": _ref(answer)} if kind == JSON else {} for kind in kinds}
    return {
        "requestBody": {"required": True, "content": {JSON: {"schema": _ref(body), "example": example}}},
        "responses": _responses({"content": content}, [*_PROBLEMS]),
    }


def _responses(answer: Mapping[str, Any], problems: Sequence[str]) -> dict[str, Any]:
    refused = {"content": {PROBLEM_JSON: {"schema": _ref("Problem")}}}
    return {
        "200": {"description": "The answer.", **answer},
        **{status: {"description": _PROBLEMS[status], **refused} for status in problems},
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2)
