"""The command line about the feature server: what can be asked. What is done then is in ``flows.commands``."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from flows.app import Home, Json, app

keys = typer.Typer(help="Make, list and revoke keys of the feature server.", no_args_is_help=True)
app.add_typer(keys, name="keys")
cache = typer.Typer(help="Show or empty what servers remember of a Redis.", no_args_is_help=True)
app.add_typer(cache, name="cache")


@app.command()
def serve(
    host: Annotated[Optional[str], typer.Option(help="Where to listen (default: this machine alone).")] = None,  # noqa: UP045
    port: Annotated[int, typer.Option(min=1, max=65_535, help="At which port.")] = 6566,
    workers: Annotated[int, typer.Option(min=1, help="How many processes answer.")] = 1,
    home: Home = None,
    json: Json = False,
) -> None:
    """Serve features over HTTP, as Feast's clients ask for them; until Ctrl-C."""
    from flows.commands.serving import serve as body

    body(host, port, workers, home=home, json=json)


@app.command()
def latency(home: Home = None, json: Json = False) -> None:
    """Show how long servers take: p50, p95, p99 and the longest, by path, part, group and service."""
    from flows.commands.serving import latency as body

    body(home=home, json=json)


@cache.command()
def stats(home: Home = None, json: Json = False) -> None:
    """Show what is remembered, how often it was found there, and the time that saved."""
    from flows.commands.serving import cache_stats as body

    body(home=home, json=json)


@cache.command()
def clear(home: Home = None, json: Json = False) -> None:
    """Have servers forget all of it, within a second."""
    from flows.commands.serving import cache_clear as body

    body(home=home, json=json)


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
