"""Draw all sources of one image, each with the PSF at its own position: stars, profiles, and the rest by GalSim.

A PSF that depends on a source's colour has its place where a PSF is asked for positions: `StarPainter.add` and
`PreparedPsf.at`, which are given arrays of sources, and would be given an array of their colours too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from skygraft.catalog.flags import Flag
from skygraft.errors import FormatError, InjectionError, SkygraftError
from skygraft.psf import PSF, Box
from skygraft.render.canvas import Canvas, RenderReport
from skygraft.render.components import Components, are_nearly_flat, are_profiles, are_trailed, components
from skygraft.render.crowded import draw_crowded
from skygraft.render.engines import GalaxyEngine, StarEngine, galaxy_engine, star_engine
from skygraft.render.knots import draw_knots
from skygraft.render.normalisation import Normalisation
from skygraft.render.prepared import EvaluatedPsf, PreparedPsf
from skygraft.render.profiles import LEAST_GALSIM_RATIO, largest_transform
from skygraft.render.sersic import FAST, PRECISE, ProfilePainter, can_be_split
from skygraft.render.sources import Sources
from skygraft.render.stamp_painter import StampPainter
from skygraft.render.stamp_placing import place_stamps
from skygraft.render.stars import StarPainter, Stars
from skygraft.render.trails import MAX_TRAIL, add_trails, trail_extents

__all__ = ["render"]

type _Kind = Literal["star", "profile", "knots", "trail", "stamp", "other"]

_LARGE_HALF = 512
"""Sources with a transform of more than twice this many pixels a side are drawn one by one."""
_CHUNK = 64
"""Kernels in memory at a time, few enough for the cache with the usual kernel sizes."""


def render(
    sources: Sources,
    psf: PSF | None,
    canvas: Canvas,
    box: Box,
    normalisation: Normalisation,
    *,
    flux_tolerance: float = 1e-3,
    stars: StarEngine = "precise",
    galaxies: GalaxyEngine = "fast",
    progress: Callable[[int], None] | None = None,
) -> RenderReport:
    """Add sources to a canvas.

    Stars are added first, then profiles that are ellipses, knots, trails, stamps, and everything else, each in the
    order given; a pixel's value therefore depends only on the sources that touch it.

    Parameters
    ----------
    sources : Sources
        In order of injection id.
    psf : PSF or None
        None draws only stamps that need no PSF; other sources are flagged.
    canvas : Canvas
        Changed in place.
    box : Box
        The image's outer edges, parent pixels.
    normalisation : Normalisation
        How kernels are scaled to the calibration.
    flux_tolerance : float
        Fraction of a source's flux that its stamp may leave out.
    stars : {"precise", "fast", "grid", "stamps", "galsim"}
        How stars are moved by fractions of a pixel: to single precision, with about half as many taps (see
        `skygraft.render.shift`), or by GalSim. The first two draw crowded stars together (`skygraft.render.crowded`);
        "grid" does so everywhere, and "stamps" nowhere, both as precisely as the first.
    galaxies : {"fast", "precise", "galsim"}
        How profiles are drawn that are ellipses, such as Sérsic's: many at a time (see `skygraft.render.sersic`), to
        3e-4 or to 5e-5 of their peak, or one by one by GalSim.
    progress : callable, optional
        Called with the number of sources drawn since the last call.

    Returns
    -------
    RenderReport
        One entry per source. A source that cannot be drawn is flagged, its reason is in ``messages``, and nothing of
        it is on the canvas.
    """
    stars, galaxies = star_engine(stars), galaxy_engine(galaxies)
    report = RenderReport.empty(len(sources))
    is_trailed = are_trailed(sources)
    is_star = (sources.source_type == "Star") & ~is_trailed
    is_trail = _are_native_trails(sources) & (stars != "galsim")
    is_knots = (sources.source_type == "RandomKnots") & ~is_trailed
    if stars == "galsim" or galaxies == "galsim":
        is_knots[:] = False
    points = is_star.any() or is_knots.any() or is_trail.any()
    painter = (
        StarPainter(psf, box, "fast" if stars == "fast" else "precise")
        if psf is not None and stars != "galsim" and points
        else None
    )
    prepared = PreparedPsf(psf, box) if psf is not None and not (painter is not None and is_star.all()) else None
    is_profile = are_profiles(sources)
    if galaxies == "galsim":
        is_profile &= are_nearly_flat(sources, LEAST_GALSIM_RATIO)  # on which GalSim fails
    is_stamp = (sources.source_type == "Stamp") & ~is_trailed & (galaxies != "galsim")
    kinds: tuple[tuple[_Kind, NDArray[np.bool_]], ...] = (
        ("star", is_star),
        ("profile", is_profile),
        ("knots", is_knots),
        ("trail", is_trail),
        ("stamp", is_stamp),
        ("other", ~(is_star | is_profile | is_knots | is_trail | is_stamp)),
    )
    for kind, mine in kinds:
        rows = np.flatnonzero(mine)
        if kind == "star" and painter is not None and stars != "stamps":
            assert psf is not None
            draw = functools.partial(_draw_crowd, sources, psf, report)
            rows = draw_crowded(
                *(sources, rows, psf, painter, canvas, box, normalisation, draw),
                always=stars == "grid",
                progress=progress,
            )
        profiles = None
        if kind == "profile" and len(rows):
            profiles = ProfilePainter(canvas, PRECISE if galaxies == "precise" else FAST)
        native = painter if kind in ("star", "knots", "trail") else None
        size = _CHUNK
        if native is not None:
            size = {"star": native.batch, "knots": 1}.get(kind, _CHUNK)
        elif kind in ("profile", "stamp") and prepared is not None:
            size = prepared.batch
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            if kind == "stamp":
                _draw_stamps(sources, chunk, prepared, canvas, normalisation, flux_tolerance, report)
            elif psf is None:
                _draw_without_psf(sources, chunk, canvas, flux_tolerance, report)
            elif native is not None and kind == "knots":
                _draw_knots(sources, int(chunk[0]), psf, native, canvas, normalisation, report)
            elif native is not None and kind == "trail":
                _draw_trails(sources, chunk, psf, native, canvas, normalisation, report)
            elif native is not None:
                _draw_stars(sources, chunk, psf, native, canvas, normalisation, report)
            elif prepared is not None:
                _draw_chunk(sources, chunk, kind, profiles, prepared, canvas, normalisation, flux_tolerance, report)
            if progress is not None:
                progress(len(chunk))
        if profiles is not None:
            profiles.finish()
    return report


def _draw_stars(
    sources: Sources,
    rows: NDArray[np.intp],
    psf: PSF,
    painter: StarPainter,
    canvas: Canvas,
    normalisation: Normalisation,
    report: RenderReport,
) -> None:
    def add(some: NDArray[np.intp]) -> Stars:
        return painter.add(canvas, sources.x[some], sources.y[some], sources.flux[some], normalisation)

    _draw_points(sources, rows, psf, add, np.zeros(len(rows), dtype=np.int64), report)


def _draw_crowd(
    sources: Sources,
    psf: PSF,
    report: RenderReport,
    rows: NDArray[np.intp],
    add: Callable[[NDArray[np.intp]], Stars],
) -> None:
    _draw_points(sources, rows, psf, add, np.zeros(len(rows), dtype=np.int64), report)


def _draw_points(
    sources: Sources,
    rows: NDArray[np.intp],
    psf: PSF,
    add: Callable[[NDArray[np.intp]], Stars],
    lengths: NDArray[np.int64],
    report: RenderReport,
) -> None:
    """Draw stars, or trails of some length in pixels, by `add`, which draws all the rows that it is given, or none."""
    try:
        drawn = add(rows)
    except Exception as error:  # of any PSF's own code; nothing has been drawn
        if len(rows) > 1:  # find those that fail, and draw the others
            for part in np.array_split(np.arange(len(rows)), 2):
                _draw_points(sources, rows[part], psf, add, lengths[part], report)
            return
        report.flags[rows] |= Flag.PSF_COMPUTE_ERROR
        report.messages[int(rows[0])] = _reason(error)
        return
    _note_psf(report, rows, psf, drawn, sources.x[rows], sources.y[rows])
    report.flux_deposited[rows] = drawn.deposited
    report.stamp_size[rows] = max(psf.shape) + lengths
    report.flags[rows[drawn.clipped]] |= Flag.TRUNCATED_BY_EDGE


def _draw_knots(
    sources: Sources,
    row: int,
    psf: PSF,
    painter: StarPainter,
    canvas: Canvas,
    normalisation: Normalisation,
    report: RenderReport,
) -> None:
    half_kernel, most = max(psf.shape) // 2, largest_transform(canvas.model.shape)
    try:
        drawn = draw_knots(sources, row, painter, half_kernel, normalisation, most)
    except Exception as error:  # of any PSF's own code, too; nothing has been drawn
        known = isinstance(error, (InjectionError, MemoryError))
        report.flags[row] |= _flag_of(error) if known else Flag.PSF_COMPUTE_ERROR
        report.messages[row] = _reason(error)
        return
    one, side = np.array([row]), 2 * drawn.half + 1
    _note_psf(report, one, psf, drawn.psf.first(), sources.x[one], sources.y[one])
    report.flux_deposited[row], _ = canvas.add(drawn.image, drawn.x0, drawn.y0)
    report.stamp_size[row] = side
    clipped = canvas.clips(round(sources.x[row]) - drawn.half, round(sources.y[row]) - drawn.half, side, side)
    report.flags[row] |= drawn.flags | (Flag.TRUNCATED_BY_EDGE if clipped else 0)


def _are_native_trails(sources: Sources) -> NDArray[np.bool_]:
    """Trails that are drawn as a sum of stars: all but those that may not be larger than a given stamp."""
    trails: NDArray[np.bool_] = sources.source_type == "Trail"
    if trails.any() and "draw_size" in sources.shape:
        trails &= ~(np.asarray(sources.shape["draw_size"], dtype=np.float64) > 0)
    return trails


def _draw_trails(
    sources: Sources,
    rows: NDArray[np.intp],
    psf: PSF,
    painter: StarPainter,
    canvas: Canvas,
    normalisation: Normalisation,
    report: RenderReport,
) -> None:
    lengths = np.hypot(*trail_extents(sources, rows).T)
    for row in rows[~(lengths <= MAX_TRAIL)].tolist():
        report.flags[row] |= Flag.FFT_SIZE_ERROR
        report.messages[row] = f"the Trail is longer than {MAX_TRAIL:g} pixels"
    rows, lengths = rows[lengths <= MAX_TRAIL], lengths[lengths <= MAX_TRAIL]
    if not rows.size:
        return

    def add(some: NDArray[np.intp]) -> Stars:
        return add_trails(sources, some, psf, painter, canvas, normalisation)

    _draw_points(sources, rows, psf, add, np.ceil(lengths).astype(np.int64), report)


def _note_psf(
    report: RenderReport,
    rows: NDArray[np.intp],
    psf: PSF,
    used: Stars | EvaluatedPsf,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
) -> None:
    report.kernel_scale[rows] = used.scale
    report.aperture_fraction[rows] = used.aperture_fraction
    report.psf_fwhm[rows] = used.fwhm
    report.flags[rows[used.undersampled]] |= Flag.PSF_UNDERSAMPLED
    if psf.valid_box is not None:
        report.flags[rows[~psf.valid_box.contains(x, y)]] |= Flag.PSF_EXTRAPOLATED


def _draw_chunk(
    sources: Sources,
    rows: NDArray[np.intp],
    kind: _Kind,
    profiles: ProfilePainter | None,
    prepared: PreparedPsf,
    canvas: Canvas,
    normalisation: Normalisation,
    flux_tolerance: float,
    report: RenderReport,
) -> None:
    x, y = sources.x[rows], sources.y[rows]
    try:
        psf = prepared.at(x, y, normalisation, points=kind == "star")
    except Exception as error:  # of any PSF's own code
        if len(rows) > 1:  # find those that fail, and draw the others
            for part in np.array_split(rows, 2):
                _draw_chunk(sources, part, kind, profiles, prepared, canvas, normalisation, flux_tolerance, report)
            return
        report.flags[rows] |= Flag.PSF_COMPUTE_ERROR
        report.messages[int(rows[0])] = _reason(error)
        return
    _note_psf(report, rows, prepared.psf, psf, x, y)
    if profiles is not None:
        _draw_profiles(sources, rows, psf, profiles, flux_tolerance, report)
        return
    kernels, step = psf.kernels(np.arange(len(rows)))
    for k, (row, kernel) in enumerate(zip(rows.tolist(), kernels, strict=True)):
        _draw_one(sources, row, kernel * psf.scale[k], step, canvas, flux_tolerance, report)


def _draw_profiles(
    sources: Sources,
    rows: NDArray[np.intp],
    psf: EvaluatedPsf,
    painter: ProfilePainter,
    flux_tolerance: float,
    report: RenderReport,
) -> None:
    half_kernel = max(psf.prepared.psf.shape) // 2
    try:
        found = components(sources, rows, sources.flux[rows] * psf.scale, half_kernel, flux_tolerance)
    except Exception as error:
        if len(rows) > 1:
            for part in np.array_split(np.arange(len(rows)), 2):
                _draw_profiles(sources, rows[part], psf.part(part), painter, flux_tolerance, report)
            return
        report.flags[rows] |= Flag.PARAMETERS_BAD
        report.messages[int(rows[0])] = _reason(error)
        return
    # Sources that need much memory are drawn alone, so that running out of memory costs no other source.
    large = np.flatnonzero((found.profiles.half > _LARGE_HALF) & ~can_be_split(found.profiles))
    cuts = np.unique(np.searchsorted(found.owner, np.concatenate([found.owner[large], found.owner[large] + 1])))
    for some in np.split(np.arange(len(found.owner)), cuts):
        if some.size:
            _draw_components(rows, found.part(some), psf, painter, flux_tolerance, report)


def _draw_components(
    rows: NDArray[np.intp],
    found: Components,
    psf: EvaluatedPsf,
    painter: ProfilePainter,
    flux_tolerance: float,
    report: RenderReport,
) -> None:
    """Draw some sources of a batch, each with all of its profiles."""
    owner = found.owner
    try:
        deposited, clipped = painter.add(found.profiles, psf, owner)
    except Exception as error:
        if painter.is_half_done:
            raise
        sources = np.unique(owner)
        if len(sources) > 1:
            for part in np.array_split(sources, 2):
                _draw_components(
                    rows, found.part(np.flatnonzero(np.isin(owner, part))), psf, painter, flux_tolerance, report
                )
            return
        report.flags[rows[sources]] |= _flag_of(error)
        report.messages[int(rows[sources[0]])] = _reason(error)
        return
    mine = rows[owner]
    np.maximum.at(report.stamp_size, mine, 2 * found.profiles.half + 1)
    report.flags[mine[clipped]] |= Flag.TRUNCATED_BY_EDGE
    wanted = np.bincount(owner, weights=found.profiles.amplitude * psf.sums[owner], minlength=len(rows))
    got = np.bincount(owner, weights=deposited, minlength=len(rows))
    report.flux_deposited[rows] += got
    cut = np.bincount(owner, weights=clipped, minlength=len(rows)) > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        short = np.flatnonzero(~cut & (got / wanted < 1.0 - flux_tolerance))
    report.flags[rows[short]] |= Flag.STAMP_TRUNCATED
    report.flags[mine[found.truncated]] |= Flag.STAMP_TRUNCATED


def _draw_stamps(
    sources: Sources,
    rows: NDArray[np.intp],
    prepared: PreparedPsf | None,
    canvas: Canvas,
    normalisation: Normalisation,
    flux_tolerance: float,
    report: RenderReport,
) -> None:
    x, y = sources.x[rows], sources.y[rows]
    psf, reason = None, "the image has no PSF"
    if prepared is not None:
        try:
            psf = prepared.at(x, y, normalisation)
        except Exception as error:  # of any PSF's own code
            if len(rows) > 1:
                for part in np.array_split(rows, 2):
                    _draw_stamps(sources, part, prepared, canvas, normalisation, flux_tolerance, report)
                return
            reason = _reason(error)
        else:
            _note_psf(report, rows, prepared.psf, psf, x, y)
    painter, placed = StampPainter(canvas), place_stamps(sources, rows)
    for k, row in enumerate(rows.tolist()):
        stamp, convolved = placed.stamps[k], bool(placed.convolved[k])
        if convolved and psf is None:
            report.flags[row] |= Flag.PSF_COMPUTE_ERROR
            report.messages[row] = reason
            continue
        if isinstance(stamp, Exception):
            report.flags[row] |= Flag.STAMP_FILE_BAD
            report.messages[row] = _reason(stamp)
            continue
        amplitude = float(sources.flux[row]) / (1.0 if placed.own_flux[k] else stamp.total)
        draw_size, of_psf = int(sources.value("draw_size", row, 0)), None
        if convolved and psf is not None:
            of_psf, amplitude = psf, amplitude * float(psf.scale[k])
        try:
            drawn = painter.add(placed, k, (float(x[k]), float(y[k])), amplitude, draw_size, of_psf)
        except Exception as error:  # one source must not cost the image its others
            report.flags[row] |= _flag_of(error)
            report.messages[row] = _reason(error)
            continue
        report.flux_deposited[row] = drawn.deposited
        report.stamp_size[row] = drawn.size
        wanted = amplitude * stamp.total * (1.0 if of_psf is None else float(of_psf.sums[k]))
        whole = placed.own_flux[k] or drawn.clipped or wanted == 0.0
        short = not whole and drawn.deposited / wanted < 1.0 - flux_tolerance
        report.flags[row] |= Flag.TRUNCATED_BY_EDGE if drawn.clipped else 0
        report.flags[row] |= Flag.STAMP_TRUNCATED if drawn.cut or short else 0


def _flag_of(error: Exception) -> Flag:
    """Return the flag for a source that could not be drawn because of an error."""
    if isinstance(error, FormatError):
        return Flag.STAMP_FILE_BAD
    if (isinstance(error, InjectionError) and error.key is None) or isinstance(error, MemoryError):
        return Flag.FFT_SIZE_ERROR
    return Flag.PARAMETERS_BAD


def _reason(error: Exception) -> str:
    """Return the text of an error, with its type unless it is one of skygraft's own."""
    return str(error) if isinstance(error, SkygraftError) else f"{type(error).__name__}: {error}"


def _draw_without_psf(
    sources: Sources, rows: NDArray[np.intp], canvas: Canvas, flux_tolerance: float, report: RenderReport
) -> None:
    for row in rows:
        if sources.source_type[row] == "Stamp" and sources.text("stamp_psf", int(row)) == "none":
            _draw_one(sources, int(row), None, 1.0, canvas, flux_tolerance, report)
        else:
            report.flags[row] |= Flag.PSF_COMPUTE_ERROR
            report.messages[int(row)] = "the image has no PSF"


def _draw_one(
    sources: Sources,
    row: int,
    kernel: NDArray[np.float64] | None,
    step: float,
    canvas: Canvas,
    flux_tolerance: float,
    report: RenderReport,
) -> None:
    from skygraft.render.galsim_engine import draw_extended  # GalSim is imported only where it draws something

    try:
        most = largest_transform(canvas.model.shape)
        stamp = draw_extended(sources, row, kernel, flux_tolerance, step, largest=most)
    except Exception as error:  # one source must not cost the image its others
        report.flags[row] |= _flag_of(error)
        report.messages[row] = _reason(error)
        return
    deposited, clipped = canvas.add(stamp.image, stamp.x0, stamp.y0)
    report.flux_deposited[row] = deposited
    report.stamp_size[row] = max(stamp.image.shape)
    report.flags[row] |= stamp.flags | (Flag.TRUNCATED_BY_EDGE if clipped else 0)
