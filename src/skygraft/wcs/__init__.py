"""World coordinate systems: APE-14 wrappers of FITS headers, AST frame sets and gwcs, and what they do locally."""

from skygraft.wcs.array_frame import ArrayWcs, array_wcs, fitted_wcs
from skygraft.wcs.ast import AstWcs
from skygraft.wcs.ast_dump import dump_problem
from skygraft.wcs.ast_mapping import AstMapping
from skygraft.wcs.base import CelestialWcs
from skygraft.wcs.card_text import has_wcs, names_tables
from skygraft.wcs.distortion import TABLE_NAMES, LookupTable
from skygraft.wcs.fits import FitsWcs, read_fits_wcs
from skygraft.wcs.gwcs import GwcsWcs, open_asdf, read_gwcs, require_asdf
from skygraft.wcs.local import footprint, local_jacobian, pixel_scale, pixel_scales
from skygraft.wcs.soundness import check_pixel_scale, check_wcs_soundness, usable_jacobians

__all__ = [
    "TABLE_NAMES",
    "ArrayWcs",
    "AstMapping",
    "AstWcs",
    "CelestialWcs",
    "FitsWcs",
    "GwcsWcs",
    "LookupTable",
    "array_wcs",
    "check_pixel_scale",
    "check_wcs_soundness",
    "dump_problem",
    "fitted_wcs",
    "footprint",
    "has_wcs",
    "local_jacobian",
    "names_tables",
    "open_asdf",
    "pixel_scale",
    "pixel_scales",
    "read_fits_wcs",
    "read_gwcs",
    "require_asdf",
    "usable_jacobians",
]
