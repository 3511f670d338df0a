"""Where a Redis or Valkey is, as one URL says it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from features.errors import SettingsError

Kind = Literal["server", "sentinel", "cluster"]

_SCHEMES: dict[str, tuple[Kind, bool]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "unix": ("server", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_PORTS = {"server": 6379, "sentinel": 26379, "cluster": 6379}
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:]+)(?::(\d+))?")
_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_PARAMETERS = ("db", "timeout", "replicas", "sentinel_username", "sentinel_password", *_TLS)


@dataclass(frozen=True)
class RedisAddress:
    """A parsed URL; ``shown`` is what of it may be printed: no user, no password, no parameters.

    ``options`` are what every connection to the data is made with, ``sentinel_options`` what those to
    the sentinels are. ``read_replicas`` says that rows may be read from replicas.
    """

    shown: str
    kind: Kind
    hosts: list[tuple[str, int]]
    service: str = ""
    read_replicas: bool = False
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """The address that a URL names; raises SettingsError, without its secrets, where it is none.

        >>> RedisAddress.parse("redis+cluster://me:secret@a:7000,b/?timeout=2")
        RedisAddress(shown='redis+cluster://a:7000,b', kind='cluster', hosts=[('a', 7000), ('b', 6379)], \
service='', read_replicas=False)
        """
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES:
            raise SettingsError(f"a Redis URL begins with one of {', '.join(_SCHEMES)}, followed by ://: correct it")
        kind, tls = _SCHEMES[parts.scheme]
        user_info, _, places = parts.netloc.rpartition("@")
        local, path = parts.scheme == "unix", unquote(parts.path)
        shown = f"{parts.scheme}://{places}{path.rstrip('/')}"
        given = _parameters(shown, parts.query)
        service = "" if kind != "sentinel" else path.strip("/")
        if kind == "sentinel" and not service:
            raise SettingsError(f"Redis URL {shown}: name the service after the sentinels, like /mymaster")
        if local and (places or len(path) < 2):
            raise SettingsError(f"Redis URL {shown}: write the socket's whole path, like unix:///run/valkey.sock")
        hosts = [] if local else _hosts(shown, places, _PORTS[kind])
        options = _timeouts(shown, given)
        if tls:
            options |= {"ssl": True} | {name: given[name] for name in _TLS if name in given}
        elif certificates := [name for name in _TLS if name in given]:
            raise SettingsError(f"Redis URL {shown}: {certificates[0]} is about TLS: write rediss instead of redis")
        sentinel = options | _who(given.get("sentinel_username", ""), given.get("sentinel_password", ""))
        username, _, password = user_info.partition(":")
        options |= _who(unquote(username), unquote(password)) | _database(shown, kind, given, path)
        if local:
            options["unix_socket_path"] = path
        return cls(shown, kind, hosts, service, _read_replicas(shown, kind, given), options, sentinel)


def _parameters(shown: str, query: str) -> dict[str, str]:
    given = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(given.keys() - set(_PARAMETERS)):
        raise SettingsError(f"Redis URL {shown}: there is no parameter {unknown[0]!r}; there are {list(_PARAMETERS)}")
    return given


def _timeouts(shown: str, given: dict[str, str]) -> dict[str, Any]:
    try:
        seconds = float(given.get("timeout", "5"))
    except ValueError:
        seconds = 0
    if not 0 < seconds < 3_600:
        raise SettingsError(f"Redis URL {shown}: timeout is a number of seconds, like timeout=2")
    return {"socket_timeout": seconds, "socket_connect_timeout": seconds}


def _who(username: str, password: str) -> dict[str, str]:
    return {name: value for name, value in (("username", username), ("password", password)) if value}


def _database(shown: str, kind: Kind, given: dict[str, str], path: str) -> dict[str, int]:
    """The database: ``?db=2``, or ``/2`` after a single server's host."""
    in_path = path.strip("/") if kind == "server" and shown.startswith("redis") else ""
    text = given.get("db") or in_path or "0"
    if not text.isdecimal():
        raise SettingsError(f"Redis URL {shown}: {text!r} is no number of a database, like db=2")
    if kind == "cluster":
        if int(text):
            raise SettingsError(f"Redis URL {shown}: a cluster has one database: leave db out")
        return {}
    return {"db": int(text)}


def _hosts(shown: str, places: str, port: int) -> list[tuple[str, int]]:
    found = [_HOST.fullmatch(place) for place in places.split(",")]
    if not all(found):
        raise SettingsError(f"Redis URL {shown}: write hosts like host:port, several with commas between")
    hosts = [(match[1].strip("[]"), int(match[2] or port)) for match in found if match]
    if len(hosts) > 1 and not shown.partition(":")[0].endswith(("+sentinel", "+cluster")):
        raise SettingsError(f"Redis URL {shown}: several hosts are a redis+sentinel:// or a redis+cluster://")
    return hosts


def _read_replicas(shown: str, kind: Kind, given: dict[str, str]) -> bool:
    if "replicas" not in given:
        return False
    if given["replicas"] != "read" or kind == "server":
        raise SettingsError(f"Redis URL {shown}: replicas=read is the one choice, with sentinels or a cluster")
    return True
