"""What tells that something that a plan was made from has changed."""

from __future__ import annotations

from pathlib import Path

from skygraft.campaign.config import CampaignConfig
from skygraft.campaign.files import digest

__all__ = ["file_stamp", "plan_key"]


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
