"""What definitions say, as text that is equal where they mean the same.

Of a function it is the normalised source and the values it brings along; of an expression Polars'
serialization (which has what printing leaves out: decimals, formats, zones, ...), with the source of user
functions in place of their pickles, which change with every construction.
"""

from __future__ import annotations

import ast
import inspect
import json
import pickle
import textwrap
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import polars as pl

from features.errors import DefinitionError
from features.lambda_text import code_text, lambda_text


def source_text(function: Callable[..., Any]) -> str:
    """A function's source without comments and layout; where there is none, what else tells it from others."""
    if isinstance(function, partial):
        return source_text(function.func)
    if isinstance(function, FunctionType) and function.__name__ == "<lambda>" and (text := lambda_text(function)):
        return text
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        if isinstance(function, FunctionType):
            return code_text(function)
        return getattr(function, "__qualname__", repr(type(function)))
    try:
        return ast.unparse(ast.parse(source))
    except SyntaxError:  # the lines of a lambda, cut out of a longer statement
        return " ".join(source.split())


def captured(function: Callable[..., Any]) -> list[str]:
    """What a function uses that its source does not show: bound arguments and values of enclosing functions.

    >>> from functools import partial
    >>> captured(partial(sorted, reverse=True))
    ["('reverse', True)"]
    """
    if isinstance(function, partial):
        bound = [repr(value) for value in (*function.args, *sorted(function.keywords.items()))]
        return bound + captured(function.func)
    found = []
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    defaults = [*(getattr(function, "__defaults__", None) or ())]
    defaults += (getattr(function, "__kwdefaults__", None) or {}).values()
    for value in [*cells, *defaults]:
        if inspect.isfunction(value) or isinstance(value, partial):
            found += [source_text(value), *captured(value)]
        else:
            found.append(repr(value))
    return [text for text in found if " at 0x" not in text]  # an address says nothing and changes


def serialized(expr: pl.Expr) -> str:
    """Polars' serialization of an expression, the source of user functions in place of their pickles."""

    def readable(node: dict[str, Any]) -> dict[str, Any]:
        return node | {"function": _user_function(bytes(node["function"]))} if _is_pickled(node) else node

    try:
        text = expr.meta.serialize(format="json")
    except (TypeError, pickle.PicklingError, pl.exceptions.PolarsError) as error:
        raise DefinitionError(
            f"{str(expr)!r} uses a function that holds what cannot be told apart from run to run ({error}): "
            f"let it hold plain values only"
        ) from error
    return json.dumps(json.loads(text, object_hook=readable), sort_keys=True)


def _is_pickled(node: dict[str, Any]) -> bool:
    return isinstance(node.get("function"), list)


def _user_function(serialized: bytes) -> list[str]:
    """The source of a Python function as Polars serializes it: a header, then its pickle."""
    # Pickled a moment ago by this process: loading runs nothing that the definition did not bring.
    function = pickle.loads(serialized[serialized.index(b"\x80") :])  # noqa: S301
    function = getattr(function, "function", function)  # Polars wraps it
    return [source_text(function), *captured(function)]
