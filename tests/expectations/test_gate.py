from dataclasses import dataclass

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expectations.gate import validate
from expectations.result import Severity
from expectations.rules import Between, ColumnPresent, Expression, HasType, InSet, NotNull, Suite
from features.errors import InvalidInput

SUITE = Suite(
    "readings",
    schema=[
        ColumnPresent("id"),
        HasType("id", pl.Int64),
        ColumnPresent("note", Severity.MEDIUM),
        HasType("x", pl.Float64),
    ],
    rows=[
        NotNull(name="id_not_null", column="id"),
        Between(name="x_range", column="x", low=0, high=10, where={"kind": "a"}),
        InSet(name="kind_known", column="kind", values=["a", "b"]),
        Expression(name="x_finite", ok=pl.col("x").is_finite(), why="'x' is not finite"),
        Between(name="x_unusual", column="x", high=9, severity=Severity.LOW, tolerance=None),
    ],
)


def rows(*records, file="f"):
    """Records of (id, kind, x), each in its file."""
    schema = {"id": pl.Int64, "kind": pl.String, "x": pl.Float64}
    frame = pl.DataFrame(list(records), schema=schema, orient="row")
    return frame.with_columns(note=pl.lit("n"), _file_sha256=pl.lit(file))


def found(verdict, file="f"):
    return {finding.rule: finding.severity.label for finding in verdict.files[file].findings}


def test_a_clean_batch_passes_whole():
    batch = pl.concat([rows((1, "a", 1.0)), rows((2, "b", None), (3, None, 8.0), file="g")])
    verdict = validate(SUITE, batch)
    assert verdict.split.valid.equals(batch)
    assert verdict.split.rejected.is_empty()
    assert [(name, file.findings, file.severity, file.blocked, file.rows) for name, file in verdict.files.items()] == [
        ("f", (), None, False, 1),
        ("g", (), None, False, 2),
    ]


def test_files_are_judged_apart():
    """The same bad value is few among many in one file and many in the other."""
    batch = pl.concat([rows(*[(i, "a", 1.0) for i in range(99)], (99, "a", -1.0)), rows((1, "a", -1.0), file="g")])
    verdict = validate(SUITE, batch)
    assert found(verdict) == {"x_range": "medium"}
    assert found(verdict, "g") == {"x_range": "high"}
    assert verdict.split.rejected["_severity"].to_list() == ["medium", "high"]
    finding = verdict.files["f"].findings[0]
    assert (finding.column, finding.failed, finding.checked) == ("x", 1, 100)
    assert finding.message == "x_range: 'x' is outside 0 to 10 in 1 of 100 rows (1.0%)"


def test_a_row_that_only_breaks_a_low_rule_lands():
    verdict = validate(SUITE, rows((1, "a", 9.5), (2, "a", 99.0)))
    assert verdict.split.valid["x"].to_list() == [9.5]
    assert verdict.split.rejected["_rules"].to_list() == [["x_range"]]
    assert found(verdict) == {"x_range": "high", "x_unusual": "low"}
    assert (verdict.files["f"].rows, verdict.files["f"].rejected) == (2, 1)


def test_a_required_column_without_a_single_value_blocks_its_file_alone():
    batch = pl.concat([rows((None, "a", 1.0), (None, "a", 2.0)), rows((1, "a", 3.0), (None, "a", 4.0), file="g")])
    verdict = validate(SUITE, batch)
    assert (verdict.blocked, found(verdict), found(verdict, "g")) == (
        ["f"],
        {"id_not_null": "critical"},
        {"id_not_null": "high"},
    )
    assert verdict.split.valid["x"].to_list() == [3.0]
    assert verdict.split.rejected["x"].to_list() == [4.0]


def test_a_missing_required_column_blocks_every_file():
    batch = pl.concat([rows((1, "a", 1.0)), rows((2, "a", 1.0), file="g")]).drop("id")
    verdict = validate(SUITE, batch)
    assert verdict.blocked == ["f", "g"]
    assert found(verdict)["id_present"] == "critical"
    assert verdict.split.valid.is_empty()
    assert verdict.split.rejected.is_empty()


def test_a_missing_optional_column_is_medium_and_blocks_nothing():
    verdict = validate(SUITE, rows((1, "a", 1.0)).drop("note"))
    assert (found(verdict), verdict.split.valid.height) == ({"note_present": "medium"}, 1)


def test_a_type_that_still_compares_is_high_and_lands():
    verdict = validate(SUITE, rows((1, "a", 1.0), (2, "a", 99.0)).cast({"x": pl.Int32}))
    assert found(verdict)["x_type"] == "high"
    assert (verdict.split.valid.height, verdict.split.rejected.height) == (1, 1)


def test_a_rule_that_raises_is_critical_for_every_file_and_the_others_are_still_judged():
    batch = pl.concat([rows((1, "z", 1.0)), rows((2, "a", 1.0), file="g")]).cast({"x": pl.String})
    verdict = validate(SUITE, batch)
    assert verdict.blocked == ["f", "g"]
    assert found(verdict) == {
        "x_type": "high",
        "x_range": "critical",
        "x_finite": "critical",
        "x_unusual": "critical",
        "kind_known": "medium",
    }
    assert "could not be judged, so nothing passes" in verdict.findings[-1].message


@dataclass(frozen=True, kw_only=True, eq=False)
class Blind(NotNull):
    """A rule whose mask overlooks what Great Expectations sees."""

    def broken(self):
        return pl.lit(value=False)


def test_executors_that_disagree_let_nothing_pass():
    suite = Suite("s", schema=[], rows=[Blind(name="blind", column="id")])
    verdict = validate(suite, rows((1, "a", 1.0), (None, "a", 1.0)))
    assert (verdict.blocked, verdict.split.valid.height) == (["f"], 0)
    assert "GX finds 1 of 2 bad, the row masks (0, 2)" in verdict.findings[0].message


def test_an_empty_batch_does_not_pass_silently():
    verdict = validate(SUITE, rows(), files=["f", "g"])
    assert [finding.rule for finding in verdict.findings] == ["not_empty"]
    assert (found(verdict), found(verdict, "g")) == ({"not_empty": "high"}, {"not_empty": "high"})
    assert verdict.split.rejected.schema.names()[-2:] == ["_rules", "_severity"]


def test_a_file_without_any_row_is_not_overlooked():
    verdict = validate(SUITE, rows((1, "a", 1.0)), files=["f", "g"])
    assert (found(verdict), found(verdict, "g"), verdict.files["g"].rows) == ({}, {"not_empty": "high"}, 0)


def test_every_row_needs_its_file():
    with pytest.raises(InvalidInput, match="'_file_sha256' must name the file"):
        validate(SUITE, rows((1, "a", 1.0), file=None))


def broken_rules(row: dict[str, object]) -> list[str]:
    """The rules of SUITE one row breaks, worked out by hand."""
    number, kind, x = row["id"], row["kind"], row["x"]
    there = isinstance(x, float) and x == x  # noqa: PLR0124 (NaN is the number that differs from itself)
    tests = {
        "id_not_null": number is None,
        "x_range": kind == "a" and there and not 0 <= x <= 10,
        "kind_known": kind is not None and kind not in ("a", "b"),
        "x_finite": x is not None and not (there and abs(x) < float("inf")),
    }
    return [name for name, broke in tests.items() if broke]


records = st.tuples(
    st.none() | st.integers(0, 9),
    st.none() | st.sampled_from(["a", "b", "z"]),
    st.none() | st.sampled_from([0.0, 10.0, 10.5, -0.5, float("nan"), float("inf")]),
)


@settings(max_examples=25, deadline=None)
@given(files=st.lists(st.lists(records, min_size=1, max_size=6), min_size=1, max_size=3))
def test_the_split_is_a_partition_and_names_exactly_the_rules_that_each_row_broke(files):
    batch = pl.concat([rows(*file, file=str(number)) for number, file in enumerate(files)])
    verdict = validate(SUITE, batch)
    landing = batch.filter(~pl.col("_file_sha256").is_in(verdict.blocked))
    reasons = [broken_rules(row) for row in landing.iter_rows(named=True)]
    bad = pl.Series([bool(names) for names in reasons], dtype=pl.Boolean)
    assert verdict.split.valid.equals(landing.filter(~bad))
    assert verdict.split.rejected.drop("_rules", "_severity").equals(landing.filter(bad))
    assert verdict.split.rejected["_rules"].to_list() == [names for names in reasons if names]
    for file, part in batch.group_by("_file_sha256"):
        assert (file[0] in verdict.blocked) == (part["id"].null_count() == part.height)
