"""The commands that say what there is: describe, lineage, status, config."""

from __future__ import annotations

from pathlib import Path

from flows.console import clear_errors, print_json, print_table
from flows.lineage_view import show_lineage
from infra.catalog import describe as definition_facts
from infra.lineage import platform_lineage
from infra.settings import load_settings, origins
from infra.status import status as home_facts
from infra.wiring import open_platform


def describe(ref: str, *, home: Path | None, json: bool) -> None:
    """A definition: its facts, then a table for each list of them."""
    with clear_errors(), open_platform(home=home) as platform:
        facts = definition_facts(platform.store, ref)
    if json:
        print_json(facts)
        return
    print_table(ref, [{"": k.replace("_", " "), " ": v} for k, v in facts.items() if not isinstance(v, list)])
    for name, rows in facts.items():
        if isinstance(rows, list):
            print_table(name, rows)


def lineage(ref: str, svg: Path | None, *, home: Path | None, json: bool) -> None:
    """What a thing is made of and what it enters."""
    with clear_errors():
        with open_platform(home=home) as platform:
            found = platform_lineage(platform, ref)
        show_lineage(found, svg, json=json)


def status(*, home: Path | None, json: bool) -> None:
    """What the home holds, a table for each kind."""
    with clear_errors(), open_platform(home=home) as platform:
        facts = home_facts(platform)
    if json:
        print_json(facts)
        return
    for name, rows in facts.items():
        print_table(name, rows)


def config(*, home: Path | None, json: bool) -> None:
    """Every setting, and where it comes from."""
    with clear_errors():
        shown = origins(load_settings(home=home))
    rows = [{"setting": name, "value": value, "origin": origin} for name, (value, origin) in shown.items()]
    print_json(rows) if json else print_table("settings", rows)
