"""CSV, Parquet and NDJSON files as one source's rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from features.errors import InvalidInput, UnreadableFile
from features.source import RECORD_OFFSET, Source
from infra.sources.base import Delivery
from infra.sources.text_columns import typed
from infra.sources.unpack import Unpacked, inner_suffix, unpacked


class TabularReader:
    """Reads .csv, .ndjson, .jsonl and .parquet files, also within .gz, .bz2 or .zip, for one source.

    Columns are found by name: those the source does not declare, such as an unnamed index, are
    dropped, and every declared one must be there. Text becomes the declared type: times are ISO 8601
    with or without a zone (UTC without), to the microsecond; an empty field is null. A NaN is a
    missing value, so null. CSV is UTF-8 with commas; its blank lines are skipped. A row without event
    time rejects the file: it would belong to no day.

    ``_record_offset`` is the row's number from 0, a CSV's header not counted. Where the compression
    of a CSV or NDJSON file is cut, its whole lines are delivered. ``scratch`` is the folder for
    temporary files (None: the system's).
    """

    def __init__(self, source: Source, scratch: Path | None = None) -> None:
        self._source = source
        self._scratch = scratch

    def accepts(self, path: Path) -> bool:
        """Whether the file's name, its compression left out, ends like one of the formats.

        >>> rows = Source("rows", schema={"at": pl.Datetime("us")}, event_timestamp="at")
        >>> [TabularReader(rows).accepts(Path(n)) for n in ("a.csv.gz", "a.JSONL", "a.stdf")]
        [True, True, False]
        """
        return inner_suffix(path) in _FORMATS

    def read(self, path: Path) -> Delivery:
        """The file's rows. Raises UnreadableFile naming the column, row or line that does not fit."""
        source = self._source
        with unpacked(path, self._scratch) as file:
            size = _without_cut_line(file)
            rows = _FORMATS[inner_suffix(path)](file.path, list(source.schema))
        rows = rows.with_columns(typed(rows, column, dtype) for column, dtype in source.dtypes.items())
        time = source.event_timestamp
        if missing := rows[time].null_count():
            first = rows.filter(pl.col(time).is_null())[RECORD_OFFSET][0]
            raise UnreadableFile(f"{missing} row(s) have no {time!r}, first row {first}: every event needs its time")
        try:
            conformed = source.conform(rows)
        except InvalidInput as error:
            raise UnreadableFile(str(error)) from error
        cut = None if size is None else f"its compressed data is cut: the last whole line ends at byte {size}"
        note = "; ".join(part for part in (file.note, cut) if part) or None
        return Delivery({source.name: conformed.with_columns(rows[RECORD_OFFSET])}, size, note)


def _without_cut_line(file: Unpacked) -> int | None:
    """Drop the last line, which is not whole, of what a cut compressed file gave up; the size left."""
    if not file.cut:
        return None
    size = file.path.read_bytes().rfind(b"\n") + 1
    if not size:
        raise UnreadableFile("its compressed data is cut before its first whole line", 0)
    with file.path.open("r+b") as stream:
        stream.truncate(size)
    return size


def _read_csv(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    try:
        found = pl.read_csv(path, n_rows=0, infer_schema=False, glob=False).columns
        _check_columns(columns, found)
        rows = pl.read_csv(path, columns=[*dict.fromkeys([*columns, found[-1]])], infer_schema=False, glob=False)
    except pl.exceptions.PolarsError as error:
        raise _broken_csv(path) or _unreadable(error) from error
    # Polars fills a line with too few fields with nulls: only a null in the last column can hide one.
    if rows[found[-1]].null_count() and (broken := _broken_csv(path)) is not None:
        raise broken
    return _numbered(rows.select(columns)).filter(~pl.all_horizontal(pl.col(columns).is_null()))


def _broken_csv(path: Path) -> UnreadableFile | None:
    """What is wrong with a CSV file, and where; None if every line has as many fields as the header."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            lines = csv.reader(stream)
            width = len(next(lines, []))
            for fields in lines:
                if fields and len(fields) != width:
                    return UnreadableFile(f"line {lines.line_num} has {len(fields)} field(s), the header {width}")
    except UnicodeDecodeError:
        pass
    except csv.Error as error:
        return UnreadableFile(f"line {lines.line_num} is no CSV: {error}")
    else:
        return None
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError as error:
        return UnreadableFile(f"not UTF-8: byte {error.object[error.start]:#04x}; save it as UTF-8", error.start)
    return None


def _read_ndjson(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    try:
        rows = pl.read_ndjson(path, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise _broken_ndjson(path) or _unreadable(error) from error
    _check_columns(columns, rows.columns)
    return _numbered(rows.select(columns))


def _broken_ndjson(path: Path) -> UnreadableFile | None:
    """The first line that is no JSON object; None if there is none."""
    offset = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                good = not line.strip() or isinstance(json.loads(line), dict)
            except ValueError:
                good = False
            if not good:
                return UnreadableFile(f"line {number} is not a JSON object: {line[:40]!r}", offset)
            offset += len(line)
    return None


def _read_parquet(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    try:
        _check_columns(columns, list(pl.read_parquet_schema(path)))
        return _numbered(pl.read_parquet(path, columns=list(columns), glob=False))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(error) from error


_FORMATS: dict[str, Callable[[Path, Sequence[str]], pl.DataFrame]] = {
    ".csv": _read_csv,
    ".ndjson": _read_ndjson,
    ".jsonl": _read_ndjson,
    ".parquet": _read_parquet,
}


def _numbered(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(RECORD_OFFSET))


def _check_columns(columns: Sequence[str], found: Sequence[str]) -> None:
    missing = [column for column in columns if column not in found]
    if missing:
        raise UnreadableFile(f"it lacks column(s) {missing}; it has {list(found)}")


def _unreadable(error: Exception) -> UnreadableFile:
    return UnreadableFile(f"it cannot be read: {str(error).splitlines()[0]}")
