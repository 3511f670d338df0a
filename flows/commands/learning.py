"""The commands that need scikit-learn: train and report."""

from __future__ import annotations

from pathlib import Path

from flows.commands.own_turn import own_turn
from flows.console import clear_errors, out, print_json, print_table
from infra.model_runs import train as train_model
from infra.monitoring import write_report
from infra.turns import training
from infra.wiring import open_platform


def train(models: list[str] | None, *, home: Path | None, json: bool) -> None:
    """Train the models, and show their metrics."""
    with clear_errors(), open_platform(home=home) as platform:
        registry = platform.store.registry
        specs = [registry.model(name) for name in models or registry.models]
        versions = []
        for spec in specs:
            with own_turn(platform, training(spec.name), f"train {spec.name}"):
                versions.append(train_model(platform.store, platform.tracker, spec))
    facts = [{"model": v.name, "version": v.version, "run_id": v.run_id, **v.metrics} for v in versions]
    if json:
        print_json(facts)
        return
    for fact in facts:  # models have metrics of their own: a table each
        print_table("trained", [fact])
    if not facts:
        print_table("trained", [])


def report(*, home: Path | None, json: bool) -> None:
    """Write the report on the day before, and say where it is."""
    with clear_errors(), open_platform(home=home) as platform:
        written = write_report(platform)
    if json:
        facts = {"report": written.path, "verdict": written.verdict}
        print_json(facts | {"drifted": written.drifted, "checked": written.checked})
    else:
        for line in (written.verdict, str(written.path)):
            out.print(line, markup=False, soft_wrap=True)
