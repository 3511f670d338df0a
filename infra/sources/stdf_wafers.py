"""The wafers of an STDF file: where they begin and end, when, and their geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.errors import UnreadableFile
from features.times import UTC_US
from infra.sources.stdf_records import Records

Ints = NDArray[np.int64]

MISSING_COORDINATE = -32768
_MISSING_TIMES = (0, 2**32 - 1)
_MILLIMETRES = {1: 25.4, 2: 10.0, 3: 1.0, 4: 0.0254}
"""WCR.WF_UNITS → millimetres: inches, centimetres, millimetres, mils; 0 is unknown."""


@dataclass
class Wafer:
    """One wafer, or the whole of a file that names none.

    Records after sequence number ``opens`` are its own. Times are microseconds since the epoch, None
    where the file does not say; at least one of them is known.
    """

    opens: int
    head: int | None
    offset: int
    wafer_id: str | None = None
    start: int | None = None
    finish: int | None = None


def find_wafers(records: Records) -> list[Wafer]:
    """The file's wafers in the order in which they open; one for a file without WIR and WRR.

    A WRR closes the open wafer of its head, else the open one of its name; without either it is a
    wafer whose WIR is missing, opened where its head's last one ended. Start is WIR.START_T, else
    MIR.START_T, else MIR.SETUP_T; finish WRR.FINISH_T, else MRR.FINISH_T. A finish before the start
    is no finish. Raises UnreadableFile where the file has no time at all.
    """
    events = pl.concat([records["WIR"], records["WRR"]], how="diagonal").sort("sequence_number")
    wafers: list[Wafer] = []
    still_open: dict[int, Wafer] = {}
    last_end: dict[int, int] = {}
    # A row loop, but over a few dozen records at most: a lot has 25 wafers.
    for event in events.iter_rows(named=True):
        head, name, at = event["HEAD_NUM"], event["WAFER_ID"].strip() or None, event["sequence_number"]
        if event["FINISH_T"] is None:
            wafer = Wafer(at, head, event["byte_offset"], name, start=_micros(event["START_T"]))
            wafers.append(wafer)
            still_open[head] = wafer
            continue
        found = head if head in still_open else next((h for h, w in still_open.items() if w.wafer_id == name), None)
        if found is None:
            wafer = Wafer(last_end.get(head, -1), head, event["byte_offset"])
            wafers.append(wafer)
        else:
            wafer = still_open.pop(found)
        wafer.wafer_id = wafer.wafer_id or name
        wafer.finish = _micros(event["FINISH_T"])
        last_end[head] = at
    mir = records["MIR"]
    wafers = wafers or [Wafer(-1, None, mir["byte_offset"][0] if mir.height else 0)]
    _fill_times(wafers, records)
    return sorted(wafers, key=lambda w: w.opens)


def _fill_times(wafers: list[Wafer], records: Records) -> None:
    starts = [_micros(t) for column in ("START_T", "SETUP_T") for t in records["MIR"][column]]
    file_start = next((t for t in starts if t is not None), None)
    file_finish = next((t for t in map(_micros, records["MRR"]["FINISH_T"]) if t is not None), None)
    for wafer in wafers:
        wafer.start = file_start if wafer.start is None else wafer.start
        finishes = [t for t in (wafer.finish, file_finish) if t is not None and t >= (wafer.start or t)]
        wafer.finish = finishes[0] if finishes else None
        if wafer.start is None and wafer.finish is None:
            raise UnreadableFile("no time anywhere: neither MIR nor WIR, WRR or MRR says when the parts were tested")


def wafer_of(wafers: list[Wafer], heads: Ints, sequence: Ints) -> Ints:
    """The index of the wafer that each record belongs to.

    That is the one its head opened last before it, else the first; records of a head without
    wafers go by all heads' wafers.
    """
    result = np.zeros(len(heads), np.int64)
    if len(wafers) == 1:
        return result
    for head in np.unique(heads):
        own = [i for i, w in enumerate(wafers) if w.head == head] or list(range(len(wafers)))
        mask = heads == head
        place = np.searchsorted([wafers[i].opens for i in own], sequence[mask], side="left") - 1
        result[mask] = np.array(own)[np.maximum(place, 0)]
    return result


def wafer_rows(records: Records, wafers: list[Wafer], default_die_mm: tuple[float, float] | None) -> pl.DataFrame:
    """A row per wafer with its context and geometry; ``finish_time`` is null where unknown."""
    rows = pl.DataFrame(
        {
            "wafer_id": [w.wafer_id for w in wafers],
            "start_time": [w.start for w in wafers],
            "finish_time": [w.finish for w in wafers],
            "_record_offset": [w.offset for w in wafers],
        },
        schema={"wafer_id": pl.String, "start_time": pl.Int64, "finish_time": pl.Int64, "_record_offset": pl.Int64},
    ).with_columns(pl.col("start_time", "finish_time").cast(UTC_US), wafer_index=pl.int_range(pl.len(), dtype=pl.Int32))
    facts: dict[str, Any] = {**_context(records["MIR"]), **_geometry(records["WCR"], default_die_mm)}
    types = dict.fromkeys(_CONTEXT, pl.String) | _GEOMETRY_TYPES
    return rows.with_columns(pl.lit(value, types[column]).alias(column) for column, value in facts.items())


_CONTEXT = {
    "lot_id": "LOT_ID",
    "product": "PART_TYP",
    "tester_id": "NODE_NAM",
    "tester_type": "TSTR_TYP",
    "program": "JOB_NAM",
}
_GEOMETRY_TYPES = {
    "die_width_mm": pl.Float64,
    "die_height_mm": pl.Float64,
    "wafer_size_mm": pl.Float64,
    "center_x": pl.Int32,
    "center_y": pl.Int32,
}


def _context(mir: pl.DataFrame) -> dict[str, str | None]:
    if mir.is_empty():
        return dict.fromkeys(_CONTEXT)
    return {column: mir[field][0].strip() or None for column, field in _CONTEXT.items()}


def _geometry(wcr: pl.DataFrame, default_die_mm: tuple[float, float] | None) -> dict[str, float | int | None]:
    """Sizes in millimetres of the first WCR; a size of 0 or of unknown unit is missing."""
    record = wcr.row(0, named=True) if wcr.height else {}
    scale = _MILLIMETRES.get(record.get("WF_UNITS", 0))
    width, height = default_die_mm or (None, None)

    def size(field: str) -> float | None:
        value = record.get(field, 0.0)
        return value * scale if scale is not None and 0 < value < float("inf") else None

    def centre(field: str) -> int | None:
        value = record.get(field, MISSING_COORDINATE)
        return None if value == MISSING_COORDINATE else value

    return {
        "die_width_mm": size("DIE_WID") or width,
        "die_height_mm": size("DIE_HT") or height,
        "wafer_size_mm": size("WAFR_SIZ"),
        "center_x": centre("CENTER_X"),
        "center_y": centre("CENTER_Y"),
    }


def _micros(seconds: int) -> int | None:
    return None if seconds in _MISSING_TIMES else seconds * 1_000_000
