"""Write ``lsst.images`` FITS files: a copy of the input with new planes and a changed JSON tree.

The layout (version 1 of the container) is that of ``lsst.images.fits``: image HDUs, tables, then a table ``JSON`` whose
only cell is the tree, and a table ``INDEX`` with the position of each HDU; the positions of these two are in the
primary header. Unchanged HDUs are copied byte for byte, and the same exposure always gives the same file.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import FormatError
from skygraft.fitsfile.cards import CardUpdates, edit_cards, header_of, join_cards
from skygraft.fitsfile.open import RawFits, map_fits
from skygraft.fitsfile.rewrite import atomic_output, rewrite_fits
from skygraft.fitsfile.structure import BLOCK
from skygraft.formats.lsst_images_index import ADDRESSES
from skygraft.json_text import parse_json

__all__ = ["write_planes"]

type Tree = dict[str, Any]


def write_planes(
    like: str | os.PathLike[str],
    path: str | os.PathLike[str],
    planes: Mapping[str, NDArray[Any]],
    mask_cards: CardUpdates,
    edit: Callable[[Tree], None],
    *,
    primary_cards: CardUpdates | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a copy of a file with new planes and a changed tree.

    Parameters
    ----------
    like : path-like
        The file to copy.
    path : path-like
        The output.
    planes : mapping of str to ndarray
        New pixels by EXTNAME.
    mask_cards : CardUpdates
        Cards of the mask's header to change.
    edit : callable
        Function that changes the JSON tree in place.
    primary_cards : CardUpdates, optional
        Cards of the primary header to change.
    overwrite : bool
        Replace an output that exists.

    Raises
    ------
    FormatError
        If the file has another layout.
    OutputError, OutputExistsError
        As `rewrite_fits`.
    """
    target = Path(path)
    with map_fits(like) as raw:
        numbers = {str(header_of(raw.header_cards(s.index)).get("EXTNAME", "")): s.index for s in raw.spans}
        missing = {*planes, "JSON", "INDEX"} - numbers.keys()
        if missing or header_of(raw.header_cards(0)).get("FMTVER") != 1:
            what = f"has no HDU {', '.join(sorted(missing))}" if missing else "is of another version of the container"
            raise FormatError(f"the file {what}, so that it cannot be copied", path=like)
    new = {numbers[name]: pixels for name, pixels in planes.items()}
    between = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.planes.tmp")
    try:
        updates = {numbers["MASK"]: mask_cards, 0: primary_cards or {}}
        rewrite_fits(like, between, new, {hdu: cards for hdu, cards in updates.items() if cards})
        with map_fits(between) as raw, atomic_output(path, inputs=[like], overwrite=overwrite) as stream:
            for part in _with_tree(raw, numbers, edit):
                stream.write(part)
    finally:
        between.unlink(missing_ok=True)
    return target


def _with_tree(raw: RawFits, numbers: Mapping[str, int], edit: Callable[[Tree], None]) -> list[bytes | memoryview]:
    """Bytes of all HDUs, with JSON tree, index and primary header updated."""
    hdus: list[bytes | memoryview] = [raw.buffer[s.start : s.end] for s in raw.spans]
    tree, index = numbers["JSON"], numbers["INDEX"]
    hdus[tree] = _tree_hdu(raw, tree, edit)
    ends = np.cumsum([len(hdu) for hdu in hdus])
    starts = np.concatenate([[0], ends[:-1]])
    hdus[index] = _index_hdu(raw, index, hdus, starts)
    places = {
        "INDXADDR": int(starts[index]),
        "INDXSIZE": len(hdus[index]),
        "JSONADDR": int(starts[tree]),
        "JSONSIZE": len(hdus[tree]),
    }
    cards = edit_cards(raw.header_cards(0), {k: (v, "") for k, v in places.items()}, path=raw.path, hdu=0)
    hdus[0] = join_cards(cards)
    return hdus


def _tree_hdu(raw: RawFits, number: int, edit: Callable[[Tree], None]) -> bytes:
    """Bytes of the JSON HDU with the edited tree: a table of one variable-length cell."""
    span, cards = raw.spans[number], raw.header_cards(number)
    header = header_of(cards)
    form = str(header.get("TFORM1", ""))
    if (header.get("NAXIS1"), header.get("NAXIS2"), form[:2]) not in ((8, 1, "PB"), (16, 1, "QB")):
        raise FormatError("the JSON tree is not the only cell of its table", path=raw.path, hdu=number)
    width = int(header["NAXIS1"])
    kind = ">i4" if width == 8 else ">i8"
    data = raw.buffer[span.data_start : span.data_start + span.data_size]
    size, offset = (int(v) for v in np.frombuffer(data[:width], kind))
    start = int(header.get("THEAP", width)) + offset
    before = bytes(data[start : start + size])
    tree: Tree = parse_json(before)
    edit(tree)
    if tree == parse_json(before):
        return bytes(raw.buffer[span.start : span.end])
    text = json.dumps(tree, separators=(",", ":"), ensure_ascii=False).encode()
    cell = np.array([len(text), 0], kind).tobytes() + text
    changes = {"PCOUNT": (len(text), ""), "TFORM1": (f"{form[:2]}({len(text)})", "")}
    return join_cards(edit_cards(cards, changes, path=raw.path, hdu=number)) + cell + bytes(-len(cell) % BLOCK)


def _index_hdu(raw: RawFits, number: int, hdus: list[bytes | memoryview], starts: NDArray[np.int64]) -> bytes:
    """Bytes of the index HDU, with the new positions of all headers and data and the padded size of the data."""
    span, cards = raw.spans[number], raw.header_cards(number)
    header = header_of(cards)
    names = [str(header[f"TTYPE{i}"]) for i in range(1, int(header["TFIELDS"]) + 1)]
    if tuple(names[-3:]) != ADDRESSES or int(header["NAXIS2"]) != number:
        raise FormatError("the index of the file's HDUs is laid out in another way", path=raw.path, hdu=number)
    width = int(header["NAXIS1"])
    rows = bytearray(raw.buffer[span.data_start : span.data_start + width * number])
    for row in range(number):
        before = raw.spans[row]
        # Headers keep their size here; those of changed planes are already in `raw`.
        head = before.data_start - before.start
        values = [int(starts[row]), int(starts[row]) + head, len(hdus[row]) - head]
        rows[(row + 1) * width - 24 : (row + 1) * width] = np.array(values, ">i8").tobytes()
    return join_cards(cards) + bytes(rows) + bytes(-len(rows) % BLOCK)
