"""The execution engine: rows from a LazyFrame, and everything asked about a domain in one ``collect``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import polars as pl
from great_expectations.core.batch import BatchMarkers
from great_expectations.core.batch_spec import RuntimeDataBatchSpec
from great_expectations.core.id_dict import BatchSpec
from great_expectations.core.metric_domain_types import MetricDomainTypes
from great_expectations.exceptions.exceptions import MetricResolutionError
from great_expectations.execution_engine.execution_engine import ExecutionEngine
from great_expectations.expectations.row_conditions import (
    AndCondition,
    ComparisonCondition,
    Condition,
    NullityCondition,
    Operator,
    OrCondition,
    PassThroughCondition,
    deserialize_row_condition,
)
from great_expectations.validator.metric_configuration import MetricConfiguration, MetricConfigurationID

from expectations.polars_engine.batch import ROW, PolarsBatchData, Query
from features.errors import DefinitionError, FeatureFabError, InvalidInput

_MISSING = {
    "both_values_are_missing": pl.all_horizontal,
    "all_values_are_missing": pl.all_horizontal,
    "either_value_is_missing": pl.any_horizontal,
    "any_value_is_missing": pl.any_horizontal,
}
_KEPT = ("neither", "never")
# What the data, a condition or an argument can raise; anything else is a mistake of ours.
_REFUSALS = (pl.exceptions.PolarsError, FeatureFabError, TypeError, ValueError)


class PolarsExecutionEngine(ExecutionEngine[pl.Expr]):
    """GX computes its metrics with Polars. Null and NaN are missing; a metric without a provider raises.

    The providers answer with queries, which ``resolve_metrics`` computes together, domain by domain.
    """

    def get_batch_data_and_markers(self, batch_spec: BatchSpec) -> tuple[PolarsBatchData, BatchMarkers]:
        """The frame of a batch, with the moment at which it was taken."""
        if not isinstance(batch_spec, RuntimeDataBatchSpec):
            raise InvalidInput(f"a Polars batch is a frame in memory, not {type(batch_spec).__name__}; give the frame")
        data = self._batch(batch_spec.batch_data)
        batch_spec.batch_data = "PolarsLazyFrame"
        return data, BatchMarkers({"ge_load_time": datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")})

    def load_batch_data(self, batch_id: str, batch_data: Any) -> None:
        """Keep a frame under the batch's id."""
        super().load_batch_data(batch_id, self._batch(batch_data))

    def batch(self, domain: Mapping[str, Any]) -> PolarsBatchData:
        """The batch that a domain belongs to."""
        if domain.get("table"):
            raise InvalidInput("the Polars engine knows no named tables; leave 'table' out")
        batch_id = domain.get("batch_id")
        data: Any = self.batch_manager.active_batch_data
        if batch_id is not None:
            data = self.batch_manager.batch_data_cache.get(batch_id)
        if data is None:
            raise InvalidInput(f"batch {batch_id!r} is not loaded; load it first")
        return self._batch(data)

    def get_domain_records(self, domain_kwargs: Mapping[str, Any]) -> pl.LazyFrame:
        """The rows of a domain: those that meet its condition and are not ignored for missing values."""
        rows = self._rows(domain_kwargs)
        columns = domain_kwargs.get("column_list") or [domain_kwargs.get(key) for key in ("column_A", "column_B")]
        if None in columns:
            return rows
        return rows.filter(considered(columns, domain_kwargs.get("ignore_row_if")))

    def get_compute_domain(
        self,
        domain_kwargs: dict[str, Any],
        domain_type: str | MetricDomainTypes,
        accessor_keys: Iterable[str] | None = None,
    ) -> tuple[pl.LazyFrame, dict[str, Any], dict[str, Any]]:
        """The rows of a domain, and its keywords parted in those about rows and those about columns."""
        parted = self._partition_domain_kwargs(domain_kwargs, domain_type, accessor_keys)
        return self.get_domain_records(domain_kwargs), parted.compute, parted.accessor

    def resolve_metrics(
        self,
        metrics_to_resolve: Iterable[MetricConfiguration],
        metrics: dict[MetricConfigurationID, Any] | None = None,
        runtime_configuration: dict[str, Any] | None = None,
    ) -> dict[MetricConfigurationID, Any]:
        """The values of metrics, those that need the data with one ``collect`` for each domain."""
        wanted = {metric.id: metric for metric in metrics_to_resolve}
        resolved = super().resolve_metrics(wanted.values(), metrics, runtime_configuration)
        queries = {key: answer for key, answer in resolved.items() if isinstance(answer, Query)}
        if not queries:
            return resolved
        try:
            return {**resolved, **self._answers(queries)}
        except _REFUSALS as error:
            why, failed = self._refused(queries) or (str(error), list(queries))
            raise MetricResolutionError(why, [wanted[key] for key in failed]) from error

    def resolve_metric_bundle(self, metric_fn_bundle: Iterable[Any]) -> dict[MetricConfigurationID, Any]:
        """Nothing: no metric of this engine is bundled by GX's own protocol."""
        del metric_fn_bundle
        return {}

    def _batch(self, data: Any) -> PolarsBatchData:
        if isinstance(data, PolarsBatchData):
            return data
        if isinstance(data, pl.DataFrame | pl.LazyFrame):
            return PolarsBatchData(self, data.lazy())
        raise InvalidInput(f"a Polars batch is a LazyFrame or DataFrame, not {type(data).__name__}; convert it")

    def _rows(self, domain: Mapping[str, Any], *, numbered: bool = False) -> pl.LazyFrame:
        frame = self.batch(domain).frame
        if numbered:
            frame = frame.with_row_index(ROW)
        condition = deserialize_row_condition(domain.get("row_condition"))
        return frame if condition is None else frame.filter(self.condition_to_filter_clause(_supported(condition)))

    def _answers(
        self, queries: Mapping[MetricConfigurationID, Query], rows: int | None = None
    ) -> dict[MetricConfigurationID, Any]:
        """The answers over all rows of each query's domain, or over its first ones."""
        together: dict[Any, dict[MetricConfigurationID, Query]] = {}
        for key, query in queries.items():
            together.setdefault(query.rows, {})[key] = query
        plans = [self._plan(list(group.values()), rows) for group in together.values()]
        answers: dict[MetricConfigurationID, Any] = {}
        for group, answer in zip(together.values(), pl.collect_all(plans), strict=True):
            values = (column.to_list()[0] for column in answer)
            answers |= {key: query.read(value) for (key, query), value in zip(group.items(), values, strict=True)}
        return answers

    def _plan(self, queries: list[Query], rows: int | None) -> pl.LazyFrame:
        numbered = any(ROW in query.value.meta.root_names() for query in queries)
        marks = {query.mark.name: query.mark.flags for query in queries if query.mark}
        frame = self._rows(queries[0].domain, numbered=numbered)
        if rows is not None:
            frame = frame.head(rows)
        return frame.with_columns(**marks).select(
            query.value.alias(str(number)) for number, query in enumerate(queries)
        )

    def _refused(
        self, queries: Mapping[MetricConfigurationID, Query]
    ) -> tuple[str, list[MetricConfigurationID]] | None:
        """Why the first query that fails does so, and all that fail for the same reason.

        Types that do not fit, the usual reason, are found without reading a row.
        """
        for rows in (0, None):
            reasons: dict[str, list[MetricConfigurationID]] = {}
            for key, query in queries.items():
                try:
                    self._answers({key: query}, rows)
                except _REFUSALS as error:
                    reasons.setdefault(f"{query.about}: {str(error).splitlines()[0]}", []).append(key)
            if reasons:
                return next(iter(reasons.items()))
        return None

    def _comparison_condition_to_filter_clause(self, condition: ComparisonCondition) -> pl.Expr:
        column, value = pl.col(condition.column.name), condition.parameter
        if isinstance(value, datetime) and value.tzinfo:  # Polars compares moments of one zone only
            column, value = column.dt.convert_time_zone("UTC"), value.astimezone(UTC)
        meets: pl.Expr
        # As in pandas, a missing value differs from every value and is in no order with any.
        match Operator(condition.operator):
            case Operator.EQUAL:
                meets = column == value
            case Operator.NOT_EQUAL:
                meets = column.ne_missing(pl.lit(value))
            case Operator.LESS_THAN:
                meets = column < value
            case Operator.LESS_THAN_OR_EQUAL:
                meets = column <= value
            case Operator.GREATER_THAN:
                meets = column > value
            case Operator.GREATER_THAN_OR_EQUAL:
                meets = column >= value
            case Operator.IN:
                meets = column.is_in(list(value))
            case Operator.NOT_IN:
                return ~column.is_in(list(value)).fill_null(value=False)
        return meets.fill_null(value=False)

    def _nullity_condition_to_filter_clause(self, condition: NullityCondition) -> pl.Expr:
        column = pl.col(condition.column.name)
        return column.is_null() if condition.is_null else column.is_not_null()

    def _and_condition_to_filter_clause(self, condition: AndCondition) -> pl.Expr:
        return pl.all_horizontal(self.condition_to_filter_clause(part) for part in condition.conditions)

    def _or_condition_to_filter_clause(self, condition: OrCondition) -> pl.Expr:
        return pl.any_horizontal(self.condition_to_filter_clause(part) for part in condition.conditions)


def considered(columns: Iterable[str], ignore_row_if: str | None) -> pl.Expr:
    """Boolean, true for the rows that are not ignored for what is missing in them."""
    if ignore_row_if is None or ignore_row_if in _KEPT:
        return pl.lit(value=True)
    if ignore_row_if not in _MISSING:
        raise DefinitionError(f"ignore_row_if is {ignore_row_if!r}; give one of {[*_KEPT, *_MISSING]}")
    return ~_MISSING[ignore_row_if](pl.col(column).is_null() for column in columns)


def _supported(condition: str | Condition) -> Condition:
    if isinstance(condition, PassThroughCondition | str):
        raise DefinitionError(f"row condition {condition!r} is written for another engine; use Column(...) conditions")
    return condition
