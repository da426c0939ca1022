"""Measurements that share no code with the package: what tests compare with."""

from __future__ import annotations

import numpy as np
from scipy.special import j1


def band_limited_aperture_flux(image: np.ndarray, x: float, y: float, radius: float, half: int = 40) -> float:
    """Flux inside a circle by the defining sum over Fourier modes (Bickerton & Lupton 2013), in float64.

    ``sum_k F(k) exp(i k.c) 2 pi r J1(|k| r) / |k| / N`` over a zero-padded cut-out around the source.
    """
    cx, cy = round(float(x)), round(float(y))
    cut = image[cy - half : cy + half + 1, cx - half : cx + half + 1].astype(float)
    size = 4 * (2 * half + 1) + 1
    # The transform of real pixels is known from half a plane; an odd size has no highest mode of its own.
    spectrum = 2 * np.fft.rfft2(cut, s=(size, size))
    spectrum[:, 0] /= 2
    ky, kx = 2 * np.pi * np.fft.fftfreq(size), 2 * np.pi * np.fft.rfftfreq(size)
    kk = np.hypot(kx, ky[:, None])
    kk[0, 0] = 1.0
    disc = 2 * np.pi * radius * j1(kk * radius) / kk
    disc[0, 0] = np.pi * radius**2
    along_y, along_x = np.exp(1j * ky * (y - cy + half)), np.exp(1j * kx * (x - cx + half))
    return float((along_y @ (spectrum * disc) @ along_x).real / size**2)
