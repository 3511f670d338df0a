"""The feature server does what its OpenAPI document says: Schemathesis asks what that allows, and what it does not."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import polars as pl
import pytest
import schemathesis
from schemathesis.engine import events, from_schema

from features import Entity, Feature, FeatureGroup, FeatureService, FeatureStore, Registry, Source
from features.times import UTC_US
from infra.serving.answers import ARROW, JSON, MSGPACK
from infra.serving.app import FeatureServer
from infra.serving.openapi import document
from infra.serving.requests import Limits
from infra.wiring import connect

NOW = datetime(2026, 3, 10, tzinfo=UTC)
ABOUT = {"owner": "payments", "description": "About a card."}
LIMITS = Limits(body=50_000, entities=8, features=5)
CARDS, FEW = 20, 25
READ, PUSH = "POST /get-online-features", "POST /push"

card = Entity("card", keys={"card_id": pl.Int64})
visit = Entity("visit", keys={"shop": pl.String, "day": pl.Date, "at_till": pl.Decimal(10, 2), "code": pl.Binary})
payments = Source("payments", {"card_id": pl.Int64, "amount": pl.Float64, "at": UTC_US}, "at")
visits = Source("visits", {**visit.keys, "people": pl.Int32, "at": UTC_US}, "at")
amount, seconds = pl.col("amount"), pl.duration(seconds=pl.col("amount"))
kinds = FeatureGroup(
    "kinds",
    "1.0.0",
    card,
    payments,
    [
        Feature("real", amount, range=(0, 1000)),
        Feature("small", amount.cast(pl.Int8)),
        Feature("single", amount.cast(pl.Float32)),
        Feature("large", amount > 5),
        Feature("text", amount.cast(pl.String)),
        Feature("bits", amount.cast(pl.String).cast(pl.Binary)),
        Feature("day", pl.col("at").dt.date()),
        Feature("hour", pl.col("at").dt.time()),
        Feature("took", seconds),
        Feature("paid_at", pl.col("at") - seconds),
        Feature("price", amount.cast(pl.Decimal(12, 3))),
        Feature("parts", pl.concat_list(amount.cast(pl.Int64), pl.lit(1))),
        Feature("moments", pl.concat_list(pl.col("at"))),
    ],
    grain="event",
    ttl="3d",
    **ABOUT,
)
footfall = FeatureGroup(
    "footfall", "1.0.0", visit, visits, [Feature("people", pl.col("people"))], grain="event", **ABOUT
)
offline = FeatureGroup(
    "history", "1.0.0", card, payments, [Feature("old", amount)], grain="event", online=False, **ABOUT
)
basket = FeatureService(
    "basket",
    ["kinds:real"],
    request={"price": pl.Float64},
    derived=[Feature("ratio", pl.col("price") / pl.col("real"))],
    **ABOUT,
)
REGISTRY = Registry([kinds, footfall, offline, basket])


@pytest.fixture
def store(tmp_path) -> Iterator[FeatureStore]:
    with connect(REGISTRY, tmp_path, lambda: NOW) as store:
        paid = [(n, None if n == 4 else float(n), NOW - timedelta(hours=5 * n)) for n in range(CARDS)]
        store.write_source("payments", pl.DataFrame(paid, schema=dict(payments.schema), orient="row"))
        seen = [("north", date(2026, 3, 1), Decimal("1.50"), b"abc", 5, NOW)]
        store.write_source("visits", pl.DataFrame(seen, schema=dict(visits.schema), orient="row"))
        for group in (kinds, footfall):
            store.materialize_incremental(group)
            store.sync(group)
        yield store


def narrowed(described: dict[str, Any]) -> dict[str, Any]:
    """The document with bodies that name what there is here, so that most of them are answered."""
    numeric, moment = {"type": ["number", "null"]}, {"type": "string", "format": "date-time"}
    cards = fields(card_id=rows({"type": ["integer", "null"], "minimum": -2, "maximum": CARDS + 2}))
    known = [rows({"enum": values}) for values in (["north", "süd"], ["2026-03-01"], ["1.5", 1.5, None], ["YWJj"])]
    named = {"type": "array", "items": {"enum": [f"kinds:{name}" for name in kinds.feature_names]}}
    price = {"anyOf": [numeric, rows(numeric)]}
    reads = [
        fields(features=named | {"minItems": 1, "maxItems": 5}, entities=cards, full_feature_names={"type": "boolean"}),
        fields(features={"const": ["footfall:people"]}, entities=fields(**dict(zip(visit.keys, known, strict=True)))),
        fields(feature_service={"const": "basket"}, entities=cards, request=fields(price=price)),
    ]
    key = {
        "card_id": rows({"type": "integer", "minimum": 0, "maximum": CARDS}),
        "event_timestamp": {"const": ["2026-03-09T23:00:00+01:00", "2026-03-09T00:00:00.5"]},
    }
    values = {
        "real": {"type": ["number", "null"], "minimum": 0, "maximum": 1010},
        "small": {"type": ["integer", "null"], "minimum": -200, "maximum": 200},
        "single": numeric,
        "large": {"type": ["boolean", "null"]},
        "text": {"type": ["string", "null"]},
        "bits": {"anyOf": [{"enum": ["AAECAw==", None]}, {"type": "string"}]},
        "day": {"type": "string", "format": "date"},
        "hour": {"enum": ["23:59:59.999999", "00:00:00", "12:00:00Z", "12:00:00+02:00", None]},
        "took": {"enum": ["P1D", "PT0.000001S", "-P999999D", "P999999999D", None]},
        "paid_at": moment,
        "price": {"anyOf": [numeric, {"enum": ["1.25", "1e3", "NaN", "-0", "1e400"]}]},
        "parts": {"type": "array", "items": {"type": ["integer", "null"]}},
        "moments": {"type": "array", "items": moment},
    }
    pushes = [
        fields(group={"const": "kinds"}, df=fields(**key, **{name: rows(value)}), push_id={"enum": ["a", None]})
        for name, value in values.items()
    ]
    bodies = {"GetOnlineFeatures": {"anyOf": reads}, "Push": {"anyOf": pushes}}
    return described | {"components": {"schemas": described["components"]["schemas"] | bodies}}


def fields(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def rows(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 2, "maxItems": 2}


def asked(
    store: FeatureStore, described: dict[str, Any], examples: int, accept: str = JSON, mode: str = "all"
) -> Counter[tuple[str, int]]:
    """How often Schemathesis was answered with which status, by operation; fails with what it complains of.

    It asks the same few things each time, or thousands of fresh ones.
    """
    fresh = examples > FEW
    seed = random.randrange(2**32) if fresh else 0
    told = {
        "seed": seed,
        "continue-on-failure": True,
        "headers": {"Accept": accept},
        "checks": {
            # What has the right types need not fit what is registered: 413 and 422 say so.
            "positive_data_acceptance": {"expected-statuses": ["200", "404", "409", "413", "422"]},
            "negative_data_rejection": {"expected-statuses": ["4xx"]},
        },
        "generation": {"mode": mode, "max-examples": examples, "deterministic": not fresh, "no-shrink": True},
    }
    schema = schemathesis.openapi.from_dict(described, config=schemathesis.Config.from_dict(told))
    schema.app = FeatureServer(store, LIMITS)
    statuses: Counter[tuple[str, int]] = Counter()
    complaints = []
    for event in from_schema(schema).execute():
        assert not isinstance(event, events.NonFatalError | events.FatalError), str(event)
        if isinstance(event, events.ScenarioFinished):
            met = event.recorder.interactions.values()
            statuses.update((event.label, one.response.status_code) for one in met if one.response is not None)
            failed = [check.failure_info for checks in event.recorder.checks.values() for check in checks]
            complaints += [f"{one.failure.message}\n{one.code_sample[:2_000]}" for one in failed if one is not None]
    print(f"seed {seed}: {dict(statuses)}")
    assert not complaints, f"{len(complaints)} complaints:\n" + "\n\n".join(complaints[:10])
    return statuses


@pytest.mark.parametrize("examples", [FEW, pytest.param(4_000, marks=pytest.mark.prove)])
def test_whatever_is_asked_the_answer_is_one_that_the_document_names(store, examples):
    statuses = asked(store, document(LIMITS), examples)
    assert all(statuses[path, status] for path in (READ, PUSH) for status in (400, 404, 405, 422))
    assert all(statuses[path, 200] for path in ("GET /ready", "GET /metrics", "GET /docs"))


@pytest.mark.parametrize(
    ("accept", "examples"),
    [(JSON, FEW), *(pytest.param(accept, 2_000, marks=pytest.mark.prove) for accept in (JSON, MSGPACK, ARROW))],
)
def test_what_names_what_there_is_is_answered_as_the_document_says(store, accept, examples):
    statuses = asked(store, narrowed(document(LIMITS)), examples, accept, mode="positive")
    assert statuses[READ, 200] > examples / 2
    assert statuses[PUSH, 200] > examples / 4


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (READ, {"features": ["kinds:real"], "entities": {"card_id": [10**60]}}, None),
        (READ, {"features": ["footfall:people"], "entities": {"at_till": ["1e60"]}}, None),
        (READ, {"features": ["footfall:people"], "entities": {"at_till": ["NaN"]}}, "entities.at_till"),
        (PUSH, {"small": [10**60]}, None),
        (PUSH, {"price": ["1e60"]}, None),
        (PUSH, {"price": ["1e-300"]}, None),
        (PUSH, {"price": ["-Infinity"]}, "df.price"),
    ],
)
def test_numbers_that_no_column_holds_are_refused(store, path, body, field):
    if path == PUSH:
        row = {"card_id": [1], "event_timestamp": ["2026-03-09T00:00:00Z"]}
        body = {"group": "kinds", "df": row | body}
    elif "at_till" in body["entities"]:
        body["entities"] |= {"shop": ["north"], "day": ["2026-03-01"], "code": ["YWJj"]}
    answer = asyncio.run(posted(FeatureServer(store), path.split()[1], body))
    assert (answer.status_code, answer.json().get("field")) == (422, field), answer.json()
    assert len(answer.json()["detail"].splitlines()) == 1


async def posted(server: FeatureServer, path: str, body: dict[str, Any]) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(server), base_url="http://server") as client:
        return await client.post(path, json=body)
