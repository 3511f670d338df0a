"""LMDB environments: opened once per process and folder, shared, and growing by themselves.

LMDB maps its file into memory and asks four things of a process: to open a file only once, to keep an
open one from crossing a fork, to say how large the map may get, and to resize it only while no
transaction is open. Here they are kept, once, for whoever stores something in LMDB.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple, TypeVar

import lmdb
from lmdb.verify import VerifyError, verify

from features.errors import StorageError

T = TypeVar("T")

MAP_SIZE = 256 << 20
"""Bytes of address space that a new environment starts with; the file itself is as large as its content."""

_READERS = 1024  # read transactions at a time, over all processes
_open: dict[Path, LmdbEnvironment] = {}
_lock = threading.Lock()
_here = SimpleNamespace(pid=os.getpid())  # kept, for to ask the system takes longer than to read


class Purpose(NamedTuple):
    """What a folder is for, as its errors name it, and what to do when it is damaged."""

    name: str
    mending: str


ONLINE = Purpose("online store", "move the folder away and sync in full, which builds it again from the offline store")


class LmdbEnvironment:
    """An open folder of LMDB, shared by everything in this process that uses it.

    Many processes and threads may read while one writes. Get it with ``acquire``, give it back with
    ``release``. Raises StorageError, with the remedy, for whatever LMDB or the file system refuses.
    """

    def __init__(self, path: Path, map_size: int, purpose: Purpose) -> None:
        self.path = path
        self._purpose = purpose
        self.pid = _here.pid
        self._users = 0
        self._writing = threading.Lock()
        self._mapping = threading.Lock()  # held while reading, so that the map is not resized meanwhile
        with _translated(path, purpose):
            path.mkdir(parents=True, exist_ok=True)
            self._env = lmdb.open(str(path), map_size=map_size, max_readers=_READERS)
            _check_length(path, self._env)
            self._env.reader_check()  # slots of killed readers would keep old pages from being reused
            self._file = _identity(path)

    @classmethod
    def acquire(cls, path: Path, map_size: int = MAP_SIZE, purpose: Purpose = ONLINE) -> LmdbEnvironment:
        """The environment of a folder, opened (and the folder made) unless this process has it open.

        After a fork the child gets one of its own. A folder that was deleted and made again is
        another environment.
        """
        path = path.resolve()
        with _lock:
            known = _open.get(path)
            if known is not None and known.pid != _here.pid:
                known._env.close()  # noqa: SLF001  the parent's: of no use here, and it keeps the file from being opened
                known = None
            if known is None or known._file != _identity(path):  # noqa: SLF001
                known = _open[path] = cls(path, map_size, purpose)
            known._users += 1
            return known

    def release(self) -> None:
        """Give the environment back; it closes with its last user."""
        with _lock:
            self._users -= 1
            if self._users or self.pid != _here.pid:
                return
            if _open.get(self.path) is self:
                del _open[self.path]
            with self._writing, self._mapping:
                self._env.close()

    def read(self, work: Callable[[lmdb.Transaction[bytes]], T]) -> T:
        """What ``work`` returns, called with a read transaction: one moment's state of everything."""
        with self._mapping:
            while True:
                try:
                    with self._env.begin() as txn:
                        return work(txn)
                except lmdb.MapResizedError:
                    self._env.set_mapsize(0)  # another process let the map grow: adopt its size
                except lmdb.Error as error:
                    raise _storage_error(self.path, self._purpose, error) from error

    def write(self, work: Callable[[lmdb.Transaction[bytes]], T], size: int = 0) -> T:
        """What ``work`` returns, called with the write transaction, which then commits.

        All of it is on disk afterwards, or nothing, whatever is killed when. ``size`` is about how many
        bytes will be written. ``work`` is called again if the map proves too small.
        """
        with self._writing, _translated(self.path, self._purpose):
            self._reserve(size)
            while True:
                try:
                    with self._env.begin(write=True) as txn:
                        return work(txn)
                except lmdb.MapFullError:
                    self._resize(2 * self._env.info()["map_size"])
                except lmdb.MapResizedError:
                    self._resize(0)

    def recover(self) -> None:
        """See from now on what a writer committed that was killed before it could say so.

        A commit is on disk before it is announced to readers. Where a writer is killed in between, they go on reading
        the state before it, though it will stand, until somebody begins to write: LMDB mends that then.
        """
        with self._writing, _translated(self.path, self._purpose):
            while True:
                try:
                    self._env.begin(write=True).abort()
                except lmdb.MapResizedError:
                    self._resize(0)
                else:
                    return

    def _reserve(self, size: int) -> None:
        """Make the map large enough beforehand: a transaction that fills it has worked in vain."""
        info = self._env.info()
        needed = info["last_pgno"] * self._env.stat()["psize"] + 2 * size
        if needed > info["map_size"]:
            self._resize(1 << needed.bit_length())

    def _resize(self, size: int) -> None:
        with self._mapping:
            self._env.set_mapsize(size)


class LmdbUse:
    """One user's part in the environment of a folder, until it is closed; a forked process gets its own."""

    def __init__(self, path: Path, map_size: int = MAP_SIZE, purpose: Purpose = ONLINE) -> None:
        self._given = path, map_size, purpose
        self._environment: LmdbEnvironment | None = LmdbEnvironment.acquire(*self._given)

    @property
    def environment(self) -> LmdbEnvironment:
        """The environment, of this process; raises StorageError after ``close``."""
        if self._environment is None:
            path, _, purpose = self._given
            raise StorageError(f"the {purpose.name} in {path} is closed: open it again")
        if self._environment.pid != _here.pid:  # carried through a fork
            self._environment = LmdbEnvironment.acquire(*self._given)
        return self._environment

    def close(self) -> None:
        """Give the environment back; it closes with the last use of it in this process."""
        if self._environment is not None:
            self._environment.release()
            self._environment = None


@contextmanager
def _translated(path: Path, purpose: Purpose) -> Iterator[None]:
    """Turn what LMDB and the file system raise into StorageError."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise _storage_error(path, purpose, error) from error


def _storage_error(path: Path, purpose: Purpose, error: Exception) -> StorageError:
    match error:
        case lmdb.InvalidError() | lmdb.CorruptedError() | lmdb.PageNotFoundError() | lmdb.VersionMismatchError():
            what = f"the file is damaged or not LMDB's ({error})"
            remedy = purpose.mending
        case lmdb.ReadersFullError():
            what, remedy = f"{_READERS} readers at a time are too many", "run fewer processes"
        case _:
            what = str(error)
            remedy = "check that the folder can be made and written, on a local disk with free space"
    return StorageError(f"{purpose.name} {path}: {what}: {remedy}")


def _check_length(path: Path, env: lmdb.Environment) -> None:
    """Refuse a file that was cut short: reading past its end would kill the process.

    The last pages of a sound file may be missing too, where they were freed before they were written;
    so a short file is looked through before it is refused.
    """
    needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if (path / "data.mdb").stat().st_size < needed and (problems := _verify(path)):
        env.close()
        raise lmdb.CorruptedError(f"cut short; {problems[0]}")


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file the folder holds now."""
    try:
        found = (path / "data.mdb").stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _verify(path: Path) -> list[str]:
    try:
        return list(verify(str(path)))  # type: ignore[no-untyped-call]  # only py-lmdb's main module has types
    except VerifyError as error:
        return [str(error)]


def _before_fork() -> None:
    """Wait until no thread reads or writes.

    The child will close its copy of the environment, which would free the slot of a thread that reads
    here, and which waits for ever for a transaction of a thread that the child does not have.
    """
    _lock.acquire()
    for env in _open.values():
        env._writing.acquire()  # noqa: SLF001
        env._mapping.acquire()  # noqa: SLF001


def _after_fork() -> None:
    for env in _open.values():
        env._mapping.release()  # noqa: SLF001
        env._writing.release()  # noqa: SLF001
    _lock.release()


def _after_fork_in_child() -> None:
    _here.pid = os.getpid()
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
