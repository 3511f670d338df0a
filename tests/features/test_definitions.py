"""Wrong definitions: each is refused when it is written down, by name and with a remedy."""

from __future__ import annotations

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
