"""Training: from point-in-time examples to a fitted, measured estimator. No I/O, no tracking.

The estimator gets its inputs from ``prepare_features`` when it is trained and when it predicts, so
that both see the same columns in the same order and types. Randomness is the estimator's own: give
it a ``random_state`` and equal examples in equal order give an equal model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from sklearn import metrics as scores
from sklearn.base import clone, is_classifier

from features.errors import InvalidInput, TrainingError
from features.feature_group import EVENT_TIMESTAMP
from features.model import ModelSpec
from features.times import duration

MIN_ROWS = 10
"""Fewer training or test examples than this measure nothing."""

_TEXT = (pl.String, pl.Categorical, pl.Enum)


@dataclass(frozen=True)
class TimeSplit:
    """Training and test examples, apart in time.

    ``train`` lies before ``cutoff`` - embargo, ``test`` at or after ``cutoff``; ``dropped`` examples
    lie in between. Both keep the order of the frame.
    """

    train: pl.DataFrame
    test: pl.DataFrame
    cutoff: datetime
    dropped: int


@dataclass(frozen=True)
class Examples:
    """The examples a model can learn from, and how many were left out for which reason."""

    frame: pl.DataFrame
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class Fitted:
    """A fitted model, how it did on the test examples, and what it was fitted on.

    ``model`` saw the training examples only, so ``metrics`` speak of this very model. ``label``
    holds mean and standard deviation for a regression, the share of positives for a classification,
    over training and test examples.
    """

    model: Any
    metrics: Mapping[str, float]
    cutoff: datetime
    n_train: int
    n_test: int
    embargoed: int
    left_out: Mapping[str, int]
    label: Mapping[str, float]

    @property
    def facts(self) -> dict[str, str | int | float]:
        """What is worth logging beside the metrics, as flat names and values."""
        return {
            "n_train": self.n_train,
            "n_test": self.n_test,
            "cutoff": self.cutoff.isoformat(),
            "embargoed": self.embargoed,
            **{f"left_out_{reason}": count for reason, count in self.left_out.items()},
            **{f"label_{name}": value for name, value in self.label.items()},
        }


def split_by_time(
    frame: pl.DataFrame,
    time_column: str = EVENT_TIMESTAMP,
    test_share: float = 0.25,
    embargo: timedelta = timedelta(0),
) -> TimeSplit:
    """Split examples so that every test example is later than every training example + embargo.

    ``cutoff`` is the time of the first of the latest ``test_share`` examples; examples of equal time
    stay together. Training is [first, cutoff - embargo), test [cutoff, last]; the rows in between are
    dropped. Raises TrainingError where fewer than ``MIN_ROWS`` remain on a side.

    >>> from datetime import UTC
    >>> days = pl.datetime_range(datetime(2026, 1, 1), datetime(2026, 2, 9), "1d", time_zone="UTC", eager=True)
    >>> split = split_by_time(pl.DataFrame({"event_timestamp": days}), embargo=timedelta(days=2))
    >>> split.train.height, split.dropped, split.test.height, split.cutoff.date().isoformat()
    (28, 2, 10, '2026-01-31')
    """
    if not 0 < test_share < 1:
        raise TrainingError(f"test_share {test_share} leaves one side empty: choose a share between 0 and 1")
    if embargo < timedelta(0):
        raise TrainingError(f"an embargo of {embargo} would let training overlap the test period: use 0s or more")
    times = frame[time_column].sort()
    if times.null_count() or times.len() < 2 * MIN_ROWS:
        raise TrainingError(
            f"{times.len()} example(s), {times.null_count()} of them without {time_column!r}, cannot be split: "
            f"training and test need {MIN_ROWS} each"
        )
    cutoff: datetime = times[min(int(times.len() * (1 - test_share)), times.len() - 1)]
    test = frame.filter(pl.col(time_column) >= cutoff)
    train = frame.filter(pl.col(time_column) < cutoff - embargo)
    dropped = frame.height - train.height - test.height
    if min(train.height, test.height) < MIN_ROWS:
        raise TrainingError(
            f"{frame.height} examples from {times[0]} to {times[-1]} split at {cutoff} into {train.height} for "
            f"training and {test.height} for the test, {dropped} in the embargo of {embargo}; each needs {MIN_ROWS}: "
            f"add a longer history or shorten the embargo"
        )
    return TimeSplit(train, test, cutoff, dropped)


def prepare_features(frame: pl.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The frame that an estimator gets: the named columns, in that order.

    Numbers and booleans become float64 with NaN for null; text becomes object with None for null, and
    the estimator encodes it. Raises InvalidInput for a column that is missing or of another type.

    >>> prepare_features(pl.DataFrame({"a": [1, None], "b": ["x", None]}), ["b", "a"]).to_dict("list")
    {'b': ['x', None], 'a': [1.0, nan]}
    """
    missing = [n for n in names if n not in frame.columns]
    if missing:
        raise InvalidInput(f"the rows lack feature column(s) {missing}: ask for every feature the model was trained on")
    return pd.DataFrame({name: _prepared(frame[name]) for name in names}, index=pd.RangeIndex(frame.height))


def fit(
    spec: ModelSpec,
    frame: pl.DataFrame,
    names: Sequence[str],
    *,
    now: datetime,
    label: str | None = None,
    statuses: pl.DataFrame | None = None,
    test_share: float = 0.25,
) -> Fitted:
    """Fit a clone of the model's estimator on the earlier examples and measure it on the later ones.

    ``frame`` has a row per example: ``event_timestamp`` (the moment asked), the features ``names`` in
    service order and the label (column ``label``, by default the label feature's short name). See
    ``usable_examples`` for ``now`` and ``statuses``, ``split_by_time`` for the split. Regressions
    report mae, rmse and r2, beside what predicting the training mean would reach; classifications
    of two classes roc_auc, log_loss and brier, beside what predicting the training share of the
    greater class would reach.

    Raises TrainingError where examples are too few, of a single class, or refused by the estimator.
    """
    label = spec.label_ref.feature if label is None else label
    examples = usable_examples(spec, frame, label, now=now, statuses=statuses)
    return _fit(spec, examples, names, label, test_share)


def usable_examples(
    spec: ModelSpec,
    frame: pl.DataFrame,
    label: str,
    *,
    now: datetime,
    statuses: pl.DataFrame | None = None,
) -> Examples:
    """Leave out, and count, the examples that teach nothing; each is counted once, for the first reason.

    ``label_not_known_yet``: its event time (the moment asked - ``predict_after``) + ``label_delay`` is
    after ``now``. ``label_missing``: the label is null or NaN. ``no_feature_available``: every column of
    ``statuses`` (same rows as ``frame``) says NOT_FOUND.
    """
    if label not in frame.columns:
        raise TrainingError(f"model {spec.name!r}: the examples lack the label column {label!r}")
    known_from = pl.col(EVENT_TIMESTAMP) - duration(spec.predict_after) + duration(spec.label_delay)
    known = frame.select((known_from <= now).fill_null(value=False)).to_series()
    present = frame[label].is_not_null()
    if frame.schema[label].is_float():
        present &= frame[label].is_not_nan().fill_null(value=False)
    answered = _answered(spec, frame, statuses)
    left_out = {
        "label_not_known_yet": int((~known).sum()),
        "label_missing": int((known & ~present).sum()),
        "no_feature_available": int((known & present & ~answered).sum()),
    }
    return Examples(frame.filter(known & present & answered), left_out)


def predict(model: Any, frame: pl.DataFrame, names: Sequence[str]) -> pl.Series:
    """One Float64 prediction a row; for a classifier the probability of the greater class (True, 1)."""
    if frame.is_empty():  # scikit-learn refuses a frame without rows
        return pl.Series("prediction", [], dtype=pl.Float64)
    inputs = prepare_features(frame, names)
    values = model.predict_proba(inputs)[:, 1] if is_classifier(model) else model.predict(inputs)
    return pl.Series("prediction", np.asarray(values, dtype=np.float64))


def shuffled_label_auc(
    spec: ModelSpec,
    frame: pl.DataFrame,
    names: Sequence[str],
    *,
    now: datetime,
    label: str | None = None,
    statuses: pl.DataFrame | None = None,
    seed: int = 0,
) -> float:
    """The test AUC after shuffling the labels of the usable examples: about .5 unless training cheats.

    An AUC away from .5 means that the model was measured on examples it was fitted on.
    """
    label = spec.label_ref.feature if label is None else label
    examples = usable_examples(spec, frame, label, now=now, statuses=statuses)
    shuffled = examples.frame.with_columns(pl.col(label).shuffle(seed=seed))
    return _fit(spec, Examples(shuffled, examples.left_out), names, label, 0.25).metrics["roc_auc"]


def _prepared(column: pl.Series) -> pd.Series[Any]:
    dtype = column.dtype
    if dtype in _TEXT:
        return pd.Series(column.cast(pl.String).to_numpy(), dtype=object)
    if dtype.is_numeric() or dtype in (pl.Boolean, pl.Null):
        return pd.Series(column.cast(pl.Float64).to_numpy(), dtype="float64")
    raise InvalidInput(
        f"feature column {column.name!r} is {dtype}, which no estimator takes: derive a number from it, "
        f"like an age in hours, or leave it out of the service"
    )


def _answered(spec: ModelSpec, frame: pl.DataFrame, statuses: pl.DataFrame | None) -> pl.Series:
    if statuses is None or not statuses.width:
        return pl.repeat(value=True, n=frame.height, dtype=pl.Boolean, eager=True)
    if statuses.height != frame.height:
        raise TrainingError(f"model {spec.name!r}: {statuses.height} rows of statuses for {frame.height} examples")
    return statuses.select(pl.any_horizontal(pl.all().cast(pl.String) != "NOT_FOUND")).to_series()


def _fit(spec: ModelSpec, examples: Examples, names: Sequence[str], label: str, test_share: float) -> Fitted:
    who = f"model {spec.name!r}"
    if not names or label in names:
        raise TrainingError(f"{who}: features {list(names)} must be some, and not hold the label {label!r}")
    try:
        split = split_by_time(examples.frame, EVENT_TIMESTAMP, test_share, spec.embargo_span)
    except TrainingError as error:
        raise TrainingError(f"{who}: {error} (left out before: {dict(examples.left_out)})") from error
    classify = is_classifier(spec.estimator)
    truths = (_classes if classify else _numbers)(who, split.train[label], split.test[label])
    model = clone(spec.estimator)
    try:
        model.fit(prepare_features(split.train, names), truths[0])
    except ValueError as error:  # what scikit-learn raises for inputs it cannot take
        raise TrainingError(f"{who}: the estimator refuses the examples: {error}") from error
    predicted = predict(model, split.test, names).to_numpy()
    measured = _classification(*truths, predicted) if classify else _regression(*truths, predicted)
    unknown = sorted(set(spec.metrics) - set(measured))
    if unknown:
        raise TrainingError(f"{who}: there is no metric {unknown}; there are {sorted(measured)}")
    return Fitted(
        model=model,
        metrics=measured,
        cutoff=split.cutoff,
        n_train=split.train.height,
        n_test=split.test.height,
        embargoed=split.dropped,
        left_out=examples.left_out,
        label=_label_facts(*truths, classify=classify),
    )


def _numbers(who: str, train: pl.Series, test: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    if not (train.dtype.is_numeric() or train.dtype == pl.Boolean):
        raise TrainingError(f"{who} is a regression, but its label is {train.dtype}: use a numeric label")
    return train.cast(pl.Float64).to_numpy(), test.cast(pl.Float64).to_numpy()


def _classes(who: str, train: pl.Series, test: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Labels as 0 and 1, the greater of the two classes being 1."""
    classes = pl.concat([train, test]).unique().sort()
    counts = [(s == classes[-1]).sum() for s in (train, test)]
    if classes.len() != 2 or not all(0 < n < s.len() for n, s in zip(counts, (train, test), strict=True)):
        raise TrainingError(
            f"{who} needs two classes in training and test; {train.name!r} has {classes.head(5).to_list()}, "
            f"{classes[-1]!r} being {counts[0]} of {train.len()} training and {counts[1]} of {test.len()} test labels"
        )
    return (train == classes[1]).cast(pl.Int8).to_numpy(), (test == classes[1]).cast(pl.Int8).to_numpy()


def _regression(train: np.ndarray, test: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    mean = np.full(test.shape, train.mean())
    return {
        "mae": float(scores.mean_absolute_error(test, predicted)),
        "rmse": float(scores.root_mean_squared_error(test, predicted)),
        "r2": float(scores.r2_score(test, predicted)),
        "baseline_mae": float(scores.mean_absolute_error(test, mean)),
        "baseline_rmse": float(scores.root_mean_squared_error(test, mean)),
    }


def _classification(train: np.ndarray, test: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    base_rate = np.full(test.shape, train.mean(), dtype=np.float64)
    return {
        "roc_auc": float(scores.roc_auc_score(test, predicted)),
        "log_loss": float(scores.log_loss(test, predicted)),
        "brier": float(scores.brier_score_loss(test, predicted)),
        "baseline_log_loss": float(scores.log_loss(test, base_rate)),
        "baseline_brier": float(scores.brier_score_loss(test, base_rate)),
    }


def _label_facts(train: np.ndarray, test: np.ndarray, *, classify: bool) -> dict[str, float]:
    if classify:
        return {"base_rate_train": float(train.mean()), "base_rate_test": float(test.mean())}
    return {
        "mean_train": float(train.mean()),
        "std_train": float(train.std()),
        "mean_test": float(test.mean()),
        "std_test": float(test.std()),
    }
