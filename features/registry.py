"""The registry: all definitions of a project, found from one list."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn, Self, TypeVar

from features.entity import Entity
from features.errors import DefinitionError, IncompatibleFeatureVersion, NotRegistered
from features.feature_group import FeatureGroup
from features.feature_service import FeatureService, Ref
from features.model import ModelSpec, Predictions
from features.source import Source

T = TypeVar("T", Entity, Source, FeatureGroup, FeatureService, ModelSpec)

_REQUIREMENT = re.compile(r"([a-z][a-z0-9_]*)>=(\d+(?:\.\d+){0,2})")


class Registry:
    """Groups, services and models in one list; entities and sources are found through them.

    A source that no group reads yet may be listed too, so that it is taken in. A group may be there in
    several major versions. ``groups`` has the newest one under the group's name, others as "name@1".

    Raises DefinitionError where two different definitions share a name, where inputs form a cycle,
    or where a service or model refers to what is not there.
    """

    def __init__(self, items: Iterable[FeatureGroup | FeatureService | ModelSpec | Source]) -> None:
        self._majors: dict[str, FeatureGroup] = {}
        self.services: dict[str, FeatureService] = {}
        self.models: dict[str, ModelSpec] = {}
        self.sources: dict[str, Source] = {}
        self.entities: dict[str, Entity] = {}
        for item in items:
            self._add(item)
        self._newest = {g.name: g.major for g in sorted(self._majors.values(), key=lambda g: g.major)}
        self.groups = self._named(self._newest)
        for service in self.services.values():
            self.resolve(service)
            for requirement in service.requires:
                self._check_requirement(f"feature service {service.name!r}", requirement)
        for model in self.models.values():
            self.resolve([str(model.label_ref)])
            for requirement in model.requires:
                self._check_requirement(f"model {model.name!r}", requirement)
        for group in self._majors.values():
            self._check_predictions(group)
        self.in_order()  # which finds cycles through models

    def group(self, group: FeatureGroup | str) -> FeatureGroup:
        """The group of that name, or of a major ("name@1"); NotRegistered lists the names there are."""
        name = group if isinstance(group, str) else f"{group.name}@{group.major}"
        if name in self._majors:
            return self._majors[name]
        return _find("feature group", name if isinstance(group, str) else group.name, self.groups)

    def name_of(self, group: FeatureGroup) -> str:
        """The name that means this very group: with its major where the registry has several."""
        return group.name if len(self.majors(group.name)) == 1 else f"{group.name}@{group.major}"

    def majors(self, name: str) -> list[FeatureGroup]:
        """Every major version of a group, oldest first; none for a name that is unknown."""
        return sorted((g for g in self._majors.values() if g.name == name), key=lambda g: g.major)

    def at(self, majors: Mapping[str, int]) -> Self:
        """The same definitions, where the names of some groups mean these majors instead of the newest ones."""
        current = self._newest | dict(majors)
        if current == {name: self.group(name).major for name in current}:
            return self
        view = copy.copy(self)
        view.groups = self._named(current)
        return view

    def source(self, source: Source | str) -> Source:
        """The source of that name."""
        return _find("source", source if isinstance(source, str) else source.name, self.sources)

    def service(self, name: str) -> FeatureService:
        """The feature service of that name."""
        return _find("feature service", name, self.services)

    def model(self, name: str) -> ModelSpec:
        """The model specification of that name."""
        return _find("model", name, self.models)

    def resolve(self, features: FeatureService | Iterable[str]) -> list[Ref]:
        """Check references against the definitions and return them in order, without repeats."""
        refs = self._service_refs(features) if isinstance(features, FeatureService) else map(Ref.parse, features)
        wanted = list(dict.fromkeys(refs))
        groups = {ref.head: self._referred(ref) for ref in wanted}
        known = {head: {f.name: None for f in (*g.features, *g.derived)} for head, g in groups.items()}
        for ref in wanted:
            unknown = [key for key, _ in ref.keys if key not in groups[ref.head].keys]
            if unknown:
                raise NotRegistered(f"{str(ref)!r} names key(s) {unknown}; {ref.head!r} has {groups[ref.head].keys}")
            if ref.feature not in known[ref.head]:
                group = groups[ref.head]
                there = f"{group.name!r} {group.version} has {list(known[ref.head])}"
                raise NotRegistered(f"feature {str(ref)!r} is not defined; {there}")
        return wanted

    def in_order(self) -> list[FeatureGroup]:
        """Every group, after the groups it is made of."""
        ordered: dict[FeatureGroup, None] = {}

        def visit(group: FeatureGroup, way: dict[FeatureGroup, str]) -> None:
            if group in way:
                _refuse_cycle(group, way)
            if group in ordered:
                return
            for upstream, how in self.upstream(group).items():
                visit(upstream, {**way, group: how})
            ordered[group] = None

        for group in self.groups.values():
            visit(group, {})
        return list(ordered)

    def upstream(self, group: FeatureGroup) -> dict[FeatureGroup, str]:
        """The groups that a group is directly made of, and how: its inputs, and those behind predictions it reads.

        Behind predictions are the groups that the model takes features or its label from. Where it refers to
        one without a major, all majors count: which of them is meant changes with ``apply`` and rollback.
        """
        found = {}
        for origin in group.inputs.values():
            if isinstance(origin, FeatureGroup):
                found[origin] = "reads"
            elif isinstance(origin, Predictions):
                how = f"reads predictions of model {origin.model.name!r}, which learns from"
                refs = [*self._service_refs(origin.model.service), origin.model.label_ref]
                named = dict.fromkeys((ref.group, ref.major) for ref in refs)
                behind = [g for name, major in named for g in self.majors(name) if major in (None, g.major)]
                found |= dict.fromkeys(behind, how)
        return found

    def _add(self, item: object, readers: tuple[FeatureGroup, ...] = ()) -> None:
        match item:
            case FeatureGroup():
                if item in readers:
                    _refuse_cycle(item, dict.fromkeys(readers, "reads"))
                _put("feature group", self._majors, item, f"{item.name}@{item.major}")
                _put("entity", self.entities, item.entity)
                for upstream in item.inputs.values():
                    self._add(upstream, (*readers, item))
            case FeatureService():
                _put("feature service", self.services, item)
                for part in item.features:
                    if isinstance(part, FeatureGroup):
                        self._add(part)
            case ModelSpec():
                _put("model", self.models, item)
                self._add(item.service)
            case Predictions():
                self._add(item.model)
            case Source():
                _put("source", self.sources, item)
            case _:
                kind = type(item).__name__
                raise DefinitionError(f"a registry holds groups, services, models and sources, not {kind}: remove it")

    def _check_predictions(self, group: FeatureGroup) -> None:
        for origin in group.inputs.values():
            if isinstance(origin, Predictions):
                entity = self.group(origin.model.label_ref.head).entity
                if origin is not origin.model.predictions(entity):
                    raise DefinitionError(
                        f"feature group {group.name!r}: model {origin.model.name!r} predicts for entity "
                        f"{entity.name!r}: read its predictions({entity.name})"
                    )

    def _named(self, current: Mapping[str, int]) -> dict[str, FeatureGroup]:
        """Every group by its name where it is the current major, else by name and major."""
        return {(g.name if current[g.name] == g.major else key): g for key, g in self._majors.items()}

    def _service_refs(self, service: FeatureService) -> list[Ref]:
        """A service's references; a group that is listed itself, and is not the newest major, is meant as it is."""
        refs: list[Ref] = []
        for item in service.features:
            if isinstance(item, FeatureGroup) and item.major != self._newest.get(item.name, item.major):
                refs += [Ref(item.name, f.name, item.major) for f in (*item.features, *item.derived)]
            elif isinstance(item, FeatureGroup):
                refs += [Ref(item.name, f.name) for f in (*item.features, *item.derived)]
            else:
                refs.append(Ref.parse(item))
        return refs

    def _referred(self, ref: Ref) -> FeatureGroup:
        group = self.group(ref.group)
        if ref.major in (None, group.major):
            return group
        if ref.head not in self._majors:
            there = ", ".join(g.version for g in self.majors(group.name))
            raise NotRegistered(
                f"{str(ref)!r} asks for major {ref.major}, the registry defines {group.name!r} in version {there}"
            )
        return self._majors[ref.head]

    def _check_requirement(self, who: str, requirement: str) -> None:
        asked = Requirement.parse(requirement, who)
        self.group(asked.group)
        versions = [g.version for g in self.majors(asked.group)]
        if not any(asked.met_by(version) for version in versions):
            raise IncompatibleFeatureVersion(
                f"{who} requires {requirement}, the registry defines {', '.join(versions)}; "
                f"raise the group's version or relax the requirement"
            )


@dataclass(frozen=True)
class Requirement:
    """The least version of a group's major that a consumer can work with.

    >>> asked = Requirement.parse("trips>=1.2", "model 'eta'")
    >>> asked.met_by("1.10.0"), asked.met_by("1.1.9"), asked.met_by("2.0.0")
    (True, False, False)
    """

    group: str
    least: tuple[int, ...]

    @classmethod
    def parse(cls, text: str, who: str) -> Requirement:
        """Read "group>=1.1"; DefinitionError, naming ``who`` requires it, says how one is written."""
        match = _REQUIREMENT.fullmatch(text)
        if match is None:
            raise DefinitionError(f"{who}: {text!r} is not written like 'group>=1.1'")
        return cls(match[1], version_parts(match[2]))

    def met_by(self, version: str) -> bool:
        """Whether a version is of the same major and not less."""
        there = version_parts(version)
        return there[0] == self.least[0] and there >= self.least


def version_parts(version: str) -> tuple[int, ...]:
    """A version as numbers that compare.

    >>> version_parts("1.10.0") > version_parts("1.9.3")
    True
    """
    return tuple(int(part) for part in version.split("."))


def _refuse_cycle(group: FeatureGroup, way: Mapping[FeatureGroup, str]) -> NoReturn:
    """Say how one comes back to a group: ``way`` has the groups passed, and how each is made of the next."""
    passed = list(way.items())
    text = "".join(f"{reader.name!r} {how} " for reader, how in passed[list(way).index(group) :])
    raise DefinitionError(f"feature groups form a cycle: {text}{group.name!r}; take one of these inputs out")


def _put(kind: str, known: dict[str, T], item: T, key: str | None = None) -> None:
    if known.setdefault(key or item.name, item) is not item:
        raise DefinitionError(f"two different definitions of {kind} {item.name!r}: rename one of them")


def _find(kind: str, name: str, known: dict[str, T]) -> T:
    if name not in known:
        raise NotRegistered(f"{kind} {name!r} is not registered; there are {sorted(known) or 'none'}")
    return known[name]
