"""Checksums of files, each kept in a small file of its own, and the comparison of files with them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from skygraft.disk import FileIdentity, atomic_path, write_unsynced
from skygraft.json_text import parse_json
from skygraft.records.files import Layout, digest, json_text, sha256_file

__all__ = ["FileChecksum", "checked_path", "compare", "note_checksum", "problem_of", "read_checksum", "refresh"]

_BUFFER = 1 << 20


@dataclass(frozen=True)
class FileChecksum:
    """The checksum of a file, with its size and time when it was written.

    Parameters
    ----------
    n_bytes : int
        Size.
    mtime_ns : int
        Time of last change, ns.
    sha256 : str
        SHA-256 of the whole file.
    fingerprint : str
        Fingerprint of what it was made from; empty where its writer gives none.
    """

    n_bytes: int
    mtime_ns: int
    sha256: str
    fingerprint: str = ""


@contextlib.contextmanager
def checked_path(path: Path) -> Iterator[Path]:
    """Write a file of the output folder through `atomic_path`, and its checksum when it is whole.

    Raises
    ------
    OutputError
        If one of them cannot be written.
    """
    with atomic_path(path) as temporary:
        yield temporary
        note_checksum(temporary, Layout(path.parent).checksum(path))


def note_checksum(
    file: Path, checksum: Path, fingerprint: str = "", *, sync: bool = True, sha256: str | None = None
) -> None:
    """Write the checksum of a file.

    It is written before the file is renamed to its final name, since a process may be killed in between: a file with
    the checksum of another is written again. Renaming keeps the time of last change.

    Parameters
    ----------
    file, checksum : Path
        The file, and that of its checksum.
    fingerprint : str
        Fingerprint of what the file was made from.
    sync : bool
        False for one of many files that are written again where their checksum is lost: see `atomic_path`.
    sha256 : str, optional
        Of the file, where its writer knows it; else the file is read.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    identity = FileIdentity.of(file)
    known = sha256_file(file) if sha256 is None else sha256
    _write(checksum, FileChecksum(*identity.size_and_time, known, fingerprint), sync=sync)


def _write(path: Path, known: FileChecksum, *, sync: bool = True) -> None:
    content = asdict(known)
    text = json_text({**content, "checksum": digest(content)}).encode() + b"\n"
    if not sync:
        write_unsynced(path, text)
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(text)


def read_checksum(path: Path) -> FileChecksum | None:
    """Read the checksum of a file; None where there is none, or it is damaged itself."""
    try:
        content = parse_json(path.read_bytes())
        return FileChecksum(**content) if content.pop("checksum", "") == digest(content) else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def refresh(path: Path, checksum: Path, known: FileChecksum) -> None:
    """Update the time of last change in a checksum, when the content of the file was found to be the same."""
    if (mtime_ns := path.stat().st_mtime_ns) != known.mtime_ns:
        _write(checksum, replace(known, mtime_ns=mtime_ns))


def problem_of(path: Path, known: FileChecksum, *, read: bool = False, most: int | None = None) -> str:
    """Describe what is wrong with a file, by its checksum; empty if nothing is.

    Parameters
    ----------
    path : Path
        The file.
    known : FileChecksum
        Its checksum.
    read : bool
        Read the file in any case; without, it is not read if its size and time of last change are the same.
    most : int, optional
        Largest file, bytes, that is read because its time differs; of a larger one the time is the problem.
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
    """Read a file; returns what is wrong with it (empty if nothing is), and how many bytes were read."""
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
