"""The train flow: models on point-in-time examples, registered with their lineage."""

from __future__ import annotations

from datetime import datetime

from flows.moment import moment_of
from flows.platform_flow import platform_flow
from flows.stations import Facts, each
from flows.tasks import train_model
from infra.settings import load_settings
from infra.wiring import load_registry


@platform_flow("train")
def train(models: list[str] | None = None, now: datetime | None = None) -> list[Facts]:
    """Train models and register them as champions.

    Args:
        models: The models; empty for all.
        now: The moment the run counts as; empty for the present.
    """
    registry = load_registry(load_settings().registry)
    chosen = [registry.model(name).name for name in models] if models else list(registry.models)
    moment = moment_of(now)
    return each(chosen, lambda name: train_model(name, moment))
