"""Writes STDF V4 wafer files, column by column.

A touchdown (all sites probed at once) always holds the same records of the same lengths, so a whole
touchdown is one packed NumPy record: a file is an array of touchdowns, and NumPy places every field of
every part, in either byte order, without a Python loop over parts or results.

Record and field names are those of the STDF V4 specification (Teradyne, 1995).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import InvalidInput
from features.times import to_micros

IntArray = NDArray[np.int64]

PASS_BIN = 1
"""Hard and soft bin of a part that passed every test."""
_FIRST_FAIL_BIN = 100
_ALL = 255
_ID_DIGITS = 6
"""Part ids are numbers from 1, padded to one width so that every PRR has the same length."""

_COUNTS = "PART_CNT:U4 RTST_CNT:U4 ABRT_CNT:U4 GOOD_CNT:U4 FUNC_CNT:U4"
_BIN = "HEAD_NUM:U1 SITE_NUM:U1 BIN_NUM:U2 BIN_CNT:U4 BIN_PF:C1 BIN_NAM:Cn"
_PTR = "TEST_NUM:U4 HEAD_NUM:U1 SITE_NUM:U1 TEST_FLG:U1 PARM_FLG:U1 RESULT:R4 TEST_TXT:Cn ALARM_ID:Cn"
_LAYOUT = {
    "FAR": "0.10 CPU_TYPE:U1 STDF_VER:U1",
    "MIR": "1.10 SETUP_T:U4 START_T:U4 STAT_NUM:U1 MODE_COD:C1 RTST_COD:C1 PROT_COD:C1 BURN_TIM:U2 CMOD_COD:C1 "
    "LOT_ID:Cn PART_TYP:Cn NODE_NAM:Cn TSTR_TYP:Cn JOB_NAM:Cn JOB_REV:Cn",
    "SDR": "1.80 HEAD_NUM:U1 SITE_GRP:U1 SITES:Cn HAND_TYP:Cn",
    "WCR": "2.30 WAFR_SIZ:R4 DIE_HT:R4 DIE_WID:R4 WF_UNITS:U1 WF_FLAT:C1 CENTER_X:I2 CENTER_Y:I2 POS_X:C1 POS_Y:C1",
    "WIR": "2.10 HEAD_NUM:U1 SITE_GRP:U1 START_T:U4 WAFER_ID:Cn",
    "PIR": "5.10 HEAD_NUM:U1 SITE_NUM:U1",
    "PTR": f"15.10 {_PTR}",
    "PTR with limits": f"15.10 {_PTR} OPT_FLAG:U1 RES_SCAL:I1 LLM_SCAL:I1 HLM_SCAL:I1 LO_LIMIT:R4 HI_LIMIT:R4 "
    "UNITS:Cn C_RESFMT:Cn C_LLMFMT:Cn C_HLMFMT:Cn LO_SPEC:R4 HI_SPEC:R4",
    "FTR": "15.20 TEST_NUM:U4 HEAD_NUM:U1 SITE_NUM:U1 TEST_FLG:U1 OPT_FLAG:U1 CYCL_CNT:U4 REL_VADR:U4 REPT_CNT:U4 "
    "NUM_FAIL:U4 XFAIL_AD:I4 YFAIL_AD:I4 VECT_OFF:I2 RTN_ICNT:U2 PGM_ICNT:U2 FAIL_PIN:U2 VECT_NAM:Cn TIME_SET:Cn "
    "OP_CODE:Cn TEST_TXT:Cn",
    "PRR": "5.20 HEAD_NUM:U1 SITE_NUM:U1 PART_FLG:U1 NUM_TEST:U2 HARD_BIN:U2 SOFT_BIN:U2 X_COORD:I2 Y_COORD:I2 "
    "TEST_T:U4 PART_ID:Cn",
    "WRR": f"2.20 HEAD_NUM:U1 SITE_GRP:U1 FINISH_T:U4 {_COUNTS} WAFER_ID:Cn",
    "TSR": "10.30 HEAD_NUM:U1 SITE_NUM:U1 TEST_TYP:C1 TEST_NUM:U4 EXEC_CNT:U4 FAIL_CNT:U4 ALRM_CNT:U4 TEST_NAM:Cn",
    "HBR": f"1.40 {_BIN}",
    "SBR": f"1.50 {_BIN}",
    "PCR": f"1.30 HEAD_NUM:U1 SITE_NUM:U1 {_COUNTS}",
    "MRR": "1.20 FINISH_T:U4 DISP_COD:C1",
}
"""REC_TYP.REC_SUB and the fields written of each record; the specification lets a record end after any field.

FAIL_PIN (a Dn) is written as its bit count 0; SITES stands for SITE_CNT and SITE_NUM, which together are
laid out as a Cn is.
"""
_NUMPY_TYPE = {"U1": "u1", "U2": "u2", "U4": "u4", "I1": "i1", "I2": "i2", "I4": "i4", "R4": "f4", "C1": "S1"}


@dataclass(frozen=True)
class ProbeTest:
    """One test of a test program: a measured value (PTR), or a functional pattern (FTR) without one.

    ``hard_bin`` is where a part goes whose first failing test this is. Limits are inclusive, in ``unit``;
    None is no limit on that side.
    """

    number: int
    name: str
    unit: str = ""
    lo: float | None = None
    hi: float | None = None
    hard_bin: int = 3
    functional: bool = False


@dataclass(frozen=True)
class WaferRun:
    """One wafer on one tester: what the file says besides its parts. Lengths in mm, times aware."""

    lot_id: str
    wafer_id: str
    product: str
    tester: str
    started_at: datetime
    finished_at: datetime
    die_width_mm: float
    die_height_mm: float
    wafer_mm: float
    center_x: int
    center_y: int
    sites: int = 4
    program: str = "probe"
    tester_type: str = "simulated"


@dataclass(frozen=True)
class ProbedParts:
    """The parts of one file in probing order: n parts by k tests.

    ``x``, ``y`` and ``test_ms`` have shape (n,); ``values`` (float32, in each test's unit; NaN for a
    functional test) and ``failed`` have shape (n, k).
    """

    x: IntArray
    y: IntArray
    test_ms: IntArray
    values: NDArray[np.float32]
    failed: NDArray[np.bool_]

    @property
    def passed(self) -> NDArray[np.bool_]:
        """Whether each part passed every test."""
        return np.asarray(~self.failed.any(axis=1))

    def hard_bins(self, tests: Sequence[ProbeTest]) -> IntArray:
        """The hard bin of each part: that of its first failing test, or the pass bin."""
        return self._by_first_fail([test.hard_bin for test in tests])

    def soft_bins(self, tests: Sequence[ProbeTest]) -> IntArray:
        """The soft bin of each part: 100 + the position of its first failing test, or the pass bin."""
        return self._by_first_fail(range(_FIRST_FAIL_BIN, _FIRST_FAIL_BIN + len(tests)))

    def _by_first_fail(self, bins: Sequence[int]) -> IntArray:
        first = np.asarray(bins, dtype=np.int64)[self.failed.argmax(axis=1)]
        return np.where(self.passed, PASS_BIN, first)


def touchdown_of(parts: int, sites: int) -> IntArray:
    """The touchdown in which each part is probed: the first part alone, then ``sites`` at a time.

    >>> touchdown_of(7, 4).tolist()
    [0, 1, 1, 1, 1, 2, 2]
    """
    return (np.arange(parts, dtype=np.int64) + sites - 1) // sites


def stdf_bytes(
    run: WaferRun,
    tests: Sequence[ProbeTest],
    parts: ProbedParts,
    *,
    big_endian: bool = False,
    repeat_limits: bool = False,
) -> bytes:
    """One complete STDF V4 file.

    Limits and units stand in each test's first PTR only (``repeat_limits``: in every one). Sites
    interleave: PIR of all sites, each test over all sites, PRR of all sites. The first part is probed
    alone, as an operator's set-up die is.

    Raises InvalidInput where a text is longer than STDF's 255 bytes, or there are no parts or more than 999,999.
    """
    if not 0 < len(parts.x) < 10**_ID_DIGITS:
        raise InvalidInput(f"wafer {run.lot_id}/{run.wafer_id} has {len(parts.x):,} parts: give it 1 to 999,999")
    order = ">" if big_endian else "<"
    return b"".join(
        (
            _opening(run, order),
            *_touchdowns(run.sites, tuple(tests), parts, order, repeat_limits),
            _closing(run, tests, parts, order),
        )
    )


def _record(order: str, kind: str, **values: float | str) -> NDArray[np.void]:
    """One record with its header as a packed 0-d structured array; a field not given is 0, "" or a blank."""
    code, *layout = _LAYOUT[kind].split()
    fields = [("REC_LEN", order + "u2"), ("REC_TYP", "u1"), ("REC_SUB", "u1")]
    row: list[Any] = [0, *map(int, code.split("."))]
    for field in layout:
        name, stdf_type = field.split(":")
        if stdf_type == "Cn":
            text = _text(name, str(values.get(name, "")))
            fields.append((name, f"S{len(text)}"))
            row.append(text)
        else:
            fields.append((name, order + _NUMPY_TYPE[stdf_type]))
            row.append(values.get(name, " " if stdf_type == "C1" else 0))
    dtype = np.dtype(fields)
    row[0] = dtype.itemsize - 4
    return np.array(tuple(row), dtype=dtype)


def _text(name: str, value: str) -> bytes:
    """A Cn: a length byte, then the text."""
    raw = value.encode()
    if len(raw) > 255:
        raise InvalidInput(f"{name} {value[:20]!r}... has {len(raw)} bytes: shorten it, STDF holds at most 255")
    return bytes([len(raw)]) + raw


def _seconds(moment: datetime) -> int:
    return to_micros(moment) // 1_000_000


def _opening(run: WaferRun, order: str) -> bytes:
    """FAR, MIR, SDR, WCR and WIR."""
    start = _seconds(run.started_at)
    records = (
        _record(order, "FAR", CPU_TYPE=1 if order == ">" else 2, STDF_VER=4),
        _record(
            order,
            "MIR",
            SETUP_T=start,
            START_T=start,
            STAT_NUM=1,
            MODE_COD="P",
            BURN_TIM=65535,
            LOT_ID=run.lot_id,
            PART_TYP=run.product,
            NODE_NAM=run.tester,
            TSTR_TYP=run.tester_type,
            JOB_NAM=run.program,
            JOB_REV="1",
        ),
        _record(
            order, "SDR", HEAD_NUM=1, SITE_GRP=1, SITES="".join(map(chr, range(1, run.sites + 1))), HAND_TYP="prober"
        ),
        _record(
            order,
            "WCR",
            WAFR_SIZ=run.wafer_mm,
            DIE_HT=run.die_height_mm,
            DIE_WID=run.die_width_mm,
            WF_UNITS=3,  # millimetres
            WF_FLAT="D",
            CENTER_X=run.center_x,
            CENTER_Y=run.center_y,
            POS_X="R",
            POS_Y="U",
        ),
        _record(order, "WIR", HEAD_NUM=1, SITE_GRP=_ALL, START_T=start, WAFER_ID=run.wafer_id),
    )
    return b"".join(record.tobytes() for record in records)


def _closing(run: WaferRun, tests: Sequence[ProbeTest], parts: ProbedParts, order: str) -> bytes:
    """WRR, a TSR per test, an HBR and an SBR per bin used, PCR and MRR."""
    finish, count = _seconds(run.finished_at), len(parts.x)
    dies = len(np.unique(np.stack([parts.x, parts.y], axis=1), axis=0))
    good = int(parts.passed.sum())
    counts = {"PART_CNT": count, "RTST_CNT": count - dies, "GOOD_CNT": good, "FUNC_CNT": count}
    records = [_record(order, "WRR", HEAD_NUM=1, SITE_GRP=_ALL, FINISH_T=finish, WAFER_ID=run.wafer_id, **counts)]
    for test, fails in zip(tests, parts.failed.sum(axis=0).tolist(), strict=True):
        test_type = "F" if test.functional else "P"
        summary = {"TEST_TYP": test_type, "TEST_NUM": test.number, "EXEC_CNT": count, "FAIL_CNT": fails}
        records.append(_record(order, "TSR", HEAD_NUM=_ALL, TEST_NAM=test.name, **summary))
    soft_names = {_FIRST_FAIL_BIN + i: test.name for i, test in enumerate(tests)}
    records += _bin_records(order, "HBR", parts.hard_bins(tests), {})
    records += _bin_records(order, "SBR", parts.soft_bins(tests), soft_names)
    records.append(_record(order, "PCR", HEAD_NUM=_ALL, **counts))
    records.append(_record(order, "MRR", FINISH_T=finish))
    return b"".join(record.tobytes() for record in records)


def _bin_records(order: str, kind: str, bins: IntArray, names: dict[int, str]) -> list[NDArray[np.void]]:
    """A summary record for each bin that got parts."""
    numbers, counts = np.unique(bins, return_counts=True)
    return [
        _record(
            order,
            kind,
            HEAD_NUM=_ALL,
            BIN_NUM=number,
            BIN_CNT=count,
            BIN_PF="P" if number == PASS_BIN else "F",
            BIN_NAM=names.get(number, "pass" if number == PASS_BIN else "fail"),
        )
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
    ]


def _touchdowns(
    sites: int, tests: tuple[ProbeTest, ...], parts: ProbedParts, order: str, repeat_limits: bool
) -> list[bytes]:
    """The parts' records: the first part alone with the limits, the full touchdowns, then what is left."""
    count = len(parts.x)
    full = 1 + (count - 1) // sites * sites
    spans = ((0, 1, 1, True), (1, full, sites, repeat_limits), (full, count, count - full, repeat_limits))
    bins = parts.hard_bins(tests), parts.soft_bins(tests)
    blocks = []
    for start, end, width, limits in spans:
        if end > start:
            block = np.repeat(_touchdown(tests, width, order, limits), (end - start) // width)
            _fill_results(block, tests, parts, slice(start, end))
            _fill_parts(block["PRR"], parts, bins, slice(start, end))
            blocks.append(block.tobytes())
    return blocks


def _fill_results(block: NDArray[np.void], tests: tuple[ProbeTest, ...], parts: ProbedParts, rows: slice) -> None:
    """Place the results of the parts in ``rows`` into an array of touchdowns."""
    shape = *block["PRR"].shape, len(tests)
    values, failed = parts.values[rows].reshape(shape), parts.failed[rows].reshape(shape)
    for i, test in enumerate(tests):
        records, value = block[f"test_{i}"], values[..., i]
        records["TEST_FLG"] = failed[..., i] * np.uint8(0x80)
        if not test.functional:
            records["RESULT"] = value
            # PARM_FLG bits 6 and 7: a value on the limit passes; bits 3 and 4: the limit that was crossed.
            above = value > np.float32(np.inf if test.hi is None else test.hi)
            below = value < np.float32(-np.inf if test.lo is None else test.lo)
            records["PARM_FLG"] = np.uint8(0xC0) | above * np.uint8(0x08) | below * np.uint8(0x10)


def _fill_parts(prr: NDArray[np.void], parts: ProbedParts, bins: tuple[IntArray, IntArray], rows: slice) -> None:
    """Place the parts in ``rows`` into their PRRs, shape (touchdowns, sites)."""
    prr["PART_FLG"] = ~parts.passed[rows].reshape(prr.shape) * np.uint8(0x08)
    columns = {"HARD_BIN": bins[0], "SOFT_BIN": bins[1], "X_COORD": parts.x, "Y_COORD": parts.y}
    for name, column in (columns | {"TEST_T": parts.test_ms}).items():
        prr[name] = column[rows].reshape(prr.shape)
    numbers = np.arange(rows.start + 1, rows.stop + 1)
    text = np.empty((len(numbers), 1 + _ID_DIGITS), dtype=np.uint8)
    text[:, 0] = _ID_DIGITS
    text[:, 1:] = numbers[:, None] // 10 ** np.arange(_ID_DIGITS - 1, -1, -1) % 10 + ord("0")
    prr["PART_ID"] = text.view(f"S{1 + _ID_DIGITS}").reshape(prr.shape)


@lru_cache(maxsize=64)
def _touchdown(tests: tuple[ProbeTest, ...], sites: int, order: str, limits: bool) -> NDArray[np.void]:
    """One touchdown, shape (1,), with everything that is the same in all of them; shared, so read only."""
    records = {"PIR": _record(order, "PIR")}
    for i, test in enumerate(tests):
        records[f"test_{i}"] = _test_record(test, order, limits)
    records["PRR"] = _record(order, "PRR", NUM_TEST=len(tests), PART_ID="0" * _ID_DIGITS)
    touchdown = np.zeros(1, dtype=[(name, record.dtype, (sites,)) for name, record in records.items()])
    for name, record in records.items():
        touchdown[name] = record
        touchdown[name]["HEAD_NUM"] = 1
        touchdown[name]["SITE_NUM"] = np.arange(1, sites + 1)
    touchdown.flags.writeable = False
    return touchdown


def _test_record(test: ProbeTest, order: str, limits: bool) -> NDArray[np.void]:
    if test.functional:
        # OPT_FLAG all ones: the cycle, address, fail and vector fields before TEST_TXT hold nothing.
        return _record(order, "FTR", TEST_NUM=test.number, OPT_FLAG=0xFF, TEST_TXT=test.name)
    if not limits:
        return _record(order, "PTR", TEST_NUM=test.number, TEST_TXT=test.name)
    # OPT_FLAG: bit 1 is always set; bits 2 and 3: no spec limits; bits 6 and 7: no low and no high limit.
    optional = 0x0E | (0x40 if test.lo is None else 0) | (0x80 if test.hi is None else 0)
    return _record(
        order,
        "PTR with limits",
        TEST_NUM=test.number,
        TEST_TXT=test.name,
        OPT_FLAG=optional,
        LO_LIMIT=test.lo or 0.0,
        HI_LIMIT=test.hi or 0.0,
        UNITS=test.unit,
        C_RESFMT="%9.4f",
        C_LLMFMT="%9.4f",
        C_HLMFMT="%9.4f",
    )
