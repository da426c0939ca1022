"""The index of a survey in the order of the plan, with home patches, file names and output paths.

Two passes over the index are made: the first takes what must be known of all images together (ids, paths, centres), the
second writes the rows to disk, sorted piece by piece. The planner of some images reads their rows from there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skygraft.catalog.io import arrow_array, numpy_array, one_array
from skygraft.disk import relative_name
from skygraft.lazy import lazy_module
from skygraft.place_names import is_url
from skygraft.places import beneath
from skygraft.skymap import SkyMap
from skygraft.survey import IndexFile, SurveyIndex

pc = lazy_module("pyarrow.compute")

__all__ = ["ImageRows", "SpooledIndex", "output_places", "safe_stems", "spool_index"]

_PLACE = "_place"
_URL = "^[A-Za-z][A-Za-z0-9+.-]*:/"


@dataclass(frozen=True)
class ImageRows:
    """Consecutive images of the plan: for each file on disk, its path and the range of its rows that belong to them."""

    pieces: tuple[tuple[str, int, int], ...]

    def read(self) -> pa.Table:
        """Read their rows of the index, in the order of the plan, with stem, output, tract and patch."""
        tables = []
        for path, start, stop in self.pieces:
            with pa.memory_map(path) as memory:
                piece = pa.ipc.open_file(memory).read_all().slice(start, stop - start)
                # A copy, because the file is closed.
                tables.append(piece.take(arrow_array(np.arange(piece.num_rows))))
        table = pa.concat_tables(tables).combine_chunks()
        place = numpy_array(one_array(table.column(_PLACE)))
        return table.drop_columns([_PLACE]).take(arrow_array(np.argsort(place))).combine_chunks()


@dataclass(frozen=True)
class SpooledIndex:
    """The sorted rows of an index on disk, and properties of all N images together.

    Parameters
    ----------
    runs : tuple of (str, ndarray)
        Arrow files, and the rows of the plan that each holds, ascending.
    ra, dec : ndarray, shape (N,)
        Centres, ICRS degrees, in any order.
    span : (float, float)
        First and last time, MJD TAI; NaN where no image has one.
    mjd : ndarray, shape (N,)
        Times of all images, MJD TAI; NaN where there is none.
    """

    runs: tuple[tuple[str, NDArray[np.int64]], ...]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    span: tuple[float, float]
    mjd: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ra)

    def groups(self, size: int) -> Iterator[ImageRows]:
        """Iterate over all images in the order of the plan, `size` at a time."""
        for start in range(0, len(self), size):
            bounds = [(path, *np.searchsorted(places, [start, start + size]).tolist()) for path, places in self.runs]
            yield ImageRows(tuple((path, a, b) for path, a, b in bounds if b > a))


def spool_index(
    index: SurveyIndex | IndexFile, root: Path, skymap: SkyMap, folder: Path, *, leave_out: Path
) -> SpooledIndex:
    """Write the rows of an index, sorted piece by piece, to `folder`.

    Parameters
    ----------
    index : SurveyIndex or IndexFile
        The images.
    root : Path
        The survey's root, which their paths are relative to.
    skymap : SkyMap
        Gives the home patches.
    folder : Path
        Folder of the files.
    leave_out : Path
        Images in this folder are left out, because the campaign itself wrote them.

    Returns
    -------
    SpooledIndex
    """
    if isinstance(index, IndexFile):
        index.check_unique()
    firsts = [_with_paths(batch, root) for batch in index.batches(["image_id", "path", "ra", "dec", "mjd"])]
    if not firsts:
        empty = np.empty(0)
        return SpooledIndex((), empty, empty, (np.nan, np.nan), empty)
    first = pa.concat_tables(firsts).combine_chunks()
    del firsts
    paths = one_array(first.column("path"))
    inside = leave_out.relative_to(root).as_posix() + "/" if leave_out.is_relative_to(root) else f"{leave_out}/"
    kept = ~numpy_array(pc.starts_with(paths, inside))
    first = first.filter(arrow_array(kept)).combine_chunks()
    ids, paths = one_array(first.column("image_id")), one_array(first.column("path"))
    ra, dec, mjd = (_floats(first.column(name)) for name in ("ra", "dec", "mjd"))
    tract, patch = (np.atleast_1d(a) for a in skymap.locate(ra, dec))
    rank = np.empty(len(ids), dtype=np.int64)
    rank[numpy_array(pc.sort_indices(ids)).astype(np.int64)] = np.arange(len(ids))
    place = np.empty(len(ids), dtype=np.int64)
    place[np.lexsort((rank, patch, tract))] = np.arange(len(ids))
    stems = safe_stems(ids)
    outputs = output_places(paths, stems)
    del first, ids, rank
    runs = []
    row = start = 0
    for number, whole in enumerate(index.batches()):
        mine = kept[row : row + whole.num_rows]
        row += whole.num_rows
        batch = whole.filter(arrow_array(mine))
        part = slice(start, start + batch.num_rows)
        start = part.stop
        if not batch.num_rows:
            continue
        columns = {name: batch.column(name) for name in batch.column_names} | {
            "path": paths[part],
            "stem": stems[part],
            "output": outputs[part],
            "tract": arrow_array(tract[part]),
            "patch": arrow_array(patch[part]),
            _PLACE: arrow_array(place[part]),
        }
        order = np.argsort(place[part])
        path = folder / f"{number:06d}.arrow"
        table = pa.table(columns).combine_chunks().take(arrow_array(order)).combine_chunks()
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        runs.append((str(path), place[part][order]))
    known = mjd[np.isfinite(mjd)]
    span = (float(known.min()), float(known.max())) if known.size else (np.nan, np.nan)
    return SpooledIndex(tuple(runs), ra, dec, span, mjd)


def _floats(column: Any) -> NDArray[np.float64]:
    return numpy_array(pc.fill_null(one_array(column), np.nan))


def _with_paths(batch: pa.Table, root: Path) -> pa.Table:
    """The batch with normalised paths, relative to the root if they lie in it."""
    paths = one_array(batch.column("path"))
    odd = numpy_array(pc.match_substring_regex(paths, r"^/|(^|/)\.{0,2}(/|$)|^[A-Za-z][A-Za-z0-9+.-]*://"))
    if odd.any():
        paths = _replaced(paths, odd, [_tidy(text, root) for text in paths.filter(arrow_array(odd)).to_pylist()])
    return batch.set_column(batch.schema.get_field_index("path"), "path", paths)


def _tidy(text: str, root: Path) -> str:
    return relative_name(beneath(root, text) if is_url(text) else os.path.normpath(root / text), root)


def _replaced(texts: Any, where: NDArray[np.bool_], values: Sequence[str]) -> Any:
    return pc.replace_with_mask(texts, arrow_array(where), pa.array(list(values), type=pa.string()))


def safe_stems(image_ids: Any) -> Any:
    """File names made of image ids; those that would collide, also without regard to case, get a hash of the id.

    Parameters
    ----------
    image_ids : pyarrow.StringArray
        Unique.

    Returns
    -------
    pyarrow.StringArray
    """
    safe = pc.replace_substring_regex(image_ids, "[^A-Za-z0-9._+-]", "_")
    safe = pc.utf8_slice_codeunits(pc.utf8_ltrim(safe, "."), 0, 150)
    safe = pc.if_else(pc.equal(safe, ""), "image", safe)
    twice = _repeated(pc.utf8_lower(safe))
    odd = twice | numpy_array(pc.not_equal(safe, image_ids))
    if not odd.any():
        return safe
    pairs = zip(safe.filter(arrow_array(odd)).to_pylist(), image_ids.filter(arrow_array(odd)).to_pylist(), strict=True)
    return _replaced(safe, odd, [f"{stem}-{hashlib.sha256(name.encode()).hexdigest()[:10]}" for stem, name in pairs])


def _repeated(texts: Any) -> NDArray[np.bool_]:
    """Which texts occur more than once."""
    counts = pc.value_counts(texts)
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    return numpy_array(pc.is_in(texts, value_set=twice))


def output_places(paths: Any, stems: Any) -> Any:
    """Output paths, unique: the path of each input in the survey's folder.

    Inputs outside the folder lose their common parent. Several images of one file get a folder each, so that no file is
    written by two tasks.

    Parameters
    ----------
    paths : pyarrow.StringArray
        Relative to the survey's root; absolute for images outside it.
    stems : pyarrow.StringArray
        Their stems.

    Returns
    -------
    pyarrow.StringArray
    """
    outside = numpy_array(pc.match_substring_regex(paths, f"^/|{_URL}"))
    if outside.any():
        paths = pc.replace_substring_regex(paths, f"{_URL}+", "/")
        strangers = paths.filter(arrow_array(outside))
        common = os.path.commonpath(pc.unique(pc.replace_substring_regex(strangers, "[^/]*$", "")).to_pylist())
        cut = len(common.rstrip("/")) + 1
        paths = pc.if_else(arrow_array(outside), pc.utf8_slice_codeunits(paths, cut, 1 << 20), paths)
    shared = _repeated(paths)
    if not shared.any():
        return paths
    chosen = arrow_array(shared)
    moved = []
    for path, stem in zip(paths.filter(chosen).to_pylist(), stems.filter(chosen).to_pylist(), strict=True):
        parent, slash, name = path.rpartition("/")
        moved.append(f"{parent}{slash}{stem}/{name}")
    return _replaced(paths, shared, moved)
