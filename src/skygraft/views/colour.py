"""Three bands as one picture in colour (Lupton et al. 2004, PASP 116, 133)."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from skygraft.campaign import Campaign
from skygraft.campaign.pairs import read_injected
from skygraft.errors import CampaignError, ConfigError
from skygraft.exposure import Exposure
from skygraft.planning.reading import read_image
from skygraft.records.plan_file import PlannedImage
from skygraft.views.figures import sky_level, styled, theme_of
from skygraft.views.places import as_campaign, done_images, images_at, outline_distance, separation, truth_dataset
from skygraft.views.resampling import pixel_map, resample, tangent_wcs

__all__ = ["Colours", "best_place", "choose_bands", "colour_figure", "colour_image"]

WAVELENGTHS = {
    "u": 0.36, "g": 0.475, "r": 0.64, "i": 0.775, "z": 0.905, "y": 0.975,
    "Y": 1.02, "J": 1.25, "H": 1.64, "K": 2.17, "Ks": 2.15,
}  # fmt: skip
"""Of bands, micrometres: what is longer is redder."""
_SLOPE = -1.5
"""A source whose flux per frequency rises as wavelength^1.5, as most galaxies' does in g to z, is drawn white."""
_SIZE, _IMAGES = 45.0, 4
_LARGEST = 3000


@dataclass(frozen=True)
class Colours:
    """A place in three bands before and after injection, on one grid, North up.

    Parameters
    ----------
    bands : tuple of str
        Bands of red, green and blue; of two bands, green is the mean of them.
    before, after : ndarray of uint8, shape (N, N, 3)
        Red, green and blue; the first row is the southernmost.
    covered : ndarray of bool, shape (N, N)
        Where every band has a pixel.
    scale : float
        Arcseconds per pixel.
    images : dict of str to tuple of str
        Ids of the images of each band.
    """

    bands: tuple[str, ...]
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    covered: NDArray[np.bool_]
    scale: float
    images: dict[str, tuple[str, ...]]


def choose_bands(there: Sequence[str], wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """Choose the bands of a picture in colour, from red to blue.

    Parameters
    ----------
    there : sequence of str
        Bands of the images that show the place.
    wanted : sequence of str, optional
        Bands from red to blue; by default i, r and g, or three others from the reddest to the bluest.

    Returns
    -------
    tuple of str
        Two or three.

    Raises
    ------
    ConfigError
        If a band is missing, there are not two or three, or their order is not known.
    """
    have = ", ".join(sorted(there)) or "none"
    if wanted is not None:
        missing = [band for band in wanted if band not in there]
        if missing:
            raise ConfigError(
                f"no image of band {', '.join(missing)} shows the place; those there are of {have}",
                key="bands",
                fix="Give bands that are there, or another place",
            )
        if len(wanted) not in (2, 3) or len(set(wanted)) != len(wanted):
            raise ConfigError(
                f"{len(wanted)} bands are given; two or three different ones are needed",
                key="bands",
                fix="Give bands from red to blue, such as i,r,g",
            )
        return tuple(wanted)
    if len(there) < 2:
        raise ConfigError(
            f"a picture in colour takes two or three bands; the images of the place are of {have}",
            key="bands",
            fix="Show another place, or a triplet of this one",
        )
    if {"g", "r", "i"} <= set(there):
        return ("i", "r", "g")
    unknown = [band for band in there if band not in WAVELENGTHS]
    if unknown:
        raise ConfigError(
            f"which is redder is not known of bands {have}", key="bands", fix="Give them from red to blue"
        )
    ordered = sorted(there, key=lambda band: -WAVELENGTHS[band])
    return tuple(ordered) if len(ordered) < 3 else (ordered[0], ordered[len(ordered) // 2], ordered[-1])


def colour_image(
    campaign: Campaign | str | os.PathLike[str],
    ra: float,
    dec: float,
    *,
    bands: Sequence[str] | None = None,
    size: float = _SIZE,
    n_images: int = _IMAGES,
    stretch: float = 15.0,
    softening: float = 8.0,
) -> Colours:
    """Compose a picture in colour of a place, before and after injection.

    The images of each band are brought onto one gnomonic grid (bilinear), their sky is subtracted, and they are
    averaged in nanojansky. Both pictures have the same scale: what differs is the fakes.

    Parameters
    ----------
    campaign : Campaign or path-like
        The campaign, its YAML file or its output folder.
    ra, dec : float
        The place, ICRS degrees.
    bands : sequence of str, optional
        From red to blue; see `choose_bands`.
    size : float
        Side, arcsec.
    n_images : int
        Images averaged in each band, at most: those whose centres are nearest to the place.
    stretch : float
        Brightness up to which the scale is linear, in the noise of the mean of the bands.
    softening : float
        Q of Lupton et al. (2004).

    Returns
    -------
    Colours

    Raises
    ------
    CampaignError
        If no image shows the place.
    ConfigError
        If bands are missing, or the size is not positive or too large.
    """
    from astropy.visualization import make_lupton_rgb

    campaign = as_campaign(campaign)
    there: dict[str, list[PlannedImage]] = {}
    for image in images_at(campaign, ra, dec):
        there.setdefault(image.band or "", []).append(image)
    chosen = choose_bands([band for band in there if band], bands)
    images = {band: there[band][: max(1, n_images)] for band in chosen}
    scale = min(image.pixel_scale for some in images.values() for image in some)
    n = round(size / scale) | 1
    if not 3 <= n <= _LARGEST:
        raise ConfigError(
            f"a picture of {size:g} arcsec has {n} pixels; 3 to {_LARGEST} are allowed", key="size",
            fix="Give arcseconds",
        )  # fmt: skip
    planes = {band: _stack(campaign, some, ra, dec, scale, n) for band, some in images.items()}
    weights = _weights(chosen)
    shown = []
    for k in range(2):
        red, blue = (planes[band][k] * weights[band] for band in (chosen[0], chosen[-1]))
        green = planes[chosen[1]][k] * weights[chosen[1]] if len(chosen) == 3 else (red + blue) / 2
        shown.append(np.stack([red, green, blue]))
    _, sigma = sky_level(shown[0].mean(axis=0))
    pictures = []
    off = ~np.isfinite(shown[0] + shown[1]).all(axis=0)
    for channels in shown:
        rgb = make_lupton_rgb(*np.where(off, 0.0, channels), minimum=-2 * sigma, stretch=stretch * sigma, Q=softening)
        rgb[off] = 58, 64, 72
        pictures.append(np.asarray(rgb, dtype=np.uint8))
    names = {band: tuple(image.image_id for image in some) for band, some in images.items()}
    return Colours(chosen, pictures[0], pictures[1], ~off, scale, names)


def _weights(bands: Sequence[str]) -> dict[str, float]:
    if not all(band in WAVELENGTHS for band in bands):
        return dict.fromkeys(bands, 1.0)
    middle = float(np.exp(np.mean([np.log(WAVELENGTHS[band]) for band in bands])))
    return {band: float((WAVELENGTHS[band] / middle) ** _SLOPE) for band in bands}


def _stack(
    campaign: Campaign, images: Sequence[PlannedImage], ra: float, dec: float, scale: float, n: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The mean of some images of one band on the grid before and after injection, nJy; NaN where none has a pixel."""
    wcs = tangent_wcs(ra, dec, scale, n)
    total, count = np.zeros((2, n, n)), np.zeros((n, n))
    for image in images:
        before, after = read_image(image, campaign.config), read_injected(campaign.config, image)
        where = pixel_map(wcs, (0, 0), (n, n), before.wcs)
        # The level of the image without fakes for both, which otherwise would differ everywhere.
        level, _ = sky_level(before.image)
        njy = _njy(before, ra, dec)
        both = np.stack([resample(e.image - level, e.xy0, where) * njy for e in (before, after)])
        good = np.isfinite(both).all(axis=0)
        total[:, good] += both[:, good]
        count += good
    with np.errstate(invalid="ignore"):
        first, second = np.where(count > 0, total / count, np.nan)
    return first, second


def _njy(exposure: Exposure, ra: float, dec: float) -> float:
    """Nanojansky per image unit at the place."""
    if exposure.photo_calib is None:
        raise CampaignError("the image has no zeropoint", path=exposure.path, fix="Show a triplet of it")
    x, y = exposure.wcs.world_to_pixel_values(ra, dec)
    return float(exposure.photo_calib.scale(x, y))


def colour_figure(
    campaign: Campaign | str | os.PathLike[str],
    ra: float,
    dec: float,
    *,
    bands: Sequence[str] | None = None,
    size: float = _SIZE,
    n_images: int = _IMAGES,
    title: str = "",
    theme: str = "light",
) -> Figure:
    """Draw a place in colour, before and after injection, with the fakes of the place ringed on the right.

    Parameters
    ----------
    campaign, ra, dec, bands, size, n_images
        As for `colour_image`.
    title : str
        Above the panels; by default the place and its bands.
    theme : {"light", "dark"}
        Colours around the images.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    CampaignError, ConfigError
        As `colour_image`.
    """
    campaign = as_campaign(campaign)
    colours = colour_image(campaign, ra, dec, bands=bands, size=size, n_images=n_images)
    n = len(colours.after)
    with styled(theme_of(theme)):
        figure = Figure(figsize=(11, 6.1))
        axes = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.01, right=0.99, bottom=0.015, top=0.865, wspace=0.02)
        for axis, name, pixels in zip(axes, ("before", "after"), (colours.before, colours.after), strict=True):
            axis.imshow(pixels, origin="lower", interpolation="nearest")
            axis.set_title(f"{name} injection", fontsize=12, loc="left")
            axis.set_xticks([])
            axis.set_yticks([])
        for x, y in _fakes(campaign, colours, ra, dec):
            axes[1].add_patch(Circle((x, y), 1.6 / colours.scale, fill=False, ec="white", lw=0.9, alpha=0.8))
        axes[1].set_xlim(-0.5, n - 0.5)
        axes[1].set_ylim(-0.5, n - 0.5)
        arcsec = next((a for a in (600, 300, 120, 60, 30, 20, 10, 5, 2, 1) if a / colours.scale < 0.3 * n), 0.5)
        left, low = 0.04 * n, 0.05 * n
        axes[0].plot([left, left + arcsec / colours.scale], [low, low], color="white", lw=2.5, solid_capstyle="butt")
        axes[0].text(left, low + 0.015 * n, f'{arcsec:g}"   North up, East left', color="white", fontsize=10)
        names = ", ".join(f"{c} {b}" for c, b in zip(_colour_names(colours), colours.bands, strict=True))
        heading = title or f"{campaign.config.name}: ({ra:.5f}, {dec:+.5f}), {names}"
        figure.text(0.01, 0.965, heading, fontsize=14, weight="bold", va="center")
    return figure


def best_place(campaign: Campaign | str | os.PathLike[str], *, size: float = _SIZE) -> tuple[float, float]:
    """Find a place to show in colour: a fake around which most bands have an image.

    Parameters
    ----------
    campaign : Campaign or path-like
        The campaign, its YAML file or its output folder.
    size : float
        Side of the picture, arcsec.

    Returns
    -------
    ra, dec : float
        ICRS degrees; the same each time. Of a large campaign, 200 fakes and 2000 images are looked at.

    Raises
    ------
    CampaignError
        If no image is done, or there are no truth tables.
    """
    campaign = as_campaign(campaign)
    images = list(itertools.islice(done_images(campaign), 2000))
    rows = truth_dataset(campaign).to_table(
        columns=["ra", "dec", "mag", "injection_id"],
        filter=(pc.field("stamp_size") > 0) & pc.field("image_id").isin([image.image_id for image in images]),
    )
    best = (-1, 0.0), (images[0].ra, images[0].dec)
    step = max(1, rows.num_rows // 200)
    for row in rows.sort_by("injection_id").take(list(range(0, rows.num_rows, step))).to_pylist():
        ra, dec = row["ra"], row["dec"]
        half = size / 7200
        east = half / max(np.cos(np.radians(dec)), 1e-3)
        corners = [((ra + a * east) % 360, dec + b * half) for a in (-1, 1) for b in (-1, 1) if abs(dec) + half < 90]
        near = [image for image in images if separation(ra, dec, image.ra, image.dec) < _reach(image)]
        bands = {
            image.band for image in near if all(outline_distance(image.polygon, *corner) == 0 for corner in corners)
        }
        score = len(bands - {None}), -float(row["mag"] if row["mag"] is not None else np.inf)
        best = max(best, (score, (ra, dec)))
    return best[1]


def _reach(image: PlannedImage) -> float:
    return 0.55 * float(np.hypot(image.nx, image.ny)) * image.pixel_scale


def _colour_names(colours: Colours) -> tuple[str, ...]:
    return ("red", "green", "blue") if len(colours.bands) == 3 else ("red", "blue")


def _fakes(campaign: Campaign, colours: Colours, ra: float, dec: float) -> list[tuple[float, float]]:
    """Pixels of the fakes of the place, from the truth of the images that are shown."""
    from skygraft.campaign.pairs import read_truth, record_of
    from skygraft.views.places import image_by_id

    wcs, n = tangent_wcs(ra, dec, colours.scale, len(colours.after)), len(colours.after)
    places: dict[Any, tuple[float, float]] = {}
    for name in (some[0] for some in colours.images.values()):
        image = image_by_id(campaign, name)
        truth = read_truth(campaign.layout, image, record_of(campaign.layout, image))
        drawn = np.asarray(truth["stamp_size"]) > 0
        x, y = wcs.world_to_pixel_values(np.asarray(truth["ra"])[drawn], np.asarray(truth["dec"])[drawn])
        for one, px, py in zip(np.asarray(truth["injection_id"])[drawn].tolist(), x, y, strict=True):
            if 0 <= px < n and 0 <= py < n and colours.covered[int(py), int(px)]:
                places.setdefault(one, (float(px), float(py)))
    return list(places.values())
