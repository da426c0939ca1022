"""How stamps lie on an image: their files, and the matrix from the image's pixels to theirs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import InjectionError
from skygraft.render.lensing import lensing_matrices
from skygraft.render.sources import Sources
from skygraft.render.stamp_files import Stamp, read_stamps

__all__ = ["PlacedStamps", "place_stamps"]


@dataclass(frozen=True, eq=False)
class PlacedStamps:
    """Some stamps on an image.

    Parameters
    ----------
    stamps : list of Stamp or Exception
        Their images, or why one cannot be used.
    matrix : ndarray, shape (N, 2, 2)
        A: stamp pixels per pixel of the image; NaN where there is no image.
    convolved : ndarray of bool, shape (N,)
        Whether they are to be convolved with the PSF.
    own_flux : ndarray of bool, shape (N,)
        Whether their flux is that of their pixels, so that a source's flux is that of one unit of them.
    """

    stamps: list[Stamp | Exception]
    matrix: NDArray[np.float64]
    convolved: NDArray[np.bool_]
    own_flux: NDArray[np.bool_]
    determinant: NDArray[np.float64] = field(init=False)
    """Of A, shape (N,)."""
    step: NDArray[np.float64] = field(init=False)
    """Longest distance in the stamp from one pixel of the image to the next, stamp pixels, shape (N,)."""
    inverse: NDArray[np.float64] = field(init=False)
    """Of A; not finite where there is none, shape (N, 2, 2)."""
    is_unit: NDArray[np.bool_] = field(init=False)
    """Where the stamp's axes and pixels are those of the image, shape (N,)."""
    half: NDArray[np.float64] = field(init=False)
    """Half the sides (x, y) of the box around the stamp, pixels of the image, shape (N, 2)."""
    per_margin: NDArray[np.float64] = field(init=False)
    """What is to be added to them for each pixel of the stamp that is added on each side, shape (N, 2)."""

    def __post_init__(self) -> None:
        (a, b), (c, d) = np.moveaxis(self.matrix, 0, -1)
        with np.errstate(all="ignore"):
            determinant = a * d - b * c
            inverse = np.moveaxis(np.array([[d, -b], [-c, a]]) / determinant, -1, 0)
        # The largest singular value.
        middle, spread = (
            0.5 * (a * a + b * b + c * c + d * d),
            np.hypot(0.5 * (a * a + c * c - b * b - d * d), a * b + c * d),
        )
        shapes = [(1, 1) if isinstance(stamp, Exception) else stamp.pixels.shape for stamp in self.stamps]
        sides = np.array(shapes, dtype=np.float64).reshape(-1, 2)[:, ::-1]
        values = {
            "determinant": determinant,
            "step": np.sqrt(middle + spread),
            "inverse": inverse,
            "is_unit": (self.matrix == np.eye(2)).all(axis=(1, 2)),
            "half": 0.5 * (np.abs(inverse) @ sides[:, :, None])[:, :, 0],
            "per_margin": np.abs(inverse).sum(axis=2),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def half_side(self, k: int, margin: float) -> float:
        """Half the longer side of the box around a stamp with so many of its pixels more on each side, image pixels."""
        return float((self.half[k] + margin * self.per_margin[k]).max())


def _texts(sources: Sources, name: str, rows: NDArray[np.intp]) -> NDArray[np.str_]:
    if name not in sources.shape:
        return np.full(len(rows), "")
    return np.char.strip(np.asarray(sources.shape[name])[rows].astype(np.str_))


def _numbers(sources: Sources, name: str, rows: NDArray[np.intp], default: float) -> NDArray[np.float64]:
    if name not in sources.shape:
        return np.full(len(rows), default)
    found = np.asarray(sources.shape[name], dtype=np.float64)[rows]
    return np.where(np.isfinite(found), found, default)


def place_stamps(sources: Sources, rows: NDArray[np.intp]) -> PlacedStamps:
    """Read the stamps of some sources, and find how their pixels lie on the image's.

    Parameters
    ----------
    sources : Sources
        With the Jacobians of the image, of lensed sources in arcsec before lensing.
    rows : ndarray of int, shape (N,)
        Those of type Stamp to read.
    """
    alignment, own_flux = _texts(sources, "stamp_alignment", rows), _texts(sources, "stamp_flux", rows) == "stamp"
    paths = _texts(sources, "stamp", rows).tolist()
    stamps = read_stamps(paths, _numbers(sources, "stamp_index", rows, -1.0).astype(np.int64).tolist())
    jacobian = sources.jacobian[rows]
    own = np.full((len(rows), 2, 2), np.nan)
    pixel = np.zeros(len(rows), dtype=np.bool_)
    for k, stamp in enumerate(stamps):
        if isinstance(stamp, Exception):
            continue
        try:
            if not own_flux[k]:
                stamp.check_flux(paths[k])
            if alignment[k] == "wcs" and stamp.jacobian is None:
                raise InjectionError(
                    "the stamp has no celestial WCS to align it by", path=paths[k], key="stamp_alignment",
                    fix="Write one into its header, or use stamp_alignment pixel",
                )  # fmt: skip
        except InjectionError as error:
            stamps[k] = error
            continue
        pixel[k] = stamp.jacobian is None or alignment[k] == "pixel"
        if not pixel[k]:
            own[k] = stamp.jacobian
    turn = _turns(_numbers(sources, "stamp_rotation", rows, 0.0))
    lensing = lensing_matrices(
        _numbers(sources, "shear", rows, 0.0),
        _numbers(sources, "shear_pa", rows, 0.0),
        _numbers(sources, "magnification", rows, 1.0),
    )
    usable = ~np.isnan(own[:, 0, 0])
    matrix = np.full_like(own, np.nan)
    with np.errstate(all="ignore"):
        matrix[usable] = np.linalg.solve(turn[usable] @ own[usable], jacobian[usable])
        # Their own axes are those of the image before lensing.
        turned = pixel & ((turn != np.eye(2)).any(axis=(1, 2)) | (lensing != np.eye(2)).any(axis=(1, 2)))
        of_image = lensing[turned] @ jacobian[turned]
        of_image[~(np.abs(np.linalg.det(of_image)) > 0)] = np.nan
        matrix[turned] = np.linalg.solve(turn[turned] @ of_image, jacobian[turned])
    matrix[pixel & ~turned] = np.eye(2)
    return PlacedStamps(stamps, matrix, _texts(sources, "stamp_psf", rows) != "none", own_flux)


def _turns(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotations on the sky (East, North) by angles in degrees from North towards East, shape (N, 2, 2)."""
    sine, cosine = np.sin(np.radians(angle)), np.cos(np.radians(angle))
    return np.stack([np.stack([cosine, sine], -1), np.stack([-sine, cosine], -1)], axis=-2)
