"""Schedules to replay: what may happen to a world, in any order, as Hypothesis draws it."""

from __future__ import annotations

from hypothesis import strategies as st

from replay_world import CARDS

_CARD, _VALUE = st.sampled_from(CARDS), st.integers(1, 9)
_NUMBER = st.integers(0, 9)
_MINUTE = st.sampled_from([0, 0, 17, 40])
_PAYMENT = st.tuples(_CARD, st.integers(-14, 5), _VALUE, _MINUTE)  # late ones, and some of the future

tick = st.tuples(st.just("tick"), st.integers(1, 7))
back = st.tuples(st.just("back"), st.integers(1, 5))
write = st.lists(_PAYMENT, min_size=1, max_size=3).map(lambda rows: ("write", *rows))
correct = st.tuples(st.just("correct"), _NUMBER, _VALUE)
move = st.tuples(st.just("move"), _NUMBER, _CARD, _VALUE)
incremental = st.just(("incremental",))
backfill = st.tuples(st.just("backfill"), st.integers(-16, 12), st.integers(1, 30))
sync = st.just(("sync",))
push = st.tuples(st.just("push"), _CARD, st.integers(-9, 0), _VALUE)
fold = st.just(("fold",))
deploy, rollback, release = (st.just((name,)) for name in ("deploy", "rollback", "release"))

data = st.one_of(write, write, correct, move, push)
run = st.one_of(incremental, incremental, backfill, sync, fold)
version = st.one_of(deploy, rollback, release)

_AT = st.integers(1, 9)
crash = st.tuples(st.just("crash"), _AT, st.booleans(), st.one_of(run, run, data, version))
race = st.tuples(st.just("race"), st.integers(1, 6), st.one_of(run, write, correct, push), st.one_of(run, write))

anything = st.one_of(tick, tick, data, data, data, run, run, run, run, version)
"""Many short lives of a group: what arrives, what is run, and now and then another version."""

everything = ("backfill", -16, 99)
corrected = st.one_of(correct, move)
rewritten = st.one_of(tick, data, data, corrected, backfill, backfill, incremental, sync)
"""Histories that are written again and again."""


def schedules(*actions, most=14):
    """Lists of actions, after a first payment."""
    return st.tuples(write, st.lists(st.one_of(*actions), min_size=2, max_size=most)).map(
        lambda drawn: [drawn[0], *drawn[1]]
    )
