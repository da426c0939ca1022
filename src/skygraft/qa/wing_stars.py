"""The bright stars of an image and their radial profiles, far out: what extended wings of a PSF are fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import PsfError
from skygraft.exposure import Exposure

__all__ = ["BrightStar", "Field", "Profiles", "find_stars", "measure_profiles", "prepare_field"]

type Chosen = Literal["auto", "saturated", "bright"]

_SATURATED = ("SAT", "SATURATED", "SATUR")
_UNUSABLE = (
    *("BAD", "CR", "NO_DATA", "INTRP", "SUSPECT", "EDGE", "UNMASKEDNAN", "STREAK", "BLEED", "BLEEDTRAIL"),
    *("TRAIL", "SPIKE", "CLIPPED", "CROSSTALK", "SATTRAIL"),
    *_SATURATED,
)
"""Words of the names of mask planes whose pixels are not measured."""
_LEAST_SATURATED = 4
_DETECTED = 5.0
"""Standard deviations above the background of detected sources."""
_MESH = 48
_AROUND = 2.5
"""Radius that is masked about a neighbour, in radii of its detected area."""
_COVERED = 0.4
"""Part of a ring that must be usable."""
_FLAT = 2.5
"""Exponent that levels the profile within a ring, so that a median is that of its middle radius."""
_LEAST_CONTRAST = 100.0
"""Peak of a bright star, in standard deviations of the sky."""


@dataclass(frozen=True, eq=False)
class Field:
    """An image made ready for measurement.

    Parameters
    ----------
    pixels : ndarray of float64, shape (ny, nx)
        Less the median of the sky, and the plane through it where that is asked for.
    usable : ndarray of bool, shape (ny, nx)
        Pixels that are finite and not flagged.
    saturated : ndarray of bool, shape (ny, nx)
        Pixels flagged as saturated.
    sigma : float
        Standard deviation of a sky pixel.
    gradient : (float, float)
        Slope of the sky in x and y, image units a pixel.
    segments : ndarray of int32, shape (ny, nx)
        Detected sources, of a detection that leaves out what is smooth.
    objects : ndarray
        SEP's table of them.
    """

    pixels: NDArray[np.float64]
    usable: NDArray[np.bool_]
    saturated: NDArray[np.bool_]
    sigma: float
    gradient: tuple[float, float]
    segments: NDArray[np.int32]
    objects: NDArray[np.void]


@dataclass(frozen=True)
class BrightStar:
    """A star for the measurement of wings.

    Parameters
    ----------
    x, y : float
        Array position, pixels.
    radius : float
        Radius inside which its pixels cannot be used, pixels; 0 for none.
    brightness : float
        Rank among the others: pixels that are saturated, or the flux of one that is not.
    saturated : bool
        Whether it is saturated.
    """

    x: float
    y: float
    radius: float
    brightness: float
    saturated: bool


@dataclass(frozen=True, eq=False)
class Profiles:
    """Radial profiles of S stars in K rings.

    Parameters
    ----------
    edges : ndarray, shape (K + 1,)
        Radii of the rings' edges, pixels.
    radii : ndarray, shape (K,)
        Middle radii.
    values, errors : ndarray, shape (S, K)
        Surface brightness and its error, image units a pixel; NaN where too little of the ring can be used.
    pixels : ndarray of int, shape (S, K)
        Usable pixels.
    """

    edges: NDArray[np.float64]
    radii: NDArray[np.float64]
    values: NDArray[np.float64]
    errors: NDArray[np.float64]
    pixels: NDArray[np.int64]


def prepare_field(exposure: Exposure, *, flatten: bool = False) -> Field:
    """Detect sources and measure the sky.

    Parameters
    ----------
    exposure : Exposure
        The image; its mask planes say which pixels are saturated or bad.
    flatten : bool
        Subtract a plane fitted to the sky.

    Returns
    -------
    Field

    Raises
    ------
    PsfError
        If the image has no sky that can be measured.
    """
    import sep

    image = np.ascontiguousarray(exposure.image, dtype=np.float64)
    saturated, flagged = _planes(exposure)
    finite = np.isfinite(image)
    usable = finite & ~flagged
    where = usable if usable.any() else finite
    if not where.any() or float(np.ptp(image[where])) == 0.0:
        raise PsfError(
            "the image holds no light: all its pixels have one value, or none is finite",
            path=exposure.path,
            fix="Give an image of the sky",
        )
    pixels = np.where(finite, image, np.median(image[where]))
    mesh = int(np.clip(min(pixels.shape) // 8, 8, _MESH))
    sky = sep.Background(pixels, mask=~usable, bw=mesh, bh=mesh, fw=3, fh=3)
    sigma = float(sky.globalrms)
    if not sigma > 0:
        raise PsfError("the sky of the image has no noise", path=exposure.path, fix="Give an image of the sky")
    sep.set_extract_pixstack(max(1_000_000, pixels.size // 4))
    sep.set_sub_object_limit(8192)
    # Saturated pixels are detected too: they mark their stars.
    objects, segments = sep.extract(
        pixels - sky.back(), _DETECTED, err=sigma, mask=~(usable | (saturated & finite)), segmentation_map=True,
        deblend_cont=0.001,
    )  # fmt: skip
    empty = usable & (segments == 0)
    level, gradient = _plane(pixels, empty)
    ny, nx = pixels.shape
    if flatten:
        pixels = pixels - gradient[0] * (np.arange(nx) - 0.5 * (nx - 1))
        pixels -= gradient[1] * (np.arange(ny)[:, None] - 0.5 * (ny - 1))
    pixels -= level
    return Field(pixels, usable, saturated & finite, sigma, gradient, segments, objects)


def _planes(exposure: Exposure) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Saturated pixels, and all pixels that are not to be measured."""
    saturated = unusable = 0
    for name, bit in exposure.mask_planes.items():
        words = set(str(name).upper().replace("-", "_").split("_")) | {str(name).upper()}
        if words & set(_SATURATED):
            saturated |= int(bit) if int(bit) > 0 else 0
        if words & set(_UNUSABLE):
            unusable |= int(bit) if int(bit) > 0 else 0
    mask = exposure.mask
    return (mask & saturated) != 0, (mask & unusable) != 0


def _plane(pixels: NDArray[np.float64], empty: NDArray[np.bool_]) -> tuple[float, tuple[float, float]]:
    """Level in the middle and slope of the sky: a plane through medians of blocks."""
    ny, nx = pixels.shape
    side = max(8, min(ny, nx) // 12)
    rows = []
    for j in range(0, ny - side // 2, side):
        for i in range(0, nx - side // 2, side):
            block = pixels[j : j + side, i : i + side][empty[j : j + side, i : i + side]]
            if block.size > 0.3 * side * side:
                rows.append((i + 0.5 * side - 0.5 * (nx - 1), j + 0.5 * side - 0.5 * (ny - 1), np.median(block)))
    known = pixels[empty]
    level = float(np.median(known)) if known.size else float(np.median(pixels))
    if len(rows) < 6:
        return level, (0.0, 0.0)
    x, y, value = np.array(rows).T
    terms = np.stack([np.ones(len(x)), x, y], axis=1)
    keep = np.ones(len(x), dtype=bool)
    found = np.array([level, 0.0, 0.0])
    for _ in range(4):
        found = np.linalg.lstsq(terms[keep], value[keep], rcond=None)[0]
        off = value - terms @ found
        spread = 1.4826 * np.median(np.abs(off[keep] - np.median(off[keep])))
        keep = np.abs(off) <= 2.5 * max(float(spread), 1e-12)
        if keep.sum() < 6:
            break
    return float(found[0]), (float(found[1]), float(found[2]))


def find_stars(field: Field, *, stars: Chosen = "auto", most: int = 60, fwhm: float = 4.0) -> list[BrightStar]:
    """Find the stars whose wings can be measured: saturated ones, or else the brightest.

    Parameters
    ----------
    field : Field
        The image.
    stars : {"auto", "saturated", "bright"}
        Which; ``auto`` takes the brightest where fewer than four are saturated.
    most : int
        Largest number.
    fwhm : float
        Of the PSF, pixels.

    Returns
    -------
    list of BrightStar
        The brightest first.
    """
    found = _saturated_stars(field, fwhm) if stars != "bright" else []
    if stars == "saturated" or len(found) >= _LEAST_SATURATED:
        return found[:most]
    return [*found, *_bright_stars(field, fwhm, found)][:most]


def _saturated_stars(field: Field, fwhm: float) -> list[BrightStar]:
    from scipy import ndimage

    grown = ndimage.binary_dilation(field.saturated, iterations=2)
    labels, n = ndimage.label(grown)
    found = []
    for k, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        mine = (labels[box] == k) & field.saturated[box]
        area = int(mine.sum())
        if area < 3:
            continue
        j, i = np.nonzero(mine)
        # Of a bleeding star, where its saturated pixels are widest.
        width = np.bincount(j, minlength=mine.shape[0])
        row = float(np.average(np.arange(len(width)), weights=width.astype(float) ** 3))
        columns = np.bincount(i, minlength=mine.shape[1])
        column = float(np.average(np.arange(len(columns)), weights=columns.astype(float) ** 3))
        radius = 0.5 * float(min(width.max(), columns.max()))
        x, y = _centre(field, box[1].start + column, box[0].start + row, max(radius, fwhm))
        found.append(BrightStar(x, y, radius + fwhm, float(area), True))
    return sorted(found, key=lambda star: -star.brightness)[: 10 * _LEAST_SATURATED * 10] if n else []


def _centre(field: Field, x: float, y: float, radius: float) -> tuple[float, float]:
    """Refine a centre by the middle of an isophote that is outside of the unusable pixels."""
    half = int(np.ceil(3 * radius)) + 2
    for _ in range(3):
        i, j = round(x), round(y)
        rows = slice(max(0, j - half), min(field.pixels.shape[0], j + half + 1))
        columns = slice(max(0, i - half), min(field.pixels.shape[1], i + half + 1))
        part, good = field.pixels[rows, columns], field.usable[rows, columns]
        yy, xx = np.mgrid[rows, columns]
        r = np.hypot(xx - x, yy - y)
        ring = good & (r > 1.3 * radius) & (r < 2.2 * radius)
        if ring.sum() < 20:
            break
        low, high = np.quantile(part[ring], [0.4, 0.95])
        inside = good & (r < 2.8 * radius) & (part > low) & (part < high)
        if inside.sum() < 20:
            break
        dx, dy = float((xx[inside] - x).mean()), float((yy[inside] - y).mean())
        if np.hypot(dx, dy) > radius:
            break
        x, y = x + dx, y + dy
        if np.hypot(dx, dy) < 0.02:
            break
    return x, y


def _bright_stars(field: Field, fwhm: float, known: list[BrightStar]) -> list[BrightStar]:
    objects = field.objects
    contrast = objects["peak"] / field.sigma
    round_ones = objects["b"] > 0.6 * np.maximum(objects["a"], 1e-3)
    order = np.flatnonzero((contrast > _LEAST_CONTRAST) & round_ones)
    order = order[np.argsort(-objects["flux"][order], kind="stable")]
    found: list[BrightStar] = []
    for k in order.tolist():
        x, y = float(objects["x"][k]), float(objects["y"][k])
        if any(np.hypot(x - s.x, y - s.y) < max(3 * fwhm, 2 * s.radius) for s in known):
            continue
        # A star holds its light within its PSF; galaxies do not.
        area = max(float(objects["npix"][k]), 1.0)
        if objects["flux"][k] / area < 0.02 * objects["peak"][k]:
            continue
        found.append(BrightStar(x, y, 0.0, float(objects["flux"][k]), False))
    return found


def measure_profiles(
    field: Field,
    stars: list[BrightStar],
    inner: float,
    outer: float,
    *,
    per_decade: int = 20,
    lights: Sequence[tuple[BrightStar, float]] = (),
    curve: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> Profiles:
    """Measure the profiles of stars in rings, with their neighbours masked.

    Parameters
    ----------
    field : Field
        The image.
    stars : list of BrightStar
        The stars.
    inner, outer : float
        Smallest and largest radius, pixels.
    per_decade : int
        Rings in a factor of ten.
    lights : sequence of (BrightStar, float)
        Stars whose wings are subtracted from the others, and their amplitudes.
    curve : (ndarray, ndarray), optional
        Radii in pixels and the profile of an amplitude of one there, needed with `lights`; nothing beyond the last.

    Returns
    -------
    Profiles
    """
    n = max(4, int(np.ceil(per_decade * np.log10(outer / inner))))
    edges = np.geomspace(inner, outer, n + 1)
    radii = np.sqrt(0.5 * (edges[:-1] ** 2 + edges[1:] ** 2))
    values, errors = np.full((2, len(stars), n), np.nan)
    counted = np.zeros((len(stars), n), dtype=np.int64)
    hidden = _hidden(field)
    light = np.zeros_like(field.pixels)
    if curve is not None:
        for other, amplitude in lights:
            _add_curve(light, other, amplitude, curve)
    amplitudes = {(other.x, other.y): amplitude for other, amplitude in lights}
    for s, star in enumerate(stars):
        if curve is not None:
            own = amplitudes.get((star.x, star.y), 0.0)
            _add_curve(light, star, -own, curve)
        values[s], errors[s], counted[s] = _profile(field, light, star, stars, hidden, edges, radii)
        if curve is not None:
            _add_curve(light, star, own, curve)
    return Profiles(edges, radii, values, errors, counted)


def _add_curve(
    light: NDArray[np.float64],
    star: BrightStar,
    amplitude: float,
    curve: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> None:
    """Add a star's wings to an image."""
    if not amplitude:
        return
    end, (ny, nx) = float(curve[0][-1]), light.shape
    rows = slice(max(0, int(star.y - end)), max(0, min(ny, int(star.y + end) + 2)))
    columns = slice(max(0, int(star.x - end)), max(0, min(nx, int(star.x + end) + 2)))
    y, x = np.ogrid[rows, columns]
    light[rows, columns] += amplitude * np.interp(np.hypot(x - star.x, y - star.y), *curve, right=0.0)


def _hidden(field: Field) -> NDArray[np.float64]:
    """Centres and radii of circles about detected sources, shape (N, 3)."""
    objects = field.objects
    radius = _AROUND * np.sqrt(np.maximum(objects["npix"], 1.0) / np.pi) + 2.0
    return np.stack([objects["x"], objects["y"], radius], axis=1)


def _profile(
    field: Field,
    light: NDArray[np.float64],
    star: BrightStar,
    stars: list[BrightStar],
    hidden: NDArray[np.float64],
    edges: NDArray[np.float64],
    radii: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Value, error and usable pixels of each ring."""
    n = len(radii)
    value, error, counted = np.full(n, np.nan), np.full(n, np.nan), np.zeros(n, dtype=np.int64)
    outer = float(edges[-1])
    ny, nx = field.pixels.shape
    rows = slice(max(0, int(star.y - outer)), min(ny, int(star.y + outer) + 2))
    columns = slice(max(0, int(star.x - outer)), min(nx, int(star.x + outer) + 2))
    y, x = np.mgrid[rows, columns]
    r = np.hypot(x - star.x, y - star.y)
    good = field.usable[rows, columns] & (r >= max(edges[0], star.radius)) & (r < outer)
    near = np.hypot(hidden[:, 0] - star.x, hidden[:, 1] - star.y) < outer + hidden[:, 2]
    own = max(star.radius, 2.0 * edges[0])
    for cx, cy, radius in hidden[near]:
        distance = np.hypot(cx - star.x, cy - star.y)
        if distance < own or distance < 0.5 * radius:  # the star itself, and what its saturated middle breaks up into
            continue
        _mask_circle(good, cx - columns.start, cy - rows.start, min(radius, 0.8 * distance))
    for other in stars:
        distance = float(np.hypot(other.x - star.x, other.y - star.y))
        if other is not star and distance < outer + 4 * other.radius:
            _mask_circle(
                good, other.x - columns.start, other.y - rows.start, min(4 * other.radius + 10, 0.8 * distance)
            )
    ring = np.searchsorted(edges, r[good], side="right") - 1
    level = (field.pixels[rows, columns] - light[rows, columns])[good] * (
        r[good] / radii[np.clip(ring, 0, n - 1)]
    ) ** _FLAT
    order = np.argsort(ring, kind="stable")
    bounds = np.searchsorted(ring[order], np.arange(n + 1))
    level = level[order]
    for k in range(n):
        of_ring = level[bounds[k] : bounds[k + 1]]
        area = np.pi * (edges[k + 1] ** 2 - edges[k] ** 2)
        counted[k] = of_ring.size
        if of_ring.size < max(12, _COVERED * area):
            continue
        middle, spread = float(np.median(of_ring)), 0.0
        for _ in range(3):
            spread = 1.4826 * float(np.median(np.abs(of_ring - middle)))
            kept = of_ring[np.abs(of_ring - middle) <= 3.0 * max(spread, 1e-12)]
            middle = float(kept.mean())
        value[k], error[k] = middle, max(spread, 1e-12) / np.sqrt(len(kept))
    return value, error, counted


def _mask_circle(good: NDArray[np.bool_], x: float, y: float, radius: float) -> None:
    ny, nx = good.shape
    j0, j1 = max(0, int(y - radius)), min(ny, int(y + radius) + 2)
    i0, i1 = max(0, int(x - radius)), min(nx, int(x + radius) + 2)
    if j0 >= j1 or i0 >= i1:
        return
    yy, xx = np.ogrid[j0:j1, i0:i1]
    good[j0:j1, i0:i1] &= np.hypot(xx - x, yy - y) > radius
