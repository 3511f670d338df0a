"""Keeps the test process, and what it starts, away from the developer's own settings and folders."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from flows.runtime import prefect_runtime
from infra.settings import PREFIX, apply_isolation, load_settings

# A busy machine must not fail a test: how long one example takes says nothing about the code.
# The suite draws the same examples each time; the long runs of `make prove` draw fresh ones.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.register_profile("prove", deadline=None)

collect_ignore = ["peers/feast_client.py", "benchmarks/peers"]
"""What runs where a peer is installed."""

_HOME = Path(tempfile.mkdtemp(prefix="featurefab-tests-"))


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.load_profile("prove" if config.option.markexpr == "prove" else "suite")
    for variable in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[variable]
    apply_isolation(load_settings(home=_HOME))


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the README's tour: it takes a minute, in which the other worker would have nothing left to do."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names for values whose bytes change from run to run (archives hold times): workers must agree on them."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def prefect() -> Iterator[None]:
    """A private Prefect server for all tests of the session that run flows."""
    with prefect_runtime(load_settings(home=_HOME)):
        yield
