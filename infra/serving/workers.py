"""The figures of all workers that serve a home: each writes its own to a file, and any of them tells the sum."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from infra.serving.latency import Figures
from infra.storage.row_cache import RowCache

BEAT = 1.0
"""Seconds between two writes."""
_GONE = 10 * BEAT
_HOT = "hot"
_MOST = 100_000
"""Keys that are noted as asked for often, and brought back into memory."""
_MINUTE = 60
"""Beats between two of these notes."""

Wish = Literal["clear", "warm"]
"""What one may ask of all workers: to forget what they remember, or to bring back what is asked for often."""


class Worker:
    """One worker among those of a folder; without one it is alone.

    ``figures`` are its own, to be counted up by whoever does something. ``cache`` is what it remembers; ``warm`` brings
    the rows of some keys into it, which is done at the beginning, too.
    """

    def __init__(
        self,
        folder: Path | None = None,
        cache: RowCache | None = None,
        warm: Callable[[Sequence[bytes]], None] | None = None,
    ) -> None:
        self.figures = Figures()
        self._folder = folder
        self._cache = cache
        self._warm = warm
        self._cold = True
        self._beats = 0
        self._path = None if folder is None else folder / f"{os.getpid()}.json"
        self._cleared, self._warmed = _wished(folder, "clear"), _wished(folder, "warm")

    def beat(self, figures: Figures) -> None:
        """Write its ``own`` figures, and do what somebody wished; to be called every BEAT, by a thread."""
        if self._folder is None or self._path is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        _write(self._path, msgspec.json.encode(figures))
        if self._cache is not None:
            self._tend(self._folder, self._cache)

    def _tend(self, folder: Path, cache: RowCache) -> None:
        """Look after what is remembered."""
        if (cleared := _wished(folder, "clear")) != self._cleared:
            self._cleared = cleared
            cache.forget(None)
        if (warmed := _wished(folder, "warm")) != self._warmed:
            self._warmed, self._cold = warmed, True
        if self._warm is not None and self._cold and cache.trusted:
            with suppress(FileNotFoundError, msgspec.DecodeError):  # nobody noted anything, or not this version
                self._warm(msgspec.msgpack.decode((folder / _HOT).read_bytes(), type=list[bytes]))
            self._cold = False  # after it: where the store did not answer, the next beat tries again
        self._beats += 1
        if self._beats % _MINUTE == 0 and (hot := cache.hot(_MOST)):
            _write(folder / _HOT, msgspec.msgpack.encode(hot))

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
                "cache_bytes": self._cache.weight,
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


def wish(folder: Path, what: Wish) -> None:
    """Ask something of all workers of a folder, who do it within a beat."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / what, f"{time.time_ns()}\n".encode())


def _wished(folder: Path | None, what: Wish) -> str:
    """What was written when somebody last wished that."""
    if folder is None:
        return ""
    with suppress(FileNotFoundError):
        return (folder / what).read_text()
    return ""


def _write(path: Path, content: bytes) -> None:
    """Write a file whole: others read it at any moment."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_bytes(content)
    new.replace(path)
