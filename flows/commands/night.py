"""The command nightly. Import it in a home that was entered (flows.commands.homes)."""

from __future__ import annotations

from pathlib import Path

from features.errors import StationsLost
from flows.console import out, print_json
from flows.nightly import nightly as nightly_flow


def nightly(landing: Path | None, *, json: bool) -> None:
    """One night now; where it lost a station, that is told last, and the exit code is 1."""
    lost: StationsLost | None = None
    try:
        facts = nightly_flow(None if landing is None else str(landing))
    except StationsLost as error:
        facts, lost = dict(error.facts[0]), error
    if json:
        print_json(facts)
    elif watched := facts["monitored"]:
        for line in (watched["verdict"], watched["report"]):
            out.print(line, markup=False, soft_wrap=True)
    if lost is not None:
        raise lost
