"""Photometric calibration: magnitudes to image units, and what the calibrated flux is the flux of."""

from skygraft.photometry.fields import (
    ChebyshevField,
    ConstantField,
    GridField,
    ImageField,
    PixelAreaField,
    ProductField,
    SpatialField,
)
from skygraft.photometry.photo_calib import (
    AB_REFERENCE_FLUX_NJY,
    NJY_PER_NANOMAGGY,
    PhotoCalib,
    canonical_unit,
)
from skygraft.photometry.reference import (
    PSF_MODEL,
    TOTAL,
    CalibrationAperture,
    CalibrationReference,
    ModelReference,
    ReferenceCandidate,
    describe_reference,
)

__all__ = [
    "AB_REFERENCE_FLUX_NJY",
    "NJY_PER_NANOMAGGY",
    "PSF_MODEL",
    "TOTAL",
    "CalibrationAperture",
    "CalibrationReference",
    "ChebyshevField",
    "ConstantField",
    "GridField",
    "ImageField",
    "ModelReference",
    "PhotoCalib",
    "PixelAreaField",
    "ProductField",
    "ReferenceCandidate",
    "SpatialField",
    "canonical_unit",
    "describe_reference",
]
