"""Read parts that only some ``lsst.images`` have: noise realizations of a coadd, kernel of a difference image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import ConfigError, PsfError
from skygraft.exposure import COADD_NOISE, DIFFERENCE
from skygraft.formats.given import GivenPsf, make_psf
from skygraft.noise import CellGrid, CoaddNoise
from skygraft.psf import PSF, Box, DifferenceImage, MatchingKernel, TemplatePSF, gaussian_of_moments, reshaped

__all__ = ["coadd_noise", "difference_image"]


def coadd_noise(image: Any) -> dict[str, Any]:
    """Return the noise realizations and cells of a cell coadd, for `Exposure.extra`; empty for other images."""
    if not hasattr(image, "noise_realizations"):
        return {}
    grid = image.grid
    start, size = (grid.bbox.x.start, grid.bbox.y.start), (grid.cell_shape.x, grid.cell_shape.y)
    cells = CellGrid((int(start[0]), int(start[1])), (int(size[0]), int(size[1]))) if min(size) > 0 else None
    planes = tuple(np.asarray(one.array, dtype=np.float32) for one in image.noise_realizations)
    return {COADD_NOISE: CoaddNoise(planes, cells)}


def difference_image(
    image: Any,
    kind: str,
    *,
    science_psf: PSF | None,
    template_psf: GivenPsf | None,
    pixel_scale: float,
    path: str | os.PathLike[str],
) -> dict[str, Any]:
    """Return matching kernel and template PSF of a difference image, for `Exposure.extra`; empty for other images.

    Parameters
    ----------
    image : lsst.images object
        Its ``kernel`` was convolved with the template. Its ``templates`` list the template coadds, the area of each,
        and the second moments of their PSFs in pixels of the science image.
    kind : str
        Kind of image, from its schema.
    science_psf : PSF or None
        PSF of the science image. Stretched to the second moments of the template's PSF, it is used as the template's
        PSF; without it, a Gaussian of these moments is used.
    template_psf : PSF, path or mapping, optional
        PSF of the template in pixels of the science image, instead.
    pixel_scale : float
        Arcsec per pixel.
    path : path-like
        For errors.

    Returns
    -------
    dict
        With a `DifferenceImage` for a difference image.

    Raises
    ------
    ConfigError
        If a template PSF is given for another kind of image.
    """
    if kind != "difference_image":
        if template_psf is not None:
            raise ConfigError(
                f"template_psf is given for a {kind}, which has no template",
                path=path,
                key="template_psf",
                fix="Omit it",
            )
        return {}
    missing: list[str] = []
    kernel: MatchingKernel | None = None
    try:
        kernel = _matching_kernel(getattr(image, "kernel", None))
    except (PsfError, ConfigError, TypeError, ValueError) as error:
        missing.append(f"its matching kernel cannot be used: {getattr(error, 'message', error)}")
    else:
        if kernel is None:
            missing.append("it carries no matching kernel")
        elif str(image.unit) != "nJy":
            # Templates are in nJy; the matched template is too only if the kernel was fitted to an image in nJy.
            kernel = None
            missing.append(f"it is in {image.unit}, not in nJy, so that the scale of its matching kernel is not known")
    psf: PSF | None = None
    origin = "given (template_psf=)"
    if template_psf is not None:
        psf = make_psf(template_psf, pixel_scale)
    else:
        templates = getattr(image, "templates", None) or ()
        try:
            psf, origin = _template_psf(templates, science_psf)
        except PsfError as error:
            missing.append(f"the PSF of its template is not known ({error.message})")
    return {DIFFERENCE: DifferenceImage(kernel, psf, origin if psf is not None else "", "; ".join(missing))}


def _matching_kernel(kernel: Any) -> MatchingKernel | None:
    if kernel is None:
        return None
    if not (hasattr(kernel, "basis") and hasattr(kernel, "spatial")):
        raise ConfigError(f"a {type(kernel).__name__} is not a sum of images")
    box, bounds = kernel.kernel_bbox, kernel.bounds
    bounds = bounds.bbox if hasattr(bounds, "bbox") else bounds
    valid = Box(bounds.x.start - 0.5, bounds.x.stop - 0.5, bounds.y.start - 0.5, bounds.y.stop - 0.5)
    return MatchingKernel(kernel.basis, (-int(box.x.start), -int(box.y.start)), kernel.spatial, valid_box=valid)


def _template_psf(templates: Sequence[Any], science: PSF | None) -> tuple[TemplatePSF, str]:
    """PSF with the recorded second moments of each template in its polygon, and a text about its origin."""
    known = [one for one in templates if not one.psf_shape_flag]
    if not known:
        raise PsfError("its list of templates holds no moments" if templates else "it carries no list of templates")
    polygons = [np.stack([one.bounds.x_vertices, one.bounds.y_vertices], axis=1) for one in known]
    moments = [(float(one.psf_shape_xx), float(one.psf_shape_yy), float(one.psf_shape_xy)) for one in known]
    recorded = f"the second moments recorded for {len(known)} template{'s' if len(known) > 1 else ''}"
    gaussians = [gaussian_of_moments(*some) for some in moments]
    if science is not None:
        try:
            kernels = [_science_kernel(science, polygon) for polygon in polygons]
            stretched = [reshaped(kernel, some) for kernel, some in zip(kernels, moments, strict=True)]
        except PsfError:
            pass  # the science PSF is undefined there, or has no moments: use Gaussians
        else:
            return TemplatePSF(polygons, stretched), f"the science image's, stretched to {recorded}"
    return TemplatePSF(polygons, gaussians), f"Gaussian of {recorded}"


def _science_kernel(psf: PSF, polygon: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kernel of the science image at the middle of a template's polygon, or at the nearest valid position."""
    x, y = polygon.mean(axis=0)
    if (box := psf.valid_box) is not None:
        x, y = np.clip(x, box.x_min, box.x_max), np.clip(y, box.y_min, box.y_max)
    kernel: NDArray[np.float64] = psf.kernels([x], [y])[0]
    return kernel
