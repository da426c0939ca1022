"""Sources drawn directly: GalSim's transform of a profile times that of the kernel, in double precision.

No interpolant, no stamp and no table is involved; what is drawn is what a profile is.
"""

from __future__ import annotations

import math
from typing import Any

import galsim
import numpy as np

TIGHT = galsim.GSParams(
    kvalue_accuracy=1e-7, xvalue_accuracy=1e-7, folding_threshold=1e-4, maxk_threshold=1e-5, maximum_fft_size=16384
)


def on_sky(profile: Any, q: float = 1.0, pa: float = 0.0) -> Any:
    """Flatten a round profile, in arcsec (East, North)."""
    return profile.shear(q=q, beta=(90.0 - pa) * galsim.degrees)


def draw_directly(profile: Any, jacobian: np.ndarray, x: float, y: float, kernel: np.ndarray, size: int) -> np.ndarray:
    """Draw a profile given in arcsec (East, North) on `size` by `size` pixels, with the kernel as it is.

    The flux is that of the profile times the sum of the kernel. Light beyond an edge comes in again on the other side.
    """
    in_pixels = galsim.JacobianWCS(*jacobian.ravel().tolist()).profileToImage(profile)
    transform = in_pixels.drawKImage(nx=size + 1, ny=size + 1, scale=2 * math.pi / size).array
    half = size // 2
    m = np.fft.fftfreq(size, 1 / size).astype(int)
    transform = transform[np.ix_(m + half, m + half)]
    k = 2 * math.pi * m / size
    box = np.zeros((size, size))
    box[: kernel.shape[0], : kernel.shape[1]] = kernel
    centre = kernel.shape[0] // 2, kernel.shape[1] // 2
    phase = np.exp(-1j * (k[None, :] * (x - centre[1]) + k[:, None] * (y - centre[0])))
    return np.fft.ifft2(np.fft.fft2(box) * transform * phase).real
