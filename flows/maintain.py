"""The maintain flow: tables compact and sorted, logs short, no file kept that nobody can ask for."""

from __future__ import annotations

from datetime import datetime

from flows.moment import moment_of
from flows.platform_flow import platform_flow
from flows.stations import Facts
from flows.tasks import maintain_tables


@platform_flow("maintain")
def maintain(dry_run: bool = False, now: datetime | None = None) -> list[Facts]:
    """Merge small files, write checkpoints and remove files that no version in use needs, table by table.

    Rows, answers and every version that a registered model or a logged training set names stay.

    Args:
        dry_run: Only say what would be done.
        now: The moment from which ages are counted; empty for the present.
    """
    return maintain_tables(moment_of(now), dry_run=dry_run)
