from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import Entity, Feature, FeatureGroup, Source
from features.cron import check_cron
from features.errors import DefinitionError, InvalidInput


def _group(schedule: str) -> FeatureGroup:
    return FeatureGroup(
        "visits",
        "1.0.0",
        Entity("guest", keys={"guest_id": pl.String()}),
        Source("stays", schema={"guest_id": pl.String(), "at": pl.Datetime("us")}, event_timestamp="at"),
        [Feature("stays", pl.len())],
        grain="entity",
        settle="1h",
        schedule=schedule,
        owner="hotel",
        description="Stays of a guest.",
    )


@pytest.mark.parametrize(
    "text",
    [
        "0 2 * * *",
        "*/15 * * * *",
        "5,35 6-22/2 1 jan,JUL mon-fri",
        "0 0 31 1-3 *",
        "0 0 29 2 *",
        "0 0 30 2 mon",
        "0 0 * * 7",
    ],
)
def test_good_schedules_pass(text: str) -> None:
    check_cron(text)
    assert _group(text).schedule == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "0 field"),
        ("0 2 * *", "4 field"),
        ("0 0 2 * * *", "6 field"),
        ("daily", "1 field"),
        ("60 2 * * *", "minute '60'"),
        ("0 24 * * *", "hour '24'"),
        ("0 2 0 * *", "day of month '0'"),
        ("0 2 * 13 *", "month '13'"),
        ("0 2 * * 8", "day of week '8'"),
        ("0 2 * * noon", "day of week 'noon'"),
        ("*/0 2 * * *", "step '0'"),
        ("5-1 2 * * *", "range '5-1'"),
        ("1- 2 * * *", "range '1-'"),
        ("1,,2 2 * * *", "minute ''"),
        ("0 0 30 2 *", "no such day"),
        ("0 0 31 4,6,9,11 *", "no such day"),
    ],
)
def test_bad_schedules_are_refused_when_a_group_is_defined(text: str, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        check_cron(text)
    with pytest.raises(DefinitionError, match=rf"'visits': schedule: .*{complaint}"):
        _group(text)


_ATOMS = [
    "*",
    "0",
    "5",
    "12",
    "31",
    "*/5",
    "1-5",
    "5-1",
    "mon",
    "jan",
    "sun-sat",
    "1,2",
    "5/10",
    "60",
    "L",
    "h",
    "?",
    "-1",
]


@given(st.lists(st.sampled_from(_ATOMS), min_size=4, max_size=6).map(" ".join))
def test_whatever_passes_can_be_scheduled(text: str) -> None:
    from prefect.schedules import Cron  # noqa: PLC0415 - 2 s, for this test alone

    try:
        check_cron(text)
    except InvalidInput:
        return
    assert Cron(text).cron == text
