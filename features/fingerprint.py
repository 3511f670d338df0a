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
from collections.abc import Callable, Iterator
from functools import partial
from types import FunctionType
from typing import Any

import polars as pl

from features.constants import constant_text
from features.errors import DefinitionError
from features.lambda_text import code_text, lambda_text
from features.used_names import brought, module_names, package_of, plain_function

_WRAPPER = "polars"
"""The package that wraps the functions of expressions in its own, whose insides say nothing of a definition."""


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
    """What a function uses that its source does not show.

    That are bound arguments and values of enclosing functions, and what it takes from modules of its package:
    constants, the source of functions and classes, and what these functions use in turn.

    >>> from functools import partial
    >>> captured(partial(sorted, reverse=True))
    ["('reverse', True)"]
    """
    return list(_captured(function, package_of(function), set()))


def _captured(function: Any, home: str, met: set[int | str]) -> Iterator[str]:
    function = plain_function(function)
    if isinstance(function, partial):
        for value in (*function.args, *sorted(function.keywords.items())):
            yield from _held(value, home, met)
        yield from _captured(function.func, home, met)
        return
    if id(function) in met:
        return
    met.add(id(function))
    home = package_of(function) if home == _WRAPPER else home
    for value in brought(function).values():
        yield from _held(value, home, met)
    if inspect.isfunction(function) and package_of(function) == home != _WRAPPER:
        for name, value in module_names(function).items():
            yield from _named(name, value, home, met)


def _held(value: Any, home: str, met: set[int | str]) -> Iterator[str]:
    """What is to be said of a value that the function alone holds: all that can be."""
    functions: list[Any] = []
    value = plain_function(value)
    text = constant_text(value, serialized, functions)
    if functions != [value]:
        text = repr(value) if text is None else text
        if " at 0x" not in text:  # an address says nothing and changes
            yield text
    for used in functions:
        yield from _used(used, home, met)


def _named(name: str, value: Any, home: str, met: set[int | str]) -> Iterator[str]:
    """What is to be said of a name of a module: the value of a constant, the source of the package's own functions."""
    functions: list[Any] = []
    value = plain_function(value)
    text = constant_text(value, serialized, functions)
    said = f"{name} = {text}"
    if text is not None and functions != [value] and said not in met:
        met.add(said)
        yield said
    for used in functions:
        if package_of(used) == home:
            yield from _used(used, home, met)


def _used(function: Any, home: str, met: set[int | str]) -> Iterator[str]:
    if inspect.isclass(function) and package_of(function) != home:
        yield function.__qualname__
    elif id(function) not in met:
        yield source_text(function)
        yield from _captured(function, home, met)


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
