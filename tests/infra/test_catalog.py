from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from sklearn.linear_model import Ridge

from features import Entity, Feature, FeatureGroup, FeatureService, FeatureStore, ModelSpec, Registry, Source
from features.definitions import REGISTRY
from features.errors import DefinitionError, NotRegistered
from features.runs import Run
from infra.catalog import describe
from infra.settings import load_settings
from infra.status import status
from infra.wiring import connect, fixed_clock, open_platform

NOW = datetime(2026, 3, 10, tzinfo=UTC)
START = datetime(2026, 3, 1, tzinfo=UTC)

guest = Entity("guest", keys={"guest_id": pl.String(), "hotel": pl.Int32()}, description="A guest of a hotel.")
stays = Source(
    "stays",
    schema={"guest_id": pl.String(), "hotel": pl.Int32(), "nights": pl.Int64(), "left_at": pl.Datetime("us")},
    event_timestamp="left_at",
    keys=["guest_id", "hotel"],
    description="One row per stay.",
    columns={"nights": "Nights slept, at least one"},
)


def paid_stays(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Stays that were paid for."""
    return frame.filter(pl.col("nights") > 0)  # this comment is layout


def guest_stays(name: str = "guest_stays", nights: str = "nights") -> FeatureGroup:
    return FeatureGroup(
        name,
        "1.2.0",
        guest,
        stays,
        [
            Feature("nights_sum", pl.col(nights).sum(), unit="nights", range=(0, None), description="All nights."),
            Feature("stay_count", pl.len(), default=0, tags=["count"], description="How often."),
        ],
        grain="entity",
        settle="1h",
        ttl="30d",
        publish_delay="5m",
        prepare=paid_stays,
        prepare_by=["guest_id"],
        derived=[
            Feature("nights_mean", pl.col("nights_sum") / pl.col("stay_count"), range=(1, 30), description="Per stay.")
        ],
        schedule="0 * * * *",
        sla="2h",
        tags=["hotel"],
        owner="front-desk",
        description="Stays of a guest.",
    )


GROUP = guest_stays()
LABEL = guest_stays("guest_label")
SERVICE = FeatureService(
    "guest_profile",
    ["guest_stays:nights_sum", "guest_stays@1:nights_mean"],
    request={"budget": pl.Float64()},
    derived=[Feature("nights_paid", pl.col("budget") / pl.col("nights_sum"), unit="€", description="Budget a night.")],
    owner="marketing",
    description="What offers look at.",
)
MODEL = ModelSpec(
    "guest_returns",
    SERVICE,
    "guest_label:stay_count",
    Ridge(),
    label_delay="1d",
    metrics=("mae",),
    owner="marketing",
    description="Stays to come.",
)
HOTEL = Registry([GROUP, LABEL, SERVICE, MODEL])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    with connect(HOTEL, tmp_path / "home", fixed_clock(NOW)) as store:
        yield store


def fill(store: FeatureStore) -> Run:
    times = [START, START + timedelta(days=1), START + timedelta(days=1)]
    rows = {"guest_id": ["ann", "ann", "bob"], "hotel": [1, 1, 2], "nights": [2, 3, 1], "left_at": times}
    store.write_source("stays", pl.DataFrame(rows))
    run = store.materialize("guest_stays", START, NOW)
    store.sync("guest_stays")
    return run


def test_a_group_that_nobody_applied_is_described_and_asking_applies_nothing(
    store: FeatureStore, tmp_path: Path
) -> None:
    facts = describe(store, "guest_stays")
    assert not (tmp_path / "home/lake").exists()
    assert {k: facts[k] for k in ("definition", "applied_at", "rows", "delta_version", "newest_event")} == {
        "definition": "never applied",
        "applied_at": "never",
        "rows": 0,
        "delta_version": "never",
        "newest_event": "never",
    }


def test_a_group_says_what_was_declared(store: FeatureStore) -> None:
    fill(store)
    facts = describe(store, "guest_stays")
    assert {k: v for k, v in facts.items() if isinstance(v, str | bool) and k not in ("prepare", "fingerprint")} == {
        "kind": "feature group",
        "name": "guest_stays",
        "description": "Stays of a guest.",
        "owner": "front-desk",
        "version": "1.2.0",
        "entity": "guest",
        "keys": "guest_id String, hotel Int32",
        "grain": "entity",
        "settle": "1h",
        "ttl": "30d",
        "publish_delay": "5m",
        "sla": "2h",
        "schedule": "0 * * * *",
        "tags": "hotel",
        "on_conflict": "last",
        "online": True,
        "inputs": "stays",
        "prepare_by": "guest_id",
        "definition": "as applied",
    }
    assert facts["prepare"].splitlines()[-1].strip() == "return frame.filter(pl.col('nights') > 0)"


def test_a_group_says_what_its_table_holds(store: FeatureStore) -> None:
    run = fill(store)
    facts = describe(store, "guest_stays")
    assert facts["applied_at"] == NOW
    assert facts["rows"] == 3  # ann's two settled stays and bob's
    assert facts["newest_event"] == START + timedelta(days=1)
    assert facts["delta_version"] == run.version
    assert facts["applied versions"] == [{"version": "1.2.0", "applied_at": NOW, "fingerprint": facts["fingerprint"]}]


def test_a_group_lists_its_features_and_who_reads_them(store: FeatureStore) -> None:
    facts = describe(store, "guest_stays")
    assert facts["features"] == [
        {
            "feature": "nights_sum",
            "type": "Int64",
            "unit": "nights",
            "range": "0 to ∞",
            "window": None,
            "description": "All nights.",
        },
        {
            "feature": "stay_count",
            "type": "Int64",
            "unit": None,
            "range": None,
            "window": None,
            "description": "How often.",
        },
    ]
    assert [(row["feature"], row["type"], row["range"]) for row in facts["derived"]] == [
        ("nights_mean", "Float64", "1 to 30")
    ]
    assert facts["read from"] == [{"input": "stays", "kind": "source", "name": "stays"}]
    assert [(row["kind"], row["name"], row["as"]) for row in facts["used by"]] == [
        ("feature service", "guest_profile", "features"),
        ("model", "guest_returns", "inputs"),
    ]


def test_a_definition_that_differs_from_the_applied_one_says_so(store: FeatureStore, tmp_path: Path) -> None:
    fill(store)
    changed = Registry([guest_stays(nights="hotel")])
    with connect(changed, tmp_path / "home", fixed_clock(NOW)) as other:
        assert describe(other, "guest_stays")["definition"] == "differs from what was applied as 1.2.0"


def test_a_new_feature_is_not_added_to_the_table_by_asking(store: FeatureStore, tmp_path: Path) -> None:
    fill(store)
    version = describe(store, "guest_stays")["delta_version"]
    wider = FeatureGroup(
        "guest_stays",
        "1.3.0",
        guest,
        stays,
        [*GROUP.features, Feature("longest", pl.col("nights").max())],
        grain="entity",
        settle="1h",
        owner="front-desk",
        description="Stays of a guest.",
    )
    with connect(Registry([wider]), tmp_path / "home", fixed_clock(NOW)) as other:
        facts = describe(other, "guest_stays")
        assert (facts["delta_version"], facts["rows"], facts["applied_at"]) == (version, 3, "never")
        assert describe(other, "guest_stays:longest")["delta_version"] == version


def test_a_feature_is_described(store: FeatureStore) -> None:
    fill(store)
    for ref in ("guest_stays:stay_count", "guest_stays@1:stay_count"):
        facts = describe(store, ref)
        assert (facts["kind"], facts["name"], facts["type"]) == ("feature", "guest_stays:stay_count", "Int64")
        assert (facts["default"], facts["tags"], facts["owner"]) == (0, "hotel, count", "front-desk")
        assert (facts["expression"], facts["reads"], facts["inputs"]) == (str(pl.len()), None, "stays")
        assert "nights" in facts["prepare"]
        assert (facts["rows"], facts["applied_at"]) == (3, NOW)
        assert [row["feature"] for row in facts["derived features"]] == ["nights_mean"]
        assert facts["derived from"] == []
        assert facts["used by"] == []  # the service reads the sum; the label is another group's
    assert [row["as"] for row in describe(store, "guest_label:stay_count")["used by"]] == ["label"]


def test_a_derived_feature_names_what_it_is_made_of(store: FeatureStore) -> None:
    facts = describe(store, "guest_stays:nights_mean")
    assert (facts["kind"], facts["type"], facts["range"]) == ("derived feature", "Float64", "1 to 30")
    assert facts["reads"] == "nights_sum, stay_count"
    assert [row["feature"] for row in facts["derived from"]] == ["nights_sum", "stay_count"]
    assert [row["name"] for row in facts["used by"]] == ["guest_profile", "guest_returns"]


def test_source_columns_above_and_everything_below_are_named(store: FeatureStore) -> None:
    nights = {"source": "stays", "values": "nights", "rows": "guest_id, hotel, left_at", "marks": None}
    below = [("derived feature", "guest_stays:nights_mean"), ("service", "guest_profile")]
    facts = describe(store, "guest_stays:nights_sum")
    assert facts["source columns"] == [nights]
    assert [(row["kind"], row["name"]) for row in facts["enters"]][:2] == below
    assert ("predictions", "predictions/guest_returns") in {(row["kind"], row["name"]) for row in facts["enters"]}
    for ref in ("guest_stays", "guest_profile", "guest_returns", "guest_stays:nights_mean"):
        assert describe(store, ref)["source columns"] == [nights]
    counted = describe(store, "guest_stays:stay_count")["source columns"]
    assert counted == [{"source": "stays", "values": None, "rows": "guest_id, hotel, left_at, nights", "marks": None}]
    columns = {row["column"]: (row["features"], row["row choices"]) for row in describe(store, "stays")["columns"]}
    assert columns["nights"][0] >= 1
    assert columns["left_at"][1] >= 2


def test_the_first_application_of_a_group_outlives_its_versions(store: FeatureStore) -> None:
    assert describe(store, "guest_stays")["created_at"] == "never"
    fill(store)
    assert describe(store, "guest_stays")["created_at"] == NOW
    assert describe(store, "guest_stays:stay_count")["created_at"] == NOW


def test_services_models_sources_and_entities_are_described(store: FeatureStore) -> None:
    service = describe(store, "guest_profile")
    assert (service["kind"], service["request"], service["groups"]) == (
        "feature service",
        "budget Float64",
        "guest_stays 1.2.0",
    )
    assert [row["feature"] for row in service["features"]] == ["nights_sum", "nights_mean"]
    assert [(row["feature"], row["unit"]) for row in service["derived"]] == [("nights_paid", "€")]
    assert [row["name"] for row in service["used by"]] == ["guest_returns"]

    model = describe(store, "guest_returns")
    assert (model["kind"], model["label"], model["estimator"]) == ("model", "guest_label:stay_count", "Ridge()")
    assert (model["entity"], model["embargo"], model["metrics"]) == ("guest", "1d", "mae")
    assert model["features"] == service["features"]

    entity = describe(store, "guest")
    assert (entity["kind"], entity["keys"]) == ("entity", "guest_id String, hotel Int32")
    assert [row["group"] for row in entity["groups"]] == ["guest_stays", "guest_label"]

    empty = describe(store, "stays")
    assert (empty["kind"], empty["rows"], empty["delta_version"], empty["last_ingested"]) == (
        "source",
        0,
        "never",
        "never",
    )
    fill(store)
    source = describe(store, "stays")
    assert (source["rows"], source["newest_event"], source["last_ingested"]) == (3, START + timedelta(days=1), NOW)
    assert {row["column"]: row["description"] for row in source["columns"]}["nights"] == "Nights slept, at least one"
    assert [row["name"] for row in source["used by"]] == ["guest_stays", "guest_label"]


@pytest.mark.parametrize(
    ("ref", "nearest"),
    [
        ("guest_stay", "guest_stays"),
        ("gest_profile", "guest_profile"),
        ("guest_stays:night_mean", "guest_stays:nights_mean"),
        ("guest_stay:nights_sum", "guest_stays:nights_sum"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(store: FeatureStore, ref: str, nearest: str) -> None:
    with pytest.raises(NotRegistered, match=rf"{ref!r} is not registered; the nearest: {nearest}"):
        describe(store, ref)


def test_another_major_and_a_malformed_reference_are_refused(store: FeatureStore) -> None:
    with pytest.raises(NotRegistered, match="asks for major 2"):
        describe(store, "guest_stays@2:nights_sum")
    with pytest.raises(DefinitionError, match="no feature reference"):
        describe(store, "guest_stays:")


def test_one_name_of_two_things_says_so(tmp_path: Path) -> None:
    service = FeatureService("guest_stays", ["guest_stays:nights_sum"], owner="o", description="d")
    with connect(Registry([GROUP, service]), tmp_path / "home") as store:
        facts = describe(store, "guest_stays")
    assert (facts["kind"], facts["also the name of a"]) == ("feature group", "feature service")


def test_every_shipped_definition_can_be_described(tmp_path: Path) -> None:
    names = [*REGISTRY.groups, *REGISTRY.services, *REGISTRY.models, *REGISTRY.sources, *REGISTRY.entities]
    names += [f"{g.name}:{f.name}" for g in REGISTRY.groups.values() for f in (*g.features, *g.derived)]
    with connect(REGISTRY, tmp_path / "home") as store:
        for name in names:
            facts = describe(store, name)
            assert facts["name"] == name
            assert facts["description"], name
            for rows in (value for value in facts.values() if isinstance(value, list)):
                assert all(row.keys() == rows[0].keys() for row in rows)


def test_status_of_an_empty_home_writes_no_table(tmp_path: Path) -> None:
    with open_platform(HOTEL, tmp_path / "home", fixed_clock(NOW)) as platform:
        facts = status(platform)
        assert list(facts) == ["home", "files", "sources", "groups", "models"]
        assert facts["files"] == []
        assert [(row["source"], row["rows"], row["delta_version"]) for row in facts["sources"]] == [("stays", 0, None)]
        assert [(row["group"], row["rows"], row["last_plan"], row["online_entities"]) for row in facts["groups"]] == [
            ("guest_stays", 0, None, 0),
            ("guest_label", 0, None, 0),
        ]
        assert facts["models"] == [
            {
                "model": "guest_returns",
                "champion": None,
                "trained_at": None,
                "metrics": None,
                "run_id": None,
                "note": "there is no model 'guest_returns': train it first",
            }
        ]
        assert not platform.settings.mlflow_db.exists()
        assert not Path(platform.settings.lake).exists()


def test_status_counts_what_the_home_holds(store: FeatureStore, tmp_path: Path) -> None:
    fill(store)
    with open_platform(HOTEL, tmp_path / "home", fixed_clock(NOW)) as platform:
        facts = status(platform)
    assert facts["sources"] == [
        {
            "source": "stays",
            "rows": 3,
            "delta_version": 1,
            "newest_event": START + timedelta(days=1),
            "last_ingested": NOW,
        }
    ]
    group = facts["groups"][0]
    assert (group["rows"], group["last_plan"], group["online_plan"], group["online_entities"]) == (3, 1, 1, 2)
    assert (group["newest_event"], group["published_at"]) == (START + timedelta(days=1), NOW)
    sizes = {row["what"]: row["bytes"] for row in facts["home"]}
    assert 0 < sizes["lake"] < sizes["home"] < 2_000_000  # the online store's map is sparse
    assert sizes["reports"] is None
    assert load_settings(home=tmp_path / "home").lake == next(r["path"] for r in facts["home"] if r["what"] == "lake")


def test_status_names_champions(store: FeatureStore, tmp_path: Path) -> None:
    fill(store)
    with open_platform(HOTEL, tmp_path / "home", fixed_clock(NOW)) as platform:
        asked = pl.DataFrame({"guest_id": ["ann"], "hotel": [1], "event_timestamp": [NOW], "budget": [9.0]})
        found = platform.store.get_historical_features(asked, SERVICE)
        sample = found.to_polars().select("nights_sum", "nights_mean")
        version = platform.tracker.log_training(
            "guest_returns",
            Ridge().fit(sample.to_numpy(), [1.0]),
            params={},
            metrics={"mae": 0.5, "examples": 1.0},
            manifest=found.manifest,
            entity_rows=found.entity_rows,
            sample=sample,
            trained_at=NOW,
            tags={},
        )
        (row,) = status(platform)["models"]
    assert row == {
        "model": "guest_returns",
        "champion": "1",
        "trained_at": NOW,
        "metrics": {"mae": 0.5},
        "run_id": version.run_id,
        "note": None,
    }
