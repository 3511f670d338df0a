from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from prefect import flow

from features.errors import FeatureFabError, SettingsError
from flows.runtime import prefect_runtime
from infra.settings import load_settings

PROGRAM = """
import sys
from pathlib import Path
from flows.runtime import prefect_runtime
from infra.settings import load_settings

settings = load_settings(home=Path("the_home"))
with prefect_runtime(settings, wait=False):
    import mlflow
    from prefect import flow, get_run_logger, task

    @task
    def double(number):
        get_run_logger().info("not to be seen")
        return 2 * number

    @flow
    def doubled():
        return sum(task.result() for task in [double.submit(number) for number in range(4)])

    assert doubled() == 12
    experiment = mlflow.create_experiment("trial", artifact_location=str(settings.mlflow_artifacts))
    with mlflow.start_run(experiment_id=experiment):
        mlflow.log_metric("auc", 0.5)
print("done")
"""


def test_flows_and_tracking_write_and_contact_nothing_outside_the_home(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("foreign_home", "work", "temp")}
    for folder in folders.values():
        folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as foreign_server:
        url = f"http://127.0.0.1:{foreign_server.getsockname()[1]}"
        foreign = {
            "HOME": str(folders["foreign_home"]),
            "TMPDIR": str(folders["temp"]),
            "PREFECT_API_URL": f"{url}/api",
            "PREFECT_API_KEY": "foreign",
            "PREFECT_HOME": str(folders["foreign_home"] / "prefect"),
            "MLFLOW_TRACKING_URI": url,
            "MLFLOW_EXPERIMENT_NAME": "foreign",
            "HTTP_PROXY": url,
            "HTTPS_PROXY": url,
        }
        own = {name: value for name, value in os.environ.items() if name not in ("MPLCONFIGDIR", "NO_PROXY")}
        own = {name: value for name, value in own.items() if not name.startswith("XDG_")}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            cwd=folders["work"],
            env={**own, **foreign},
            capture_output=True,
            text=True,
            check=False,
        )
        foreign_server.settimeout(0)
        with pytest.raises(BlockingIOError):  # nobody is waiting to be let in
            foreign_server.accept()

    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert "Traceback" not in done.stderr
    assert "not to be seen" not in done.stderr
    assert [path.name for path in folders["work"].iterdir()] == ["the_home"]
    assert list(folders["foreign_home"].iterdir()) == []
    assert list(folders["temp"].iterdir()) == []
    with sqlite3.connect(folders["work"] / "the_home/prefect/prefect.db") as database:
        assert database.execute("select state_type from flow_run").fetchall() == [("COMPLETED",)]
    database.close()


@pytest.mark.usefixtures("prefect")
def test_flows_run_in_the_session_server() -> None:
    @flow
    def answer() -> int:
        return 42

    assert answer() == 42


def test_a_server_that_cannot_start_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect/prefect.db").write_bytes(b"this is no database, and much too long to be an empty one" * 100)
    with (
        pytest.raises(FeatureFabError, match="did not start"),
        prefect_runtime(load_settings(home=tmp_path)),
    ):
        pytest.fail("the block must not run")


def test_a_server_that_does_not_answer_is_one_line(tmp_path):
    settings = load_settings(home=tmp_path, prefect_api_url="http://127.0.0.1:9/api")
    with pytest.raises(SettingsError, match="where no Prefect server answers"), prefect_runtime(settings):
        pytest.fail("the block must not be entered")
