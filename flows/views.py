"""What commands print of the objects they got: tables for people, JSON for machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from features.leakcheck import LeakReport
from features.materialization import Preview
from features.parity import Difference, GroupParity
from features.retrieval import TrainingSet
from features.runs import Run
from features.sync import SyncRun
from flows.console import complain, out, print_json, print_table
from infra.data_quality import WrittenQuality


def show_reproduced(run_id: str, found: TrainingSet, output: Path | None, *, json: bool) -> None:
    """What a rebuilt training set is: its rows and hash, and the versions of the groups it was read from."""
    manifest = found.manifest
    facts = {
        "run_id": run_id,
        "equal": True,  # else there was an error
        "rows": manifest["rows"],
        "features": len(found.features),
        "history": manifest["history"],
        "content_hash": manifest["content_hash"],
        "written_to": None if output is None else str(output),
    }
    groups = [
        {"group": head, "version": group["version"], "table_version": group["table_version"], "ttl": group["ttl"]}
        for head, group in manifest["groups"].items()
    ]
    if json:
        print_json(facts | {"groups": groups, "manifest": manifest})
        return
    print_table("reproduced", [{"": name.replace("_", " "), " ": value} for name, value in facts.items()])
    print_table("read from", groups)


def show_training_set(found: TrainingSet, output: Path | None, *, json: bool) -> None:
    """The rows of a training set, or where they were written; as JSON with its manifest."""
    frame = found.to_polars()
    if json:
        print_json({"manifest": found.manifest, "rows": frame.to_dicts() if output is None else str(output)})
    elif output is None:
        print_table("features", frame.to_dicts())
    else:
        out.print(f"{frame.height:,} rows in {output}", markup=False, soft_wrap=True)


def show_runs(
    title: str,
    runs: Mapping[str, Run | SyncRun],
    broken: Mapping[str, Sequence[str]] | None = None,
    *,
    json: bool,
) -> None:
    """What the runs of groups did, a line each; their notes, and what their rows broke, on standard error.

    Groups are called what ``runs`` calls them: two majors of one group are told apart.
    """
    rows = [{**asdict(run), "group": group} for group, run in runs.items()]
    said = broken or {}
    if json:
        print_json([row | ({} if broken is None else {"broken": said[row["group"]]}) for row in rows])
    else:
        print_table(title, [{name: value for name, value in row.items() if name != "note"} for row in rows])
    for row in rows:
        _note(row["group"], row.get("note"))
        for message in said.get(row["group"], ()):
            complain("warning", f"{row['group']}: {message}")


def show_previews(previews: Mapping[str, Preview], *, json: bool) -> None:
    """What backfills would do, a line per chunk; their notes on standard error."""
    if json:
        print_json({group: asdict(found) for group, found in previews.items()})
    else:
        for group, found in previews.items():
            title = f"{group}: {len(found.chunks)} chunk(s), nothing written"
            print_table(title, [asdict(chunk) for chunk in found.chunks])
    for group, found in previews.items():
        _note(group, found.note)


def _note(group: str, text: str | None) -> None:
    if text:
        complain("note", f"{group}: {text}")


def show_leaks(reports: Sequence[LeakReport], *, json: bool) -> bool:
    """What the leak check found: a line a group, or a feature of the only group; whether there is a leak."""
    leaks = [{"group": report.group, **asdict(leak)} for report in reports for leak in report.leaks]
    if json:
        print_json([asdict(report) for report in reports])
        return bool(leaks)
    if len(reports) == 1:
        (report,) = reports
        lines = [
            {"feature": f.feature, "compared": f.compared, "changed": f.changed, "verdict": "LEAK" if f.leak else "ok"}
            for f in report.features
        ]
        print_table(f"{report.group} at {len(report.moments)} moments", lines)
    else:
        print_table("leak check", [_of_group(report) for report in reports])
    for leak in leaks:
        title = f"{leak.pop('group')}:{leak.pop('feature')}"
        print_table(title, [{"": name.replace("_", " "), " ": value} for name, value in leak.items()])
    return bool(leaks)


def _of_group(report: LeakReport) -> dict[str, str | int]:
    compared = sum(f.compared for f in report.features)
    return {
        "group": report.group,
        "features": len(report.features),
        "rows": report.rows,
        "moments": len(report.moments),
        "compared": compared,
        "changed": sum(f.changed for f in report.features),
        "verdict": "LEAK" if report.leaks else "ok" if compared else "nothing to compare",
    }


def show_parity(reports: Sequence[GroupParity], *, json: bool) -> bool:
    """How both stores compare, a line a feature, then entities that differ; whether every group agrees."""
    if json:
        print_json([{**asdict(report), "agreement": report.agreement, "ok": report.ok} for report in reports])
        return all(report.ok for report in reports)
    lines = [
        {
            "group": report.group,
            "feature": f.feature,
            "entities": f.entities,
            "agreement": f"{f.agreement:.3%}",
            "consistency": f.consistency,
            "skew": f.skew,
            "other_status": f.other_status,
        }
        for report in reports
        for f in report.features
    ]
    print_table("parity", lines)
    for report in reports:
        for f in report.features:
            if f.differences:
                print_table(f"{report.group}:{f.feature}", [_difference(d) for d in f.differences])
    return all(report.ok for report in reports)


def _difference(found: Difference) -> dict[str, Any]:
    answers = {"online": found.online, "": found.online_status, "offline": found.offline, " ": found.offline_status}
    return {**found.entity, **answers}


def show_quality(written: WrittenQuality) -> None:
    """A quality report: its sentence, severities with what to do, broken rules, refused files, where its page is."""
    report = written.report
    out.print(report.sentence, markup=False, soft_wrap=True)
    print_table("what to do", [asdict(found) for found in report.severities])
    print_table("broken rules", [asdict(broken) for broken in report.broken])
    print_table("rules that feature rows broke", [asdict(made) for made in report.features])
    print_table("days unlike the good ones", [asdict(unusual) for unusual in report.unusual])
    print_table("accepted as the new normal", [asdict(change) for change in report.accepted])
    print_table("files refused", [{"file": path, "why": why} for path, why in report.refused])
    out.print(f"report {written.path}", markup=False, soft_wrap=True)
