"""The checksum of a file, noted as it is written in a small file of its own, and what a file is by it later."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from skygraft.disk import FileIdentity, atomic_path
from skygraft.records.files import Layout, digest, sha256_file, write_json

__all__ = ["FileChecksum", "checked_path", "compare", "note_checksum", "problem_of", "read_checksum", "refresh"]

_BUFFER = 1 << 20


@dataclass(frozen=True)
class FileChecksum:
    """What is known of a file since it was written.

    Parameters
    ----------
    n_bytes : int
        Size.
    mtime_ns : int
        Time of last change, ns.
    sha256 : str
        Of the whole file.
    fingerprint : str
        Of what it was made from; empty where its writer does not say.
    """

    n_bytes: int
    mtime_ns: int
    sha256: str
    fingerprint: str = ""


@contextlib.contextmanager
def checked_path(path: Path) -> Iterator[Path]:
    """A temporary name for a file of the output folder, as `atomic_path` gives it, and the checksum when it is whole.

    Raises
    ------
    OutputError
        If one of them cannot be written.
    """
    with atomic_path(path) as temporary:
        yield temporary
        note_checksum(temporary, Layout(path.parent).checksum(path))


def note_checksum(file: Path, checksum: Path, fingerprint: str = "") -> None:
    """Write the checksum of a file: of one that has its name not yet, since a process may be killed in between.

    A file without a checksum, or with that of another, is written again; renaming keeps the time of last change.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    identity = FileIdentity.of(file)
    _write(checksum, FileChecksum(*identity.size_and_time, sha256_file(file), fingerprint))


def _write(path: Path, known: FileChecksum) -> None:
    content = asdict(known)
    write_json(path, {**content, "checksum": digest(content)})


def read_checksum(path: Path) -> FileChecksum | None:
    """The checksum of a file; None where there is none, or where it is damaged."""
    try:
        content = json.loads(path.read_bytes())
        return FileChecksum(**content) if content.pop("checksum", "") == digest(content) else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def refresh(path: Path, checksum: Path, known: FileChecksum) -> None:
    """Note the time of last change of a file whose content was found to be the same."""
    if (mtime_ns := path.stat().st_mtime_ns) != known.mtime_ns:
        _write(checksum, replace(known, mtime_ns=mtime_ns))


def problem_of(path: Path, known: FileChecksum, *, read: bool = False, most: int | None = None) -> str:
    """What is wrong with a file, in words; empty for nothing.

    Parameters
    ----------
    path : Path
        The file.
    known : FileChecksum
        What is known of it.
    read : bool
        Read it in any case. Without, size and time of last change are enough where they are as they were.
    most : int, optional
        Largest size, bytes, of a file that is read because its time is another; of larger ones that is the problem.
    """
    try:
        status = path.stat()
        if not path.is_file():
            return "it is not a file"
    except OSError as error:
        return _unreadable(error)
    if status.st_size != known.n_bytes:
        return _other_size(status.st_size, known.n_bytes)
    same_time = status.st_mtime_ns == known.mtime_ns
    if same_time and not read:
        return ""
    if not (read or same_time or most is None or status.st_size <= most):
        return "it was changed after it was written"
    return compare(path, known.n_bytes, known.sha256)[0]


def compare(path: Path, n_bytes: int | None, sha256: str) -> tuple[str, int]:
    """Read a file: what is wrong with it, in words, empty for nothing, and how many bytes were read."""
    hasher, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as handle:
            while chunk := handle.read(_BUFFER):
                hasher.update(chunk)
                size += len(chunk)
    except OSError as error:
        return _unreadable(error), size
    if n_bytes is not None and size != n_bytes:
        return _other_size(size, n_bytes), size
    return "" if hasher.hexdigest() == sha256 else "its content is not what was written: the SHA-256 differs", size


def _unreadable(error: OSError) -> str:
    return "it is gone" if isinstance(error, FileNotFoundError) else f"it cannot be read ({error.strerror or error})"


def _other_size(found: int, written: int) -> str:
    return f"it has {found:,} bytes, and was written with {written:,}"
