"""Write triplets of cut-outs to one HDF5 file or Zarr store, a few at a time; and open it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from skygraft.disk import atomic_path
from skygraft.errors import ConfigError, OutputError, OutputExistsError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["COLUMNS", "IMAGES", "TripletWriter", "check_output", "kind_of", "open_triplets", "open_writer"]

IMAGES = {
    "science": "science image, less its sky",
    "template": "template on the pixels of the science image, less its sky",
    "difference": "science image less template, each convolved with the PSF of the other",
}
"""Arrays of cut-outs, and what they are."""

COLUMNS: dict[str, tuple[str, str, str]] = {
    "label": ("i1", "", "1 (real): an injected source whose flux differs between the images; 0 (bogus): none is there"),
    "injection_id": ("i8", "", "the source, as in the catalogue; -1 for none"),
    "object_id": ("i8", "", "the object that it belongs to; -1 for none"),
    "mag": ("f8", "mag", "magnitude in the science image, of the truth; NaN for none"),
    "flux": ("f8", "nJy", "injected flux in the science image less that in the template; 0 for bogus"),
    "snr": ("f8", "", "signal-to-noise ratio of a point source at the place, measured in the difference"),
    "mjd": ("f8", "d", "middle of the science image's exposure, MJD TAI; NaN where unknown"),
    "band": ("str", "", "band of the science image; empty where unknown"),
    "image_id": ("str", "", "the science image"),
    "template_id": ("str", "", "the template"),
    "ra": ("f8", "deg", "right ascension of the place, ICRS"),
    "dec": ("f8", "deg", "declination of the place, ICRS"),
    "x": ("f8", "pix", "the place on the science image, parent frame"),
    "y": ("f8", "pix", "the place on the science image, parent frame"),
}
"""Columns beside the cut-outs: type, unit and meaning."""

_ROWS = 64
"""Triplets in a chunk, and in memory before they are written: 3 MB of 63 x 63 pixels."""
_SUFFIXES: dict[str, Literal["hdf5", "zarr"]] = {".h5": "hdf5", ".hdf5": "hdf5", ".nc": "hdf5", ".zarr": "zarr"}
_FLAGS = {"flag_values": [0, 1], "flag_meanings": "bogus real"}


def kind_of(path: str | os.PathLike[str]) -> Literal["hdf5", "zarr"]:
    """Tell by the ending of a path what is written there.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    {"hdf5", "zarr"}

    Raises
    ------
    OutputError
        If the ending is neither.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise OutputError(
            f"triplets are not written as {suffix or 'a file without an ending'}",
            path=path,
            fix=f"Give a name that ends in {', '.join(_SUFFIXES)}",
        )
    return _SUFFIXES[suffix]


def check_output(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Raise, before anything is read, if triplets cannot be written to a path.

    Parameters
    ----------
    path : path-like
        An HDF5 file or a Zarr store.
    overwrite : bool
        Whether one that exists is replaced.

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        If its ending is not one of those, or its folder is not there.
    OutputExistsError
        If it exists and is not to be replaced, or is not what would be written.
    """
    path = Path(path)
    kind = kind_of(path)
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {str(path.parent)!r}", path=path, fix="Create it, or give another")
    if path.is_symlink() or path.exists():
        ours = path.is_file() if kind == "hdf5" else _is_store(path)
        if not ours:
            raise OutputExistsError("something else has this name", path=path, fix="Give another name")
        if not overwrite:
            raise OutputExistsError("the file exists", path=path, fix="Give another name, or overwrite=True")
    return path


def _is_store(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and any((path / n).exists() for n in (".zgroup", "zarr.json"))


class TripletWriter(Protocol):
    """Takes rows of triplets, in order."""

    n_rows: int

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row: a value for each of `COLUMNS` and an array for each of `IMAGES`."""


@contextlib.contextmanager
def open_writer(path: Path, size: int, attributes: Mapping[str, Any]) -> Iterator[TripletWriter]:
    """Write triplets so that they appear under their name when all are there.

    Parameters
    ----------
    path : Path
        The file or store, from `check_output`. One that exists is replaced at the end.
    size : int
        Side of the cut-outs, pixels.
    attributes : mapping
        Text and numbers that say what it is.

    Yields
    ------
    TripletWriter

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    if kind_of(path) == "hdf5":
        import h5py

        # The inner one ends first: the file is closed before it gets its name.
        with atomic_path(path, make_folder=False) as temporary, h5py.File(temporary, "w") as file:
            hdf5 = _Hdf5Writer(file, size, attributes)
            yield hdf5
            hdf5.flush()
        return
    with _atomic_folder(path) as temporary:
        zarr = _ZarrWriter(temporary, size, attributes)
        yield zarr
        zarr.finish()


class _Buffered:
    """Rows that wait until a chunk is full, so that each chunk is written once."""

    def __init__(self) -> None:
        self.n_rows = 0
        self._waiting: list[Mapping[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        self._waiting.append(row)
        self.n_rows += 1
        if len(self._waiting) == _ROWS:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            first = self.n_rows - len(self._waiting)
            self._write(first, {name: [row[name] for row in self._waiting] for name in (*COLUMNS, *IMAGES)})
            self._waiting = []

    def _write(self, first: int, columns: Mapping[str, Sequence[Any]]) -> None:
        raise NotImplementedError


def _attributes(name: str) -> dict[str, Any]:
    if name in IMAGES:
        return {"units": "nJy", "long_name": IMAGES[name]}
    _, unit, meaning = COLUMNS[name]
    flags = _FLAGS if name == "label" else {}
    return {**({"units": unit} if unit else {}), "long_name": meaning, **flags}


class _Hdf5Writer(_Buffered):
    """HDF5 as netCDF-4 lays it out, so that xarray opens it."""

    def __init__(self, file: Any, size: int, attributes: Mapping[str, Any]) -> None:
        import h5py

        super().__init__()
        self._file = file
        for name, value in attributes.items():
            file.attrs[name] = value
        for name, length in (("triplet", 0), ("row", size), ("column", size)):
            scale = file.create_dataset(name, data=np.arange(length), maxshape=(None,) if not length else None,
                                        chunks=(4096,) if not length else None)  # fmt: skip
            scale.make_scale(name)
        for name, (kind, _, _) in COLUMNS.items():
            dtype = h5py.string_dtype() if kind == "str" else np.dtype(kind)
            self._create(name, (0,), (None,), (4096,), dtype)
        for name in IMAGES:
            self._create(name, (0, size, size), (None, size, size), (_ROWS, size, size), np.dtype("f4"))

    def _create(self, name: str, shape: Any, most: Any, chunks: Any, dtype: Any) -> None:
        dataset = self._file.create_dataset(name, shape, dtype=dtype, maxshape=most, chunks=chunks)
        for axis, scale in enumerate(("triplet", "row", "column")[: len(shape)]):
            dataset.dims[axis].attach_scale(self._file[scale])
        for key, value in _attributes(name).items():
            dataset.attrs[key] = np.array(value, dtype="i1") if key == "flag_values" else value

    def _write(self, first: int, columns: Mapping[str, Sequence[Any]]) -> None:
        n = self.n_rows
        self._file["triplet"].resize((n,))
        self._file["triplet"][first:] = np.arange(first, n)
        for name, values in columns.items():
            dataset = self._file[name]
            dataset.resize(n, axis=0)
            kind = COLUMNS[name][0] if name in COLUMNS else "f4"
            dataset[first:] = list(values) if kind == "str" else np.asarray(values, dtype=kind)


class _ZarrWriter(_Buffered):
    """A Zarr store of format 2, which all readers know, as xarray lays it out."""

    def __init__(self, folder: Path, size: int, attributes: Mapping[str, Any]) -> None:
        super().__init__()
        self._folder, self._size, self._about = folder, size, dict(attributes)
        self._begun = False

    def _write(self, first: int, columns: Mapping[str, Sequence[Any]]) -> None:
        import xarray as xr

        n = self.n_rows - first
        variables: dict[str, Any] = {"triplet": ("triplet", np.arange(first, self.n_rows))}
        encoding: dict[str, Any] = {"triplet": {"chunks": (4096,)}}
        for name in (*COLUMNS, *IMAGES):
            kind = COLUMNS[name][0] if name in COLUMNS else "f4"
            values = np.array(columns[name], dtype=object if kind == "str" else kind)
            dims: tuple[str, ...] = ("triplet", "row", "column") if name in IMAGES else ("triplet",)
            shape = (n, self._size, self._size) if name in IMAGES else (n,)
            variables[name] = (dims, values.reshape(shape), _attributes(name))
            encoding[name] = {"chunks": (_ROWS, *shape[1:]) if name in IMAGES else (4096,)}
        if self._begun:
            dataset = xr.Dataset(variables, attrs=self._about)
            dataset.to_zarr(self._folder, append_dim="triplet", consolidated=False, zarr_format=2)
        else:
            pixels = {name: (name, np.arange(self._size)) for name in ("row", "column")}
            dataset = xr.Dataset({**variables, **pixels}, attrs=self._about)
            dataset.to_zarr(self._folder, mode="w", encoding=encoding, consolidated=False, zarr_format=2)
        self._begun = True

    def finish(self) -> None:
        import zarr

        self.flush()
        if not self._begun:
            self._write(0, {name: [] for name in (*COLUMNS, *IMAGES)})
        zarr.consolidate_metadata(str(self._folder), zarr_format=2)


@contextlib.contextmanager
def _atomic_folder(path: Path) -> Iterator[Path]:
    """Write a folder so that it appears under its name when it is whole; one that exists is replaced."""
    mark = f"{os.getpid()}.{secrets.token_hex(4)}.tmp"
    temporary, old = path.with_name(f".{path.name}.{mark}"), path.with_name(f".{path.name}.old.{mark}")
    try:
        yield temporary
        if path.exists():
            path.replace(old)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"the output cannot be written ({error.strerror or error})",
            path=path,
            fix=f"Check that {path.parent} is writable, and has room (free space, quota)",
        ) from error
    finally:
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)


def open_triplets(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a file of triplets as an `xarray.Dataset`, whose pixels are read when they are asked for.

    Parameters
    ----------
    path : path-like
        The HDF5 file or Zarr store that `training_triplets` wrote.

    Returns
    -------
    xarray.Dataset
        Arrays ``science``, ``template`` and ``difference`` (triplet, row, column), nJy, and a variable for each column.

    Raises
    ------
    ConfigError
        If there is no such file.
    OutputError
        If its ending is not that of either.
    """
    import xarray as xr

    kind = kind_of(path)
    if not Path(path).exists():
        raise ConfigError("there is no such file", path=path, fix="Write it: skygraft triplets CAMPAIGN -o FILE")
    dataset: xr.Dataset = (
        xr.open_dataset(path, engine="h5netcdf") if kind == "hdf5" else xr.open_zarr(path, chunks=None)
    )
    return dataset
