"""Run benchmarks, each in a process of its own: ``make bench [ONLY=name]``.

Prints a table and merges the figures by name into ``build/bench/results.json``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import (
    bench_cache,
    bench_feast,
    bench_flows,
    bench_gate,
    bench_gx,
    bench_line,
    bench_nights,
    bench_online_lmdb,
    bench_online_redis,
    bench_pit,
    bench_push,
    bench_reproduce,
    bench_rules,
    bench_sensors,
    bench_serving,
    bench_serving_load,
    bench_serving_valkey,
    bench_stdf,
    bench_versions,
    bench_wide,
    bench_windows,
)
from benchmarks.measurement import Measurement

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "build/bench/results.json"

BENCHMARKS: tuple[Callable[[], Measurement], ...] = (
    bench_line.demo,
    bench_flows.up_healthy,
    bench_flows.backfill_365,
    bench_gate.gate_1m,
    bench_gx.gx_boolean,
    bench_gx.gx_summary,
    bench_sensors.frame_check,
    bench_sensors.frame_check_float32,
    bench_nights.night_noop,
    bench_nights.flow_overhead,
    bench_cache.cache_zipf,
    bench_cache.cache_zipf_warmed,
    bench_online_lmdb.sync_lmdb,
    bench_online_redis.sync_valkey,
    bench_online_redis.increment_valkey,
    bench_online_redis.read_valkey,
    bench_pit.pit_1m_10m,
    bench_pit.pit_1m_10m_duckdb,
    bench_pit.pit_corrected,
    bench_pit.pit_3x10m,
    bench_pit.lookup_offline,
    bench_push.push_one_row,
    bench_push.push_ten_thousand_rows,
    bench_reproduce.reproduce_1m_30,
    bench_rules.row_check,
    bench_rules.row_check_p99,
    bench_serving.http_1_lmdb,
    bench_serving.http_1_lmdb_p99,
    bench_serving.http_100_lmdb,
    bench_serving.http_100_lmdb_p99,
    bench_serving.cold_start,
    bench_serving_load.http_1_full,
    bench_serving_load.http_10k_connections,
    bench_serving_load.serve_during_sync,
    bench_serving_valkey.http_1_valkey,
    bench_serving_valkey.http_1_valkey_p99,
    bench_serving_valkey.http_100_valkey,
    bench_serving_valkey.http_100_valkey_p99,
    bench_stdf.stdf_tables,
    bench_stdf.stdf_ingest,
    bench_stdf.files_rate,
    bench_versions.rollback_1m,
    bench_versions.release_1m,
    bench_windows.increment_30d,
    bench_windows.increment_30d_daily,
    bench_windows.increment_10m_entities,
    bench_windows.noop_1000,
    bench_wide.wide_10k,
)
"""Every benchmark; its function's name is its name in the table and in the results."""

PEERS = (bench_feast.feast_1, bench_feast.feast_1_p99, bench_feast.feast_100, bench_feast.feast_100_p99)
"""Benchmarks against what ``make bench-peers`` installs; they run when they are named."""

Result = dict[str, Any]
"""name, value, unit, baseline, ratio, peak_mb; None where unknown."""


class BenchmarkFailed(Exception):
    """A benchmark's process failed; its own message is on the terminal."""


def run_apart(benchmark: Callable[[], Measurement]) -> Result:
    """Run a benchmark in a new process and add the peak memory of that process and its children."""
    program = (
        f"import dataclasses, json, sys; from {benchmark.__module__} import {benchmark.__name__} as run;"
        "json.dump(dataclasses.asdict(run()), sys.stdout)"
    )
    tests = str(ROOT / "tests")
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": tests}
    )
    assert process.stdout is not None
    with process.stdout:
        printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise BenchmarkFailed(f"{benchmark.__name__} ended with {process.returncode}")
    unit = 1_000_000 if sys.platform == "darwin" else 1_000  # ru_maxrss counts bytes there, kilobytes here
    measured = Measurement(**json.loads(printed))
    peak = usage.ru_maxrss / unit if measured.peak_mb is None else measured.peak_mb
    return {"name": benchmark.__name__, **asdict(measured), "peak_mb": peak}


def merge(results: Path, new: Sequence[Result]) -> None:
    """Replace the entries of the same names, keep the others."""
    old = json.loads(results.read_text("utf-8")) if results.exists() else []
    merged = {entry["name"]: entry for entry in [*old, *new]}
    results.parent.mkdir(parents=True, exist_ok=True)
    draft = results.with_suffix(".draft")
    draft.write_text(json.dumps(list(merged.values()), indent=2) + "\n", "utf-8")
    draft.replace(results)


def table(results: Sequence[Result]) -> Table:
    """The results, figures aligned."""
    columns = ("name", "value", "unit", "baseline", "ratio", "peak_mb")
    shown = Table(*columns)
    for column in shown.columns:
        column.justify = "left" if column.header in ("name", "unit") else "right"
    for result in results:
        cells = [result[column] for column in columns]
        shown.add_row(*[f"{cell:,.4g}" if isinstance(cell, float) else str(cell or "") for cell in cells])
    return shown


def main(names: Sequence[str]) -> int:
    """Run the named benchmarks, or all but those against peers; 1 if one fails, 2 for a name that is none."""
    known = {benchmark.__name__: benchmark for benchmark in (*BENCHMARKS, *PEERS)}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"there is no benchmark {unknown[0]!r}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    done: list[Result] = []
    failures: list[str] = []
    for name in names or [benchmark.__name__ for benchmark in BENCHMARKS]:
        try:
            done.append(run_apart(known[name]))
        except BenchmarkFailed as error:
            failures.append(str(error))
    merge(RESULTS, done)
    Console().print(table(done))
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
