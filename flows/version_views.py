"""What the commands for versions print."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from features.definition_plan import DefinitionPlan, PlannedGroup
from features.rollback import Reinstated
from flows.console import complain, print_json, print_table


def show_plan(plan: DefinitionPlan, title: str, *, json: bool) -> None:
    """A line a group, then each change, who is affected, and what is worth a warning or stands in the way."""
    if json:
        groups = [{**asdict(group), "difference": _difference(group)} for group in plan.groups]
        print_json({"exit_code": plan.exit_code, "groups": groups, "warnings": plan.warnings})
        return
    print_table(title, [_line(group) for group in plan.groups])
    changes = [row for group in plan.groups for row in _changes(group)]
    if changes:
        print_table("changes", changes)
    affected = [row for group in plan.groups for row in _affected(group)]
    if affected:
        print_table("affected", affected)
    for warning in plan.warnings:
        complain("warning", warning)
    for group in plan.groups:
        for warning in group.warnings:
            complain("warning", f"{group.group}: {warning}")
        if group.problem:
            complain("error", f"{group.group} {group.version}: {group.problem}")


def show_reinstated(done: Reinstated, what: str, *, json: bool) -> None:
    """What a rollback or release did."""
    if json:
        print_json(asdict(done))
    else:
        facts = {"group": done.group, what: done.version, "rows": done.rows, "plan": done.plan}
        print_table(what.partition(" ")[0], [facts | {"online_since": done.published_at}])


def _difference(group: PlannedGroup) -> dict[str, Any]:
    found = group.difference
    return {"needs": found.needs, "breaking": found.breaking, "changed": found.changed, "added": found.added}


def _line(group: PlannedGroup) -> dict[str, Any]:
    return {
        "group": group.group,
        "applied": group.applied,
        "code": group.version,
        "status": group.status,
        "verdict": "refused" if group.problem else "ok",
        "held": group.held,
    }


def _changes(group: PlannedGroup) -> list[dict[str, str]]:
    found = group.difference
    kinds = {"breaking": found.breaking, "changed": found.changed, "added": found.added}
    return [{"group": group.group, "kind": kind, "what": text} for kind, texts in kinds.items() for text in texts]


def _affected(group: PlannedGroup) -> list[dict[str, str]]:
    found = group.affected
    kinds = {
        "feature service": found.services,
        "model": found.models,
        "registered model": found.registered_models,
    }
    return [{"group": group.group, "kind": kind, "name": name} for kind, names in kinds.items() for name in names]
