"""Photometric calibration: magnitudes to image units, and what the calibrated flux is the flux of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skygraft.lazy import lazy_names

if TYPE_CHECKING:
    from skygraft.photometry.aperture import (
        ApertureMethod,
        afw_aperture_flux,
        aperture_flux,
        aperture_weights,
        enclosed_flux,
        kernel_holds_aperture,
        sinc_coefficients,
    )
    from skygraft.photometry.fields import (
        ChebyshevField,
        GridField,
        PixelAreaField,
        ProductField,
        SpatialField,
    )
    from skygraft.photometry.flux_modes import (
        FLUX_MODES,
        BasisScale,
        FluxMode,
        KernelScale,
        kernel_scale,
        psf_sum_offset,
    )
    from skygraft.photometry.header_keys import (
        HEADER_KEYWORDS,
        HeaderKeyword,
        header_candidates,
        register_header_keyword,
    )
    from skygraft.photometry.origins import (
        aperture_correction_hints,
        config_candidates,
        default_candidate,
        register_default,
        schema_candidates,
    )
    from skygraft.photometry.photo_calib import PhotoCalib
    from skygraft.photometry.radius import (
        field_name_candidate,
        parse_field_radius,
        parse_radius,
    )
    from skygraft.photometry.reference import (
        PSF_MODEL,
        TOTAL,
        CalibrationAperture,
        CalibrationReference,
        ModelReference,
        RadiusUnit,
        ReferenceCandidate,
        describe_reference,
        recorded_unit,
    )
    from skygraft.photometry.resolve import (
        RADIUS_TOLERANCE,
        require_reference,
        resolve_reference,
    )
    from skygraft.photometry.soundness import check_calibration_soundness, check_radius
    from skygraft.photometry.units import (
        AB_REFERENCE_FLUX_NJY,
        NJY_PER_NANOMAGGY,
        PixelUnit,
        canonical_unit,
        parse_unit,
        summed_unit,
    )

__all__ = [
    "AB_REFERENCE_FLUX_NJY",
    "FLUX_MODES",
    "HEADER_KEYWORDS",
    "NJY_PER_NANOMAGGY",
    "PSF_MODEL",
    "RADIUS_TOLERANCE",
    "TOTAL",
    "ApertureMethod",
    "BasisScale",
    "CalibrationAperture",
    "CalibrationReference",
    "ChebyshevField",
    "FluxMode",
    "GridField",
    "HeaderKeyword",
    "KernelScale",
    "ModelReference",
    "PhotoCalib",
    "PixelAreaField",
    "PixelUnit",
    "ProductField",
    "RadiusUnit",
    "ReferenceCandidate",
    "SpatialField",
    "afw_aperture_flux",
    "aperture_correction_hints",
    "aperture_flux",
    "aperture_weights",
    "canonical_unit",
    "check_calibration_soundness",
    "check_radius",
    "config_candidates",
    "default_candidate",
    "describe_reference",
    "enclosed_flux",
    "field_name_candidate",
    "header_candidates",
    "kernel_holds_aperture",
    "kernel_scale",
    "parse_field_radius",
    "parse_radius",
    "parse_unit",
    "psf_sum_offset",
    "recorded_unit",
    "register_default",
    "register_header_keyword",
    "require_reference",
    "resolve_reference",
    "schema_candidates",
    "sinc_coefficients",
    "summed_unit",
]

if not TYPE_CHECKING:  # a configuration needs the name of a radius, and nothing of astropy
    __getattr__ = lazy_names(
        __name__,
        {
            "skygraft.photometry.aperture": (
                "ApertureMethod",
                "afw_aperture_flux",
                "aperture_flux",
                "aperture_weights",
                "enclosed_flux",
                "kernel_holds_aperture",
                "sinc_coefficients",
            ),
            "skygraft.photometry.fields": (
                "ChebyshevField",
                "GridField",
                "PixelAreaField",
                "ProductField",
                "SpatialField",
            ),
            "skygraft.photometry.flux_modes": (
                "FLUX_MODES",
                "BasisScale",
                "FluxMode",
                "KernelScale",
                "kernel_scale",
                "psf_sum_offset",
            ),
            "skygraft.photometry.header_keys": (
                "HEADER_KEYWORDS",
                "HeaderKeyword",
                "header_candidates",
                "register_header_keyword",
            ),
            "skygraft.photometry.origins": (
                "aperture_correction_hints",
                "config_candidates",
                "default_candidate",
                "register_default",
                "schema_candidates",
            ),
            "skygraft.photometry.photo_calib": ("PhotoCalib",),
            "skygraft.photometry.radius": (
                "field_name_candidate",
                "parse_field_radius",
                "parse_radius",
            ),
            "skygraft.photometry.reference": (
                "PSF_MODEL",
                "TOTAL",
                "CalibrationAperture",
                "CalibrationReference",
                "ModelReference",
                "RadiusUnit",
                "ReferenceCandidate",
                "describe_reference",
                "recorded_unit",
            ),
            "skygraft.photometry.resolve": (
                "RADIUS_TOLERANCE",
                "require_reference",
                "resolve_reference",
            ),
            "skygraft.photometry.soundness": (
                "check_calibration_soundness",
                "check_radius",
            ),
            "skygraft.photometry.units": (
                "AB_REFERENCE_FLUX_NJY",
                "NJY_PER_NANOMAGGY",
                "PixelUnit",
                "canonical_unit",
                "parse_unit",
                "summed_unit",
            ),
        },
    )
