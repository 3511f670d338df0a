"""Sensitive groups: those made of columns that their sources declare sensitive."""

from __future__ import annotations

from features.column_trace import ASSUMED, trace
from features.errors import DefinitionError
from features.feature_group import FeatureGroup
from features.registry import Registry
from features.source import Source


def sensitive_groups(registry: Registry) -> frozenset[str]:
    """The names of groups that read a sensitive column, in any major version, to compute values or to choose rows.

    So do groups made of such groups, or of the predictions of models that learn from them, whatever they take of
    them. A group counts where it cannot be told what it reads.
    """
    found: set[FeatureGroup] = set()
    for group in registry.in_order():
        if not found.isdisjoint(registry.upstream(group)) or _reads_sensitive(group):
            found.add(group)
    return frozenset(group.name for group in found)


def _reads_sensitive(group: FeatureGroup) -> bool:
    sources = {name: origin for name, origin in group.inputs.items() if isinstance(origin, Source)}
    guarded = {(name, column) for name, source in sources.items() for column in source.sensitive}
    if not guarded:  # tracing takes a while
        return False
    try:
        traced = trace(group)
    except DefinitionError:
        return True
    parts = (traced.structure, *traced.values.values())
    return any(ASSUMED in part.marks or not part.columns.isdisjoint(guarded) for part in parts)
