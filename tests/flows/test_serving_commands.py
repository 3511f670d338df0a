"""`featurefab latency` and `cache`: what the workers of a home did, as their files say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from infra.serving.workers import Worker
from infra.settings import load_settings
from infra.storage.row_cache import RowCache


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEATUREFAB_HOME", str(tmp_path))
    return load_settings().serving


@pytest.fixture
def worker(home: Path) -> Worker:
    """One that answered four requests, three of them from memory, and wrote that down."""
    cache = RowCache(10_000, 60)
    cache.trust()
    cache.put(cache.expect([b"a"]), [b"a"], [b"row"])
    cache.find([b"a", b"a", b"a", b"b"])
    worker = Worker(home, cache)
    for part, seconds in (("cache", 0.001), ("cache", 0.001), ("cache", 0.001), ("store", 0.005)):
        worker.figures.took("part", part, seconds)
        worker.figures.answered("/get-online-features", 200, seconds)
    worker.beat(worker.own())
    return worker


def run(*arguments: str):
    result = CliRunner().invoke(app, [*arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def told(*arguments: str):
    return json.loads(run(*arguments, "--json"))


@pytest.mark.usefixtures("worker")
def test_latency_has_a_line_for_each_histogram():
    rows = {(row["of"], row["name"]): row for row in told("latency")}
    whole = rows["path", "/get-online-features"]
    assert (whole["count"], whole["p50"], whole["p99"], whole["longest"]) == (4, 0.001, 0.005, 0.005)
    assert rows["part", "cache"]["count"] == 3
    assert "/get-online-features" in run("latency")


@pytest.mark.usefixtures("worker")
def test_cache_stats_say_what_it_saved():
    facts = told("cache", "stats")
    assert (facts["workers"], facts["trusted"], facts["rows"]) == (1, 1, 1)
    assert (facts["hits"], facts["misses"], facts["hit_rate"]) == (3, 1, 0.75)
    assert facts["saved_seconds"] == pytest.approx(3 * (0.005 - 0.001))
    assert "hit rate" in run("cache", "stats")


def test_cache_clear_reaches_the_workers(worker):
    assert told("cache", "clear") == {"workers": 1}
    worker.beat(worker.own())
    worker.beat(worker.own())
    assert told("cache", "stats")["rows"] == 0


@pytest.mark.usefixtures("home")
def test_without_a_server_there_is_nothing_to_tell():
    assert told("latency") == []
    facts = told("cache", "stats")
    assert (facts["workers"], facts["hit_rate"], facts["saved_seconds"]) == (0, None, None)
    assert run("latency") == "seconds: none\n"
