"""STDPSF files: effective PSFs of HST's and JWST's detectors on grids, with four samples a pixel.

Their layout (Anderson 2016, WFC3 ISR 2016-12; Libralato et al. 2024): a cube of ``NXPSFS`` times ``NYPSFS`` images, by
rows of the grid, and positions counted from 1 in ``IPSFX01``, ``JPSFY01`` and following, or, five in a card, in
``IPSFXA5``, ``JPSFYA5`` and following. Cameras with several detectors have them side by side in one file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import PsfError

__all__ = ["is_stdpsf", "stdpsf_grid"]

# Images of the cube: names of the detectors, by rows from the bottom, and pixels along a side of each.
_MOSAICS: dict[int, tuple[tuple[tuple[str, ...], ...], int]] = {
    36: ((("WF3", "WF4"), ("WF2", "PC")), 800),
    56: ((("2",), ("1",)), 2048),
    90: ((("2",), ("1",)), 2048),
    200: ((("A1", "A3", "B4", "B2"), ("A2", "A4", "B3", "B1")), 2048),
}


def is_stdpsf(header: Mapping[str, Any]) -> bool:
    """Whether a header is that of an STDPSF file.

    Parameters
    ----------
    header : mapping
        The header of the cube.

    Returns
    -------
    bool
    """
    return "NXPSFS" in header and "NYPSFS" in header


def stdpsf_grid(
    values: NDArray[np.float64], header: Mapping[str, Any], detector: str | None, path: Path, hdu: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    """Find the images and positions of one detector.

    Parameters
    ----------
    values : ndarray, shape (N, my, mx)
        The cube.
    header : mapping
        Its header.
    detector : str or None
        The detector, needed for files with several: such as ``A3`` or ``NRCA3``, ``WFC1``, ``UVIS2``, ``PC``.
    path, hdu : Path, int
        The file, for messages.

    Returns
    -------
    images : ndarray, shape (n, my, mx)
    positions : ndarray, shape (n, 2)
        Positions (x, y), 0-based pixels of the detector.
    name : str

    Raises
    ------
    PsfError
        If the header has no such grid, or the detector is not in the file.
    """
    x, y = (_lines(header, *keys) for keys in (("NXPSFS", "IPSFX"), ("NYPSFS", "JPSFY")))
    if x is None or y is None or len(x) * len(y) != len(values):
        raise PsfError(
            f"the cube has {len(values)} images, and the header gives "
            f"{'no' if x is None else len(x)} columns and {'no' if y is None else len(y)} rows of positions",
            path=path,
            hdu=hdu,
            key="NXPSFS",
            fix="Fetch the file again",
        )
    images = values.reshape(len(y), len(x), *values.shape[1:])
    name = "STDPSF"
    if len(values) in _MOSAICS and _is_mosaic(path, len(values)):
        names, side = _MOSAICS[len(values)]
        row, column = _detector(names, detector, path, hdu)
        n_y, n_x = len(y) // len(names), len(x) // len(names[0])
        rows, columns = slice(row * n_y, (row + 1) * n_y), slice(column * n_x, (column + 1) * n_x)
        images, y, x = images[rows, columns], y[rows] - row * side, x[columns] - column * side
        name = f"STDPSF {names[row][column]} of"
    at_x, at_y = np.meshgrid(x, y)
    return images.reshape(-1, *values.shape[1:]), np.stack([at_x.ravel(), at_y.ravel()], axis=1), name


def _is_mosaic(path: Path, n: int) -> bool:
    """Whether a file is of several detectors: by its name, or, with another name, by its number of images."""
    match = re.match(r"STDP[SB]F_([A-Z0-9]+)_", path.name.upper())
    return match is None or n != 36 or match[1] == "WFPC2"


def _lines(header: Mapping[str, Any], count: str, key: str) -> NDArray[np.float64] | None:
    """Positions along one axis, counted from 0; None if the header does not have them."""
    try:
        n = int(header[count])
        if f"{key}01" in header:
            found = [float(header[f"{key}{i:02d}"]) for i in range(1, n + 1)]
        else:
            # Five in a card: A5, B5, ...
            found = [
                float(part)
                for letter in "ABCDEFGHIJ"
                if f"{key}{letter}5" in header
                for part in str(header[f"{key}{letter}5"]).split()
            ]
    except (KeyError, TypeError, ValueError):
        return None
    return np.array(found) - 1.0 if len(found) == n and n > 0 else None


def _detector(names: tuple[tuple[str, ...], ...], wanted: str | None, path: Path, hdu: int) -> tuple[int, int]:
    """Row and column of a detector in the file."""
    allowed = ", ".join(name for row in names for name in row)
    text = "" if wanted is None else str(wanted).upper().removeprefix("NRC").removeprefix("WFC").removeprefix("UVIS")
    # WFPC2's detectors are also known by number.
    text = {"PC1": "PC", "1": "PC", "2": "WF2", "3": "WF3", "4": "WF4"}.get(text, text) if "PC" in allowed else text
    for i, row in enumerate(names):
        for j, name in enumerate(row):
            if text == name:
                return i, j
    asked = "none was named" if wanted is None else f"{wanted!r} is not one of them"
    raise PsfError(
        f"the file holds the PSFs of several detectors, {allowed}; {asked}",
        path=path,
        hdu=hdu,
        key="detector",
        fix="Give detector: and the name of one",
    )
