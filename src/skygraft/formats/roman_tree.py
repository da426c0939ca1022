"""Read the tree of a Roman image: which product it is, its arrays, and numbers, texts and times of its ``meta``."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from astropy.time import Time

from skygraft.errors import FormatError, MissingWcsError
from skygraft.formats.asdf_blocks import AsdfArray, map_asdf, read_tree
from skygraft.wcs import GwcsWcs, read_gwcs, require_asdf

__all__ = ["RomanTree", "read_roman_tree", "read_roman_wcs"]

_TAG = re.compile(r"/tags/(?P<product>[\w/]+)-(?P<version>\d+(?:\.\d+)*)$")
_KNOWN = {"wfi_image": (2, 2), "wfi_mosaic": (2, 1)}
"""Newest version of each product's schema whose layout is known."""
_ARRAYS = ("data", "err", "dq", "var_poisson", "var_rnoise", "var_flat", "weight")
_NONE = -999999.0
"""What the pipeline writes for a number that is not known."""
_LONGEST = 1e8
_MODELS = {"ImageModel": "wfi_image", "MosaicModel": "wfi_mosaic"}
_ARCSEC2 = (math.pi / 180 / 3600) ** 2


@dataclass(frozen=True, eq=False)
class RomanTree:
    """What the tree of a Roman image says.

    Parameters
    ----------
    path : Path
        The file.
    product : str
        "wfi_image" or "wfi_mosaic".
    meta : mapping
        Its metadata, plain values.
    arrays : mapping of str to AsdfArray
        The arrays that are used.
    unit : str
        Unit of ``data``.
    caution : str
        What may be wrong; "" for nothing.
    """

    path: Path
    product: str
    meta: Mapping[str, Any]
    arrays: Mapping[str, AsdfArray]
    unit: str
    caution: str = ""

    @property
    def is_mosaic(self) -> bool:
        """Whether it is resampled from several exposures."""
        return self.product == "wfi_mosaic"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ny, nx = self.arrays["data"].shape
        return ny, nx

    def at(self, *keys: str) -> Any:
        """Return the value at a path of keys beneath ``meta``, a quantity's without its unit; None if there is none."""
        node: Any = self.meta
        for key in keys:
            if not isinstance(node, Mapping) or key not in node:
                return None
            node = node[key]
        return node["value"] if isinstance(node, Mapping) and "value" in node else node

    def number(self, *keys: str) -> float | None:
        """Return a finite number beneath ``meta``; None if there is none."""
        value = self.at(*keys)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        try:
            number = float(value)
        except ValueError:
            return None
        return number if math.isfinite(number) and number != _NONE else None

    def text(self, *keys: str) -> str | None:
        """Return a text beneath ``meta``; None if there is none."""
        value = self.at(*keys)
        text = str(value).strip() if isinstance(value, str | int) else ""
        return text if text not in ("", "?", "None", "-999999") else None

    def mjd(self, *keys: str) -> float | None:
        """Return a time beneath ``meta`` as MJD (TAI); times of the files are UTC. None if there is none."""
        text = self.text(*keys)
        if text is None:
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return float(Time(text, scale="utc").tai.mjd)
        except (ValueError, TypeError):
            return None

    def times(self) -> tuple[float | None, float | None]:
        """Return the middle of the exposure (MJD, TAI; of a mosaic its mean) and the exposure time in seconds."""
        if self.is_mosaic:
            found = self.mjd("coadd_info", "time_mean") or self.mjd("basic", "time_mean_mjd")
            seconds = self.number("coadd_info", "exposure_time") or self.number("basic", "max_exposure_time")
            number = self.number("basic", "time_mean_mjd")
            if number is not None:
                found = float(Time(number, format="mjd", scale="utc").tai.mjd)
        else:
            found = self.mjd("exposure", "mid_time")
            start, end = self.mjd("exposure", "start_time"), self.mjd("exposure", "end_time")
            if found is None and start is not None and end is not None:
                found = (start + end) / 2
            seconds = self.number("exposure", "exposure_time") or self.number("exposure", "effective_exposure_time")
        return found, seconds if seconds is not None and 0 < seconds <= _LONGEST else None

    def pixel_area(self) -> tuple[float, str] | None:
        """Return the nominal area of a pixel in steradians, and where it is given; None if it is not."""
        for key in ("pixel_area", "pixelarea_steradians"):
            area = self.number("photometry", key)
            if area is not None and area > 0:
                return area, f"meta.photometry.{key}"
        scale = self.number("wcsinfo", "pixel_scale")
        return None if scale is None or scale <= 0 else (scale**2 * _ARCSEC2, "meta.wcsinfo.pixel_scale (arcsec)")

    def as_dict(self) -> dict[str, Any]:
        """Return the plain entries of ``meta`` by dotted keys."""
        found: dict[str, Any] = {}

        def collect(node: Mapping[str, Any], prefix: str) -> None:
            for key, value in node.items():
                if isinstance(value, Mapping) and key not in ("wcs", "individual_image_meta"):
                    collect(value, f"{prefix}{key}.")
                elif isinstance(value, str | int | float):
                    # Tagged texts, such as times, become plain ones.
                    found[f"{prefix}{key}"] = str(value) if isinstance(value, str) else value

        collect(self.meta, "")
        return found


def read_roman_tree(path: str | os.PathLike[str], *, newer: bool = False) -> RomanTree:
    """Read the tree of a Roman image.

    Parameters
    ----------
    path : path-like
        The file.
    newer : bool
        Read a file of a newer major version of its schema.

    Returns
    -------
    RomanTree

    Raises
    ------
    ConfigError
        If the extra ``skygraft[asdf]`` is not installed.
    CorruptFileError
        If it is damaged.
    FormatError
        If it is no image of the Wide Field Instrument, or of a newer version than is known.
    """
    status = Path(path).stat()
    return _read(os.fspath(path), status.st_size, status.st_mtime_ns, newer)


@lru_cache(maxsize=8)
def _read(path: str, n_bytes: int, mtime_ns: int, newer: bool) -> RomanTree:
    require_asdf("a Roman image", path)
    with map_asdf(path) as file:
        _check_standard(file.versions, path)
    tree = read_tree(path)
    root = tree.get("roman") if isinstance(tree, Mapping) else None
    if not isinstance(root, Mapping):
        keys = ", ".join(map(str, list(tree)[:8])) if isinstance(tree, Mapping) else type(tree).__name__
        raise FormatError(
            f"this is an ASDF file, but none of Roman: its tree has no mapping 'roman' (it has {keys})", path=path
        )
    meta = root.get("meta")
    if not isinstance(meta, Mapping):
        raise FormatError("its tree has no roman.meta", path=path, fix="Give an image of the Roman pipeline")
    product, caution = _product(root, meta, path, newer)
    nodes = {name: root[name] for name in _ARRAYS if root.get(name) is not None}
    if "data" not in nodes:
        raise FormatError("its tree has no roman.data", path=path, fix="Give an image of the Roman pipeline")
    unit = nodes["data"].get("unit") if isinstance(nodes["data"], Mapping) else None
    values = {k: n["value"] if isinstance(n, Mapping) and "value" in n else n for k, n in nodes.items()}
    arrays = {name: AsdfArray.of(node, name, path) for name, node in values.items()}
    shape = arrays["data"].shape
    if len(shape) != 2 or not all(shape):
        raise FormatError(f"roman.data has shape {shape}; an image has two axes", path=path, key="data")
    for name, array in arrays.items():
        if array.shape != shape:
            raise FormatError(f"roman.{name} has shape {array.shape}, roman.data {shape}", path=path, key=name)
    if unit is None:
        # The schema allows two units of an exposure, and the flux step says which it is.
        step = meta.get("cal_step")
        flux = str(step.get("flux", "")) if isinstance(step, Mapping) else ""
        unit = "MJy/sr" if product == "wfi_mosaic" or flux.upper() == "COMPLETE" else "DN/s"
    return RomanTree(Path(path), product, meta, arrays, _unit_text(str(unit)), caution)


def _unit_text(unit: str) -> str:
    return re.sub(r"\s*\.\s*sr\s*\*\*\s*-1$", "/sr", unit.strip())


def _check_standard(versions: tuple[str, str], path: str) -> None:
    from asdf.versioning import supported_versions

    layout, standard = versions
    known = [str(v) for v in supported_versions]
    if not layout.startswith("1."):
        raise FormatError(
            f"the file has version {layout} of the ASDF file layout; version 1 can be read",
            path=path,
            fix="Save it with an older version of asdf",
        )
    if standard and standard not in known:
        raise FormatError(
            f"the file follows version {standard} of the ASDF Standard; the installed asdf knows {known[0]} to "
            f"{known[-1]}",
            path=path,
            fix="Update the package: pip install --upgrade asdf",
        )


def _product(root: Any, meta: Mapping[str, Any], path: str, newer: bool) -> tuple[str, str]:
    """Name of the product, and a caution about its version."""
    tag = str(getattr(root, "_tag", "") or "")
    found = _TAG.search(tag)
    name = found["product"] if found else _MODELS.get(str(meta.get("model_type", "")), "")
    if name not in _KNOWN:
        if not found and not name and "data" in root and "wcs" in meta:
            return ("wfi_mosaic" if "weight" in root or "context" in root else "wfi_image"), ""
        what = name or tag or str(meta.get("model_type", "")) or "a product that is not named"
        raise FormatError(
            f"this is {what} of Roman, and no calibrated image; those are: {', '.join(_KNOWN)}",
            path=path,
            fix="Give a calibrated exposure (_cal.asdf) or a mosaic (_coadd.asdf)",
        )
    if found is None:
        return name, ""
    version = tuple(int(part) for part in found["version"].split("."))
    known = _KNOWN[name]
    text = f"{name} has version {found['version']} of its schema, and the newest known is {known[0]}.{known[1]}"
    if version[0] > known[0] and not newer:
        raise FormatError(
            f"{text}.0: its layout may have changed",
            path=path,
            fix="Update skygraft, or read it all the same with newer=True and check what `skygraft inspect` shows",
        )
    return name, f"{text}.0" if version[:2] > known else ""


def read_roman_wcs(path: str | os.PathLike[str]) -> GwcsWcs:
    """Read the gwcs of a Roman image.

    Parameters
    ----------
    path : path-like
        The file.

    Raises
    ------
    ConfigError
        If the extra ``skygraft[asdf]`` is not installed.
    MissingWcsError
        If the image has none.
    WcsError
        If it cannot be used.
    """
    status = Path(path).stat()
    return _read_wcs(os.fspath(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _read_wcs(path: str, n_bytes: int, mtime_ns: int) -> GwcsWcs:
    require_asdf("a Roman image", path)
    found = read_gwcs(path, ("roman", "meta", "wcs"))
    if found is None:
        raise MissingWcsError("roman.meta has no wcs", path=path, fix="Run the assign_wcs step of the Roman pipeline")
    return found
