"""The two wafer-test models and the services they read: yield of a wafer, failure of a die.

What keeps a label out of its own features: the yield service has no feature that an outcome (pass or
fail, bin) enters, the test-fail service only the die's first `K_TESTS` tests and dies tested before it.
"""

from __future__ import annotations

from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline

from features.definitions.wafer import (
    OWNER,
    device_parametrics,
    spatial_correlations,
    wafer_aggregates,
    yield_pct,
)
from features.definitions.wafer_prepare import K_TESTS
from features.feature_service import FeatureService
from features.model import ModelSpec

yield_prediction = FeatureService(
    "yield_prediction",
    # Of the trends only measurements: by the time a wafer's own aggregates are served, the yield and
    # defect windows of its tester hold the wafer's own dies, that is the label.
    [
        *(f"wafer_aggregates:{f.name}" for f in wafer_aggregates.features if f is not yield_pct),
        "wafer_aggregates:vdd_cv",
        "temporal_trends:vdd_mean_24h",
        "temporal_trends:idd_mean_24h",
        "temporal_trends:equipment_uptime_ratio_7d",
    ],
    owner=OWNER,
    description="What the wafer yield model reads: measurements of the wafer and of its tester, no outcome.",
)

test_fail_prediction = FeatureService(
    "test_fail_prediction",
    [device_parametrics, spatial_correlations],
    owner=OWNER,
    description=f"What the test-fail model reads: the die's first {K_TESTS} tests and the dies tested before it.",
)

wafer_yield = ModelSpec(
    "wafer_yield",
    yield_prediction,
    "wafer_outcomes:yield_pct",
    # Trees: a line would extrapolate wildly when the process leaves the range it was fitted on.
    RandomForestRegressor(n_estimators=200, min_samples_leaf=5, random_state=0),
    # What is served the morning after: aggregates settle and are published by the nightly run.
    predict_after="30h",
    label_delay="2d",
    metrics=("mae", "r2"),
    requires=("wafer_aggregates>=1.0", "temporal_trends>=1.0"),
    owner=OWNER,
    description="Yield of a wafer in percent from its electrical measurements.",
)

test_fail = ModelSpec(
    "test_fail",
    test_fail_prediction,
    "die_outcomes:failed",
    make_pipeline(
        # Numbers only: the name of the failing test is for people, the margins carry what it says.
        ColumnTransformer([("numbers", "passthrough", make_column_selector(dtype_include="number"))]),
        # Far from all values, so that trees split gaps off; a feature that is all gaps does no harm either.
        SimpleImputer(strategy="constant", fill_value=-1000.0, keep_empty_features=True),
        HistGradientBoostingClassifier(max_iter=100, random_state=0),
    ),
    # The morning after. Rows of the die itself and of earlier dies only: asking late lets nothing leak.
    predict_after="30h",
    label_delay="2d",
    metrics=("roc_auc", "log_loss"),
    requires=("device_parametrics>=1.0", "spatial_correlations>=1.0"),
    owner=OWNER,
    description=f"Whether a die will fail, after its first {K_TESTS} tests, to skip the long ones.",
)
