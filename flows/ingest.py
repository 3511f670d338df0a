"""The ingest flow: new files into bronze."""

from __future__ import annotations

from datetime import datetime

from flows.moment import moment_of
from flows.platform_flow import platform_flow
from flows.stations import Facts
from flows.tasks import ingest_files


@platform_flow("ingest")
def ingest(paths: list[str], source: str | None = None, now: datetime | None = None) -> Facts:
    """Take every new file at or below the paths into bronze, each exactly once.

    Args:
        paths: Files or folders. STDF feeds its three tables; other files need a source.
        source: The source that CSV, Parquet or NDJSON files feed; without it the folder's name says.
        now: The moment the run counts as; empty for the present.
    """
    return ingest_files(paths, source, moment_of(now))
