"""Datasets on disk: Zarr and NetCDF, written whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from skygraft.disk import atomic_path
from skygraft.errors import ConfigError, CorruptFileError, OutputError

__all__ = ["load_dataset", "save_dataset"]

_ENDINGS = (".zarr", ".nc")


def _ending(path: Path) -> str:
    if path.suffix not in _ENDINGS:
        raise ConfigError(
            f"the ending is {path.suffix or 'none'}", key=str(path), fix="End the name in .zarr (Zarr) or .nc (NetCDF)"
        )
    return path.suffix


def _plain(value: Any) -> Any:
    """An attribute as both formats take it."""
    if isinstance(value, (bool, np.bool_)):
        return int(value)
    if value is None:
        return ""
    return value.item() if isinstance(value, np.generic) else value


def save_dataset(dataset: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a dataset to Zarr or NetCDF, with units and provenance; a file of this name is replaced.

    Parameters
    ----------
    dataset : xarray.Dataset
        Any result of `skygraft.statistics`.
    path : path-like
        Ends in ``.zarr`` or ``.nc``.

    Returns
    -------
    Path
        What was written.

    Raises
    ------
    ConfigError
        If the ending is another.
    OutputError
        If it cannot be written.
    """
    path = Path(path).expanduser()
    ending = _ending(path)
    out = dataset.assign_attrs({name: _plain(value) for name, value in dataset.attrs.items()})
    # What was read from a file brings the encoding of that file.
    out = out.drop_encoding()
    if ending == ".nc":
        with atomic_path(path) as temporary:
            out.to_netcdf(temporary, engine="h5netcdf")
        return path
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    old = temporary.with_suffix(".old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        out.to_zarr(temporary, mode="w", zarr_format=2)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    except OSError as error:
        if old.exists() and not path.exists():
            old.rename(path)
        raise OutputError(
            f"the output cannot be written ({error})", path=path, fix=f"Check that {path.parent} is writable"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return path


def load_dataset(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a dataset that `save_dataset` has written, into memory.

    Parameters
    ----------
    path : path-like
        Ends in ``.zarr`` or ``.nc``.

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    CorruptFileError
        If it cannot be read.
    """
    path = Path(path).expanduser()
    ending = _ending(path)
    if not path.exists():
        raise CorruptFileError("there is no such dataset", path=path, fix="Check the path")
    out: xr.Dataset
    try:
        if ending == ".nc":
            with xr.open_dataset(path, engine="h5netcdf") as opened:
                out = opened.load()
        else:
            with xr.open_zarr(path, chunks=None) as opened:
                out = opened.load()
    except Exception as error:  # readers raise what they like
        raise CorruptFileError(
            f"the dataset cannot be read ({type(error).__name__}: {error})", path=path, fix="Write it again"
        ) from error
    return out
