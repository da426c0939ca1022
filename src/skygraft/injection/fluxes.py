"""The flux of each row of a catalogue on one image: from its magnitude, its light curve and its magnification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog import Flag, band_column, bands_of, values
from skygraft.catalog.schema import strings
from skygraft.errors import CatalogError
from skygraft.injection.stamps import own_flux, unit_magnitudes
from skygraft.photometry import PhotoCalib
from skygraft.photometry.units import AB_REFERENCE_FLUX_NJY
from skygraft.timedomain.analytic import analytic_factor, own_times
from skygraft.timedomain.light_curve_rows import unknown_curves
from skygraft.timedomain.light_curves import KEY_COLUMN, LightCurves

__all__ = ["RowFluxes", "difference_fluxes", "row_fluxes"]

_LISTED = 5


@dataclass(frozen=True, eq=False)
class RowFluxes:
    """Fluxes of a catalogue's rows on one image, before its calibration.

    Parameters
    ----------
    mag : ndarray, shape (N,)
        AB magnitude of each row, of rows with a light curve that of its flux; lensed; NaN where there is no light.
    flags : ndarray of int64, shape (N,)
        ``MAG_BAD``, ``NO_LIGHT_CURVE``, ``NOT_VISIBLE`` and ``PARAMETERS_BAD``.
    messages : tuple of str
        What is to be said of the flags.
    """

    mag: NDArray[np.float64]
    flags: NDArray[np.int64]
    messages: tuple[str, ...]
    _row_mag: NDArray[np.float64]
    _njy: NDArray[np.float64] | None
    _factor: NDArray[np.float64] | None

    def inst_flux(
        self,
        photo_calib: PhotoCalib,
        rows: NDArray[np.intp],
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        *,
        extrapolate: bool = False,
    ) -> NDArray[np.float64]:
        """Calibrated fluxes of some rows in image units.

        Parameters
        ----------
        photo_calib : PhotoCalib
            The image's calibration.
        rows : ndarray of int, shape (M,)
            The rows.
        x, y : ndarray, shape (M,)
            Their positions, parent pixels.
        extrapolate : bool
            As for `PhotoCalib.scale`.

        Returns
        -------
        ndarray of float64, shape (M,)
            Negative where a light curve is; NaN where the calibration has no value.
        """
        flux = photo_calib.inst_flux(self._row_mag[rows], x, y, extrapolate=extrapolate)
        if self._njy is not None:
            own = np.isfinite(self._njy[rows])
            flux[own] = self._njy[rows[own]] / photo_calib.scale(x[own], y[own], extrapolate=extrapolate)
        return flux if self._factor is None else flux * self._factor[rows]


def difference_fluxes(
    table: QTable,
    band: str | None,
    mjd: float | None,
    into: NDArray[np.str_],
    light_curves: LightCurves | None = None,
    on_bad: Literal["raise", "flag"] = "raise",
) -> tuple[RowFluxes, RowFluxes, NDArray[np.str_]]:
    """Find the flux of each row in the science image of a difference image, and in its template.

    Parameters
    ----------
    table, band, mjd, light_curves, on_bad
        As for `row_fluxes`.
    into : ndarray of str, shape (N,)
        The catalogue's `inject_into`.

    Returns
    -------
    here, template : RowFluxes
        Fluxes in the science image (of rows that are in the template alone, there), and in the template.
    ndarray of str, shape (N,)
        `into` without the image in which a source of both has no light at all.
    """
    here = row_fluxes(table, band, mjd, role="difference", into=into, light_curves=light_curves, on_bad=on_bad)
    template = row_fluxes(table, band, mjd, role="template")
    faded = (into == "both") & (here.flags == int(Flag.NOT_VISIBLE)) & (template.flags == 0)
    new = (into == "both") & (here.flags == 0) & (template.flags == int(Flag.NOT_VISIBLE))
    into = np.where(faded, "template", np.where(new, "science", into))
    pairs = ((here.mag, template.mag), (here.flags, template.flags))
    mag, flags = (np.where(faded, other, own) for own, other in pairs)
    njy = None if here._njy is None else np.where(faded, np.nan, here._njy)
    factor = here._factor
    if here._factor is not None and template._factor is not None:
        factor = np.where(faded, template._factor, here._factor)
    return RowFluxes(mag, flags, here.messages, here._row_mag, njy, factor), template, into


def row_fluxes(
    table: QTable,
    band: str | None,
    mjd: float | None,
    *,
    role: Literal["science", "template", "difference"] = "science",
    into: NDArray[np.str_] | None = None,
    light_curves: LightCurves | None = None,
    on_bad: Literal["raise", "flag"] = "raise",
) -> RowFluxes:
    """Find the flux of each row in an image.

    Rows with a light curve in the table of light curves have its flux at the image's time, linear between its times and
    zero outside. In templates and in images without a time they have the row's own magnitude, and are not there if it
    is missing.

    Parameters
    ----------
    table : QTable
        The catalogue in canonical form, N rows.
    band : str or None
        The image's band.
    mjd : float or None
        Middle of its exposure, MJD in TAI; None where it is not known.
    role : {"science", "template", "difference"}
        What the image is, from `image_role`.
    into : ndarray of str, shape (N,), optional
        The catalogue's `inject_into`: of a difference image, sources in the template alone are as in a template.
    light_curves : LightCurves, optional
        The table of light curves.
    on_bad : {"raise", "flag"}
        Whether rows whose light curve is not in the table are an error, or flagged.

    Returns
    -------
    RowFluxes

    Raises
    ------
    CatalogError
        If the catalogue has no magnitudes in the band and no light curves, or a light curve is not in the table.
    """
    n = len(table)
    if mjd is not None and not np.isfinite(mjd):
        mjd = None
    curved = strings(table, "light_curve") != "" if "light_curve" in table.colnames else np.zeros(n, dtype=np.bool_)
    varies = "variability" in table.colnames
    mag = _row_magnitudes(table, band) if curved.any() else band_column(table, band)
    mag = unit_magnitudes(table, mag, band, own_flux(table))
    flags = np.where(np.isfinite(mag), 0, int(Flag.MAG_BAD))
    if not curved.any() and not varies and "magnification" not in table.colnames:
        return RowFluxes(mag, flags, (), mag, None, None)
    steady = np.full(n, mjd is None or role == "template")
    if role == "difference" and into is not None:
        steady |= into == "template"
    messages: tuple[str, ...] = ()
    njy = None
    if curved.any():
        # In a template a transient has no magnitude, and is not there.
        absent = curved & steady & ~np.isfinite(mag)
        flags[absent] = int(Flag.NOT_VISIBLE)
        rows = np.flatnonzero(curved & ~steady)
        if rows.size:
            assert mjd is not None
            found, messages = _of_curves(table[rows], band, mjd, light_curves, on_bad, flags, rows)
            njy = np.full(n, np.nan)
            njy[rows] = found
    factor = np.ones(n)
    if varies:
        factor = np.where(steady, analytic_factor(table, mjd, quiet=True), analytic_factor(table, mjd))
        # A light curve of the table goes before.
        factor[curved] = 1.0
        flags[np.isnan(factor)] |= int(Flag.PARAMETERS_BAD)
        flags[factor == 0] |= int(Flag.NOT_VISIBLE)
    if "magnification" in table.colnames:
        factor = factor * np.where(np.isnan(given := values(table, "magnification")), 1.0, given)
    with np.errstate(divide="ignore", invalid="ignore"):
        lensed = mag - 2.5 * np.log10(factor)
        if njy is not None:
            own = np.isfinite(njy)
            lensed[curved & ~steady] = np.nan
            lensed[own] = -2.5 * np.log10(njy[own] * factor[own] / AB_REFERENCE_FLUX_NJY)
    # No light is no magnitude: the logarithm's inf is not one, of rows that have a flux of their own.
    lensed[~np.isfinite(lensed) & (curved | (factor != 1))] = np.nan
    return RowFluxes(lensed, flags, messages, mag, njy, factor)


def _row_magnitudes(table: QTable, band: str | None) -> NDArray[np.float64]:
    """The magnitudes of rows that may have light curves instead; NaN in a band without a column."""
    bands = bands_of(table)
    if (band is None and len(bands) > 1) or (band is not None and band not in bands and "mag" not in table.colnames):
        return np.full(len(table), np.nan)
    return band_column(table, band) if bands or "mag" in table.colnames else np.full(len(table), np.nan)


def _of_curves(
    table: QTable,
    band: str | None,
    mjd: float,
    light_curves: LightCurves | None,
    on_bad: Literal["raise", "flag"],
    flags: NDArray[np.int64],
    rows: NDArray[np.intp],
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Evaluate the light curves of rows with one, and flag those without a flux; NaN there."""
    ids = values(table, "injection_id")
    if light_curves is None:
        raise CatalogError(
            f"{len(table)} sources have a light curve, and there is no table of light curves",
            row=f"injection_id {ids[0]}",
            key="light_curve",
            fix="Give it: inject(..., light_curves=table); in a campaign, catalog: {light_curves: FILE}",
        )
    if KEY_COLUMN in table.colnames:
        curve = light_curves.find_keys(values(table, KEY_COLUMN))
    else:
        curve = light_curves.find(strings(table, "light_curve"))
    unknown = curve < 0
    if unknown.any() and on_bad == "raise":
        raise unknown_curves(ids[unknown], strings(table, "light_curve")[unknown])
    njy = np.full(len(table), np.nan)
    njy[~unknown] = light_curves.flux_at(curve[~unknown], band, own_times(table, mjd)[~unknown])
    missing = np.isnan(njy)
    flags[rows] = np.where(missing, int(Flag.NO_LIGHT_CURVE), 0)
    flags[rows[njy == 0]] = int(Flag.NOT_VISIBLE)
    messages = []
    if unknown.any():
        messages.append(f"the light curves of {_sources(ids[unknown])} are not in the table of light curves")
    if (other := missing & ~unknown).any():
        messages.append(f"the light curves of {_sources(ids[other])} have no values in band {band}")
    return njy, tuple(messages)


def _sources(ids: NDArray[np.int64]) -> str:
    return (
        f"{ids.size} sources (injection_id {', '.join(map(str, ids[:_LISTED]))}{', ...' if ids.size > _LISTED else ''})"
    )
