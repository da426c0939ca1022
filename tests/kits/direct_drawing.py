"""Sources drawn directly: GalSim's transform of a profile times that of the kernel, in double precision.

No interpolant, no stamp and no table is involved; what is drawn is what a profile is.
"""

from __future__ import annotations

import math
from typing import Any

import galsim
import numpy as np
import scipy.fft

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
    # The transform of a real image is known from half a plane.
    transform = galsim.ImageCD(galsim.BoundsI(0, size // 2, -(size // 2), (size - 1) // 2))
    in_pixels.drawKImage(image=transform, scale=2 * math.pi / size, recenter=False)
    ky, kx = 2 * math.pi * np.fft.fftfreq(size)[:, None], 2 * math.pi * np.fft.rfftfreq(size)
    box = np.zeros((size, size))
    box[: kernel.shape[0], : kernel.shape[1]] = kernel
    moved = np.exp(-1j * ky * (y - kernel.shape[0] // 2)) * np.exp(-1j * kx * (x - kernel.shape[1] // 2))
    whole = scipy.fft.rfft2(box) * np.fft.ifftshift(transform.array, axes=0) * moved
    return scipy.fft.irfft2(whole, (size, size))
