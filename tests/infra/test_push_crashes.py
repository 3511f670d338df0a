"""Pushes that are killed, repeated or made at once: nothing acknowledged is lost, nothing is there twice.

Children are killed by SIGKILL exactly before or after one commit and run again; then every table, the
online store and the push log hold what an undisturbed run leaves, to the row and the stamp.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

import push_child
from card_payments import HOUR, last_payment, payments
from children import KILLED, run, run_at_once, tables
from crash_child import payments_of
from features.feature_rows import CREATED, EVENT
from infra.storage.lmdb_store import LmdbOnlineStore
from infra.storage.push_log import LmdbPushLog
from push_child import BEGIN, PUSHES, open_store, pushed

CHILD = "push_child.py"
TABLE = last_payment.table_id
CARDS = [(card,) for card in (0, 1, 2, 7)]
REF = "last_payment:amount_last"

FEATURES = "append lake/features/last_payment/v1"
LOG, ONLINE = "write push_log", "write online"
RUN = [LOG, *[FEATURES] * 3]  # its stamp kept from pushers, opened, one chunk, closed
FOLD = [LOG, FEATURES, "append lake/publish_log", FEATURES, FEATURES, LOG]
COMMITS = [
    *[LOG, "create lake/bronze/payments", "append lake/bronze/payments"],
    *["create lake/registry/groups", "append lake/registry/groups", "create lake/features/last_payment/v1", *RUN],
    *[LOG, ONLINE],
    *[ONLINE, "create lake/publish_log", "append lake/publish_log"],
    *[LOG, ONLINE],
    *FOLD,
    *[LOG, ONLINE],
    *["append lake/bronze/payments"],
    *[LOG, *FOLD, *RUN],
    *[ONLINE, "append lake/publish_log"],
]


def content(home: Path) -> dict[str, list]:
    """Every row of every Delta table, of the online store and of the push log; what was served at each step."""
    found = tables(home)  # the push log has a name of its own in each home, which rows do not show
    online, log = LmdbOnlineStore(home / "online"), LmdbPushLog(home / "push_log")
    found["online"] = [*online.read(TABLE, CARDS), *online.publications(TABLE), online.pushed(TABLE)]
    found["push log"] = log.read(TABLE, {"card_id": pl.Int64(), EVENT: pl.Datetime("us", "UTC")}, None, None).rows()
    online.close()
    log.close()
    with open_store(home, BEGIN + len(push_child.STEPS) * HOUR) as store:
        moments = [BEGIN + number * HOUR for number in range(len(push_child.STEPS) + 1)]
        asked = pl.DataFrame({"card_id": [c for (c,) in CARDS]}).join(pl.DataFrame({EVENT: moments}), how="cross")
        served = store.get_historical_features(asked, [REF], history="as_served")
        found["as served"] = list(zip(*served.to_polars(), served.statuses["amount_last"], strict=True))
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[list[str], dict[str, list]]:
    """What an undisturbed child commits, and what it leaves."""
    home = tmp_path_factory.mktemp("undisturbed") / "home"
    _, printed = run(CHILD, "steps", home)
    return [text for text in printed if not text.isdigit()], content(home)


def test_these_are_the_commits_and_this_is_what_they_leave(undisturbed):
    commits, left = undisturbed
    assert commits == COMMITS
    assert left["push log"] == []
    assert [status for *_, status in left["as served"] if status == "PRESENT"]


FIRST_PUSH = COMMITS.index(ONLINE) - 1
QUICK = {11, 12, 18, 19, 21, 22}  # the push is logged, online; the fold open, published, filled, closed


@pytest.mark.parametrize(
    ("when", "number"),
    [
        pytest.param(when, number, id=f"{when}-{number}-{what}", marks=marks)
        for number, what in enumerate(COMMITS, 1)
        for when in ("before", "after")
        if number > FIRST_PUSH
        for marks in [() if number in QUICK and when == "after" else (pytest.mark.prove,)]
    ],
)
def test_killed_at_a_commit_and_run_again_leaves_what_an_undisturbed_run_leaves(tmp_path, undisturbed, when, number):
    home = tmp_path / "home"
    code, printed = run(CHILD, "steps", home, 0, when, number)
    assert code == KILLED
    push_child.run_steps(home, int(printed[-1]))
    assert content(home) == undisturbed[1]


@pytest.mark.parametrize("recover", ["sync", "fold", "materialize_incremental"])
def test_a_push_killed_before_it_was_online_gets_there_without_being_pushed_again(tmp_path, recover):
    home = tmp_path / "home"
    number = FIRST_PUSH + 1
    assert run(CHILD, "steps", home, 0, "after", number)[0] == KILLED  # logged, not online
    asked = [{"card_id": 0}]
    with open_store(home, BEGIN + 3 * HOUR) as store:
        assert store.get_online_features([REF], asked).statuses["amount_last"] == ["NOT_FOUND"]
        getattr(store, recover)(last_payment)
    with open_store(home, BEGIN + 4 * HOUR) as store:
        assert store.get_online_features([REF], asked).to_dict()["amount_last"] == [1.0]
        for hours, value in ((2.5, None), (3.5, 1.0), (4, 1.0)):
            rows = [{"card_id": 0, EVENT: BEGIN + hours * HOUR}]
            found = store.get_historical_features(rows, [REF], history="as_served")
            assert found.to_polars()["amount_last"].to_list() == [value]


def test_pushers_and_a_runner_at_once_lose_nothing_and_keep_nothing_twice(tmp_path):
    home = tmp_path / "home"
    with open_store(home, BEGIN) as store:
        store.write_source(payments, payments_of(0))
        store.materialize_incremental(last_payment)  # makes the tables that all of them use
    run_at_once(CHILD, home, [("pushers", 0), ("pushers", 1), ("runner", 0)])
    with open_store(home, BEGIN + 9 * HOUR) as store:
        store.fold(last_payment)
        store.sync(last_payment)
        rows = store.offline.table(f"features/{TABLE}").scan().collect()
        mine = rows.filter(pl.col("card_id") >= 100).sort("card_id")
        own = [100 * (pusher + 1) + number for pusher in range(2) for number in range(PUSHES)]
        assert mine["card_id"].to_list() == own
        shared = rows.filter(
            pl.col(EVENT) == pushed((0, 2.5, 0.0))[EVENT][0], pl.col("amount_last") == pl.col("card_id")
        )
        assert set(range(3, PUSHES)) <= set(shared["card_id"])
        assert not rows.select("card_id", EVENT, CREATED).is_duplicated().any()
        found = store.get_online_features([REF], [{"card_id": card} for card in own])
        assert found.to_dict()["amount_last"] == [float(card % 100) for card in own]
        assert store.fold(last_payment).plan is None
