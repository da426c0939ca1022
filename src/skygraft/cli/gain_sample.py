"""Some pixels of an image, from all over it, that say what its gain is: enough of them, and no more are read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.exposure import PHOTON_VARIANCE, Exposure
from skygraft.noise import count_bright
from skygraft.planes import Part, Planes

__all__ = ["GainSample", "sample_pixels"]

_WHOLE = 1 << 19
"""Images of up to so many pixels are read as a whole."""
_PLACE_PIXELS = 6400
"""Least number of pixels at one place."""
_PLACES, _MORE_PLACES = 16, 64
_MOST_PIXELS = 1 << 20
"""Where tiles are so large that these would be more, fewer places are looked at, but never fewer than `_FEWEST`."""
_FEWEST = 4
_ENOUGH_BRIGHT = 200
"""Four times what a gain is compared with: bright pixels of a few stars are not as many as they seem."""


@dataclass(frozen=True)
class GainSample:
    """Pixels of an image.

    Parameters
    ----------
    image, variance : ndarray
        Their values; the same shape, of the image or of one row. There may be no variance.
    usable : ndarray of bool
        Which are flagged by no mask plane that spoils them.
    n_all : int
        Number of pixels of the image.
    """

    image: NDArray[np.float32]
    variance: NDArray[np.float32] | None
    usable: NDArray[np.bool_]
    n_all: int

    @property
    def planes(self) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.bool_]]:
        """Image, variance and usable."""
        return self.image, self.variance, self.usable

    @property
    def words(self) -> str:
        """How many pixels these are, if not all of the image."""
        n = self.image.size
        return "" if n == self.n_all else f"{n} of {self.n_all} pixels"


def sample_pixels(exposure: Exposure, *, for_fit: bool) -> GainSample:
    """Read pixels that say what the gain is.

    Of an image whose planes are in memory, all are taken; of one whose planes are in a file, tiles or rows at places
    that are spread evenly over it, at more places while few bright pixels have been found.

    Parameters
    ----------
    exposure : Exposure
        The image.
    for_fit : bool
        Whether the gain is estimated from the pixels, not only compared with them: many are taken at once.
    """
    # Pixels of sources are needed for the slope of variance against flux; flagged bad pixels are excluded.
    marks = ("DETECTED", "INJECTED")
    spoilt = np.int32(sum(v for n, v in exposure.mask_planes.items() if not n.startswith(marks)))
    planes, n_all = exposure.plain, math.prod(exposure.shape)
    pieces = planes.pieces
    if "variance" not in planes or PHOTON_VARIANCE in exposure.extra or pieces is None or n_all <= _WHOLE:
        variance = exposure.extra.get(PHOTON_VARIANCE, exposure.variance)
        if variance is None:
            nothing = np.zeros(0, np.float32)
            return GainSample(nothing, None, nothing.astype(np.bool_), n_all)
        return GainSample(exposure.image, variance, (exposure.mask & spoilt) == 0, n_all)
    parts, size = _places(exposure.shape, pieces)
    most = max(_FEWEST, min(_MORE_PLACES, _MOST_PIXELS // size))
    found = _read(planes, itertools.islice(parts, most if for_fit else min(_PLACES, most)), spoilt)
    if not for_fit and most > _PLACES and count_bright(*found) < _ENOUGH_BRIGHT:
        more = _read(planes, itertools.islice(parts, most - _PLACES), spoilt)
        found = [np.concatenate(both, axis=1) for both in zip(found, more, strict=True)]
    return GainSample(found[0], found[1], found[2], n_all)


def _read(planes: Planes, places: Iterator[Part], spoilt: np.int32) -> list[NDArray[Any]]:
    """Image, variance and which pixels are usable at some places, as one row."""
    parts = list(places)
    if not parts:
        return [np.empty((1, 0), dtype) for dtype in (np.float32, np.float32, np.bool_)]
    image, variance, mask = (
        np.concatenate([part.reshape(1, -1) for part in planes.parts(name, parts)], axis=1)
        for name in ("image", "variance", "mask")
    )
    return [image, variance, (mask & spoilt) == 0]


def _places(shape: tuple[int, int], pieces: tuple[int, int]) -> tuple[Iterator[Part], int]:
    """Blocks of pieces in an order in which any first few are spread evenly over the image, and a block's pixels."""
    (ny, nx), (height, width) = shape, (min(piece, n) for piece, n in zip(pieces, shape, strict=True))
    height *= math.ceil(_PLACE_PIXELS / (height * width))
    down, along = math.ceil(ny / height), math.ceil(nx / width)

    def blocks() -> Iterator[Part]:
        seen: set[tuple[int, int]] = set()
        # Halton's sequence: each block comes sooner or later.
        for k in itertools.count(1):
            place = int(_radical_inverse(k, 2) * down), int(_radical_inverse(k, 3) * along)
            if place not in seen:
                seen.add(place)
                (j, i) = place
                rows = range(j * height, min((j + 1) * height, ny))
                yield rows, range(i * width, min((i + 1) * width, nx))
            if len(seen) == down * along:
                return

    return blocks(), min(height, ny) * width


def _radical_inverse(k: int, base: int) -> float:
    """Mirror the digits of a number at the decimal point."""
    found, unit = 0.0, 1.0
    while k:
        k, digit = divmod(k, base)
        unit /= base
        found += digit * unit
    return found
