"""What a simulated prober finds on one wafer: a round die map, hidden traits, readings and failures.

Each die has hidden traits (slow, leaky, dead) that depend on where it lies: worse towards the edge,
worse in clusters. The early tests measure the traits through noise; the long late tests (burn,
at_speed) fail because of them. So the final bin can be predicted from the early tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from infra.sources.stdf_writer import IntArray, ProbedParts, ProbeTest

Floats = NDArray[np.float64]
_Bools = NDArray[np.bool_]

TESTS = (
    ProbeTest(1000, "resistance", "Ohm", 0.0, 10.0, hard_bin=2),
    ProbeTest(1010, "vdd", "V", 1.0, 1.4, hard_bin=3),
    ProbeTest(1020, "idd", "mA", 0.0, 200.0, hard_bin=3),
    ProbeTest(1030, "leakage", "uA", 0.0, 30.0, hard_bin=3),
    ProbeTest(1040, "vth", "V", 0.35, 0.55, hard_bin=3),
    ProbeTest(1050, "frequency", "MHz", 1000.0, 3000.0, hard_bin=4),
    ProbeTest(1060, "temperature", "degC", -40.0, 125.0, hard_bin=4),
    ProbeTest(1070, "bandgap", "V", 1.15, 1.25, hard_bin=4),
    ProbeTest(1080, "gain", "dB", 15.0, 25.0, hard_bin=4),
    ProbeTest(1090, "jitter", "ps", 0.0, 20.0, hard_bin=4),
    ProbeTest(2000, "burn", "uA", 0.0, 40.0, hard_bin=5),
    ProbeTest(2010, "at_speed", hard_bin=6, functional=True),
)
"""The test program in order: ten quick parametric tests, then the two long ones."""

LONGEST_TEST_MS = 500
"""No part takes longer (and none less than 10 ms)."""
LOT_SIGMA = 0.01
"""Lot-to-lot spread of a measured value, in units of its spread over dies; the same every day."""

_COLUMN = {test.name: i for i, test in enumerate(TESTS)}
_AT_SPEED = _COLUMN["at_speed"]
_LO = np.array([-np.inf if test.lo is None else test.lo for test in TESTS])
_HI = np.array([np.inf if test.hi is None else test.hi for test in TESTS])
_GLITCHES = {"vdd": 9.9, "idd": 999.0, "frequency": 9999.0, "temperature": 999.0}
"""Readings that cannot be; a clean reading of these four tests always lies within its limits."""
_NAMED = [_COLUMN[name] for name in _GLITCHES]
_EDGE_MM = 3.0


@dataclass(frozen=True)
class Recipe:
    """How one product differs from another: die pitch in mm, nominal clock in MHz, test time in ms."""

    die_width_mm: float
    die_height_mm: float
    clock: float
    test_ms: float


@dataclass(frozen=True)
class Conditions:
    """What holds for all dies of a wafer.

    ``vdd`` in V; ``shift`` of shape (tests,) is the lot's offset of each value in units of its spread over
    dies; ``retest_rate`` is a share of the failing dies, ``bad_reading_rate`` one of the parts.
    """

    vdd: float
    shift: Floats
    retest_rate: float
    bad_reading_rate: float


@dataclass(frozen=True)
class DieMap:
    """The dies of a round wafer in probing order (row by row, back and forth); lengths in mm.

    ``x`` and ``y`` are columns and rows from 1, ``center`` those of the die in the wafer's middle;
    ``right`` and ``up`` are distances from it; ``radius`` runs from 0 to 1 (the outermost die).
    """

    x: IntArray
    y: IntArray
    right: Floats
    up: Floats
    radius: Floats
    center: tuple[int, int]
    wafer_mm: float


@lru_cache(maxsize=16)
def round_map(dies: int, width: float, height: float) -> DieMap:
    """The smallest round, symmetric map with at least ``dies`` dies of that size in mm.

    >>> wafer = round_map(300, 2.4, 2.1)
    >>> len(wafer.x), wafer.center, wafer.wafer_mm
    (303, (10, 11), 53.0)
    """
    reach = int(np.sqrt(dies) * max(width / height, height / width)) + 2
    steps = np.arange(-reach, reach + 1)
    row, column = (grid.ravel() for grid in np.meshgrid(steps, steps, indexing="ij"))
    distance = np.hypot(column * width, row * height)
    outermost = float(np.sort(distance)[dies - 1])
    order = np.lexsort((np.where(row % 2 == 0, column, -column), row))
    order = order[distance[order] <= outermost * (1 + 1e-9)]
    row, column, distance = row[order], column[order], distance[order]
    center = (int(1 - column.min()), int(1 - row.min()))
    return DieMap(
        x=column + center[0],
        y=row + center[1],
        right=column * width,
        up=row * height,
        radius=distance / max(outermost, 1e-9),
        center=center,
        wafer_mm=float(np.ceil(2 * outermost + max(width, height) + 2 * _EDGE_MM)),
    )


def probe(
    die_map: DieMap,
    recipe: Recipe,
    conditions: Conditions,
    draw: np.random.Generator,
    glitches: np.random.Generator,
) -> ProbedParts:
    """Probe every die once, then a share of those that failed once more.

    Every draw is made for every die, so no reading depends on which dies fail or glitch.
    """
    count = len(die_map.x)
    weak = draw.random(count) < _hazard(die_map, draw)
    traits = _Traits(
        slow=draw.normal(size=count) + 1.5 * weak,
        leaky=draw.normal(size=count) + 1.5 * weak,
        dead=draw.random(count) < 0.004 + 0.05 * weak,
        burn=draw.normal(size=count) + 1.5 * weak,
        speed=draw.normal(size=count) + 2.0 * weak,
    )
    values = np.concatenate([_readings(traits, recipe, conditions, draw) for _ in range(2)])
    _plant(values, conditions.bad_reading_rate, glitches)
    failed = (values < _LO.astype(np.float32)) | (values > _HI.astype(np.float32))
    failed[:, _AT_SPEED] = np.tile(_too_slow(traits, conditions.vdd), 2)
    again = failed[:count].any(axis=1) & (draw.random(count) < conditions.retest_rate)
    test_ms = draw.normal(recipe.test_ms, 5.0, 2 * count).round().clip(10, LONGEST_TEST_MS).astype(np.int64)
    probed = np.concatenate([np.ones(count, dtype=bool), again])
    return ProbedParts(
        x=np.tile(die_map.x, 2)[probed],
        y=np.tile(die_map.y, 2)[probed],
        test_ms=test_ms[probed],
        values=values[probed],
        failed=failed[probed],
    )


@dataclass(frozen=True)
class _Traits:
    """The hidden state of each die, all of shape (dies,); standard normal where the die is not weak.

    ``burn`` and ``speed`` are what only the late tests see.
    """

    slow: Floats
    leaky: Floats
    dead: _Bools
    burn: Floats
    speed: Floats


def _hazard(die_map: DieMap, draw: np.random.Generator) -> Floats:
    """The chance of each die to be weak: radial, at the edge, and in this wafer's clusters."""
    hazard = 0.03 + 0.05 * die_map.radius**2 + 0.12 * (die_map.radius > 0.92)
    extent = float(np.abs(die_map.right).max())
    for _ in range(draw.poisson(0.6)):
        right, up = draw.uniform(-0.8, 0.8, 2) * extent
        size = draw.uniform(0.10, 0.18) * max(extent, 1.0)
        distance = np.hypot(die_map.right - right, die_map.up - up)
        hazard += 0.8 * np.exp(-0.5 * (distance / size) ** 2)
    return np.minimum(hazard, 0.95)


def _readings(
    traits: _Traits, recipe: Recipe, conditions: Conditions, draw: np.random.Generator
) -> NDArray[np.float32]:
    """One touch of every die: shape (dies, tests), NaN for the functional test."""
    slow, leaky = traits.slow, traits.leaky
    noise = draw.normal(size=(len(slow), len(TESTS))) + conditions.shift
    # A bad contact reads a high resistance; the next touch usually cures it.
    contact = (draw.random(len(slow)) < 0.006) * (12.0 + draw.exponential(5.0, len(slow)))
    columns = {
        "resistance": 2.0 + 0.2 * noise[:, 0] + contact,
        "vdd": conditions.vdd + 0.009 * noise[:, 1],
        "idd": 80.0 + 3.0 * leaky + 2.5 * noise[:, 2] + 30.0 * traits.dead,
        "leakage": 8.0 * np.exp(0.2 * leaky + 0.15 * noise[:, 3] + 2.0 * traits.dead),
        "vth": 0.45 + 0.004 * slow + 0.008 * noise[:, 4],
        "frequency": recipe.clock - 40.0 * slow + 40.0 * noise[:, 5],
        "temperature": 55.0 + 4.0 * noise[:, 6],
        "bandgap": 1.2 + 0.006 * noise[:, 7],
        "gain": 20.0 - 0.2 * slow + 0.6 * noise[:, 8],
        "jitter": 8.0 + 0.4 * slow + 0.8 * noise[:, 9],
        "burn": 12.0 * np.exp(0.3 * leaky + 0.2 * traits.burn + 0.05 * noise[:, 10]),
        "at_speed": np.full(len(slow), np.nan),
    }
    values = np.stack([columns[test.name] for test in TESTS], axis=1)
    values[:, _NAMED] = values[:, _NAMED].clip(_LO[_NAMED], _HI[_NAMED])
    return values.astype(np.float32)


def _too_slow(traits: _Traits, vdd: float) -> _Bools:
    """at_speed fails slow dies, and more of them the further the supply is above 1.20 V (hold times)."""
    return 0.75 * traits.slow + 0.66 * traits.speed + 0.9 * (vdd - 1.20) / 0.05 > 2.3


def _plant(values: NDArray[np.float32], rate: float, glitches: np.random.Generator) -> None:
    """Overwrite one named reading of a share of the parts with a value that cannot be."""
    rows = np.flatnonzero(glitches.random(len(values)) < rate)
    which = glitches.integers(len(_NAMED), size=len(rows))
    values[rows, np.array(_NAMED)[which]] = np.array(list(_GLITCHES.values()), dtype=np.float32)[which]
