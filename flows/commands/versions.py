"""The commands for versions of definitions: plan, apply, rollback, release."""

from __future__ import annotations

from pathlib import Path

import typer

from flows.console import clear_errors, progress_bar
from flows.version_views import show_plan, show_reinstated
from infra.wiring import open_platform


def plan(*, home: Path | None, json: bool) -> None:
    """What applying the definitions would change; exit code 2 or 3 where a version must be raised."""
    with clear_errors(), open_platform(home=home) as platform:
        found = platform.store.plan()
    show_plan(found, "plan", json=json)
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def apply(*, home: Path | None, json: bool) -> None:
    """Record the definitions, and show what changed."""
    with clear_errors(), open_platform(home=home) as platform:
        found = platform.store.apply()
    show_plan(found, "applied", json=json)


def rollback(group: str, version: str, *, home: Path | None, json: bool) -> None:
    """Hold a group at an applied version."""
    with clear_errors(), open_platform(home=home) as platform, progress_bar(f"rollback {group}") as progress:
        done = platform.store.rollback(group, version, progress)
    show_reinstated(done, "held at", json=json)


def release(group: str, *, home: Path | None, json: bool) -> None:
    """Let a held group go on."""
    with clear_errors(), open_platform(home=home) as platform, progress_bar(f"release {group}") as progress:
        done = platform.store.release(group, progress)
    show_reinstated(done, "released at", json=json)
