"""Sources of difference images: in the science image, in the template through the matching kernel, or in both.

A difference image is science - kernel * template (a convolution), on the pixels, the PSF and the photometric scale of
the science image. A source of flux F in the science image therefore adds F P_s, and one in the template takes away
F (kernel * P_t), with P_s and P_t the PSFs of the two images, each scaled to the calibration as on its own image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.catalog import Flag
from skygraft.catalog.flags import NOT_DRAWN, has_flag
from skygraft.errors import InjectionError
from skygraft.exposure import DIFFERENCE, Exposure
from skygraft.psf import PSF, DifferenceImage, MatchedPSF
from skygraft.render import Canvas, Normalisation, RenderReport, Sources, render

__all__ = [
    "TemplateSide",
    "describe_difference",
    "difference_words",
    "draw_sources",
    "in_template",
    "refuse_template",
    "template_side",
]


@dataclass(frozen=True, eq=False)
class TemplateSide:
    """The kernel and PSF that sources in the template are drawn with.

    Parameters
    ----------
    difference : DifferenceImage
        Kernel and PSF of the template, neither of them None.
    psf : MatchedPSF
        The template's PSF as it is in the difference image, but for its sign.
    """

    difference: DifferenceImage
    psf: MatchedPSF

    def describe(self, sources: Sources, into: NDArray[np.str_]) -> dict[str, Any]:
        """Describe the template's PSF, and the matching kernel's median sum at the sources in the template.

        Parameters
        ----------
        sources : Sources
            The sources.
        into : ndarray of str, shape (N,)
            The catalogue's `inject_into` of each.

        Returns
        -------
        dict
            JSON types.
        """
        kernel, mine = self.difference.kernel, in_template(into)
        x, y = sources.x[mine], sources.y[mine]
        return {
            "n_in_template": int(np.count_nonzero(mine)),
            "template_psf": self.difference.origin,
            "kernel_sum": None if kernel is None else kernel.median_sum(x, y),
            "template_noise": False,
        }


def in_template(into: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Find the sources that are in the template of a difference image.

    Parameters
    ----------
    into : ndarray of str, shape (N,)
        The catalogue's `inject_into`.

    Returns
    -------
    ndarray of bool, shape (N,)
    """
    return np.isin(into, ("template", "both"))


def template_side(exposure: Exposure, into: NDArray[np.str_]) -> TemplateSide | None:
    """Find the kernel and PSF that sources in the template of a difference image are drawn with.

    Parameters
    ----------
    exposure : Exposure
        The image.
    into : ndarray of str
        The catalogue's `inject_into`.

    Returns
    -------
    TemplateSide or None
        None where no source is in the template.

    Raises
    ------
    InjectionError
        If there are some, and the image is no difference image, or does not tell its kernel or its template's PSF.
    """
    wanted = in_template(into)
    if not wanted.any():
        return None
    what = f"{np.count_nonzero(wanted)} of {len(into)} sources are to be in the template (inject_into)"
    difference = exposure.extra.get(DIFFERENCE)
    if not isinstance(difference, DifferenceImage):
        raise InjectionError(
            f"{what}, and this is no difference image with a matching kernel",
            path=exposure.path,
            key="inject_into",
            fix="Inject these sources into difference images of lsst.images, or remove the column",
        )
    if difference.kernel is None or difference.template_psf is None:
        raise InjectionError(
            f"{what}, and the difference image does not say how it was made: {difference.missing}",
            path=exposure.path,
            key="inject_into",
            fix="Take one that holds its kernel and templates; a template's PSF can be given (template_psf=)",
        )
    return TemplateSide(difference, MatchedPSF(difference.kernel, difference.template_psf))


def refuse_template(exposure: Exposure, what: str, instead: str) -> None:
    """Raise for sources in the template of a difference image, with settings that know none.

    Parameters
    ----------
    exposure : Exposure
        The image.
    what, instead : str
        The settings, and what to do but removing the column.

    Raises
    ------
    InjectionError
    """
    raise InjectionError(
        f"{what} know no sources in the template of a difference image",
        path=exposure.path,
        key="inject_into",
        fix=f"Remove the column, or {instead}",
    )


def describe_difference(exposure: Exposure) -> dict[str, Any] | None:
    """Describe how a difference image was made, with its kernel at the middle.

    Parameters
    ----------
    exposure : Exposure
        The image.

    Returns
    -------
    dict or None
        JSON types; None for other images.
    """
    found = exposure.extra.get(DIFFERENCE)
    if not isinstance(found, DifferenceImage):
        return None
    kernel = found.kernel
    return {
        "kernel_shape": None if kernel is None else list(kernel.shape),
        "kernel_sum": None if kernel is None else kernel.median_sum(*exposure.box.center),
        "template_psf": None if found.template_psf is None else found.template_psf.description,
        "template_psf_origin": found.origin,
        "missing": found.missing,
    }


def difference_words(difference: Mapping[str, Any]) -> str:
    """Put what `describe_difference` gives into words.

    Parameters
    ----------
    difference : mapping
        What it gave.

    Returns
    -------
    str
    """
    if difference["missing"]:
        return f"science image less template; sources cannot be put into the template: {difference['missing']}"
    (ny, nx), total = difference["kernel_shape"], difference["kernel_sum"]
    total_text = "unknown" if total is None else f"{total:.4f}"
    return (
        f"science image less template through a kernel of {nx} x {ny} pixels, sum {total_text}; PSF of the template: "
        f"{difference['template_psf_origin']}"
    )


class _TemplateNormalisation:
    """Scales the template's PSF to the calibration as on the template itself; see `Normalisation`."""

    def __init__(self, psf: PSF, of_template: Normalisation) -> None:
        self._psf, self._normalisation = psf, of_template

    def __call__(
        self, kernels: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scale and aperture fraction, each of shape (N,), at (x, y): of the kernels before they were matched."""
        del kernels
        return self._normalisation(self._psf.kernels(x, y), x, y)

    def of_coefficients(
        self, coefficients: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Raise: a matched PSF is no sum of fixed images."""
        raise InjectionError("a PSF through a matching kernel has no basis")


def draw_sources(
    exposure: Exposure,
    sources: Sources,
    into: NDArray[np.str_],
    side: TemplateSide | None,
    canvas: Canvas,
    normalisation: Normalisation,
    normalise: Callable[[PSF], Normalisation],
    *,
    template_flux: NDArray[np.float64] | None = None,
    progress: Callable[[int], None] | None = None,
    **settings: Any,
) -> tuple[RenderReport, NDArray[np.float32] | None]:
    """Draw sources onto the canvas, and those in a difference image's template, negative, onto another one.

    Parameters
    ----------
    exposure : Exposure
        The image.
    sources : Sources
        All of them.
    into : ndarray of str, shape (N,)
        ``science`` or empty, ``template`` or ``both``.
    side : TemplateSide or None
        What those in the template are drawn with; None where there are none.
    canvas : Canvas
        Empty; for the light in the science image, which of all other images is all there is.
    normalisation : Normalisation
        Of the image's PSF.
    normalise : callable
        Gives that of another PSF.
    template_flux : ndarray of float64, shape (N,), optional
        Fluxes in the template, where they are not those of `sources`.
    progress : callable, optional
        Called with the number of sources drawn since the last call.
    **settings
        Of `skygraft.render.render`.

    Returns
    -------
    report : RenderReport
        What was deposited in the image, and the scales of the science image, or of the template where a source is in
        that alone.
    ndarray of float32, shape (ny, nx), or None
        The light that the difference image loses, negative; None where no source is in its template.

    Notes
    -----
    A source that is in both, and that one of the two PSFs cannot draw, is drawn in neither.
    """
    if side is None or side.difference.template_psf is None:
        return render(sources, exposure.psf, canvas, exposure.box, normalisation, progress=progress, **settings), None
    of_template = side.difference.template_psf
    template = side.psf, _TemplateNormalisation(of_template, normalise(of_template))
    n = len(sources)
    in_science, in_both = into != "template", into == "both"
    failed = np.zeros(n, dtype=np.bool_)
    flags, reasons = np.zeros(n, dtype=np.int64), dict[int, str]()
    while True:
        taken = Canvas.empty(canvas.model.shape, (canvas.x0, canvas.y0))
        canvas.model[...] = 0.0
        report = RenderReport.empty(n)
        # The template first: where a source is in both, the scales reported are those of the science image.
        there = sources.flux if template_flux is None else template_flux
        for wanted, (psf, scale), onto, flux in (
            (in_template(into), template, taken, -there),
            (in_science, (exposure.psf, normalisation), canvas, sources.flux),
        ):
            rows = np.flatnonzero(wanted & ~failed)
            part = render(_some(sources, rows, flux), psf, onto, exposure.box, scale, **settings)
            _merge(report, part, rows)
        broken = in_both & ~failed & has_flag(report.flags, NOT_DRAWN)
        if not broken.any():
            break
        flags[broken] = report.flags[broken]
        reasons |= {row: text for row, text in report.messages.items() if broken[row]}
        failed |= broken
    report.flags[failed] = flags[failed]
    report.messages.update(reasons)
    report.flags[in_template(into) & ~has_flag(report.flags, NOT_DRAWN)] |= int(Flag.IN_TEMPLATE)
    if progress is not None:
        progress(n)
    return report, taken.model


def _some(sources: Sources, rows: NDArray[np.intp], flux: NDArray[np.float64]) -> Sources:
    names = [f.name for f in dataclasses.fields(Sources) if f.name not in ("shape", "flux")]
    parts = {name: getattr(sources, name)[rows] for name in names}
    shape = {name: column[rows] for name, column in sources.shape.items()}
    return Sources(**parts, flux=flux[rows], shape=shape)


def _merge(report: RenderReport, part: RenderReport, rows: NDArray[np.intp]) -> None:
    """Merge the report of some sources into the report of all."""
    report.flux_deposited[rows] += part.flux_deposited
    report.stamp_size[rows] = np.maximum(report.stamp_size[rows], part.stamp_size)
    report.flags[rows] |= part.flags
    for name in ("aperture_fraction", "kernel_scale", "psf_fwhm"):
        new = getattr(part, name)
        getattr(report, name)[rows] = np.where(np.isfinite(new), new, getattr(report, name)[rows])
    report.messages.update({int(rows[i]): text for i, text in part.messages.items()})
