"""What every file reader promises: one file in, its rows by source out, or UnreadableFile."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import polars as pl

from features.errors import UnreadableFile


@dataclass(frozen=True)
class Delivery:
    """What one file delivered.

    ``tables`` maps a source's name to its rows: the source's declared columns in its types, then
    ``_record_offset`` (Int64: for STDF the byte of the record's header in the decompressed stream,
    for tabular files the row's number from 0). ``truncated_at`` is the byte of the decompressed
    stream after the last whole record, if the file was cut. ``note`` says in one plain line what is
    odd about the file.
    """

    tables: dict[str, pl.DataFrame]
    truncated_at: int | None = None
    note: str | None = None


class FileReader(Protocol):
    """Reads one kind of file."""

    def accepts(self, path: Path) -> bool:
        """Whether the file's name says that this reader reads it."""

    def read(self, path: Path) -> Delivery:
        """The file's rows. Raises UnreadableFile with the reason, and the byte where it is known."""


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes as it lies there, in hex. Raises UnreadableFile if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unopenable(path, error) from error


def unopenable(path: Path, error: OSError) -> UnreadableFile:
    """The error for a file that the operating system does not hand over."""
    return UnreadableFile(f"cannot open {path.name!r}: {(error.strerror or str(error)).lower()}")
