"""The second executor: the row rules as Polars masks, which say which rows of which file are bad."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import polars.selectors as cs

from expectations.result import Finding
from expectations.rules import RowRule, Suite, Unique

_NARROW = cs.by_dtype(pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt16, pl.UInt32)


@dataclass(frozen=True)
class Prepared:
    """The file of each row and the columns that the row rules look at.

    ``errors`` says why a computed column is lacking, by its name.
    """

    rows: pl.DataFrame
    errors: Mapping[str, str]


@dataclass(frozen=True)
class Masks:
    """The row rules of a suite over a batch.

    ``broken`` has the file of each row and a Boolean column for each rule, true where the row breaks it;
    ``counts`` has a row per file and rule: file, rule, failed, checked. ``errors`` says why a rule could
    not be judged; such a rule is in neither.
    """

    broken: pl.DataFrame
    counts: pl.DataFrame
    errors: Mapping[str, str]

    def totals(self) -> dict[str, tuple[int, int]]:
        """Failed and checked values of the whole batch, by rule."""
        sums = self.counts.group_by("rule").agg(pl.sum("failed", "checked"))
        return {rule: (failed, checked) for rule, failed, checked in sums.iter_rows()}


def prepare(suite: Suite, batch: pl.DataFrame, by: str) -> Prepared:
    """Compute what the row rules look at.

    NaN becomes null and numbers get wide types (``looked_at``), so that both executors compare the same values.
    """
    needed = dict.fromkeys([by, *(column for rule in suite.rows for column in rule.columns)])
    computed, errors = suite.computed, dict[str, str]()
    try:
        rows = looked_at(computed, batch.lazy(), needed).collect()
    except pl.exceptions.PolarsError:
        # One of them raised: find out which, and go on with the others.
        errors = {name: why for name, expr in computed.items() if (why := _refusal(name, expr, batch))}
        sound = {name: expr for name, expr in computed.items() if name not in errors}
        rows = looked_at(sound, batch.lazy(), needed).collect()
    return Prepared(rows, errors)


def looked_at(computed: Mapping[str, pl.Expr], rows: pl.LazyFrame, needed: Iterable[str]) -> pl.LazyFrame:
    """The needed columns as row rules see them: computed ones made, NaN null, numbers wide."""
    wide = [cs.float().cast(pl.Float64).fill_nan(None), _NARROW.cast(pl.Int64)]
    rows = rows.with_columns(expr.alias(name) for name, expr in computed.items())
    return rows.select(cs.by_name(*needed, require_all=False)).with_columns(wide)


def mask(suite: Suite, prepared: Prepared, by: str) -> Masks:
    """Apply the row rules and count their failures per file; ``by`` is the column with the file."""
    errors = {
        rule.name: prepared.errors[column]
        for rule in suite.rows
        for column in rule.columns
        if column in prepared.errors
    }
    rules = [rule for rule in suite.rows if rule.name not in errors]
    try:
        broken, checked = _apply(rules, prepared.rows, by)
    except pl.exceptions.PolarsError:
        # One of them raised: find out which, and judge the others.
        errors |= {rule.name: reason for rule in rules if (reason := _complaint(rule, prepared.rows, by))}
        rules = [rule for rule in rules if rule.name not in errors]
        broken, checked = _apply(rules, prepared.rows, by)
    counts = _per_file(broken, by, "failed").with_columns(_per_file(checked, by, "checked")["checked"])
    return Masks(broken, counts, errors)


def row_findings(suite: Suite, counts: pl.DataFrame) -> Iterator[tuple[str, Finding]]:
    """The failures of each file, rule by rule, from ``counts`` as in Masks."""
    rules = {rule.name: rule for rule in suite.rows}
    for file, name, failed, checked in counts.filter(pl.col("failed") > 0).iter_rows():
        rule = rules[name]
        message = f"{name}: {rule.complaint} in {failed:,} of {checked:,} rows ({failed / checked:.1%})"
        yield file, Finding(name, rule.judge(failed, checked), rule.target, failed, checked, message)


def _refusal(name: str, expr: pl.Expr, batch: pl.DataFrame) -> str | None:
    try:
        looked_at({name: expr}, batch.lazy(), [name]).collect()
    except pl.exceptions.PolarsError as error:
        return _first_line(error)
    return None


def _apply(rules: Sequence[RowRule], rows: pl.DataFrame, by: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    # Not as a lazy frame: the streaming engine takes several times as long over rules that look at several rows.
    broken = rows.select(by, *(_failing(rule, rows).alias(rule.name) for rule in rules))
    checked = rows.select(by, *(rule.checked().alias(rule.name) for rule in rules))
    return broken, checked


def _failing(rule: RowRule, rows: pl.DataFrame) -> pl.Expr:
    """Which rows break a rule. Equal rows have equal hashes: where these all differ, no row needs comparing."""
    if isinstance(rule, Unique) and rows.select(rule.among).hash_rows().n_unique() == rows.height:
        return pl.lit(value=False)
    return rule.failing()


def _complaint(rule: RowRule, rows: pl.DataFrame, by: str) -> str | None:
    try:
        _apply([rule], rows, by)
    except pl.exceptions.PolarsError as error:
        return _first_line(error)
    return None


def _per_file(masks: pl.DataFrame, by: str, name: str) -> pl.DataFrame:
    sums = masks.group_by(by, maintain_order=True).agg(pl.all().sum())
    return sums.rename({by: "file"}).unpivot(index="file", variable_name="rule", value_name=name)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
