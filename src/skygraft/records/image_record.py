"""The record of an image: written last, it says that the image is done and what it was made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skygraft.dataset import dataset_id
from skygraft.errors import CampaignError
from skygraft.records.files import Layout, digest, sha256_file, write_json
from skygraft.records.image_summary import ImageStatus, ImageSummary
from skygraft.records.plan_file import PlannedImage

__all__ = [
    "PIXEL_VERSION",
    "RECORD_VERSION",
    "changes",
    "content_key",
    "is_untouched",
    "is_whole",
    "read_record",
    "summarise",
    "write_record",
]

RECORD_VERSION = 1
"""Layout of the record."""

PIXEL_VERSION = 6
"""Counts the releases of skygraft that changed any output pixel; part of every content key."""

_MISSING = object()


def content_key(
    image_id: str, inputs: dict[str, list[int]], catalog_key: str, settings: dict[str, Any], code: int
) -> str:
    """SHA-256 over everything that an image's pixels depend on.

    Parameters
    ----------
    image_id : str
        Keys the random streams.
    inputs : dict
        Each file that was read: path relative to the survey's root, to size in bytes and time of last change in ns.
        (Contents are not hashed: that would read every input twice.)
    catalog_key : str
        Fingerprint of the catalogue rows.
    settings : dict
        `CampaignConfig.pixel_settings`.
    code : int
        `PIXEL_VERSION` of the code.
    """
    return digest([image_id, inputs, catalog_key, settings, code])


def _agrees(record: Mapping[str, Any], checksum: Any) -> bool:
    """Whether a record says what it said when it was written."""
    try:
        made = [record[name] for name in ("image", "inputs", "catalog", "settings", "code")]
        return bool(checksum == _checksum(record) and content_key(*made) == record["key"])
    except (TypeError, ValueError):
        return False


_OF_THE_RUN = frozenset({"timings", "host", "software", "written", "inputs", "key"})
"""What differs from run to run; times of inputs are in the key."""

RECORD_KEYS = {"version", "image", "key", "inputs", "catalog", "settings", "code", "outputs", "n_drawn", "calibration"}
"""What every record says."""


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write a record, with a checksum of what it says (but of when, where and how fast it was made), atomically.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    write_json(path, {**content, "checksum": _checksum(content)})


def _checksum(content: Mapping[str, Any]) -> str:
    """Equal images have equal checksums, whoever made them."""
    return digest({key: value for key, value in content.items() if key not in _OF_THE_RUN})


def read_record(path: Path, image_id: str) -> dict[str, Any] | None:
    """The record of an image; None where there is none, or it is damaged or another's: the image is then made again.

    Raises
    ------
    CampaignError
        If it cannot be opened, or is of another version (of another skygraft's campaign, whose outputs stay).
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CampaignError(
            f"the record cannot be read ({error})", path=path, fix="Check permissions, and run again"
        ) from error
    except ValueError:
        return None  # a disk's doing, since records appear whole
    if not isinstance(record, dict):
        return None
    checksum = record.pop("checksum", None)
    if not record.keys() >= RECORD_KEYS or not _has_timings(record):
        return None
    if record["image"] != image_id or (checksum is not None and not _agrees(record, checksum)):
        return None
    if record["version"] != RECORD_VERSION:
        raise CampaignError(
            f"the record is not of version {RECORD_VERSION}",
            path=path,
            fix="Use a new output folder, or delete it; its image is then made again",
        )
    return record


def _has_timings(record: Mapping[str, Any]) -> bool:
    """Whether the timings, which the checksum leaves out, are wall and processor times of stages, if there are any."""
    timings = record.get("timings") or {}
    return isinstance(timings, dict) and all(
        isinstance(stage, dict) and all(isinstance(stage.get(name), int | float) for name in ("wall", "cpu"))
        for stage in timings.values()
    )


def is_whole(record: dict[str, Any], layout: Layout, *, read: bool = False) -> bool:
    """Whether every output that the record names is there, in its size; with `read`, also with its checksum."""
    for name, output in record["outputs"].items():
        path = layout.root / name
        try:
            if path.stat().st_size != output["n_bytes"] or (read and sha256_file(path) != output["sha256"]):
                return False
        except OSError:
            return False
    return True


def is_untouched(record: dict[str, Any], path: Path, layout: Layout, known: object) -> bool:
    """Whether no output was changed since it was written, by the times of last change.

    Parameters
    ----------
    record : dict
        The image's record.
    path : Path
        Its file.
    layout : Layout
        Where the outputs are.
    known : Event or None
        What the ledger says last of the image. Where that is not how it was made, the time of the record counts,
        which is written last.
    """
    names = [*record["outputs"], path.relative_to(layout.root).as_posix()]
    try:
        *now, written = ((layout.root / name).stat().st_mtime_ns for name in names)
    except OSError:
        return False
    if isinstance(known, ImageSummary) and known.output_times:
        times = dict(zip(known.outputs, known.output_times, strict=False))
        return [times.get(name) for name in names] == [*now, written]
    return all(time <= written for time in now)


def changes(record: dict[str, Any], image: PlannedImage, root: Path, settings: dict[str, Any]) -> list[str]:
    """What has changed since the image was made, in words; empty where it is up to date.

    Parameters
    ----------
    record : dict
        The image's record.
    image : PlannedImage
        The image as it is planned now.
    root : Path
        The survey's root.
    settings : dict
        `CampaignConfig.pixel_settings` now.
    """
    found = []
    for name, stamp in record["inputs"].items():
        path = root / name
        try:
            status = path.stat()
        except OSError:
            found.append(f"input {name} is gone")
            continue
        if [status.st_size, status.st_mtime_ns] != stamp:
            found.append(f"input {name} was changed")
    dataset, origin = dataset_id(image.dataset), record.get("input_dataset", "")
    if dataset and dataset != origin:
        found.append(f"the input is dataset {dataset} now, and was {origin or 'none of a repository'}")
    if record["catalog"] != image.catalog_key:
        found.append("the catalogue's sources of the image")
    before = record["settings"]
    for key in sorted({*settings, *before}) if settings != before else ():
        old, new = before.get(key, _MISSING), settings.get(key, _MISSING)
        if old != new:
            shown = ["absent" if value is _MISSING else json.dumps(value) for value in (old, new)]
            found.append(f"{key}: {shown[0]} -> {shown[1]}")
    if record["code"] != PIXEL_VERSION:
        found.append(f"skygraft's pixel version: {record['code']} -> {PIXEL_VERSION}")
    return found


def summarise(
    record: dict[str, Any], image: PlannedImage, layout: Layout, *, status: ImageStatus, checked: bool = False
) -> ImageSummary:
    """What an image's record says, for the driver and its ledger; the record itself is among the outputs.

    With `checked` the outputs are known to be what the record says, whenever they were changed.
    """
    closure, timings = record.get("closure") or {}, record.get("timings") or {}
    path = layout.record(image.tract, image.patch, image.stem)
    outputs = {name: output["n_bytes"] for name, output in sorted(record["outputs"].items())}
    written = path.stat()
    times = [_time(layout.root / name) for name in outputs]
    outputs[path.relative_to(layout.root).as_posix()] = written.st_size
    return ImageSummary(
        record["image"],
        status,
        tract=image.tract,
        patch=image.patch,
        band=record.get("band") or "",
        key=record["key"],
        n_sources=record["n_drawn"],
        n_bytes=sum(outputs.values()),
        wall_seconds=round(sum(stage["wall"] for stage in timings.values()), 4),
        cpu_seconds=round(sum(stage["cpu"] for stage in timings.values()), 4),
        stages={name: stage["wall"] for name, stage in timings.items()},
        closure_mag=closure.get("median_mag"),
        inputs=record["inputs"],
        outputs=outputs,
        output_times=[time if checked or time <= written.st_mtime_ns else 0 for time in times] + [written.st_mtime_ns],
        catalog=record["catalog"],
        settings=digest(record["settings"]),
        code=record["code"],
        host=record.get("host", ""),
        dataset=record.get("input_dataset", ""),
    )


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
