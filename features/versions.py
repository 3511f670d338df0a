"""Versions: what may be read and written of each group, given which definitions were applied.

The first use of a group of which nothing was applied applies it. Afterwards a definition that is not
applied raises until ``apply``, which refuses what breaks consumers under the same major version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol

import polars as pl

from features.definition_plan import DefinitionPlan, plan_group, slow_derived
from features.description import describe_group, fingerprint
from features.errors import ConcurrentRun, DefinitionChanged, GroupHeld, IncompatibleFeatureVersion
from features.feature_group import FeatureGroup
from features.feature_service import FeatureService, Ref
from features.model import ModelSpec
from features.registry import Registry, Requirement
from features.standing import Hold, Standing
from features.stores import ModelVersion, OfflineStore
from features.times import EPOCH, UTC_US, Clock

_SERVING_AGE = timedelta(seconds=5)
"""How long online reads may go by what they know: asking the logs costs more than the read."""


class RegisteredModels(Protocol):
    """Where the versions of registered models are listed."""

    def registered_models(self) -> Sequence[ModelVersion]:
        """Every registered version of every model, with its manifest."""


class Versions:
    """The code's definitions against those that were applied, and the holds."""

    def __init__(
        self, registry: Registry, offline: OfflineStore, clock: Clock, user: str, models: RegisteredModels | None = None
    ) -> None:
        self._registry = registry
        self._offline = offline
        self._clock = clock
        self._user = user
        self._models = models
        self._known: tuple[pl.DataFrame, pl.DataFrame, Standing, Registry] | None = None
        self._asked_at = EPOCH

    def standing(self, age: timedelta = timedelta(0)) -> Standing:
        """What is applied and held now, or was at most ``age`` ago."""
        return self._refreshed(age)[2]

    def current(self, age: timedelta = timedelta(0)) -> Registry:
        """The definitions, where bare names mean what they do now: the newest applied major, or the held one."""
        return self._refreshed(age)[3]

    def plan(self) -> DefinitionPlan:
        """What ``apply`` would record; nothing is written."""
        standing, today = self.standing(), self._clock().date()
        models = self._models.registered_models() if self._models is not None else ()
        groups = [plan_group(g, self._registry, standing, models, today) for g in self._registry.in_order()]
        services = self._registry.services.values()
        slow = [f"feature service {s.name!r}: {text}" for s in services for text in slow_derived(self._registry, s)]
        return DefinitionPlan(groups, slow)

    def apply(self) -> DefinitionPlan:
        """Record every definition that is not applied yet; returns what was recorded, and what not.

        Nothing is recorded where a definition is refused: raises IncompatibleFeatureVersion for one that
        breaks consumers without a new major, DefinitionChanged for another change without its raise, and
        ConcurrentRun where another process applied a definition of the same group in the meantime.
        """
        standing, plan = self.standing(), self.plan()
        if refused := [f"{group.group} {group.version}: {group.problem}" for group in plan.groups if group.problem]:
            kind = IncompatibleFeatureVersion if plan.exit_code == 2 else DefinitionChanged
            raise kind(f"nothing was applied. {'; '.join(refused)}")
        self._record([self._registry.group(p.group) for p in plan.groups if p.recorded], standing)
        return plan

    def reading(self, group: FeatureGroup | str, age: timedelta = timedelta(0)) -> FeatureGroup:
        """The group as the code defines it, once it is certain that this definition was applied.

        Raises DefinitionChanged where it was not, or another one was under the same version.
        """
        *_, standing, registry = self._refreshed(age)
        known = registry.group(group)
        if not standing.versions(known.name):
            self._record(self._registry.majors(known.name), self.standing())
            standing = self.standing()
        applied = standing.find(known.name, known.version)
        if applied is None:
            there = [found.version for found in standing.versions(known.name)]
            raise DefinitionChanged(
                f"feature group {known.name!r} {known.version} was never applied, only {', '.join(there)}: "
                f"see what it changes (plan), then apply it"
            )
        if applied.fingerprint != fingerprint(known):
            raise DefinitionChanged(
                f"feature group {known.name!r} differs from what was applied as {known.version}: "
                f"raise its version (minor for added features, major for what breaks consumers; plan says which)"
            )
        return known

    def writing(self, group: FeatureGroup | str, age: timedelta = timedelta(0)) -> FeatureGroup:
        """The group, once it is certain that its definition is the newest applied one of its major.

        Raises DefinitionChanged where it is not.
        """
        known = self.reading(group, age)
        newest = self.standing(age).newest(known)
        if newest is not None and newest.version != known.version:
            raise DefinitionChanged(
                f"feature group {known.name!r}: {newest.version} is applied, the code defines {known.version}: "
                f"update the code, or raise its version"
            )
        return known

    def computing(self, group: FeatureGroup | str, *, recent: bool = False) -> FeatureGroup:
        """The group, once it is certain that it may be computed or pushed to; ``recent``: by what was known lately.

        Raises what ``writing`` does, and GroupHeld where a rollback holds the group.
        """
        age = _SERVING_AGE if recent else timedelta(0)
        known = self.writing(group, age)
        self.check_held(known, age)
        return known

    def check_held(self, group: FeatureGroup, age: timedelta = timedelta(0)) -> None:
        """Raise GroupHeld where a rollback holds the group, so that no run may write it."""
        hold = self.standing(age).holds.get(group.name)
        if hold is not None and hold.stops(group):
            raise GroupHeld(f"feature group {self._registry.name_of(group)!r} is {hold}: release it to go on")

    def resting(self, group: FeatureGroup) -> str | None:
        """Why scheduled runs pass a group over: held or retired; None where they do not."""
        hold = self.standing().holds.get(group.name)
        if hold is not None and hold.stops(group):
            return str(hold)
        if group.retire is not None and self._clock().date() >= group.retire:
            return f"retired since {group.retire}"
        return None

    def asked(self, features: FeatureService | Sequence[str]) -> Registry:
        """The definitions by which features are read offline, once it is certain that they can be.

        Raises what ``reading`` does, and IncompatibleFeatureVersion where the service requires more than
        there is or a group is held at a version that lacks a feature.
        """
        self._refreshed()
        for name in dict.fromkeys(ref.head for ref in self._registry.resolve(features)):
            self.reading(name, _SERVING_AGE)
        return self._checked(features, *self._refreshed(_SERVING_AGE)[2:])

    def served(self, features: FeatureService | Sequence[str]) -> Registry:
        """The definitions by which features are read online: like ``asked``, of the last seconds, applying nothing."""
        return self._checked(features, *self._refreshed(_SERVING_AGE)[2:])

    def stated(self, group: FeatureGroup, facts: Mapping[str, Any]) -> dict[str, Any]:
        """What a manifest says of a group ("version", "fingerprint", ...): of the version it is held at, if it is."""
        standing = self.standing(_SERVING_AGE)
        hold, served = standing.holds.get(group.name), standing.served(group)
        if hold is None or hold.major != group.major or served is None:
            return dict(facts)
        return {**facts, "version": served.version, "fingerprint": served.fingerprint}

    def require(self, consumer: ModelSpec | FeatureService) -> None:
        """Raise IncompatibleFeatureVersion where less is applied, or held, than a model or service requires."""
        if consumer.requires:
            self._check_requirements(consumer, *self._refreshed()[2:])

    def _checked(self, features: FeatureService | Sequence[str], standing: Standing, registry: Registry) -> Registry:
        if isinstance(features, FeatureService) and features.requires:
            self._check_requirements(features, standing, registry)
        if standing.holds:
            for ref in self._registry.resolve(features):
                self._check_hold(ref, standing, registry)
        return registry

    def _check_hold(self, ref: Ref, standing: Standing, registry: Registry) -> None:
        """Raise IncompatibleFeatureVersion for a feature that the version a group is held at does not have."""
        hold = standing.holds.get(ref.group)
        group = registry.group(ref.head)
        if hold is None or hold.major != group.major:
            return
        held = standing.find(hold.name, hold.version)
        assert held is not None  # only applied versions are held
        marks = {f["name"]: f["exact"] for f in held.description["derived"]}
        stored = {f["name"] for f in held.description["features"]}
        now = {f["name"]: f["exact"] for f in describe_group(group)["derived"]}
        if ref.feature in stored or (ref.feature in marks and marks[ref.feature] == now.get(ref.feature)):
            return
        lacks = "computes it otherwise" if ref.feature in marks else "does not have it"
        raise IncompatibleFeatureVersion(
            f"feature {str(ref)!r}: its group is {hold}, which {lacks}: leave it out, or release the group"
        )

    def _check_requirements(self, consumer: ModelSpec | FeatureService, standing: Standing, registry: Registry) -> None:
        who = f"{'model' if isinstance(consumer, ModelSpec) else 'feature service'} {consumer.name!r}"
        service = consumer.service if isinstance(consumer, ModelSpec) else consumer
        refs = self._registry.resolve(service)
        for text in consumer.requires:
            asked = Requirement.parse(text, who)
            heads = dict.fromkeys(ref.head for ref in refs if ref.group == asked.group) or {asked.group: None}
            for group in (registry.group(head) for head in heads):
                there = standing.served(group)
                version = group.version if there is None else there.version
                if not asked.met_by(version):
                    hold = standing.holds.get(group.name)
                    state = "applied" if hold is None or hold.version != version else str(hold).partition(" ")[0]
                    raise IncompatibleFeatureVersion(
                        f"{who} requires {text}, but {group.name} {version} is {state}: "
                        f"apply or release what it needs, or relax the requirement"
                    )

    def record_hold(self, name: str, version: str | None, number: int, *, frozen: bool = False) -> None:
        """Hold a group at a version, or (None) release it, as its ``number``-th hold or release.

        Raises ConcurrentRun where another process was faster.
        """
        row = {"name": name, "number": number, "version": version, "frozen": frozen, "by": self._user}
        types = {"number": pl.Int64(), "version": pl.String(), "at": UTC_US}
        if not self._offline.record_hold(pl.DataFrame([row | {"at": self._clock()}], schema_overrides=types)):
            raise ConcurrentRun(f"feature group {name!r} was held or released by another process: look at its status")
        self._known = None

    def hold(self, name: str) -> Hold | None:
        """The hold on a group, if there is one."""
        return self.standing().holds.get(name)

    def _record(self, groups: Sequence[FeatureGroup], standing: Standing) -> None:
        """Append definitions, each as the next of its group as ``standing`` knew it."""
        numbers = {group.name: len(standing.versions(group.name)) for group in groups}
        for group in groups:
            numbers[group.name] += 1
            row = {
                "name": group.name,
                "version": group.version,
                "fingerprint": fingerprint(group),
                "definition": json.dumps(describe_group(group)),
                "applied_at": self._clock(),
                "applied_by": self._user,
            }
            frame = pl.DataFrame([row], schema_overrides={"applied_at": UTC_US})
            self._known = None
            if self._offline.record_definition(frame, numbers[group.name]):
                continue
            faster = self.standing().find(group.name, group.version)
            if faster is None or faster.fingerprint != fingerprint(group):
                raise ConcurrentRun(
                    f"feature group {group.name!r}: another process applied another definition first: plan again"
                )

    def _refreshed(self, age: timedelta = timedelta(0)) -> tuple[pl.DataFrame, pl.DataFrame, Standing, Registry]:
        """What the logs hold, not older than ``age``: both logs, where they stand, and what names mean."""
        now = self._clock()
        if self._known is not None and timedelta(0) <= now - self._asked_at < age:
            return self._known
        self._asked_at = now
        definitions, holds = self._offline.definitions(), self._offline.holds()
        known = self._known
        if known is None or known[0] is not definitions or known[1] is not holds:
            standing = Standing(definitions, holds)
            known = self._known = (definitions, holds, standing, self._registry.at(standing.majors(self._registry)))
        return known
