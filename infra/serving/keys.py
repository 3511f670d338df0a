"""The keys by which programs ask the feature server: a file of the home that has their digests, and no key."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec

from features.errors import InvalidInput, StorageError
from features.times import Clock, utc_now
from infra.turns import turn

Role = Literal["read", "push", "admin"]
"""What a key is for: to read features, to push them, or everything that can be asked."""

_ROLES: tuple[Role, ...] = get_args(Role)

ALL = "*"
"""Stands for every group that is not sensitive where a key is granted groups."""

DEFAULT_RATE = 100
"""Requests a second that a key may make unless it is made with another rate."""

_PREFIX = "ffab_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a key: the digest of its token, what it may ask, and how often in a second."""

    name: str
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    roles: list[Role]
    groups: list[str]
    rate: Annotated[int, msgspec.Meta(ge=1)]
    created_at: datetime
    revoked_at: datetime | None = None


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    """What the file holds."""

    keys: list[ApiKey]


def digest_of(token: bytes) -> bytes:
    """What is kept in the place of a token.

    A hash that is fast will do: a token is 256 random bits, which nobody finds by trying, unlike a password.
    """
    return hashlib.sha256(token).digest()


class KeyFile:
    """The keys of a home, in ``keys.json`` of a folder that nobody else may read; replaced as a whole."""

    def __init__(self, folder: Path, clock: Clock = utc_now) -> None:
        self._path = folder / "keys.json"
        self._clock = clock

    def read(self) -> list[ApiKey]:
        """Every key, revoked ones too; none where there is no file. StorageError where it cannot be read."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Kept).keys
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StorageError(
                f"the keys in {self._path} cannot be read: {error}; put back a copy of the file, or remove it and "
                f"make the keys anew"
            ) from error

    def state(self) -> tuple[int, ...] | None:
        """What is another whenever the file is; None without one."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def add(self, name: str, roles: Sequence[str], groups: Sequence[str], rate: int) -> tuple[ApiKey, str]:
        """Make a key; also returns its token, which is kept nowhere.

        Raises InvalidInput for what is no role, and for a name that there is, of a revoked key too: the audit log tells
        keys by their names.
        """
        if (unknown := sorted({*roles} - {*_ROLES})) or not roles:
            raise InvalidInput(f"key {name!r}: {unknown or 'nothing'} is no role: give it some of {list(_ROLES)}")
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"key {name!r}: a name is up to 63 letters, digits, dots, hyphens and underscores, beginning with a "
                f"letter or digit"
            )
        token = _PREFIX + secrets.token_urlsafe(32)
        with self._turn():
            keys = self.read()
            if any(key.name == name for key in keys):
                raise InvalidInput(f"there is or was a key {name!r}: choose another name")
            digest = digest_of(token.encode()).hex()
            ordered = [role for role in _ROLES if role in roles]
            key = ApiKey(name, digest, ordered, list(dict.fromkeys(groups)), rate, self._clock())
            self._write([*keys, key])
        return key, token

    def revoke(self, name: str) -> ApiKey:
        """End a key; one that was revoked before stays as it is. InvalidInput where there is none of that name."""
        with self._turn():
            keys = {key.name: key for key in self.read()}
            if name not in keys:
                raise InvalidInput(f"there is no key {name!r}; there are {sorted(keys) or 'none'}")
            if keys[name].revoked_at is None:
                keys[name] = msgspec.structs.replace(keys[name], revoked_at=self._clock())
                self._write(list(keys.values()))
            return keys[name]

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One command at a time changes the file; StorageError where it cannot."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with turn(self._path.parent, "keys", "another command"):
                yield
        except OSError as error:
            raise StorageError(
                f"the keys in {self._path} cannot be written: {error.strerror}; make room or mend what it is, and try "
                f"again"
            ) from error

    def _write(self, keys: list[ApiKey]) -> None:
        """Replace the file: whoever reads it meanwhile, or after a crash, finds the old keys or the new ones."""
        text = msgspec.json.format(msgspec.json.encode(_Kept(keys)), indent=2) + b"\n"
        descriptor, written = tempfile.mkstemp(dir=self._path.parent, prefix=".keys-")  # of mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(written).replace(self._path)
        except BaseException:
            with suppress(OSError):
                Path(written).unlink()
            raise
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # a revocation must outlive a power cut
        finally:
            os.close(folder)
