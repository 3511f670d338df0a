"""The promise, replayed: the properties of SEMANTICS over random schedules of whatever may happen to a group."""

from __future__ import annotations

import itertools
import random
import shutil
from dataclasses import replace

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

import oracle
from features.times import duration
from replay_schedules import anything, back, corrected, crash, everything, race, rewritten, schedules
from replay_world import CARDS, HOUR, LIVE, SHAPES, T0, WINDOWS, Setting, World

SETTINGS = st.builds(
    Setting,
    shape=st.just(""),
    live=st.sampled_from(["live", *LIVE]),
    keyed=st.sampled_from([True, True, False]),
    lmdb=st.booleans(),
    rows=st.sampled_from([None, None, None, 2]),
)


def play(folder, setting, schedule, until=None, altered=None, *, pushing=False):
    """A world after a schedule, in which rows that arrive after ``until`` are left out or ``altered``.

    With ``pushing`` only those of the source are left out, and other values are pushed.
    """
    world = World(folder, setting)
    world.until, world.altered, world.pushing = until, altered, pushing
    for action in schedule:
        world.act(action)
    return world


def check_real(world):
    """At every past moment as_served says what the online store answered, value and status.

    While a killed sync is open, either answer is right (SEMANTICS.md §2).
    """
    since = world.open_since()
    closed = [place for place, (_, moment) in enumerate(world.asked) if since is None or moment < since]
    asked, answers = ([each[place] for place in closed] for each in (world.asked, world.answers))
    assert world.offline_answers(asked, "as_served") == answers


def check_parity(world):
    """Once every plan is published, both histories agree with the online store."""
    world.settle()
    now = [(card_id, world.now) for card_id in CARDS]
    online = world.online_answers()
    for history in ("as_served", "backfilled"):
        assert world.offline_answers(now, history) == online, history


def check_rerun(world):
    """Running everything again changes nothing."""
    content, served = world.content(), world.offline_answers(world.asked, "backfilled")
    assert world.store.materialize_incremental("g").rows == 0
    assert world.store.fold("g").plan is None
    assert world.store.sync("g").rows == 0
    assert world.content() == content
    assert world.offline_answers(world.asked, "backfilled") == served


def wanted(world):
    """{(card, event_timestamp): v} of a backfill over everything, by hand."""
    events, shape = world.events(), SHAPES[world.setting.shape]
    if shape["grain"] == "event":
        # Without source keys the greatest value counts, with them the greatest key.
        ordered = events if world.setting.keyed else sorted(events)
        return {(card_id, at): value for card_id, at, value in ordered}
    if "settle" in shape:
        found = oracle.settled_rows(events, duration(shape["settle"]), world.now)
    elif shape["grain"] == "entity":
        found = oracle.boundary_rows(events, duration(shape["every"]), world.now)
    else:
        every, delay = duration(shape["every"]), duration(shape.get("publish_delay", "0h"))
        spans = [duration(window) for window in WINDOWS[world.setting.shape]]
        known = oracle.windows_as_known(world.versions, every, spans, delay, world.now)
        return {key: sum(version["amount"] for version in long) for key, (long, _) in known.items()}
    return {key: sum(values) for key, values in found.items()}


def check_content(world):
    """After a backfill of everything, which finds nothing more when it is repeated, stands what the source says."""
    world.store.materialize("g", T0, world.now)
    assert world.store.materialize("g", T0 + HOUR, world.now).rows == 0  # another one: the same is known to be done
    if SHAPES[world.setting.shape].get("on_conflict") == "first":
        return  # what came first depends on the runs
    found = {(card_id, at): value for card_id, at, value, _ in world.content()}
    factor, right = 1 if world.version == "1.0.0" else 10, wanted(world)
    assert {key: found.get(key) for key in right} == {key: value * factor for key, value in right.items()}
    more = found.keys() - right.keys() - world.pushed
    if SHAPES[world.setting.shape]["grain"] == "entity":  # earlier states stay, and say what was so by then
        earlier = oracle.states_at(more, world.events(), seen_at_moment="settle" in SHAPES[world.setting.shape])
        assert {key: found[key] for key in more} == {key: sum(values) * factor for key, values in earlier.items()}
    else:
        assert not more


def check_alone(folder, setting, schedule):
    """What is proved of one world."""
    world = play(folder, setting, schedule)
    check_real(world)
    check_parity(world)
    check_rerun(world)
    check_real(world)
    check_content(world)
    world.close()


def check_leak(folder, setting, before, after):
    """No row that arrived after a moment t influences an answer at or before t.

    Where later rows have other values, nothing is different. Where there are none, a backfill may show more,
    for a row that it made of a later one too is not known before that arrived; but of windows, which look at
    what was known at each boundary, and of sources in which everything arrives in time, nothing is different.
    That something was pushed may show, what it was may not: it makes its key live, and corrections of a live
    key count from their publication (SEMANTICS.md §2).
    """
    # So that there is something to rewrite, and that it is rewritten.
    before, after = [*before, everything], [*after, everything]
    full = play(folder / "full", setting, before)
    until = full.now
    moments = [(card_id, until - n * HOUR / 2) for n in range(80) for card_id in CARDS]
    then, pushed = full.offline_answers(moments, "backfilled"), set(full.pushed)
    for action in after:
        full.act(action)
    made_live = {card_id for card_id, _ in full.pushed - pushed}
    altered = play(folder / "altered", setting, [*before, *after], until, 100)
    without = play(folder / "without", setting, [*before, *after], until)
    unfed = without
    if made_live:
        unfed = play(folder / "unfed", setting, [*before, *after], until, pushing=True)
    for history in ("as_served", "backfilled"):
        assert altered.offline_answers(moments, history) == full.offline_answers(moments, history), history
    shown, more, live = (world.offline_answers(moments, "backfilled") for world in (full, without, unfed))
    if setting.live == "history" or SHAPES[setting.shape]["grain"] == "window":
        assert shown == live
        for (card_id, _), answer, right in zip(moments, shown, more, strict=True):
            assert answer == right or card_id in made_live
    else:
        for answer, least, most in zip(shown, then, more, strict=True):
            assert answer in (least, most)
    for world in {full, altered, without, unfed}:
        world.close()


def check_return(folder, setting, before, after):
    """A rollback and its release leave in history "backfilled" what was before them.

    Whatever is written and backfilled later, it says what it said, or what it says without the two.
    """
    before = [*before, everything, ("deploy",), everything, ("sync",)]
    after = [*after, everything, ("sync",)]
    world = play(folder / "returned", setting, before)
    moments = [(card_id, world.now - n * HOUR / 2) for n in range(80) for card_id in CARDS]
    then = world.offline_answers(moments, "backfilled")
    for action in [("rollback",), ("release",), *after]:
        world.act(action)
    stayed = play(folder / "stayed", setting, [*before, ("tick", 0), ("tick", 0), *after])
    shown, unturned = (each.offline_answers(moments, "backfilled") for each in (world, stayed))
    for answer, *right in zip(shown, then, unturned, strict=True):
        assert answer in right
    stayed.close()
    check_real(world)
    check_parity(world)
    world.close()


def check_crash(folder, setting, schedule):
    """Whatever crashed, in the end all is as if it had not."""
    if "deploy" in str(schedule):
        # What a killed run left to do may be done by the next version: only a backfill makes all rows of one.
        schedule = [*schedule, ("release",), everything]
    world = play(folder / "crashed", setting, schedule)
    check_real(world)
    undisturbed = [("tick", 0) if n in world.undone else action for n, action in enumerate(schedule)]
    twin = play(folder / "twin", setting, [a[3] if a[0] == "crash" else a for a in undisturbed])
    check_alike(world, [twin])


def check_race(folder, setting, before, race, after):
    """Two actions at once leave what one after the other leaves, in one order or the other."""
    world = play(folder / "raced", setting, [*before, race, *after])
    check_real(world)
    orders = [world.raced, world.raced[::-1]][: len(world.raced) or 1]
    serial = [[*before, ("both", *order), *after] for order in orders]
    check_alike(world, [play(folder / str(number), setting, schedule) for number, schedule in enumerate(serial)])


def check_alike(world, twins):
    """In the end the same stands and is answered as in one of other worlds."""
    contents = []
    for twin in twins:
        twin.settle()
        contents.append((twin.content(), twin.online_answers()))
        twin.close()
    check_parity(world)
    assert world.open_since() is None
    check_real(world)
    assert (world.content(), world.online_answers()) in contents
    check_rerun(world)
    world.close()


ALONE = {"setting": SETTINGS, "schedule": schedules(anything, back, most=10)}
LEAK = {
    "setting": SETTINGS,
    "before": schedules(anything, rewritten, most=4),
    "after": st.lists(st.one_of(rewritten, corrected), min_size=1, max_size=6),
}
RETURN = {
    # Where all counts from its event time, most of the past is written again.
    "setting": SETTINGS.map(lambda drawn: replace(drawn, live="history")),
    "before": schedules(rewritten, most=4),
    "after": st.lists(rewritten, min_size=1, max_size=6),
}
CRASH = {"setting": SETTINGS, "schedule": schedules(anything, crash, crash, most=10)}
RACE = {
    "setting": SETTINGS,
    "before": schedules(anything, most=5),
    "race": race,
    "after": st.lists(anything, max_size=4),
}
each_shape = pytest.mark.parametrize("shape", SHAPES)


@each_shape
@settings(max_examples=4)
@given(**ALONE)
def test_one_world_is_real_has_parity_and_can_be_run_again(tmp_path_factory, shape, setting, **drawn):
    check_alone(tmp_path_factory.mktemp("world"), replace(setting, shape=shape), **drawn)


@each_shape
@settings(max_examples=3)
@given(**LEAK)
def test_nothing_leaks(tmp_path_factory, shape, setting, **drawn):
    check_leak(tmp_path_factory.mktemp("worlds"), replace(setting, shape=shape), **drawn)


@each_shape
@settings(max_examples=3)
@given(**RETURN)
def test_a_rollback_that_is_released_leaves_no_trace_before_it(tmp_path_factory, shape, setting, **drawn):
    check_return(tmp_path_factory.mktemp("worlds"), replace(setting, shape=shape), **drawn)


@each_shape
@settings(max_examples=4)
@given(**CRASH)
def test_crashes_leave_what_an_undisturbed_world_has(tmp_path_factory, shape, setting, **drawn):
    check_crash(tmp_path_factory.mktemp("worlds"), replace(setting, shape=shape), **drawn)


@each_shape
@settings(max_examples=3)
@given(**RACE)
def test_races_leave_what_one_after_the_other_leaves(tmp_path_factory, shape, setting, **drawn):
    check_race(tmp_path_factory.mktemp("worlds"), replace(setting, shape=shape), **drawn)


@pytest.mark.parametrize("shape", ["event", "settle", "every"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([("write", (1, -5, 3, 0))], [("move", 0, 2, 4)]),
        ([("write", (1, -5, 3, 0), (1, -5, 4, 0))], [("move", 1, 2, 4)]),
        ([("write", (1, -6, 3, 0), (1, -5, 4, 0))], [("move", 0, 2, 4), ("tick", 1)]),
        ([("write", (1, -1, 3, 0)), ("tick", 1), ("write", (1, -1, 4, 0))], [("move", 1, 2, 4)]),
    ],
    ids=["the only one", "the winner", "the first", "the one after"],
)
def test_a_payment_that_moves_away_leaves_no_trace_before_it_moved(tmp_path, shape, before, after):
    check_leak(tmp_path, Setting(shape), [*before, ("tick", 5)], after)


def test_that_a_key_was_pushed_may_show_before_it_was_but_no_value(tmp_path):
    before = [("write", (1, -11, 3, 0)), ("correct", 0, 1), ("sync",), ("correct", 0, 6)]
    after = [("push", 1, -9, 1), ("tick", 1), ("tick", 1), ("correct", 0, 1)]
    check_leak(tmp_path, Setting("window", live="midway"), before, after)


@pytest.mark.parametrize("lmdb", [False, True])
@pytest.mark.parametrize("killed", [(1, True), (2, False)], ids=["after the online write", "before the publish log"])
def test_a_killed_sync_is_open_until_the_next_one(tmp_path, lmdb, killed):
    check_crash(
        tmp_path,
        Setting("event", lmdb=lmdb),
        [("write", (1, 0, 1, 0)), ("incremental",), ("crash", *killed, ("sync",))],
    )


@pytest.mark.prove
@each_shape
@pytest.mark.parametrize(
    ("check", "drawn", "examples"),
    [
        (check_alone, ALONE, 150),
        (check_leak, LEAK, 80),
        (check_return, RETURN, 60),
        (check_crash, CRASH, 80),
        (check_race, RACE, 60),
    ],
    ids=["alone", "leak", "return", "crash", "race"],
)
def test_at_length(tmp_path, request, capsys, shape, check, drawn, examples):
    """Over 2,000 schedules in all; the seed is printed, and given again by --hypothesis-seed."""
    given_seed = request.config.getoption("--hypothesis-seed")
    number = random.SystemRandom().getrandbits(32) if given_seed is None else int(given_seed)
    with capsys.disabled():
        print(f"\n{check.__name__} {shape}: {examples} schedules with --hypothesis-seed={number} ", end="")
    counted = itertools.count()

    @seed(number)
    @settings(max_examples=examples, database=None)
    @given(**drawn)
    def replay(setting, **drawn):
        folder = tmp_path / str(next(counted))
        check(folder, replace(setting, shape=shape), **drawn)
        shutil.rmtree(folder)

    replay()
