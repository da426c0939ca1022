"""From a catalogue to the sources of one image: their positions, fluxes, and which of them reach the image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog import Flag, as_table, band_column, bands_of, normalize_catalog, positions_at, values
from skygraft.catalog.flags import NOT_DRAWN, has_flag
from skygraft.catalog.schema import strings
from skygraft.catalog.truth_columns import new_truth
from skygraft.exposure import Exposure
from skygraft.injection.differences import TemplateSide, in_template, template_side
from skygraft.injection.reach import Reach
from skygraft.injection.stamps import own_flux, own_totals, unit_magnitudes, with_stamps
from skygraft.photometry import PhotoCalib
from skygraft.render import SHAPE_COLUMNS, Sources
from skygraft.wcs import local_jacobian, usable_jacobians

__all__ = ["LARGEST_FLUX", "Placed", "canonical", "place", "subset"]

LARGEST_FLUX = 1e30
"""Largest absolute flux, image units: sums and squares of numbers near the largest float32 (3e38) overflow."""
_EDGE = 1e-6
"""Pixels: rounding error of a WCS round trip."""


def canonical(
    catalog: Any, band: str | None, dialect: str = "auto", on_bad: Literal["raise", "flag"] = "raise"
) -> QTable:
    """Bring any table into canonical form.

    Parameters
    ----------
    catalog : Table, DataFrame, dict of columns, ...
        The catalogue; one that was read or normalised before is taken as it is, with its flags.
    band : str or None
        Whose magnitudes to use.
    dialect : str
        Its dialect; "auto" recognises it.
    on_bad : {"raise", "flag"}
        Whether rows that cannot be drawn are an error, or are kept and flagged.

    Returns
    -------
    QTable
    """
    catalog = as_table(catalog)
    # A plain `mag` is LSST's, whose angles and trails are others; it too may have a column called flags.
    foreign = "mag" in catalog.colnames and not bands_of(catalog)
    if {"flags", "source_type"} <= set(catalog.colnames) and not foreign and dialect in ("auto", "native"):
        return catalog
    return normalize_catalog(catalog, dialect, band, on_bad=on_bad)


@dataclass(frozen=True, eq=False)
class Placed:
    """The sources of a catalogue on one image.

    Parameters
    ----------
    truth : QTable
        The truth table, one row per source of the catalogue, of which what drawing adds is still empty.
    sources : Sources
        Those to be drawn: usable, and with light that reaches the image.
    rows : ndarray of int
        Their rows in the truth table.
    into : ndarray of str
        Which images of a difference image have each of them: ``science`` (or empty), ``template``, ``both``.
    template : TemplateSide or None
        What those in the template are drawn with; None where the catalogue has none.
    messages : tuple of str
        Why some others are not drawn, where their flag does not say all.
    """

    truth: QTable
    sources: Sources
    rows: NDArray[np.intp]
    into: NDArray[np.str_]
    template: TemplateSide | None
    messages: tuple[str, ...] = ()


def place(
    exposure: Exposure,
    table: QTable,
    photo_calib: PhotoCalib,
    band: str | None,
    image_id: str,
    reach_of: Callable[..., Reach],
    extrapolate: bool = False,
) -> Placed:
    """Start the truth table: where each source lies, its flux, and whether its light reaches the image.

    Parameters
    ----------
    exposure : Exposure
        The image.
    table : QTable
        The catalogue in canonical form.
    photo_calib : PhotoCalib
        The image's calibration.
    band : str or None
        Whose magnitudes to use.
    image_id : str
        Name of the image in the truth table.
    reach_of : callable
        Gives the `Reach` of some sources: how far their light extends.
    extrapolate : bool
        What the flux is outside of the box in which the calibration holds; see `PhotoCalib.scale`.

    Returns
    -------
    Placed
    """
    table = table[np.argsort(values(table, "injection_id"), kind="stable")]
    into = strings(table, "inject_into")
    template = template_side(exposure, into)
    own = own_flux(table)
    mag = unit_magnitudes(table, band_column(table, band), band, own)
    ra, dec = positions_at(table, exposure.visit_info.mjd)
    x, y = (np.asarray(v, dtype=float) for v in exposure.wcs.world_to_pixel_values(ra, dec))
    n = len(table)
    flags = values(table, "flags")
    flags[~np.isfinite(mag)] |= int(Flag.MAG_BAD)
    placed = np.isfinite(x) & np.isfinite(y)
    flags[~placed] |= int(Flag.WCS_FAILED | Flag.NO_OVERLAP)
    if exposure.data_id.visit is not None:
        visit = values(table, "visit")
        flags[(visit >= 0) & (visit != exposure.data_id.visit)] |= int(Flag.NO_OVERLAP)
    inst_flux = np.full(n, np.nan)
    rows = np.flatnonzero(~has_flag(flags, NOT_DRAWN))
    if rows.size:
        inst_flux[rows] = photo_calib.inst_flux(mag[rows], x[rows], y[rows], extrapolate=extrapolate)
        # The planes are float32: a flux near their largest number would leave infinities behind.
        flags[rows[~(np.abs(inst_flux[rows]) < LARGEST_FLUX)]] |= int(Flag.MAG_BAD)
    inst_flux[rows] *= _magnitude_lengths(table)[rows]
    # Sources that cannot be drawn have positions too, and belong to the images on which they would be seen.
    rows = np.flatnonzero(~has_flag(flags, Flag.NO_OVERLAP))
    sources = Sources(
        values(table, "injection_id")[rows],
        strings(table, "source_type")[rows],
        x[rows],
        y[rows],
        inst_flux[rows],
        local_jacobian(exposure.wcs, x[rows], y[rows]) if rows.size else np.empty((0, 2, 2)),
        with_stamps(
            {name: values(table, name)[rows] for name in SHAPE_COLUMNS if name in table.colnames}, table, band, rows
        ),
    )
    sources, endless = _with_trails_of_rates(sources, table[rows], exposure.visit_info.exposure_time)
    flags[rows[endless]] |= int(Flag.PARAMETERS_BAD)
    # Extended sources need the WCS around their position too, where distortions may diverge.
    shapeless = ~usable_jacobians(sources.jacobian) & (sources.source_type != "Star")
    flags[rows[shapeless]] |= int(Flag.WCS_FAILED)
    messages = _judge(exposure, template, into[rows], sources, photo_calib, reach_of, flags, rows)
    drawn = ~has_flag(flags[rows], NOT_DRAWN)
    mag, inst_flux = own_totals(table, sources, rows, own, mag, inst_flux)
    truth = new_truth(
        n,
        {
            "injection_id": values(table, "injection_id"),
            "image_id": np.full(n, image_id),
            "ra": np.asarray(ra, dtype=float),
            "dec": np.asarray(dec, dtype=float),
            "x": x,
            "y": y,
            "source_type": strings(table, "source_type"),
            "band": np.full(n, band or next(iter(bands_of(table)), "")),
            "mag": mag,
            "inst_flux": inst_flux,
            "flags": flags,
        },
    )
    truth.meta["image_units"] = str(exposure.planes["image"].attrs.get("units", ""))
    if endless.any():
        messages += (f"{np.count_nonzero(endless)} trails are given by rates, and the image has no exposure time",)
    return Placed(truth, subset(sources, drawn), rows[drawn], into[rows[drawn]], template, messages)


def _with_trails_of_rates(
    sources: Sources, table: QTable, exposure_time: float | None
) -> tuple[Sources, NDArray[np.bool_]]:
    """Give trails without a length one, their rate times the exposure time; and find those that cannot have one."""
    length, given = values(table, "trail_length"), values(table, "trail_length_pix")
    bare = (sources.source_type == "Trail") & np.isnan(length) & np.isnan(given)
    if not bare.any() or exposure_time is None or not 0 < exposure_time < np.inf:
        return sources, bare
    east, north = (values(table, name) for name in ("rate_ra_cosdec", "rate_dec"))
    length = np.where(bare, np.hypot(east, north) * exposure_time / 3600, length)
    angle = np.where(bare, np.degrees(np.arctan2(east, north)), values(table, "trail_pa"))
    shape = {**sources.shape, "trail_length": length, "trail_pa": angle}
    return dataclasses.replace(sources, shape=shape), np.zeros_like(bare)


def _judge(
    exposure: Exposure,
    template: TemplateSide | None,
    into: NDArray[np.str_],
    sources: Sources,
    photo_calib: PhotoCalib,
    reach_of: Callable[..., Reach],
    flags: NDArray[np.int64],
    rows: NDArray[np.intp],
) -> tuple[str, ...]:
    """Flag the sources whose light does not reach the image, and those whose centre is off the image."""
    box = exposure.box
    reach = reach_of(sources)
    reach_pixels = reach.pixels
    if template is not None:
        matched = reach_of(sources, half_kernel=max(template.psf.shape) // 2).pixels
        reach_pixels = np.where(in_template(into), np.maximum(matched, reach_pixels), reach_pixels)
    flags[rows[list(reach.bad_stamps)]] |= int(Flag.STAMP_FILE_BAD)
    distance = np.maximum(
        np.maximum(box.x_min - sources.x, sources.x - box.x_max),
        np.maximum(box.y_min - sources.y, sources.y - box.y_max),
    )
    near = distance < reach_pixels
    flags[rows[~near]] |= int(Flag.NO_OVERLAP)
    # A centre on the edge that two images share counts as on both, whatever their WCSs round to.
    flags[rows[near & (distance > _EDGE)]] |= int(Flag.CENTER_OFF_IMAGE)
    flags[rows[near & photo_calib.is_extrapolated(sources.x, sources.y)]] |= int(Flag.PHOTOCALIB_EXTRAPOLATED)
    return tuple(f"injection_id {sources.injection_id[i]}: {text}" for i, text in sorted(reach.bad_stamps.items()))


def _magnitude_lengths(table: QTable) -> NDArray[np.float64]:
    """Compute the factor from a magnitude's flux to the total: the length of trails with magnitudes per pixel, or 1."""
    length = values(table, "trail_length_pix")
    per_pixel = values(table, "mag_per_pixel") & (strings(table, "source_type") == "Trail") & np.isfinite(length)
    return np.where(per_pixel, length, 1.0)


def subset(sources: Sources, keep: NDArray[np.bool_]) -> Sources:
    """Keep some of the sources.

    Parameters
    ----------
    sources : Sources
        The sources.
    keep : ndarray of bool, shape (N,)
        True for those to keep.

    Returns
    -------
    Sources
    """
    arrays = {f.name: getattr(sources, f.name)[keep] for f in dataclasses.fields(Sources) if f.name != "shape"}
    return Sources(**arrays, shape={name: column[keep] for name, column in sources.shape.items()})
