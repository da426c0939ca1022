"""From a catalogue to the sources of one image: where they lie, how bright they are, and which ones matter."""

from __future__ import annotations

import dataclasses
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import QTable, Table
from numpy.typing import NDArray

from skygraft.catalog import Flag, band_column, bands_of, normalize_catalog, positions_at, values
from skygraft.catalog.schema import strings
from skygraft.exposure import Exposure
from skygraft.photometry import PhotoCalib
from skygraft.render import SHAPE_COLUMNS, Sources, reach_pixels
from skygraft.wcs import local_jacobian

__all__ = ["canonical", "place", "subset", "within_reach"]

_LARGEST_FLUX = 1e30
"""Image units, in size; sums and squares of what is near the largest float32 (3e38) are not finite."""


def canonical(catalog: Any, band: str | None) -> QTable:
    """Any table in canonical form; a catalogue that was read or normalised before has its flags already."""
    if not isinstance(catalog, Table):
        return normalize_catalog(catalog, band=band)
    # A plain `mag` is LSST's, whose angles and trails are others; it too may have a column called flags.
    foreign = "mag" in catalog.colnames and not bands_of(catalog)
    if {"flags", "source_type"} <= set(catalog.colnames) and not foreign:
        return catalog
    return normalize_catalog(catalog, band=band)


def place(
    exposure: Exposure, table: QTable, photo_calib: PhotoCalib, band: str | None, image_id: str
) -> tuple[QTable, Sources, NDArray[np.intp]]:
    """Start the truth table, and place the usable sources; the last are their rows in it."""
    table = table[np.argsort(values(table, "injection_id"), kind="stable")]
    mag = band_column(table, band)
    ra, dec = positions_at(table, exposure.visit_info.mjd)
    x, y = (np.asarray(v, dtype=float) for v in exposure.wcs.world_to_pixel_values(ra, dec))
    n = len(table)
    flags = values(table, "flags")
    flags[~np.isfinite(mag)] |= int(Flag.MAG_BAD)
    flags[~(np.isfinite(x) & np.isfinite(y))] |= int(Flag.WCS_FAILED | Flag.NO_OVERLAP)
    if exposure.data_id.visit is not None:
        visit = values(table, "visit")
        flags[(visit >= 0) & (visit != exposure.data_id.visit)] |= int(Flag.NO_OVERLAP)
    inst_flux = np.full(n, np.nan)
    rows = np.flatnonzero(flags == 0)
    if rows.size:
        inst_flux[rows] = photo_calib.inst_flux(mag[rows], x[rows], y[rows])
        # The planes are float32: a flux near their largest number would leave infinities behind.
        flags[rows[~(np.abs(inst_flux[rows]) < _LARGEST_FLUX)]] |= int(Flag.MAG_BAD)
        rows = np.flatnonzero(flags == 0)
    inst_flux[rows] *= _magnitude_lengths(table)[rows]
    sources = Sources(
        values(table, "injection_id")[rows],
        strings(table, "source_type")[rows],
        x[rows],
        y[rows],
        inst_flux[rows],
        local_jacobian(exposure.wcs, x[rows], y[rows]) if rows.size else np.empty((0, 2, 2)),
        {name: values(table, name)[rows] for name in SHAPE_COLUMNS if name in table.colnames},
    )
    truth = QTable(
        {
            "injection_id": values(table, "injection_id"),
            "image_id": np.full(n, image_id),
            "ra": np.asarray(ra, dtype=float) * u.deg,
            "dec": np.asarray(dec, dtype=float) * u.deg,
            "x": x,
            "y": y,
            "source_type": strings(table, "source_type"),
            "band": np.full(n, band or next(iter(bands_of(table)), "")),
            "mag": mag,
            "inst_flux": inst_flux,
            "flux_deposited": np.zeros(n),
            "aperture_fraction": np.full(n, np.nan),
            "kernel_scale": np.full(n, np.nan),
            "psf_fwhm": np.full(n, np.nan) * u.arcsec,
            "stamp_size": np.zeros(n, dtype=np.int64),
            "flags": flags,
        }
    )
    truth.meta["image_units"] = str(exposure.planes["image"].attrs.get("units", ""))
    return truth, sources, rows


def _magnitude_lengths(table: QTable) -> NDArray[np.float64]:
    """What turns the flux of a magnitude into a total: the length in pixels of trails that say it per pixel, else 1."""
    length = values(table, "trail_length_pix")
    per_pixel = values(table, "mag_per_pixel") & (strings(table, "source_type") == "Trail") & np.isfinite(length)
    return np.where(per_pixel, length, 1.0)


def subset(sources: Sources, keep: NDArray[np.bool_]) -> Sources:
    """The sources that are to be kept."""
    arrays = {f.name: getattr(sources, f.name)[keep] for f in dataclasses.fields(Sources) if f.name != "shape"}
    return Sources(**arrays, shape={name: column[keep] for name, column in sources.shape.items()})


def within_reach(exposure: Exposure, sources: Sources, flux_tolerance: float) -> NDArray[np.bool_]:
    """Whose light reaches the image: those whose stamp overlaps it."""
    box = exposure.box
    kernel = max(exposure.psf.shape) // 2 + 1 if exposure.psf is not None else 1
    distance = np.maximum(
        np.maximum(box.x_min - sources.x, sources.x - box.x_max),
        np.maximum(box.y_min - sources.y, sources.y - box.y_max),
    )
    near = distance < kernel
    for i in np.flatnonzero(~near):
        if sources.source_type[i] != "Star":
            near[i] = distance[i] < kernel + reach_pixels(sources, int(i), flux_tolerance)
    return near
