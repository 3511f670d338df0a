"""Lineage: from source columns over features, derived features and services to models and predictions.

Nobody types it in: the columns behind a stored feature are traced (see `features.column_trace`), the rest
follows from the names in expressions and definitions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal, TypeVar

from features import derived
from features.column_trace import Column, GroupTrace, trace
from features.errors import NotRegistered
from features.feature_group import EVENT_TIMESTAMP, REQUEST_TIMESTAMP, FeatureGroup
from features.feature_service import FeatureService, Ref
from features.model import ModelSpec, Predictions
from features.registry import Registry
from features.source import EVENT_DATE, Source

T = TypeVar("T")

Kind = Literal[
    "source column",
    "key",
    "feature",
    "derived feature",
    "request value",
    "service",
    "model",
    "model version",
    "predictions",
]

Role = Literal["value", "structure", "label", "run"]
"""What the one is to the other: part of its value; a key, time, filter or join column that decides which rows
there are; what a model learns to predict; or a run's result."""


@dataclass(frozen=True, order=True)
class Node:
    """Something with a lineage, by the name that references know it by, like "parts:passed"."""

    kind: Kind
    name: str
    note: str = ""

    @property
    def owner(self) -> str:
        """The source, group, service or model that it belongs to."""
        return self.name.removeprefix("predictions/").partition(":")[0]


@dataclass(frozen=True)
class Edge:
    """That ``source`` enters ``target``; ``marks`` say what is uncertain ("assumed", "over-reported")."""

    source: Node
    target: Node
    role: Role
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lineage:
    """What was asked about (``focus``) and everything that is above and below it."""

    focus: tuple[Node, ...]
    edges: tuple[Edge, ...]

    @property
    def nodes(self) -> list[Node]:
        """Every node once: the focus first, then in the order of the edges."""
        ends = (node for edge in self.edges for node in (edge.source, edge.target))
        return list(dict.fromkeys([*self.focus, *ends]))

    def up(self, node: Node) -> list[Edge]:
        """The edges into a node: what it is made of."""
        return self._by_end[0][node]

    def down(self, node: Node) -> list[Edge]:
        """The edges out of a node: what it enters."""
        return self._by_end[1][node]

    def around(self, focus: Iterable[Node]) -> Lineage:
        """The part that is above or below some nodes."""
        chosen = tuple(focus)
        above = _reached(chosen, lambda node: (e.source for e in self.up(node)))
        below = _reached(chosen, lambda node: (e.target for e in self.down(node)))
        return Lineage(chosen, tuple(e for e in self.edges if e.target in above or e.source in below))

    def to_dict(self) -> dict[str, Any]:
        """Focus, nodes and edges as plain values that fit into JSON."""
        return {
            "focus": [node.name for node in self.focus],
            "nodes": [{"kind": n.kind, "name": n.name} | ({"note": n.note} if n.note else {}) for n in self.nodes],
            "edges": [
                {
                    "from": {"kind": e.source.kind, "name": e.source.name},
                    "to": {"kind": e.target.kind, "name": e.target.name},
                    "role": e.role,
                    "marks": list(e.marks),
                }
                for e in self.edges
            ],
        }

    @cached_property
    def _by_end(self) -> tuple[Mapping[Node, list[Edge]], Mapping[Node, list[Edge]]]:
        into: defaultdict[Node, list[Edge]] = defaultdict(list)
        out: defaultdict[Node, list[Edge]] = defaultdict(list)
        for edge in self.edges:
            into[edge.target].append(edge)
            out[edge.source].append(edge)
        return into, out


def lineage(registry: Registry, ref: str, runs: Sequence[Edge] = ()) -> Lineage:
    """What is above and below a source, group, service or model, or one column or feature of it.

    ``runs`` are edges that only a platform knows: model versions and their predictions. Raises
    NotRegistered naming the nearest references there are.

    >>> from features.definitions import REGISTRY
    >>> found = lineage(REGISTRY, "wafer_aggregates:avg_vdd")
    >>> [edge.source.name for edge in found.up(found.focus[0]) if edge.role == "value"]
    ['test_results:result']
    >>> [edge.target.name for edge in found.down(found.focus[0])]
    ['wafer_aggregates:vdd_cv', 'yield_prediction']
    """
    groups = _concerned(registry, ref)
    edges = [edge for group in groups for edge in _of_group(registry, group)]
    edges += [edge for service in registry.services.values() for edge in _of_service(registry, service)]
    edges += [edge for model in registry.models.values() for edge in _of_model(registry, model)]
    known = {edge.target for edge in runs}  # predictions come from versions where these are known
    edges = [edge for edge in edges if edge.target not in known]
    whole = Lineage((), (*edges, *runs))
    nodes = list(dict.fromkeys([*whole.nodes, *_columns(registry, ref)]))
    focus = _focus(registry, ref, nodes)
    if not focus:
        names = [*registry.groups, *registry.sources, *registry.services, *registry.models, *(n.name for n in nodes)]
        nearest = get_close_matches(ref, dict.fromkeys(names), n=3, cutoff=0)
        raise NotRegistered(f"{ref!r} is not registered; the nearest: {', '.join(nearest) or 'none'}")
    return whole.around(focus)


def _focus(registry: Registry, ref: str, nodes: Iterable[Node]) -> list[Node]:
    """The nodes that a reference means: those of that name, else all that belong to it."""
    head, colon, part = ref.partition(":")
    groups = _called(registry, head)
    name = "".join([registry.name_of(groups[0]) if groups else head, colon, part])
    named = [n for n in nodes if n.name in (ref, name) and n.kind != "key"]
    return named + [
        n for n in nodes if n.owner in (ref, name) and n.kind in ("source column", "feature", "derived feature")
    ]


def _columns(registry: Registry, ref: str) -> list[Node]:
    """The columns of a source that is asked about: those that no group reads have no edges."""
    source = registry.sources.get(ref.partition(":")[0])
    return [Node("source column", f"{source.name}:{column}") for column in source.schema] if source else []


def _concerned(registry: Registry, ref: str) -> list[FeatureGroup]:
    """The groups whose columns must be traced to answer: those of the reference, above and below it."""
    name = ref.removeprefix("predictions/").partition(":")[0]
    plain = name.partition("@")[0]
    start = _called(registry, name)
    read = registry.sources.get(name)
    start += [g for g in registry.groups.values() if read in g.inputs.values()]
    models = [m for m in registry.models.values() if m.name == plain]
    services = [s for s in registry.services.values() if s.name == name or any(s is m.service for m in models)]
    refs = [r for service in services for r in registry.resolve(service)] + [m.label_ref for m in models]
    start += [registry.group(head) for head in dict.fromkeys(r.head for r in refs)]
    above = _reached(start, registry.upstream)
    below = _reached(start, lambda g: (r for r in registry.groups.values() if g in registry.upstream(r)))
    return list(dict.fromkeys([*above, *below]))


def _called(registry: Registry, head: str) -> list[FeatureGroup]:
    """The group that a reference calls so, with or without its major, if there is one."""
    return [g for key, g in registry.groups.items() if head in (key, f"{g.name}@{g.major}")]


def _reached(start: Iterable[T], onward: Callable[[T], Iterable[T]]) -> dict[T, None]:
    """Where one gets from some places, themselves included, in the order of arrival."""
    reached = dict.fromkeys(start)
    waiting = list(reached)
    while waiting:
        for place in onward(waiting.pop()):
            if place not in reached:
                reached[place] = None
                waiting.append(place)
    return reached


def _of_group(registry: Registry, group: FeatureGroup) -> Iterator[Edge]:
    """From input columns to stored features, and from these to derived ones."""
    traced, head = trace(group), registry.name_of(group)
    node_of = _input_nodes(registry, group, traced)
    for feature in group.features:
        target, value = Node("feature", f"{head}:{feature.name}"), traced.values[feature.name]
        yield from _edges(node_of, value.columns, target, "value", value.marks)
        made_of = {node_of[column] for column in value.columns}
        rest = {column for column in traced.structure.columns if node_of[column] not in made_of}
        yield from _edges(node_of, rest, target, "structure", traced.structure.marks)
    for feature in group.derived:
        for root in feature.expr.meta.root_names():
            source = Node("request value" if root == REQUEST_TIMESTAMP else "feature", f"{head}:{root}")
            yield Edge(source, Node("derived feature", f"{head}:{feature.name}"), "value")
    if any(group in reader.inputs.values() for reader in registry.groups.values()):
        for key in (*group.keys, EVENT_TIMESTAMP):
            target = Node("key", f"{head}:{key}")
            yield from _edges(node_of, traced.structure.columns, target, "structure", traced.structure.marks)


def _edges(
    node_of: Mapping[Column, Node], columns: Iterable[Column], target: Node, role: Role, marks: Iterable[str]
) -> Iterator[Edge]:
    noted = tuple(sorted(marks))
    for source in dict.fromkeys(node_of[column] for column in sorted(columns)):
        yield Edge(source, target, role, noted)


def _input_nodes(registry: Registry, group: FeatureGroup, traced: GroupTrace) -> dict[Column, Node]:
    """The nodes of all columns that a group reads."""
    columns = traced.structure.columns.union(*(value.columns for value in traced.values.values()))
    return {(name, column): _input_node(registry, group.inputs[name], column) for name, column in columns}


def _input_node(registry: Registry, origin: Source | FeatureGroup, name: str) -> Node:
    if isinstance(origin, Predictions):
        return Node("predictions", origin.name)
    if isinstance(origin, Source):  # its date is that of the event time
        return Node("source column", f"{origin.name}:{origin.event_timestamp if name == EVENT_DATE else name}")
    head = registry.name_of(origin)
    if name in origin.feature_names:
        return Node("feature", f"{head}:{name}")
    return Node("key", f"{head}:{name if name in origin.keys else EVENT_TIMESTAMP}")


def _of_service(registry: Registry, service: FeatureService) -> Iterator[Edge]:
    """From features and request values to the service, and to its own derived features."""
    this = Node("service", service.name)
    own = {feature.name for feature in service.derived}
    selection = derived.select(registry, service, full_feature_names=True)
    nodes = {}
    for ref, node in _feature_nodes(registry, selection.refs).items():
        nodes[selection.names[ref]] = node
        yield Edge(node, this, "value")
    for name, _, columns in selection.derived:
        if name in own:
            target = nodes[name] = Node("derived feature", f"{service.name}:{name}")
            for column in columns.values():
                request = Node("request value", f"{service.name}:{column}")
                yield Edge(nodes.get(column, request), target, "value")
            yield Edge(target, this, "value")


def _of_model(registry: Registry, model: ModelSpec) -> Iterator[Edge]:
    this = Node("model", model.name)
    yield Edge(Node("service", model.service.name), this, "value")
    yield from (Edge(node, this, "label") for node in _feature_nodes(registry, [model.label_ref]).values())
    yield Edge(this, Node("predictions", f"predictions/{model.name}"), "value")


def _feature_nodes(registry: Registry, refs: Iterable[Ref]) -> dict[Ref, Node]:
    """The node of each reference; a group of ten thousand features is looked through once."""
    refs = list(refs)
    groups = {head: registry.group(head) for head in dict.fromkeys(ref.head for ref in refs)}
    names = {head: (registry.name_of(group), set(group.feature_names)) for head, group in groups.items()}
    found = {}
    for ref in refs:
        name, stored = names[ref.head]
        found[ref] = Node("feature" if ref.feature in stored else "derived feature", f"{name}:{ref.feature}")
    return found
