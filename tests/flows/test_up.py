"""`featurefab up`: everything answers, backfills are started as the UI's form does, and what is killed goes on."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Timer
from typing import Any

import httpx
import polars as pl
import pytest
from deltalake import DeltaTable
from playwright.sync_api import Browser, Page, sync_playwright

from infra.turns import turn
from infra.wiring import connect
from up_home import REGISTRY, T0, Up, fill, running, until

DAYS, ROWS = 70, 200
FRESH = shutil.ignore_patterns("prefect", "logs", "features", "turns", "up.log")
"""What a copy of the home leaves out, so that nothing was done in it."""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("up") / "home"
    fill(home, DAYS, ROWS)
    return home


@pytest.fixture(scope="module")
def undisturbed(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """The rows of a backfill of everything, that nothing disturbed."""
    home = tmp_path_factory.mktemp("undisturbed") / "home"
    shutil.copytree(filled, home, ignore=FRESH)
    with connect(REGISTRY, home) as store:
        store.materialize("tripled", T0, T0 + timedelta(days=DAYS))
    return rows(home, "tripled", "thrice")


@pytest.fixture(scope="module")
def up(filled: Path) -> Iterator[Up]:
    with running(filled) as started:
        yield started


@pytest.fixture
def own(filled: Path, tmp_path: Path) -> Iterator[Up]:
    """An ``up`` that a test may end as it likes, in a home in which nothing was materialized."""
    home = tmp_path / "home"
    shutil.copytree(filled, home, ignore=FRESH)
    with running(home) as started:
        yield started


def rows(home: Path, group: str = "doubled", feature: str = "twice") -> pl.DataFrame:
    with connect(REGISTRY, home) as store:
        found = store.current_rows(group).select("card_id", "event_timestamp", feature).collect()
    return found.sort("event_timestamp", "card_id")


def assert_done_once(home: Path, undisturbed: pl.DataFrame) -> None:
    """What stands equals what an undisturbed run leaves, and no row was written twice."""
    assert rows(home, "tripled", "thrice").equals(undisturbed)
    table = DeltaTable(str(home / "lake" / "features" / "tripled" / "v1"))
    assert table.to_pyarrow_table(columns=["card_id"]).num_rows == undisturbed.height


def assert_once(home: Path, group: str, height: int | None = None) -> None:
    """Every row of a group was appended once, and they are so many."""
    table = DeltaTable(str(home / "lake" / "features" / group / "v1"))
    found = pl.from_arrow(table.to_pyarrow_table(columns=["card_id", "event_timestamp"]))
    assert isinstance(found, pl.DataFrame)
    assert found.height == found.n_unique() == (height or found.height) > 0


def everything(up: Up) -> str:
    """A backfill of all days, a chunk a day."""
    end = T0 + timedelta(days=DAYS)
    return up.begin("backfill", start=T0.isoformat(), end=end.isoformat(), group="tripled", chunk_days=1)


def begun(up: Up, chunks: int) -> None:
    """Until so many chunks of it are committed."""
    log = up.home / "lake" / "features" / "tripled" / "v1" / "_delta_log"
    until(lambda: len(list(log.glob("*.json"))) > chunks)


def kill(up: Up, what: str, how: signal.Signals = signal.SIGKILL) -> list[int]:
    killed = up.children(what)
    assert killed
    for process in killed:
        os.kill(process, how)
    return killed


def test_everything_answers(up: Up) -> None:
    page = httpx.get(up.prefect, follow_redirects=True, trust_env=False)
    assert "<title>Prefect" in page.text
    # The page asks the server from which it came, on whatever port that is.
    assert httpx.get(f"{up.prefect}/ui-settings", trust_env=False).json()["api_url"] == f"{up.prefect}/api"
    assert httpx.get(f"{up.mlflow}/health", trust_env=False).text == "OK"
    assert httpx.get(f"{up.features}/ready", trust_env=False).json()["status"] == "ok"
    assert {up.deployment(name)["paused"] for name in ("nightly", "warm-up", "backfill")} == {False}


def test_a_backfill_is_what_was_typed_and_no_more(up: Up) -> None:
    typed = {"start": "2025-01-03T00:00:00Z", "end": "2025-01-08T00:00:00Z", "group": "doubled", "chunk_days": 2}
    done = up.end(up.begin("backfill", **typed, reason="a price was wrong"))
    assert (done["state_type"], done["name"]) == ("COMPLETED", "backfill doubled 2025-01-03 to 2025-01-08")
    assert done["parameters"] == typed | {"reason": "a price was wrong", "parallel": 1}

    begin, end = (datetime.fromisoformat(typed[name]) for name in ("start", "end"))
    with connect(REGISTRY, up.home) as store:
        source = store.offline.scan_source("payments")
        assert source is not None
        wanted = source.filter(pl.col("at").is_between(begin, end, closed="left")).collect()
    found = rows(up.home)
    assert found["event_timestamp"].to_list() == wanted["at"].sort().to_list()
    assert found["twice"].to_list() == (wanted.sort("at", "card_id")["amount"] * 2).to_list()

    (page,) = up.artifacts("backfill-doubled")
    lines = [line.split("|")[1:-1] for line in page["data"].splitlines() if line.startswith("| ")]
    chunks = [[cell.strip() for cell in line] for line in lines if len(line) == 6][2:]
    days = ["2025-01-03", "2025-01-05", "2025-01-07", "2025-01-08"]
    assert [line[:4] for line in chunks] == [
        [str(number), first, last, "done"] for number, (first, last) in enumerate(itertools.pairwise(days), 1)
    ]
    assert sum(int(line[4].replace(",", "")) for line in chunks) == wanted.height
    assert "because a price was wrong" in page["data"]
    (bar,) = up.artifacts("backfill-doubled-progress")
    assert bar["data"] == 100


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"group": "nothing"}, "'nothing' is not one of"),
        ({"chunk_days": 0}, "0 is less than the minimum of 1"),
        ({"parallel": 0}, "0 is less than the minimum of 1"),
        ({"start": None}, "None is not of type 'string'"),
    ],
)
def test_the_form_refuses_what_cannot_be_meant(up: Up, wrong: dict[str, object], said: str) -> None:
    typed = {"start": "2025-01-01T00:00:00Z", "end": "2025-01-02T00:00:00Z", "group": "doubled", **wrong}
    identity = up.deployment("backfill")["id"]
    answer = up.client.post(f"deployments/{identity}/create_flow_run", json={"parameters": typed})
    assert answer.status_code == 409
    assert said in answer.text


def test_a_run_that_fails_says_why_in_a_sentence(up: Up) -> None:
    run = up.end(up.begin("backfill", start="2025-01-02T00:00:00Z", end="2025-01-01T00:00:00Z", group="doubled"))
    why = "start 2025-01-02 00:00:00 is not before end 2025-01-01 00:00:00"
    assert (run["state_type"], run["tags"]) == ("FAILED", ["backfill", "doubled"])
    assert why in run["state"]["message"]
    until(lambda: why in up.logged(run["id"]))  # logs arrive a moment after the state
    assert "Traceback" not in up.logged(run["id"])


def test_who_starts_a_run_while_another_writes_waits(up: Up) -> None:
    identity = up.deployment("warm-up")["id"]
    never = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}}
    database = up.home / "prefect" / "prefect.db"
    with closing(sqlite3.connect(database, timeout=60, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        ends = Timer(2, other.execute, ["ROLLBACK"])
        ends.start()
        answer = up.client.post(f"deployments/{identity}/create_flow_run", json={"state": never})
        ends.join()
    assert answer.status_code == 201, answer.text


@pytest.mark.prove
def test_a_run_that_is_killed_in_mid_backfill_goes_on_by_itself(up: Up, undisturbed: pl.DataFrame) -> None:
    run = everything(up)
    begun(up, 20)
    kill(up, "prefect.engine")
    done = up.end(run)
    assert (done["state_type"], done["run_count"]) == ("COMPLETED", 2), done["state"]["message"]
    assert_done_once(up.home, undisturbed)


@pytest.mark.prove
def test_backfills_of_one_group_queue_and_those_of_two_run_side_by_side(up: Up) -> None:
    typed = {"start": "2025-01-02T00:00:00Z", "end": "2025-02-10T00:00:00Z", "group": "tripled", "chunk_days": 1}
    first, named = up.begin("backfill", **typed), "backfill tripled 2025-01-02 to 2025-02-10"
    until(lambda: up.holder("tripled") == named)
    halted = kill(up, "prefect.engine", signal.SIGSTOP)  # in the middle, for as long as it takes the others to come
    try:
        second = up.begin("backfill", **typed | {"end": "2025-01-20T00:00:00Z"})
        other = up.begin("backfill", **typed | {"group": "doubled", "chunk_days": 30})
        assert up.end(other)["state_type"] == "COMPLETED"
        until(lambda: f"feature group tripled: waits for its turn after {named}" in up.logged(second))
    finally:
        for process in halted:
            os.kill(process, signal.SIGCONT)
    ended = [up.end(run) for run in (first, second)]
    assert [(run["state_type"], run["run_count"]) for run in ended] == [("COMPLETED", 1)] * 2
    assert ended[0]["end_time"] < ended[1]["end_time"]
    assert_once(up.home, "tripled")


@pytest.mark.prove
@pytest.mark.parametrize("victim", ["flows.runner", "flows.prefect_ui"])
def test_a_server_that_is_killed_is_started_anew_and_the_backfill_goes_on(
    own: Up, victim: str, undisturbed: pl.DataFrame
) -> None:
    run = everything(own)
    begun(own, 20)
    kill(own, victim)
    done = own.end(run)
    assert done["state_type"] == "COMPLETED", done["state"]["message"]
    assert "was killed by SIGKILL; it is started anew" in own.log.read_text().replace("\n", " ")
    assert_done_once(own.home, undisturbed)


@pytest.mark.prove
def test_a_cancelled_backfill_is_taken_up_by_the_next_one(own: Up, undisturbed: pl.DataFrame) -> None:
    run = everything(own)
    begun(own, 20)
    own.ask("POST", f"flow_runs/{run}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
    assert own.end(run)["state_type"] == "CANCELLED"
    before = rows(own.home, "tripled", "thrice")
    assert before.height < undisturbed.height
    assert own.end(everything(own))["state_type"] == "COMPLETED"
    assert_done_once(own.home, undisturbed)


@pytest.mark.prove
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_behind(own: Up, how: signal.Signals) -> None:
    everything(own)
    begun(own, 5)
    own.process.send_signal(how)
    assert own.process.wait(60) == (-9 if how == signal.SIGKILL else 0)
    until(lambda: not [pid for word in ("flows.", "prefect.engine", "mlflow_server") for pid in own.children(word)])


def test_two_cannot_listen_at_one_port(up: Up, tmp_path: Path) -> None:
    port = httpx.URL(up.prefect).port
    other = Up(tmp_path, f"--port-prefect={port}", "--only=prefect")
    other.client.close()
    assert other.process.wait(60) == 1
    assert f"error: port {port} for prefect is taken" in other.log.read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        pytest.skip("there is no Chromium: install Debian's package `chromium`")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found[0], args=["--no-sandbox"])
        yield started
        started.close()


def pick(page: Page, day: str) -> None:
    """Enter midnight of a day in the next empty date field of a form."""
    page.get_by_text("Select date and time").first.click()
    page.locator("input[type=date]").fill(day)
    page.locator("input[type=time]").fill("00:00")
    page.get_by_role("button", name="Apply").click()


def test_somebody_starts_a_backfill_in_a_browser_and_watches_it(up: Up, browser: Browser, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 1600}, timezone_id="UTC")
    deployment = up.deployment("backfill")["id"]
    page.goto(f"{up.prefect}/deployments/deployment/{deployment}/run")
    pick(page, "2025-03-03")
    pick(page, "2025-03-07")
    page.get_by_role("button", name="all groups").press("ArrowDown")  # opens the list
    page.get_by_text("weekly", exact=True).first.click()
    page.locator("input[type=number]").first.fill("1")
    page.locator("textarea").first.fill("a price was wrong")
    page.screenshot(path=tmp_path / "form.png")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(lambda url: not url.endswith("/run"))

    def started() -> dict[str, Any] | None:
        asked = {"deployments": {"id": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_DESC", "limit": 1}
        (newest,) = up.ask("POST", "flow_runs/filter", **asked) or [{"parameters": {}}]
        return newest if newest["parameters"].get("group") == "weekly" else None

    identity = until(started)["id"]
    page.goto(f"{up.prefect}/runs/flow-run/{identity}")
    page.get_by_text("Completed", exact=True).first.wait_for(timeout=120_000)
    page.screenshot(path=tmp_path / "run.png")
    assert up.run(identity)["parameters"] == {
        "start": "2025-03-03T00:00:00Z",
        "end": "2025-03-07T00:00:00Z",
        "group": "weekly",
        "chunk_days": 1,
        "parallel": 1,
        "dry_run": False,
        "reason": "a price was wrong",
        "now": None,
    }
    page.get_by_text("Artifacts", exact=True).last.click()
    page.get_by_text("backfill-weekly", exact=True).click()
    page.get_by_text("4 of 4 done").wait_for()
    page.screenshot(path=tmp_path / "artifact.png")

    found = rows(up.home, "weekly", "spent_sum_7d")["event_timestamp"].unique().sort().to_list()
    assert found == [T0 + timedelta(days=day) for day in range(62, 66)]


def begun_nights(up: Up, deployment: str) -> list[dict[str, Any]]:
    """The nights that began, by whatever they were started."""
    states = {"type": {"any_": ["PENDING", "RUNNING", "COMPLETED", "FAILED", "CRASHED"]}}
    asked = {"deployments": {"id": {"any_": [deployment]}}, "flow_runs": {"state": states}}
    found: list[dict[str, Any]] = up.ask("POST", "flow_runs/filter", **asked)
    return found


def test_a_schedule_fires_by_itself_and_nights_come_one_after_the_other(up: Up) -> None:
    """The last one of those that share a server: a night leaves no group as it was."""
    nightly = up.deployment("nightly")["id"]
    up.ask("PATCH", f"deployments/{nightly}", schedules=[{"active": True, "schedule": {"interval": 5}}])
    with turn(up.home / "turns", "doubled", "a long run"):  # a night is at work while the next one falls due
        until(lambda: len(begun_nights(up, nightly)) > 1)
        up.ask("PATCH", f"deployments/{nightly}", schedules=[])
        nights = begun_nights(up, nightly)
        until(lambda: any("the night waits for its turn after night of" in up.logged(n["id"]) for n in nights))
    ended = [up.end(night["id"]) for night in nights]
    assert {(night["auto_scheduled"], night["state_type"]) for night in ended} == {(True, "COMPLETED")}
    pages = up.artifacts("night")
    assert len(pages) >= len(ended)
    assert all(": all is well\n" in page["data"] for page in pages)
    for group in ("doubled", "tripled"):
        assert_once(up.home, group, DAYS * ROWS)


@pytest.mark.prove
def test_a_night_that_was_missed_runs_as_soon_as_all_is_up_again(own: Up) -> None:
    nightly, due = own.deployment("nightly")["id"], datetime.now(UTC) + timedelta(minutes=1)
    once = {"rrule": f"DTSTART:{due:%Y%m%dT%H%M%SZ}\nRRULE:FREQ=DAILY;COUNT=1", "timezone": "UTC"}
    own.ask("PATCH", f"deployments/{nightly}", schedules=[{"active": True, "schedule": once}])
    asked = {"deployments": {"id": {"any_": [nightly]}}}
    (missed,) = until(lambda: own.ask("POST", "flow_runs/filter", **asked))
    assert (missed["auto_scheduled"], missed["state_type"]) == (True, "SCHEDULED")
    own.stop()
    until(lambda: datetime.now(UTC) > due)
    with running(own.home) as again:
        assert again.end(missed["id"])["state_type"] == "COMPLETED"
        assert_once(own.home, "doubled", DAYS * ROWS)
