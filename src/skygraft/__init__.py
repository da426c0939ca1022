"""Fake stars, galaxies, transients and movers for survey images, with fluxes that mean what the calibration says."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from skygraft.lazy import lazy_names

if TYPE_CHECKING:
    from skygraft import catalog, errors, formats, generation, photometry, psf, skymap, statistics, testing, wcs
    from skygraft.campaign import Campaign
    from skygraft.catalog import Flag, normalize_catalog, read_catalog, write_catalog
    from skygraft.errors import SkygraftError, SkygraftWarning
    from skygraft.exposure import DataId, Exposure, VisitInfo, make_planes
    from skygraft.formats import open_exposure, read_exposure, register_format, write_exposure
    from skygraft.injection import Injection, InjectionOptions, inject
    from skygraft.photometry import PSF_MODEL, TOTAL, CalibrationAperture, PhotoCalib
    from skygraft.skymap import get_skymap
    from skygraft.statistics.selection import selection
    from skygraft.views.patch import open_patch

__version__ = "0.1.0"

_HOMES = {
    "skygraft.campaign": ("Campaign",),
    "skygraft.catalog": ("Flag", "normalize_catalog", "read_catalog", "write_catalog"),
    "skygraft.errors": ("SkygraftError", "SkygraftWarning"),
    "skygraft.exposure": ("DataId", "Exposure", "VisitInfo", "make_planes"),
    "skygraft.formats": ("open_exposure", "read_exposure", "register_format", "write_exposure"),
    # Of the settings too: `inject`, which describes them, lives there.
    "skygraft.injection.core": ("Injection", "InjectionOptions", "inject"),
    "skygraft.photometry": ("PSF_MODEL", "TOTAL", "CalibrationAperture", "PhotoCalib"),
    "skygraft.skymap": ("get_skymap",),
    "skygraft.statistics.selection": ("selection",),
    "skygraft.views.patch": ("open_patch",),
}

_MODULES = ("catalog", "errors", "formats", "generation", "photometry", "psf", "skymap", "statistics", "testing", "wcs")
"""Reachable after ``import skygraft``, such as ``skygraft.psf.MoffatPSF``."""

__all__ = [
    "PSF_MODEL",
    "TOTAL",
    "CalibrationAperture",
    "Campaign",
    "DataId",
    "Exposure",
    "Flag",
    "Injection",
    "InjectionOptions",
    "PhotoCalib",
    "SkygraftError",
    "SkygraftWarning",
    "VisitInfo",
    "__version__",
    "catalog",
    "errors",
    "formats",
    "generation",
    "get_skymap",
    "inject",
    "make_planes",
    "normalize_catalog",
    "open_exposure",
    "open_patch",
    "photometry",
    "psf",
    "read_catalog",
    "read_exposure",
    "register_format",
    "selection",
    "skymap",
    "statistics",
    "testing",
    "wcs",
    "write_catalog",
    "write_exposure",
]


# Packages are imported when first used: `skygraft --help` should not wait for GalSim and Dask.
if not TYPE_CHECKING:  # else every name would seem to be there
    _find = lazy_names(__name__, _HOMES)

    def __getattr__(name: str) -> Any:
        return importlib.import_module(f"skygraft.{name}") if name in _MODULES else _find(name)


def __dir__() -> list[str]:
    return sorted(__all__)
