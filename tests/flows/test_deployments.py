from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.deployments.runner import RunnerDeployment
from prefect.flows import load_flow_from_entrypoint
from prefect.server.schemas.schedules import CronSchedule

import flows
from features import Entity, Feature, FeatureGroup, Registry, Source
from features.errors import SettingsError
from flows.deployments import deployments
from flows.runner import serve
from infra.settings import load_settings

NEW_YORK = ZoneInfo("America/New_York")
GUEST = Entity("guest", keys={"guest_id": pl.String()})


def _group(name: str, schedule: str | None) -> FeatureGroup:
    return FeatureGroup(
        name,
        "1.0.0",
        GUEST,
        Source(f"{name}_rows", schema={"guest_id": pl.String(), "at": pl.Datetime("us")}, event_timestamp="at"),
        [Feature("stays", pl.len())],
        grain="entity",
        settle="1h",
        schedule=schedule,
        tags=["hotel"],
        owner="front-desk",
        description="Stays of a guest.",
    )


def _deployed(tmp_path: Path, *groups: FeatureGroup, **settings: Any) -> dict[str, RunnerDeployment]:
    made = deployments(load_settings(home=tmp_path, **settings), Registry(groups))
    assert len({(d.flow_name, d.name) for d in made}) == len(made)
    return {deployment.name: deployment for deployment in made}


def _fires(deployment: RunnerDeployment, after: datetime, count: int = 1) -> list[datetime]:
    (schedule,) = deployment.schedules or []
    planned = CronSchedule(**schedule.schedule.model_dump())  # as the server plans it
    return [at.astimezone(UTC) for at in asyncio.run(planned.get_dates(count, start=after))]


def test_every_flow_is_deployed_by_module(tmp_path: Path) -> None:
    found = {}
    for file in sorted(Path(flows.__file__).parent.glob("*.py")):
        if file.stem != "__main__" and not file.stem.startswith("prefect_"):
            module = import_module(f"flows.{file.stem}")
            found |= {
                f"flows.{file.stem}.{name}": value
                for name, value in vars(module).items()
                if isinstance(value, Flow) and value.fn.__module__ == module.__name__
            }
    made = _deployed(tmp_path)
    assert {d.entrypoint: d.flow_name for d in made.values()} == {place: flow.name for place, flow in found.items()}
    for place, flow in found.items():
        assert load_flow_from_entrypoint(place) is flow
    assert {"nightly", "ingest", "materialize", "sync", "warm-up", "train", "monitor", "backfill"} <= set(made)


def test_a_deployment_says_what_it_does_and_its_form_what_to_enter(tmp_path: Path) -> None:
    for deployment in _deployed(tmp_path, _group("stays", "0 * * * *")).values():
        assert deployment.description
        assert "Args:" not in deployment.description
        assert deployment.flow_name in deployment.tags
        schema = deployment._parameter_openapi_schema.model_dump()
        assert all(field["description"] for field in schema["properties"].values())
        dates = [schema["properties"][name] for name in ("now", "start", "end") if name in schema["properties"]]
        assert dates
        for field in dates:
            assert {part.get("format") for part in field.get("anyOf", [field])} - {None} == {"date-time"}
    form = _deployed(tmp_path)["backfill"]._parameter_openapi_schema.model_dump()
    assert form["required"] == ["start", "end"]
    fields = ["start", "end", "group", "chunk_days", "parallel", "dry_run", "reason", "now"]
    assert list(form["properties"]) == fields


def test_the_form_of_a_backfill_lists_the_groups(tmp_path: Path) -> None:
    form = _deployed(tmp_path, _group("stays", None), _group("meals", None))["backfill"]._parameter_openapi_schema
    assert form.properties["group"]["enum"] == ["all groups", "stays", "meals"]


def test_only_the_night_the_morning_and_the_month_are_scheduled(tmp_path: Path) -> None:
    made = _deployed(tmp_path, _group("stays", None))
    assert {name for name, deployment in made.items() if deployment.schedules} == {"nightly", "warm-up", "maintain"}


def test_maintenance_comes_once_a_month_after_the_night(tmp_path: Path) -> None:
    fires = _fires(_deployed(tmp_path)["maintain"], datetime(2026, 1, 15, tzinfo=UTC), 3)
    local = [at.astimezone(NEW_YORK) for at in fires]
    assert [(at.month, at.day, at.hour) for at in local] == [(2, 1, 4), (3, 1, 4), (4, 1, 4)]


@pytest.mark.parametrize(
    ("after", "night"),
    [
        (datetime(2026, 1, 15, tzinfo=UTC), datetime(2026, 1, 15, 7, tzinfo=UTC)),  # winter: UTC-5
        (datetime(2026, 7, 15, tzinfo=UTC), datetime(2026, 7, 15, 6, tzinfo=UTC)),  # summer: UTC-4
    ],
)
def test_schedules_keep_to_the_clock_of_new_york(tmp_path: Path, after: datetime, night: datetime) -> None:
    made = _deployed(tmp_path)
    assert _fires(made["nightly"], after) == [night]
    assert _fires(made["warm-up"], after) == [night.replace(hour=night.hour + 4)]


def test_no_night_is_lost_or_doubled_when_clocks_change(tmp_path: Path) -> None:
    nightly, warm_up = (_deployed(tmp_path)[name] for name in ("nightly", "warm-up"))
    for start in (datetime(2026, 3, 6, 12, tzinfo=UTC), datetime(2026, 10, 30, 12, tzinfo=UTC)):
        days = [at.astimezone(NEW_YORK).date() for at in _fires(nightly, start, 5)]
        assert days == [start.date() + timedelta(days=number) for number in range(1, 6)]
        assert {at.astimezone(NEW_YORK).hour for at in _fires(warm_up, start, 5)} == {6}


def test_the_zone_is_a_setting(tmp_path: Path) -> None:
    made = _deployed(tmp_path, schedule_timezone="Asia/Tokyo")
    assert _fires(made["nightly"], datetime(2026, 7, 15, tzinfo=UTC)) == [datetime(2026, 7, 15, 17, tzinfo=UTC)]


def test_a_group_with_a_schedule_is_materialized_by_it(tmp_path: Path) -> None:
    made = _deployed(tmp_path, _group("stays", "30 */6 * * *"), _group("meals", None))
    stays = made["materialize-stays"]
    assert "materialize-meals" not in made
    assert (stays.flow_name, stays.entrypoint) == ("materialize", "flows.materialize.materialize")
    assert stays.parameters == {"groups": ["stays"]}
    assert stays.tags == ["materialize", "hotel"]
    assert "Stays of a guest." in (stays.description or "")
    assert _fires(stays, datetime(2026, 1, 15, 6, tzinfo=UTC), 2) == [
        datetime(2026, 1, 15, 11, 30, tzinfo=UTC),
        datetime(2026, 1, 15, 17, 30, tzinfo=UTC),
    ]


def test_serving_needs_a_server_that_stays(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'prefect_api_url' is not set"):
        serve(load_settings(home=tmp_path), ready=lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(SettingsError, match=f"127.0.0.1:{port}/api', where no Prefect server answers"):
        serve(load_settings(home=tmp_path, prefect_api_url=f"http://127.0.0.1:{port}/api"), ready=lambda: None)


@pytest.mark.usefixtures("prefect")
def test_a_server_plans_the_nights(tmp_path: Path) -> None:
    nightly = _deployed(tmp_path)["nightly"]
    identity = nightly.apply()
    start, end = datetime(2026, 1, 15, tzinfo=UTC), datetime(2026, 1, 18, tzinfo=UTC)
    asked = {"start_time": start.isoformat(), "end_time": end.isoformat(), "min_runs": 3}
    with get_client(sync_client=True) as client:
        client.request("POST", f"/deployments/{identity}/schedule", json=asked)
        order = {"sort": "EXPECTED_START_TIME_ASC", "limit": 10}
        asked = {"deployments": {"id": {"any_": [str(identity)]}}, **order}
        runs = client.request("POST", "/flow_runs/filter", json=asked).json()
        client.delete_deployment(identity)
    planned = [datetime.fromisoformat(run["expected_start_time"]) for run in runs]
    assert planned == [datetime(2026, 1, day, 7, tzinfo=UTC) for day in (15, 16, 17)]
