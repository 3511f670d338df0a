"""Splitting, preparing, fitting and predicting: proved against plain NumPy and by what must not matter."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression

from features.errors import InvalidInput, TrainingError
from features.feature_service import FeatureService
from features.model import ModelSpec
from features.times import UTC_US
from features.training import (
    MIN_ROWS,
    fit,
    predict,
    prepare_features,
    shuffled_label_auc,
    split_by_time,
    usable_examples,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
LATER = datetime(2027, 1, 1, tzinfo=UTC)
NAMES = ["a", "b"]


def spec(estimator, **options):
    service = FeatureService("inputs", ["g:a", "g:b"], owner="tests", description="Two features.")
    return ModelSpec("tried", service, "g:y", estimator, owner="tests", description="A model.", **options)


def hourly(n, seed=0):
    """n examples an hour apart: y is linear in a and b plus noise, c says whether y is positive."""
    rng = np.random.default_rng(seed)
    a, b, noise = rng.normal(size=(3, n))
    y = 2 * a - b + 0.1 * noise
    times = [START + timedelta(hours=i) for i in range(n)]
    columns = {"event_timestamp": times, "a": a, "b": b, "y": y, "c": y > 0}
    return pl.DataFrame(columns, schema_overrides={"event_timestamp": UTC_US})


@given(
    hours=st.lists(st.integers(0, 60), min_size=0, max_size=80),
    embargo=st.integers(0, 20).map(lambda h: timedelta(hours=h)),
    share=st.floats(0.05, 0.95),
)
def test_every_test_example_is_later_than_every_training_example_plus_the_embargo(hours, embargo, share):
    times = pl.Series("event_timestamp", [START + timedelta(hours=h) for h in hours], dtype=UTC_US)
    frame = pl.DataFrame([times]).with_row_index("row")
    first_test = sorted(hours)[int(len(hours) * (1 - share))] if hours else 0
    n_test = sum(h >= first_test for h in hours)
    n_train = sum(timedelta(hours=h) < timedelta(hours=first_test) - embargo for h in hours)
    if len(hours) < 2 * MIN_ROWS or min(n_train, n_test) < MIN_ROWS:
        with pytest.raises(TrainingError, match=rf"\b{frame.height} example"):
            split_by_time(frame, test_share=share, embargo=embargo)
        return
    split = split_by_time(frame, test_share=share, embargo=embargo)
    assert (split.train.height, split.test.height) == (n_train, n_test)
    assert split.test["event_timestamp"].min() == split.cutoff
    assert split.test["event_timestamp"].min() - split.train["event_timestamp"].max() > embargo
    assert split.train.height + split.test.height + split.dropped == frame.height
    for part in (split.train, split.test):
        assert part["row"].is_sorted()
    between = (times >= split.cutoff - embargo) & (times < split.cutoff)
    assert between.sum() == split.dropped


def test_a_split_that_cannot_be_says_why_in_numbers():
    frame = hourly(100)
    with pytest.raises(TrainingError, match=r"into 0 for training and 25 for the test, 75 in the embargo"):
        split_by_time(frame, embargo=timedelta(days=30))
    with pytest.raises(TrainingError, match=r"into 0 for training and 100 for the test"):
        split_by_time(frame.with_columns(event_timestamp=pl.lit(START, UTC_US)))
    with pytest.raises(TrainingError, match=r"12 example\(s\), 1 of them without 'event_timestamp'"):
        split_by_time(
            hourly(11)
            .select("event_timestamp")
            .vstack(pl.DataFrame({"event_timestamp": [None]}, schema={"event_timestamp": UTC_US}))
        )
    with pytest.raises(TrainingError, match="between 0 and 1"):
        split_by_time(frame, test_share=1.0)
    with pytest.raises(TrainingError, match="overlap"):
        split_by_time(frame, embargo=timedelta(hours=-1))


def test_features_become_what_an_estimator_takes_in_the_order_asked():
    frame = pl.DataFrame(
        {"text": ["x", None], "cat": ["u", None], "whole": [1, None], "flag": [True, None], "none": [None, None]},
        schema_overrides={"cat": pl.Categorical, "whole": pl.Int32},
    )
    inputs = prepare_features(frame, ["none", "flag", "text", "whole", "cat"])
    assert list(inputs.columns) == ["none", "flag", "text", "whole", "cat"]
    assert [str(t) for t in inputs.dtypes] == ["float64", "float64", "object", "float64", "object"]
    assert inputs["text"].tolist() == ["x", None]
    assert inputs["cat"].tolist() == ["u", None]
    assert inputs["flag"][0] == 1.0
    assert inputs[["none", "flag", "whole"]].iloc[1].isna().all()


@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=True, width=32)), max_size=20))
def test_numbers_reach_the_estimator_unchanged(values):
    prepared = prepare_features(pl.DataFrame({"a": pl.Series(values, dtype=pl.Float32)}), ["a"])["a"].to_numpy()
    expected = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    np.testing.assert_array_equal(prepared, expected)


@pytest.mark.parametrize("value", [START, START.date(), timedelta(1), [1.0], b"x"])
def test_a_column_no_estimator_takes_is_refused_by_name(value):
    with pytest.raises(InvalidInput, match="'a' is"):
        prepare_features(pl.DataFrame({"a": [value]}), ["a"])


def test_a_missing_feature_is_named():
    with pytest.raises(InvalidInput, match=r"lack feature column\(s\) \['b'\]"):
        prepare_features(pl.DataFrame({"a": [1.0]}), NAMES)


def test_a_regression_is_measured_on_the_later_examples_only():
    frame = hourly(400)
    fitted = fit(spec(LinearRegression(), embargo="5h"), frame, NAMES, now=LATER)
    assert (fitted.n_train, fitted.embargoed, fitted.n_test) == (295, 5, 100)
    train, test = frame[:295], frame[300:]
    answers = predict(fitted.model, test, NAMES).to_numpy()
    errors = answers - test["y"].to_numpy()
    baseline = train["y"].mean() - test["y"].to_numpy()
    assert fitted.metrics["mae"] == pytest.approx(np.abs(errors).mean())
    assert fitted.metrics["rmse"] == pytest.approx(np.sqrt((errors**2).mean()))
    assert fitted.metrics["baseline_mae"] == pytest.approx(np.abs(baseline).mean())
    assert fitted.metrics["baseline_rmse"] == pytest.approx(np.sqrt((baseline**2).mean()))
    assert fitted.metrics["r2"] > 0.99
    assert fitted.label["mean_train"] == pytest.approx(train["y"].mean())
    assert fitted.facts["cutoff"] == (START + timedelta(hours=300)).isoformat()
    assert fitted.facts["left_out_label_missing"] == 0


def test_nothing_of_the_test_period_or_the_embargo_enters_the_model():
    frame = hourly(400)
    later = pl.col("event_timestamp") >= START + timedelta(hours=295)
    spoiled = frame.with_columns(pl.when(later).then(-50 * pl.col(c) + 3).otherwise(pl.col(c)).alias(c) for c in "aby")
    first, second = (fit(spec(LinearRegression(), embargo="5h"), f, NAMES, now=LATER) for f in (frame, spoiled))
    assert first.model.coef_.tolist() == second.model.coef_.tolist()
    assert first.metrics != second.metrics


def test_a_classification_is_measured_by_probabilities():
    frame = hourly(400)
    fitted = fit(spec(LogisticRegression()), frame, NAMES, now=LATER, label="c")
    test = frame[300:]
    p, truth = predict(fitted.model, test, NAMES).to_numpy(), test["c"].to_numpy()
    assert fitted.metrics["brier"] == pytest.approx(((p - truth) ** 2).mean())
    assert fitted.metrics["log_loss"] == pytest.approx(-np.log(np.where(truth, p, 1 - p)).mean())
    above = p[truth][:, None] > p[~truth][None, :]
    assert fitted.metrics["roc_auc"] == pytest.approx(above.mean())
    base = frame[:300]["c"].mean()
    assert fitted.metrics["baseline_brier"] == pytest.approx(((base - truth) ** 2).mean())
    assert fitted.label == {"base_rate_train": base, "base_rate_test": truth.mean()}


@pytest.mark.parametrize("labels", [("bad", "good"), (0, 1), (3.0, 7.5), (-1, 1)])
def test_the_greater_class_is_the_positive_one(labels):
    frame = hourly(400).with_columns(y=pl.when("c").then(pl.lit(labels[1])).otherwise(pl.lit(labels[0])))
    fitted = fit(spec(LogisticRegression()), frame, NAMES, now=LATER)
    boolean = fit(spec(LogisticRegression()), frame, NAMES, now=LATER, label="c")
    assert fitted.metrics == boolean.metrics


def test_equal_examples_give_equal_models_and_leave_the_specification_unfitted():
    estimator = HistGradientBoostingClassifier(max_iter=5, random_state=0)
    frame = hourly(400)
    first, second = (fit(spec(estimator), frame, NAMES, now=LATER, label="c") for _ in range(2))
    assert predict(first.model, frame, NAMES).equals(predict(second.model, frame, NAMES))
    with pytest.raises(NotFittedError):
        estimator.predict(prepare_features(frame, NAMES))


def test_examples_that_teach_nothing_are_left_out_and_counted_once():
    frame = (
        hourly(100)
        .with_row_index("row")
        .with_columns(
            y=pl.when(pl.col("row") == 0).then(None).when(pl.col("row").is_in([1, 2])).then(float("nan")).otherwise("y")
        )
    )
    never, partly = ["NOT_FOUND", "NOT_FOUND"], ["NOT_FOUND", "OUTSIDE_MAX_AGE"]
    answers = [never, *[["PRESENT", "NULL_VALUE"]] * 3, never, partly, *[["PRESENT", "PRESENT"]] * 93, never]
    statuses = pl.DataFrame(answers, schema=["a", "b"], orient="row")
    model = spec(LinearRegression(), predict_after="3h", label_delay="10h")
    # Row i happened at hour i - 3; its label is known 10 hours later, at hour i + 7.
    usable = usable_examples(model, frame, "y", now=START + timedelta(hours=97), statuses=statuses)
    assert usable.left_out == {"label_not_known_yet": 9, "label_missing": 3, "no_feature_available": 1}
    assert usable.frame["row"].to_list() == [3, *range(5, 91)]


def test_statuses_of_other_rows_are_refused():
    with pytest.raises(TrainingError, match="3 rows of statuses for 100 examples"):
        usable_examples(spec(LinearRegression()), hourly(100), "y", now=LATER, statuses=pl.DataFrame({"a": ["x"] * 3}))


@pytest.mark.parametrize(
    ("estimator", "options", "change", "message"),
    [
        (LogisticRegression(), {}, pl.lit(value=True), r"two classes.*True being 75 of 75 training and 25 of 25 test"),
        (LogisticRegression(), {}, pl.int_range(pl.len()), r"two classes.*\[0, 1, 2, 3, 4\]"),
        (LinearRegression(), {}, pl.lit("x"), "its label is String"),
        (LinearRegression(), {}, pl.lit(None, pl.Float64), r"0 example\(s\).*'label_missing': 100"),
        (
            LinearRegression(),
            {"metrics": ("mae", "luck")},
            pl.col("y"),
            r"no metric \['luck'\]; there are \['baseline_mae'",
        ),
        (LinearRegression(), {"label_delay": "400d"}, pl.col("y"), "'label_not_known_yet': 100"),
    ],
)
def test_what_cannot_be_trained_says_which_model_and_why(estimator, options, change, message):
    frame = hourly(100).with_columns(change.alias("y"))
    with pytest.raises(TrainingError, match=rf"(?s)model 'tried'.*{message}"):
        fit(spec(estimator, **{"embargo": "0s", **options}), frame, NAMES, now=LATER)


def test_an_input_the_estimator_refuses_is_a_training_error():
    frame = hourly(100).with_columns(a=pl.lit(float("inf")))
    with pytest.raises(TrainingError, match="the estimator refuses the examples: Input X contains infinity"):
        fit(spec(LinearRegression()), frame, NAMES, now=LATER)


def test_the_label_is_no_feature_and_must_be_there():
    with pytest.raises(TrainingError, match="not hold the label 'y'"):
        fit(spec(LinearRegression()), hourly(100), [*NAMES, "y"], now=LATER)
    with pytest.raises(TrainingError, match="lack the label column 'y'"):
        fit(spec(LinearRegression()), hourly(100).drop("y"), NAMES, now=LATER)


def test_no_rows_get_no_predictions():
    fitted = fit(spec(DummyRegressor()), hourly(100), NAMES, now=LATER)
    answer = predict(fitted.model, hourly(100).clear(), NAMES)
    assert answer.to_list() == []
    assert answer.dtype == pl.Float64


def test_shuffled_labels_teach_nothing():
    frame = hourly(6000)
    model = spec(HistGradientBoostingClassifier(max_iter=20, random_state=0))
    assert fit(model, frame, NAMES, now=LATER, label="c").metrics["roc_auc"] > 0.95
    assert shuffled_label_auc(model, frame, NAMES, now=LATER, label="c") == pytest.approx(0.5, abs=0.05)
