"""Plan a campaign: which image gets which sources, where its output goes, and what that costs.

No pixels are read. The index of the images is sorted on disk and the catalogue is partitioned by patch; then the images
are planned and written a few thousand at a time, so that memory grows by a few numbers for each image only.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from skygraft.config.campaign import CampaignConfig
from skygraft.conventions import LSST
from skygraft.disk import FileIdentity
from skygraft.errors import CampaignError, CatalogError, OutputError, SkygraftError
from skygraft.place_names import url_of
from skygraft.places import beneath, bring_all, holding
from skygraft.processes import careful_map, process_mapper
from skygraft.records.files import Layout
from skygraft.records.plan_file import Plan, PlanWriter, plan_key
from skygraft.skymap import get_skymap

if TYPE_CHECKING:
    from skygraft.survey import IndexFile, SurveyIndex
    from skygraft.timedomain.preparation import Preparation

__all__ = ["plan_images"]

type Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]

_GROUP = 2000
"""Number of images planned at a time."""
_MOST_PROBLEMS = 1000
_SPOOL = ".planning-"


def plan_images(config: CampaignConfig, *, mapper: Mapper = careful_map, processes: int = 1) -> Plan:
    """Index the images, partition the catalogue, select the sources of each image, and write the plan.

    The plan's metadata has: ``plan_key``; ``unusable``, a list of the images that are left out (path, kind, image_id,
    error, reason, and the identity of the file); ``problems``, a list of what is wrong with planned images;
    ``n_catalog`` and ``n_outside``, the number of rows of the catalogue and of those in no tract.

    Parameters
    ----------
    config : CampaignConfig
        The campaign.
    mapper : callable, optional
        ``mapper(function, items)`` gives the function's results in order, as `map` does. Functions and items can be
        pickled, so that it may use other processes.
    processes : int
        If more than one, that many processes of this machine are used instead of `mapper`.

    Returns
    -------
    Plan
        The same for any `mapper` and `processes`.

    Raises
    ------
    CampaignError
        If there are no images, none can be used, or no source of the catalogue is near one.
    CatalogError, FormatError, ConfigError
        From reading the catalogue or indexing the images.
    """
    if processes > 1:
        with process_mapper(processes) as pooled:
            return _plan(config, functools.partial(pooled, chunksize=16), pooled)
    return _plan(config, mapper, mapper)


def _plan(config: CampaignConfig, look: Mapper, mapper: Mapper) -> Plan:
    """Plan; `look` is the mapper for small items."""
    from skygraft.catalog.partition import SPOOL, partition_catalog
    from skygraft.catalog.partition_read import OUTSIDE, list_partitions
    from skygraft.planning.index import spool_index
    from skygraft.planning.patches import PlannerSpec, find_movers, plan_patches
    from skygraft.timedomain.preparation import preparation

    layout, root = Layout(config.output), config.survey.root
    skymap = get_skymap(config.skymap)
    index = _index(config, look)
    unusable = [{**bad, "stamp": str(FileIdentity.find(beneath(root, bad["path"])) or "")} for bad in index.failures]
    with _spool(layout.root) as folder, holding():
        spooled = spool_index(index, root, skymap, folder, leave_out=_own(config))
        _check_images(config, len(spooled), unusable)
        del index
        # Of planners that were killed; the campaign's lock keeps others away.
        for left in layout.catalog.glob(f"{SPOOL}*"):
            shutil.rmtree(left, ignore_errors=True)
        prepare = preparation(
            *(path and bring_all(path) for path in (config.catalog.ephemerides, config.catalog.light_curves)),
            folder=folder,
            on_bad=config.catalog.on_bad,
        )
        partitioned = partition_catalog(
            bring_all(config.catalog.path),
            skymap,
            layout.catalog,
            dialect=config.catalog.dialect,
            band=config.catalog.band,
            on_bad=config.catalog.on_bad,
            overwrite=True,
            mapper=mapper,
            columns=config.catalog.columns,
            prepare=prepare,
        )
        partitions = list_partitions(layout.catalog)
        if prepare is None or not prepare.has_light_curves:
            _check_no_light_curves(layout.catalog, partitions, mapper)
        if config.injection.conventions == LSST and config.catalog.on_bad == "raise":
            _check_drawable(config, layout.catalog, partitions, mapper)
        spec = PlannerSpec(
            layout.catalog,
            folder / "movers.npz",
            config.margin_arcsec,
            config.catalog.band,
            by_galsim=config.injection.conventions == LSST,
            choice=config.catalog.select,
        )
        find_movers(layout.catalog, spooled.span, look).write(spec.movers)
        n_sources = n_problems = 0
        problems: list[str] = []
        with PlanWriter(layout.plan) as writer:
            for table, bad in mapper(functools.partial(plan_patches, spec), spooled.groups(_GROUP)):
                writer.write_table(table)
                n_sources += sum(table.column("n_sources").to_pylist())
                n_problems += len(bad)
                problems += bad[: _MOST_PROBLEMS - len(problems)]
            if n_problems > len(problems):
                problems.append(f"and so with {n_problems - len(problems)} more images")
            if not problems and not n_sources:
                raise _touches_nothing(config, spooled.ra, spooled.dec)
            writer.metadata.update(
                plan_key=plan_key(config),
                unusable=unusable,
                problems=problems,
                n_catalog=partitioned.n_sources,
                n_outside=partitions.get(OUTSIDE, 0),
                **({} if prepare is None else _of_time(prepare, spooled.mjd)),
            )
    return Plan(layout.plan)


def _of_time(prepare: Preparation, times: NDArray[Any]) -> dict[str, Any]:
    """What the plan says of light curves and ephemerides, for the findings."""
    return {"uncovered": prepare.uncovered(times, _MOST_PROBLEMS), "light_curve_bands": prepare.light_curve_bands}


def _check_drawable(config: CampaignConfig, catalog: Path, partitions: dict[Any, int], mapper: Mapper) -> None:
    """Refuse a catalogue with rows that the campaign's conventions cannot draw, before any image is read."""
    reasons = [text for found in mapper(functools.partial(_undrawable, catalog), list(partitions)) for text in found]
    if reasons:
        from skygraft.injection.lsst import refusal_error

        raise refusal_error(reasons, f"{sum(partitions.values())} sources", config.catalog.path)


def _check_no_light_curves(catalog: Path, partitions: dict[Any, int], mapper: Mapper) -> None:
    """Refuse a catalogue whose rows have light curves, where the campaign has no table of them."""
    import pyarrow.parquet as pq

    from skygraft.catalog.partition_read import part_path

    if "light_curve" not in pq.read_schema(part_path(catalog, next(iter(partitions)))).names:
        return
    n_rows = sum(mapper(functools.partial(_with_light_curves, catalog), list(partitions)))
    if n_rows:
        raise CatalogError(
            f"{n_rows:,} rows of the catalogue have a light curve, and the campaign has no table of light curves",
            key="catalog.light_curves",
            fix="Name the table: catalog: {light_curves: FILE}",
        )


def _with_light_curves(catalog: Path, key: tuple[int, int]) -> int:
    from skygraft.catalog.partition_read import partition_values, read_partition

    names = partition_values(read_partition(catalog, key, ["light_curve"]), "light_curve")
    return int((names != "").sum())


def _undrawable(catalog: Path, key: tuple[int, int]) -> list[str]:
    from skygraft.catalog.io import from_arrow
    from skygraft.catalog.partition_read import read_partition
    from skygraft.injection.lsst import undrawable

    return undrawable(from_arrow(read_partition(catalog, key)))


@contextlib.contextmanager
def _spool(root: Path) -> Iterator[Path]:
    """A folder for temporary files of the planner; those of planners that were killed are removed."""
    for left in root.glob(f"{_SPOOL}*"):
        shutil.rmtree(left, ignore_errors=True)
    folder = root / f"{_SPOOL}{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True)
        yield folder
    except SkygraftError:
        raise
    except OSError as error:
        raise OutputError(
            f"planning cannot write ({error.strerror or error})", path=folder, fix="Check permissions and free space"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _index(config: CampaignConfig, look: Mapper) -> SurveyIndex | IndexFile:
    from skygraft.survey import index_survey
    from skygraft.survey.index import open_index

    if config.survey.index is not None:
        return open_index(config.survey.index, config.survey.root)

    def outside(function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterable[Any]:
        # Images in the output folder were written by the campaign itself.
        own = _own(config)
        return look(function, (job for job in jobs if not Path(job.path).is_relative_to(own)))

    return index_survey(config.survey.spec(), config.survey.root, mapper=outside)


def _own(config: CampaignConfig) -> Path:
    """The folder of the outputs; in a store, the one that listed files lie in."""
    url = url_of(config.output)
    return config.output if url is None else beneath(config.survey.root, url)


def _check_images(config: CampaignConfig, n_images: int, unusable: list[dict[str, str]]) -> None:
    if n_images == 0 and unusable:
        raise CampaignError(
            f"none of {len(unusable)} images can be used; the first: {unusable[0]['error']}: {unusable[0]['reason']}",
            path=beneath(config.survey.root, unusable[0]["path"]),
            key="survey",
        )
    if n_images == 0:
        survey = config.survey
        if survey.butler is not None:
            raise CampaignError(
                f"no dataset {survey.butler.dataset_type!r} found in {', '.join(survey.butler.collections)}"
                + (f" where {survey.butler.where}" if survey.butler.where else ""),
                path=survey.butler.repo,
                key="survey.butler",
                fix="Check the collections, and that the expression is about data ids that they have",
            )
        looked = next(way for way in (survey.images, survey.ccds, survey.index) if way is not None)
        raise CampaignError(
            f"no images found for {looked!r}",
            path=survey.root,
            key="survey",
            fix="Check the pattern or the table",
        )


def _touches_nothing(config: CampaignConfig, ra: NDArray[Any], dec: NDArray[Any]) -> CampaignError:
    from skygraft.catalog.partition_read import partition_bounds
    from skygraft.wcs.base import to_lonlat

    bounds = partition_bounds(Layout(config.output).catalog)
    places = to_lonlat(bounds.centers)

    def extent(ra: NDArray[Any], dec: NDArray[Any]) -> str:
        return ", ".join(f"{name} {a.min():.4f} to {a.max():.4f}" for name, a in (("ra", ra), ("dec", dec)))

    return CampaignError(
        f"none of the {bounds.rows.sum()} sources of the catalogue (in patches around {extent(*places)} deg) is on any "
        f"of the {len(ra)} images (centres at {extent(ra, dec)} deg)",
        path=config.catalog.path,
        key="catalog",
        fix="Check that both are of the same field, and that the catalogue's dialect (degrees or radians) is right",
    )
