"""Where the cards and lines of a lineage go: layers from left to right, few crossings, no line through a card.

Pixels, the origin at the top left. A card holds the columns, features or facts of one owner.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from features.lineage import Edge, Lineage, Node

ROW = 18.0
HEAD = 38.0
MARGIN = 20.0
MOST_ROWS = 40
"""So many rows a card shows; of the others it says how many there are."""

_GAP = 24.0
_BETWEEN = 120.0
_LETTER = 6.7  # of 12 pixels, generously
_STRAND = 4.0
_SWEEPS = 4
_OWNERS = {"source column": "source"}
_OWNERS |= dict.fromkeys(("key", "feature", "derived feature", "request value"), "group")

Point = tuple[float, float]


@dataclass(eq=False)
class Card:
    """A box with a title, rows and facts."""

    kind: str
    title: str
    rows: Sequence[Node]
    facts: Sequence[str] = ()
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0

    @property
    def shown(self) -> Sequence[Node]:
        """The rows that are drawn."""
        return self.rows if len(self.rows) <= MOST_ROWS else self.rows[: MOST_ROWS - 1]

    @property
    def lines(self) -> list[str]:
        """The texts below the title."""
        hidden = len(self.rows) - len(self.shown)
        return [*map(row_text, self.shown), *([f"and {hidden:,} more"] if hidden else []), *self.facts]

    @property
    def height(self) -> float:
        """From edge to edge."""
        return HEAD + ROW * len(self.lines) + (8 if self.lines else 0)

    @property
    def needed(self) -> float:
        """The least width that holds every text."""
        return max([len(self.title) * 1.1, *map(len, self.lines)]) * _LETTER + 26

    def port(self, node: Node) -> float:
        """Where lines of a row begin and end; at the title for the owner itself."""
        slot = self.slot(node)
        return self.y + (HEAD / 2 if slot < 0 else HEAD + ROW * (slot + 0.5))

    def slot(self, node: Node) -> int:
        """The number of the line that a row has, alone or with others; -1 for the owner itself."""
        return min(self._numbers.get(node, -1), MOST_ROWS - 1)

    @cached_property
    def _numbers(self) -> Mapping[Node, int]:
        return {node: number for number, node in enumerate(self.rows)}


@dataclass(eq=False)
class Lane:
    """The room in which the lines between two cards pass a layer between them."""

    strands: int
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    needed: float = 0.0

    @property
    def height(self) -> float:
        """From the first line to the last."""
        return _STRAND * self.strands


@dataclass(frozen=True)
class Line:
    """An edge and the points that its curve goes through; with four points it stays within its card's side."""

    edge: Edge
    points: Sequence[Point]


@dataclass(frozen=True)
class Layout:
    """Cards and lines with their places, and the size of the whole."""

    cards: Sequence[Card]
    lines: Sequence[Line]
    width: float
    height: float


Pair = tuple[Card, Card]
Slot = Card | Lane


def row_text(node: Node) -> str:
    """What a row shows: the name without its owner."""
    return node.name.partition(":")[2]


def lay_out(found: Lineage) -> Layout:
    """Place a lineage's cards and lines."""
    card_of = _cards(found)
    cards = list(dict.fromkeys(card_of.values()))
    pairs = _pairs(found.edges, card_of)
    layer = _layers(cards, pairs)
    columns: list[list[Slot]] = [[] for _ in range(max(layer.values(), default=0) + 1)]
    for card in cards:
        columns[layer[card]].append(card)
    lanes: dict[Pair, list[Lane]] = {}
    for (start, end), edges in pairs.items():
        passed = range(layer[start] + 1, layer[end])
        lanes[start, end] = [Lane(len(edges)) for _ in passed]
        for number, lane in zip(passed, lanes[start, end], strict=True):
            columns[number].append(lane)
    _order(columns, [[start, *between, end] for (start, end), between in lanes.items() if start is not end])
    width, height = _place(columns)
    lines = [line for pair, edges in pairs.items() for line in _lines(pair, edges, lanes[pair])]
    return Layout(cards, lines, width, height)


def _cards(found: Lineage) -> dict[Node, Card]:
    """The card of each node: columns and features share one with their owner, all else has its own."""
    of_service = {e.source for e in found.edges if e.target.kind == "service" and e.source.owner == e.target.name}
    services = {node.name for node in found.nodes if node.kind == "service"}
    of_service |= {n for n in found.nodes if n.kind == "request value" and n.owner in services}
    used = {e.source for e in found.edges if e.role != "structure"} | set(found.focus)
    rows: defaultdict[tuple[str, str], list[Node]] = defaultdict(list)
    for node in found.nodes:
        if node in of_service:
            rows["service", node.owner].append(node)
        elif node.kind in _OWNERS:
            rows[_OWNERS[node.kind], node.owner].append(node)
        else:
            rows[node.kind, node.name]  # a card even where it has no rows
    cards = {}
    for (kind, title), members in rows.items():
        # What only decides the rows comes last.
        members.sort(key=lambda n: (n not in used and n.kind in ("source column", "key"), n.kind == "derived feature"))
        cards[kind, title] = Card(kind, title, members)
    found_cards = {node: card for card in cards.values() for node in card.rows}
    for node in found.nodes:
        if node not in found_cards:
            found_cards[node] = card = cards[node.kind, node.name]
            card.facts = node.note.split("; ") if node.note else ()
    return found_cards


def _pairs(edges: Iterable[Edge], card_of: Mapping[Node, Card]) -> dict[Pair, list[Edge]]:
    """The edges to draw from card to card: of those that would lie on each other the first.

    Those that decide which rows there are go from title to title.
    """
    pairs: defaultdict[Pair, dict[tuple[str, int, int], Edge]] = defaultdict(dict)
    for edge in edges:
        start, end = card_of[edge.source], card_of[edge.target]
        ends = (-1, -1) if edge.role == "structure" else (start.slot(edge.source), end.slot(edge.target))
        pairs[start, end].setdefault((edge.role, *ends), edge)
    return {pair: list(found.values()) for pair, found in pairs.items()}


def _layers(cards: Sequence[Card], pairs: Iterable[Pair]) -> dict[Card, int]:
    """For each card the number of cards on the longest way to it."""
    layer = dict.fromkeys(cards, 0)
    onward = [(start, end) for start, end in pairs if start is not end]
    for _ in cards:
        for start, end in onward:
            layer[end] = max(layer[end], layer[start] + 1)
    return layer


def _order(columns: Sequence[list[Slot]], chains: Iterable[Sequence[Slot]]) -> None:
    """Sort each column by where its neighbours are, from left to right and back, so that few lines cross."""
    left: defaultdict[Slot, list[Slot]] = defaultdict(list)
    right: defaultdict[Slot, list[Slot]] = defaultdict(list)
    for chain in chains:
        for before, after in pairwise(chain):
            right[before].append(after)
            left[after].append(before)
    for sweep in range(_SWEEPS):
        neighbours, walk = (left, columns[1:]) if sweep % 2 == 0 else (right, columns[-2::-1])
        for column in walk:
            places = {slot: (i + 0.5) / len(other) for other in columns for i, slot in enumerate(other)}
            centre = {slot: [places[n] for n in neighbours[slot]] or [places[slot]] for slot in column}
            column.sort(key=lambda slot, centre=centre: sum(centre[slot]) / len(centre[slot]))  # type: ignore[misc]


def _place(columns: Sequence[Sequence[Slot]]) -> tuple[float, float]:
    """Give every slot its place, each column in the middle of the height; returns the size of the whole."""
    heights = [sum(slot.height + _GAP for slot in column) - _GAP for column in columns]
    tallest = max(heights, default=0.0)
    x = MARGIN
    for column, height in zip(columns, heights, strict=True):
        width = max((slot.needed for slot in column), default=0.0)
        y = MARGIN + (tallest - height) / 2
        for slot in column:
            slot.x, slot.y, slot.width = x, y, width
            y += slot.height + _GAP
        x += width + _BETWEEN
    return x - _BETWEEN + MARGIN, tallest + 2 * MARGIN


def _lines(pair: Pair, edges: Sequence[Edge], lanes: Sequence[Lane]) -> Iterable[Line]:
    """The points of each edge: a row's right side, both sides of each lane, the other row's left side."""
    start, end = pair
    for number, edge in enumerate(edges):
        decides = edge.role == "structure"
        y1 = start.y + HEAD / 2 if decides else start.port(edge.source)
        y2 = end.y + HEAD / 2 if decides else end.port(edge.target)
        points: list[Point] = [(start.x + start.width, y1)]
        for lane in lanes:
            y = lane.y + _STRAND * (number + 0.5)
            points += [(lane.x, y), (lane.x + lane.width, y)]
        yield Line(edge, [*points, (end.x + (end.width if start is end else 0), y2)])
