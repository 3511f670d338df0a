"""The command line: what can be asked. What is done then is in ``flows.commands``.

Each command imports its body when it is run: ``--help`` must answer at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from flows.app import Groups, Home, Json, app

__all__ = ["app", "cache", "keys"]


@app.command()
def demo(
    home: Annotated[Path, typer.Option(help="The demo's home; wiped unless --keep.")] = Path("build/demo"),
    keep: Annotated[bool, typer.Option("--keep", help="Go on in the same home.")] = False,
    landing: Annotated[Optional[Path], typer.Option(help="Your own files instead of the simulated fab.")] = None,  # noqa: UP045
    json: Json = False,
) -> None:
    """Run the whole line: simulated wafers (or your files) in, features, models and a report out."""
    from flows.commands.homes import demo_home

    with demo_home(home, landing, keep=keep) as entered:  # first: Prefect reads its environment on import
        from flows.commands.demo import demo as body

        body(entered, json=json)


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="A new or empty folder.")], json: Json = False) -> None:
    """Write a small project of your own: definitions, settings, a file of data, and what to type next."""
    from flows.commands.starting import init as body

    body(folder, json=json)


@app.command()
def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders.")],
    source: Annotated[Optional[str], typer.Option(help="The source that CSV, Parquet or NDJSON files feed.")] = None,  # noqa: UP045
    retry: Annotated[bool, typer.Option("--retry", help="Read files again that were rejected before.")] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Take new files into bronze, each exactly once."""
    from flows.commands.intake import ingest as body

    body(paths, source, retry=retry, home=home, json=json)


@app.command()
def quarantine(
    action: Annotated[Literal["list", "show", "release", "drop"], typer.Argument(help="What to do.")],
    source: Annotated[Optional[str], typer.Argument(help="The source whose rows they are.")] = None,  # noqa: UP045
    file: Annotated[Optional[list[str]], typer.Option(help="Only of the file with this hash; repeatable.")] = None,  # noqa: UP045
    rule: Annotated[Optional[list[str]], typer.Option(help="Only what broke this rule; repeatable.")] = None,  # noqa: UP045
    reason: Annotated[str, typer.Option(help="Why, for whoever asks later.")] = "",
    limit: Annotated[int, typer.Option(help="How many rows to show.")] = 5,
    home: Home = None,
    json: Json = False,
) -> None:
    """List or show rows that broke a rule; release those that keep the rules as they are now, or drop them."""
    from flows.commands.quarantined import Asked
    from flows.commands.quarantined import quarantine as body

    body(action, Asked(source, file or [], rule or [], reason, limit), home=home, json=json)


@app.command()
def quality(
    days: Annotated[int, typer.Option(min=1, help="Of so many last days.")] = 30,
    accept: Annotated[Optional[str], typer.Option(help="Instead: what this source became is its new normal.")] = None,  # noqa: UP045
    since: Annotated[Optional[str], typer.Option(help="With --accept: since this day (UTC), like 2026-03-01.")] = None,  # noqa: UP045
    reason: Annotated[str, typer.Option(help="With --accept: why, for whoever asks later.")] = "",
    home: Home = None,
    json: Json = False,
) -> None:
    """Report how clean the delivered data is, what was wrong with the rest and what to do; exit code 1 to act."""
    from flows.commands import checking

    if accept is None and since is None and not reason:
        checking.quality(days, home=home, json=json)
    else:
        checking.accept(accept, since, reason, home=home, json=json)


@app.command()
def suites(
    save: Annotated[Optional[Path], typer.Option(help="Write them into this folder, a JSON file each.")] = None,  # noqa: UP045
    home: Home = None,
    json: Json = False,
) -> None:
    """List the rules by which sources and feature groups are judged, or save them as Great Expectations reads them."""
    from flows.commands.suites import suites as body

    body(save, home=home, json=json)


@app.command()
def materialize(groups: Groups = None, home: Home = None, json: Json = False) -> None:
    """Emit the feature rows that new source commits made necessary."""
    from flows.commands.runs import materialize as body

    body(groups, home=home, json=json)


@app.command()
def backfill(
    start: Annotated[str, typer.Argument(help="First moment, UTC, like 2026-03-01.")],
    end: Annotated[str, typer.Argument(help="Moment after the last one, UTC.")],
    groups: Groups = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be read and changed; write nothing.")
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Emit the rows that the schedule would have emitted in [START, END)."""
    from flows.commands import runs

    body = runs.preview if dry_run else runs.backfill
    body(start, end, groups, home=home, json=json)


@app.command()
def sync(groups: Groups = None, home: Home = None, json: Json = False) -> None:
    """Publish what was materialized to the online store."""
    from flows.commands.runs import sync as body

    body(groups, home=home, json=json)


@app.command()
def fold(groups: Groups = None, home: Home = None, json: Json = False) -> None:
    """Take pushed rows from the push log into the feature tables, as every run does first."""
    from flows.commands.runs import fold as body

    body(groups, home=home, json=json)


@app.command()
def train(
    models: Annotated[Optional[list[str]], typer.Argument(help="Models; none for all.")] = None,  # noqa: UP045
    home: Home = None,
    json: Json = False,
) -> None:
    """Train models on point-in-time examples and register them as champions."""
    from flows.commands.learning import train as body

    body(models, home=home, json=json)


@app.command()
def report(home: Home = None, json: Json = False) -> None:
    """Judge the day before and write its report."""
    from flows.commands.learning import report as body

    body(home=home, json=json)


@app.command()
def nightly(
    landing: Annotated[Optional[Path], typer.Option(help="Where files arrive (default: the home's landing).")] = None,  # noqa: UP045
    home: Home = None,
    json: Json = False,
) -> None:
    """Run the nightly flow now: ingest, materialize, sync, check parity, train what is untrained, score, report."""
    from flows.commands.homes import prefect_home

    with prefect_home(home):  # first: Prefect reads its environment on import
        from flows.commands.night import nightly as body

        body(landing, json=json)


@app.command()
def up(
    only: Annotated[Optional[list[str]], typer.Option(help="prefect, mlflow, features or runner; repeatable.")] = None,  # noqa: UP045
    port_prefect: Annotated[int, typer.Option(min=1, max=65_535, help="Where Prefect's server and UI listen.")] = 4200,
    port_mlflow: Annotated[int, typer.Option(min=1, max=65_535, help="Where MLflow's server and UI listen.")] = 5000,
    port_features: Annotated[int, typer.Option(min=1, max=65_535, help="Where the feature server listens.")] = 6566,
    home: Home = None,
    json: Json = False,
) -> None:
    """Run everything that runs all the time: Prefect with its UI, the schedules, MLflow, features; until Ctrl-C."""
    from flows.commands.up import Ports
    from flows.commands.up import up as body

    body(only or [], Ports(port_prefect, port_mlflow, port_features), home=home, json=json)


@app.command("get-online")
def get_online(
    features: Annotated[list[str], typer.Argument(help="References (group:feature) or one feature service.")],
    entity: Annotated[list[str], typer.Option("--entity", "-e", help="Keys as name=value,name=value; repeatable.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Read the newest features of some entities."""
    from flows.commands.reading import get_online as body

    body(features, entity, home=home, json=json)


@app.command("get-historical")
def get_historical(
    features: Annotated[list[str], typer.Argument(help="References (group:feature) or one feature service.")],
    entities: Annotated[Path, typer.Option("--entities", help="CSV or Parquet with keys and event_timestamp.")],
    output: Annotated[Optional[Path], typer.Option("--output", "-o", help="Write CSV or Parquet here.")] = None,  # noqa: UP045
    history: Annotated[str, typer.Option(help="backfilled or as_served.")] = "backfilled",
    home: Home = None,
    json: Json = False,
) -> None:
    """Read features as they were at the moments of an entity file."""
    from flows.commands.reading import get_historical as body

    body(features, entities, output, history=history, home=home, json=json)


@app.command("get-offline")
def get_offline(
    features: Annotated[list[str], typer.Argument(help="References (group:feature) or one feature service.")],
    start: Annotated[str, typer.Option(help="First moment, UTC, like 2026-03-01.")],
    end: Annotated[str, typer.Option(help="Moment after the last one, UTC.")],
    entities: Annotated[Optional[Path], typer.Option("--entities", help="CSV or Parquet with keys.")] = None,  # noqa: UP045
    output: Annotated[Optional[Path], typer.Option("--output", "-o", help="Write CSV or Parquet here.")] = None,  # noqa: UP045
    home: Home = None,
    json: Json = False,
) -> None:
    """Read the rows of all entities, or of those in a file, from one moment to before another."""
    from flows.commands.reading import get_offline as body

    body(features, start, end, entities, output, home=home, json=json)


@app.command()
def describe(
    ref: Annotated[str, typer.Argument(help="A group, group:feature, service, source or model.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Say what a definition is: type, unit, range, owner, inputs, expression."""
    from flows.commands.describing import describe as body

    body(ref, home=home, json=json)


@app.command()
def lineage(
    ref: Annotated[str, typer.Argument(help="A source, group, service or model; source:column, group:feature.")],
    svg: Annotated[Optional[Path], typer.Option(help="Draw it as SVG into this file.")] = None,  # noqa: UP045
    home: Home = None,
    json: Json = False,
) -> None:
    """Show what a column, feature, service or model is made of and what it enters."""
    from flows.commands.describing import lineage as body

    body(ref, svg, home=home, json=json)


@app.command()
def audit(
    model: Annotated[str, typer.Argument(help="A registered model.")],
    version: Annotated[Optional[str], typer.Option(help="Its version (default: the champion).")] = None,  # noqa: UP045
    home: Home = None,
    json: Json = False,
) -> None:
    """Trace a model back: run, features, group versions, table versions, source files."""
    from flows.commands.auditing import audit as body

    body(model, version, home=home, json=json)


@app.command()
def reproduce(
    run_id: Annotated[str, typer.Argument(help="The run of a training, or of a logged training set.")],
    output: Annotated[Optional[Path], typer.Option("--output", "-o", help="Write CSV or Parquet here.")] = None,  # noqa: UP045
    home: Home = None,
    json: Json = False,
) -> None:
    """Rebuild the training set of a run and compare its content hash."""
    from flows.commands.auditing import reproduce as body

    body(run_id, output, home=home, json=json)


@app.command()
def maintain(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Merge small files, write checkpoints, remove files that no version in use needs."""
    from flows.commands.auditing import maintain as body

    body(dry_run=dry_run, home=home, json=json)


@app.command()
def leakcheck(
    groups: Groups = None,
    moments: Annotated[int, typer.Option(help="How many past moments to try.")] = 10,
    entities: Annotated[int, typer.Option(help="Look at so many key groups and their rows; 0 for all.")] = 100,
    home: Home = None,
    json: Json = False,
) -> None:
    """Recompute groups on inputs cut off at past moments: no value visible then may change."""
    from flows.commands.checking import leakcheck as body

    body(groups, moments, entities, home=home, json=json)


@app.command()
def parity(
    name: Annotated[Optional[str], typer.Argument(help="A group or service; none for every served group.")] = None,  # noqa: UP045
    sample: Annotated[int, typer.Option(help="How many entities of each group to ask; others each day.")] = 1_000,
    home: Home = None,
    json: Json = False,
) -> None:
    """Compare online answers with the offline store as of now, for a sample of entities."""
    from flows.commands.checking import parity as body

    body(name, sample, home=home, json=json)


@app.command()
def plan(home: Home = None, json: Json = False) -> None:
    """Say what applying the definitions would change, and for whom; exit code 2 or 3 where a version must be raised."""
    from flows.commands.versions import plan as body

    body(home=home, json=json)


@app.command()
def apply(home: Home = None, json: Json = False) -> None:
    """Record the definitions as applied; nothing is recorded where the plan refuses one."""
    from flows.commands.versions import apply as body

    body(home=home, json=json)


@app.command()
def rollback(
    group: Annotated[str, typer.Argument(help="A feature group.")],
    version: Annotated[str, typer.Argument(help="An applied version of it, like 1.0.0.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Take a group back to an applied version, offline and online, and hold it there."""
    from flows.commands.versions import rollback as body

    body(group, version, home=home, json=json)


@app.command()
def release(
    group: Annotated[str, typer.Argument(help="A feature group that is held.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Undo a rollback: put back what was answered before it, and let runs go on."""
    from flows.commands.versions import release as body

    body(group, home=home, json=json)


@app.command()
def status(home: Home = None, json: Json = False) -> None:
    """Say what the home holds: files, sources, groups, models."""
    from flows.commands.describing import status as body

    body(home=home, json=json)


@app.command()
def config(home: Home = None, json: Json = False) -> None:
    """Show every setting and where it comes from; secrets are masked."""
    from flows.commands.describing import config as body

    body(home=home, json=json)


from flows.cli_serving import cache, keys  # noqa: E402 - help lists commands in the order in which they are made
