"""A rejected wafer in quarantine: it comes in once the rule allows it, however its rows are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from expectations.rules import RowRule, Suite
from expectations.suites import suite_for
from features.source import Source
from infra.ingest import open_ingestor
from infra.quarantine import Quarantine
from infra.wiring import Platform, open_platform
from support_stdf import Stdf

NOW = datetime(2026, 3, 2, tzinfo=UTC)
DIES = 20
LOW_VDD = {"W1": [0.9, 0.9, 0.5], "W2": [0.9, 0.5]}
"""The readings below 1.0 V of each wafer: of W1 more than a tenth of its dies, of W2 exactly that."""


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """A home that took in a file of two wafers."""
    file = Stdf().mir()
    for wafer, low in LOW_VDD.items():
        file.wir(wafer)
        for number, vdd in enumerate([*low, *[1.2] * (DIES - len(low))]):
            file.pir().ptr(vdd).prr(f"{wafer}-{number}", xy=(number, 1), test_ms=100)
        file.wrr(wafer)
    (tmp_path / "lot.stdf").write_bytes(file.mrr().data)
    with open_platform(home=tmp_path / "home", clock=lambda: NOW) as opened:
        open_ingestor(opened).ingest([tmp_path / "lot.stdf"])
        yield opened


def held(platform: Platform, **changes: object) -> Quarantine:
    """Its quarantine where rules read otherwise: by name, the bound that is changed."""

    def relaxed(rule: RowRule) -> RowRule:
        fields = {"wafer_in_range": "share", "vdd_range": "low"}
        return replace(rule, **{fields[rule.name]: changes[rule.name]}) if rule.name in changes else rule

    def suites(source: Source) -> Suite:
        suite = suite_for(source)
        return replace(suite, rows=[relaxed(rule) for rule in suite.rows])

    return Quarantine(platform.lake, platform.store.registry, suites, lambda: NOW)


def waiting(platform: Platform) -> dict[str, int]:
    quarantine = held(platform)
    return {source: quarantine.rows(source).height for source in ("wafers", "parts", "test_results")}


def landed(platform: Platform, source: str) -> dict[str, int]:
    rows = platform.lake.scan_source(source)
    assert rows is not None
    return dict(rows.group_by("wafer_id").len().sort("wafer_id").collect().iter_rows())


REJECTED = {"wafers": 1, "parts": DIES, "test_results": DIES + 2}


def test_the_wafer_waits_whole_and_its_files_other_one_lands(platform: Platform) -> None:
    assert waiting(platform) == REJECTED
    assert [landed(platform, source) for source in REJECTED] == [{"W2": 1}, {"W2": DIES}, {"W2": DIES - 2}]
    entry = platform.lake.scan_log("ingest_ledger").collect().row(-1, named=True)
    assert (entry["status"], entry["severity"], entry["quarantined"]) == ("ingested", "high", sum(REJECTED.values()))


def test_it_comes_in_when_more_dies_may_be_out_of_range(platform: Platform) -> None:
    freed = [held(platform, wafer_in_range=0.15).release(source) for source in REJECTED]
    assert [(done.rows, done.waiting) for done in freed] == [(1, 0), (DIES, 0), (DIES - 3, 5)]
    assert waiting(platform) == {"wafers": 0, "parts": 0, "test_results": 5}
    again = held(platform, wafer_in_range=0.15).release("parts")
    assert (again.rows, landed(platform, "parts")) == (0, {"W1": DIES, "W2": DIES})


def test_it_comes_in_when_the_range_that_too_many_broke_is_wider(platform: Platform) -> None:
    """The parts as well, though no rule on parts was changed."""
    freed = [held(platform, vdd_range=0.8).release(source).rows for source in REJECTED]
    assert freed == [1, DIES, DIES + 2 - 2]
    assert held(platform).rows("test_results")["result"].to_list() == [0.5, 0.5]


def test_a_part_of_its_rows_is_judged_as_the_whole_wafer_is(platform: Platform) -> None:
    """Of the five asked for by their rule more than a tenth are bad, of the wafer's dies no longer."""
    done = held(platform, vdd_range=0.8).release("test_results", rules=["vdd_range"])
    assert (done.rows, done.waiting) == (3, 2)
    assert landed(platform, "test_results") == {"W1": 2, "W2": DIES - 1}


def test_what_landed_counts_when_the_rest_of_a_wafer_is_judged(platform: Platform) -> None:
    """W2's bad dies alone are two of two."""
    done = held(platform, vdd_range=0.5).release("test_results", rules=["vdd_range"])
    assert (done.rows, landed(platform, "test_results")["W2"]) == (5, DIES)


@pytest.mark.parametrize("source", REJECTED)
def test_nothing_of_it_comes_in_while_the_rule_stands(platform: Platform, source: str) -> None:
    done = held(platform).release(source)
    assert (done.rows, done.waiting) == (0, REJECTED[source])


def test_dropping_its_bad_rows_does_not_make_it_good(platform: Platform) -> None:
    held(platform).drop("test_results", rules=["vdd_range"], reason="bad readings")
    done = held(platform).release("test_results")
    assert (done.rows, done.waiting) == (0, DIES - 3)
    assert held(platform, wafer_in_range=0.15).release("test_results").rows == DIES - 3
