"""The scratch folder: copies of files in stores, up to a size, shared by the processes of a machine.

A copy appears by renaming, so that it is whole. Whoever uses one holds a shared lock (``flock``) on it; the least
recently used ones that nobody uses are removed when there is no room for another.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from skygraft.disk import FileIdentity
from skygraft.errors import ConfigError, PlaceError
from skygraft.place_names import FILES_KIND, MARK, STUBS_KIND, base_of, path_parts
from skygraft.places.stores import Storage, Store, environment_storage
from skygraft.places.urls import checked_url, split_url

__all__ = ["DEFAULT_BYTES", "Scratch", "default_folder", "default_scratch", "holding", "scratch_of", "use_scratch"]

DEFAULT_BYTES = 50 << 30
"""Size of the copies of whole files, unless it is given: at most this, and half of what is free."""
_SETTINGS = "settings.json"
_USED = "used"
"""The size of all copies, and when they were looked at; what is removed by hand counts until they are again."""
_LOOK_SECONDS = 600.0
_REMOVED_AT_ONCE = 16
_IN_USE_SECONDS = 600.0
"""Where files cannot be locked, one that was asked for so recently counts as in use."""
_UNLOCKED = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL})


def default_folder() -> Path:
    """Return the scratch folder unless one is given: SKYGRAFT_SCRATCH, or one of this user in the temporary folder."""
    given = os.environ.get("SKYGRAFT_SCRATCH")
    return Path(given).expanduser().absolute() if given else Path(tempfile.gettempdir()) / f"skygraft-{os.getuid()}"


@dataclass(frozen=True)
class Scratch:
    """Copies of files of stores that are opened with the same options.

    Parameters
    ----------
    folder : Path
        The scratch folder.
    storage : Storage
        Options of the stores.
    max_bytes : int
        Size of all copies of whole files in the folder; 0 for the default.
    """

    folder: Path
    storage: Storage = field(default_factory=Storage)
    max_bytes: int = 0

    @functools.cached_property
    def base(self) -> str:
        """The folder of the copies."""
        tag = hashlib.sha256(json.dumps(asdict(self.storage), sort_keys=True).encode()).hexdigest()[:12]
        return f"{self.folder}/{MARK}/{tag}"

    @property
    def store(self) -> Store:
        """What reads and writes the files."""
        return Store(self.storage)

    def path(self, url: str, kind: str = STUBS_KIND) -> Path:
        """Return the name that the copy of a file has, whether there is one or not.

        Raises
        ------
        ConfigError
            If no file can have such a name, or the URL is not allowed.
        """
        scheme, host, path = split_url(checked_url(url))
        parts = [scheme, *path_parts(host), *(path_parts(path) if path else [])]
        if (long := next((part for part in parts if len(part.encode()) > 255), None)) is not None:
            raise ConfigError(f"a part of the name has more than 255 bytes: {long[:60]}...", path=url)
        return Path(self.base, kind, *parts)

    def make(self) -> None:
        """Create the folder, private to this user, and note the options in it for other processes.

        Raises
        ------
        PlaceError
            If it cannot be created, or belongs to somebody else.
        """
        base = Path(self.base)
        if self in _made and base.is_dir():
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            top = base.parent
            top.mkdir(mode=0o700, exist_ok=True)
            if top.stat().st_uid != os.getuid():
                raise PlaceError(
                    "the scratch folder belongs to another user",
                    path=self.folder,
                    fix="Name one of your own: scratch: {folder: ...} or SKYGRAFT_SCRATCH",
                )
            base.mkdir(exist_ok=True)
            content = json.dumps({"storage": asdict(self.storage), "max_bytes": self.max_bytes}).encode()
            note = base / _SETTINGS
            if not note.exists() or note.read_bytes() != content:
                temporary = base / f".{_SETTINGS}.{secrets.token_hex(4)}.tmp"
                temporary.write_bytes(content)
                temporary.replace(note)
                _known.pop(self.base, None)
            _made.add(self)
        except PlaceError:
            raise
        except OSError as error:
            raise PlaceError(
                f"the scratch folder cannot be used ({error.strerror or error})",
                path=self.folder,
                fix="Name another one: scratch: {folder: ...} or SKYGRAFT_SCRATCH",
            ) from error

    # -- room

    def _limit(self, used: int) -> int:
        """Largest size of all copies, bytes, where so many are used."""
        if self.max_bytes:
            return self.max_bytes
        status = os.statvfs(self.folder)
        return min(DEFAULT_BYTES, used + status.f_bavail * status.f_frsize // 2)

    def _copies(self) -> Iterator[tuple[float, int, str]]:
        """Time of last use, size and name of all copies of whole files, of all options."""
        left = [entry for tag in _subfolders(f"{self.folder}/{MARK}") for entry in [f"{tag}/{FILES_KIND}"]]
        while left:
            with contextlib.suppress(OSError), os.scandir(left.pop()) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        if entry.is_dir(follow_symlinks=False):
                            left.append(entry.path)
                        else:
                            status = entry.stat(follow_symlinks=False)
                            yield status.st_atime, status.st_size, entry.path

    def make_room(self, n_bytes: int, url: str) -> None:
        """Remove copies that nobody uses, the least recently used first, until another file fits, and count that file.

        Raises
        ------
        PlaceError
            If it does not: the limit is too small, or what is there is in use.
        """
        with self.locked("room") as folder:
            noted = folder / _USED
            # Not all copies are looked at for each new one: that would take a time that grows as the square of them.
            used = _read_used(noted)
            if used is not None and used + n_bytes <= self._limit(used):
                _add_used(noted, n_bytes)
                return
            copies = sorted(self._copies())
            used = sum(size for _, size, _ in copies)
            limit = self._limit(used)
            if n_bytes > limit:
                raise PlaceError(
                    f"the file has {n_bytes:,} bytes, and the scratch folder {self.folder} may hold {limit:,}",
                    path=url,
                    fix="Raise scratch.max_bytes, or put scratch.folder where there is more room",
                )
            # Of many, more are removed than is needed, for the same reason.
            more = len(copies) // _REMOVED_AT_ONCE if used + n_bytes > limit else 0
            for last_used, size, path in copies:
                if used + n_bytes <= limit:
                    if not more:
                        break
                    more -= 1
                used -= size if _remove_unused(path, last_used) else 0
            if used + n_bytes <= limit:
                noted.write_text(f"{used + n_bytes} {int(time.time())}", encoding="ascii")
                return
        raise PlaceError(
            f"the scratch folder {self.folder} is full: it may hold {limit:,} bytes, {used:,} are in use by "
            f"running processes, and this file has {n_bytes:,}",
            path=url,
            fix="Raise scratch.max_bytes, or use fewer workers on this machine",
        )

    def count(self, n_bytes: int) -> None:
        """Count bytes of a copy whose size was not known when room was made for it."""
        with self.locked("room") as folder:
            _add_used(folder / _USED, n_bytes)

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[Path]:
        """Hold one of the locks of the folder, between processes of this machine; yields where they are."""
        folder = Path(self.base).parent / "locks"
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # File systems without locks: two processes may then fetch the same file, which costs time only.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(descriptor)


def _read_used(noted: Path) -> int | None:
    """Bytes that were counted; None where that is not known, or copies were not looked at for a while."""
    with contextlib.suppress(OSError, ValueError):
        used, looked = noted.read_text(encoding="ascii").split()
        if 0 <= time.time() - int(looked) < _LOOK_SECONDS:
            return int(used)
    return None


def _add_used(noted: Path, n_bytes: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        used, looked = noted.read_text(encoding="ascii").split()
        noted.write_text(f"{int(used) + n_bytes} {looked}", encoding="ascii")


def _subfolders(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _remove_unused(path: str, last_used: float) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True  # already gone
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _UNLOCKED or time.time() - last_used < _IN_USE_SECONDS:
            return False
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108
        return True
    finally:
        os.close(descriptor)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108
    return True


# -- which copies this process uses


class _Holds:
    """Shared locks on copies; they end with the process at the latest."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}

    def add(self, path: Path) -> bool:
        """Lock a copy; False if it was removed in that moment."""
        name = os.fspath(path)
        if name in self.held:
            with contextlib.suppress(OSError):
                if os.fstat(self.held[name]).st_ino == path.stat().st_ino:
                    return True
            os.close(self.held.pop(name))
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        with contextlib.suppress(OSError):
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                self.held[name] = descriptor
                return True
        os.close(descriptor)
        return False

    def close(self) -> None:
        while self.held:
            os.close(self.held.popitem()[1])


_local = threading.local()


@contextlib.contextmanager
def holding() -> Iterator[None]:
    """Context in which the copies that this thread asks for stay where they are."""
    if getattr(_local, "holds", None) is not None:
        yield
        return
    _local.holds = _Holds()
    try:
        yield
    finally:
        _local.holds.close()
        _local.holds = None


def hold(path: Path) -> bool:
    """Note the use of a copy, and keep it in a block of `holding`; False if it is not there any more."""
    now = time.time_ns()
    try:
        os.utime(path, ns=(now, path.stat().st_mtime_ns))
    except FileNotFoundError:
        return False
    holds = getattr(_local, "holds", None)
    return True if holds is None else holds.add(path)


# -- the scratch folder of a path, and that of URLs without a configuration

_current: Scratch | None = None


def use_scratch(scratch: Scratch | None) -> None:
    """Set the scratch folder of URLs that are given without one; None for the default."""
    global _current  # noqa: PLW0603
    _current = scratch


def default_scratch() -> Scratch:
    """Return the scratch folder of URLs that are given without one."""
    return _current or Scratch(default_folder(), environment_storage())


def scratch_of(path: str | os.PathLike[str]) -> Scratch:
    """Return the scratch folder that a copy lies in, by the options noted there."""
    base = base_of(path)
    folder = Path(base).parent.parent
    if _current is not None and _current.base == base:
        return _current
    return _read_settings(base) or Scratch(folder, environment_storage())


_known: dict[str, Scratch] = {}
_made: set[Scratch] = set()


def _read_settings(base: str) -> Scratch | None:
    if base in _known:
        return _known[base]
    try:
        content = json.loads(Path(base, _SETTINGS).read_bytes())
        scratch = Scratch(Path(base).parent.parent, Storage(**content["storage"]), int(content["max_bytes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if scratch.base != base:
        return None
    return _known.setdefault(base, scratch)


def write_stub(path: Path, identity: FileIdentity) -> None:
    """Make the file that stands for one in a store: empty, of its size and time; replaced whole."""
    temporary = path.with_name(f".{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        try:
            os.truncate(descriptor, max(identity.n_bytes, 0))
        finally:
            os.close(descriptor)
        settle(temporary, path, identity)
    except NotADirectoryError:
        raise PlaceError(
            "an object of the store lies beneath another one, as no file can", path=path, fix="Rename one of them"
        ) from None
    except OSError as error:
        raise no_room(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def settle(temporary: Path, path: Path, identity: FileIdentity) -> None:
    """Give a finished copy the time of the file in the store, and its name."""
    os.utime(temporary, ns=(time.time_ns(), identity.mtime_ns))
    if temporary.stat().st_mtime_ns != identity.mtime_ns:
        raise PlaceError(
            "the scratch folder's file system does not keep times to 100 ns",
            path=temporary.parent,
            fix="Put scratch.folder on a local disk",
        )
    temporary.replace(path)


def no_room(error: OSError, path: Path) -> PlaceError:
    """The error for a scratch folder that cannot be written to."""
    return PlaceError(
        f"the scratch folder cannot be written ({error.strerror or error})",
        path=Path(base_of(path)).parent.parent,
        fix="Check its free space and permissions, lower scratch.max_bytes, or name another scratch.folder",
    )
