"""Builds STDF V4 files record by record, for tests that need one odd byte in the right place, and reads them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from infra.sources.base import Delivery
from infra.sources.stdf import StdfReader

START = 1_700_000_000  # 2023-11-14T22:13:20Z
BEGIN = datetime.fromtimestamp(START, UTC)
LITTLE, BIG = "<", ">"


def text(value: str) -> bytes:
    """A Cn field."""
    return bytes([len(value)]) + value.encode("latin-1")


class Stdf:
    """An STDF file in one byte order; each method appends a record and returns the file."""

    def __init__(self, order: str = LITTLE, cpu: int | None = None) -> None:
        self.order = order
        self.ends: list[int] = []
        self.data = b""
        self.add(0, 10, bytes([cpu if cpu is not None else {LITTLE: 2, BIG: 1}[order], 4]))

    def pack(self, form: str, *values: float | bytes) -> bytes:
        return struct.pack(self.order + form, *values)

    def add(self, typ: int, sub: int, body: bytes = b"") -> Stdf:
        self.data += self.pack("HBB", len(body), typ, sub) + body
        self.ends.append(len(self.data))
        return self

    def mir(self, lot: str = "LOT", start: int = START, setup: int = 0, tester: str = "T1") -> Stdf:
        fixed = self.pack("IIB", setup, start, 1) + b"P  " + self.pack("H", 65535) + b" "
        return self.add(1, 10, fixed + b"".join(map(text, (lot, "PROD", tester, "TT", "JOB"))))

    def mrr(self, finish: int = START + 100) -> Stdf:
        return self.add(1, 20, self.pack("I", finish))

    def wcr(self, size: float, height: float, width: float, units: int) -> Stdf:
        body = self.pack("fffB", size, height, width, units) + b"D" + self.pack("hh", 3, -32768) + b"RU"
        return self.add(2, 30, body)

    def wir(self, wafer: str = "W1", start: int = START, head: int = 1) -> Stdf:
        return self.add(2, 10, bytes([head, 255]) + self.pack("I", start) + text(wafer))

    def wrr(self, wafer: str = "W1", finish: int = START + 90, head: int = 1) -> Stdf:
        counts = self.pack("IIIIII", finish, 0, 0, 0, 0, 0)
        return self.add(2, 20, bytes([head, 255]) + counts + text(wafer))

    def pir(self, site: int = 1, head: int = 1) -> Stdf:
        return self.add(5, 10, bytes([head, site]))

    def prr(
        self,
        part: str = "",
        site: int = 1,
        head: int = 1,
        flag: int = 0,
        bins: tuple[int, int] = (1, 1),
        xy: tuple[int, int] = (-32768, -32768),
        test_ms: int = 0,
    ) -> Stdf:
        body = bytes([head, site, flag]) + self.pack("HHHhhI", 1, *bins, *xy, test_ms) + text(part)
        return self.add(5, 20, body)

    def ptr(
        self,
        result: float = 1.0,
        num: int = 7,
        name: str = "vdd",
        site: int = 1,
        head: int = 1,
        flag: int = 0,
        limits: tuple[float, float] | None = None,
        opt: int = 0,
        unit: str = "V",
    ) -> Stdf:
        """A PTR; without ``limits`` its optional tail is cut before OPT_FLAG."""
        body = self.pack("IBBBBf", num, head, site, flag, 0xC0, result) + text(name) + text("")
        if limits is not None:
            body += bytes([opt, 0, 0, 0]) + self.pack("ff", *limits) + text(unit)
        return self.add(15, 10, body)

    def mpr(
        self,
        results: Sequence[float],
        pins: Sequence[int] | None = None,
        num: int = 8,
        site: int = 1,
        limits: tuple[float, float] = (0.0, 9.0),
    ) -> Stdf:
        """An MPR; without ``pins`` its tail is cut before OPT_FLAG and it has no pin states."""
        states = 0 if pins is None else len(pins)
        body = self.pack("IBBBBHH", num, 1, site, 0, 0, states, len(results))
        body += bytes((states + 1) // 2) + self.pack(f"{len(results)}f", *results) + text("pins") + text("")
        if pins is not None:
            body += bytes([0, 0, 0, 0]) + self.pack("ffff", *limits, 0, 0) + self.pack(f"{states}H", *pins) + text("A")
        return self.add(15, 15, body)

    def ftr(self, num: int = 9, site: int = 1, flag: int = 0) -> Stdf:
        return self.add(15, 20, self.pack("IBBB", num, 1, site, flag))


def small_file(order: str = LITTLE, cpu: int | None = None) -> Stdf:
    """Two parts of one wafer, each with a result."""
    file = Stdf(order, cpu).mir().wcr(200, 5, 4, 3).wir()
    file.pir().ptr(1.5, limits=(1.0, 2.0)).prr("1", xy=(3, -4), test_ms=100)
    file.pir().ptr(2.5, flag=0x80).prr("2", flag=0x08, bins=(5, 65535), test_ms=200)
    return file.wrr().mrr()


def read(file: Stdf | bytes, tmp_path: Path, name: str = "file.stdf", **options: tuple[float, float]) -> Delivery:
    path = tmp_path / name
    path.write_bytes(file.data if isinstance(file, Stdf) else file)
    return StdfReader(scratch=tmp_path, **options).read(path)


def parts_of(file: Stdf | bytes, tmp_path: Path) -> pl.DataFrame:
    return read(file, tmp_path).tables["parts"]


def results_of(file: Stdf | bytes, tmp_path: Path) -> pl.DataFrame:
    return read(file, tmp_path).tables["test_results"]


def seconds(parts: pl.DataFrame) -> list[float]:
    """Seconds from the file's start to each part's end."""
    return [(t - BEGIN) / timedelta(seconds=1) for t in parts["tested_at"]]
