"""The backfill flow: a half-open interval of event time, of one or all feature groups."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from prefect import get_run_logger
from prefect.futures import as_completed
from prefect.runtime import flow_run
from pydantic import Field

from features.materialization import Backfill
from features.times import as_utc
from flows.backfill_page import BackfillPage, show_preview
from flows.choice import ALL, chosen
from flows.moment import moment_of
from flows.platform_flow import platform_flow
from flows.runners import task_runner
from flows.stations import Facts
from flows.tasks import backfill_chunks, judge_rows
from infra.feature_quality import open_feature_quality
from infra.turns import turn
from infra.wiring import Platform, fixed_clock, open_platform

_TASKS_PER_WORKER = 8
"""Each task opens the home anew: few chunks are lost with one, and they are many for the time that takes."""

AtLeastOne = Annotated[int, Field(ge=1)]


def _name() -> str:
    """How a run is called: what of which days."""
    asked = flow_run.parameters
    days = f"{asked['start']:%Y-%m-%d} to {asked['end']:%Y-%m-%d}"
    return f"{'dry run of ' if asked['dry_run'] else ''}backfill {asked['group']} {days}"


@platform_flow("backfill", _name)
def backfill(
    start: datetime,
    end: datetime,
    group: str = ALL,
    chunk_days: AtLeastOne = 30,
    parallel: AtLeastOne = 1,
    dry_run: bool = False,
    reason: str = "",
    now: datetime | None = None,
) -> list[Facts]:
    """Compute anew the rows that the schedule would have emitted in [start, end).

    What is done stays done: after a cancel or a crash, the next backfill of the group goes on where this one
    stopped. Two backfills of one group come one after the other.

    Args:
        start: The first moment, UTC.
        end: The moment after the last one, UTC; a future end is cut to the present.
        group: The feature group; all of them come one after the other.
        chunk_days: The longest interval that is computed and committed at once, in days; what does not fit into
            memory is cut further.
        parallel: How many chunks are computed at once.
        dry_run: Only show what each chunk would read and change.
        reason: Why it is done, for whoever reads it later.
        now: The moment the run counts as; empty for the present.
    """
    first, last = as_utc(start), as_utc(end)
    chunk = f"{chunk_days}d"
    with open_platform(clock=fixed_clock(moment_of(now)), parallel=parallel) as platform:
        names = chosen(platform.store.registry, None if group == ALL else [group])
        if dry_run:
            return [show_preview(name, platform.store.preview(name, first, last, chunk), reason) for name in names]
        return [_group(platform, name, (first, last), chunk, reason) for name in names]


def _group(
    platform: Platform,
    name: str,
    interval: tuple[datetime, datetime],
    chunk: str,
    reason: str,
) -> Facts:
    """One group's backfill, when its turn has come; before it, the one that was left open."""
    log, store, quality = get_run_logger(), platform.store, open_feature_quality(platform)
    known = store.registry.group(name)
    if why := store.versions.resting(known):
        log.warning("feature group %s is passed over: %s", name, why)
        return {"group": name, "rows": 0, "skipped": why}
    with turn(
        platform.settings.turns,
        name,
        flow_run.name or "a backfill",
        waiting=lambda who: log.info("feature group %s: waits for its turn after %s", name, who),
    ):
        rows, resumed = 0, True
        while resumed:
            opened = store.open_backfill(name, *interval, chunk)
            rows += _chunks(platform, opened, reason)
            run, resumed = store.close_backfill(name, opened.plan), opened.resumed
        broken = judge_rows(quality, name)
    if opened.note:
        log.warning("feature group %s: %s", name, opened.note)
    facts: Facts = {"group": name, "rows": rows, "chunks": len(opened.chunks), "delta_version": run.version}
    return facts | broken | ({"note": opened.note} if opened.note else {})


def _chunks(platform: Platform, opened: Backfill, reason: str) -> int:
    """Do the chunks that are missing, and show how it goes; how many rows were appended."""
    page = BackfillPage(opened, reason)
    if not opened.missing:
        return 0
    get_run_logger().info("%s: %d of %d chunks to do", opened.group, len(opened.missing), len(opened.chunks))
    now, workers = platform.store.now(), platform.settings.parallel
    with task_runner(platform.settings, workers) as runner:
        tasks = [
            runner.submit(backfill_chunks, {"group": opened.group, "plan": opened.plan, "chunks": part, "now": now})
            for part in _parts(opened.missing, workers * _TASKS_PER_WORKER)
        ]
        for task in as_completed(tasks):
            page.add(task.result())
    return page.rows


def _parts(numbers: Sequence[int], count: int) -> list[list[int]]:
    """Numbers in order, in at most so many parts of about the same length."""
    length = -(-len(numbers) // count)
    return [list(numbers[start : start + length]) for start in range(0, len(numbers), length)]
