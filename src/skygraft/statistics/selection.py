"""Selection functions: the probability that a source of given magnitude, size, band and place is found.

At each size, completeness is a logistic in magnitude, or in magnitude minus the local depth where there is a map of it.
Its plateau, its centre and the logarithm of its width are linear in the logarithm of the size between bins. A logistic
falls with magnitude wherever it is evaluated and needs three numbers a bin, so that its statistical error is small.
What it gets wrong is measured: where fakes scatter about it by more than chance, errors are multiplied by sqrt(chi2 /
dof), as the Particle Data Group does (Navas et al. 2024, Phys. Rev. D 110, 030001, section 5.2.2).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from skygraft.display import html_table, text_table
from skygraft.errors import ConfigError
from skygraft.statistics.curves import MODELS
from skygraft.statistics.maps import pixel_of

__all__ = ["SelectionFunction", "selection"]

type Floats = NDArray[np.float64]

_LOGISTIC = MODELS["logistic"]
_MOST_AVERAGED = 200_000
"""Curves evaluated at once when a function is averaged over depths."""


@dataclass(frozen=True, repr=False)
class SelectionFunction:
    """The probability that a source is found, with its error, and where it is known.

    Build one by `from_data`, save it by `save`, and read it by `skygraft.selection`.

    Parameters
    ----------
    table : xarray.Dataset
        Curves of each group and size, map of depth, and provenance, as `from_data` makes them.
    """

    table: xr.Dataset

    @classmethod
    def from_data(
        cls,
        data: Any,
        over: Mapping[str, Any] | None = None,
        per: tuple[str, ...] | str = ("band",),
        maps: int | str | None = "auto",
        **options: Any,
    ) -> Self:
        """Build the selection function that fakes tell.

        Parameters
        ----------
        data : path-like, table or mapping
            As in `skygraft.statistics.completeness`.
        over : mapping, optional
            The column of magnitudes to "auto" or its range, then that of sizes to bins: edges, a number of bins of
            equally many fakes, or "auto" (6). By default ``mag`` and, where the table has it, ``half_light_radius``.
            Rows without a size (NaN or 0) are point sources, which have a curve of their own.
        per : str or tuple of str
            Columns whose values have functions of their own, such as ``band`` and ``source_type``.
        maps : int, None or "auto"
            HEALPix nside of the map of local depth, by which the function follows the place; None for no map. "auto" is
            256 (pixels of 14 arcmin) where the table has ``depth``, ``ra`` and ``dec``.
        **options
            ``found``, ``depth``, ``position``, ``where``, ``usable``, ``weight``, ``source``, ``bootstrap``, ``seed``
            as in `skygraft.statistics.completeness` and `skygraft.statistics.sky_map`.

        Returns
        -------
        SelectionFunction

        Raises
        ------
        CatalogError
            If a column is missing (with the nearest names), or no group has enough fakes for a curve.
        ConfigError
            If an argument is not allowed.
        """
        from skygraft.statistics.selection_fit import build

        return cls(build(data, over, (per,) if isinstance(per, str) else tuple(per), maps, **options))

    @property
    def per(self) -> tuple[str, ...]:
        """Columns whose values have functions of their own."""
        return tuple(name for name in str(self.table.attrs["per"]).split(",") if name)

    @property
    def domain(self) -> xr.Dataset:
        """Where the function is known: magnitudes and sizes of each group, and the pixels of the sky.

        Dimensions ``group`` and ``size_bin`` (the first for point sources): ``mag_low``, ``mag_high``, ``size_low``,
        ``size_high``, the number of fakes ``n``, and ``reason`` where there is no curve.
        """
        names = ["mag_low", "mag_high", "size_low", "size_high", "n", "reason"]
        return self.table[[name for name in [*names, *self.per] if name in self.table]]

    def __call__(self, *arguments: Any, **named: Any) -> tuple[Floats, Floats]:
        """The same as `sel`."""
        return self.sel(*arguments, **named)

    def sel(
        self,
        mag: ArrayLike,
        size: ArrayLike | None = None,
        band: ArrayLike | None = None,
        position: tuple[ArrayLike, ArrayLike] | Any = None,
        **groups: ArrayLike,
    ) -> tuple[Floats, Floats]:
        """The probability that sources are found, and its standard error.

        Arguments are broadcast against each other. Nothing is extrapolated: beyond `domain`, both are NaN.

        Parameters
        ----------
        mag : array_like
            Magnitudes.
        size : array_like, optional
            Sizes in the unit of the fakes' (half-light radius in arcsec); None, NaN or 0 for point sources. Not used if
            the function knows no sizes.
        band : array_like of str, optional
            Bands; may be left out where there is one.
        position : SkyCoord or (ra, dec), optional
            Positions (ICRS, deg): the curve is that of the local depth. Without, it is the mean over the area of the
            fakes.
        **groups : array_like
            Values of further columns of `per`, such as ``source_type="Star"``.

        Returns
        -------
        probability, error : ndarray
            Of the shape of the arguments together.

        Raises
        ------
        ConfigError
            If a column of `per` is missing or not one, or has a value that no fake had.
        """
        values = np.asarray(mag, np.float64)
        sizes = np.asarray(np.nan if size is None else size, np.float64)
        place = _radec(position)
        if place is not None and "depth" not in self.table:
            raise ConfigError(
                "this selection function has no map of depth", key="position", fix="Leave the position out, or build it"
                " with maps=256 from a table with depth, ra and dec"
            )  # fmt: skip
        number = self._group({"band": band} | groups if band is not None else groups)
        arrays = np.broadcast_arrays(values, sizes, number, *(place or ()))
        flat = [np.ravel(each) for each in arrays]
        if place is None:
            p, error = self._mean(flat[0], flat[1], flat[2].astype(np.int64))
        else:
            number = flat[2].astype(np.int64)
            depth, spread = self._depth(flat[3], flat[4], number)
            p, error = self._curves(flat[0] - depth, flat[0], flat[1], number, spread)
        return p.reshape(arrays[0].shape), error.reshape(arrays[0].shape)

    def _group(self, given: Mapping[str, Any]) -> NDArray[np.int64]:
        """Number of the group of each row."""
        if unknown := set(given) - set(self.per):
            raise ConfigError(
                f"the function does not depend on {', '.join(sorted(unknown))}",
                key=min(unknown),
                fix=f"It depends on {', '.join(self.per) or 'no column'}",
            )
        size = self.table.sizes["group"]
        arrays = np.broadcast_arrays(*(np.asarray(value) for value in given.values())) if given else []
        fits = np.ones((size, *(arrays[0].shape if arrays else ())), bool)
        for name in self.per:
            known = self.table[name].values
            if name not in given:
                if len(set(known.tolist())) > 1:
                    raise ConfigError(
                        f"which {name}? There are {', '.join(map(str, dict.fromkeys(known.tolist())))}",
                        key=name,
                        fix=f"Give {name}",
                    )
                continue
            wanted = arrays[list(given).index(name)]
            strange = sorted({str(value) for value in np.unique(wanted)} - {str(value) for value in known.tolist()})
            if strange:
                raise ConfigError(
                    f"there were no fakes with {name} {strange[0]}",
                    key=name,
                    fix=f"Give one of {', '.join(map(str, dict.fromkeys(known.tolist())))}",
                )
            text = np.asarray(wanted).astype(np.str_)
            fits &= text[None] == known.astype(np.str_).reshape(-1, *([1] * text.ndim))
        # Of columns that are known, a combination may have had no fakes: no group, and NaN.
        return np.where(fits.any(0), fits.argmax(0), -1)

    def _depth(self, ra: Floats, dec: Floats, group: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """The local depth, and how much it scatters within the pixel."""
        pixels = self.table["pixel"].values
        found = pixel_of(ra, dec, int(self.table.attrs["nside"]))
        place = np.minimum(np.searchsorted(pixels, found), pixels.size - 1)
        known = (pixels[place] == found) & (group >= 0)
        index = np.maximum(group, 0), place
        both = (self.table[name].values[index].astype(np.float64) for name in ("depth", "depth_scatter"))
        depth, spread = (np.where(known, each, np.nan) for each in both)
        return depth, spread

    def _mean(self, mag: Floats, size: Floats, group: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Over the depths of the area, in as many as equal parts as there are quantiles."""
        if "depth_quantile" not in self.table:
            return self._curves(mag, mag, size, group, np.zeros(mag.shape))
        quantiles = self.table["depth_quantile"].values
        p, error = np.empty(mag.shape), np.empty(mag.shape)
        step = max(1, _MOST_AVERAGED // quantiles.shape[1])
        for start in range(0, mag.size, step):
            part = slice(start, start + step)
            depths = quantiles[np.maximum(group[part], 0)]
            shape = depths.shape
            all_mag, all_size = np.repeat(mag[part], shape[1]), np.repeat(size[part], shape[1])
            all_group = np.repeat(group[part], shape[1])
            ps, errors = self._curves(
                all_mag - depths.ravel(), all_mag, all_size, all_group, np.zeros(all_mag.shape), clamp=True
            )
            # The errors are those of the same curve, all in one direction.
            p[part], error[part] = ps.reshape(shape).mean(1), errors.reshape(shape).mean(1)
        return p, error

    def _curves(
        self, x: Floats, mag: Floats, size: Floats, group: NDArray[np.int64], spread: Floats, clamp: bool = False
    ) -> tuple[Floats, Floats]:
        """The logistic at x of each row, and its error; NaN beyond the domain.

        `spread` is the standard deviation of x at the place, which adds to the error.
        With `clamp`, x beyond the range of the fakes (but not a magnitude beyond it) counts as at its end: what the
        tails of the distribution of depths add to a mean.
        """
        p, error = np.full(x.shape, np.nan), np.full(x.shape, np.nan)
        for one in np.unique(group[group >= 0]):
            rows = np.nonzero(group == one)[0]
            lower, upper, share = self._bins(int(one), size[rows])
            known = lower >= 0
            rows, lower, upper, share = rows[known], lower[known], upper[known], share[known]
            here = self.table.isel(group=int(one))
            at, m = x[rows], mag[rows]
            ends = [np.stack([here[name].values[each] for each in (lower, upper)]) for name in _ENDS]
            low, high, mag_low, mag_high = ends[0].max(0), ends[1].min(0), ends[2].max(0), ends[3].min(0)
            inside = (m >= mag_low) & (m <= mag_high)
            if clamp:
                at = np.clip(at, low, high)
            inside &= (at >= low) & (at <= high)
            rows = rows[inside]
            value, variance, slope = _interpolated(here, at[inside], lower[inside], upper[inside], share[inside])
            p[rows] = value
            error[rows] = np.sqrt(variance + (slope * spread[rows]) ** 2)
        return p, error

    def _bins(self, group: int, size: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        """The two curves between which a size lies, and the share of the second; -1 where there is none."""
        here = self.table.isel(group=group)
        has = np.isfinite(here["parameters"].values[:, 0])
        lower, share = np.full(size.shape, -1), np.zeros(size.shape)
        upper = lower.copy()
        point = ~(size > 0) if self.table.attrs["size"] else np.ones(size.shape, bool)
        if has[0]:
            lower[point] = upper[point] = 0
        bins = 1 + np.nonzero(has[1:])[0]
        if bins.size:
            edges = here["size_low"].values[bins], here["size_high"].values[bins]
            rows = np.nonzero(~point & (size >= edges[0].min()) & (size <= edges[1].max()))[0]
            # Sizes in a bin without a curve, between others, are not known.
            covered = ((size[rows, None] >= edges[0]) & (size[rows, None] <= edges[1])).any(1)
            rows = rows[covered]
            log = here["log_size"].values[bins]
            at = np.log(size[rows])
            right = np.clip(np.searchsorted(log, at), 0, bins.size - 1)
            left = np.where(log[right] > at, np.maximum(right - 1, 0), right)
            width = log[right] - log[left]
            lower[rows], upper[rows] = bins[left], bins[right]
            share[rows] = np.where(width > 0, (at - log[left]) / np.where(width > 0, width, 1.0), 0.0)
        return lower, upper, share

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the function to one small NetCDF file, which `skygraft.selection` reads.

        Parameters
        ----------
        path : path-like
            Ends in ``.nc``; a file of this name is replaced.

        Returns
        -------
        Path
        """
        from skygraft.statistics.selection_files import write_selection

        return write_selection(self.table, path)

    def _rows(self) -> list[tuple[str, str]]:
        attrs = self.table.attrs
        rows = [("data", str(attrs["data"])), ("depends on", ", ".join(filter(None, _depends(self.table))))]
        for i in range(self.table.sizes["group"]):
            here = self.table.isel(group=i)
            has = np.isfinite(here["parameters"].values[:, 0])
            name = ", ".join(str(here[each].item()) for each in self.per) or "all"
            if not has.any():
                rows.append((name, f"none: {here['reason'].values[0] or here['reason'].values[-1]}"))
                continue
            low, high = np.nanmin(here["mag_low"].values[has]), np.nanmax(here["mag_high"].values[has])
            text = f"{attrs['mag']} {low:.2f} to {high:.2f}; {int(here['n'].sum()):,} fakes"
            sizes = here["size_low"].values[1:][has[1:]], here["size_high"].values[1:][has[1:]]
            if sizes[0].size:
                text += f"; {attrs['size']} {sizes[0].min():.3g} to {sizes[1].max():.3g}"
            rows.append((name, text + ("; point sources" if has[0] and attrs["size"] else "")))
        if "depth" in self.table:
            rows.append(("map of depth", f"{self.table.sizes['pixel']:,} HEALPix pixels, nside {attrs['nside']}"))
        return rows

    def __repr__(self) -> str:
        return text_table("Selection function", self._rows())

    def _repr_html_(self) -> str:
        return html_table("Selection function", self._rows())


_ENDS = ("x_low", "x_high", "mag_low", "mag_high")


def _depends(table: xr.Dataset) -> list[str]:
    attrs = table.attrs
    return [attrs["mag"], attrs["size"], *str(attrs["per"]).split(","), "position" if "depth" in table else ""]


def _interpolated(
    here: xr.Dataset, x: Floats, lower: NDArray[np.int64], upper: NDArray[np.int64], share: Floats
) -> tuple[Floats, Floats, Floats]:
    """The logistic whose parameters lie between those of two bins, its variance, and its slope (positive)."""
    parameters, covariance = here["parameters"].values, here["covariance"].values
    both = (1.0 - share)[:, None] * parameters[lower] + share[:, None] * parameters[upper]
    mixed = (1.0 - share)[:, None, None] ** 2 * covariance[lower] + share[:, None, None] ** 2 * covariance[upper]
    same = lower == upper
    mixed[same] = covariance[lower[same]]
    plateau, center, log_width = both.T
    width = np.exp(log_width)
    t = (x - center) / width
    f = np.exp(-np.logaddexp(0.0, t))
    slope = plateau * f * (1.0 - f)
    slopes = np.stack([f, slope / width, slope * t], 1)
    variance = np.maximum(np.einsum("rp,rpq,rq->r", slopes, mixed, slopes), 0.0)
    return plateau * f, variance, slope / width


def _radec(position: Any) -> tuple[Floats, Floats] | None:
    if position is None:
        return None
    if hasattr(position, "icrs"):
        sky = position.icrs
        return np.asarray(sky.ra.deg, np.float64), np.asarray(sky.dec.deg, np.float64)
    try:
        ra, dec = position
        return np.asarray(ra, np.float64), np.asarray(dec, np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            "the position is neither a SkyCoord nor (ra, dec)", key="position", fix="Give (ra, dec) in deg, ICRS"
        ) from error


def selection(path: str | os.PathLike[str]) -> SelectionFunction:
    """Read a selection function that was saved.

    Parameters
    ----------
    path : path-like
        The file that `SelectionFunction.save` has written.

    Returns
    -------
    SelectionFunction

    Raises
    ------
    CorruptFileError
        If the file is missing, damaged or of a later version.
    FormatError
        If it is something else.
    """
    from skygraft.statistics.selection_files import read_selection

    return SelectionFunction(read_selection(path))
