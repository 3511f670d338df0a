"""A pusher that is killed between a commit to its log and the commit's announcement.

``python unannounced_child.py HOME CARD`` appends a push to the log of a home, and leaves what a process does that is
killed in between: the commit is the newest on disk, the number by which readers choose is that of the commit before,
and the writer's mutex is held by nobody who lives. Somebody else must have the log open, or LMDB sets it up anew.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from card_payments import group
from features import Feature
from features.feature_rows import EPOCH
from features.push import conform
from infra.storage.push_log import LmdbPushLog

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PAID = group("paid", [Feature("amount", pl.col("amount"))], grain="event")


def row(card: int) -> dict[str, object]:
    """What is pushed of a card."""
    return {"card_id": card, "event_timestamp": NOW, "amount": float(card)}


def words(lock: mmap.mmap) -> list[int]:
    """The beginning of LMDB's lock file, where it keeps the number of the newest commit."""
    return list(struct.unpack("<16Q", lock[:128]))


if __name__ == "__main__":
    folder = Path(sys.argv[1]) / "push_log"
    log = LmdbPushLog(folder)
    with (folder / "lock.mdb").open("r+b") as file, mmap.mmap(file.fileno(), 0) as lock:
        rows = conform(PAID, pl.DataFrame([row(int(sys.argv[2]))]), NOW).with_columns(pl.lit(0, pl.Int64).alias(EPOCH))
        before = words(lock)
        log.append(PAID.table_id, rows, floor=NOW, served=None, push_id=None)
        (place,) = [n for n, (old, new) in enumerate(zip(before, words(lock), strict=True)) if new == old + 1]
        struct.pack_into("<Q", lock, 8 * place, before[place])
        held = log._use.environment._env.begin(write=True)
        os.kill(os.getpid(), signal.SIGKILL)
        del held  # until now
