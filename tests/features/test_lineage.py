"""Lineage: up and down from any node, without anybody typing it."""

from __future__ import annotations

import polars as pl
import pytest

from features import Entity, Feature, FeatureGroup, FeatureService, ModelSpec, Registry, Source
from features.definitions import REGISTRY
from features.errors import NotRegistered
from features.lineage import Edge, Node, lineage

ABOUT = {"owner": "o", "description": "d"}
card = Entity("card", keys={"card_id": pl.Int64})
payments = Source(
    "payments",
    schema={"card_id": pl.Int64, "amount": pl.Float64, "ok": pl.Boolean, "unused": pl.String, "at": pl.Datetime},
    event_timestamp="at",
)
spending = FeatureGroup(
    "spending",
    "1.0.0",
    card,
    payments,
    [Feature("total", pl.col("amount").sum()), Feature("payments", pl.len())],
    derived=[Feature("average", pl.col("total") / pl.col("payments"))],
    grain="entity",
    settle="1h",
    prepare=lambda p: p.filter("ok"),
    **ABOUT,
)
trend = FeatureGroup("trend", "1.0.0", card, spending, [Feature("twice", pl.col("total") * 2)], grain="event", **ABOUT)
risk = FeatureService(
    "risk",
    ["spending:average", "trend:twice"],
    request={"basket": pl.Float64},
    derived=[Feature("share", pl.col("basket") / pl.col("average"))],
    **ABOUT,
)
dispute = ModelSpec("dispute", risk, "spending:payments", None, **ABOUT)
SMALL = Registry([trend, dispute])


def into(found, name):
    return {(e.source.name, e.role) for e in found.edges if e.target.name == name}


def names(found):
    return {node.name for node in found.nodes}


def test_a_model_leads_back_to_source_columns():
    found = lineage(SMALL, "dispute")
    assert into(found, "dispute") == {("risk", "value"), ("spending:payments", "label")}
    assert into(found, "risk") == {("spending:average", "value"), ("trend:twice", "value"), ("risk:share", "value")}
    assert into(found, "risk:share") == {("risk:basket", "value"), ("spending:average", "value")}
    assert into(found, "spending:average") == {("spending:total", "value"), ("spending:payments", "value")}
    rows = {("payments:card_id", "structure"), ("payments:at", "structure"), ("payments:ok", "structure")}
    assert into(found, "spending:total") == {("payments:amount", "value")} | rows
    assert into(found, "spending:payments") == rows
    assert "predictions/dispute" in names(found)


def test_an_upstream_group_is_followed_by_its_features_and_keys():
    found = lineage(SMALL, "trend:twice")
    keys = {("spending:card_id", "structure"), ("spending:event_timestamp", "structure")}
    assert into(found, "trend:twice") == {("spending:total", "value")} | keys
    assert ("payments:card_id", "structure") in into(found, "spending:card_id")


def test_a_source_column_leads_to_all_that_it_enters():
    found = lineage(SMALL, "payments:amount")
    reached = {"spending:total", "spending:average", "trend:twice", "risk", "risk:share", "dispute"}
    assert names(found) == {"payments:amount", "predictions/dispute"} | reached
    assert {"spending:payments", "spending:total"} <= names(lineage(SMALL, "payments:ok"))


def test_what_only_stands_beside_is_left_out():
    found = lineage(SMALL, "spending:payments")
    assert "trend:twice" not in names(found)
    assert "payments:amount" not in names(found)
    assert lineage(SMALL, "payments:unused").edges == ()


def test_a_group_or_source_stands_for_all_it_has():
    assert [n.name for n in lineage(SMALL, "spending").focus] == [
        "spending:total",
        "spending:payments",
        "spending:average",
    ]
    assert {n.name for n in lineage(SMALL, "payments").focus} == {f"payments:{c}" for c in payments.schema}


def test_the_time_of_a_request_is_a_request_value():
    since = Feature("since", pl.col("request_timestamp") - pl.col("last"))
    last = Feature("last", pl.col("at"))
    group = FeatureGroup("seen", "1.0.0", card, payments, [last], derived=[since], grain="event", **ABOUT)
    found = lineage(Registry([group]), "seen:since")
    assert into(found, "seen:since") == {("seen:request_timestamp", "value"), ("seen:last", "value")}
    assert {n.kind for n in found.nodes if n.name == "seen:request_timestamp"} == {"request value"}


def test_a_source_and_a_group_of_one_name_are_told_apart():
    source = Source("card", schema={"card_id": pl.Int64, "x": pl.Float64, "at": pl.Datetime}, event_timestamp="at")
    group = FeatureGroup("card", "1.0.0", card, source, [Feature("x", pl.col("x"))], grain="event", **ABOUT)
    found = lineage(Registry([group]), "card:x")
    assert {(n.kind, n.name) for n in found.focus} == {("feature", "card:x"), ("source column", "card:x")}


def test_majors_have_lineages_of_their_own():
    new = FeatureGroup(
        "spending", "2.0.0", card, payments, [Feature("total", pl.col("unused").count())], grain="entity",
        settle="1h", **ABOUT,
    )  # fmt: skip
    registry = Registry([spending, new])
    assert ("payments:unused", "value") in into(lineage(registry, "spending:total"), "spending@2:total")
    assert ("payments:unused", "value") in into(lineage(registry, "spending@2:total"), "spending@2:total")
    assert ("payments:amount", "value") in into(lineage(registry, "spending@1:total"), "spending@1:total")


def test_runs_take_the_place_of_the_plain_way_to_predictions():
    version = Node("model version", "dispute@1", "run a1")
    predictions = Node("predictions", "predictions/dispute")
    runs = [Edge(Node("model", "dispute"), version, "run"), Edge(version, predictions, "run")]
    found = lineage(SMALL, "dispute@1", runs)
    assert [e.source.name for e in found.up(predictions)] == ["dispute@1"]
    assert "payments:amount" in names(found)


def test_an_unknown_reference_names_the_nearest():
    for ref, nearest in (("payments:amuont", "payments:amount"), ("spendng", "spending"), ("dispute@7", "dispute")):
        with pytest.raises(NotRegistered, match=f"'{ref}' is not registered; the nearest: .*{nearest}"):
            lineage(SMALL, ref)


def test_as_plain_values_it_has_every_node_and_edge():
    found = lineage(SMALL, "spending:average").to_dict()
    assert found["focus"] == ["spending:average"]
    ends = {(e[end]["kind"], e[end]["name"]) for e in found["edges"] for end in ("from", "to")}
    assert {(n["kind"], n["name"]) for n in found["nodes"]} == ends


@pytest.mark.parametrize("group", REGISTRY.in_order(), ids=lambda g: g.name)
def test_every_shipped_feature_reaches_source_columns(group):
    for feature in (*group.features, *group.derived):
        found = lineage(REGISTRY, f"{group.name}:{feature.name}")
        assert any(node.kind == "source column" for node in found.nodes), feature.name
        if feature.expr.meta.root_names():
            assert any(e.role == "value" and e.target == found.focus[0] for e in found.edges), feature.name


@pytest.mark.parametrize("model", REGISTRY.models)
def test_every_shipped_model_reaches_source_columns(model):
    found = lineage(REGISTRY, model)
    assert {"source column", "feature", "service", "predictions"} <= {node.kind for node in found.nodes}
