"""The commands that check what was promised: leakcheck, parity and quality. Exit code 1 where it does not hold."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import typer

from features.errors import InvalidInput
from features.leakcheck import leakcheck as check
from flows.choice import chosen
from flows.commands.own_turn import own_turn
from flows.console import clear_errors, print_json, print_table, progress_bar
from flows.views import show_leaks, show_parity, show_quality
from infra.data_quality import write_quality
from infra.parity import parity_of_home
from infra.quality import open_quality
from infra.reports.quality_report import to_json
from infra.turns import INGEST
from infra.wiring import open_platform


def leakcheck(groups: list[str] | None, moments: int, entities: int, *, home: Path | None, json: bool) -> None:
    """No value that was visible at a past moment changes with what arrived later; 0 entities are all."""
    reports = []
    with clear_errors(), open_platform(home=home) as platform, progress_bar("leakcheck") as progress:
        store, names = platform.store, chosen(platform.store.registry, groups)
        parts, now, scope = (store.registry, store.offline), store.now(), entities or None
        for number, name in enumerate(names, 1):
            reports.append(check(*parts, name, now=now, moments=moments, entities=scope))
            progress(number, len(names))
    if show_leaks(reports, json=json):
        raise typer.Exit(1)


def parity(name: str | None, sample: int, *, home: Path | None, json: bool) -> None:
    """Both stores answer the same."""
    with clear_errors():
        reports = parity_of_home(name, sample=sample, home=home)
    if not show_parity(reports, json=json):
        raise typer.Exit(1)


def quality(days: int, *, home: Path | None, json: bool) -> None:
    """The report of the last days: written as a page and as JSON, and its figures shown."""
    with clear_errors(), open_platform(home=home) as platform:
        written = write_quality(platform, days)
    if json:
        print_json({**to_json(written.report), "report": str(written.path)})
    else:
        show_quality(written)
    if written.report.level == "action":
        raise typer.Exit(1)


def accept(source: str | None, since: str | None, reason: str, *, home: Path | None, json: bool) -> None:
    """What a source became is its new normal: its days from then on are judged anew."""
    with clear_errors():
        if source is None or since is None:
            raise InvalidInput("to accept a change, say of which source (--accept), since which day (--since), and why")
        first = _day(since)
        with open_platform(home=home) as platform, own_turn(platform, INGEST, "quality --accept"):
            held = open_quality(platform)
            held.accept(source, first, reason)
            days = held.days(source, first)
    facts = {
        "source": source,
        "since": first,
        "days": days["day"].n_unique(),
        "findings": days["findings"].list.len().sum(),
    }
    print_json(facts) if json else print_table("accepted as the new normal", [facts])


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not a day: write it like 2026-03-01") from error
