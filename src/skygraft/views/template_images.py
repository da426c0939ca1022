"""Find and read the templates of science images: outputs of a campaign, or image files."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.campaign import Campaign
from skygraft.campaign.pairs import read_injected, read_truth, record_of
from skygraft.errors import ConfigError
from skygraft.exposure import Exposure
from skygraft.formats import read_exposure
from skygraft.json_text import parse_json
from skygraft.planning.reading import read_image_calibration
from skygraft.records.plan_file import PlannedImage
from skygraft.survey.image_columns import IndexedImage
from skygraft.views.places import as_campaign, done_rows, separation
from skygraft.views.subtraction import CalibratedImage

__all__ = ["Fluxes", "TemplateImage", "Templates", "fluxes_of", "read_output", "templates_of"]

_KEPT = 4
"""Templates in memory: neighbouring images share theirs."""
_COLUMNS = ["image_id", "band", "ra", "dec", "nx", "ny", "pixel_scale"]

type FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fluxes:
    """Sources that were drawn into an image.

    Parameters
    ----------
    object_id : ndarray of int64, shape (N,)
    ra, dec : ndarray, shape (N,)
        Where they are, ICRS degrees.
    flux : ndarray, shape (N,)
        Calibrated flux, nJy.
    """

    object_id: NDArray[np.int64]
    ra: FloatArray
    dec: FloatArray
    flux: FloatArray

    def of(self, object_id: int, ra: float, dec: float, radius: float) -> float:
        """Sum the flux of an object's sources within `radius` arcsec of a place, nJy."""
        same = np.flatnonzero(self.object_id == object_id)
        near = separation(ra, dec, self.ra[same], self.dec[same]) <= radius
        return float(self.flux[same][near].sum())

    def distance(self, ra: float, dec: float) -> float:
        """Distance of the nearest of them from a place, arcsec; infinite if there is none."""
        return float(separation(ra, dec, self.ra, self.dec).min(initial=np.inf))


_NO_FLUXES = Fluxes(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0), np.zeros(0))


def fluxes_of(truth: Mapping[str, Any], image: CalibratedImage) -> Fluxes:
    """Return the sources of a truth table that were drawn, with their fluxes in nanojansky.

    Parameters
    ----------
    truth : QTable
        Truth of the image.
    image : CalibratedImage
        For its calibration.

    Returns
    -------
    Fluxes
    """
    drawn = np.asarray(truth["stamp_size"]) > 0
    columns = {name: np.asarray(getattr(truth[name], "value", truth[name]))[drawn] for name in _TRUTH}
    flux = columns["inst_flux"] * image.photo_calib.scale(columns["x"], columns["y"])
    flux = np.where(np.isfinite(flux), flux, 0.0)
    return Fluxes(columns["object_id"].astype(np.int64), columns["ra"], columns["dec"], flux)


_TRUTH = ("object_id", "ra", "dec", "x", "y", "inst_flux")


def read_output(campaign: Campaign, image: PlannedImage) -> CalibratedImage:
    """Read an image that a campaign wrote, with the calibration that it was injected with.

    Parameters
    ----------
    campaign : Campaign
    image : PlannedImage
        An image that is done.

    Returns
    -------
    CalibratedImage

    Raises
    ------
    SkygraftError
        If it cannot be read, or has no PSF or calibration.
    """
    after = read_injected(campaign.config, image)
    calibration = read_image_calibration(image, campaign.config)
    given: Exposure = replace(
        after,
        psf=calibration.psf if calibration.psf is not None else after.psf,
        photo_calib=calibration.photo_calib if calibration.photo_calib is not None else after.photo_calib,
    )
    return CalibratedImage(given, campaign.config.injection.flux_mode)


@dataclass(frozen=True, eq=False)
class TemplateImage:
    """A template, and what was injected into it.

    Parameters
    ----------
    image_id : str
    image : CalibratedImage
    fluxes : Fluxes
    """

    image_id: str
    image: CalibratedImage
    fluxes: Fluxes = _NO_FLUXES


class Templates:
    """Images that may be templates, found by place and band, and read when they are needed.

    Parameters
    ----------
    columns : mapping
        ``image_id``, ``band``, ``ra``, ``dec``, ``nx``, ``ny`` and ``pixel_scale``, each with a value for every image.
    """

    description = "images"
    failures: Sequence[tuple[str, str]] = ()

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self._ids = [str(name) for name in columns["image_id"]]
        self._bands = np.array([band or "" for band in columns["band"]], dtype=object)
        self._ra, self._dec = (np.asarray(columns[name], dtype=float) for name in ("ra", "dec"))
        # Half a diagonal, and some more for distorted images.
        nx, ny, scale = (np.asarray(columns[name], dtype=float) for name in ("nx", "ny", "pixel_scale"))
        self._reach = 0.55 * np.hypot(nx, ny) * scale
        self._read: OrderedDict[int, TemplateImage | Exception] = OrderedDict()

    @property
    def bands(self) -> list[str]:
        """Bands of the images."""
        return sorted(set(self._bands.tolist()))

    def near(self, image: IndexedImage) -> list[int]:
        """Find those that may cover part of an image in its band, the one whose centre is nearest first.

        Parameters
        ----------
        image : IndexedImage

        Returns
        -------
        list of int
            Numbers for `get`.
        """
        away = separation(image.ra, image.dec, self._ra, self._dec)
        own = 0.55 * float(np.hypot(image.nx, image.ny)) * image.pixel_scale
        # An image whose band is not known may be of any.
        band = np.isin(self._bands, ["", image.band]) if image.band else np.ones(len(away), dtype=np.bool_)
        found = np.flatnonzero((away <= own + self._reach) & band)
        return sorted(found.tolist(), key=lambda k: (float(away[k]), self._ids[k]))

    def name(self, number: int) -> str:
        """The id of an image."""
        return self._ids[number]

    def get(self, number: int) -> TemplateImage:
        """Read an image, or give it from memory.

        Parameters
        ----------
        number : int
            From `near`.

        Returns
        -------
        TemplateImage

        Raises
        ------
        Exception
            Why it cannot be read; each time.
        """
        found = self._read.pop(number, None)
        if found is None:
            try:
                found = self._open(number)
            except Exception as error:
                found = error
        self._read[number] = found
        images = [key for key, kept in self._read.items() if isinstance(kept, TemplateImage)]
        for key in images[:-_KEPT]:
            del self._read[key]
        if isinstance(found, Exception):
            raise found
        return found

    def _open(self, number: int) -> TemplateImage:
        raise NotImplementedError


class _OfCampaign(Templates):
    def __init__(self, campaign: Campaign) -> None:
        self._campaign = campaign
        self._plan, rows = done_rows(campaign)
        table = self._plan.table(_COLUMNS).take(rows)
        super().__init__({name: table.column(name).to_pylist() for name in _COLUMNS})
        self._rows = rows
        self.description = f"campaign {campaign.config.name}"

    def _open(self, number: int) -> TemplateImage:
        image = next(self._plan.images([int(self._rows[number])]))
        layout = self._campaign.layout
        read = read_output(self._campaign, image)
        truth = read_truth(layout, image, record_of(layout, image))
        return TemplateImage(image.image_id, read, fluxes_of(truth, read))


class _OfFiles(Templates):
    def __init__(self, paths: Sequence[str], format: str, options: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        from skygraft.survey.index import FAILURES, index_images

        base = Path.cwd()
        table = index_images({"images": list(paths), "format": format, "options": dict(options)}, base)
        failures = table.meta[FAILURES]
        if not len(table):
            reason = f": {failures['path'][0]}: {failures['reason'][0]}" if len(failures) else ""
            raise ConfigError(
                f"no template can be read among {', '.join(paths[:3])}{reason}",
                key="template",
                fix="Give a campaign, or image files or patterns that match some",
            )
        super().__init__({name: table[name].tolist() for name in _COLUMNS})
        self.failures = [(str(row["path"]), str(row["reason"])) for row in failures]
        self._files = [base / str(path) for path in table["path"]]
        self._formats = [str(name) for name in table["format"]]
        self._options: list[dict[str, Any]] = [parse_json(str(text)) for text in table["options"]]
        self.description = ", ".join(paths)
        self._given = {name: value for name, value in given.items() if value is not None}

    def _open(self, number: int) -> TemplateImage:
        options = self._options[number] | self._given
        exposure = read_exposure(self._files[number], format=self._formats[number], **options)
        return TemplateImage(self.name(number), CalibratedImage(exposure))


def templates_of(
    template: Any,
    *,
    format: str = "auto",
    options: Mapping[str, Any] | None = None,
    aperture: Any = None,
    psf: Any = None,
    photo_calib: Any = None,
) -> Templates:
    """Open templates: outputs of a campaign, or image files.

    Parameters
    ----------
    template : Campaign, path-like or sequence of path-like
        A campaign that has been run, its YAML file or its output folder; or image files, or patterns of them.
    format, options
        Of image files: name of their format, and its options.
    aperture, psf, photo_calib
        Of image files: as `skygraft.read_exposure`, where a file does not record it.

    Returns
    -------
    Templates

    Raises
    ------
    CampaignError
        If no image of the campaign is done.
    ConfigError
        If no file can be read.
    """
    given = {"aperture": aperture, "psf": psf, "photo_calib": photo_calib}
    names: list[Any] = [template] if isinstance(template, (Campaign, str, os.PathLike)) else list(template)
    if len(names) == 1 and _is_campaign(names[0]):
        if options or format != "auto" or any(value is not None for value in given.values()):
            raise ConfigError(
                "options of image files are given, and the template is a campaign, which has its own",
                key="template",
                fix="Leave them out",
            )
        return _OfCampaign(as_campaign(names[0]))
    if not names or any(_is_campaign(name) for name in names):
        raise ConfigError(
            "the templates are neither one campaign nor image files",
            key="template",
            fix="Give one campaign, or image files",
        )
    return _OfFiles([os.fspath(name) for name in names], format, options or {}, given)


def _is_campaign(name: Any) -> bool:
    if isinstance(name, Campaign):
        return True
    path = Path(name)
    return path.suffix.lower() in (".yaml", ".yml") or (path.is_dir() and path.suffix.lower() != ".zarr")
