"""The stations of the line as Prefect tasks: thin, each opens the home, does one thing, says what it did.

A task's result is plain data that a person or a summary can read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import polars as pl
from prefect import get_run_logger

from features.errors import TrackingError, TrainingError
from flows.quality_page import show_quality
from flows.stations import Facts, station
from infra.data_quality import write_quality, write_run_quality
from infra.feature_quality import FeatureQuality, open_feature_quality
from infra.ingest import open_ingestor
from infra.ledger import REJECTED, TRUNCATED
from infra.maintenance import maintain
from infra.model_runs import score, train
from infra.monitoring import write_report
from infra.parity import parity_of_home
from infra.quarantine import open_quarantine
from infra.turns import INGEST, training, turn
from infra.wiring import Platform, fixed_clock, open_platform

_PATIENCE = 60.0
"""Seconds that a group's run waits for another one, such as a backfill, before it leaves the group to the next."""
QUALITY_DAYS = 30
"""The days of the quality report that each night writes."""


def _home(now: datetime) -> Platform:
    return open_platform(clock=fixed_clock(now))


def _turn(platform: Platform, name: str, owner: str) -> AbstractContextManager[str | None]:
    """A turn that is waited for, which is said in the run's log."""

    def waits(holder: str) -> None:
        get_run_logger().info("waits for its turn after %s", holder)

    return turn(platform.settings.turns, name, owner, waiting=waits)


@station("ingest files")
def ingest_files(paths: Sequence[str], source: str | None, now: datetime) -> Facts:
    """Take every new file at or below the paths into bronze."""
    with _home(now) as platform, _turn(platform, INGEST, "another ingest"):
        open_quarantine(platform).finish()
        result = open_ingestor(platform).ingest([Path(p) for p in paths], source)
        if not result.entries.is_empty():
            show_quality(write_run_quality(platform, result.entries["plan"].unique().to_list()))
    return {
        "files": result.entries.height,
        "known": result.known,
        "rejected": result.count(REJECTED),
        "truncated": result.count(TRUNCATED),
        "rows": int(result.entries["rows"].sum()),
        "quarantined": int(result.entries["quarantined"].sum()),
        "refused": [*result.problems, *_refused(result.entries)],
    }


def _refused(entries: pl.DataFrame) -> list[str]:
    """The files of which nothing, or not all, was taken in, and why."""
    files = entries.filter(pl.col("status").is_in([REJECTED, TRUNCATED])).select("path", "status", "reason")
    return [f"{Path(path).name} {status}: {reason}" for path, status, reason in files.iter_rows()]


def _resting(platform: Platform, group: str) -> str | None:
    """Why a group is passed over; said in the run's log, too."""
    why = platform.store.versions.resting(platform.store.registry.group(group))
    if why is not None:
        get_run_logger().warning("feature group %s is passed over: %s", group, why)
    return why


@station("materialize group", "materialize {group}")
def materialize_group(group: str, now: datetime) -> Facts:
    """Run a group's live path, unless a rollback holds the group or it is retired."""
    with _home(now) as platform:
        if why := _resting(platform, group):
            return {"group": group, "rows": 0, "skipped": why}
        quality = open_feature_quality(platform)
        with turn(platform.settings.turns, group, f"materialize {group}", wait=_PATIENCE) as holder:
            if holder is not None:
                return {"group": group, "rows": 0, "skipped": f"{holder} is at work on it"}
            run = platform.store.materialize_incremental(group)
            broken = judge_rows(quality, group)
    return {"group": group, "rows": run.rows, "delta_version": run.version} | broken


def judge_rows(quality: FeatureQuality, group: str) -> Facts:
    """What the rows break that came into a group's table, if anything; said in the run's log, too."""
    found = quality.judge(group)["message"].to_list()
    for message in found:
        get_run_logger().warning("feature group %s: %s", group, message)
    return {"broken": found} if found else {}


@station("backfill chunks", "{group} from chunk {chunks[0]} on")
def backfill_chunks(group: str, plan: int, chunks: Sequence[int], now: datetime) -> list[Facts]:
    """Do some chunks of an open backfill: each is one commit, done once whoever tries."""
    with _home(now) as platform:
        return [asdict(done) | {"process": os.getpid()} for done in platform.store.do_chunks(group, plan, chunks)]


@station("sync group", "sync {group}")
def sync_group(group: str, now: datetime) -> Facts:
    """Publish a group's newest rows online."""
    with _home(now) as platform:
        run = platform.store.sync(group)
        entities = platform.store.online.count(platform.store.registry.group(group).table_id)
    return {"group": group, "rows": run.rows, "entities": entities}


@station("warm group", "warm {group}")
def warm_group(group: str, now: datetime) -> Facts:
    """Read through a group's online rows, so that the first requests of the day find them in memory."""
    with _home(now) as platform:
        return {"group": group, "entities": platform.store.online.count(platform.store.registry.group(group).table_id)}


@station("compare stores")
def compare_stores(name: str | None, sample: int, now: datetime) -> list[Facts]:
    """Ask both stores about a sample of entities of each group; ``worst`` is the feature that agrees least."""
    return [
        {
            "group": found.group,
            "entities": found.entities,
            "agreement": found.agreement,
            "ok": found.ok,
            "worst": min(found.features, key=lambda f: f.agreement).feature if found.features else None,
        }
        for found in parity_of_home(name, sample=sample, now=now)
    ]


@station("train model", "train {model}")
def train_model(model: str, now: datetime) -> Facts:
    """Train and register a model; where its data do not suffice, say why and go on."""
    with _home(now) as platform, _turn(platform, training(model), f"another training of {model}"):
        try:
            version = train(platform.store, platform.tracker, platform.store.registry.model(model))
        except TrainingError as error:
            return {"model": model, "skipped": str(error)}
    return {"model": model, "version": version.version, "run_id": version.run_id, "metrics": dict(version.metrics)}


@station("score model", "score {model}")
def score_model(model: str, start: datetime, end: datetime, now: datetime) -> Facts:
    """Ask a model about the entities labelled in [start, end); without a version there is nothing to ask."""
    with _home(now) as platform:
        spec = platform.store.registry.model(model)
        try:
            scored = score(platform.store, platform.tracker, platform.lake, spec, start, end)
        except TrackingError as error:
            return {"model": model, "skipped": str(error)}
    return {"model": model, "version": scored.version, "rows": scored.rows}


@station("maintain tables")
def maintain_tables(now: datetime, *, dry_run: bool) -> list[Facts]:
    """Look after every table of the lake."""
    with _home(now) as platform:
        return [asdict(done) for done in maintain(platform, dry_run=dry_run)]


@station("write report")
def report_night(now: datetime) -> Facts:
    """Watch data, features and predictions of the last day and write the night's report."""
    with _home(now) as platform:
        written, quality = write_report(platform), write_quality(platform, QUALITY_DAYS)
    return {
        "quality": quality.report.sentence,
        "report": str(written.path),
        "verdict": written.verdict,
        "drifted": written.drifted,
        "checked": written.checked,
    }
