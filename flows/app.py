"""The application that commands are added to, what stands before a command, and the options that many of them have."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(
    help="A fab for ML features: ingest, validate, materialize, serve, train, watch, audit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Home = Annotated[Optional[Path], typer.Option("--home", help="The home folder (default: FEATUREFAB_HOME).")]  # noqa: UP045 - Typer
Groups = Annotated[Optional[list[str]], typer.Argument(help="Feature groups; none for all.")]  # noqa: UP045 - Typer


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # noqa: PLC0415 - only who asks waits for it

        typer.echo(f"featurefab {version('featurefab')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool, typer.Option("--version", help="Print the version and exit.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """What stands before a command."""
    _working_folder_last()


def _working_folder_last() -> None:
    """Let no file of the working folder hide a package, even where PYTHONPATH or ``python -m`` put it first."""
    here = str(Path.cwd())
    if here in sys.path and Path(here) != Path(__file__).resolve().parents[1]:  # else it is our own checkout
        sys.path[:] = [*(place for place in sys.path if place != here), here]
