"""The command that takes files in; apart from the others, since validation loads Great Expectations."""

from __future__ import annotations

from pathlib import Path

import typer

from flows.commands.own_turn import own_turn
from flows.console import clear_errors, complain, print_json, print_table, progress_bar
from infra.ingest import IngestResult, open_ingestor
from infra.ledger import REJECTED
from infra.turns import INGEST
from infra.wiring import open_platform

_COLUMNS = ["path", "status", "rows", "quarantined", "severity", "offset", "reason"]


def ingest(paths: list[Path], source: str | None, *, retry: bool, home: Path | None, json: bool) -> None:
    """Take new files in and list them; exit code 1 where nothing could be taken in."""
    with (
        clear_errors(),
        open_platform(home=home) as platform,
        own_turn(platform, INGEST, "ingest"),
        progress_bar("ingest") as progress,
    ):
        result = open_ingestor(platform).ingest(paths, source, progress, retry=retry)
    if json:
        print_json({"files": result.entries.to_dicts(), "known": result.known, "problems": list(result.problems)})
    else:
        _show(result)
    rejected = result.count(REJECTED)
    if rejected and rejected == result.entries.height and not result.known:
        complain("error", f"nothing could be taken in: {rejected} file(s) rejected, the ledger says why")
        raise typer.Exit(1)


def _show(result: IngestResult) -> None:
    rows = result.entries.select(_COLUMNS).to_dicts()
    print_table("ingested files", [row | {"path": _nearby(row["path"])} for row in rows])
    if result.known:
        print_table("skipped", [{"files": result.known, "why": "their content is in the ledger already"}])
    for problem in result.problems:
        complain("note", problem)


def _nearby(path: str) -> str:
    """A path below the working folder as it is written from there, another one by its name."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else Path(path).name
