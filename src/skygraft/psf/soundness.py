"""Checks that every PSF passes before a source is drawn with it, whatever file it came from.

The limits are far from anything that a survey has published, so that what is refused is damage and not bad seeing.
Kernels of LSST, DECam, VIRCAM, MegaCam and Rubin images sum to 0.43 (of coadds' cells, cut to 5 x 5 pixels) to 1.06,
and the sizes of their pixels to at most 1.32 times that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import PsfError
from skygraft.psf.base import PSF, Box
from skygraft.psf.linear import LinearPSF, combine
from skygraft.psf.psfex import PsfexPSF

__all__ = ["check_coefficients", "check_kernels", "check_psf_soundness"]

_SUM = (0.2, 5.0)
_PSFEX_SUM = (0.7, 1.55)
"""Of PSFEx models in the middle of an image: 1.01 to 1.09 in real files, since they were fitted to stars of sum one;
up to 1.48 in BASS's first ones. Fluxes do not depend on it."""
_ANY_SCALE = (1e-3, 1e3)
_MOST_OSCILLATION = 3.0
"""Sum of the sizes of a kernel's pixels, in units of its sum."""
_MOST_OFF_CENTRE = 0.25
"""Distance of a kernel's centroid from its middle pixel, in units of its side, and not less than two pixels."""
_LEAST_OFF_CENTRE = 2.0


def check_kernels(
    kernels: NDArray[np.float64],
    *,
    band: tuple[float, float] = _SUM,
    sums: NDArray[np.float64] | None = None,
    places: NDArray[np.float64] | None = None,
) -> None:
    """Refuse kernels that cannot be images of a point source.

    Parameters
    ----------
    kernels : ndarray, shape (N, ny, nx)
        Kernels, as the model gives them.
    band : (float, float), optional
        What their sums may be.
    sums : ndarray, shape (N,), optional
        Their sums, where the model divides by them.
    places : ndarray, shape (N, 2), optional
        Where they are, pixels, for messages.

    Raises
    ------
    PsfError
        If a kernel holds a value that is not finite, sums to something outside the band, oscillates more than any PSF
        does, or has its centroid far from its middle.
    """
    n, ny, nx = kernels.shape
    with np.errstate(all="ignore"):
        total = kernels.sum(axis=(1, 2))
        size = np.abs(kernels).sum(axis=(1, 2))
        off = np.hypot(
            np.einsum("nij,j->n", kernels, np.arange(nx) - nx // 2) / total,
            np.einsum("nij,i->n", kernels, np.arange(ny) - ny // 2) / total,
        )
        model = total if sums is None else sums
        allowed = max(_LEAST_OFF_CENTRE, _MOST_OFF_CENTRE * max(ny, nx))
        problems = (
            (~np.isfinite(size), "holds values that are not finite", size),
            (~((model > band[0]) & (model < band[1])), f"sums to {{:.4g}}, not to {band[0]:g} to {band[1]:g}", model),
            (
                ~(size < _MOST_OSCILLATION * total),
                f"has pixels whose sizes sum to {{:.4g}} times its sum; at most {_MOST_OSCILLATION:g} is allowed",
                size / total,
            ),
            (~(off <= allowed), f"has its centroid {{:.3g}} pixels from its middle; {allowed:g} are allowed", off),
        )
    for bad, what, value in problems:
        if bad.any():
            i = int(np.argmax(bad))
            where = f"number {i} of {n}" if places is None else f"at ({places[i, 0]:.1f}, {places[i, 1]:.1f})"
            raise PsfError(
                f"the PSF's kernel {where} {what.format(value[i])}: it is no image of a point source",
                fix="Give another PSF for this image (psf=, --psf, survey: calibration: psf), or make the file again",
            )


def check_coefficients(
    psf: LinearPSF, coefficients: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
) -> None:
    """Refuse positions at which the sum of the kernel is one that no PSF has.

    Parameters
    ----------
    psf : LinearPSF
        The model.
    coefficients : ndarray, shape (N, B)
        Of its basis, at the positions.
    x, y : ndarray, shape (N,)
        Positions, pixels.

    Raises
    ------
    PsfError
        If one does, or is not finite: polynomials run away outside of where they hold.
    """
    with np.errstate(all="ignore"):
        sums = combine(coefficients, psf.basis.sum(axis=(1, 2)))
    bad = ~((sums > _SUM[0]) & (sums < _SUM[1]))
    if bad.any():
        i = int(np.argmax(bad))
        raise PsfError(
            f"the PSF's kernel at ({x[i]:.1f}, {y[i]:.1f}) sums to {sums[i]:.4g}, not to {_SUM[0]:g} to {_SUM[1]:g}",
            fix="Leave out sources outside the PSF's valid_box",
        )


def check_psf_soundness(psf: PSF, box: Box | None) -> None:
    """Refuse a PSF whose kernels cannot be images of a point source, at nine places over an image.

    Models that are no sum of images are not evaluated here, which may take long: each of their kernels is checked
    where it is made, and a source that has none is flagged.

    Parameters
    ----------
    psf : PSF
        The model.
    box : Box or None
        The image's outer edges, parent pixels; None where they are not known.

    Raises
    ------
    PsfError
        As `check_kernels`.
    """
    if not isinstance(psf, LinearPSF):
        return
    x, y = _places(psf.valid_box, box)
    with np.errstate(all="ignore"):
        kernels = combine(psf.coefficients(x, y), psf.basis)
    places, band, sums = np.stack([x, y], axis=1), _SUM, kernels.sum(axis=(1, 2))
    if isinstance(psf, PsfexPSF):
        sums = psf.model_sums(x, y)
        # Where each kernel is divided by its sum, the samples may be of any scale, but for that of damage.
        band = _SUM if psf.convention == "psfex" else _ANY_SCALE
        if psf.convention == "psfex":
            middle = slice(len(x) // 2, len(x) // 2 + 1)
            check_kernels(kernels[middle], band=_PSFEX_SUM, sums=sums[middle], places=places[middle])
    check_kernels(kernels, band=band, sums=sums, places=places)


def _places(valid: Box | None, box: Box | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Choose three by three places over the part of an image where a model is valid."""
    if box is None or valid is None:
        area = box or valid or Box(0.0, 0.0, 0.0, 0.0)
    else:
        area = Box(
            max(box.x_min, valid.x_min), min(box.x_max, valid.x_max),
            max(box.y_min, valid.y_min), min(box.y_max, valid.y_max),
        )  # fmt: skip
        if area.x_min > area.x_max or area.y_min > area.y_max:
            area = box  # the model will be evaluated there in any case
    x, y = np.meshgrid(np.linspace(area.x_min, area.x_max, 3), np.linspace(area.y_min, area.y_max, 3))
    return x.ravel(), y.ravel()
