"""The gate: one batch of rows from several files in, a verdict for each file and the split rows out.

Great Expectations judges the whole batch once; Polars masks made from the same rules say which rows of
which file failed. The two must agree to the last row: where they do not, or a rule cannot be judged at
all, nothing of the batch passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from expectations.engine import Outcome, judge_rows, judge_schema
from expectations.groups import Member, judge_groups
from expectations.masks import Masks, Prepared, mask, prepare, row_findings
from expectations.quarantine import split
from expectations.result import BatchVerdict, FileVerdict, Finding, Severity, Split
from expectations.rules import RowRule, SchemaRule, Suite
from features.errors import InvalidInput
from features.source import FILE_SHA256


@dataclass(frozen=True)
class Table:
    """The rows of a batch that one suite judges.

    ``files`` are the files the batch was made of, so that one without any row is not overlooked. Rows
    ``beside`` were decided before: they count in the rules over groups, and nothing else is said of them.
    """

    suite: Suite
    rows: pl.DataFrame
    files: Iterable[str] = ()
    beside: pl.DataFrame | None = None


def validate(suite: Suite, batch: pl.DataFrame, by: str = FILE_SHA256, files: Iterable[str] = ()) -> BatchVerdict:
    """Judge the rows of a batch against a suite, file by file: `validate_together` for a table by itself."""
    return validate_together([Table(suite, batch, files)], by)[0]


def validate_together(tables: Sequence[Table], by: str = FILE_SHA256) -> list[BatchVerdict]:
    """Judge tables that the same files delivered, file by file; rules over groups look at all of them.

    ``by`` names the column with the file of each row. Rows of blocked files are on neither side of the
    split. Raises InvalidInput where a row has no file.
    """
    members = []
    for table in tables:
        for rows in (table.rows, *(() if table.beside is None else (table.beside,))):
            if by not in rows.columns or rows[by].null_count():
                raise InvalidInput(
                    f"suite {table.suite.name!r}: column {by!r} must name the file of every row; fill it"
                )
        beside = None if table.beside is None else prepare(table.suite, table.beside, by)
        members.append(Member(table.suite, prepare(table.suite, table.rows, by), beside))
    return [_judge(table, rows, by) for table, rows in zip(tables, judge_groups(members, by), strict=True)]


def _judge(table: Table, prepared: Prepared, by: str) -> BatchVerdict:
    suite, batch = table.suite, table.rows
    masks = mask(suite, prepared, by)
    general = _schema_findings(suite, batch)
    general += [_empty(suite)] if batch.is_empty() else _disputes(suite, masks, judge_rows(suite, prepared.rows))
    rows = _rows_per_file(batch, by)
    found = {file: [*general] for file in [*rows, *table.files]}
    own = list(row_findings(suite, masks.counts))
    if not batch.is_empty():
        own += [(file, _empty(suite)) for file in found if file not in rows]
    for file, finding in own:
        found[file].append(finding)
    blocked = [file for file, findings in found.items() if any(f.severity is Severity.CRITICAL for f in findings)]
    parted = _part(suite, batch, masks, own, blocked, by)
    rejected = _rows_per_file(parted.rejected, by)
    verdicts = {
        file: FileVerdict(tuple(findings), rows.get(file, 0), rejected.get(file, 0)) for file, findings in found.items()
    }
    return BatchVerdict(verdicts, tuple(general), parted)


def _part(
    suite: Suite, batch: pl.DataFrame, masks: Masks, own: Iterable[tuple[str, Finding]], blocked: list[str], by: str
) -> Split:
    """Split the rows of the files that are not blocked by the rules that reject."""
    rejecting = [rule.name for rule in suite.rows if rule.rejects and rule.name not in masks.errors]
    broken = masks.broken.select(by, *rejecting)
    if blocked:
        lands = ~batch[by].is_in(blocked)
        batch, broken = batch.filter(lands), broken.filter(lands)
    ranks = [(file, finding.rule, finding.severity.value) for file, finding in own]
    severities = pl.DataFrame(ranks, schema={"file": pl.String, "rule": pl.String, "severity": pl.Int64}, orient="row")
    return split(batch, broken, severities, by)


def _schema_findings(suite: Suite, batch: pl.DataFrame) -> list[Finding]:
    """What the table's columns break, and where the executors disagree about it."""
    outcomes = judge_schema(suite, batch.schema)
    findings = []
    for rule in suite.schema:
        holds = rule.holds(batch.schema)
        outcome = outcomes.get(rule.name, Outcome(holds))
        if outcome.error is not None:
            findings.append(_unjudged(rule, rule.column, outcome.error))
        elif outcome.success != holds:
            findings.append(_unjudged(rule, rule.column, f"GX says {outcome.success}, the schema says {holds}"))
        elif not holds:
            findings.append(Finding(rule.name, rule.severity, rule.column, 0, 0, rule.complaint))
    return findings


def _disputes(suite: Suite, masks: Masks, outcomes: Mapping[str, Outcome]) -> list[Finding]:
    """The row rules that could not be judged, or on which GX and the masks disagree."""
    totals = masks.totals()
    findings = []
    for rule in suite.rows:
        outcome = outcomes[rule.name]
        if error := masks.errors.get(rule.name) or outcome.error:
            findings.append(_unjudged(rule, rule.target, error))
        elif totals[rule.name] != (outcome.failed, outcome.checked):
            says = f"GX finds {outcome.failed} of {outcome.checked} bad, the row masks {totals[rule.name]}"
            findings.append(_unjudged(rule, rule.target, says))
    return findings


def _unjudged(rule: SchemaRule | RowRule, column: str, reason: str) -> Finding:
    message = f"rule {rule.name!r} could not be judged, so nothing passes: {reason}"
    return Finding(rule.name, Severity.CRITICAL, column, 0, 0, message)


def _empty(suite: Suite) -> Finding:
    return Finding("not_empty", suite.empty, None, 0, 0, f"there is no row of {suite.name}")


def _rows_per_file(rows: pl.DataFrame, by: str) -> dict[str, int]:
    return dict(rows.select(by).group_by(by, maintain_order=True).len().iter_rows())
