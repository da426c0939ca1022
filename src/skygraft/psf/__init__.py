"""PSF models in the forms that surveys publish, evaluated as effective-PSF images, in batches, at any position."""

from skygraft.psf.analytic import DoubleGaussianPSF, GaussianPSF, MoffatPSF
from skygraft.psf.base import PSF, Box, defined_position
from skygraft.psf.cells import CellPSF
from skygraft.psf.coadd import CoaddInput, CoaddPSF
from skygraft.psf.conformance import check_psf
from skygraft.psf.fine import FineGrid, SubPixelBasis
from skygraft.psf.image_files import psf_image_header, read_psf_image
from skygraft.psf.image_options import PsfImageOptions
from skygraft.psf.kernel import FixedKernelPSF, KernelBasisPSF
from skygraft.psf.linear import LinearPSF, SinglePrecisionBasis
from skygraft.psf.matched import (
    DifferenceImage,
    MatchedPSF,
    MatchingKernel,
    TemplatePSF,
    adaptive_moments,
    gaussian_of_moments,
    reshaped,
)
from skygraft.psf.measure import FwhmMeter
from skygraft.psf.moffat_map import MoffatMapPSF
from skygraft.psf.oversampled import GriddedPSF, OversampledPSF
from skygraft.psf.piff import DrawnPSF, as_polynomial
from skygraft.psf.psfex import PsfexPSF
from skygraft.psf.psfex_files import read_psfex
from skygraft.psf.psfield import PsFieldPSF, is_psfield, read_psfield
from skygraft.psf.sampling import UndersamplingMeter, basis_between_pixels, missed_by_grid, places_over
from skygraft.psf.saved import write_psf
from skygraft.psf.soundness import check_coefficients, check_kernels, check_psf_soundness
from skygraft.psf.warped import Warp, WarpedPSF
from skygraft.psf.widths import kernel_fwhm

__all__ = [
    "PSF",
    "Box",
    "CellPSF",
    "CoaddInput",
    "CoaddPSF",
    "DifferenceImage",
    "DoubleGaussianPSF",
    "DrawnPSF",
    "FineGrid",
    "FixedKernelPSF",
    "FwhmMeter",
    "GaussianPSF",
    "GriddedPSF",
    "KernelBasisPSF",
    "LinearPSF",
    "MatchedPSF",
    "MatchingKernel",
    "MoffatMapPSF",
    "MoffatPSF",
    "OversampledPSF",
    "PsFieldPSF",
    "PsfImageOptions",
    "PsfexPSF",
    "SinglePrecisionBasis",
    "SubPixelBasis",
    "TemplatePSF",
    "UndersamplingMeter",
    "Warp",
    "WarpedPSF",
    "adaptive_moments",
    "as_polynomial",
    "basis_between_pixels",
    "check_coefficients",
    "check_kernels",
    "check_psf",
    "check_psf_soundness",
    "defined_position",
    "gaussian_of_moments",
    "is_psfield",
    "kernel_fwhm",
    "missed_by_grid",
    "places_over",
    "psf_image_header",
    "read_psf_image",
    "read_psfex",
    "read_psfield",
    "reshaped",
    "write_psf",
]
