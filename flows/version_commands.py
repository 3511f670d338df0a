"""Commands for the versions of definitions: plan, apply, rollback, release."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Home = Annotated[Optional[Path], typer.Option("--home", help="The home folder (default: FEATUREFAB_HOME).")]  # noqa: UP045 - Typer


def plan(home: Home = None, json: Json = False) -> None:
    """Say what applying the definitions would change, and for whom; exit code 2 or 3 where a version must be raised."""
    from flows.console import clear_errors
    from flows.version_views import show_plan
    from infra.wiring import open_platform

    with clear_errors(), open_platform(home=home) as platform:
        found = platform.store.plan()
    show_plan(found, "plan", json=json)
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def apply(home: Home = None, json: Json = False) -> None:
    """Record the definitions as applied; nothing is recorded where the plan refuses one."""
    from flows.console import clear_errors
    from flows.version_views import show_plan
    from infra.wiring import open_platform

    with clear_errors(), open_platform(home=home) as platform:
        found = platform.store.apply()
    show_plan(found, "applied", json=json)


def rollback(
    group: Annotated[str, typer.Argument(help="A feature group.")],
    version: Annotated[str, typer.Argument(help="An applied version of it, like 1.0.0.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Take a group back to an applied version, offline and online, and hold it there."""
    from flows.console import clear_errors, progress_bar
    from flows.version_views import show_reinstated
    from infra.wiring import open_platform

    with clear_errors(), open_platform(home=home) as platform, progress_bar(f"rollback {group}") as progress:
        done = platform.store.rollback(group, version, progress)
    show_reinstated(done, "held at", json=json)


def release(
    group: Annotated[str, typer.Argument(help="A feature group that is held.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Undo a rollback: put back what was answered before it, and let runs go on."""
    from flows.console import clear_errors, progress_bar
    from flows.version_views import show_reinstated
    from infra.wiring import open_platform

    with clear_errors(), open_platform(home=home) as platform, progress_bar(f"release {group}") as progress:
        done = platform.store.release(group, progress)
    show_reinstated(done, "released at", json=json)
