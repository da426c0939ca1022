r"""Compare the sources of a coadd with the weighted mean of the same sources in its visits: the reference coadd.

With F(I) the flux in the calibration aperture of an image I of a source on the coadd's pixels, the difference
:math:`-2.5 \log_{10} F(C) / F(R)` of the coadd's injection C and the reference coadd R is the sum of the terms of a
chain in which one thing is changed at a time; see `skygraft.qa.consistency.terms`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skygraft.catalog.flags import Flag, has_flag
from skygraft.errors import CatalogError, ConfigError, InjectionError
from skygraft.photometry import CalibrationAperture, CalibrationReference, kernel_scale
from skygraft.psf import CellPSF, CoaddPSF
from skygraft.qa.closure import isolated
from skygraft.qa.consistency.grids import Grid, grid_on, measure
from skygraft.qa.consistency.light import PADDING, LitImage, measuring_radius
from skygraft.qa.consistency.pixels import PixelCheck, PixelFindings
from skygraft.qa.consistency.resampling import LANCZOS, warp_stamps
from skygraft.qa.consistency.settings import CLIPPED_PLANES, REJECTED_PLANES, ConsistencySettings

__all__ = ["Comparison", "VisitSums"]

type FloatArray = NDArray[np.float64]

_MOST_BYTES = 2e9
"""Memory for the stamps of the reference coadd; of more sources a sample is compared."""
_MARGIN = 8
"""Pixels by which stamps reach beyond the aperture, for what band-limited apertures weigh outside of their circle."""
_SAME_PLACE = 0.1
"""Arcsec: sources farther apart on two images have moved."""
_SAME_RADIUS = 1e-4
"""Relative difference of radii on the sky that are the same."""
_KERNELS_AT_ONCE = 256
_CONTAMINATION, _BOUND = 0.1, 0.3


@dataclass(frozen=True, eq=False)
class VisitSums:
    """What was measured of the sources in one visit.

    Parameters
    ----------
    name : str
        The visit's image id.
    weight : float
        Its assumed weight.
    rows : ndarray of int, shape (M,)
        Sources that lie on the visit.
    crossed : ndarray of bool, shape (M,)
        Whether an edge of the visit crosses their aperture.
    ideal, warped : ndarray, shape (M, 7)
        `skygraft.qa.consistency.resampling.SUMS` on the visit's own pixels, and warped onto the coadd's; coadd units.
    reference : ndarray, shape (M,)
        Factor that takes the visit's calibration reference to the coadd's.
    magnitude : ndarray, shape (M,)
        Factor that takes the visit's magnitudes to the coadd's.
    """

    name: str
    weight: float
    rows: NDArray[np.intp]
    crossed: NDArray[np.bool_]
    ideal: FloatArray
    warped: FloatArray
    reference: FloatArray
    magnitude: FloatArray


class Comparison:
    """A coadd and its sources, to which visits are added one after the other.

    Parameters
    ----------
    coadd : LitImage
        The coadd, with the light of its sources.
    settings : ConsistencySettings
        How to compare.

    Raises
    ------
    UnknownApertureError, UncalibratedImageError
        If the coadd does not say what its flux is the flux of.
    InjectionError
        If no source is on the coadd.
    """

    def __init__(self, coadd: LitImage, settings: ConsistencySettings) -> None:
        self.coadd, self.settings = coadd, settings
        exposure, truth = coadd.exposure, coadd.truth
        self.radius, self.radius_origin = measuring_radius(coadd, settings)
        self.half = int(np.ceil(self.radius)) + _MARGIN
        every_x, every_y = _plain(truth["x"]), _plain(truth["y"])
        whole = (np.asarray(truth["stamp_size"]) > 0) & ~has_flag(truth["flags"], Flag.IN_TEMPLATE)
        whole &= exposure.box.contains(every_x, every_y)
        self.rows = np.flatnonzero(whole)
        if not self.rows.size:
            raise InjectionError(
                f"none of the catalogue's sources is drawn on the coadd {coadd.image_id}",
                path=exposure.path,
                fix="Check that catalogue and coadd are of the same field, and that it has magnitudes in its band",
            )
        self.n_sources = len(self.rows)
        most = max(1, int(_MOST_BYTES / (8 * (2 * self.half + 1) ** 2)))
        if self.n_sources > most:
            self.rows = self.rows[np.linspace(0, self.n_sources - 1, most).astype(np.intp)]
        self.x, self.y = every_x[self.rows], every_y[self.rows]
        self.ids = np.asarray(truth["injection_id"])[self.rows]
        self.ra, self.dec, self.mag = (_plain(truth[name])[self.rows] for name in ("ra", "dec", "mag"))
        near = isolated(every_x, every_y, truth["inst_flux"], truth["stamp_size"], self.radius, contamination=_BOUND)[
            self.rows
        ]
        self.is_star = np.asarray(truth["source_type"]).astype(str)[self.rows] == "Star"
        fwhm = _plain(truth["psf_fwhm"])[self.rows]
        fwhm = fwhm[np.isfinite(fwhm) & (fwhm > 0)] / coadd.pixel_scale
        self.sigma = float(np.median(fwhm)) / 2.3548 if fwhm.size else self.radius / 3
        self.grid = grid_on(exposure, exposure.wcs, self.x, self.y)
        self.scale = coadd.photo_calib.scale(self.x, self.y)
        named = [name for name in REJECTED_PLANES if name in exposure.mask_planes]
        self.bad = coadd.rejected([name for name in named if name not in CLIPPED_PLANES] if named else None)
        self.clipped = self._clipped()
        index = np.zeros(len(self.rows), np.int64)
        self.coadd_sums = measure(
            coadd.light[None], index, self.grid.padded(PADDING), self.radius, self.sigma, float(self.half)
        )
        # A star's light in the aperture is known; of others there is a bound of what their neighbours add.
        more = self.coadd_sums[:, 0] > (1 + _CONTAMINATION) * _plain(truth["inst_flux"])[self.rows]
        self.blended = more | (~self.is_star & ~near)
        size = 2 * self.half + 1
        # First pixel of each stamp, from the source.
        self._middle = np.stack([np.rint(self.x), np.rint(self.y)], axis=1)
        self._first = self._middle - self.half - np.stack([self.x, self.y], axis=1)
        self._sum = np.zeros((len(self.rows), size, size), np.float32)
        self._weight = np.zeros_like(self._sum)
        self.visits: list[VisitSums] = []
        self.left_out: dict[str, str] = {}
        self._pixels = PixelCheck(coadd, self.bad) if settings.pixels else None

    def _clipped(self) -> NDArray[np.bool_]:
        """Whether the coadd marks pixels next to each source as clipped."""
        exposure = self.coadd.exposure
        marks = exposure.bad([name for name in CLIPPED_PLANES if name in exposure.mask_planes])
        (ny, nx), (x0, y0) = exposure.shape, exposure.xy0
        i, j = np.rint(self.x).astype(int) - x0, np.rint(self.y).astype(int) - y0
        found = np.zeros(len(self.rows), np.bool_)
        for dj in (-2, 0, 2):
            for di in (-2, 0, 2):
                found |= marks[np.clip(j + dj, 0, ny - 1), np.clip(i + di, 0, nx - 1)]
        return found

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def listed(self) -> dict[str, float | None]:
        """Inputs that the coadd's file lists, "visit-detector", and their weights where it has them."""
        psf = self.coadd.exposure.psf
        if isinstance(psf, CoaddPSF):
            return {one.name: one.weight for one in psf.inputs}
        if isinstance(psf, CellPSF) and psf.n_inputs:
            return {name: None for names in psf.input_names_at(self.x, self.y) for name in names}
        return {}

    @functools.cached_property
    def listed_at(self) -> list[tuple[str, ...]] | None:
        """Inputs that hold each source, as far as the coadd's file lists them."""
        psf = self.coadd.exposure.psf
        known = isinstance(psf, CoaddPSF | CellPSF) and bool(self.listed)
        return psf.input_names_at(self.x, self.y) if known and isinstance(psf, CoaddPSF | CellPSF) else None

    def add(self, visit: LitImage) -> bool:
        """Measure the sources in a visit, and add it to the reference coadd.

        Parameters
        ----------
        visit : LitImage
            The visit, with the light of the same sources.

        Returns
        -------
        bool
            Whether it holds any of the coadd's sources and is one of its inputs; `left_out` says why it does not.

        Raises
        ------
        ConfigError
            If it is of another band.
        CatalogError
            If it has other sources than the coadd under the same ids.
        SkygraftError
            If it is not calibrated, or has no variance and the coadd lists no weights.
        """
        self._check_band(visit)
        name = visit.input_name
        if self.listed and name is not None and name not in self.listed:
            self.left_out[visit.image_id] = "it is not an input of the coadd"
            return False
        grid = grid_on(visit.exposure, self.coadd.exposure.wcs, self.x, self.y)
        ny, nx = visit.exposure.shape
        extent = (self.radius + 1.5) * np.abs(grid.matrices).sum(axis=2) + LANCZOS.order
        touches = ((grid.at > -extent) & (grid.at < np.array([nx, ny]) + extent)).all(axis=1)
        if self.listed_at is not None and name is not None:
            touches &= np.array([name in names for names in self.listed_at])
        common, magnitude = self._match(visit, np.flatnonzero(touches))
        if not common.size:
            reason = "it does not reach the coadd's sources" if not touches.any() else "it holds none of the sources"
            self.left_out[visit.image_id] = reason
            return False
        bad = visit.rejected(self.settings.bad_planes)
        position = (grid.at[common] + visit.exposure.xy0).T
        factor = visit.photo_calib.scale(*position) / self.scale[common]
        weight = self._weight_of(visit, factor * grid.area[common], bad)
        self._accumulate(visit, grid, common, magnitude, factor, weight, bad, extent)
        if self._pixels is not None:
            self._pixels.add(visit, bad, weight)
        return True

    def _check_band(self, visit: LitImage) -> None:
        here, there = self.coadd.exposure.data_id.band, visit.exposure.data_id.band
        if here and there and here != there:
            raise ConfigError(
                f"{visit.image_id} is in band {there}, the coadd {self.coadd.image_id} in {here}",
                path=visit.exposure.path,
                key="band",
                fix="Give visits of the coadd's band only",
            )

    def _match(self, visit: LitImage, rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], FloatArray]:
        """Find the sources that the visit has, too, and the factors from its magnitudes to the coadd's."""
        truth = visit.truth[np.asarray(visit.truth["stamp_size"]) > 0]
        ids = np.asarray(truth["injection_id"])
        if not ids.size:
            return rows[:0], np.zeros(0)
        order = np.argsort(ids, kind="stable")
        place = np.clip(np.searchsorted(ids[order], self.ids[rows]), 0, len(ids) - 1)
        here = ids[order][place] == self.ids[rows]
        rows, at = rows[here], order[place[here]]
        ra, dec, mag = (_plain(truth[name])[at] for name in ("ra", "dec", "mag"))
        offset = np.hypot((ra - self.ra[rows]) * np.cos(np.radians(dec)), dec - self.dec[rows]) * 3600
        moved = np.flatnonzero(~(offset <= _SAME_PLACE))
        if moved.size > len(rows) // 2:
            i = moved[0]
            raise CatalogError(
                f"injection_id {self.ids[rows[i]]} is {offset[i]:.3g} arcsec from where it is on the coadd "
                f"({moved.size} of {len(rows)} sources in common differ)",
                path=visit.exposure.path,
                key="injection_id",
                fix="Inject the same catalogue into visits and coadd",
            )
        rows, mag = np.delete(rows, moved), np.delete(mag, moved)
        with np.errstate(over="ignore", invalid="ignore"):
            return rows, 10 ** (0.4 * (mag - self.mag[rows]))

    def _weight_of(self, visit: LitImage, scale: FloatArray, bad: NDArray[np.bool_]) -> float:
        listed = self.listed.get(visit.input_name or "")
        if self.settings.weights == "auto" and listed is not None:
            return listed
        return visit.weight(self.settings.weights, float(np.median(scale)), bad)

    def _accumulate(
        self,
        visit: LitImage,
        grid: Grid,
        rows: NDArray[np.intp],
        magnitude: FloatArray,
        factor: FloatArray,
        weight: float,
        bad: NDArray[np.bool_],
        extent: FloatArray,
    ) -> None:
        """Measure, and add stamps to those of the reference coadd; in parts, which bounds the memory."""
        size, (ny, nx) = 2 * self.half + 1, visit.exposure.shape
        # Off the image, and where the interpolation would need pixels off it, there is light and no data.
        edge = LANCZOS.order - 1
        masked = np.pad(bad[edge:-edge, edge:-edge], PADDING + edge, constant_values=True)[None]
        light = visit.light[None]
        ideal, warped = np.zeros((2, len(rows), self.coadd_sums.shape[1]))
        for start in range(0, len(rows), _KERNELS_AT_ONCE):
            part = slice(start, start + _KERNELS_AT_ONCE)
            some, own = rows[part], grid[rows[part]].padded(PADDING)
            index, scale = np.zeros(len(some), np.int64), factor[part, None]
            ideal[part] = scale * measure(light, index, own, self.radius, self.sigma, float(self.half))
            out, seen = np.empty((len(some), size, size), np.float32), np.empty((len(some), size, size), np.bool_)
            warp_stamps(light, masked, index, own.at, own.matrices, self._first[some], LANCZOS.table, out, seen)
            out *= scale[:, :, None].astype(np.float32)
            warped[part] = self._on_stamps(out, some)
            self._sum[some] += np.where(seen, np.float32(weight) * out, np.float32(0))
            self._weight[some] += np.float32(weight) * seen
        at, last = grid.at[rows], np.array([nx - 1, ny - 1])
        inside = ((at >= -0.5) & (at <= last + 0.5)).all(axis=1)
        crossed = ~((at >= extent[rows]) & (at <= last - extent[rows])).all(axis=1)
        whole = rows[inside]
        reference = self._to_reference(visit, grid[whole])
        self.visits.append(
            VisitSums(
                visit.image_id,
                weight,
                whole,
                crossed[inside],
                ideal[inside],
                warped[inside],
                reference,
                magnitude[inside],
            )
        )

    def _on_stamps(self, stamps: NDArray[np.float32], rows: NDArray[np.intp]) -> FloatArray:
        """Sum light on stamps of the coadd's grid about sources."""
        eye = np.tile(np.eye(2), (len(rows), 1, 1))
        grid = Grid(-self._first[rows], eye, eye, np.ones(len(rows)))
        index = np.arange(len(rows), dtype=np.int64)
        return measure(stamps, index, grid, self.radius, self.sigma, float(self.half))

    def _to_reference(self, visit: LitImage, grid: Grid) -> FloatArray:
        """Factors that take fluxes of the visit's calibration reference to the coadd's, by the visit's PSF."""
        own, wanted = visit.reference, self.coadd.reference
        factors = np.ones(len(grid.at))
        psf, scale = visit.exposure.psf, visit.pixel_scale / self.coadd.pixel_scale
        if psf is None or not len(factors):
            return factors
        if isinstance(wanted, CalibrationAperture):
            wanted = CalibrationAperture(wanted.radius_pixels / scale)
        if _same(own, wanted):
            return factors
        x, y = (grid.at + visit.exposure.xy0).T
        for start in range(0, len(factors), _KERNELS_AT_ONCE):
            part = slice(start, start + _KERNELS_AT_ONCE)
            kernels, outside = psf.kernels(x[part], y[part]), psf.flux_outside(x[part], y[part])
            scales = [kernel_scale("calibrated", one, kernels, outside, invalid="nan").scale for one in (wanted, own)]
            factors[part] = scales[0] / scales[1]
        return factors

    def reference_sums(self) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Sum the light of the reference coadd, and tell of which sources the visits have all pixels of the aperture.

        Returns
        -------
        sums : ndarray, shape (N, 7)
        covered : ndarray of bool, shape (N,)
        """
        sums = np.zeros_like(self.coadd_sums)
        covered = np.zeros(len(self), np.bool_)
        offsets = np.arange(2 * self.half + 1)
        for start in range(0, len(self), _KERNELS_AT_ONCE):
            rows = np.arange(start, min(start + _KERNELS_AT_ONCE, len(self)))
            there = self._weight[rows] > 0
            stamps = np.divide(self._sum[rows], self._weight[rows], out=np.zeros_like(self._sum[rows]), where=there)
            sums[rows] = self._on_stamps(stamps, rows)
            along = offsets + self._first[rows][:, :, None]
            inside = np.hypot(along[:, 0, None, :], along[:, 1, :, None]) <= self.radius + 0.5
            covered[rows] = (there | ~inside).all(axis=(1, 2))
        return sums, covered

    def stamps(self, row: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Cut the coadd's injection and the reference coadd about a source, for pictures; zero off the coadd.

        Parameters
        ----------
        row : int
            The source, from 0.

        Returns
        -------
        injected, reference : ndarray of float32, shape (S, S)
        """
        size, (x0, y0) = 2 * self.half + 1, self.coadd.exposure.xy0
        padded = np.pad(self.coadd.light, self.half)
        i, j = self._middle[row].astype(int) - (x0 - PADDING, y0 - PADDING)
        there = self._weight[row] > 0
        mean = np.divide(self._sum[row], self._weight[row], out=np.zeros_like(self._sum[row]), where=there)
        return padded[j : j + size, i : i + size], mean

    def pixel_findings(self) -> PixelFindings:
        """Compare the images' own pixels; nothing is known where that was not asked for."""
        if self._pixels is None:
            return PixelFindings(note="not asked for")
        return self._pixels.result()


def _same(one: CalibrationReference, other: CalibrationReference) -> bool:
    if isinstance(one, CalibrationAperture) and isinstance(other, CalibrationAperture):
        return abs(one.radius_pixels / other.radius_pixels - 1) < _SAME_RADIUS
    return one == other


def _plain(column: object) -> FloatArray:
    return np.asarray(getattr(column, "value", column), dtype=np.float64)
