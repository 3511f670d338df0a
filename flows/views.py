"""What commands print of the objects they got: tables for people, JSON for machines."""

from __future__ import annotations

from pathlib import Path

from features.retrieval import TrainingSet
from flows.console import print_json, print_table


def show_reproduced(run_id: str, found: TrainingSet, output: Path | None, *, json: bool) -> None:
    """What a rebuilt training set is: its rows and hash, and the versions of the groups it was read from."""
    manifest = found.manifest
    facts = {
        "run_id": run_id,
        "equal": True,  # else there was an error
        "rows": manifest["rows"],
        "features": len(found.features),
        "history": manifest["history"],
        "content_hash": manifest["content_hash"],
        "written_to": None if output is None else str(output),
    }
    groups = [
        {"group": head, "version": group["version"], "table_version": group["table_version"], "ttl": group["ttl"]}
        for head, group in manifest["groups"].items()
    ]
    if json:
        print_json(facts | {"groups": groups, "manifest": manifest})
        return
    print_table("reproduced", [{"": name.replace("_", " "), " ": value} for name, value in facts.items()])
    print_table("read from", groups)
