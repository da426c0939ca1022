"""Files on disk: written whole or not at all, recognised later, and named relative to a folder."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from skygraft.errors import OutputError, SkygraftError
from skygraft.place_names import STUBS_KIND, as_kind, is_copy, shown_place

__all__ = [
    "FileIdentity",
    "NamedTogether",
    "atomic_path",
    "relative_name",
    "write_new",
    "write_small",
    "write_unsynced",
]

_SYNCS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells whether a file is the same as before, without reading it.

    Parameters
    ----------
    n_bytes : int
        Size.
    mtime_ns : int
        Time of last change of the content, ns.
    ctime_ns : int
        Time of last change of content or status, ns; unlike `mtime_ns` a copy cannot keep it.
    inode, device : int
        Number of the file, and of the file system that it is on: a file that takes the place of another has another.
    """

    n_bytes: int
    mtime_ns: int
    ctime_ns: int = 0
    inode: int = 0
    device: int = 0

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Self:
        """The identity of a file.

        Raises
        ------
        OSError
            If there is no such file, or it cannot be looked at.
        """
        return cls.of_status(Path(path).stat())

    @classmethod
    def of_status(cls, status: os.stat_result) -> Self:
        """The identity of the file that a status is of."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)

    @classmethod
    def find(cls, path: str | os.PathLike[str]) -> Self | None:
        """The identity of a file; None where there is none, or it cannot be looked at."""
        try:
            return cls.of(path)
        except OSError:
            return None

    @property
    def size_and_time(self) -> tuple[int, int]:
        """Size in bytes and time of last change in ns: the same on all machines that share a file system."""
        return self.n_bytes, self.mtime_ns

    def same_content(self, other: FileIdentity | None) -> bool:
        """True if the content is the same, as far as size and time of last change tell."""
        return other is not None and self.size_and_time == other.size_and_time

    def same_file(self, other: FileIdentity | None) -> bool:
        """True if it is the same file, whatever was written to it, rather than one that took its place."""
        return other is not None and (self.device, self.inode) == (other.device, other.inode)

    def __str__(self) -> str:
        return f"{self.n_bytes} {self.mtime_ns} {self.ctime_ns}"


@contextlib.contextmanager
def atomic_path(path: Path, *, make_folder: bool = True, sync: bool = True) -> Iterator[Path]:
    """Write a file so that it appears under its name only when it is whole and on the disk.

    File and folder are synced: without the first, a power cut may leave an empty file under the final name; without
    the second, it may undo the renaming, while what was done because of it (another file removed, a user told) stays.
    That costs milliseconds, and an image takes seconds.

    Parameters
    ----------
    path : Path
        The file. One that exists is replaced.
    make_folder : bool
        Whether to create its folder.
    sync : bool
        False for one of many small files that are compared with a later, synced one before they are used.

    Yields
    ------
    Path
        A temporary name in the same folder, to write the file under. It is renamed when the block ends, and removed
        when the block raises. `skygraft.records.files.sweep_leftovers` finds those of processes that were killed.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    temporary = _temporary(path)
    try:
        with _as_output_error(path):
            if make_folder:
                path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if sync:
                _sync_file(temporary)
            temporary.replace(path)
            if sync:
                _sync_folder(path.parent)
    finally:
        _remove(temporary)


def _temporary(path: Path) -> Path:
    return path.with_name(_temporary_name(path.name))


def _temporary_name(name: str) -> str:
    return f".{name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"


@contextlib.contextmanager
def _as_output_error(path: Path) -> Iterator[None]:
    """Raise what goes wrong while a file is written as an `OutputError` that names it."""
    try:
        yield
    except SkygraftError:
        raise  # by the block, about something else
    except OSError as error:
        reason = error.strerror or (os.strerror(error.errno) if error.errno else str(error))
        raise OutputError(
            f"the output cannot be written ({reason})",
            path=path,
            fix="Remove the folder that is in its place"
            if isinstance(error, IsADirectoryError)
            else f"Check that {path.parent} exists, is writable, and has room (free space, quota)",
        ) from error


class NamedTogether:
    """Files that are written one by one and get their names together, on the disk; use it in a ``with`` statement.

    As of `atomic_path`, but that they are synced at the same time: the file system then writes its journal once for all
    of them, where one after the other each waits for a journal of its own. What has no name when the block ends is
    removed.
    """

    def __init__(self) -> None:
        self._waiting: dict[Path, tuple[Path, Callable[[Path], None] | None, bool]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for path in list(self._waiting):
            self.drop(path)

    @contextlib.contextmanager
    def path(
        self, path: Path, before: Callable[[Path], None] | None = None, *, sync_folder: bool = True
    ) -> Iterator[Path]:
        """Write a file that gets its name with the others.

        Parameters
        ----------
        path : Path
            The file. One that exists is replaced.
        before : callable, optional
            Called with the temporary name just before the file gets its own.
        sync_folder : bool
            False where the folder need not be synced: nobody relies on the name before the file is looked at again.

        Yields
        ------
        Path
            A temporary name in the same folder, to write the file under. It is removed when the block raises.

        Raises
        ------
        OutputError
            If the file cannot be written.
        """
        self.drop(path)
        temporary = _temporary(path)
        try:
            with _as_output_error(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                yield temporary
        except BaseException:
            _remove(temporary)
            raise
        self._waiting[path] = temporary, before, sync_folder

    def drop(self, path: Path) -> None:
        """Remove what waits for that name, if anything does."""
        if (found := self._waiting.pop(path, None)) is not None:
            _remove(found[0])

    def commit(self) -> None:
        """Sync all that was written, give it its names, and sync its folders.

        Raises
        ------
        OutputError
            If a file cannot be written; some may have their names by then, and all others stay as they were.
        """
        if self._waiting:
            with ThreadPoolExecutor(min(len(self._waiting), _SYNCS_AT_ONCE)) as pool:
                temporaries = [temporary for temporary, _, _ in self._waiting.values()]
                for _ in pool.map(_sync_new, temporaries, self._waiting):
                    pass
        folders = {path.parent for path, (_, _, sync_folder) in self._waiting.items() if sync_folder}
        for path, (temporary, before, _) in list(self._waiting.items()):
            with _as_output_error(path):
                if before is not None:
                    before(temporary)
                temporary.replace(path)
            del self._waiting[path]
        for folder in folders:  # one after the other: the first takes the renaming in all others along
            _sync_folder(folder)


def _sync_new(temporary: Path, path: Path) -> None:
    with _as_output_error(path):
        _sync_file(temporary)


def _sync_file(path: Path) -> None:
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def write_small(path: str, content: Any) -> None:
    """Write one of many small files so that it appears under its name when it is whole; a tenth of a millisecond.

    It is not synced, so that it must be compared with a later, synced file before it is used.

    Parameters
    ----------
    path : str
        The file, in a folder that exists. One that exists is replaced.
    content : bytes-like

    Raises
    ------
    OSError
        If it cannot be written.
    """
    folder, slash, name = path.rpartition("/")
    temporary = f"{folder}{slash}{_temporary_name(name)}"
    try:
        write_new(temporary, content)
        os.replace(temporary, path)  # noqa: PTH105
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise


def write_new(path: str | Path, content: Any) -> None:
    """Write a file that does not exist yet; bytes-like content, in one go. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]
    finally:
        os.close(descriptor)


def write_unsynced(path: Path, content: bytes) -> None:
    """Write one of many small files as `write_small` does, in a folder that is made if need be.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    try:
        write_small(str(path), content)
    except OSError:  # mostly there is no folder yet; whatever else it is, this finds it again and says so
        with atomic_path(path, sync=False) as temporary:
            temporary.write_bytes(content)


def _sync_folder(folder: Path) -> None:
    # Some file systems cannot sync a folder; the renaming is then as durable as they make it.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def relative_name(path: str | os.PathLike[str], root: Path) -> str:
    """The name of a file relative to a folder where it lies beneath it, or else its whole path or URL; with ``/``."""
    path = Path(path)
    if is_copy(path):
        path = as_kind(path, STUBS_KIND)
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else shown_place(path)
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
