"""Files of selection functions: NetCDF with a kind, a version, and a checksum of what they hold."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from skygraft.errors import ConfigError, CorruptFileError, FormatError
from skygraft.statistics.files import load_dataset, save_dataset
from skygraft.statistics.selection_fit import KIND, VERSION

__all__ = ["read_selection", "write_selection"]

_NEEDED = ("parameters", "covariance", "mag_low", "mag_high", "x_low", "x_high", "size_low", "size_high", "log_size",
           "n")  # fmt: skip


def _digest(table: xr.Dataset) -> str:
    """SHA-256 of the values and attributes, whatever the file's layout is."""
    out = hashlib.sha256()
    for name in sorted(map(str, table.variables)):
        values = table[name].values
        plain = (
            "\0".join(map(str, values.ravel().tolist())).encode() if values.dtype.kind in "OUT" else values.tobytes()
        )
        out.update(f"{name} {values.shape} {table[name].dims}".encode() + plain)
    for name in sorted(map(str, table.attrs)):
        if name != "checksum":
            out.update(f"{name}={_number(table.attrs[name])}".encode())
    return out.hexdigest()


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def write_selection(table: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a selection function to a file that ends in ``.nc``, which is replaced."""
    if Path(path).suffix != ".nc":
        raise ConfigError(f"the name is {os.fspath(path)}", key="path", fix="End the name in .nc")
    return save_dataset(table.assign_attrs(checksum=_digest(table)), path)


def read_selection(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read what `write_selection` has written.

    Raises
    ------
    CorruptFileError
        If the file is missing, damaged or incomplete.
    FormatError
        If it is something else, or of a later version.
    """
    path = Path(path).expanduser()
    if path.suffix != ".nc":
        raise FormatError("a selection function is a file that ends in .nc", path=path, fix="Check the path")
    table = load_dataset(path)
    if table.attrs.get("kind") != KIND:
        raise FormatError(
            f"the file is no selection function; its title is {table.attrs.get('title', 'not there')!r}",
            path=path,
            fix="Read other datasets by skygraft.statistics.load_dataset",
        )
    version = _number(table.attrs.get("version"))
    if not isinstance(version, int) or version > VERSION:
        raise FormatError(
            f"the selection function has the version {version}, and this skygraft reads up to {VERSION}",
            path=path,
            fix="Update skygraft",
        )
    if missing := [name for name in _NEEDED if name not in table]:
        raise CorruptFileError(
            f"the selection function has no {', '.join(missing)}", path=path, fix="Get the file again, or save it again"
        )
    if table.attrs.get("checksum") != _digest(table):
        raise CorruptFileError(
            "the selection function is not as it was written: its checksum differs",
            path=path,
            fix="Get the file again, or save it again",
        )
    return table
