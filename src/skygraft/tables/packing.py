"""Pack a patch: copy the records and truth tables of its images into one file, and remove the single files.

It may be cut off anywhere. The pack is on disk, whole and under its name, before anything is removed, and a file of its
own counts more than what is packed: what a cut leaves twice is removed the next time.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path

from skygraft.records.file_checksums import problem_of, read_checksum
from skygraft.records.files import RECORD_SUFFIX, TRUTH_SUFFIX, Layout
from skygraft.records.image_record import parse_record
from skygraft.records.packs import (
    PACK_NAME,
    REOPENED_SUFFIX,
    FileState,
    PackIndex,
    PackWriter,
    file_names,
    read_file,
    read_index,
    single_names,
    stat_file,
)

__all__ = ["pack_patch"]

_SUFFIXES = (RECORD_SUFFIX, TRUTH_SUFFIX)


def pack_patch(layout: Layout, tract: int, patch: int, images: Mapping[str, str]) -> dict[str, str]:
    """Pack the records and truth tables of the images of a patch that are done; nothing if they are packed already.

    Every record and truth table is compared with its checksums on the way: damage is not packed.

    Parameters
    ----------
    layout : Layout
        The campaign's files.
    tract, patch : int
        The patch.
    images : mapping of str to str
        Image ids of the patch, by stem. Of other images what is packed stays, and what is not is left alone.

    Returns
    -------
    dict of str to str
        Images whose record or truth table is damaged, and what is wrong. Their single files are left alone; what the
        old pack had of them is lost.

    Raises
    ------
    CampaignError
        If a record or the pack cannot be opened.
    OutputError
        If the pack cannot be written; all files are then left as they were.
    """
    folder = layout.patch_folder(layout.records, tract, patch)
    pack, names = folder / PACK_NAME, single_names(folder)
    checksum, index = layout.checksum(pack), read_index(pack)
    available = file_names(folder)
    stems = {stem for stem in {*images, *index.image_ids} if all(stem + suffix in available for suffix in _SUFFIXES)}
    single = {stem + suffix for stem in stems for suffix in _SUFFIXES} & names
    reopened = [name for name in names if name.endswith(REOPENED_SUFFIX)]
    if not single and not reopened and _is_sound(pack, checksum, index):
        return {}
    damaged: dict[str, str] = {}
    states: dict[str, FileState] = {}
    with PackWriter(pack, checksum) as writer:
        for stem in sorted(stems):
            image_id = images.get(stem) or index.image_ids[stem]
            paths = {suffix: folder / (stem + suffix) for suffix in _SUFFIXES}
            found = {suffix: stat_file(path) for suffix, path in paths.items()}
            contents = _checked(paths, image_id, layout)
            if isinstance(contents, str):
                damaged[image_id] = contents
                continue
            writer.add(stem, image_id, {suffix: (contents[suffix], found[suffix]) for suffix in _SUFFIXES})
            states |= {paths[suffix].name: state for suffix, state in found.items()}
    for name in reopened:  # first: with it, and without the single record, the record in the new pack would not count
        (folder / name).unlink(missing_ok=True)
    for name in sorted(single & states.keys()):
        with contextlib.suppress(FileNotFoundError):
            # A task that was given up for lost may have replaced it meanwhile.
            if FileState.of((folder / name).stat()) == states[name]:
                (folder / name).unlink()
    return damaged


def _is_sound(pack: Path, checksum: Path, index: PackIndex) -> bool:
    """Whether a pack is as it was written, by its size and time, and its checksum is there."""
    if not index.groups:
        return True
    known = read_checksum(checksum)
    return not index.changed and known is not None and not problem_of(pack, known, most=0)


def _checked(paths: Mapping[str, Path], image_id: str, layout: Layout) -> dict[str, bytes] | str:
    """Contents of the record and the truth table of an image, by suffix; or what is wrong with them."""
    path, part = paths[RECORD_SUFFIX], paths[TRUTH_SUFFIX]
    try:
        content = read_file(path)
        record = parse_record(content, image_id, path)
    except OSError as error:
        return f"its record {path} cannot be read ({error.strerror or error})"
    if record is None:
        return f"its record {path} is damaged"
    try:
        truth = read_file(part)
    except OSError as error:
        return f"its truth table {part} cannot be read ({error.strerror or error})"
    written = record["outputs"].get(part.relative_to(layout.root).as_posix(), {})
    if hashlib.sha256(truth).hexdigest() != written.get("sha256"):
        return f"its truth table {part} is not the one that its record names"
    return {RECORD_SUFFIX: content, TRUTH_SUFFIX: truth}
