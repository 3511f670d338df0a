"""Content hashes: the same values give the same hash, whatever the file, chunking or Polars version."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl


def content_hash(frame: pl.DataFrame) -> str:
    """SHA-256 over the columns in order: per column name, type, packed null mask and values.

    Nulls count as zero bytes under their mask and every NaN as one NaN; strings as lengths and bytes.

    >>> content_hash(pl.DataFrame({"a": [1, None]})) == content_hash(pl.DataFrame({"a": [1, None]}))
    True
    """
    total = hashlib.sha256()
    for series in frame:
        total.update(_column_hash(series))
    return total.hexdigest()


def _column_hash(series: pl.Series) -> bytes:
    digest = hashlib.sha256(f"{series.name}\0{series.dtype}\0{len(series)}\0".encode())
    digest.update(np.packbits(series.is_null().to_numpy()).tobytes())
    dtype = series.dtype
    if dtype in (pl.String, pl.Binary, pl.Categorical) or isinstance(dtype, pl.Enum):
        data = series.cast(pl.String) if dtype != pl.Binary else series
        data = data.cast(pl.Binary).fill_null(b"")
        digest.update(data.bin.size().cast(pl.UInt32).to_numpy().tobytes())
        digest.update(b"".join(data.to_list()))
    elif dtype.is_nested() or dtype.is_decimal():
        digest.update(series.to_frame().write_ndjson().encode())
    elif dtype.is_float():
        values = series.fill_null(0.0).fill_nan(float("nan"))
        digest.update(np.where(np.isnan(a := values.to_numpy()), np.array(np.nan, a.dtype), a).tobytes())
    elif dtype == pl.Null:
        pass
    else:
        digest.update(series.to_physical().cast(pl.Int64).fill_null(0).to_numpy().tobytes())
    return digest.digest()
