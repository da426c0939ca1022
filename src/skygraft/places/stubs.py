"""Stubs of files in stores, which have their size and time here: brought up to date with what the stores say."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from skygraft.disk import FileIdentity
from skygraft.errors import PlaceError
from skygraft.place_names import STUBS_KIND, as_kind, is_copy, url_of
from skygraft.places.scratch import Scratch, default_scratch, scratch_of, write_stub
from skygraft.places.store_errors import is_denied
from skygraft.places.stores import READ_ONLY
from skygraft.places.urls import constant_part, pattern_expression, scheme_of, split_url

__all__ = [
    "each",
    "find_copies",
    "folder_is_known",
    "is_folder",
    "look_at_file",
    "names_in",
    "note",
    "refresh",
    "see",
    "seen_lately",
    "url_of_copy",
]

_FRESH_SECONDS = 30.0
"""How long a process relies on what it saw in a store."""
_KNOWN_SECONDS = 600.0
"""How long it relies on which files there are beside an image: folders may have many files."""
_THREADS = 16
_MANY_FOLDERS = 64

_seen: dict[str, float] = {}
"""Folders and files that were looked at, and when."""


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


def folder_is_known(folder: Path) -> bool:
    """True if this process saw in the last minutes which files a folder has."""
    return _is_fresh(os.fspath(folder), _KNOWN_SECONDS)


def seen_lately(stub: Path) -> bool:
    """True if a process of this machine saw the file in its store in the last minutes, as its stub is."""
    with contextlib.suppress(OSError):
        return 0 <= time.time() - stub.stat().st_atime < _KNOWN_SECONDS
    return False


def look_at_file(stub: Path) -> None:
    """Bring the stub of a file up to date."""
    url, scratch = url_of_copy(stub), scratch_of(stub)
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
    _note_folder(folder, scratch.store.listing(url_of_copy(folder)), scratch)


def _look_into_or_at(folder: Path, stubs: list[Path]) -> None:
    """Bring the stubs of a folder up to date, or only some where files may be read and not listed."""
    try:
        _look_into(folder)
    except PlaceError as error:
        if not is_denied(error):
            raise
        each(look_at_file, stubs)


def _note_folder(folder: Path, files: Mapping[str, FileIdentity], scratch: Scratch) -> None:
    """Bring the stubs of a folder up to date with all files that it has, by URL."""
    found = {note(url, identity, scratch).name for url, identity in files.items()}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            gone = entry.name not in found and not entry.name.endswith(".tmp")
            if gone and not entry.is_dir(follow_symlinks=False):
                Path(entry.path).unlink(missing_ok=True)
    _saw(os.fspath(folder))


def url_of_copy(path: Path) -> str:
    """Return the URL of a path that is known to be that of a copy."""
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
    single = [p for folder, some in folders.items() if scheme_of(url_of_copy(folder)) in READ_ONLY for p in some]
    listed = [folder for folder in folders if scheme_of(url_of_copy(folder)) not in READ_ONLY]
    single = [path for path in single if force or not _is_fresh(os.fspath(path))]
    listed = [folder for folder in listed if force or not _is_fresh(os.fspath(folder))]
    if len(listed) > _MANY_FOLDERS:
        _refresh_deep({path for folder in listed for path in folders[folder]})
        for folder in listed:
            _saw(os.fspath(folder))
        listed = []
    each(look_at_file, single)
    each(lambda folder: _look_into_or_at(folder, folders[folder]), listed)


def each(function: Callable[[Path], object], items: list[Path]) -> None:
    """Call a function with each of some paths, several at a time."""
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
    found = scratch.store.listing(url_of_copy(common), deep=True)
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
    url, scratch = url_of_copy(stub), scratch_of(stub)
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
    matches = re.compile(pattern_expression(rest)).fullmatch
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


def is_folder(path: Path) -> bool:
    """True if there is such a folder; one of a store has files."""
    return see(path).is_dir() if is_copy(path) else path.is_dir()


def names_in(folder: Path, pattern: str = "*") -> list[str]:
    """Names of the files of a folder that match a pattern, sorted; none if there is no such folder."""
    if not is_copy(folder):
        return sorted(path.name for path in folder.glob(pattern))
    if scheme_of(url_of_copy(folder)) not in READ_ONLY:
        stubs = as_kind(folder, STUBS_KIND)
        if not folder_is_known(stubs):
            _look_into(stubs)
        return sorted(path.name for path in stubs.glob(pattern) if path.is_file())
    return []
