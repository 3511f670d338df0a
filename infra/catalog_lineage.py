"""What the catalog says of lineage: the source columns above a definition and what is made of it below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from features.lineage import Lineage, Node


def source_columns(found: Lineage) -> list[dict[str, Any]]:
    """Per source the columns that enter values, and those that only decide which rows there are.

    ``marks`` say what is uncertain about the former ("assumed", "over-reported").
    """
    into = [edge for edge in found.edges if edge.source.kind == "source column"]
    values = {edge.source for edge in into if edge.role == "value"}
    rows = []
    for source in dict.fromkeys(edge.source.owner for edge in into):
        own = sorted({edge.source for edge in into if edge.source.owner == source})
        marks = {m for e in into if e.source.owner == source and e.role == "value" for m in e.marks}
        rows.append(
            {
                "source": source,
                "values": _names([node for node in own if node in values]),
                "rows": _names([node for node in own if node not in values]),
                "marks": ", ".join(sorted(marks)) or None,
            }
        )
    return rows


def entered(found: Lineage) -> list[dict[str, Any]]:
    """Everything that is made of what was asked about, nearest first."""
    waiting, met = list(found.focus), dict.fromkeys(found.focus)
    for node in waiting:
        for edge in found.down(node):
            if edge.target not in met:
                met[edge.target] = None
                waiting.append(edge.target)
    return [{"kind": node.kind, "name": node.name} for node in met if node not in found.focus]


def readers_of_columns(found: Lineage) -> Mapping[str, tuple[int, int]]:
    """For each column of a source how many features have it in their value, and for how many it only decides rows."""
    return {
        node.name.partition(":")[2]: (
            sum(edge.role == "value" for edge in found.down(node)),
            sum(edge.role == "structure" for edge in found.down(node)),
        )
        for node in found.focus
    }


def _names(nodes: list[Node]) -> str | None:
    return ", ".join(node.name.partition(":")[2] for node in nodes) or None
