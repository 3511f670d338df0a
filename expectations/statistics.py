"""Two-sample statistics on arrays and counts, each safe against ties, empty bins and sample size.

Pure functions; no knowledge of columns, days or thresholds. ``expectations.drift`` puts them together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


def kolmogorov_smirnov(baseline: Floats, current: Floats) -> tuple[float, float, float]:
    """The KS statistic D, its asymptotic p-value and the Wasserstein-1 distance of two sorted samples.

    One merge serves both distances: D is the largest gap between the two distribution functions
    (taken after the last of equal values), Wasserstein-1 the area between them, in the unit of the
    values. The p-value is Kolmogorov's with Stephens' correction for small samples
    (λ = (√nₑ + 0.12 + 0.11/√nₑ)·D, nₑ = nm/(n+m)), good from nₑ ≥ 4 on.

    >>> kolmogorov_smirnov(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, 1.0, 1.0]))[::2]
    (0.25, 0.25)
    """
    n, m = len(baseline), len(current)
    place = np.searchsorted(current, baseline, side="right") + np.arange(n)  # of the baseline among both
    step = np.full(n + m, -float(n))
    step[place] = m
    values = np.empty(n + m)
    values[place] = baseline
    values[step < 0] = current
    widths = np.diff(values)
    gaps = np.cumsum(step)[:-1]  # n·m times the gap after each value: whole numbers, so exact
    np.abs(gaps, out=gaps)
    area = float(np.einsum("i,i->", gaps, widths)) / n / m  # `@` would wake BLAS threads, slow on busy cores
    gaps[widths == 0] = 0.0
    d = float(gaps.max(initial=0.0)) / n / m
    root = np.sqrt(n * m / (n + m))
    p = float(special.kolmogorov((root + 0.12 + 0.11 / root) * d))
    return d, p, area


def shares(counts: Counts) -> Floats:
    """Counts as shares, each bin first raised by ½ and renormalised, so that no share is zero.

    >>> shares(np.array([3, 0]))
    array([0.875, 0.125])
    """
    raised = counts + 0.5
    return np.asarray(raised / raised.sum(), dtype=np.float64)


def population_stability(baseline: Counts, current: Counts) -> float:
    """The population stability index Σ(p - q)·ln(p/q) of two counts over the same bins.

    Shares are smoothed by ½; bins empty on both sides do not count.
    """
    used = (baseline + current) > 0
    p, q = shares(baseline[used]), shares(current[used])
    return float(np.sum((p - q) * np.log(p / q)))


def population_stability_critical(baseline: Counts, current: Counts, alpha: float = 0.05) -> float:
    """What the index exceeds by chance with probability ``alpha``: χ²₍B-1,1-alpha₎·(1/n + 1/m).

    B bins are used on either side. Fixed cuts such as 0.1 ignore the sample sizes: with 200 rows on
    each side and ten bins, every third clean pair exceeds it. (Yurdakul 2018, "Statistical
    properties of the population stability index".)

    >>> bins = np.full(10, 20)
    >>> round(population_stability_critical(bins, bins), 3)
    0.169
    """
    bins = int(((baseline + current) > 0).sum())
    n, m = int(baseline.sum()), int(current.sum())
    if bins < 2 or not n or not m:
        return 0.0
    return float(special.chdtri(bins - 1, alpha) * (1 / n + 1 / m))


def jensen_shannon(baseline: Counts, current: Counts) -> float:
    """The Jensen-Shannon divergence of two counts over the same bins, in bits: 0 equal, 1 disjoint."""
    used = (baseline + current) > 0
    p, q = shares(baseline[used]), shares(current[used])
    middle = (p + q) / 2
    return float(np.sum(p * np.log2(p / middle) + q * np.log2(q / middle)) / 2)


def cramers_v(baseline: Floats, current: Floats) -> Floats:
    """Cramér's V between pairs of share vectors (last axis), both samples given equal weight.

    V of the raw table shrinks as the baseline grows (30 days against one divide it by almost 3), so
    a floor on it would depend on the number of days. Equal weights give √(Σ(p - q)²/(2(p + q))).

    >>> float(cramers_v(np.array([1.0, 0.0]), np.array([0.0, 1.0])))
    1.0
    """
    total = baseline + current
    terms = np.divide((baseline - current) ** 2, 2 * total, out=np.zeros_like(total), where=total > 0)
    return np.asarray(np.sqrt(terms.sum(axis=-1)), dtype=np.float64)


def total_variation(baseline: Floats, current: Floats) -> Floats:
    """The total variation ½Σ|p - q| between pairs of share vectors (last axis)."""
    return np.asarray(np.abs(baseline - current).sum(axis=-1) / 2, dtype=np.float64)


def pool_rare(baseline: Counts, current: Counts, minimum: float = 5.0) -> tuple[Counts, Counts]:
    """Both counts with classes merged until each expects at least ``minimum`` rows on either side.

    Rare classes become one; if that one is still rare, it joins the smallest of the others.
    """
    total = baseline + current
    smaller = min(baseline.sum(), current.sum()) / max(int(total.sum()), 1)
    rare = total * smaller < minimum
    if not rare.any():
        return baseline, current
    table = np.stack([baseline, current])
    kept, other = table[:, ~rare], table[:, rare].sum(axis=1, keepdims=True)
    if other.sum() * smaller < minimum and kept.shape[1]:
        kept[:, [kept.sum(axis=0).argmin()]] += other
    else:
        kept = np.concatenate([kept, other], axis=1)
    return kept[0], kept[1]


def contingency(baseline: Counts, current: Counts) -> tuple[str, float, float]:
    """Test, statistic and p-value for two counts over the same classes having one distribution.

    A two-sample contingency χ² with rare classes pooled (the baseline is a sample too; taking it as
    exact truth gives six times the false alarms). Where pooling leaves a single class: Fisher's exact
    test of the most common class against the rest; its statistic is the odds ratio.
    """
    a, b = pool_rare(baseline, current)
    if len(a) >= 2:
        result = stats.chi2_contingency(np.stack([a, b]), correction=False)
        return "chi2", float(result.statistic), float(result.pvalue)
    top = int((baseline + current).argmax())
    rows = [[int(counts[top]), int(counts.sum() - counts[top])] for counts in (baseline, current)]
    exact = stats.fisher_exact(rows)
    return "fisher", float(exact.statistic), float(exact.pvalue)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini-Hochberg adjusted p-values (q-values), in the order given.

    >>> benjamini_hochberg([0.01, 0.02, 0.5])
    [0.03, 0.03, 0.5]
    """
    if not p_values:
        return []
    return [float(q) for q in stats.false_discovery_control(np.asarray(p_values))]


def student_limit(days: int, tests: int, alpha: float) -> float:
    """How many SDs a new day's value may lie from the mean of ``days`` earlier ones.

    The two-sided Student prediction limit at level ``alpha`` over ``tests`` such questions together
    (Bonferroni, so it holds however they depend on one another): t·√(1 + 1/days).

    >>> round(student_limit(30, 50, 0.01), 2)
    4.32
    """
    quantile = special.stdtrit(days - 1, 1 - alpha / (2 * max(tests, 1)))
    return float(quantile * np.sqrt(1 + 1 / days))


def excess_p_value(failed: Counts, checked: Counts, failed_before: Counts, checked_before: Counts) -> Floats:
    """The chance of at least ``failed`` among ``checked`` if each fails as often as before (smoothed by one half).

    >>> excess_p_value(np.array([0, 1, 5]), np.array([50, 50, 50]), np.zeros(3), np.full(3, 1500)).round(4)
    array([1.    , 0.0165, 0.    ])
    """
    rate = (failed_before + 0.5) / (checked_before + 1.0)
    # The regularised incomplete beta function: P(X >= k) of a binomial X, 1 for k = 0.
    tail = special.betainc(np.maximum(failed, 1), checked - np.maximum(failed, 1) + 1.0, rate)
    return np.asarray(np.where(failed > 0, tail, 1.0), dtype=np.float64)
