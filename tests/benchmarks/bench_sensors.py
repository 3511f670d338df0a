"""Sensor frames: how long the slowest of a hundred checks takes, of a frame with 100,000 lidar points."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.measurement import Measurement, seconds
from expectations.sensors import Frame, FrameCheck, Reading
from expectations.suites.driving import driving

POINTS = 100_000
FRAMES, CLOUDS = 1_000, 10
PERIOD = 50_000


def frame_check() -> Measurement:
    """The 99th percentile of a frame's check, against one NumPy line on its points alone; float64."""
    return _frame_check(np.float64)


def frame_check_float32() -> Measurement:
    """The same in single precision, as lidars deliver it."""
    return _frame_check(np.float32)


def _frame_check(precision: type[np.floating[Any]]) -> Measurement:
    rng = np.random.default_rng(5)
    clouds = [rng.uniform(-57, 57, (POINTS, 3)).astype(precision) for _ in range(CLOUDS)]
    check = FrameCheck(driving)
    checks, naives = [], []
    for number in range(FRAMES):
        cloud = clouds[number % CLOUDS]
        frame = _frame(cloud, number)
        # In turn, so that a busy moment of the machine hits both.
        checks.append(seconds(lambda frame=frame: _passes(check, frame)))
        naives.append(seconds(lambda cloud=cloud: _within(cloud)))
    value, baseline = (float(np.percentile(times, 99)) for times in (checks, naives))
    return Measurement(value, "s", baseline, value / baseline)


def _passes(check: FrameCheck, frame: Frame) -> None:
    assert not check.check(frame).safe_mode


def _within(cloud: Any) -> None:
    assert (np.linalg.norm(cloud, axis=1) <= 100).all()


def _frame(cloud: Any, number: int) -> Frame:
    at = number * PERIOD
    values: dict[str, dict[str, Any]] = {
        "lidar": {"points": cloud},
        "camera": {"width": 1920, "height": 1080},
        "radar": {"speed": np.linspace(-30, 30, 64)},
        "imu": {"acceleration": np.array([0.1, 0.2, 9.8]), "rotation": np.zeros(3)},
        "gnss": {"latitude": 37.7, "longitude": -122.4, "altitude": 30.0},
        "can": {"speed": 20.0, "steering": 1.5},
    }
    return {sensor: Reading(at, read) for sensor, read in values.items()}
