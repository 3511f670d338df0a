"""CSV, Parquet and NDJSON read as a source's rows, and what is wrong with those that do not fit."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.entity import DataType
from features.errors import UnreadableFile
from features.source import RECORD_OFFSET, Source
from features.times import UTC_US
from infra.sources.base import Delivery
from infra.sources.tabular import TabularReader

EVENTS = Source(
    "events",
    schema={"id": pl.String, "n": pl.Int64, "v": pl.Float64, "ok": pl.Boolean, "day": pl.Date, "at": UTC_US},
    event_timestamp="at",
    keys=["id"],
)
HEADER = "id,n,v,ok,day,at\n"
ROW = "a,1,1.5,true,2026-03-01,2026-03-01T12:00:00Z\n"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAIVE = NOON.replace(tzinfo=None)
CLICKS = Path(__file__).resolve().parents[3] / "shared/data/clicks/obd_random_men.csv"
FRAUD = Path(__file__).resolve().parents[3] / "shared/data/fraud/handbook_simulated_2018-04.parquet"


def read(tmp_path: Path, name: str, data: str | bytes) -> Delivery:
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return TabularReader(EVENTS, scratch=tmp_path).read(path)


def rows(tmp_path: Path, name: str, data: str | bytes) -> pl.DataFrame:
    return read(tmp_path, name, data).tables["events"]


def complaint(tmp_path: Path, name: str, data: str | bytes) -> UnreadableFile:
    with pytest.raises(UnreadableFile) as caught:
        read(tmp_path, name, data)
    return caught.value


def frame(**changes: pl.Series | object) -> pl.DataFrame:
    columns = {"id": "a", "n": 1, "v": 1.5, "ok": True, "day": NOON.date(), "at": NOON} | changes
    return pl.DataFrame({name: [value] for name, value in columns.items()})


def parquet(tmp_path: Path, data: pl.DataFrame) -> bytes:
    data.write_parquet(tmp_path / "written")
    return (tmp_path / "written").read_bytes()


# ------------------------------------------------------------------------------- what fits


def test_csv_columns_by_name_in_the_sources_types(tmp_path: Path) -> None:
    data = ",at,day,ok,v,n,id,extra\n0,2026-03-01T12:00:00Z,2026-03-01,true,1.5,1,a,x\n1,2026-03-01,,,,,,\n"
    table = rows(tmp_path, "a.csv", data)
    assert dict(table.schema) == {**EVENTS.dtypes, RECORD_OFFSET: pl.Int64()}
    midnight = NOON.replace(hour=0)
    assert table.rows() == [("a", 1, 1.5, True, NOON.date(), NOON, 0), (None, None, None, None, None, midnight, 1)]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-01", NOON.replace(hour=0)),
        ("2026-03-01T12:00", NOON),
        ("2026-03-01 12:00:00", NOON),
        ("2026-03-01T12:00:00.5Z", NOON + timedelta(seconds=0.5)),
        ("2026-03-01 12:00:00.123456789+00:00", NOON + timedelta(microseconds=123_456)),
        ("2026-03-01T12:00:00+0530", NOON - timedelta(hours=5, minutes=30)),
        ("2026-03-01T12:00:00-05", NOON + timedelta(hours=5)),
        ("2026-03-01T12:00+01:00", NOON - timedelta(hours=1)),
        (" 2026-03-01t12:00:00z ", NOON),
    ],
)
def test_times_in_every_iso_spelling(tmp_path: Path, text: str, moment: datetime) -> None:
    data = HEADER + ROW + f"b,1,1,1,,{text}\n"
    assert rows(tmp_path, "a.csv", data)["at"].to_list() == [NOON, moment]


@given(
    moments=st.lists(st.datetimes(NAIVE.replace(year=1971), NAIVE.replace(year=2100)), min_size=1, max_size=5),
    minutes=st.integers(-14 * 60, 14 * 60),
    zoned=st.booleans(),
)
def test_times_survive_the_text(
    tmp_path_factory: pytest.TempPathFactory, moments: list[datetime], minutes: int, zoned: bool
) -> None:
    zone = timezone(timedelta(minutes=minutes)) if zoned else None
    written = [moment.replace(tzinfo=zone) for moment in moments]
    lines = "".join(f"a,1,1,1,,{moment.isoformat()}\n" for moment in written)
    table = rows(tmp_path_factory.mktemp("times"), "a.csv", HEADER + lines)
    assert table["at"].to_list() == [m.astimezone(UTC) if zoned else m.replace(tzinfo=UTC) for m in written]


@pytest.mark.parametrize(
    ("column", "text", "value"),
    [
        ("n", "5.0", 5),
        ("n", " 7 ", 7),
        ("n", str(2**53 + 1), 2**53 + 1),
        ("n", "", None),
        ("v", "nan", None),
        ("v", "1e-3", 0.001),
        ("ok", "True", True),
        ("ok", "0", False),
        ("id", "007", "007"),
        ("id", '"a,b\nc"', "a,b\nc"),
    ],
)
def test_text_becomes_the_declared_type(tmp_path: Path, column: str, text: str, value: object) -> None:
    fields = {"id": "a", "n": "1", "v": "1", "ok": "1", "day": "", "at": "2026-03-01"} | {column: text}
    table = rows(tmp_path, "a.csv", HEADER + ",".join(fields.values()) + "\n")
    assert table[column].to_list() == [value]


def test_blank_lines_are_skipped_and_windows_ends_read(tmp_path: Path) -> None:
    table = rows(tmp_path, "a.csv", (HEADER + "\n" + ROW + "\n").replace("\n", "\r\n"))
    assert table["at"].to_list() == [NOON]


def test_a_header_alone_is_no_rows(tmp_path: Path) -> None:
    assert rows(tmp_path, "a.csv", HEADER).height == 0


def test_ndjson(tmp_path: Path) -> None:
    data = (
        '{"id":"a","n":1,"v":1,"ok":true,"day":"2026-03-01","at":"2026-03-01T12:00:00Z","more":[1]}\n\n'
        '{"at":"2026-03-01T13:00:00+01:00","id":"b","v":2.5,"n":null}\n'
    )
    table = rows(tmp_path, "a.jsonl", data)
    assert table.rows() == [("a", 1, 1.0, True, NOON.date(), NOON, 0), ("b", None, 2.5, None, None, NOON, 1)]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_parquet_times_become_utc(tmp_path: Path, unit: str, zone: str | None) -> None:
    at = pl.Series([NAIVE], dtype=pl.Datetime).dt.replace_time_zone("UTC")
    at = at.dt.convert_time_zone(zone) if zone else at.dt.replace_time_zone(None)
    data = frame(n=5.0, v=float("nan"), extra=1).with_columns(at.dt.cast_time_unit(unit).alias("at"))  # type: ignore[arg-type]
    table = rows(tmp_path, "a.parquet", parquet(tmp_path, data))
    assert table.rows() == [("a", 5, None, True, NOON.date(), NOON, 0)]


@pytest.mark.parametrize(("name", "pack"), [("a.csv.gz", gzip.compress), ("A.CSV.BZ2", bz2.compress)])
def test_compressed(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    delivery = read(tmp_path, name, pack((HEADER + ROW).encode()))
    assert delivery.tables["events"].height == 1
    assert (delivery.truncated_at, delivery.note) == (None, None)


def test_a_cut_compressed_file_lands_its_whole_lines(tmp_path: Path) -> None:
    data = (HEADER + "".join(f"{i},1,1,1,,2026-03-01\n" for i in range(9_000))).encode()
    packed = gzip.compress(data)
    delivery = read(tmp_path, "a.csv.gz", packed[: len(packed) // 2])
    size = delivery.truncated_at
    assert size is not None
    assert 0 < size < len(data)
    whole = data[:size].count(b"\n") - 1
    assert delivery.tables["events"]["id"].to_list() == [str(i) for i in range(whole)]
    assert delivery.note == f"its compressed data is cut: the last whole line ends at byte {size}"


@pytest.mark.skipif(not CLICKS.exists(), reason="the folder of real click files is absent")
def test_real_clicks(tmp_path: Path) -> None:
    schema: dict[str, DataType] = {
        "timestamp": UTC_US,
        "item_id": pl.Int64,
        "click": pl.Int8,
        "propensity_score": pl.Float64,
    }
    clicks = Source("clicks", schema=schema, event_timestamp="timestamp")
    table = TabularReader(clicks, scratch=tmp_path).read(CLICKS).tables["clicks"]
    assert table.height == 10_000
    first, last = table["timestamp"].sort().gather([0, -1]).dt.date().to_list()
    assert (str(first), str(last)) == ("2019-11-24", "2019-11-30")


@pytest.mark.skipif(not FRAUD.exists(), reason="the folder of real transactions is absent")
def test_real_transactions(tmp_path: Path) -> None:
    schema: dict[str, DataType] = {"TX_DATETIME": UTC_US, "CUSTOMER_ID": pl.String, "TX_FRAUD": pl.Boolean}
    source = Source("transactions", schema=schema, event_timestamp="TX_DATETIME")
    table = TabularReader(source, scratch=tmp_path).read(FRAUD).tables["transactions"]
    assert (table.height, table["TX_FRAUD"].sum()) == (288_062, 1_702)


# -------------------------------------------------------------------------- what does not fit


def test_a_missing_key_column_names_what_is_missing_and_what_there_is(tmp_path: Path) -> None:
    error = complaint(tmp_path, "a.csv", "n,v,ok,day,at\n1,1,1,,2026-03-01\n")
    assert error.reason == "it lacks column(s) ['id']; it has ['n', 'v', 'ok', 'day', 'at']"
    error = complaint(tmp_path, "a.ndjson", '{"id": "a"}\n')
    assert error.reason == "it lacks column(s) ['n', 'v', 'ok', 'day', 'at']; it has ['id']"
    error = complaint(tmp_path, "a.parquet", parquet(tmp_path, frame().drop("id", "v")))
    assert error.reason == "it lacks column(s) ['id', 'v']; it has ['n', 'ok', 'day', 'at']"


def test_rows_without_event_time_reject_the_file(tmp_path: Path) -> None:
    error = complaint(tmp_path, "a.csv", HEADER + ROW + "b,1,1,1,,\n" * 2)
    assert error.reason == "2 row(s) have no 'at', first row 1: every event needs its time"


@pytest.mark.parametrize(
    ("column", "text", "kind"),
    [
        ("n", "1.5", "Int64"),
        ("n", "x", "Int64"),
        ("v", "1,5", "Float64"),
        ("ok", "maybe", "Boolean"),
        ("day", "x", "Date"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_row(tmp_path: Path, column: str, text: str, kind: str) -> None:
    fields = {"id": "a", "n": "1", "v": "1", "ok": "1", "day": "", "at": "2026-03-01"} | {column: f'"{text}"'}
    error = complaint(tmp_path, "a.csv", HEADER + ROW + ",".join(fields.values()) + "\n")
    assert error.reason == f"column {column!r}, row 1: {text!r} is not {kind}"


@pytest.mark.parametrize("text", ["yesterday", "2026-02-30", "2026-03-01T25:00:00", "01.03.2026"])
def test_no_time_is_named_with_its_row(tmp_path: Path, text: str) -> None:
    error = complaint(tmp_path, "a.csv", HEADER + ROW + f"a,1,1,1,,{text}\n")
    assert error.reason.startswith(f"column 'at', row 1: {text!r} is not Datetime")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (ROW + "a,1\n", "line 3 has 2 field(s), the header 6"),
        (ROW + "a,1", "line 3 has 2 field(s), the header 6"),
        (ROW + ROW.strip() + ",extra\n", "line 3 has 7 field(s), the header 6"),
        (ROW + '"a,1,1,1,,2026-03-01\n', "line 3 has 1 field(s), the header 6"),
    ],
)
def test_a_broken_csv_line_is_named(tmp_path: Path, lines: str, reason: str) -> None:
    assert complaint(tmp_path, "a.csv", HEADER + lines).reason == reason


def test_a_short_line_hides_in_no_column(tmp_path: Path) -> None:
    """The declared columns are all there; what the line lacks comes after them."""
    data = "id,n,v,ok,day,at,x,y\n" + "a,1,1,1,,2026-03-01,,\n" + "a,1,1,1,,2026-03-01,\n"
    assert complaint(tmp_path, "a.csv", data).reason == "line 3 has 7 field(s), the header 8"


def test_other_encodings_are_named_with_their_byte(tmp_path: Path) -> None:
    error = complaint(tmp_path, "a.csv", HEADER.encode() + "ü".encode("latin-1") + ROW.encode())
    assert (error.reason, error.offset) == ("not UTF-8: byte 0xfc; save it as UTF-8", len(HEADER))


@pytest.mark.parametrize("line", ['{"id":', "[1]", "hello", '{"id": "a"} {"id": "b"}'])
def test_a_broken_json_line_is_named_with_its_byte(tmp_path: Path, line: str) -> None:
    good = '{"id":"a","n":1,"v":1,"ok":true,"day":null,"at":"2026-03-01"}\n'
    error = complaint(tmp_path, "a.ndjson", good + line + "\n")
    assert error.reason.startswith("line 2 is not a JSON object: ")
    assert error.offset == len(good)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"n": 1.5}, "column 'n', row 0: 1.5 is not Int64"),
        ({"n": [1]}, "source 'events': a column has the wrong type"),
        ({"at": 5}, "column 'at' is Int64, not a time"),
        ({"at": None}, "1 row(s) have no 'at'"),
    ],
)
def test_parquet_columns_of_other_types_are_named(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    assert complaint(tmp_path, "a.parquet", parquet(tmp_path, frame(**change))).reason.startswith(reason)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.ndjson", "a.csv.gz"])
def test_empty_files(tmp_path: Path, name: str) -> None:
    error = complaint(tmp_path, name, b"")
    assert (error.reason, error.offset) == ("the file is empty", 0)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.csv", b"\n\n", "it cannot be read: empty CSV"),
        ("a.csv.gz", gzip.compress(HEADER.encode())[:-12], "its compressed data is cut before its first whole line"),
        ("a.parquet", b"PAR1 but no more", "it cannot be read"),
    ],
)
def test_no_rows_at_all(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    assert complaint(tmp_path, name, data).reason.startswith(reason)


def test_a_cut_parquet_file_is_unreadable(tmp_path: Path) -> None:
    data = parquet(tmp_path, frame())
    assert complaint(tmp_path, "a.parquet", data[:-9]).reason.startswith("it cannot be read")


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.ndjson"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnreadableFile, match="cannot open"):
        TabularReader(EVENTS).read(tmp_path / name)
