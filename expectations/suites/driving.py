"""What the frame of a driving rig must look like: a triggered rig with lidar, camera, radar, IMU, GNSS and CAN.

Ranges are what the hardware can report, jumps what a road vehicle can do. A rig with other hardware replaces
sensors (``dataclasses.replace``) or declares its own.
"""

from __future__ import annotations

from expectations.rig import Jump, Rig, Sensor, Signal

_G = 9.80665

lidar = Sensor("lidar", [Signal(name="points", shape=("point", 3), length=True, low=0, high=100, unit="m")])
camera = Sensor(
    "camera",
    [
        Signal(name="width", low=1920, high=1920, unit="px", whole=True),
        Signal(name="height", low=1080, high=1080, unit="px", whole=True),
    ],
)
radar = Sensor("radar", [Signal(name="speed", shape=("track",), low=-50, high=50, unit="m/s")])
imu = Sensor(
    "imu",
    [
        # Potholes shake by 1 g, so a jump is no matter of a rate.
        Signal(name="acceleration", shape=(3,), low=-16 * _G, high=16 * _G, unit="m/s²", jump=Jump(4 * _G)),
        Signal(name="rotation", shape=(3,), low=-35, high=35, unit="rad/s", jump=Jump(5)),
    ],
)
gnss = Sensor(
    "gnss",
    [
        # 11 m of noise and 72 m/s; meridians close in towards the poles, so longitudes may change faster.
        Signal(name="latitude", low=-90, high=90, unit="°", jump=Jump(1e-4, 6.5e-4)),
        Signal(name="longitude", low=-180, high=180, unit="°", jump=Jump(6e-4, 4e-3)),
        Signal(name="altitude", low=-500, high=9000, unit="m", jump=Jump(10, 20)),
    ],
)
can = Sensor(
    "can",
    [
        Signal(name="speed", low=-20, high=100, unit="m/s", jump=Jump(0.5, 15)),
        Signal(name="steering", low=-900, high=900, unit="°", jump=Jump(5, 1200)),
    ],
)

driving = Rig("driving", [lidar, camera, radar, imu, gnss, can])
