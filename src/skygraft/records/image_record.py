"""The record of an image, which is written last: it says that the image is done, and what it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from skygraft.dataset import dataset_id
from skygraft.errors import CampaignError
from skygraft.json_text import parse_json
from skygraft.place_names import is_copy
from skygraft.places import beneath, refresh
from skygraft.records.files import Layout, digest, write_json
from skygraft.records.image_summary import ImageStatus, ImageSummary
from skygraft.records.packs import DamagedPackError, read_file, sha256_of, stat_file
from skygraft.records.plan_file import PlannedImage

__all__ = [
    "PIXEL_VERSION",
    "RECORD_VERSION",
    "changes",
    "content_key",
    "is_untouched",
    "is_whole",
    "parse_record",
    "read_record",
    "summarise",
    "unreadable_record",
    "write_record",
]

RECORD_VERSION = 1
"""Version of the record's layout."""

PIXEL_VERSION = 10
"""Number of releases of skygraft that changed any output pixel; part of every content key."""

_MISSING = object()


def content_key(
    image_id: str, inputs: dict[str, list[int]], catalog_key: str, settings: dict[str, Any], code: int
) -> str:
    """SHA-256 over everything that an image's pixels depend on.

    Parameters
    ----------
    image_id : str
        The image; it selects the random streams.
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
    """True if a record has the content that it was written with."""
    try:
        made = [record[name] for name in ("image", "inputs", "catalog", "settings", "code")]
        return bool(checksum == _checksum(record) and content_key(*made) == record["key"])
    except (TypeError, ValueError):
        return False


_OF_THE_RUN = frozenset({"timings", "host", "software", "written", "inputs", "key"})
"""Keys whose values differ from run to run; times of inputs are part of the content key."""

RECORD_KEYS = {"version", "image", "key", "inputs", "catalog", "settings", "code", "outputs", "n_drawn", "calibration"}
"""Keys of every record."""


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write a record atomically, with a checksum of its content (without when, where and how fast it was made).

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    write_json(path, {**content, "checksum": _checksum(content)})


def _checksum(content: Mapping[str, Any]) -> str:
    """The checksum of a record: equal for equal images, whichever run made them."""
    return digest({key: value for key, value in content.items() if key not in _OF_THE_RUN})


def read_record(path: Path, image_id: str) -> dict[str, Any] | None:
    """Read the record of an image; None where there is none, or it is damaged or of another image.

    Raises
    ------
    CampaignError
        If it cannot be opened, or was written by a skygraft whose records have another layout.
    """
    try:
        content = read_file(path)
    except (FileNotFoundError, DamagedPackError):
        return None
    except OSError as error:
        raise unreadable_record(path, error) from error
    return parse_record(content, image_id, path)


def unreadable_record(path: str | Path, error: OSError) -> CampaignError:
    """The error for a record that is there and cannot be opened."""
    return CampaignError(f"the record cannot be read ({error})", path=path, fix="Check permissions, and run again")


def parse_record(content: bytes, image_id: str, path: str | Path) -> dict[str, Any] | None:
    """The record of an image from its bytes, of a file of that path; None and errors as of `read_record`."""
    try:
        record = _parse(content)
    except ValueError:
        return None  # damaged on the disk, since records are written atomically
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


def _parse(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return parse_json(content.decode())  # which takes numbers that no other JSON has


def _has_timings(record: Mapping[str, Any]) -> bool:
    """True if the timings, which the checksum leaves out, are wall and processor times of stages, if there are any."""
    timings = record.get("timings") or {}
    return isinstance(timings, dict) and all(
        isinstance(stage, dict) and all(_is_duration(stage.get(name)) for name in ("wall", "cpu"))
        for stage in timings.values()
    )


def is_whole(record: dict[str, Any], layout: Layout, *, read: bool = False) -> bool:
    """True if every output in a record exists and has its size; with `read`, also its checksum."""
    for name, output in record["outputs"].items():
        path = layout.root / name
        try:
            if stat_file(path).n_bytes != output["n_bytes"] or (read and sha256_of(path) != output["sha256"]):
                return False
        except OSError:
            return False
    return True


def is_untouched(record: dict[str, Any], path: Path, layout: Layout, known: object) -> bool:
    """True if no output was changed since it was written, by the times of last change.

    Parameters
    ----------
    record : dict
        The image's record.
    path : Path
        Its file.
    layout : Layout
        Where the outputs are.
    known : Event or None
        The last event of the ledger on the image. If it has no times of outputs, none may be later than the time of
        the record, which is written last.
    """
    names = [*record["outputs"], path.relative_to(layout.root).as_posix()]
    try:
        *now, written = (stat_file(layout.root / name).mtime_ns for name in names)
    except OSError:
        return False
    if isinstance(known, ImageSummary) and known.output_times:
        times = dict(zip(known.outputs, known.output_times, strict=False))
        return [times.get(name) for name in names] == [*now, written]
    return all(_not_later(time, written, layout) for time in now)


def _not_later(time: int, written: int, layout: Layout) -> bool:
    """True if a time of last change is none after that of the record."""
    # Below a second, times of a store stand for the content and tell nothing of the order.
    unit = 10**9 if is_copy(layout.root) else 1
    return time // unit <= written // unit


def changes(record: dict[str, Any], image: PlannedImage, root: Path, settings: dict[str, Any]) -> list[str]:
    """Describe what has changed since an image was made; empty if nothing has.

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
    paths = {name: beneath(root, name) for name in record["inputs"]}
    refresh(paths.values())
    for name, stamp in record["inputs"].items():
        path = paths[name]
        try:
            status = path.stat()
        except OSError:
            found.append(f"input {name} is gone")
            continue
        if status.st_size != stamp[0]:
            found.append(f"input {name} was changed: it had {stamp[0]:,} bytes, and has {status.st_size:,}")
        elif status.st_mtime_ns != stamp[1]:
            # Mostly a copy made without them.
            found.append(
                f"input {name} was changed, or copied without its time of last change (cp -p, rsync -t keep it)"
            )
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
    """Summarise the record of an image for the driver and its ledger.

    Parameters
    ----------
    record : dict
        The record; it is itself among the outputs of the summary.
    image : PlannedImage
        The image.
    layout : Layout
        Where the outputs are.
    status : {"done", "skipped", "failed"}
        The outcome.
    checked : bool
        Whether the checksums of the outputs were compared, so that it does not matter when they were last changed.
    """
    closure, timings = record.get("closure") or {}, record.get("timings") or {}
    path = layout.record(image.tract, image.patch, image.stem)
    outputs = {name: output["n_bytes"] for name, output in sorted(record["outputs"].items())}
    written = stat_file(path)
    times = [_time(layout.root / name) for name in outputs]
    outputs[path.relative_to(layout.root).as_posix()] = written.n_bytes
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
        output_times=[time if checked or _not_later(time, written.mtime_ns, layout) else 0 for time in times]
        + [written.mtime_ns],
        catalog=record["catalog"],
        settings=digest(record["settings"]),
        code=record["code"],
        host=record.get("host", ""),
        dataset=record.get("input_dataset", ""),
    )


def _time(path: Path) -> int:
    try:
        return stat_file(path).mtime_ns
    except OSError:
        return 0


def _is_duration(seconds: Any) -> bool:
    # Damaged digits may be a number that the ledger cannot hold.
    return isinstance(seconds, int | float) and 0 <= seconds < _LONGEST_SECONDS


_LONGEST_SECONDS = 1e10
