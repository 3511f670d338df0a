"""A simulated fab: lots and wafers of a small factory, delivered as genuine STDF V4 files.

Every day is like every other until the process change, from which on the supply sits at 1.25 V instead
of 1.20 V; the at_speed test feels that, and the yield falls. Nothing else moves.

Everything random is drawn from (seed, day, wafer) in a fixed order: the same seed gives the same bytes,
and a day does not depend on which other days are generated.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from features.errors import InvalidInput
from features.times import as_utc
from infra.sources.simulated_probing import LONGEST_TEST_MS, LOT_SIGMA, TESTS, Conditions, Recipe, probe, round_map
from infra.sources.stdf_writer import IntArray, ProbedParts, ProbeTest, WaferRun, stdf_bytes, touchdown_of

VDD, VDD_CHANGED = 1.20, 1.25
"""The supply in V before the process change and from its day on."""

_RECIPES = (
    Recipe(die_width_mm=2.4, die_height_mm=2.1, clock=2000.0, test_ms=180.0),
    Recipe(die_width_mm=2.0, die_height_mm=2.5, clock=2060.0, test_ms=210.0),
)
_WAFER, _LOT, _GLITCH = range(3)
"""What a stream of random numbers is for."""

_FIRST_START = timedelta(minutes=30)
_WORKING_HOURS = timedelta(hours=22, minutes=30)
_LOAD_SECONDS = 300
_STEP_SECONDS = 20
"""Between two touchdowns: stepping, needle cleaning, thermal settling."""


@dataclass(frozen=True)
class SimulatedWafer:
    """One delivered file, and the truth behind it.

    ``parts`` is what was written, in file order, retests included. ``content`` are the file's bytes.
    """

    file_name: str
    run: WaferRun
    parts: ProbedParts
    content: bytes

    @property
    def lot_id(self) -> str:
        """The wafer's lot."""
        return self.run.lot_id

    @property
    def wafer_id(self) -> str:
        """The wafer within its lot."""
        return self.run.wafer_id

    @property
    def finished_at(self) -> datetime:
        """When the file is complete; aware, UTC."""
        return self.run.finished_at

    @property
    def part_count(self) -> int:
        """Parts in the file, retests included: its PRR records."""
        return len(self.parts.x)

    @property
    def die_count(self) -> int:
        """Distinct dies in the file."""
        return len(np.unique(np.stack([self.parts.x, self.parts.y]), axis=1).T)

    @property
    def result_count(self) -> int:
        """Test results in the file: its PTR and FTR records."""
        return self.parts.failed.size


@dataclass(frozen=True)
class SimulatedFab:
    """A small fab: each day its lots, each wafer one STDF V4 file.

    ``start`` is midnight UTC of the first day. Every day runs the same mix of products and testers; a
    wafer starts and finishes on its day. A share ``retest_rate`` of the failing dies is probed again at
    the end of the wafer, under a new part id and without a retest flag. From ``process_change_day`` (an
    index from 0; None: never) on the supply sits at 1.25 V. ``bad_reading_rate`` is the share of parts
    with one reading that cannot be, such as a vdd of 9.9 V.

    Raises InvalidInput where the settings make no fab.
    """

    seed: int = 7
    start: datetime = datetime(2026, 3, 2, tzinfo=UTC)
    days: int = 40
    wafers_per_day: int = 5
    wafers_per_lot: int = 3
    dies_per_wafer: int = 300
    testers: Sequence[str] = ("T1", "T2")
    products: Sequence[str] = ("ALPHA", "BETA")
    sites: int = 4
    retest_rate: float = 0.4
    big_endian: bool = False
    gzip: bool = False
    process_change_day: int | None = None
    bad_reading_rate: float = 0.0

    def __post_init__(self) -> None:
        least = min(self.days, self.wafers_per_day, self.wafers_per_lot, self.dies_per_wafer, self.sites)
        if least < 1 or self.sites > 100 or self.seed < 0 or not self.testers or not self.products:
            raise InvalidInput("a simulated fab needs a seed >= 0, 1 to 100 sites, and at least one of all else")
        if as_utc(self.start).time() != datetime.min.time():
            raise InvalidInput(f"the fab's start {self.start} is no midnight in UTC: give that of its first day")
        longest = _busy(np.full(2 * self.dies_per_wafer, LONGEST_TEST_MS), self.sites)
        if longest > self._turn * len(self.testers):
            raise InvalidInput(
                f"{self.wafers_per_day} wafers a day of up to {longest} each are too many for "
                f"{len(self.testers)} tester(s): give more testers or sites, or fewer wafers or dies"
            )

    def wafers_of(self, day: int) -> Iterator[SimulatedWafer]:
        """The wafers of a day (an index from 0), in the order of their starts.

        Raises InvalidInput for a day outside the fab's.
        """
        if not 0 <= day < self.days:
            raise InvalidInput(f"day {day} is none of this fab's: give 0 to {self.days - 1}")
        return (self._wafer(day, number) for number in range(self.wafers_per_day))

    def write(
        self, folder: Path, days: range | None = None, progress: Callable[[SimulatedWafer], object] | None = None
    ) -> list[Path]:
        """Write the files of ``days`` (None: all) into ``folder``; ``progress`` is called after each file."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for day in range(self.days) if days is None else days:
            for wafer in self.wafers_of(day):
                path = folder / wafer.file_name
                path.write_bytes(wafer.content)
                paths.append(path)
                if progress is not None:
                    progress(wafer)
        return paths

    @property
    def _turn(self) -> timedelta:
        """From one wafer's turn to the next; the same tester's is as many turns later as there are testers."""
        return _WORKING_HOURS / (self.wafers_per_day - 1 + len(self.testers))

    def _stream(self, day: int, number: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, day, number, purpose])

    def _wafer(self, day: int, number: int) -> SimulatedWafer:
        """Probe the day's wafer ``number``, give it its hours, write it down."""
        lot, position = divmod(number, self.wafers_per_lot)
        product = lot % len(self.products)
        recipe = _RECIPES[product % len(_RECIPES)]
        die_map = round_map(self.dies_per_wafer, recipe.die_width_mm, recipe.die_height_mm)
        changed = self.process_change_day is not None and day >= self.process_change_day
        conditions = Conditions(
            vdd=VDD_CHANGED if changed else VDD,
            shift=self._stream(day, lot, _LOT).normal(0.0, LOT_SIGMA, len(TESTS)),
            retest_rate=self.retest_rate,
            bad_reading_rate=self.bad_reading_rate,
        )
        draw = self._stream(day, number, _WAFER)
        delay = draw.random()
        parts = probe(die_map, recipe, conditions, draw, self._stream(day, number, _GLITCH))
        started_at, finished_at = self._hours(day, number, parts.test_ms, delay)
        run = WaferRun(
            lot_id=f"L{started_at:%y%m%d}{lot + 1:02d}",
            wafer_id=f"W{position + 1:02d}",
            product=self.products[product],
            tester=self.testers[number % len(self.testers)],
            started_at=started_at,
            finished_at=finished_at,
            die_width_mm=recipe.die_width_mm,
            die_height_mm=recipe.die_height_mm,
            wafer_mm=die_map.wafer_mm,
            center_x=die_map.center[0],
            center_y=die_map.center[1],
            sites=self.sites,
        )
        content = stdf_bytes(run, TESTS, parts, big_endian=self.big_endian)
        if self.gzip:
            content = gzip.compress(content, compresslevel=3, mtime=0)
        suffix = ".stdf.gz" if self.gzip else ".stdf"
        return SimulatedWafer(f"{run.lot_id}_{run.wafer_id}{suffix}", run, parts, content)

    def _hours(self, day: int, number: int, test_ms: IntArray, delay: float) -> tuple[datetime, datetime]:
        """Start and finish in whole seconds: the wafer's turn, plus a share ``delay`` of its tester's slack."""
        busy = _busy(test_ms, self.sites)
        slack = min(self._turn / 2, self._turn * len(self.testers) - busy)
        begin = as_utc(self.start) + timedelta(days=day) + _FIRST_START + self._turn * number + slack * delay
        begin = begin.replace(microsecond=0)
        return begin, begin + busy


def _busy(test_ms: IntArray, sites: int) -> timedelta:
    """How long a tester is busy with parts of these test times: a touchdown takes as long as its slowest site."""
    touchdown = touchdown_of(len(test_ms), sites)
    slowest = np.zeros(touchdown[-1] + 1)
    np.maximum.at(slowest, touchdown, test_ms)
    return timedelta(seconds=int(np.ceil(_LOAD_SECONDS + (_STEP_SECONDS + slowest / 1000).sum())))


def big_wafer(parts: int = 10_000, tests: int = 100, seed: int = 7, big_endian: bool = False) -> bytes:
    """One large STDF wafer for measuring readers: ``parts`` by ``tests`` PTRs, with limits in every one, no retests.

    The first tests are the fab's parametric ones (vdd, idd, ...) and never out of range; about one part in
    ten fails another. A million PTRs make about 80 MB.
    """
    draw = np.random.default_rng(seed)
    program = [test for test in TESTS if not test.functional][:tests]
    named = len(program)
    program += [ProbeTest(3000 + i, f"block_{i % 7}_parametric_{i:03d}", "V", 0.0, 2.0) for i in range(named, tests)]
    low, high = (np.array([getattr(test, side) for test in program]) for side in ("lo", "hi"))
    values = ((low + high) / 2 + (high - low) / 6.6 * draw.normal(size=(parts, tests))).astype(np.float32)
    values[:, :named] = values[:, :named].clip(low[:named], high[:named])
    die_map = round_map(parts, 2.0, 2.0)
    run = WaferRun(
        lot_id="BIG",
        wafer_id="W01",
        product="BIG",
        tester="T1",
        started_at=datetime(2026, 3, 2, tzinfo=UTC),
        finished_at=datetime(2026, 3, 2, 18, tzinfo=UTC),
        die_width_mm=2.0,
        die_height_mm=2.0,
        wafer_mm=die_map.wafer_mm,
        center_x=die_map.center[0],
        center_y=die_map.center[1],
    )
    probed = ProbedParts(
        x=die_map.x[:parts],
        y=die_map.y[:parts],
        test_ms=draw.integers(100, 200, parts),
        values=values,
        failed=(values < low.astype(np.float32)) | (values > high.astype(np.float32)),
    )
    return stdf_bytes(run, program, probed, big_endian=big_endian, repeat_limits=True)
