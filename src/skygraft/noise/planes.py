"""Photon noise of injected flux and its variance, from random numbers that do not depend on any order.

A source that adds the expected flux F to a pixel adds Poisson(g F) electrons, so Poisson(g F) / g image units, with g
the gain in electrons per image unit; the variance plane gains the *expected* F / g. Where F < 0 (a kernel's negative
lobes) the value is added without noise.

The random numbers of a pixel are a function of campaign seed, image id and the pixel's parent position, and of nothing
else: see `skygraft.noise.poisson`.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import worth_compiling
from skygraft.noise.correlation import NoiseCorrelation, add_correlated
from skygraft.noise.few import add_noisy_to_few
from skygraft.noise.gain import Gain
from skygraft.noise.poisson import add_noisy, fill
from skygraft.noise.tables import tables

__all__ = ["add_flux", "poisson_field", "stream_key"]

_FEW = 500_000
"""Pixels for which numpy takes less time than compiling."""


def stream_key(seed: int, image_id: str, kind: str = "noise") -> tuple[int, int]:
    """Return the key of an image's random stream: two 32-bit words.

    Parameters
    ----------
    seed : int
        The campaign's seed, any integer; 0 is a seed like any other.
    image_id : str
        The image's id.
    kind : str
        Name of the stream: those of one image are independent of each other.
    """
    digest = hashlib.blake2b(f"skygraft {kind}\0{int(seed)}\0{image_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def poisson_field(
    mean: NDArray[np.float64], *, seed: int, image_id: str, xy0: tuple[int, int] = (0, 0)
) -> NDArray[np.float64]:
    """Draw Poisson numbers for a field of means, as `add_flux` does.

    Parameters
    ----------
    mean : ndarray, shape (ny, nx)
        Means, not negative.
    seed, image_id
        See `stream_key`.
    xy0 : (int, int)
        Parent coordinates of the first pixel.
    """
    drawn = np.array(mean, dtype=np.float64, order="C")
    alias, edges, density = tables()
    fill(drawn, *xy0, *stream_key(seed, image_id), alias, edges, density)
    return drawn


def add_flux(
    image: NDArray[np.float32],
    variance: NDArray[np.float32] | None,
    model: NDArray[np.float32],
    *,
    gain: Gain | None,
    seed: int = 0,
    image_id: str = "image",
    xy0: tuple[int, int] = (0, 0),
    correlation: NoiseCorrelation | None = None,
    out: NDArray[np.float32] | None = None,
    variance_out: NDArray[np.float32] | None = None,
) -> None:
    """Add the model to the image, with photon noise if a gain is given, and its variance to the variance plane.

    Parameters
    ----------
    image, variance : ndarray of float32, shape (ny, nx)
        Changed in place where there is no `out` and no `variance_out`; `variance` may be None, and without a gain it is
        left alone.
    model : ndarray of float32, shape (ny, nx)
        Expected flux, image units.
    gain : Gain or None
        None adds the model without noise.
    seed, image_id
        See `stream_key`.
    xy0 : (int, int)
        Parent coordinates of the first pixel.
    correlation : NoiseCorrelation, optional
        Draw Gaussian noise that is correlated between pixels, as that of a coadd; by default, pixels are independent
        and their numbers Poisson's.
    out : ndarray of float32, shape (ny, nx), optional
        Where the sum goes; it may be `model`.
    variance_out : ndarray of float32, shape (ny, nx), optional
        Where the new variance goes, with a gain.
    """
    out = image if out is None else out
    if gain is None:
        touched = model != 0
        np.add(image, model, out=out, where=touched)
        if out is not image:
            np.copyto(out, image, where=~touched)
        return
    value = np.atleast_2d(np.asarray(gain.value, dtype=np.float32))
    np.broadcast_to(value, model.shape)  # refuses the gain of another image
    if correlation is not None:
        spread = variance if variance_out is None else variance_out
        stream = stream_key(seed, image_id, "coadd noise")
        planes = image, variance, model, value, correlation
        add_correlated(*planes, key=stream, xy0=xy0, out=out, variance_out=spread)
        return
    if variance is None:
        variance = np.empty((0, 0), dtype=np.float32)
    new_variance = variance if variance_out is None else variance_out
    key, bits = stream_key(seed, image_id), model.view(np.uint32)
    alias, edges, density = tables()
    apart = out is not image, new_variance is not variance
    work = image, variance, model, bits, out, new_variance, apart, value, *xy0, *key, alias, edges, density
    worth = worth_compiling(add_noisy, *work, work=lambda: int(np.count_nonzero(bits)), limit=_FEW)
    (add_noisy if worth else add_noisy_to_few)(*work)
