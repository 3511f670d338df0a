"""Rollback and release: every entity back at what it was answered, held there, and on from where it was."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from card_payments import ABOUT, HOUR, T0, amount, card, hours, paid, payments
from features import Feature, FeatureGroup, FeatureService, FeatureStore, Registry
from features.capacity import Capacity
from features.errors import GroupHeld, IncompatibleFeatureVersion, InvalidInput, NotRegistered
from infra.storage.delta import DeltaLake
from infra.storage.memory_store import MemoryOnlineStore
from infra.storage.push_log import LmdbPushLog

CARDS = [1, 2, 3]


def group(version, factor=1, *features, derived=(), name="g", **options):
    stored = [Feature("v", amount * factor), *features]
    return FeatureGroup(
        name, version, card, payments, stored, derived=derived, **{"grain": "event", **ABOUT, **options}
    )


class Home:
    """A lake and an online store under a clock, used by one version of the code after another."""

    def __init__(self, folder, **options):
        self.now = T0
        self.lake, self.online = DeltaLake(folder), MemoryOnlineStore()
        self.options = options
        self.store = None

    def deploy(self, *items):
        registry = Registry(items)
        self.store = FeatureStore(registry, self.lake, self.online, lambda: self.now, user="ann", **self.options)
        self.tick()
        self.store.apply()

    def tick(self, hours=1):
        self.now += hours * HOUR

    def write(self, *rows):
        """Payments as (id, card, amount, hours after T0)."""
        rows = [(number, card_id, float(value), hours(at)) for number, card_id, value, at in rows]
        self.store.write_source(payments, paid(*rows))

    def run(self, name="g"):
        self.tick()
        self.store.materialize_incremental(name)
        self.store.sync(name)

    def backfill(self, name="g"):
        self.tick()
        self.store.materialize(name, T0 - 99 * HOUR, self.now)
        self.store.sync(name)

    def rollback(self, version, name="g"):
        self.tick()
        return self.store.rollback(name, version)

    def release(self, name="g"):
        self.tick()
        return self.store.release(name)

    def answers(self, ref="g:v"):
        """What each card is answered online, after proving that both histories say the same now."""
        self.tick()
        found = self.store.get_online_features([ref], [{"card_id": c} for c in CARDS]).to_polars()
        name = ref.partition(":")[2]
        online = list(zip(found[name], found[f"{name}__status"], strict=True))
        asked = pl.DataFrame({"card_id": CARDS, "event_timestamp": [self.now] * len(CARDS)})
        for history in ("as_served", "backfilled"):
            offline = self.store.get_historical_features(asked, [ref], history=history)
            assert list(zip(offline.to_polars()[name], offline.statuses[name], strict=True)) == online
        return [value for value, _ in online]

    def standing(self):
        rows = self.store.current_rows("g").select("card_id", "event_timestamp", "v").collect()
        return sorted(rows.rows())


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
