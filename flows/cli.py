"""The command line. Each command imports what it needs: ``--help`` must answer at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from flows import version_commands

app = typer.Typer(
    help="A fab for ML features: ingest, validate, materialize, serve, train, watch, audit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Home = Annotated[Optional[Path], typer.Option("--home", help="The home folder (default: FEATUREFAB_HOME).")]  # noqa: UP045 - Typer
Groups = Annotated[Optional[list[str]], typer.Argument(help="Feature groups; none for all.")]  # noqa: UP045 - Typer


@app.command()
def demo(
    home: Annotated[Path, typer.Option(help="The demo's home; wiped unless --keep.")] = Path("build/demo"),
    keep: Annotated[bool, typer.Option("--keep", help="Go on in the same home.")] = False,
    landing: Annotated[Optional[Path], typer.Option(help="Your own files instead of the simulated fab.")] = None,  # noqa: UP045
    json: Json = False,
) -> None:
    """Run the whole line: simulated wafers (or your files) in, features, models and a report out."""
    from flows.console import clear_errors, print_json, tell_on_stderr
    from flows.demo import run_demo

    if json:
        tell_on_stderr()
    with clear_errors():
        summary = run_demo(home, keep=keep, landing=landing)
    if json:
        print_json(summary)


@app.command()
def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders.")],
    source: Annotated[Optional[str], typer.Option(help="The source that CSV, Parquet or NDJSON files feed.")] = None,  # noqa: UP045
    retry: Annotated[bool, typer.Option("--retry", help="Read files again that were rejected before.")] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Take new files into bronze, each exactly once."""
    from flows.console import clear_errors, complain, print_json, print_table, progress_bar
    from infra.ingest import open_ingestor
    from infra.wiring import open_platform

    with clear_errors(), open_platform(home=home) as platform, progress_bar("ingest") as progress:
        result = open_ingestor(platform).ingest(paths, source, progress, retry=retry)
    columns = ["path", "status", "rows", "quarantined", "severity", "offset", "reason"]
    rows = result.entries.select(columns).to_dicts()
    if json:
        print_json({"files": result.entries.to_dicts(), "known": result.known, "problems": list(result.problems)})
    else:
        print_table("ingested files", [row | {"path": _nearby(row["path"])} for row in rows])
        if result.known:
            print_table("skipped", [{"files": result.known, "why": "their content is in the ledger already"}])
        for problem in result.problems:
            complain("note", problem)
    if rows and all(row["status"] == "rejected" for row in rows) and not result.known:
        complain("error", f"nothing could be taken in: {len(rows)} file(s) rejected, the ledger says why")
        raise typer.Exit(1)


@app.command()
def materialize(groups: Groups = None, home: Home = None, json: Json = False) -> None:
    """Emit the feature rows that new source commits made necessary."""
    from flows.console import clear_errors, progress_bar
    from infra.wiring import open_platform

    runs = []
    with clear_errors(), open_platform(home=home) as platform:
        for group in _due(platform.store, groups):
            with progress_bar(f"materialize {group}") as progress:
                runs.append(platform.store.materialize_incremental(group, progress))
    _print_runs("materialized", runs, json)


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
    from flows.console import clear_errors, progress_bar
    from infra.wiring import open_platform

    if dry_run:
        _preview(start, end, groups, home, json=json)
        return
    runs = []
    with clear_errors(), open_platform(home=home) as platform:
        for group in _due(platform.store, groups):
            with progress_bar(f"backfill {group}") as progress:
                runs.append(platform.store.materialize(group, start, end, progress))
    _print_runs("backfilled", runs, json)


@app.command()
def sync(groups: Groups = None, home: Home = None, json: Json = False) -> None:
    """Publish what was materialized to the online store."""
    from flows.console import clear_errors
    from infra.wiring import open_platform

    with clear_errors(), open_platform(home=home) as platform:
        registry = platform.store.registry
        names = [n for n in _chosen(registry, groups) if groups or registry.group(n).online]
        runs = [platform.store.sync(name) for name in names]
    _print_runs("synced", runs, json)


@app.command()
def fold(groups: Groups = None, home: Home = None, json: Json = False) -> None:
    """Take pushed rows from the push log into the feature tables, as every run does first."""
    from flows.console import clear_errors
    from infra.wiring import open_platform

    with clear_errors(), open_platform(home=home) as platform:
        registry = platform.store.registry
        names = [n for n in _chosen(registry, groups) if groups or registry.group(n).online]
        runs = [platform.store.fold(name) for name in names]
    _print_runs("folded", runs, json)


@app.command()
def train(
    models: Annotated[Optional[list[str]], typer.Argument(help="Models; none for all.")] = None,  # noqa: UP045
    home: Home = None,
    json: Json = False,
) -> None:
    """Train models on point-in-time examples and register them as champions."""
    from flows.console import clear_errors, print_json, print_table
    from infra.model_runs import train as train_model
    from infra.wiring import open_platform

    with clear_errors(), open_platform(home=home) as platform:
        registry = platform.store.registry
        specs = [registry.model(name) for name in models or registry.models]
        versions = [train_model(platform.store, platform.tracker, spec) for spec in specs]
    facts = [{"model": v.name, "version": v.version, "run_id": v.run_id, **v.metrics} for v in versions]
    if json:
        print_json(facts)
    else:
        for fact in facts:  # models have metrics of their own: a table each
            print_table("trained", [fact])
        if not facts:
            print_table("trained", [])


@app.command()
def report(home: Home = None, json: Json = False) -> None:
    """Judge the day before and write its report."""
    from flows.console import clear_errors, out, print_json
    from infra.monitoring import write_report
    from infra.wiring import open_platform

    with clear_errors(), open_platform(home=home) as platform:
        written = write_report(platform)
    if json:
        facts = {"report": written.path, "verdict": written.verdict}
        print_json(facts | {"drifted": written.drifted, "checked": written.checked})
    else:
        for line in (written.verdict, str(written.path)):
            out.print(line, markup=False, soft_wrap=True)


@app.command()
def nightly(
    landing: Annotated[Optional[Path], typer.Option(help="Where files arrive (default: the home's landing).")] = None,  # noqa: UP045
    home: Home = None,
    json: Json = False,
) -> None:
    """Run the nightly flow now: ingest, materialize, sync, check parity, train what is untrained, score, report."""
    from flows.console import clear_errors, complain, out, print_json
    from flows.runtime import prefect_runtime
    from infra.settings import load_settings

    with clear_errors():
        settings = load_settings(home=home)
        with prefect_runtime(settings):
            from flows.nightly import nightly as nightly_flow

            facts = nightly_flow(None if landing is None else str(landing))
    if json:
        print_json(facts)
    else:
        for line in (facts["monitored"]["verdict"], facts["monitored"]["report"]):
            out.print(line, markup=False, soft_wrap=True)
    if facts["parity"]["verdict"] != "ok":
        complain("error", facts["parity"]["reason"])
        raise typer.Exit(1)


@app.command("get-online")
def get_online(
    features: Annotated[list[str], typer.Argument(help="References (group:feature) or one feature service.")],
    entity: Annotated[list[str], typer.Option("--entity", "-e", help="Keys as name=value,name=value; repeatable.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Read the newest features of some entities."""
    from flows.console import clear_errors, print_json, print_table
    from infra.sources.entity_files import entities_from_text
    from infra.wiring import open_platform

    with clear_errors(), open_platform(home=home) as platform:
        asked, dtypes = _features(platform.store.registry, features)
        answer = platform.store.get_online_features(asked, entities_from_text([_keys(e) for e in entity], dtypes))
    if json:
        print_json({"values": answer.to_dict(), "statuses": answer.statuses, "times": answer.event_timestamps})
        return
    for number, keys in enumerate(answer.entities.to_dicts()):
        title = ", ".join(f"{k}={v}" for k, v in keys.items())
        rows = [
            {"feature": n, "value": v[number], "status": answer.statuses[n][number], "as of": times[number]}
            for (n, v), times in zip(answer.values.items(), answer.event_timestamps.values(), strict=True)
        ]
        print_table(title, rows)


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
    from flows.console import clear_errors
    from flows.views import show_training_set
    from infra.sources.entity_files import read_entities, write_table
    from infra.wiring import open_platform

    with clear_errors(), open_platform(home=home) as platform:
        asked, dtypes = _features(platform.store.registry, features)
        frame = read_entities(entities, dtypes)
        found = platform.store.get_historical_features(frame, asked, history=history)  # type: ignore[arg-type] # checked there
        if output is not None:
            write_table(found.to_polars(), output)
    show_training_set(found, output, json=json)


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
    from flows.console import clear_errors
    from flows.views import show_training_set
    from infra.sources.entity_files import read_entities, write_table
    from infra.wiring import open_platform

    with clear_errors(), open_platform(home=home) as platform:
        asked, dtypes = _features(platform.store.registry, features)
        some = None if entities is None else read_entities(entities, dtypes)
        found = platform.store.get_offline_features(asked, start, end, entities=some)
        if output is not None:
            write_table(found.to_polars(), output)
    show_training_set(found, output, json=json)


@app.command()
def describe(
    ref: Annotated[str, typer.Argument(help="A group, group:feature, service, source or model.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Say what a definition is: type, unit, range, owner, inputs, expression."""
    from flows.console import clear_errors, print_json, print_table
    from infra.catalog import describe as facts_of
    from infra.wiring import open_platform

    with clear_errors(), open_platform(home=home) as platform:
        facts = facts_of(platform.store, ref)
    if json:
        print_json(facts)
        return
    print_table(ref, [{"": k.replace("_", " "), " ": v} for k, v in facts.items() if not isinstance(v, list)])
    for name, rows in facts.items():
        if isinstance(rows, list):
            print_table(name, rows)


@app.command()
def lineage(
    ref: Annotated[str, typer.Argument(help="A source, group, service or model; source:column, group:feature.")],
    svg: Annotated[Optional[Path], typer.Option(help="Draw it as SVG into this file.")] = None,  # noqa: UP045
    home: Home = None,
    json: Json = False,
) -> None:
    """Show what a column, feature, service or model is made of and what it enters."""
    from flows.console import clear_errors
    from flows.lineage_view import show_lineage
    from infra.lineage import platform_lineage
    from infra.wiring import open_platform

    with clear_errors(), open_platform(home=home) as platform:
        found = platform_lineage(platform, ref)
    with clear_errors():
        show_lineage(found, svg, json=json)


@app.command()
def audit(
    model: Annotated[str, typer.Argument(help="A registered model.")],
    version: Annotated[Optional[str], typer.Option(help="Its version (default: the champion).")] = None,  # noqa: UP045
    home: Home = None,
    json: Json = False,
) -> None:
    """Trace a model back: run, features, group versions, table versions, source files."""
    from flows.console import clear_errors, out, print_json
    from infra.audit import LedgerFiles
    from infra.audit import audit as trace
    from infra.ledger import Ledger
    from infra.wiring import open_platform

    with clear_errors(), open_platform(home=home) as platform:
        found = trace(platform.tracker, LedgerFiles(Ledger(platform.lake)), model, version)
    if json:
        print_json(found.to_dict())
    else:
        out.print(found.render(), soft_wrap=True)


@app.command()
def reproduce(
    run_id: Annotated[str, typer.Argument(help="The run of a training, or of a logged training set.")],
    output: Annotated[Optional[Path], typer.Option("--output", "-o", help="Write CSV or Parquet here.")] = None,  # noqa: UP045
    home: Home = None,
    json: Json = False,
) -> None:
    """Rebuild the training set of a run and compare its content hash."""
    from flows.console import clear_errors
    from flows.views import show_reproduced
    from infra.sources.entity_files import write_table
    from infra.wiring import open_platform

    with clear_errors(), open_platform(home=home) as platform:
        found = platform.store.reproduce(run_id)
        if output is not None:
            write_table(found.to_polars(), output)
    show_reproduced(run_id, found, output, json=json)


@app.command()
def maintain(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Merge small files, write checkpoints, remove files that no version in use needs."""
    from dataclasses import asdict

    from flows.console import clear_errors, print_json, print_table
    from infra.maintenance import maintain as look_after
    from infra.wiring import open_platform

    with clear_errors(), open_platform(home=home) as platform:
        rows = [asdict(done) for done in look_after(platform, dry_run=dry_run)]
    print_json(rows) if json else print_table("would be maintained" if dry_run else "maintained", rows)


@app.command()
def leakcheck(
    groups: Groups = None,
    moments: Annotated[int, typer.Option(help="How many past moments to try.")] = 10,
    entities: Annotated[int, typer.Option(help="Look at so many key groups and their rows; 0 for all.")] = 100,
    home: Home = None,
    json: Json = False,
) -> None:
    """Recompute groups on inputs cut off at past moments: no value visible then may change."""
    from features.leakcheck import leakcheck as check
    from flows.console import clear_errors, progress_bar
    from flows.views import show_leaks
    from infra.wiring import open_platform

    with clear_errors(), open_platform(home=home) as platform, progress_bar("leakcheck") as progress:
        store, names, reports = platform.store, _chosen(platform.store.registry, groups), []
        parts, now, scope = (store.registry, store.offline), store.now(), entities or None
        for number, name in enumerate(names, 1):
            reports.append(check(*parts, name, now=now, moments=moments, entities=scope))
            progress(number, len(names))
    if show_leaks(reports, json=json):
        raise typer.Exit(1)


@app.command()
def parity(
    name: Annotated[Optional[str], typer.Argument(help="A group or service; none for every served group.")] = None,  # noqa: UP045
    sample: Annotated[int, typer.Option(help="How many entities of each group to ask; others each day.")] = 1_000,
    home: Home = None,
    json: Json = False,
) -> None:
    """Compare online answers with the offline store as of now, for a sample of entities."""
    from flows.console import clear_errors
    from flows.views import show_parity
    from infra.parity import parity_of_home

    with clear_errors():
        reports = parity_of_home(name, sample=sample, home=home)
    if not show_parity(reports, json=json):
        raise typer.Exit(1)


for _command in (version_commands.plan, version_commands.apply, version_commands.rollback, version_commands.release):
    app.command()(_command)


@app.command()
def status(home: Home = None, json: Json = False) -> None:
    """Say what the home holds: files, sources, groups, models."""
    from flows.console import clear_errors, print_json, print_table
    from infra.status import status as facts_of
    from infra.wiring import open_platform

    with clear_errors(), open_platform(home=home) as platform:
        facts = facts_of(platform)
    if json:
        print_json(facts)
        return
    for name, rows in facts.items():
        print_table(name, rows)


@app.command()
def config(home: Home = None, json: Json = False) -> None:
    """Show every setting and where it comes from; secrets are masked."""
    from flows.console import clear_errors, print_json, print_table
    from infra.settings import load_settings, origins

    with clear_errors():
        shown = origins(load_settings(home=home))
    rows = [{"setting": name, "value": value, "origin": origin} for name, (value, origin) in shown.items()]
    print_json(rows) if json else print_table("settings", rows)


def _nearby(path: str) -> str:
    """A path below the working folder as it is written from there, another one by its name."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else Path(path).name


def _chosen(registry: Any, groups: list[str] | None) -> list[str]:
    wanted = {registry.group(name) for name in groups} if groups else set(registry.groups.values())
    return [registry.name_of(group) for group in registry.in_order() if group in wanted]


def _due(store: Any, groups: list[str] | None) -> list[str]:
    """The groups to run: those that are named, or all but those that a rollback holds or that are retired."""
    from flows.console import complain

    resting = {name: store.versions.resting(store.registry.group(name)) for name in _chosen(store.registry, groups)}
    for name, why in resting.items() if not groups else ():
        if why:
            complain("note", f"{name} is passed over: {why}")
    return [name for name, why in resting.items() if groups or not why]


def _features(registry: Any, names: list[str]) -> tuple[Any, dict[str, Any]]:
    """One feature service by name, or references; with the types of its entity keys and request values."""
    asked = registry.service(names[0]) if len(names) == 1 and ":" not in names[0] else names
    refs = registry.resolve(asked)
    dtypes = {dict(r.keys).get(k, k): t for r in refs for k, t in registry.group(r.head).entity.keys.items()}
    return asked, dtypes | dict(getattr(asked, "request", None) or {})


def _keys(text: str) -> dict[str, str]:
    from features.errors import InvalidInput

    pairs = [part.partition("=") for part in text.split(",")]
    if not all(eq for _, eq, _ in pairs):
        raise InvalidInput(f"entity {text!r} is not written like name=value,name=value")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _preview(start: str, end: str, groups: list[str] | None, home: Path | None, *, json: bool) -> None:
    from flows.console import clear_errors
    from flows.views import show_previews
    from infra.wiring import open_platform

    with clear_errors(), open_platform(home=home) as platform:
        show_previews({g: platform.store.preview(g, start, end) for g in _due(platform.store, groups)}, json=json)


def _print_runs(title: str, runs: list[Any], json: bool) -> None:
    from dataclasses import asdict

    from flows.console import print_json, print_table

    rows = [asdict(run) for run in runs]
    print_json(rows) if json else print_table(title, rows)
