"""From a model version down to the files behind it, over a real ledger and a real tracker."""

import json
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from rich.console import Console
from sklearn.dummy import DummyRegressor

from features.errors import TrackingError
from infra.audit import AuditedFile, LedgerFiles, audit
from infra.ledger import Candidate, Entry, Ledger
from infra.storage.delta import DeltaLake
from infra.tracking import MlflowTracker

DAY = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("audit")


@pytest.fixture(scope="module")
def files(home):
    """Four batches: two sources from one file, a rejected file, one more row for a source, a late file."""
    ledger = Ledger(DeltaLake(home / "lake"))
    batches = [
        ({"a.stdf": {"parts": 10, "results": 300}, "b[1].stdf": {"parts": 20}}, {"parts": 3, "results": 1}),
        ({"broken.stdf": None}, {"parts": 3, "results": 1}),
        ({"c.stdf": {"parts": 30, "results": 900}}, {"parts": 5, "results": 2}),
        ({"late.stdf": {"parts": 40}}, {"parts": 6, "results": 2}),
    ]
    for day, (delivered, versions) in enumerate(batches):
        candidates = [Candidate(path, f"hash of {path}", 100, None) for path in delivered]
        batch = ledger.open(day + 1, candidates, DAY + timedelta(days=day))
        entries = [
            Entry(candidate, "rejected", "not STDF") if rows is None else Entry(candidate, "ingested", delivered=rows)
            for candidate, rows in zip(candidates, delivered.values(), strict=True)
        ]
        ledger.close(batch, entries, versions)
    return LedgerFiles(ledger)


def group(version, table_version, sources):
    return {"version": version, "fingerprint": "f" * 64, "table_version": table_version, "sources": sources}


MANIFEST = {
    "features": ["wafers:yield", "trends:mean_7d", "wafers:vdd"],
    "groups": {
        "wafers": group("1.2.0", 8, {"parts": 5, "results": 2}),
        "trends": group("2.0.0", 4, {"wafers": 8, "notes": 6, "later": None}),
    },
    "publish_log_version": 9,
    "history": "backfilled",
    "label": {"ref": "outcomes:failed", **group("1.0.0", 4, {"parts": 3})},
    "entity_hash": "e" * 64,
    "rows": 1234,
    "content_hash": "c" * 64,
}


@pytest.fixture(scope="module")
def tracker(home):
    tracker = MlflowTracker(f"sqlite:///{home}/mlflow.db", home / "artifacts")
    model = DummyRegressor().fit([[0.0]], [1.0])
    bare = {k: v for k, v in MANIFEST.items() if k not in ("entity_hash", "label")}
    for name, manifest in {"traced": MANIFEST, "untraceable": bare}.items():
        tracker.log_training(
            name,
            model,
            params={},
            metrics={"mae": 0.25},
            manifest=manifest,
            entity_rows=pl.DataFrame(),
            sample=pl.DataFrame({"mean_7d": [1.0]}),
            trained_at=DAY,
            tags={},
        )
    return tracker


def test_the_walk_ends_at_the_files_that_the_tables_held_then(tracker, files):
    found = audit(tracker, files, "traced")
    assert (found.model, found.version, found.aliases) == ("traced", "1", ("champion",))
    assert found.run_id == tracker.model_version("traced").run_id
    assert (found.rows, found.label, found.publish_log_version) == (1234, "outcomes:failed", 9)
    wafers, trends = found.groups
    assert (wafers.name, wafers.version, wafers.table_version) == ("wafers", "1.2.0", 8)
    assert wafers.features == ("wafers:yield", "wafers:vdd")
    parts, results = wafers.sources
    assert [file.path for file in parts.files] == ["a.stdf", "b[1].stdf", "c.stdf"]
    assert sum(file.rows for file in parts.files) == 60
    assert results.files[1] == AuditedFile("c.stdf", "hash of c.stdf", 900, DAY + timedelta(days=2))
    assert len(results.files) == 2
    assert trends.groups == (wafers,)
    assert [(s.name, s.version, s.files) for s in trends.sources] == [("later", None, ()), ("notes", 6, ())]


def test_it_prints_as_a_tree_with_the_newest_files(tracker, files):
    console = Console(width=200)
    with console.capture() as capture:
        console.print(audit(tracker, files, "traced", "1").render(max_files=2))
    lines = [line.strip("│├└─ ") for line in capture.get().splitlines()]
    assert lines[0] == "traced version 1 (champion)"
    assert "training set: 1,234 rows, history backfilled, publish log version 9" in lines
    start = lines.index("source parts, table version 5: 3 files, 60 rows")
    assert lines[start + 1 : start + 4] == [
        "... 1 earlier files",
        "b[1].stdf (20 rows, 2026-03-01 00:00, hash of b[1])",
        "c.stdf (30 rows, 2026-03-03 00:00, hash of c.st)",
    ]
    assert "source notes, table version 6: no files" in lines


def test_it_is_json_in_full(tracker, files):
    plain = json.loads(json.dumps(audit(tracker, files, "traced").to_dict()))
    parts = plain["groups"][0]["sources"][0]
    assert parts["files"][2] == {
        "path": "c.stdf",
        "sha256": "hash of c.stdf",
        "rows": 30,
        "ingested_at": "2026-03-03T00:00:00+00:00",
    }
    assert plain["metrics"] == {"mae": 0.25}
    assert plain["groups"][1]["groups"][0] == plain["groups"][0]


def test_what_cannot_be_traced_says_so(tracker, files):
    with pytest.raises(TrackingError, match="'untraceable' version 1: its manifest lacks 'entity_hash'"):
        audit(tracker, files, "untraceable")
    with pytest.raises(TrackingError, match="there is no model 'nobody'"):
        audit(tracker, files, "nobody")
    with pytest.raises(TrackingError, match="'traced' has no version '7'"):
        audit(tracker, files, "traced", "7")


def test_the_label_is_traced_to_its_files_too(tracker, files):
    outcomes = audit(tracker, files, "traced").label_group
    assert outcomes is not None
    assert (outcomes.name, outcomes.table_version, outcomes.features) == ("outcomes", 4, ("outcomes:failed",))
    assert [file.path for file in outcomes.sources[0].files] == ["a.stdf", "b[1].stdf"]
