"""World coordinate systems: APE-14 wrappers of FITS headers and AST frame sets, and what they do locally."""

from skygraft.wcs.ast import AstWcs
from skygraft.wcs.ast_mapping import AstMapping
from skygraft.wcs.base import CelestialWcs
from skygraft.wcs.fits import FitsWcs, read_fits_wcs
from skygraft.wcs.local import footprint, local_jacobian, pixel_scale

__all__ = [
    "AstMapping",
    "AstWcs",
    "CelestialWcs",
    "FitsWcs",
    "footprint",
    "local_jacobian",
    "pixel_scale",
    "read_fits_wcs",
]
