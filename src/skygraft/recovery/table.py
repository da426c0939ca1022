"""The columns of the recovery table: one definition, which the measurements and the documentation follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skygraft.catalog.io import arrow_array
from skygraft.catalog.truth_columns import TRUTH_COLUMNS, TruthColumn
from skygraft.recovery.settings import aperture_name
from skygraft.tables.arrow import with_units

__all__ = [
    "FLUX_KINDS",
    "REASONS",
    "RECOVERY_COLUMNS",
    "flux_columns",
    "recovery_columns",
    "recovery_schema",
    "recovery_table",
]

FLUX_KINDS = {
    "cal": "the calibrated flux: in the calibration aperture, or as the image's calibration says otherwise",
    "kron": "in Kron's ellipse",
    "psf": "of the PSF model, scaled to what the calibrated flux is the flux of",
}
"""Kinds of flux that are always measured."""

REASONS = {
    "": "it was found",
    "not drawn": "nothing of it is on the image: see `flags`",
    "off the image": "its centre is off the image",
    "masked": "a bad pixel among the 3 x 3 at its centre",
    "negative": "its flux is negative, as that of a light curve may be: only light that is there is detected",
    "below threshold": "no detection covers its centre",
    "blended": "its light went to a detection whose centre is another source",
    "ambiguous": "the original image has a detection there, too bright beside the fake",
    "not matched": "a detection covers its centre and is the fake's alone, but is centred too far away",
}
"""Why a fake was not found."""

_C = TruthColumn

_IMAGE = (
    _C("visit", "int", "of the image; empty for a coadd", repeated=True),
    _C("detector", "text", "of the image; empty for a coadd", repeated=True),
    _C("mjd", "float", "middle of the exposure, TAI; NaN where unknown", "d", repeated=True),
    _C("exposure_time", "float", "of the image; NaN where unknown", "s", repeated=True),
    _C("airmass", "float", "of the image; NaN where unknown", repeated=True),
)
_CATALOGUE = (
    _C("half_light_radius", "float", "circularised, of the catalogue; NaN for stars", "arcsec"),
    _C("axis_ratio", "float", "minor over major axis, of the catalogue; NaN for stars"),
    _C("position_angle", "float", "of the major axis (of a trail: its direction), north through east, 0 to 180", "deg"),
    _C("sersic_n", "float", "Sérsic index; NaN where the source has none"),
    _C("weight", "float", "of the catalogue's column `weight`; 1 where it has none"),
    _C(
        "surface_brightness",
        "float",
        "mean within the half-light radius: mag + 2.5 log10(2 π half_light_radius²); NaN for stars",
        "mag / arcsec2",
    ),
)
_RESULT = (
    _C("usable", "bool", "drawn, its centre on the image and none of the 3 x 3 pixels there bad"),
    _C("found", "bool", "counts as recovered"),
    _C("reason", "text", "why it was not found (below)", repeated=True),
    _C("distance", "float", "from the fake to its measured position; NaN where there is none", "arcsec"),
    _C("detection_id", "int", "number of the detection on the injected image; -1 for none"),
    _C("original_distance", "float", "to the nearest detection of the original image; NaN if it has none", "arcsec"),
    _C("original_flux_fraction", "float", "calibrated flux of that detection over the fake's"),
)
_POSITION = (
    _C("x_out", "float", "measured position on the image, parent frame", "pix"),
    _C("y_out", "float", "measured position on the image, parent frame", "pix"),
    _C("ra_out", "float", "the same on the sky, ICRS", "deg"),
    _C("dec_out", "float", "the same on the sky, ICRS", "deg"),
)
_SHAPE = (
    _C("snr", "float", "`flux_cal` over its error"),
    _C("half_light_radius_out", "float", "radius of the circle that holds half of the Kron flux", "arcsec"),
    _C("axis_ratio_out", "float", "minor over major axis of the adaptive second moments, on the sky, with the PSF"),
    _C("position_angle_out", "float", "of the major axis of the same, north through east, 0 to 180", "deg"),
    _C("fwhm_out", "float", "of the Gaussian that has the same moments: geometric mean of both axes", "arcsec"),
    _C("class_star_out", "float", "star/galaxy classification: NaN, SEP has none"),
    _C(
        "concentration_out",
        "float",
        "`flux_psf` over an aperture flux: about 1 for stars, less for what is extended",
    ),
    _C("detection_flags", "int", "bits, see below; 0 where not found"),
)
_BLENDING = (
    _C("blend", "text", "light of others in its aperture is mostly of `real` or `fake` sources; empty: little of it",
       repeated=True),
    _C("blend_fraction", "float", "light of its neighbours inside its calibration aperture over its own"),
)  # fmt: skip
_CONDITIONS = (
    _C("depth", "float", "magnitude of 5 sigma in the calibration aperture, at its place", "mag"),
    _C("mag_below_depth", "float", "`mag` - `depth`", "mag"),
    _C(
        "noise_level",
        "float",
        "of the image: scatter of empty apertures over what the variance says of them; above 1 for correlated noise, "
        "faint sources and an uneven background",
        repeated=True,
    ),
    _C("sky", "float", "background of the original image, of a pixel"),
    _C("sky_rms", "float", "standard deviation of the background of the original image, of a pixel"),
    _C("seeing", "float", "FWHM of the PSF: `psf_fwhm`", "arcsec"),
    _C("edge_distance", "float", "to the image's nearest edge; negative off the image", "arcsec"),
    _C("neighbour_distance", "float", "to the nearest detection of the original image; NaN if it has none", "arcsec"),
    _C("neighbour_mag", "float", "its magnitude, in the calibration aperture", "mag"),
)

_BEFORE_FLUXES = (*TRUTH_COLUMNS, *_IMAGE, *_CATALOGUE, *_RESULT, *_POSITION)
_AFTER_FLUXES = (*_SHAPE, *_BLENDING, *_CONDITIONS)


def flux_columns(kind: str, what: str) -> tuple[TruthColumn, ...]:
    """The columns of one kind of flux."""
    return (
        _C(f"flux_{kind}", "float", f"flux {what}, image units"),
        _C(f"flux_{kind}_error", "float", "its error, image units"),
        _C(f"mag_{kind}", "float", "the flux as a magnitude, by the image's calibration; NaN if not positive", "mag"),
        _C(f"mag_{kind}_error", "float", "its error", "mag"),
    )


def recovery_columns(apertures: Iterable[float] = ()) -> tuple[TruthColumn, ...]:
    """Give the columns that `measure_pair` fills, in order.

    Parameters
    ----------
    apertures : iterable of float
        Radii of more apertures, pixels.

    Returns
    -------
    tuple of TruthColumn
    """
    kinds = FLUX_KINDS | {aperture_name(radius): f"within {radius:g} pixels" for radius in apertures}
    fluxes = (column for kind, what in kinds.items() for column in flux_columns(kind, what))
    return (*_BEFORE_FLUXES, *fluxes, *_AFTER_FLUXES)


RECOVERY_COLUMNS = recovery_columns()
"""The columns that are always there."""

_KINDS = {"int": pa.int64(), "float": pa.float64(), "text": pa.string(), "bool": pa.bool_()}


def recovery_schema(apertures: Iterable[float] = (), extra: Mapping[str, pa.DataType] | None = None) -> pa.Schema:
    """Give the schema of the table that `measure_pair` returns.

    Parameters
    ----------
    apertures : iterable of float
        Radii of more apertures, pixels.
    extra : mapping of str to DataType, optional
        More columns of the catalogue, at the end.

    Returns
    -------
    pyarrow.Schema
        With the units in the metadata of its fields, under ``unit``.
    """
    columns = recovery_columns(apertures)
    kinds = {column.name: _KINDS[column.kind] for column in columns} | dict(extra or {})
    return with_units(kinds, {column.name: column.unit for column in columns})


def recovery_table(
    values: Mapping[str, NDArray[Any] | pa.Array], apertures: Iterable[float], extra: Mapping[str, pa.Array]
) -> pa.Table:
    """Make the table from arrays by column, each shape (N,); Arrow arrays are taken as they are."""
    schema = recovery_schema(apertures, {name: array.type for name, array in extra.items()})
    arrays = dict(values) | dict(extra)
    return pa.table([_array(arrays[field.name], field.type) for field in schema], schema=schema)


def _array(values: NDArray[Any] | pa.Array, kind: pa.DataType) -> pa.Array:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values.cast(kind)
    # Not pa.array, which imports pandas.
    array = arrow_array(np.asarray(values))
    return array if array.type == kind else array.cast(kind)
