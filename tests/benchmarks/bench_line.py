"""The whole line: what `make demo` does, in a home of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measurement import Measurement


def demo() -> Measurement:
    """Seconds of one demo from an empty home."""
    command = [str(Path(sys.executable).with_name("featurefab")), "demo", "--home", "build/bench/demo"]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return Measurement(time.perf_counter() - start, "s")
