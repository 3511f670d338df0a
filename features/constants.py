"""The text of constants: equal in every process for equal values, and different for different ones."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from datetime import date, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import polars as pl

_PLAIN = (
    *(bool, int, float, complex, str, bytes, range, type(None)),
    *(date, time, timedelta, tzinfo, Decimal, Enum, np.generic, pl.DataType),
)
"""What ``repr`` tells in full."""


def constant_text(value: Any, expression_text: Callable[[pl.Expr], str], functions: list[Any]) -> str | None:
    """The text of a number, string, time, pattern, type, expression, series or a collection of such; else None.

    A function or class among them is told by its name, and added to ``functions``.

    >>> constant_text({"limits": (0, 1.5), "bins": {3, 1}}, str, [])
    "{'limits': (0, 1.5), 'bins': {1, 3}}"
    >>> constant_text(object(), str, []) is None
    True
    """
    match value:
        case pl.Expr():
            return expression_text(value)
        case np.ufunc():
            return f"ufunc {value.__name__}"
        case pl.Series() | np.ndarray():
            return f"{value.dtype!r} {value.to_list() if isinstance(value, pl.Series) else value.tolist()}"
        case re.Pattern():
            return f"re {value.pattern!r} {value.flags}"
        case _ if isinstance(value, _PLAIN) or (isinstance(value, type) and issubclass(value, pl.DataType)):
            return repr(value)
        case _ if isinstance(value, type | partial) or inspect.isroutine(value):
            functions.append(value)
            return str(getattr(value, "__qualname__", "partial"))
    return _collection_text(value, expression_text, functions)


def _collection_text(value: Any, expression_text: Callable[[pl.Expr], str], functions: list[Any]) -> str | None:
    """The text of a list, tuple, set or mapping; None where it is none, or holds what has no text."""
    if isinstance(value, Mapping):
        items = [part for pair in value.items() for part in pair]
    elif isinstance(value, list | tuple | set | frozenset):
        items = list(value)
    else:
        return None
    texts = [constant_text(item, expression_text, functions) for item in items]
    known = [text for text in texts if text is not None]
    if len(known) < len(texts):
        return None
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {v}" for k, v in zip(known[::2], known[1::2], strict=True)) + "}"
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(known)) + "}"  # strings come in another order in every process
    inside = ", ".join(known)
    return f"[{inside}]" if isinstance(value, list) else f"({inside})"
