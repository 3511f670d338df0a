"""What two descriptions of a group differ in, and which part of its version that must raise.

Compared is what ``features.description.describe_group`` records. Changed types, keys, sources, grain, timing
and units, and features that are gone, break consumers: a major version. New features and wider types do
not: a minor one. Whatever else is computed differently needs any raise at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from features.description import Description

Raise = Literal["major", "minor", "patch"]

_WIDER: dict[str, tuple[str, ...]] = {
    "Int8": ("Int16", "Int32", "Int64"),
    "Int16": ("Int32", "Int64"),
    "Int32": ("Int64",),
    "Float32": ("Float64",),
}
"""The types that hold every value of a narrower one."""

_BREAKING = ("entity", "grain", "every", "settle")
_CHANGING = ("publish_delay", "on_conflict", "prepare", "prepare_uses", "prepare_by")


@dataclass(frozen=True)
class Difference:
    """What a definition adds to, changes in and takes from another, each as "what: from → to".

    ``touched`` are the features whose values or types are others; ``whole`` says that all of them are.
    """

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    breaking: tuple[str, ...] = ()
    touched: frozenset[str] = frozenset()
    whole: bool = False

    @property
    def needs(self) -> Raise | None:
        """The least part of the version that must be raised; None where nothing differs."""
        if self.breaking:
            return "major"
        if self.added:
            return "minor"
        return "patch" if self.changed else None


def compare(old: Description, new: Description) -> Difference:
    """What a new description differs in from an old one."""
    breaking = [_told(field, old, new) for field in _BREAKING if old[field] != new[field]]
    if list(old["inputs"].values()) != list(new["inputs"].values()):
        breaking.append(_told("inputs", old, new))
    changed = [_told(field, old, new) for field in _CHANGING if old[field] != new[field]]
    if list(old["inputs"]) != list(new["inputs"]) and not breaking:
        changed.append(f"names of inputs: {', '.join(old['inputs'])} → {', '.join(new['inputs'])}")
    whole = bool(breaking or changed)
    added: list[str] = []
    touched: set[str] = set()
    before, after = _features(old), _features(new)
    for name, feature in after.items():
        if name not in before:
            added.append(name)
            continue
        found = _compare_features(before[name], feature)
        added += [f"{name}: {text}" for text in found.added]
        changed += [f"{name}: {text}" for text in found.changed]
        breaking += [f"{name}: {text}" for text in found.breaking]
        touched |= {name} if found.needs else set()
    gone = [name for name in before if name not in after]
    breaking += [f"{name}: removed" for name in gone]
    return Difference(tuple(added), tuple(changed), tuple(breaking), frozenset({*touched, *gone}), whole)


def _features(description: Description) -> dict[str, Mapping[str, Any]]:
    stored = {f["name"]: {**f, "derived": False} for f in description["features"]}
    return stored | {f["name"]: {**f, "derived": True} for f in description["derived"]}


def _compare_features(old: Mapping[str, Any], new: Mapping[str, Any]) -> Difference:
    added: list[str] = []
    changed: list[str] = []
    breaking: list[str] = []
    if old["type"] != new["type"]:
        text = f"type {old['type']} → {new['type']}"
        (added if new["type"] in _WIDER.get(old["type"], ()) else breaking).append(text)
    if old["window"] != new["window"]:
        breaking.append(f"window {old['window']} → {new['window']}")
    if old["unit"] != new["unit"]:
        # To name the unit that there always was is no change of meaning; to use another one is.
        (breaking if old["unit"] and new["unit"] else changed).append(f"unit {old['unit']} → {new['unit']}")
    if old["derived"] != new["derived"]:
        changed.append("derived → stored" if old["derived"] else "stored → derived")
    if old["exact"] != new["exact"]:
        shown = f"{old['expr']} → {new['expr']}" if old["expr"] != new["expr"] else f"{new['expr']}, in what it hides"
        changed.append(f"expression {shown}")
    return Difference(tuple(added), tuple(changed), tuple(breaking))


def _told(field: str, old: Description, new: Description) -> str:
    if field in ("prepare", "prepare_uses"):
        return f"{field}: other code"  # too long for a line of a plan; the registry has both texts
    return f"{field}: {_short(old[field])} → {_short(new[field])}"


def _short(value: Any) -> str:
    match value:
        case {"name": name, "keys": keys}:
            return f"{name} ({', '.join(f'{key} {dtype}' for key, dtype in keys)})"
        case dict():
            return ", ".join(str(next(iter(origin.values()))) for origin in value.values())
        case list():
            return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
