"""PSF models: what each survey publishes, as effective-PSF images in batches at any position."""

from skygraft.psf.analytic import DoubleGaussianPSF, GaussianPSF, MoffatPSF
from skygraft.psf.base import PSF, Box
from skygraft.psf.coadd import CoaddInput, CoaddPSF
from skygraft.psf.conformance import check_psf
from skygraft.psf.kernel import FixedKernelPSF, KernelBasisPSF
from skygraft.psf.linear import LinearPSF, SinglePrecisionBasis
from skygraft.psf.measure import FwhmMeter, kernel_fwhm
from skygraft.psf.psfex import PsfexPSF
from skygraft.psf.psfex_files import read_psfex
from skygraft.psf.warped import Warp, WarpedPSF

__all__ = [
    "PSF",
    "Box",
    "CoaddInput",
    "CoaddPSF",
    "DoubleGaussianPSF",
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
    "check_psf",
    "kernel_fwhm",
    "read_psfex",
]
