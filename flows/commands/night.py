"""The command nightly. Import it in a home that was entered (flows.commands.homes)."""

from __future__ import annotations

from pathlib import Path

import typer

from flows.console import complain, out, print_json
from flows.nightly import nightly as nightly_flow


def nightly(landing: Path | None, *, json: bool) -> None:
    """One night now; exit code 1 where online and offline answers differ."""
    facts = nightly_flow(None if landing is None else str(landing))
    if json:
        print_json(facts)
    else:
        for line in (facts["monitored"]["verdict"], facts["monitored"]["report"]):
            out.print(line, markup=False, soft_wrap=True)
    if facts["parity"]["verdict"] != "ok":
        complain("error", facts["parity"]["reason"])
        raise typer.Exit(1)
