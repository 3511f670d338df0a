"""MLflow behind the tracker port: what is logged, exactly once, what is refused, and what leaks nowhere."""

import hashlib
import json
import logging
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import skops.io
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from features.errors import TrackingError
from features.stores import Tracker
from features.training import predict, prepare_features
from infra.mlflow_client import MlflowConnection
from infra.tracking import TRAINING_KEY, MlflowTracker

ROOT = Path(__file__).resolve().parents[2]
TRAINED_AT = datetime(2026, 3, 1, 2, tzinfo=UTC)
NAMES = ["a", "b", "site"]
MANIFEST = {
    "features": ["measures:a", "measures@2:b", "places:site"],
    "groups": {
        "measures": {"version": "2.1.0", "fingerprint": "f1", "table_version": 7, "sources": {"results": 4}},
        "places": {"version": "1.0.0", "fingerprint": "f2", "table_version": 3, "sources": {"sites": 2}},
    },
    "publish_log_version": 11,
    "history": "backfilled",
    "entity_hash": "e" * 64,
    "rows": 40_000,
    "content_hash": "0123456789abcdef" * 4,
}
ENTITY_ROWS = pl.DataFrame({"lot_id": ["A", "B"], "event_timestamp": [TRAINED_AT, TRAINED_AT]})


def examples():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 200))
    return pl.DataFrame({"a": a, "b": b, "site": rng.choice(["x", "y"], 200), "c": a + b > 0})


def fitted(estimator):
    frame = examples()
    numbers = ColumnTransformer([("numbers", "passthrough", make_column_selector(dtype_include="number"))])
    return make_pipeline(numbers, estimator).fit(prepare_features(frame, NAMES), frame["c"].to_numpy())


MODEL = fitted(HistGradientBoostingClassifier(max_iter=5, random_state=0))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture(scope="module")
def tracker(home):
    return MlflowTracker(f"sqlite:///{home}/mlflow.db", home / "artifacts")


@pytest.fixture(scope="module")
def connection(home):
    """A second connection, which looks at what the tracker wrote."""
    return MlflowConnection(f"sqlite:///{home}/mlflow.db")


def log(tracker, name, model=MODEL, key=None, metrics=None, manifest=None):
    return tracker.log_training(
        name,
        model,
        params={"service": "inputs", "n_train": 150},
        metrics={"roc_auc": 0.75, "brier": 0.2} if metrics is None else metrics,
        manifest=MANIFEST if manifest is None else manifest,
        entity_rows=ENTITY_ROWS,
        sample=examples().select(NAMES).head(3),
        trained_at=TRAINED_AT,
        tags={"owner": "tests"} | ({} if key is None else {TRAINING_KEY: key}),
    )


def runs_of(connection, name):
    with connection.session("cannot look") as client:
        experiment = client.get_experiment_by_name(name)
        return client.search_runs([experiment.experiment_id])


def test_a_training_is_logged_with_everything_an_auditor_asks_for(tracker, connection, home):
    logged = log(tracker, "complete")
    assert (logged.name, logged.version, logged.aliases) == ("complete", "1", ("champion",))
    assert logged.manifest == MANIFEST
    assert logged.metrics == {"roc_auc": 0.75, "brier": 0.2}
    assert tracker.model_version("complete") == tracker.model_version("complete", "1") == logged
    (run,) = runs_of(connection, "complete")
    assert (run.info.run_id, run.info.status) == (logged.run_id, "FINISHED")
    assert run.info.start_time == run.info.end_time == TRAINED_AT.timestamp() * 1000
    versions = {"measures": "2.1.0", "places": "1.0.0"}
    for facts in (run.data.params, run.data.tags):
        assert facts["feature_groups"] == "measures,places"
        assert json.loads(facts["feature_versions"]) == versions
        assert json.loads(facts["delta_versions"]) == {"measures": 7, "places": 3}
    assert run.data.tags["content_hash"] == MANIFEST["content_hash"]
    (used,) = run.inputs.dataset_inputs
    assert MANIFEST["content_hash"].startswith(used.dataset.digest)
    assert json.loads(used.dataset.profile)["num_rows"] == 40_000
    assert [(t.key, t.value) for t in used.tags] == [("mlflow.data.context", "training")]
    (artifact,) = home.glob(f"artifacts/complete/{logged.run_id}/artifacts/manifest.json")
    assert hashlib.sha256(artifact.read_bytes()).hexdigest() == run.data.tags["featurefab.manifest_sha256"]
    with connection.session("cannot look") as client:
        registered = client.get_model_version("complete", "1")
        (output,) = client.get_run(logged.run_id).outputs.model_outputs
        kept = client.get_logged_model(output.model_id)
    assert json.loads(registered.tags["required_features"]) == MANIFEST["features"]
    assert json.loads(registered.tags["feature_versions"]) == versions
    assert registered.source == kept.artifact_location


def test_the_signature_is_what_the_model_takes_and_mlflow_itself_can_serve_it(tracker, connection):
    log(tracker, "served")
    with connection.session("cannot look") as client:
        source = client.get_model_version("served", "1").source
        import mlflow  # noqa: PLC0415  what a user of plain MLflow does; slow, so only here

        loaded = mlflow.pyfunc.load_model(source)
        columns = [(c.name, c.type.name, c.required) for c in loaded.metadata.signature.inputs]
        answer = loaded.predict(prepare_features(examples(), NAMES))
    assert columns == [("a", "double", False), ("b", "double", False), ("site", "string", False)]
    assert answer[:, 1].tolist() == predict(MODEL, examples(), NAMES).to_list()


@pytest.mark.parametrize(
    "estimator",
    [
        HistGradientBoostingClassifier(max_iter=5, random_state=0),
        RandomForestClassifier(5, random_state=0),
        make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), LogisticRegression()),
        make_pipeline(SimpleImputer(), StandardScaler(), Ridge()),
    ],
    ids=["boosting", "forest", "logistic", "ridge"],
)
def test_a_model_comes_back_bit_for_bit(tracker, estimator):
    model = fitted(estimator)
    logged = log(tracker, "bits", model)
    loaded = tracker.load_model("bits", logged.version)
    assert predict(loaded, examples(), NAMES).equals(predict(model, examples(), NAMES))


def test_text_is_encoded_by_the_model(tracker):
    encode = ColumnTransformer([("text", OneHotEncoder(handle_unknown="ignore"), ["site"])], remainder="passthrough")
    frame = examples()
    model = make_pipeline(encode, LogisticRegression()).fit(prepare_features(frame, NAMES), frame["c"].to_numpy())
    log(tracker, "text", model)
    unseen = frame.with_columns(site=pl.lit(None, pl.String))
    assert predict(tracker.load_model("text"), unseen, NAMES).equals(predict(model, unseen, NAMES))


def test_the_newest_version_is_the_champion_and_older_ones_stay(tracker):
    first = log(tracker, "twice")
    other = fitted(RandomForestClassifier(3, random_state=1))
    second = log(tracker, "twice", other)
    assert (second.version, second.aliases) == ("2", ("champion",))
    assert tracker.model_version("twice").version == "2"
    assert tracker.model_version("twice", "1").aliases == ()
    assert tracker.model_version("twice", "1").run_id == first.run_id
    old, new = tracker.load_model("twice", "1"), tracker.load_model("twice")
    assert predict(old, examples(), NAMES).equals(predict(MODEL, examples(), NAMES))
    assert predict(new, examples(), NAMES).equals(predict(other, examples(), NAMES))


def test_a_second_tracker_on_the_same_home_goes_on(tracker, home):
    log(tracker, "shared")
    again = MlflowTracker(f"sqlite:///{home}/mlflow.db", home / "artifacts")
    assert again.model_version("shared") == tracker.model_version("shared")
    assert log(again, "shared").version == "2"
    assert tracker.model_version("shared").version == "2"


def test_the_same_training_is_registered_once(tracker, connection):
    first = log(tracker, "once", key="k1")
    assert log(tracker, "once", key="k1") == first
    assert len(runs_of(connection, "once")) == 1
    second = log(tracker, "once", key="k2")
    assert second.version == "2"
    assert log(tracker, "once", key="k1").version == "1"
    assert tracker.model_version("once").version == "2"
    assert len(runs_of(connection, "once")) == 2


class StopsTheRun(dict):
    """Metrics that end the caller in the middle of its logging, as a kill does: no clean-up runs."""

    def items(self):
        raise KeyboardInterrupt


def test_a_training_killed_while_it_is_logged_is_logged_once_by_the_next(tracker, connection):
    with pytest.raises(KeyboardInterrupt):
        log(tracker, "killed", key="k", metrics=StopsTheRun())
    assert [run.info.status for run in runs_of(connection, "killed")] == ["RUNNING"]
    with pytest.raises(TrackingError, match="there is no model 'killed': train it first"):
        tracker.model_version("killed")
    assert log(tracker, "killed", key="k").version == "1"
    assert sorted(run.info.status for run in runs_of(connection, "killed")) == ["FINISHED", "KILLED"]


def test_a_training_killed_after_it_was_registered_is_finished_by_the_next(tracker, connection):
    first = log(tracker, "late", key="k")
    with connection.session("cannot set back") as client:
        client.delete_registered_model_alias("late", "champion")
        client.update_run(first.run_id, status="RUNNING")
    assert log(tracker, "late", key="k") == first
    assert [run.info.status for run in runs_of(connection, "late")] == ["FINISHED"]


def test_a_training_that_mlflow_refuses_leaves_no_version(tracker, connection):
    with pytest.raises(TrackingError, match=r"the training of model 'refused' cannot be logged at sqlite.*Invalid"):
        log(tracker, "refused", metrics={"no such\nname": 1.0})
    assert [run.info.status for run in runs_of(connection, "refused")] == ["FAILED"]
    with pytest.raises(TrackingError, match="there is no model 'refused'"):
        tracker.model_version("refused")


@pytest.mark.parametrize("key", ["features", "groups", "history", "rows", "content_hash"])
def test_a_manifest_must_be_whole(tracker, key):
    with pytest.raises(TrackingError, match=f"model 'partial': the manifest lacks '{key}'"):
        log(tracker, "partial", manifest={k: v for k, v in MANIFEST.items() if k != key})


def test_a_manifest_must_fit_into_json(tracker):
    with pytest.raises(TrackingError, match="does not fit into JSON"):
        log(tracker, "partial", manifest={**MANIFEST, "now": TRAINED_AT})


def test_a_model_of_types_that_could_run_code_is_not_logged(tracker):
    with pytest.raises(TrackingError, match=r"model 'foreign' holds \['sklearn.metrics._dist_metrics"):
        log(tracker, "foreign", fitted(KNeighborsClassifier()))
    with pytest.raises(TrackingError, match="there is no model 'foreign'"):
        tracker.model_version("foreign")


def test_a_stored_model_that_was_exchanged_is_not_loaded(tracker, connection, home):
    log(tracker, "exchanged")
    (file,) = home.glob("artifacts/exchanged/models/*/artifacts/model.skops")
    skops.io.dump(fitted(KNeighborsClassifier()), file)
    with pytest.raises(TrackingError, match=r"model 'exchanged' version 1: .* is not the model that was logged"):
        tracker.load_model("exchanged")
    with connection.session("cannot forge") as client:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        client.set_model_version_tag("exchanged", "1", "featurefab.model_sha256", digest)
    with pytest.raises(TrackingError, match=r"holds \['sklearn.metrics._dist_metrics.*could run code"):
        tracker.load_model("exchanged")
    file.unlink()
    with pytest.raises(TrackingError, match="model 'exchanged' cannot be loaded"):
        tracker.load_model("exchanged")


def test_a_manifest_that_was_changed_is_not_believed(tracker, home):
    logged = log(tracker, "changed")
    (file,) = home.glob(f"artifacts/changed/{logged.run_id}/artifacts/manifest.json")
    file.write_text(file.read_text().replace("40000", "40001"))
    with pytest.raises(TrackingError, match=r"version 1: the manifest of run .* is not the one that was logged"):
        tracker.model_version("changed")


@pytest.mark.parametrize("version", ["2", "-1", "newest", ""])
def test_a_version_that_is_not_there(tracker, version):
    log(tracker, "single", key="k")
    with pytest.raises(TrackingError, match=f"model 'single' has no version '{version}': its newest version is 1"):
        tracker.model_version("single", version)


@pytest.mark.parametrize("name", ["nobody", "it's", ""])
def test_a_model_that_is_not_there(tracker, name):
    for ask in (tracker.model_version, tracker.load_model):
        with pytest.raises(TrackingError, match=f"there is no model {name!r}: train it first"):
            ask(name)


def test_a_place_that_is_no_database_is_refused_at_once(tmp_path):
    (tmp_path / "text.db").write_text("no database " * 100)
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "file").touch()
    for place in ("text.db", "folder.db", "file/mlflow.db"):
        tracker = MlflowTracker(f"sqlite:///{tmp_path}/{place}", tmp_path / "artifacts")
        with pytest.raises(TrackingError, match=place):
            tracker.model_version("any")


def test_the_caller_keeps_its_environment_and_loggers(tracker, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(logging.getLogger("mlflow"), "level", logging.DEBUG)
    before = dict(os.environ)
    log(tracker, "polite", key="k")
    assert dict(os.environ) == before
    assert logging.getLogger("mlflow").level == logging.DEBUG


FRESH = """
import os, sys
asked = []
sys.addaudithook(lambda event, args: event in ("socket.connect", "socket.getaddrinfo") and asked.append(args))
sys.path[:0] = [{root!r}, {tests!r}]
import infra.tracking
assert "mlflow" not in sys.modules, "importing the tracker imports MLflow"
import logging; logging.basicConfig(level=logging.INFO)
from test_tracking import MlflowTracker, TRAINED_AT, log
tracker = MlflowTracker("sqlite:///{home}/own/mlflow.db", __import__("pathlib").Path({home!r}) / "own")
assert log(tracker, "alone", key="k").version == "1"
assert tracker.load_model("alone") is not None
assert asked == [], asked
"""


def test_a_fresh_process_writes_nothing_elsewhere_says_nothing_and_calls_nobody(tmp_path):
    for folder in ("home", "work", "own"):
        (tmp_path / folder).mkdir()
    foreign = {
        "HOME": str(tmp_path / "home"),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "MLFLOW_REGISTRY_URI": "http://127.0.0.1:9",
        "MLFLOW_RUN_ID": "0" * 32,
        "MLFLOW_EXPERIMENT_NAME": "foreign",
        "MLFLOW_ENABLE_WORKSPACES": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_LOGGING_LEVEL": "DEBUG",
    }
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "TMPDIR", "SYSTEMROOT")}
    script = FRESH.format(root=str(ROOT), tests=str(Path(__file__).parent), home=str(tmp_path))
    command, place = [sys.executable, "-c", script], tmp_path / "work"
    done = subprocess.run(command, cwd=place, env=kept | foreign, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list((tmp_path / "home").iterdir()) == []
    assert list((tmp_path / "work").iterdir()) == []
    assert sorted(p.name for p in (tmp_path / "own").iterdir()) == ["alone", "mlflow.db"]


def test_the_tracker_fits_its_port(tracker):
    port: Tracker = tracker
    assert port is tracker
