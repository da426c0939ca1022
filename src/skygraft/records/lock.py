"""The lock that keeps a second driver out of a campaign, also on file systems that have no locks.

The library filelock does not replace it: its lock does not name the process that holds it, and raises an error where
the file system has no locks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from skygraft.errors import CampaignError, OutputError

__all__ = ["DEAD_SECONDS", "Owner", "holder", "is_locked", "lease_path", "locked"]

_TRIES = 5
_UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV})
"""Errors of ``flock`` on file systems without locks (Lustre without ``-o flock``, NFS without a lock daemon)."""
_HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
_BEAT_SECONDS = 20.0
DEAD_SECONDS = 180.0
"""A lease of another machine that was not renewed for this long belongs to a driver that died."""


class _NoLocksError(Exception):
    """The file system has no locks."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a campaign's lock, which ends with the process that holds it.

    Where the file system has no locks, a lease takes its place: a file beside the lock that is created only if there
    is none, and whose time its owner renews. It is void when its owner is dead: at once on the same machine, after
    three minutes without renewal on others.

    Parameters
    ----------
    path : Path
        The lock file.

    Raises
    ------
    CampaignError
        If another driver holds it.
    OutputError
        If it cannot be written.
    """
    try:
        handle = path.open("a+")
    except OSError as error:
        raise OutputError(
            f"the lock cannot be written ({error.strerror or error})", path=path, fix="Check permissions and free space"
        ) from error
    with handle, contextlib.ExitStack() as stack:
        try:
            taken = _take(handle)
        except _NoLocksError:
            stack.enter_context(_lease(path))
            taken = True
        if not taken:
            raise _busy(path, holder(path))
        handle.truncate(0)
        handle.write(_name())
        handle.flush()
        yield


def is_locked(path: Path) -> bool:
    """True if a driver holds the lock.

    Raises
    ------
    OutputError
        If the lock file cannot be read.
    """
    try:
        with path.open() as handle:
            try:
                return not _take(handle, shared=True)
            except _NoLocksError:
                return _lease_holds(lease_path(path))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise OutputError(
            f"it is unknown whether the campaign runs: its lock cannot be read ({error.strerror or error})",
            path=path,
            fix="Check permissions",
        ) from error


def holder(path: Path) -> str:
    """The process that holds the lock, or held it last: ``process 123 on host``; empty if unknown."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


@dataclass(frozen=True)
class Owner:
    """The process that holds a lease.

    Parameters
    ----------
    number, host : str
        Its number, and the machine that it runs on.
    birth : str
        When it began.
    processes : str
        Name of its PID namespace.
    """

    number: str
    host: str
    birth: str
    processes: str

    @classmethod
    def me(cls) -> Self:
        """The owner that this process is."""
        return cls(str(os.getpid()), os.uname().nodename, _birth(os.getpid()), _processes())

    @classmethod
    def parse(cls, text: str) -> Self:
        """The owner that a lease names."""
        who, _, rest = text.partition(" since ")
        number, _, host = who.removeprefix("process ").partition(" on ")
        birth, _, processes = rest.rpartition(" ")[0].partition(" ")
        return cls(number, host, birth, processes)

    def text(self) -> str:
        """What a lease of it says; another one each time."""
        who = f"process {self.number} on {self.host}"
        return f"{who} since {self.birth} {self.processes} {secrets.token_hex(8)}"

    def is_alive(self) -> bool | None:
        """Whether it runs; None if it is on another machine, so that this is not known here."""
        if self.host == os.uname().nodename and self.processes == _processes() and self.number.isdecimal():
            return _birth(int(self.number)) == self.birth
        return None


def _name() -> str:
    return f"process {os.getpid()} on {os.uname().nodename}"


def _busy(path: Path, who: str, fix: str = "Wait for it to end, or stop it") -> CampaignError:
    return CampaignError(f"another process runs this campaign ({who or 'unknown'})", path=path.parent, fix=fix)


def _take(handle: IO[str], *, shared: bool = False) -> bool:
    """Try to take the lock; True if that succeeded."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    for tries_left in reversed(range(1 if shared else _TRIES)):
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                raise _NoLocksError from error
            if error.errno not in _HELD:
                raise OutputError(
                    f"the lock cannot be taken ({error.strerror or error})",
                    path=handle.name,
                    fix="Check the file system, or put the output folder on another one",
                ) from error
            # It may be a process that only checks whether the campaign runs.
            if tries_left:
                time.sleep(0.1)
    return False


# -- on file systems without locks


def lease_path(path: Path) -> Path:
    """The lease, which takes the place of a lock where the file system has none."""
    return path.with_name(f"{path.name}.held")


@contextlib.contextmanager
def _lease(lock: Path) -> Iterator[None]:
    path, over = lease_path(lock), threading.Event()
    mine = Owner.me().text()
    for last in (False, True):
        before = _lease_text(path)
        try:
            with path.open("x", encoding="utf-8") as handle:
                handle.write(mine)
            break
        except FileExistsError:
            if last or _lease_holds(path) or not _remove(path, before):
                raise _busy(
                    lock,
                    before.partition(" since ")[0],
                    f"Wait for it to end, or stop it. The file system has no locks, so {path} takes their place: it "
                    "is valid until its process is dead, on another machine until "
                    f"{DEAD_SECONDS:.0f} s after it was last renewed",
                ) from None
        except OSError as error:
            raise OutputError(
                f"the file system has no locks, and {path.name}, which would take their place, cannot be created "
                f"({error.strerror or error})",
                path=path.parent,
                fix="Put the output folder on another file system, or have this one mounted with locks (flock)",
            ) from error

    def beat() -> None:
        while not over.wait(_BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, daemon=True, name="holds the campaign")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if _lease_text(path) == mine:
            path.unlink(missing_ok=True)


def _remove(path: Path, text: str) -> bool:
    """Remove the lease of a dead driver; False if another driver has done so, and created its own."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return True
    if _lease_text(aside) == text:
        aside.unlink(missing_ok=True)
        return True
    aside.rename(path)
    return False


def _lease_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _lease_holds(path: Path) -> bool:
    """True if there is a lease whose owner may be alive."""
    try:
        text, renewed = _lease_text(path), path.stat().st_mtime
    except FileNotFoundError:
        return False
    alive = Owner.parse(text).is_alive()
    if alive is not None:
        return alive
    return _now_by_the_clock_of(path.parent) - renewed < DEAD_SECONDS


def _processes() -> str:
    """Name of the PID namespace: a container on the same machine may have its own."""
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115  (text, and no file's name)
    except OSError:
        return "unknown"


def _birth(process: int) -> str:
    """When a process began, in clock ticks of the kernel, or "0" if unknown; empty if there is no such process."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass  # of another user
    try:
        # The name of the command, in brackets, may contain anything.
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        return status.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "0"


def _now_by_the_clock_of(folder: Path) -> float:
    """The time by the clock that gives files their times, which may be that of a file server."""
    probe = folder / f".now.{secrets.token_hex(8)}.tmp"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
