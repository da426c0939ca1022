"""The truth table of a patch: what was injected into the images that have it as home, and the primary rows.

Plain functions of some patches, for workers. A table depends on the patch's images and records alone; it is left as it
is if no record changed since it was written.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from skygraft.disk import FileIdentity, NamedTogether, write_unsynced
from skygraft.json_text import parse_json
from skygraft.records.files import RECORD_SUFFIX, TRUTH_SUFFIX, Layout, digest, json_text
from skygraft.records.image_record import parse_record, unreadable_record
from skygraft.records.known_packs import PackedPatch, packed_patch
from skygraft.records.packs import DamagedPackError, PatchFiles, file_exists
from skygraft.skymap import SkyMap, get_skymap
from skygraft.tables.arrow import ROWS, TableNote, TableWriter, note_of
from skygraft.tables.calibrations import CalibrationUse, calibration_use, fold
from skygraft.tables.neighbours import PatchImages, PlacedImage
from skygraft.tables.packing import ImageFiles, Packing, pack_patch
from skygraft.tables.truth_parts import (
    DamagedTruthError,
    check_truth_part,
    parse_alike,
    parse_truth_part,
    unreadable_part,
)
from skygraft.tables.truth_rows import PART_SCHEMA, REPEATED, TABLE_COLUMNS, TRUTH_SCHEMA, Primaries, annotate

__all__ = ["TABLE_COLUMNS", "TABLE_VERSION", "TRUTH_SCHEMA", "PatchDigest", "PatchImages", "consolidate_truth"]

TABLE_VERSION = 3
"""Counts changes of the content of the consolidated tables; part of their fingerprints."""

MEMORY_VERSION = 3
"""Counts changes of what is remembered of a patch."""

_KEPT_BYTES = 64 << 20
"""Of the records and truth tables of a patch that are kept until they are packed."""

_PARSED_BYTES = 16 << 20
"""Of truth tables of images that are read into memory before they are parsed."""

_SETTLED_NS = 2_000_000_000
"""A record that changed less than this before it was read could have changed again within one tick of the clock."""


@dataclass(frozen=True)
class PatchDigest:
    """Summary of the records of one home patch.

    Parameters
    ----------
    tract, patch : int
        The patch.
    n_images : int
        Images planned.
    n_done, n_rows, n_drawn, n_bytes : int
        Images with a record, and of these: rows of truth, sources drawn, bytes of the outputs.
    records : str
        Fingerprint of the records' content keys and their outputs' checksums.
    truth : str
        Fingerprint of the truth table; empty where there is none.
    bands : tuple of str
        Bands of the truth's rows.
    calibrations : tuple of CalibrationUse
        Each calibration reference used.
    software : tuple of (str, int)
        Each set of software versions, as JSON, and how many images were made with it.
    hosts : tuple of (str, int)
        Each machine, and how many images it made.
    pixel_versions : tuple of (int, int)
        Each pixel version of skygraft, and how many images have it.
    problems : tuple of (str, str)
        Images whose record or truth is damaged, and a description of the damage; they count as not done.
    looked, written : bool
        Whether the records were read, and the table written, this time.
    packed : PackedPatch or None
        What is known of the pack of the images, if they are packed.
    """

    tract: int
    patch: int
    n_images: int
    n_done: int = 0
    n_rows: int = 0
    n_drawn: int = 0
    n_bytes: int = 0
    records: str = ""
    truth: str = ""
    bands: tuple[str, ...] = ()
    calibrations: tuple[CalibrationUse, ...] = ()
    software: tuple[tuple[str, int], ...] = ()
    hosts: tuple[tuple[str, int], ...] = ()
    pixel_versions: tuple[tuple[int, int], ...] = ()
    problems: tuple[tuple[str, str], ...] = ()
    looked: bool = field(default=True, compare=False)
    written: bool = field(default=False, compare=False)
    packed: PackedPatch | None = field(default=None, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The digest as JSON types, without what is known of the pack."""
        return {name: value for name, value in asdict(self).items() if name != "packed"}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> PatchDigest:
        """The digest that `to_dict` gave, also after a round trip through JSON."""
        pairs = {name: tuple((a, n) for a, n in content[name]) for name in ("software", "hosts", "pixel_versions")}
        uses = tuple(CalibrationUse.from_dict(use) for use in content["calibrations"])
        pairs["problems"] = tuple((image_id, problem) for image_id, problem in content["problems"])
        return cls(**content | pairs | {"bands": tuple(content["bands"]), "calibrations": uses})


def consolidate_truth(
    patches: Sequence[PatchImages], *, output: str, skymap: Any, pack: bool = False
) -> list[PatchDigest]:
    """Bring the truth tables of some patches up to date with their records; rows are in the order of image and source.

    Images that are not done are left out, and so are damaged ones, which are listed in the result. The files of all
    these patches are synced together, which takes hardly longer than those of one.

    Parameters
    ----------
    patches : sequence of PatchImages
        All images of each patch.
    output : str
        The campaign's output folder.
    skymap : str or mapping
        The campaign's sky map, as `get_skymap` takes it.
    pack : bool
        Whether the records and truth tables of the images are packed into one file a patch afterwards; see
        `skygraft.tables.packing`.

    Returns
    -------
    list of PatchDigest

    Raises
    ------
    CampaignError
        If a record cannot be opened, or is of another version of skygraft.
    OutputError
        If a table or a pack cannot be written; the former one is then still there.
    """
    layout, sky = Layout(Path(output)), get_skymap(skymap)
    folders = _Folders(layout)
    with NamedTogether() as together:
        waiting = [_prepare(images, folders, sky, together, pack=pack) for images in patches]
        together.commit()
        return [finish() for finish in waiting]


def _prepare(
    images: PatchImages, folders: _Folders, sky: SkyMap, together: NamedTogether, *, pack: bool
) -> Callable[[], PatchDigest]:
    """Write the files of a patch; returns what is to be called when they have their names."""
    layout = folders.layout
    memory = layout.patch_memory(images.tract, images.patch)
    table = layout.truth_table(images.tract, images.patch)
    base = digest([TABLE_VERSION, sky.to_dict(), images.tract, images.patch])
    kept = _Kept(_KEPT_BYTES if pack else 0)
    made, remembered = _recall(memory, base, images, folders, table, layout.checksum(table)), True
    if made is None:
        _forget(memory)
        made, remembered = _consolidate(images, folders, sky, base, kept, together), False
    packing = None
    if pack:
        left_out = {image_id for image_id, _ in made.problems}
        stems = {image.stem: image.image_id for image in images.images if image.image_id not in left_out}
        files = folders.at(images.tract, images.patch)
        packing = pack_patch(layout, files, stems, together, kept.files)
        if packing.damaged:
            _forget(memory)
            together.drop(table)
            again = _Folders(layout)
            made = _consolidate(images, again, sky, base, _Kept(0), together, packing.damaged)
    of = "" if remembered or made.problems else _state_of(base, images, folders)[0]
    return functools.partial(_finish, made, images, layout, of, packing)


def _finish(made: PatchDigest, images: PatchImages, layout: Layout, of: str, packing: Packing | None) -> PatchDigest:
    """Remember what was made of a patch, and remove what is packed."""
    tract, patch = images.tract, images.patch
    if of:
        content = {"of": of, "table": _stamp(layout.truth_table(tract, patch)), "digest": made.to_dict()}
        # Not synced: where a power cut takes it away, the records are read again.
        text = json_text(content | {"checksum": digest(content)})
        write_unsynced(layout.patch_memory(tract, patch), text.encode())
    if packing is None:
        return made
    packing.finish()
    stems = {image.stem: image.image_id for image in images.images}
    return replace(made, packed=packed_patch(layout, tract, patch, stems, packing.index))


def _forget(memory: Path) -> None:
    with contextlib.suppress(IsADirectoryError):  # writing it says what to do
        memory.unlink(missing_ok=True)


class _Folders:
    """The folders of records of some patches and their neighbours, each listed once, and the records found in them."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.name = layout.records.name
        self._found: dict[tuple[int, int], PatchFiles] = {}
        self._read: dict[tuple[str, str], FileIdentity] = {}

    def at(self, tract: int, patch: int) -> PatchFiles:
        """The folder of a patch."""
        key = tract, patch
        if key not in self._found:
            self._found[key] = PatchFiles(str(self.layout.patch_folder(self.layout.records, *key)))
        return self._found[key]

    def of(self, image: PlacedImage) -> PatchFiles:
        """The folder of an image."""
        return self.at(image.tract, image.patch)

    def read(self, folder: PatchFiles, name: str) -> tuple[bytes, FileIdentity]:
        """A file of a folder, as `PatchFiles.read`; its identity is known from then on."""
        found = folder.read(name)
        self._read[folder.folder, name] = found[1]
        return found

    def state(self, folder: PatchFiles, name: str) -> FileIdentity | None:
        """The identity of a file, when it was read if it was; None where there is none."""
        return self._read.get((folder.folder, name)) or folder.stat(name)


class _Kept:
    """Records and truth tables that were read and found whole, for packing, which need not read them again.

    Parameters
    ----------
    most : int
        Bytes that are kept: what comes later is read again.
    """

    def __init__(self, most: int) -> None:
        self.files: dict[str, ImageFiles] = {}
        self._left = most

    def add(self, stem: str, files: ImageFiles) -> None:
        """Keep the files of an image, if there is room."""
        self._left -= sum(len(content) for content, _ in files.values())
        if self._left >= 0:
            self.files[stem] = files


def _state_of(base: str, images: PatchImages, folders: _Folders) -> tuple[str, int]:
    """Fingerprint of the images of a patch, of the records that there are and of their times; the latest of these, ns.

    A record that takes the place of one that was read is thereby noticed the next time.
    """
    sha, newest = hashlib.sha256(), 0
    for image in (*images.images, *images.neighbours):
        stamp = _stamp_of(folders.state(folders.of(image), image.stem + RECORD_SUFFIX))
        sha.update(f"{stamp};".encode())
        newest = max(newest, *stamp[2:]) if stamp else newest
    return digest([MEMORY_VERSION, base, vars(images), sha.hexdigest()]), newest


def _stamp(path: Path) -> list[int]:
    return _stamp_of(FileIdentity.find(path))


def _stamp_of(file: FileIdentity | None) -> list[int]:
    """What tells one version of a file from another: files appear by renaming, so a new one has a new inode or time."""
    return [] if file is None else [file.inode, file.n_bytes, file.mtime_ns, file.ctime_ns]


def _recall(
    memory: Path, base: str, images: PatchImages, folders: _Folders, table: Path, checksum: Path
) -> PatchDigest | None:
    """The result of the last time, if nothing changed since; None if that is not certain."""
    try:
        written = memory.stat().st_mtime_ns
        content = parse_json(memory.read_bytes())
        if content.pop("checksum") != digest(content):
            return None
        of, newest = _state_of(base, images, folders)
        # The memory's own time is by the file system's clock, as the records' times are.
        if newest >= written - _SETTLED_NS or content["of"] != of or content["table"] != _stamp(table):
            return None
        if content["table"] and not checksum.exists():
            return None
        return replace(PatchDigest.from_dict(content["digest"]), looked=False, written=False)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # nothing is remembered, or it is damaged: the records decide


@dataclass(frozen=True)
class _Done:
    """What consolidation needs of the record of an image; `here` says whether the patch is its home."""

    image_id: str
    here: bool
    stem: str
    folder: PatchFiles
    record: tuple[bytes, FileIdentity]
    sha256: str
    instrument: str | None
    visit: int | None
    detector: str | None
    mjd: float | None
    made: tuple[str, tuple[str, ...]]
    n_drawn: int
    n_bytes: int
    calibration: CalibrationUse
    software: str
    host: str
    pixel_version: int

    @property
    def part(self) -> str:
        """The file of its truth table."""
        return f"{self.folder.folder}/{self.stem}{TRUTH_SUFFIX}"

    @property
    def identity(self) -> list[Any]:
        """Everything that its rows of the patch's table depend on."""
        return [self.image_id, self.instrument, self.visit, self.detector, self.mjd, self.sha256]


class _DamagedError(Exception):
    """A truth part that does not fit the record of its image."""

    def __init__(self, done: _Done, reason: str) -> None:
        super().__init__(reason)
        self.done = done


def _look(image: PlacedImage, folders: _Folders, *, here: bool) -> _Done | tuple[str, str] | None:
    """Read the record of an image; the problem if it is damaged, None if there is none."""
    folder, name = folders.of(image), image.stem + RECORD_SUFFIX
    path = f"{folder.folder}/{name}"
    try:
        content, state = folders.read(folder, name)
        record = parse_record(content, image.image_id, path)
    except (FileNotFoundError, DamagedPackError):
        record = None
    except OSError as error:
        raise unreadable_record(path, error) from error
    if record is None:
        return _problem(image.image_id, f"its record {path} is damaged") if file_exists(Path(path)) else None
    outputs = record["outputs"]
    part = f"{folders.name}/tract={image.tract}/patch={image.patch}/{image.stem}{TRUTH_SUFFIX}"
    return _Done(
        image.image_id,
        here,
        image.stem,
        folder,
        (content, state),
        outputs.get(part, {}).get("sha256", ""),
        image.instrument,
        image.visit,
        image.detector,
        image.mjd,
        made=(record["key"], tuple(output["sha256"] for output in outputs.values())),
        n_drawn=record["n_drawn"],
        n_bytes=sum(output["n_bytes"] for output in outputs.values()),
        calibration=calibration_use(record["calibration"], image.band, image.instrument, record["inputs"]),
        software=json.dumps(record.get("software", {}), sort_keys=True),
        host=record.get("host", ""),
        pixel_version=record["code"],
    )


def _consolidate(
    images: PatchImages,
    folders: _Folders,
    skymap: SkyMap,
    base: str,
    kept: _Kept,
    together: NamedTogether,
    damaged: Mapping[str, str] | None = None,
) -> PatchDigest:
    """Bring a patch up to date with its records; `damaged` says what is wrong with some images, by image id."""
    tract, patch, known, layout = images.tract, images.patch, damaged or {}, folders.layout
    seen = [
        _problem(image.image_id, known[image.image_id]) if image.image_id in known else _look(image, folders, here=True)
        for image in images.images
    ]
    problems = [one for one in seen if isinstance(one, tuple)]
    found = [one for one in seen if isinstance(one, _Done)]
    if found:
        # Damage of a neighbour is reported by its own patch.
        others = (_look(image, folders, here=False) for image in images.neighbours)
        found = sorted([*found, *(one for one in others if isinstance(one, _Done))], key=lambda done: done.image_id)
    table, written = layout.truth_table(tract, patch), False
    checksum = layout.checksum(table)
    note = note_of(table, checksum)
    if found and (note is None or note.fingerprint != _fingerprint(base, found)):
        found, unreadable, note = _write(table, checksum, found, skymap, base, tract, patch, kept, together)
        problems += unreadable
        written = True
    found = [done for done in found if done.here]
    if not found:
        together.drop(table)
        table.unlink(missing_ok=True)
        note, written = None, False
    return PatchDigest(
        tract,
        patch,
        n_images=len(images.images),
        n_done=len(found),
        n_rows=note.n_rows if note else 0,
        n_drawn=sum(done.n_drawn for done in found),
        n_bytes=sum(done.n_bytes for done in found),
        records=digest([[done.image_id, *done.made] for done in found]),
        truth=note.fingerprint if note else "",
        bands=tuple(note.content["bands"]) if note else (),
        calibrations=fold(done.calibration for done in found),
        software=_count(done.software for done in found),
        hosts=_count(done.host for done in found),
        pixel_versions=_count(done.pixel_version for done in found),
        problems=tuple(sorted(problems)),
        written=written,
    )


def _problem(image_id: str, what: str) -> tuple[str, str]:
    return image_id, f"{image_id}: {what}"


def _fingerprint(base: str, found: Sequence[_Done]) -> str:
    return digest([base, [done.identity for done in found]])


def _count[Value: (str, int)](values: Iterable[Value]) -> tuple[tuple[Value, int], ...]:
    return tuple(sorted(Counter(values).items()))


def _write(
    table: Path,
    checksum: Path,
    found: list[_Done],
    skymap: SkyMap,
    base: str,
    tract: int,
    patch: int,
    kept: _Kept,
    together: NamedTogether,
) -> tuple[list[_Done], list[tuple[str, str]], TableNote | None]:
    """Write the table of the images found; returns those that are in it, the problems of the others, and its note."""
    problems: list[tuple[str, str]] = []
    note = None
    while any(done.here for done in found):
        try:
            with TableWriter(table, checksum, TRUTH_SCHEMA, repeated=REPEATED, together=together) as writer:
                bands: set[str] = set()
                for rows in _rows(found, skymap, tract, patch, kept):
                    bands.update(rows.column("band").unique().to_pylist())
                    writer.write(rows)
                writer.note |= {"fingerprint": _fingerprint(base, found), "bands": sorted(bands)}
            note = writer.written
            break
        except _DamagedError as damage:
            if damage.done.here:
                problems.append(_problem(damage.done.image_id, str(damage)))
            found = [done for done in found if done is not damage.done]
    return found, problems, note


def _rows(found: Sequence[_Done], skymap: SkyMap, tract: int, patch: int, kept: _Kept) -> Iterator[pa.Table]:
    """Yield the images' rows in pieces: many images at a time are much quicker than one after the other."""
    primaries = Primaries()
    waiting: list[tuple[_Done, Sequence[pa.RecordBatch]]] = []
    n_waiting = 0
    for done, part in _read_parts(found, kept):
        waiting.append((done, part))
        n_waiting += sum(batch.num_rows for batch in part)
        if n_waiting >= ROWS:
            yield annotate(waiting, skymap, tract, patch, primaries)
            waiting, n_waiting = [], 0
    if n_waiting:
        yield annotate(waiting, skymap, tract, patch, primaries)


def _read_parts(found: Sequence[_Done], kept: _Kept) -> Iterator[tuple[_Done, Sequence[pa.RecordBatch]]]:
    """Yield the truth of each image, whose files are read some at a time."""
    some: list[tuple[_Done, bytes]] = []
    n_bytes = 0
    for done in found:
        some.append((done, _read_part(done, kept)))
        n_bytes += len(some[-1][1])
        if n_bytes >= _PARSED_BYTES:
            yield from _parsed(some)
            some, n_bytes = [], 0
    yield from _parsed(some)


def _read_part(done: _Done, kept: _Kept) -> bytes:
    try:
        truth = done.folder.read(done.stem + TRUTH_SUFFIX)
        check_truth_part(truth[0], done.sha256, done.part)
    except DamagedTruthError as error:
        raise _DamagedError(done, str(error)) from error
    except OSError as error:
        raise _DamagedError(done, str(unreadable_part(done.part, error))) from error
    if done.here and done.stem not in kept.files:
        kept.add(done.stem, {RECORD_SUFFIX: done.record, TRUTH_SUFFIX: truth})
    return truth[0]


def _parsed(some: Sequence[tuple[_Done, bytes]]) -> Iterator[tuple[_Done, Sequence[pa.RecordBatch]]]:
    together = parse_alike([content for _, content in some], PART_SCHEMA)
    for i, (done, content) in enumerate(some):
        yield done, _parse_part(done, content) if together is None else together[i]


def _parse_part(done: _Done, content: bytes) -> list[pa.RecordBatch]:
    try:
        table = parse_truth_part(content, done.sha256, done.part)
        missing = set(PART_SCHEMA.names) - set(table.column_names)
        if missing:
            raise _DamagedError(done, f"its truth table {done.part} has no column {min(missing)!r}")
        table = table.select(PART_SCHEMA.names)
        found = table if table.schema.equals(PART_SCHEMA) else table.cast(PART_SCHEMA)
    except DamagedTruthError as error:
        raise _DamagedError(done, str(error)) from error
    except pa.ArrowException as error:
        raise _DamagedError(done, f"its truth table {done.part} cannot be read ({error})") from error
    batches: list[pa.RecordBatch] = found.to_batches()
    return batches
