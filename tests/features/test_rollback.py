"""Rollback and release: every entity back at what it was answered, held there, and on from where it was."""

from __future__ import annotations

import polars as pl
import pytest

from card_payments import ABOUT, amount, card, hours, payments
from features import Feature, FeatureGroup, FeatureService, FeatureStore
from features.errors import GroupHeld, IncompatibleFeatureVersion, InvalidInput, NotRegistered
from versioned_home import CARDS, Home, group


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    home.deploy(group("1.0.0"))
    home.write((1, 1, 5, -9), (2, 2, 6, -8))
    home.run()
    home.deploy(group("1.1.0", 10, Feature("extra", amount)))
    home.backfill()
    home.write((3, 1, 7, -1), (4, 3, 8, -1))
    home.run()
    assert home.answers() == [70, 60, 80]
    return home


def test_a_rollback_brings_back_what_each_entity_was_answered(home):
    done = home.rollback("1.0.0")
    assert (done.version, done.rows) == ("1.0.0", 3)
    assert home.answers() == [5, 6, None]
    assert home.store.get_online_features(["g:v"], [{"card_id": 3}]).statuses["v"] == ["NOT_FOUND"]


def test_what_was_served_before_the_rollback_stays_what_it_was(home):
    before = home.now
    home.rollback("1.0.0")
    home.tick()
    asked = pl.DataFrame({"card_id": CARDS, "event_timestamp": [before] * 3})
    found = home.store.get_historical_features(asked, ["g:v"], history="as_served")
    assert found.to_polars()["v"].to_list() == [70, 60, 80]


def test_a_held_group_is_not_computed_and_apply_does_not_undo_it(home):
    home.rollback("1.0.0")
    home.write((5, 1, 9, -1))
    for deploy in (lambda: None, lambda: home.deploy(group("1.2.0", 100, Feature("extra", amount)))):
        deploy()
        for use in (home.run, home.backfill):
            with pytest.raises(GroupHeld, match=r"'g' is held at 1\.0\.0 since 2026-03-01 .* by ann: release it"):
                use()
        home.store.sync("g")
        assert home.answers() == [5, 6, None]
        assert home.store.plan()["g"].held.startswith("held at 1.0.0")


def test_a_run_that_began_before_the_hold_cannot_undo_it(home):
    other = FeatureStore(home.store.registry, home.lake, home.online, lambda: home.now)
    known = other.versions.computing("g")
    home.rollback("1.0.0")
    home.write((5, 1, 9, -1))
    with pytest.raises(GroupHeld):
        other._materializer.incremental(known)
    assert home.lake.feature_table("g/v1", {"card_id": pl.Int64()}, ["card_id"]).unfinished() is None


def test_a_manifest_says_the_version_that_is_held(home):
    definitions = {row["version"]: row["fingerprint"] for row in home.lake.definitions().to_dicts()}
    home.rollback("1.0.0")
    home.tick()
    asked = pl.DataFrame({"card_id": [1], "event_timestamp": [home.now]})
    facts = home.store.get_historical_features(asked, ["g:v"]).manifest["groups"]["g"]
    assert (facts["version"], facts["fingerprint"]) == ("1.0.0", definitions["1.0.0"])
    assert home.store.provenance("g")["version"] == "1.0.0"


def test_what_the_held_version_does_not_have_is_refused_by_name_of_the_hold(home):
    twice = Feature("twice", pl.col("v") * 2)
    home.deploy(group("1.2.0", 10, Feature("extra", amount), derived=[twice]))
    home.rollback("1.0.0")
    asked = pl.DataFrame({"card_id": [1], "event_timestamp": [home.now]})
    for ref in ("g:extra", "g:twice"):
        for read in (
            lambda ref=ref: home.store.get_historical_features(asked, [ref]),
            lambda ref=ref: home.store.get_online_features([ref], [{"card_id": 1}]),
        ):
            with pytest.raises(IncompatibleFeatureVersion, match=r"held at 1\.0\.0 since .*, which does not have it"):
                read()


def test_a_derived_feature_that_the_held_version_computed_otherwise_is_refused(tmp_path):
    home = Home(tmp_path)
    for version, factor in (("1.0.0", 1), ("1.0.1", 2)):
        home.deploy(group(version, factor, derived=[Feature("d", pl.col("v") * factor), Feature("e", pl.col("v"))]))
        home.write((factor, 1, 5, -9))
        home.run()
    home.rollback("1.0.0")
    home.tick()
    assert home.store.get_online_features(["g:e"], [{"card_id": 1}]).to_dict()["e"] == [5]
    with pytest.raises(IncompatibleFeatureVersion, match="computes it otherwise"):
        home.store.get_online_features(["g:d"], [{"card_id": 1}])


def test_a_service_that_requires_more_than_is_held_is_refused(home):
    service = FeatureService("s", ["g:v"], requires=["g>=1.1"], **ABOUT)
    home.deploy(group("1.1.0", 10, Feature("extra", amount)), service)
    home.store.get_online_features(service, [{"card_id": 1}])
    home.rollback("1.0.0")
    with pytest.raises(IncompatibleFeatureVersion, match=r"service 's' requires g>=1\.1, but g 1\.0\.0 is held"):
        home.store.get_online_features(service, [{"card_id": 1}])


def test_a_release_puts_back_what_was_answered_and_runs_go_on_from_there(home):
    standing = home.standing()
    home.rollback("1.0.0")
    home.write((5, 2, 9, 0), (6, 3, 4, -7))
    done = home.release()
    assert (done.version, home.answers(), home.standing()) == ("1.1.0", [70, 60, 80], standing)
    home.run()
    assert home.answers() == [70, 90, 80]  # the newer payment of card 2; the late one of card 3 beats nothing
    home.backfill()
    assert home.answers() == [70, 90, 80]


def test_payments_found_after_a_release_count_from_their_time_and_hide_nothing_of_before(home):
    before = home.now
    home.rollback("1.0.0")
    home.release()
    home.write((5, 1, 1, -20), (6, 2, 9, 0))
    home.backfill()
    assert home.answers() == [70, 90, 80]
    asked = pl.DataFrame({"card_id": CARDS, "event_timestamp": [before] * 3})
    then = home.store.get_historical_features(asked, ["g:v"]).to_polars()["v"]
    assert then.to_list() == [70, 90, 80]
    long_ago = asked.with_columns(event_timestamp=pl.lit(hours(-15)))
    assert home.store.get_historical_features(long_ago, ["g:v"]).to_polars()["v"].to_list() == [10, None, None]


def test_rolled_back_twice_with_a_release_between(home):
    home.rollback("1.0.0")
    home.release()
    home.write((5, 2, 9, 0))
    home.run()
    home.rollback("1.0.0")
    assert home.answers() == [5, 6, None]
    home.release()
    assert home.answers() == [70, 90, 80]


def test_a_held_group_goes_on_to_an_earlier_version_and_is_released_to_the_newest(tmp_path):
    home = Home(tmp_path)
    for number, version in enumerate(("1.0.0", "1.0.1", "1.0.2"), 1):
        home.deploy(group(version, number))
        home.write((number, 1, 1, number - 20))
        home.run()
    home.rollback("1.0.1")
    assert home.answers()[0] == 2
    home.rollback("1.0.0")
    assert home.answers()[0] == 1
    home.rollback("1.0.1")
    assert home.answers()[0] == 2
    home.release()
    assert home.answers()[0] == 3


def test_repeating_a_rollback_or_release_changes_nothing(home):
    for step in (lambda: home.rollback("1.0.0"), home.release):
        step()
        answers, version = home.answers(), home.lake.table("features/g/v1").version()
        assert step().rows == 0
        assert (home.answers(), home.lake.table("features/g/v1").version()) == (answers, version)


def test_the_last_plan_of_an_earlier_version_counts_where_the_target_wrote_nothing(home):
    home.deploy(group("1.2.0", 10, Feature("extra", amount), Feature("more", amount)))
    home.deploy(group("1.3.0", 1000, Feature("extra", amount), Feature("more", amount)))
    home.backfill()
    home.rollback("1.2.0")
    assert home.answers() == [70, 60, 80]


@pytest.mark.parametrize(
    ("version", "error", "message"),
    [
        ("1.1.0", InvalidInput, r"1\.1\.0 is the newest applied version: there is nothing to go back to"),
        ("0.9.0", InvalidInput, r"'0\.9\.0' was never applied; there are: 1\.0\.0, 1\.1\.0"),
    ],
)
def test_what_cannot_be_gone_back_to(home, version, error, message):
    with pytest.raises(error, match=message):
        home.rollback(version)
    assert home.store.versions.hold("g") is None


def test_a_group_that_never_had_a_row_is_not_emptied(tmp_path):
    home = Home(tmp_path)
    home.deploy(group("1.0.0"))
    home.deploy(group("1.0.1", 2))
    home.write((1, 1, 5, -9))
    home.run()
    with pytest.raises(InvalidInput, match=r"no row was written as 1\.0\.0 or before"):
        home.rollback("1.0.0")
    with pytest.raises(NotRegistered):
        home.rollback("1.0.0", "nobody")
    with pytest.raises(NotRegistered):
        home.release("nobody")


def test_a_plan_that_cannot_be_computed_does_not_stand_in_the_way(home):
    broken = Feature("v", amount.map_batches(lambda values: values.reshape((-1, 7)), pl.Float64, is_elementwise=True))
    home.deploy(FeatureGroup("g", "1.2.0", card, payments, [broken, Feature("extra", amount)], grain="event", **ABOUT))
    home.write((5, 1, 9, -1))
    with pytest.raises(InvalidInput):
        home.run()
    assert home.lake.feature_table("g/v1", {"card_id": pl.Int64()}, ["card_id"]).unfinished() is not None
    home.rollback("1.1.0")
    assert home.answers() == [70, 60, 80]
    home.deploy(group("1.3.0", 10, Feature("extra", amount)))
    home.release()
    home.run()
    assert home.answers() == [90, 60, 80]
