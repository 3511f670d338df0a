"""Where definitions stand: which versions of each group were applied, and which groups are held.

Read from the two append-only logs of the registry; nothing in them is ever taken back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from features.description import Description
from features.feature_group import FeatureGroup
from features.registry import Registry, version_parts


@dataclass(frozen=True)
class AppliedVersion:
    """A definition as it was applied; ``definition`` is its description as JSON."""

    name: str
    version: str
    fingerprint: str
    definition: str
    applied_at: datetime
    applied_by: str | None

    @property
    def major(self) -> int:
        """The major version."""
        return version_parts(self.version)[0]

    @property
    def description(self) -> Description:
        """What ``features.description.describe_group`` said of it."""
        found: Description = json.loads(self.definition)
        return found


@dataclass(frozen=True)
class Hold:
    """That a group is held at a version since a rollback.

    ``number`` counts the holds and releases of the group. ``frozen`` says that the version is not the
    newest of its major, so that no code could go on writing its table; otherwise only newer majors stand
    still.
    """

    name: str
    number: int
    version: str
    frozen: bool
    at: datetime
    by: str

    @property
    def major(self) -> int:
        """The major version at which the group is held."""
        return version_parts(self.version)[0]

    def stops(self, group: FeatureGroup) -> bool:
        """Whether no run may write the group's table."""
        if group.major == self.major:
            return self.frozen or group.version != self.version
        return group.major > self.major

    def __str__(self) -> str:
        return f"held at {self.version} since {self.at:%F %T} UTC by {self.by}"


class Standing:
    """The applied versions and the holds as of one moment."""

    def __init__(self, definitions: pl.DataFrame, holds: pl.DataFrame) -> None:
        columns = ["name", "version", "fingerprint", "definition", "applied_at", "applied_by"]
        self._applied: dict[str, list[AppliedVersion]] = {}
        for row in definitions.select(columns).iter_rows():
            self._applied.setdefault(row[0], []).append(AppliedVersion(*row))
        for versions in self._applied.values():
            versions.sort(key=lambda applied: version_parts(applied.version))
        newest = holds.sort("number").unique("name", keep="last").sort("name")
        self.numbers: Mapping[str, int] = dict(newest.select("name", "number").iter_rows())
        held = newest.filter(pl.col("version").is_not_null())
        rows = held.select("name", "number", "version", "frozen", "at", "by").iter_rows()
        self.holds: Mapping[str, Hold] = {row[0]: Hold(*row) for row in rows}

    def versions(self, name: str, major: int | None = None) -> Sequence[AppliedVersion]:
        """The applied versions of a group (of one major), lowest first."""
        found = self._applied.get(name, [])
        return found if major is None else [applied for applied in found if applied.major == major]

    def find(self, name: str, version: str) -> AppliedVersion | None:
        """The definition that was applied as this version."""
        return next((applied for applied in self.versions(name) if applied.version == version), None)

    def newest(self, group: FeatureGroup) -> AppliedVersion | None:
        """The newest applied version of the group's major."""
        return next(iter(reversed(self.versions(group.name, group.major))), None)

    def served(self, group: FeatureGroup) -> AppliedVersion | None:
        """The version that readers of the group's major are answered by: the one it is held at, else the newest."""
        hold = self.holds.get(group.name)
        if hold is not None and hold.major == group.major:
            return self.find(group.name, hold.version)
        return self.newest(group)

    def majors(self, registry: Registry) -> dict[str, int]:
        """What the bare names of groups mean: the major they are held at, else the newest applied one.

        Left out are names of which nothing was applied that the registry defines.
        """
        found = {}
        for name in {group.name for group in registry.groups.values()}:
            defined = {group.major for group in registry.majors(name)}
            hold = self.holds.get(name)
            applied = [applied.major for applied in self.versions(name) if applied.major in defined]
            if hold is not None and hold.major in defined:
                found[name] = hold.major
            elif applied:
                found[name] = max(applied)
        return found
