"""Damaged STDF files by the hundred: none crashes or hangs the ingest, none lands a row that breaks a rule."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path

import polars as pl
import pytest

import fuzz_child
from expectations.gate import Table, validate_together
from expectations.result import Severity
from expectations.suites import SUITES
from features.definitions import REGISTRY
from features.source import BOOKKEEPING, FILE_SHA256
from infra.landing import VERDICTS
from infra.ledger import INGESTED, REJECTED, TRUNCATED, Ledger
from infra.storage.delta import DeltaLake
from stdf_mutation import ANYWHERE, IN_RECORDS, Mutant, mutants, real, simulated

BATCH = 50
READING, TAKING = 10, 120
"""Seconds that a file may take to read, and a batch to be taken in: a hang takes longer than any load excuses."""


def deliver(files: list[Mutant], landing: Path) -> dict[str, Mutant]:
    """Write the files; which one it is by hash."""
    landing.mkdir(parents=True)
    for number, file in enumerate(files):
        (landing / f"{number:05d}_{file.original}_{file.how}{file.suffix}").write_bytes(file.data)
    return {sha256(file.data).hexdigest(): file for file in files}


def take(folder: Path) -> None:
    """Ingest the landing folder in a process of its own."""
    command = [fuzz_child.__file__, folder / "home", folder / "landing", BATCH, TAKING]
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seconds, name = json.loads(done.stdout)
    assert seconds < READING, f"{name} took {seconds:.0f} s to read"


def rows_per_file(*frames: pl.DataFrame) -> dict[str, int]:
    return dict(pl.concat(frame.select(FILE_SHA256) for frame in frames).group_by(FILE_SHA256).len().iter_rows())


def check(home: Path, files: dict[str, Mutant]) -> Counter[tuple[str, str]]:
    """What must be true of a home that took them in; how many were damaged which way, with which outcome."""
    lake = DeltaLake(home / "lake")
    ledger = Ledger(lake).entries()
    assert sorted(ledger["file_sha256"]) == sorted(files), "every file is in the ledger, once"
    assert set(ledger["status"]) <= {INGESTED, TRUNCATED, REJECTED}
    assert ledger.filter((pl.col("status") != INGESTED) & pl.col("reason").is_null()).is_empty()
    tables, stored = [], []
    for source in SUITES:
        dtypes = {**REGISTRY.source(source).dtypes, **BOOKKEEPING}
        bronze, held = lake.scan_source(source), lake.scan_log(f"quarantine/{source}")
        assert bronze is not None
        tables.append(Table(SUITES[source], bronze.collect()))
        assert tables[-1].rows.schema == dtypes
        stored += [tables[-1].rows, *([] if held is None else [held.collect()])]
    verdicts = lake.scan_log(VERDICTS)
    assert verdicts is not None
    noted = set(verdicts.select(FILE_SHA256, "rule").collect().iter_rows())
    for verdict in validate_together(tables):
        found = [(file, finding) for file, judged in verdict.files.items() for finding in judged.findings]
        # Of rules that hold rows back none is broken; a record that a file says twice lands, with a note.
        assert [finding for _, finding in found if finding.severity > Severity.LOW] == []
        assert {(file, finding.rule) for file, finding in found} <= noted
    landed = ledger.filter((pl.col("status") != REJECTED) & (pl.col("rows") > 0))
    told = dict(landed.select("file_sha256", "rows").iter_rows())
    assert rows_per_file(*stored) == told, (
        "what a file delivers is in bronze or in quarantine; of a rejected one, nothing"
    )
    by_how = ledger.select("file_sha256", "status", held=pl.col("quarantined") > 0)
    return Counter(
        (files[sha].how, f"{status}{' in part' if held else ''}") for sha, status, held in by_how.iter_rows()
    )


def fuzz(folder: Path, seed: int, count: int) -> Counter[tuple[str, str]]:
    """Damage so many files, take them in and check."""
    draw = random.Random(seed)
    files = deliver(list(mutants(draw, [*simulated(), *real()], count)), folder / "landing")
    take(folder)
    return check(folder / "home", files)


def told(totals: Counter[tuple[str, str]]) -> str:
    """The totals as a table: a line for each way of damage, a column for each outcome."""
    ways, outcomes = (sorted({key[i] for key in totals}) for i in (0, 1))
    lines = [[way, *(str(totals[way, outcome]) for outcome in outcomes)] for way in ways]
    total = ["total", *(str(sum(totals[way, outcome] for way in ways)) for outcome in outcomes)]
    return "\n".join("  ".join(f"{cell:>18}" for cell in line) for line in [["", *outcomes], *lines, total])


def test_two_hundred_damaged_files_land_whole_rows_or_say_why(tmp_path: Path) -> None:
    totals = fuzz(tmp_path, seed=5, count=200)
    assert {way for way, _ in totals} == {way.__name__ for way in (*ANYWHERE, *IN_RECORDS)}
    assert {outcome.split()[0] for _, outcome in totals} == {INGESTED, TRUNCATED, REJECTED}


@pytest.mark.prove
def test_thousands_of_damaged_files_land_whole_rows_or_say_why(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """The seed is printed, and given again by --hypothesis-seed."""
    given = request.config.getoption("--hypothesis-seed")
    seed = random.SystemRandom().getrandbits(32) if given is None else int(given)
    with capsys.disabled():
        print(f"\n2,200 damaged files with --hypothesis-seed={seed}")
        print(told(fuzz(tmp_path, seed, count=2_200)))
