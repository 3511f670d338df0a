"""Damages STDF files in the ways that transfers, disks and testers do."""

from __future__ import annotations

import bz2
import gzip
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from infra.sources.simulated_fab import SimulatedFab
from support_stdf import BIG, LITTLE, Stdf

REAL = Path(__file__).resolve().parents[2] / "shared/data/wafer"
_REAL_BYTES = 60_000
"""Of a large real file so many bytes are enough: all its kinds of records are there."""
_KINDS = [(0, 10), (1, 10), (1, 20), (1, 80), (2, 10), (2, 20), (2, 30), (5, 10), (5, 20), (10, 30), (15, 10), (15, 15)]
_KINDS += [(15, 20), (50, 10), (50, 30), (180, 1), (99, 99)]
_EXTREMES = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\x00\x00\x00", b"\x00\x00\xc0\x7f"]


@dataclass(frozen=True)
class Original:
    """A good file; a packed one is damaged as it lies there, and has no records to speak of."""

    name: str
    data: bytes
    packed: bool = False

    @property
    def order(self) -> str:
        """The byte order of its FAR."""
        return LITTLE if self.data[0] == 2 else BIG

    @cached_property
    def records(self) -> tuple[bytes, ...]:
        """Its records with their headers, the FAR first."""
        found, at = [], 0
        while at + 4 <= len(self.data):
            length = struct.unpack_from(self.order + "H", self.data, at)[0]
            found.append(self.data[at : at + 4 + length])
            at += 4 + length
        return tuple(found)

    def place(self, draw: random.Random) -> int:
        """Some byte: any, or one of a record of a kind that may be rare."""
        if self.packed or draw.random() < 0.5:
            return draw.randrange(len(self.data))
        records = self.records
        number = one_of_each(draw, records)
        return sum(map(len, records[:number])) + draw.randrange(len(records[number]))


def one_of_each(draw: random.Random, records: Sequence[bytes]) -> int:
    """The place of some record; every kind is as likely: results would drown the others."""
    kind = draw.choice(sorted({record[2:4] for record in records}))
    return draw.choice([place for place, record in enumerate(records) if record[2:4] == kind])


Mutator = Callable[[random.Random, Original], bytes]


def flipped(draw: random.Random, file: Original) -> bytes:
    """A few bits are the other way round."""
    data = bytearray(file.data)
    for _ in range(draw.choice([1, 1, 2, 8, 64])):
        data[file.place(draw)] ^= 1 << draw.randrange(8)
    return bytes(data)


def cut(draw: random.Random, file: Original) -> bytes:
    """The end is gone."""
    return file.data[: draw.randrange(1, len(file.data))]


def zeroed(draw: random.Random, file: Original) -> bytes:
    """A run of bytes is zero."""
    at, size = file.place(draw), draw.choice([1, 4, 16, 64, 512, 4096])
    return file.data[:at] + bytes(len(file.data[at : at + size])) + file.data[at + size :]


def extreme(draw: random.Random, file: Original) -> bytes:
    """Some four bytes are the greatest or the least of a type, or a NaN."""
    data = bytearray(file.data)
    for _ in range(draw.choice([1, 4, 16])):
        at = min(file.place(draw), len(data) - 4)
        data[at : at + 4] = draw.choice(_EXTREMES)
    return bytes(data)


def lied(draw: random.Random, file: Original) -> bytes:
    """A record's length is another one; mostly not by much."""
    records = list(file.records)
    at = one_of_each(draw, records)
    length = len(records[at]) - 4
    told = draw.choice([0, 65535, draw.randrange(65536), *(max(length + by, 0) for by in (-4, -1, 1, 2, 4, 32))])
    records[at] = struct.pack(file.order + "H", told) + records[at][2:]
    return b"".join(records)


def swapped(draw: random.Random, file: Original) -> bytes:
    """Two records have changed places; now and then one of them is there twice or not at all."""
    records = list(file.records)
    one, other = one_of_each(draw, records), draw.randrange(len(records))
    how = draw.randrange(4)
    if how < 2:
        records[one], records[other] = records[other], records[one]
    elif how == 2:
        records.insert(other, records[one])
    else:
        del records[one]
    return b"".join(records)


def confused(draw: random.Random, file: Original) -> bytes:
    """A record claims to be of another type."""
    records = list(file.records)
    at = one_of_each(draw, records)
    records[at] = records[at][:2] + bytes(draw.choice(_KINDS)) + records[at][4:]
    return b"".join(records)


def alike(draw: random.Random, file: Original) -> bytes:
    """All records of a kind have the same impossible four bytes in the same place, as a tester's own fault gives."""
    records = list(file.records)
    kind = records[one_of_each(draw, records)][2:4]
    at, value = draw.randrange(4, 28), draw.choice([*_EXTREMES, b"\x00\x00\x00\x00", b"\x01\x00\x00\x00"])
    for number, record in enumerate(records):
        if record[2:4] == kind and len(record) >= at + 4:
            records[number] = record[:at] + value + record[at + 4 :]
    return b"".join(records)


ANYWHERE: tuple[Mutator, ...] = (flipped, cut, zeroed, extreme)
IN_RECORDS: tuple[Mutator, ...] = (lied, swapped, confused, alike)


@dataclass(frozen=True)
class Mutant:
    """A damaged file: which one, and how."""

    original: str
    how: str
    suffix: str
    data: bytes


def mutants(draw: random.Random, originals: list[Original], count: int) -> Iterator[Mutant]:
    """So many damaged files: every way in turn, mostly by itself, sometimes after another one."""
    ways = [*ANYWHERE, *IN_RECORDS]
    plain = [file for file in originals if not file.packed]
    for number in range(count):
        way = ways[number % len(ways)]
        file = draw.choice(originals if way in ANYWHERE else plain)
        data = way(draw, file)
        while len(data) > 3 and draw.random() < 0.3:
            # It may have no records any more that could be confused.
            data = draw.choice(ANYWHERE)(draw, Original("", data, packed=True))
        yield Mutant(file.name, way.__name__, ".stdf.gz" if file.packed else ".stdf", data)


def odd_file(order: str) -> Stdf:
    """Two wafers, on two heads and sites, with every kind of result and what STDF says is missing."""
    file = Stdf(order).mir().wcr(200, 5, 4, 3).wir("W1").wir("W2", head=2)
    for part in range(12):
        head = 1 + part % 2
        file.pir(head=head).ptr(1.1 + part / 50, head=head, limits=(1.0, 1.4)).mpr([1.0, 2.0], [3, 4]).ftr(flag=0x80)
        file.ptr(float("nan"), num=8, name="", head=head).ptr(2.0, num=9, name="idd", unit="mA", flag=0x12, head=head)
        file.prr(str(part), head=head, xy=(part, -part), test_ms=100)
    return file.wrr("W1").wrr("W2", head=2).mrr()


def simulated() -> list[Original]:
    """Files of the simulated fab and odder ones, in both byte orders, plain and packed."""
    found = []
    for order, big in ((LITTLE, False), (BIG, True)):
        data = next(SimulatedFab(days=1, dies_per_wafer=40, big_endian=big).wafers_of(0)).content
        found += [Original("simulated", data), Original("odd", odd_file(order).data)]
        found.append(Original("packed", gzip.compress(data, mtime=0), packed=True))
    return found


def real() -> list[Original]:
    """The real files, as far as they are beside the project."""
    found = []
    for path in sorted(REAL.iterdir()) if REAL.is_dir() else []:
        data = {".gz": gzip.decompress, ".bz2": bz2.decompress}.get(path.suffix, bytes)(path.read_bytes())
        whole = Original(path.name, data)
        size = 0
        kept = [record for record in whole.records if (size := size + len(record)) < _REAL_BYTES]
        found.append(Original(path.name, b"".join(kept)))
    return found
