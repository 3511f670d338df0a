"""Rollback and release of majors, of pushed groups, of every kind of group, and after random schedules."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from card_payments import ABOUT, HOUR, T0, amount, card, payments
from features import Feature, FeatureGroup
from features.capacity import Capacity
from features.errors import GroupHeld, InvalidInput
from infra.storage.push_log import LmdbPushLog
from versioned_home import CARDS, Home, group


def test_going_back_to_another_major_changes_what_the_name_means(tmp_path):
    home, one, two = Home(tmp_path), group("1.0.0"), group("2.0.0", 100)
    home.deploy(one)
    home.write((1, 1, 5, -9))
    home.run()
    home.deploy(one, two)
    home.run("g@2")
    assert home.answers()[0] == 500
    home.rollback("1.0.0")
    assert home.answers()[0] == 5
    assert home.answers("g@2:v")[0] == 500
    with pytest.raises(GroupHeld, match="'g@2' is held at"):
        home.run("g@2")
    home.write((2, 1, 6, -1))
    home.run("g")  # the old major is as its code defines it: it goes on
    assert home.answers()[0] == 6
    assert home.store.versions.resting(two).startswith("held at 1.0.0")
    assert home.store.versions.resting(one) is None
    assert home.release().version == "2.0.0"
    home.run("g")
    assert home.answers()[0] == 600


def test_a_version_below_another_major_is_gone_back_to_at_once(tmp_path):
    home = Home(tmp_path)
    home.deploy(group("1.0.0"))
    home.write((1, 1, 5, -9))
    home.run()
    home.deploy(one := group("1.0.1", 10))
    home.backfill()
    home.deploy(one, group("2.0.0", 100))
    home.run("g@2")
    home.rollback("1.0.0")
    assert home.answers()[0] == 5
    home.deploy(one, group("2.0.0", 100), group("3.0.0"))
    with pytest.raises(InvalidInput, match="release it before it goes to another major"):
        home.rollback("2.0.0")
    home.release()
    assert home.answers("g@1:v")[0] == 50


def test_pushes_go_back_and_on_with_their_group(tmp_path):
    def push(card_id, at, value):
        home.tick()
        row = pl.DataFrame({"card_id": [card_id], "event_timestamp": [T0 + at * HOUR], "v": [value]})
        home.store.push("g", row)

    home = Home(tmp_path, push_log=LmdbPushLog(tmp_path / "push"), fold_after=None)
    home.deploy(group("1.0.0"))
    home.write((1, 1, 5, -9), (2, 2, 6, -8))
    home.run()
    push(3, -1, 0.5)  # folded by code of the next version
    home.deploy(group("1.0.1", 10))
    home.write((3, 1, 7, -2))
    home.run()
    push(2, -1, 2.5)
    assert home.answers() == [70, 2.5, 0.5]
    home.rollback("1.0.0")
    assert home.answers() == [5, 6, 0.5]
    with pytest.raises(GroupHeld):
        push(1, 0, 9.0)
    home.release()
    assert home.answers() == [70, 2.5, 0.5]
    push(1, 1, 9.0)
    assert home.answers()[0] == 9
    home.store.close()


@pytest.mark.parametrize("options", [{"online": False}, {"grain": "entity", "every": "1h"}], ids=["offline", "entity"])
def test_other_kinds_of_groups(tmp_path, options):
    home = Home(tmp_path, capacity=Capacity(rows=1))

    def version(number, factor):
        value = amount * factor if options.get("grain") is None else (amount * factor).sum()
        about = {"grain": "event", **ABOUT, **options}
        return FeatureGroup("g", number, card, payments, [Feature("v", value)], **about)

    def answered():
        home.tick()
        asked = pl.DataFrame({"card_id": CARDS, "event_timestamp": [home.now] * 3})
        return home.store.get_historical_features(asked, ["g:v"], history="as_served").to_polars()["v"].to_list()

    def run():
        home.tick()
        home.store.materialize_incremental("g")
        if options.get("online", True):
            home.store.sync("g")

    home.deploy(version("1.0.0", 1))
    home.write((1, 1, 5, -90), (2, 2, 6, -50))
    run()
    before = answered()
    home.deploy(version("1.0.1", 10))
    home.write((3, 1, 7, -26), (4, 3, 8, -2))
    run()
    after = answered()
    assert before != after
    home.rollback("1.0.0")
    assert answered() == before
    home.release()
    assert answered() == after


STEP = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 8), st.sampled_from(CARDS), st.integers(1, 9), st.integers(-40, 0)),
    st.just(("run",)),
    st.just(("backfill",)),
)


def steps(most):
    """Steps before, between and after two versions."""
    return st.tuples(*(st.lists(STEP, min_size=1, max_size=most) for _ in range(3)))


@settings(max_examples=4)
@given(steps=steps(4))
def test_whatever_was_written_rollback_and_release_return_to_what_was_answered(tmp_path_factory, steps):
    check_there_and_back(tmp_path_factory.mktemp("homes"), *steps)


@pytest.mark.prove
@settings(max_examples=80)
@given(steps=steps(6))
def test_whatever_many_wrote_rollback_and_release_return_to_what_was_answered(tmp_path_factory, steps):
    check_there_and_back(tmp_path_factory.mktemp("homes"), *steps)


def check_there_and_back(folder, first, second, third):
    home, seen = Home(folder / "home"), []
    first = [("write", 9, 1, 5, -41), *first]  # a version that never wrote a row cannot be gone back to
    for version, factor, steps in (("1.0.0", 1, first), ("1.0.1", 10, second)):
        home.deploy(group(version, factor))
        for name, *arguments in [*steps, ("run",)]:
            getattr(home, name)(*([tuple(arguments)] if arguments else []))
        seen.append((home.answers(), home.standing()))
    home.rollback("1.0.0")
    assert home.answers() == seen[0][0]
    home.release()
    assert (home.answers(), home.standing()) == seen[1]

    undisturbed = Home(folder / "undisturbed")
    undisturbed.deploy(group("1.0.1", 10))
    for name, *arguments in [*first, ("run",), *second, ("run",)]:
        getattr(undisturbed, name)(*([tuple(arguments)] if arguments else []))
    for each in (home, undisturbed):
        for name, *arguments in [*third, ("backfill",)]:
            getattr(each, name)(*([tuple(arguments)] if arguments else []))
        each.backfill()
    assert home.answers() == undisturbed.answers()
    assert home.standing() == undisturbed.standing()
