"""Definition fingerprints: whether two definitions of a group mean the same.

The text is what the definition says (types, expressions, the source of ``prepare``), normalised.
Of an expression it is the printed form and, for what that leaves out (decimals, formats, zones, ...), a
hash of Polars' serialization with the source of user functions in place of their pickles, which change
with every construction.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import pickle
import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any

import polars as pl

from features.errors import DefinitionError
from features.feature_group import Feature, FeatureGroup


def describe_group(group: FeatureGroup) -> dict[str, Any]:
    """Everything that decides a group's values, as plain JSON-able data."""
    return {
        "name": group.name,
        "version": group.version,
        "entity": {"name": group.entity.name, "keys": {k: str(t) for k, t in group.entity.keys.items()}},
        "inputs": {name: origin.name for name, origin in group.inputs.items()},
        "grain": group.grain,
        "every": group.every,
        "settle": group.settle,
        "on_conflict": group.on_conflict,
        "publish_delay": group.publish_delay,
        "prepare": source_text(group.prepare) if group.prepare else None,
        "prepare_uses": captured(group.prepare) if group.prepare else [],
        "prepare_by": list(group.prepare_by),
        "features": [_feature(f) for f in group.features],
        "derived": [_feature(f) for f in group.derived],
    }


def fingerprint(group: FeatureGroup) -> str:
    """SHA-256 of the group's description, without its version.

    >>> from features.definitions import REGISTRY
    >>> group = next(iter(REGISTRY.groups.values()))
    >>> fingerprint(group) == fingerprint(group)
    True
    """
    text = json.dumps(describe_group(group) | {"version": None}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def source_text(function: Callable[..., Any]) -> str:
    """A function's source without comments and layout; its name where there is no source."""
    if isinstance(function, partial):
        return source_text(function.func)
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
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
    for cell in getattr(function, "__closure__", None) or ():
        value = cell.cell_contents
        if inspect.isfunction(value) or isinstance(value, partial):
            found += [source_text(value), *captured(value)]
        else:
            found.append(repr(value))
    return [text for text in found if " at 0x" not in text]  # an address says nothing and changes


def _feature(feature: Feature) -> dict[str, Any]:
    exact = hashlib.sha256(serialized(feature.expr).encode()).hexdigest()
    return {
        "name": feature.name,
        "expr": str(feature.expr),
        "exact": exact,
        "window": feature.window,
        "unit": feature.unit,
    }


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
