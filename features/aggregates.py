"""Aggregates that Polars has no word for, as plain expressions for the features of windows and entities.

Each is built from its arguments alone, so two calls with the same arguments give the same expression.
Rows where the value (or its time) is null do not count; without any row that counts the answer is null.
All answers are Float64.
"""

from __future__ import annotations

import math
from datetime import timedelta

import polars as pl

from features.errors import DefinitionError, InvalidInput
from features.times import micros

_SMALLEST = 2.2250738585072014e-308
"""The smallest normal float: below it relative accuracy means nothing, and a value counts as zero."""
_LARGEST = 1.7976931348623157e308
_TINY_ACCURACY = 1e-6


def slope(x: pl.Expr | str, time: pl.Expr | str) -> pl.Expr:
    """The least-squares slope of ``x`` over ``time``, per second: Σ(t−t̄)(x−x̄) / Σ(t−t̄)².

    ``time`` is a Datetime or Date. Null where there are not two different times. The formula is that of
    ordinary least squares (Draper & Smith, Applied Regression Analysis, 1998, eq. 1.2.9); times are taken
    from the first one before they become floats, so that no digit is lost to the epoch.

    >>> from datetime import datetime
    >>> frame = pl.DataFrame({"at": [datetime(2026, 3, 1, 0, 0, s) for s in (0, 10, 30)], "v": [1.0, 6.0, 16.0]})
    >>> frame.select(slope("v", "at")).item()
    0.5
    """
    value, moment = _expr(x), _expr(time)
    known = value.is_not_null() & moment.is_not_null()
    y, t = value.cast(pl.Float64).filter(known), moment.filter(known)
    seconds = _seconds(t - t.min())
    dt = seconds - seconds.mean()
    spread = (dt * dt).sum()
    return pl.when(spread > 0).then((dt * (y - y.mean())).sum() / spread)


def ewm_mean(x: pl.Expr | str, time: pl.Expr | str, half_life: str | timedelta = "1d") -> pl.Expr:
    """The exponentially weighted mean of ``x``: Σwx / Σw with w = 2^(−age / half_life).

    ``time`` is a Datetime or Date; age counts from the newest row that has a value, which changes no
    answer (it cancels) and keeps the weights from vanishing. ``half_life`` is a Polars duration ("12h").
    Weights as in Brown, Smoothing, Forecasting and Prediction (1963), for irregular times as in
    pandas' ``ewm(halflife=..., times=...)``. Raises DefinitionError where it is no positive duration.

    >>> from datetime import datetime
    >>> frame = pl.DataFrame({"at": [datetime(2026, 3, 1), datetime(2026, 3, 2)], "v": [1.0, 4.0]})
    >>> frame.select(ewm_mean("v", "at", half_life="1d")).item()
    3.0
    """
    rate = -math.log(2) / (_half_life(half_life) / 1_000_000)
    value, moment = _expr(x), _expr(time)
    known = value.is_not_null() & moment.is_not_null()
    y, t = value.cast(pl.Float64).filter(known), moment.filter(known)
    weight = (_seconds(t.max() - t) * rate).exp()
    total = weight.sum()
    return pl.when(total > 0).then((y * weight).sum() / total)


def approx_quantile(x: pl.Expr | str, q: float, accuracy: float = 0.01) -> pl.Expr:
    """The ``q`` quantile of ``x`` to a relative error of at most ``accuracy``: a DDSketch.

    The order statistic meant is the lower one, number ⌊1 + q(n−1)⌋. Values fall into buckets that grow by
    g = (1+accuracy)/(1−accuracy), and bucket i answers 2·gⁱ / (g+1) (Masson, Rim & Lee, DDSketch, PVLDB 12,
    2019, definition 3 and lemma 2). Negative values have buckets of their own; zeros (and what is smaller
    than any normal float) and ±inf are answered exactly; NaN counts as greater than inf, as Polars sorts it.

    Raises DefinitionError unless 0 ≤ q ≤ 1 and 1e-6 ≤ accuracy < 1.

    >>> pl.DataFrame({"v": range(1, 102)}).select(approx_quantile("v", 0.5, accuracy=0.001).round(1)).item()
    51.0
    """
    if not 0 <= q <= 1:
        raise DefinitionError(f"approx_quantile: q {q!r} is not between 0 and 1: write 0.95 for 95 %")
    # Polars counts nulls into the place of the quantile before it takes them off again, which rounds.
    buckets = bucket_of(_expr(x), accuracy).drop_nulls()
    return value_of(buckets.quantile(q, interpolation="lower"), accuracy)


def bucket_of(value: pl.Expr, accuracy: float) -> pl.Expr:
    """The DDSketch bucket of each value: an Int64 that orders as the values do, 0 for zero; null stays null."""
    log_growth, offset = _buckets(accuracy)
    value = value.cast(pl.Float64)
    size = value.abs()
    index = (size.log() / log_growth).ceil() + offset
    place = pl.when(size < _SMALLEST).then(0.0).when(size.is_infinite()).then(2.0 * offset).otherwise(index)
    signed = pl.when(value < 0).then(-place).otherwise(place)
    return pl.when(value.is_nan()).then(2.0 * offset + 1).otherwise(signed).cast(pl.Int64)


def value_of(bucket: pl.Expr, accuracy: float) -> pl.Expr:
    """The value that a bucket of ``bucket_of`` stands for: within ``accuracy`` of all that fall into it."""
    log_growth, offset = _buckets(accuracy)
    place = bucket.abs().cast(pl.Float64)
    middle = math.log(2 / (math.exp(log_growth) + 1))
    size = ((place - offset) * log_growth + middle).exp().clip(_SMALLEST, _LARGEST)
    # As text, since an expression's JSON has no word for these numbers.
    inf, nan = pl.lit("inf").cast(pl.Float64), pl.lit("nan").cast(pl.Float64)
    size = pl.when(place == 2.0 * offset).then(inf).when(place > 2.0 * offset).then(nan).otherwise(size)
    return pl.when(bucket == 0).then(0.0).when(bucket < 0).then(-size).otherwise(size)


def _buckets(accuracy: float) -> tuple[float, int]:
    """The log of g (see ``approx_quantile``), and what to add so that the index of every float is positive."""
    if not _TINY_ACCURACY <= accuracy < 1:
        raise DefinitionError(f"accuracy {accuracy!r} is not between {_TINY_ACCURACY} and 1: write 0.01 for 1 %")
    log_growth = math.log((1 + accuracy) / (1 - accuracy))
    return log_growth, math.ceil(745 / log_growth) + 2  # 745 > |ln x| of every float


def _half_life(text: str | timedelta) -> int:
    """A half life in microseconds."""
    try:
        span = micros(text)
    except InvalidInput as error:
        raise DefinitionError(f"ewm_mean: half_life: {error}") from error
    if span <= 0:
        raise DefinitionError(f"ewm_mean: half_life {text!r} must be longer than zero")
    return span


def _expr(column: pl.Expr | str) -> pl.Expr:
    return pl.col(column) if isinstance(column, str) else column


def _seconds(span: pl.Expr) -> pl.Expr:
    """A duration as float seconds, from whole microseconds."""
    return span.dt.total_microseconds() / 1_000_000
