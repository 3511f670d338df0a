"""Lineage on a terminal: a tree up and down, JSON for machines, a drawing in a file."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

from typer.testing import CliRunner

from features.definitions import REGISTRY
from features.lineage import Edge, Lineage, Node, lineage
from flows.cli import app
from flows.console import out
from flows.lineage_view import lineage_trees


def told(found: Lineage) -> str:
    with out.capture() as printed:
        for tree in lineage_trees(found):
            out.print(tree)
    return printed.get()


def test_a_feature_is_told_up_and_down():
    text = told(lineage(REGISTRY, "wafer_aggregates:vdd_cv"))
    assert text.startswith("wafer_aggregates:vdd_cv (derived feature)\n├── made of\n")
    assert "test_results: result" in text
    assert "rows by parts: lot_id" in text
    assert "rows as wafer_aggregates:std_vdd" in text  # the same for the other feature: told once
    assert "└── enters\n    └── yield_prediction (service)\n        └── wafer_yield (model)" in text


def test_what_was_told_is_not_told_again():
    text = told(lineage(REGISTRY, "parts:passed"))
    assert text.count("test_fail_prediction (service)") == 1
    assert "test_fail_prediction (service, see above)" in text
    assert "wafer_yield (model, as its label)" in text


def test_uncertain_columns_are_marked_and_long_lists_cut():
    feature = Node("feature", "g:f")
    edges = [Edge(Node("source column", f"s:c{i}"), feature, "value", ("assumed",)) for i in range(100)]
    text = told(Lineage((feature,), tuple(edges)))
    assert "and 70 more (assumed)" in " ".join(text.split())


def test_the_command_prints_json_and_draws(tmp_path):
    home, drawing = str(tmp_path / "home"), tmp_path / "drawing.svg"
    run = CliRunner().invoke(app, ["lineage", "parts:passed", "--home", home, "--json", "--svg", str(drawing)])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["focus"] == ["parts:passed"]
    assert ET.parse(drawing).getroot().tag.endswith("svg")


def test_an_unknown_reference_is_one_line_and_exit_code_1(tmp_path):
    run = CliRunner().invoke(app, ["lineage", "parts:pased", "--home", str(tmp_path / "home")])
    assert run.exit_code == 1
    assert "'parts:pased' is not registered; the nearest: parts:passed" in run.output
