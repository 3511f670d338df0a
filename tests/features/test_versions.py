"""Versions: what plan says of a change, what apply refuses, and which definition a name means."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date

import polars as pl
import pytest

from card_payments import ABOUT, HOUR, T0, card
from features import Entity, Feature, FeatureGroup, FeatureService, FeatureStore, ModelSpec, Registry, Source
from features.errors import (
    ConcurrentRun,
    DefinitionChanged,
    IncompatibleFeatureVersion,
    NotRegistered,
)
from features.stores import ModelVersion
from infra.storage.delta import DeltaLake
from infra.storage.memory_store import MemoryOnlineStore

SCHEMA = {"payment_id": pl.Int64, "card_id": pl.Int64, "amount": pl.Float64, "n": pl.Int32, "at": pl.Datetime}
payments = Source("payments", SCHEMA, "at", keys=["payment_id"])
last, count = Feature("last", pl.col("amount")), Feature("count", pl.col("n"))


def group(version="1.0.0", features=(last, count), entity=card, source=payments, **options):
    return FeatureGroup("g", version, entity, source, features, **{"grain": "event", **ABOUT, **options})


class Models:
    """Registered models, as a tracker lists them."""

    def __init__(self, *versions):
        self.versions = versions

    def registered_models(self):
        return self.versions


def registered(features, version="1.0.0", **more):
    heads = {text.partition(":")[0] for text in features}
    manifest = {"features": features, "groups": {head: {"version": version} for head in heads}}
    return ModelVersion("fraud", "3", "run", aliases=("champion",), manifest=manifest, **more)


def open_store(folder, *items, models=None, now=T0, user="me"):
    return FeatureStore(
        Registry(items), DeltaLake(folder), MemoryOnlineStore(), clock=lambda: now, models=models, user=user
    )


def planned(folder, new, old=None, **options):
    """What the plan says of a new definition where an old one is applied."""
    open_store(folder, old or group()).apply()
    return open_store(folder, new, **options).plan()


def test_a_group_that_nobody_applied_is_new_and_the_first_use_applies_it(tmp_path):
    store = open_store(tmp_path, group())
    assert (store.plan()["g"].status, store.plan().exit_code) == ("new", 0)
    store.materialize_incremental("g")
    assert (store.plan()["g"].status, store.plan()["g"].applied) == ("unchanged", "1.0.0")


def test_applied_definitions_say_who_and_when_and_stay(tmp_path):
    for version, user in (("1.0.0", "ann"), ("1.0.1", "bob"), ("1.0.1", "cid")):
        open_store(tmp_path, group(version), user=user).apply()
    rows = DeltaLake(tmp_path).definitions().sort("version")
    columns = ["name", "version", "applied_at", "applied_by"]
    assert rows.select(columns).rows() == [("g", "1.0.0", T0, "ann"), ("g", "1.0.1", T0, "bob")]


OTHER = Source("others", SCHEMA, "at", keys=["payment_id"])
NARROW = Source("payments", {**SCHEMA, "n": pl.Int16}, "at", keys=["payment_id"])
TEXT = Source("payments", {**SCHEMA, "n": pl.String}, "at", keys=["payment_id"])
WIDE = Source("payments", {**SCHEMA, "n": pl.Int64}, "at", keys=["payment_id"])
CUSTOMER = Entity("customer", keys={"card_id": pl.Int64})
MORE = Feature("more", pl.col("amount") * 2)
BREAKING = {
    "feature removed": (group(features=[last]), "count: removed"),
    "type narrowed": (group(source=NARROW), "count: type Int32 → Int16"),
    "type changed": (group(source=TEXT), "count: type Int32 → String"),
    "entity": (group(entity=CUSTOMER), "entity: card (card_id Int64) → customer (card_id Int64)"),
    "source": (group(source=OTHER), "inputs: payments → others"),
    "grain": (
        group(grain="entity", every="1d", features=[Feature(n, pl.col("amount").last()) for n in ("last", "count")]),
        "grain: event → entity",
    ),
    "unit": (group(features=[Feature("last", pl.col("amount"), unit="EUR"), count]), "last: unit USD → EUR"),
}
CHANGED = {
    "expression": (group(features=[Feature("last", pl.col("amount") * 2, unit="USD"), count]), "last: expression"),
    "hidden in an expression": (
        group(features=[Feature("last", pl.col("amount").round(2), unit="USD"), count]),
        "last: expression",
    ),
    "prepare": (group(prepare=lambda frame: frame.filter(pl.col("n") > 0)), "prepare: other code"),
    "publish delay": (group(publish_delay="1h"), "publish_delay: none → 1h"),
    "unit named": (group(features=[last, Feature("count", pl.col("n"), unit="1")]), "count: unit None → 1"),
}


def at_version(one, version):
    return replace(one, version=version)


with_unit = group(features=[Feature("last", pl.col("amount"), unit="USD"), count])


@pytest.mark.parametrize("case", BREAKING)
def test_what_breaks_consumers_needs_a_major_version(tmp_path, case):
    changed, reason = BREAKING[case]
    for version in ("1.0.0", "1.1.0"):
        plan = planned(tmp_path, at_version(changed, version), with_unit)
        assert (plan["g"].status, plan.exit_code) == ("breaking", 2)
        assert any(text.startswith(reason) for text in plan["g"].difference.breaking), plan["g"].difference
        with pytest.raises(IncompatibleFeatureVersion, match=r"raise the version to 2\.0\.0"):
            open_store(tmp_path, at_version(changed, version)).apply()
    plan = open_store(tmp_path, at_version(changed, "2.0.0")).plan()
    assert (plan["g"].status, plan["g"].applied, plan.exit_code) == ("new major", "1.0.0", 0)
    assert any(text.startswith(reason) for text in plan["g"].difference.breaking)
    assert DeltaLake(tmp_path).definitions()["version"].to_list() == ["1.0.0"]


@pytest.mark.parametrize("case", CHANGED)
def test_what_is_computed_otherwise_needs_any_raise(tmp_path, case):
    changed, reason = CHANGED[case]
    changed = replace(changed, features=[replace(f, unit="USD") if f.name == "last" else f for f in changed.features])
    plan = planned(tmp_path, changed, with_unit)
    assert (plan["g"].status, plan.exit_code) == ("changed", 3)
    assert any(text.startswith(reason) for text in plan["g"].difference.changed), plan["g"].difference
    with pytest.raises(DefinitionChanged, match=r"raise the version to 1\.0\.1"):
        open_store(tmp_path, changed).apply()
    raised = open_store(tmp_path, at_version(changed, "1.0.1"))
    assert raised.apply()["g"].status == "changed"
    assert raised.plan()["g"].status == "unchanged"


@pytest.mark.parametrize("wider", [group(features=[last, count, MORE]), group(source=WIDE)], ids=["feature", "type"])
def test_new_features_and_wider_types_need_a_minor_version(tmp_path, wider):
    for version in ("1.0.0", "1.0.1"):
        plan = planned(tmp_path, at_version(wider, version))
        assert (plan["g"].status, plan.exit_code) == ("added", 3)
        with pytest.raises(DefinitionChanged, match=r"raise the version to 1\.1\.0 or more \(minor\)"):
            open_store(tmp_path, at_version(wider, version)).apply()
    raised = open_store(tmp_path, at_version(wider, "1.1.0"))
    assert (raised.apply()["g"].status, raised.plan()["g"].status) == ("added", "unchanged")


def test_what_only_documents_a_group_changes_nothing(tmp_path):
    plan = planned(tmp_path, group(owner="p", description="e", ttl="9d", tags=["t"], retire=date(2030, 1, 1)))
    assert (plan["g"].status, plan.exit_code) == ("unchanged", 0)


def test_a_change_that_is_not_applied_raises_until_it_is(tmp_path):
    open_store(tmp_path, group()).materialize_incremental("g")
    store = open_store(tmp_path, group("1.1.0", [last, count, MORE]))
    entities = pl.DataFrame({"card_id": [1], "event_timestamp": [T0]})
    for use in (
        lambda: store.materialize_incremental("g"),
        lambda: store.materialize("g", T0 - HOUR, T0),
        lambda: store.sync("g"),
        lambda: store.get_historical_features(entities, ["g:last"]),
    ):
        with pytest.raises(DefinitionChanged, match=r"'g' 1\.1\.0 was never applied, only 1\.0\.0"):
            use()
    store.apply()
    store.materialize_incremental("g")
    assert store.get_historical_features(entities, ["g:more"]).manifest["groups"]["g"]["version"] == "1.1.0"


def test_older_code_reads_on_and_writes_no_more(tmp_path):
    old = open_store(tmp_path, group())
    old.materialize_incremental("g")
    open_store(tmp_path, group("1.1.0", [last, count, MORE])).apply()
    entities = pl.DataFrame({"card_id": [1], "event_timestamp": [T0]})
    assert old.get_historical_features(entities, ["g:last"]).manifest["groups"]["g"]["version"] == "1.0.0"
    with pytest.raises(DefinitionChanged, match=r"1\.1\.0 is applied, the code defines 1\.0\.0: update the code"):
        old.materialize_incremental("g")
    assert (old.plan()["g"].status, old.plan().exit_code) == ("behind", 3)


def test_readers_of_what_changes_are_named(tmp_path):
    by_ref = FeatureService("by_ref", ["g:last"], **ABOUT)
    untouched = FeatureService("untouched", ["g:count"], **ABOUT)
    model = ModelSpec("risk", untouched, "g:last", estimator=None, **ABOUT)
    models = Models(registered(["g:last"]), registered(["g:count"]), registered(["g:last"], version="2.3.0"))
    changed = group("1.0.1", [Feature("last", pl.col("amount") * 2), count])
    plan = open_plan(tmp_path, changed, [by_ref, untouched, model], models)
    assert plan.affected.services == ["by_ref"]
    assert plan.affected.models == ["risk"]
    assert plan.affected.registered_models == ["fraud version 3 (champion)"]


def test_a_removed_feature_names_the_registered_models_that_use_it(tmp_path):
    models = Models(registered(["g:count"]), registered(["g:last"]))
    plan = open_plan(tmp_path, group("2.0.0", [last]), [], models)
    assert plan.affected.registered_models == ["fraud version 3 (champion)"]


def open_plan(folder, new, consumers, models):
    open_store(folder, group()).apply()
    return open_store(folder, new, *consumers, models=models).plan()["g"]


def test_names_of_windowed_features_should_tell_aggregate_and_window(tmp_path):
    mean, total = pl.col("amount").mean(), pl.col("amount").sum()
    features = [
        Feature("amount_mean_24h", mean, window="1d"),
        Feature("total_7d", total, window="7d"),
        Feature("amount_1d", total, window="1d"),
        Feature("n_sum", total, window="7d"),
    ]
    store = open_store(tmp_path, group(features=features, grain="window", every="1d"))
    assert store.plan()["g"].warnings == [
        "amount_1d: the name lacks its aggregate (sum)",
        "n_sum: the name lacks its window (7d)",
    ]


def test_plan_says_what_reads_raw_rows_and_what_online_requests_wait_for(tmp_path):
    between = Feature("amount_quantile_1d", pl.col("amount").quantile(0.5), window="1d")
    sine = Feature("sine", pl.col("amount_quantile_1d").sin())
    store = open_store(
        tmp_path,
        group(features=[between], grain="window", every="1d", derived=[sine]),
        FeatureService("waves", ["g:amount_quantile_1d"], derived=[replace(sine, name="wave")], **ABOUT),
    )
    plan = store.plan()
    raw, slow = plan["g"].warnings
    assert raw.startswith("amount_quantile_1d reads raw rows at every run: ")
    assert slow.startswith("sine costs about 80 µs more in each online request: ")
    (service,) = plan.warnings
    assert service.startswith("feature service 'waves': wave costs")


def test_plan_warns_of_a_major_that_retires(tmp_path):
    (text,) = open_store(tmp_path, group(retire=date(2026, 4, 1))).plan()["g"].warnings
    assert text == "g 1.0.0 retires on 2026-04-01: move its readers to another major"


def test_applies_at_once_of_other_groups_all_survive(tmp_path):
    stores = [open_store(tmp_path, replace(group(), name=f"g{i}")) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda store: store.apply(), stores))
    assert sorted(DeltaLake(tmp_path).definitions()["name"]) == ["g0", "g1", "g2", "g3"]


def test_of_two_applies_of_one_group_that_know_nothing_of_each_other_one_fails_clearly(tmp_path):
    open_store(tmp_path, group()).apply()
    one, two = (open_store(tmp_path, group("1.1.0", [last, count, Feature(n, pl.col("amount"))])) for n in "ab")
    before = two.versions.standing()
    one.apply()
    with pytest.raises(ConcurrentRun, match="another process applied another definition first: plan again"):
        two.versions._record([two.registry.group("g")], before)
    same = open_store(tmp_path, one.registry.group("g"))
    same.versions._record([same.registry.group("g")], before)  # the same definition: it is there
    assert DeltaLake(tmp_path).definitions().height == 2


two = group("2.0.0", [Feature("last", pl.col("amount") * 100), Feature("fresh", pl.col("amount"))])


def fill(store, *amounts):
    rows = [(i, 1, float(a), 1, T0 - (i + 1) * HOUR) for i, a in enumerate(amounts)]
    store.write_source(payments, pl.DataFrame(rows, schema=SCHEMA, orient="row"), "all")


def run(store, name):
    store.materialize_incremental(name)
    store.sync(name)


ASKED = pl.DataFrame({"card_id": [1], "event_timestamp": [T0]})


def test_majors_live_side_by_side_offline_and_online(tmp_path):
    store = open_store(tmp_path, group(), two)
    fill(store, 5.0)
    for name in ("g@1", "g@2"):
        run(store, name)
    refs = ["g@1:last", "g@2:last"]
    offline = store.get_historical_features(ASKED, refs, full_feature_names=True)
    online = store.get_online_features(refs, [{"card_id": 1}], full_feature_names=True)
    for values in (offline.to_polars().to_dicts()[0], online.to_polars().to_dicts()[0]):
        assert (values["g@1__last"], values["g@2__last"]) == (5.0, 500.0)
    assert offline.manifest["features"] == refs
    assert {head: facts["version"] for head, facts in offline.manifest["groups"].items()} == {
        "g@1": "1.0.0",
        "g@2": "2.0.0",
    }


def test_a_bare_name_means_the_newest_applied_major(tmp_path):
    old = open_store(tmp_path, group())
    fill(old, 5.0)
    run(old, "g")
    store = FeatureStore(Registry([group(), two]), DeltaLake(tmp_path), old.online, clock=lambda: T0)

    def answers():
        offline = store.get_historical_features(ASKED, ["g:last"])
        online = store.get_online_features(["g:last"], [{"card_id": 1}]).to_dict()["last"]
        return [*offline.to_polars()["last"], *online, offline.manifest["groups"]["g"]["version"]]

    with pytest.raises(DefinitionChanged, match=r"'g' 2\.0\.0 was never applied, only 1\.0\.0"):
        store.materialize_incremental("g@2")
    # It is another object with the same meaning: reading goes on while the new major waits to be applied.
    assert answers() == [5.0, 5.0, "1.0.0"]
    store.apply()
    run(store, "g")
    assert answers() == [500.0, 500.0, "2.0.0"]
    assert store.get_historical_features(ASKED, ["g@1:last"]).to_polars()["last"].to_list() == [5.0]
    with pytest.raises(NotRegistered, match="asks for major 3, the registry defines 'g' in version"):
        store.get_historical_features(ASKED, ["g@3:last"])


def test_a_service_that_lists_an_older_major_itself_reads_that_one(tmp_path):
    one = group()
    service = FeatureService("s", [one], **ABOUT)
    store = open_store(tmp_path, one, two, service)
    fill(store, 5.0)
    run(store, one)
    assert store.get_historical_features(ASKED, service).to_polars()["last"].to_list() == [5.0]


def test_less_than_a_service_or_model_requires_is_refused(tmp_path):
    open_store(tmp_path, group()).apply()
    wider = group("1.1.0", [last, count, MORE])
    service = FeatureService("s", ["g:last"], requires=["g>=1.1"], **ABOUT)
    model = ModelSpec("risk", service, "g:last", estimator=None, requires=["g>=1.1"], **ABOUT)
    store = open_store(tmp_path, wider, model)
    with pytest.raises(IncompatibleFeatureVersion, match=r"model 'risk' requires g>=1.1, but g 1\.0\.0 is applied"):
        store.versions.require(model)
    with pytest.raises(IncompatibleFeatureVersion, match=r"feature service 's' requires g>=1.1, but g 1\.0\.0"):
        store.get_online_features(service, [{"card_id": 1}])
    store.apply()
    store.versions.require(model)
    store.get_online_features(service, [{"card_id": 1}])
    with pytest.raises(IncompatibleFeatureVersion, match=r"requires g>=1\.2, the registry defines 1\.1\.0"):
        Registry([wider, FeatureService("s", ["g:last"], requires=["g>=1.2"], **ABOUT)])


def test_rows_from_before_and_after_a_type_widened_are_read_alike(tmp_path):
    narrow = Source("payments", {**SCHEMA, "n": pl.Int16, "amount": pl.Float32}, "at", keys=["payment_id"])
    old = open_store(tmp_path, group(source=narrow))
    rows = pl.DataFrame([(0, 1, 0.5, 7, T0 - 2 * HOUR)], schema=SCHEMA, orient="row")
    old.write_source(narrow, rows)
    run(old, "g")
    assert [old.current_rows("g").collect().schema[c] for c in ("last", "count")] == [pl.Float32, pl.Int16]

    features = [
        Feature("last", pl.col("amount").cast(pl.Float64)),
        Feature("count", pl.col("n").cast(pl.Int32) * 70_000),
    ]
    store = FeatureStore(
        Registry([group("1.1.0", features, source=narrow)]), DeltaLake(tmp_path), old.online, clock=lambda: T0 + HOUR
    )
    assert store.apply()["g"].status == "added"
    store.write_source(narrow, pl.DataFrame([(1, 2, 0.5, 7, T0 - HOUR)], schema=SCHEMA, orient="row"))
    run(store, "g")
    refs, both = ["g:last", "g:count"], pl.DataFrame({"card_id": [1, 2], "event_timestamp": [T0 + HOUR, T0 + HOUR]})
    offline = store.get_historical_features(both, refs).to_polars()
    online = store.get_online_features(refs, both.select("card_id")).to_polars()
    for found in (offline, online):
        assert found.select("last", "count").rows() == [(0.5, 7), (0.5, 490_000)]
        assert [found.schema[c] for c in ("last", "count")] == [pl.Float64, pl.Int32]
