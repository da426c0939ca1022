"""Parts that only some of Rubin's ``lsst.images`` have: a coadd's noise realizations, a difference image's kernel."""

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
    """What a cell coadd tells about the correlation of its noise, for `Exposure.extra`; empty for other images."""
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
    """How a difference image came about, for `Exposure.extra`; empty for other images.

    Parameters
    ----------
    image : lsst.images object
        Its ``kernel`` was convolved with the template. Its ``templates`` say which coadds these were, where, and what
        second moments their PSFs have on the pixels of the science image.
    kind : str
        Of its schema.
    science_psf : PSF or None
        The image's: stretched to these moments, it is taken for the template's; without it, a Gaussian is.
    template_psf : PSF, path or mapping, optional
        The template's PSF on the pixels of the science image, instead of that.
    pixel_scale : float
        Arcsec per pixel.
    path : path-like
        For errors.

    Raises
    ------
    ConfigError
        If a template's PSF is given for what is no difference image.
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
            # Templates are in nJy; then so is what the kernel makes of them only if it was fitted to an image in nJy.
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
    """A kernel with the second moments recorded for each template, in its polygon; and where all that comes from."""
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
            pass  # a model without a kernel there, or without moments
        else:
            return TemplatePSF(polygons, stretched), f"the science image's, stretched to {recorded}"
    return TemplatePSF(polygons, gaussians), f"Gaussian of {recorded}"


def _science_kernel(psf: PSF, polygon: NDArray[np.float64]) -> NDArray[np.float64]:
    """The science image's kernel at the middle of a template's polygon, or where its model begins to hold."""
    x, y = polygon.mean(axis=0)
    if (box := psf.valid_box) is not None:
        x, y = np.clip(x, box.x_min, box.x_max), np.clip(y, box.y_min, box.y_max)
    kernel: NDArray[np.float64] = psf.kernels([x], [y])[0]
    return kernel
