"""Copies of files in stores: found, looked at, filled with their headers, or fetched whole.

Formats and readers work on paths of this machine. Of a file in a store that is either its *stub*, which has its size
and time and, once `for_headers` has been asked, its headers; or its whole copy, from `bring`. Of any other path all
functions here give the path itself, so that callers need not ask.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from skygraft.disk import FileIdentity
from skygraft.errors import PlaceError, PlaceNotFoundError, SkygraftError
from skygraft.place_names import FILES_KIND, STUBS_KIND, WORK_KIND, as_kind, is_copy, is_url, url_of
from skygraft.places.headers import CannotSkipError, fill_headers, write_at
from skygraft.places.scratch import Scratch, default_scratch, hold, no_room, scratch_of, settle, write_stub
from skygraft.places.store_errors import is_denied
from skygraft.places.stores import READ_ONLY
from skygraft.places.urls import constant_part, lost_slash, scheme_of, split_url

__all__ = [
    "beneath",
    "bring",
    "bring_all",
    "find_copies",
    "for_headers",
    "given_path",
    "is_file",
    "is_folder",
    "is_place",
    "local_path",
    "names_in",
    "note",
    "prefetched",
    "published",
    "refresh",
    "see",
]

_FRESH_SECONDS = 30.0
"""How long a process relies on what it saw in a store."""
_KNOWN_SECONDS = 600.0
"""How long it relies on which files there are beside an image: folders may have many files."""
_THREADS = 16
_MANY_FOLDERS = 64
_AHEAD = 64
_LARGEST_COMPANION = 1 << 30
_CHANGES = 3

_seen: dict[str, float] = {}
"""Folders and files that were looked at, and when."""


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


# -- what there is


def _is_fresh(path: str, seconds: float = _FRESH_SECONDS) -> bool:
    return time.monotonic() - _seen.get(path, -1e9) < seconds


def _saw(path: str) -> None:
    if len(_seen) > 1_000_000:
        _seen.clear()
    _seen[path] = time.monotonic()


def note(url: str, identity: FileIdentity, scratch: Scratch) -> Path:
    """Bring the stub of a file up to date with what a store says of it; returns its path."""
    path = scratch.path(url)
    now = FileIdentity.find(path)
    same = now is not None and now.mtime_ns == identity.mtime_ns and identity.n_bytes in (now.n_bytes, -1)
    if not same:
        write_stub(path, identity)
        return path
    # Its time of last access is when it was seen in the store, for all processes of this machine.
    os.utime(path, ns=(time.time_ns(), identity.mtime_ns))
    return path


def _seen_lately(stub: Path) -> bool:
    """True if a process of this machine saw the file in its store in the last minutes, as its stub is."""
    with contextlib.suppress(OSError):
        return 0 <= time.time() - stub.stat().st_atime < _KNOWN_SECONDS
    return False


def _look_at_file(stub: Path) -> None:
    url, scratch = _url(stub), scratch_of(stub)
    identity = scratch.store.find(url)
    if identity is None:
        if not stub.is_dir():
            stub.unlink(missing_ok=True)
    else:
        note(url, identity, scratch)
    _saw(os.fspath(stub))


def _look_into(folder: Path) -> None:
    """Bring the stubs of a folder up to date."""
    scratch = scratch_of(folder)
    _note_folder(folder, scratch.store.listing(_url(folder)), scratch)


def _look_into_or_at(folder: Path, stubs: list[Path]) -> None:
    """Bring the stubs of a folder up to date, or only some where files may be read and not listed."""
    try:
        _look_into(folder)
    except PlaceError as error:
        if not is_denied(error):
            raise
        _all(_look_at_file, stubs)


def _note_folder(folder: Path, files: Mapping[str, FileIdentity], scratch: Scratch) -> None:
    """Bring the stubs of a folder up to date with all files that it has, by URL."""
    found = {note(url, identity, scratch).name for url, identity in files.items()}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            gone = entry.name not in found and not entry.name.endswith(".tmp")
            if gone and not entry.is_dir(follow_symlinks=False):
                Path(entry.path).unlink(missing_ok=True)
    _saw(os.fspath(folder))


def _url(path: Path) -> str:
    url = url_of(path)
    assert url is not None
    return url


def refresh(paths: Iterable[str | os.PathLike[str]], *, force: bool = False) -> None:
    """Bring stubs up to date with their stores; other paths are left alone.

    Parameters
    ----------
    paths : iterable of path-like
        Files, as stubs. Each folder is listed once; with HTTP, each file is asked for.
    force : bool
        Also those that were looked at in the last half minute.

    Raises
    ------
    PlaceError
        If a store cannot be asked.
    """
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        if is_copy(path):
            stub = as_kind(path, STUBS_KIND)
            folders[stub.parent].append(stub)
    if not folders:
        return
    single = [p for folder, some in folders.items() if scheme_of(_url(folder)) in READ_ONLY for p in some]
    listed = [folder for folder in folders if scheme_of(_url(folder)) not in READ_ONLY]
    single = [path for path in single if force or not _is_fresh(os.fspath(path))]
    listed = [folder for folder in listed if force or not _is_fresh(os.fspath(folder))]
    if len(listed) > _MANY_FOLDERS:
        _refresh_deep({path for folder in listed for path in folders[folder]})
        for folder in listed:
            _saw(os.fspath(folder))
        listed = []
    _all(_look_at_file, single)
    _all(lambda folder: _look_into_or_at(folder, folders[folder]), listed)


def _all(function: object, items: list[Path]) -> None:
    assert callable(function)
    if len(items) < 2:
        for item in items:
            function(item)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(function, items):
            pass


def _refresh_deep(stubs: set[Path]) -> None:
    """Bring stubs of many folders up to date by one listing of what is common to them."""
    common = Path(os.path.commonpath([path.parent for path in stubs]))
    scratch = scratch_of(common)
    found = scratch.store.listing(_url(common), deep=True)
    there = {}
    for url, identity in found.items():
        there[scratch.path(url)] = (url, identity)
    for stub in stubs:
        if stub in there:
            note(*there[stub], scratch)
        else:
            stub.unlink(missing_ok=True)


def see(path: Path) -> Path:
    """Bring the stub of a file up to date, or those of all files of a folder; returns the path."""
    if not is_copy(path):
        return path
    stub = as_kind(path, STUBS_KIND)
    if _is_fresh(os.fspath(stub)):
        return stub
    url, scratch = _url(stub), scratch_of(stub)
    identity = scratch.store.find(url) if split_url(url)[2] else None
    if identity is not None:
        note(url, identity, scratch)
    elif scheme_of(url) in READ_ONLY:
        if not stub.is_dir():
            stub.unlink(missing_ok=True)
    else:
        found = scratch.store.listing(url, deep=True)
        wanted = {note(file, one, scratch) for file, one in found.items()}
        for old in [p for p in stub.rglob("*") if p.is_file() and p not in wanted] if stub.is_dir() else []:
            old.unlink(missing_ok=True)
    _saw(os.fspath(stub))
    return stub


def find_copies(pattern: str, scratch: Scratch | None = None) -> list[Path]:
    """Return the stubs of the files that a URL with ``*``, ``?``, ``[...]`` and ``**`` matches, by one listing.

    Parameters
    ----------
    pattern : str
        The URL. As with files of this machine, hidden ones are found only if they are named.
    scratch : Scratch, optional
        The scratch folder.

    Returns
    -------
    list of Path
        Sorted.

    Raises
    ------
    PlaceError
        If it cannot be listed, as with HTTP.
    """
    scratch = scratch or default_scratch()
    scratch.make()
    top = constant_part(pattern)
    rest = pattern[len(top) + 1 :]
    matches = re.compile(_regular(rest)).fullmatch
    found = scratch.store.listing(top, deep="/" in rest)
    start = len(top) + 1
    matching = {url for url in found if matches(url[start:])}
    # All of their folders: what lies beside an image will be asked for.
    folders: dict[str, dict[str, FileIdentity]] = {url.rpartition("/")[0]: {} for url in matching}
    for url, identity in found.items():
        if (files := folders.get(url.rpartition("/")[0])) is not None:
            files[url] = identity
    for folder, files in folders.items():
        _note_folder(scratch.path(folder), files, scratch)
    return sorted(map(scratch.path, matching))


def _regular(pattern: str) -> str:
    """The regular expression of a pattern of names."""
    parts, text = pattern.split("/"), ""
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if part == "**":
            text += "(?:(?!\\.)[^/]+/)*" + ("(?!\\.)[^/]*" if last else "")
            continue
        text += ("" if part.startswith(".") else "(?!\\.)") + _of_name(part) + ("" if last else "/")
    return text


def _of_name(part: str) -> str:
    text, i = "", 0
    while i < len(part):
        end = part.find("]", i + 2) if part[i] == "[" else -1
        if part[i] == "*":
            text += "[^/]*"
        elif part[i] == "?":
            text += "[^/]"
        elif end > 0:
            inner = part[i + 1 : end].replace("\\", "\\\\")
            text += f"[{'^' + inner[1:] if inner[0] == '!' else inner}]"
            i = end
        else:
            text += re.escape(part[i])
        i += 1
    return text


def is_file(path: Path) -> bool:
    """True if there is such a file; one in a store is then there to be read: a stub its headers, a copy as a whole."""
    if not is_copy(path):
        return path.is_file()
    stub = as_kind(path, STUBS_KIND)
    if not _is_fresh(os.fspath(stub.parent), _KNOWN_SECONDS):
        refresh([stub])
    if not stub.is_file():
        return False
    if stub == path:
        if not _is_filled(stub) and not _fill(stub):
            _fetch_into_stub(stub)
        return True
    bring(path)
    return True


def is_folder(path: Path) -> bool:
    """True if there is such a folder; one of a store has files."""
    return see(path).is_dir() if is_copy(path) else path.is_dir()


def names_in(folder: Path, pattern: str = "*") -> list[str]:
    """Names of the files of a folder that match a pattern, sorted; none if there is no such folder."""
    if not is_copy(folder):
        return sorted(path.name for path in folder.glob(pattern))
    if scheme_of(_url(folder)) not in READ_ONLY:
        stubs = as_kind(folder, STUBS_KIND)
        if not _is_fresh(os.fspath(stubs), _KNOWN_SECONDS):
            _look_into(stubs)
        return sorted(path.name for path in stubs.glob(pattern) if path.is_file())
    return []


# -- headers


def _is_filled(stub: Path) -> bool:
    # The right to write says so: it comes with the content, in one renaming.
    return bool(stub.stat().st_mode & 0o200)


def _fill(stub: Path) -> bool:
    """Fill a stub with headers and tables of its file; False if the whole file is needed."""
    url, scratch = _url(stub), scratch_of(stub)
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
    url, scratch, identity = _url(stub), scratch_of(stub), FileIdentity.of(stub)
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
    if by_url or not _seen_lately(stub):
        _look_at_file(stub)
    if not stub.is_file():
        raise PlaceNotFoundError("there is no such file", path=_url(stub), fix="Check the name")
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
    url, scratch = _url(stub), scratch_of(stub)
    for tries_left in reversed(range(_CHANGES)):
        # Not its folder, which may be large.
        if by_url or tries_left < _CHANGES - 1 or not _seen_lately(stub):
            _look_at_file(stub)
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
        raise PlaceNotFoundError("there is no such file or folder", path=_url(stub), fix="Check the name")
    _all(bring, found)
    return as_kind(stub, FILES_KIND)
