"""The demo: the whole line on a simulated fab, or on files of one's own, one station after the other.

Import it in a home that was entered (flows.commands.homes).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from json import dumps, loads
from pathlib import Path
from typing import Any

import polars as pl

from features.errors import TrackingError
from features.examples import examples
from features.feature_rows import EVENT
from features.times import utc_now
from features.training import predict
from flows.backfill import backfill
from flows.commands.homes import DemoHome
from flows.console import out, plain, print_json, tell_on_stderr
from flows.ingest import ingest
from flows.nightly import nightly
from flows.sync import sync
from infra.ledger import REJECTED, TRUNCATED, Ledger
from infra.settings import Settings
from infra.sources.simulated_fab import SimulatedFab
from infra.wiring import Platform, fixed_clock, open_platform

DAYS = 40
BACKFILLED_DAYS = 33
NIGHT = timedelta(hours=7)
"""The nightly run's time of day in UTC: 02:00 in New York, in winter."""

Summary = dict[str, Any]


def demo(home: DemoHome, *, json: bool) -> None:
    """Run the line in a home and write ``summary.json``.

    Without a landing 40 simulated days: 33 ingested at once and backfilled, 7 nights one by one, the
    process change on the last. With it: one ingest, one backfill over all event times, one night at
    the wall clock.
    """
    if json:
        tell_on_stderr()
    settings = home.settings
    known, line = _known(settings), _Line(settings)
    now, night = line.simulated() if home.landing is None else line.own_files(home.landing)
    summary = _summary(settings, known, now, night, home.began)
    path = settings.home / "summary.json"
    path.write_text(dumps(plain(summary), indent=2), "utf-8")
    _farewell(settings, summary, now)
    out.print(f"\nreport   {summary['report']}\nsummary  {path}\nseconds  {summary['seconds']:.1f}", soft_wrap=True)
    if json:
        print_json(summary)


class _Line:
    """Runs the flows and prints what came in and went out at each station."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def simulated(self) -> tuple[datetime, Mapping[str, Any]]:
        """40 days of a small fab; returns the last night's moment and facts."""
        fab = SimulatedFab(days=DAYS, process_change_day=DAYS - 1, bad_reading_rate=0.0005)
        landing, start = self._settings.landing, fab.start
        until = start + timedelta(days=BACKFILLED_DAYS)
        out.print(f"[bold]simulated fab[/]  {DAYS} days, {fab.wafers_per_day} wafers a day, from {start:%Y-%m-%d}")
        _station("simulate", lambda: {"files": _deliver(fab, landing, start, until)})
        _station("ingest", lambda: ingest([str(landing)], now=until))
        for fact in _station("backfill", lambda: backfill(start, until, now=until)):
            _say("", fact)
        _station("sync", lambda: sync(now=until))
        moment, facts = until, {}
        for number in range(BACKFILLED_DAYS, DAYS):
            before, moment = moment, start + timedelta(days=number + 1) + NIGHT
            _deliver(fab, landing, before, moment)
            facts = _night(lambda at=moment: nightly(now=at), moment)  # type: ignore[misc] # bound now
        return moment, facts

    def own_files(self, landing: Path) -> tuple[datetime, Mapping[str, Any]]:
        """Files of one's own, all their event times at once; returns the night's moment and facts."""
        now = utc_now()
        _station("ingest", lambda: ingest([str(landing)], now=now))
        _print_files(self._settings)
        start = _first_event(self._settings)
        if start is None:
            out.print("backfill     nothing to backfill: no row landed")
        else:
            for fact in _station("backfill", lambda: backfill(start, now, now=now)):
                _say("", fact)
        return now, _night(lambda: nightly(str(landing), now=now), now)


def _known(settings: Settings) -> int:
    """How many ledger rows the home has before the run."""
    with open_platform(home=settings.home) as platform:
        return Ledger(platform.lake).entries().height


def _deliver(fab: SimulatedFab, landing: Path, after: datetime, until: datetime) -> int:
    """Let the files of wafers finished in (after, until] arrive in the landing folder."""
    landing.mkdir(parents=True, exist_ok=True)
    first = max((after - fab.start).days - 1, 0)
    count = 0
    for day in range(first, min((until - fab.start).days + 1, fab.days)):
        for wafer in fab.wafers_of(day):
            if after < wafer.finished_at <= until:
                (landing / wafer.file_name).write_bytes(wafer.content)
                count += 1
    return count


def _station(name: str, run: Callable[[], Any]) -> Any:
    """Run a station and print its facts with the seconds it took."""
    began = time.monotonic()
    facts = run()
    shown = facts if isinstance(facts, Mapping) else {"groups": len(facts), "rows": sum(f["rows"] for f in facts)}
    _say(name, shown, time.monotonic() - began)
    return facts


def _night(run: Callable[[], Any], moment: datetime) -> Any:
    """Run a night and print one line per station of it."""
    began = time.monotonic()
    facts = run()
    out.print(f"\n[bold]night of {moment - timedelta(days=1):%Y-%m-%d}[/]  {time.monotonic() - began:.1f} s")
    _say("ingest", facts["ingested"])
    for name in ("materialized", "synced"):
        _say(name, {f["group"]: f["rows"] for f in facts[name]})
    _say("parity", facts["parity"])
    for fact in [*facts["trained"], *facts["monitored"]["scored"]]:
        _say("model", fact)
    watched = facts["monitored"]
    _say("report", {"checked": watched["checked"], "drifted": len(watched["drifted"])})
    return facts


def _say(name: str, facts: Mapping[str, Any], seconds: float | None = None) -> None:
    shown = ", ".join(f"{k} {_short(v)}" for k, v in facts.items() if v not in (None, [], {}) and k != "run_id")
    taken = "" if seconds is None else f"  {seconds:.1f} s"
    out.print(f"{name:<12} {shown}{taken}", soft_wrap=True, markup=False)


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{k} {_short(v)}" for k, v in value.items()) + ")"
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _print_files(settings: Settings) -> None:
    """Per file what it holds: parts, results, dies, retests, invalid results."""
    with open_platform(home=settings.home) as platform:
        for row in Ledger(platform.lake).entries().to_dicts():
            facts = {"status": row["status"], "reason": row["reason"], "byte": row["offset"]}
            facts |= _file_facts(platform, row["file_sha256"]) if row["status"] != REJECTED else {}
            _say("", {"file": Path(row["path"]).name, **facts})


def _file_facts(platform: Platform, sha256: str) -> dict[str, int]:
    """What one STDF file holds, quarantined rows included."""

    def rows(source: str) -> pl.DataFrame:
        frames = [platform.lake.scan_source(source), platform.lake.scan_log(f"quarantine/{source}")]
        found = [f.filter(pl.col("_file_sha256") == sha256) for f in frames if f is not None]
        return pl.concat(found, how="diagonal").collect() if found else pl.DataFrame()

    parts, results = rows("parts"), rows("test_results")
    if not parts.width:
        return {}
    placed = parts.drop_nulls(["x", "y"])
    dies = placed.group_by("wafer_id", "x", "y").len()
    facts = {"parts": parts.height, "results": results.height, "dies": dies.height}
    facts |= {"retested_dies": dies.filter(pl.col("len") > 1).height}
    if results.width:
        ptr = results.filter(pl.col("kind") == "PTR")
        datalogged = results.drop_nulls("part_index").select("wafer_id", "part_index").n_unique()
        facts |= {"ptr": ptr.height, "invalid": ptr["result"].null_count(), "datalogged_parts": datalogged}
    return facts


def _first_event(settings: Settings) -> datetime | None:
    """The earliest event time of any source."""
    with open_platform(home=settings.home) as platform:
        found = []
        for source in platform.store.registry.sources.values():
            rows = platform.lake.scan_source(source.name)
            if rows is not None:
                found.append(rows.select(pl.col(source.event_timestamp).min()).collect().item())
    return min((moment for moment in found if moment is not None), default=None)


def _summary(settings: Settings, known: int, now: datetime, night: Mapping[str, Any], began: float) -> Summary:
    """What the run did, in the form that machines read."""
    with open_platform(home=settings.home, clock=fixed_clock(now)) as platform:
        store = platform.store
        entries = Ledger(platform.lake).entries().slice(known)
        landed = entries.filter(pl.col("status") != REJECTED)
        delivered = [loads(text) for text in landed["delivered"]]
        groups, online = {}, 0
        for group in store.registry.groups.values():
            table = platform.lake.table(f"features/{group.table_id}")
            rows = table.scan()
            groups[group.name] = {
                "rows": 0 if rows is None else rows.select(pl.len()).collect().item(),
                "delta_version": table.version(),
            }
            online += store.online.count(group.table_id) if group.online else 0
        models: dict[str, Any] = {}
        if settings.mlflow_db.exists():
            for name in store.registry.models:
                models |= _model(platform, name)
    watched = night["monitored"]
    return {
        "files": {
            "ingested": landed.height,
            "rejected": entries.filter(pl.col("status") == REJECTED).height,
            "truncated": entries.filter(pl.col("status") == TRUNCATED).height,
        },
        "parts": sum(d.get("parts", 0) for d in delivered),
        "test_results": sum(d.get("test_results", 0) for d in delivered),
        "quarantined": int(landed["quarantined"].sum()),
        "groups": groups,
        "online_entities": online,
        "models": models,
        "drift": {"drifted": watched["drifted"], "checked": watched["checked"]},
        "report": watched["report"],
        "seconds": round(time.monotonic() - began, 2),
    }


def _model(platform: Platform, name: str) -> dict[str, Any]:
    try:
        version = platform.tracker.model_version(name)
    except TrackingError:
        return {}
    return {name: {"version": version.version, "run_id": version.run_id, "metrics": dict(version.metrics)}}


def _farewell(settings: Settings, summary: Summary, now: datetime) -> None:
    """An online read and a prediction, as an application would make them."""
    with open_platform(home=settings.home, clock=fixed_clock(now)) as platform:
        store = platform.store
        for name in summary["models"]:
            spec = store.registry.model(name)
            asked = examples(store, spec).tail(1)
            if asked.is_empty():
                continue
            entity = asked.drop(EVENT, "labelled_at", spec.label_ref.feature)
            began = time.perf_counter()
            answer = store.get_online_features(spec.service, entity)
            seconds = time.perf_counter() - began
            out.print(f"\n[bold]online read[/]  {spec.service.name} of {entity.to_dicts()[0]}", soft_wrap=True)
            _say("", {n: v[0] for n, v in answer.values.items()}, seconds)
            value = predict(platform.tracker.load_model(name), answer.to_polars(), list(answer.values)).item()
            truth = asked[spec.label_ref.feature].item()
            _say("prediction", {f"{name} says": value, "it was": float(truth) if truth is not None else None})
