"""The drawing of a lineage: every card and line in its place, nothing on top of another, every text escaped."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import combinations

import pytest

from features.definitions import REGISTRY
from features.errors import InvalidInput
from features.lineage import Edge, Lineage, Node, lineage
from infra.reports.lineage_layout import MOST_ROWS, lay_out
from infra.reports.lineage_svg import lineage_svg, write_svg

REFS = ["wafer_yield", "test_fail", "parts:passed", "test_results", "spatial_correlations", "wafers"]


@pytest.mark.parametrize("ref", REFS)
def test_cards_do_not_overlap_and_lie_within_the_picture(ref):
    layout = lay_out(lineage(REGISTRY, ref))
    for card in layout.cards:
        assert min(card.x, card.y) >= 0
        assert card.x + card.width <= layout.width
        assert card.y + card.height <= layout.height
    for one, other in combinations(layout.cards, 2):
        beside = one.x + one.width < other.x or other.x + other.width < one.x
        assert beside or one.y + one.height < other.y or other.y + other.height < one.y, (one.title, other.title)


@pytest.mark.parametrize("ref", REFS)
def test_lines_lead_to_the_right_and_begin_and_end_at_their_rows(ref):
    found = lineage(REGISTRY, ref)
    layout = lay_out(found)
    card_of = {node: card for card in layout.cards for node in card.rows}
    drawn = {(line.edge.source, line.edge.target) for line in layout.lines}
    assert drawn >= {(e.source, e.target) for e in found.edges if e.role != "structure"}
    for line in layout.lines:
        start, end = card_of.get(line.edge.source), card_of.get(line.edge.target)
        xs = [x for x, _ in line.points]
        assert xs == sorted(xs)
        if start is not None and line.edge.role != "structure":
            assert line.points[0] == (start.x + start.width, start.port(line.edge.source))
        if end is not None and end is not start and line.edge.role != "structure":
            assert line.points[-1] == (end.x, end.port(line.edge.target))


@pytest.mark.parametrize("ref", REFS)
def test_the_picture_is_one_well_formed_document_with_every_name(ref):
    found = lineage(REGISTRY, ref)
    root = ET.fromstring(lineage_svg(found))
    texts = [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert all(any(node.name.partition(":")[2] in text for text in texts) for node in found.nodes)
    assert all(any(node.owner in text for text in texts) for node in found.nodes)


def test_names_cannot_break_out_of_the_picture():
    odd = Node("model version", "m@1", "<script>alert(1)</script>; \"&'")
    root = ET.fromstring(lineage_svg(Lineage((odd,), (Edge(Node("model", "m"), odd, "run"),))))
    assert root.find(".//{http://www.w3.org/2000/svg}script") is None


def test_a_wide_card_says_how_many_rows_it_leaves_out():
    service = Node("service", "all")
    edges = [Edge(Node("feature", f"wide:f{i}"), service, "value") for i in range(10_000)]
    layout = lay_out(Lineage((service,), tuple(edges)))
    wide = next(card for card in layout.cards if card.title == "wide")
    assert len(wide.lines) == MOST_ROWS
    assert wide.lines[-1] == f"and {10_001 - MOST_ROWS:,} more"


def test_request_values_stand_with_the_group_or_service_that_asks_for_them():
    service = Node("service", "s")
    asks = [(Node("request value", "g:when"), Node("derived feature", "g:d")), (Node("request value", "s:x"), service)]
    edges = [Edge(start, end, "value") for start, end in asks]
    layout = lay_out(Lineage((service,), (*edges, Edge(edges[0].target, service, "value"))))
    assert {(card.kind, card.title): [n.name for n in card.rows] for card in layout.cards} == {
        ("group", "g"): ["g:when", "g:d"],
        ("service", "s"): ["s:x"],
    }


def test_where_it_cannot_be_written_is_said(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_svg(lineage(REGISTRY, "wafers"), tmp_path / "nowhere" / "drawing.svg")
