"""The command serve: features over HTTP."""

from __future__ import annotations

from pathlib import Path

from flows.console import clear_errors, out, print_json
from infra.serving.server import run
from infra.settings import environment_kept, load_settings


def serve(host: str | None, port: int, workers: int, *, home: Path | None, json: bool) -> None:
    """Say where, and serve until Ctrl-C."""

    def say_where(url: str) -> None:
        if json:
            print_json({"address": url, "docs": f"{url}/docs", "workers": workers})
        else:
            out.print(f"serving features at {url}; what can be asked: {url}/docs; Ctrl-C ends it")

    with clear_errors(), environment_kept():
        run(load_settings(home=home, serve_host=host), port, workers, say_where)
