"""The parts of an STDF file: which records open and close them, and when they were tested."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.times import UTC_US
from infra.sources.stdf_records import Records
from infra.sources.stdf_wafers import MISSING_COORDINATE, Ints, Wafer, wafer_of

_SEQUENCE_BITS = 40
_MISSING_COUNT = 65535
_LATEST = (2**32 - 1) * 1_000_000
"""The last moment that STDF can date (in 2106), as microseconds since the epoch, the first one."""


class Insertions:
    """Which part is in which socket: the PIR and PRR of each (head, site) in file order."""

    def __init__(self, records: Records) -> None:
        pir, prr = (_places(records[name]) for name in ("PIR", "PRR"))
        places = np.concatenate([pir, prr])
        order = np.argsort(places, kind="stable")
        self._places = places[order]
        self._part = np.concatenate([np.full(len(pir), -1), np.arange(len(prr))])[order]

    def part_of(self, records: pl.DataFrame) -> Ints:
        """The PRR, by position, of the part that each record belongs to; -1 for none.

        That is the part opened by the last PIR of the record's (HEAD_NUM, SITE_NUM) and closed by
        the next PRR of it; a part that is opened again or never closed is none. A PRR belongs to
        itself if a PIR opened it.
        """
        places = _places(records)
        after = np.searchsorted(self._places, places)
        if not len(self._places):
            return np.full(len(places), -1)
        before, after = after - 1, np.minimum(after, len(self._places) - 1)
        opened = (before >= 0) & self._same_site(before, places) & (self._part[before] < 0)
        return np.where(opened & self._same_site(after, places), self._part[after], -1)

    def _same_site(self, at: Ints, places: Ints) -> NDArray[np.bool_]:
        same: NDArray[np.bool_] = self._places[at] >> _SEQUENCE_BITS == places >> _SEQUENCE_BITS
        return same


def _places(records: pl.DataFrame) -> Ints:
    """(HEAD_NUM, SITE_NUM, sequence_number) as one number of the same order."""
    head, site = (records[c].cast(pl.Int64).to_numpy() for c in ("HEAD_NUM", "SITE_NUM"))
    places: Ints = ((head << 8 | site) << _SEQUENCE_BITS) | records["sequence_number"].to_numpy()
    return places


def touchdowns(records: Records, insertions: Insertions) -> Ints:
    """The touchdown of each PRR, numbered from 0: parts that were in their sockets together.

    A PIR after a PRR begins a new one, and so does a PRR without PIR.
    """
    pir, prr = records["PIR"], records["PRR"]
    sequence = np.concatenate([pir["sequence_number"].to_numpy(), prr["sequence_number"].to_numpy()])
    order = np.argsort(sequence)
    closes = (np.arange(len(sequence)) >= pir.height)[order]
    unopened = np.concatenate([np.zeros(pir.height, bool), insertions.part_of(prr) < 0])[order]
    begins = unopened | (~closes & np.concatenate([[False], closes[:-1]]))
    return np.cumsum(begins)[closes]


def part_rows(records: Records, wafers: list[Wafer], wafer_frame: pl.DataFrame, insertions: Insertions) -> pl.DataFrame:
    """A row per PRR with its wafer's context; ``_wafer`` is the wafer's index."""
    prr = records["PRR"]
    head, sequence = (prr[c].cast(pl.Int64).to_numpy() for c in ("HEAD_NUM", "sequence_number"))
    wafer = wafer_of(wafers, head, sequence)
    tested_at = part_times(prr["TEST_T"].cast(pl.Int64).to_numpy(), touchdowns(records, insertions), wafer, wafers)
    flag = pl.col("PART_FLG").bin.reinterpret(dtype=pl.UInt8)
    # The parser fills the fields of a record that ends early with zeros: its length tells.
    rows = prr.select(
        part_id=pl.col("PART_ID").str.strip_chars().replace("", None),
        part_index=pl.int_range(pl.len()),
        head="HEAD_NUM",
        site="SITE_NUM",
        x=_unless("X_COORD", MISSING_COORDINATE),
        y=_unless("Y_COORD", MISSING_COORDINATE),
        hard_bin=pl.when(pl.col("rec_len") >= 7).then(_unless("HARD_BIN", _MISSING_COUNT)),
        soft_bin=_unless("SOFT_BIN", _MISSING_COUNT),
        passed=pl.when((flag & 0x10 == 0) & (pl.col("rec_len") >= 3)).then(flag & 0x08 == 0),
        retest=flag & 0x03 != 0,
        test_count=pl.when(pl.col("rec_len") >= 5).then(_unless("NUM_TEST", _MISSING_COUNT)),
        test_time_ms=_unless("TEST_T", 0),
        tested_at=pl.lit(pl.Series(tested_at, dtype=pl.Int64)).cast(UTC_US),
        _record_offset="byte_offset",
    )
    context = wafer_frame.select(c for c in wafer_frame.columns if c != "_record_offset")
    return rows.hstack(context[wafer]).with_columns(pl.Series("_wafer", wafer))


def _unless(field: str, missing: int) -> pl.Expr:
    return pl.when(pl.col(field) != missing).then(field)


def part_times(test_ms: Ints, touchdown: Ints, wafer: Ints, wafers: list[Wafer]) -> Ints:
    """When each part's test ended, in microseconds since the epoch; the rule is the reader's."""
    times = np.zeros(len(test_ms), np.int64)
    for index, span in enumerate(wafers):
        own = np.flatnonzero(wafer == index)
        if len(own):
            times[own] = _wafer_times(test_ms[own], touchdown[own], span.start, span.finish)
    return times


def _wafer_times(test_ms: Ints, touchdown: Ints, start: int | None, finish: int | None) -> Ints:
    count = len(test_ms)
    order: Ints = np.arange(1, count + 1, dtype=np.int64)
    elapsed = _elapsed(test_ms, touchdown) if (test_ms > 0).all() else None
    if start is None:
        assert finish is not None, "find_wafers leaves no wafer without a time"
        end = order if elapsed is None or elapsed[-1] > finish else elapsed
        return end + (finish - int(end[-1]))
    if elapsed is not None and start + elapsed[-1] <= (_LATEST if finish is None else finish):
        return start + elapsed
    if finish is None:
        return start + order
    return finish - (count - order) * ((finish - start) // count)


def _elapsed(test_ms: Ints, touchdown: Ints) -> Ints:
    """Microseconds from the wafer's start to each part's end.

    A touchdown takes as long as its slowest part; its parts end one microsecond apart, in file order.
    """
    first = np.flatnonzero(np.diff(touchdown, prepend=touchdown[0] - 1))
    sizes = np.diff(first, append=len(touchdown))
    ends = np.cumsum(np.maximum.reduceat(test_ms, first)) * 1_000
    last = np.repeat(first + sizes - 1, sizes)
    elapsed: Ints = np.repeat(ends, sizes) - (last - np.arange(len(touchdown)))
    return elapsed
