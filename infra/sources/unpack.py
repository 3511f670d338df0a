"""Decompression: a file as plain bytes on disk, whatever it was packed with.

What a file is packed with is read from its first bytes, not from its name. Files of several gzip or
bzip2 members are read to the end, and what a cut one still gives up is kept. Of a zip the first
member is read, and a note says so where it has more.
"""

from __future__ import annotations

import bz2
import gzip
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from features.errors import StorageError, UnreadableFile
from infra.sources.base import unopenable

COMPRESSED = (".gz", ".bz2", ".zip")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Unpacked:
    """A file's plain bytes at ``path``; ``cut`` if its compressed stream ended too early."""

    path: Path
    cut: bool = False
    note: str | None = None


def inner_suffix(path: Path) -> str:
    """The lower-case suffix of a file's name, that of its compression left out.

    >>> [inner_suffix(Path(name)) for name in ("lot2.STDF.gz", "lot2.zip", "a.csv")]
    ['.stdf', '', '.csv']
    """
    name = Path(path.name.lower())
    return Path(name.stem).suffix if name.suffix in COMPRESSED else name.suffix


@contextmanager
def unpacked(path: Path, scratch: Path | None = None) -> Iterator[Unpacked]:
    """The file's plain bytes for as long as the context lasts; a plain file is itself.

    ``scratch`` is the folder for temporary files (None: the system's). Raises UnreadableFile for a
    file that cannot be opened, is empty, or whose compressed bytes are damaged.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise unopenable(path, error) from error
    if not magic:
        raise UnreadableFile("the file is empty", 0)
    packing = _packing(magic)
    # A plain file named like a compressed one is copied too: stdf-convert believes the name.
    if packing == "plain" and path.suffix.lower() not in COMPRESSED:
        yield Unpacked(path)
        return
    with temporary_folder(scratch) as folder:
        plain = folder / "plain"
        cut, note = False, None
        with plain.open("wb") as sink:
            if packing == "zip":
                note = _unzip(path, sink)
            else:
                cut = _inflate(path, packing, sink)
        if not plain.stat().st_size:
            raise UnreadableFile(f"the {packing} file is {'cut before any data' if cut else 'empty'}", 0)
        yield Unpacked(plain, cut, note)


@contextmanager
def temporary_folder(scratch: Path | None) -> Iterator[Path]:
    """A folder below ``scratch`` (made if need be; None: the system's) that is gone when the context ends."""
    try:
        if scratch is not None:
            scratch.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=scratch, prefix="reading-")
    except OSError as error:
        raise StorageError(f"no temporary folder in {scratch}: {error}; make it writable") from error
    with folder as name:
        yield Path(name)


def _packing(magic: bytes) -> str:
    if magic.startswith(b"\x1f\x8b"):
        return "gzip"
    if magic.startswith(b"BZh"):
        return "bzip2"
    return "zip" if magic in {b"PK\x03\x04", b"PK\x05\x06"} else "plain"


def _inflate(path: Path, packing: str, sink: BinaryIO) -> bool:
    """Decompress to the end or to where the file is cut; whether it was cut."""
    with _opened(path, packing) as stream:
        while True:
            try:
                # read1, not read: a read that fails late would drop what it had decompressed before.
                chunk = stream.read1(_CHUNK)
            except EOFError:
                return True
            except (OSError, zlib.error) as error:
                reason = f"the {packing} data is damaged: {str(error).lower()}"
                raise UnreadableFile(reason, sink.tell()) from error
            if not chunk:
                return False
            sink.write(chunk)


def _opened(path: Path, packing: str) -> gzip.GzipFile | bz2.BZ2File | BufferedReader:
    if packing == "gzip":
        return gzip.open(path)
    return bz2.open(path) if packing == "bzip2" else path.open("rb")


def _unzip(path: Path, sink: BinaryIO) -> str | None:
    """Decompress the first member; a note where there are more."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            if not members:
                raise UnreadableFile("the zip holds no file", 0)
            with archive.open(members[0]) as stream:
                shutil.copyfileobj(stream, sink, _CHUNK)
    # RuntimeError and NotImplementedError are zipfile's words for encryption and exotic compression.
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise UnreadableFile(f"the zip cannot be read: {str(error).lower()}") from error
    if len(members) == 1:
        return None
    return f"the zip holds {len(members)} files, of which only the first, {members[0].filename!r}, was read"
