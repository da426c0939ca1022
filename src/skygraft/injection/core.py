"""Inject sources into one exposure: a pure function, no files, no Dask.

The order of things: place the sources on the image, turn magnitudes into image flux, scale the PSF at each place to
what the image's calibration is the flux of, draw, add with photon noise, mark the mask, and report every source.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog import Flag, count_flags
from skygraft.conventions import LSST, Conventions, conventions_record
from skygraft.display import Rows, html_table, text_table
from skygraft.errors import ConfigError
from skygraft.exposure import Exposure
from skygraft.injection import lsst
from skygraft.injection.calibrating import (
    ImageNormalisation,
    aperture_radius,
    check_soundness,
    flag_small_kernel,
    image_gain,
    image_photo_calib,
    require_psf,
)
from skygraft.injection.coadd_noise import image_noise, noise_words
from skygraft.injection.differences import draw_sources, refuse_template
from skygraft.injection.drawn_columns import forget_what_did_not_land, report_into
from skygraft.injection.marking import Drawn, check_planes, mark, new_planes, with_planes
from skygraft.injection.options import CoaddNoise, InjectionOptions, Position, takes_settings
from skygraft.injection.placing import Placed, canonical, place, subset
from skygraft.injection.reach import Reach, reach_of
from skygraft.injection.roles import Role
from skygraft.injection.stamps import light_per_flux
from skygraft.injection.winged import WingedImage, describe_wings, winged_image
from skygraft.noise import add_flux
from skygraft.photometry import CalibrationReference, FluxMode, PhotoCalib, describe_reference, require_reference
from skygraft.psf import PSF
from skygraft.render import Canvas, Normalisation, RenderReport, Sources
from skygraft.render.engines import GalaxyEngine, StarEngine
from skygraft.timedomain.light_curves import LightCurves

__all__ = ["Injection", "inject"]

_SHOWN = 5
"""Largest number of messages about sources in `repr`."""

_MOST_LIGHT = 10.0
"""A source that deposits more than this many times its scaled flux is refused."""


@dataclass(frozen=True, eq=False, repr=False)
class Injection:
    """The result of `inject`: the new exposure, the truth table, and a summary.

    Parameters
    ----------
    exposure : Exposure
        The exposure with new planes; the one given is unchanged.
    truth : QTable
        One row per source given, in order of injection id: injection_id, image_id, ra, dec (deg), x, y (pixel, parent
        frame), source_type, band, mag, inst_flux (image units, what the calibration says), flux_deposited (image
        units, noise-free, what landed on the image), aperture_fraction (part of the PSF's own light inside the
        calibration aperture), kernel_scale, psf_fwhm (arcsec), stamp_size (pixel), flags
        (`skygraft.catalog.flags.Flag`).
    summary : dict
        What goes into the record: counts, conventions, flux mode, calibration, gain, seed, and how the noise is
        correlated between pixels.
    """

    exposure: Exposure
    truth: QTable
    summary: dict[str, Any]

    def __repr__(self) -> str:
        return text_table(f"Injection into {self.summary['image_id']}", self._rows())

    def _repr_html_(self) -> str:
        return html_table(f"Injection into {self.summary['image_id']}", self._rows())

    def _rows(self) -> Rows:
        """Label and text of each line of `repr`."""
        summary, (ny, nx), calib = self.summary, self.exposure.shape, self.exposure.photo_calib
        reference = "unknown" if calib is None else calib.reference_text
        noise = f"seed {summary['seed']}, gain {summary['gain']:.4g}" if summary["gain"] is not None else "none"
        if summary["noise_correlation"] is not None:
            noise += f", {noise_words(summary['noise_correlation'])}"
        rows = [
            ("sources", f"{summary['n_drawn']} drawn of {summary['n_sources']}, band {summary['band'] or 'unknown'}"),
            ("flux mode", f"{summary['flux_mode']}; calibrated to {reference}"),
            *([("wings", describe_wings(summary["wings"]))] if "wings" in summary else []),
            ("noise", noise),
            *_of_conventions(summary["conventions"]),
            ("flags", ", ".join(f"{n} x {name}" for name, n in summary["flags"].items()) or "none"),
            ("exposure", f"{nx} x {ny} pixels, see .exposure"),
            ("truth", f"{len(self.truth)} rows, see .truth: {', '.join(self.truth.colnames)}"),
        ]
        return rows + [("note", text) for text in summary["messages"][:_SHOWN]]


def _of_conventions(conventions: dict[str, str]) -> Rows:
    if "commit" not in conventions:
        return []
    return [("conventions", f"{conventions['name']} of {conventions['date']} ({conventions['commit'][:7]})")]


@takes_settings
def inject(
    exposure: Exposure,
    catalog: Any,
    *,
    options: InjectionOptions | None = None,
    image_id: str | None = None,
    band: str | None = None,
    dialect: str = "auto",
    on_bad: Literal["raise", "flag"] = "raise",
    light_curves: Any = None,
    role: Role = "auto",
    progress: Callable[[int], None] | None = None,
    flux_mode: FluxMode = "calibrated",
    aperture: Any = None,
    position: Position = "source",
    noise: bool = True,
    seed: int = 0,
    gain: float | None = None,
    coadd_noise: CoaddNoise = "correlated",
    flux_tolerance: float = 1e-3,
    mask_threshold: float = 0.1,
    mark_injected: bool = True,
    stars: StarEngine = "precise",
    galaxies: GalaxyEngine = "fast",
    conventions: Conventions = "skygraft",
    variance: bool | None = None,
    wings: Any = None,
) -> Injection:
    """Inject the sources of a catalogue into an exposure.

    Parameters
    ----------
    exposure : Exposure
        Not changed.
    catalog : table-like
        Sources, canonical or in a dialect that `skygraft.catalog.normalize_catalog` recognises: an astropy, pandas,
        Polars or Arrow table, a structured array, a dict of columns. Sources off the image are allowed: they are
        flagged, and those whose light reaches the image are drawn.
    options : InjectionOptions, optional
        All settings at once, from `flux_mode` on; a setting that is also given by name counts instead of the one
        in `options`.
    image_id : str, optional
        Name of the image in truth and random streams: images of one name and seed get the same noise. By default
        `Exposure.default_image_id`, from the data id and the band; of an image without a data id, from its name and
        pixels.
    band : str, optional
        Whose magnitudes to use; the exposure's band by default.
    dialect : str
        Of the catalogue, where it is not canonical.
    on_bad : {"raise", "flag"}
        Whether rows that cannot be drawn are an error, or are kept, flagged and not drawn.
    light_curves : LightCurves or table-like, optional
        Light curves of the sources that have one (column `light_curve`); a table of id, mjd, band, and mag or flux. For
        many images make a `skygraft.timedomain.LightCurves` of it once.
    role : {"auto", "science", "template"}
        What the image is in a search for transients: the catalogue's column `inject_into` decides which images have a
        source. ``auto`` takes coadds for templates. A template has variable sources with their rows' magnitudes.
    progress : callable, optional
        Called with the number of sources drawn since the last call.
    flux_mode : {"calibrated", "aperture", "psf_sum", "total"}
        What a source's flux is the flux of: the image's own calibration reference (default), the flux inside
        `aperture`, the sum of the PSF kernel, or everything in an infinite plane.
    aperture : str or mapping, optional
        For ``flux_mode="aperture"`` alone: ``"12 pix"``, ``"2 arcsec"`` or ``{"diameter": "4 arcsec"}``.
    position : {"source", "image"}
        Where the PSF is normalised: at each source, or for all sources at the average position of the PSF model (the
        image's centre where the model records none).
    noise : bool
        Add photon noise to the sources, and its variance to the variance plane.
    seed : int
        Seed of the noise, at least 0. The noise of a pixel depends on the seed, the image id and the pixel's position.
    gain : float, optional
        Electrons per image unit; by default the image's own, or the slope of its variance against its flux.
    coadd_noise : {"correlated", "white"}
        Photon noise of sources on a coadd: Gaussian, with the correlation between pixels of the coadd's own noise
        (measured on its noise realizations, or on its sky pixels); or independent between pixels, as on any other
        image. The variance added is the same.
    flux_tolerance : float
        Largest fraction of a source's flux that may fall outside of its stamp, between 0 and 0.5.
    mask_threshold : float
        INJECTED marks pixels that change by more than this fraction of their noise (standard deviation).
    mark_injected : bool
        Add the mask planes INJECTED (pixels that a source changes visibly) and INJECTED_CORE (3 x 3 pixels at each
        source). They say where the fakes are, not that their pixels are bad. Use False for software that ignores
        every pixel whose mask is not zero.
    stars : {"precise", "fast", "grid", "stamps", "galsim"}
        How stars are shifted by fractions of a pixel: exact to single precision; half again as fast, to 2e-4 of their
        peak where the FWHM is 3 pixels or more; or by GalSim. Where there are very many, ``precise`` and ``fast`` draw
        them together on a grid (see Crowded fields in the documentation): ``grid`` does so where there are few, too,
        and ``stamps`` nowhere.
    galaxies : {"fast", "precise", "galsim"}
        How Sérsic profiles are drawn: to 3e-4 of their peak where the FWHM is 3 pixels or more; to 5e-5, which takes
        longer; or by GalSim, which draws all other profiles in any case.
    conventions : {"skygraft", "lsst_source_injection"}
        Whose conventions are followed. Those of LSST's source_injection reproduce that package's pixels: see
        `skygraft.injection.lsst`. The PSF is then normalised at its average position whatever `position` says, the
        gain is fitted, and `flux_tolerance`, `mask_threshold`, `gain`, `stars` and `galaxies` are refused.
    variance : bool, optional
        Add the sources' variance to the variance plane; by default as `noise`. It may differ from `noise` only with
        conventions other than skygraft's own.
    wings : mapping or WingSettings, optional
        Extended wings of the PSF, such as ``{"model": "power_law", "alpha": 3, "join": "12 pix"}``; see `WingSettings`.

    Returns
    -------
    Injection

    Raises
    ------
    UnknownApertureError
        If nothing says what the image's calibrated flux is the flux of, and `flux_mode` is ``"calibrated"``.
    UncalibratedImageError
        If the image has no zeropoint.
    CalibrationError
        If noise is wanted and no gain is known.
    CatalogError
        If a row cannot be used, the catalogue has no magnitude for the image's band, or it is no table.
    ConfigError
        If an option is not one of those allowed, or of another type.
    InjectionError
        If the image has no PSF and the catalogue's sources need one, or some are to be in the template of a difference
        image (`inject_into`) whose file does not record how it was made.

    Notes
    -----
    A galaxy is scaled like a star of its magnitude, as is usual: its flux before convolution is F / A(r), with A(r) the
    fraction of the PSF inside the calibration aperture.

    The new mask has the planes ``INJECTED`` and ``INJECTED_CORE``, which say where the sources are. Leave them out when
    you measure, or every fake is masked: `Exposure.bad` does, and ``mark_injected=False`` does not add them.

    A difference image takes its sources as of its science image; the catalogue's column `inject_into` puts them into
    the template instead (``template``), or into both. What the image then loses is the source as it is in the template,
    convolved with the matching kernel at its place. No photon noise is drawn of the template's light.

    Sources that are injected into an image a second time need another seed, or their noise is the same.
    """
    opts = options or InjectionOptions()
    _check_arguments(exposure, image_id, band, progress)
    name = exposure.default_image_id(band) if image_id is None else image_id
    photo_calib = image_photo_calib(exposure)
    reference = (
        require_reference(photo_calib, exposure.path) if opts.flux_mode == "calibrated" else photo_calib.reference
    )
    band = band or exposure.data_id.band
    table = canonical(catalog, band, dialect, on_bad)
    curves = None if light_curves is None else LightCurves.of(light_curves)
    like_lsst = opts.conventions == LSST
    radius = aperture_radius(exposure, opts)
    winged = winged_image(exposure, opts, reference, radius)
    reach = lsst.within_padding if like_lsst else _light_of(exposure, opts) if winged is None else winged.reach
    placed = place(
        exposure,
        table,
        photo_calib,
        band,
        name,
        reach,
        extrapolate=like_lsst,
        role=role,
        light_curves=curves,
        on_bad=on_bad,
        of_stars=like_lsst or "galsim" in (opts.stars, opts.galaxies),
    )
    del table  # of ten million rows it takes half a gigabyte
    if like_lsst:
        if placed.template is not None:
            refuse_template(exposure, "LSST's conventions", "draw in skygraft's own conventions")
        placed = lsst.drawable(placed, on_bad)
    truth, sources = placed.truth, placed.sources
    require_psf(exposure, sources)
    if winged is not None and placed.template is not None:
        refuse_template(exposure, "extended wings", "inject without wings")
    calibrated = reference if opts.flux_mode == "calibrated" else None
    check_soundness(exposure, photo_calib, calibrated, radius)
    if like_lsst:
        scaled_by = lsst.calibration_radius(exposure, reference, radius)
        drawn = lsst.draw_sources(exposure, placed, opts, scaled_by, name, progress)
    else:

        def normalise(psf: PSF | None) -> ImageNormalisation:
            return ImageNormalisation(exposure.replace(psf=psf), opts, reference, radius)

        drawn = _draw(exposure, placed, opts, normalise, name, progress, winged)
    report = drawn.report
    check_planes(exposure, drawn.planes, report, drawn.gain)
    flag_small_kernel(exposure, calibrated, radius, report, None if winged is None else winged.wings.reach)
    report_into(truth, placed.rows, report, exposure)
    messages = [
        *placed.messages,
        *(f"injection_id {sources.injection_id[i]}: {text}" for i, text in sorted(report.messages.items())),
    ]
    summary = _summary(name, opts, photo_calib, reference, drawn, truth, messages, band)
    if placed.template is not None:
        summary["difference"] = placed.template.describe(sources, placed.into)
    if winged is not None:
        winged.note(summary, truth)
    return Injection(with_planes(exposure, drawn.planes), truth, summary)


def _light_of(exposure: Exposure, options: InjectionOptions) -> Callable[[Sources], Reach]:
    """Make the function that computes how far the light of sources reaches, as far as it is drawn."""
    half_kernel = 0 if exposure.psf is None else max(exposure.psf.shape) // 2
    return functools.partial(reach_of, half_kernel=half_kernel, flux_tolerance=options.flux_tolerance)


def _draw(
    exposure: Exposure,
    placed: Placed,
    options: InjectionOptions,
    normalise: Callable[[PSF | None], Normalisation],
    image_id: str,
    progress: Callable[[int], None] | None,
    winged: WingedImage | None = None,
) -> Drawn:
    """Draw the sources on the exposure's planes, in skygraft's own conventions."""
    sources = placed.sources
    gain = image_gain(exposure, options) if options.noise and len(sources) else None
    noise = None if gain is None else image_noise(exposure, options.coadd_noise)
    canvas, taken, report = _render(exposure, placed, normalise, options, progress, winged)
    forget_what_did_not_land(placed.truth, placed.rows, report)
    # The canvas becomes the new image, in place: allocating one more plane takes longer than filling it.
    planes = new_planes(exposure, canvas.model, new_variance=gain is not None, new_mask=options.mark_injected)
    if options.mark_injected:
        # A source that is in the template too may leave little but noise: the mask follows its own light.
        light = canvas if taken is None else Canvas(np.maximum(np.abs(canvas.model), np.abs(taken)), *exposure.xy0)
        mark(planes, light, exposure, sources, report, options.mask_threshold)
    variance = exposure.variance if gain is not None else None
    add_flux(
        exposure.image,
        variance,
        canvas.model,
        gain=gain,
        seed=options.seed,
        image_id=image_id,
        xy0=exposure.xy0,
        correlation=None if noise is None else noise.correlation,
        out=canvas.model,
        variance_out=None if variance is None else planes["variance"],
    )
    if taken is not None:  # the template's photon noise is not known
        np.add(canvas.model, taken, out=canvas.model, where=taken != 0)
    return Drawn(planes, report, gain, noise)


def _render(
    exposure: Exposure,
    placed: Placed,
    normalise: Callable[[PSF | None], Normalisation],
    options: InjectionOptions,
    progress: Callable[[int], None] | None,
    winged: WingedImage | None = None,
) -> tuple[Canvas, NDArray[np.float32] | None, RenderReport]:
    """Draw sources on a canvas; those that would make pixels infinite or NaN are flagged and left out.

    The second value is what a difference image loses to the sources in its template; see
    `skygraft.injection.differences.draw_sources`.
    """
    sources, normalisation = placed.sources, normalise(exposure.psf)
    drawn = np.ones(len(sources), dtype=np.bool_)
    while True:
        canvas, rows = Canvas.empty(exposure.shape, exposure.xy0), np.flatnonzero(drawn)
        chosen = sources if drawn.all() else subset(sources, drawn)
        report, taken = (
            (winged.draw(chosen, canvas, progress), None)
            if winged is not None
            else draw_sources(
                exposure,
                chosen,
                placed.into[drawn],
                placed.template,
                canvas,
                normalisation,
                normalise,
                template_flux=None if placed.template_flux is None else placed.template_flux[drawn],
                flux_tolerance=options.flux_tolerance,
                stars=options.stars,
                galaxies=options.galaxies,
                progress=progress,
            )
        )
        # The sum of what a source adds is not finite if any of its pixels is not. It exceeds its flux many times only
        # for a broken PSF, a sum of large images that nearly cancel.
        largest = np.abs(sources.flux[rows])
        if placed.template_flux is not None:
            largest = np.maximum(largest, np.abs(placed.template_flux[rows]))
        most = _MOST_LIGHT * largest * np.fmax(report.kernel_scale, 1.0)
        bad = ~np.isfinite(report.flux_deposited) | (np.abs(report.flux_deposited) > most)
        if (bad & (sources.source_type[rows] == "Stamp")).any():
            bad &= ~(np.abs(report.flux_deposited) <= most * light_per_flux(sources)[rows])
        if not bad.any():
            break
        drawn[rows[bad]], progress = False, None
    if drawn.all():
        return canvas, taken, report
    whole = RenderReport.empty(len(sources))
    for array in fields(RenderReport):
        if array.name != "messages":
            getattr(whole, array.name)[rows] = getattr(report, array.name)
    whole.messages.update({int(rows[i]): text for i, text in report.messages.items()})
    whole.flags[~drawn] |= int(Flag.MAG_BAD)
    whole.messages.update(
        dict.fromkeys(np.flatnonzero(~drawn).tolist(), "its pixels would not be finite, or hold many times its flux")
    )
    return canvas, taken, whole


def _check_arguments(exposure: Any, image_id: Any, band: Any, progress: Any) -> None:
    if not isinstance(exposure, Exposure):
        raise ConfigError(
            f"exposure is a {type(exposure).__name__}; an Exposure is needed",
            key="exposure",
            fix="Read it first: skygraft.read_exposure(...)",
        )
    for key, value in (("image_id", image_id), ("band", band)):
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{key} is {value!r}; text is needed", key=key)
    if progress is not None and not callable(progress):
        raise ConfigError(f"progress is {progress!r}; a function of the number of sources is needed", key="progress")


def _summary(
    image_id: str,
    options: InjectionOptions,
    photo_calib: PhotoCalib,
    reference: CalibrationReference | None,
    drawn: Drawn,
    truth: QTable,
    messages: list[str],
    band: str | None,
) -> dict[str, Any]:
    calibration = describe_reference(reference) | {"origin": photo_calib.reference_origin}
    report, gain, noise = drawn.report, drawn.gain, drawn.noise
    fraction = report.aperture_fraction[np.isfinite(report.aperture_fraction)]
    return {
        "image_id": image_id,
        "conventions": conventions_record(options.conventions),
        "band": band,
        "n_sources": len(truth),
        "n_drawn": int((report.stamp_size > 0).sum()),
        "flux_mode": options.flux_mode,
        "aperture": options.aperture,
        "calibration": calibration,
        "aperture_method": "sinc",
        "correction_position": "image" if options.conventions == LSST else options.position,
        "aperture_fraction_median": float(np.median(fraction)) if fraction.size else None,
        "noise": options.noise,
        "variance": options.adds_variance,
        "seed": options.seed,
        "gain": None if gain is None else gain.median,
        "gain_origin": None if gain is None else gain.origin,
        "noise_correlation": None if noise is None else noise.describe(),
        "flux_tolerance": None if options.conventions == LSST else options.flux_tolerance,
        "flags": count_flags(truth["flags"]),
        "messages": messages[:20],
    }
