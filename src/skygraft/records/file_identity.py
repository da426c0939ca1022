"""What tells that a file is another one than it was: what a plan was made from, and what workers go by."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from skygraft.config.campaign import CampaignConfig
from skygraft.errors import CampaignError
from skygraft.records.files import digest

__all__ = ["Stamp", "await_stamp", "file_stamp", "plan_key", "stamp_of"]

type Stamp = tuple[int, int]
"""Size in bytes and time of last change, ns: the same on all machines that share a file system."""

_TRIES = 10


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file that is there."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def await_stamp(path: Path, stamp: Stamp, what: str) -> None:
    """Wait until this machine sees a file as the driver does; a network file system may show an older one for a while.

    Raises
    ------
    CampaignError
        If it does not within some seconds.
    """
    for patience in reversed(range(_TRIES)):
        with contextlib.suppress(OSError), path.open("rb"):
            # Having opened it, one sees the newest there is.
            if stamp_of(path) == stamp:
                return
        if patience:
            time.sleep(1.0)
    raise CampaignError(
        f"this worker does not see the {what} that the campaign runs by",
        path=path,
        fix="Make sure that workers and driver see the same file system",
    )


def file_stamp(path: Path) -> str:
    """What tells that a file was made, changed or removed; empty where there is none."""
    try:
        status = path.stat()
    except OSError:
        return ""
    # A copy that keeps the time of the original's last change moves only the last of these.
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def plan_key(config: CampaignConfig) -> str:
    """Fingerprint of what a plan depends on: survey, its table where it has one, catalogue file, sky map, margin."""
    resolved = config.resolved()
    files = [config.catalog.path]
    if config.survey.index is not None:
        files.append(config.survey.root / config.survey.index)
    stamps = []
    for path in files:
        try:
            status = path.stat()
            stamps.append([status.st_size, status.st_mtime_ns])
        except OSError:
            stamps.append([])
    return digest([resolved[k] for k in ("survey", "catalog", "skymap", "margin_arcsec")] + stamps)
