"""The demo on a few files of one's own, in a process with foreign settings and an auditor on board."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.sources.simulated_fab import SimulatedFab

ROOT = Path(__file__).resolve().parents[2]

AUDITOR = """
import os, sys
LOG = os.environ["AUDIT_LOG"]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND
def audit(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        mode, flags = args[1], args[2]
        if (mode and set(mode) & set("wax+")) or (mode is None and flags & WRITES):
            note("write", os.fsdecode(args[0]))
    elif event == "os.mkdir" and not os.path.exists(args[0]):
        note("write", os.fsdecode(args[0]))
    elif event == "socket.connect":
        note("connect", repr(args[1]))
def note(what, where):
    if where != LOG:
        line = f"{what} {os.path.abspath(where) if what == 'write' else where}\\n"
        handle = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, line.encode())
        os.close(handle)
sys.addaudithook(audit)
"""


class Demo:
    """One home under foreign settings; ``run`` runs the demo in a process of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.home, self.foreign, self.temp = folder / "home", folder / "foreign", folder / "temp"
        self.landing, self.log = folder / "landing", folder / "audit.log"
        for path in (self.foreign, self.temp, folder / "auditor"):
            path.mkdir()
        (folder / "auditor" / "sitecustomize.py").write_text(AUDITOR)
        fab = SimulatedFab(days=3, wafers_per_day=2, dies_per_wafer=60)
        fab.write(self.landing)
        (self.landing / "noise.stdf").write_bytes(b"not an STDF file at all")
        whole = next(iter(SimulatedFab(days=1, seed=8, dies_per_wafer=60).wafers_of(0))).content
        (self.landing / "cut.stdf").write_bytes(whole[: len(whole) * 2 // 3])

    def run(self, *options):
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.foreign),
            "TMPDIR": str(self.temp),
            "PREFECT_API_URL": "http://127.0.0.1:9/api",
            "PREFECT_HOME": str(self.foreign / "prefect"),
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
            "PYTHONPATH": os.pathsep.join([str(self.folder / "auditor"), str(ROOT)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "AUDIT_LOG": str(self.log),
        }
        command = [sys.executable, "-m", "flows", "demo", "--home", self.home, "--landing", self.landing, *options]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=300
        )

    def summary(self):
        return json.loads((self.home / "summary.json").read_text())


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    demo = Demo(tmp_path_factory.mktemp("demo"))
    demo.first = demo.run()
    assert demo.first.returncode == 0, demo.first.stdout + demo.first.stderr
    demo.first_summary = demo.summary()
    return demo


def test_it_runs_to_the_end_and_says_what_each_file_was(demo):
    assert demo.first.returncode == 0, demo.first.stderr
    assert "Traceback" not in demo.first.stdout + demo.first.stderr
    summary = demo.first_summary
    assert summary["files"] == {"ingested": 7, "rejected": 1, "truncated": 1}
    assert summary["parts"] > 6 * 60
    assert summary["groups"]["device_parametrics"]["rows"] == summary["parts"]
    assert set(summary["drift"]) == {"drifted", "checked"}
    assert Path(summary["report"]).read_text().startswith("<!doctype html>")
    assert summary["online_entities"] > 0


def test_a_model_that_cannot_be_trained_says_why_and_the_night_goes_on(demo):
    assert demo.first_summary["models"] == {}
    assert "model        model wafer_yield, skipped" in demo.first.stdout


def test_nothing_is_written_or_contacted_outside_the_home(demo):
    lines = demo.log.read_text().splitlines()
    writes = {line.removeprefix("write ") for line in lines if line.startswith("write ")}
    strangers = {w for w in writes if not Path(w).is_relative_to(demo.home) and not w.startswith("/dev/")}
    assert {w for w in strangers if not Path(w).is_relative_to(demo.temp)} == set()
    assert list(demo.temp.rglob("*")) == []
    assert list(demo.foreign.rglob("*")) == []
    connects = {line for line in lines if line.startswith("connect ")}
    assert connects
    assert {c for c in connects if not c.startswith("connect ('127.0.0.1', ")} == set()
    assert {c for c in connects if c == "connect ('127.0.0.1', 9)"} == set()


@pytest.mark.prove
def test_a_second_run_ingests_no_file_and_appends_no_row(demo):
    again = demo.run("--keep")
    assert again.returncode == 0, again.stderr
    summary = demo.summary()
    assert summary["files"] == {"ingested": 0, "rejected": 0, "truncated": 0}
    rows = {name: facts["rows"] for name, facts in summary["groups"].items()}
    # Windows empty as the wall clock passes their boundaries; nothing else may move.
    assert rows == {name: facts["rows"] for name, facts in demo.first_summary["groups"].items()}


def test_a_folder_with_other_things_is_never_wiped(demo, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    command = [sys.executable, "-m", "flows", "demo", "--home", str(tmp_path), "--landing", str(demo.landing)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "holds files that are not a demo's" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
