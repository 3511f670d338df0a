"""The suites that a home's sources and feature groups are judged by: a project's own ones first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

from expectations.rules import Suite, suite_of_group
from expectations.suites import suite_for
from features.feature_group import FeatureGroup
from features.source import Source
from infra.wiring import Platform, group_suites, load_suites


def suites_of(platform: Platform) -> Callable[[Source], Suite]:
    """What says which suite a source of the platform is judged by.

    Raises SettingsError where the setting ``suites`` names none, or one for something that there is not.
    """
    return partial(suite_for, own=load_suites(platform.settings.suites, platform.store.registry))


def group_suites_of(platform: Platform) -> Callable[[FeatureGroup], Suite]:
    """What says which suite the rows of a feature group of the platform are judged by; raises as ``suites_of``."""
    own = group_suites(platform.settings.suites, platform.store.registry)
    return lambda group: own.get(group) or suite_of_group(group)


def all_suites(platform: Platform) -> list[tuple[Literal["source", "group"], Suite]]:
    """The suites that a platform judges by, named as the registry names what they are of: sources, then groups."""
    registry, of_source, of_group = platform.store.registry, suites_of(platform), group_suites_of(platform)
    sources = {name: of_source(source) for name, source in registry.sources.items()}
    groups = {name: of_group(group) for name, group in registry.groups.items()}
    return [
        *(("source", replace(suite, name=name)) for name, suite in sources.items()),
        *(("group", replace(suite, name=name)) for name, suite in groups.items()),
    ]
