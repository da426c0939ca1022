"""What a worker runs: plain functions, without Dask, that read images, inject into them, and write them.

An image is done when its record exists. The record is written last, after the image and its truth table, and every
file gets its name only when it is complete; so a task may be killed at any point, and run twice, without harm.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import platform
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog import Flag, PartitionCache, values
from skygraft.catalog.io import arrow_array, from_arrow, numpy_array, one_array
from skygraft.catalog.partition_read import MARKER, read_beside, read_stored
from skygraft.catalog.partition_stamps import with_identities_now
from skygraft.catalog.row_choice import ImageFacts, RowChoice
from skygraft.config.campaign import CampaignConfig, load_config
from skygraft.dataset import LINEAGE, dataset_id
from skygraft.disk import relative_name
from skygraft.errors import CampaignError, OutputError, SkygraftError
from skygraft.execution.registering import lineage_of
from skygraft.exposure import Exposure
from skygraft.formats import write_exposure
from skygraft.formats.base import FILES
from skygraft.formats.fits_fingerprints import AS_READ, without_fingerprints
from skygraft.injection import Injection, inject
from skygraft.photometry import aperture_flux
from skygraft.place_names import with_urls
from skygraft.places import OutputsAt, bring, holding
from skygraft.planning.reading import read_image
from skygraft.planning.selection import RowDigests, digest_rows, select
from skygraft.provenance import software_versions
from skygraft.records.files import Layout, await_file, plain, sha256_file
from skygraft.records.image_record import (
    PIXEL_VERSION,
    RECORD_VERSION,
    changes,
    content_key,
    is_whole,
    read_record,
    summarise,
    write_record,
)
from skygraft.records.image_summary import ImageSummary
from skygraft.records.packs import remove_record
from skygraft.records.plan_file import Plan, PlannedImage
from skygraft.tables.truth_parts import write_truth_dataset, write_truth_part
from skygraft.timedomain.light_curve_rows import BESIDE
from skygraft.timedomain.light_curves import KEY_COLUMN, LightCurves

__all__ = ["Bench", "light_curves_of", "run_image", "run_task", "sources_of"]

_CLOSURE_STARS = 20
"""Stars measured in each image."""
_MOVED_PIXELS = 2.0


@dataclass
class _Clock:
    """Wall and processor time of each stage, in seconds."""

    stages: dict[str, dict[str, float]] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.stages[name] = {
            "wall": round(time.perf_counter() - wall, 4),
            "cpu": round(time.process_time() - cpu, 4),
        }


@dataclass(frozen=True)
class Bench:
    """What a worker keeps in memory for all images of a campaign.

    Parameters
    ----------
    config : CampaignConfig
        The campaign.
    """

    config: CampaignConfig

    @functools.cached_property
    def layout(self) -> Layout:
        """Where the outputs are."""
        return Layout(self.config.output)

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The part of the configuration that pixels depend on."""
        return self.config.pixel_settings()

    @functools.cached_property
    def partitions(self) -> PartitionCache:
        """The catalogue's partitions, cached: images of one home patch share most of them."""
        return PartitionCache(self.layout.catalog)


@functools.lru_cache(maxsize=4)
def _bench(path: str, mtime_ns: int) -> Bench:
    """The bench of a configuration file, made once in each process."""
    del mtime_ns
    return Bench(load_config(path))


@functools.lru_cache(maxsize=2)
def _plan(output: str, identity: tuple[int, int]) -> Plan:
    """The plan of a campaign, opened once in each process."""
    path = Layout(Path(output)).plan
    await_file(path, identity, "plan")
    return Plan(path)


def run_task(
    rows: Sequence[int],
    output: str | OutputsAt,
    plan: tuple[int, int],
    config: tuple[int, int] | None = None,
    io: contextlib.AbstractContextManager[Any] | None = None,
) -> list[ImageSummary]:
    """Inject into some images of a campaign; one that fails does not stop the others.

    This is what a worker runs. It reads the plan and the configuration itself, so that a task is a few row numbers.

    Parameters
    ----------
    rows : sequence of int
        Rows of the plan, ascending.
    output : str or OutputsAt
        The campaign's output folder, or where its outputs go in a store.
    plan : (int, int)
        The plan that is meant: `skygraft.disk.FileIdentity.size_and_time` of its file.
    config : (int, int), optional
        The configuration that is meant; by default the one that is there.
    io : context manager, optional
        Entered around each reading and writing of an image, such as a semaphore of the cluster.

    Returns
    -------
    list of ImageSummary
        One for each image, in order.

    Raises
    ------
    CampaignError
        If this machine does not see the plan or the configuration that is meant.
    """
    if isinstance(output, OutputsAt):
        names = {"plan.parquet": plan} if config is None else {"plan.parquet": plan, "campaign.yaml": config}
        output = str(output.here(names))
    path = Layout(Path(output)).config
    if config is not None:
        await_file(path, config, "configuration")
    bench = _bench(str(path), path.stat().st_mtime_ns)
    return [_guarded(image, bench, io) for image in _plan(output, plan).images(rows)]


def _guarded(image: PlannedImage, bench: Bench, io: contextlib.AbstractContextManager[Any] | None) -> ImageSummary:
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        with holding():
            return run_image(image, bench, io)
    except Exception as error:
        # Any exception here becomes a row of failures.parquet and ends this image only.
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
        return ImageSummary(
            image.image_id,
            "failed",
            tract=image.tract,
            patch=image.patch,
            band=image.band or "",
            wall_seconds=round(time.perf_counter() - wall, 4),
            cpu_seconds=round(time.process_time() - cpu, 4),
            error=type(error).__name__,
            message=with_urls(str(error))[:2000],
            where=where,
            may_pass=isinstance(error, OSError) or not isinstance(error, SkygraftError),
            host=platform.node(),
        )


def run_image(
    image: PlannedImage, bench: Bench, io: contextlib.AbstractContextManager[Any] | None = None
) -> ImageSummary:
    """Read one image, inject its sources, and write it with its truth table and its record.

    Parameters
    ----------
    image : PlannedImage
        The image.
    bench : Bench
        The campaign, and what is kept in each process.
    io : context manager, optional
        As in `run_task`.

    Returns
    -------
    ImageSummary
        With status ``skipped`` if the image is done already, from the same inputs and settings.

    Raises
    ------
    SkygraftError
        Whatever reading, injecting or writing raises.
    """
    config, layout, io = bench.config, bench.layout, io or contextlib.nullcontext()
    store = layout.outputs
    record_path = layout.record(image.tract, image.patch, image.stem)
    record = read_record(record_path, image.image_id)
    if record is not None:
        # Outputs are read and compared, because the driver also sends images whose files were changed since.
        if not changes(record, image, config.survey.root, bench.settings) and is_whole(record, layout, read=True):
            return summarise(record, image, layout, status="skipped", checked=True)
        # From here on the image is not done, and must not seem so if this task dies.
        remove_record(record_path)

    clock = _Clock()
    # The exposure is kept until its image is written, so that what changed is found by comparison.
    with clock.stage("read"), io, without_fingerprints():
        exposure = read_image(image, config)
        _check_plan(image, exposure)
        inputs = _input_identities(exposure, config.survey.root)
    with clock.stage("select"):
        if store is not None:
            store.need(layout.catalog / MARKER)
            for tract, patch in image.reads:
                store.need(layout.catalog_part(tract, patch))
        sources, catalog_key = sources_of(image, config, bench.partitions)
        light_curves = light_curves_of(image, config, sources, bench.partitions)
    with clock.stage("inject"):
        injection = inject(
            exposure,
            sources,
            options=config.injection.options(),
            image_id=image.image_id,
            band=image.band or config.catalog.band,
            on_bad=config.catalog.on_bad,
            light_curves=light_curves,
            role=config.survey.role,
        )
        on_image = _on_image(injection.truth)
    with clock.stage("closure"):
        closure = _closure(exposure, injection, on_image)
    key = content_key(image.image_id, inputs, catalog_key, bench.settings, PIXEL_VERSION)
    lineage = lineage_of(image, config, key)
    extra = {**injection.exposure.extra, AS_READ: exposure, **({} if lineage is None else {LINEAGE: lineage})}
    injected = dataclasses.replace(injection.exposure, extra=extra)
    with clock.stage("write"), io:
        target = layout.images / image.output
        _make_folder(target.parent)
        written = write_exposure(injected, target, like=bring(image.source(config.survey.root)), overwrite=True)
        part = layout.truth_part(image.tract, image.patch, image.stem)
        write_truth_part(part, on_image)
        if lineage is not None:
            table = layout.truth_dataset(image.tract, image.patch, image.stem)
            write_truth_dataset(table, on_image)
            written = (*written, table)
    summary = plain(injection.summary)
    del exposure, injection, injected, extra
    with clock.stage("checksum"):
        outputs = {
            path.relative_to(layout.root).as_posix(): {
                "n_bytes": path.stat().st_size,
                "sha256": sha256_file(path),
            }
            for path in (*written, part)
        }
    if store is not None:
        with clock.stage("upload"), io:
            # The truth stays here too, for the tables; images do not.
            for path in written:
                store.publish(path, keep=False)
            store.publish(part)
    content = {
        "version": RECORD_VERSION,
        "image": image.image_id,
        "key": key,
        "inputs": inputs,
        "catalog": catalog_key,
        "settings": bench.settings,
        "code": PIXEL_VERSION,
        "outputs": outputs,
        "band": image.band,
        "n_sources": len(on_image),
        "n_drawn": summary["n_drawn"],
        "calibration": summary["calibration"],
        "closure": closure,
        "flags": summary["flags"],
        "injection": summary,
        "timings": clock.stages,
        "host": platform.node(),
        "software": software_versions(),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if image.dataset:
        content["input_dataset"] = dataset_id(image.dataset)
    if lineage is not None:
        content["dataset"] = lineage.butler_info()
    write_record(record_path, content)
    if store is not None:
        store.publish(record_path)
    return summarise(content, image, layout, status="done", checked=True)


def _check_plan(image: PlannedImage, exposure: Exposure) -> None:
    """Refuse an image that has moved since it was planned, because its sources were selected by its outline."""
    ra, dec = exposure.wcs.pixel_to_world_values(*exposure.box.center)
    east = ((float(ra) - image.ra + 180) % 360 - 180) * np.cos(np.radians(image.dec))
    moved = 3600 * np.hypot(east, float(dec) - image.dec)
    if exposure.shape != (image.ny, image.nx) or not moved < max(_MOVED_PIXELS * image.pixel_scale, 0.1):
        raise CampaignError(
            f"the image is not the one that was planned: it had {image.nx} x {image.ny} pixels, now "
            f"{exposure.shape[1]} x {exposure.shape[0]}, and its centre moved by {moved:.2f} arcsec",
            path=exposure.path,
            fix="Plan again: skygraft plan",
        )


def _input_identities(exposure: Exposure, root: Path) -> dict[str, list[int]]:
    return {
        relative_name(path, root): [*identity.size_and_time] for path, identity in sorted(exposure.extra[FILES].items())
    }


def sources_of(
    image: PlannedImage, config: CampaignConfig, partitions: PartitionCache | None = None
) -> tuple[QTable, str]:
    """The catalogue rows of an image, in order of injection id, and their fingerprint.

    Parameters
    ----------
    image : PlannedImage
        The image.
    config : CampaignConfig
        The campaign.
    partitions : PartitionCache, optional
        Partitions of the catalogue; by default they are read from disk, without a cache.
    """
    table = partitions.read(image.reads) if partitions else read_stored(Layout(config.output).catalog, image.reads)
    band = image.band or config.catalog.band
    rows = select(table, image.polygon, config.margin_arcsec, mjd=image.mjd, visit=image.visit)
    if config.catalog.select:
        facts = ImageFacts(image.visit, band, image.detector, image.mjd)
        rows = RowChoice(config.catalog.select, of_image=True).rows(table, rows, facts)
    # Only these become a QTable: the partitions hold many times as many.
    chosen = with_identities_now(table.take(arrow_array(rows)))
    return from_arrow(chosen), digest_rows(RowDigests(chosen).of(band))


def light_curves_of(
    image: PlannedImage, config: CampaignConfig, sources: QTable, partitions: PartitionCache | None = None
) -> LightCurves | None:
    """The light curves of an image's sources; None where they have none.

    Parameters
    ----------
    image : PlannedImage
        The image.
    config : CampaignConfig
        The campaign.
    sources : QTable
        Its sources, from `sources_of`.
    partitions : PartitionCache, optional
        As for `sources_of`.
    """
    if KEY_COLUMN not in sources.colnames:
        return None
    keys = values(sources, KEY_COLUMN)
    if not np.any(keys >= 0):
        return None
    catalog = Layout(config.output).catalog
    table = partitions.beside(image.reads, BESIDE) if partitions else read_beside(catalog, image.reads, BESIDE)
    if table is None:
        raise CampaignError(
            "the light curves of the catalogue's partitions are gone", path=catalog, fix="Plan again: skygraft plan"
        )
    mine = np.isin(numpy_array(one_array(table.column(KEY_COLUMN))), keys)
    return LightCurves.from_stored([table.filter(arrow_array(mine))])


def _on_image(truth: QTable) -> QTable:
    """The truth rows of the sources that reach the image."""
    on = (np.asarray(truth["flags"]) & int(Flag.NO_OVERLAP)) == 0
    if on.all():
        return truth
    columns = {}
    for name in truth.colnames:
        column = truth[name]
        # The same value in all rows is stored once.
        once = not any(np.asarray(column).strides)
        columns[name] = np.broadcast_to(np.asarray(column)[:1], int(on.sum())) if once and on.any() else column[on]
    return QTable(columns, copy=False, meta=truth.meta)


def _closure(exposure: Exposure, injection: Injection, truth: QTable) -> dict[str, Any] | None:
    """Measure isolated stars in the difference of output and input, inside the calibration aperture.

    None if the calibration refers to no aperture, or no star is isolated.
    """
    calibration = injection.summary["calibration"]
    radius = calibration["radius_pixels"]
    if radius is None or injection.summary["flux_mode"] != "calibrated":
        return None
    (ny, nx), (x0, y0) = exposure.shape, exposure.xy0
    x, y = np.asarray(truth["x"], dtype=float), np.asarray(truth["y"], dtype=float)
    inside = (x - x0 > radius) & (x0 + nx - 1 - x > radius) & (y - y0 > radius) & (y0 + ny - 1 - y > radius)
    star = (np.asarray(truth["source_type"]) == "Star") & (np.asarray(truth["flags"]) == 0)
    candidates = np.flatnonzero(inside & star)
    # The brightest first; of equal fluxes, by injection id.
    flux = np.asarray(truth["inst_flux"], dtype=float)
    candidates = candidates[np.argsort(-flux[candidates], kind="stable")][: 10 * _CLOSURE_STARS]
    alone = _alone(x, y, candidates, 4 * radius)[:_CLOSURE_STARS]
    if not alone:
        return None
    difference = injection.exposure.image - exposure.image
    measured = aperture_flux(difference, x[alone], y[alone], radius, xy0=(x0, y0))
    with np.errstate(invalid="ignore", divide="ignore"):
        residual = -2.5 * np.log10(measured / flux[alone])
    residual = residual[np.isfinite(residual)]
    if residual.size == 0:
        return None
    return {
        "n_stars": int(residual.size),
        "radius_pixels": float(radius),
        "median_mag": float(np.median(residual)),
        "max_abs_mag": float(np.abs(residual).max()),
    }


def _alone(x: NDArray[np.float64], y: NDArray[np.float64], candidates: NDArray[np.intp], radius: float) -> list[int]:
    """Which of some sources have no other within a radius; of millions, only those in the same column are compared."""
    order = np.argsort(x, kind="stable")
    along = x[order]
    found = []
    for i in candidates.tolist():
        near = order[np.searchsorted(along, x[i] - radius) : np.searchsorted(along, x[i] + radius, side="right")]
        if np.count_nonzero(np.hypot(x[near] - x[i], y[near] - y[i]) < radius) == 1:
            found.append(i)
    return found


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the output folder cannot be made ({error.strerror or error})",
            path=folder,
            fix="Check permissions and free space",
        ) from error
