"""The command about quarantined rows; apart from the others, since validation loads Great Expectations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from expectations.quarantine import RULES, SEVERITY
from features.errors import InvalidInput
from features.source import EVENT_DATE, FILE_SHA256, INGESTED_AT, RECORD_OFFSET
from flows.commands.own_turn import own_turn
from flows.console import clear_errors, out, print_json, print_table, show
from infra.quarantine import Quarantine, open_quarantine
from infra.turns import INGEST
from infra.wiring import open_platform

_SHORT = 12
"""Characters of a hash that are shown."""


@dataclass(frozen=True)
class Asked:
    """Which rows are meant, and why."""

    source: str | None
    files: Sequence[str]
    rules: Sequence[str]
    reason: str
    limit: int


def quarantine(action: str, asked: Asked, *, home: Path | None, json: bool) -> None:
    """List, show, release or drop."""
    with clear_errors(), open_platform(home=home) as platform:
        held = open_quarantine(platform)
        if action == "list":
            found = held.summary().to_dicts()
            print_json({"waiting": found}) if json else print_table("rows in quarantine", found)
        elif asked.source is None:
            known = sorted(platform.store.registry.sources)
            raise InvalidInput(f"quarantine {action}: say of which source, one of {known}")
        elif action == "show":
            _show(held.rows(asked.source, asked.files, asked.rules), asked.limit, json=json)
        else:
            with own_turn(platform, INGEST, f"quarantine {action}"):
                _decide(held, action, asked.source, asked, json=json)


def _show(rows: pl.DataFrame, limit: int, *, json: bool) -> None:
    """Rows one by one, with what they broke and where they stood; columns without a value are left out."""
    shown = rows.head(limit).to_dicts()
    if json:
        print_json({"rows": shown, "waiting": rows.height})
        return
    for row in shown:
        broke, file, at = ", ".join(row.pop(RULES)), row.pop(FILE_SHA256)[:_SHORT], row.pop(RECORD_OFFSET)
        values = [(n, v) for n, v in row.items() if v is not None and n not in (SEVERITY, INGESTED_AT, EVENT_DATE)]
        title = f"file {file} at {at:,} broke {broke} ({row[SEVERITY]})"
        print_table(title, [{"column": name, "value": _exactly(value)} for name, value in values])
    out.print(f"{len(shown)} of {rows.height:,} rows")


def _exactly(value: Any) -> str:
    """A value with all its digits: they may be what is wrong with it."""
    return repr(value) if type(value) in (int, float) else show(value)


def _decide(held: Quarantine, action: str, source: str, asked: Asked, *, json: bool) -> None:
    decide = held.release if action == "release" else held.drop
    done = decide(source, asked.files, asked.rules, asked.reason)
    facts = {"source": source, "decision": action, "rows": done.rows, "still_broken": done.waiting}
    print_json(facts) if json else print_table("quarantine", [facts])
