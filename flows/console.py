"""What the command line prints: tables that line up, JSON where machines read, one-line errors."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from features.errors import FeatureFabError

_WIDE = 160
"""Columns where no terminal says how many there are: in a file or a pipe."""

_NAME = 32
"""Up to so many characters a word in a table is a name."""

out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
err = Console(stderr=True, highlight=False)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn our own errors into one line and exit code 1."""
    try:
        yield
    except FeatureFabError as error:
        complain("error", str(error))
        raise typer.Exit(1) from error


def complain(label: str, message: str) -> None:
    """One line on standard error; the message is text, whatever brackets it has."""
    style = "bold red" if label == "error" else "yellow"
    err.print(Text.assemble((f"{label}:", style), " ", " ".join(message.split())), soft_wrap=True)


def tell_on_stderr() -> None:
    """Leave standard output to JSON: everything else that is told goes to standard error."""
    out.stderr = True


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal; calls of the yielded function say (done, all)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def plain(value: Any) -> Any:
    """A value as JSON takes it: moments in ISO 8601, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False))  # noqa: T201 - for machines: no markup, no wrapping


def show(value: Any) -> str:
    """A value in a table cell: few digits, UTC moments without their zone, a dash for null.

    >>> show(1234.56), show(12345678.9), show(0.000123456), show(None)
    ('1,235', '12,345,679', '0.0001235', '-')
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1_000 <= abs(value) < 1e15 else f"{value:,.4g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {show(part)}" for name, part in value.items())
    return str(value)


def print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of equal keys as a table; numbers to the right."""
    if not rows:
        out.print(f"{title}: none", markup=False)
        return
    table = Table(header_style="bold", box=None, pad_edge=False)
    for name in rows[0]:
        numeric = all(isinstance(r[name], int | float) or r[name] is None for r in rows)
        # Names stay whole; sentences, paths and moments wrap.
        whole = all(isinstance(r[name], str) and len(r[name]) <= _NAME and " " not in r[name] for r in rows)
        table.add_column(
            Text(name.replace("_", " ")), justify="right" if numeric else "left", overflow="fold", no_wrap=whole
        )
    for row in rows:
        table.add_row(*(Text(show(v)) for v in row.values()))
    out.print(Text(title, style="italic"), soft_wrap=True)  # not the table's own: that one wraps in a narrow table
    out.print(table)
