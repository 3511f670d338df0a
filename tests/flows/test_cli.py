from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer
from typer.testing import CliRunner, Result

from features.definitions import REGISTRY
from features.times import utc_now
from flows.cli import app
from infra.settings import Settings
from infra.sources.simulated_fab import SimulatedFab
from infra.wiring import connect

DAYS = 2

DEFINITIONS = """
import polars as pl
from features import Entity, Feature, FeatureGroup, FeatureService, Registry, Source

stays = Source(
    "stays", schema={"guest_id": pl.String, "hotel": pl.Int32, "nights": pl.Int64, "left_at": pl.Datetime("us")},
    event_timestamp="left_at", keys=["guest_id", "hotel"], description="One row per stay.",
)
guest_stays = FeatureGroup(
    "guest_stays", "1.0.0", Entity("guest", keys={"guest_id": pl.String, "hotel": pl.Int32}), stays,
    [Feature("nights_sum", pl.col("nights").sum(), unit="nights", description="All nights [so far].")],
    grain="entity", settle="1h", owner="front-desk", description="Stays of a guest.",
)
offer = FeatureService(
    "offer", ["guest_stays:nights_sum"], request={"budget": pl.Float64},
    derived=[Feature("budget_a_night", pl.col("budget") / pl.col("nights_sum"))],
    owner="marketing", description="What offers look at.",
)
REGISTRY = Registry([guest_stays, offer])
"""


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def document(*arguments: object, code: int = 0) -> Any:
    """The one JSON document that a command prints."""
    return json.loads(run(*arguments, "--json", code=code).stdout)


def complaint(*arguments: object) -> str:
    """The one line on standard error of a command that fails, and says nothing else."""
    result = run(*arguments, code=1)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture(scope="module")
def fab() -> SimulatedFab:
    """Two days of a small fab, not long ago: served rows must not be past their ttl."""
    start = utc_now().replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=DAYS + 1)
    return SimulatedFab(start=start, days=DAYS, wafers_per_day=2, dies_per_wafer=60)


@pytest.fixture(scope="module")
def landing(fab: SimulatedFab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("landing")
    fab.write(folder)
    return folder


@pytest.fixture(scope="module")
def home(fab: SimulatedFab, landing: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with both days ingested, backfilled and published, by the command line."""
    home = tmp_path_factory.mktemp("home")
    files = document("ingest", landing, "--home", home)["files"]
    assert [file["status"] for file in files] == ["ingested"] * 4
    backfilled = document("backfill", f"{fab.start:%F}", f"{utc_now() + timedelta(days=1):%F}", "--home", home)
    assert {run["group"]: run["rows"] for run in backfilled}.items() >= {"wafer_aggregates": 4}.items()
    synced = document("sync", "--home", home)
    assert [run["group"] for run in synced] == [g.name for g in REGISTRY.in_order() if g.online]
    return home


@pytest.fixture
def hotel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with definitions of one's own, and a home of its own."""
    (tmp_path / "hotel_definitions.py").write_text(DEFINITIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("FEATUREFAB_REGISTRY", "hotel_definitions:REGISTRY")
    monkeypatch.setenv("FEATUREFAB_HOME", str(tmp_path / "home"))
    yield tmp_path
    sys.modules.pop("hotel_definitions", None)


def deliver(folder: Path, rows: str = "ann,1,2,2026-03-01T10:00\nbob,2,1,2026-03-02T10:00\n") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "monday.csv"
    path.write_text("guest_id,hotel,nights,left_at\n" + rows)
    return path


# ---------------------------------------------------------------------------------------------- help


def test_every_command_and_option_has_help() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    wanted = {"demo", "ingest", "materialize", "backfill", "sync", "train", "report", "nightly"}
    wanted |= {"get-online", "get-historical", "describe", "audit", "status", "config"}
    assert wanted <= set(commands)
    for name, command in [*commands.items()]:
        assert command.help, name
        if parts := getattr(command, "commands", None):  # a group of commands
            del commands[name]
            commands |= {f"{name} {part}": command for part, command in parts.items()}
    for name, command in commands.items():
        assert command.help, name
        assert "--json" in [option for parameter in command.params for option in parameter.opts], name
        for parameter in command.params:
            assert parameter.help, (name, parameter.name)
        assert name in run(*name.split(), "--help").stdout


def test_help_imports_nothing_heavy() -> None:
    program = "import sys\nfrom flows.cli import app\ntry: app(['--help'])\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    shown, modules = done.stdout.rsplit("\n", 2)[0], set(done.stdout.splitlines()[-1].split())
    assert all(name in shown for name in ("ingest", "get-historical", "config"))
    heavy = {"polars", "prefect", "mlflow", "great_expectations", "sklearn", "pandas", "numpy", "deltalake", "lmdb"}
    assert not heavy & modules
    assert not {name for name in modules if name.startswith(("features", "infra", "expectations"))}


def test_an_online_read_imports_no_orchestrator_tracker_or_validator(home: Path) -> None:
    program = (
        "import sys\nfrom flows.cli import app\n"
        f"try: app(['get-online', 'wafer_aggregates:avg_vdd', '-e', 'lot_id=A,wafer_id=B', '--home', {str(home)!r}])\n"
        "except SystemExit as end: print(end.code, *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    code, *modules = done.stdout.splitlines()[-1].split()
    assert code == "0"
    assert not {"prefect", "mlflow", "great_expectations", "matplotlib"} & set(modules)


# -------------------------------------------------------------------------------------------- ingest


def test_a_second_ingest_finds_nothing_new(home: Path, landing: Path) -> None:
    assert document("ingest", landing, "--home", home) == {"files": [], "known": 4, "problems": []}
    assert "in the ledger already" in run("ingest", landing, "--home", home).stdout


def test_a_missing_path_and_an_empty_folder_are_errors(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert "no such file or folder" in complaint("ingest", tmp_path / "missing", "--home", home)
    (tmp_path / "empty").mkdir()
    assert "empty" in complaint("ingest", tmp_path / "empty", "--home", home)
    assert not (home / "lake").exists()


def test_a_file_that_is_no_stdf_gets_its_ledger_row(tmp_path: Path) -> None:
    (tmp_path / "letter.stdf").write_text("Dear fab, this is no STDF file at all. " * 5)
    result = run("ingest", tmp_path / "letter.stdf", "--home", tmp_path / "home", "--json", code=1)
    (file,) = json.loads(result.stdout)["files"]
    assert (file["status"], file["rows"], file["offset"]) == ("rejected", 0, 0)
    assert file["reason"]
    assert result.stderr == "error: nothing could be taken in: 1 file(s) rejected, the ledger says why\n"
    (row,) = document("status", "--home", tmp_path / "home")["files"]
    assert (row["status"], row["files"]) == ("rejected", 1)


def test_good_files_land_beside_bad_ones(tmp_path: Path, landing: Path) -> None:
    first, second, *_ = sorted(landing.iterdir())
    files = tmp_path / "files"
    files.mkdir()
    (files / "good.stdf").write_bytes(first.read_bytes())
    (files / "cut.stdf").write_bytes(second.read_bytes()[:-500])
    (files / "bad.stdf").write_bytes(b"no STDF")
    found = document("ingest", files, tmp_path / "missing", "--home", tmp_path / "home")
    assert {Path(file["path"]).name: file["status"] for file in found["files"]} == {
        "good.stdf": "ingested",
        "cut.stdf": "truncated",
        "bad.stdf": "rejected",
    }
    assert ["no such file" in problem for problem in found["problems"]] == [True]


def test_a_file_feeds_the_source_that_is_named(hotel: Path) -> None:
    path = deliver(hotel / "post")
    assert "say which source it feeds" in complaint("ingest", path)
    assert "'stay' is not registered" in complaint("ingest", path, "--source", "stay")
    (file,) = document("ingest", path, "--source", "stays")["files"]
    assert (file["status"], file["source"], file["rows"]) == ("ingested", "stays", 2)


def test_a_folder_named_after_a_source_feeds_it(hotel: Path) -> None:
    deliver(hotel / "stays")
    (hotel / "stays/readme.txt").write_text("not ours")
    (file,) = document("ingest", hotel / "stays")["files"]
    assert (file["status"], file["source"], file["rows"]) == ("ingested", "stays", 2)


def test_a_file_without_its_key_column_is_rejected_by_name(hotel: Path) -> None:
    path = hotel / "monday.csv"
    path.write_text("guest,hotel,nights,left_at\nann,1,2,2026-03-01\n")
    (file,) = document("ingest", path, "--source", "stays", code=1)["files"]
    assert file["status"] == "rejected"
    assert "'guest_id'" in file["reason"]


# ------------------------------------------------------------------------- materialize, backfill, sync


def test_materialize_and_sync_do_what_is_due_once(hotel: Path) -> None:
    run("ingest", deliver(hotel / "stays"))
    (first,) = document("materialize")
    assert (first["group"], first["rows"]) == ("guest_stays", 2)
    (again,) = document("materialize", "guest_stays")
    assert (again["plan"], again["rows"]) == (None, 0)
    (synced,) = document("sync")
    assert (synced["rows"], synced["plan"]) == (2, 1)
    assert document("sync", "guest_stays")[0]["rows"] == 0
    for command in (["materialize"], ["sync"], ["backfill", "2026-03-01", "2026-03-03"]):
        assert "guest_stays" in run(*command).stdout
        assert "feature group 'nope' is not registered" in complaint(*command, "nope")


@pytest.mark.usefixtures("hotel")
def test_moments_must_be_moments() -> None:
    assert "'yesterday' is not a moment" in complaint("backfill", "yesterday", "2026-03-03")
    assert "is not before end" in complaint("backfill", "2026-03-03", "2026-03-01")
    assert document("status")["groups"][0]["rows"] == 0


# ------------------------------------------------------------------------------------ online, historical


def test_an_online_read_takes_keys_as_they_are_typed(home: Path, fab: SimulatedFab) -> None:
    wafer = next(fab.wafers_of(1))
    x, y = wafer.parts.x[0], wafer.parts.y[0]
    keys = f"lot_id={wafer.lot_id}, wafer_id={wafer.wafer_id}, x={x}, y={y}"
    found = document(
        "get-online", "test_fail_prediction", "-e", keys, "-e", "lot_id=none,wafer_id=W01,x=1,y=1", "--home", home
    )
    assert found["values"]["x"] == [x, 1]
    assert found["statuses"]["tests_seen"] == ["PRESENT", "NOT_FOUND"]
    assert found["values"]["tests_seen"][0] >= 1
    shown = run("get-online", "wafer_aggregates:device_count", "-e", keys, "--home", home).stdout
    assert "PRESENT" in shown
    assert f" {wafer.die_count} " in shown


def test_an_online_read_takes_request_values(hotel: Path) -> None:
    run("ingest", deliver(hotel / "stays"))
    run("materialize")
    run("sync")
    found = document("get-online", "offer", "-e", "guest_id=ann,hotel=1,budget=50")
    assert found["values"]["budget_a_night"] == [25.0]


def test_bad_online_reads_say_what_is_wrong(home: Path) -> None:
    read = ["get-online", "device_parametrics:vdd_margin", "--home", home, "-e"]
    assert "is not written like name=value" in complaint(*read, "L1/W1")
    assert "column 'x', row 0: 'left' is not Int32" in complaint(*read, "lot_id=a,wafer_id=b,x=left,y=1")
    assert "lack key column(s) ['x', 'y']" in complaint(*read, "lot_id=a,wafer_id=b")
    assert "feature service 'nope' is not registered" in complaint("get-online", "nope", *read[2:], "lot_id=a")
    assert "'wafer_aggregates:nope' is not defined" in complaint(
        "get-online", "wafer_aggregates:nope", *read[2:], "lot_id=a"
    )


def test_historical_features_of_a_file(hotel: Path) -> None:
    run("ingest", deliver(hotel / "stays", "007,1,2,2026-03-01T10:00\n"))
    run("materialize")
    entities = hotel / "entities.csv"
    entities.write_text("guest_id,hotel,event_timestamp,note\n007,1,2026-03-05,a\n7,1,2026-03-05T00:00:00Z,b\n")
    ask = ["get-historical", "guest_stays:nights_sum", "--entities", entities]
    # The rows came by the live path and were never published: nobody could have been served them.
    assert [row["nights_sum"] for row in document(*ask)["rows"]] == [None, None]
    run("backfill", "2026-03-01", "2026-03-04")
    run("sync")
    rows = document(*ask)["rows"]
    assert [(row["guest_id"], row["hotel"], row["note"]) for row in rows] == [("007", 1, "a"), ("7", 1, "b")]
    for name in ("out.csv", "out.parquet", "out.ndjson"):
        result = run(*ask, "--output", hotel / name)
        assert result.stdout == f"2 rows in {hotel / name}\n"
    written = pl.read_parquet(hotel / "out.parquet")
    assert written["event_timestamp"].to_list() == [datetime(2026, 3, 5, tzinfo=UTC)] * 2
    assert written.columns == ["guest_id", "hotel", "event_timestamp", "note", "nights_sum"]
    assert run(*ask).stdout.count("007") == 1


def test_offline_rows_between_two_moments_of_all_or_of_some(hotel: Path) -> None:
    run("ingest", deliver(hotel / "stays"))
    run("backfill", "2026-03-01", "2026-03-04")
    ask = ["get-offline", "guest_stays:nights_sum", "--start", "2026-03-01", "--end", "2026-03-09"]
    every = document(*ask)
    rows = every["rows"]
    assert {row["guest_id"] for row in rows} == {"ann", "bob"}
    assert every["manifest"]["rows"] == len(rows)
    (hotel / "some.csv").write_text("guest_id,hotel\nann,1\n")
    some = document(*ask, "--entities", hotel / "some.csv")["rows"]
    assert some == [row for row in rows if (row["guest_id"], row["hotel"]) == ("ann", 1)]
    assert run(*ask, "--output", hotel / "all.parquet").stdout == f"{len(rows)} rows in {hotel / 'all.parquet'}\n"
    assert "is not before end" in complaint(*ask[:-1], "2026-03-01")


def test_bad_historical_reads_say_what_is_wrong(hotel: Path) -> None:
    entities = hotel / "entities.csv"
    ask = ["get-historical", "guest_stays:nights_sum", "--entities"]
    assert "there is no such file" in complaint(*ask, hotel / "none.csv")
    entities.write_text("guest_id,hotel,event_timestamp\nann,one,2026-03-05\n")
    assert "column 'hotel', row 0: 'one' is not Int32" in complaint(*ask, entities)
    entities.write_text("guest_id,hotel\nann,1\n")
    assert "no column 'event_timestamp'" in complaint(*ask, entities)
    entities.write_text("guest_id,hotel,event_timestamp\nann,1,2026-03-05\n")
    assert "neither 'backfilled' nor 'as_served'" in complaint(*ask, entities, "--history", "true")
    assert "is not .csv, .parquet or .ndjson" in complaint(*ask, entities, "--output", hotel / "out.xlsx")
    assert "cannot be written" in complaint(*ask, entities, "--output", hotel / "none/out.csv")
    (hotel / "entities.txt").write_text("")
    assert "is not .csv, .parquet or .ndjson" in complaint(*ask, hotel / "entities.txt")


# ------------------------------------------------------------------------------- describe, status, config


def test_describe(home: Path) -> None:
    facts = document("describe", "wafer_aggregates:yield_pct", "--home", home)
    assert (facts["type"], facts["unit"], facts["range"], facts["owner"]) == (
        "Float64",
        "%",
        "0 to 100",
        "yield-analytics",
    )
    shown = run("describe", "wafer_aggregates", "--home", home).stdout
    assert all(text in shown for text in ("yield_pct", "wafer_yield", "def one_row_per_die(", "2"))
    assert "the nearest: wafer_aggregates" in complaint("describe", "wafer_aggregate", "--home", home)


@pytest.mark.usefixtures("hotel")
def test_brackets_in_texts_are_not_markup() -> None:
    assert "All nights [so far]." in run("describe", "guest_stays:nights_sum").stdout
    assert "'[/bold]' is not registered" in complaint("describe", "[/bold]")


def test_status(home: Path, landing: Path) -> None:
    facts = document("status", "--home", home)
    assert [(row["status"], row["files"]) for row in facts["files"]] == [("ingested", len(list(landing.iterdir())))]
    groups = {row["group"]: row for row in facts["groups"]}
    assert (groups["wafer_aggregates"]["online_entities"], groups["wafer_aggregates"]["online_plan"]) == (4, 1)
    with connect(home=home) as store:
        assert groups["wafer_aggregates"]["rows"] == store.current_rows("wafer_aggregates").collect().height
    shown = run("status", "--home", home).stdout
    assert all(name in shown for name in (*REGISTRY.groups, *REGISTRY.sources, *REGISTRY.models))


def test_config_shows_every_setting_and_its_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATUREFAB_STORAGE_OPTIONS", '{"secret_access_key": "hush"}')
    rows = {row["setting"]: row for row in document("config", "--home", tmp_path)}
    assert set(rows) == set(Settings.model_fields)
    assert (rows["home"]["value"], rows["home"]["origin"]) == (str(tmp_path), "argument")
    assert rows["storage_options"]["origin"] == "FEATUREFAB_STORAGE_OPTIONS"
    shown = run("config").stdout
    assert "schedule_timezone" in shown
    assert "hush" not in shown + json.dumps(rows)
    monkeypatch.setenv("FEATUREFAB_HOEM", "x")
    assert "'home'" in complaint("config")


@pytest.mark.usefixtures("hotel")
def test_a_registry_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATUREFAB_REGISTRY", "inn_definitions:REGISTRY")
    assert "no module 'inn_definitions'" in complaint("status")


def test_training_without_enough_examples_is_one_line(home: Path) -> None:
    assert "model 'wafer_yield'" in complaint("train", "wafer_yield", "--home", home)
    assert "model 'nope' is not registered" in complaint("train", "nope", "--home", home)
    assert "there is no model 'wafer_yield': train it first" in complaint("audit", "wafer_yield", "--home", home)


def test_a_rejected_file_is_read_again_when_asked_to(tmp_path):
    folder = tmp_path / "ein Ordner mit ü"
    folder.mkdir()
    (folder / "broken.stdf").write_bytes(b"no record at all")
    home = str(tmp_path / "ein Heim")
    run("ingest", folder, "--home", home, code=1)
    assert "1 file(s) were rejected before" in run("ingest", folder, "--home", home).stderr
    assert "broken.stdf" in run("ingest", folder, "--home", home, "--retry", code=1).stdout


@pytest.mark.parametrize("port", [0, 65_536])
def test_a_port_that_there_is_not_is_refused(port: int) -> None:
    run("up", "--port-prefect", port, code=2)  # the runs could not know where 0 is
