"""What a backfill shows in the Prefect UI while it runs: its progress, and a line for each chunk."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from features.materialization import Backfill, Preview
from flows.stations import Facts

_SHOWN = 400
"""Chunks in the table; of more, the first and the last ones."""
_UPDATE_SECONDS = 2.0


class BackfillPage:
    """A progress bar and a page, both kept up to date: rate, time left, and each chunk's state, rows and version."""

    def __init__(self, opened: Backfill, reason: str) -> None:
        self._opened = opened
        self._reason = reason
        self._began = self._shown = time.monotonic()
        self._left = set(opened.missing)
        self._done: dict[int, Facts] = {}
        self._bar: UUID | None = None
        self._page: UUID | None = None
        if opened.missing:
            key = artifact_key("backfill", opened.group)
            bar = create_progress_artifact(self._share, key=f"{key}-progress", description=self._title())
            page = create_markdown_artifact(self._text(), key=key, description=self._title())
            # Prefect declares that these may be coroutines; in a flow that is none they are not.
            self._bar, self._page = cast("UUID", bar), cast("UUID", page)

    @property
    def rows(self) -> int:
        """How many rows were appended so far."""
        return sum(done["rows"] for done in self._done.values())

    def add(self, done: Sequence[Facts]) -> None:
        """Show chunks as done: their number, rows, version and process."""
        self._left -= {chunk["chunk"] for chunk in done}
        self._done |= {chunk["chunk"]: chunk for chunk in done}
        now = time.monotonic()
        if self._bar is None or self._page is None or (self._left and now - self._shown < _UPDATE_SECONDS):
            return
        self._shown = now
        update_progress_artifact(self._bar, self._share)
        with get_client(sync_client=True) as client:
            client.update_artifact(self._page, ArtifactUpdate(data=self._text()))

    @property
    def _share(self) -> float:
        """Per cent of the chunks that are done."""
        count = len(self._opened.chunks)
        return 100 * (count - len(self._left)) / count

    def _title(self) -> str:
        start, end = self._opened.interval
        return f"{self._opened.group}: {_moment(start)} to {_moment(end)}{_because(self._reason)}"

    def _text(self) -> str:
        opened, seconds = self._opened, time.monotonic() - self._began
        done, processes = len(self._done), {chunk["process"] for chunk in self._done.values()}
        facts = {
            "chunks": f"{len(opened.chunks) - len(self._left)} of {len(opened.chunks)} done",
            "rows appended": f"{self.rows:,}",
            "rate": f"{done / seconds:.1f} chunks a second" if done else "-",
            "time left": str(timedelta(seconds=round(len(self._left) * seconds / done))) if done else "-",
            "processes at work": str(len(processes)) if processes else "-",
        }
        resumed = "\nIt goes on with a backfill that was left open.\n" if opened.resumed else ""
        lines = [
            f"## Backfill of {opened.group}",
            f"{_moment(opened.interval[0])} to {_moment(opened.interval[1])} UTC{_because(self._reason)}",
            resumed,
            markdown_table([{"": name, " ": value} for name, value in facts.items()]),
            "",
            markdown_table(self._lines()),
        ]
        return "\n".join(lines)

    def _lines(self) -> list[Facts]:
        numbers: list[int | None] = list(range(len(self._opened.chunks)))
        if len(numbers) > _SHOWN:
            numbers = [*numbers[: _SHOWN // 2], None, *numbers[-_SHOWN // 2 :]]
        return [dict.fromkeys(_COLUMNS, "…") if number is None else self._line(number) for number in numbers]

    def _line(self, number: int) -> Facts:
        start, end = self._opened.chunks[number]
        done = self._done.get(number, {})
        state = "waits" if number in self._left else "done" if done else "done before"
        values = (number + 1, _moment(start), _moment(end), state, done.get("rows", "-"), done.get("version", "-"))
        return dict(zip(_COLUMNS, values, strict=True))


_COLUMNS = ("chunk", "from", "to", "state", "rows", "Delta version")


def show_preview(group: str, preview: Preview, reason: str) -> Facts:
    """The plan of a backfill as a page; what the flow returns of it."""
    chunks: list[Facts] = [
        {
            "chunk": number,
            "from": _moment(chunk.start),
            "to": _moment(chunk.end),
            "rows to read": chunk.read,
            "new": chunk.new,
            "changed": chunk.changed,
            "withdrawn": chunk.withdrawn,
        }
        for number, chunk in enumerate(preview.chunks, 1)
    ]
    counted = ("rows to read", "new", "changed", "withdrawn")
    total = {name: sum(chunk[name] for chunk in chunks) for name in counted}
    note = [f"Note: {preview.note}", ""] if preview.note else []
    text = [
        f"## Dry run: backfill of {group}",
        f"Nothing was written{_because(reason)}.",
        "",
        *note,
        markdown_table([{"chunks": len(chunks), **total}]),
        "",
        markdown_table(chunks[:_SHOWN]),
    ]
    create_markdown_artifact(
        "\n".join(text), key=artifact_key("backfill-plan", group), description=f"dry run of {group}"
    )
    return {"group": group, "rows": 0, "dry_run": True, "chunks": len(chunks), **total}


def artifact_key(what: str, name: str) -> str:
    """A key under which Prefect lists an artifact: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", f"{what}-{name}".lower()).strip("-")


def markdown_table(rows: Sequence[Facts]) -> str:
    """Rows of equal keys as a table in Markdown; numbers with thousands separated."""
    if not rows:
        return "none"

    def cells(values: Sequence[Any]) -> str:
        shown = (f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|") for value in values)
        return f"| {' | '.join(shown)} |"

    def right(name: str) -> bool:
        return all(isinstance(row[name], int) or str(row[name]) in "-…" for row in rows)

    rule = cells(["--:" if right(name) else ":--" for name in rows[0]])
    return "\n".join([cells(list(rows[0])), rule, *(cells(list(row.values())) for row in rows)])


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment.hour or moment.minute else f"{moment:%Y-%m-%d}"


def _because(reason: str) -> str:
    return f", because {reason}" if reason else ""
