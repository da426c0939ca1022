"""Choose the stars of an image that curves of growth can be measured on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skygraft.exposure import Exposure
from skygraft.qa.growth import psf_fraction

__all__ = ["Scene", "Stars", "choose_stars", "prepare_scene"]

type Floats = NDArray[np.float64]

THRESHOLD = 3.0
"""Sigma above the sky at which pixels are detected."""
LEAST_SNR = 40.0
CONTAMINATION = 0.005
"""Largest flux of the neighbours within three radii, as a fraction of the star's."""
_MESH = 64
_SIZE_PRIOR, _SIZE_WIDTH = 0.3, 0.12
_ROUND = 0.25
_CEILING = 0.8
_PIXELS_IN_STACK = 1_000_000


@dataclass(frozen=True)
class Scene:
    """An image prepared for measuring: sky taken off, bad pixels at zero, and what was detected on it.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        Without the sky; zero at bad pixels.
    bad, sky_free : ndarray of bool, shape (ny, nx)
        Bad pixels; pixels that are neither bad nor in a detection.
    noise : float
        Scatter of a pixel of the sky, image units.
    x, y, flux, peak, half_light, elongation : ndarray, shape (N,)
        Of the detections: windowed centres in array pixels, fluxes and peaks in image units, half-light radii in
        pixels, minor over major axis.
    flags : ndarray of int, shape (N,)
        SEP's.
    problem : str
        Why nothing can be measured; empty otherwise.
    """

    image: NDArray[np.float32]
    bad: NDArray[np.bool_]
    sky_free: NDArray[np.bool_]
    noise: float
    x: Floats
    y: Floats
    flux: Floats
    peak: Floats
    half_light: Floats
    elongation: Floats
    flags: NDArray[np.int64]
    problem: str = ""


@dataclass(frozen=True)
class Stars:
    """The stars chosen, and how many detections each rule left out.

    Parameters
    ----------
    x, y : ndarray, shape (N,)
        Parent pixels, brightest first.
    flux : ndarray, shape (N,)
        Image units.
    half_light : float
        Half-light radius of stars, pixels; NaN where there are none.
    left_out : dict of str to int
        Number of detections by the first rule that they failed.
    """

    x: Floats
    y: Floats
    flux: Floats
    half_light: float = math.nan
    left_out: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.x)


def _empty(exposure: Exposure, bad: NDArray[np.bool_], problem: str) -> Scene:
    none = np.zeros(0)
    image = np.zeros(exposure.shape, dtype=np.float32)
    return Scene(image, bad, ~bad, 0.0, none, none, none, none, none, none, np.zeros(0, dtype=np.int64), problem)


def prepare_scene(exposure: Exposure) -> Scene:
    """Take the sky off an image and detect what is on it.

    Parameters
    ----------
    exposure : Exposure

    Returns
    -------
    Scene
        With a `problem` where the image is empty, all bad, or too crowded to be taken apart.
    """
    import sep

    pixels = np.ascontiguousarray(exposure.image, dtype=np.float32).copy()
    bad = exposure.bad() | ~np.isfinite(pixels)
    pixels[bad] = 0.0
    if bad.all():
        return _empty(exposure, bad, "all pixels are bad")
    if np.ptp(pixels[~bad]) == 0.0:
        return _empty(exposure, bad, "all pixels have the same value")
    mesh = max(8, min(_MESH, *(n // 2 for n in pixels.shape)))
    mask = bad.astype(np.uint8)
    background = sep.Background(pixels, mask=mask, bw=mesh, bh=mesh)
    if not background.globalrms > 0:
        return _empty(exposure, bad, "the pixels of the sky have no noise")
    sep_sky = background.back(dtype=np.float32)
    pixels -= sep_sky
    pixels[bad] = 0.0
    before = sep.get_extract_pixstack()
    sep.set_extract_pixstack(max(before, _PIXELS_IN_STACK))
    try:
        found, segments = sep.extract(
            pixels, THRESHOLD, err=background.rms(), mask=mask, minarea=5, segmentation_map=True
        )
    except Exception as error:  # sep raises bare exceptions where its buffers overflow
        return _empty(exposure, bad, f"the detections cannot be taken apart ({error})")
    finally:
        sep.set_extract_pixstack(before)
    if not len(found):
        return _empty(exposure, bad, "nothing is detected on the image")
    x, y = found["x"].astype(np.float64), found["y"].astype(np.float64)
    size = np.clip(6.0 * found["a"], 6.0, 60.0)
    half_light, _ = sep.flux_radius(pixels, x, y, size, 0.5, subpix=5)
    wx, wy, _ = sep.winpos(pixels, x, y, np.clip(half_light, 1.0, 10.0) * 2.0 / 2.355)
    near = np.hypot(wx - x, wy - y) < 1.5
    x, y = np.where(near, wx, x), np.where(near, wy, y)
    with np.errstate(invalid="ignore", divide="ignore"):
        elongation = found["b"] / found["a"]
    free = (segments == 0) & ~bad
    return Scene(
        pixels,
        bad,
        free,
        float(background.globalrms),
        x,
        y,
        found["flux"].astype(np.float64),
        found["peak"].astype(np.float64),
        half_light.astype(np.float64),
        elongation.astype(np.float64),
        found["flag"].astype(np.int64),
    )


def choose_stars(exposure: Exposure, scene: Scene, radius: float, *, largest: int = 200) -> Stars:
    """Choose bright, round, isolated, unsaturated stars.

    Parameters
    ----------
    exposure : Exposure
        The image.
    scene : Scene
        Of `prepare_scene`.
    radius : float
        Pixels, in which they must be free of bad pixels; neighbours are counted within three times as far.
    largest : int
        Number of stars, the brightest.

    Returns
    -------
    Stars

    Notes
    -----
    Sizes: the half-light radius is within 12 per cent of that of the stellar locus, which is searched for near that of
    the PSF model where the image has one.
    """
    import sep
    from scipy.spatial import cKDTree

    n = len(scene.x)
    if not n:
        return Stars(np.zeros(0), np.zeros(0), np.zeros(0))
    ny, nx = scene.image.shape
    keep = np.ones(n, dtype=bool)
    left_out: dict[str, int] = {}

    def rule(name: str, good: NDArray[np.bool_]) -> None:
        nonlocal keep
        left_out[name] = int((keep & ~good).sum())
        keep = keep & good

    noise = scene.noise * math.sqrt(math.pi) * np.clip(3.0 * scene.half_light, 1.0, None)
    rule("too faint", scene.flux > LEAST_SNR * noise)
    edge = radius + 1.0
    inside = (scene.x > edge) & (scene.x < nx - 1 - edge) & (scene.y > edge) & (scene.y < ny - 1 - edge)
    rule("at the edge", inside)
    touched = np.zeros(n)
    near = keep.nonzero()[0]
    if len(near):
        clean = max(0.0, min(1.3 * radius, edge))
        touched[near] = sep.sum_circle(scene.bad.astype(np.float32), scene.x[near], scene.y[near], clean, subpix=1)[0]
    rule("saturated or bad pixels", (touched == 0) & _below_the_ceiling(exposure, scene))
    rule("fakes", ~_is_fake(exposure, scene))
    rule("not stars", (scene.elongation > 1 - _ROUND) & (scene.flags & (sep.OBJ_TRUNC | sep.OBJ_SINGU) == 0))
    size = _stellar_size(exposure, scene, keep)
    rule_sizes = np.abs(scene.half_light / size - 1) < _SIZE_WIDTH if math.isfinite(size) else np.zeros(n, dtype=bool)
    left_out["not stars"] += int((keep & ~rule_sizes).sum())
    keep = keep & rule_sizes
    tree = cKDTree(np.stack([scene.x, scene.y], axis=1))
    chosen = keep.nonzero()[0]
    near_by = tree.query_ball_point(np.stack([scene.x[chosen], scene.y[chosen]], axis=1), 3.0 * radius)
    light = np.clip(scene.flux, 0, None)
    alone = np.ones(n, dtype=bool)
    for i, others in zip(chosen, near_by, strict=True):
        alone[i] = light[others].sum() - light[i] <= CONTAMINATION * light[i]
    rule("with neighbours", alone)
    chosen = keep.nonzero()[0]
    chosen = chosen[np.argsort(-scene.flux[chosen], kind="stable")][:largest]
    x0, y0 = exposure.xy0
    return Stars(scene.x[chosen] + x0, scene.y[chosen] + y0, scene.flux[chosen], size, left_out)


def _below_the_ceiling(exposure: Exposure, scene: Scene) -> NDArray[np.bool_]:
    """Peaks below where detectors turn non-linear: of the brightest, if no plane says what is saturated."""
    peak = np.max(scene.peak, initial=0.0)
    saturated = [name for name in exposure.mask_planes if name.upper().startswith("SAT")]
    if saturated and exposure.bad(saturated).any():
        level = exposure.image[exposure.bad(saturated)]
        level = level[np.isfinite(level)]
        if level.size and np.median(level) > 0:
            return np.asarray(scene.peak < _CEILING * max(float(np.median(level)), 1e-30))
    return np.asarray(scene.peak < _CEILING * peak)


def _is_fake(exposure: Exposure, scene: Scene) -> NDArray[np.bool_]:
    if "INJECTED_CORE" not in exposure.mask_planes:
        return np.zeros(len(scene.x), dtype=bool)
    core = exposure.bad("INJECTED_CORE")
    ny, nx = core.shape
    rows, columns = np.clip(np.rint(scene.y), 0, ny - 1).astype(int), np.clip(np.rint(scene.x), 0, nx - 1).astype(int)
    return np.asarray(core[rows, columns])


def psf_half_light(exposure: Exposure) -> float:
    """Give the half-light radius of the PSF model in pixels, NaN without a model that can be measured."""
    if exposure.psf is None:
        return math.nan
    reach = min(exposure.psf.shape) / 2
    radii = np.geomspace(0.5, max(reach, 1.0), 40)
    curves = psf_fraction(exposure, radii)
    if not len(curves):
        return math.nan
    curve = np.median(curves, axis=0)
    above = np.flatnonzero(curve >= 0.5 * curve[-1])
    if reach < 3 or not above.size or above[0] == 0:
        return math.nan
    k = above[0]
    return float(np.interp(0.5 * curve[-1], curve[k - 1 : k + 1], radii[k - 1 : k + 1]))


def _stellar_size(exposure: Exposure, scene: Scene, keep: NDArray[np.bool_]) -> float:
    """Half-light radius of stars: the densest place among bright detections, near that of the PSF model."""
    sizes = scene.half_light[keep]
    sizes = sizes[np.isfinite(sizes) & (sizes > 0.5)]
    model = psf_half_light(exposure)
    if math.isfinite(model):
        sizes = sizes[np.abs(sizes / model - 1) < _SIZE_PRIOR]
    if not sizes.size:
        return math.nan
    sizes = np.sort(sizes)
    # The place with most sizes within 10 per cent above it; of equal ones the smallest.
    counts = np.searchsorted(sizes, 1.1 * sizes, side="right") - np.arange(len(sizes))
    first = int(np.argmax(counts))
    return float(np.median(sizes[first : first + counts[first]]))
