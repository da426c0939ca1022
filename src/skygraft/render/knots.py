"""Galaxies of point sources (RandomKnots), which are drawn as so many stars.

The knots are distributed like a Gaussian of the source's half-light radius, axis ratio and position angle, as those of
GalSim's ``RandomKnots`` are. Their places depend on the number of the object alone, so that it has the same ones in
every image, band and process; they are the first of one endless list, so that more knots are added to the same ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skygraft.catalog.flags import Flag
from skygraft.errors import InjectionError
from skygraft.render.canvas import Canvas
from skygraft.render.normalisation import Normalisation
from skygraft.render.profiles import MAX_STAMP
from skygraft.render.sources import Sources
from skygraft.render.stars import StarPainter, Stars

__all__ = ["DrawnKnots", "draw_knots", "knot_offsets", "knots_reach"]

_STREAM = 0x6B6E6F7473
"""Number of the random stream, different from others that are keyed by objects."""
_UNIT = 2.0**-53
_MARGIN = 11
"""Pixels around a kernel that is moved by a fraction of a pixel, in which it rings."""


def round_places(number: int, count: int) -> NDArray[np.float64]:
    """Return the places of an object's knots as if it were round, in half-light radii.

    Parameters
    ----------
    number : int
        The object's.
    count : int
        Knots.

    Returns
    -------
    ndarray, shape (count, 2)
        By the transform of Box & Muller (1958) of the bits of Philox (Salmon et al. 2011), which never change.
    """
    bits = np.random.Philox(key=[number & (2**64 - 1), _STREAM]).random_raw(2 * count).reshape(count, 2)
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 1.0) * _UNIT  # in (0, 1]
    # Half of the light is where the first is above a half.
    radius, angle = np.sqrt(-np.log2(uniform[:, 0])), 2.0 * math.pi * uniform[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def knot_offsets(sources: Sources, i: int) -> NDArray[np.float64]:
    """Return where the knots of source `i` are, in pixels (x, y) from its position, shape (knots, 2).

    Raises
    ------
    InjectionError
        If it has no size, or no knots.
    """
    radius, count = sources.value("half_light_radius", i, math.nan), sources.value("n_knots", i, 0.0)
    q, pa = sources.value("q", i, 1.0), math.radians(sources.value("pa", i, 0.0))
    if not (radius > 0 and q > 0 and count >= 1):
        raise InjectionError(
            f"half_light_radius is {radius:g}, q {q:g} and n_knots {count:g}; positive numbers are needed",
            row=f"injection_id {sources.injection_id[i]}",
            key="n_knots",
        )
    number = int(sources.shape["object_id"][i]) if "object_id" in sources.shape else -1
    places = round_places(number if number >= 0 else int(sources.injection_id[i]), int(count))
    places *= np.array([radius / math.sqrt(q), radius * math.sqrt(q)])
    sine, cosine = math.sin(pa), math.cos(pa)
    sky = places @ np.array([[sine, cosine], [cosine, -sine]])
    return np.asarray(np.linalg.solve(sources.jacobian[i], sky.T).T)


def knots_reach(sources: Sources, i: int) -> float:
    """Return half the side of the square that holds the knots of source `i`, pixels."""
    return float(np.abs(knot_offsets(sources, i)).max())


@dataclass(frozen=True)
class DrawnKnots:
    """A source drawn in full, before it is cut at the image's edge.

    Parameters
    ----------
    image : ndarray of float64, shape (ny, nx)
        Image units.
    x0, y0 : int
        Parent coordinates of its first pixel.
    half : int
        Pixels on either side of the source's that its light reaches; around them are rounding errors of the PSF.
    flags : int
        Bits of `skygraft.catalog.flags.Flag`.
    psf : Stars
        What was found of the PSF, of one star at the source's position.
    """

    image: NDArray[np.float64]
    x0: int
    y0: int
    half: int
    flags: int
    psf: Stars


def draw_knots(
    sources: Sources, i: int, painter: StarPainter, half_kernel: int, normalisation: Normalisation, largest: int
) -> DrawnKnots:
    """Draw source `i`, each of its knots with the PSF at its own place.

    Parameters
    ----------
    sources : Sources
    i : int
        Which one.
    painter : StarPainter
        Draws the knots.
    half_kernel : int
        Pixels of the kernel on either side of its middle.
    normalisation : Normalisation
        How kernels are scaled to the calibration.
    largest : int
        Longest side of the stamp, pixels.

    Raises
    ------
    InjectionError
        If the source has no size or no knots, or needs a larger stamp.
    PsfError
        If the PSF cannot be computed.
    """
    x, y = float(sources.x[i]), float(sources.y[i])
    offsets = knot_offsets(sources, i)
    flux = np.full(len(offsets), float(sources.flux[i]) / len(offsets))
    flags = 0
    cut = min(int(sources.value("draw_size", i, 0)) or MAX_STAMP, MAX_STAMP)
    beyond = np.abs(offsets).max(axis=1) > max((cut - 1) // 2 - half_kernel - 1, 0)
    if beyond.any():
        offsets, flux = offsets[~beyond], flux[~beyond]
        flags |= Flag.STAMP_TRUNCATED
    half = math.ceil(float(np.abs(offsets).max(initial=0.0))) + half_kernel + 1
    if 2 * half + 1 > max(largest, 2 * half_kernel + 3):
        raise InjectionError(
            f"the RandomKnots needs a stamp of {2 * half + 1} pixels a side; {largest} are allowed on this image",
            row=f"injection_id {sources.injection_id[i]}",
            fix="Leave out sources that are much larger than the image",
        )
    x0, y0, side = round(x) - half - _MARGIN, round(y) - half - _MARGIN, 2 * (half + _MARGIN) + 1
    canvas = Canvas.empty((side, side), (x0, y0))
    # The first has no flux: what it tells is of the PSF at the source's own position.
    where = np.concatenate([np.zeros((1, 2)), offsets]) + np.array([x, y])
    flux = np.concatenate([np.zeros(1), flux])
    drawn: list[Stars] = []
    for start in range(0, len(where), painter.batch):
        part = slice(start, start + painter.batch)
        drawn.append(painter.add(canvas, where[part, 0], where[part, 1], flux[part], normalisation))
    return DrawnKnots(canvas.model.astype(np.float64), x0, y0, half, int(flags), drawn[0])
