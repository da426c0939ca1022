"""The footprint of a survey's images: which positions are on which images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from astropy import units as u
from astropy_healpix import lonlat_to_healpix, neighbours
from numpy.typing import NDArray

from skygraft.catalog.io import numpy_array, one_array
from skygraft.config.campaign import CampaignConfig, load_config
from skygraft.errors import CatalogError, ConfigError, FormatError
from skygraft.formats import read_calibration, read_exposure
from skygraft.generation.cells import CELLS_MOST, CellArea, Points, cell_reach, in_cells
from skygraft.json_text import parse_json
from skygraft.processes import Mapper, careful_map
from skygraft.records.files import Layout
from skygraft.records.plan_file import Plan
from skygraft.survey.index import index_survey
from skygraft.survey.index_file import INDEX_SCHEMA, IndexFile
from skygraft.wcs.base import to_lonlat, to_vectors

__all__ = ["FootprintArea", "ImageJob", "SurveyImages", "read_images"]

type Floats = NDArray[np.float64]
type Ints = NDArray[np.int64]
type Flags = NDArray[np.bool_]

_COLUMNS = ("image_id", "path", "format", "band", "polygon", "pixel_scale", "options")
_ACROSS = 8
"""Cells across the shorter side of the smallest image, at least."""
_AT_ONCE = 2000
"""Images whose cells are found together."""
_CONFIGS = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class ImageJob:
    """How to read one image, with the calibration that a campaign gives it.

    Parameters
    ----------
    path : str
    format : str
    options : dict
        Reading options of the format, and of the calibration.
    """

    path: str
    format: str
    options: dict[str, Any]

    def exposure(self) -> Any:
        """Read the image."""
        return read_exposure(self.path, format=self.format, **self.options)

    def calibration(self) -> Any:
        """Read its calibration, without its pixels."""
        return read_calibration(self.path, format=self.format, **self.options)


@dataclass(frozen=True, eq=False)
class SurveyImages:
    """The images of a survey.

    Parameters
    ----------
    origin : Path
        Where they are listed.
    table : pyarrow.Table
        Columns ``image_id``, ``path``, ``format``, ``band``, ``polygon``, ``pixel_scale``, ``options``.
    root : Path
        Folder that their paths are relative to.
    config : CampaignConfig or None
        Campaign that says how they are calibrated.
    """

    origin: Path
    table: pa.Table
    root: Path
    config: CampaignConfig | None = None

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def bands(self) -> list[str]:
        """Their bands, in alphabetical order."""
        return sorted({band for band in self.table.column("band").to_pylist() if band is not None})

    def of_bands(self, bands: Sequence[str]) -> SurveyImages:
        """The images of some bands.

        Raises
        ------
        CatalogError
            If no image is of one of them.
        """
        unknown = [band for band in bands if band not in self.bands]
        if unknown:
            raise CatalogError(
                f"no image is of band {', '.join(unknown)}; they are of {', '.join(self.bands) or 'no known band'}",
                path=self.origin,
                key="bands",
                fix="Name a band of the images",
            )
        kept = [band in bands for band in self.table.column("band").to_pylist()]
        return SurveyImages(self.origin, self.table.filter(pa.array(kept)), self.root, self.config)

    def job(self, row: int) -> ImageJob:
        """How to read the image of a row."""
        path = self.root / self.table.column("path")[row].as_py()
        options = parse_json(self.table.column("options")[row].as_py() or "{}")
        if self.config is not None:
            own = self.config.survey.calibration
            known = {
                name: self.table.column(name)[row].as_py() if name in self.table.column_names else None
                for name in ("band", "visit", "detector", "instrument")
            }
            psf = own.psf_of(path, self.config.survey.root, known)
            given = {"aperture": own.aperture, "psf": psf, "photo_calib": own.photo_calib()}
            given["gain"] = own.gain
            options |= {name: value for name, value in given.items() if value is not None}
        return ImageJob(os.fspath(path), self.table.column("format")[row].as_py(), options)


def read_images(path: Path, mapper: Mapper = careful_map) -> SurveyImages:
    """List the images of a campaign, a plan or an index.

    Parameters
    ----------
    path : Path
        The YAML file or the output folder of a campaign, its ``plan.parquet``, or an index that
        ``skygraft index -o`` wrote.
    mapper : callable
        Applies a function to images, as `map` does; see `skygraft.survey.index_images`.

    Returns
    -------
    SurveyImages

    Raises
    ------
    ConfigError, FormatError
        If it is none of these, or cannot be read.
    CatalogError
        If it lists no image that can be used.
    """
    images = _listed(path, mapper)
    if not len(images):
        raise CatalogError(
            "no image can be used, so the footprint is empty",
            path=path,
            key="footprint",
            fix="See what skygraft plan or skygraft index says of the images",
        )
    return images


def _listed(path: Path, mapper: Mapper) -> SurveyImages:
    if not path.exists():
        raise ConfigError(
            "there is no such file", path=path, key="footprint", fix="Give a campaign's YAML file, a plan, or an index"
        )
    if path.is_dir():
        path = Layout(path).config
    if path.suffix.lower() in _CONFIGS:
        config = load_config(path)
        plan = Layout(config.output).plan
        if plan.is_file():
            return SurveyImages(path, _plain(Plan(plan).table(_COLUMNS)), config.survey.root, config)
        index = index_survey(config.survey.spec(), config.survey.root, mapper=mapper)
        return SurveyImages(path, _plain(index.table.select(_COLUMNS)), config.survey.root, config)
    layout = Layout(path.absolute().parent)
    if path.name == layout.plan.name and layout.config.is_file():
        config = load_config(layout.config)
        return SurveyImages(path, _plain(Plan(path).table(_COLUMNS)), config.survey.root, config)
    try:
        listed = IndexFile(path)
        tables = [pa.schema([INDEX_SCHEMA.field(name) for name in _COLUMNS]).empty_table(), *listed.batches(_COLUMNS)]
    except FormatError as error:
        is_image = ".fit" in path.name.lower()
        raise FormatError(
            "it is an image, and an index of images is needed" if is_image else f"it lists no images ({error.message})",
            path=path,
            key="footprint",
            fix="Give a campaign's YAML file, a plan, or an index made by skygraft index IMAGES -o index.parquet",
        ) from error
    return SurveyImages(path, _plain(pa.concat_tables(tables)), path.absolute().parent)


def _plain(table: pa.Table) -> pa.Table:
    """Outlines as lists of lists, which plans and indexes have as different types."""
    points = pa.list_(pa.list_(pa.float64()))
    place = table.schema.get_field_index("polygon")
    return table.set_column(place, "polygon", one_array(table.column("polygon")).cast(points)).combine_chunks()


def _near(order: int, images: Ints, middles: Floats, radii: Floats) -> tuple[Ints, Ints]:
    """Pairs of images and the cells that their circles may touch: coarse cells, divided where they may."""
    # Cells of three radii: those around the middle's own hold the circle.
    level = int(np.clip(np.floor(np.log2(np.sqrt(np.pi / 3.0) / (3.0 * float(radii[images].max())))), -1, order))
    if level < 1:
        level = 0
        image, cells = (part.ravel() for part in np.meshgrid(images, np.arange(12), indexing="ij"))
    else:
        ra, dec = to_lonlat(middles[images])
        own = lonlat_to_healpix(ra * u.deg, dec * u.deg, 1 << level, order="nested")
        around = np.concatenate([own[None], neighbours(own, 1 << level, order="nested")])
        image, cells = np.tile(images, len(around)), around.ravel().astype(np.int64)
        image, cells = np.unique(np.stack([image, cells])[:, cells >= 0], axis=1)
    while True:
        apart = np.linalg.norm(in_cells(level, cells, 0.5, 0.5).vectors - middles[image], axis=1)
        near = 2.0 * np.arcsin(np.minimum(apart / 2.0, 1.0)) <= radii[image] + cell_reach(level)
        image, cells = image[near], cells[near]
        if level == order:
            return image, cells
        level += 1
        image, cells = np.repeat(image, 4), (4 * cells[:, None] + np.arange(4)).ravel()


class FootprintArea(CellArea):
    """The places that are on at least some number of images.

    Parameters
    ----------
    images : SurveyImages
    at_least : int
        Number of images that must show a place.

    Raises
    ------
    CatalogError
        If no place is on so many images.
    """

    def __init__(self, images: SurveyImages, at_least: int = 1) -> None:
        self.images, self.at_least = images, at_least
        polygons = one_array(images.table.column("polygon"))
        sizes = numpy_array(polygons.value_lengths()).astype(np.int64)
        points = numpy_array(polygons.flatten().flatten()).reshape(-1, 2)
        self._bounds = np.concatenate([[0], np.cumsum(sizes)])
        self._corners = to_vectors(points[:, 0], points[:, 1])
        middles = np.add.reduceat(self._corners, self._bounds[:-1])
        self._middles = middles / np.linalg.norm(middles, axis=1, keepdims=True)
        chord = np.linalg.norm(self._corners - np.repeat(self._middles, sizes, axis=0), axis=1)
        radii = 2.0 * np.arcsin(np.minimum(np.maximum.reduceat(chord, self._bounds[:-1]) / 2.0, 1.0))
        order = self._order(radii)
        pairs = [self._cells_of(order, k, radii) for k in range(0, len(images), _AT_ONCE)]
        cells, whole, image = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        rows = np.lexsort((image, cells))
        cells, self._pair_whole, self._pair_image = cells[rows], whole[rows], image[rows]
        unique, starts = np.unique(cells, return_index=True)
        counts = np.diff(np.append(starts, len(cells)))
        sure = np.add.reduceat(self._pair_whole.astype(np.int64), starts) if len(starts) else starts
        kept = counts >= at_least
        self._starts, self._counts = starts[kept], counts[kept]
        super().__init__(order, unique[kept], sure[kept] >= at_least)
        if not kept.any():
            raise CatalogError(
                f"no place is on {at_least} images of {images.origin.name}",
                path=images.origin,
                key="images_at_least",
                fix="Lower images_at_least",
            )

    def _order(self, radii: Floats) -> int:
        """Order of cells that resolves the smallest image, limited by memory."""
        side = float(radii.min()) * np.sqrt(2.0) / _ACROSS
        fine = np.log2(np.sqrt(np.pi / 3.0) / max(side, 1e-9)) + 1
        few = 0.5 * np.log2(8 * CELLS_MOST * (4.0 * np.pi / 12.0) / max(float((2.0 * radii**2).sum()), 1e-18))
        return int(np.clip(np.floor(min(fine, few)), 0, 24))

    def _cells_of(self, order: int, start: int, radii: Floats) -> tuple[Ints, Flags, Ints]:
        """Cells that some images touch, which of them lie wholly on the image, and its number."""
        from skygraft.generation.footprint_loops import touching

        image, cells = _near(order, np.arange(start, min(start + _AT_ONCE, len(radii))), self._middles, radii)
        middles = in_cells(order, cells, 0.5, 0.5).vectors
        kind = touching(middles, image, self._corners, self._bounds, self._middles, cell_reach(order))
        some = kind > 0
        return cells[some], kind[some] > 1, image[some]

    def test(self, points: Points, index: Ints) -> Flags:
        """Find which positions are on enough images."""
        which, _ = self._pairs(points, index)
        return np.asarray(np.bincount(which, minlength=len(points)) >= self.at_least)

    def pairs(self, points: Points) -> tuple[Ints, Ints]:
        """Find the images that show positions.

        Parameters
        ----------
        points : Points

        Returns
        -------
        point, image : ndarray of int64, shape (K,)
            Each pair of a position and an image that shows it, in order of the positions.
        """
        numbers = points.cells_of(self.order)
        index = np.minimum(np.searchsorted(self.cells, numbers), len(self.cells) - 1)
        known = np.flatnonzero(self.cells[index] == numbers)
        which, image = self._pairs(points.take(known), index[known])
        return known[which], image

    def _pairs(self, points: Points, index: Ints) -> tuple[Ints, Ints]:
        from skygraft.generation.footprint_loops import images_of

        return images_of(
            points.vectors, index, self._starts, self._counts, self._pair_image, self._pair_whole,
            self._corners, self._bounds, self._middles,
        )  # fmt: skip
