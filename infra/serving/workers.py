"""The figures of all workers that serve a home: each writes its own to a file, and any of them tells the sum."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from infra.serving.latency import Figures
from infra.storage.row_cache import RowCache

BEAT = 1.0
"""Seconds between two writes."""
_GONE = 10 * BEAT
_CLEAR = "clear"


class Worker:
    """One worker among those of a folder; without one it is alone.

    ``figures`` are its own, to be counted up by whoever does something. ``cache`` is what it remembers.
    """

    def __init__(self, folder: Path | None = None, cache: RowCache | None = None) -> None:
        self.figures = Figures()
        self._folder = folder
        self._cache = cache
        self._path = None if folder is None else folder / f"{os.getpid()}.json"
        self._cleared = _cleared(folder)

    def beat(self, figures: Figures) -> None:
        """Write its ``own`` figures, and forget what is remembered where somebody asked for that; done every BEAT."""
        if self._folder is None or self._path is None:
            return
        if (cleared := _cleared(self._folder)) != self._cleared:
            self._cleared = cleared
            if self._cache is not None:
                self._cache.forget(None)
        self._folder.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(figures))
        new.replace(self._path)

    def own(self) -> Figures:
        """What this worker has done until now; to be asked where nothing else counts meanwhile."""
        mine = Figures(gauges={"workers": 1})
        mine.merge(self.figures)
        if self._cache is not None:
            stats = self._cache.stats
            mine.counts["cache_rows"] = {"hit": stats.hits, "miss": stats.misses}
            mine.counts["cache_gone"] = {"room": stats.evicted, "change": stats.changed}
            mine.gauges |= {
                "cache_entries": len(self._cache),
                "cache_bytes": self._cache.bytes,
                "cache_trusted": int(self._cache.trusted),
            }
        return mine

    def all(self) -> Figures:
        """What all workers have done, others until their last beat."""
        total = self.own()
        if self._folder is not None:
            total.merge(figures_of(self._folder, besides=self._path))
        return total

    def close(self) -> None:
        """Take the figures away."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def figures_of(folder: Path, besides: Path | None = None, now: Callable[[], float] = time.time) -> Figures:
    """What the workers of a folder that are alive have done."""
    total = Figures()
    for path in folder.glob("*.json"):
        if path != besides:
            # One that ended takes its file away, or was killed: then it no longer beats.
            with suppress(FileNotFoundError):
                if now() - path.stat().st_mtime < _GONE:
                    total.merge(msgspec.json.decode(path.read_bytes(), type=Figures))
    return total


def ask_to_clear(folder: Path) -> None:
    """Have all workers of a folder forget what they remember, within a beat."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _CLEAR).write_text(f"{time.time_ns()}\n")


def _cleared(folder: Path | None) -> str:
    """What was written when somebody last asked for that."""
    if folder is None:
        return ""
    with suppress(FileNotFoundError):
        return (folder / _CLEAR).read_text()
    return ""
