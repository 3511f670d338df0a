"""Takes a folder of files into a home, in a process of its own, which may crash or hang.

``python fuzz_child.py HOME LANDING BATCH SECONDS``: a batch that takes longer ends the process with the
stacks of its threads. Prints how long the slowest file took to read, and its name, as JSON.
"""

from __future__ import annotations

import faulthandler
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from expectations.suites import suite_for
from features.definitions import REGISTRY
from infra.ingest import Ingestor
from infra.sources.base import Delivery
from infra.sources.stdf import StdfReader
from infra.sources.tabular import TabularReader
from infra.storage.delta import DeltaLake


class TimedReader(StdfReader):
    """Notes how long it took."""

    slowest = (0.0, "")

    def read(self, path: Path) -> Delivery:
        began = time.perf_counter()
        try:
            return super().read(path)
        finally:
            self.slowest = max(self.slowest, (time.perf_counter() - began, path.name))


def main(home: str, landing: str, batch: str, seconds: str) -> None:
    def watch(*_: int) -> None:
        # Its watchdog is no Python thread: it bites even while a library holds the interpreter's lock.
        faulthandler.dump_traceback_later(float(seconds), exit=True)

    reader = TimedReader((5.0, 5.0), Path(home) / "scratch")
    now = datetime(2026, 3, 2, tzinfo=UTC)
    lake = DeltaLake(Path(home) / "lake")
    ingestor = Ingestor(lake, REGISTRY, reader, TabularReader, suite_for, lambda: now, batch_files=int(batch))
    watch()
    ingestor.ingest([Path(landing)], progress=watch)
    faulthandler.cancel_dump_traceback_later()
    json.dump(reader.slowest, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
