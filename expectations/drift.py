"""Drift of the columns of one night against their baselines, with a false-alarm rate one can live with.

A column drifts only if three things agree:

- *significance*: the q-value (Benjamini-Hochberg over every test of the night) is at most ``Q``;
- *effect*: the change is large enough to matter (``FLOOR``), else a million rows flag 0.005 sigma;
- *the day*: today differs from the baseline by more than its days differ among themselves. Rows of a
  day (a wafer, a lot, a tester, windows that overlap) rise and fall together, so tests that count
  rows are always significant. The unit that varies freely is the day; its limit is a Student
  prediction limit over all columns of the night, and today must also lie outside everything that
  the good days showed.

Drifted columns are ranked by ``|daily_z|``, the shift of today's mean in SDs of the baseline's daily
means. It has no unit, does not depend on how many rows a column has, and puts a cause above what it
drags along: a consequence is the cause plus noise of its own, or the cause averaged over a longer
window, and either lowers its shift relative to its ordinary days.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from expectations import statistics
from expectations.comparison import Check, ColumnData, Comparison, Guard, compare

__all__ = ["DAY_ALPHA", "FLOOR", "ColumnData", "ColumnDrift", "Q", "State", "detect"]

State = Literal["drift", "ok", "insufficient_data", "constant", "error"]

Q = 0.05
"""The share of false discoveries that is accepted among the night's significant tests."""
FLOOR = 0.05
"""The least effect that matters: KS D, Cramér's V, or a change in the share of missing values."""
DAY_ALPHA = 0.005
"""The chance that any column of a clean night passes its daily limit. Days that hang together (30-day
windows) raise it up to fourfold (simulated), which still keeps a night's false-alarm rate under 5 %."""

_ORDER: dict[State, int] = {"drift": 0, "error": 1, "ok": 2, "insufficient_data": 3, "constant": 4}


@dataclass(frozen=True)
class ColumnDrift:
    """What the night says about one column. Figures that do not apply are None.

    ``test`` is "ks", "chi2" or "fisher" (values), "missing" (the shares of null and not finite), or
    empty. ``effect`` goes by ``effect_name`` and must reach ``floor``. ``wasserstein`` is in robust sigma
    of the baseline, ``js`` in bits. ``null_rate_*`` are shares of null, NaN and infinite values.
    Means are of the finite values, wild ones clipped to the baseline's fence; of a boolean, the share
    of true. ``daily_z`` is today's shift in SDs of the baseline's daily means (of categories and
    missing values: see ``expectations.comparison.Guard``), ``spread_z`` the same for daily SDs; a
    drift needs one of the two beyond ``daily_limit``. Both are infinite where no day ever differed.
    """

    ref: str
    state: State
    test: str
    n_baseline: int
    n_current: int
    statistic: float | None = None
    p_value: float | None = None
    q_value: float | None = None
    effect: float | None = None
    effect_name: str = ""
    psi: float | None = None
    js: float | None = None
    wasserstein: float | None = None
    null_rate_baseline: float | None = None
    null_rate_current: float | None = None
    mean_baseline: float | None = None
    mean_current: float | None = None
    daily_z: float | None = None
    message: str = ""
    floor: float = FLOOR
    psi_critical: float | None = None
    spread_z: float | None = None
    daily_limit: float | None = None


def detect(columns: Mapping[str, ColumnData]) -> list[ColumnDrift]:
    """Compare every column of a night with its baseline: drifted ones first, the strongest on top.

    Hand over all columns of the night together: the corrections count them. Never raises for what a
    column holds; one that cannot be judged has a state and a message that say so.

    >>> import numpy as np, polars as pl
    >>> from datetime import date, timedelta
    >>> rng = np.random.default_rng(1)
    >>> day = pl.Series([date(2026, 3, 1) + timedelta(days=d) for d in range(30) for _ in range(50)])
    >>> vdd = ColumnData(pl.Series(rng.normal(1.20, 0.01, 1500)), day, pl.Series(rng.normal(1.25, 0.01, 50)))
    >>> idd = ColumnData(pl.Series(rng.normal(80, 9, 1500)), day, pl.Series(rng.normal(80, 9, 50)))
    >>> [(c.ref, c.state) for c in detect({"parts:idd": idd, "parts:vdd": vdd})]
    [('parts:vdd', 'drift'), ('parts:idd', 'ok')]
    """
    compared = {ref: compare(data) for ref, data in columns.items()}
    tests = [(ref, check) for ref, comparison in compared.items() for check in comparison.checks]
    adjusted = statistics.benjamini_hochberg([check.p_value for _, check in tests])
    q_values = {(ref, check.test): q for (ref, check), q in zip(tests, adjusted, strict=True)}
    questions = sum(len(check.guards) for _, check in tests)
    found = [
        _conclude(ref, comparison, [_judge(c, q_values[ref, c.test], questions) for c in comparison.checks])
        for ref, comparison in compared.items()
    ]
    return sorted(found, key=lambda c: (_ORDER[c.state], -abs(c.daily_z or 0.0), -(c.effect or 0.0), c.ref))


@dataclass(frozen=True)
class _Verdict:
    check: Check
    q_value: float
    limits: tuple[float, ...]

    @property
    def unusual(self) -> list[Guard]:
        """The guards that today has passed."""
        pairs = zip(self.check.guards, self.limits, strict=True)
        return [guard for guard, limit in pairs if guard.outside and abs(guard.z) > limit]

    @property
    def drift(self) -> bool:
        """Whether significance, effect and the day agree."""
        return self.q_value <= Q and self.check.effect >= FLOOR and bool(self.unusual)


def _judge(check: Check, q_value: float, questions: int) -> _Verdict:
    limits = (statistics.student_limit(guard.days, questions, DAY_ALPHA) * guard.fewer for guard in check.guards)
    return _Verdict(check, q_value, tuple(limits))


def _conclude(ref: str, found: Comparison, verdicts: list[_Verdict]) -> ColumnDrift:
    drifting = [v for v in verdicts if v.drift]
    shown = max(drifting, key=lambda v: abs(v.check.guards[0].z)) if drifting else next(iter(verdicts), None)
    state: State
    state, reason = found.idle or ("ok", "")
    if drifting and shown is not None:
        state, reason = "drift", _explain(found, shown)
    elif shown is not None and not reason:
        reason = _why_not(shown)
    psi, critical, js = found.psi or (None, None, None)
    guards = shown.check.guards if shown else ()
    return ColumnDrift(
        ref,
        state,
        shown.check.test if shown else "",
        found.n_baseline,
        found.n_current,
        statistic=shown.check.statistic if shown else None,
        p_value=shown.check.p_value if shown else None,
        q_value=shown.q_value if shown else None,
        effect=shown.check.effect if shown else None,
        effect_name=shown.check.effect_name if shown else "",
        psi=psi,
        js=js,
        wasserstein=found.wasserstein,
        null_rate_baseline=found.missing[0] if found.missing else None,
        null_rate_current=found.missing[1] if found.missing else None,
        mean_baseline=found.means[0],
        mean_current=found.means[1],
        daily_z=guards[0].z if guards else None,
        message=reason,
        psi_critical=critical,
        spread_z=guards[1].z if len(guards) > 1 else None,
        daily_limit=shown.limits[0] if shown else None,
    )


def _explain(found: Comparison, verdict: _Verdict) -> str:
    """A drift in one sentence."""
    check = verdict.check
    before, now = found.means
    if check.test == "missing" and found.missing is not None:
        return f"missing or not finite: {found.missing[0]:.1%} before, {found.missing[1]:.1%} today"
    if before is None or now is None:
        return f"the mix of values is {check.guards[0].z:.1f} times an ordinary day's distance away"
    if check.guards[0] not in verdict.unusual:
        return f"the spread within a day moved by {check.guards[1].z:+.1f} daily SDs; its mean did not"
    return f"mean {before:.5g} before, {now:.5g} today: {check.guards[0].z:+.1f} SDs of the daily means"


def _why_not(verdict: _Verdict) -> str:
    """Which of the three conditions a column that is ok misses first."""
    if verdict.q_value > Q:
        return "no significant difference"
    if verdict.check.effect < FLOOR:
        return f"significant, but the effect is below {FLOOR:g}"
    return "a shift such as ordinary days show"
