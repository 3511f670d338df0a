"""Whatever is killed, repeated or run at once: every table holds what an undisturbed run leaves, to the row.

Children are killed by SIGKILL exactly before or after one commit and run again. Nothing is left out of
the comparison: plans and moments are frozen when a run begins, so even the stamps are the same.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import crash_child
from card_payments import DAY, T0, last_payment, payments
from children import KILLED, run, run_at_once, run_for, tables
from crash_child import BATCHES, CARDS, payments_of, spending
from features.feature_rows import DELETED
from infra import connect
from infra.ledger import INGESTED, REJECTED, TRUNCATED, Ledger
from infra.storage.delta import DeltaLake
from infra.storage.lmdb_store import LmdbOnlineStore
from support_stdf import Stdf

CHILD = "crash_child.py"
BUSY = "features.errors.ConcurrentRun"
"""What a child says that another was faster than."""

PLAN = "append lake/features/spending/v1"  # opened, chunk by chunk, closed
TILES = "append lake/tiles/spending/v1"
LEDGER = "append lake/ingest_ledger"
VERDICTS = "append lake/quality/verdicts"
SOURCES = ("wafers", "parts", "test_results")
BATCH = [LEDGER, *(f"append lake/bronze/{name}" for name in SOURCES), VERDICTS, LEDGER]
DAYS = [f"{verb} lake/quality/days/{name}" for name in SOURCES for verb in ("create", "append")]
COMMITS = {
    "features": [
        *["create lake/bronze/payments", "append lake/bronze/payments"],
        *["create lake/registry/groups", "append lake/registry/groups"],
        *["create lake/features/spending/v1", PLAN, "create lake/tiles/spending/v1", TILES, TILES, *[PLAN] * 6],
        *["write online", "create lake/publish_log", "append lake/publish_log"],
        *["append lake/bronze/payments", PLAN, TILES, TILES, *[PLAN] * 8],
        *["write online", "append lake/publish_log"],
    ],
    "ingest": [
        *["create lake/ingest_ledger", LEDGER],
        *["create lake/bronze/wafers", "append lake/bronze/wafers"],
        *["create lake/bronze/parts", "append lake/bronze/parts"],
        *["create lake/quarantine/test_results", "append lake/quarantine/test_results"],
        *["create lake/bronze/test_results", "append lake/bronze/test_results"],
        *["create lake/quality/verdicts", VERDICTS, LEDGER],
        *BATCH,
        *BATCH,
        *DAYS,
    ],
    # What finishes a batch of which one table was filled, when one of its two files is gone.
    "withdraw": [
        *["create lake/bronze/parts", "append lake/bronze/parts"],
        *["create lake/bronze/test_results", "append lake/bronze/test_results"],
        *["create lake/quality/verdicts", VERDICTS, LEDGER, "delete lake/bronze/wafers"],
        *BATCH,
        *BATCH,
        *DAYS,
    ],
    # What lets a quarantined row in: decided, then done.
    "release": ["create lake/quality/decisions", "append lake/quality/decisions", "append lake/bronze/test_results"],
}
LONG = ("ingest", "withdraw", "release")  # their children import Great Expectations
QUICK = {
    "features": {
        ("before", 4),
        ("after", 6),
        ("after", 8),
        ("before", 12),
        ("after", 16),
        ("after", 21),
        ("after", 25),
    },
    "ingest": {("after", 4), ("before", 29)},
    "withdraw": set(),
    "release": {("after", 2)},
}
POINTS = [
    pytest.param(line, when, number, id=f"{line}-{when}-{number}-{what}", marks=marks)
    for line, commits in COMMITS.items()
    for number, what in enumerate(commits, 1)
    for when in ("before", "after")
    for marks in [() if (when, number) in QUICK[line] else (pytest.mark.prove,)]
]


def content(home: Path) -> dict[str, list]:
    """Every row of every Delta table and of the online store, in an order of its own."""
    found = tables(home)
    if (home / "online").exists():
        online, table = LmdbOnlineStore(home / "online"), spending.table_id
        found["online"] = [*online.read(table, [(card,) for card in range(CARDS)]), *online.publications(table)]
        online.close()
    return found


def wafer_file(lot: str, readings: Sequence[float]) -> Stdf:
    """A file of one wafer whose parts have one reading of vdd each."""
    file = Stdf().mir(lot).wcr(200, 5, 4, 3).wir()
    for x, volts in enumerate(readings):
        file.pir().ptr(volts, limits=(1.0, 1.4)).prr(str(x), xy=(x, 0), test_ms=100)
    return file.wrr().mrr()


def fill_landing(folder: Path) -> None:
    """Good files, one with a row for quarantine, one cut in mid-record, one that is corrupt."""
    folder.mkdir(parents=True)
    cut = wafer_file("C", [1.1, 1.2, 1.3])
    files = [
        wafer_file("A", [1.2] * 20).data,
        wafer_file("B", [1.2] * 30 + [9.0]).data,
        cut.data[: cut.ends[-4] + 5],
        wafer_file("D", [1.2]).data[:6] + b"junk" * 50,
        wafer_file("E", [1.25]).data,
    ]
    for number, data in enumerate(files, 1):
        (folder / f"{number}.stdf").write_bytes(data)


class Bench:
    """A folder with a landing folder and homes beside it, and what an undisturbed run leaves."""

    def __init__(self, folder: Path, line: str) -> None:
        self.folder = folder
        self.line = "ingest" if line == "withdraw" else line
        self._start = folder / "start" / "home"
        fill_landing(folder / "landing")
        self._start.mkdir(parents=True)
        if line == "withdraw":
            assert run(CHILD, "ingest", self._start, 0, "after", 4)[0] == KILLED
            (folder / "landing" / "2.stdf").unlink()
        if line == "release":
            crash_child.run_ingest(self._start)
        crash_child.LINES[self.line](home := self.home("undisturbed"))
        self.content = content(home)

    def commits(self) -> list[str]:
        """What an undisturbed child commits."""
        _, printed = run(CHILD, self.line, self.home("counted"))
        return [text for text in printed if not text.isdigit()]

    def home(self, name: str) -> Path:
        home = self.folder / name / "home"
        shutil.copytree(self._start, home)
        return home

    def finish(self, home: Path, first: int = 0) -> dict[str, list]:
        """Run the rest of the line in this process; what the home holds then."""
        crash_child.LINES[self.line](home, first)
        return content(home)


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Callable[[str], Bench]:
    benches: dict[str, Bench] = {}

    def get(line: str) -> Bench:
        if line not in benches:
            benches[line] = Bench(tmp_path_factory.mktemp(line), line)
        return benches[line]

    return get


@pytest.mark.parametrize("line", ["features", *(pytest.param(line, marks=pytest.mark.prove) for line in LONG)])
def test_these_are_the_commits(bench, line):
    assert bench(line).commits() == COMMITS[line]


def test_an_undisturbed_ingest_met_everything(bench):
    home = bench("ingest").folder / "undisturbed" / "home"
    entries = Ledger(DeltaLake(home / "lake")).entries().sort("path")
    assert entries["status"].to_list() == [INGESTED, INGESTED, TRUNCATED, REJECTED, INGESTED]
    assert entries["quarantined"].to_list() == [0, 1, 0, 0, 0]


@pytest.mark.parametrize(("line", "when", "number"), POINTS)
def test_killed_at_a_commit_and_run_again_leaves_what_an_undisturbed_run_leaves(bench, line, when, number):
    here = bench(line)
    home = here.home(f"{when}-{number}")
    code, steps = run(CHILD, here.line, home, 0, when, number)
    assert code == KILLED
    assert here.finish(home, int(steps[-1])) == here.content
    shutil.rmtree(home.parent)


@pytest.mark.prove
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("line", ["features", "ingest"])
def test_killed_at_any_moment_and_run_again_leaves_what_an_undisturbed_run_leaves(bench, line, seed):
    here = bench(line)
    home = here.home(f"moment-{seed}")
    # Any moment will do: in the midst of a write, of a commit.
    printed = run_for(random.Random(seed).uniform(0, 1.5), CHILD, line, home)
    steps = [text for text in printed if text.isdigit()]
    assert here.finish(home, int(steps[-1]) if steps else 0) == here.content


def test_two_ingests_at_once_take_each_file_once(bench):
    here = bench("ingest")
    home = here.home("at-once")
    assert 0 in run_at_once(CHILD, home, [("ingest", 0)] * 2, BUSY)
    assert content(home) == here.content
    assert here.finish(home) == here.content


def test_two_backfills_of_a_group_at_once_emit_each_row_once(bench):
    here = bench("features")
    home, alone = here.home("at-once"), here.home("alone")
    for one in (home, alone):
        crash_child.run_features(one, 0, 1)
    crash_child.run_backfill(alone)
    assert 0 in run_at_once(CHILD, home, [("backfill", 0)] * 2, BUSY)
    crash_child.run_backfill(home)
    assert content(home) == content(alone)


WRITERS = 4


def test_writers_at_once_lose_nothing_and_write_nothing_twice(bench):
    home = bench("features").home("writers")
    assert run_at_once(CHILD, home, [("writers", writer) for writer in range(WRITERS)]) == [0] * WRITERS
    rows = DeltaLake(home / "lake").scan_source("payments").collect()
    own = {
        10_000 * (writer + 1) + 100 * batch + i
        for writer in range(WRITERS)
        for batch in range(BATCHES)
        for i in range(12)
    }
    shared = [i for i in range(12) for _ in range(BATCHES)]
    assert sorted(rows["payment_id"]) == sorted([*own, *shared])


def test_a_file_gone_or_changed_in_an_open_batch_is_withdrawn_with_what_was_made_of_it(tmp_path):
    home, landing = tmp_path / "case" / "home", tmp_path / "landing" / "payments"
    landing.mkdir(parents=True)
    for day in range(2):
        payments_of(day).write_csv(landing / f"{day}.csv")
    assert run(CHILD, "ingest", home, 0, "after", 4)[0] == KILLED  # both files' rows are in bronze, the batch is open
    with crash_child.open_store(home, T0 + 2 * DAY) as store:
        assert store.materialize_incremental(last_payment).rows == 25
        gone = (landing / "0.csv").read_text()
        (landing / "0.csv").unlink()
        payments_of(1).tail(11).write_csv(landing / "1.csv")
        crash_child.run_ingest(home)
        entries = Ledger(store.offline).entries()
        assert entries["status"].to_list() == [REJECTED, REJECTED, INGESTED]
        assert entries["reason"][0].startswith("cannot open '0.csv': no such file or directory, though it was there")
        assert entries["reason"][1] == "its content changed after it was listed; deliver it again"
        held = store.offline.scan_source("payments").collect()
        assert held.select(*payments.schema).sort("at").equals(payments_of(1).tail(11).sort("at"))
        store.materialize_incremental(last_payment)
        standing = store.current_rows(last_payment).collect()
        assert sorted(standing["event_timestamp"]) == sorted(held["at"])
        table = store.offline.table("features/last_payment/v1").scan()
        assert table.filter(DELETED).collect().height == 25 - 11
        (landing / "0.csv").write_text(gone)
        crash_child.run_ingest(home)
        assert Ledger(store.offline).entries()["status"].to_list()[-1] == INGESTED
        store.materialize_incremental(last_payment)
        assert store.current_rows(last_payment).collect().height == 22


def test_a_home_opened_twice_is_shared_and_outlives_the_first_to_close(tmp_path):
    first, second = (connect(crash_child.REGISTRY, tmp_path, clock=lambda: T0 + DAY) for _ in range(2))
    first.write_source(payments, payments_of(0))
    second.materialize(last_payment, T0, T0 + DAY)
    first.sync(last_payment)
    first.close()
    answer = second.get_online_features(["last_payment:amount_last"], [{"card_id": 0}])
    assert answer.to_dict()["amount_last"] == [9.0]
    second.write_source(payments, payments_of(1).head(0))
    second.close()
