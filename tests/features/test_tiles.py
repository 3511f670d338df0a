"""Windows from tiles: equal to brute force over what was known, however rows arrive and runs are cut."""

from __future__ import annotations

import math
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import oracle
from card_payments import ABOUT, HOUR, SCHEMA, T0, card, paid
from features import Feature, FeatureGroup, FeatureStore, Registry, Source
from features.aggregates import approx_quantile, ewm_mean, slope
from features.decomposition import Undecomposed, decompose
from features.tiles import tile_layout, undecomposed
from infra.storage.delta import DeltaLake
from infra.storage.memory_store import MemoryOnlineStore

x, at = pl.col("amount"), pl.col("at")
OFFSET = 1e9

AGGREGATES = {
    "n": pl.len(),
    "known": x.count(),
    "total": x.sum(),
    "mean": x.mean(),
    "low": x.min(),
    "high": x.max(),
    "std": x.std(),
    "var": x.var(ddof=0),
    "first": x.first(),
    "last": x.last(),
    "last_known": x.last(ignore_nulls=True),
    "kinds": x.n_unique(),
    "big": (x > OFFSET + 5).sum(),
    "share": (x > OFFSET + 5).sum() / pl.len(),
    "few": x.filter(x < OFFSET + 5).mean(),
    "missing": x.null_count(),
    "some": (x > OFFSET + 8).any(),
    "p90": approx_quantile(x, 0.9),
    "ewm": ewm_mean(x, at, half_life="5h"),
    "slope": slope(x, at),
    "joint": pl.cov(x, at.dt.epoch("us") / 3.6e9),
}


def features(windows: tuple[str, ...]) -> list[Feature]:
    return [Feature(f"{n}_{w}", expr, window=w) for n, expr in AGGREGATES.items() for w in windows]


def windowed(source: Source, windows: tuple[str, ...], every: str, delay: str | None, **options) -> FeatureGroup:
    timing = {"every": every, "publish_delay": delay}
    return FeatureGroup("w", "1.0.0", card, source, features(windows), grain="window", **timing, **options, **ABOUT)


def by_hand(rows: list[dict]) -> dict[str, object]:
    """The aggregates with numpy and plain loops, over rows in order of time, then of what breaks ties."""
    rows = sorted(rows, key=lambda r: (r["at"], *r["tie"]))
    all_values = [r["amount"] for r in rows]
    values = [v for v in all_values if v is not None]
    times = [r["at"] for r in rows if r["amount"] is not None]
    hours = np.array([(t - T0) / HOUR for t in times])
    y, n = np.array(values), len(values)
    below = [v for v in values if v < OFFSET + 5]
    weights = 0.5 ** (np.array([(max(times) - t) / HOUR for t in times]) / 5) if n else np.array([])
    spread = float(((hours - hours.mean()) ** 2).sum()) if n else 0.0
    joint = float(((hours - hours.mean()) * (y - y.mean())).sum()) if n else 0.0
    big = sum(v > OFFSET + 5 for v in values)
    return {
        "n": len(rows),
        "known": n,
        "total": math.fsum(values),
        "mean": float(y.mean()) if n else None,
        "low": min(values, default=None),
        "high": max(values, default=None),
        "std": float((y - OFFSET).std(ddof=1)) if n > 1 else None,
        "var": float((y - OFFSET).var()) if n else None,
        "first": all_values[0] if rows else None,
        "last": all_values[-1] if rows else None,
        "last_known": values[-1] if values else None,
        "kinds": len(set(all_values)),
        "big": big,
        "share": big / len(rows) if rows else None,
        "few": sum(below) / len(below) if below else None,
        "missing": len(rows) - n,
        "some": any(v > OFFSET + 8 for v in values),
        "p90": sorted(values)[math.floor(0.9 * (n - 1))] if n else None,
        "ewm": float((y * weights).sum() / weights.sum()) if n else None,
        "slope": joint / spread / 3600 if spread > 0 else None,
        "joint": joint / (n - 1) if n > 1 else None,
    }


LOOSE = {"p90": 0.0101, "slope": 1e-6, "joint": 1e-6, "std": 1e-6, "var": 1e-6}
"""Relative tolerances where the sketch, or the digits of 1e9 + noise in a double, allow no more than this."""
FLOOR = {"slope": 1e-9, "joint": 1e-5, "std": 1e-6, "var": 1e-6}


def same(name: str, found: object, wanted: object) -> bool:
    if found is None or wanted is None:
        return found is wanted
    if isinstance(wanted, float):
        return math.isclose(found, wanted, rel_tol=LOOSE.get(name, 1e-9), abs_tol=FLOOR.get(name, 0))
    return found == wanted


ACTION = st.one_of(
    st.tuples(st.just("tick"), st.integers(1, 30)),
    st.tuples(
        st.just("write"),
        st.integers(1, 2),
        st.integers(-30, 4),
        st.one_of(st.none(), st.integers(0, 10)),
        st.integers(0, 59),
    ),
    st.tuples(st.just("correct"), st.integers(0, 9), st.integers(0, 10), st.integers(1, 2)),
    st.just(("incremental",)),
    st.tuples(st.just("backfill"), st.integers(-30, 30), st.integers(1, 30)),
)


class World:
    """A store over one window group, and every version of every record that was written."""

    def __init__(self, folder, group, live, keyed):
        self.now = T0 + 12 * HOUR
        self.group, self.live, self.keyed = group, live, keyed
        self.store = FeatureStore(Registry([group]), DeltaLake(folder), MemoryOnlineStore(), clock=lambda: self.now)
        self.versions: list[dict] = []

    def run(self, actions):
        for name, *arguments in actions:
            getattr(self, name)(*arguments)
        self.incremental()

    def tick(self, hours):
        self.now += hours * HOUR

    def write(self, card_id, age, amount, minute):
        moment = self.now.replace(minute=0, second=0, microsecond=0) + age * HOUR + timedelta(minutes=minute)
        self._append(len(self.versions), card_id, amount, moment)

    def correct(self, which, amount, card_id):
        if self.versions and self.keyed:
            old = self.versions[which % len(self.versions)]
            self._append(old["record"], card_id, amount, old["at"])

    def _append(self, record, card_id, amount, moment):
        self.now += timedelta(seconds=1)
        value = None if amount is None else OFFSET + amount + 0.25
        self.store.write_source("payments", paid((record, card_id, value, moment)))
        arrival = max(self.now, moment) if self.live else moment
        number = len(self.versions)
        version = {"record": record, "entity": card_id, "at": moment, "arrival": arrival, "number": number}
        # Without keys nothing tells rows of one moment apart but what is read of them; null comes last.
        version["tie"] = (record,) if self.keyed else (value is None, value)
        self.versions.append(version | {"amount": value})

    def incremental(self):
        self.now += timedelta(seconds=1)
        self.store.materialize_incremental(self.group)

    def backfill(self, start, length):
        begin = T0 + start * HOUR
        self.now += timedelta(seconds=1)
        if begin < self.now:
            self.store.materialize(self.group, begin, begin + length * HOUR)


SHAPES = [
    (("6h", "1d"), "3h", None),
    (("5h",), "2h", "90m"),
    (("1h", "4h"), "4h", None),
    (("3d", "6h"), "2h", "1h"),  # with wide tiles of 12 hours
    (("5d",), "1h", None),  # with wide tiles of a day
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@settings(max_examples=8)
@given(live=st.booleans(), keyed=st.booleans(), actions=st.lists(ACTION, min_size=3, max_size=12))
@example(live=False, keyed=False, actions=[("write", 1, -2, None, 0), ("write", 1, -2, 5, 0), ("write", 1, -2, 0, 0)])
def test_tiles_equal_brute_force_over_what_was_known(tmp_path_factory, shape, live, keyed, actions):
    check_tiles(tmp_path_factory.mktemp("lake"), shape, live, keyed, actions)


@pytest.mark.prove
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@settings(max_examples=240)
@given(live=st.booleans(), keyed=st.booleans(), actions=st.lists(ACTION, min_size=3, max_size=20))
def test_many_tiles_equal_brute_force_over_what_was_known(tmp_path_factory, shape, live, keyed, actions):
    check_tiles(tmp_path_factory.mktemp("lake"), shape, live, keyed, actions)


def check_tiles(folder, shape, live, keyed, actions):
    windows, every, delay = shape
    known = {"keys": ["payment_id"] if keyed else None, "live_since": T0 - 100 * HOUR if live else None}
    source = Source("payments", SCHEMA, "at", **known)
    world = World(folder, windowed(source, windows, every, delay), live, keyed)
    world.run(actions)
    assert_as_by_hand(world, windows, every, delay)


def look_alike(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Changes nothing, but could."""
    return frame.with_columns(amount=pl.col("amount") * 1.0)


@pytest.mark.parametrize("by", [(), ("card_id",)], ids=["by row", "by card"])
@pytest.mark.parametrize("live", [True, False])
@settings(max_examples=4)
@given(actions=st.lists(ACTION, min_size=3, max_size=9))
def test_a_prepare_sees_rows_as_they_were_known(tmp_path_factory, by, live, actions):
    source = Source("payments", SCHEMA, "at", keys=["payment_id"], live_since=T0 - 100 * HOUR if live else None)
    group = windowed(source, ("6h",), "3h", "1h", prepare=look_alike, prepare_by=by)
    world = World(tmp_path_factory.mktemp("lake"), group, live, keyed=True)
    world.run(actions)
    assert_as_by_hand(world, ("6h",), "3h", "1h")


def assert_as_by_hand(world: World, windows: tuple[str, ...], every: str, delay: str | None) -> None:
    spans = [duration(w) for w in windows]
    wanted = oracle.windows_as_known(world.versions, duration(every), spans, duration(delay or "0h"), world.now)
    rows = world.store.current_rows(world.group).collect()
    found = {(r["card_id"], r["event_timestamp"]): r for r in rows.iter_rows(named=True)}
    assert found.keys() == wanted.keys()
    for key, parts in wanted.items():
        for window, part in zip(windows, parts, strict=True):
            for name, value in by_hand(part).items():
                assert same(name, found[key][f"{name}_{window}"], value), (key, name, window, value, found[key])


def duration(text: str) -> timedelta:
    return timedelta(**{{"m": "minutes", "h": "hours", "d": "days"}[text[-1]]: int(text[:-1])})


def test_every_aggregate_here_decomposes_and_tiles_are_shared() -> None:
    source = Source("payments", SCHEMA, "at")
    group = windowed(source, ("6h", "1d"), "3h", None)
    assert undecomposed(group) == {}
    once, twice = tile_layout(windowed(source, ("1d",), "3h", None)), tile_layout(group)
    assert once is not None
    assert twice is not None
    assert once.partials.keys() == twice.partials.keys()
    assert twice.width == 3 * 3600 * 1_000_000


@pytest.mark.parametrize(
    ("expr", "reason"),
    [
        (x.quantile(0.5), "an exact quantile"),
        (x.median(), "Median"),
        (pl.corr("amount", "card_id"), "a correlation"),
        ((x - x.mean()).abs().max(), "other rows"),
        (x.sum() / x, "outside of an aggregate"),
        (x.sort().first(), "sort"),
        (x.diff().sum(), "diff"),
    ],
)
def test_what_does_not_decompose_says_why(expr, reason) -> None:
    with pytest.raises(Undecomposed, match=reason):
        decompose(expr, lambda e: pl.DataFrame(schema=SCHEMA).select(e).dtypes[0])


def test_exact_quantiles_read_raw_rows_and_agree_with_tiles_on_when_to_emit(tmp_path) -> None:
    source = Source("payments", SCHEMA, "at", keys=["payment_id"], live_since=T0)
    both = [Feature("total_6h", x.sum(), window="6h"), Feature("median_12h", x.median(), window="12h")]
    group = FeatureGroup("w", "1.0.0", card, source, both, grain="window", every="3h", **ABOUT)
    assert undecomposed(group).keys() == {"median_12h"}
    world = World(tmp_path, group, live=True, keyed=True)
    for number in range(12):
        world.write(number % 2 + 1, -number, number, 7)
        if number % 3 == 0:
            world.correct(number, 11 - number, 1)
            world.tick(2)
            world.incremental()
    world.tick(30)
    world.incremental()
    wanted = oracle.windows_as_known(world.versions, 3 * HOUR, [6 * HOUR, 12 * HOUR], 0 * HOUR, world.now)
    found = {
        (r["card_id"], r["event_timestamp"]): (r["total_6h"], r["median_12h"])
        for r in world.store.current_rows(group).collect().iter_rows(named=True)
    }
    assert found.keys() == wanted.keys()
    for key, (short, long) in wanted.items():
        values = [v["amount"] for v in long]
        assert found[key][0] == pytest.approx(sum(v["amount"] for v in short), rel=1e-12)
        assert found[key][1] == (pytest.approx(float(np.median(values)), rel=1e-12) if values else None)


RECORDS = st.lists(
    st.tuples(st.integers(0, 5), st.one_of(st.none(), st.floats(-5, 5).map(lambda v: OFFSET + v))),
    min_size=1,
    max_size=30,
)


@settings(max_examples=40)
@given(records=RECORDS, halves=st.lists(st.booleans(), min_size=6, max_size=6))
def test_tiles_made_one_say_what_they_said_apart(records, halves) -> None:
    """However tiles are put together first, the aggregate over all of them is the same."""
    schema = {"tile": pl.Int64, "amount": pl.Float64}
    frame = pl.DataFrame(records, schema=schema, orient="row").sort("tile")
    frame = frame.with_columns(at=pl.lit(T0) + pl.duration(hours="tile", minutes=pl.int_range(pl.len())))
    for name, expr in AGGREGATES.items():
        parts = decompose(expr, lambda e: frame.select(e).dtypes[0])
        if parts.combined is None:
            assert name in ("first", "last", "last_known")
            continue
        tiles = frame.group_by("tile", maintain_order=True).agg(e.alias(n) for n, e in parts.partials.items())
        half = pl.col("tile").replace_strict(dict(enumerate(halves)))
        combined = [e.cast(tiles.schema[n]).alias(n) for n, e in parts.combined.items()]
        fewer = tiles.group_by(half, maintain_order=True).agg(combined)
        assert same(name, fewer.select(parts.merged).item(), tiles.select(parts.merged).item()), name
