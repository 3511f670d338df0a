"""The suites that a home's sources and feature groups are judged by: a project's own ones first."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from expectations.rules import Suite
from expectations.suites import suite_for
from features.source import Source
from infra.wiring import Platform, load_suites


def suites_of(platform: Platform) -> Callable[[Source], Suite]:
    """What says which suite a source of the platform is judged by.

    Raises SettingsError where the setting ``suites`` names none, or one for something that there is not.
    """
    return partial(suite_for, own=load_suites(platform.settings.suites, platform.store.registry))
