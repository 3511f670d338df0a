"""Makes the Polars engine known to Great Expectations, which looks for providers in a registry of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import polars as pl
from great_expectations.expectations.metrics.metric_provider import MetricProvider
from great_expectations.expectations.registry import get_metric_kwargs, register_core_metrics, register_metric

from expectations.polars_engine import aggregates, column_maps, row_maps, unexpected
from expectations.polars_engine.batch import Mark
from expectations.polars_engine.datasource import PolarsDatasource
from expectations.polars_engine.domain import Answer, Domain
from expectations.polars_engine.engine import PolarsExecutionEngine
from features.errors import DefinitionError

_OF_ALL_ROWS = ("column_values.nonnull", "column_values.null")


class PolarsMetric(MetricProvider):
    """A metric of the Polars engine. It depends on no other, so that all are computed together."""

    @classmethod
    def get_evaluation_dependencies(cls, *_: Any, **__: Any) -> dict[str, Any]:
        """None."""
        return {}


@cache
def register() -> type[PolarsDatasource]:
    """Register every metric that the Polars engine can compute, once; ``data_sources.add_polars`` is there then.

    That method comes with the definition of the class that is returned: GX registers data sources so.
    """
    register_core_metrics()
    for name, answer in metrics():
        keys = get_metric_kwargs(name)
        register_metric(
            metric_name=name,
            metric_domain_keys=keys["metric_domain_keys"],
            metric_value_keys=keys["metric_value_keys"],
            execution_engine=PolarsExecutionEngine,
            metric_class=PolarsMetric,
            metric_provider=_provider(name, answer),
        )
    return PolarsDatasource


def metrics() -> Iterator[tuple[str, Answer]]:
    """The name of every metric and what answers it."""
    yield from aggregates.ANSWERS.items()
    for name, condition in column_maps.CONDITIONS.items():
        yield from unexpected.answers(name, _bad_values(condition, everywhere=name in _OF_ALL_ROWS), several=False)
    for name, condition in row_maps.CONDITIONS.items():
        yield from unexpected.answers(name, _bad_rows(condition), several=True)


def _bad_values(condition: column_maps.Condition, *, everywhere: bool) -> unexpected.Broken:
    def broken(domain: Domain, values: Mapping[str, Any]) -> Mark:
        good = condition(domain.column, **_arguments(condition, values)).fill_null(value=False)
        return Mark(~good if everywhere else domain.column.values.is_not_null() & ~good)

    return broken


def _bad_rows(condition: row_maps.Condition) -> unexpected.Broken:
    def broken(domain: Domain, values: Mapping[str, Any]) -> Mark:
        good = condition(domain.columns, **_arguments(condition, values)).fill_null(value=False)
        return Mark(domain.considered & ~good)

    return broken


def _arguments(condition: Callable[..., pl.Expr], values: Mapping[str, Any]) -> dict[str, Any]:
    """The metric's arguments that are given; GX also hands over its result format."""
    known = inspect.signature(condition).parameters
    return {key: value for key, value in values.items() if key in known and value is not None}


def _provider(name: str, answer: Answer) -> Callable[..., Any]:
    about = name.partition(".unexpected_")[0]

    def provide(
        *,
        execution_engine: PolarsExecutionEngine,
        metric_domain_kwargs: Mapping[str, Any],
        metric_value_kwargs: Mapping[str, Any],
        **_: Any,
    ) -> Any:
        try:
            return answer(Domain(about, execution_engine, metric_domain_kwargs), metric_value_kwargs)
        except DefinitionError as error:
            raise DefinitionError(f"{about}: {error}") from error

    return provide
