"""From raw wafer-test records to one row per part or die: what the wafer groups see.

Every function is LazyFrame → LazyFrame and looks across rows within one wafer (lot_id, wafer_id) only.
``parts`` and ``results`` are the columns of the sources of `wafer_sources`; what comes out keeps the
parts' record keys and ``tested_at`` (UTC microseconds).

*Retests.* A die probed again is a further row of ``parts``, often without a retest flag. Of a die's
attempts the **last** one counts, whatever it says: it supersedes the earlier ones also where it gives
no pass/fail indication or was not datalogged. `kept_attempts` takes "first" and "best bin" instead.
Features of a die use the state before it: of each other die the last attempt until then.

*Before* a die means ended before its own test began, ``test_time_ms`` before ``tested_at`` (where that
is not recorded: at ``tested_at``): dies probed side by side do not see each other, nor do ties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import polars as pl

Retest = Literal["last", "first", "best bin"]

K_TESTS = 6
"""How many tests, in datalog order, the test-fail model may see: the short parametric ones at the start."""

NEAR_MM = 3.0
FAR_MM = 5.0
"""Neighbour distances, between die centres, in millimetres."""

MIN_DIES_BEFORE = 5
"""How many earlier values a z-score needs."""

_WAFER = ["lot_id", "wafer_id"]
_DIE = [*_WAFER, "x", "y"]
_SIZE = ["die_width_mm", "die_height_mm"]
_MOMENT = ["tested_at", "began_at"]
_RECORD = [*_WAFER, "part_index", "part_id", "tested_at"]
_ORDER = ["tested_at", "part_index", "part_id"]
_EVER = "36500d"  # a look-back longer than any wafer takes
_ROUNDING_MM = 1e-6  # die sizes are 32-bit floats: a neighbour at exactly 3 mm is within 3 mm


def kept_attempts(parts: pl.LazyFrame, retest: Retest = "last") -> pl.LazyFrame:
    """One row per die: of its attempts the last, the first, or the one with the best bin.

    A die is (lot, wafer, x, y); where a coordinate is null, (lot, wafer, part_id), and without a
    part_id each part is a die of its own. The best attempt passed, or has the lowest hard bin; the
    later of equals.

    >>> die = {"lot_id": "A", "wafer_id": "1", "x": 0, "y": 0}
    >>> first = {**die, "part_id": "7", "part_index": 0, "tested_at": 10, "hard_bin": 1, "passed": True}
    >>> again = {**die, "part_id": "8", "part_index": 1, "tested_at": 20, "hard_bin": 5, "passed": False}
    >>> attempts = pl.LazyFrame([first, again])
    >>> [kept_attempts(attempts, policy).collect()["hard_bin"].item() for policy in ("last", "best bin")]
    [5, 1]
    """
    unlocated = pl.col("x").is_null() | pl.col("y").is_null()
    nameless = unlocated & pl.col("part_id").is_null()
    die = [
        *(pl.col(c) for c in _DIE),
        pl.when(unlocated).then("part_id").alias("_part"),
        pl.when(nameless).then("part_index").alias("_position"),
        pl.when(nameless).then("tested_at").alias("_moment"),
    ]
    goodness = [pl.col("passed").cast(pl.Int8), -pl.col("hard_bin")] if retest == "best bin" else []
    ordered = parts.sort([*goodness, *_ORDER])
    return ordered.unique(subset=die, keep="first" if retest == "first" else "last", maintain_order=True)


def one_row_per_part(parts: pl.LazyFrame, results: pl.LazyFrame) -> pl.LazyFrame:
    """Every part, retests included, with its vdd and idd and what its die area says of defects.

    ``vdd`` and ``idd`` are the results of the tests of that name, in the unit the tester reports; the
    mean where a part has several, null where it has none (not datalogged is not zero).
    ``tested_area_cm2`` and ``defects`` (1 failed, 0 passed) are null without a pass/fail indication
    or a die size.

    >>> part = {"lot_id": "A", "wafer_id": None, "part_index": 0, "part_id": "1", "tested_at": 10}
    >>> parts = pl.LazyFrame([{**part, "passed": False, "die_width_mm": 5.0, "die_height_mm": 4.0}])
    >>> results = pl.LazyFrame([{**part, "test_name": "vdd", "result": 1.2}])
    >>> one_row_per_part(parts, results).select("vdd", "idd", "defects", "tested_area_cm2").collect().row(0)
    (1.2, None, 1, 0.2)
    """
    named = _finite(results).filter(pl.col("test_name").is_in(["vdd", "idd"]))
    wide = named.group_by(_RECORD).agg(_of_test("result", name).mean().alias(name) for name in ("vdd", "idd"))
    area = _length("die_width_mm") * _length("die_height_mm") / 100
    tested = pl.col("passed").is_not_null()
    return parts.join(wide, on=_RECORD, how="left", nulls_equal=True).with_columns(
        pl.when(tested).then(area).alias("tested_area_cm2"),
        pl.when(tested & area.is_not_null()).then((~pl.col("passed")).cast(pl.Int8)).alias("defects"),
    )


def one_row_per_die(parts: pl.LazyFrame, results: pl.LazyFrame, *, retest: Retest = "last") -> pl.LazyFrame:
    """`one_row_per_part` for the attempt that counts of each die (`kept_attempts`)."""
    return one_row_per_part(kept_attempts(parts, retest), results)


def final_outcomes(parts: pl.LazyFrame, *, retest: Retest = "last") -> pl.LazyFrame:
    """The attempt that counts of each die with coordinates, with ``failed``; null without an indication."""
    return kept_attempts(_located(parts), retest).with_columns((~pl.col("passed")).alias("failed"))


def first_tests(parts: pl.LazyFrame, results: pl.LazyFrame, *, k: int = K_TESTS) -> pl.LazyFrame:
    """Every attempt at a die with what its first ``k`` results (test_index < k) tell; nothing of later ones.

    A margin is min(result - lo, hi - result) / ((hi - lo) / 2): 1 in the middle of the limits, 0 at
    one of them, negative outside; null without both limits or where they coincide. Where several
    results bear one name, the smallest margin counts. ``frequency_deviation_z`` is
    (frequency - mean) / std over all attempts before it on the same wafer, null until there are
    `MIN_DIES_BEFORE`. A part without results has null throughout and ``tests_seen`` 0.
    """
    reach = pl.col("hi_limit") - pl.col("lo_limit")
    slack = pl.min_horizontal(pl.col("result") - pl.col("lo_limit"), pl.col("hi_limit") - pl.col("result"))
    bounded = pl.all_horizontal(reach > 0, reach.is_finite(), pl.col("result").is_not_null())
    seen = _finite(results.filter(pl.col("test_index") < k))
    seen = seen.with_columns(pl.when(bounded).then(slack / (reach / 2)).alias("margin"))
    failing = ~pl.col("passed")
    first_name = pl.col("test_name").filter(failing).sort_by(pl.col("test_index").filter(failing)).first()
    per_part = seen.group_by(_RECORD).agg(
        pl.len().cast(pl.Int32).alias("tests_seen"),
        failing.sum().cast(pl.Int32).alias("failures_first_k"),
        first_name.alias("first_failing_test"),
        pl.col("margin").min().alias("min_margin"),
        *(_of_test("margin", n).min().alias(f"{n}_margin") for n in ("vdd", "idd", "frequency", "leakage", "vth")),
        _of_test("result", "frequency").mean().alias("frequency"),
    )
    dies = _begun(_located(parts)).join(per_part, on=_RECORD, how="left", nulls_equal=True)
    frequency = pl.col("frequency")
    spread = frequency.rolling_std_by("tested_at", _EVER, min_samples=MIN_DIES_BEFORE)
    history = {"mean_before": frequency.rolling_mean_by("tested_at", _EVER), "spread_before": spread}
    dies = _with_history(dies, history, _WAFER)
    mean, std = pl.col("mean_before"), pl.col("spread_before")
    # A spread in the last digits of equal values is rounding, not a spread.
    deviation = pl.when(std > mean.abs() * 1e-9).then((frequency - mean) / std)
    return dies.with_columns(pl.col("tests_seen").fill_null(0), deviation.alias("frequency_deviation_z"))


def spatial_history(parts: pl.LazyFrame) -> pl.LazyFrame:
    """Every attempt at a die with where it lies and what was known of its wafer before it.

    Each die tested before counts by its last attempt until then; so does, for the wafer and the
    quadrant, this die's own earlier attempt, which is no neighbour of itself. Columns:
    ``tested_before, passed_before`` (wafer), ``tested_quadrant, passed_quadrant``, and
    ``tested_near, passed_near`` (within `NEAR_MM`), ``tested_far, passed_far`` (within `FAR_MM`,
    both closed, null without a die size); ``radial_position_normalized`` as in `_with_position`.
    """
    dies = _with_position(_with_known_state(_begun(_located(parts))))
    neighbours = _neighbours_before(dies)
    sums = {c: pl.col(f"{c}_change").rolling_sum_by("tested_at", _EVER) for c in ("tested", "passed")}
    dies = _with_history(dies, {f"{name}_before": total for name, total in sums.items()}, _WAFER)
    quadrant = [*_WAFER, "right", "upper"]
    dies = _with_history(dies, {f"{name}_quadrant": total for name, total in sums.items()}, quadrant)
    return dies.join(neighbours, on=[*_DIE, *_MOMENT, *_SIZE], how="left")


def ratio(part: pl.Expr, whole: pl.Expr) -> pl.Expr:
    """A quotient, part / whole; null where the whole is not above zero.

    >>> pl.select(ratio(pl.lit(1), pl.lit(4)), none=ratio(pl.lit(0), pl.lit(0))).row(0)
    (0.25, None)
    """
    return pl.when(whole > 0).then(part / whole)


def _with_known_state(dies: pl.LazyFrame) -> pl.LazyFrame:
    """Add how each attempt, in order, changes what is known of its die.

    Sums over earlier rows then count each die once, by its last attempt: a first attempt that passed
    adds (1 tested, 1 passed), a retest that fails adds (0, -1).
    """
    tested = pl.col("passed").is_not_null().cast(pl.Int32)
    passed = pl.col("passed").fill_null(value=False).cast(pl.Int32)
    changes = {"tested_change": tested, "passed_change": passed}
    return dies.sort(_ORDER).with_columns(
        (state - state.shift(1, fill_value=0)).over(_DIE).alias(name) for name, state in changes.items()
    )


def _with_position(dies: pl.LazyFrame) -> pl.LazyFrame:
    """Add ``radial_position_normalized`` (0 centre, 1 edge) and the quadrant (``right``, ``upper``).

    Centre and radius are those of the wafer's configuration record where it gives both centre and
    wafer size: testers are seen to write a placeholder centre beside a size of 0. Otherwise they are
    the middle and the half-width of the coordinates probed before this die, its own included: rough
    while few dies are done, but never looking ahead. Each die keeps the quadrant it had when it was
    first tested. The position is null without a die size; what lies beyond the edge counts as edge.
    """
    width, height, diameter = _length("die_width_mm"), _length("die_height_mm"), _length("wafer_size_mm")
    given = pl.all_horizontal(pl.col("center_x", "center_y").is_not_null(), diameter.is_not_null())
    seen = {f"{axis}_min": pl.col(axis).rolling_min_by("tested_at", _EVER) for axis in ("x", "y")}
    seen |= {f"{axis}_max": pl.col(axis).rolling_max_by("tested_at", _EVER) for axis in ("x", "y")}
    dies = _with_history(dies, seen, _WAFER)
    left, low = pl.min_horizontal("x", "x_min"), pl.min_horizontal("y", "y_min")
    right, high = pl.max_horizontal("x", "x_max"), pl.max_horizontal("y", "y_max")
    half_width = pl.max_horizontal((right - left) / 2 * width, (high - low) / 2 * height)
    dies = dies.with_columns(
        pl.when(given).then("center_x").otherwise((left + right) / 2).alias("middle_x"),
        pl.when(given).then("center_y").otherwise((low + high) / 2).alias("middle_y"),
        pl.when(given).then(diameter / 2).otherwise(half_width).alias("radius_mm"),
    )
    across, along = (pl.col("x") - pl.col("middle_x")) * width, (pl.col("y") - pl.col("middle_y")) * height
    position = ratio(_hypotenuse(across, along), pl.col("radius_mm")).clip(0, 1)
    return dies.with_columns(
        position.alias("radial_position_normalized"),
        (pl.col("x") >= pl.col("middle_x")).first().over(_DIE).alias("right"),
        (pl.col("y") >= pl.col("middle_y")).first().over(_DIE).alias("upper"),
    )


def _neighbours_before(dies: pl.LazyFrame) -> pl.LazyFrame:
    """Per die and moment, how many other dies nearby were tested and passed before it.

    Each die is joined with the few grid offsets that its die size puts within reach, and the result
    with the dies found there: as many rows as there are neighbours, not one per pair of dies.
    """
    located = dies.select(*_DIE, *_MOMENT, *(_length(c) for c in _SIZE), "tested_change", "passed_change")
    reach = {"x": "die_width_mm", "y": "die_height_mm"}
    steps = [
        pl.min_horizontal((FAR_MM / pl.col(length)).ceil(), (pl.max(axis) - pl.min(axis)).over(_WAFER))
        .cast(pl.Int32)
        .alias(f"{axis}_step")
        for axis, length in reach.items()
    ]
    offsets = located.select(*_WAFER, *_SIZE, *steps).unique().drop_nulls()
    for step in ("x_step", "y_step"):
        every = pl.int_ranges(-pl.col(step), pl.col(step) + 1, dtype=pl.Int32)
        offsets = offsets.with_columns(every.alias(step)).explode(step)
    away = _hypotenuse(pl.col("x_step") * pl.col(_SIZE[0]), pl.col("y_step") * pl.col(_SIZE[1]))
    offsets = offsets.with_columns(away.alias("away_mm")).filter(
        pl.col("away_mm") <= FAR_MM + _ROUNDING_MM, (pl.col("x_step") != 0) | (pl.col("y_step") != 0)
    )
    around = located.select(*_DIE, *_MOMENT, *_SIZE).unique().join(offsets, on=[*_WAFER, *_SIZE])
    there = [pl.col("lot_id"), pl.col("wafer_id"), pl.col("x") + pl.col("x_step"), pl.col("y") + pl.col("y_step")]
    other = located.select(*_DIE, pl.col("tested_at").alias("other_at"), "tested_change", "passed_change")
    pairs = around.join(other, left_on=there, right_on=_DIE).filter(pl.col("other_at") < pl.col("began_at"))
    near = pl.col("away_mm") <= NEAR_MM + _ROUNDING_MM
    return pairs.group_by([*_DIE, *_MOMENT, *_SIZE]).agg(
        pl.col("tested_change").filter(near).sum().alias("tested_near"),
        pl.col("passed_change").filter(near).sum().alias("passed_near"),
        pl.col("tested_change").sum().alias("tested_far"),
        pl.col("passed_change").sum().alias("passed_far"),
    )


def _with_history(dies: pl.LazyFrame, states: Mapping[str, pl.Expr], by: Sequence[str]) -> pl.LazyFrame:
    """Add what was known before each die: expanding expressions over the rows of its ``by`` keys.

    ``states`` give at a row's ``tested_at`` what all rows until then amount to; a die gets those of
    the last row that ended before it began, null where none did. The result is in ``_ORDER``.
    """
    ended = dies.sort(_ORDER)
    known = ended.select(
        *by, pl.col("tested_at").alias("known_at"), *(state.over(by).alias(name) for name, state in states.items())
    )
    return (
        dies.sort("began_at", *_ORDER)
        .join_asof(
            known,
            left_on="began_at",
            right_on="known_at",
            by=list(by),
            allow_exact_matches=False,
            check_sortedness=False,  # not possible with `by`; both sides are sorted above
        )
        .drop("known_at", strict=False)
        .sort(_ORDER)
    )


def _begun(dies: pl.LazyFrame) -> pl.LazyFrame:
    """Add ``began_at``: from when on, at the latest, a die's own test ran; never after ``tested_at``.

    Test times are whole milliseconds, so one is allowed for: else a die would miss, by the
    microseconds that keep neighbouring parts' times apart, what ended as it began.
    """
    began = pl.col("tested_at") - pl.duration(milliseconds=pl.col("test_time_ms") - 1)
    return dies.with_columns(pl.min_horizontal("tested_at", began).alias("began_at"))


def _located(parts: pl.LazyFrame) -> pl.LazyFrame:
    """The parts that are dies of a known wafer at known coordinates."""
    return parts.filter(pl.all_horizontal(pl.col(_DIE).is_not_null()))


def _length(column: str) -> pl.Expr:
    """A length in millimetres; null where it is not one (zero, negative, not a number)."""
    length = pl.col(column)
    return pl.when(length > 0, length.is_finite()).then(length).alias(column)


def _hypotenuse(across: pl.Expr, along: pl.Expr) -> pl.Expr:
    return (across**2 + along**2).sqrt()


def _of_test(column: str, name: str) -> pl.Expr:
    return pl.col(column).filter(pl.col("test_name") == name)


def _finite(results: pl.LazyFrame) -> pl.LazyFrame:
    """Results that are numbers: a tester's infinity or NaN is no measurement."""
    return results.with_columns(pl.when(pl.col("result").is_finite()).then("result").alias("result"))
