"""The header walk: how far an STDF stream is whole, and whether it was cut or is corrupt.

Only headers (length, type, sub-type: four bytes) are looked at. It runs where stdf-convert failed,
found no end (MRR) or met records of unknown type, not on a good file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from features.errors import UnreadableFile

LITTLE, BIG = "<", ">"
FAR_SIZE = 6
_HEADER = 4
_FAR_ORDERS = {b"\x02\x00\x00\x0a": LITTLE, b"\x00\x02\x00\x0a": BIG}
_RECORDS = {
    0: (10, 20, 30),  # FAR ATR VUR
    1: (10, 20, 30, 40, 50, 60, 62, 63, 70, 80, 90, 91, 92, 93, 94),  # MIR MRR PCR HBR SBR ... CDR
    2: (10, 20, 30),  # WIR WRR WCR
    5: (10, 20),  # PIR PRR
    10: (30,),  # TSR
    15: (10, 15, 20, 30),  # PTR MPR FTR STR
    20: (10, 20),  # BPS EPS
    50: (10, 30),  # GDR DTR
    180: tuple(range(256)),  # reserved for testers by the specification
    181: tuple(range(256)),
}
_KNOWN = frozenset((typ, sub) for typ, subs in _RECORDS.items() for sub in subs)


@dataclass(frozen=True)
class Walk:
    """How far the headers make sense.

    ``order`` is the byte order of the stream ("<" or ">"), ``whole`` the byte after the last whole
    record, ``end`` where the stream ends, zero padding left out. Between the two stands the beginning
    of a record that was cut or, if ``corrupt``, what is no record.
    """

    order: str
    whole: int
    end: int
    corrupt: bool = False


def declared_order(head: bytes) -> str:
    """The byte order that the FAR's own length field shows: 02 00 is little-endian, 00 02 is big-endian.

    FAR.CPU_TYPE says it too, but it lies in some files. Raises UnreadableFile for what is no STDF V4.
    """
    order = _FAR_ORDERS.get(head[:_HEADER])
    if order is None:
        if any(far.startswith(head) for far in _FAR_ORDERS):
            raise UnreadableFile("cut within the header of its first record", 0)
        raise UnreadableFile(f"not an STDF file: it starts with {head[:4].hex(' ')}, not with a FAR record", 0)
    if len(head) < FAR_SIZE:
        raise UnreadableFile("cut within its first record", 0)
    if head[5] != 4:
        raise UnreadableFile(f"STDF version {head[5]}; only version 4 is read", 5)
    return order


def walk(data: bytes) -> Walk:
    """Follow the headers of an STDF stream that starts with a FAR.

    Where not even the record after the FAR makes sense, the FAR's byte order is taken for a lie and
    the other one is tried.
    """
    order = declared_order(data[:FAR_SIZE])
    found = _walk(data, order)
    if found.whole == FAR_SIZE < len(data):
        other = _walk(data, BIG if order == LITTLE else LITTLE)
        if other.whole > FAR_SIZE:
            return other
    return found


def with_order(data: bytes, order: str) -> bytes:
    """The stream with a FAR that tells the truth about the byte order."""
    return struct.pack(order + "HBBBB", 2, 0, 10, 2 if order == LITTLE else 1, data[5]) + data[FAR_SIZE:]


def _walk(data: bytes, order: str) -> Walk:
    header = struct.Struct(order + "HBB").unpack_from
    end = len(data)
    at = FAR_SIZE
    while at + _HEADER <= end:
        length, typ, sub = header(data, at)
        after = at + _HEADER + length
        if (typ, sub) not in _KNOWN and not _record_at(data, after, header):
            if data.count(0, at) == end - at:
                return Walk(order, at, at)
            return Walk(order, at, end, corrupt=True)
        if after > end:
            break
        at = after
    return Walk(order, at, end)


def _record_at(data: bytes, at: int, header: Callable[[bytes, int], tuple[int, ...]]) -> bool:
    """Whether a known record starts here, or the stream ends exactly here.

    That is what tells a tester's own record type from garbage.
    """
    return at == len(data) or (at + _HEADER <= len(data) and header(data, at)[1:] in _KNOWN)
