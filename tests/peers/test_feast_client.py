"""Feast's client for remote online stores reads from the feature server what the in-process client reads."""

from __future__ import annotations

import json
import math
import os
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from features import Entity, Feature, FeatureGroup, FeatureService, FeatureStore, Registry, Source
from features.times import UTC_US
from infra.wiring import connect
from serving_store import listening

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 3, 10, 12, 30, 0, 250_000, UTC)
ABOUT = {"owner": "payments", "description": "About a card."}
VERSION = "0.67."

card = Entity("card", keys={"card_id": pl.Int64})
payments = Source("payments", {"card_id": pl.Int64, "amount": pl.Float64, "at": UTC_US}, "at")
amount = pl.col("amount")
there = amount.fill_nan(None).fill_null(0)  # Feast's lists have no nulls
KINDS: dict[str, tuple[pl.Expr, str]] = {
    "small": (amount.cast(pl.Int32, strict=False), "Int32"),
    "large": (amount.cast(pl.Int64, strict=False) * 2**40 + 1, "Int64"),
    "single": (amount.cast(pl.Float32) / 3, "Float32"),
    "real": (amount / 7, "Float64"),
    "said": (pl.lit("ä ") + amount.cast(pl.String), "String"),
    "much": (amount > 4, "Bool"),
    "bits": ((pl.lit("\x00 ") + amount.cast(pl.String)).cast(pl.Binary), "Bytes"),
    "paid_at": (pl.col("at"), "UnixTimestamp"),
    "numbers": (pl.concat_list(there.cast(pl.Int64), pl.lit(2**60)), "[Int64]"),
    "parts": (pl.concat_list(there / 3, pl.lit(0.5)), "[Float64]"),
    "words": (pl.concat_list(pl.lit("a"), pl.lit("ö")), "[String]"),
    "flags": (pl.concat_list(there > 4, pl.lit(value=True)), "[Bool]"),
    "moments": (pl.concat_list(pl.col("at"), pl.col("at")), "[UnixTimestamp]"),
}
kinds = FeatureGroup(
    "kinds",
    "1.0.0",
    card,
    payments,
    [Feature(name, how) for name, (how, _) in KINDS.items()],
    grain="event",
    ttl="2d",
    **ABOUT,
)
last = FeatureGroup("last", "1.0.0", card, payments, [Feature("real", amount * 2)], grain="event", **ABOUT)
both = FeatureService("both", ["kinds:small", "last:real"], **ABOUT)
REGISTRY = Registry([kinds, last, both])


@pytest.fixture(scope="module")
def python() -> str:
    """The interpreter of an environment that has Feast."""
    named = os.environ.get("FEAST_PYTHON", str(ROOT / "build/peers/.venv/bin/python"))
    if not Path(named).exists():
        pytest.skip(f"there is no {named}: run `make bench-peers` once, or name one that has Feast by FEAST_PYTHON")
    said = run(named, "-c", "import feast; print(feast.__version__)")
    if not said.stdout.startswith(VERSION):
        pytest.skip(f"{named} has no Feast {VERSION}*: {said.stdout or said.stderr}")
    return named


def run(*command: str, said: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=said, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    with connect(REGISTRY, tmp_path_factory.mktemp("home"), lambda: NOW) as store:
        amounts = {1: 1.0, 2: 5.5, 3: None, 4: math.nan, 5: -0.0, 6: 1e9}
        paid = [(n, value, NOW - timedelta(hours=n, microseconds=n)) for n, value in amounts.items()]
        paid.append((7, 7.0, NOW - timedelta(days=3)))  # older than the ttl
        store.write_source("payments", pl.DataFrame(paid, schema=dict(payments.schema), orient="row"))
        for group in (kinds, last):
            store.materialize_incremental(group)
            store.sync(group)
        yield store


def told(value: Any, like: Any) -> Any:
    """What Feast gives, who knows no times and bytes in JSON, as what it stands for."""
    if isinstance(like, list) and isinstance(value, list):
        return [told(one, other) for one, other in zip(value, like, strict=True)]
    if isinstance(like, datetime):
        return datetime.fromisoformat(value)
    return b64decode(value) if isinstance(like, bytes) else value


def in_json(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, list):
        return [in_json(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


@pytest.mark.prove
def test_feasts_client_reads_what_the_in_process_client_reads(store, python):
    rows = [{"card_id": n} for n in (1, 2, 3, 4, 5, 6, 7, 999, 1)]
    refs = [f"kinds:{name}" for name in KINDS]
    asks: list[dict[str, Any]] = [
        {"features": refs, "entity_rows": rows},
        {"features": refs, "entity_rows": rows[:1]},
        *({"features": [ref], "entity_rows": rows} for ref in refs),
        {"features": ["kinds:real", "last:real"], "entity_rows": rows, "full_feature_names": True},
        {"service": "both", "entity_rows": rows},
        {"features": ["last:real"], "entity_rows": {"card_id": [6, 5]}},
    ]
    views = {"kinds": {name: kind for name, (_, kind) in KINDS.items()}, "last": {"real": "Float64"}}
    task = {"entity": "card", "key": ["card_id", "INT64"], "views": views, "asks": asks}
    task["services"] = {"both": list(both.features)}
    with listening(store) as (host, port):
        url = f"http://{host}:{port}"
        done = run(python, str(ROOT / "tests/peers/feast_client.py"), url, said=json.dumps(task))
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    assert len(answers) == len(asks)
    compared = 0
    for ask, answer in zip(asks, answers, strict=True):
        full = ask.get("full_feature_names", False)
        ours = store.get_online_features(ask.get("features", both), ask["entity_rows"], full_feature_names=full)
        assert [*answer["values"]] == [*ours.to_dict()]
        for name, values in ours.values.items():
            expected = in_json(list(values))
            assert [told(value, like) for value, like in zip(answer["values"][name], expected, strict=True)] == expected
            assert answer["statuses"][name] == list(ours.statuses[name])
            compared += len(values)
    statuses = {status for answer in answers for said in answer["statuses"].values() for status in said}
    assert statuses == {"PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"}
    print(f"{compared} values compared")
