"""Sensor frames: whatever is broken is reported, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from expectations.result import Severity
from expectations.rig import FrameRule, Jump, Kind, Rig, Sensor, Signal
from expectations.sensors import Frame, FrameCheck, Reading
from expectations.suites.driving import driving
from features.errors import DefinitionError
from sensor_frames import (
    BAD_STAMPS,
    BREAKERS,
    NO_NUMBERS,
    NO_READINGS,
    RIG,
    START,
    Hostile,
    after,
    drives,
    each_value,
    names,
)


@pytest.mark.parametrize("rig", [RIG, driving], ids=lambda rig: rig.name)
@given(st.data())
def test_good_frames_pass(rig: Rig, data: st.DataObject) -> None:
    after(rig, data.draw(drives(rig)))


@given(drives(RIG))
def test_single_precision_passes_too(frames: list[Frame]) -> None:
    def single(value: Any) -> Any:
        return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float64 else value

    after(RIG, [each_value(frame, single) for frame in frames])


@given(drives(RIG))
def test_a_radar_that_may_see_nothing_may_see_nothing(frames: list[Frame]) -> None:
    after(RIG, [{**frame, "radar": Reading(frame["radar"].at, {"speed": np.empty(0)})} for frame in frames])


EVERY_RULE = [
    pytest.param(rig, rule, id=f"{rig.name}-{rule.name}") for rig in (RIG, driving) for rule in rig.rules.values()
]


@pytest.mark.parametrize(("rig", "rule"), EVERY_RULE)
@settings(max_examples=12, phases=[Phase.explicit, Phase.generate])  # a drive does not shrink
@given(st.data())
def test_the_rule_that_is_broken_is_the_one_reported(rig: Rig, rule: FrameRule, data: st.DataObject) -> None:
    before, frame = BREAKERS[rule.kind](data, rig, rule, data.draw(drives(rig)))
    verdict = after(rig, before).check(frame)
    assert verdict.safe_mode
    assert [(f.rule, f.sensor, f.limit, f.severity) for f in verdict.failures] == [
        (rule.name, rule.sensor, rule.limit, rule.kind.severity)
    ]
    assert verdict.failures[0].failed >= 1


@given(drives(RIG), st.data())
def test_all_that_is_broken_is_reported(frames: list[Frame], data: st.DataObject) -> None:
    own = [Kind.PRESENT, Kind.TIME, Kind.TYPE, Kind.SHAPE, Kind.FINITE, Kind.JUDGED]  # break nothing elsewhere
    frame, expected = frames[-1], []
    for sensor in data.draw(st.lists(st.sampled_from(RIG.sensors), unique_by=lambda sensor: sensor.name, min_size=1)):
        rules = [rule for rule in RIG.rules.values() if rule.sensor == sensor.name and rule.kind in own]
        rule = data.draw(st.sampled_from(rules))
        _, frame = BREAKERS[rule.kind](data, RIG, rule, [*frames[:-1], frame])
        expected.append(rule.name)
    assert sorted(names(after(RIG, frames[:-1]), frame)) == sorted(expected)


JUNK = st.sampled_from([*NO_NUMBERS, *BAD_STAMPS, *NO_READINGS, np.empty((0, 3)), np.full((2, 3), np.nan), Hostile()])


@given(drives(RIG), st.lists(JUNK, min_size=1, max_size=8), st.data())
def test_no_junk_raises_or_passes(frames: list[Frame], junk: list[Any], data: st.DataObject) -> None:
    check = FrameCheck(RIG)
    for frame, thing in zip(frames, junk, strict=False):
        sensor = data.draw(st.sampled_from([s.name for s in RIG.sensors]))
        made = {**frame, sensor: Reading(thing, data.draw(st.sampled_from([thing, {"speed": thing}])))}
        assert check.check(made).safe_mode
        assert check.check(thing).safe_mode


# ------------------------------------------------------------------------------------ by example


def can(number: int, speed: float, at: int | None = None) -> Frame:
    return {"can": Reading(START + number * 50_000 if at is None else at, {"speed": speed})}


CAN = Rig("can", [Sensor("can", [Signal(name="speed", low=0, high=100, unit="m/s", jump=Jump(0.5, 15))])])


def judged(*speeds: float) -> list[list[str]]:
    check = FrameCheck(CAN)
    return [names(check, can(number, speed)) for number, speed in enumerate(speeds)]


def test_one_spike_is_one_failure() -> None:
    spike = ["can.speed_spike"]
    assert judged(10, 10, 10, 40, 10, 10, 10) == [[], [], [], spike, [], [], []]


def test_a_sensor_that_jumps_about_is_not_trusted_where_it_passes_the_middle() -> None:
    assert judged(10, 10, 10, 40, 0, 60, 20, 20)[3:] == [["can.speed_spike"]] * 5


def test_what_is_not_finite_hides_no_spike_after_it() -> None:
    assert judged(10, float("nan"), 40)[1:] == [["can.speed_finite"], ["can.speed_spike"]]


def test_a_spike_seen_in_many_frames_counts_once() -> None:
    check = FrameCheck(replace(CAN, sensors=[replace(CAN.sensors[0], period=200_000)]))
    drive = [can(0, 10), can(1, 10), *[can(2, 40)] * 4, can(3, 10)]
    assert [len(names(check, frame)) for frame in drive] == [0, 0, 1, 1, 1, 1, 0]


def test_a_new_level_is_taken_once_half_of_the_window_has_it() -> None:
    assert [len(failures) for failures in judged(10, 10, 10, 10, 10, 40, 40, 40, 40, 40)] == [0] * 5 + [1, 1, 1, 0, 0]


def test_the_rate_gives_a_gap_its_time() -> None:
    check = FrameCheck(CAN)
    assert names(check, can(0, 10)) == []
    assert names(check, can(20, 25.4)) == []
    assert FrameCheck(CAN).check(can(0, 10)).failures == ()
    check = FrameCheck(CAN)
    assert names(check, can(0, 10)) == []
    assert names(check, can(20, 25.6)) == ["can.speed_spike"]


def test_a_clock_that_is_set_back_is_reported_once() -> None:
    check = FrameCheck(CAN)
    stamps = [START, START + 10, START - 10**9, START - 10**9 + 50_000]
    assert [names(check, can(0, 10, at)) for at in stamps] == [[], [], ["can_order"], []]


def test_a_free_running_sensor_that_stopped_is_late() -> None:
    rig = replace(CAN, sensors=[Sensor("camera", []), replace(CAN.sensors[0], period=100_000)])
    check = FrameCheck(rig)
    frames = [{"camera": Reading(START + n * 50_000, {}), **can(0, 10)} for n in range(4)]
    assert [names(check, frame) for frame in frames] == [[], [], [], ["can_aligned"]]


def test_alignment_allows_its_limit_and_no_microsecond_more() -> None:
    rig = Rig("two", [Sensor("a", []), Sensor("b", [])])
    for lag, late in ((10_000, []), (10_001, ["a_aligned"])):
        assert names(FrameCheck(rig), {"a": Reading(START - lag, {}), "b": Reading(START, {})}) == late


def test_values_of_one_thing_have_one_length() -> None:
    lidar = replace(RIG, sensors=RIG.sensors[:1])
    values = {"points": np.ones((5, 3)), "intensity": np.ones(4)}
    assert names(FrameCheck(lidar), {"lidar": Reading(START, values)}) == ["lidar.intensity_shape"]


def test_a_failure_says_how_many_and_the_worst() -> None:
    points = np.ones((100, 3))
    points[:3, 0] = [150, 250, 200]
    points[7, 1] = np.nan
    rig = replace(RIG, sensors=[Sensor("lidar", RIG.sensors[0].signals[:1])])
    first, second = FrameCheck(rig).check({"lidar": Reading(START, {"points": points})}).failures
    assert (first.rule, first.failed, first.checked) == ("lidar.points_finite", 1, 100)
    assert (second.rule, second.failed, second.checked, second.column) == ("lidar.points_range", 3, 100, "lidar.points")
    assert second.value == pytest.approx(np.hypot(250, np.sqrt(2)))
    assert second.message.startswith("lidar.points is out of range (3 of 100): 250.00")
    assert second.message.endswith("allowed: 0.5 to 100 m")


@contextmanager
def logged() -> Iterator[list[logging.LogRecord]]:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("expectations.sensors")
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)


def test_every_failure_is_logged_at_its_severity_and_a_good_frame_is_not() -> None:
    with logged() as records:
        check = FrameCheck(CAN)
        check.check(can(0, 10))
        assert records == []
        verdict = check.check(can(-1, 400))
    assert [record.levelname for record in records] == ["ERROR", "ERROR"]
    assert [record.getMessage() for record in records] == [f"rig can, safe mode: {f.message}" for f in verdict.failures]
    assert [failure.rule for failure in verdict.failures] == ["can_order", "can.speed_range"]
    assert verdict.severity is Severity.HIGH


def test_the_rules_of_a_rig_have_names_of_their_own() -> None:
    for rig in (RIG, driving):
        rules = [rule.name for rule in rig.rules.values()]
        assert len(set(rules)) == len(rules)


@pytest.mark.parametrize(
    ("define", "why"),
    [
        (lambda: Signal(name="x", low=2, high=1), "swap them"),
        (lambda: Signal(name="x", low=float("nan")), "swap them"),
        (lambda: Signal(name="x", length=True), "give its shape"),
        (lambda: Signal(name="x", shape=("n",), jump=Jump(1)), "drop the limit"),
        (lambda: Jump(-1), "not negative"),
        (lambda: Jump(1, float("inf")), "finite"),
        (lambda: Sensor("s", [], period=-1), "give microseconds"),
        (lambda: Sensor("s", [Signal(name="x"), Signal(name="x")]), "rename one"),
        (lambda: Rig("r", [Sensor("s", []), Sensor("s", [])]), "rename one"),
        (lambda: Rig("r", [], window=0), "at least 1 reading"),
        (lambda: Rig("r", [], alignment=-1), "at least 0"),
    ],
)
def test_a_rig_that_cannot_be_meant_is_refused(define: Callable[[], object], why: str) -> None:
    with pytest.raises(DefinitionError, match=why):
        define()
