"""The suites: those shipped for a source, a project's own ones, and what a definition implies."""

from __future__ import annotations

from collections.abc import Mapping

from expectations import rules
from expectations.rules import Suite
from expectations.suites import wafer
from features.definitions import wafer_sources
from features.source import Source

_SHIPPED: Mapping[Source, Suite] = {
    wafer_sources.wafers: wafer.wafers,
    wafer_sources.parts: wafer.parts,
    wafer_sources.test_results: wafer.test_results,
}
SUITES: Mapping[str, Suite] = {source.name: suite for source, suite in _SHIPPED.items()}
"""The suites written for a shipped source, by its name."""


def suite_for(source: Source, own: Mapping[str, Suite] | None = None) -> Suite:
    """The suite that a source is judged by: a project's ``own`` by the source's name, the shipped one, the implied one.

    The shipped ones are for the shipped sources, and not for others of the same name.
    """
    return (own or {}).get(source.name) or _SHIPPED.get(source) or rules.suite_for(source)
