"""Entity rows from people's files and command lines, and tables back into files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from features.entity import DataType
from features.errors import InvalidInput, UnreadableFile
from features.feature_group import EVENT_TIMESTAMP
from features.source import RECORD_OFFSET
from features.times import UTC_US
from infra.sources.text_columns import typed


def read_entities(path: Path, dtypes: Mapping[str, DataType]) -> pl.DataFrame:
    """The rows of a .csv, .parquet or .ndjson file, in file order, all columns kept.

    ``dtypes`` are the columns whose types are known, such as entity keys; in a CSV or NDJSON file their
    text is read as these types ("007" stays "007" for a String), and ``event_timestamp`` as a time, UTC
    where it has no zone. Other CSV columns get the type that all their values fit. Raises InvalidInput
    naming the file and what does not fit.
    """
    if not path.is_file():
        raise InvalidInput(f"{path}: there is no such file")
    known = {**dtypes, EVENT_TIMESTAMP: UTC_US}
    try:
        match path.suffix.lower():
            case ".csv":
                # As text first: what a key looks like ("007") must not decide what it is.
                text = {c: pl.String for c in pl.read_csv(path, n_rows=0, glob=False).columns if c in known}
                rows = pl.read_csv(path, schema_overrides=text, infer_schema_length=None, glob=False)
            case ".ndjson" | ".jsonl":
                rows = pl.read_ndjson(path, infer_schema_length=None)
            case ".parquet":
                rows = pl.read_parquet(path, glob=False)
            case other:
                raise InvalidInput(f"{path}: {other or 'a file without suffix'!r} is not .csv, .parquet or .ndjson")
        return as_typed(rows, known)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InvalidInput(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    except UnreadableFile as error:
        raise InvalidInput(f"{path}: {error}; mend that value") from error


def entities_from_text(rows: Sequence[Mapping[str, str]], dtypes: Mapping[str, DataType]) -> pl.DataFrame:
    """Entity rows typed in by hand, their values in the types that are known.

    Raises InvalidInput naming the value that does not fit.

    >>> entities_from_text([{"x": "3", "lot_id": "007"}], {"x": pl.Int32, "lot_id": pl.String}).rows()
    [(3, '007')]
    """
    try:
        return as_typed(pl.from_dicts([dict(row) for row in rows], infer_schema_length=None), dtypes)
    except UnreadableFile as error:
        raise InvalidInput(f"entity: {error}") from error


def as_typed(rows: pl.DataFrame, dtypes: Mapping[str, DataType]) -> pl.DataFrame:
    """The rows with the text in known columns read as its type; UnreadableFile where it is none."""
    numbered = rows.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(RECORD_OFFSET))
    return rows.with_columns(typed(numbered, c, t) for c, t in dtypes.items() if c in rows.columns)


def write_table(frame: pl.DataFrame, path: Path) -> None:
    """Write a frame as .csv, .parquet or .ndjson; times in ISO 8601. Raises InvalidInput where that fails."""
    try:
        match path.suffix.lower():
            case ".csv":
                frame.write_csv(path)
            case ".ndjson" | ".jsonl":
                frame.write_ndjson(path)
            case ".parquet":
                frame.write_parquet(path)
            case other:
                raise InvalidInput(f"{path}: {other or 'a file without suffix'!r} is not .csv, .parquet or .ndjson")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InvalidInput(f"{path} cannot be written: {str(error).splitlines()[0]}") from error
