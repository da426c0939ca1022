"""Parts that only some of Rubin's ``lsst.images`` have: a coadd's noise realizations, a difference image's kernel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from skygraft.errors import ConfigError, PsfError
from skygraft.exposure import COADD_NOISE, DIFFERENCE
from skygraft.formats.given import GivenPsf, make_psf
from skygraft.noise import CellGrid, CoaddNoise
from skygraft.psf import PSF, Box, DifferenceImage, MatchingKernel, TemplatePSF, gaussian_of_moments

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
    image: Any, kind: str, template_psf: GivenPsf | None, pixel_scale: float, path: str | os.PathLike[str]
) -> dict[str, Any]:
    """How a difference image came about, for `Exposure.extra`; empty for other images.

    Parameters
    ----------
    image : lsst.images object
        Its ``kernel`` was convolved with the template. Its ``templates`` say which coadds these were, where, and what
        second moments their PSFs have on the pixels of the science image.
    kind : str
        Of its schema.
    template_psf : PSF, path or mapping, optional
        The template's PSF on the pixels of the science image, instead of Gaussians of these moments.
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
    psf: PSF | None = None
    origin = "given (template_psf=)"
    if template_psf is not None:
        psf = make_psf(template_psf, pixel_scale)
    else:
        templates = getattr(image, "templates", None) or ()
        try:
            psf, origin = _template_psf(templates), _origin(templates)
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


def _template_psf(templates: Sequence[Any]) -> TemplatePSF:
    """Gaussians that have the second moments recorded for the templates, each in its template's polygon."""
    known = [one for one in templates if not one.psf_shape_flag]
    if not known:
        raise PsfError("its list of templates holds no moments" if templates else "it carries no list of templates")
    polygons = [np.stack([one.bounds.x_vertices, one.bounds.y_vertices], axis=1) for one in known]
    return TemplatePSF(
        polygons, [gaussian_of_moments(one.psf_shape_xx, one.psf_shape_yy, one.psf_shape_xy) for one in known]
    )


def _origin(templates: Sequence[Any]) -> str:
    known = sum(not one.psf_shape_flag for one in templates)
    return f"Gaussian of the second moments recorded for {known} template{'s' if known > 1 else ''}"
