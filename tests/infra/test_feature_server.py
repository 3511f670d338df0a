"""The feature server: what it answers is what the in-process client says, and every bad request is told why."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import Entity, Feature, FeatureGroup, FeatureService, FeatureStore, Registry, Source
from features.times import UTC_US
from infra.serving.answers import ARROW, MSGPACK
from infra.serving.requests import Limits
from infra.wiring import connect
from serving_store import serving

NOW = datetime(2026, 3, 10, tzinfo=UTC)
ABOUT = {"owner": "payments", "description": "About a card."}
CARDS = 50
READ = "/get-online-features"

card = Entity("card", keys={"card_id": pl.Int64})
visit = Entity("visit", keys={"shop": pl.String, "day": pl.Date})
payments = Source(
    "payments",
    {"card_id": pl.Int64, "amount": pl.Float64, "minutes": pl.Int64, "at": UTC_US},
    "at",
    keys=["card_id"],
)
visits = Source("visits", {"shop": pl.String, "day": pl.Date, "people": pl.Int32, "at": UTC_US}, "at")
last_payment = FeatureGroup(
    "last_payment",
    "1.0.0",
    card,
    payments,
    [Feature("amount", pl.col("amount"), range=(0, 1000)), Feature("paid_for", pl.duration(minutes=pl.col("minutes")))],
    grain="event",
    ttl="5d",
    **ABOUT,
)
footfall = FeatureGroup(
    "footfall", "1.0.0", visit, visits, [Feature("people", pl.col("people"), default=7)], grain="event", **ABOUT
)
offline = FeatureGroup(
    "history", "1.0.0", card, payments, [Feature("old", pl.col("amount"))], grain="event", online=False, **ABOUT
)
basket = FeatureService(
    "basket",
    ["last_payment:amount"],
    request={"price": pl.Float64},
    derived=[Feature("ratio", pl.col("price") / pl.col("amount"))],
    **ABOUT,
)
REGISTRY = Registry([last_payment, footfall, offline, basket])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    with connect(REGISTRY, tmp_path_factory.mktemp("served"), lambda: NOW) as store:
        rows = [
            (n, math.nan if n == 3 else None if n == 4 else n / 2, n, NOW - timedelta(hours=5 * n))
            for n in range(CARDS)
        ]
        store.write_source("payments", pl.DataFrame(rows, schema=dict(payments.schema), orient="row"))
        seen = [("north", date(2026, 3, 1), 5, NOW - timedelta(days=1)), ("süd", date(2026, 3, 2), None, NOW)]
        store.write_source("visits", pl.DataFrame(seen, schema=dict(visits.schema), orient="row"))
        for group in (last_payment, footfall):
            store.materialize_incremental(group)
            store.sync(group)
        yield store


@pytest.fixture(scope="module")
def client(store: FeatureStore) -> Iterator[httpx.Client]:
    with serving(store, Limits(body=20_000, entities=100, features=5)) as client:
        yield client


def shown(value: Any) -> Any:
    """A value as JSON has it."""
    return msgspec.json.decode(msgspec.json.encode(value))


_FEATURES = ["last_payment:amount", "last_payment:paid_for"]


@settings(max_examples=60, deadline=None)
@given(
    cards=st.lists(st.none() | st.integers(-2, CARDS + 2), min_size=1, max_size=100),
    features=st.lists(st.sampled_from(_FEATURES), min_size=1, max_size=2, unique=True),
    full=st.booleans(),
)
def test_each_format_says_what_the_in_process_client_says(store, client, cards, features, full):
    body = {"features": features, "entities": {"card_id": cards}, "full_feature_names": full}
    body |= {"include_feature_view_version_metadata": False}  # as Feast's client does
    expected = store.get_online_features(features, {"card_id": cards}, full_feature_names=full)
    names = ["card_id", *expected.values]

    said = client.post(READ, json=body).json()
    assert said["metadata"]["feature_names"] == names
    assert said["metadata"]["origins"] == dict.fromkeys(expected.values, "store")
    key, *results = said["results"]
    assert (key["values"], set(key["statuses"])) == (cards, {"PRESENT"})
    for name, result in zip(expected.values, results, strict=True):
        assert result["values"] == shown(expected.values[name])
        assert result["statuses"] == expected.statuses[name]
        never = "1970-01-01T00:00:00Z"
        assert result["event_timestamps"] == [shown(t) or never for t in expected.event_timestamps[name]]

    packed = msgspec.msgpack.decode(client.post(READ, json=body, headers={"accept": MSGPACK}).content)
    assert packed["metadata"] == said["metadata"]
    for name, result in zip(expected.values, packed["results"][1:], strict=True):
        assert result["statuses"] == expected.statuses[name]
        assert result["event_timestamps"] == expected.event_timestamps[name]

    table = pl.read_ipc_stream(io.BytesIO(client.post(READ, json=body, headers={"accept": ARROW}).content))
    assert table.equals(expected.to_polars())


def test_what_json_cannot_say_is_null_there_and_said_in_msgpack(client):
    body = {"features": ["last_payment:amount"], "entities": {"card_id": [3, 4, 5]}}
    assert client.post(READ, json=body).json()["results"][1]["values"] == [None, None, 2.5]
    packed = msgspec.msgpack.decode(client.post(READ, json=body, headers={"accept": MSGPACK}).content)
    nan, null, plain = packed["results"][1]["values"]
    assert (math.isnan(nan), null, plain) == (True, None, 2.5)
    assert packed["results"][1]["statuses"] == ["PRESENT", "NULL_VALUE", "PRESENT"]


def test_keys_that_json_has_as_text_are_understood(client):
    asked = {"shop": ["north", "süd", "north"], "day": ["2026-03-01", "2026-03-02", "2026-03-02"]}
    said = client.post(READ, json={"features": ["footfall:people"], "entities": asked}).json()
    shop, day, people = said["results"]
    assert (shop["values"], day["values"]) == (asked["shop"], asked["day"])
    assert people["values"] == [5, None, None]
    assert people["statuses"] == ["PRESENT", "NULL_VALUE", "NOT_FOUND"]


def test_a_service_with_request_values(client):
    body = {"feature_service": "basket", "entities": {"card_id": [2, 10]}, "request": {"price": [3, 20.0]}}
    said = client.post(READ, json=body).json()
    assert said["metadata"]["feature_names"] == ["card_id", "amount", "ratio"]
    assert [result["values"] for result in said["results"]] == [[2, 10], [1.0, 5.0], [3.0, 4.0]]


def test_what_is_pushed_is_served_and_known_by_its_id(client):
    row = {
        "card_id": [1000, 1001],
        "event_timestamp": ["2026-03-09T23:00:00+01:00", "2026-03-09T23:30:00.5Z"],
        "amount": [12, 3.5],
        "paid_for": ["PT90S", None],
    }
    body = {"group": "last_payment", "df": row, "push_id": "till-1"}
    done = client.post("/push", json=body).json()
    assert (done["group"], done["rows"]) == ("last_payment", 2)
    assert done["created_timestamp"].startswith("2026-03-10T00:00:00")
    said = client.post(READ, json={"features": _FEATURES, "entities": {"card_id": [1000, 1001]}}).json()
    assert [result["values"] for result in said["results"][1:]] == [[12.0, 3.5], ["PT90S", None]]
    assert said["results"][1]["event_timestamps"] == ["2026-03-09T22:00:00Z", "2026-03-09T23:30:00.500000Z"]
    assert client.post("/push", json=body).json()["rows"] == 0


AMOUNT = ["last_payment:amount"]
KEYS = {"card_id": [1]}


@pytest.mark.parametrize(
    ("body", "status", "field", "words"),
    [
        ({"features": AMOUNT}, 422, "entities", "missing"),
        ({"features": AMOUNT, "entities": {}}, 422, "entities", "key columns"),
        ({"features": AMOUNT, "entities": {"card_id": 1}}, 422, "entities[...]", "array"),
        ({"features": AMOUNT, "entities": {"card_id": [1], "x": [1, 2]}}, 422, "entities", "as many"),
        ({"features": AMOUNT, "entities": {"card": [1]}}, 422, None, "lack key column"),
        ({"features": AMOUNT, "entities": {"card_id": ["one"]}}, 422, None, "declared type"),
        ({"features": AMOUNT, "entities": {"card_id": [[1]]}}, 422, None, "declared type"),
        ({"features": AMOUNT, "entities": {"card_id": [1] * 101}}, 413, "entities", "at most 100"),
        ({"entities": KEYS}, 422, "features", "one of them"),
        ({"features": AMOUNT, "feature_service": "basket", "entities": KEYS}, 422, "features", "one of them"),
        ({"features": [], "entities": KEYS}, 422, "features", "1 to 5"),
        ({"features": AMOUNT * 6, "entities": KEYS}, 422, "features", "1 to 5"),
        ({"features": ["last_payment:amont"], "entities": KEYS}, 404, "features", "amont"),
        ({"features": ["nobody:amount"], "entities": KEYS}, 404, "features", "nobody"),
        ({"features": ["amount"], "entities": KEYS}, 422, None, "amount"),
        ({"features": ["history:old"], "entities": KEYS}, 422, None, "not served online"),
        ({"feature_service": "cart", "entities": KEYS}, 404, "features", "cart"),
        ({"feature_service": "basket", "entities": KEYS}, 422, None, "price"),
        ({"features": AMOUNT, "entities": KEYS, "request": {"price": 1}}, 422, None, "price"),
        ({"features": AMOUNT, "entities": KEYS, "entity_rows": []}, 422, "entity_rows", "unknown field"),
        ({"features": AMOUNT, "entities": KEYS, "full_feature_names": "yes"}, 422, "full_feature_names", "bool"),
        ({"features": ["footfall:people"], "entities": {"shop": ["a"], "day": ["1st"]}}, 422, "entities.day", "date"),
        ([1], 422, None, "object"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong_with_which_field(client, body, status, field, words):
    answer = client.post(READ, json=body)
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert (problem["status"], problem.get("field")) == (status, field), problem
    assert words in problem["detail"]


@pytest.mark.parametrize(
    ("change", "status", "field", "words"),
    [
        ({"group": "nobody"}, 404, "group", "nobody"),
        ({"group": "history"}, 422, None, "offline only"),
        ({"df": {"card_id": [1]}}, 422, None, "event_timestamp"),
        ({"df": {"card_id": [1], "event_timestamp": ["noon"], "amount": [1]}}, 422, "df.event_timestamp", "datetime"),
        ({"df": {"card_id": [1, 2], "event_timestamp": ["2026-03-09T00:00:00"]}}, 422, "df", "as many"),
        ({"df": {"card_id": [1], "event_timestamp": ["2026-03-09T00:00:00"], "x": [1]}}, 422, "df", "no feature"),
        ({"df": {"card_id": [1], "event_timestamp": ["2026-03-09T00:00:00"], "amount": [-1]}}, 422, None, "amount"),
        ({"df": {"card_id": [1], "event_timestamp": ["2027-03-09T00:00:00"], "amount": [1]}}, 422, None, "later"),
    ],
)
def test_a_bad_push_changes_nothing_and_is_told_why(client, change, status, field, words):
    row = {"card_id": [2000], "event_timestamp": ["2026-03-09T00:00:00"], "amount": [1]}
    answer = client.post("/push", json={"group": "last_payment", "df": row} | change)
    assert (answer.status_code, answer.json().get("field")) == (status, field), answer.json()
    assert words in answer.json()["detail"]
    said = client.post(READ, json={"features": AMOUNT, "entities": {"card_id": [2000]}}).json()
    assert said["results"][1]["statuses"] == ["NOT_FOUND"]


def test_what_is_no_request_at_all(client):
    assert client.post(READ, content=b"{").status_code == 400
    assert client.post(READ, content=b"\xff\xfe").status_code == 400
    assert client.post(READ, content=b" " * 20_001).status_code == 413
    assert client.post(READ, content=iter([b" " * 9_000] * 3)).status_code == 413
    assert client.get(READ).status_code == 405
    assert client.get("/nowhere").json()["status"] == 404
    good = {"features": AMOUNT, "entities": KEYS}
    assert client.post(READ, json=good, headers={"accept": "text/csv"}).status_code == 406
    assert client.post(READ, json=good, headers={"accept": "text/html, */*;q=0.8"}).status_code == 200
    assert client.post(READ, json=good, headers={"sec-fetch-site": "cross-site"}).status_code == 403


def test_metrics_count_what_was_answered(store):
    with serving(store) as client:
        for entities in (KEYS, KEYS, {}):
            client.post(READ, json={"features": AMOUNT, "entities": entities})
        lines = client.get("/metrics").text.splitlines()
    assert f'featurefab_requests_total{{path="{READ}",status="200"}} 2.0' in lines
    assert f'featurefab_requests_total{{path="{READ}",status="422"}} 1.0' in lines
    assert f'featurefab_request_seconds_count{{path="{READ}"}} 3.0' in lines


def test_the_document_and_its_page_name_every_path(client):
    assert (client.get("/health").json(), client.get("/ready").json()["status"]) == ({"status": "ok"}, "ok")
    document, page = client.get("/openapi.json").json(), client.get("/docs").text
    assert {READ, "/push", "/health", "/ready", "/metrics"} <= set(document["paths"])
    assert all(path in page for path in document["paths"])
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_while_the_online_store_is_gone_defaults_are_marked_and_the_rest_is_503(tmp_path):
    with connect(REGISTRY, tmp_path, lambda: NOW) as store:
        store.apply()
        with serving(store) as client:
            store.online.close()
            lost = client.post(READ, json={"features": AMOUNT, "entities": KEYS})
            assert (lost.status_code, lost.headers["retry-after"]) == (503, "1")
            asked = {"features": ["footfall:people"], "entities": {"shop": ["north"], "day": ["2026-03-01"]}}
            said = client.post(READ, json=asked).json()
            assert (said["results"][2]["values"], said["metadata"]["origins"]) == ([7], {"people": "default"})
            assert client.get("/ready").status_code == 503
            assert client.get("/health").status_code == 200


def test_the_page_about_serving_shows_what_is_answered(client):
    page = (Path(__file__).parents[2] / "docs/serving.md").read_text("utf-8")
    asked, answered, pushed, refused = map(json.loads, re.findall(r"```json\n(.*?)```", page, re.DOTALL))
    assert client.post(READ, json=asked).json() == answered
    assert client.post("/push", json=pushed).json()["rows"] == 1
    misspelt = {**asked, "features": ["last_payment:amont"]}
    assert client.post(READ, json=misspelt).json() == refused
