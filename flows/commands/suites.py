"""The command about suites; apart from the others, since saving loads Great Expectations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from expectations.engine import save_suites
from expectations.rules import RowRule, SchemaRule, Suite
from features.errors import InvalidInput
from flows.console import clear_errors, print_json, print_table
from infra.suites import all_suites
from infra.wiring import open_platform


def suites(save: Path | None, *, home: Path | None, json: bool) -> None:
    """A line for each suite, with its file where they are saved."""
    with clear_errors():
        with open_platform(home=home) as platform:
            found = all_suites(platform)
        files = [] if save is None else _saved([suite for _, suite in found], save)
    rows = [
        {"name": suite.name, "of": of, "schema_rules": _counts(suite.schema), "row_rules": _counts(suite.rows)}
        for of, suite in found
    ]
    if files:
        rows = [{**row, "file": str(file)} for row, file in zip(rows, files, strict=True)]
    print_json(rows) if json else print_table("suites", rows)


def _counts(rules: Iterable[SchemaRule | RowRule]) -> dict[str, int]:
    """How many rules of each severity there are, the worst first."""
    counts = Counter(rule.severity for rule in rules)
    return {severity.label: counts[severity] for severity in sorted(counts, reverse=True)}


def _saved(found: Sequence[Suite], folder: Path) -> list[Path]:
    """The files of the suites; InvalidInput where two would share one, or none can be written."""
    names = Counter(suite.name for suite in found)
    if twice := sorted(name for name, times in names.items() if times > 1):
        raise InvalidInput(f"suites of {twice} cannot be saved: both a source and a group have that name; rename one")
    try:
        return save_suites(found, folder)
    except OSError as error:
        raise InvalidInput(f"suites cannot be saved in {folder}: {error.strerror}; name another folder") from error
