"""Content hashes: the same values give the same hash, whatever the file, chunking or Polars version."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl

from features.errors import InvalidInput

_TEXT = (pl.String, pl.Binary, pl.Categorical, pl.Int128, pl.UInt128)  # 128 bits as digits: NumPy ends at 64

_THREADS = 4
"""SHA-256 lets other threads run; each column that is hashed may be copied."""
_SMALL = 100_000


def content_hash(frame: pl.DataFrame) -> str:
    """SHA-256 over the columns in order: per column name, type, packed null mask and values.

    Nulls count as zero bytes under their mask and every NaN as one NaN; strings as lengths and bytes,
    lists as lengths and values. Raises InvalidInput for Python objects.

    >>> content_hash(pl.DataFrame({"a": [1, None]})) == content_hash(pl.DataFrame({"a": [1, None]}))
    True
    """
    total = hashlib.sha256()
    with ThreadPoolExecutor(_THREADS) as threads:
        # A thread costs more than a small frame.
        digests = threads.map(_column_hash, frame) if frame.height > _SMALL else map(_column_hash, frame)
        for digest in digests:
            total.update(digest)
    return total.hexdigest()


def _column_hash(series: pl.Series) -> bytes:
    digest = hashlib.sha256(f"{series.name}\0{series.dtype}\0{len(series)}\0".encode())
    digest.update(np.packbits(series.is_null().to_numpy()).tobytes())
    dtype = series.dtype
    if isinstance(dtype, pl.Array):
        digest.update(_column_hash(series.arr.to_list()))
    elif isinstance(dtype, pl.List):
        lengths = series.list.len().fill_null(0)
        digest.update(lengths.cast(pl.UInt32).to_numpy().tobytes())
        digest.update(_column_hash(series.filter(lengths > 0).explode()))
    elif isinstance(dtype, pl.Struct):
        for field in series.struct.fields:
            digest.update(_column_hash(series.struct.field(field)))
    elif dtype == pl.Object:
        raise InvalidInput(f"column {series.name!r} holds Python objects: make it numbers, text or times")
    elif dtype in _TEXT or isinstance(dtype, pl.Enum) or dtype.is_decimal():
        data = series if dtype == pl.Binary else series.cast(pl.String).cast(pl.Binary)
        data = data.fill_null(b"")
        digest.update(data.bin.size().cast(pl.UInt32).to_numpy().tobytes())
        digest.update(b"".join(data.to_list()))
    elif dtype.is_float():
        values = series.fill_null(0.0).to_numpy()
        missing = np.isnan(values)
        one = np.where(missing, np.array(np.nan, values.dtype), values) if missing.any() else values
        digest.update(np.ascontiguousarray(one).data)
    elif dtype != pl.Null:
        whole = series.reinterpret(signed=True) if dtype == pl.UInt64 else series.to_physical().cast(pl.Int64)
        digest.update(np.ascontiguousarray(whole.fill_null(0).to_numpy()).data)
    return digest.digest()
