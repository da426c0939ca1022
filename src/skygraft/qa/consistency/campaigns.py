"""Compare the coadds of one campaign with the visits of another, coadd by coadd, in tasks that can be resumed.

The originals of both are read, and the sources of each campaign drawn on them without noise, with its settings; that
the outputs hold that light is what `skygraft verify` checks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from skygraft.campaign.finished import finished_rows, sample_rows
from skygraft.campaign.pairs import ImagePair, record_of
from skygraft.campaign.products import Product
from skygraft.campaign.sweep import SweepSummary, product_dataset, sweep
from skygraft.catalog.hats_files import folder_identity
from skygraft.config.campaign import CampaignConfig, parse_config
from skygraft.errors import CampaignError, CatalogError, ConfigError, InjectionError
from skygraft.execution.task import Bench, light_curves_of, sources_of
from skygraft.injection import InjectionOptions
from skygraft.json_text import parse_json
from skygraft.place_names import shown_place
from skygraft.places import bring
from skygraft.planning.reading import read_image
from skygraft.qa.consistency.check import compare_images
from skygraft.qa.consistency.light import LitImage, light_image
from skygraft.qa.consistency.settings import ConsistencySettings
from skygraft.qa.consistency.summary import ConsistencySummary, summarize
from skygraft.qa.consistency.terms import SCHEMA
from skygraft.records.files import Layout, json_text, sha256_file
from skygraft.records.plan_file import Plan, PlannedImage

if TYPE_CHECKING:
    from distributed import Client

    from skygraft.campaign import Campaign

__all__ = ["CONSISTENCY", "CampaignConsistency", "compare_campaigns", "consistency_rows", "overlap"]

_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class CampaignConsistency:
    """How the coadds of a campaign compare with the visits of another.

    Parameters
    ----------
    sweep : SweepSummary
        What was compared, and which coadds failed.
    summary : ConsistencySummary
        Counts and medians over the table.
    notes : tuple of str
        What is to be said of the two campaigns.
    """

    sweep: SweepSummary
    summary: ConsistencySummary
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every coadd was compared, and no source differs."""
        return self.sweep.ok and self.summary.ok

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON types."""
        return self.summary.to_dict() | {"ok": self.ok, "sweep": self.sweep.to_dict(), "notes": list(self.notes)}

    def __str__(self) -> str:
        lines = [str(self.sweep), *(f"note: {text}" for text in self.notes)]
        if self.summary.verdicts:
            lines.append(str(self.summary))
        return "\n".join([*lines, f"table in {self.sweep.output}"])


def compare_campaigns(
    coadds: Campaign,
    visits: Campaign,
    settings: ConsistencySettings | None = None,
    *,
    sample: int | None = None,
    rows: ArrayLike | None = None,
    client: Client | None = None,
    cluster: bool = False,
    n_workers: int | None = None,
    processes: int | None = None,
    redo: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CampaignConsistency:
    """Compare the coadds of a campaign with the visits of another one that injected the same catalogue.

    The table, ``consistency/tract=/patch=/part-0.parquet`` in the output folder of the campaign of coadds, has a row
    for each source and coadd. Coadds that were compared before, with the same settings and visits, are left as they
    are.

    Parameters
    ----------
    coadds, visits : Campaign
        Campaigns that have been run, at least in part. One with both may be given twice: coadds are its images without
        a visit.
    settings : ConsistencySettings, optional
        How to compare.
    sample : int, optional
        Compare a sample of so many coadds, always the same; by default all that are done.
    rows : array_like of int, optional
        Coadds to compare, as rows of the plan, instead of a sample.
    client, cluster, n_workers, processes, redo, progress
        As for `skygraft.campaign.sweep.sweep`, with the cluster of the campaign of coadds.

    Returns
    -------
    CampaignConsistency
        With the coadds that failed; their errors are not raised.

    Raises
    ------
    CampaignError
        If a campaign has no plan or no image that is done, or the output is that of another campaign.
    ConfigError
        If a setting is not allowed, or sample and rows are both given.
    OutputError
        If the output folder cannot be written.
    """
    if sample is not None and rows is not None:
        raise ConfigError("sample and rows both say what to compare", key="sample", fix="Give one of them")
    finished_rows(visits)
    chosen = sample_rows(coadds, sample)[0] if rows is None else np.asarray(rows, dtype=np.int64).reshape(-1)
    one = coadds.layout.root.resolve() == visits.layout.root.resolve()
    if one:
        plan = Plan(coadds.layout.plan)
        without = ~np.asarray(plan.table(["visit"]).column("visit").is_valid())
        chosen = chosen[without[chosen]]
        if not chosen.size:
            raise ConfigError(
                "no image of the campaign is a coadd: all have a visit",
                path=coadds.layout.root,
                fix="Give the campaign of coadds, and that of visits",
            )
    catalogs = {side: _catalog(campaign.config) for side, campaign in (("coadds", coadds), ("visits", visits))}
    content: dict[str, Any] = {
        "comparison": (settings or ConsistencySettings()).to_dict(),
        "injection": coadds.config.injection.model_dump(mode="json"),
        "visits": visits.config.resolved(),
        "catalogs": catalogs,
        "one": one,
    }
    swept = sweep(
        coadds,
        CONSISTENCY,
        content,
        rows=chosen,
        client=client,
        cluster=cluster,
        n_workers=n_workers,
        processes=processes,
        redo=redo,
        progress=progress,
    )
    notes = () if catalogs["coadds"]["digest"] == catalogs["visits"]["digest"] else (_differ(catalogs),)
    return CampaignConsistency(swept, summarize(_parts(coadds)), notes)


def _parts(campaign: Campaign) -> Iterator[pa.RecordBatch]:
    dataset = product_dataset(campaign, CONSISTENCY.name)
    if "verdict" not in dataset.schema.names:
        return  # no coadd could be compared
    yield from dataset.to_batches(
        columns=SCHEMA.names, batch_size=_ROWS_AT_ONCE, batch_readahead=1, fragment_readahead=1, use_threads=False
    )


def consistency_rows(campaign: Campaign, most: int = 200_000) -> pa.Table:
    """Read rows of the table of a campaign of coadds, for a figure.

    Parameters
    ----------
    campaign : Campaign
        The campaign of coadds.
    most : int
        Largest number of rows.

    Returns
    -------
    pyarrow.Table
    """
    parts: list[pa.RecordBatch] = []
    for batch in _parts(campaign):
        parts.append(batch)
        if sum(part.num_rows for part in parts) >= most:
            break
    names = SCHEMA.names
    return pa.Table.from_batches([part.select(names) for part in parts]) if parts else SCHEMA.empty_table()


def _catalog(config: CampaignConfig) -> dict[str, str]:
    """Path and digest of a campaign's catalogue."""
    path = config.catalog.path
    try:
        found = folder_identity(path) if path.is_dir() else sha256_file(bring(path))
    except OSError as error:
        raise CatalogError(f"the catalogue cannot be read ({error})", path=path, fix="Check the path") from error
    return {"path": shown_place(path), "digest": found[:16]}


def _differ(catalogs: Mapping[str, Mapping[str, str]]) -> str:
    here, there = (f"{one['path']} (digest {one['digest']})" for one in (catalogs["coadds"], catalogs["visits"]))
    return f"the catalogues are different files: {here} of the coadds, {there} of the visits"


@dataclass(frozen=True, eq=False)
class _Visits:
    """The campaign of visits, as a worker keeps it."""

    bench: Bench
    plan: Plan
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    radius: NDArray[np.float64]
    band: NDArray[np.str_]
    has_visit: NDArray[np.bool_]


@functools.lru_cache(maxsize=2)
def _visits(config: str) -> _Visits:
    """The campaign of visits of a resolved configuration, opened once in each process."""
    bench = Bench(parse_config(parse_json(config)))
    plan = Plan(bench.layout.plan)
    table = plan.table(["ra", "dec", "nx", "ny", "pixel_scale", "band", "visit"])
    column = {name: table.column(name) for name in table.column_names}
    ra, dec, nx, ny, scale = (
        np.asarray(column[name].to_numpy(), dtype=float) for name in ("ra", "dec", "nx", "ny", "pixel_scale")
    )
    band = np.array([one or "" for one in column["band"].to_pylist()], dtype=np.str_)
    has_visit = np.asarray(column["visit"].is_valid())
    return _Visits(bench, plan, ra, dec, 0.5 * np.hypot(nx, ny) * scale / 3600, band, has_visit)


def _overlapping(image: PlannedImage, settings: Mapping[str, Any]) -> tuple[_Visits, list[PlannedImage]]:
    """The visits of a coadd's band that overlap it, in order of their image ids."""
    found = _visits(json_text(settings["visits"]))
    own = 0.5 * float(np.hypot(image.nx, image.ny)) * image.pixel_scale / 3600
    ra, dec = np.radians(image.ra), np.radians(image.dec)
    other = np.radians(found.dec)
    cosine = np.sin(dec) * np.sin(other) + np.cos(dec) * np.cos(other) * np.cos(np.radians(found.ra) - ra)
    near = np.degrees(np.arccos(np.clip(cosine, -1, 1))) <= (own + found.radius) * 1.02 + 1e-4
    if image.band:
        near &= (found.band == image.band) | (found.band == "")
    if settings["one"]:
        near &= found.has_visit
    chosen = [one for one in found.plan.images(np.flatnonzero(near)) if overlap(image.polygon, one.polygon)]
    return found, sorted(chosen, key=lambda one: one.image_id)


def overlap(one: ArrayLike, other: ArrayLike) -> bool:
    """Tell whether two convex outlines on the sky, each smaller than a hemisphere, overlap.

    Parameters
    ----------
    one, other : array_like, shapes (V, 2) and (W, 2)
        Right ascension and declination of their corners, degrees.

    Returns
    -------
    bool
        False only if a great circle along an edge has all of the other on its far side.
    """
    a, b = (_directions(np.asarray(corners, dtype=float)) for corners in (one, other))
    for here, there in ((a, b), (b, a)):
        normals = np.cross(here, np.roll(here, -1, axis=0))
        normals *= np.sign(normals @ here.mean(axis=0))[:, None]
        if ((normals @ there.T) < 0).all(axis=1).any():
            return False
    return True


def _directions(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    ra, dec = np.radians(corners).T
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)


def _visit_records(image: PlannedImage, settings: Mapping[str, Any]) -> list[list[str]]:
    """Ids and content keys of the visits that a coadd is compared with: where they change, it is compared again."""
    visits, images = _overlapping(image, settings)
    return [[one.image_id, _key(visits.bench.layout, one)] for one in images]


def _key(layout: Layout, image: PlannedImage) -> str:
    try:
        return str(record_of(layout, image)["key"])
    except CampaignError:
        return "not done"


def _lit(visits: _Visits, images: list[PlannedImage]) -> Iterator[LitImage]:
    """The visits that are done, with the light of their sources, one after the other."""
    bench = visits.bench
    options = InjectionOptions(**bench.config.injection.model_dump(mode="json"))
    for image in images:
        if _key(bench.layout, image) == "not done":
            continue
        sources, _ = sources_of(image, bench.config, bench.partitions)
        if not len(sources):
            continue
        yield light_image(
            read_image(image, bench.config),
            sources,
            options,
            image_id=image.image_id,
            band=image.band or bench.config.catalog.band,
            light_curves=light_curves_of(image, bench.config, sources, bench.partitions),
            role=bench.config.survey.role,
        )


def _compare_pair(pair: ImagePair, settings: Mapping[str, Any]) -> pa.Table:
    """Compare one coadd with its visits: the table of its sources."""
    visits, images = _overlapping(pair.image, settings)
    if not len(pair.sources):
        return SCHEMA.empty_table()
    if not images:
        raise InjectionError(
            f"no visit of band {pair.image.band} overlaps {pair.image.image_id}",
            path=visits.bench.layout.plan,
            fix="Give the campaign of the visits that it was made of",
        )
    coadd = light_image(
        pair.before,
        pair.sources,
        InjectionOptions(**settings["injection"]),
        image_id=pair.image.image_id,
        band=pair.record.get("injection", {}).get("band") or pair.image.band,
        light_curves=pair.light_curves,
        role=pair.role,
    )
    try:
        found = compare_images(coadd, _lit(visits, images), ConsistencySettings.from_dict(settings["comparison"]))
    except (CatalogError, InjectionError) as error:
        catalogs = settings["catalogs"]
        if catalogs["coadds"]["digest"] != catalogs["visits"]["digest"]:
            error.message = f"{error.message}; {_differ(catalogs)}"
        raise
    waiting = sum(_key(visits.bench.layout, one) == "not done" for one in images)
    if not waiting:
        return found.table
    note = f"{waiting} overlapping visits have not been injected into"
    notes = [f"{text}; {note}" if text else note for text in found.table.column("note").to_pylist()]
    place = found.table.schema.get_field_index("note")
    return found.table.set_column(place, SCHEMA.field("note"), pa.array(notes, pa.string()))


CONSISTENCY = Product("consistency", 1, _compare_pair, _visit_records)
"""What `skygraft.campaign.sweep.sweep` makes: the table ``consistency``, a row for each source and coadd."""
