"""Wafer-test sources: what an STDF file holds, as three tables of raw records.

Missing markers (coordinate -32768, bin 65535, empty ids, TEST_T 0, invalid results) are null.
"""

from __future__ import annotations

import polars as pl

from features.entity import DataType
from features.source import Source
from features.times import UTC_US

_CONTEXT: dict[str, DataType] = {
    "lot_id": pl.String(),
    "wafer_id": pl.String(),
    "product": pl.String(),
    "tester_id": pl.String(),
}

wafers = Source(
    "wafers",
    schema={
        **_CONTEXT,
        "tester_type": pl.String(),
        "program": pl.String(),
        "start_time": UTC_US,
        "finish_time": UTC_US,
        "part_count": pl.Int64(),
        "good_count": pl.Int64(),
        "die_width_mm": pl.Float64(),
        "die_height_mm": pl.Float64(),
        "wafer_size_mm": pl.Float64(),
        "center_x": pl.Int32(),
        "center_y": pl.Int32(),
        "wafer_index": pl.Int32(),
    },
    event_timestamp="finish_time",
    keys=["lot_id", "wafer_id", "wafer_index"],
    description="One row per wafer in a file; one per file where the file names no wafer (final test).",
    columns={
        "tester_id": "MIR.NODE_NAM",
        "product": "MIR.PART_TYP",
        "program": "MIR.JOB_NAM",
        "start_time": "WIR.START_T, else MIR.START_T",
        "finish_time": "WRR.FINISH_T, else MRR.FINISH_T, else the last time the file gives",
        "part_count": "Number of PRR records",
        "good_count": "PRR records that passed (PART_FLG bits 3 and 4 clear)",
        "die_width_mm": "WCR.DIE_WID in millimetres; null where the file has none",
        "center_x": "WCR.CENTER_X, column of the centre die",
        "wafer_index": "Position of the wafer in its file, from 0",
    },
)

parts = Source(
    "parts",
    schema={
        **_CONTEXT,
        "part_id": pl.String(),
        "part_index": pl.Int64(),
        "head": pl.Int16(),
        "site": pl.Int16(),
        "x": pl.Int32(),
        "y": pl.Int32(),
        "hard_bin": pl.Int32(),
        "soft_bin": pl.Int32(),
        "passed": pl.Boolean(),
        "retest": pl.Boolean(),
        "test_count": pl.Int32(),
        "test_time_ms": pl.Int64(),
        "die_width_mm": pl.Float64(),
        "die_height_mm": pl.Float64(),
        "center_x": pl.Int32(),
        "center_y": pl.Int32(),
        "wafer_size_mm": pl.Float64(),
        "tested_at": UTC_US,
    },
    event_timestamp="tested_at",
    keys=["lot_id", "wafer_id", "part_index", "part_id"],
    description="One row per tested part (PRR), retests included, with its wafer's geometry.",
    columns={
        "part_index": "Position of the part's PRR among the file's PRR records, from 0",
        "passed": "PART_FLG bit 3 clear; null where bit 4 says there is no pass/fail indication",
        "retest": "PART_FLG bits 0 or 1: the record itself says it supersedes an earlier one",
        "test_time_ms": "PRR.TEST_T; 0 is null",
        "tested_at": "When the part's test ended; STDF has no such field, the STDF reader states its rule",
    },
)

test_results = Source(
    "test_results",
    schema={
        **_CONTEXT,
        "part_id": pl.String(),
        "part_index": pl.Int64(),
        "head": pl.Int16(),
        "site": pl.Int16(),
        "x": pl.Int32(),
        "y": pl.Int32(),
        "test_index": pl.Int32(),
        "test_num": pl.Int64(),
        "test_name": pl.String(),
        "pin": pl.Int32(),
        "kind": pl.String(),
        "result": pl.Float64(),
        "passed": pl.Boolean(),
        "lo_limit": pl.Float64(),
        "hi_limit": pl.Float64(),
        "unit": pl.String(),
        "tested_at": UTC_US,
    },
    event_timestamp="tested_at",
    keys=["lot_id", "wafer_id", "part_index", "part_id", "test_index"],
    description="One row per PTR, per pin result of an MPR and per FTR.",
    columns={
        "part_index": "The part (PRR) the result belongs to; null for a result outside any part",
        "test_index": "Position among the part's results in file order, from 0 (an MPR's pins count each)",
        "test_name": "TEST_TXT; together with test_num the test's key",
        "pin": "RTN_INDX of an MPR result, else null",
        "kind": "PTR, MPR or FTR",
        "result": "The value in `unit`; null where TEST_FLG says invalid or not executed, and for FTR",
        "passed": "TEST_FLG bit 7 clear; null where invalid, not executed or without pass/fail",
        "lo_limit": "Lower limit, inherited from the test's first record; null where there is none",
        "tested_at": "The part's tested_at",
    },
)
