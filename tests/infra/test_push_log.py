"""The push log: what was pushed comes back as it was, in its order, whoever wrote it."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import StorageError
from features.stores import PushEnds
from features.times import UTC_US
from infra.storage.push_log import LmdbPushLog

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)
DTYPES = {
    "card_id": pl.Int64(),
    "event_timestamp": UTC_US,
    "small": pl.Int8(),
    "amount": pl.Float64(),
    "thin": pl.Float32(),
    "fine": pl.Boolean(),
    "shop": pl.String(),
    "raw": pl.Binary(),
    "day": pl.Date(),
    "price": pl.Decimal(38, 9),
    "times": pl.List(UTC_US),
    "grid": pl.List(pl.List(pl.Float64())),
}
ROW = {
    "card_id": 2**62,
    "event_timestamp": NOON - TICK,
    "small": -128,
    "amount": float("nan"),
    "thin": 0.1,
    "fine": True,
    "shop": "Ä\x00b",
    "raw": b"\xff\x00",
    "day": date(1969, 7, 20),
    "price": Decimal("-12345678901234567890.123456789"),
    "times": [NOON, None],
    "grid": [[1.0, None], [], None],
}


@pytest.fixture
def log(tmp_path):
    log = LmdbPushLog(tmp_path / "push_log")
    yield log
    log.close()


def frame(*rows):
    return pl.DataFrame(list(rows), schema=DTYPES)


def append(log, rows, floor=NOON, table="g/v1", served=None, push_id=None):
    return log.append(table, rows, floor=floor, served=served, push_id=push_id)


def numbers(log, table="g/v1", after=None, through=None):
    return log.read(table, {"card_id": pl.Int64()}, after, through)["card_id"].to_list()


def test_rows_of_every_type_come_back_bit_for_bit(log):
    rows = frame(ROW, dict.fromkeys(DTYPES), ROW | {"amount": float("-inf"), "shop": "", "times": []})
    stamp = append(log, rows)
    found = log.read("g/v1", DTYPES, None, None)
    assert found.drop("created_timestamp").equals(rows)
    assert found["created_timestamp"].to_list() == [stamp] * 3
    assert found.schema == {"created_timestamp": UTC_US, **DTYPES}


def test_pushes_of_other_columns_and_types_are_read_as_the_table_has_them_now(log):
    append(log, pl.DataFrame({"card_id": [1], "small": [5]}, schema_overrides={"small": pl.Int8}))
    append(log, pl.DataFrame({"card_id": [2, 3], "gone": [5, 6]}))
    append(log, pl.DataFrame({"card_id": [4], "small": [300]}))
    found = log.read("g/v1", {"card_id": pl.Int64(), "small": pl.Int32()}, None, None)
    assert found.drop("created_timestamp").rows() == [(1, 5), (2, None), (3, None), (4, 300)]
    assert found.schema["small"] == pl.Int32


def test_stamps_only_grow_and_none_is_given_twice(log):
    assert [append(log, frame(ROW)), append(log, frame(ROW))] == [NOON, NOON + TICK]
    assert append(log, frame(ROW), NOON + 5 * TICK) == NOON + 5 * TICK
    assert append(log, frame(ROW), table="g/v2") == NOON


def test_a_stamp_kept_for_a_run_is_given_to_no_push(log):
    append(log, frame(ROW))
    assert log.reserve("g/v1", NOON - TICK) == NOON + TICK
    assert log.reserve("g/v1", NOON - TICK) == NOON + TICK  # the run is begun again
    assert append(log, frame(ROW)) == NOON + 2 * TICK
    assert log.reserve("g/v1", NOON + 9 * TICK) == NOON + 9 * TICK
    assert log.reserve("g/v1", NOON) == NOON + 3 * TICK  # a clock that stepped back
    assert append(log, frame(ROW)) == NOON + 10 * TICK


def test_what_is_read_lies_after_one_stamp_and_up_to_another(log):
    stamps = [append(log, frame(ROW | {"card_id": n})) for n in range(4)]
    append(log, frame(ROW | {"card_id": 9}), table="g/v10")
    append(log, frame(ROW | {"card_id": 9}), table="f/v1")
    assert numbers(log) == [0, 1, 2, 3]
    assert numbers(log, after=stamps[0], through=stamps[2]) == [1, 2]
    assert log.ends("g/v1") == PushEnds(stamps[0], stamps[3], None)
    log.drop("g/v1", stamps[1])
    assert numbers(log) == [2, 3]
    assert log.ends("g/v1") == PushEnds(stamps[2], stamps[3], None)
    log.drop("g/v1", stamps[3])
    assert log.ends("g/v1") == PushEnds(None, None, None)
    assert append(log, frame(ROW)) > stamps[3]
    assert (numbers(log, "g/v10"), numbers(log, "f/v1")) == ([9], [9])


def test_it_remembers_what_was_served(log):
    append(log, frame(ROW))
    log.serve("g/v1", NOON)
    assert log.ends("g/v1").served == NOON
    append(log, frame(ROW), served=NOON - TICK)
    assert log.ends("g/v1").served == NOON
    append(log, frame(ROW), served=NOON + TICK)
    assert log.ends("g/v1").served == NOON + TICK


def test_new_stamps_keep_the_order_and_the_ids(log):
    for number in range(3):
        append(log, frame(ROW | {"card_id": number}), push_id=str(number))
    log.restamp("g/v1", NOON, NOON + TICK)  # none is older
    assert log.ends("g/v1").newest == NOON + 2 * TICK
    log.restamp("g/v1", NOON, NOON + 2 * TICK)
    assert numbers(log) == [0, 1, 2]
    stamps = log.read("g/v1", {}, None, None)["created_timestamp"].to_list()
    assert stamps == [NOON, NOON + 3 * TICK, NOON + 4 * TICK]
    assert [append(log, frame(ROW), push_id=str(number)) for number in range(3)] == [None] * 3


def test_ids_are_remembered_for_a_week_after_their_push_was_folded(log):
    assert append(log, frame(ROW), push_id="a") == NOON
    assert append(log, frame(ROW), table="g/v2", push_id="a") == NOON
    log.drop("g/v1", NOON + timedelta(days=7) - TICK)
    assert append(log, frame(ROW), push_id="a") is None
    log.drop("g/v1", NOON + timedelta(days=7))
    assert append(log, frame(ROW), push_id="a") == NOON + TICK


def test_a_log_opened_again_is_the_same_one_and_another_folder_another(log, tmp_path):
    append(log, frame(ROW))
    again, other = LmdbPushLog(tmp_path / "push_log"), LmdbPushLog(tmp_path / "other")
    assert again.read("g/v1", DTYPES, None, None).height == 1
    assert again.name == log.name != other.name
    again.close()
    other.close()


def test_a_closed_log_and_a_damaged_one_say_so(tmp_path):
    log = LmdbPushLog(tmp_path / "log")
    log.close()
    with pytest.raises(StorageError, match=r"the push log in .* is closed: open it again"):
        log.ends("g/v1")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "data.mdb").write_bytes(b"junk" * 5000)
    with pytest.raises(StorageError, match=r"push log .*bad: .* keep a copy of the folder"):
        LmdbPushLog(tmp_path / "bad")


def test_one_pusher_of_a_table_at_a_time(log):
    entered, order = threading.Event(), []

    def second():
        entered.set()
        with log.lock("g/v1"):
            order.append("second")

    thread = threading.Thread(target=second)
    with log.lock("g/v1"), log.lock("g/v2"):
        thread.start()
        entered.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


values = st.fixed_dictionaries(
    {
        "card_id": st.integers(-(2**63), 2**63 - 1),
        "amount": st.none() | st.floats(width=64),
        "shop": st.none() | st.text(max_size=5),
        "times": st.none() | st.lists(st.none() | st.integers(0, 2**50), max_size=3),
    }
)


@settings(max_examples=50, deadline=None)
@given(pushes=st.lists(st.lists(values, min_size=1, max_size=3), min_size=1, max_size=4))
def test_whatever_is_pushed_comes_back(tmp_path_factory, pushes):
    dtypes = {"card_id": pl.Int64(), "amount": pl.Float64(), "shop": pl.String(), "times": pl.List(pl.Int64())}
    frames = [pl.DataFrame(rows, schema=dtypes) for rows in pushes]
    log = LmdbPushLog(tmp_path_factory.mktemp("log"))
    for rows in frames:
        append(log, rows)
    assert log.read("g/v1", dtypes, None, None).drop("created_timestamp").equals(pl.concat(frames))
    log.close()
