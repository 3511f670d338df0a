"""The real driving minute as frames: at each camera frame the newest reading of every other sensor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from expectations.rig import Jump, Rig, Sensor, Signal
from expectations.sensors import Frame, Reading
from expectations.suites import driving

MINUTE = Path(__file__).resolve().parents[2] / "shared/data/driving/comma2k19_seg40"

# The receiver gives ten fixes a second and now and then leaves out one.
GNSS_PERIOD = 200_000

RIG = Rig(
    "comma2k19",
    [
        Sensor(
            "camera",
            [
                Signal(name="width", low=1164, high=1164, whole=True),
                Signal(name="height", low=874, high=874, whole=True),
            ],
        ),
        Sensor(
            "radar",
            [
                Signal(name="distance", shape=("track",), low=0, high=250, unit="m"),
                *driving.radar.signals,
            ],
            period=50_000,
        ),
        replace(driving.imu, period=10_000),
        replace(
            driving.gnss,
            signals=[*driving.gnss.signals, Signal(name="speed", low=0, high=100, unit="m/s", jump=Jump(0.5, 15))],
            period=GNSS_PERIOD,
        ),
        replace(driving.can, period=12_000),
    ],
)
"""The recorder's rig: free-running sensors, a smaller camera, no lidar. Other limits are those of ``driving``."""


def frames() -> list[Frame]:
    """Every camera frame from the moment on at which all sensors have spoken."""
    camera = _stamps("global_pose/frame_times")
    streams = {
        "camera": (camera, [{"width": 1164, "height": 874}] * len(camera)),
        "radar": _radar(),
        "imu": _columns(
            "processed_log/IMU/accelerometer/t",
            acceleration=_load("processed_log/IMU/accelerometer/value"),
            rotation=_load("processed_log/IMU/gyro/value"),
        ),
        "gnss": _gnss(),
        # Speed and steering come in messages of their own: the steering angle is the one known at the speed's moment.
        "can": _columns(
            "processed_log/CAN/speed/t",
            speed=_load("processed_log/CAN/speed/value")[:, 0],
            steering=_steering(),
        ),
    }
    begin = max(stamps[0] for stamps, _ in streams.values())
    return [_frame(streams, at) for at in camera[camera >= begin]]


Stream = tuple[Any, list[dict[str, Any]]]


def _frame(streams: dict[str, Stream], at: int) -> Frame:
    frame = {}
    for name, (stamps, values) in streams.items():
        newest = int(np.searchsorted(stamps, at, side="right")) - 1
        frame[name] = Reading(int(stamps[newest]), values[newest])
    return frame


def _load(name: str) -> Any:
    return np.load(MINUTE / f"{name}.npy", allow_pickle=False)


def _stamps(name: str) -> Any:
    return np.rint(_load(name) * 1e6).astype(np.int64)


def _columns(stamps: str, **values: Any) -> Stream:
    return _stamps(stamps), [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def _gnss() -> Stream:
    value = _load("processed_log/GNSS/live_gnss_ublox/value")
    latitude, longitude, speed, _, altitude, _ = value.T
    return _columns(
        "processed_log/GNSS/live_gnss_ublox/t", latitude=latitude, longitude=longitude, altitude=altitude, speed=speed
    )


def _steering() -> Any:
    angle, moments = _load("processed_log/CAN/steering_angle/value"), _stamps("processed_log/CAN/steering_angle/t")
    known = np.searchsorted(moments, _stamps("processed_log/CAN/speed/t"), side="right") - 1
    return angle[known]


def _radar() -> Stream:
    """Tracks come in bursts, one for each sweep; a sweep's stamp is that of its last track."""
    stamps, value = _stamps("processed_log/CAN/radar/t"), _load("processed_log/CAN/radar/value")
    ends = np.append(np.flatnonzero(np.diff(stamps) > 20_000) + 1, len(stamps))
    sweeps = np.split(value, ends[:-1])
    return stamps[ends - 1], [
        {"distance": np.hypot(sweep[:, 0], sweep[:, 1]), "speed": sweep[:, 2]} for sweep in sweeps
    ]
