"""The commands that read features; light, since somebody waits for one answer."""

from __future__ import annotations

from pathlib import Path

from features.online import OnlineResponse
from features.retrieval import TrainingSet
from flows.commands.asked import asked_features, entity_keys
from flows.console import clear_errors, print_json, print_table
from flows.views import show_training_set
from infra.sources.entity_files import entities_from_text, read_entities, write_table
from infra.wiring import open_platform


def get_online(features: list[str], entity: list[str], *, home: Path | None, json: bool) -> None:
    """The newest features of some entities, a table each."""
    with clear_errors(), open_platform(home=home) as platform:
        asked, dtypes = asked_features(platform.store.registry, features)
        entities = entities_from_text([entity_keys(text) for text in entity], dtypes)
        answer = platform.store.get_online_features(asked, entities)
    if json:
        print_json({"values": answer.to_dict(), "statuses": answer.statuses, "times": answer.event_timestamps})
    else:
        _show_answer(answer)


def get_historical(
    features: list[str], entities: Path, output: Path | None, *, history: str, home: Path | None, json: bool
) -> None:
    """The features at the moments of an entity file."""
    with clear_errors(), open_platform(home=home) as platform:
        asked, dtypes = asked_features(platform.store.registry, features)
        frame = read_entities(entities, dtypes)
        found = platform.store.get_historical_features(frame, asked, history=history)  # type: ignore[arg-type] # checked there
        _write(found, output)
    show_training_set(found, output, json=json)


def get_offline(
    features: list[str],
    start: str,
    end: str,
    entities: Path | None,
    output: Path | None,
    *,
    home: Path | None,
    json: bool,
) -> None:
    """The rows in [start, end) of all entities, or of those in a file."""
    with clear_errors(), open_platform(home=home) as platform:
        asked, dtypes = asked_features(platform.store.registry, features)
        some = None if entities is None else read_entities(entities, dtypes)
        found = platform.store.get_offline_features(asked, start, end, entities=some)
        _write(found, output)
    show_training_set(found, output, json=json)


def _write(found: TrainingSet, output: Path | None) -> None:
    if output is not None:
        write_table(found.to_polars(), output)


def _show_answer(answer: OnlineResponse) -> None:
    for number, keys in enumerate(answer.entities.to_dicts()):
        title = ", ".join(f"{k}={v}" for k, v in keys.items())
        rows = [
            {"feature": n, "value": v[number], "status": answer.statuses[n][number], "as of": times[number]}
            for (n, v), times in zip(answer.values.items(), answer.event_timestamps.values(), strict=True)
        ]
        print_table(title, rows)
