"""Check that the record, the truth and the catalogue of an image agree."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skygraft.campaign.pairs import ImagePair
from skygraft.catalog.flags import count_flags
from skygraft.qa.redraw import Redrawn
from skygraft.qa.verdicts import Row

__all__ = ["check_truth"]

_SHOWN = 3
_PLACE = 1e-3
"""Pixels between a truth row's pixel position and the WCS at its place on the sky."""
_VALUES = (
    ("x", 0.0, 1e-4),
    ("y", 0.0, 1e-4),
    ("inst_flux", 1e-6, 0.0),
    ("flux_deposited", 1e-5, 0.0),
    ("mag", 0.0, 1e-6),
)
"""Columns compared with the sources drawn again: relative and absolute tolerance."""


def check_truth(pair: ImagePair, redrawn: Redrawn | None) -> list[Row]:
    """Compare the rows of the truth with the catalogue, their values with the sources drawn again, and the record.

    Parameters
    ----------
    pair : ImagePair
        The image.
    redrawn : Redrawn or None
        Its sources drawn again; None where they cannot be.

    Returns
    -------
    list of Row
        One: value is the number of rows and values that do not agree.
    """
    truth, record = pair.truth, pair.record
    ids, own = np.asarray(truth["injection_id"]), np.asarray(pair.sources["injection_id"])
    notes: list[str] = []
    wrong = 0
    unique, counts = np.unique(ids, return_counts=True)
    wrong += _say(notes, unique[counts > 1], "rows of truth more than once")
    wrong += _say(notes, np.setdiff1d(unique, own), "rows of truth of sources that the catalogue does not have here")
    wrong += _say(notes, np.setdiff1d(*_other(truth, pair.image.image_id, ids)), "rows of truth of another image")
    wrong += _record(notes, truth, record.get("n_sources"), record)
    wrong += _places(notes, pair, ids)
    if redrawn is not None:
        wrong += _values(notes, truth, redrawn.truth, ids)
    return [Row.of("truth", not wrong, wrong, 0.0, n=len(truth), note="; ".join(notes))]


def _other(truth: Table, image_id: str, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    here = np.asarray(truth["image_id"]).astype(str) == image_id
    return ids, ids[here]


def _say(notes: list[str], ids: Iterable[int], what: str) -> int:
    found = [int(one) for one in ids]
    if found:
        shown = ", ".join(map(str, found[:_SHOWN])) + (", ..." if len(found) > _SHOWN else "")
        notes.append(f"{len(found)} {what} (injection_id {shown})")
    return len(found)


def _record(notes: list[str], truth: Table, n_sources: object, record: object) -> int:
    """Compare the counts of the record with the truth."""
    assert hasattr(record, "get")
    drawn = int(np.count_nonzero(np.asarray(truth["stamp_size"]) > 0))
    wrong = 0
    for name, said, found in (("n_sources", n_sources, len(truth)), ("n_drawn", record.get("n_drawn"), drawn)):
        if said is not None and said != found:
            notes.append(f"the record's {name} is {said}, the truth has {found}")
            wrong += 1
    flags = record.get("flags")
    if flags is not None:
        # Sources that do not reach the image have no row.
        said = {name: n for name, n in flags.items() if name != "NO_OVERLAP"}
        found_flags = {name: n for name, n in count_flags(truth["flags"]).items() if name != "NO_OVERLAP"}
        if not said.keys() >= found_flags.keys() or any(found_flags.get(name, 0) > n for name, n in said.items()):
            notes.append(f"the record counts flags {said}, the truth has {found_flags}")
            wrong += 1
    return wrong


def _places(notes: list[str], pair: ImagePair, ids: NDArray[np.int64]) -> int:
    """Compare pixel positions with the WCS at the places on the sky."""
    truth = pair.truth
    if not len(truth):
        return 0
    ra, dec = (np.asarray(truth[name].value, dtype=float) for name in ("ra", "dec"))
    with np.errstate(invalid="ignore"):
        x, y = pair.before.wcs.world_to_pixel_values(ra, dec)
        off = np.hypot(np.asarray(x) - np.asarray(truth["x"], float), np.asarray(y) - np.asarray(truth["y"], float))
    return _say(notes, ids[off > _PLACE], "rows of truth whose pixel position is not that of the WCS")


def _values(notes: list[str], truth: Table, again: Table, ids: NDArray[np.int64]) -> int:
    """Compare the rows of the truth with those of the sources drawn again."""
    wanted = np.asarray(again["injection_id"])
    wrong = _say(notes, np.setdiff1d(wanted, ids), "sources reach the image and have no row of truth")
    wrong += _say(notes, np.setdiff1d(ids, wanted), "rows of truth of sources that do not reach the image")
    common, mine, theirs = np.intersect1d(ids, wanted, return_indices=True)
    for name, relative, absolute in _VALUES:
        a, b = (np.asarray(getattr(t[name], "value", t[name]), float)[i] for t, i in ((truth, mine), (again, theirs)))
        close = np.isclose(a, b, rtol=relative, atol=absolute, equal_nan=True)
        wrong += _say(notes, common[~close], f"rows of truth with another {name} than drawn again")
    for name in ("flags", "stamp_size"):
        a, b = np.asarray(truth[name])[mine], np.asarray(again[name])[theirs]
        wrong += _say(notes, common[a != b], f"rows of truth with other {name} than drawn again")
    return wrong
