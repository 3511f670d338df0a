"""Entities: the things that features describe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from features.checks import check_dtypes, check_is
from features.errors import DefinitionError

DataType = pl.DataType | type[pl.DataType]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


def check_name(kind: str, name: str) -> None:
    """Refuse a name that could not be a column, a folder and half of a reference.

    >>> check_name("feature group", "../etc")
    Traceback (most recent call last):
    features.errors.DefinitionError: feature group '../etc': a name is lower case letters, digits \
and single underscores, starting with a letter, at most 63 characters
    """
    check_is(kind, "name", name, str, "'card'")
    if not _NAME.fullmatch(name) or "__" in name:
        rule = (
            "a name is lower case letters, digits and single underscores, starting with a letter, at most 63 characters"
        )
        raise DefinitionError(f"{kind} {name!r}: {rule}")


@dataclass(frozen=True, eq=False)
class Entity:
    """A kind of thing that features describe, known by one or more key columns.

    >>> Entity("wafer", keys={"lot_id": pl.String, "wafer_id": pl.String}).key_names
    ['lot_id', 'wafer_id']
    """

    name: str
    keys: Mapping[str, DataType]
    description: str = ""

    def __post_init__(self) -> None:
        check_name("entity", self.name)
        check_dtypes(f"entity {self.name!r}", "keys", self.keys)
        if not self.keys:
            raise DefinitionError(f"entity {self.name!r} has no keys: name at least one key column")

    @property
    def key_names(self) -> list[str]:
        """The key columns, in declared order."""
        return list(self.keys)
