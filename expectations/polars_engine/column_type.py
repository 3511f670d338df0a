"""An expectation about a column's Polars type, which GX has none for."""

from __future__ import annotations

from typing import Any

from great_expectations.expectations.core.expect_column_type_to_be import ExpectColumnTypeToBe


class ExpectColumnPolarsTypeToBe(ExpectColumnTypeToBe):
    """The column has exactly the type with this name, as Polars writes it: ``Datetime(time_unit='us')``.

    GX's own expectation reads the name as a pandas type, which most names of Polars types are not.
    """

    def _validate_pandas(self, actual_column_type: str, expected_type: str) -> dict[str, Any]:
        return {"success": actual_column_type == expected_type, "result": {"observed_value": actual_column_type}}
