"""One PSF of every kind, for tests of what is drawn with them."""

from __future__ import annotations

import numpy as np

from skygraft.psf import PSF, Box, DoubleGaussianPSF, GaussianPSF, KernelBasisPSF, MoffatPSF, PsfexPSF

SIDE = 1024
"""Pixels a side of the image over which they vary."""
KINDS = ("Gaussian", "DoubleGaussian", "Moffat", "KernelBasis", "Psfex", "not linear")


def psf_of_kind(kind: str, kernel: np.ndarray) -> PSF:
    """One of `KINDS`; those that are made of images vary about a kernel of 45 x 45 pixels."""
    y, x = np.mgrid[-22:23, -22:23] / 10
    basis = np.array([kernel, 0.1 * kernel * x, 0.1 * kernel * (x * x - y * y)])
    table = np.array([[1.0, 0.0, 0.0], [0.3, 0.4, -0.2], [-0.2, 0.1, 0.5]])
    edge = SIDE - 0.5

    class NotLinear(PSF):
        shape = (45, 45)

        def kernels(self, x, y):
            return np.array([kernel * (1 + 1e-4 * a) for a in np.atleast_1d(x)])

    made = {
        "Gaussian": GaussianPSF(fwhm=3.5, shape=(45, 45)),
        "DoubleGaussian": DoubleGaussianPSF(1.5, 3.0, 0.1, shape=(45, 45)),
        "Moffat": MoffatPSF(3.5, 3.0, shape=(45, 45)),
        "KernelBasis": KernelBasisPSF(basis, table, chebyshev_box=Box(-0.5, edge, -0.5, edge)),
        "Psfex": PsfexPSF(basis, 1, (SIDE / 2, SIDE / 2), (SIDE, SIDE), convention="psfex"),
        "not linear": NotLinear(),
    }
    return made[kind]
