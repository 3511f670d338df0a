"""Great Expectations as the judge of a batch: our rules as GX suites, run on our Polars engine in memory.

Judging writes nothing to disk and sends nothing anywhere: the context is ephemeral, without data docs,
analytics or progress bars. GX knows three severities, so ours travels in each expectation's ``meta``.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, singledispatch
from pathlib import Path
from typing import Any

import great_expectations as gx
import polars as pl
from great_expectations.core.expectation_validation_result import ExpectationValidationResult
from great_expectations.data_context.data_context.ephemeral_data_context import EphemeralDataContext
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.expectations.core.expect_column_to_exist import ExpectColumnToExist
from great_expectations.expectations.core.expect_column_values_to_be_between import ExpectColumnValuesToBeBetween
from great_expectations.expectations.core.expect_column_values_to_be_in_set import ExpectColumnValuesToBeInSet
from great_expectations.expectations.core.expect_column_values_to_not_be_null import ExpectColumnValuesToNotBeNull
from great_expectations.expectations.core.expect_compound_columns_to_be_unique import ExpectCompoundColumnsToBeUnique
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.row_conditions import AndCondition, Column, Condition

from expectations.groups import GroupInRange
from expectations.polars_engine.column_type import ExpectColumnPolarsTypeToBe
from expectations.polars_engine.registration import register
from expectations.result import Severity
from expectations.rules import (
    Between,
    ColumnPresent,
    Expression,
    HasType,
    InSet,
    NotNull,
    RowRule,
    SchemaRule,
    Suite,
    Unique,
)
from features.entity import DataType
from features.errors import DefinitionError

_GX_SEVERITY = {
    Severity.LOW: "info",
    Severity.MEDIUM: "warning",
    Severity.HIGH: "warning",
    Severity.CRITICAL: "critical",
}
# Counts without examples: the examples are in quarantine, all of them.
_COUNTS = {"result_format": "BASIC", "partial_unexpected_count": 0}
# GX keeps track of the batches of a context in shared dictionaries.
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Outcome:
    """What GX says about one rule over a batch; ``error`` is set where it could not be judged."""

    success: bool
    failed: int = 0
    checked: int = 0
    error: str | None = None


def gx_suite(suite: Suite) -> gx.ExpectationSuite:
    """The whole suite as a Great Expectations suite.

    An expression is a set expectation on the Boolean column of its outcome.
    """
    return _gx_suite(suite.name, [*suite.schema, *suite.rows])


def save_suites(suites: Iterable[Suite], folder: Path) -> list[Path]:
    """Write suites as Great Expectations keeps them, a JSON file named after each; returns the files.

    A file context reads them from the folder ``gx/expectations`` of its project, once ``register()`` was called.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for suite in suites:
        files.append(folder / f"{suite.name}.json")
        files[-1].write_text(json.dumps(gx_suite(suite).to_json_dict(), indent=2) + "\n", "utf-8")
    return files


def judge_schema(suite: Suite, schema: Mapping[str, DataType]) -> Mapping[str, Outcome]:
    """GX's outcome of every schema rule, by rule name, for a table of that schema.

    The type of a column that is missing is not judged: that it is missing is another rule's finding.
    """
    return _judge_schema(suite, tuple(schema.items()))


def judge_rows(suite: Suite, rows: pl.DataFrame) -> dict[str, Outcome]:
    """GX's outcome of every row rule, by rule name; ``rows`` have the rules' columns (see ``gate``)."""
    there = [rule for rule in suite.rows if not rule.where or set(rule.columns) <= set(rows.columns)]
    absent = {
        rule.name: Outcome(success=False, error=f"it needs the columns {rule.columns}")
        for rule in suite.rows
        if rule not in there
    }
    return absent | _run(suite.name, there, rows)


@singledispatch
def expectation(rule: object) -> Expectation:
    """One rule as a Great Expectations expectation."""
    raise DefinitionError(f"rule {rule!r} has no Great Expectations form: add one to expectations.engine")


@expectation.register
def _(rule: ColumnPresent) -> Expectation:
    return ExpectColumnToExist(column=rule.column, **_labels(rule))


@expectation.register
def _(rule: HasType) -> Expectation:
    return ExpectColumnPolarsTypeToBe(column=rule.column, type_=str(rule.dtype), **_labels(rule))


@expectation.register
def _(rule: NotNull) -> Expectation:
    return ExpectColumnValuesToNotBeNull(column=rule.column, **_labels(rule), **_condition(rule))


@expectation.register
def _(rule: Between) -> Expectation:
    return ExpectColumnValuesToBeBetween(
        column=rule.column, min_value=rule.low, max_value=rule.high, **_labels(rule), **_condition(rule)
    )


@expectation.register
def _(rule: InSet) -> Expectation:
    return ExpectColumnValuesToBeInSet(
        column=rule.column, value_set=list(rule.values), **_labels(rule), **_condition(rule)
    )


@expectation.register
def _(rule: Unique) -> Expectation:
    return ExpectCompoundColumnsToBeUnique(
        column_list=list(rule.among), ignore_row_if="never", **_labels(rule), **_condition(rule)
    )


@expectation.register
def _(rule: Expression) -> Expectation:
    return ExpectColumnValuesToBeInSet(
        column=rule.target, value_set=[True], description=str(rule.ok), **_labels(rule), **_condition(rule)
    )


@expectation.register
def _(rule: GroupInRange) -> Expectation:
    return ExpectColumnValuesToBeInSet(column=rule.target, value_set=[True], **_labels(rule), **_condition(rule))


def _labels(rule: SchemaRule | RowRule) -> dict[str, Any]:
    meta: dict[str, Any] = {"rule": rule.name, "severity": rule.severity.label}
    if isinstance(rule, RowRule):
        meta["tolerance"] = rule.tolerance
    if isinstance(rule, Between) and rule.unit:
        meta["unit"] = rule.unit
    return {"meta": meta, "severity": _GX_SEVERITY[rule.severity]}


def _condition(rule: RowRule) -> dict[str, Any]:
    terms: list[Condition] = [Column(column) == value for column, value in rule.where.items()]
    if not terms:
        return {}
    return {"row_condition": terms[0] if len(terms) == 1 else AndCondition(conditions=terms)}


def _gx_suite(name: str, rules: Sequence[SchemaRule | RowRule]) -> gx.ExpectationSuite:
    return gx.ExpectationSuite(name=name, expectations=[expectation(rule) for rule in rules])


# Batch after batch has the same schema, and GX takes longer over it than over 100,000 rows.
@lru_cache(maxsize=256)
def _judge_schema(suite: Suite, columns: tuple[tuple[str, DataType], ...]) -> Mapping[str, Outcome]:
    table = pl.DataFrame(schema=dict(columns))
    rules = [rule for rule in suite.schema if isinstance(rule, ColumnPresent) or rule.column in table.columns]
    return _run(suite.name, rules, table)


@cache
def gx_context() -> EphemeralDataContext:
    """The context of this process, whose ``data_sources`` have ``add_polars``."""
    register()
    # init_temp_docs_sites would make a temporary folder for data docs.
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    return gx.get_context(mode="ephemeral", project_config=config)


def _run(name: str, rules: Sequence[SchemaRule | RowRule], table: pl.DataFrame) -> dict[str, Outcome]:
    """Run rules over a table, in a data source of its own so that the table is released with it."""
    if not rules:
        return {}
    suite = _gx_suite(name, rules)
    with _LOCK:
        context, source = gx_context(), f"{name}-{uuid.uuid4().hex}"
        try:
            asset = context.data_sources.add_polars(source).add_dataframe_asset(name)
            batch = asset.add_batch_definition_whole_dataframe(name).get_batch({"dataframe": table})
            results = batch.validate(suite, result_format=_COUNTS).results
        finally:
            context.data_sources.delete(source)
    return {result.expectation_config.meta["rule"]: _outcome(result) for result in results if result.expectation_config}


def _outcome(result: ExpectationValidationResult) -> Outcome:
    info = result.exception_info or {}
    # Either one exception, or one for each metric under the metric's id.
    raised = [e for e in (info, *info.values()) if isinstance(e, dict) and e.get("raised_exception")]
    if raised:
        return Outcome(success=False, error=str(raised[0]["exception_message"]).splitlines()[0])
    counts = result.result
    checked = counts.get("element_count", 0) - (counts.get("missing_count") or 0)
    return Outcome(bool(result.success), counts.get("unexpected_count", 0), checked)
