"""The commands for what must last: audit, reproduce, maintain."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from flows.console import clear_errors, out, print_json, print_table
from flows.views import show_reproduced
from infra.audit import LedgerFiles
from infra.audit import audit as trace
from infra.ledger import Ledger
from infra.maintenance import maintain as look_after
from infra.sources.entity_files import write_table
from infra.wiring import open_platform


def audit(model: str, version: str | None, *, home: Path | None, json: bool) -> None:
    """A model traced back to its source files, as a tree."""
    with clear_errors(), open_platform(home=home) as platform:
        found = trace(platform.tracker, LedgerFiles(Ledger(platform.lake)), model, version)
    if json:
        print_json(found.to_dict())
    else:
        out.print(found.render(), soft_wrap=True)


def reproduce(run_id: str, output: Path | None, *, home: Path | None, json: bool) -> None:
    """A training set rebuilt, and written where asked."""
    with clear_errors(), open_platform(home=home) as platform:
        found = platform.store.reproduce(run_id)
        if output is not None:
            write_table(found.to_polars(), output)
    show_reproduced(run_id, found, output, json=json)


def maintain(*, dry_run: bool, home: Path | None, json: bool) -> None:
    """The tables looked after, a line each."""
    with clear_errors(), open_platform(home=home) as platform:
        rows = [asdict(done) for done in look_after(platform, dry_run=dry_run)]
    print_json(rows) if json else print_table("would be maintained" if dry_run else "maintained", rows)
