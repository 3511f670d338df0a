from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import bench_nothing, run


def test_a_benchmark_runs_in_a_process_of_its_own_and_its_peak_is_known() -> None:
    result = run.run_apart(bench_nothing.hundred_megabytes)
    peak = result.pop("peak_mb")
    assert result == {
        "name": "hundred_megabytes",
        "value": 100_000_000,
        "unit": "bytes",
        "baseline": 200_000_000.0,
        "ratio": 0.5,
    }
    assert 100 < peak < 10_000  # megabytes, not kilobytes; on Linux at least the size of the process that started it


def test_a_benchmark_that_fails_is_not_taken_for_a_figure() -> None:
    with pytest.raises(run.BenchmarkFailed, match="broken ended with 1"):
        run.run_apart(bench_nothing.broken)


def test_results_merge_by_name(tmp_path: Path) -> None:
    results = tmp_path / "deep" / "results.json"
    run.merge(results, [{"name": "a", "value": 1.0}, {"name": "b", "value": 2.0}])
    run.merge(results, [{"name": "a", "value": 3.0, "ratio": None}])
    assert json.loads(results.read_text()) == [{"name": "a", "value": 3.0, "ratio": None}, {"name": "b", "value": 2.0}]


def test_the_table_leaves_out_what_is_unknown() -> None:
    output = io.StringIO()
    row = {"name": "demo", "value": 12.3456, "unit": "s", "baseline": None, "ratio": None, "peak_mb": 1234.5}
    Console(file=output, width=100).print(run.table([row]))
    assert "12.35" in output.getvalue()
    assert "1,234" in output.getvalue()
    assert "None" not in output.getvalue()


def test_an_unknown_name_is_an_error_that_lists_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["dmeo"]) == 2
    assert "no benchmark 'dmeo'; there are: demo" in capsys.readouterr().err
