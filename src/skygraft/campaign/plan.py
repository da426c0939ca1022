"""Work out what a campaign would do: which image gets which sources, where it goes, and what that costs.

No pixels are read, but for one image of each instrument, which is opened to see that its calibration is complete.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from astropy.table import QTable, Table, vstack

from skygraft.campaign.config import CampaignConfig
from skygraft.campaign.files import Layout
from skygraft.campaign.planned import Plan, PlannedImage, PlanWriter
from skygraft.campaign.selection import digest_rows, row_digests, select
from skygraft.campaign.stamps import file_stamp, plan_key
from skygraft.catalog import list_partitions, partition_catalog, read_partitions
from skygraft.catalog.partition import OUTSIDE
from skygraft.catalog.schema import MOTION
from skygraft.catalog.select import is_moving
from skygraft.errors import CampaignError, CatalogError
from skygraft.skymap import SkyMap, get_skymap
from skygraft.survey import FAILURES, index_images

__all__ = ["estimate_seconds", "plan_images"]

type Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]

# Measured on one core: reading and writing a megabyte of input, treating a megapixel, drawing a source.
_SECONDS = {"image": 0.1, "megabyte": 0.02, "megapixel": 0.25, "source": 0.002}


def estimate_seconds(n_bytes: int, n_pixels: int, n_sources: int) -> float:
    """Estimated time of an image on one core, in seconds; only its proportions matter to the running of tasks."""
    return (
        _SECONDS["image"]
        + _SECONDS["megabyte"] * n_bytes / 1e6
        + _SECONDS["megapixel"] * n_pixels / 1e6
        + _SECONDS["source"] * n_sources
    )


def plan_images(config: CampaignConfig, *, mapper: Mapper = map, processes: int = 1) -> Plan:
    """Index the images, partition the catalogue, work out which image gets which sources, and write the plan.

    The plan's metadata has: ``plan_key``; ``unusable``, a list of images that are left out (path, kind, image_id,
    error, reason, and the file's stamp); ``problems``, a list of what is wrong with images that are planned;
    ``n_catalog`` and ``n_outside``, the catalogue's rows and those in no tract.

    Parameters
    ----------
    config : CampaignConfig
        The campaign.
    mapper : callable, optional
        ``mapper(function, items)`` gives the function's results in order, as `map` does. Functions and items can be
        pickled, so that the work may be done elsewhere.
    processes : int
        More than one: do the work in so many processes of this machine, instead of with `mapper`.

    Returns
    -------
    Plan
        The same whatever `mapper` and `processes` are.

    Raises
    ------
    CampaignError
        If there are no images, none can be used, or the catalogue touches none.
    CatalogError, FormatError, ConfigError
        From reading the catalogue or indexing the images.
    """
    layout = Layout(config.output)
    skymap = get_skymap(config.skymap)
    index = index_images(config.survey.spec(), config.survey.root, mapper=_OutsideOf(config.output))
    failures = index.meta[FAILURES]
    unusable = [{name: str(row[name]) for name in failures.colnames} for row in failures]
    unusable = [{**bad, "stamp": file_stamp(config.survey.root / bad["path"])} for bad in unusable]
    if len(index) == 0 and unusable:
        raise CampaignError(
            f"none of {len(unusable)} images can be used; the first: {unusable[0]['error']}: {unusable[0]['reason']}",
            path=config.survey.root / unusable[0]["path"],
            key="survey",
        )
    if len(index) == 0:
        looked = config.survey.images if config.survey.images is not None else config.survey.ccds
        raise CampaignError(
            f"no images found for {looked!r}",
            path=config.survey.root,
            key="survey",
            fix="Check the pattern or the table",
        )
    partition_catalog(
        config.catalog.path,
        skymap,
        layout.catalog,
        dialect=config.catalog.dialect,
        band=config.catalog.band,
        on_bad=config.catalog.on_bad,
        overwrite=True,
    )
    partitions = list_partitions(layout.catalog)
    columns = read_partitions(layout.catalog, []).colnames
    images, problems = _plan_images(
        index, config, skymap, set(partitions), _Movers(layout.catalog, partitions, columns)
    )
    if not problems and not any(image.n_sources for image in images):
        raise _touches_nothing(index, config)
    with PlanWriter(layout.plan) as writer:
        writer.metadata.update(
            plan_key=plan_key(config),
            unusable=unusable,
            problems=problems,
            n_catalog=sum(partitions.values()),
            n_outside=partitions.get(OUTSIDE, 0),
        )
        writer.write(images)
    return Plan(layout.plan)


class _OutsideOf:
    """A `map` that passes over images beneath a folder: those that the campaign itself wrote."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterable[Any]:
        return map(function, (job for job in jobs if not Path(job.path).is_relative_to(self._folder)))


def _paths(index: Table, config: CampaignConfig) -> list[Path]:
    return [Path(os.path.normpath(config.survey.root / str(path))) for path in index["path"]]


def _value(row: Any, name: str) -> Any:
    """A cell as a plain Python value; None where masked, absent or NaN."""
    if name not in row.colnames:
        return None
    value = row[name]
    if value is None or np.ma.is_masked(value):
        return None
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and np.isnan(value) else value


def _text(row: Any, name: str) -> str | None:
    value = _value(row, name)
    return str(value) if value not in (None, "") else None


class _Movers:
    """Where moving sources are stored, which is where they are at their epoch, not where an image sees them."""

    def __init__(self, catalog: Path, partitions: Iterable[tuple[int, int]], columns: Sequence[str]) -> None:
        self._table: QTable | None = None
        self._homes: list[tuple[int, int]] = []
        wanted = [n for n in ("ra", "dec", "epoch_mjd", *MOTION) if n in columns]
        if not set(MOTION) & set(columns):
            return
        tables = []
        for key in partitions:
            table = read_partitions(catalog, [key], columns=wanted)
            table = table[is_moving(table)]
            tables.append(table)
            self._homes += [key] * len(table)
        if self._homes:
            self._table = vstack(tables, metadata_conflicts="silent")

    def patches(self, polygon: Any, margin_arcsec: float, mjd: float | None) -> set[tuple[int, int]]:
        """Patches that hold sources that are, at a time, within an outline or its margin."""
        if self._table is None:
            return set()
        return {self._homes[i] for i in select(self._table, polygon, margin_arcsec, mjd=mjd)}


def _plan_images(
    index: Table,
    config: CampaignConfig,
    skymap: SkyMap,
    partitions: set[tuple[int, int]],
    movers: _Movers,
) -> tuple[list[PlannedImage], list[str]]:
    layout = Layout(config.output)
    tracts, patches = skymap.locate(np.asarray(index["ra"], float), np.asarray(index["dec"], float))
    homes = list(zip(np.atleast_1d(tracts).tolist(), np.atleast_1d(patches).tolist(), strict=True))
    paths = _paths(index, config)
    outputs = _output_paths(index, paths, config.survey.root)
    stems = _stems([str(name) for name in index["image_id"]])
    order = sorted(range(len(index)), key=lambda i: (homes[i], str(index["image_id"][i])))

    # Images of one field read the same patches: keep the last few tables.
    @functools.lru_cache(maxsize=8)
    def table_of(reads: tuple[tuple[int, int], ...]) -> QTable:
        return read_partitions(layout.catalog, list(reads))

    planned, problems = [], []
    for i in order:
        row = index[i]
        polygon = np.asarray(row["polygon"], dtype=float).reshape(-1, 2)
        mjd, visit = _value(row, "mjd"), _value(row, "visit")
        touching = {(int(t), int(p)) for t, p in skymap.touching(polygon, config.margin_arcsec)}
        band = _text(row, "band")
        n_sources, catalog_key, reads = 0, digest_rows([]), tuple(sorted(touching & partitions))
        try:
            touching |= movers.patches(polygon, config.margin_arcsec, mjd)
            reads = tuple(sorted(touching & partitions))
            if reads:
                table = table_of(reads)
                chosen = select(table, polygon, config.margin_arcsec, mjd=mjd, visit=visit)
                n_sources = len(chosen)
                catalog_key = digest_rows(row_digests(table[chosen], band or config.catalog.band))
        except CatalogError as error:
            # The image fails with the same error when its turn comes; the others do not care.
            problems.append(f"{row['image_id']}: {error}")
        nx, ny, n_bytes = int(row["nx"]), int(row["ny"]), int(row["n_bytes"])
        path = paths[i]
        relative = path.is_relative_to(config.survey.root)
        planned.append(
            PlannedImage(
                image_id=str(row["image_id"]),
                stem=stems[i],
                path=(path.relative_to(config.survey.root) if relative else path).as_posix(),
                hdu=_text(row, "hdu") or "",
                format=str(row["format"]),
                instrument=_text(row, "instrument"),
                visit=None if visit is None else int(visit),
                detector=_text(row, "detector"),
                band=band,
                mjd=mjd,
                exposure_time=_value(row, "exposure_time"),
                nx=nx,
                ny=ny,
                ra=float(row["ra"]),
                dec=float(row["dec"]),
                polygon=tuple((float(ra), float(dec)) for ra, dec in polygon),
                pixel_scale=float(row["pixel_scale"]),
                n_bytes=n_bytes,
                options=_text(row, "options") or "{}",
                tract=homes[i][0],
                patch=homes[i][1],
                reads=reads,
                n_sources=n_sources,
                cost_seconds=round(estimate_seconds(n_bytes, nx * ny, n_sources), 3),
                output=outputs[i],
                catalog_key=catalog_key,
            )
        )
    return planned, problems


def _output_paths(index: Table, paths: Sequence[Path], root: Path) -> list[str]:
    """Where each output goes: the input's place beneath the survey's folder; unique.

    Images outside of it lose what they have in common. Several images of one file get a folder each, so that none is
    written by two tasks.
    """
    outside = [path for path in paths if not path.is_relative_to(root)]
    common = Path(os.path.commonpath([path.parent for path in outside])) if outside else root
    places = [
        PurePosixPath(path.relative_to(root if path.is_relative_to(root) else common).as_posix()) for path in paths
    ]
    shared = {place for place, n in Counter(places).items() if n > 1}
    stems = _stems([str(name) for name in index["image_id"]])
    return [
        str(place.parent / stem / place.name if place in shared else place)
        for place, stem in zip(places, stems, strict=True)
    ]


def _stems(image_ids: Sequence[str]) -> list[str]:
    """Image ids made fit for file names; those that become equal, also to a file system blind to case, are numbered."""
    safe = [re.sub(r"[^A-Za-z0-9._+-]", "_", name).lstrip(".")[:150] or "image" for name in image_ids]
    count = Counter(name.lower() for name in safe)
    return [
        f"{stem}-{hashlib.sha256(name.encode()).hexdigest()[:10]}" if count[stem.lower()] > 1 or stem != name else stem
        for stem, name in zip(safe, image_ids, strict=True)
    ]


def _touches_nothing(index: Table, config: CampaignConfig) -> CampaignError:
    root = Layout(config.output).catalog
    catalog = read_partitions(root, list_partitions(root), columns=["ra", "dec"])

    def extent(table: Table) -> str:
        spans = []
        for name in ("ra", "dec"):
            values = np.asarray(getattr(table[name], "value", table[name]), dtype=float)
            spans.append(f"{name} {values.min():.4f} to {values.max():.4f}")
        return ", ".join(spans)

    return CampaignError(
        f"none of the {len(catalog)} sources of the catalogue ({extent(catalog)} deg) is on any of the {len(index)} "
        f"images (centres at {extent(index)} deg)",
        path=config.catalog.path,
        key="catalog",
        fix="Check that both are of the same field, and that the catalogue's dialect (degrees or radians) is right",
    )
