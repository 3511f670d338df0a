"""Sensor frames: what several sensors say of one moment, judged before anything is made of it.

One broken rule of the rig (``expectations.rig``) sends the frame to safe mode, and every broken rule is
reported and logged, not the first alone. Whatever a frame holds, the answer is a verdict: what cannot be
judged is a failure.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from expectations.result import Finding, Severity
from expectations.rig import Jump, Kind, Rig, Sensor, Signal

Array = npt.NDArray[Any]
Value = Array | float | int

_LOG = logging.getLogger(__name__)
_LEVELS = {
    Severity.LOW: logging.INFO,
    Severity.MEDIUM: logging.WARNING,
    Severity.HIGH: logging.ERROR,
    Severity.CRITICAL: logging.CRITICAL,
}
_LAST_STAMP = 2**63 - 1


@dataclass(frozen=True)
class Reading:
    """What one sensor says: its stamp in microseconds since the epoch, and its values by signal."""

    at: int
    values: Mapping[str, Value]


Frame = Mapping[str, Reading]
"""The readings of one moment, by sensor."""


@dataclass(frozen=True, kw_only=True)
class Failure(Finding):
    """A rule that a frame broke: the value that did (of several the worst), and what the rule allows.

    Times are in milliseconds.
    """

    sensor: str
    value: object
    limit: str


@dataclass(frozen=True)
class FrameVerdict:
    """Everything that is wrong with one frame."""

    failures: tuple[Failure, ...]

    @property
    def safe_mode(self) -> bool:
        """Whether the frame must not be acted on."""
        return bool(self.failures)

    @property
    def severity(self) -> Severity | None:
        """The worst failure's severity; None for a good frame."""
        return max((failure.severity for failure in self.failures), default=None)


@dataclass(frozen=True)
class _Break:
    """A broken rule, before it is known which: its kind, the worst value, and how many are bad."""

    kind: Kind
    value: object
    failed: int = 1
    checked: int = 1
    signal: str | None = None


@dataclass
class _Past:
    """What is remembered of one sensor: its last stamp, and the last readings of each signal with a jump limit."""

    window: int
    at: int | None = None
    values: dict[str, deque[tuple[int, Array]]] = field(default_factory=dict)

    def keep(self, at: int, values: Mapping[str, Array]) -> None:
        """Remember a reading. One that is seen again counts once."""
        if at != self.at:
            for signal, value in values.items():
                self.values.setdefault(signal, deque(maxlen=self.window)).append((at, value))
        self.at = at


class FrameCheck:
    """Judges the frames of one rig, in the order in which they come, and logs every failure.

    It remembers a few readings of each signal, so one vehicle has one check; it is not made for threads.
    """

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._past = {sensor.name: _Past(rig.window) for sensor in rig.sensors}

    def check(self, frame: Frame) -> FrameVerdict:
        """Judge one frame. Never raises: what a rule cannot judge is a failure too."""
        failures: list[Failure] = []
        stamps: dict[str, int] = {}
        for sensor in self._rig.sensors:
            with np.errstate(all="ignore"):
                failures += [self._failure(sensor, broken) for broken in self._guarded(sensor, frame, stamps)]
        newest = max(stamps.values(), default=0)
        for sensor in self._rig.sensors:
            behind = newest - stamps.get(sensor.name, newest)
            if behind > self._rig.tolerance(sensor):
                failures.append(self._failure(sensor, _Break(Kind.ALIGNED, behind / 1000)))
        for failure in failures:
            _LOG.log(_LEVELS[failure.severity], "rig %s, safe mode: %s", self._rig.name, failure.message)
        return FrameVerdict(tuple(failures))

    def _failure(self, sensor: Sensor, broken: _Break) -> Failure:
        rule = self._rig.rules[sensor.name, broken.signal, broken.kind]
        count = f" ({broken.failed:,} of {broken.checked:,})" if broken.checked > 1 else ""
        return Failure(
            rule.name,
            rule.kind.severity,
            rule.subject,
            broken.failed,
            broken.checked,
            f"{rule.subject} {rule.kind.complaint}{count}: {broken.value}, allowed: {rule.limit}",
            sensor=sensor.name,
            value=broken.value,
            limit=rule.limit,
        )

    def _guarded(self, sensor: Sensor, frame: Frame, stamps: dict[str, int]) -> Iterator[_Break]:
        try:
            yield from self._sensor(sensor, frame, stamps)
        except Exception as error:  # noqa: BLE001 - whatever a reading does, the frame gets its verdict
            yield _Break(Kind.JUDGED, f"{type(error).__name__}: {error}")

    def _sensor(self, sensor: Sensor, frame: Frame, stamps: dict[str, int]) -> Iterator[_Break]:
        """What one sensor's reading breaks by itself; a usable stamp is added to ``stamps``."""
        reading: object = frame.get(sensor.name)
        if not isinstance(reading, Reading):
            yield _Break(Kind.PRESENT, None if reading is None else type(reading).__name__)
            return
        past, at = self._past[sensor.name], _stamp(reading.at)
        if at is None:
            yield _Break(Kind.TIME, _shown(reading.at))
        else:
            stamps[sensor.name] = at
            if past.at is not None and (at < past.at or (at == past.at and not sensor.period)):
                yield _Break(Kind.ORDER, (at - past.at) / 1000)
        steady: dict[str, Array] = {}
        sizes: dict[str, int] = {}
        for signal in sensor.signals:
            for broken in _signal(signal, reading.values.get(signal.name), sizes, at, past, steady):
                yield _Break(broken.kind, broken.value, broken.failed, broken.checked, signal.name)
        if at is not None:
            past.keep(at, steady)


def _stamp(at: object) -> int | None:
    """The stamp as a number, None if it is none."""
    if not isinstance(at, int | np.integer) or isinstance(at, bool | np.timedelta64):
        return None
    return int(at) if 0 <= at <= _LAST_STAMP else None


def _shown(at: object) -> object:
    """A wrong stamp as messages show it; a very long integer cannot be printed."""
    number = isinstance(at, float) or (isinstance(at, int) and abs(at) <= _LAST_STAMP)
    return at if number else type(at).__name__


def _signal(
    signal: Signal, value: object, sizes: dict[str, int], at: int | None, past: _Past, steady: dict[str, Array]
) -> Iterator[_Break]:
    """What one value breaks. One that later readings can be measured against is added to ``steady``."""
    if value is None:
        yield _Break(Kind.PRESENT, value)
        return
    array = _numbers(signal, value)
    if array is None:
        yield _Break(Kind.TYPE, f"{type(value).__name__} {getattr(value, 'dtype', '')}".rstrip())
        return
    if not _fits(signal, array.shape, sizes):
        yield _Break(Kind.SHAPE, array.shape)
        return
    if array.size:
        yield from _values(signal, array)
    if signal.jump and at is not None:
        now = array.astype(np.float64)
        yield from _spikes(signal.jump, now, at, past.values.get(signal.name, ()))
        if np.isfinite(now).all():
            steady[signal.name] = now


def _numbers(signal: Signal, value: object) -> Array | None:
    """The value as an array, None if it is anything but plain numbers of the signal's kind."""
    if isinstance(value, np.ma.MaskedArray) or not isinstance(value, int | float | np.number | np.ndarray):
        return None
    array: Array = np.asarray(value)
    return array if array.dtype.kind in ("iu" if signal.whole else "iuf") else None


def _fits(signal: Signal, shape: tuple[int, ...], sizes: dict[str, int]) -> bool:
    """Whether a shape is the declared one; ``sizes`` are the lengths that the sensor's dimensions have so far."""
    if len(shape) != len(signal.shape) or (0 in shape and not signal.empty):
        return False
    wanted = [sizes.setdefault(d, n) if isinstance(d, str) else d for d, n in zip(signal.shape, shape, strict=True)]
    return wanted == [*shape]


def _values(signal: Signal, array: Array) -> Iterator[_Break]:
    """Which values are not finite, and which of the finite ones are out of range."""
    measured = _lengths(array) if signal.length else array
    low, high = float(measured.min()), float(measured.max())
    if signal.low <= low and high <= signal.high and isfinite(low) and isfinite(high):
        return
    measured = measured.astype(np.float64)
    finite = np.isfinite(array).all(axis=-1) if signal.length else np.isfinite(array)
    if not finite.all():
        yield _Break(Kind.FINITE, float(measured[~finite][0]), int((~finite).sum()), finite.size)
    excess = np.maximum(signal.low - measured, measured - signal.high)
    outside = finite & (excess > 0)
    if outside.any():
        worst = measured[outside][excess[outside].argmax()]
        yield _Break(Kind.RANGE, float(worst), int(outside.sum()), finite.size)


def _lengths(array: Array) -> Array:
    """The lengths of the vectors in the last dimension, in double precision.

    Column by column, which takes half the time of ``einsum``.
    """
    squares = np.zeros(array.shape[:-1])
    for axis in range(array.shape[-1]):
        column = array[..., axis].astype(np.float64)
        column *= column
        squares += column
    return np.asarray(np.sqrt(squares))


def _spikes(jump: Jump, value: Array, at: int, past: Iterable[tuple[int, Array]]) -> Iterator[_Break]:
    """Which values lie further from the median of the readings before them than they can.

    The median does not follow a single spike, so the good reading after it passes. Where half of the past
    readings themselves jump about that far (their MAD), no reading can be trusted.
    """
    earlier = [(stamp, seen) for stamp, seen in past if stamp < at]
    if not earlier:
        return
    stamps, seen = [stamp for stamp, _ in earlier], np.stack([value for _, value in earlier])
    allowed = jump.noise + jump.per_second * (at - median(stamps)) / 1e6
    middle = _median(seen)
    jumped = np.maximum(np.abs(value - middle), _median(np.abs(seen - middle)))
    spiked = np.isfinite(value) & (jumped > allowed)
    if spiked.any():
        yield _Break(Kind.SPIKE, float(jumped[spiked].max()), int(spiked.sum()), value.size)


def _median(values: Array) -> Array:
    """The median along the first dimension; of a few values, four times as fast as ``np.median``."""
    ordered = np.sort(values, axis=0)
    half = len(ordered) // 2
    return np.asarray((ordered[half] + ordered[~half]) / 2)
