"""Definition fingerprints: whether two definitions of a group mean the same.

The text is what the definition says (types, expressions, the source of ``prepare``), normalised;
Polars' own serialization would change with every construction of a user function.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable
from typing import Any

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
    try:
        source = textwrap.dedent(inspect.getsource(function))
        return ast.unparse(ast.parse(source))
    except (OSError, TypeError, SyntaxError):
        return getattr(function, "__qualname__", repr(type(function)))


def _feature(feature: Feature) -> dict[str, Any]:
    return {"name": feature.name, "expr": str(feature.expr), "window": feature.window, "unit": feature.unit}
