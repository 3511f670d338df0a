"""Frames of sensors: good ones as they are drawn, and each rule broken by itself."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from expectations.rig import FrameRule, Jump, Kind, Rig, Sensor, Signal
from expectations.sensors import Frame, FrameCheck, Reading

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


def each_value(frame: Frame, change: Callable[[Any], Any]) -> Frame:
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
