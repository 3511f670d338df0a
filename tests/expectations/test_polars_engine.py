"""The Polars engine's own ways: conditions on rows, result formats, laziness, types, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
import polars as pl
import pytest
from great_expectations.exceptions.exceptions import MetricProviderError
from great_expectations.expectations.row_conditions import AndCondition, Column, OrCondition
from hypothesis import given
from hypothesis import strategies as st
from polars.testing.parametric import dataframes

from expectations.engine import gx_context
from expectations.polars_engine import domain, row_maps
from expectations.polars_engine.column_type import ExpectColumnPolarsTypeToBe
from expectations.polars_engine.registration import metrics, register
from features.errors import DefinitionError, InvalidInput
from gx_engines import DAYS, FRAMES, Batches, both_engines, raised, said, told_by

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # pandas calculates with infinities

CONDITIONS = {
    "equal": Column("s") == "a",
    "equal to an integer": Column("i") == 1,
    "different, as what is missing is": Column("s") != "a",
    "below": Column("f") < 2,
    "not above": Column("i") <= 3,
    "above": Column("f") > 1.5,
    "not below": Column("i") >= 2.5,
    "in": Column("s").is_in(["a", "bb"]),
    "not in, as what is missing is": Column("i").is_not_in([1, 3]),
    "missing": Column("f").is_null(),
    "there": Column("f").is_not_null(),
    "both": AndCondition(conditions=[Column("i") > 1, Column("s") != "d"]),
    "either": OrCondition(conditions=[Column("f").is_null(), Column("s") == "a"]),
    "none": Column("i") > 2**60,
    "after a moment": Column("t") > DAYS[1],
    "of an absent column": Column("absent") > 1,
}
CONDITIONED = (
    lambda c: gxe.ExpectColumnValuesToBeBetween(column="f", min_value=0, max_value=2, row_condition=c),
    lambda c: gxe.ExpectColumnValuesToNotBeNull(column="b", row_condition=c),
    lambda c: gxe.ExpectColumnValuesToBeUnique(column="s", row_condition=c),
    lambda c: gxe.ExpectColumnValuesToBeIncreasing(column="i", row_condition=c),
    lambda c: gxe.ExpectColumnMeanToBeBetween(column="f", min_value=0, max_value=2, row_condition=c),
    lambda c: gxe.ExpectCompoundColumnsToBeUnique(column_list=["b", "s"], row_condition=c),
    lambda c: gxe.ExpectTableRowCountToBeBetween(min_value=2, max_value=4, row_condition=c),
)


@pytest.fixture(scope="module")
def batches() -> Iterator[Batches]:
    with both_engines() as batch:
        yield batch


@pytest.fixture
def asset() -> Iterator[Any]:
    context = gx_context()
    yield context.data_sources.add_polars("own").add_dataframe_asset("rows")
    context.data_sources.delete("own")


def whole(asset: Any, frame: pl.DataFrame | pl.LazyFrame) -> Any:
    return asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})


@pytest.mark.parametrize("name", CONDITIONS)
def test_conditions_on_rows_select_the_same_rows_on_both_engines(batches: Batches, name: str) -> None:
    for frame in ("nan", "null", "zones"):
        told = {}
        for engine in ("pandas", "polars"):
            suite = gx.ExpectationSuite(name="all", expectations=[make(CONDITIONS[name]) for make in CONDITIONED])
            results = batches(engine, frame).validate(suite, result_format="COMPLETE").results
            told[engine] = {result.expectation_config.type: told_by(result) for result in results}
            assert len(told[engine]) == len(CONDITIONED)
        assert told["polars"] == told["pandas"], frame


def test_a_condition_may_come_as_it_is_stored(batches: Batches) -> None:
    kept = gxe.ExpectColumnValuesToBeBetween(column="f", max_value=2, row_condition=Column("i") == 1)
    stored = kept.configuration.to_json_dict()["kwargs"]["row_condition"]
    again = gxe.ExpectColumnValuesToBeBetween(column="f", max_value=2, row_condition=stored)
    assert said(batches("polars", "plain"), again) == said(batches("polars", "plain"), kept)
    assert said(batches("polars", "plain"), kept)["element_count"] == 2


@pytest.mark.filterwarnings("ignore:(Passing a string|The condition_parser):DeprecationWarning")
def test_a_condition_in_another_engines_words_is_refused(batches: Batches) -> None:
    written = gxe.ExpectColumnValuesToNotBeNull(column="f", row_condition="i > 1", condition_parser="pandas")
    (message, *_) = raised(batches("polars", "plain").validate(written))
    assert "'i > 1'" in message
    assert "use Column(...) conditions" in message


FORMATS = (
    "BOOLEAN_ONLY",
    "BASIC",
    "SUMMARY",
    "COMPLETE",
    {"result_format": "SUMMARY", "partial_unexpected_count": 2},
    {"result_format": "BASIC", "partial_unexpected_count": 0},
    {"result_format": "COMPLETE", "unexpected_index_column_names": ["key", "s"]},
    {"result_format": "COMPLETE", "unexpected_index_column_names": ["key"], "exclude_unexpected_values": True},
    {"result_format": "SUMMARY", "unexpected_index_column_names": ["absent"]},
    {"result_format": "SUMMARY", "include_unexpected_rows": True},
)
FORMATTED = (
    gxe.ExpectColumnValuesToBeInSet(column="s", value_set=["bb"]),
    gxe.ExpectColumnValuesToBeBetween(column="f", min_value=0, max_value=2, row_condition=Column("i") > 1),
    gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="i", column_B="f"),
    gxe.ExpectCompoundColumnsToBeUnique(column_list=["s", "b"]),
    gxe.ExpectColumnMaxToBeBetween(column="i", min_value=10),
)


@pytest.mark.parametrize("result_format", FORMATS, ids=str)
def test_every_result_format_tells_the_same(batches: Batches, result_format: Any) -> None:
    for expectation in FORMATTED:
        theirs, ours = (said(batches(engine, "plain"), expectation, result_format) for engine in ("pandas", "polars"))
        assert ours == theirs


def test_the_query_for_the_bad_rows_is_one_for_polars(batches: Batches) -> None:
    result = batches("polars", "plain").validate(FORMATTED[0], result_format="COMPLETE").result
    df, places = FRAMES["plain"], result["unexpected_index_list"]
    assert result["unexpected_index_query"] == f"df[{places}]"
    assert df[places]["s"].to_list() == result["unexpected_list"]


def counted(reads: list[int]) -> pl.LazyFrame:
    """The plain rows, and a note of each time they are read."""

    def read(rows: pl.DataFrame) -> pl.DataFrame:
        reads.append(rows.height)
        return rows

    frame = FRAMES["plain"]
    return frame.lazy().map_batches(read, schema=frame.schema)


def test_a_lazy_frame_is_read_once_for_all_that_is_asked(asset: Any) -> None:
    reads: list[int] = []
    batch = whole(asset, counted(reads))
    assert reads == []
    expectations = [make(None) for make in CONDITIONED] + [
        gxe.ExpectColumnValueZScoresToBeLessThan(column="f", threshold=9, double_sided=True),
        gxe.ExpectColumnQuantileValuesToBeBetween(
            column="i", quantile_ranges={"quantiles": [0.5], "value_ranges": [[0, 9]]}
        ),
        gxe.ExpectColumnProportionOfUniqueValuesToBeBetween(column="s", min_value=0.1),
    ]
    suite = gx.ExpectationSuite(name="many", expectations=expectations)
    assert len(batch.validate(suite, result_format="COMPLETE").results) == len(expectations)
    assert reads == [6]


def test_the_schema_alone_reads_nothing(asset: Any) -> None:
    reads: list[int] = []
    batch = whole(asset, counted(reads))
    names = FRAMES["plain"].columns
    suite = gx.ExpectationSuite(
        name="schema",
        expectations=[
            gxe.ExpectTableColumnsToMatchOrderedList(column_list=names),
            gxe.ExpectTableColumnCountToEqual(value=len(names)),
            gxe.ExpectColumnToExist(column="i"),
            ExpectColumnPolarsTypeToBe(column="t", type_="Datetime(time_unit='us', time_zone='UTC')"),
        ],
    )
    assert batch.validate(suite).success
    assert reads == []


@pytest.mark.parametrize(
    "dtype", [pl.String, pl.Datetime("ms"), pl.List(pl.Int8), pl.Enum(["a", "b"]), pl.Decimal(9, 2)]
)
def test_a_type_is_asked_for_by_its_polars_name(asset: Any, dtype: Any) -> None:
    batch = whole(asset, pl.DataFrame(schema={"a": dtype, "b": pl.Int64}))
    assert batch.validate(ExpectColumnPolarsTypeToBe(column="a", type_=str(dtype))).success
    result = batch.validate(ExpectColumnPolarsTypeToBe(column="b", type_=str(dtype)))
    assert (result.success, result.result["observed_value"]) == (False, "Int64")


def test_gxs_own_type_expectation_takes_polars_names_that_pandas_can_read(asset: Any) -> None:
    batch = whole(asset, pl.DataFrame(schema={"a": pl.Int64, "s": pl.String}))
    assert batch.validate(gxe.ExpectColumnTypeToBe(column="a", type_="Int64")).success
    assert not batch.validate(gxe.ExpectColumnTypeToBe(column="a", type_="int64")).success
    assert (
        "Unrecognized pandas type: String"
        in raised(batch.validate(gxe.ExpectColumnTypeToBe(column="s", type_="String")))[0]
    )


def test_sums_do_not_outgrow_their_types(asset: Any) -> None:
    huge = pl.DataFrame({"small": [127, 127], "whole": [2**62, 2**62], "wide": [2**63, 2**63]}).cast(
        {"small": pl.Int8, "wide": pl.UInt64}
    )
    batch = whole(asset, huge)
    for column, total in {"small": 254, "whole": 2**63, "wide": 2**64}.items():
        sums = gxe.ExpectColumnSumToBeBetween(column=column, min_value=total, max_value=total)
        assert said(batch, sums) == {"raised": False, "success": True, "observed_value": total}
    across = gxe.ExpectMulticolumnSumToEqual(column_list=["whole", "whole", "small"], sum_total=2**63 + 127)
    assert said(batch, across)["unexpected_count"] == 0


UNSUPPORTED = {
    "column_values.match_like_pattern": gxe.ExpectColumnValuesToMatchLikePattern(column="s", like_pattern="a%"),
    "column_values.match_strftime_format": gxe.ExpectColumnValuesToMatchStrftimeFormat(
        column="s", strftime_format="%Y"
    ),
    "column_values.json_parseable": gxe.ExpectColumnValuesToBeJsonParseable(column="s"),
    "column_values.dateutil_parseable": gxe.ExpectColumnValuesToBeDateutilParseable(column="s"),
    "column_values.match_json_schema": gxe.ExpectColumnValuesToMatchJsonSchema(column="s", json_schema={}),
    "unexpected_rows_query.table": gxe.UnexpectedRowsExpectation(unexpected_rows_query="SELECT * FROM {batch}"),
}


@pytest.mark.parametrize("metric", UNSUPPORTED)
def test_what_is_not_supported_raises_and_is_named(batches: Batches, metric: str) -> None:
    result = batches("polars", "plain").validate(UNSUPPORTED[metric])
    assert not result.success
    assert any(metric in message and "PolarsExecutionEngine" in message for message in raised(result))


def test_gx_lets_the_error_of_a_divergence_through(batches: Batches) -> None:
    divergence = gxe.ExpectColumnKLDivergenceToBeLessThan(column="f", threshold=0.1)
    with pytest.raises(MetricProviderError, match=r"column\.partition using PolarsExecutionEngine"):
        batches("polars", "plain").validate(divergence)


@pytest.mark.parametrize(
    "expectation",
    [
        gxe.ExpectColumnValuesToBeOfType(column="s", type_="str"),
        gxe.ExpectColumnValuesToBeInTypeList(column="s", type_list=["str"]),
    ],
)
def test_types_of_single_values_get_no_verdict(batches: Batches, expectation: Any) -> None:
    assert raised(batches("polars", "plain").validate(expectation))


def test_an_error_names_its_metric_and_column_and_spares_the_others(batches: Batches) -> None:
    suite = gx.ExpectationSuite(
        name="mixed",
        expectations=[
            gxe.ExpectColumnValuesToBeBetween(column="s", min_value=1),
            gxe.ExpectColumnValuesToMatchRegex(column="i", regex="1"),
            gxe.ExpectColumnSumToBeBetween(column="t", min_value=1),
            gxe.ExpectColumnValuesToMatchRegex(column="s", regex="(?<=a)b"),
            gxe.ExpectColumnValuesToNotBeNull(column="absent"),
            gxe.ExpectColumnValuesToBeBetween(column="f", min_value=0),
        ],
    )
    results = batches("polars", "plain").validate(suite).results
    said_of = {(r.expectation_config.type, r.expectation_config.kwargs["column"]): raised(r) for r in results}
    assert said_of.pop(("expect_column_values_to_be_between", "f")) == []
    between, digits, total, behind, absent = (
        said_of[key][0]
        for key in (
            ("expect_column_values_to_be_between", "s"),
            ("expect_column_values_to_match_regex", "i"),
            ("expect_column_sum_to_be_between", "t"),
            ("expect_column_values_to_match_regex", "s"),
            ("expect_column_values_to_not_be_null", "absent"),
        )
    )
    assert between.startswith("column_values.between of ['s']: cannot compare string with numeric type")
    assert digits.startswith("column_values.match_regex: column 'i' is Int64, not text")
    assert total.startswith("column.sum: column 't' is Datetime")
    assert behind.startswith("column_values.match_regex of ['s']: ")
    assert 'The column "absent" in BatchData does not exist' in absent


@pytest.mark.parametrize("given", [{}, {"dataframe": [1]}, {"dataframe": FRAMES["plain"], "more": 1}])
def test_a_batch_is_asked_for_by_a_frame_alone(asset: Any, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="asked for by its frame alone"):
        asset.build_batch_request(given)


def test_the_rows_of_a_domain_can_be_had(batches: Batches) -> None:
    batch = batches("polars", "null")
    engine, domain = batch.data.execution_engine, {"batch_id": batch.id, "row_condition": Column("key") > 100}
    engine.load_batch_data(batch.id, batch.data)
    rows, compute, accessor = engine.get_compute_domain({**domain, "column": "i"}, "column")
    assert rows.collect()["key"].to_list() == [101, 102, 103, 104, 105]
    assert (compute, accessor) == (domain, {"column": "i"})
    pair = {**domain, "column_A": "i", "column_B": "j", "ignore_row_if": "either_value_is_missing"}
    assert engine.get_domain_records(pair).collect()["key"].to_list() == [104, 105]
    with pytest.raises(DefinitionError, match="ignore_row_if is 'sometimes'"):
        engine.get_domain_records({**pair, "ignore_row_if": "sometimes"})


def test_registering_again_changes_nothing() -> None:
    assert register() is register()
    names = [name for name, _ in metrics()]
    assert len(names) == len(set(names)) > 100


@given(dataframes(cols=2, max_size=5), st.integers(0, 2))
def test_rows_of_any_types_are_unique_together_if_no_other_is_equal(drawn, again):
    rows = pl.concat([drawn, drawn.head(again)])
    columns = [domain.Column(name, dtype) for name, dtype in rows.schema.items()]
    assert rows.select(good=row_maps.compound_unique(columns))["good"].to_list() == rows.is_unique().to_list()
