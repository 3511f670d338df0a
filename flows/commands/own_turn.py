"""The turn of a command, which waits for a run that is at work, and says so."""

from __future__ import annotations

from contextlib import AbstractContextManager

from flows.console import complain
from infra.turns import turn
from infra.wiring import Platform


def own_turn(platform: Platform, name: str, command: str) -> AbstractContextManager[str | None]:
    """Hold the turn of a name for the block, once whoever has it is done."""
    return turn(
        platform.settings.turns,
        name,
        f"`featurefab {command}`",
        waiting=lambda who: complain("note", f"{command} waits for its turn after {who}"),
    )
