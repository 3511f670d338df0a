"""Who may ask the feature server what: keys with roles and granted groups, how often, and a note of it."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hmac import compare_digest

from features.errors import FeatureFabError, SettingsError
from features.feature_service import Ref
from features.registry import Registry
from features.sensitive import sensitive_groups
from features.times import Clock, utc_now
from infra.serving.address import Address
from infra.serving.audit_log import AuditLog, Line
from infra.serving.keys import ALL, ApiKey, KeyFile, Role, digest_of
from infra.serving.problems import Problem
from infra.serving.rates import Bucket
from infra.serving.requests import GetOnlineFeatures, Push
from infra.settings import Settings

_LOG = logging.getLogger("featurefab.serving")

READ, PUSH, METRICS = "/get-online-features", "/push", "/metrics"
_ROLES: Mapping[str, Role] = {READ: "read", PUSH: "push", METRICS: "admin"}
"""The role that a path takes; admins have all."""
_REFUSED = (401, 403, 429)
_SECONDS = 1.0
"""How often the file of keys is looked at, and the audit log written."""
_INDEX = 8
"""Bytes of a digest by which a key is looked up."""


class Visit:
    """A request while it is answered; this one may be, whatever it asks."""

    __slots__ = ()

    def admit(self) -> None:
        """Go on if who asks may; Problem where not."""

    def over(self, status: int) -> None:
        """Note that it was answered, however it was."""

    def reads(self, asked: GetOnlineFeatures) -> None:
        """Go on if these features may be read; Problem where not, FeatureFabError where there are no such."""

    def pushes(self, pushed: Push) -> None:
        """Go on if these rows may be pushed; Problem where not."""


class Access:
    """Who may ask; here everybody, for a server that only this machine can ask."""

    _visit = Visit()

    def visit(self, path: str, headers: Mapping[bytes, bytes]) -> Visit:  # noqa: ARG002 - of use to others
        """A request for a path."""
        return self._visit

    def close(self) -> None:
        """Note what is to be noted; done when the server ends."""


class Holder:
    """A key that is valid, with what is looked up for each of its requests."""

    __slots__ = ("bucket", "digest", "groups", "key", "paths")

    def __init__(self, key: ApiKey, bucket: Bucket) -> None:
        self.key = key
        self.bucket = bucket
        self.digest = bytes.fromhex(key.sha256)
        self.paths = frozenset(path for path, role in _ROLES.items() if role in key.roles or "admin" in key.roles)
        self.groups = frozenset(key.groups)


class KeyedAccess(Access):
    """Those who have a key; what each may is in a file that is looked at every second, by a thread of this object.

    ``share`` is the part of the reads that the audit log has; ``ticks`` counts seconds for the rates.
    """

    def __init__(
        self,
        keys: KeyFile,
        registry: Registry,
        log: AuditLog,
        share: float,
        clock: Clock = utc_now,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = registry
        self._keys = keys
        self._log = log
        self._share = share
        self._clock = clock
        self._ticks = ticks
        self._sensitive = sensitive_groups(registry)
        self._holders: dict[bytes, Holder] = {}
        self._state: tuple[int, ...] | None = None
        self.refresh()
        self.denied = lru_cache(maxsize=1_000)(self._find_denied)
        self.groups = lru_cache(maxsize=1_000)(self._find_groups)
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def visit(self, path: str, headers: Mapping[bytes, bytes]) -> Visit:
        """A request for a path, by whoever has the key that its headers give."""
        return _KeyedVisit(self, path, self._holder(headers))

    def refresh(self) -> None:
        """Go by the file of keys as it is now."""
        state = self._keys.state()
        if state == self._state:
            return
        valid = {bytes.fromhex(key.sha256): key for key in self._keys.read() if key.revoked_at is None}
        before = {holder.digest: holder.bucket for holder in self._holders.values()}
        buckets = {digest: before.get(digest) or Bucket(key.rate, self._ticks) for digest, key in valid.items()}
        self._holders = {digest[:_INDEX]: Holder(key, buckets[digest]) for digest, key in valid.items()}
        self._state = state

    def note(self, visit: _KeyedVisit, status: int) -> None:
        """Note a request that is over, if it is one of those that are."""
        refused = status in _REFUSED
        if refused or visit.path == PUSH or random.random() < self._share:  # noqa: S311 - a sample, no secret
            name = visit.holder.key.name if visit.holder else None
            self._log.add(Line(self._clock(), name, visit.path, status, *self._size(visit.asked)), refused=refused)

    def close(self) -> None:
        """End the thread, and write what waits for the audit log."""
        self._ended.set()
        self._keeper.join()
        self._log.flush()

    def _keep(self) -> None:
        said = ""
        while not self._ended.wait(_SECONDS):
            for step in (self.refresh, self._log.flush):
                try:
                    step()
                except Exception as error:  # noqa: BLE001 - it must go on, or no key that is revoked later is noticed
                    if said != str(error):  # once, not every second
                        _LOG.error("access to features stays as it was: %s", error, exc_info=error)
                    said = str(error)

    def _holder(self, headers: Mapping[bytes, bytes]) -> Holder | None:
        digest = digest_of(_token(headers))
        found = self._holders.get(digest[:_INDEX])
        return found if found is not None and compare_digest(found.digest, digest) else None

    def _find_denied(self, holder: Holder, asked: str | tuple[str, ...]) -> str | None:
        """Why a key may not ask for features, or for those of a service; None where it may."""
        for name in sorted(self.groups(asked)):
            if why := self.denied_group(holder, name):
                return why
        return None

    def denied_group(self, holder: Holder, name: str) -> str | None:
        """Why a key may not ask about a group; None where it may."""
        if name in holder.groups or (ALL in holder.groups and name not in self._sensitive):
            return None
        if name in self._sensitive and ALL in holder.groups:
            return f"key {holder.key.name!r} must be granted group {name!r} by name: it is made of sensitive columns"
        return f"key {holder.key.name!r} is not granted group {name!r}"

    def _find_groups(self, asked: str | tuple[str, ...]) -> frozenset[str]:
        """The names of the groups that features, or those of a service, are read from."""
        refs = self.registry.service(asked).refs if isinstance(asked, str) else map(Ref.parse, asked)
        return frozenset(ref.group for ref in refs)

    def _size(self, asked: GetOnlineFeatures | Push | None) -> tuple[Sequence[str], int, int]:
        """The groups, features and entities of a request; names that are not ours may be anything, and are left out."""
        try:
            match asked:
                case GetOnlineFeatures():
                    groups, rows, features = self.groups(_asked(asked)), asked.entities, self._features(asked)
                case Push():
                    group, rows = self.registry.group(asked.group), asked.df
                    groups, features = frozenset([group.name]), len(rows.keys() & set(group.feature_names))
                case None:
                    return [], 0, 0
        except FeatureFabError:  # it is about what there is not
            return [], 0, 0
        known = {group.name for group in self.registry.groups.values()}
        return sorted(groups & known), features, max(map(len, rows.values()), default=0)

    def _features(self, asked: GetOnlineFeatures) -> int:
        if asked.feature_service is None:
            return len(asked.features or [])
        service = self.registry.service(asked.feature_service)
        return len(service.refs) + len(service.derived)


class _KeyedVisit(Visit):
    """A request that may or may not be answered, for its key; noted when it is over."""

    __slots__ = ("_access", "asked", "holder", "path")

    def __init__(self, access: KeyedAccess, path: str, holder: Holder | None) -> None:
        self._access = access
        self.path = path
        self.holder = holder
        self.asked: GetOnlineFeatures | Push | None = None

    def over(self, status: int) -> None:
        self._access.note(self, status)

    def reads(self, asked: GetOnlineFeatures) -> None:
        assert self.holder is not None  # or it had not been let in
        self.asked = asked
        if why := self._access.denied(self.holder, _asked(asked)):
            raise Problem(403, why, "features" if asked.feature_service is None else "feature_service")

    def pushes(self, pushed: Push) -> None:
        assert self.holder is not None  # likewise
        self.asked = pushed
        if why := self._access.denied_group(self.holder, pushed.group.partition("@")[0]):
            raise Problem(403, why, "group")

    def admit(self) -> None:
        if self.holder is None:
            raise Problem(401, "a key that this server knows is needed: send it as `Authorization: Bearer <key>`")
        key = self.holder.key
        if not self.holder.bucket.take():
            raise Problem(429, f"key {key.name!r} may ask {key.rate:,} time(s) a second: ask less often")
        if self.path not in self.holder.paths:
            raise Problem(403, f"key {key.name!r} may {' and '.join(key.roles)}: this takes {_ROLES[self.path]!r}")


def keys_needed(settings: Settings) -> bool:
    """Whether who asks a server that listens where the settings say needs a key.

    Raises SettingsError where others than this machine could ask without one.
    """
    address = Address.resolve(settings.serve_host)
    if settings.serve_keys == "off" and not address.loopback:
        raise SettingsError(
            f"serve_keys is 'off', but at {address.host} (serve_host) others than this machine can ask: set it to "
            f"'auto' or 'on', or listen at 127.0.0.1"
        )
    return settings.serve_keys == "on" or (settings.serve_keys == "auto" and not address.loopback)


def refuse_without_keys(settings: Settings) -> None:
    """Raise SettingsError where a server would need keys and there is none, or where ``keys_needed`` does."""
    if keys_needed(settings) and all(key.revoked_at for key in KeyFile(settings.access).read()):
        raise SettingsError(
            f"who asks the feature server at {settings.serve_host} needs a key, and there is none: make one with "
            f"`featurefab keys add NAME --role read`, or listen at 127.0.0.1 with serve_keys at 'auto'"
        )


def open_access(settings: Settings, registry: Registry) -> Access:
    """Who may ask a server that listens where the settings say."""
    if not keys_needed(settings):
        return Access()
    return KeyedAccess(KeyFile(settings.access), registry, AuditLog(settings.access), settings.serve_audit_share)


def _asked(asked: GetOnlineFeatures) -> str | tuple[str, ...]:
    """What is asked for, as it is looked up: the name of a service, or features."""
    return tuple(asked.features or ()) if asked.feature_service is None else asked.feature_service


def _token(headers: Mapping[bytes, bytes]) -> bytes:
    """The key that a request gives; the other header is for those behind what needs the first one for itself."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
