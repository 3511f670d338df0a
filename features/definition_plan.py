"""What applying the code's definitions would change, and whether their versions say so."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, TypeAlias

from features.definition_diff import Difference, compare
from features.derived import uncompiled
from features.description import describe_group, fingerprint
from features.errors import InvalidInput
from features.feature_group import Feature, FeatureGroup
from features.feature_service import FeatureService, Ref
from features.registry import Registry, version_parts
from features.standing import AppliedVersion, Standing
from features.stores import ModelVersion
from features.tiles import undecomposed
from features.times import duration

Status: TypeAlias = Literal["new", "new major", "unchanged", "raised", "added", "changed", "breaking", "behind"]
"""``raised``: another version of the same meaning; ``behind``: a greater version is applied already."""

_TOLD = 3  # reasons in one line; the plan lists them all
_BUMPED = {"major": 1, "minor": 2, "patch": 3}
_STATUS: Mapping[str | None, Status] = {"major": "breaking", "minor": "added", "patch": "changed"}
_AGGREGATE = re.compile(r"\.(mean|sum|min|max|std|var|first|last|n_unique|quantile|median|len|count)\(")
_WORDS = {
    "mean": {"mean", "avg", "average", "rate", "share"},
    "sum": {"sum", "total"},
    "std": {"std", "stddev", "sd", "sigma"},
    "n_unique": {"unique", "distinct", "n", "nunique"},
    "quantile": {"quantile", "percentile", "median"},
    "len": {"n", "count", "num", "number", "len"},
    "count": {"n", "count", "num", "number"},
}


@dataclass(frozen=True)
class Affected:
    """Who reads what would become another value or type: by name in the registry, and registered model versions."""

    services: Sequence[str] = ()
    models: Sequence[str] = ()
    registered_models: Sequence[str] = ()


@dataclass(frozen=True)
class PlannedGroup:
    """One group's definition against the newest applied one of its major (or, for a new major, of the last).

    ``problem`` says why it cannot be applied as it is, and what to do; ``held`` what a rollback left.
    """

    group: str
    version: str
    applied: str | None
    status: Status
    difference: Difference
    problem: str | None
    held: str | None
    affected: Affected
    warnings: Sequence[str]

    @property
    def recorded(self) -> bool:
        """Whether ``apply`` has anything to record."""
        return self.status not in ("unchanged", "behind")


@dataclass(frozen=True)
class DefinitionPlan:
    """What ``apply`` would record, group by group; ``warnings`` are about services."""

    groups: Sequence[PlannedGroup]
    warnings: Sequence[str] = ()

    @property
    def exit_code(self) -> int:
        """0 where all can be applied, 2 for a break without a new major, 3 for another change without its raise."""
        refused = [group for group in self.groups if group.problem]
        if any(group.difference.needs == "major" for group in refused):
            return 2
        return 3 if refused else 0

    def __getitem__(self, group: str) -> PlannedGroup:
        return next(planned for planned in self.groups if planned.group == group)


def plan_group(
    group: FeatureGroup, registry: Registry, standing: Standing, models: Sequence[ModelVersion], today: date
) -> PlannedGroup:
    """A group's definition against what is applied."""
    newest, hold = standing.newest(group), standing.holds.get(group.name)
    earlier = [applied for applied in standing.versions(group.name) if applied.major < group.major]
    difference, affected, problem = Difference(), Affected(), None
    status: Status
    if newest is not None:
        status, problem = (
            "behind",
            f"{newest.version} is applied already: update the code, or raise the version above it",
        )
        if version_parts(group.version) >= version_parts(newest.version):
            difference = _difference(newest, group)
            status, problem = _judged(newest, group, difference)
    elif earlier:
        newest, status = earlier[-1], "new major"
        difference = compare(newest.description, describe_group(group))
    else:
        status = "new"
    if newest is not None and status in ("changed", "breaking", "new major"):
        affected = _affected(group, difference, newest.major, registry, standing, models)
    return PlannedGroup(
        group=registry.name_of(group),
        version=group.version,
        applied=None if newest is None else newest.version,
        status=status,
        difference=difference,
        problem=problem,
        held=None if hold is None else str(hold),
        affected=affected,
        warnings=warnings_of(group, registry, today),
    )


def _difference(applied: AppliedVersion, group: FeatureGroup) -> Difference:
    if applied.fingerprint == fingerprint(group):
        return Difference()
    found = compare(applied.description, describe_group(group))
    return found if found.needs else Difference(changed=("definition: recorded in another form",), whole=True)


def _judged(applied: AppliedVersion, group: FeatureGroup, difference: Difference) -> tuple[Status, str | None]:
    """The status of a group of which the same major is applied, and why it cannot be applied."""
    there, here = version_parts(applied.version), version_parts(group.version)
    needs = difference.needs
    if needs is None:
        return ("unchanged" if here == there else "raised"), None
    if here[: _BUMPED[needs]] > there[: _BUMPED[needs]]:
        return _STATUS[needs], None
    least = {"major": f"{there[0] + 1}.0.0", "minor": f"{there[0]}.{there[1] + 1}.0"}
    least["patch"] = f"{there[0]}.{there[1]}.{there[2] + 1}"
    why = {"major": "it breaks consumers", "minor": "it adds to the group", "patch": "it computes other values"}
    reasons = {"major": difference.breaking, "minor": difference.added, "patch": difference.changed}[needs]
    told = "; ".join(reasons[:_TOLD]) + (f" and {len(reasons) - _TOLD} more" if len(reasons) > _TOLD else "")
    return _STATUS[needs], f"{why[needs]} ({told}): raise the version to {least[needs]} or more ({needs})"


def _affected(
    group: FeatureGroup,
    difference: Difference,
    major: int,
    registry: Registry,
    standing: Standing,
    models: Sequence[ModelVersion],
) -> Affected:
    """Who reads what changed in a major, or, where another one is compared with it, by the bare name."""
    bare_means = standing.majors(registry).get(group.name, group.major)
    touched = set(difference.touched)
    touched |= {f.name for f in group.derived if touched & set(f.expr.meta.root_names())}

    def reads(ref: Ref, means: int) -> bool:
        return ref.group == group.name and means == major and (difference.whole or ref.feature in touched)

    def now(ref: Ref) -> bool:
        return reads(ref, bare_means if ref.major is None else ref.major)

    services = [s for s in registry.services.values() if any(map(now, registry.resolve(s)))]
    users = [m.name for m in registry.models.values() if m.service in services or now(m.label_ref)]
    registered = [
        f"{model.name} version {model.version}" + (f" ({', '.join(model.aliases)})" if model.aliases else "")
        for model in models
        if any(reads(ref, read) for ref, read in _reads_of(model))
    ]
    return Affected([service.name for service in services], users, registered)


def _reads_of(model: ModelVersion) -> list[tuple[Ref, int]]:
    """The references that a registered version was trained on, its label among them, with their majors."""
    groups: Mapping[str, Mapping[str, Any]] = model.manifest.get("groups", {})
    label: Mapping[str, Any] = model.manifest.get("label") or {}
    refs = [(Ref.parse(text), None) for text in model.manifest.get("features", ())]
    read = [(ref, groups[ref.head]["version"]) for ref, _ in refs if ref.head in groups]
    if "version" in label:
        read.append((Ref.parse(label["ref"]), label["version"]))
    return [(ref, version_parts(version)[0]) for ref, version in read]


def warnings_of(group: FeatureGroup, registry: Registry, today: date) -> list[str]:
    """What is allowed and yet worth a word: a date of retirement, names that do not tell, what costs more."""
    found = []
    if group.retire is not None:
        when = "has been retired since" if group.retire <= today else "retires on"
        found.append(f"{group.name} {group.version} {when} {group.retire}: move its readers to another major")
    for feature in group.features if group.grain == "window" else ():
        lacking = [what for what, named in _named(feature).items() if not named]
        if lacking:
            found.append(f"{feature.name}: the name lacks its {' and '.join(lacking)}")
    found += [f"{name} reads raw rows at every run: {why}" for name, why in undecomposed(group).items()]
    return found + slow_derived(registry, group)


def slow_derived(registry: Registry, item: FeatureGroup | FeatureService) -> list[str]:
    """The derived features whose online answers take Polars, one sentence each."""
    slow = uncompiled(registry, item) if item.derived else {}
    return [f"{name} costs about 80 µs more in each online request: {why}" for name, why in slow.items()]


def _named(feature: Feature) -> dict[str, bool]:
    """Whether a windowed feature's name tells its aggregate (where the expression has one) and its window."""
    parts, aggregates = set(feature.name.split("_")), set(_AGGREGATE.findall(str(feature.expr)))
    words = {word for aggregate in aggregates for word in _WORDS.get(aggregate, {aggregate})}
    quantile = "quantile" in aggregates and any(re.fullmatch(r"[pq]\d+", part) for part in parts)
    return {
        f"aggregate ({', '.join(sorted(aggregates))})": not aggregates or bool(parts & words) or quantile,
        f"window ({feature.window})": any(_spans(part, feature.window or "") for part in parts),
    }


def _spans(part: str, window: str) -> bool:
    try:
        return duration(part) == duration(window)
    except InvalidInput:
        return False
