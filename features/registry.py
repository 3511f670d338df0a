"""The registry: all definitions of a project, found from one list."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

from features.entity import Entity
from features.errors import DefinitionError, IncompatibleFeatureVersion, NotRegistered
from features.feature_group import FeatureGroup
from features.feature_service import FeatureService, Ref
from features.model import ModelSpec
from features.source import Source

T = TypeVar("T", Entity, Source, FeatureGroup, FeatureService, ModelSpec)

_REQUIREMENT = re.compile(r"([a-z][a-z0-9_]*)>=(\d+(?:\.\d+){0,2})")


class Registry:
    """Groups, services and models in one list; entities and sources are found through them.

    A source that no group reads yet may be listed too, so that it is taken in.

    Raises DefinitionError where two different definitions share a name, where inputs form a cycle,
    or where a service or model refers to what is not there.
    """

    def __init__(self, items: Iterable[FeatureGroup | FeatureService | ModelSpec | Source]) -> None:
        self.groups: dict[str, FeatureGroup] = {}
        self.services: dict[str, FeatureService] = {}
        self.models: dict[str, ModelSpec] = {}
        self.sources: dict[str, Source] = {}
        self.entities: dict[str, Entity] = {}
        for item in items:
            self._add(item)
        for service in self.services.values():
            self.resolve(service)
        for model in self.models.values():
            self.resolve([str(model.label_ref)])
            for requirement in model.requires:
                self._check_requirement(model, requirement)

    def group(self, group: FeatureGroup | str) -> FeatureGroup:
        """The group of that name; NotRegistered lists the names there are."""
        name = group if isinstance(group, str) else group.name
        return _find("feature group", name, self.groups)

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
        refs = features.refs if isinstance(features, FeatureService) else [Ref.parse(f) for f in features]
        groups = {ref.group: self.group(ref.group) for ref in refs}
        known = {name: {f.name: None for f in (*g.features, *g.derived)} for name, g in groups.items()}
        for ref in refs:
            group = groups[ref.group]
            if ref.feature not in known[ref.group]:
                raise NotRegistered(f"feature {str(ref)!r} is not defined; {group.name!r} has {list(known[ref.group])}")
            if ref.major not in (None, group.major):
                raise NotRegistered(
                    f"{str(ref)!r} asks for major {ref.major}, the registry defines {group.name!r} {group.version}"
                )
        return list(dict.fromkeys(refs))

    def in_order(self) -> list[FeatureGroup]:
        """Every group, after the groups it reads from."""
        ordered: dict[str, FeatureGroup] = {}

        def visit(group: FeatureGroup) -> None:
            for upstream in group.inputs.values():
                if isinstance(upstream, FeatureGroup):
                    visit(upstream)
            ordered.setdefault(group.name, group)

        for group in self.groups.values():
            visit(group)
        return list(ordered.values())

    def _add(self, item: object) -> None:
        match item:
            case FeatureGroup():
                _put("feature group", self.groups, item)
                _put("entity", self.entities, item.entity)
                for upstream in item.inputs.values():
                    self._add(upstream)
            case FeatureService():
                _put("feature service", self.services, item)
                for part in item.features:
                    if isinstance(part, FeatureGroup):
                        self._add(part)
            case ModelSpec():
                _put("model", self.models, item)
                self._add(item.service)
            case Source():
                _put("source", self.sources, item)
            case _:
                kind = type(item).__name__
                raise DefinitionError(f"a registry holds groups, services, models and sources, not {kind}: remove it")

    def _check_requirement(self, model: ModelSpec, requirement: str) -> None:
        match = _REQUIREMENT.fullmatch(requirement)
        if match is None:
            raise DefinitionError(f"model {model.name!r}: {requirement!r} is not written like 'group>=1.1'")
        group = self.group(match[1])
        asked, there = _parts(match[2]), _parts(group.version)
        if asked[0] != there[0] or there < asked:
            raise IncompatibleFeatureVersion(
                f"model {model.name!r} requires {requirement}, the registry defines {group.version}; "
                f"raise the group's version or relax the requirement"
            )


def _parts(version: str) -> list[int]:
    return [int(p) for p in version.split(".")]


def _put(kind: str, known: dict[str, T], item: T) -> None:
    if known.setdefault(item.name, item) is not item:
        raise DefinitionError(f"two different definitions of {kind} {item.name!r}: rename one of them")


def _find(kind: str, name: str, known: dict[str, T]) -> T:
    if name not in known:
        raise NotRegistered(f"{kind} {name!r} is not registered; there are {sorted(known) or 'none'}")
    return known[name]
