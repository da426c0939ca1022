"""PSF models: what each survey publishes, as effective-PSF images in batches at any position."""

from skygraft.psf.analytic import DoubleGaussianPSF, GaussianPSF, MoffatPSF
from skygraft.psf.base import PSF, Box, defined_position
from skygraft.psf.cells import CellPSF
from skygraft.psf.coadd import CoaddInput, CoaddPSF
from skygraft.psf.conformance import check_psf
from skygraft.psf.kernel import FixedKernelPSF, KernelBasisPSF
from skygraft.psf.linear import LinearPSF, SinglePrecisionBasis
from skygraft.psf.measure import FwhmMeter, kernel_fwhm
from skygraft.psf.piff import DrawnPSF, as_polynomial
from skygraft.psf.psfex import PsfexPSF
from skygraft.psf.psfex_files import read_psfex
from skygraft.psf.warped import Warp, WarpedPSF

__all__ = [
    "PSF",
    "Box",
    "CellPSF",
    "CoaddInput",
    "CoaddPSF",
    "DoubleGaussianPSF",
    "DrawnPSF",
    "FixedKernelPSF",
    "FwhmMeter",
    "GaussianPSF",
    "KernelBasisPSF",
    "LinearPSF",
    "MoffatPSF",
    "PsfexPSF",
    "SinglePrecisionBasis",
    "Warp",
    "WarpedPSF",
    "as_polynomial",
    "check_psf",
    "defined_position",
    "kernel_fwhm",
    "read_psfex",
]
