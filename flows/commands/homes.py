"""Homes in which flows can run. Prefect reads its environment when it is imported: enter one of these before."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from features.errors import InvalidInput
from flows.console import clear_errors
from flows.runtime import prefect_runtime
from infra.settings import Settings, load_settings

MARKER = ".featurefab-demo"
"""The file by which a demo's home is known: no other folder is wiped."""


@contextmanager
def prefect_home(home: Path | None) -> Iterator[None]:
    """The home of a command that runs a flow."""
    with clear_errors(), prefect_runtime(load_settings(home=home)):
        yield


@dataclass(frozen=True)
class DemoHome:
    """A demo's home, the files of one's own that it is fed with, and when it began (``time.monotonic``)."""

    settings: Settings
    landing: Path | None
    began: float


@contextmanager
def demo_home(home: Path, landing: Path | None, *, keep: bool) -> Iterator[DemoHome]:
    """An empty home for a demo, or with ``keep`` the one there is.

    InvalidInput, told in one line, for a home that holds something else, or a landing that is not there.
    """
    began = time.monotonic()
    with clear_errors():
        if landing is not None and not landing.exists():
            raise InvalidInput(f"landing {landing}: there is no such file or folder")
        settings = load_settings(home=_clean(home, keep=keep))
        with prefect_runtime(settings, wait=False):  # the server starts while the flows are imported
            yield DemoHome(settings, landing, began)


def _clean(home: Path, *, keep: bool) -> Path:
    """An empty home, or the one there is; a folder with other things in it is never wiped."""
    marker = home / MARKER
    if home.exists() and not keep:
        if any(home.iterdir()) and not marker.exists():
            raise InvalidInput(f"home {home} holds files that are not a demo's: name another folder, or empty it")
        shutil.rmtree(home)
    home.mkdir(parents=True, exist_ok=True)
    marker.touch()
    return home
