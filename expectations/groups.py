"""Rules over groups of rows: a group that is bad as a whole is rejected as a whole, in every table.

What such a rule says of a group is computed once, from all tables that are judged together, into a Boolean
column of each of them; from there on it is checked like any other column, by both executors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from expectations.masks import Prepared
from expectations.result import Severity
from expectations.rules import Between, RowRule, Suite


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupInRange(RowRule):
    """Of a group's units no more than a share is out of range; else every row of the group breaks the rule.

    ``group`` are the columns that name a group within a file; where the last of them is null, a row belongs to
    none and is not checked. ``unit`` is the column that names a unit of a group (a wafer's part). A unit is out of
    range that breaks a Between above LOW in any of the tables judged together whose suites have this rule.
    Tables without the unit's column share in the outcome alone. A share of exactly ``share`` is allowed.
    """

    group: Sequence[str]
    unit: str
    share: float
    severity: Severity = Severity.HIGH
    tolerance: float | None = None

    @property
    def target(self) -> str:
        """The Boolean column that holds whether the row's group is in range."""
        return f"rule:{self.name}"

    @property
    def columns(self) -> list[str]:
        """The columns that name the group and its units, and the outcome's."""
        return [*self.group, self.unit, self.target]

    def broken(self) -> pl.Expr:
        """True where the group is not in range."""
        return ~pl.col(self.target)

    @property
    def complaint(self) -> str:
        """What is wrong with a bad row."""
        return f"more than {self.share:.0%} of {self.unit!r} per {self.group[-1]!r} are out of range"


def group_rules(suite: Suite) -> dict[str, GroupInRange]:
    """The rules of a suite that look at groups, by name."""
    return {rule.name: rule for rule in suite.rows if isinstance(rule, GroupInRange)}


@dataclass(frozen=True)
class Member:
    """A table that is judged together with others; rows ``beside`` only count in the groups."""

    suite: Suite
    prepared: Prepared
    beside: Prepared | None = None

    def units(self, rule: GroupInRange, by: str) -> pl.LazyFrame | None:
        """File, group and unit of each row that has them, and whether it is ``out``; None without the unit's column."""
        if rule.unit not in self.prepared.rows.columns:
            return None
        ranges = [r.failing() for r in self.suite.rows if isinstance(r, Between) and r.rejects]
        parts = [self.prepared] if self.beside is None else [self.prepared, self.beside]
        rows = pl.concat(part.rows.lazy() for part in parts).drop_nulls([rule.group[-1], rule.unit])
        return rows.select(by, *rule.group, rule.unit, out=pl.any_horizontal(pl.lit(value=False), *ranges))


def judge_groups(members: Sequence[Member], by: str) -> list[Prepared]:
    """The prepared rows of each table with the outcome of its rules over groups; ``by`` is the column with the file.

    A rule that cannot be computed leaves no column, and says why in ``errors``.
    """
    prepared = [member.prepared for member in members]
    for rule in {name: rule for member in members for name, rule in group_rules(member.suite).items()}.values():
        sharing = [i for i, member in enumerate(members) if rule.name in group_rules(member.suite)]
        try:
            refused = _refused(rule, [members[i] for i in sharing], by)
            outcomes = [replace(prepared[i], rows=_marked(rule, prepared[i].rows, refused, by)) for i in sharing]
        except pl.exceptions.PolarsError as error:
            why = {rule.target: str(error).splitlines()[0]}
            outcomes = [replace(prepared[i], errors={**prepared[i].errors, **why}) for i in sharing]
        for i, outcome in zip(sharing, outcomes, strict=True):
            prepared[i] = outcome
    return prepared


def _refused(rule: GroupInRange, members: Sequence[Member], by: str) -> pl.DataFrame:
    """The file and name of each group of which more than the share of the units is out of range."""
    group = [by, *rule.group]
    units = [frame for member in members if (frame := member.units(rule, by)) is not None]
    if not units:
        return members[0].prepared.rows.select(group).clear()
    out = pl.concat(frame.filter("out").drop("out") for frame in units).unique().collect()
    suspects = out.group_by(group).agg(pl.len().alias("out"))
    if suspects.is_empty():  # mostly so, and to count the parts of a million results takes its time
        return suspects.select(group)
    both = [frame.drop("out").join(suspects.lazy(), on=group, how="semi", nulls_equal=True) for frame in units]
    counts = pl.concat(both).unique().group_by(group).agg(pl.len().alias("all")).collect()
    shares = suspects.join(counts, on=group, nulls_equal=True)
    return shares.filter(pl.col("out") / pl.col("all") > rule.share).select(group)


def _marked(rule: GroupInRange, rows: pl.DataFrame, refused: pl.DataFrame, by: str) -> pl.DataFrame:
    """The rows with the rule's outcome, null for those of no group."""
    named = pl.col(rule.group[-1]).is_not_null()
    if refused.is_empty():
        return rows.with_columns(pl.when(named).then(pl.lit(value=True)).alias(rule.target))
    verdicts = refused.with_columns(pl.lit(value=False).alias(rule.target))
    joined = rows.join(verdicts, on=[by, *rule.group], how="left", nulls_equal=True, maintain_order="left")
    in_range = pl.col(rule.target).fill_null(value=True)
    return joined.with_columns(pl.when(named).then(in_range).alias(rule.target))
