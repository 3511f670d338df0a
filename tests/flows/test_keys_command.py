"""`featurefab keys` and `featurefab serve` elsewhere than on this machine alone: keys, TLS, workers, an audit log."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from flows.cli import app
from infra.serving.keys import KeyFile
from up_home import ROOT, until

READ, PUSH = "/get-online-features", "/push"
ASKED = {"features": ["doubled:twice"], "entities": {"card_id": [7]}}
ROW = {"card_id": [7], "event_timestamp": ["2025-01-02T00:00:00Z"], "twice": [4711.5]}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEATUREFAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FEATUREFAB_REGISTRY", "up_home:REGISTRY")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    return tmp_path / "home"


def keys(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["keys", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def made(*arguments: str) -> dict[str, Any]:
    """What adding a key says."""
    return json.loads(keys("add", *arguments, "--json").stdout)


@contextmanager
def served(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`featurefab serve` in a process of its own."""
    command = [sys.executable, "-m", "flows", "serve", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def refused(*arguments: str) -> str:
    """Why a server does not start."""
    with served(*arguments) as process:
        assert process.wait(60) == 1
        assert process.stderr is not None
        (line,) = process.stderr.read().splitlines()
        return line


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


# ---------------------------------------------------------------------------------------- featurefab keys


def test_a_key_is_shown_once_and_listed_without_it(home):
    shop = made("shop", "--role", "read", "--role", "push", "--group", "doubled", "--group", "weekly", "--rate", "7")
    shown = keys("add", "ops", "--role", "admin").stdout.splitlines()
    assert shop["key"].startswith("ffab_")
    assert shown[-1].startswith("ffab_")
    listed = json.loads(keys("list", "--json").stdout)
    ops = {"name": "ops", "roles": ["admin"], "groups": ["*"], "rate": 100, "revoked_at": None}
    assert listed == [{name: value for name, value in shop.items() if name != "key"}, {**listed[1], **ops}]
    assert (shop["roles"], shop["groups"], shop["rate"]) == (["read", "push"], ["doubled", "weekly"], 7)
    revoked = json.loads(keys("revoke", "shop", "--json").stdout)
    assert revoked == {**listed[0], "revoked_at": revoked["revoked_at"]}
    assert revoked["revoked_at"] > revoked["created_at"]
    table = keys("list").stdout
    assert all(word in table for word in ("shop", "doubled, weekly", "ops"))
    digest = KeyFile(home / "access").read()[0].sha256
    assert not any(secret in table for secret in ("ffab_", shop["key"][5:], digest))


def test_another_home_has_keys_of_its_own(tmp_path):
    made("shop", "--role", "read", "--home", str(tmp_path / "other"))
    assert json.loads(keys("list", "--json").stdout) == []
    assert len(json.loads(keys("list", "--json", "--home", str(tmp_path / "other")).stdout)) == 1
    assert "keys: none" in keys("list").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "shop", "--role", "read"], "there is or was a key 'shop'"),
        (["add", "a/b", "--role", "read"], "key 'a/b': a name is"),
        (["add", "new", "--role", "reed"], "['reed'] is no role"),
        (["add", "new", "--role", "read", "--group", "doubeld"], "'doubeld' is not registered; there are ['doubled'"),
        (["add", "new", "--role", "read", "--group", "doubled@1"], "'doubled@1' is not registered"),
        (["revoke", "shpo"], "there is no key 'shpo'; there are ['shop']"),
    ],
)
def test_what_does_not_fit_is_said_and_changes_nothing(home, arguments, words):
    made("shop", "--role", "read")
    before = (home / "access" / "keys.json").read_bytes()
    result = keys(*arguments, code=1)
    assert words in result.stderr
    assert result.stdout == ""
    assert (home / "access" / "keys.json").read_bytes() == before


def test_a_key_has_a_role_and_a_rate():
    assert "--role" in keys("add", "new", code=2).stderr
    assert "--rate" in keys("add", "new", "--role", "read", "--rate", "0", code=2).stderr


# --------------------------------------------------------------------------------------- featurefab serve


def test_where_others_can_ask_it_does_not_start_without_keys(monkeypatch):
    port = f"--port={free_port()}"
    assert "`featurefab keys add NAME --role read`" in refused("--host=0.0.0.0", port)
    keys("add", "shop", "--role", "read")
    keys("revoke", "shop")
    assert "`featurefab keys add NAME --role read`" in refused("--host=0.0.0.0", port)
    keys("add", "till", "--role", "read")
    monkeypatch.setenv("FEATUREFAB_SERVE_KEYS", "off")
    assert "serve_keys is 'off'" in refused("--host=0.0.0.0", port)
    assert "'nowhere.invalid' is no address" in refused("--host=nowhere.invalid", port)


def test_workers_ask_for_keys_forget_them_and_note_who_asked(home):
    shop, till = made("shop", "--role", "read")["key"], made("till", "--role", "push")["key"]
    port = free_port()
    with served("--host=0.0.0.0", f"--port={port}", "--workers=2") as process:
        assert process.stdout is not None
        assert f"http://0.0.0.0:{port}" in process.stdout.readline()

        def ask(path: str, body: object, token: str = "") -> int:
            """Each on a connection of its own, so that either worker may answer."""
            headers = bearer(token) if token else {}
            url = f"http://127.0.0.1:{port}{path}"
            return httpx.post(url, json=body, headers=headers, timeout=60, trust_env=False).status_code

        pushed = {"group": "doubled", "df": ROW}
        assert {ask(READ, ASKED, shop) for _ in range(10)} == {200}
        assert {ask(READ, ASKED) for _ in range(10)} == {401}
        assert (ask(PUSH, pushed, till), ask(PUSH, pushed, shop)) == (200, 403)
        keys("revoke", "shop")
        until(lambda: {ask(READ, ASKED, shop) for _ in range(10)} == {401}, 30)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert process.stderr is not None
        assert "travel in the clear" in process.stderr.read()
    (file,) = (home / "access").glob("audit-*.ndjson")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    noted = [(line["key"], line["path"], line["status"]) for line in lines if "path" in line]
    assert noted.count((None, READ, 401)) >= 10
    assert (noted.count(("till", PUSH, 200)), noted.count(("shop", PUSH, 403))) == (1, 1)
    assert "4711.5" not in file.read_text()


def certificate(folder: Path, password: bytes | None = None) -> tuple[Path, Path]:
    """A certificate for this machine that it signed itself, and its key."""
    parts = ("x509", *(f"hazmat.primitives.{part}" for part in ("hashes", "serialization", "asymmetric.ec")))
    why = "cryptography is not installed: MLflow brought it"
    x509, hashes, serialization, ec = (pytest.importorskip(f"cryptography.{part}", reason=why) for part in parts)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    kept = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    files = folder / "server.crt", folder / "server.key"
    files[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    encoding, shape = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files[1].write_bytes(key.private_bytes(encoding, shape, kept))
    return files


@pytest.mark.parametrize("workers", [1, 2])
def test_it_speaks_tls_and_nothing_else_where_it_has_a_certificate(tmp_path, monkeypatch, workers):
    crt, key = certificate(tmp_path)
    monkeypatch.setenv("FEATUREFAB_SERVE_TLS_CERTIFICATE", str(crt))
    monkeypatch.setenv("FEATUREFAB_SERVE_TLS_KEY", str(key))
    monkeypatch.setenv("FEATUREFAB_SERVE_KEYS", "on")
    token = made("shop", "--role", "read")["key"]
    port = free_port()
    with served(f"--port={port}", f"--workers={workers}") as process:
        assert process.stdout is not None
        assert f"https://127.0.0.1:{port}/docs" in process.stdout.readline()
        url, trusted = f"https://127.0.0.1:{port}", ssl.create_default_context(cafile=str(crt))
        with httpx.Client(base_url=url, verify=trusted, timeout=60, trust_env=False) as client:
            for _ in range(3):
                said = client.post(READ, json=ASKED, headers=bearer(token))
                assert (said.status_code, said.json()["results"][0]["values"]) == (200, [7])
            assert client.post(READ, json=ASKED).status_code == 401
        with pytest.raises(httpx.ConnectError, match="certificate"):
            httpx.get(f"{url}/health", trust_env=False)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False)


def test_files_with_which_tls_cannot_be_spoken_are_said(tmp_path, monkeypatch):
    port = f"--port={free_port()}"
    crt, key = certificate(tmp_path)
    monkeypatch.setenv("FEATUREFAB_SERVE_TLS_CERTIFICATE", str(crt))
    assert "serve_tls_key: set both, or neither" in refused(port)
    monkeypatch.setenv("FEATUREFAB_SERVE_TLS_KEY", str(crt))
    assert "TLS is not possible" in refused(port)
    (tmp_path / "locked").mkdir()
    monkeypatch.setenv("FEATUREFAB_SERVE_TLS_KEY", str(certificate(tmp_path / "locked", b"secret")[1]))
    assert "without a password" in refused(port)
    monkeypatch.setenv("FEATUREFAB_SERVE_TLS_KEY", str(key.with_name("gone.key")))
    assert "No such file" in refused(port)
