"""The real driving minute: no false alarm in it, and no planted fault that gets through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from driving_minute import MINUTE, RIG, frames
from expectations.sensors import Frame, FrameCheck, FrameVerdict, Reading

pytestmark = pytest.mark.skipif(not MINUTE.is_dir(), reason="the folder of the real driving minute is absent")


@pytest.fixture(scope="module")
def minute() -> list[Frame]:
    return frames()


def verdicts(rig: Any, drive: list[Frame]) -> list[FrameVerdict]:
    check = FrameCheck(rig)
    return [check.check(frame) for frame in drive]


def test_less_than_one_good_frame_in_a_thousand_is_a_false_alarm(minute: list[Frame]) -> None:
    found = verdicts(RIG, minute)
    alarms = sum(verdict.safe_mode for verdict in found)
    rules = Counter(failure.rule for verdict in found for failure in verdict.failures)
    print(f"{alarms} of {len(minute)} frames are false alarms: {dict(rules)}")
    assert len(minute) == 1197
    assert alarms < 0.001 * len(minute)


def test_the_fixes_that_the_receiver_left_out_are_seen_where_none_may_be(minute: list[Frame]) -> None:
    strict = [replace(sensor, period=100_000) if sensor.name == "gnss" else sensor for sensor in RIG.sensors]
    late = [verdict for verdict in verdicts(replace(RIG, sensors=strict), minute) if verdict.safe_mode]
    assert len(late) == 37
    assert {failure.rule for verdict in late for failure in verdict.failures} == {"gnss_aligned"}


# ---------------------------------------------------------------------------------- planted faults


def shifted(sensor: str, signal: str, by: Any) -> Callable[[Frame], Frame]:
    """The signal's value, all of it or the first element, moved."""

    def plant(frame: Frame) -> Frame:
        value = np.array(frame[sensor].values[signal], dtype=np.float64)
        value.flat[0] += by
        values = {**frame[sensor].values, signal: value if value.shape else value.item()}
        return {**frame, sensor: replace(frame[sensor], values=values)}

    return plant


def delayed(sensor: str, by: int) -> Callable[[Frame], Frame]:
    return lambda frame: {**frame, sensor: replace(frame[sensor], at=frame[sensor].at - by)}


def lost(sensor: str) -> Callable[[Frame], Frame]:
    return lambda frame: {name: reading for name, reading in frame.items() if name != sensor}


FAULTS: Mapping[str, tuple[str, Callable[[Frame], Frame]]] = {
    "speed jumps by 5 m/s": ("can.speed_spike", shifted("can", "speed", 5.0)),
    "speed is negative": ("can.speed_range", shifted("can", "speed", -60.0)),
    "speed is not a number": ("can.speed_finite", shifted("can", "speed", np.nan)),
    "steering jumps by 250°": ("can.steering_spike", shifted("can", "steering", 250.0)),
    "a hit on the accelerometer": ("imu.acceleration_spike", shifted("imu", "acceleration", 60.0)),
    "a gyro overflow": ("imu.rotation_spike", shifted("imu", "rotation", -8.0)),
    "the position is 200 m off": ("gnss.latitude_spike", shifted("gnss", "latitude", 0.0018)),
    "the altitude is 30 m off": ("gnss.altitude_spike", shifted("gnss", "altitude", 30.0)),
    "a radar ghost": ("radar.speed_range", shifted("radar", "speed", 75.0)),
    "a radar echo from 400 m": ("radar.distance_range", shifted("radar", "distance", 400.0)),
    "a wide picture": (
        "camera.width_range",
        lambda f: {**f, "camera": Reading(f["camera"].at, {"width": 1165, "height": 874})},
    ),
    "an IMU 35 ms late": ("imu_aligned", delayed("imu", 35_000)),
    "a fix 220 ms late": ("gnss_aligned", delayed("gnss", 220_000)),
    "a stuck camera": ("camera_order", delayed("camera", 60_000)),
    "no radar": ("radar_present", lost("radar")),
}


@pytest.mark.parametrize(("rule", "plant"), FAULTS.values(), ids=FAULTS)
def test_no_planted_fault_gets_through(minute: list[Frame], rule: str, plant: Callable[[Frame], Frame]) -> None:
    """In every 20th frame; the frames in between stay good, save that the next may repeat the reading."""
    drive = [plant(frame) if number % 20 == 10 else frame for number, frame in enumerate(minute)]
    found = verdicts(RIG, drive)
    missed = [n for n in range(10, len(drive), 20) if rule not in [failure.rule for failure in found[n].failures]]
    assert missed == []
    assert [n for n, verdict in enumerate(found) if verdict.safe_mode and n % 20 not in (10, 11)] == []
