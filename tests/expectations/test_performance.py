"""Model performance: values against scikit-learn, intervals that cover, labels that are missing."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from sklearn import metrics

from expectations.performance import MIN_LABELS, by_day, classification, regression
from features.errors import InvalidInput


def numbers(seed: int, rows: int = 400, error: float = 1.0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    label = rng.normal(90, 3, rows)
    return pl.DataFrame({"label": label, "prediction": label + rng.normal(0, error, rows)})


def chances(seed: int, rows: int = 400) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    prediction = rng.beta(1, 3, rows).round(2)
    return pl.DataFrame({"prediction": prediction, "label": rng.random(rows) < prediction})


def test_regression_figures_are_those_of_scikit_learn():
    frame = numbers(1)
    y, p = frame["label"].to_numpy(), frame["prediction"].to_numpy()
    judged = regression("yield", frame)
    values = {f.name: f.value for f in judged.figures}
    assert values == pytest.approx(
        {
            "mae": metrics.mean_absolute_error(y, p),
            "rmse": metrics.root_mean_squared_error(y, p),
            "r2": metrics.r2_score(y, p),
        }
    )


def test_classification_figures_are_those_of_scikit_learn():
    frame = chances(2)
    y, p = frame["label"].to_numpy(), frame["prediction"].to_numpy()
    judged = classification("fail", frame)
    values = {f.name: f.value for f in judged.figures}
    assert values["auc"] == pytest.approx(metrics.roc_auc_score(y, p))
    assert values["log_loss"] == pytest.approx(metrics.log_loss(y, np.clip(p, 1e-15, 1 - 1e-15)))
    assert values["brier"] == pytest.approx(metrics.brier_score_loss(y, p))
    flagged = p >= np.sort(p)[-y.sum()]
    assert values["accuracy"] == pytest.approx(metrics.accuracy_score(y, flagged))
    assert values["lift"] == pytest.approx(metrics.precision_score(y, flagged) / y.mean())


@pytest.mark.parametrize(
    ("judge", "draw", "name"),
    [
        (regression, numbers, "mae"),
        (regression, numbers, "rmse"),
        (regression, numbers, "r2"),
        (classification, chances, "auc"),
        (classification, chances, "log_loss"),
        (classification, chances, "brier"),
        (classification, chances, "lift"),
    ],
)
def test_intervals_cover_the_truth_19_times_in_20(judge, draw, name):
    truth = judge("m", draw(0, 200_000)).figure(name).value
    figures = [judge("m", draw(seed, 300)).figure(name) for seed in range(1, 201)]
    covered = np.mean([f.low <= truth <= f.high for f in figures])
    assert 0.89 <= covered <= 0.99


def test_rows_that_err_together_widen_the_interval():
    rng = np.random.default_rng(3)
    wafer = np.repeat(np.arange(40), 50)
    label = rng.normal(0, 1, 2000)
    frame = pl.DataFrame({"label": label, "prediction": label + rng.normal(0, 1, 40)[wafer], "cluster": wafer})
    clustered, naive = (regression("m", f).figure("mae") for f in (frame, frame.drop("cluster")))
    assert clustered.value == naive.value
    assert (clustered.high - clustered.low) > 4 * (naive.high - naive.low)


def test_one_cluster_has_no_interval():
    figure = regression("m", numbers(4).with_columns(cluster=pl.lit("w1"))).figure("mae")
    assert (figure.low, figure.high) == (None, None)


def test_label_coverage_and_delay_stand_beside_the_figures():
    asked = datetime(2026, 3, 1, tzinfo=UTC)
    frame = numbers(5, 100).with_columns(
        label=pl.when(pl.int_range(pl.len()) < 60).then("label"),
        predicted_at=pl.lit(asked),
        labelled_at=pl.lit(asked + timedelta(hours=5)),
    )
    judged = regression("yield", frame)
    assert (judged.predictions, judged.labels, judged.coverage) == (100, 60, 0.6)
    assert judged.delay == timedelta(hours=5)


def test_too_few_labels_give_no_figure():
    judged = regression("yield", numbers(6, MIN_LABELS - 1))
    assert (judged.state, judged.figures) == ("insufficient_data", ())
    assert str(MIN_LABELS) in judged.message
    nothing = regression("yield", numbers(6, 0))
    assert (nothing.state, nothing.coverage) == ("insufficient_data", 0.0)


def test_one_class_alone_gives_no_figure():
    judged = classification("fail", chances(7).with_columns(label=pl.lit(value=True)))
    assert judged.state == "insufficient_data"
    assert "per class" in judged.message


def test_a_perfect_model_is_not_called_certain():
    frame = pl.DataFrame({"label": [True, False] * 50, "prediction": [0.9, 0.1] * 50})
    for name in ("auc", "accuracy"):
        figure = classification("fail", frame).figure(name)
        assert (figure.value, figure.high) == (1.0, 1.0)
        assert figure.low == pytest.approx(0.97)


def test_a_constant_score_is_worth_its_reference():
    frame = pl.DataFrame({"label": [True, False, False, False] * 50, "prediction": [0.25] * 200})
    judged = classification("fail", frame)
    for name in ("auc", "log_loss", "brier", "lift"):
        assert judged.figure(name).value == pytest.approx(judged.figure(name).reference)


def test_predicting_the_mean_is_worth_the_reference():
    frame = numbers(8).with_columns(prediction=pl.col("label").mean())
    for figure in regression("yield", frame).figures:
        assert figure.value == pytest.approx(figure.reference, abs=1e-9)


def test_a_constant_label_has_no_r2():
    frame = numbers(9).with_columns(label=pl.lit(90.0))
    assert [f.name for f in regression("yield", frame).figures] == ["mae", "rmse"]


def test_rows_without_a_prediction_are_left_out_and_said():
    frame = numbers(10, 50)
    frame = pl.concat([frame, pl.DataFrame({"label": [1.0, 2.0], "prediction": [None, float("nan")]})])
    judged = regression("yield", frame)
    assert (judged.predictions, judged.labels) == (50, 50)
    assert "2 rows" in judged.message


def test_days_are_judged_apart():
    frame = pl.concat([numbers(d, 10, error=1.0 + d).with_columns(day=pl.lit(date(2026, 3, 1 + d))) for d in (2, 0, 1)])
    days = by_day(regression, "yield", frame, "day")
    assert [d for d, _ in days] == [date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 3)]
    assert [p.predictions for _, p in days] == [10, 10, 10]
    assert all(p.figure("mae").low < p.figure("mae").value < p.figure("mae").high for _, p in days)


@pytest.mark.parametrize(
    ("frame", "word"),
    [
        (pl.DataFrame({"prediction": [0.5]}), "label"),
        (pl.DataFrame({"prediction": [1.5] * 40, "label": [1] * 40}), "probabilities"),
        (pl.DataFrame({"prediction": [0.5] * 40, "label": [2] * 40}), "labels 0 or 1"),
        (pl.DataFrame({"prediction": [0.5] * 40, "label": ["fail"] * 40}), "encode"),
    ],
)
def test_wrong_input_is_named(frame, word):
    with pytest.raises(InvalidInput, match=word):
        classification("fail", frame)
