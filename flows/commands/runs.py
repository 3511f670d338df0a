"""The commands that move feature rows: materialize, backfill, sync, fold."""

from __future__ import annotations

from pathlib import Path

from flows.choice import served
from flows.commands.asked import due
from flows.commands.own_turn import own_turn
from flows.console import clear_errors, progress_bar
from flows.views import show_previews, show_runs
from infra.feature_quality import open_feature_quality
from infra.wiring import open_platform


def materialize(groups: list[str] | None, *, home: Path | None, json: bool) -> None:
    """The live path of the groups, and what their rows break."""
    runs, broken = {}, {}
    with clear_errors(), open_platform(home=home) as platform:
        quality = open_feature_quality(platform)
        for group in due(platform.store, groups):
            with own_turn(platform, group, f"materialize {group}"), progress_bar(f"materialize {group}") as progress:
                runs[group] = platform.store.materialize_incremental(group, progress)
                broken[group] = quality.judge(group)["message"].to_list()
    show_runs("materialized", runs, broken, json=json)


def backfill(start: str, end: str, groups: list[str] | None, *, home: Path | None, json: bool) -> None:
    """The interval [start, end) of the groups, and what their rows break."""
    runs, broken = {}, {}
    with clear_errors(), open_platform(home=home) as platform:
        quality = open_feature_quality(platform)
        for group in due(platform.store, groups):
            with own_turn(platform, group, f"backfill {group}"), progress_bar(f"backfill {group}") as progress:
                runs[group] = platform.store.materialize(group, start, end, progress)
                broken[group] = quality.judge(group)["message"].to_list()
    show_runs("backfilled", runs, broken, json=json)


def preview(start: str, end: str, groups: list[str] | None, *, home: Path | None, json: bool) -> None:
    """What a backfill would read and change."""
    with clear_errors(), open_platform(home=home) as platform:
        found = {group: platform.store.preview(group, start, end) for group in due(platform.store, groups)}
    show_previews(found, json=json)


def sync(groups: list[str] | None, *, home: Path | None, json: bool) -> None:
    """Offline to online."""
    with clear_errors(), open_platform(home=home) as platform:
        runs = {name: platform.store.sync(name) for name in served(platform.store.registry, groups)}
    show_runs("synced", runs, json=json)


def fold(groups: list[str] | None, *, home: Path | None, json: bool) -> None:
    """Pushed rows into the feature tables."""
    with clear_errors(), open_platform(home=home) as platform:
        runs = {name: platform.store.fold(name) for name in served(platform.store.registry, groups)}
    show_runs("folded", runs, json=json)
