"""STDF: one big wafer file (10,000 parts × 100 tests, 1,000,000 PTR), or many small ones, into tables and the lake."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

import polars as pl
import stdf_convert

from benchmarks.measurement import Measurement, seconds
from infra.ingest import open_ingestor
from infra.sources.simulated_fab import big_wafer
from infra.sources.stdf import StdfReader
from infra.wiring import open_platform

ROUNDS = 5
FILES = 500
"""Small files of 200 parts × 100 tests, 20,000 PTR each."""


def stdf_tables() -> Measurement:
    """The three tables against stdf-convert's own reading of all records, in turns, after one warm-up each."""
    with tempfile.TemporaryDirectory() as folder:
        path = _big_file(Path(folder))
        reader = StdfReader()
        ours, theirs = [], []
        for number in range(ROUNDS + 1):
            pair = seconds(lambda: reader.read(path)), seconds(lambda: stdf_convert.tables(path))
            if number:
                ours.append(pair[0])
                theirs.append(pair[1])
    value, baseline = median(ours), median(theirs)
    return Measurement(value, "s", baseline, value / baseline)


def stdf_ingest() -> Measurement:
    """Parse, validate and commit the file in a new home."""
    with tempfile.TemporaryDirectory() as folder:
        path = _big_file(Path(folder))
        with open_platform(home=Path(folder) / "home") as platform:
            ingestor = open_ingestor(platform)
            took = seconds(lambda: ingestor.ingest([path]))
            landed = platform.store.offline.scan_source("test_results")
            assert landed is not None
            assert landed.collect().height == 1_000_000
    return Measurement(took, "s")


def files_rate() -> Measurement:
    """Files a second from the landing folder to the closed ledger, against stdf-convert's reading of their records."""
    with tempfile.TemporaryDirectory() as folder:
        paths = _small_files(Path(folder) / "landing")
        with open_platform(home=Path(folder) / "home") as platform:
            ingestor = open_ingestor(platform)
            took = seconds(lambda: ingestor.ingest([paths[0].parent]))
            landed = platform.store.offline.scan_source("test_results")
            assert landed is not None
            assert landed.select(pl.len()).collect().item() == FILES * 20_000
        reading = sum(seconds(lambda path=path: stdf_convert.tables(path)) for path in paths)
    return Measurement(FILES / took, "files/s", FILES / reading, took / reading)


def _small_files(folder: Path) -> list[Path]:
    """A few wafers, delivered again and again under other lots."""
    folder.mkdir()
    wafers = [big_wafer(parts=200, seed=seed) for seed in range(5)]
    paths = []
    for number in range(FILES):
        path = folder / f"{number}.stdf"
        path.write_bytes(wafers[number % len(wafers)].replace(b"\x03BIG", b"\x03%03d" % number, 1))
        paths.append(path)
    return paths


def _big_file(folder: Path) -> Path:
    path = folder / "big.stdf"
    path.write_bytes(big_wafer())
    return path
