"""How catalogues name the image of a stamp, and which files these are.

======================================== ==============================================================================
``galaxies/a.fits``                      the file's first image
``galaxies/a.fits[SCI]``, ``a.fits[2]``  an HDU by name or number, ``[SCI,2]`` with a version
``galaxies/a.h5:/stamps/deep``           a dataset of an HDF5 file (.h5, .hdf5, .he5, .hdf)
``galaxies/a.zarr/deep``                 an array of a Zarr store
======================================== ==============================================================================

``{band}`` anywhere stands for the band of the image. A column ``stamp_<band>`` is the stamp in that band, and where it
is empty ``stamp`` is. Of a three-dimensional array `stamp_index` is the plane.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skygraft.catalog.arrow_arrays import arrow_array, numpy_array, one_array
from skygraft.catalog.schema import COLUMNS, bands_of, strings
from skygraft.disk import FileIdentity

__all__ = [
    "BAND",
    "IDENTITY",
    "StampAddress",
    "band_stamp_columns",
    "identity_of",
    "is_remote",
    "parse_stamp",
    "stamp_identities",
    "stamps_in_band",
]

BAND = "{band}"
"""What stands for the band in the path of a stamp."""
IDENTITY = "stamp_identity"
"""Column of partitioned catalogues: a fingerprint of the state of the files that a row's stamps are in."""

_HDF5 = re.compile(r"(.+\.(?:h5|hdf5|he5|hdf)):(.*)", re.IGNORECASE | re.DOTALL)
_HDF5_FILE = re.compile(r".+\.(?:h5|hdf5|he5|hdf)", re.IGNORECASE | re.DOTALL)
_ZARR = re.compile(r"(.+?\.zarr)(?:/+(.*))?", re.IGNORECASE | re.DOTALL)
_FITS = re.compile(r"(.+)\[([^\[\]]*)\]", re.DOTALL)
_ODD = np.uint64(0x9E3779B97F4A7C15)
_REMOTE = re.compile(r"[a-zA-Z][\w+.-]+://")


@dataclass(frozen=True)
class StampAddress:
    """Where the image of a stamp is.

    Parameters
    ----------
    kind : {"fits", "hdf5", "zarr"}
        Format of the file.
    path : Path
        The file, or the folder of a Zarr store.
    part : str
        Name of the HDU, dataset or array in it; empty for the only one, or the first.
    """

    kind: Literal["fits", "hdf5", "zarr"]
    path: Path
    part: str = ""

    @property
    def is_there(self) -> bool:
        """True if the file, or the store, exists."""
        return self.path.is_dir() if self.kind == "zarr" else self.path.is_file()


def parse_stamp(text: str) -> StampAddress:
    """Take the text of a stamp column apart; brackets that are part of a file's own name are left alone.

    Parameters
    ----------
    text : str
        As in a catalogue, without ``{band}``.

    Returns
    -------
    StampAddress
    """
    if found := _HDF5.fullmatch(text):
        return StampAddress("hdf5", Path(found[1]), found[2].strip("/"))
    if _HDF5_FILE.fullmatch(text):
        return StampAddress("hdf5", Path(text))
    if found := _ZARR.fullmatch(text):
        return StampAddress("zarr", Path(found[1]), (found[2] or "").strip("/"))
    if (found := _FITS.fullmatch(text)) and not Path(text).is_file():
        return StampAddress("fits", Path(found[1]), found[2].strip())
    return StampAddress("fits", Path(text))


def band_stamp_columns(table: Table) -> dict[str, str]:
    """Return the columns ``stamp_<band>`` of a table by their bands: text columns that are none of the schema's."""
    found = {}
    for name in table.colnames:
        if name.startswith("stamp_") and name not in COLUMNS and name != IDENTITY and table[name].dtype.kind in "USO":
            found[name.removeprefix("stamp_")] = name
    return found


def stamps_in_band(table: Table, band: str | None) -> NDArray[np.str_]:
    """Return the stamp of each row in a band, empty where it has none.

    Parameters
    ----------
    table : Table
        Canonical columns.
    band : str or None
        The image's band; None where it is not known, which leaves ``{band}`` as it is.

    Returns
    -------
    ndarray of str, shape (N,)
    """
    text = strings(table, "stamp")
    own = band_stamp_columns(table).get(band or "")
    if own is not None:
        mine = strings(table, own)
        text = np.where(mine != "", mine, text)
    if band is not None and (with_band := np.char.find(text, BAND) >= 0).any():
        text = np.where(with_band, np.char.replace(text, BAND, band), text)
    return np.asarray(text, dtype=np.str_)


def is_remote(stamp: str) -> bool:
    """Return whether a stamp is an address of another machine."""
    return _REMOTE.match(stamp) is not None


def identity_of(address: StampAddress) -> tuple[int, int]:
    """Return size in bytes and time of last change in ns of a stamp's file; of a Zarr array, of all of its files.

    Raises
    ------
    OSError
        If there is none.
    """
    if address.kind != "zarr":
        return FileIdentity.of(address.path).size_and_time
    size, states = 0, []
    folder = address.path / address.part
    folder.stat()
    for root, _, names in os.walk(folder):
        for name in names:
            found = FileIdentity.of(Path(root, name))
            size += found.n_bytes
            states.append(f"{os.path.relpath(root, folder)}/{name} {found.n_bytes} {found.mtime_ns}")
    return size, _word("\n".join(sorted(states)))


def stamp_identities(
    table: Table, bands: Iterable[str] | None = None, known: dict[StampAddress, int] | None = None
) -> NDArray[np.int64] | None:
    """Return fingerprints of the state of the files that each row's stamps are in, in all bands.

    Pixels depend on these files as well as on the catalogue. Each file is looked at once, and not read: size and time
    of last change tell whether it is the same.

    Parameters
    ----------
    table : Table
        Canonical columns.
    bands : iterable of str, optional
        The bands that count; by default those that the table has magnitudes or stamps in.
    known : dict, optional
        What was found before, which is not looked for again; new ones are added.

    Returns
    -------
    ndarray of int64, shape (N,), or None
        0 for rows without a stamp; None for a table without stamps.
    """
    own = band_stamp_columns(table)
    if "stamp" not in table.colnames and not own:
        return None
    wanted: list[str | None] = [*sorted({*bands_of(table), *own} if bands is None else set(bands))]
    columns = [stamps_in_band(table, band) for band in wanted or [None]]
    if all(np.array_equal(columns[0], column) for column in columns):
        columns = columns[:1]
    known = {} if known is None else known
    found = np.zeros(len(table), dtype=np.uint64)
    for column in columns:
        encoded = one_array(arrow_array(column)).dictionary_encode()
        words = [_state(text, known) for text in encoded.dictionary.to_pylist()]
        found = found * _ODD + np.array(words, dtype=np.int64).view(np.uint64)[numpy_array(encoded.indices)]
    return found.view(np.int64)


def _state(text: str, known: dict[StampAddress, int]) -> int:
    if not text:
        return 0
    if is_remote(text):
        return _word(text)
    address = parse_stamp(text)
    if address not in known:
        try:
            state = "{} {}".format(*identity_of(address))
        except OSError:
            state = "none"
        known[address] = _word(state)
    return known[address]


def _word(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
