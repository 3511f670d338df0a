"""The moment a flow counts as: read once, then handed on, so that one run has one now."""

from __future__ import annotations

from datetime import datetime

from features.times import as_utc, utc_now


def moment_of(now: datetime | None) -> datetime:
    """``now`` in UTC, or the wall clock's moment."""
    return utc_now() if now is None else as_utc(now)
