"""The files of a lake, in a folder or an object store: which tables there are, and what lies in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from deltalake.exceptions import TableNotFoundError

_LOG = "_delta_log"


def tables_below(root: str, options: Mapping[str, str]) -> list[str]:
    """The paths, relative to ``root``, of all Delta tables below it, sorted; none where there is no such folder."""
    try:
        return sorted(_tables(_FileSystem(root, options), ""))
    except TableNotFoundError:  # what delta-rs says of a folder
        return []


def files_below(root: str, options: Mapping[str, str]) -> set[str]:
    """The paths, relative to ``root``, of all files below it."""
    return {path for path, folder in _FileSystem(root, options).list("", recursive=True) if not folder}


class _FileSystem:
    """Lists a folder or bucket through the same storage layer that reads the tables."""

    def __init__(self, root: str, options: Mapping[str, str]) -> None:
        # 0.2 s for pyarrow's file systems, which only upkeep asks.
        from deltalake.fs import DeltaStorageHandler  # noqa: PLC0415
        from pyarrow.fs import FileSelector, PyFileSystem  # noqa: PLC0415

        self._files = PyFileSystem(DeltaStorageHandler(root, dict(options)))
        self._select = FileSelector

    def list(self, folder: str, *, recursive: bool = False) -> Iterator[tuple[str, bool]]:
        """Paths in a folder, and whether each is a folder."""
        for found in self._files.get_file_info(self._select(folder, recursive=recursive)):
            yield found.path, not found.is_file


def _tables(files: _FileSystem, folder: str) -> Iterator[str]:
    below = [path for path, is_folder in files.list(folder) if is_folder]
    if any(path.rpartition("/")[2] == _LOG for path in below):
        yield folder
        return
    for path in below:
        yield from _tables(files, path)
