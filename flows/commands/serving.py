"""The command serve: features over HTTP."""

from __future__ import annotations

from pathlib import Path

from flows.console import clear_errors, out, print_json
from infra.serving.server import run
from infra.settings import LOOPBACK, environment_kept, load_settings


def serve(port: int, workers: int, *, home: Path | None, json: bool) -> None:
    """Say where, and serve until Ctrl-C."""
    url = f"http://{LOOPBACK}:{port}"

    def say_where() -> None:
        if json:
            print_json({"address": url, "docs": f"{url}/docs", "workers": workers})
        else:
            out.print(f"serving features at {url}; what can be asked: {url}/docs; Ctrl-C ends it")

    with clear_errors(), environment_kept():
        run(load_settings(home=home), port, workers, say_where)
