"""Read again everything that a campaign wrote with a checksum, and compare: for disks and copies that lose bits.

Plain functions, for this process, others of this machine, or a cluster. A run compares sizes and times only.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skygraft.campaign.config import CampaignConfig
from skygraft.campaign.files import Layout
from skygraft.campaign.monitoring.wording import data_size, number
from skygraft.campaign.planned import campaign_plan
from skygraft.campaign.records import read_record
from skygraft.campaign.standing import DONE, recorded
from skygraft.campaign.tables.arrow import read_checksum
from skygraft.errors import CampaignError

__all__ = ["ChecksumReport", "Damage", "check_checksums", "discard"]

type Call = Callable[..., Iterator[Any]]
"""``call(function, items, **arguments)`` gives ``function(item, **arguments)`` for each item, in any order."""

_IMAGES_AT_ONCE = 8
_TABLES_AT_ONCE = 32
_BUFFER = 1 << 20
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
        The record of that image, whose removal has it made again; empty for tables.
    """

    path: str
    problem: str
    image_id: str = ""
    record: str = ""


@dataclass(frozen=True)
class ChecksumReport:
    """What came of comparing.

    Parameters
    ----------
    output : str
        The campaign's output folder.
    n_images : int
        Images that are done, all of whose files were read.
    n_tables : int
        Tables and other files of the whole campaign that were read.
    n_files, n_bytes : int
        What was read.
    damaged : tuple of Damage
        Files that are not what was written, sorted.
    """

    output: str
    n_images: int
    n_tables: int
    n_files: int
    n_bytes: int
    damaged: tuple[Damage, ...]

    @property
    def ok(self) -> bool:
        """Whether everything is as it was written."""
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
    """What came of some files."""

    n_images: int
    n_files: int
    n_bytes: int
    damaged: tuple[Damage, ...]


def check_checksums(
    config: CampaignConfig, call: Call, progress: Callable[[int, int], None] = lambda done, total: None
) -> ChecksumReport:
    """Read all files that a campaign wrote with a checksum: images, truth tables, records, consolidated tables.

    Parameters
    ----------
    config : CampaignConfig
        The campaign.
    call : callable
        Calls functions of this module on items, on workers or here; see `Call`.
    progress : callable
        Called with how many images and tables were read so far, and how many there are.

    Returns
    -------
    ChecksumReport

    Raises
    ------
    CampaignError
        If there is no plan, or no image is done.
    """
    layout = Layout(config.output)
    named = _check_named(layout)
    if any(bad.path == layout.plan.name for bad in named.damaged):
        # Which images there are cannot be told by it.
        return ChecksumReport(str(layout.root), 0, named.n_files, named.n_files, named.n_bytes, named.damaged)
    plan = campaign_plan(layout.plan)
    rows = recorded(plan, layout).rows(DONE)
    if not len(rows):
        raise CampaignError("no image of the campaign is done", path=layout.root, fix="Run it first: skygraft run")
    tables = _tables(layout)
    total = len(rows) + len(tables)
    progress(0, total)
    found = [named]
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
    """The consolidated tables that are there or whose checksum is, relative to the output folder, sorted."""
    found: set[str] = set()
    checksums = layout.consolidated / "checksums"
    for path in checksums.rglob("*.sha256"):
        name = path.relative_to(checksums).with_suffix("")
        found.add((name / "part-0.parquet" if len(name.parts) > 1 else name.with_suffix(".parquet")).as_posix())
    there = [*layout.truth.rglob("part-0.parquet"), *layout.sources.rglob("part-0.parquet"), layout.campaign_sources]
    return sorted(found | {path.relative_to(layout.root).as_posix() for path in there if path.exists()})


def _check_images(images: Sequence[tuple[str, int, int, str]], *, output: str) -> _Found:
    """Read the files of some images: image id, tract, patch and stem of each."""
    layout = Layout(Path(output))
    n_files = n_bytes = 0
    damaged: list[Damage] = []
    for image_id, tract, patch, stem in images:
        path = layout.record(tract, patch, stem)
        name = path.relative_to(layout.root).as_posix()
        record = read_record(path)
        n_files += 1
        if record is None or record["image"] != image_id:
            damaged.append(Damage(name, "the record is damaged", image_id, name))
            continue
        for file, wanted in record["outputs"].items():
            problem, size = _compare(layout.root / file, wanted["n_bytes"], wanted["sha256"])
            n_files, n_bytes = n_files + 1, n_bytes + size
            if problem:
                damaged.append(Damage(file, f"{problem} (image {image_id})", image_id, name))
    return _Found(len(images), n_files, n_bytes, tuple(damaged))


def _check_tables(tables: Sequence[str], *, output: str) -> _Found:
    layout = Layout(Path(output))
    n_bytes = 0
    damaged: list[Damage] = []
    for name in tables:
        path = layout.root / name
        known = read_checksum(layout.checksum(path))
        if known is None:
            damaged.append(Damage(name, "it has no checksum; the next run writes it again"))
            continue
        problem, size = _compare(path, known.n_bytes, known.sha256)
        n_bytes += size
        if problem:
            damaged.append(Damage(name, problem))
        for file, sha256 in known.inputs.items():
            source = layout.root / file
            problem, size = _compare(source, None, sha256, not_after=layout.checksum(path))
            n_bytes += size
            if problem:
                damaged.append(Damage(file, problem))
    return _Found(0, len(tables), n_bytes, tuple(damaged))


def _check_named(layout: Layout) -> _Found:
    """Read the files whose checksums are in the provenance; those that were written anew since do not count."""
    try:
        entities = json.loads(layout.provenance.read_bytes())["entity"]
        named = {layout.plan: entities["sg:plan"], layout.config: entities["sg:configuration"]}
        wanted = {path: str(entity["sg:sha256"]) for path, entity in named.items()}
    except FileNotFoundError:
        return _Found(0, 0, 0, ())  # of a run that was ended early the tables wait for the next one
    except (ValueError, KeyError, TypeError):
        name = layout.provenance.relative_to(layout.root).as_posix()
        return _Found(0, 1, 0, (Damage(name, "it is no provenance of skygraft; the next run writes it again"),))
    n_bytes, damaged = 0, []
    for path, sha256 in wanted.items():
        problem, size = _compare(path, None, sha256, not_after=layout.provenance)
        n_bytes += size
        if problem:
            damaged.append(Damage(path.relative_to(layout.root).as_posix(), problem))
    return _Found(0, len(wanted), n_bytes, tuple(damaged))


def _compare(path: Path, n_bytes: int | None, sha256: str, *, not_after: Path | None = None) -> tuple[str, int]:
    """What is wrong with a file, empty for nothing, and how many bytes were read."""
    try:
        with path.open("rb") as handle:
            hasher, size = hashlib.sha256(), 0
            while chunk := handle.read(_BUFFER):
                hasher.update(chunk)
                size += len(chunk)
        if not_after is not None and path.stat().st_mtime_ns > not_after.stat().st_mtime_ns:
            return "", size
    except FileNotFoundError:
        return "it is gone", 0
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})", 0
    if n_bytes is not None and size != n_bytes:
        return f"it has {size:,} bytes, and was written with {n_bytes:,}", size
    if hasher.hexdigest() != sha256:
        return "its content is not what was written: the SHA-256 differs", size
    return "", size


def discard(report: ChecksumReport) -> int:
    """Remove the records of images with damaged files, so that the next run makes them again; returns how many."""
    root = Path(report.output)
    records = {bad.record for bad in report.damaged if bad.record}
    for record in records:
        (root / record).unlink(missing_ok=True)
    tables = {bad.path for bad in report.damaged if not bad.record}
    layout = Layout(root)
    for table in tables:
        path = root / table
        if path.is_relative_to(layout.truth) or path.is_relative_to(layout.sources) or path == layout.campaign_sources:
            layout.checksum(path).unlink(missing_ok=True)
    return len(records)
