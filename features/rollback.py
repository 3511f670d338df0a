"""Rollback and release: a group back at an earlier version, and on again from where it was.

A rollback holds the group first, so that no run undoes it, then appends and publishes; a release appends and
publishes first, then lifts the hold. Killed in between, either is finished by calling it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from features.capacity import Capacity
from features.errors import DefinitionError, InvalidInput, NotRegistered
from features.feature_group import FeatureGroup
from features.intervals import DAY, cut
from features.registry import Registry, version_parts
from features.reinstatement import RELEASE, ROLLBACK, THROUGH, WITHOUT
from features.runs import PUSH, Progress, Runs
from features.standing import AppliedVersion, Hold, Standing
from features.stores import FeatureTable, OfflineStore, Plan, TableState
from features.sync import Syncer
from features.times import EPOCH as BEGINNING
from features.versions import Versions

_HELD = "held"
_RELEASED = "released"


@dataclass(frozen=True)
class Reinstated:
    """What a rollback or release did: the version now served, rows appended, their plan, since when online.

    ``plan`` is None where nothing was to be written: the group was not held, or only which major its name
    means has changed.
    """

    group: str
    version: str
    rows: int
    plan: int | None
    published_at: datetime | None


class Rollbacks:
    """Takes groups back to applied versions, and releases them."""

    def __init__(
        self,
        registry: Registry,
        offline: OfflineStore,
        versions: Versions,
        runs: Runs,
        syncer: Syncer,
        capacity: Capacity,
    ) -> None:
        self._registry = registry
        self._offline = offline
        self._versions = versions
        self._runs = runs
        self._syncer = syncer
        self._capacity = capacity

    def rollback(self, name: str, version: str, progress: Progress | None = None) -> Reinstated:
        """Take a group back to an applied version and hold it there.

        Raises InvalidInput where that version was never applied, is the newest one, or never wrote a row,
        and NotRegistered where the code does not define its major any more.
        """
        target = self._target(name, version)
        group = self._registry.group(f"{name}@{target.major}")
        newest = self._versions.standing().newest(group)
        frozen = newest is None or newest.version != version
        table = self._table(group) if frozen else None
        through = self._last_plan(group, table, target) if table is not None else 0
        standing = self._versions.standing()
        hold = standing.holds.get(name)
        if hold is None or hold.version != version:
            self._versions.record_hold(name, version, standing.numbers.get(name, 0) + 1, frozen=frozen)
            hold = self._versions.hold(name)
        assert hold is not None  # recorded now or before
        if table is None:
            return Reinstated(name, version, 0, None, None)
        rows, plan = self._reinstate(group, table, ROLLBACK, _HELD, hold, {THROUGH: through}, progress)
        return Reinstated(name, version, rows, plan, self._publish(group))

    def release(self, name: str, progress: Progress | None = None) -> Reinstated:
        """Put back what the group's entities were answered before the rollback, and let runs go on.

        A group that is not held is left as it is. Raises NotRegistered for an unknown group.
        """
        self._registry.group(name)
        hold = self._versions.hold(name)
        rows, plan, published_at = 0, None, None
        if hold is not None:
            group = self._registry.group(f"{name}@{hold.major}")
            if hold.frozen and (table := self._table(group)) is not None:
                undone = {WITHOUT: self._rollbacks(table, hold)}
                rows, plan = self._reinstate(group, table, RELEASE, _RELEASED, hold, undone, progress)
                published_at = self._publish(group)
            self._versions.record_hold(name, None, hold.number + 1)
        current = self._versions.current().group(name)
        newest = self._versions.standing().newest(current)
        return Reinstated(name, current.version if newest is None else newest.version, rows, plan, published_at)

    def _target(self, name: str, version: str) -> AppliedVersion:
        """The applied definition to go back to."""
        standing = self._versions.standing()
        applied = standing.versions(name)
        target, hold = standing.find(name, version), standing.holds.get(name)
        if target is None:
            self._registry.group(name)  # an unknown name is another error
            there = ", ".join(found.version for found in applied) or "none"
            raise InvalidInput(f"feature group {name!r}: version {version!r} was never applied; there are: {there}")
        if applied[-1].version == version:
            remedy = "there is nothing to go back to" if hold is None else "release the group to return to it"
            raise InvalidInput(f"feature group {name!r}: {version} is the newest applied version: {remedy}")
        if hold is not None and hold.version != version and not _further(hold, target, standing):
            raise InvalidInput(f"feature group {name!r} is {hold}: release it before it goes to another major")
        if not any(group.major == target.major for group in self._registry.majors(name)):
            raise NotRegistered(
                f"feature group {name!r}: the code defines no major {target.major}: put its definition back"
            )
        return target

    def _table(self, group: FeatureGroup) -> FeatureTable | None:
        return self._runs.table(group) if self._offline.has_feature_table(group.table_id) else None

    def _last_plan(self, group: FeatureGroup, table: FeatureTable, target: AppliedVersion) -> int:
        """The last plan that the target version wrote or, where it wrote none, one before it did.

        Pushes that were folded after it, before a later version computed anything, count too.
        """
        until = version_parts(target.version)
        applied = self._versions.standing().versions(group.name, group.major)
        earlier = [found.version for found in applied if version_parts(found.version) <= until]
        last = max(table.newest_plan("version", version) for version in earlier)
        if last == 0:
            raise InvalidInput(
                f"feature group {group.name!r}: no row was written as {target.version} or before, "
                f"so that there is nothing to go back to"
            )
        closed = table.state().closed
        while last < closed and table.plan(last + 1).kind == PUSH:
            last += 1
        return last

    def _rollbacks(self, table: FeatureTable, hold: Hold) -> list[int]:
        """The plans of the rollbacks since the group was last released, newest first."""
        released = max((table.newest_plan(_RELEASED, n) for n in range(1, hold.number)), default=0)
        done = {table.newest_plan(_HELD, number) for number in range(1, hold.number + 1)}
        return sorted((plan for plan in done if plan > released), reverse=True)

    def _reinstate(
        self,
        group: FeatureGroup,
        table: FeatureTable,
        kind: str,
        mark: str,
        hold: Hold,
        details: dict[str, Any],
        progress: Progress | None,
    ) -> tuple[int, int]:
        """Do the plan of a hold or release unless it was done; rows appended now and the plan's number."""
        rows = self._conclude(group, table, progress)
        if done := table.newest_plan(mark, hold.number):
            return rows, done
        state = self._runs.state(group, table)
        facts = {**details, mark: hold.number, "to": hold.version, "epoch": state.epoch + 1}
        stamp = self._runs.stamp(state, group)
        chunks = self._chunks(group, table, state)
        plan = Plan(state.opened + 1, kind, stamp, state.through, {}, chunks, facts)
        run = self._runs.run(group, table, plan, progress)
        return run.rows, run.plan or plan.number

    def _conclude(self, group: FeatureGroup, table: FeatureTable, progress: Progress | None) -> int:
        """Finish the open plan; one that cannot be computed (a reason to roll back) ends with what it wrote."""
        try:
            return self._runs.settle(group, table, progress)
        except (InvalidInput, DefinitionError):
            plan = table.unfinished()
            if plan is None or plan.kind in (ROLLBACK, RELEASE):
                raise
            self._runs.abandon(table, plan)
            return self._runs.settle(group, table, progress)

    def _chunks(self, group: FeatureGroup, table: FeatureTable, state: TableState) -> list[tuple[datetime, datetime]]:
        """All of time, cut at dates so that a chunk reads as many rows as fit."""
        days = table.days(state.version)
        last = days["event_date"][-1] if days.height else BEGINNING.date()
        end = datetime.combine(last, datetime.min.time(), BEGINNING.tzinfo) + DAY
        return cut(days, self._capacity.rows_of(group), BEGINNING, end)

    def _publish(self, group: FeatureGroup) -> datetime | None:
        return self._syncer.sync(group).published_at if group.online else None


def _further(hold: Hold, target: AppliedVersion, standing: Standing) -> bool:
    """Whether a held group can go on to another version of the same major, both earlier than its newest."""
    newest = standing.versions(hold.name, hold.major)[-1].version
    return hold.frozen and hold.major == target.major and target.version != newest
