"""How good a model's predictions were, once labels came: figures with intervals, coverage and delay.

Concept drift cannot be seen without labels, so every figure stands beside the share of predictions
that have one and how late labels come. Rows of one cluster (the dies of a wafer) err together; give
``cluster`` and the intervals widen accordingly. Intervals are at 95 %, from each row's influence on
the figure (the delta method; for the AUC that is DeLong's), summed per cluster: deterministic, and one
formula for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import special, stats

from expectations.statistics import Floats
from features.errors import InvalidInput

PREDICTION, LABEL, CLUSTER = "prediction", "label", "cluster"
PREDICTED_AT, LABELLED_AT = "predicted_at", "labelled_at"

MIN_LABELS = 30
"""Fewer labelled predictions give no figure."""
MIN_PER_DAY = 5
"""A single day's figure needs fewer; its interval, from as few, says how little it means."""
MIN_CLASS = 5
"""Fewer labels of either class give no classification figure."""
LEVEL = 0.95
PROPORTIONS = {"auc", "accuracy"}


@dataclass(frozen=True)
class Figure:
    """One measure with its 95 % interval, and what knowing only the labels' mean would score (``reference``).

    ``low`` and ``high`` are None where a single cluster leaves nothing to estimate them from.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    reference: float


@dataclass(frozen=True)
class Performance:
    """A model's figures over some predictions. Too few labels: state "insufficient_data" and no figures.

    ``delay`` is the median time from prediction to label, None where times are not given.
    """

    model: str
    state: Literal["ok", "insufficient_data"]
    predictions: int
    labels: int
    delay: timedelta | None = None
    figures: tuple[Figure, ...] = ()
    message: str = ""

    @property
    def coverage(self) -> float:
        """The share of predictions that have a label; 0 where there are none."""
        return self.labels / self.predictions if self.predictions else 0.0

    def figure(self, name: str) -> Figure | None:
        """The figure of that name, if it could be computed."""
        return next((f for f in self.figures if f.name == name), None)


class Judge(Protocol):
    """``regression`` or ``classification``."""

    def __call__(self, model: str, frame: pl.DataFrame, *, least: int = ...) -> Performance:
        """Judge a model by one row per prediction, given at least so many labels."""


def regression(model: str, frame: pl.DataFrame, *, least: int = MIN_LABELS) -> Performance:
    """MAE and RMSE in the label's unit, and R², of one row per prediction.

    Columns: ``prediction``, ``label`` (null: not known yet), optionally ``predicted_at`` and
    ``labelled_at`` (UTC), ``cluster``. Fewer than ``least`` labels are insufficient data. Raises
    InvalidInput where one of the first two columns is missing or no number.

    >>> frame = pl.DataFrame({"prediction": [1.0, 3.0] * 20, "label": [2.0, 2.5] * 20})
    >>> judged = regression("yield", frame)
    >>> judged.coverage, judged.figure("mae").value
    (1.0, 0.75)
    """
    labelled, blank = _labelled(model, frame, least)
    if blank.state != "ok":
        return blank
    y, errors = labelled[LABEL].to_numpy(), (labelled[PREDICTION] - labelled[LABEL]).to_numpy()
    around = (y - y.mean()) ** 2
    mse, variance = float((errors**2).mean()), float(around.mean())
    rmse = mse**0.5
    absolute = np.abs(errors)
    measures = {
        "mae": (float(absolute.mean()), absolute - absolute.mean(), float(np.abs(y - y.mean()).mean())),
        "rmse": (rmse, (errors**2 - mse) / (2 * rmse or 1.0), variance**0.5),
    }
    if variance > 0:
        share = mse / variance
        measures["r2"] = (1 - share, (share * around - errors**2) / variance, 0.0)
    return _judged(blank, labelled, measures, floors={"mae": 0.0, "rmse": 0.0}, ceilings={"r2": 1.0})


def classification(model: str, frame: pl.DataFrame, *, least: int = MIN_LABELS) -> Performance:
    """AUC, log loss (nats), Brier score, accuracy and lift of predicted probabilities of a 0/1 label.

    ``accuracy`` and ``lift`` flag the highest scores, as many as there are positives (more where the
    last one is tied): accuracy at the base rate, and the share of positives among the flagged over
    the base rate. Columns as for ``regression``; probabilities outside [0, 1] and labels other than
    0, 1 or booleans raise InvalidInput.
    """
    labelled, blank = _labelled(model, frame, least)
    y, p = labelled[LABEL].to_numpy(), labelled[PREDICTION].to_numpy()
    if ((p < 0) | (p > 1)).any() or ((y != 0) & (y != 1)).any():
        raise InvalidInput(f"model {model!r}: give probabilities in [0, 1] and labels 0 or 1")
    positives = int(y.sum())
    if blank.state != "ok" or min(positives, blank.labels - positives) < MIN_CLASS:
        reason = f"{blank.labels} labels, {positives} of them positive; {least} are needed, {MIN_CLASS} per class"
        return Performance(model, "insufficient_data", blank.predictions, blank.labels, blank.delay, message=reason)
    rate = positives / len(y)
    flagged = (p >= np.sort(p)[-positives]).astype(np.float64)
    certain = np.clip(p, 1e-15, 1 - 1e-15)
    losses = -np.where(y == 1, np.log(certain), np.log1p(-certain))
    squares, hits = (p - y) ** 2, (flagged == y).astype(np.float64)
    both = flagged * y
    lift = float(both.mean() / flagged.mean() / rate)
    lift_influence = both / flagged.mean() / rate - lift * (flagged / flagged.mean() + y / rate - 1)
    area, area_influence = _auc(y == 1, p)
    measures = {
        "auc": (area, area_influence, 0.5),
        "log_loss": (float(losses.mean()), losses - losses.mean(), float(special.entr([rate, 1 - rate]).sum())),
        "brier": (float(squares.mean()), squares - squares.mean(), rate * (1 - rate)),
        "accuracy": (float(hits.mean()), hits - hits.mean(), rate**2 + (1 - rate) ** 2),
        "lift": (lift, lift_influence, 1.0),
    }
    ceilings = {"auc": 1.0, "brier": 1.0, "accuracy": 1.0, "lift": 1 / rate}
    return _judged(blank, labelled, measures, floors=dict.fromkeys(measures, 0.0), ceilings=ceilings)


def by_day(judge: Judge, model: str, frame: pl.DataFrame, day: str) -> list[tuple[date, Performance]]:
    """The model judged on each day's predictions by themselves, oldest first; ``day`` names a Date column."""
    parts = frame.drop_nulls(day).partition_by(day, as_dict=True)
    return sorted(
        ((key[0], judge(model, part, least=MIN_PER_DAY)) for key, part in parts.items()), key=lambda pair: pair[0]
    )


def _labelled(model: str, frame: pl.DataFrame, least: int) -> tuple[pl.DataFrame, Performance]:
    """The rows with a prediction and a label, as floats, and the Performance without figures."""
    if missing := [c for c in (PREDICTION, LABEL) if c not in frame.columns]:
        raise InvalidInput(f"model {model!r}: the predictions lack column(s) {missing}; they have {frame.columns}")
    for name in (PREDICTION, LABEL):
        if not (frame.schema[name].is_numeric() or frame.schema[name] in (pl.Boolean, pl.Null)):
            raise InvalidInput(f"model {model!r}: {name} is {frame.schema[name]}, not a number or boolean; encode it")
    both = frame.with_columns(pl.col(PREDICTION, LABEL).cast(pl.Float64))
    scored = both.filter(pl.col(PREDICTION).is_finite())
    labelled = scored.filter(pl.col(LABEL).is_finite())
    few = len(labelled) < least
    notes = [f"{len(labelled)} labels; {least} are needed"] if few else []
    if dropped := len(both) - len(scored):
        notes.append(f"{dropped} rows without a prediction left out")
    state: Literal["ok", "insufficient_data"] = "insufficient_data" if few else "ok"
    delay = None
    if {PREDICTED_AT, LABELLED_AT} <= set(frame.columns):
        median = (labelled[LABELLED_AT] - labelled[PREDICTED_AT]).median()
        delay = median if isinstance(median, timedelta) else None
    return labelled, Performance(model, state, len(scored), len(labelled), delay, message="; ".join(notes))


def _auc(positive: npt.NDArray[np.bool_], score: Floats) -> tuple[float, Floats]:
    """The area under the ROC curve and each row's influence on it (DeLong's placements)."""
    n = len(score)
    n1 = int(positive.sum())
    n0 = n - n1
    ranks = stats.rankdata(score)
    below = np.empty(n)  # of a positive: negatives below it, ties half; of a negative: positives below it
    below[positive] = ranks[positive] - stats.rankdata(score[positive])
    below[~positive] = ranks[~positive] - stats.rankdata(score[~positive])
    placement = np.where(positive, below / n0, 1 - below / n1)
    area = float(placement[positive].mean())
    return area, (placement - area) * np.where(positive, n / n1, n / n0)


def _judged(
    blank: Performance,
    labelled: pl.DataFrame,
    measures: Mapping[str, tuple[float, Floats, float]],
    *,
    floors: Mapping[str, float],
    ceilings: Mapping[str, float],
) -> Performance:
    """The Performance with a figure for each (value, influence per row, reference)."""
    cluster = labelled[CLUSTER].rank("dense").fill_null(0).to_numpy().astype(np.int64) if CLUSTER in labelled else None
    figures = []
    for name, (value, influence, reference) in measures.items():
        half = _half_width(influence, cluster, proportion=name in PROPORTIONS)
        low = None if half is None else max(value - half, floors.get(name, -np.inf))
        high = None if half is None else min(value + half, ceilings.get(name, np.inf))
        figures.append(Figure(name, value, low, high, reference))
    return Performance(
        blank.model, "ok", blank.predictions, blank.labels, blank.delay, tuple(figures), message=blank.message
    )


def _half_width(influence: Floats, cluster: npt.NDArray[np.int64] | None, *, proportion: bool) -> float | None:
    """Half the 95 % interval of a mean whose rows have these influences, independent between clusters.

    Where no row differs (every hit a hit), a proportion still gets the rule of three: 3/n.
    """
    sums = influence if cluster is None else np.bincount(cluster, weights=influence)[np.unique(cluster)]
    groups = len(sums)
    if groups < 2:
        return None
    error = float(np.sqrt(np.sum(sums**2) * groups / (groups - 1))) / len(influence)
    if error == 0.0 and proportion:
        return 3 / groups
    return float(special.stdtrit(groups - 1, (1 + LEVEL) / 2)) * error
