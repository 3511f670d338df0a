"""The definitions shipped with featurefab, gathered by one explicit list."""

from __future__ import annotations

from features.definitions.wafer import (
    device_parametrics,
    die_outcomes,
    spatial_correlations,
    temporal_trends,
    wafer_aggregates,
    wafer_outcomes,
)
from features.definitions.wafer_models import (
    test_fail,
    test_fail_prediction,
    wafer_yield,
    yield_prediction,
)
from features.definitions.wafer_sources import wafers
from features.registry import Registry

REGISTRY = Registry(
    [
        wafers,
        wafer_aggregates,
        device_parametrics,
        spatial_correlations,
        temporal_trends,
        wafer_outcomes,
        die_outcomes,
        yield_prediction,
        test_fail_prediction,
        wafer_yield,
        test_fail,
    ]
)
