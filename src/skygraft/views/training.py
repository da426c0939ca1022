"""Triplets of science image, template and difference, labelled, for training what tells real from bogus."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skygraft.campaign import Campaign
from skygraft.campaign.pairs import read_truth, record_of
from skygraft.catalog.flags import Flag
from skygraft.errors import ConfigError
from skygraft.planning.reading import read_image
from skygraft.records.plan_file import PlannedImage
from skygraft.views.detection_positions import DetectionPositions
from skygraft.views.places import as_campaign, done_rows, separation
from skygraft.views.subtraction import CalibratedImage, Triplet, subtract_at, subtract_original
from skygraft.views.template_images import Fluxes, Templates, fluxes_of, read_output, templates_of
from skygraft.views.triplet_files import check_output, open_writer

__all__ = ["SKIPPED", "TripletCounts", "training_triplets"]

SKIPPED = {
    "at the edge": "the science image has too few of the pixels",
    "no template": "no template covers the place",
    "masked": "a bad pixel among the 3 x 3 at the centre of a fake",
    "constant": "the fake has the same flux in both images, to 1 %",
    "faint": "the fake's signal-to-noise ratio is below min_snr",
    "near a fake": "a detection is near an injected source",
    "no position": "a detection has no position",
}
"""Why a place gives no triplet."""

_TWINS = 1.0
"""Arcseconds within which sources of one object are the same one in science image and template."""
_CONSTANT = 0.01
_SMALLEST, _LARGEST = 7, 1001

type Progress = Callable[[int, int], None]
type FloatArray = NDArray[np.float64]


@dataclass
class TripletCounts:
    """What `training_triplets` wrote, and what it left out.

    Parameters
    ----------
    output : str
        The file.
    n_real, n_bogus : int
        Triplets at injected sources, and elsewhere.
    n_images : int
        Science images that were tried.
    skipped : dict of str to int
        How many places gave no triplet, by the reasons of `SKIPPED`.
    failures : list of (str, str)
        Images and templates that could not be used, and why.
    """

    output: str
    n_real: int = 0
    n_bogus: int = 0
    n_images: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every image could be used."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types."""
        failures = [{"image_id": name, "reason": reason} for name, reason in self.failures]
        return {
            "output": self.output, "n_real": self.n_real, "n_bogus": self.n_bogus, "n_images": self.n_images,
            "skipped": dict(self.skipped), "failures": failures, "ok": self.ok,
        }  # fmt: skip

    def __str__(self) -> str:
        images = f"{self.n_images} image{'' if self.n_images == 1 else 's'}"
        lines = [f"{self.output}: {self.n_real} real and {self.n_bogus} bogus triplets of {images}"]
        lines += [f"left out: {n} {reason}: {SKIPPED[reason]}" for reason, n in sorted(self.skipped.items())]
        lines += [f"failed: {name}: {reason}" for name, reason in self.failures]
        return "\n".join(lines)


class _Place(NamedTuple):
    """A place on a science image that may become a triplet."""

    x: float
    y: float
    ra: float
    dec: float
    injection_id: int = -1
    object_id: int = -1
    mag: float = float("nan")
    is_real: bool = False


@dataclass(frozen=True)
class _Settings:
    size: int
    random: int | None
    per_image: int | None
    min_snr: float | None
    away: float
    coverage: float
    seed: int


def training_triplets(
    campaign: Campaign | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    template: Any = None,
    size: int = 63,
    detections: Any = None,
    random: int | None = None,
    per_image: int | None = None,
    min_snr: float | None = None,
    away: float = 5.0,
    coverage: float = 0.9,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TripletCounts:
    """Write cut-outs of science image, template and difference, at injected sources (real) and elsewhere (bogus).

    Science images are the outputs of a campaign. The template is brought onto their pixels, both are scaled to
    nanojansky, and each is convolved with the PSF of the other before they are subtracted
    (`skygraft.views.subtraction.subtract_at`).

    Parameters
    ----------
    campaign : Campaign or path-like
        The campaign, its YAML file or its output folder.
    output : path-like
        HDF5 file (``.h5``, ``.hdf5``, ``.nc``) or Zarr store (``.zarr``) to write.
    template : Campaign, path-like, sequence of path-like or Templates, optional
        Images of the same sky and band: outputs of a campaign, or image files or patterns of them
        (`skygraft.views.template_images.templates_of` takes their PSF and calibration). By default each image as it
        was before injection: perfect subtraction, whose differences hold nothing but the sources.
    size : int
        Side of the cut-outs, pixels; odd.
    detections : path-like or table-like, optional
        Places of bogus ones: a table with ``ra`` and ``dec``, see `DetectionPositions`. Those near an injected source
        are left out. What else is real among them must not be in the table.
    random : int, optional
        Bogus ones of each image at random places; by default as many as real ones, and none with `detections`.
    per_image : int, optional
        Most real ones of an image, then chosen at random; all by default.
    min_snr : float, optional
        Least absolute signal-to-noise ratio of real ones in the difference.
    away : float
        Least distance of bogus ones from every injected source, arcsec.
    coverage : float
        Least part of the pixels that science image and template must have; the rest are NaN.
    seed : int
        Of what is chosen at random.
    overwrite : bool
        Whether to replace a file that exists.
    progress : callable, optional
        Called with the numbers of images done and in total.

    Returns
    -------
    TripletCounts
        An image that cannot be used is among its failures, and does not stop the others.

    Raises
    ------
    ConfigError
        If a setting is not one of those allowed, or no template can be read.
    CampaignError
        If no image of the campaign is done.
    CatalogError
        If the detections cannot be read.
    OutputError
        If the file cannot be written, or exists.
    """
    settings = _checked(_Settings(size, random, per_image, min_snr, away, coverage, seed))
    path = check_output(output, overwrite=overwrite)
    campaign = as_campaign(campaign)
    plan, rows = done_rows(campaign)
    templates = template if template is None or isinstance(template, Templates) else templates_of(template)
    found = None if detections is None else DetectionPositions(detections)
    counts = TripletCounts(str(path))
    if found is not None and found.n_bad:
        counts.skipped["no position"] += found.n_bad
    counts.failures += [] if templates is None else list(templates.failures)
    attributes = {
        "title": "Triplets of science image, template and difference",
        "campaign": campaign.config.name,
        "template": "original" if templates is None else templates.description,
        "differencing": "pixel by pixel" if templates is None else "cross-convolution (Yuan & Akerlof 2008)",
        "seed": seed,
    }
    with open_writer(path, size, attributes) as writer:
        for done, image in enumerate(plan.images(rows), start=1):
            made = _rows(campaign, image, templates, found, settings, counts)
            while True:
                try:
                    row = next(made, None)
                except Exception as error:  # one bad image never stops the others
                    counts.failures.append((image.image_id, _said(error)))
                    break
                if row is None:
                    break
                writer.add(row)
                counts.n_real += row["label"]
                counts.n_bogus += 1 - row["label"]
            counts.n_images += 1
            if progress is not None:
                progress(done, len(rows))
    return counts


def _checked(settings: _Settings) -> _Settings:
    def refuse(key: str, allowed: str) -> ConfigError:
        return ConfigError(f"{key} is {getattr(settings, key)!r}", key=key, fix=f"Give {allowed}")

    size = settings.size
    if not (isinstance(size, (int, np.integer)) and _SMALLEST <= size <= _LARGEST and size % 2 == 1):
        raise refuse("size", f"an odd number of pixels from {_SMALLEST} to {_LARGEST}")
    for key, least in (("random", 0), ("per_image", 1)):
        value = getattr(settings, key)
        if value is not None and not (isinstance(value, (int, np.integer)) and value >= least):
            raise refuse(key, f"a whole number of at least {least}")
    if settings.min_snr is not None and not 0 <= settings.min_snr < np.inf:
        raise refuse("min_snr", "a number that is not negative")
    if not 0 <= settings.away < np.inf:
        raise refuse("away", "arcseconds, not negative")
    if not 0 < settings.coverage <= 1:
        raise refuse("coverage", "a part, above 0 and at most 1")
    return settings


def _said(error: Exception) -> str:
    text = str(error)
    return text if text and type(error).__module__.startswith("skygraft.") else f"{type(error).__name__}: {text}"


def _rows(campaign: Campaign, image: PlannedImage, *about: Any) -> Iterator[dict[str, Any]]:
    """Triplets of an image; what is wrong with it is raised by the iterator."""
    yield from _Maker(campaign, image, *about).rows()


class _Maker:
    """Makes the triplets of one science image, in an order that depends on nothing but its sources and the seed."""

    def __init__(
        self,
        campaign: Campaign,
        image: PlannedImage,
        templates: Templates | None,
        detections: DetectionPositions | None,
        settings: _Settings,
        counts: TripletCounts,
    ) -> None:
        self._image, self._templates, self._detections = image, templates, detections
        self._settings, self._counts = settings, counts
        truth = read_truth(campaign.layout, image, record_of(campaign.layout, image))
        self._science = read_output(campaign, image)
        self._fluxes = fluxes_of(truth, self._science)
        self._truth = {name: np.asarray(getattr(truth[name], "value", truth[name])) for name in _TRUTH}
        self._bad = self._science.exposure.bad()
        self._before = CalibratedImage(read_image(image, campaign.config)) if templates is None else None
        self._near = [] if templates is None else templates.near(image)

    def rows(self) -> Iterator[dict[str, Any]]:
        settings, n = self._settings, 0
        for place in self._sources():
            if n == settings.per_image:
                break
            row = self._row(place)
            if row is not None:
                n += 1
                yield row
        if self._detections is not None:
            for place in self._detected(self._detections):
                row = self._row(place, counted=True)
                if row is not None:
                    yield row
        wanted = settings.random
        if wanted is None:
            wanted = n if self._detections is None else 0
        tries = self._random_places(20 * wanted + 50 if wanted else 0)
        while wanted > 0 and (anywhere := next(tries, None)) is not None:
            row = self._row(anywhere, counted=False)
            if row is not None:
                wanted -= 1
                yield row

    def _generator(self, purpose: str) -> np.random.Generator:
        import xxhash

        key = xxhash.xxh3_128_intdigest(f"{self._settings.seed} {purpose} {self._image.image_id}".encode())
        return np.random.Generator(np.random.Philox(key=key))

    def _sources(self) -> list[_Place]:
        """Injected sources on the image, one for each object and place: by injection id, or in random order."""
        truth = self._truth
        inside = (truth["flags"] & int(Flag.CENTER_OFF_IMAGE)) == 0
        inside &= np.isfinite(truth["x"]) & np.isfinite(truth["y"]) & self._on_image(truth["x"], truth["y"])
        rows = np.flatnonzero(inside)
        # Drawn ones first, so that of twins the one that is in this image gives the row its name.
        rows = rows[np.lexsort([truth["injection_id"][rows], truth["stamp_size"][rows] == 0])]
        places: dict[int, list[_Place]] = {}
        for k in rows.tolist():
            x, y, ra, dec, mag = (float(truth[name][k]) for name in ("x", "y", "ra", "dec", "mag"))
            place = _Place(x, y, ra, dec, int(truth["injection_id"][k]), int(truth["object_id"][k]), mag, True)
            same = places.setdefault(place.object_id, [])
            if all(float(separation(ra, dec, other.ra, other.dec)) > _TWINS for other in same):
                same.append(place)
        found = sorted((place for same in places.values() for place in same), key=lambda place: place.injection_id)
        if self._settings.per_image is not None:
            found = [found[k] for k in self._generator("real").permutation(len(found)).tolist()]
        return found

    def _on_image(self, x: FloatArray, y: FloatArray) -> NDArray[np.bool_]:
        (ny, nx), (x0, y0) = self._science.exposure.shape, self._science.exposure.xy0
        return (x >= x0 - 0.5) & (x < x0 + nx - 0.5) & (y >= y0 - 0.5) & (y < y0 + ny - 0.5)

    def _detected(self, detections: DetectionPositions) -> Iterator[_Place]:
        ra, dec = detections.of(self._image)
        if not ra.size:
            return
        x, y = (np.asarray(v, dtype=float) for v in self._science.exposure.wcs.world_to_pixel_values(ra, dec))
        inside = np.isfinite(x) & np.isfinite(y)
        inside[inside] = self._on_image(x[inside], y[inside])
        for k in np.flatnonzero(inside).tolist():
            yield _Place(float(x[k]), float(y[k]), float(ra[k]), float(dec[k]))

    def _random_places(self, n: int) -> Iterator[_Place]:
        if not n:
            return
        exposure = self._science.exposure
        (ny, nx), (x0, y0) = exposure.shape, exposure.xy0
        half = self._settings.size // 2
        edges = [half if length > self._settings.size else 0 for length in (nx, ny)]
        part = self._generator("bogus").random((n, 2))
        x = x0 + edges[0] + part[:, 0] * (nx - 1 - 2 * edges[0])
        y = y0 + edges[1] + part[:, 1] * (ny - 1 - 2 * edges[1])
        ra, dec = (np.asarray(v, dtype=float) for v in exposure.wcs.pixel_to_world_values(x, y))
        for k in range(n):
            yield _Place(float(x[k]), float(y[k]), float(ra[k]), float(dec[k]))

    def _row(self, place: _Place, *, counted: bool = True) -> dict[str, Any] | None:
        """Make the triplet of a place; None, and its reason counted, if there is none."""
        reason, row = self._made(place)
        if reason and counted:
            self._counts.skipped[reason] += 1
        return row

    def _made(self, place: _Place) -> tuple[str, dict[str, Any] | None]:
        if place.is_real and self._is_bad(place):
            return "masked", None
        if not place.is_real and self._fluxes.distance(place.ra, place.dec) <= self._settings.away:
            return "near a fake", None
        flux = self._fluxes.of(place.object_id, place.ra, place.dec, _TWINS) if place.is_real else 0.0
        if self._before is not None:
            if place.is_real and flux == 0.0:
                return "", None
            made = subtract_original(self._science, self._before, place.x, place.y, self._settings.size)
            return self._finished(place, made, flux, "original")
        reason = "no template"
        for number in self._near:
            image = self._template(number)
            if image is None:
                continue
            other, fluxes = image
            if not place.is_real and fluxes.distance(place.ra, place.dec) <= self._settings.away:
                return "near a fake", None
            left = flux
            if place.is_real:
                in_template = fluxes.of(place.object_id, place.ra, place.dec, _TWINS)
                left = flux - in_template
                if flux == in_template == 0.0:
                    reason = ""
                    continue
            made = subtract_at(self._science, other, place.x, place.y, self._settings.size)
            if made is None or made.covered()[1] < self._settings.coverage:
                continue
            if place.is_real and abs(left) <= _CONSTANT * max(abs(flux), abs(flux - left)):
                return "constant", None
            assert self._templates is not None
            return self._finished(place, made, left, self._templates.name(number))
        return reason, None

    def _template(self, number: int) -> tuple[CalibratedImage, Fluxes] | None:
        assert self._templates is not None
        try:
            found = self._templates.get(number)
        except Exception as error:  # a bad template leaves the others
            failure = (self._templates.name(number), _said(error))
            if failure not in self._counts.failures:
                self._counts.failures.append(failure)
            return None
        return found.image, found.fluxes

    def _is_bad(self, place: _Place) -> bool:
        x0, y0 = self._science.exposure.xy0
        column, row = int(np.floor(place.x + 0.5)) - x0, int(np.floor(place.y + 0.5)) - y0
        return bool(self._bad[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].any())

    def _finished(
        self, place: _Place, made: Triplet | None, flux: float, template_id: str
    ) -> tuple[str, dict[str, Any] | None]:
        settings = self._settings
        if made is None:
            return "no template", None
        if made.covered()[0] < settings.coverage:
            return "at the edge", None
        if place.is_real and settings.min_snr is not None and not abs(made.snr) >= settings.min_snr:
            return "faint", None
        image = self._image
        return "", {
            "label": int(place.is_real),
            "injection_id": place.injection_id,
            "object_id": place.object_id,
            "mag": place.mag,
            "flux": flux,
            "snr": made.snr,
            "mjd": float("nan") if image.mjd is None else image.mjd,
            "band": image.band or "",
            "image_id": image.image_id,
            "template_id": template_id,
            "ra": place.ra,
            "dec": place.dec,
            "x": place.x,
            "y": place.y,
            "science": made.science,
            "template": made.template,
            "difference": made.difference,
        }


_TRUTH = ("injection_id", "object_id", "ra", "dec", "x", "y", "mag", "flags", "stamp_size")
