"""The suites, by the name of the source they judge."""

from __future__ import annotations

from collections.abc import Mapping

from expectations import rules
from expectations.rules import Suite
from expectations.suites import wafer
from features.source import Source

SUITES: Mapping[str, Suite] = {suite.name: suite for suite in (wafer.wafers, wafer.parts, wafer.test_results)}
"""The suites written for a source."""


def suite_for(source: Source) -> Suite:
    """The suite written for the source, else the one its definition implies."""
    return SUITES.get(source.name) or rules.suite_for(source)
