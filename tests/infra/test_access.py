"""Who may ask the feature server: keys, roles, granted groups, rates, and an audit log that tells no value."""

from __future__ import annotations

import json
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

import httpx
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import Entity, Feature, FeatureGroup, FeatureService, FeatureStore, Registry, Source
from features.derived import select
from features.errors import InvalidInput, SettingsError, StorageError
from features.times import UTC_US
from infra.loopback import LoopbackServer
from infra.serving.access import METRICS, PUSH, READ, KeyedAccess, keys_needed, refuse_without_keys
from infra.serving.address import Address
from infra.serving.audit_log import AuditLog, Line
from infra.serving.keys import KeyFile
from infra.serving.problems import Problem
from infra.serving.requests import GetOnlineFeatures
from infra.settings import load_settings
from infra.wiring import connect
from serving_store import serving
from up_home import ROOT, until

NOW = datetime(2026, 3, 10, tzinfo=UTC)
ABOUT = {"owner": "payments", "description": "About a card."}
ENTITY, VALUE, PUSHED = 987_654_321, 4_711.25, 1_234.5

card = Entity("card", keys={"card_id": pl.Int64})
payments = Source(
    "payments", {"card_id": pl.Int64, "amount": pl.Float64, "note": pl.String, "at": UTC_US}, "at", sensitive=["note"]
)
people = Source("people", {"card_id": pl.Int64, "salary": pl.Float64, "at": UTC_US}, "at", sensitive=["salary"])


def group(name: str, column: str, origin: Source | FeatureGroup, **more: object) -> FeatureGroup:
    return FeatureGroup(
        name,
        "1.0.0",
        card,
        origin,
        [Feature(column, pl.col(column))],
        grain="event",
        **more,
        **ABOUT,
    )


spent, limits = group("spent", "amount", payments), group("limits", "amount", payments)
salaries = group("salaries", "salary", people, derived=[Feature("double", pl.col("salary") * 2)])
wealth = group("wealth", "salary", salaries)
harmless = FeatureService("harmless", [spent, limits], **ABOUT)
share = FeatureService(
    "share",
    ["spent:amount", "salaries:salary"],
    request={"price": pl.Float64},
    derived=[Feature("part", pl.col("price") / pl.col("salary"))],
    **ABOUT,
)
derived = FeatureService("derived", ["spent:amount", "salaries:double"], **ABOUT)
REGISTRY = Registry([spent, limits, salaries, wealth, harmless, share, derived])
SENSITIVE = {"salaries", "wealth"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    with connect(REGISTRY, tmp_path_factory.mktemp("asked"), lambda: NOW) as store:
        at = NOW - timedelta(hours=1)
        row = {"card_id": ENTITY, "amount": VALUE, "note": "secret", "at": at}
        store.write_source("payments", pl.DataFrame([row], schema=dict(payments.schema)))
        store.write_source("people", pl.DataFrame([{"card_id": ENTITY, "salary": VALUE, "at": at}]))
        for group in (spent, limits, salaries, wealth):
            store.materialize_incremental(group)
            store.sync(group)
        yield store


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "access")


@contextmanager
def access_to(keys: KeyFile, folder: Path, share: float = 0, **more: object) -> Iterator[KeyedAccess]:
    access = KeyedAccess(keys, REGISTRY, AuditLog(folder), share, **more)
    try:
        yield access
    finally:
        access.close()


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def reading(*features: str) -> dict[str, object]:
    return {"features": list(features), "entities": {"card_id": [ENTITY]}}


def pushing(group: str = "limits", column: str = "amount") -> dict[str, object]:
    row = {"card_id": [ENTITY], "event_timestamp": ["2026-03-09T23:30:00Z"], column: [PUSHED]}
    return {"group": group, "df": row}


ONE_CARD = {"entities": {"card_id": [ENTITY]}, "full_feature_names": True}
OPEN = ["/health", "/ready", "/openapi.json", "/docs"]
ROLES = [
    (["read"], {READ}),
    (["push"], {PUSH}),
    (["read", "push"], {READ, PUSH}),
    (["admin"], {READ, PUSH, METRICS}),
]


@pytest.mark.parametrize(("roles", "may"), ROLES, ids=[" ".join(roles) for roles, _ in ROLES])
def test_each_role_opens_its_paths_and_no_others(store, keys, tmp_path, roles, may):
    _, token = keys.add("one", roles, ["*"], 100)
    with access_to(keys, tmp_path / "access") as access, serving(store, access=access) as client:
        client.headers.update(bearer(token))
        said = {
            READ: client.post(READ, json=reading("spent:amount")),
            PUSH: client.post(PUSH, json=pushing()),
            METRICS: client.get(METRICS),
        }
        assert {path: answer.status_code for path, answer in said.items()} == {
            path: 200 if path in may else 403 for path in said
        }
        assert all("'one'" in answer.json()["detail"] for path, answer in said.items() if path not in may)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        bearer("ffab_" + "x" * 43),
        {"authorization": "Basic b25lOnR3bw=="},
        {"x-api-key": "ffab_" + "x" * 43},
        {"x-api-key": ""},
    ],
)
def test_without_a_known_key_nothing_is_answered_but_what_tells_nothing(store, keys, tmp_path, headers):
    keys.add("one", ["admin"], ["*", *SENSITIVE], 100)
    with access_to(keys, tmp_path / "access") as access, serving(store, access=access) as client:
        client.headers.update(headers)
        for answer in (
            client.post(READ, json=reading("spent:amount")),
            client.post(READ, content=b"x" * 5_000_000),  # refused before the body is looked at
            client.post(PUSH, json=pushing()),
            client.get(METRICS),
        ):
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert answer.json()["status"] == 401
        assert {client.get(path).status_code for path in OPEN} == {200}
        described = client.get("/openapi.json").json()
        ways = [way for named in described["security"] for way in named]
        assert {described["components"]["securitySchemes"][way]["type"] for way in ways} == {"http", "apiKey"}
        assert client.get(READ).status_code == 405


def test_a_key_may_come_in_either_header(store, keys, tmp_path):
    _, token = keys.add("one", ["read"], ["*"], 100)
    with access_to(keys, tmp_path / "access") as access, serving(store, access=access) as client:
        basic = {"authorization": "Basic b25lOnR3bw=="}
        for headers in (bearer(token), {"authorization": f"bearer  {token}"}, {"x-api-key": token} | basic):
            assert client.post(READ, json=reading("spent:amount"), headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("granted", "asked", "refused"),
    [
        (["*"], {"features": ["spent:amount", "limits:amount"]}, None),
        (["*"], {"feature_service": "harmless"}, None),
        (["*"], {"features": ["salaries:salary"]}, "salaries"),
        (["*"], {"features": ["salaries@1:double"]}, "salaries"),
        (["*"], {"features": ["wealth:salary"]}, "wealth"),
        (["*"], {"feature_service": "share", "request": {"price": 1}}, "salaries"),
        (["*"], {"feature_service": "derived"}, "salaries"),
        (["*", "salaries"], {"feature_service": "share", "request": {"price": 1}}, None),
        (["*", "salaries"], {"features": ["salaries:double", "spent:amount"]}, None),
        (["*", "salaries"], {"features": ["wealth:salary"]}, "wealth"),
        (["spent"], {"features": ["spent:amount"]}, None),
        (["spent"], {"features": ["spent[card_id=card_id]:amount"]}, None),
        (["spent"], {"features": ["spent:amount", "limits:amount"]}, "limits"),
        (["spent"], {"feature_service": "harmless"}, "limits"),
        (["spent"], {"features": ["nobody:amount"]}, "nobody"),  # nobody learns what there is
    ],
)
def test_a_request_is_refused_for_the_group_that_the_key_is_not_granted(store, keys, tmp_path, granted, asked, refused):
    _, token = keys.add("one", ["admin"], granted, 100)
    with access_to(keys, tmp_path / "access") as access, serving(store, access=access) as client:
        answer = client.post(READ, json=asked | ONE_CARD, headers=bearer(token))
        if refused is None:
            assert answer.status_code == 200, answer.json()
        else:
            field = "features" if "features" in asked else "feature_service"
            assert (answer.status_code, answer.json()["field"]) == (403, field)
            assert f"group {refused!r}" in answer.json()["detail"]
            assert str(VALUE) not in answer.text


@pytest.mark.parametrize("name", ["salaries", "salaries@1"])
def test_rows_are_pushed_to_granted_groups_alone(store, keys, tmp_path, name):
    _, all_of_them = keys.add("all", ["push"], ["*"], 100)
    _, named = keys.add("named", ["push"], ["salaries"], 100)
    with access_to(keys, tmp_path / "access") as access, serving(store, access=access) as client:
        refused = client.post(PUSH, json=pushing(name, "salary"), headers=bearer(all_of_them))
        assert (refused.status_code, refused.json()["field"]) == (403, "group")
        assert "'salaries'" in refused.json()["detail"]
        assert client.post(PUSH, json=pushing(), headers=bearer(named)).status_code == 403
        assert client.post(PUSH, json=pushing(name, "salary"), headers=bearer(named)).status_code == 200


def test_what_is_asked_for_wrongly_is_told_as_without_keys(store, keys, tmp_path):
    _, token = keys.add("one", ["admin"], ["*"], 100)
    with access_to(keys, tmp_path / "access", share=1) as access, serving(store, access=access) as client:
        client.headers.update(bearer(token))
        for body, status in (
            (reading("spent:nothing"), 404),
            (reading("nobody:amount"), 404),
            (reading("amount"), 422),
            ({"feature_service": "cart", "entities": {"card_id": [1]}}, 404),
            ({"feature_service": "", "entities": {"card_id": [1]}}, 404),
        ):
            assert client.post(READ, json=body).status_code == status
        assert client.post(PUSH, json=pushing("nobody")).status_code == 404


FEATURES = ["spent:amount", "limits:amount", "salaries:salary", "salaries@1:double", "wealth:salary"]
FEATURES += ["wealth[card_id=card_id]:salary"]


@pytest.fixture(scope="module")
def asked_access(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KeyFile, KeyedAccess]]:
    folder = tmp_path_factory.mktemp("grants")
    with access_to(KeyFile(folder), folder) as access:
        yield KeyFile(folder), access


@settings(max_examples=60, deadline=None)
@given(
    granted=st.lists(st.sampled_from(["*", *REGISTRY.groups]), min_size=1, unique=True),
    asked=st.lists(st.sampled_from(FEATURES), min_size=1, unique=True) | st.sampled_from([*REGISTRY.services]),
)
def test_a_request_is_let_through_exactly_where_all_groups_that_it_reads_are_granted(asked_access, granted, asked):
    keys, access = asked_access
    _, token = keys.add(f"k{len(keys.read())}", ["read"], granted, 100)
    access.refresh()
    named = isinstance(asked, str)
    wanted = REGISTRY.service(asked) if named else asked
    reads = {ref.group for ref in select(REGISTRY, wanted, full_feature_names=True).reads.values()}
    may = all(name in granted or ("*" in granted and name not in SENSITIVE) for name in reads)
    body = GetOnlineFeatures({"card_id": [1]}, **({"feature_service": asked} if named else {"features": asked}))
    visit, statuses = access.visit(READ, {b"authorization": b"Bearer " + token.encode()}), []
    visit.admit()
    try:
        visit.reads(body)
    except Problem as problem:
        statuses.append(problem.status)
    assert statuses == ([] if may else [403])


# ---------------------------------------------------------------------------------------------- keys


def test_a_token_is_kept_nowhere_and_the_file_is_for_its_owner_alone(keys, tmp_path):
    key, token = keys.add("one", ["push", "read", "push"], ["*", "spent", "*"], 7)
    (file,) = [path for path in (tmp_path / "access").iterdir() if path.suffix == ".json"]
    assert (len(token), token[:5]) == (48, "ffab_")
    assert token[5:] not in file.read_text()
    assert (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode)) == (0o600, 0o700)
    assert keys.read() == [key]
    assert (key.roles, key.groups, key.rate) == (["read", "push"], ["*", "spent"], 7)
    keys.revoke("one")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(path.name for path in file.parent.iterdir()) == ["keys.json", "keys.turn"]


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "ä", "a" * 64, "a\n"])
def test_a_name_that_the_audit_log_could_not_tell_is_refused(keys, name):
    with pytest.raises(InvalidInput, match="a name is"):
        keys.add(name, ["read"], ["*"], 1)


def test_names_are_given_once_even_after_a_revocation(keys):
    first, _ = keys.add("one", ["read"], ["*"], 1)
    assert keys.revoke("one").revoked_at == keys.revoke("one").revoked_at
    with pytest.raises(InvalidInput, match="choose another"):
        keys.add("one", ["read"], ["*"], 1)
    with pytest.raises(InvalidInput, match="'two'"):
        keys.revoke("two")
    with pytest.raises(InvalidInput, match="no role"):
        keys.add("two", [], ["*"], 1)
    assert [key.sha256 for key in keys.read()] == [first.sha256]


def test_keys_made_at_once_are_all_there(keys):
    threads = [Thread(target=keys.add, args=(f"key-{n}", ["read"], ["*"], 1)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in keys.read()} == {f"key-{n}" for n in range(4)}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"keys": [{"name": "x"}]}', '{"keys": [{"sha256": "no"}]}', "\xff"])
def test_a_file_that_is_none_of_ours_is_said(keys, tmp_path, text):
    keys.add("one", ["read"], ["*"], 1)
    (tmp_path / "access" / "keys.json").write_text(text, "latin-1")
    with pytest.raises(StorageError, match="cannot be read"):
        keys.read()
    with pytest.raises(StorageError, match="cannot be read"):
        keys.add("two", ["read"], ["*"], 1)


def test_where_the_file_cannot_be_replaced_the_old_one_stays(keys, tmp_path):
    keys.add("one", ["read"], ["*"], 1)
    before, sizes = keys.read(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, sizes[1]))
    try:
        for change in (lambda: keys.add("two", ["read"], ["*"], 1), lambda: keys.revoke("one")):
            with pytest.raises(StorageError, match="cannot be written: File too large"):
                change()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, sizes)
    assert keys.read() == before
    assert sorted(path.name for path in (tmp_path / "access").iterdir()) == ["keys.json", "keys.turn"]


def test_where_there_can_be_no_file_a_key_is_refused_in_a_sentence(keys, tmp_path):
    (tmp_path / "access").write_text("not a folder")
    with pytest.raises(StorageError, match="cannot be written: File exists"):
        keys.add("one", ["read"], ["*"], 1)


def test_a_key_is_known_and_forgotten_while_the_server_runs(store, keys, tmp_path):
    with access_to(keys, tmp_path / "access") as access, serving(store, access=access) as client:
        _, token = keys.add("one", ["read"], ["*"], 10_000)
        _, other = keys.add("two", ["read"], ["*"], 10_000)

        def status(key: str) -> int:
            return client.post(READ, json=reading("spent:amount"), headers=bearer(key)).status_code

        until(lambda: status(token) == 200, 20)
        keys.revoke("one")
        until(lambda: status(token) == 401, 20)
        assert status(other) == 200

        file = tmp_path / "access" / "keys.json"
        whole = file.read_text()
        file.write_text(whole[:-20])
        with pytest.raises(StorageError):
            access.refresh()
        assert (status(other), status(token)) == (200, 401)  # those who were known stay so
        file.unlink()
        until(lambda: status(other) == 401, 20)
        file.write_text(whole)
        until(lambda: status(other) == 200, 20)


def test_a_key_may_ask_so_many_times_a_second(store, keys, tmp_path):
    ticks = [0.0]
    _, slow = keys.add("slow", ["read"], ["*"], 3)
    _, quick = keys.add("quick", ["read"], ["*"], 100)
    with (
        access_to(keys, tmp_path / "access", ticks=lambda: ticks[0]) as access,
        serving(store, access=access) as client,
    ):

        def ask(token: str, times: int) -> list[int]:
            answers = [client.post(READ, json=reading("spent:amount"), headers=bearer(token)) for _ in range(times)]
            assert {answer.headers.get("retry-after") for answer in answers if answer.status_code == 429} <= {"1"}
            return [answer.status_code for answer in answers]

        assert ask(slow, 5) == [200, 200, 200, 429, 429]
        assert ask(quick, 5) == [200] * 5
        ticks[0] = 0.4
        assert ask(slow, 2) == [200, 429]
        keys.add("third", ["read"], ["*"], 1)
        access.refresh()  # which gives nobody anything
        assert ask(slow, 1) == [429]
        ticks[0] = 100.0
        assert ask(slow, 4) == [200, 200, 200, 429]


# ----------------------------------------------------------------------------------------- audit log


def lines_in(folder: Path) -> list[dict[str, object]]:
    files = sorted(folder.glob("audit-*.ndjson"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_the_audit_log_says_who_asked_for_how_much_and_no_value_or_key(store, keys, tmp_path):
    folder = tmp_path / "access"
    _, token = keys.add("shop", ["read", "push"], ["*"], 100)
    odd = "Ms. Miller 555-1234"
    with access_to(keys, folder, share=1, clock=lambda: NOW) as access, serving(store, access=access) as client:
        client.post(
            READ, json=reading("spent:amount", "limits:amount") | {"full_feature_names": True}, headers=bearer(token)
        )
        client.post(
            READ,
            json={"feature_service": "share", "entities": {"card_id": [ENTITY, 2]}, "request": {"price": VALUE}},
            headers=bearer(token),
        )
        client.post(PUSH, json=pushing() | {"push_id": "till-9"}, headers=bearer(token))
        client.post(READ, json=reading(f"{odd}:amount"), headers=bearer(token))
        client.post(READ, json=reading("spent:amount"), headers=bearer(token[:-1]))
        client.post(READ, content=b"{", headers=bearer(token))
        client.get(METRICS, headers=bearer(token))
    said = [
        (line["key"], line["path"], line["status"], line["groups"], line["features"], line["entities"])
        for line in lines_in(folder)
    ]
    assert said == [
        ("shop", READ, 200, ["limits", "spent"], 2, 1),
        ("shop", READ, 403, ["salaries", "spent"], 3, 2),
        ("shop", PUSH, 200, ["limits"], 1, 1),
        ("shop", READ, 404, [], 1, 1),
        (None, READ, 401, [], 0, 0),
        ("shop", READ, 400, [], 0, 0),
        ("shop", METRICS, 403, [], 0, 0),
    ]
    (file,) = folder.glob("audit-*")
    assert (file.name, stat.S_IMODE(file.stat().st_mode)) == ("audit-2026-03-10.ndjson", 0o600)
    text = file.read_text()
    assert {json.loads(line)["at"] for line in text.splitlines()} == {"2026-03-10T00:00:00Z"}
    for secret in (ENTITY, VALUE, PUSHED, "till-9", odd, "Miller", token[5:-1], "Bearer"):
        assert str(secret) not in text


def test_reads_are_sampled_and_pushes_and_refusals_are_not(store, keys, tmp_path):
    _, token = keys.add("shop", ["read", "push"], ["*"], 100)
    with access_to(keys, tmp_path / "access", share=0) as access, serving(store, access=access) as client:
        for _ in range(5):
            assert client.post(READ, json=reading("spent:amount"), headers=bearer(token)).status_code == 200
        client.post(PUSH, json=pushing(), headers=bearer(token))
        client.post(READ, json=reading("salaries:salary"), headers=bearer(token))
        client.post(READ, json=reading("spent:amount"))
    said = [(line["path"], line["status"]) for line in lines_in(tmp_path / "access")]
    assert said == [(PUSH, 200), (READ, 403), (READ, 401)]


def test_a_share_of_the_reads_is_noted(keys, tmp_path):
    _, token = keys.add("shop", ["read"], ["*"], 10_000)
    with access_to(keys, tmp_path / "access", share=0.25) as access:
        for _ in range(2_000):
            visit = access.visit(READ, {b"x-api-key": token.encode()})
            visit.admit()
            visit.over(200)
    assert 350 < len(lines_in(tmp_path / "access")) < 650  # one in 10^9 times it is not


def line(path: str = READ, at: datetime = NOW) -> Line:
    return Line(at, "shop", path, 200, ["spent"], 1, 1)


def test_lines_of_several_processes_stay_whole(tmp_path):
    """Each opens the file anew, and so is to the lock what a process is."""

    def write(name: str) -> None:
        log = AuditLog(tmp_path)
        for _ in range(20):
            for _ in range(30):
                log.add(line(name), refused=False)
            log.flush()

    threads = [Thread(target=write, args=(f"/{n}" * 50,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = [found["path"] for found in lines_in(tmp_path)]
    assert sorted(written) == sorted(f"/{n}" * 50 for n in range(6) for _ in range(600))


def test_each_day_has_a_file(tmp_path):
    log = AuditLog(tmp_path)
    for days in (0, 1, 0):
        log.add(line(at=NOW - timedelta(microseconds=days)), refused=False)
    log.flush()
    found = {file.name: file.read_text().count("\n") for file in tmp_path.iterdir()}
    assert found == {"audit-2026-03-10.ndjson": 2, "audit-2026-03-09.ndjson": 1}


def test_a_full_disk_costs_lines_which_are_counted_and_leaves_no_half_one(tmp_path, caplog):
    log = AuditLog(tmp_path, lambda: NOW)
    log.add(line(), refused=False)
    log.flush()
    (file,) = tmp_path.iterdir()
    before, limits = file.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 150, limits[1]))  # room for a line and a half
    try:
        for _ in range(2):
            for _ in range(3):
                log.add(line(), refused=False)
            log.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == before
    assert [record.getMessage() for record in caplog.records] == [
        f"the audit log in {tmp_path} cannot be written: File too large"
    ]
    log.add(line(), refused=False)
    log.flush()
    first, second, left_out = lines_in(tmp_path)
    assert (first, left_out) == (second, {"at": "2026-03-10T00:00:00Z", "left_out": 6})


def test_requests_are_answered_though_the_audit_log_cannot_be_written(store, keys, tmp_path):
    _, token = keys.add("shop", ["read"], ["*"], 100)
    with access_to(keys, tmp_path / "nowhere", share=1) as access, serving(store, access=access) as client:
        assert client.post(READ, json=reading("spent:amount"), headers=bearer(token)).status_code == 200
        access._log.flush()
        assert client.post(READ, json=reading("spent:amount"), headers=bearer(token)).status_code == 200


def test_a_flood_of_refusals_is_counted_and_not_written_out(keys, tmp_path):
    keys.add("shop", ["read"], ["*"], 100)
    with access_to(keys, tmp_path / "access", share=0) as access:
        for _ in range(1_000):
            visit = access.visit(READ, {})
            with pytest.raises(Problem) as refused:
                visit.admit()
            visit.over(refused.value.status)
    said = lines_in(tmp_path / "access")
    written = [line for line in said if "path" in line]
    assert len(written) < 900
    assert len(written) + sum(line["left_out"] for line in said if "left_out" in line) == 1_000


# ------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("host", "asked", "needed"),
    [
        ("127.0.0.1", "auto", False),
        ("127.9.9.9", "auto", False),
        ("::1", "auto", False),
        ("localhost", "auto", False),
        ("127.0.0.1", "on", True),
        ("127.0.0.1", "off", False),
        ("0.0.0.0", "auto", True),
        ("::", "auto", True),
        ("::ffff:127.0.0.1", "auto", True),
        ("192.0.2.7", "auto", True),
        ("192.0.2.7", "on", True),
        ("192.0.2.7", "off", None),
        ("0.0.0.0", "off", None),
    ],
)
def test_keys_are_needed_wherever_others_can_ask(tmp_path, host, asked, needed):
    settings = load_settings(home=tmp_path, serve_host=host, serve_keys=asked)
    if needed is None:
        for ask in (keys_needed, refuse_without_keys):
            with pytest.raises(SettingsError, match="serve_keys is 'off'"):
                ask(settings)
        return
    assert keys_needed(settings) is needed
    if not needed:
        refuse_without_keys(settings)
        return
    keys = KeyFile(settings.access)
    for change in (lambda: None, lambda: keys.revoke(keys.add("one", ["read"], ["*"], 1)[0].name)):
        change()
        with pytest.raises(SettingsError, match="featurefab keys add"):
            refuse_without_keys(settings)
    keys.add("two", ["read"], ["*"], 1)
    refuse_without_keys(settings)


def test_a_host_that_is_none_is_said():
    with pytest.raises(SettingsError, match="is no address"):
        Address.resolve("no such host")


def test_what_up_runs_is_at_loopback_whatever_the_host_is_and_asks_for_keys_where_they_are_on(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATUREFAB_HOME", str(tmp_path))
    monkeypatch.setenv("FEATUREFAB_REGISTRY", "up_home:REGISTRY")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    monkeypatch.setenv("FEATUREFAB_SERVE_HOST", "0.0.0.0")
    asked = {"features": ["doubled:twice"], "entities": {"card_id": [1]}}
    with LoopbackServer("infra.serving.server", tmp_path / "log") as server:
        server.wait_until_healthy("/ready")
        assert httpx.post(server.url + READ, json=asked, trust_env=False).status_code == 200
    monkeypatch.setenv("FEATUREFAB_SERVE_KEYS", "on")
    with LoopbackServer("infra.serving.server", tmp_path / "log") as server:
        until(lambda: server.ended, 60)
        assert "featurefab keys add" in str(server.ended)
    _, token = KeyFile(tmp_path / "access").add("one", ["read"], ["*"], 10)
    with LoopbackServer("infra.serving.server", tmp_path / "log") as server:
        server.wait_until_healthy("/ready")
        assert httpx.post(server.url + READ, json=asked, trust_env=False).status_code == 401
        said = httpx.post(server.url + READ, json=asked, headers=bearer(token), trust_env=False)
        assert said.status_code == 200
