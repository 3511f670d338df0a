"""A wafer with more than a tenth of its dies out of range is rejected whole, and nothing else is."""

from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expectations.engine import gx_suite
from expectations.gate import Table, validate, validate_together
from expectations.suites import SUITES
from features.definitions import wafer_sources

NOW = datetime(2026, 3, 1, tzinfo=UTC)
RULE = "wafer_in_range"
SOURCES = ["wafers", "parts", "test_results"]
GOOD, SLOW, LOW = "good", "late", "vdd"
"""A die that keeps every rule, one whose test took too long (in its part), one with a low vdd (in its result)."""


def wafer(dies, wafer_id="W1", file="f", first=0, lot_id="L1"):
    """The rows of one wafer by table: each die a part and a result."""
    one = {"_file_sha256": file, "lot_id": lot_id, "wafer_id": wafer_id}
    die = {**one, "head": 1, "site": 0, "tested_at": NOW}
    result = {"test_index": 0, "test_num": 10, "kind": "PTR", "test_name": "vdd", "unit": "V"}
    numbered = list(enumerate(dies, first))
    return {
        "wafers": [{**one, "finish_time": NOW, "wafer_index": first}],
        "parts": [{**die, "part_index": i, "test_time_ms": 600 if SLOW in how else 200} for i, how in numbered],
        "test_results": [
            {**die, **result, "part_index": i, "result": 0.5 if LOW in how else 1.2} for i, how in numbered
        ],
    }


def tables(*wafers):
    """Frames of several wafers' rows, by table."""
    found = {}
    for source in SOURCES:
        dtypes = {**getattr(wafer_sources, source).dtypes, "_file_sha256": pl.String()}
        records = [{column: row.get(column) for column in dtypes} for one in wafers for row in one[source]]
        found[source] = pl.DataFrame(records, schema=dtypes)
    return found


def judged(frames):
    """Each table's verdict, by name."""
    verdicts = validate_together([Table(SUITES[source], rows) for source, rows in frames.items()])
    return dict(zip(frames, verdicts, strict=True))


def reasons(verdict):
    """(file, wafer, rules) of each quarantined row."""
    return verdict.split.rejected.select("_file_sha256", "wafer_id", pl.col("_rules").list.join(" ")).rows()


@pytest.mark.parametrize(
    ("dies", "out", "rejected"),
    [
        (10, 1, False),
        (10, 2, True),
        (30, 3, False),
        (70, 7, False),
        (29, 3, True),
        (9, 1, True),
        (1, 1, True),
        (9, 0, False),
    ],
)
def test_exactly_a_tenth_is_not_more(dies, out, rejected):
    verdicts = judged(tables(wafer([LOW] * out + [GOOD] * (dies - out))))
    held = {source: verdict.split.rejected.height for source, verdict in verdicts.items()}
    assert held == (
        {"wafers": 1, "parts": dies, "test_results": dies}
        if rejected
        else {"wafers": 0, "parts": 0, "test_results": out}
    )
    assert [verdict.blocked for verdict in verdicts.values()] == [[], [], []]


def test_only_that_wafer_of_that_file_falls_and_each_row_has_all_its_reasons():
    bad = [LOW, SLOW, *[GOOD] * 8]
    others = [
        wafer([GOOD] * 10, "W2", first=10),
        wafer([GOOD] * 10, "W1", file="g"),
        wafer([GOOD] * 9, "W1", first=20, lot_id="L2"),
    ]
    verdicts = judged(tables(wafer(bad), *others))
    assert reasons(verdicts["wafers"]) == [("f", "W1", RULE)]
    assert reasons(verdicts["parts"]) == [
        ("f", "W1", f"test_time_range {RULE}" if how == SLOW else RULE) for how in bad
    ]
    assert reasons(verdicts["test_results"]) == [
        ("f", "W1", f"vdd_range {RULE}" if how == LOW else RULE) for how in bad
    ]
    assert verdicts["parts"].split.rejected["_severity"].unique().to_list() == ["high"]
    assert [f.severity.label for f in verdicts["wafers"].files["f"].findings] == ["high"]
    finding = verdicts["parts"].files["f"].findings[-1]
    assert finding.message == (
        "wafer_in_range: more than 10% of 'part_index' per 'wafer_id' are out of range in 10 of 29 rows (34.5%)"
    )
    assert verdicts["wafers"].files["g"].findings == ()


def test_a_die_counts_once_whatever_it_breaks_and_in_whichever_table():
    twice = judged(tables(wafer([SLOW + LOW, SLOW + LOW, *[GOOD] * 18])))
    assert twice["parts"].split.rejected.height == 2
    spread = judged(tables(wafer([SLOW, SLOW, LOW, *[GOOD] * 17])))
    assert spread["parts"].split.rejected.height == 20


def test_a_final_test_has_no_wafer_to_reject():
    verdicts = judged(tables(wafer([LOW] * 5 + [GOOD] * 5, wafer_id=None)))
    assert [verdict.split.rejected.height for verdict in verdicts.values()] == [0, 0, 5]


def test_a_result_outside_any_part_is_no_die_but_falls_with_its_wafer():
    rows = wafer([LOW, LOW, *[GOOD] * 17])
    rows["test_results"] += [{**rows["test_results"][-1], "part_index": None, "result": 0.5}]
    assert judged(tables(rows))["test_results"].split.rejected.height == 20
    rows["test_results"][0]["result"] = 1.2
    assert judged(tables(rows))["test_results"].split.rejected.height == 2


def test_a_table_by_itself_is_judged_by_its_own_rows():
    frames = tables(wafer([LOW, LOW, *[GOOD] * 8]))
    assert validate(SUITES["test_results"], frames["test_results"]).split.rejected.height == 10
    assert validate(SUITES["parts"], frames["parts"]).split.rejected.is_empty()


def test_rows_beside_count_and_are_on_neither_side():
    frames = tables(wafer([LOW, LOW, *[GOOD] * 18]))
    results = frames["test_results"]
    alone = Table(SUITES["test_results"], results.head(2))
    assert validate_together([alone])[0].split.rejected["_rules"].to_list() == [["vdd_range", RULE]] * 2
    beside = Table(SUITES["test_results"], results.head(2), beside=results)
    assert validate_together([beside])[0].split.rejected["_rules"].to_list() == [["vdd_range"]] * 2


def test_what_cannot_be_judged_blocks_every_table():
    frames = tables(wafer([GOOD] * 10))
    frames["parts"] = frames["parts"].drop("lot_id")
    verdicts = judged(frames)
    assert [verdict.blocked for verdict in verdicts.values()] == [["f"], ["f"], ["f"]]
    assert "could not be judged" in verdicts["wafers"].findings[-1].message


@pytest.mark.parametrize("source", SOURCES)
def test_great_expectations_checks_the_rule_as_well(source):
    (found,) = [e for e in gx_suite(SUITES[source]).expectations if e.meta["rule"] == RULE]
    assert (found.column, found.value_set) == (f"rule:{RULE}", [True])


dies = st.lists(st.sampled_from([GOOD] * 12 + [SLOW, LOW, SLOW + LOW]), min_size=1, max_size=25)


@settings(max_examples=25)
@given(
    wafers=st.lists(
        st.tuples(dies, st.sampled_from(["W1", "W2", None]), st.sampled_from("fg")),
        min_size=1,
        max_size=4,
        unique_by=lambda w: w[1:],
    )
)
def test_the_split_is_that_of_counting_by_hand(wafers):
    frames = tables(*(wafer(*one, first=100 * number) for number, one in enumerate(wafers)))
    verdicts = judged(frames)
    whole = {(file, name) for how, name, file in wafers if name and 10 * sum(die != GOOD for die in how) > len(how)}
    for source, own in (("wafers", ""), ("parts", SLOW), ("test_results", LOW)):
        every = [(file, name, die) for how, name, file in wafers for die in ([""] if source == "wafers" else how)]
        rejected = [(file, name) for file, name, die in every if (file, name) in whole or (own and own in die)]
        assert [(file, name) for file, name, _ in reasons(verdicts[source])] == rejected
        assert verdicts[source].split.valid.height == len(every) - len(rejected)
