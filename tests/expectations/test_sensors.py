"""Sensor frames: whatever is broken is reported, and nothing else."""

from __future__ import annotations

import logging
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
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

START = 1_700_000_000_000_000
STEP = 4_000  # so short that a stamp may step back and still be aligned

# One of everything that a rig can declare.
RIG = Rig(
    "bench",
    [
        Sensor(
            "lidar",
            [
                Signal(name="points", shape=("point", 3), length=True, low=0.5, high=100, unit="m"),
                Signal(name="intensity", shape=("point",), low=0, high=1),
            ],
        ),
        Sensor("camera", [Signal(name="width", low=1920, high=1920, whole=True)]),
        Sensor("radar", [Signal(name="speed", shape=("track",), low=-50, high=50, empty=True)], period=50_000),
        Sensor("imu", [Signal(name="acceleration", shape=(3,), low=-160, high=160, jump=Jump(10))]),
        Sensor("can", [Signal(name="speed", low=-20, high=100, jump=Jump(0.5, 15)), Signal(name="gear", whole=True)]),
        Sensor("gnss", [Signal(name="altitude", high=9000, jump=Jump(10, 20))], period=100_000),
    ],
)

# ------------------------------------------------------------------------------------ good frames


def drives(rig: Rig) -> st.SearchStrategy[list[Frame]]:
    return st.builds(drive, st.just(rig), st.integers(0, 2**32), st.integers(1, 6))


def drive(rig: Rig, seed: int, length: int) -> list[Frame]:
    """Frames that keep every rule, often at its limit."""
    rng = np.random.default_rng(seed)
    sizes = {"point": int(rng.integers(1, 40)), "track": int(rng.integers(1, 9))}
    first = {(s.name, signal.name): _level(signal, rng) for s in rig.sensors for signal in s.signals}
    frames: list[dict[str, Reading]] = []
    for number in range(length):
        frame = {}
        for sensor in rig.sensors:
            if frames and sensor.period and rng.random() < 0.5:
                frame[sensor.name] = frames[-1][sensor.name]
                continue
            values = {g.name: _good(g, first[sensor.name, g.name], sizes, rng) for g in sensor.signals}
            frame[sensor.name] = Reading(START + number * STEP - int(rng.integers(0, 1_000)), values)
        frames.append(frame)
    return list(frames)


def _level(signal: Signal, rng: np.random.Generator) -> Any:
    """Where a signal that cannot jump starts: in the middle, far from its limits."""
    low, high = max(signal.low, -1e4), min(signal.high, 1e4)
    middle, span = (low + high) / 2, (high - low) / 4
    return rng.uniform(middle - span, middle + span, [n for n in signal.shape if isinstance(n, int)])


def _good(signal: Signal, level: Any, sizes: Mapping[str, int], rng: np.random.Generator) -> Any:
    shape = [sizes[n] if isinstance(n, str) else n for n in signal.shape]
    low, high = max(signal.low, -1e4), min(signal.high, 1e4)
    if signal.jump:
        value = level + rng.uniform(-0.499, 0.499, shape) * signal.jump.noise
    elif signal.whole:
        value = rng.integers(int(low), int(high), shape, endpoint=True)
    elif signal.length:
        ways = rng.normal(size=shape)
        radii = rng.uniform(low, high, shape[:-1])[..., None] * (1 - 1e-6) + low * 1e-6
        value = ways / np.linalg.norm(ways, axis=-1, keepdims=True) * radii
        value[0] = [high, 0, 0]
    else:
        value = rng.choice([low, high, rng.uniform(low, high)], shape)
    if not shape:
        return rng.choice([np.asarray(value).item, lambda: np.asarray(value)])()
    return np.asfortranarray(value) if rng.random() < 0.5 else value


def names(check: FrameCheck, frame: Frame) -> list[str]:
    return [failure.rule for failure in check.check(frame).failures]


def after(rig: Rig, frames: list[Frame]) -> FrameCheck:
    check = FrameCheck(rig)
    assert [names(check, frame) for frame in frames] == [[] for _ in frames]
    return check


@pytest.mark.parametrize("rig", [RIG, driving], ids=lambda rig: rig.name)
@given(st.data())
def test_good_frames_pass(rig: Rig, data: st.DataObject) -> None:
    after(rig, data.draw(drives(rig)))


@given(drives(RIG))
def test_single_precision_passes_too(frames: list[Frame]) -> None:
    def single(value: Any) -> Any:
        return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float64 else value

    after(RIG, [_each_value(frame, single) for frame in frames])


@given(drives(RIG))
def test_a_radar_that_may_see_nothing_may_see_nothing(frames: list[Frame]) -> None:
    after(RIG, [{**frame, "radar": Reading(frame["radar"].at, {"speed": np.empty(0)})} for frame in frames])


# ------------------------------------------------------------------------- every rule broken in turn


class Hostile(UserDict[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("the driver crashed")

    get = __getitem__  # type: ignore[assignment]


BAD_STAMPS = [
    -1,
    2**63,
    10**5000,
    1.5,
    float("nan"),
    None,
    "now",
    True,
    np.datetime64(0, "us"),
    np.timedelta64(1, "us"),
]
NO_READINGS: list[Any] = [None, {}, 7, "reading", np.zeros(3), Reading]
NO_NUMBERS: list[Any] = [
    "1.0",
    b"1",
    True,
    [1.0, 2.0],
    {},
    object(),
    10**400,
    1j,
    np.bool_(True),  # noqa: FBT003 - the value is the point
    np.datetime64(0, "us"),
    np.timedelta64(1, "us"),
    np.array([1.0, None], dtype=object),
    np.array([True]),
    np.array(["1.0"]),
    np.array([1j]),
    np.zeros(2, dtype=[("x", "f4")]),
    np.ma.masked_array([1.0], [True]),
]

Breaker = Callable[[st.DataObject, Rig, FrameRule, list[Frame]], tuple[list[Frame], Frame]]
"""Takes good frames, and gives those to show first and the one in which just that rule is broken."""


def _with(frame: Frame, rule: FrameRule, **changes: Any) -> Frame:
    return {**frame, rule.sensor: replace(frame[rule.sensor], **changes)}


def _with_value(frame: Frame, rule: FrameRule, value: Any) -> Frame:
    return _with(frame, rule, values={**frame[rule.sensor].values, rule.signal: value})


def _each_value(frame: Frame, change: Callable[[Any], Any]) -> Frame:
    return {name: replace(r, values={k: change(v) for k, v in r.values.items()}) for name, r in frame.items()}


def _signal(rig: Rig, rule: FrameRule) -> Signal:
    signals = {(sensor.name, signal.name): signal for sensor in rig.sensors for signal in sensor.signals}
    return signals[rule.sensor, str(rule.signal)]


def _value(frame: Frame, rule: FrameRule) -> Any:
    return np.array(frame[rule.sensor].values[str(rule.signal)])


def _plain(array: Any) -> Any:
    return array if array.shape else array.item()


def break_presence(data: st.DataObject, _rig: Rig, rule: FrameRule, frames: list[Frame]) -> tuple[list[Frame], Frame]:
    *before, frame = frames
    gone = data.draw(st.booleans())
    if rule.signal is None:
        rest = {name: reading for name, reading in frame.items() if name != rule.sensor}
        return before, rest if gone else {**rest, rule.sensor: data.draw(st.sampled_from(NO_READINGS))}
    values = {name: value for name, value in frame[rule.sensor].values.items() if name != rule.signal}
    return before, _with(frame, rule, values=values if gone else {**values, rule.signal: None})


def break_time(data: st.DataObject, _rig: Rig, rule: FrameRule, frames: list[Frame]) -> tuple[list[Frame], Frame]:
    *before, frame = frames
    return before, _with(frame, rule, at=data.draw(st.sampled_from(BAD_STAMPS)))


def break_order(data: st.DataObject, rig: Rig, rule: FrameRule, frames: list[Frame]) -> tuple[list[Frame], Frame]:
    before = frames[:-1] or frames
    free = any(sensor.period for sensor in rig.sensors if sensor.name == rule.sensor)
    last = before[-1][rule.sensor].at
    others = {name: replace(reading, at=START + len(before) * STEP) for name, reading in frames[-1].items()}
    return before, _with(others, rule, at=last - data.draw(st.integers(1 if free else 0, 3_000)))


def break_alignment(data: st.DataObject, rig: Rig, rule: FrameRule, frames: list[Frame]) -> tuple[list[Frame], Frame]:
    """In the first frame, as a stamp that far behind would be a step back later."""
    newest = max(reading.at for name, reading in frames[0].items() if name != rule.sensor)
    tolerance = next(rig.tolerance(sensor) for sensor in rig.sensors if sensor.name == rule.sensor)
    return [], _with(frames[0], rule, at=newest - tolerance - data.draw(st.sampled_from([1, 7, 10**6, START // 2])))


def break_type(data: st.DataObject, rig: Rig, rule: FrameRule, frames: list[Frame]) -> tuple[list[Frame], Frame]:
    *before, frame = frames
    wrong = [*NO_NUMBERS, 1920.0, np.float32(1), np.zeros(())] if _signal(rig, rule).whole else NO_NUMBERS
    return before, _with_value(frame, rule, data.draw(st.sampled_from(wrong)))


def break_shape(data: st.DataObject, rig: Rig, rule: FrameRule, frames: list[Frame]) -> tuple[list[Frame], Frame]:
    *before, frame = frames
    value, signal = _value(frame, rule), _signal(rig, rule)
    wrong = [value[None], value[..., None]]
    if signal.shape:
        wrong += [value[0, ...], np.zeros(())]
        wrong += [] if signal.empty else [value[:0]]
    if 3 in signal.shape:
        wrong += [value[..., :2], np.concatenate([value, value[..., :1]], axis=-1)]
    return before, _with_value(frame, rule, data.draw(st.sampled_from([w.astype(value.dtype) for w in wrong])))


def break_finiteness(data: st.DataObject, _rig: Rig, rule: FrameRule, frames: list[Frame]) -> tuple[list[Frame], Frame]:
    *before, frame = frames
    value = _value(frame, rule).astype(data.draw(st.sampled_from([np.float64, np.float32])))
    place = data.draw(st.integers(0, value.size - 1))
    value.flat[place] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    return before, _with_value(frame, rule, _plain(value))


def break_range(data: st.DataObject, rig: Rig, rule: FrameRule, frames: list[Frame]) -> tuple[list[Frame], Frame]:
    """In the first frame, as a value that leaves the range may also jump."""
    value, signal = _value(frames[0], rule), _signal(rig, rule)
    ends = [end for end in (signal.low, signal.high) if np.isfinite(end) and not (signal.length and end == 0)]
    end = data.draw(st.sampled_from(ends))
    away = -1 if end == signal.low and (signal.low < signal.high or data.draw(st.booleans())) else 1
    if signal.whole:
        outside: Any = int(end) + away * data.draw(st.sampled_from([1, 2, 10**12]))
    elif signal.length:
        far = st.sampled_from([end * (1 + 1e-12), end + 1, 1e30, 1e200])
        near = st.sampled_from([end * (1 - 1e-12), 0.0])
        outside = [data.draw(far if away > 0 else near), 0.0, 0.0]
    else:
        outside = data.draw(st.sampled_from([np.nextafter(end, away * np.inf), end + away, away * 1e30, away * 1e308]))
    places = value.reshape(-1, 3) if signal.length else value.reshape(-1)
    places[data.draw(st.integers(0, len(places) - 1))] = outside
    return [], _with_value(frames[0], rule, _plain(value))


def break_steadiness(data: st.DataObject, rig: Rig, rule: FrameRule, frames: list[Frame]) -> tuple[list[Frame], Frame]:
    before = frames[:-1] or frames
    frame = {name: replace(r, at=START + len(before) * STEP) for name, r in frames[-1].items()}
    seen = {one[rule.sensor].at: _value(one, rule) for one in before}  # by stamp: a reading seen twice counts once
    jump = _signal(rig, rule).jump
    assert jump is not None
    stamps = sorted(seen)[-5:]
    elapsed = frame[rule.sensor].at - np.median(stamps)
    allowed = jump.noise + jump.per_second * elapsed / 1e6
    middle = np.median([seen[stamp] for stamp in stamps], axis=0)
    value = np.array(_value(frame, rule), dtype=np.float64)
    place = data.draw(st.integers(0, value.size - 1))
    away = data.draw(st.sampled_from([-1, 1])) * data.draw(st.sampled_from([1 + 1e-6, 1.5, 2]))
    value.flat[place] = middle.flat[place] + away * allowed
    return before, _with_value(frame, rule, _plain(value))


def break_judging(data: st.DataObject, _rig: Rig, rule: FrameRule, frames: list[Frame]) -> tuple[list[Frame], Frame]:
    *before, frame = frames
    return before, _with(frame, rule, values=data.draw(st.sampled_from([Hostile(), None, 3, [1]])))


BREAKERS: Mapping[Kind, Breaker] = {
    Kind.PRESENT: break_presence,
    Kind.TIME: break_time,
    Kind.ORDER: break_order,
    Kind.ALIGNED: break_alignment,
    Kind.TYPE: break_type,
    Kind.SHAPE: break_shape,
    Kind.FINITE: break_finiteness,
    Kind.RANGE: break_range,
    Kind.SPIKE: break_steadiness,
    Kind.JUDGED: break_judging,
}
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
