"""Wrong definitions: each is refused when it is written down, by name and with a remedy."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import polars as pl
import pytest

from features import Entity, Feature, FeatureGroup, FeatureService, ModelSpec, Registry, Source
from features.errors import DefinitionError, IncompatibleFeatureVersion, InvalidInput, NotRegistered
from features.times import duration

card = Entity("card", keys={"card_id": pl.Int64})
payments = Source(
    "payments", schema={"card_id": pl.Int64, "amount": pl.Float64, "at": pl.Datetime}, event_timestamp="at"
)
ABOUT = {"owner": "o", "description": "d"}
amount = Feature("amount_last", pl.col("amount"))


def group(*features, name="spending", version="1.0.0", entity=card, source=payments, grain="event", **options):
    return FeatureGroup(name, version, entity, source, features or [amount], grain=grain, **(ABOUT | options))


LIMITS = pl.LazyFrame({"card_id": [1], "limit": [100.0]})


def with_limits(frame):
    return frame.join(LIMITS, on="card_id")


WRONG_GROUPS = [
    ({"version": "1.0"}, "not major.minor.patch"),
    ({"name": "Spending"}, "a name is lower case"),
    ({"name": "a__b"}, "a name is lower case"),
    ({"grain": "window"}, "grain 'window' but no `every`"),
    ({"grain": "window", "every": "1h"}, "have no `window`"),
    ({"grain": "entity"}, "give either `every` or `settle`"),
    ({"grain": "entity", "every": "1h", "settle": "1h"}, "give either `every` or `settle`"),
    ({"settle": "1h"}, "`settle` goes with grain 'entity' only"),
    ({"every": "1h"}, "`every` does not go with grain 'event'"),
    ({"grain": "row"}, "grain 'row' is not"),
    ({"ttl": "soon"}, "'soon' is not a duration"),
    ({"ttl": "0s"}, "longer than zero"),
    ({"publish_delay": "-1s"}, "publish_delay"),
    ({"derived": [Feature("amount_last", pl.col("amount_last"))]}, r"\['amount_last'\] are used twice"),
    ({"source": {"a": payments, "b": payments}}, "several inputs"),
    ({"version": 1}, r"version is 1 \(int\), not of type str: write it like '1.0.0'"),
    ({"entity": "card"}, "entity is 'card' .* not of type Entity"),
    ({"source": "payments"}, "source is str, not a Source or FeatureGroup"),
    ({"source": {"p": "payments"}}, "p is str, not a Source or FeatureGroup"),
    ({"derived": Feature("twice", pl.col("amount_last") * 2)}, "derived is .* not a list"),
    ({"derived": [pl.col("amount_last")]}, "an item of derived is .* not of type Feature"),
    ({"prepare_by": "card_id"}, "prepare_by is 'card_id' .* not a list: write it like"),
    ({"tags": "money"}, "tags is 'money' .* not a list"),
    ({"ttl": timedelta(days=1)}, "ttl is .* not of type str: write it like '15m'"),
    ({"publish_delay": 5}, "publish_delay is 5 .* not of type str"),
    ({"on_conflict": "newest"}, "on_conflict 'newest' is neither 'last' nor 'first'"),
    ({"owner": None}, "owner is None .* not of type str"),
    ({"prepare": "clean"}, "`prepare` is str: give a function"),
    ({"prepare": lambda: None}, r"`prepare` is called with one LazyFrame, which it does not take \(too many"),
    ({"source": {"p": payments}, "prepare": lambda q: q}, r"called with p=\.\.\., which it does not take"),
    ({"prepare": lambda p: p.join(LIMITS, on="card_id")}, "`prepare` uses 'LIMITS', a LazyFrame that is no input"),
    ({"prepare": partial(lambda p, limits: p.join(limits, on="card_id"), limits=LIMITS)}, "uses 'limits', a LazyFrame"),
    ({"prepare": lambda p: with_limits(p.head(5))}, "uses 'LIMITS', a LazyFrame"),
]


@pytest.mark.parametrize(("options", "message"), WRONG_GROUPS, ids=[m for _, m in WRONG_GROUPS])
def test_a_wrong_group_is_refused(options, message):
    with pytest.raises(DefinitionError, match=message):
        group(**options)


def test_a_window_group_must_keep_rows_until_their_windows_empty():
    week = Feature("n_7d", pl.len(), window="7d")
    with pytest.raises(DefinitionError, match="ttl '7d' is shorter than its largest window"):
        group(week, grain="window", every="1d", ttl="7d")
    assert group(week, grain="window", every="1d", ttl="8d").ttl == "8d"


def test_features_must_be_a_list_of_features():
    def made(features):
        return FeatureGroup("spending", "1.0.0", card, payments, features, grain="event", **ABOUT)

    for wrong, message in (
        (amount, "features is .* not a list"),
        ([pl.col("amount")], "an item of features is .* not of type Feature"),
        ({"amount": pl.col("amount")}, "features is .* not a list"),
        ("amount", "features is 'amount' .* not a list"),
    ):
        with pytest.raises(DefinitionError, match=message):
            made(wrong)


@pytest.mark.parametrize(
    "expr",
    [pl.col("amount").sum(), pl.col("amount").shift(1), pl.col("amount") - pl.col("amount").mean(), pl.len()],
    ids=str,
)
def test_an_event_expression_that_looks_at_other_rows_is_refused(expr):
    with pytest.raises(DefinitionError, match="feature 'x' of grain 'event' must be element-wise"):
        group(Feature("x", expr))


@pytest.mark.parametrize("grain", [{"grain": "entity", "settle": "1h"}, {"grain": "window", "every": "1h"}])
@pytest.mark.parametrize("expr", [pl.col("amount"), pl.col("amount") * 2 + pl.col("card_id")], ids=str)
def test_an_entity_expression_that_gives_a_value_per_row_is_refused(grain, expr):
    window = "1d" if "every" in grain else None
    with pytest.raises(DefinitionError, match=r"feature 'x' .* gives a value for each source row: aggregate"):
        group(Feature("x", expr, window=window), **grain)
    for fine in (expr.last(), expr.implode(), pl.len(), pl.lit(1)):
        assert group(Feature("x", fine, window=window), **grain)


def test_groups_that_form_a_cycle_are_refused():
    inputs = {"p": payments}
    first = group(Feature("a", pl.col("amount")), name="first", source=inputs, prepare=lambda p: p)
    second = group(Feature("b", pl.col("a")), name="second", source=first)
    inputs["p"] = second  # only a mapping that is changed afterwards can close a cycle
    with pytest.raises(DefinitionError, match="cycle: 'first' reads 'second' reads 'first'; take one"):
        Registry([first])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Entity("card", keys=["card_id"]), r"keys is \['card_id'\] \(list\), not a mapping"),
        (lambda: Entity("card", keys="card_id"), r"keys is 'card_id' \(str\), not a mapping"),
        (lambda: Entity("card", keys={"card_id": int}), "'card_id' the type <class 'int'>, which is no Polars type"),
        (lambda: Entity(3, keys={}), "name is 3"),
        (lambda: source(schema="amount"), "schema is 'amount' .* not a mapping"),
        (lambda: source(schema={"at": "datetime"}), "gives 'at' the type 'datetime', which is no Polars type"),
        (lambda: source(keys="card_id"), "keys is 'card_id' .* not a list"),
        (lambda: source(keys=["shop"]), "column 'shop' is not in its schema"),
        (lambda: source(event_timestamp="then"), "event_timestamp 'then' is not in its schema; add it or name one"),
        (lambda: source(event_timestamp="card_id"), "'card_id' is Int64, not a time: declare it as pl.Datetime"),
        (lambda: source(columns="amount"), "columns is 'amount' .* not of type Mapping"),
        (lambda: source(schema={"at": pl.Datetime, "o": pl.Object}), "'o' is Object, which cannot be stored"),
        (lambda: Feature("a", pl.col("a"), range=(2, 1)), r"range \(2, 1\) is not \(lowest, highest\)"),
        (lambda: Feature("a", pl.col("a"), range=5), "range 5 is not"),
        (lambda: Feature("a", pl.col("a"), tags="x"), "tags is 'x' .* not a list"),
        (lambda: Feature("a", pl.col("a"), window=7), "window is 7 .* not of type str"),
        (
            lambda: FeatureService("s", "spending:amount_last", **ABOUT),
            "features is 'spending:amount_last', not a list",
        ),
        (lambda: FeatureService("s", [amount], **ABOUT), "features holds Feature: list groups or references"),
        (lambda: FeatureService("s", [group()], request=["basket"], **ABOUT), "request is .* not a mapping"),
        (lambda: FeatureService("s", [group()], requires="spending>=1", **ABOUT), "requires is .* not a list"),
        (
            lambda: ModelSpec("m", "s", "spending:amount_last", None, **ABOUT),
            "service is 's' .* not of type FeatureSer",
        ),
        (lambda: model(label=amount), "label is .* not of type str"),
        (lambda: model(metrics="mae"), "metrics is 'mae' .* not a list"),
        (lambda: model(label_delay=3), "a duration is 3 .* not of type str"),
        (lambda: model(label_delay="soon"), "'soon' is not a duration"),
    ],
)
def test_what_is_not_of_the_kind_asked_for_is_refused(make, message):
    with pytest.raises(DefinitionError, match=message):
        make()


def source(**options):
    schema = {"card_id": pl.Int64, "amount": pl.Float64, "at": pl.Datetime}
    return Source("payments", **({"schema": schema, "event_timestamp": "at"} | options))


def model(**options):
    service = FeatureService("s", [group()], **ABOUT)
    options = {"label": "spending:amount_last", "estimator": None, **ABOUT, **options}
    return ModelSpec("m", service, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Feature("event_timestamp", pl.col("a")), "reserved"),
        (lambda: Feature("a", 3), "expr is 3 .*not of type Expr"),
        (lambda: Feature("a", pl.col("a"), window="x"), "not a duration"),
        (lambda: Entity("card", keys={}), "has no keys"),
        (lambda: FeatureService("s", [], **ABOUT), "has no features"),
        (lambda: FeatureService("s", ["nothing"], **ABOUT).refs, "no feature reference"),
        (lambda: FeatureService("s", ["g@x:f"], **ABOUT).refs, "no feature reference"),
    ],
)
def test_other_wrong_definitions_are_refused(make, message):
    with pytest.raises(DefinitionError, match=message):
        make()


def test_a_registry_knows_what_its_items_refer_to():
    registry = Registry([group()])
    assert (list(registry.sources), list(registry.entities)) == (["payments"], ["card"])
    with pytest.raises(NotRegistered, match="feature group 'other' is not registered; there are"):
        registry.group("other")
    with pytest.raises(NotRegistered, match="'spending:other' is not defined"):
        registry.resolve(["spending:other"])
    with pytest.raises(NotRegistered, match="asks for major 2"):
        registry.resolve(["spending@2:amount_last"])


def test_a_registry_refuses_two_definitions_of_one_name():
    with pytest.raises(DefinitionError, match="two different definitions of feature group 'spending'"):
        Registry([group(), group()])
    with pytest.raises(DefinitionError, match="two different definitions of entity 'card'"):
        Registry([group(), group(name="other", entity=Entity("card", keys={"card_id": pl.String}))])


def test_upstream_groups_come_first():
    first = group()
    second = group(Feature("double", pl.col("amount_last") * 2), name="doubled", source=first)
    assert [g.name for g in Registry([second]).in_order()] == ["spending", "doubled"]


def test_a_model_that_needs_a_newer_group_is_refused():
    def registry(requirement):
        service = FeatureService("s", [group(version="1.2.0")], **ABOUT)
        return Registry([ModelSpec("m", service, "spending:amount_last", None, requires=[requirement], **ABOUT)])

    assert registry("spending>=1.1").models
    for requirement in ("spending>=1.3", "spending>=2.0"):
        with pytest.raises(IncompatibleFeatureVersion, match="requires spending"):
            registry(requirement)


@pytest.mark.parametrize("text", ["", "1", "h", "1 h", "1h ", "-1h", "1.5h"])
def test_a_duration_must_be_written_like_one(text):
    with pytest.raises(InvalidInput, match="not a duration"):
        duration(text)
