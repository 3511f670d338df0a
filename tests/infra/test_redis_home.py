"""A home whose online store is a Redis: the same story as with LMDB, answer for answer."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import polars as pl
import pytest

from card_payments import DAY, HOUR, T0
from features.errors import SettingsError, StorageError
from features.point_in_time import NOT_FOUND, PRESENT
from features.registry import Registry
from features.times import UTC_US
from infra.parity import check_parity
from infra.status import status
from infra.storage.redis_store import RedisOnlineStore
from infra.wiring import open_platform
from shop_payments import REFS, ROWS, checkout, payments, rows_of, spending, tills, typed
from valkey_servers import ValkeyServer, free_port

ALL = [spending, tills, checkout, typed]
CARDS = [{"card_id": n} for n in (1, 2, 3)]
TILLS = [{"shop_id": shop, "till": till} for shop, till in (("a", 1), ("b", 2), ("a", 12), ("a", 3))]


@pytest.fixture(scope="module")
def server():
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def redis(server, monkeypatch):
    """Settings for a home in an empty Redis."""
    with server.client() as client:
        client.flushall()
    monkeypatch.setenv("FEATUREFAB_ONLINE", "redis")
    monkeypatch.setenv("FEATUREFAB_REDIS_URL", server.url)


class Story:
    """A home, with a clock to turn."""

    def __init__(self, folder, definitions=ALL):
        self.now = T0 + 5 * DAY
        self.platform = open_platform(Registry(definitions), folder, lambda: self.now)
        self.store = self.platform.store

    def run(self):
        for group in (spending, tills):
            self.store.materialize_incremental(group)
            self.store.sync(group)

    def push(self, card_id, amount, at):
        rows = {"card_id": [card_id], "amount_last": [amount], "large": [amount > 50], "event_timestamp": [at]}
        return self.store.push("spending", pl.DataFrame(rows, schema_overrides={"event_timestamp": UTC_US}))

    def answers(self):
        """What is answered of everybody, an evicted row as what it is equal to."""
        cards = self.store.get_online_features(REFS, CARDS)
        places = self.store.get_online_features(["tills:amount_last"], TILLS)
        told = [cards.to_dict(), cards.statuses, places.to_dict(), places.statuses]
        return [{k: [NOT_FOUND if v == "OUTSIDE_MAX_AGE" else v for v in vs] for k, vs in t.items()} for t in told]

    def histories(self):
        """What was answered six hours apart, in both histories."""
        hours = range(0, 11 * 24, 6)
        rows = [(card, T0 + hour * HOUR) for card in (1, 2, 3) for hour in hours]
        asked = pl.DataFrame(rows, {"card_id": pl.Int64, "event_timestamp": UTC_US}, orient="row")
        told = [
            self.store.get_historical_features(asked, REFS, history=history).to_polars()["amount_last"].to_list()
            for history in ("as_served", "backfilled")
        ]
        assert all(any(value is not None for value in values) for values in told)
        return told

    def agrees(self):
        return {found.group: (found.entities > 0, found.agreement) for found in check_parity(self.store)}


AGREEMENT = {"spending": (True, 1.0), "tills": (True, 1.0)}


def story(home):
    """Runs, late rows, pushes, rows past their ttl, a fold; what was answered after each."""
    told = []
    store = home.store
    store.apply()
    store.write_source(payments, rows_of(*ROWS))
    home.run()
    told.append(home.answers())
    home.now += HOUR
    home.push(2, 99.0, home.now - timedelta(minutes=5))
    home.push(3, 7.0, T0)
    told.append(home.answers())
    store.write_source(payments, rows_of((1, "a", 1, 11.0, T0 + 3 * DAY), (2, "a", 12, 1.0, T0 + 2 * DAY)))
    home.now += HOUR
    home.run()
    told.append(home.answers())
    home.now += 6 * DAY  # some are past their ttl now
    told.append(home.answers())
    home.push(3, 8.0, home.now)
    store.fold(spending)
    home.run()
    told.append(home.answers())
    return told


@pytest.mark.usefixtures("redis")
def test_it_answers_what_a_home_on_lmdb_answers(tmp_path, monkeypatch):
    ours = Story(tmp_path / "redis")
    told = story(ours)
    assert isinstance(ours.store.online, RedisOnlineStore)
    assert not (tmp_path / "redis" / "online").exists()
    assert ours.agrees() == AGREEMENT
    ours.store.close()
    monkeypatch.setenv("FEATUREFAB_ONLINE", "lmdb")
    theirs = Story(tmp_path / "lmdb")
    assert told == story(theirs)
    theirs.store.close()


@pytest.mark.usefixtures("redis")
def test_a_home_that_changes_over_has_everything_after_its_first_sync(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATUREFAB_ONLINE", "lmdb")
    home = Story(tmp_path)
    story(home)
    before, histories, now = home.answers(), home.histories(), home.now
    home.store.close()
    monkeypatch.setenv("FEATUREFAB_ONLINE", "redis")
    monkeypatch.setenv("FEATUREFAB_ONLINE_TARGET", "lmdb")
    home = Story(tmp_path)
    home.now = now
    home.store.write_source(payments, rows_of((9, "z", 9, 9.0, T0)))  # so that there is something new to publish
    assert {s for answer in home.answers()[1::2] for found in answer.values() for s in found} == {NOT_FOUND}
    home.run()
    assert home.answers() == before
    assert home.histories() == histories
    assert home.agrees() == AGREEMENT
    assert {entry["group"]: entry["online_plan"] for entry in status(home.platform)["groups"]} == {
        group.name: home.store.online.publications(group.table_id)[-1].plan for group in (spending, tills)
    }
    home.store.close()


@pytest.mark.usefixtures("redis")
def test_a_longer_ttl_brings_expired_rows_back_with_the_next_sync(tmp_path):
    home = Story(tmp_path)
    home.now = T0 + 10 * DAY + HOUR  # card 2 is past ten days, card 1 is not
    home.store.write_source(payments, rows_of(*ROWS))
    home.run()
    assert home.store.get_online_features(REFS[1:], CARDS).statuses["large"] == [PRESENT, NOT_FOUND, NOT_FOUND]
    now = home.now
    home.store.close()
    longer = replace(spending, ttl="20d")
    home = Story(tmp_path, [longer, *ALL[1:]])
    home.now = now
    home.run()
    assert home.store.get_online_features(REFS[1:], CARDS).statuses["large"][:2] == [PRESENT, "NULL_VALUE"]
    home.store.close()


def test_pushes_wait_for_a_server_that_is_away(tmp_path, monkeypatch):
    with ValkeyServer() as server:
        monkeypatch.setenv("FEATUREFAB_ONLINE", "redis")
        monkeypatch.setenv("FEATUREFAB_REDIS_URL", server.url)
        home = Story(tmp_path)
        home.push(1, 1.0, home.now)
        server.kill()
        with pytest.raises(StorageError, match="pushed rows are safe in the push log but not online yet"):
            home.push(2, 2.0, home.now)
        with pytest.raises(StorageError, match="check that it runs"):
            home.store.sync(spending)
        server.start()  # it kept nothing
        home.store.sync(spending)
        assert home.store.get_online_features(REFS[:1], CARDS).to_dict()["amount_last"] == [1.0, 2.0, None]
        home.store.close()


@pytest.mark.usefixtures("redis")
def test_homes_of_one_server_are_kept_apart_by_their_namespaces(tmp_path, monkeypatch):
    first = Story(tmp_path / "first")
    first.push(1, 1.0, first.now)
    monkeypatch.setenv("FEATUREFAB_REDIS_NAMESPACE", "second")
    second = Story(tmp_path / "second")
    second.push(1, 2.0, second.now)
    asked = [home.store.get_online_features(REFS[:1], CARDS[:1]).to_dict()["amount_last"] for home in (first, second)]
    assert asked == [[1.0], [2.0]]
    first.store.close()
    second.store.close()


def test_a_redis_without_a_url_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATUREFAB_ONLINE", "redis")
    with pytest.raises(SettingsError, match="redis_url is not set: set FEATUREFAB_REDIS_URL"):
        Story(tmp_path)


def test_a_home_says_where_its_redis_is_without_the_password(tmp_path, monkeypatch):
    with ValkeyServer(port=free_port()) as server, server.client() as client:
        client.config_set("requirepass", "hidden")
        monkeypatch.setenv("FEATUREFAB_ONLINE", "redis")
        monkeypatch.setenv("FEATUREFAB_REDIS_URL", f"redis://default:hidden@127.0.0.1:{server.port}/0")
        home = Story(tmp_path)
        told = status(home.platform)
        assert f"redis://127.0.0.1:{server.port}/0" in [place["path"] for place in told["home"]]
        assert "hidden" not in f"{told} {home.store.online!r} {home.platform.settings!r}"
        home.store.close()
