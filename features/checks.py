"""Checks that definitions share: whether what was handed over is of the kind that is asked for.

Annotations promise it to those who run a type checker; everybody else gets a sentence instead of a
traceback from somewhere below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from features.errors import DefinitionError
from features.times import micros


def check_is(who: str, name: str, value: object, kind: type, example: str) -> None:
    """Refuse a value of another type.

    >>> check_is("feature group 'trips'", "version", 1, str, "'1.0.0'")
    Traceback (most recent call last):
    features.errors.DefinitionError: feature group 'trips': version is 1 (int), not of type str: write it like '1.0.0'
    """
    if not isinstance(value, kind):
        raise DefinitionError(
            f"{who}: {name} is {_short(value)} ({type(value).__name__}), not of type {kind.__name__}: "
            f"write it like {example}"
        )


def check_several(who: str, name: str, values: object, kind: type, example: str) -> None:
    """Refuse anything but a list (or other collection, of which a string is none) of values of a type.

    >>> check_several("source 'trips'", "keys", "trip_id", str, "['trip_id']")
    Traceback (most recent call last):
    features.errors.DefinitionError: source 'trips': keys is 'trip_id' (str), not a list: write it like ['trip_id']
    """
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise DefinitionError(
            f"{who}: {name} is {_short(values)} ({type(values).__name__}), not a list: write it like {example}"
        )
    for value in values:
        check_is(who, f"an item of {name}", value, kind, example)


def check_dtypes(who: str, name: str, dtypes: object) -> None:
    """Refuse anything but a mapping of column names to Polars types.

    >>> check_dtypes("entity 'card'", "keys", ["card_id"])
    Traceback (most recent call last):
    features.errors.DefinitionError: entity 'card': keys is ['card_id'] (list), not a mapping of column names to \
types: write it like {'card_id': pl.String}
    """
    example = "{'card_id': pl.String}"
    if not isinstance(dtypes, Mapping):
        raise DefinitionError(
            f"{who}: {name} is {_short(dtypes)} ({type(dtypes).__name__}), not a mapping of column names to types: "
            f"write it like {example}"
        )
    for column, dtype in dtypes.items():
        check_is(who, f"a column of {name}", column, str, example)
        if not (isinstance(dtype, pl.DataType) or (isinstance(dtype, type) and issubclass(dtype, pl.DataType))):
            raise DefinitionError(
                f"{who}: {name} gives {column!r} the type {_short(dtype)}, which is no Polars type: "
                f"write it like {example}"
            )


def check_positive(who: str, name: str, text: str) -> None:
    """Refuse what is no duration longer than zero.

    >>> check_positive("service 'pay'", "sla", "fast")
    Traceback (most recent call last):
    features.errors.DefinitionError: service 'pay': sla: 'fast' is not a duration: write it like '15m', '36h' or '7d'
    """
    check_is(who, name, text, str, "'15m', '36h' or '7d'")
    try:
        span = micros(text)
    except Exception as error:
        raise DefinitionError(f"{who}: {name}: {error}") from error
    if span <= 0:
        raise DefinitionError(f"{who}: {name} {text!r} must be longer than zero")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
