import polars as pl

from expectations.quarantine import REASONS, split
from expectations.result import Severity

ROWS = pl.DataFrame({"file": ["a", "a", "b", "b"], "x": [1, 2, 3, 4]})
BROKEN = pl.DataFrame(
    {"file": ["a", "a", "b", "b"], "low": [True, False, True, True], "odd": [True, False, False, True]}
)
SEVERITIES = pl.DataFrame(
    [
        ("a", "low", Severity.MEDIUM),
        ("a", "odd", Severity.LOW),
        ("b", "low", Severity.HIGH),
        ("b", "odd", Severity.MEDIUM),
    ],
    schema={"file": pl.String, "rule": pl.String, "severity": pl.Int64},
    orient="row",
)


def test_a_bad_row_is_kept_once_as_it_came_with_all_its_reasons_and_the_worst_severity_in_its_file():
    parted = split(ROWS, BROKEN, SEVERITIES, "file")
    assert parted.valid.rows() == [("a", 2)]
    assert parted.rejected.rows() == [
        ("a", 1, ["low", "odd"], "medium"),
        ("b", 3, ["low"], "high"),
        ("b", 4, ["low", "odd"], "high"),
    ]


def test_nothing_is_lost_and_order_is_kept():
    parted = split(ROWS, BROKEN, SEVERITIES, "file")
    assert pl.concat([parted.valid, parted.rejected.select(ROWS.columns)]).sort("x").equals(ROWS)
    assert parted.rejected["x"].is_sorted()


def test_the_schema_is_the_same_with_and_without_bad_rows_or_rules():
    schema = {**ROWS.schema, **REASONS}
    for parted in (
        split(ROWS, BROKEN, SEVERITIES, "file"),
        split(ROWS, BROKEN.with_columns(low=pl.lit(value=False), odd=pl.lit(value=False)), SEVERITIES.clear(), "file"),
        split(ROWS, BROKEN.select("file"), SEVERITIES.clear(), "file"),
        split(ROWS.clear(), BROKEN.clear(), SEVERITIES.clear(), "file"),
    ):
        assert parted.rejected.schema == schema
        assert parted.valid.schema == ROWS.schema
        assert parted.valid.height + parted.rejected.height in (0, ROWS.height)
