"""Verify the checksums of everything that a campaign wrote, to find what disks and copies have damaged.

`check_checksums` reads every file; its parts are plain functions, which run in this process, in others of this machine
or on a cluster. `look_at_files` is the quick look of `skygraft status`, at sizes and times of last change.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skygraft.campaign.calling import Call
from skygraft.catalog.partition_read import MARKER, damaged_partitions, partition_bounds
from skygraft.config.campaign import CampaignConfig, load_config
from skygraft.errors import (
    CampaignError,
    CatalogError,
    ConfigError,
    CorruptFileError,
    PlaceError,
    PlaceNotFoundError,
    SkygraftError,
)
from skygraft.json_text import parse_json
from skygraft.place_names import is_copy
from skygraft.places import bring
from skygraft.records.file_checksums import compare, problem_of, read_checksum
from skygraft.records.files import Layout
from skygraft.records.image_record import read_record
from skygraft.records.packs import file_exists, pack_of, read_file, remove_record
from skygraft.records.plan_file import DamagedPlanError, campaign_plan
from skygraft.records.status import DONE, record_states
from skygraft.wording import data_size, number

__all__ = ["ChecksumReport", "Damage", "check_checksums", "damaged_outputs", "discard", "look_at_files"]

_IMAGES_AT_ONCE = 8
_TABLES_AT_ONCE = 32
_SMALL = 1 << 20
"""Bytes of a file that is read where a look at its time leaves a doubt."""
_SHOWN = 20


@dataclass(frozen=True, order=True)
class Damage:
    """A file that is not what was written.

    Parameters
    ----------
    path : str
        The file, relative to the campaign's output folder.
    problem : str
        What is wrong with it.
    image_id : str
        The image that it belongs to; empty for tables.
    record : str
        The record of that image; without it the next run injects the image again. Empty for tables.
    """

    path: str
    problem: str
    image_id: str = ""
    record: str = ""


@dataclass(frozen=True)
class ChecksumReport:
    """The result of verifying a campaign's checksums.

    Parameters
    ----------
    output : str
        The campaign's output folder.
    n_images : int
        Images that are done, all of whose files were read.
    n_tables : int
        Tables and other files of the whole campaign that were read.
    n_files, n_bytes : int
        Files that were read, and their bytes.
    damaged : tuple of Damage
        Files that differ from what was written, sorted.
    """

    output: str
    n_images: int
    n_tables: int
    n_files: int
    n_bytes: int
    damaged: tuple[Damage, ...]

    @property
    def ok(self) -> bool:
        """Whether no file is damaged."""
        return not self.damaged

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return {**asdict(self), "ok": self.ok}

    def __str__(self) -> str:
        read = (
            f"{number(self.n_files, 'file')} read ({data_size(self.n_bytes)}), of {number(self.n_images, 'image')} and "
            f"{number(self.n_tables, 'table')}"
        )
        if self.ok:
            return f"{read}: all are as they were written"
        lines = [f"{read}: {number(len(self.damaged), 'file')} damaged"]
        lines += [f"  {bad.path}: {bad.problem}" for bad in self.damaged[:_SHOWN]]
        if len(self.damaged) > _SHOWN:
            lines.append(f"  ... and {len(self.damaged) - _SHOWN:,} more; --json has all of them")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Found:
    """The result for some files."""

    n_images: int
    n_files: int
    n_bytes: int
    damaged: tuple[Damage, ...]


def check_checksums(
    config: CampaignConfig, call: Call, progress: Callable[[int, int], None] = lambda done, total: None
) -> ChecksumReport:
    """Read all files that a campaign wrote with a checksum: images, truth, records, tables, plan, catalogue.

    Parameters
    ----------
    config : CampaignConfig
        The campaign.
    call : callable
        Applies functions of this module to items, on workers or in this process; see `skygraft.campaign.calling.Call`.
    progress : callable
        Called with the number of images and tables read so far, and of all.

    Returns
    -------
    ChecksumReport

    Raises
    ------
    CampaignError
        If there is no plan, or no image is done.
    """
    layout = Layout(config.output)
    try:
        plan = campaign_plan(layout.plan)
    except DamagedPlanError as error:
        # Without a plan, the images are not known.
        return ChecksumReport(str(layout.root), 0, 1, 1, 0, (Damage(layout.plan.name, error.message),))
    states, lost = record_states(plan, layout)
    states.state[lost] = DONE
    rows = states.rows(DONE)
    if not len(rows):
        raise CampaignError("no image of the campaign is done", path=layout.root, fix="Run it first: skygraft run")
    tables = _tables(layout)
    total = len(rows) + len(tables)
    progress(0, total)
    found = [_check_configuration(layout), _check_catalog(layout)]
    done = 0
    output = str(layout.root)
    images = ((i.image_id, i.tract, i.patch, i.stem) for i in plan.images(rows))
    for one in itertools.chain(
        call(_check_images, itertools.batched(images, _IMAGES_AT_ONCE), output=output),
        call(_check_tables, itertools.batched(tables, _TABLES_AT_ONCE), output=output),
    ):
        found.append(one)
        done += one.n_images or one.n_files
        progress(min(done, total), total)
    return ChecksumReport(
        output=output,
        n_images=sum(one.n_images for one in found),
        n_tables=sum(one.n_files for one in found if not one.n_images),
        n_files=sum(one.n_files for one in found),
        n_bytes=sum(one.n_bytes for one in found),
        damaged=tuple(sorted({bad for one in found for bad in one.damaged})),
    )


def _tables(layout: Layout) -> list[str]:
    """Files of no single image, relative to the output folder, sorted: those with a checksum, and tables without."""
    found = {layout.file_of(path) for path in layout.checksums.rglob("*.sha256")}
    there = [*layout.truth.rglob("part-0.parquet"), *layout.sources.rglob("part-0.parquet"), layout.campaign_sources]
    found |= {path for path in there if path.exists()}
    if not os.path.lexists(layout.checkpoint):
        found.discard(layout.checkpoint)  # which anybody may delete
    return sorted(path.relative_to(layout.root).as_posix() for path in found)


def _check_images(images: Sequence[tuple[str, int, int, str]], *, output: str) -> _Found:
    """Verify the files of some images, given the image id, tract, patch and stem of each."""
    layout = Layout(Path(output))
    n_files = n_bytes = 0
    damaged: list[Damage] = []
    for image_id, tract, patch, stem in images:
        path = layout.record(tract, patch, stem)
        name = path.relative_to(layout.root).as_posix()
        n_files += 1
        if not file_exists(path):
            damaged.append(Damage(name, f"it is gone (image {image_id})", image_id, name))
            continue
        try:
            record = read_record(path, image_id)
            problem = "the record is damaged"
        except CampaignError as error:
            record, problem = None, error.message
        if record is None:
            damaged.append(Damage(_file_of(path, layout), f"{problem} (image {image_id})", image_id, name))
            continue
        for file, wanted in record["outputs"].items():
            problem, size = _compare_output(layout.root / file, wanted)
            n_files, n_bytes = n_files + 1, n_bytes + size
            if problem:
                path = layout.root / file
                damaged.append(Damage(_file_of(path, layout), f"{problem} (image {image_id})", image_id, name))
    return _Found(len(images), n_files, n_bytes, tuple(damaged))


def _file_of(path: Path, layout: Layout) -> str:
    """The file that a record or a truth table lies in, its own or the pack, relative to the output folder."""
    packed = not os.path.lexists(path) and file_exists(path)
    return (pack_of(path) if packed else path).relative_to(layout.root).as_posix()


def _compare_output(path: Path, wanted: Mapping[str, Any]) -> tuple[str, int]:
    """Read an output of an image, single or packed; see `skygraft.records.file_checksums.compare`."""
    if is_copy(path) and not file_exists(path):
        try:
            path = bring(path)
        except PlaceError as error:
            return ("it is gone" if isinstance(error, PlaceNotFoundError) else str(error)), 0
    if os.path.lexists(path) or not file_exists(path):
        return compare(path, wanted["n_bytes"], wanted["sha256"])
    try:
        content = read_file(path)
    except OSError as error:
        return f"{path.name} in it cannot be read ({error.strerror or error})", 0
    same = hashlib.sha256(content).hexdigest() == wanted["sha256"]
    return "" if same else f"the content of {path.name} in it is not what was written", len(content)


def damaged_outputs(layout: Layout, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Read the files of an image and compare them with their checksums.

    Parameters
    ----------
    layout : Layout
        The campaign's output folder.
    record : mapping
        The image's record.

    Returns
    -------
    list of (str, str)
        Files that are missing or damaged, relative to the output folder, and what is wrong with each.
    """
    found = ((name, _compare_output(layout.root / name, wanted)[0]) for name, wanted in record["outputs"].items())
    return [(name, problem) for name, problem in found if problem]


def _check_tables(tables: Sequence[str], *, output: str) -> _Found:
    layout = Layout(Path(output))
    n_bytes = 0
    damaged: list[Damage] = []
    for name in tables:
        path = layout.root / name
        known = read_checksum(layout.checksum(path))
        if known is None:
            damaged.append(Damage(name, "it has no checksum, or a damaged one"))
            continue
        problem, size = compare(path, known.n_bytes, known.sha256)
        n_bytes += size
        if problem:
            damaged.append(Damage(name, problem))
    return _Found(0, len(tables), n_bytes, tuple(damaged))


def _check_configuration(layout: Layout) -> _Found:
    """Compare the configuration with its checksum in the provenance, unless somebody has edited it since."""
    try:
        sha256 = str(parse_json(layout.provenance.read_bytes())["entity"]["sg:configuration"]["sg:sha256"])
        written = layout.provenance.stat().st_mtime_ns
    except (OSError, ValueError, KeyError, TypeError):
        return _Found(0, 0, 0, ())  # The run was ended early; a damaged provenance has its own checksum.
    problem, size = compare(layout.config, None, sha256)
    with contextlib.suppress(OSError, ConfigError):
        if layout.config.stat().st_mtime_ns > written and load_config(layout.config):
            problem = ""
    return _Found(0, 1, size, (Damage(layout.config.name, problem),) if problem else ())


def _check_catalog(layout: Layout) -> _Found:
    """Compare the partitions of the catalogue with the checksums in its marker file."""
    try:
        bounds = partition_bounds(layout.catalog)
        damaged = damaged_partitions(layout.catalog, read=True)
        n_files, n_bytes = 2 + len(bounds.keys), sum(bounds.sizes)
    except SkygraftError as error:
        named = error.path if isinstance(error, CorruptFileError) else None
        damaged, n_files, n_bytes = {Path(named or layout.catalog / MARKER): error.message}, 1, 0
    found = ((path.relative_to(layout.root).as_posix(), problem) for path, problem in damaged.items())
    return _Found(0, n_files, n_bytes, tuple(Damage(path, problem) for path, problem in found))


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, SkygraftError) else str(error)


def _changed_tables(layout: Layout) -> Iterator[Path]:
    """Tables of patches that are missing, or are newer than their checksums, which are written just after them.

    Nothing is read: there are tens of thousands of them.
    """
    for base in (layout.truth.name, layout.sources.name, layout.records.name):
        folder, checksums = f"{layout.root}/{base}", f"{layout.checksums}/{base}"
        for tract in _names(checksums):
            for name in _names(f"{checksums}/{tract}"):
                table = f"{folder}/{tract}/{name.removesuffix('.sha256')}/part-0.parquet"
                try:
                    status, noted = os.stat(table), os.stat(f"{checksums}/{tract}/{name}")  # noqa: PTH116
                    if stat.S_ISREG(status.st_mode) and status.st_mtime_ns <= noted.st_mtime_ns:
                        continue
                except OSError:
                    pass  # It is missing, and reported as such.
                yield Path(table)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return []


def look_at_files(layout: Layout, *, tables: bool = True) -> tuple[Damage, ...]:
    """Find damaged files among what a campaign wrote besides images: tables, reports of the plan, catalogue.

    Sizes and times of last change are compared; small files whose time differs are read.

    Parameters
    ----------
    layout : Layout
        The campaign's output folder.
    tables : bool
        Whether to look at what a run writes; if False, only at the reports of the plan.

    Returns
    -------
    tuple of Damage
        Sorted.
    """
    reports = [layout.plan_summary, layout.plan_checks, layout.plan_findings]
    damaged = []
    single = [layout.file_of(path) for path in layout.checksums.glob("*.sha256")]
    for path in sorted([*single, *_changed_tables(layout)]) if tables else reports:
        name = path.relative_to(layout.root).as_posix()
        known = read_checksum(layout.checksum(path))
        if path == layout.checkpoint:
            continue  # read and compared before it is used; the next run replaces a damaged one
        problem = problem_of(path, known, most=_SMALL) if known is not None else ""
        # A run does not need the reports, so one that was removed is not damage.
        if problem and (tables or os.path.lexists(path)):
            damaged.append(Damage(name, problem + ("; `skygraft plan` rebuilds it" if path in reports else "")))
    if tables:
        try:
            load_config(layout.config)
        except (ConfigError, OSError) as error:
            damaged.append(Damage(layout.config.name, f"it cannot be read ({_reason(error)}); the next run writes it"))
        try:
            parts = damaged_partitions(layout.catalog)
        except CatalogError as error:
            parts = {layout.catalog / MARKER: error.message}
        damaged += [Damage(path.relative_to(layout.root).as_posix(), problem) for path, problem in parts.items()]
    return tuple(sorted(damaged))


def discard(report: ChecksumReport) -> int:
    """Remove what keeps the next run from repairing the damage, and return how many images it will inject again.

    That is the records of images with damaged files, the checksums of damaged tables, and damaged partitions.
    """
    root = Path(report.output)
    records = {bad.record for bad in report.damaged if bad.record}
    for record in records:
        with contextlib.suppress(IsADirectoryError):  # as in `_forget`
            remove_record(root / record)
    tables = {bad.path for bad in report.damaged if not bad.record}
    layout = Layout(root)
    for table in tables:
        path = root / table
        checked = (layout.truth, layout.sources, layout.records, layout.campaign_sources)
        if any(path.is_relative_to(folder) for folder in checked):
            _forget(layout.checksum(path))
        elif path.is_relative_to(layout.catalog):
            _forget(path)
    return len(records)


def _forget(path: Path) -> None:
    # A folder in place of the file is not ours to remove: whoever writes the file reports it.
    with contextlib.suppress(IsADirectoryError):
        path.unlink(missing_ok=True)
