"""Rigs: which sensors a frame needs and what their signals must look like, as data.

The rules follow from the declaration (``Rig.rules``); ``expectations.sensors`` judges frames by them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from math import inf, isfinite

from expectations.result import Severity
from features.errors import DefinitionError


class Kind(Enum):
    """What a rule asks, how bad breaking it is, and what is said then."""

    PRESENT = "present", Severity.CRITICAL, "is missing"
    TIME = "time", Severity.CRITICAL, "has no usable stamp"
    ORDER = "order", Severity.HIGH, "does not step forward in time"
    ALIGNED = "aligned", Severity.HIGH, "lags behind the frame's newest reading"
    TYPE = "type", Severity.CRITICAL, "has the wrong type"
    SHAPE = "shape", Severity.CRITICAL, "has the wrong shape"
    FINITE = "finite", Severity.HIGH, "is NaN or infinite"
    RANGE = "range", Severity.HIGH, "is out of range"
    SPIKE = "spike", Severity.MEDIUM, "jumps further than it can"
    JUDGED = "judged", Severity.CRITICAL, "could not be judged"

    def __init__(self, label: str, severity: Severity, complaint: str) -> None:
        self.label = label
        self.severity = severity
        self.complaint = complaint


@dataclass(frozen=True)
class Jump:
    """How far a value may lie from the median of the readings before it: noise, and a rate times the time since."""

    noise: float
    per_second: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.noise < inf and 0 <= self.per_second < inf):
            raise DefinitionError(f"{self} is no limit: give finite numbers that are not negative")


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One value of a sensor and what it must look like.

    ``shape`` names the dimensions whose length varies; equal names in one sensor have equal lengths, and
    ``empty`` says whether that may be none. ``whole`` asks for integers. With ``length`` the last dimension
    is a vector, and the range is that of its length: the distance of a point. ``jump`` limits spikes.
    """

    name: str
    low: float = -inf
    high: float = inf
    unit: str = ""
    shape: tuple[int | str, ...] = ()
    empty: bool = False
    whole: bool = False
    length: bool = False
    jump: Jump | None = None

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise DefinitionError(f"signal {self.name!r}: low {self.low} is not below high {self.high}; swap them")
        if self.length and not self.shape:
            raise DefinitionError(f"signal {self.name!r} is a single number and has no length: give its shape")
        if self.jump and any(isinstance(size, str) for size in self.shape):
            raise DefinitionError(f"signal {self.name!r} varies in length, so its values cannot jump: drop the limit")

    @property
    def limits(self) -> dict[Kind, str]:
        """What each of the signal's rules allows."""
        limits = {
            Kind.PRESENT: "a value",
            Kind.TYPE: "integers" if self.whole else "numbers",
            Kind.SHAPE: f"({', '.join(map(str, self.shape))}){'' if self.empty else ', not empty'}",
        }
        if not self.whole:
            limits[Kind.FINITE] = "finite numbers"
        if isfinite(self.low) or isfinite(self.high):
            limits[Kind.RANGE] = f"{self.low:g} to {self.high:g} {self.unit}".rstrip()
        if self.jump:
            limits[Kind.SPIKE] = f"{self.jump.noise:g} {self.unit} + {self.jump.per_second:g} {self.unit}/s"
        return limits


@dataclass(frozen=True)
class Sensor:
    """One sensor of a rig. A free-running one declares its ``period`` (µs), others are triggered with the frame.

    The newest reading of a free-running sensor may be one period old, and serve two frames.
    """

    name: str
    signals: Sequence[Signal]
    period: int = 0

    def __post_init__(self) -> None:
        if self.period < 0:
            raise DefinitionError(f"sensor {self.name!r}: period {self.period} is negative; give microseconds")
        _distinct(f"sensor {self.name!r}", "signals", self.signals)


@dataclass(frozen=True)
class FrameRule:
    """One rule that a frame keeps or breaks."""

    sensor: str
    signal: str | None
    kind: Kind
    limit: str

    @property
    def subject(self) -> str:
        """The sensor or the signal that the rule is about."""
        return self.sensor if self.signal is None else f"{self.sensor}.{self.signal}"

    @property
    def name(self) -> str:
        """The rule's name in failures: "lidar_present", "lidar.points_range"."""
        return f"{self.subject}_{self.kind.label}"


@dataclass(frozen=True)
class Rig:
    """The sensors that a frame needs.

    No reading may lag more than ``alignment`` (µs), plus its sensor's period, behind the newest one of the
    frame. Spikes are measured against the median of the last ``window`` readings.
    """

    name: str
    sensors: Sequence[Sensor]
    alignment: int = 10_000
    window: int = 5

    def __post_init__(self) -> None:
        if self.alignment < 0 or self.window < 1:
            raise DefinitionError(f"rig {self.name!r}: alignment is at least 0 µs and window at least 1 reading")
        _distinct(f"rig {self.name!r}", "sensors", self.sensors)

    def tolerance(self, sensor: Sensor) -> int:
        """How far (µs) a sensor's reading may lag behind the frame's newest."""
        return self.alignment + sensor.period

    @cached_property
    def rules(self) -> Mapping[tuple[str, str | None, Kind], FrameRule]:
        """Every rule, by sensor, signal and kind."""
        rules: list[FrameRule] = []
        for sensor in self.sensors:
            limits = {
                Kind.PRESENT: "a reading",
                Kind.TIME: "whole microseconds, from 0 on",
                Kind.ORDER: "0 ms or more" if sensor.period else "more than 0 ms",
                Kind.ALIGNED: f"up to {self.tolerance(sensor) / 1000:g} ms",
                Kind.JUDGED: "no error",
            }
            rules += [FrameRule(sensor.name, None, kind, limit) for kind, limit in limits.items()]
            for signal in sensor.signals:
                rules += [FrameRule(sensor.name, signal.name, kind, limit) for kind, limit in signal.limits.items()]
        return {(rule.sensor, rule.signal, rule.kind): rule for rule in rules}


def _distinct(owner: str, what: str, parts: Iterable[Sensor | Signal]) -> None:
    names = [part.name for part in parts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DefinitionError(f"{owner} has two {what} called {twice}: rename one of each")
