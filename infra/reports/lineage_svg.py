"""A lineage drawn as SVG: a card for each source, group, service and model, in layers from left to right.

No script, no font, no link; every text escaped. What is told by colour is told by shape as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup, escape

from features.errors import InvalidInput
from features.lineage import Lineage, Node
from infra.reports.charts import GRID
from infra.reports.lineage_layout import HEAD, MARGIN, ROW, Card, Line, Point, lay_out

_COLOURS = {
    "source": "#2f6690",
    "group": "#2e7d5b",
    "service": "#8a5a00",
    "model": "#7b3294",
    "model version": "#7b3294",
    "predictions": "#c64600",
}
_STROKES = {"value": "#5b7c99", "structure": "#a9b4be", "label": "#c64600", "run": "#7b3294"}
_DASHES = {"value": "", "structure": "5 4", "label": "9 3", "run": ""}
_UNSURE = "1.5 3.5"
_LEGEND = 34.0
_FEW = 3
"""Up to so many things asked about are shaded, and their lines drawn bold; else it is a whole card."""

_STYLE = (
    "text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#27313a}"
    ".kind{font-size:10px;letter-spacing:.06em;text-transform:uppercase}.title{font-weight:600;font-size:13px}"
    f".faint{{fill:#8894a0}}.line{{fill:none;stroke-width:1.3;stroke-opacity:.8}}.card{{fill:#fff;stroke:{GRID}}}"
)


def lineage_svg(found: Lineage) -> Markup:
    """The picture of a lineage as one SVG document; what was asked about stands out."""
    layout = lay_out(found)
    width, height = max(layout.width, 760.0), layout.height + _LEGEND
    faint = {e.source for e in found.edges if e.role == "structure"}
    faint -= {e.source for e in found.edges if e.role != "structure"} | set(found.focus)
    shaded = set(found.focus) if len(found.focus) <= _FEW else set()
    titles = {node.name for node in found.focus} | {node.owner for node in found.focus if node not in shaded}
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="lineage"><style>{_STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#f7f9fa"/>'
    )
    # What decides rows lies below what makes values.
    lines = sorted(layout.lines, key=lambda line: line.edge.role != "structure")
    parts = [head]
    parts += [_path(line, strong=bool({line.edge.source, line.edge.target} & shaded)) for line in lines]
    parts += [_card(card, shaded, faint, asked=card.title in titles) for card in layout.cards]
    return Markup("".join([*parts, _legend(layout.height), "</svg>\n"]))  # noqa: S704  every text in it is escaped


def write_svg(found: Lineage, path: Path) -> None:
    """Draw a lineage into a file; InvalidInput where that cannot be written."""
    try:
        path.write_text(lineage_svg(found), "utf-8")
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be written: {error.strerror}; name a file in a folder that exists"
        ) from error


def _path(line: Line, *, strong: bool) -> str:
    edge = line.edge
    dash = _UNSURE if edge.marks and edge.role == "value" else _DASHES[edge.role]
    width = ' style="stroke-width:2"' if strong and edge.role != "structure" else ""
    marks = f" ({', '.join(edge.marks)})" if edge.marks else ""
    said = f"{edge.source.name} → {edge.target.name}: {edge.role}{marks}"
    return (
        f'<path class="line" d="{_curve(line.points)}" stroke="{_STROKES[edge.role]}" stroke-dasharray="{dash}"{width}>'
        f"<title>{escape(said)}</title></path>"
    )


def _curve(points: Sequence[Point]) -> str:
    """Level at every point; straight within a lane, bent between."""
    (x, y), *rest = points
    drawn = [f"M{x:.1f},{y:.1f}"]
    for to_x, to_y in rest:
        bend = (to_x - x) / 2 if to_x > x else 30 + abs(to_y - y) / 8  # from a card to itself: around its side
        back = to_x - bend if to_x > x else to_x + bend
        drawn.append(f"C{x + bend:.1f},{y:.1f} {back:.1f},{to_y:.1f} {to_x:.1f},{to_y:.1f}")
        x, y = to_x, to_y
    return "".join(drawn)


def _card(card: Card, shaded: set[Node], faint: set[Node], *, asked: bool) -> str:
    colour = _COLOURS[card.kind]
    box = f'x="{card.x:.1f}" y="{card.y:.1f}" height="{card.height:.1f}"'
    parts = [
        f'<rect class="card" {box} width="{card.width:.1f}" rx="6"/>',
        f'<rect {box} width="4" rx="2" fill="{colour}"/>',
        _text(card.x + 14, card.y + 14, card.kind, "kind", colour),
        _text(card.x + 14, card.y + 29, card.title, "title", colour if asked else ""),
    ]
    for number, text in enumerate(card.lines):
        y = card.y + HEAD + ROW * number
        node = card.shown[number] if number < len(card.shown) else None
        if node in shaded:
            box = f'x="{card.x + 8:.1f}" y="{y:.1f}" width="{card.width - 14:.1f}" height="{ROW:.0f}" rx="3"'
            parts.append(f'<rect {box} fill="{colour}" fill-opacity=".14"/>')
        derived = node is not None and node.kind == "derived feature"
        style = "faint" if node is None or node in faint else ""
        parts.append(_text(card.x + 14, y + 13, text, style, italic=derived))
    return "".join(parts)


def _legend(top: float) -> str:
    """What the lines mean."""
    entries = [
        ("value", _DASHES["value"], "part of the value"),
        ("value", _UNSURE, "perhaps part of the value"),
        ("structure", _DASHES["structure"], "decides which rows (keys, times, filters, joins)"),
        ("label", _DASHES["label"], "label"),
    ]
    x, y = MARGIN, top + 10
    parts = []
    for role, dash, text in entries:
        line = f'd="M{x:.0f},{y:.0f}h34" stroke="{_STROKES[role]}" stroke-dasharray="{dash}"'
        parts += [f'<path class="line" {line}/>', _text(x + 42, y + 4, text)]
        x += 42 + len(text) * 6.2 + 26
    return "".join(parts)


def _text(x: float, y: float, text: str, style: str = "", colour: str = "", *, italic: bool = False) -> str:
    fill = f"fill:{colour};" if colour else ""
    slant = "font-style:italic" if italic else ""
    look = f' style="{fill}{slant}"' if fill or slant else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}"{look}>{escape(text)}</text>'
