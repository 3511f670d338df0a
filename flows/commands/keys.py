"""The commands about keys of the feature server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from features.errors import NotRegistered
from flows.console import clear_errors, out, print_json, print_table
from infra.serving.keys import ALL, ApiKey, KeyFile
from infra.settings import load_settings
from infra.wiring import load_registry


def add(name: str, roles: Sequence[str], groups: Sequence[str], rate: int, *, home: Path | None, json: bool) -> None:
    """Make a key and show its token."""
    with clear_errors():
        settings = load_settings(home=home)
        known = {group.name for group in load_registry(settings.registry).groups.values()}
        if unknown := sorted({*groups} - known - {ALL}):
            raise NotRegistered(f"feature group {unknown[0]!r} is not registered; there are {sorted(known)}")
        key, token = KeyFile(settings.access).add(name, roles, groups or [ALL], rate)
    if json:
        print_json({**_facts(key), "key": token})
        return
    print_table("key", [_row(key)])
    out.print("this is the only time that it is shown:")
    out.print(token, markup=False, soft_wrap=True)


def list_keys(*, home: Path | None, json: bool) -> None:
    """Each key's name and what it may; the key itself is kept nowhere."""
    with clear_errors():
        found = KeyFile(load_settings(home=home).access).read()
    print_json([_facts(key) for key in found]) if json else print_table("keys", [_row(key) for key in found])


def revoke(name: str, *, home: Path | None, json: bool) -> None:
    """End a key."""
    with clear_errors():
        key = KeyFile(load_settings(home=home).access).revoke(name)
    print_json(_facts(key)) if json else print_table("key", [_row(key)])


def _facts(key: ApiKey) -> dict[str, Any]:
    """What may be told of a key."""
    return {name: value for name, value in msgspec.structs.asdict(key).items() if name != "sha256"}


def _row(key: ApiKey) -> dict[str, Any]:
    return {**_facts(key), "roles": ", ".join(key.roles), "groups": ", ".join(key.groups)}
