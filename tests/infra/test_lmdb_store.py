"""The LMDB store as a shared folder: processes, forks, kills, growth and damage."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import lmdb
import msgspec
import polars as pl
import pytest

from features.errors import StorageError
from features.stores import Publication
from features.times import UTC_US
from infra.storage.lmdb_store import LmdbOnlineStore

PROJECT = Path(__file__).resolve().parents[2]
GROUP = "wafer_aggregates/v1"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

# What the processes of these tests share: rows in which every value names the plan that wrote it.
PRELUDE = """
import os, sys, threading
from datetime import UTC, datetime
from pathlib import Path
import polars as pl
from features.stores import Publication
from infra.storage.lmdb_store import LmdbOnlineStore

GROUP = "wafer_aggregates/v1"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

def wafers(n, plan):
    values = [pl.lit(float(plan)).alias(f"f{i}") for i in range(10)]
    times = [pl.lit(NOON).alias("event_timestamp"), pl.lit(NOON.replace(year=2026 + plan)).alias("created_timestamp")]
    return pl.select(wafer=pl.int_range(n)).with_columns(*values, *times, _epoch=0, _deleted=False)

def publish(store, n, plan):
    return store.write(GROUP, ["wafer"], wafers(n, plan), Publication(GROUP, plan - 1, plan, NOON))

def say(*words):
    print(*words, flush=True)

store = LmdbOnlineStore(Path(sys.argv[1]), map_size=int(sys.argv[2]))
"""


def start(script: str, folder: Path, map_size: int = 1 << 24) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PRELUDE + script, str(folder), str(map_size)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=PROJECT)


def wafers(n: int, plan: int) -> pl.DataFrame:
    values = [pl.lit(float(plan)).alias(f"f{i}") for i in range(10)]
    times = {"event_timestamp": NOON, "created_timestamp": NOON.replace(year=2026 + plan)}
    rows = pl.select(wafer=pl.int_range(n)).with_columns(*values, _epoch=0, _deleted=False)
    return rows.with_columns(pl.lit(moment, UTC_US).alias(name) for name, moment in times.items())


def publish(store: LmdbOnlineStore, n: int, plan: int) -> int:
    return store.write(GROUP, ["wafer"], wafers(n, plan), Publication(GROUP, plan - 1, plan, NOON))


def plans_seen(store: LmdbOnlineStore, n: int) -> set[float | None]:
    """The values that are there, over all rows and features."""
    rows = store.read(GROUP, [(i,) for i in range(n)])
    return {value for found in rows for value in (found.values.values() if found else [None])}


# ---------------------------------------------------------------------------------------- killed writers

KILLED = """
data = Path(sys.argv[1]) / "data.mdb"
publish(store, 50_000, 1)
before = data.stat().st_mtime_ns

def kill():
    while not ({moment}):
        pass
    os.kill(os.getpid(), 9)

killer = threading.Thread(target=kill, daemon=True)
killer.start()
publish(store, 50_000, 2)
killer.join(60)
"""
WHILE_ROWS_ARE_PUT = "store._use.environment._writing.locked()"
WHILE_PAGES_GO_TO_DISK = "data.stat().st_mtime_ns != before"


@pytest.mark.parametrize("moment", [WHILE_ROWS_ARE_PUT, WHILE_PAGES_GO_TO_DISK], ids=["putting", "committing"])
def test_a_writer_killed_in_the_middle_leaves_all_of_its_transaction_or_nothing(tmp_path, moment):
    with start(KILLED.format(moment=moment), tmp_path / "online") as writer:
        assert writer.wait() == -signal.SIGKILL

    store = LmdbOnlineStore(tmp_path / "online")
    reached = store.watermark(GROUP)
    assert reached in (1, 2)
    assert [p.plan for p in store.publications(GROUP)] == list(range(1, reached + 1))
    assert plans_seen(store, 50_000) == {float(reached)}
    assert store.count(GROUP) == 50_000

    publish(store, 50_000, 2)  # the sync is run again
    assert plans_seen(store, 50_000) == {2.0}
    assert (store.watermark(GROUP), store.count(GROUP)) == (2, 50_000)
    store.close()


# ------------------------------------------------------------------------------------- several processes

READER = """
say(store.watermark(GROUP))
for _ in sys.stdin:
    rows = store.read(GROUP, [(i,) for i in range(50_000)])
    say(store.watermark(GROUP), *{value for row in rows for value in row.values.values()})
"""


def test_readers_in_other_processes_follow_a_map_that_grows(tmp_path):
    store = LmdbOnlineStore(tmp_path, map_size=1 << 16)
    with start(READER, tmp_path, map_size=1 << 16) as reader:
        assert reader.stdout.readline() == "0\n"
        for plan in (1, 2):
            assert publish(store, 50_000, plan) == 50_000
            reader.stdin.write("read\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == f"{plan} {float(plan)}\n"
        reader.stdin.close()
        assert reader.wait() == 0
    store.close()


def test_of_two_processes_that_sync_the_same_plan_one_publishes_it(tmp_path):
    script = "say('ready'); sys.stdin.readline(); say(publish(store, 20_000, 1))"
    with start(script, tmp_path) as one, start(script, tmp_path) as other:
        for process in (one, other):
            assert process.stdout.readline() == "ready\n"
        for process in (one, other):
            process.stdin.write("go\n")
            process.stdin.flush()
        assert sorted(int(p.stdout.readline()) for p in (one, other)) == [0, 20_000]
    store = LmdbOnlineStore(tmp_path)
    assert store.publications(GROUP) == [Publication(GROUP, 0, 1, NOON)]
    store.close()


FORKED = """
publish(store, 10_000, 1)
begun = threading.Event()
writing = threading.Thread(target=lambda: (begun.set(), publish(store, 100_000, 2)))
writing.start()
begun.wait()
child = os.fork()
keys = [(i,) for i in range(10_000)]
if child == 0:  # neither Polars nor a thread of the parent may be used here
    plans = {value for row in store.read(GROUP, keys) for value in row.values.values()}
    agrees = plans == {float(store.watermark(GROUP))}
    own = store._use.environment.pid == os.getpid()
    store.close()
    os._exit(0 if agrees and own else 1)
say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
writing.join()
say(store.watermark(GROUP), store.count(GROUP), publish(store, 10_000, 3))
"""


def test_a_forked_process_opens_its_own_and_leaves_the_parents_alone(tmp_path):
    with start(FORKED, tmp_path) as parent:
        out, _ = parent.communicate()
    assert out == "0\n2 100000 10000\n"
    store = LmdbOnlineStore(tmp_path)
    assert plans_seen(store, 10_000) == {3.0}
    store.close()


# ------------------------------------------------------------------------------------ within one process


def test_stores_of_one_folder_share_it_until_the_last_one_closes(tmp_path):
    folder = tmp_path / "online"
    first = LmdbOnlineStore(folder)
    (tmp_path / "link").symlink_to(folder)
    second, third = LmdbOnlineStore(tmp_path / "link"), LmdbOnlineStore(tmp_path / "online" / ".." / "online", "eu")
    publish(first, 10, 1)
    first.close()
    assert (second.count(GROUP), third.watermark(GROUP)) == (10, 1)
    second.close()
    third.close()
    again = LmdbOnlineStore(folder)
    assert plans_seen(again, 10) == {1.0}
    again.close()


def test_a_folder_deleted_and_made_again_is_another_store(tmp_path):
    old = LmdbOnlineStore(tmp_path / "online")
    publish(old, 10, 1)
    shutil.rmtree(tmp_path / "online")
    new = LmdbOnlineStore(tmp_path / "online")
    assert (new.watermark(GROUP), old.watermark(GROUP)) == (0, 1)
    old.close()
    assert publish(new, 5, 1) == 5
    new.close()


def test_threads_read_while_the_map_grows(tmp_path):
    store = LmdbOnlineStore(tmp_path, map_size=1 << 16)
    publish(store, 100, 1)
    done = threading.Event()
    answers: list[set[float | None]] = []

    def read() -> None:
        while not done.is_set():
            answers.append(plans_seen(store, 100))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    sizes = [publish(store, 2_000 * plan, plan) for plan in range(2, 8)]
    done.set()
    for reader in readers:
        reader.join()
    assert sizes == [2_000 * plan for plan in range(2, 8)]
    assert all(len(answer) == 1 and answer <= set(map(float, range(1, 8))) for answer in answers)
    store.close()


def test_a_transaction_that_fills_the_map_is_done_again_in_a_larger_one(tmp_path):
    store = LmdbOnlineStore(tmp_path, map_size=1 << 16)
    # A boolean takes a bit in a frame and a byte here, so the map is made too small beforehand.
    rows = wafers(2_000, 1).with_columns(pl.lit(value=True).alias(f"b{i}") for i in range(1_000))
    assert store.write(GROUP, ["wafer"], rows, Publication(GROUP, 0, 1, NOON)) == 2_000
    assert store.count(GROUP) == 2_000
    assert store.read(GROUP, [(1_999,)])[0].values["b999"] is True
    store.close()


def test_tables_made_in_turns_keep_their_rows(tmp_path):
    store = LmdbOnlineStore(tmp_path)
    tables = ["a/v1", "b/v1"]
    for table_id in tables:  # created without rows, so that the first load is not the last in the file
        store.write(table_id, ["wafer"], pl.DataFrame(), Publication(table_id, 0, 1, NOON))
    for n, table_id in ((30, "b/v1"), (20, "a/v1")):
        store.write(table_id, ["wafer"], wafers(n, n), Publication(table_id, 1, 2, NOON))
    assert [store.count(t) for t in tables] == [20, 30]
    assert [store.read(t, [(19,), (29,)])[1] is None for t in tables] == [True, False]
    store.close()


# ---------------------------------------------------------------------------------------- damaged folders


def open_and_close(folder: Path) -> None:
    LmdbOnlineStore(folder).close()


def test_a_file_that_is_not_lmdbs(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"garbage" * 4_000)
    with pytest.raises(StorageError, match=r"damaged or not LMDB's.*sync in full"):
        open_and_close(tmp_path)


def test_a_file_that_was_cut_short(tmp_path):
    store = LmdbOnlineStore(tmp_path)
    publish(store, 10_000, 1)
    store.close()
    os.truncate(tmp_path / "data.mdb", 500_000)
    with pytest.raises(StorageError, match=r"cut short.*sync in full"):
        open_and_close(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "online"):
        with pytest.raises(StorageError, match="check that the folder can be made and written"):
            open_and_close(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="check that the folder can be made and written"):
        open_and_close(tmp_path)
    tmp_path.chmod(0o700)


def test_the_folder_of_another_program_is_left_alone(tmp_path):
    with lmdb.open(str(tmp_path)) as env, env.begin(write=True) as txn:
        txn.put(b"mine", b"1")
    with pytest.raises(StorageError, match="another program's"):
        open_and_close(tmp_path)


def test_a_store_of_a_later_format_says_what_to_do(tmp_path):
    store = LmdbOnlineStore(tmp_path)
    publish(store, 1, 1)
    store.close()
    with lmdb.open(str(tmp_path)) as env, env.begin(write=True) as txn:
        (about,) = [key for key, _ in txn.cursor() if key[:5] == bytes(4) + b"f"]
        txn.put(about, msgspec.msgpack.encode([99, 1]))
    with pytest.raises(StorageError, match="update featurefab"):
        open_and_close(tmp_path)
