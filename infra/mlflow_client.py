"""MLflow's client: imported at first use, deaf to the caller's environment, quiet, its errors translated."""

from __future__ import annotations

import logging
import os
import sqlite3
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

from features.errors import TrackingError

_SQLITE = "sqlite:///"
_OWN_VARIABLES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}
_LOGGERS = ("mlflow", "alembic")
_LOCK = threading.RLock()


@cache
def load_mlflow() -> Any:
    """The package ``mlflow`` with the parts that tracking uses; call it within a session."""
    # 3 to 6 s: paid by the first call that needs it, never by `connect` or an online read.
    for part in ("artifacts", "data.code_dataset_source", "data.polars_dataset", "models", "sklearn", "types"):
        import_module(f"mlflow.{part}")
    return import_module("mlflow")


class MlflowConnection:
    """One tracking database; MLflow is imported and the database made by the first session."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client: Any = None

    def is_empty(self) -> bool:
        """Whether nothing can have been logged, as the database is not made yet; MLflow is not imported for that."""
        return self._uri.startswith(_SQLITE) and not Path(self._uri.removeprefix(_SQLITE)).exists()

    @contextmanager
    def session(self, failure: str) -> Iterator[Any]:
        """The client of tracking and registry. What it raises becomes TrackingError: ``failure``, where and why."""
        with _LOCK, _undisturbed():
            mlflow = load_mlflow()
            try:
                if self._client is None:
                    self._client = self._connect()
                yield self._client
            except (mlflow.MlflowException, import_module("sqlalchemy.exc").SQLAlchemyError, OSError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise TrackingError(f"{failure} at {self._uri}: {reason}") from error

    def _connect(self) -> Any:
        if self._uri.startswith(_SQLITE):
            _prepare_database(Path(self._uri.removeprefix(_SQLITE)))
        return _client(self._uri)


def _client(uri: str) -> Any:
    return load_mlflow().MlflowClient(tracking_uri=uri, registry_uri=uri)


def _prepare_database(path: Path) -> None:
    """Make MLflow's SQLite file if there is none, in one step; TrackingError if it is no database.

    MLflow migrates a new file through dozens of commits, each waiting for the disk: a process killed
    among them, or a second one that starts meanwhile, would leave a schema that MLflow refuses for good.
    So it migrates a database in memory, which then becomes the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        # MLflow retries for minutes to open a file that it cannot; SQLite itself says so at once.
        try:
            with closing(sqlite3.connect(path)) as database:
                database.execute("PRAGMA schema_version")
        except sqlite3.Error as error:
            raise TrackingError(f"{path} is no database that MLflow can use ({error}): move it away") from error
        return
    draft = f"file:featurefab-{uuid4().hex}?mode=memory&cache=shared"
    _client(f"{_SQLITE}{draft}&uri=true").search_experiments()
    with tempfile.TemporaryDirectory(prefix=".tracking-", dir=path.parent) as folder:
        whole = Path(folder, path.name)
        with closing(sqlite3.connect(draft, uri=True)) as source, closing(sqlite3.connect(whole)) as target:
            source.backup(target)
        with suppress(FileExistsError):  # another process was faster
            path.hardlink_to(whole)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hide the caller's MLFLOW_* variables, and keep telemetry and chatter off, for a while.

    Variables of another project would redirect, reconfigure or slow down what featurefab does.
    """
    foreign = {name: value for name, value in os.environ.items() if name.startswith(("MLFLOW_", "_MLFLOW_"))}
    for name in foreign:
        del os.environ[name]
    os.environ.update(_OWN_VARIABLES)
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name in _OWN_VARIABLES:
            os.environ.pop(name, None)
        os.environ.update(foreign)
