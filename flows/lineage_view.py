"""Lineage as a tree for a terminal: what a thing is made of above, what it enters below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.text import Text
from rich.tree import Tree

from features.lineage import Edge, Lineage, Node
from flows.console import out, print_json
from infra.reports.lineage_svg import write_svg

_MOST = 30
"""So many names are listed in a line; of the rest only the number is told."""

_AS = {"value": "", "label": "as its label", "run": "", "structure": "decides its rows"}


def lineage_trees(found: Lineage) -> list[Tree]:
    """A tree for each thing that was asked about; what was told once is not told again."""
    directions = (_Direction(found, up=True), _Direction(found, up=False))
    trees = []
    for node in found.focus:
        tree = Tree(_line(node))
        for direction, name in zip(directions, ("made of", "enters"), strict=True):
            if direction.edges(node):
                direction.grow(tree.add(name), node)
        if not tree.children:
            tree.add("nothing is made of it")
        trees.append(tree)
    return trees


class _Direction:
    """The way up or down through a lineage, and what was told on it."""

    def __init__(self, found: Lineage, *, up: bool) -> None:
        self._up = up
        self._told: set[Node] = set()
        self._rows: dict[str, str] = {}
        self.edges = found.up if up else found.down

    def grow(self, tree: Tree, node: Node) -> None:
        """Add what is one step away, each with what is beyond it; columns and rows in a line per owner."""
        self._told.add(node)
        values: dict[tuple[str, ...], list[str]] = {}
        rows: dict[tuple[str, ...], list[str]] = {}
        for edge in self.edges(node):
            there = edge.source if self._up else edge.target
            if edge.role == "structure" or there.kind == "source column":
                together = rows if edge.role == "structure" else values
                together.setdefault((there.owner, *edge.marks), []).append(there.name.partition(":")[2])
                continue
            known = there in self._told
            branch = tree.add(_line(there, edge, "see above" if known and self.edges(there) else ""))
            if not known:
                self.grow(branch, there)
        for (owner, *marks), names in values.items():
            tree.add(_listed(f"{owner}: ", names, marks))
        for line in self._row_lines(node, rows):
            tree.add(line)

    def _row_lines(self, node: Node, rows: Mapping[tuple[str, ...], list[str]]) -> list[Text]:
        """What decides which rows there are: the same for most features of a group, and told of the first one."""
        if not rows:
            return []
        first = self._rows.setdefault(str(rows), node.name)
        if first != node.name:
            return [Text(f"rows as {first}", style="dim")]
        way = "by" if self._up else "of"
        return [_listed(f"rows {way} {owner}: ", names, marks, "dim") for (owner, *marks), names in rows.items()]


def _listed(head: str, names: Sequence[str], marks: Sequence[str], style: str = "") -> Text:
    rest = f" and {len(names) - _MOST:,} more" if len(names) > _MOST else ""
    line = Text.assemble(head, ", ".join(names[:_MOST]), rest, style=style)
    return line.append(_in_brackets(marks), style="yellow")


def _line(node: Node, edge: Edge | None = None, more: str = "") -> Text:
    facts = [node.kind, _AS[edge.role] if edge else "", node.note, more]
    line = Text.assemble((node.name, "bold"), (_in_brackets([fact for fact in facts if fact]), "dim"))
    return line.append(_in_brackets(edge.marks if edge else ()), style="yellow")


def _in_brackets(facts: Sequence[str]) -> str:
    return f" ({', '.join(facts)})" if facts else ""


def show_lineage(found: Lineage, svg: Path | None, *, json: bool) -> None:
    """A tree for each thing that was asked about, one JSON document, or a drawing in a file."""
    if svg is not None:
        write_svg(found, svg)
    if json:
        print_json(found.to_dict())
    elif svg is not None:
        out.print(f"{len(found.nodes):,} things and {len(found.edges):,} edges in {svg}", markup=False, soft_wrap=True)
    else:
        for tree in lineage_trees(found):
            out.print(tree)
