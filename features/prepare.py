"""The ``prepare`` step of a group: what it must be like, and how it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import polars as pl

from features.errors import DefinitionError
from features.used_names import brought, module_names, package_of, plain_function


def check_prepare(who: str, prepare: Callable[..., Any], inputs: Mapping[str, Any], *, named: bool) -> None:
    """Refuse a ``prepare`` that cannot be called with its inputs, or that brings a frame of its own.

    Rows that come from outside of the sources have no lineage, no version and no arrival: nobody could say
    what a feature was made of, or make it again.
    """
    if not callable(prepare):
        raise DefinitionError(f"{who}: `prepare` is {type(prepare).__name__}: give a function of LazyFrames")
    arguments = ", ".join(f"{name}=..." for name in inputs) if named else "one LazyFrame"
    try:
        signature = inspect.signature(prepare)
    except (TypeError, ValueError):  # a function written in C does not say what it takes
        signature = None
    try:
        if signature is not None:
            signature.bind(*([] if named else [None]), **(dict.fromkeys(inputs) if named else {}))
    except TypeError as error:
        raise DefinitionError(
            f"{who}: `prepare` is called with {arguments}, which it does not take ({error}): "
            f"give it a parameter for each input"
        ) from error
    for name, value in _frames_of(prepare):
        raise DefinitionError(
            f"{who}: `prepare` uses {name!r}, a {type(value).__name__} that is no input: "
            f"make it a source and an input of the group"
        )


def run_prepare(
    who: str, prepare: Callable[..., Any], frames: Mapping[str, pl.LazyFrame], *, named: bool
) -> pl.LazyFrame:
    """What ``prepare`` makes of its inputs, by name or of the only one.

    Raises DefinitionError where it fails on them, or returns anything but a LazyFrame.
    """
    try:
        found: object = prepare(**frames) if named else prepare(*frames.values())
    except Exception as error:
        reason = (f"{type(error).__name__}: {error}".splitlines() or [""])[0]
        raise DefinitionError(f"{who}: `prepare` fails on its inputs: {reason}; mend the function") from error
    if not isinstance(found, pl.LazyFrame):
        raise DefinitionError(
            f"{who}: `prepare` returns {type(found).__name__}, not a LazyFrame: return the frame, not collected"
        )
    return found


def _frames_of(prepare: Callable[..., Any]) -> Iterator[tuple[str, object]]:
    """Frames that a function, or one of its package that it calls, has from outside of its arguments."""
    home = package_of(prepare)
    waiting: list[tuple[str, Any]] = [("", prepare)]
    met: set[int] = set()
    while waiting:
        name, this = waiting.pop()
        this = plain_function(this)
        if isinstance(this, pl.DataFrame | pl.LazyFrame):
            yield name, this
        elif isinstance(this, partial):
            given = {f"argument {i}": value for i, value in enumerate(this.args)}
            waiting += [*given.items(), *this.keywords.items(), ("", this.func)]
        elif inspect.isfunction(this) and package_of(this) == home and id(this) not in met:
            met.add(id(this))
            waiting += (module_names(this) | brought(this)).items()
