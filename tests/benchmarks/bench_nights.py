"""Nights on the demo's data: one in which nothing came, and what Prefect costs of one in which a day of wafers did."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from benchmarks.measurement import Measurement, seconds
from flows.runtime import prefect_runtime
from infra.monitoring import day_before
from infra.parity import SAMPLE
from infra.settings import load_settings
from infra.sources.simulated_fab import SimulatedFab
from infra.wiring import load_registry

FAB = SimulatedFab(days=42, process_change_day=39, bad_reading_rate=0.0005)
"""The demo's fab, which has 40 days, two days on."""
NIGHT = timedelta(hours=7)


def night_noop() -> Measurement:
    """Seconds of a night without new data, from no process at all: its server and all imports are part of it."""
    with _after_the_demo() as home:
        return Measurement(seconds(lambda: _apart("night", home, 40)), "s")


def flow_overhead() -> Measurement:
    """Prefect's share of a night with a day of new wafers: the flow's seconds against the stations' as functions."""
    with _after_the_demo() as home:
        for wafer in FAB.wafers_of(40):
            (home / "landing" / wafer.file_name).write_bytes(wafer.content)
        copy = home.with_name("copy")
        shutil.copytree(home, copy)
        theirs, ours = _apart("stations", copy, 40), _apart("night", home, 40)
        return Measurement((ours - theirs) / ours, "of the night", theirs, ours / theirs)


def night(home: Path, now: datetime) -> float:
    """A night by the flow; its seconds, the server's start not counted."""
    with prefect_runtime(load_settings(home=home)):
        from flows.nightly import nightly  # noqa: PLC0415 - Prefect reads its environment when it is imported

        return seconds(lambda: nightly(now=now))


def stations(home: Path, now: datetime) -> float:
    """The same by plain calls of what the flow's tasks do; its seconds."""
    settings = load_settings(home=home)
    with prefect_runtime(settings):
        from flows import tasks  # noqa: PLC0415
        from flows.choice import chosen, served  # noqa: PLC0415

        registry = load_registry(settings.registry)

        def run() -> None:
            tasks.ingest_files.fn([str(settings.landing)], None, now)
            for name in chosen(registry):
                tasks.materialize_group.fn(name, now)
            for name in served(registry):
                tasks.sync_group.fn(name, now)
            tasks.compare_stores.fn(None, SAMPLE, now)
            for name in registry.models:
                tasks.score_model.fn(name, *day_before(now), now)
            tasks.report_night.fn(now)

        return seconds(run)


@contextmanager
def _after_the_demo() -> Iterator[Path]:
    """A home as the demo leaves it."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        command = [sys.executable, "-m", "flows", "demo", "--home", str(home)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        yield home


def _apart(what: str, home: Path, day: int) -> float:
    """The seconds that a function here says it took, called in a new process for the night after a day."""
    program = f"""
import sys; from datetime import datetime; from pathlib import Path
from benchmarks.bench_nights import {what}
print({what}(Path(sys.argv[1]), datetime.fromisoformat(sys.argv[2])))
"""
    now = FAB.start + timedelta(days=day + 1) + NIGHT
    command = [sys.executable, "-c", program, str(home), now.isoformat()]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
