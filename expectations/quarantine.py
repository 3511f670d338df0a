"""Quarantine rows: each rejected row once, as it came, with all its reasons."""

from __future__ import annotations

import polars as pl

from expectations.result import Severity, Split
from features.entity import DataType

RULES = "_rules"
SEVERITY = "_severity"
REASONS: dict[str, DataType] = {RULES: pl.List(pl.String), SEVERITY: pl.String()}
"""What a quarantined row carries besides its own columns."""


def split(batch: pl.DataFrame, broken: pl.DataFrame, severities: pl.DataFrame, by: str) -> Split:
    """Split a batch into the rows that break no rule and those that do, with their reasons, in order.

    ``broken`` has, for each row of the batch, its file in the column ``by`` and a Boolean per rule that
    rejects; ``severities`` says how severe a rule's failures are in a file: file, rule, severity (number).
    """
    rules = [column for column in broken.columns if column != by]
    bad = broken.select(by, bad=pl.any_horizontal(pl.lit(value=False), *rules))["bad"]
    reasons = _reasons(broken.filter(bad), rules, severities, by)
    valid = batch.filter(~bad) if bad.any() else batch  # the common case, without copying
    return Split(valid, pl.concat([batch.filter(bad), reasons], how="horizontal"))


def _reasons(broken: pl.DataFrame, rules: list[str], severities: pl.DataFrame, by: str) -> pl.DataFrame:
    """For rows that break at least one rule: which ones, and the worst of their severities."""
    wide = severities.pivot("rule", index="file", values="severity").rename(lambda name: f"severity of {name}")
    ranked = broken.join(wide, left_on=by, right_on="severity of file", how="left", maintain_order="left")
    known = [rule for rule in rules if f"severity of {rule}" in wide.columns]
    ranks = [pl.when(rule).then(f"severity of {rule}") for rule in known]
    worst = pl.max_horizontal(pl.lit(None, pl.Int64), *ranks)
    labels = {severity.value: severity.label for severity in Severity}
    names = [pl.when(rule).then(pl.lit(rule)) for rule in rules]
    return ranked.select(
        pl.concat_list(pl.lit(None, pl.String), *names).list.drop_nulls().alias(RULES),
        worst.replace_strict(labels, default=None, return_dtype=pl.String).alias(SEVERITY),
        by,
    ).drop(by)
