"""Maintains a home and dies by SIGKILL at a chosen step: the child of the maintenance's crash proofs.

``python maintain_child.py maintain HOME [0 [before|after STEP]]``, as ``crash_child.py`` does it, looks after
every table of the home as if every file were old. A step is a commit (files merged), a checkpoint, a clean-up
of the log or a vacuum.
"""

from __future__ import annotations

from pathlib import Path

from deltalake import DeltaTable
from deltalake.table import TableOptimizer

import crash_child
from infra.maintenance import lookup_keys, maintain_table, sort_key
from infra.storage.delta import DeltaLake
from infra.storage.delta_upkeep import Keep

PINNED = {"features/spending/v1": frozenset({4, 9}), "bronze/payments": frozenset({1}), "publish_log": frozenset({1})}
"""Versions that must stay."""


def run_maintain(home: Path, first: int = 0) -> None:  # noqa: ARG001  # as the others
    """Look after every table."""
    lake, lookup = DeltaLake(home / "lake"), lookup_keys(crash_child.REGISTRY)
    for path in lake.paths():
        maintain_table(lake, path, sort_key(lookup, path), Keep(PINNED.get(path, frozenset())), hours=0)


class Sweeper(crash_child.Executioner):
    """An executioner who stands beside the steps of maintenance."""

    def watch(self) -> None:
        for verb, owner, method in (
            ("merge", TableOptimizer, "z_order"),
            ("merge", TableOptimizer, "compact"),
            ("checkpoint", DeltaTable, "create_checkpoint"),
            ("clean", DeltaTable, "cleanup_metadata"),
            ("vacuum", DeltaTable, "vacuum"),
        ):
            setattr(owner, method, self._at_table(verb, getattr(owner, method)))

    def _at_table(self, verb, step):
        def stepped(place, *args, **kwargs):
            if kwargs.get("dry_run"):
                return step(place, *args, **kwargs)
            table = place.table if isinstance(place, TableOptimizer) else place
            return self._beside(verb, lambda _: step(place, *args, **kwargs))(table)

        return stepped


if __name__ == "__main__":
    crash_child.obey({"maintain": run_maintain}, Sweeper)
