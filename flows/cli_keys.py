"""The command line about keys of the feature server: what can be asked. What is done then is in ``flows.commands``."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from flows.app import Home, Json, app

keys = typer.Typer(help="Make, list and revoke keys of the feature server.", no_args_is_help=True)
app.add_typer(keys, name="keys")


@keys.command()
def add(
    name: Annotated[str, typer.Argument(help="Who it is for: the audit log names it.")],
    role: Annotated[list[str], typer.Option(help="read, push or admin (everything); repeatable.")],
    group: Annotated[Optional[list[str]], typer.Option(help="A group granted; repeatable (default: '*').")] = None,  # noqa: UP045
    rate: Annotated[int, typer.Option(min=1, help="Requests a second that each worker answers.")] = 100,
    home: Home = None,
    json: Json = False,
) -> None:
    """Make a key and show it, once; '*' stands for all groups that are not sensitive."""
    from flows.commands.keys import add as body

    body(name, role, group or [], rate, home=home, json=json)


@keys.command("list")
def list_keys(home: Home = None, json: Json = False) -> None:
    """List the keys, revoked ones too."""
    from flows.commands.keys import list_keys as body

    body(home=home, json=json)


@keys.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The key's name.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """End a key; servers refuse it a second later."""
    from flows.commands.keys import revoke as body

    body(name, home=home, json=json)
