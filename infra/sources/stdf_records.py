"""The records of an STDF file as frames, as far as the file is whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import stdf_convert

from features.errors import UnreadableFile
from infra.sources.stdf_walk import FAR_SIZE, Walk, declared_order, walk, with_order
from infra.sources.unpack import Unpacked, temporary_folder

_POSITION = ["sequence_number", "byte_offset", "rec_len"]
_SITE = ["HEAD_NUM", "SITE_NUM"]
_TEST = ["TEST_NUM", *_SITE, "TEST_FLG", "TEST_TXT"]
_LIMITS = ["OPT_FLAG", "LO_LIMIT", "HI_LIMIT", "UNITS"]
_COLUMNS = {
    "MIR": ["SETUP_T", "START_T", "LOT_ID", "PART_TYP", "NODE_NAM", "TSTR_TYP", "JOB_NAM"],
    "MRR": ["FINISH_T"],
    "WIR": ["HEAD_NUM", "START_T", "WAFER_ID"],
    "WRR": ["HEAD_NUM", "FINISH_T", "WAFER_ID"],
    "WCR": ["WAFR_SIZ", "DIE_HT", "DIE_WID", "WF_UNITS", "CENTER_X", "CENTER_Y"],
    "PIR": _SITE,
    "PRR": [*_SITE, "PART_FLG", "NUM_TEST", "HARD_BIN", "SOFT_BIN", "X_COORD", "Y_COORD", "TEST_T", "PART_ID"],
    "PTR": [*_TEST, *_LIMITS, "RESULT"],
    "MPR": [*_TEST, *_LIMITS, "RTN_ICNT", "RTN_RSLT", "RTN_INDX"],
    "FTR": _TEST,
    "UNKNOWN": [],
}

Records = dict[str, pl.DataFrame]
"""Record type → its records in file order, empty where the file has none; only the columns needed."""


@dataclass(frozen=True)
class Loaded:
    """A file's records; ``truncated_at`` and ``note`` as in Delivery."""

    records: Records
    truncated_at: int | None
    note: str | None


def load(file: Unpacked, scratch: Path | None = None) -> Loaded:
    """The whole records of an STDF file.

    A file that stdf-convert reads, that has an MRR and only known record types, is complete. Any other
    is walked header by header: where a record runs past the end of the stream the file was cut, and
    the records before it count; where no record can be recognised it is corrupt. A file without MRR
    that ends on a record's last byte may have been cut there, and counts as cut. Raises
    UnreadableFile for what is corrupt or no STDF V4.
    """
    with file.path.open("rb") as stream:
        head = stream.read(FAR_SIZE)
    order = declared_order(head)
    records, failure = None, None
    try:
        records = _parse(file.path)
    except stdf_convert.StdfError as error:
        failure = _translated(error, file.path)
    if records is not None and records["MRR"].height and records["UNKNOWN"].is_empty() and not file.cut:
        return Loaded(records, None, _joined(file.note, _cpu_note(head, order)))
    data = file.path.read_bytes()
    found = walk(data)
    if found.corrupt:
        raise UnreadableFile(f"corrupt: no STDF record starts at byte {found.whole}", found.whole)
    if found.order != order:
        records = _parse_bytes(with_order(data[: found.whole], found.order), scratch)
    elif found.whole < len(data):
        records = _parse_bytes(data[: found.whole], scratch)
    elif failure is not None:
        raise failure
    assert records is not None, "what did not parse was parsed again or raised"
    lie = _cpu_note(head, order) if found.order == order else "its FAR lies about the byte order"
    cut = _cut_note(file, found, has_end=records["MRR"].height > 0)
    note = _joined(file.note, lie, _unknown_note(records["UNKNOWN"].height), cut)
    return Loaded(records, None if cut is None else found.whole, note)


def _parse(path: Path) -> Records:
    tables = stdf_convert.tables(path, _COLUMNS)
    return {name: _frame(name, tables.get(name), columns) for name, columns in _COLUMNS.items()}


def _frame(name: str, table: pa.Table | None, columns: list[str]) -> pl.DataFrame:
    table = stdf_convert.schema(name).empty_table() if table is None else table
    # pl.DataFrame takes Arrow's columns without copying; selecting first spares decoding the others.
    return pl.DataFrame(table.select([*_POSITION, *columns])).with_columns(
        pl.col("sequence_number", "byte_offset").cast(pl.Int64)
    )


def _parse_bytes(data: bytes, scratch: Path | None) -> Records:
    """Parse a stream that is not a file: stdf-convert reads files only."""
    with temporary_folder(scratch) as folder:
        path = folder / "whole.stdf"
        path.write_bytes(data)
        try:
            return _parse(path)
        except stdf_convert.StdfError as error:
            raise _translated(error, path) from error


def _translated(error: stdf_convert.StdfError, path: Path) -> UnreadableFile:
    return UnreadableFile(f"stdf-convert cannot read it: {str(error).removeprefix(f'{path}: ')}")


def _cpu_note(head: bytes, order: str) -> str | None:
    """What FAR.CPU_TYPE says that the stream does not bear out: 0 VAX, 1 big-endian, 2 little-endian."""
    cpu = head[4]
    if cpu == 0:
        return "FAR.CPU_TYPE 0 (VAX): floats were read as IEEE, like everyone else's"
    if cpu in {1, 2} and cpu != (2 if order == "<" else 1):
        return f"FAR.CPU_TYPE {cpu} lies about the byte order"
    return None


def _unknown_note(count: int) -> str | None:
    return f"{count} record(s) of unknown type were skipped" if count else None


def _cut_note(file: Unpacked, found: Walk, *, has_end: bool) -> str | None:
    if found.whole < found.end:
        return f"cut in mid-record at byte {found.end}: its last whole record ends at byte {found.whole}"
    if file.cut:
        return f"its compressed data is cut: the last whole record ends at byte {found.whole}"
    return None if has_end else f"no MRR: it may be cut after its last record, at byte {found.whole}"


def _joined(*notes: str | None) -> str | None:
    return "; ".join(note for note in notes if note) or None
