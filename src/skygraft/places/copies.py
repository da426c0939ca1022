"""Copies of files in stores: filled with their headers, or fetched whole.

Formats and readers work on paths of this machine. Of a file in a store that is either its *stub*, which has its size
and time (`skygraft.places.stubs`) and, once `for_headers` has been asked, its headers; or its whole copy, from `bring`.
Of any other path all functions here give the path itself, so that callers need not ask.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from skygraft.disk import FileIdentity
from skygraft.errors import PlaceError, PlaceNotFoundError, SkygraftError
from skygraft.place_names import FILES_KIND, STUBS_KIND, WORK_KIND, as_kind, is_copy, is_url
from skygraft.places.headers import CannotSkipError, fill_headers, write_at
from skygraft.places.scratch import Scratch, default_scratch, hold, no_room, scratch_of, settle, write_stub
from skygraft.places.stubs import each, folder_is_known, look_at_file, refresh, see, seen_lately, url_of_copy
from skygraft.places.urls import lost_slash

__all__ = [
    "beneath",
    "bring",
    "bring_all",
    "for_headers",
    "given_path",
    "is_file",
    "is_place",
    "local_path",
    "prefetched",
    "published",
]

_THREADS, _AHEAD = 16, 64
_LARGEST_COMPANION = 1 << 30
_CHANGES = 3


def local_path(url: str, scratch: Scratch | None = None) -> Path:
    """Return the path on this machine that stands for a file or folder in a store.

    Parameters
    ----------
    url : str
        Its URL.
    scratch : Scratch, optional
        The scratch folder, by default that of URLs without a configuration.

    Raises
    ------
    ConfigError
        If the URL is not allowed.
    PlaceError
        If the scratch folder cannot be used.
    """
    scratch = scratch or default_scratch()
    path = scratch.path(url)
    scratch.make()
    return path


def is_place(path: object) -> bool:
    """True if a path or a URL, also one that lost a slash as a `Path`, is that of a file or folder in a store."""
    if not isinstance(path, str | os.PathLike):
        return False
    return is_url(path) or is_copy(path) or lost_slash(path) is not None


def beneath(root: Path, name: str) -> Path:
    """Return the path of a file by its name relative to a folder, its path, or its URL."""
    if is_url(name):
        return local_path(name, scratch_of(root) if is_copy(root) else None)
    return root / name


def given_path(path: str | os.PathLike[str]) -> Path:
    """The path for a path or a URL, also one that lost a slash because it was given as a `Path`."""
    url = path if is_url(path) else lost_slash(path)
    return Path(path) if url is None else local_path(url)


def is_file(path: Path) -> bool:
    """True if there is such a file; one in a store is then there to be read: a stub its headers, a copy as a whole."""
    if not is_copy(path):
        return path.is_file()
    stub = as_kind(path, STUBS_KIND)
    if not folder_is_known(stub.parent):
        refresh([stub])
    if not stub.is_file():
        return False
    if stub == path:
        if not _is_filled(stub) and not _fill(stub):
            _fetch_into_stub(stub)
        return True
    bring(path)
    return True


# -- headers


def _is_filled(stub: Path) -> bool:
    # The right to write says so: it comes with the content, in one renaming.
    return bool(stub.stat().st_mode & 0o200)


def _fill(stub: Path) -> bool:
    """Fill a stub with headers and tables of its file; False if the whole file is needed."""
    url, scratch = url_of_copy(stub), scratch_of(stub)
    identity = FileIdentity.of(stub)
    temporary = stub.with_name(f".{secrets.token_hex(6)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.truncate(descriptor, identity.n_bytes)
            fill_headers(
                identity.n_bytes,
                lambda start, end: scratch.store.read(url, start, end),
                lambda start, content: write_at(descriptor, start, content),
            )
        finally:
            os.close(descriptor)
        settle(temporary, stub, identity)
    except CannotSkipError:
        return False
    except OSError as error:
        if isinstance(error, SkygraftError):
            raise
        raise no_room(error, stub) from error
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _fetch_into_stub(stub: Path) -> None:
    url, scratch, identity = url_of_copy(stub), scratch_of(stub), FileIdentity.of(stub)
    if identity.n_bytes > _LARGEST_COMPANION:
        raise PlaceError(
            f"{identity.n_bytes:,} bytes have to be read to know what it is, and {_LARGEST_COMPANION:,} are allowed",
            path=url,
            fix="Decompress it in the store: headers are then read alone",
        )
    temporary = stub.with_name(f".{secrets.token_hex(6)}.tmp")
    try:
        scratch.store.download(url, temporary, identity)
        temporary.chmod(0o600)
        settle(temporary, stub, identity)
    except OSError as error:
        if isinstance(error, SkygraftError):
            raise
        raise no_room(error, stub) from error
    finally:
        temporary.unlink(missing_ok=True)


def for_headers(path: str | os.PathLike[str]) -> Path:
    """Return a path under which the headers and tables of a file can be read, and perhaps nothing else.

    Parameters
    ----------
    path : path-like
        The file, or its URL. Of one in a store some ranges of bytes are read, if it is FITS and not compressed as a
        whole; else all of it.

    Raises
    ------
    PlaceNotFoundError, PlaceError
        If it cannot be read.
    """
    by_url, path = not is_copy(path), given_path(path)
    if not is_copy(path):
        return path
    stub = as_kind(path, STUBS_KIND)
    if by_url or not seen_lately(stub):
        look_at_file(stub)
    if not stub.is_file():
        raise PlaceNotFoundError("there is no such file", path=url_of_copy(stub), fix="Check the name")
    if _is_filled(stub) or _fill(stub):
        return stub
    if stub.stat().st_size <= 1 << 20:
        _fetch_into_stub(stub)
        return stub
    return bring(path)


def prefetched[T](items: Iterable[T], path_of: object) -> Iterator[T]:
    """Iterate over items while the headers of the next ones are read in threads; errors are left to who reads them.

    Parameters
    ----------
    items : iterable
        The items.
    path_of : callable
        ``path_of(item)`` is the path of its file.
    """
    assert callable(path_of)

    def fetch(item: T) -> None:
        path = Path(path_of(item))
        with contextlib.suppress(SkygraftError, OSError):
            if is_copy(path):
                for_headers(path)

    iterator = iter(items)
    first = next(iterator, None)
    if first is None:
        return
    items = itertools.chain([first], iterator)
    if not is_copy(path_of(first)):
        yield from items
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        for some in itertools.batched(items, _AHEAD):
            for _ in pool.map(fetch, some):
                pass
            yield from some


# -- whole files


def bring(path: str | os.PathLike[str]) -> Path:
    """Return a path under which a whole file can be read.

    Parameters
    ----------
    path : path-like
        The file, or its URL. One in a store is copied to the scratch folder, unless it is there as the store has it
        now; in a block of `skygraft.places.holding` it stays there.

    Returns
    -------
    Path

    Raises
    ------
    PlaceNotFoundError
        If there is no such file.
    PlaceError
        If it cannot be read, or there is no room for it.
    """
    by_url, path = not is_copy(path), given_path(path)
    if not is_copy(path):
        return path
    if as_kind(path, WORK_KIND) == path and path.exists():
        return path
    stub, whole = as_kind(path, STUBS_KIND), as_kind(path, FILES_KIND)
    url, scratch = url_of_copy(stub), scratch_of(stub)
    for tries_left in reversed(range(_CHANGES)):
        # Not its folder, which may be large.
        if by_url or tries_left < _CHANGES - 1 or not seen_lately(stub):
            look_at_file(stub)
        identity = FileIdentity.find(stub)
        if identity is None or stub.is_dir():
            raise PlaceNotFoundError("there is no such file", path=url, fix="Check the name")
        try:
            if _fetched(whole, stub, url, scratch, identity):
                return whole
        except PlaceError as error:
            if not tries_left or "was changed" not in error.message:
                raise
    raise PlaceError("copies of it are removed as soon as they are made", path=url, fix="Raise scratch.max_bytes")


def _fetched(whole: Path, stub: Path, url: str, scratch: Scratch, identity: FileIdentity) -> bool:
    def is_there() -> bool:
        return identity.same_content(FileIdentity.find(whole)) and hold(whole)

    if is_there():
        return True
    with scratch.locked(f"fetch-{abs(hash_of(url)) % 256:02x}"):
        if is_there():
            return True
        unknown = scratch.store.identity(url) if identity.n_bytes == 0 else identity
        scratch.make_room(max(unknown.n_bytes, 0), url)
        temporary = whole.with_name(f".{secrets.token_hex(6)}.tmp")
        try:
            whole.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                # What is being written is in use.
                with contextlib.suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_SH)
                scratch.store.download(url, temporary, unknown)
                if unknown.n_bytes < 0:  # The server does not say how large it is.
                    scratch.count(temporary.stat().st_size)
                    write_stub(stub, FileIdentity(temporary.stat().st_size, identity.mtime_ns))
                settle(temporary, whole, identity)
                return hold(whole)
            finally:
                os.close(descriptor)
        except OSError as error:
            if isinstance(error, SkygraftError):
                raise
            raise no_room(error, whole) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def hash_of(url: str) -> int:
    """A number that is the same in all processes."""
    import zlib

    return zlib.crc32(url.encode())


def published(path: Path) -> Path:
    """Return the path itself if it is there, else the stub of what was published under it."""
    return as_kind(path, STUBS_KIND) if is_copy(path) and not path.exists() else path


def bring_all(path: str | os.PathLike[str]) -> Path:
    """Return a path under which a file, or all files of a folder, can be read; errors as of `bring`."""
    path = given_path(path)
    if not is_copy(path):
        return path
    stub = see(path)
    if not stub.is_dir():
        return bring(path)
    found = [p for p in stub.rglob("*") if p.is_file()]
    if not found:
        raise PlaceNotFoundError("there is no such file or folder", path=url_of_copy(stub), fix="Check the name")
    each(bring, found)
    return as_kind(stub, FILES_KIND)
