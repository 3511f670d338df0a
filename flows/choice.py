"""Which feature groups a run is for."""

from __future__ import annotations

from collections.abc import Sequence

from features.registry import Registry

ALL = "all groups"
"""What a form says where it asks for one group or all."""


def chosen(registry: Registry, names: Sequence[str] | None = None) -> list[str]:
    """The groups that are named, or all: each once, after those it reads from, by the name that means it alone.

    Raises NotRegistered for a name that means no group.
    """
    wanted = {registry.group(name) for name in names} if names else set(registry.groups.values())
    return [registry.name_of(group) for group in registry.in_order() if group in wanted]


def served(registry: Registry, names: Sequence[str] | None = None) -> list[str]:
    """The groups that are named, or all that are served online; as ``chosen`` lists them."""
    return [name for name in chosen(registry, names) if names or registry.group(name).online]
