"""From a catalogue to the sources of one image: their positions, fluxes, and which of them reach the image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog import Flag, as_table, bands_of, in_window, normalize_catalog, positions_at, values
from skygraft.catalog.flags import NOT_DRAWN, has_flag
from skygraft.catalog.schema import strings
from skygraft.catalog.truth_columns import new_truth
from skygraft.exposure import Exposure
from skygraft.injection.differences import TemplateSide, in_template, template_side
from skygraft.injection.fluxes import difference_fluxes, row_fluxes
from skygraft.injection.reach import Reach
from skygraft.injection.roles import Role, image_role, meant_for
from skygraft.injection.stamps import own_flux, own_totals, with_stamps
from skygraft.injection.trailing import with_trails
from skygraft.photometry import PhotoCalib
from skygraft.render import SHAPE_COLUMNS, Sources
from skygraft.render.lensing import lensed
from skygraft.timedomain.light_curves import LightCurves
from skygraft.wcs import local_jacobian, usable_jacobians

__all__ = ["LARGEST_FLUX", "Placed", "canonical", "place", "subset"]

MOVING = {"rate_ra_cosdec", "rate_dec", "trail_length", "trail_length_pix"}
"""Columns by which a star may become a trail."""
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
    template_flux : ndarray of float64 or None
        Fluxes of all of them in the template, where they vary; None where they are those of the science image.
    messages : tuple of str
        Why some others are not drawn, where their flag does not say all.
    """

    truth: QTable
    sources: Sources
    rows: NDArray[np.intp]
    into: NDArray[np.str_]
    template: TemplateSide | None
    template_flux: NDArray[np.float64] | None = None
    messages: tuple[str, ...] = ()


def place(
    exposure: Exposure,
    table: QTable,
    photo_calib: PhotoCalib,
    band: str | None,
    image_id: str,
    reach_of: Callable[..., Reach],
    extrapolate: bool = False,
    role: Role = "auto",
    light_curves: LightCurves | None = None,
    on_bad: Literal["raise", "flag"] = "raise",
    of_stars: bool = True,
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
    role : {"auto", "science", "template"}
        What the image is in a search for transients; see `skygraft.injection.roles.image_role`.
    light_curves : LightCurves, optional
        Those of the catalogue's sources.
    on_bad : {"raise", "flag"}
        Whether rows whose light curve is not there are an error, or flagged.
    of_stars : bool
        Whether the Jacobians of stars are needed, which are NaN otherwise.

    Returns
    -------
    Placed
    """
    ids = values(table, "injection_id")
    if (np.diff(ids) < 0).any():  # a copy of ten million rows is not for nothing
        table = table[np.argsort(ids, kind="stable")]
    del ids
    into = strings(table, "inject_into")
    kind = image_role(exposure, role)
    template = template_side(exposure, into) if kind == "difference" else None
    mjd, in_its_template = exposure.visit_info.mjd, None
    if template is not None and {"light_curve", "variability"} & set(table.colnames):
        asked, in_its_template, into = difference_fluxes(table, band, mjd, into, light_curves, on_bad)
    else:
        asked = row_fluxes(table, band, mjd, role=kind, into=into, light_curves=light_curves, on_bad=on_bad)
    ra, dec = positions_at(table, exposure.visit_info.mjd)
    x, y = (np.asarray(v, dtype=float) for v in exposure.wcs.world_to_pixel_values(ra, dec))
    n = len(table)
    flags = values(table, "flags") | asked.flags
    flags[~meant_for(into, kind)] |= int(Flag.NOT_FOR_IMAGE)
    placed = np.isfinite(x) & np.isfinite(y)
    flags[~placed] |= int(Flag.WCS_FAILED | Flag.NO_OVERLAP)
    flags[~in_window(table, exposure.visit_info.mjd)] |= int(Flag.NO_OVERLAP)
    if exposure.data_id.visit is not None and "visit" in table.colnames:
        visit = values(table, "visit")
        flags[(visit >= 0) & (visit != exposure.data_id.visit)] |= int(Flag.NO_OVERLAP)
    inst_flux = np.full(n, np.nan)
    rows = np.flatnonzero(~has_flag(flags, NOT_DRAWN))
    if rows.size:
        inst_flux[rows] = asked.inst_flux(photo_calib, rows, x[rows], y[rows], extrapolate=extrapolate)
        # The planes are float32: a flux near their largest number would leave infinities behind.
        flags[rows[~(np.abs(inst_flux[rows]) < LARGEST_FLUX)]] |= int(Flag.MAG_BAD)
    if "trail_length_pix" in table.colnames:
        inst_flux[rows] *= _magnitude_lengths(table)[rows]
    # Sources that cannot be drawn have positions too, and belong to the images on which they would be seen.
    rows = np.flatnonzero(~has_flag(flags, Flag.NO_OVERLAP))
    types = strings(table, "source_type")
    shaped = (types != "Star")[rows]
    if of_stars or MOVING & set(table.colnames):
        shaped[:] = True
    sources = Sources(
        _some(values(table, "injection_id"), rows),
        _some(types, rows),
        _some(x, rows),
        _some(y, rows),
        _some(inst_flux, rows),
        _jacobians(exposure, x, y, rows, shaped),
        with_stamps(
            {name: values(table, name)[rows] for name in SHAPE_COLUMNS if name in table.colnames}, table, band, rows
        ),
    )
    sources, endless, trail_messages = with_trails(sources, table, rows, exposure.visit_info)
    flags[rows[endless]] |= int(Flag.PARAMETERS_BAD)
    # Extended sources need the WCS around their position too, where distortions may diverge.
    extended = np.flatnonzero(sources.source_type != "Star")
    shapeless = extended[~usable_jacobians(sources.jacobian[extended])]
    flags[rows[shapeless]] |= int(Flag.WCS_FAILED)
    sources = lensed(sources)
    messages = _judge(exposure, template, into[rows], sources, photo_calib, reach_of, flags, rows)
    drawn = ~has_flag(flags[rows], NOT_DRAWN)
    mag, total_flux = own_totals(table, sources, rows, own_flux(table), asked.mag, inst_flux)
    truth = new_truth(
        n,
        {
            **_identity(table),
            "image_id": np.broadcast_to(np.array(image_id), n),
            "ra": np.asarray(ra, dtype=float),
            "dec": np.asarray(dec, dtype=float),
            "x": x,
            "y": y,
            "source_type": _types_drawn(types, sources, rows),
            "band": np.broadcast_to(np.array(band or next(iter(bands_of(table)), "")), n),
            "mag": mag,
            "inst_flux": total_flux,
            "flags": flags,
        },
    )
    truth.meta["image_units"] = exposure.plain.units
    placed_rows = rows[drawn]
    template_flux = None
    if in_its_template is not None:
        template_flux = inst_flux[placed_rows].copy()
        both = np.flatnonzero(into[placed_rows] == "both")
        of = placed_rows[both]
        lengths = _magnitude_lengths(table)[of]
        template_flux[both] = (
            in_its_template.inst_flux(photo_calib, of, x[of], y[of], extrapolate=extrapolate) * lengths
        )
    return Placed(
        truth,
        subset(sources, drawn),
        placed_rows,
        into[placed_rows],
        template,
        template_flux,
        (*asked.messages, *messages, *trail_messages),
    )


def _some(column: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
    """Take some rows of a column, in order: without a copy, if that is all of them."""
    return column if len(rows) == len(column) else column[rows]


def _jacobians(
    exposure: Exposure,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    rows: NDArray[np.intp],
    wanted: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Compute the Jacobians of some rows where they are wanted; NaN elsewhere, without memory if none is."""
    if not wanted.any():
        return np.broadcast_to(np.nan, (len(rows), 2, 2))
    jacobian = np.full((len(rows), 2, 2), np.nan)
    jacobian[wanted] = local_jacobian(exposure.wcs, x[rows[wanted]], y[rows[wanted]])
    return jacobian


def _identity(table: QTable) -> dict[str, NDArray[np.int64]]:
    """Injection id, object and group of the rows; a row without an object is one of its own."""
    ids, objects = values(table, "injection_id"), values(table, "object_id")
    return {
        "injection_id": ids,
        "object_id": np.where(objects < 0, ids, objects),
        "group_id": values(table, "group_id"),
    }


def _types_drawn(types: NDArray[np.str_], sources: Sources, rows: NDArray[np.intp]) -> NDArray[np.str_]:
    """The types of all rows: those of the catalogue, but for stars that are drawn as trails."""
    changed = sources.source_type != _some(types, rows)
    if not changed.any():
        return types
    types = types.astype(np.result_type(types.dtype, sources.source_type.dtype))
    types[rows[changed]] = sources.source_type[changed]
    return types


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
    if keep.all():
        return sources
    arrays = {f.name: getattr(sources, f.name)[keep] for f in dataclasses.fields(Sources) if f.name != "shape"}
    if not any(sources.jacobian.strides):
        arrays["jacobian"] = np.broadcast_to(np.nan, (len(arrays["x"]), 2, 2))
    return Sources(**arrays, shape={name: column[keep] for name, column in sources.shape.items()})
