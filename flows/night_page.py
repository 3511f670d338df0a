"""The page of a night: what came in, what was refused, what changed, what is late; to be read in ten seconds."""

from __future__ import annotations

from collections.abc import Mapping

from prefect.artifacts import create_markdown_artifact

from features.times import as_utc
from flows.stations import Facts
from infra.monitoring import freshness
from infra.wiring import Platform

_SHOWN = 5
"""Problems and names in a line; of more, how many."""


def show_night(platform: Platform, facts: Facts, lost: Mapping[str, str]) -> None:
    """Write the page of a night: what it lost, what it warns of, and what every station did.

    Refused files, rows that break a rule, late groups and drift are warned of. Lines, not a table, whose cells Prefect
    does not wrap.
    """
    moment = as_utc(facts["now"])
    late = _late(platform)
    refused, watched, done = facts["ingested"].get("refused", []), facts["monitored"], facts["materialized"]
    broken = [f"{fact['group']}, {message}" for fact in done for message in fact.get("broken", [])]
    warned = refused or late or broken or watched.get("drifted")
    verdict = "lost a station" if lost else "with warnings" if warned else "all is well"
    passed = [fact for fact in done if "skipped" in fact]
    lines = {
        **{f"lost {name}": why for name, why in lost.items()},
        "came in": _came_in(facts["ingested"]),
        "refused": _listed(refused),
        "changed": _listed([f"{f['group']} {f['rows']:,} rows" for f in done if f["rows"]]),
        "rules broken": _listed(broken),
        "passed over": _listed([f"{f['group']}: {f['skipped']}" for f in passed]),
        "late": _listed(late),
        "online agrees": _agreement(facts["parity"]),
        "quality": str(watched.get("quality", "none was written")),
        "report": str(watched.get("verdict", "none was written")),
    }
    text = [f"## Night of {moment:%Y-%m-%d}: {verdict}", "", *(f"- **{name}**: {said}" for name, said in lines.items())]
    create_markdown_artifact("\n".join(text), key="night", description=f"{moment:%Y-%m-%d}: {verdict}")


def _came_in(ingested: Facts) -> str:
    if "skipped" in ingested or not ingested["files"]:
        return str(ingested.get("skipped", "nothing new"))
    return f"{ingested['files']:,} files, {ingested['rows']:,} rows, {ingested['quarantined']:,} of them in quarantine"


def _late(platform: Platform) -> list[str]:
    """The groups whose newest row is older than promised."""
    now, found = platform.store.now(), []
    for group in platform.store.registry.in_order():
        fresh = freshness(platform, group)
        if fresh.state(now) in ("late", "expired") and fresh.newest is not None:
            found.append(f"{group.name}, newest of {fresh.newest:%Y-%m-%d %H:%M}")
    return found


def _agreement(parity: Facts) -> str:
    return f"{parity['agreement']:.2%} of {parity['entities']:,} entities" if parity else "no"


def _listed(names: list[str]) -> str:
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return "; ".join([*names[:_SHOWN], *more]) or "nothing"
