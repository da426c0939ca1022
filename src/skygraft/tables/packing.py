"""Pack a patch: copy the records and truth tables of its images into one file, and remove the single files.

It may be cut off anywhere. The pack is on disk, whole and under its name, before anything is removed, and a file of its
own counts more than what is packed: what a cut leaves twice is removed the next time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from skygraft.disk import FileIdentity, NamedTogether
from skygraft.records.file_checksums import problem_of, read_checksum
from skygraft.records.files import RECORD_SUFFIX, TRUTH_SUFFIX, Layout
from skygraft.records.image_record import parse_record
from skygraft.records.packs import (
    PACK_NAME,
    REOPENED_SUFFIX,
    PackIndex,
    PackWriter,
    PatchFiles,
    packed_files,
    read_index,
    single_names,
)

__all__ = ["ImageFiles", "Packing", "pack_patch"]

type ImageFiles = Mapping[str, tuple[bytes, FileIdentity]]
"""Content and identity of the record and the truth table of an image, by suffix."""

_SUFFIXES = (RECORD_SUFFIX, TRUTH_SUFFIX)
_NOTHING: Mapping[str, ImageFiles] = MappingProxyType({})


@dataclass(frozen=True)
class Packing:
    """The pack of a patch, which is written and has no name yet; once it has, `finish` removes the single files.

    Parameters
    ----------
    files : PatchFiles
        The folder.
    damaged : dict of str to str
        Images whose record or truth table is damaged, and what is wrong. Their single files are left alone; what the
        old pack had of them is lost.
    index : PackIndex or None
        The index of the pack; None where none was written, because everything is packed already.
    reopened : tuple of str
        Marks of reopened images.
    states : dict of str to FileIdentity
        The single files that are packed, by name, as they were read.
    """

    files: PatchFiles
    damaged: Mapping[str, str] = MappingProxyType({})
    index: PackIndex | None = None
    reopened: tuple[str, ...] = ()
    states: Mapping[str, FileIdentity] = MappingProxyType({})

    def finish(self) -> None:
        """Remove what is packed now; the pack is on the disk."""
        folder = self.files.folder
        for name in self.reopened:  # first: with it, and without the single record, the packed one would not count
            Path(folder, name).unlink(missing_ok=True)
        for name, state in self.states.items():
            with contextlib.suppress(FileNotFoundError):
                # A task that was given up for lost may have replaced it meanwhile.
                if self.files.stat_single(name) == state:
                    os.unlink(f"{folder}/{name}")  # noqa: PTH108  (a Path for each of a million takes as long)


def pack_patch(
    layout: Layout,
    files: PatchFiles,
    images: Mapping[str, str],
    together: NamedTogether,
    known: Mapping[str, ImageFiles] = _NOTHING,
) -> Packing:
    """Write the pack of the images of a patch that are done; nothing if they are packed already.

    Every record and truth table is compared with its checksums on the way: damage is not packed.

    Parameters
    ----------
    layout : Layout
        The campaign's files.
    files : PatchFiles
        The folder of the patch.
    images : mapping of str to str
        Image ids of the patch, by stem. Of other images what is packed stays, and what is not is left alone.
    together : NamedTogether
        The files that the pack gets its name with.
    known : mapping of str to ImageFiles
        Of some of these, by stem, what was read and compared with the checksums already, and is not read again.

    Returns
    -------
    Packing

    Raises
    ------
    CampaignError
        If a record or the pack cannot be opened.
    OutputError
        If the pack cannot be written; all files are then left as they were.
    """
    pack = Path(files.folder, PACK_NAME)
    checksum, index = layout.checksum(pack), read_index(pack)
    # Of outputs in a store, `files` has no names; records and truth tables that were consolidated are here.
    names = files.names or single_names(files.folder)
    available = names | (files.packed if files.names else packed_files(files.folder)).keys()
    stems = {stem for stem in {*images, *index.image_ids} if all(stem + suffix in available for suffix in _SUFFIXES)}
    single = {stem + suffix for stem in stems for suffix in _SUFFIXES} & names
    reopened = tuple(name for name in names if name.endswith(REOPENED_SUFFIX))
    if not single and not reopened and _is_sound(pack, checksum, index):
        return Packing(files)
    damaged: dict[str, str] = {}
    states: dict[str, FileIdentity] = {}
    with PackWriter(pack, checksum, together) as writer:
        for stem in sorted(stems):
            image_id = images.get(stem) or index.image_ids[stem]
            found = (known.get(stem) if stem in images else None) or _checked(files, stem, image_id, layout)
            if isinstance(found, str):
                damaged[image_id] = found
                continue
            writer.add(stem, image_id, found)
            states |= {stem + suffix: state for suffix, (_, state) in found.items()}
    packed = {name: states[name] for name in sorted(single & states.keys())}
    return Packing(files, damaged, writer.index, reopened, packed)


def _is_sound(pack: Path, checksum: Path, index: PackIndex) -> bool:
    """Whether a pack is as it was written, by its size and time, and its checksum is there."""
    if not index.groups:
        return True
    known = read_checksum(checksum)
    return not index.changed and known is not None and not problem_of(pack, known, most=0)


def _checked(files: PatchFiles, stem: str, image_id: str, layout: Layout) -> ImageFiles | str:
    """The record and the truth table of an image; or what is wrong with them."""
    path, part = (f"{files.folder}/{stem}{suffix}" for suffix in _SUFFIXES)
    try:
        record_file = files.read(stem + RECORD_SUFFIX)
        record = parse_record(record_file[0], image_id, path)
    except OSError as error:
        return f"its record {path} cannot be read ({error.strerror or error})"
    if record is None:
        return f"its record {path} is damaged"
    try:
        truth_file = files.read(stem + TRUTH_SUFFIX)
    except OSError as error:
        return f"its truth table {part} cannot be read ({error.strerror or error})"
    written = record["outputs"].get(Path(part).relative_to(layout.root).as_posix(), {})
    if hashlib.sha256(truth_file[0]).hexdigest() != written.get("sha256"):
        return f"its truth table {part} is not the one that its record names"
    return {RECORD_SUFFIX: record_file, TRUTH_SUFFIX: truth_file}
