"""What a platform adds to lineage: the versions of models and what they predicted."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from features import Entity, Feature, FeatureGroup, FeatureService, ModelSpec, Registry, Source
from features.errors import NotRegistered
from infra.lineage import platform_lineage
from infra.wiring import open_platform

ABOUT = {"owner": "o", "description": "d"}
NOW = datetime(2026, 3, 10, 7, tzinfo=UTC)
stays = Source("stays", schema={"guest": pl.String, "nights": pl.Int64, "at": pl.Datetime}, event_timestamp="at")
guest = Entity("guest", keys={"guest": pl.String})
totals = FeatureGroup(
    "totals", "1.0.0", guest, stays, [Feature("nights", pl.col("nights").sum())], grain="entity", settle="1h", **ABOUT
)
loyal = ModelSpec("loyal", FeatureService("profile", [totals], **ABOUT), "totals:nights", None, **ABOUT)


@pytest.fixture
def platform(tmp_path: Path):
    with open_platform(Registry([loyal]), tmp_path / "home", lambda: NOW) as opened:
        yield opened


def predicted(version, run_id, rows):
    return pl.DataFrame(
        {"guest": ["ann"] * rows, "predicted_at": [NOW] * rows, "model_version": version, "run_id": run_id}
    )


def test_without_runs_it_is_what_the_definitions_say_and_nothing_is_made(platform, tmp_path):
    found = platform_lineage(platform, "stays:nights")
    assert found == platform.store.lineage("stays:nights")
    assert not (tmp_path / "home/mlflow.db").exists()
    assert not (tmp_path / "home/lake").exists()


def test_versions_stand_between_a_model_and_its_predictions(platform):
    for number, rows in enumerate((predicted("1", "a1", 2), predicted("2", "b2", 3)), 1):
        platform.lake.append_log("predictions/loyal", rows, app_id="test", number=number)
    found = platform_lineage(platform, "stays:nights")
    (predictions,) = [node for node in found.nodes if node.kind == "predictions"]
    assert [edge.source.name for edge in found.up(predictions)] == ["loyal@1", "loyal@2"]
    assert {edge.source.note for edge in found.up(predictions)} == {
        "run a1; 2 predictions, the last at 2026-03-10 07:00:00",
        "run b2; 3 predictions, the last at 2026-03-10 07:00:00",
    }
    only = platform_lineage(platform, "loyal@2")
    assert [node.name for node in only.focus] == ["loyal@2"]
    assert {"stays:nights", "totals:nights", "profile", "predictions/loyal"} <= {node.name for node in only.nodes}
    assert "loyal@1" not in {node.name for node in only.nodes}


def test_a_version_that_never_was_is_refused(platform):
    with pytest.raises(NotRegistered, match="'loyal@9' is not registered; the nearest: loyal"):
        platform_lineage(platform, "loyal@9")
