"""The suites that a home's sources are judged by: a project's own ones first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from expectations.rules import Suite
from expectations.suites import suite_for
from features.errors import SettingsError
from features.registry import Registry
from features.source import Source
from infra.wiring import Platform, load_named


def suites_of(platform: Platform) -> Callable[[Source], Suite]:
    """What says which suite a source of the platform is judged by.

    Raises SettingsError where the setting ``suites`` names none, or one for a source that there is not.
    """
    place = platform.settings.suites
    return suite_for if place is None else partial(suite_for, own=load_suites(place, platform.store.registry))


def load_suites(place: str, registry: Registry) -> Mapping[str, Suite]:
    """The suites at "package.module:NAME", by the name of the source in the registry that they judge."""
    found = load_named("suites", place)
    if not isinstance(found, Mapping) or not all(isinstance(suite, Suite) for suite in found.values()):
        name = place.partition(":")[2]
        raise SettingsError(
            f"suites {place!r}: {name!r} is no mapping of names to suites in that module: write it like "
            f"{{'orders': suite_for(orders, rows=[...])}}"
        )
    if unknown := sorted(found.keys() - registry.sources.keys()):
        raise SettingsError(
            f"suites {place!r}: {unknown} are no sources of the registry, which has {sorted(registry.sources)}: "
            f"rename or remove them"
        )
    return found
