"""Which groups are sensitive: those that are made of a sensitive column, however far off, and no others."""

from __future__ import annotations

import polars as pl
import pytest

from features import Entity, Feature, FeatureGroup, FeatureService, ModelSpec, Registry, Source
from features.feature_group import Prepare
from features.sensitive import sensitive_groups
from features.times import UTC_US

ABOUT = {"owner": "payroll", "description": "About a person."}
person = Entity("person", keys={"person_id": pl.Int64})
people = Source(
    "people",
    {"person_id": pl.Int64, "salary": pl.Float64, "height": pl.Float64, "at": UTC_US},
    "at",
    sensitive=["salary"],
)
plain = Source("visits", {"person_id": pl.Int64, "minutes": pl.Float64, "at": UTC_US}, "at")


def group(name: str, column: str, origin: Source | FeatureGroup = people, prepare: Prepare | None = None, **more):
    return FeatureGroup(
        name,
        more.pop("version", "1.0.0"),
        person,
        origin,
        [Feature("it", pl.col(column))],
        grain="event",
        prepare=prepare,
        **more,
        **ABOUT,
    )


def counted(grain: str, expr: pl.Expr, **more: str) -> FeatureGroup:
    window = {"window": "7d"} if grain == "window" else {}
    return FeatureGroup(
        f"by_{grain}", "1.0.0", person, people, [Feature("it", expr, **window)], grain=grain, **more, **ABOUT
    )


def collecting(frame: pl.LazyFrame) -> pl.LazyFrame:
    return frame.select("person_id", "height", "at").collect().lazy()


@pytest.mark.parametrize(
    ("made", "sensitive"),
    [
        (group("g", "salary"), True),
        (group("g", "height"), False),
        (group("g", "minutes", plain), False),
        (group("g", "height", prepare=lambda frame: frame.filter(pl.col("salary") > 9)), True),
        (group("g", "h", prepare=lambda frame: frame.with_columns(h=pl.col("salary") / pl.col("height"))), True),
        (group("g", "height", prepare=lambda frame: frame.drop("salary")), False),
        (group("g", "height", prepare=collecting), True),  # nobody knows what it reads of other rows
        (counted("entity", pl.col("salary").max(), settle="1h"), True),
        (counted("entity", pl.col("height").max(), settle="1h"), False),
        (counted("window", pl.col("salary").sum(), every="1d"), True),
        (counted("window", pl.len(), every="1d"), False),
    ],
)
def test_a_group_that_reads_a_sensitive_column_for_values_or_to_choose_rows_is_sensitive(made, sensitive):
    assert sensitive_groups(Registry([made])) == ({made.name} if sensitive else set())


def test_a_group_over_a_sensitive_one_is_sensitive_too_and_one_over_another_is_not():
    pay, tall = group("pay", "salary"), group("tall", "height")
    later, taller = group("later", "it", pay), group("taller", "it", tall)
    assert sensitive_groups(Registry([taller, group("latest", "it", later), tall])) == {"pay", "later", "latest"}


def test_what_a_model_learned_from_sensitive_groups_is_sensitive():
    pay, tall = group("pay", "salary"), group("tall", "height")
    models = [
        ModelSpec(f"of_{g.name}", FeatureService(f"s_{g.name}", [g], **ABOUT), "tall:it", None, **ABOUT)
        for g in (pay, tall)
    ]
    made = [group(f"from_{m.name}", "prediction", m.predictions(person)) for m in models]
    assert sensitive_groups(Registry([pay, tall, *models, *made])) == {"pay", "from_of_pay"}


def test_a_name_is_sensitive_where_one_of_its_majors_is():
    assert sensitive_groups(Registry([group("pay", "salary"), group("pay", "height", version="2.0.0")])) == {"pay"}
