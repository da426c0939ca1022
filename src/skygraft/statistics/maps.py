"""Maps on the sky: completeness, depth and bias in HEALPix pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import ConfigError
from skygraft.statistics.biases import Comparison, comparison, medians
from skygraft.statistics.cells import Axis, By, Cells, make_cells
from skygraft.statistics.completeness import check_bootstrap, fractions
from skygraft.statistics.counts import Group, groups_of, weights_of
from skygraft.statistics.rows import Rows, Where, floats, open_rows
from skygraft.statistics.samples import EXACT_ROWS

__all__ = ["HealpixAxis", "pixel_axis", "pixel_of", "sky_map"]

type Statistic = Literal["median", "completeness", "bias"]


def check_nside(nside: int) -> int:
    """The resolution, if it is a power of two from 1 to 2^20; else a `ConfigError`."""
    if isinstance(nside, bool) or int(nside) != nside or not 1 <= nside <= 1 << 20 or int(nside) & (int(nside) - 1):
        raise ConfigError(f"nside is {nside!r}", key="nside", fix="Give a power of two, such as 512 (pixels of 6.9')")
    return int(nside)


def pixel_of(ra: ArrayLike, dec: ArrayLike, nside: int) -> NDArray[np.int64]:
    """The HEALPix pixels (nested) of positions; -1 where they are none.

    Gorski et al. (2005, ApJ 622, 759).

    Parameters
    ----------
    ra, dec : array_like
        Positions, ICRS, deg.
    nside : int
        Resolution.

    Returns
    -------
    ndarray of int
    """
    from astropy import units as u
    from astropy_healpix import lonlat_to_healpix

    lon, lat = np.broadcast_arrays(np.asarray(ra, np.float64), np.asarray(dec, np.float64))
    good = np.isfinite(lon) & (np.abs(lat) <= 90.0)
    found = np.full(lon.shape, -1, np.int64)
    if good.any():
        found[good] = lonlat_to_healpix(lon[good] * u.deg, lat[good] * u.deg, nside, order="nested")
    return found


@dataclass(frozen=True)
class HealpixAxis(Axis):
    """Pixels of the sky that hold rows: the categories are pixels, in order."""

    nside: int = 1
    ra: str = "ra"
    dec: str = "dec"

    @property
    def columns(self) -> list[str]:
        """Columns that `index` reads."""
        return [self.ra, self.dec]

    def index(self, batch: pa.RecordBatch) -> NDArray[np.int64]:
        """The number of the pixel of each row among `categories`; -1 for those in none."""
        pixels = np.asarray(self.categories, np.int64)
        found = pixel_of(floats(batch, self.ra), floats(batch, self.dec), self.nside)
        place = np.minimum(np.searchsorted(pixels, found), max(pixels.size - 1, 0))
        return np.where(pixels[place] == found, place, -1) if pixels.size else np.full(found.shape, -1)

    def coordinates(self) -> dict[str, Any]:
        """Pixels and their centres."""
        from astropy import units as u
        from astropy_healpix import healpix_to_lonlat

        pixels = np.asarray(self.categories, np.int64)
        lon, lat = healpix_to_lonlat(pixels, self.nside, order="nested")
        about = {"long_name": "HEALPix pixel", "nside": self.nside, "order": "nested", "frame": "icrs"}
        return {
            self.name: (self.name, pixels, about),
            "ra_center": (self.name, lon.to_value(u.deg), {"units": "deg"}),
            "dec_center": (self.name, lat.to_value(u.deg), {"units": "deg"}),
        }


def pixel_axis(rows: Rows, nside: int, ra: str = "ra", dec: str = "dec") -> HealpixAxis:
    """The pixels that hold rows, in one pass."""
    seen = np.zeros(0, np.int64)
    for batch in rows.batches([ra, dec]):
        seen = np.union1d(seen, pixel_of(floats(batch, ra), floats(batch, dec), nside))
    return HealpixAxis("pixel", categories=tuple(seen[seen >= 0].tolist()), nside=nside, ra=ra, dec=dec)


def sky_map(
    data: Any,
    values: str | Sequence[str] = "depth",
    statistic: Statistic = "median",
    nside: int = 512,
    *,
    by: By | None = None,
    position: tuple[str, str] = ("ra", "dec"),
    found: str = "found",
    where: Where = None,
    usable: str | None = "usable",
    weight: str | None = "weight",
    source: Group = "injection_id",
    bootstrap: int = 0,
    seed: int = 0,
) -> xr.Dataset:
    """A map of the sky in HEALPix pixels (nested, ICRS): the median of a column, a bias, or completeness.

    Parameters
    ----------
    data : path-like, table or mapping
        As in `completeness`.
    values : str or sequence of str
        For "median" the column; for "bias" the measured and the true column. Not used for "completeness".
    statistic : {"median", "completeness", "bias"}
        What to map. A median is of all rows, a bias of those that were found.
    nside : int
        Resolution: 512 for pixels of 6.9 arcmin.
    by : str, sequence of str, mapping or None
        Further columns, such as ``band``.
    position : tuple of str
        Columns of right ascension and declination, deg.
    found, where, usable, weight, source, bootstrap, seed
        As in `completeness`.

    Returns
    -------
    xarray.Dataset
        As of `completeness` or `bias`, with a first dimension ``pixel``: the pixels that hold rows, with their centres
        ``ra_center`` and ``dec_center`` (deg).

    Raises
    ------
    CatalogError
        If a column is missing (with the nearest names), or cannot be used.
    ConfigError
        If an argument is not allowed.
    """
    rows = open_rows(data, where=where, usable=usable)
    nside = check_nside(nside)
    check_bootstrap(bootstrap)
    names = [values] if isinstance(values, str) else list(values)
    if statistic not in ("median", "completeness", "bias"):
        raise ConfigError(
            f"there is no statistic {statistic!r}", key="statistic", fix="Give median, completeness or bias"
        )
    wanted = {"median": 1, "bias": 2}.get(statistic, len(names))
    if len(names) != wanted:
        raise ConfigError(
            f"{statistic} of {len(names)} columns {names}",
            key="values",
            fix=f"Give {wanted}: (measured, true) for a bias",
        )
    rows.require([*position, *([] if statistic == "completeness" else names)])
    weight = weights_of(rows, weight)
    cells = Cells((pixel_axis(rows, nside, *position), *make_cells(rows, by).axes))
    groups = groups_of(rows, source, None)
    if statistic == "completeness":
        rows.require([found])
        out = fractions(rows, cells, found, weight, groups if bootstrap else {}, 0.6827, bootstrap, seed)
    else:
        sources = groups.get("source", [])
        if statistic == "median":
            name = names[0]
            compare = Comparison([name], rows.unit(name), name, lambda batch: _plain(batch, name))
            out = medians(rows, cells, compare, None, weight, sources, EXACT_ROWS, {})
            out = out.drop_vars(["pull_median", "pull_scatter"])
        else:
            compare = comparison(rows, names[0], names[1])
            out = medians(rows, cells, compare, found, weight, sources, EXACT_ROWS, {})
    out.attrs |= {"title": f"map of {statistic}", "nside": nside, "order": "nested", "frame": "icrs"}
    return out


def _plain(batch: pa.RecordBatch, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values = floats(batch, name)
    return values, np.full(values.shape, np.nan)
