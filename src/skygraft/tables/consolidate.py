"""Gather what the tasks wrote image by image into the tables that people read: truth and sources.

The work is done patch by patch, by functions that run on workers. This module divides it, hands it out and sums up the
results, in memory that hardly depends on the number of images. Patches in which nothing changed since the last time are
left alone, and the tables do not depend on which worker did what, or when.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from skygraft.catalog.partition_read import partition_bounds
from skygraft.config.campaign import CampaignConfig
from skygraft.json_text import parse_json
from skygraft.records.files import Layout
from skygraft.records.known_packs import KnownPacks
from skygraft.records.packs import single_names
from skygraft.records.plan_file import Plan
from skygraft.tables.arrow import numbers
from skygraft.tables.calibrations import CalibrationUse, describe, fold, mixed_calibrations, tidy
from skygraft.tables.joining import CampaignSources, join_sources, piece_fingerprint
from skygraft.tables.neighbours import Neighbours, PatchImages, PlacedImage, find_neighbours
from skygraft.tables.patch_keys import Key, fingerprint, packed, unpacked
from skygraft.tables.sources import PatchSources, SourcesDigest, catalog_bands, consolidate_sources
from skygraft.tables.truth import PatchDigest, consolidate_truth

__all__ = ["Call", "Consolidation", "consolidate"]

type Call = Callable[..., Iterator[Any]]
"""``call(function, items, **arguments)`` gives ``function(item, **arguments)`` for each item, in any order."""

_SHOWN = 5
_USES_SHOWN = 20
_PACKED_FROM = 1000
"""Images of a campaign whose records are packed; those of a smaller one stay files that can be opened one by one."""
_IMAGES_AT_ONCE = 4000
"""Images of the plan that are Python objects at a time."""
_PATCHES_TOGETHER, _IMAGES_TOGETHER = 8, 192
"""Patches that a worker takes at a time, and images of theirs: fewer patches where they have many."""


@dataclass(frozen=True)
class Consolidation:
    """Summary of all outputs of a campaign.

    Parameters
    ----------
    n_images, n_done : int
        Images of the plan, and those that are done.
    n_patches : int
        Home patches.
    n_rows : int
        Rows of truth: one per source and image.
    n_drawn : int
        Of these, rows of sources that were drawn.
    n_bytes : int
        Size of the images' outputs.
    n_sources, n_on_images : int
        Rows of the catalogue, and sources that were drawn on at least one image.
    n_looked, n_written : int
        Patches whose records were read, and tables that were written, this time.
    records, truth, sources : str
        Fingerprints of all records, truth tables and source tables.
    bands : tuple of str
        Bands with columns of their own in the source tables.
    calibrations : tuple of CalibrationUse
        Every calibration reference used, and by how many images.
    software : tuple of (dict, int)
        Each set of software versions that images were made with, and how many.
    hosts : tuple of (str, int)
        Each machine, and how many images it made.
    pixel_versions : tuple of (int, int)
        Each pixel version, and how many images have it.
    problems : tuple of (str, str)
        Images whose record or truth is damaged, and a description of the damage; they count as not done.
    """

    n_images: int
    n_done: int
    n_patches: int
    n_rows: int
    n_drawn: int
    n_bytes: int
    n_sources: int
    n_on_images: int
    n_looked: int
    n_written: int
    records: str
    truth: str
    sources: str
    bands: tuple[str, ...]
    calibrations: tuple[CalibrationUse, ...]
    software: tuple[tuple[dict[str, str], int], ...]
    hosts: tuple[tuple[str, int], ...]
    pixel_versions: tuple[tuple[int, int], ...]
    problems: tuple[tuple[str, str], ...]

    @property
    def complete(self) -> bool:
        """Whether every image of the plan is done."""
        return self.n_done == self.n_images

    @property
    def mixed_calibrations(self) -> bool:
        """Whether the images' calibrated fluxes are not all the flux of the same thing."""
        return mixed_calibrations(self.calibrations)

    @property
    def calibration_text(self) -> str:
        """What the images are calibrated to, in a sentence or two, beginning with a warning if they differ."""
        return describe(self.calibrations)

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON types."""
        return asdict(self) | {"complete": self.complete, "mixed_calibrations": self.mixed_calibrations}

    def lines(self) -> list[str]:
        """Lines to print at the end of a run: warnings first, then the calibration, then the counts."""
        lines = []
        if self.mixed_calibrations:
            lines.append("WARNING: the images do not all use the same calibration reference:")
            uses = sorted(self.calibrations, key=lambda use: -use.n_images)
            lines += [f"  {use.n_images} images: {use} ({use.place})" for use in uses[:_USES_SHOWN]]
            lines += [f"  ... and {len(uses) - _USES_SHOWN} more"] if len(uses) > _USES_SHOWN else []
        if self.problems:
            lines.append(
                f"WARNING: {len(self.problems)} images are left out of the tables, as not done; the next run makes "
                "them again:"
            )
            lines += [f"  {problem}" for _, problem in self.problems[:_SHOWN]]
            lines += ["  ..."] if len(self.problems) > _SHOWN else []
        if len(self.pixel_versions) > 1:
            made = ", ".join(f"{n} by version {version}" for version, n in self.pixel_versions)
            lines.append(f"WARNING: the images were made by different pixel versions of skygraft: {made}")
        if not self.complete:
            lines.append(f"The tables are of {self.n_done} of {self.n_images} images: the others are not done")
        if not self.mixed_calibrations:
            lines.append(self.calibration_text)
        lines.append(
            f"Tables: {self.n_rows} rows of truth in {self.n_patches} patches; {self.n_on_images} of {self.n_sources} "
            f"sources were drawn on some image"
        )
        return lines


def consolidate(config: CampaignConfig, plan: Plan, call: Call) -> Consolidation:
    """Bring all tables of a campaign up to date with its records, and pack the records of large campaigns.

    First the truth of every home patch, then the sources of every patch of the catalogue, then the sources as one
    file. It may be interrupted anywhere and called again.

    Parameters
    ----------
    config : CampaignConfig
        The campaign, whose output folder is used.
    plan : Plan
        Its plan.
    call : callable
        Calls functions of this package on items, on workers or here; see `Call`.

    Returns
    -------
    Consolidation

    Raises
    ------
    CampaignError
        If a record cannot be opened, or the plan, the catalogue or a table cannot be read.
    OutputError
        If a table cannot be written.
    """
    layout = Layout(config.output)
    output = str(layout.root)
    truth, pairs = _Truth(), _Pairs()
    patches = _patches(plan, pairs, find_neighbours(plan))
    packs = KnownPacks()
    pack = _is_packed(config, plan)
    for some in call(consolidate_truth, _grouped(patches), output=output, skymap=config.skymap, pack=pack):
        for done in some:
            truth.add(done)
            packs.add(done.tract, done.patch, done.packed)
    bounds = partition_bounds(layout.catalog)
    catalog = dict(sorted(zip(bounds.keys, bounds.sha256, strict=True)))
    first = next(iter(catalog))
    bands = tuple(sorted(truth.bands | set(catalog_bands(layout.catalog_part(*first), catalog[first]))))
    items = itertools.batched(_sources(catalog, pairs.by_read(), truth.tables), _PATCHES_TOGETHER)
    sources = _Sources()
    for done_sources in call(consolidate_sources, items, output=output, bands=bands):
        sources.add(done_sources)
    whole = CampaignSources(tuple(catalog), fingerprint(sources.tables), sources.pieces)
    packs.write(layout)
    joined = any(list(call(join_sources, [whole], output=output)))
    shutil.rmtree(layout.pieces, ignore_errors=True)
    with_truth = {key for key, table in truth.tables.items() if table}
    checksums = layout.consolidated / "checksums"
    _sweep(layout.truth, with_truth)
    _sweep(layout.sources, sources.tables)
    _sweep(layout.consolidated, truth.tables)
    _sweep(checksums / layout.truth.name, with_truth)
    _sweep(checksums / layout.sources.name, sources.tables)
    return Consolidation(
        n_images=truth.sums["n_images"],
        n_done=truth.sums["n_done"],
        n_patches=len(truth.tables),
        n_rows=truth.sums["n_rows"],
        n_drawn=truth.sums["n_drawn"],
        n_bytes=truth.sums["n_bytes"],
        n_sources=sources.n_sources,
        n_on_images=sources.n_on_images,
        n_looked=truth.sums["looked"],
        n_written=truth.sums["written"] + sources.n_written + joined,
        records=fingerprint(truth.records),
        truth=fingerprint(truth.tables),
        sources=whole.fingerprint,
        bands=bands,
        calibrations=tidy(truth.calibrations),
        software=tuple((parse_json(versions), n) for versions, n in sorted(truth.software.items())),
        hosts=tuple(sorted(truth.hosts.items())),
        pixel_versions=tuple(sorted(truth.pixel_versions.items())),
        problems=tuple(sorted(truth.problems)),
    )


def _is_packed(config: CampaignConfig, plan: Plan) -> bool:
    """True if records and truth tables are packed; they are not if a Butler repository refers to their files."""
    butler = config.survey.butler
    return len(plan) >= _PACKED_FROM and (butler is None or butler.output_run is None)


class _Truth:
    """Sums of what was found of the home patches, in whatever order they come."""

    def __init__(self) -> None:
        self.sums: Counter[str] = Counter()
        self.records: dict[Key, str] = {}
        self.tables: dict[Key, str] = {}
        self.calibrations: tuple[CalibrationUse, ...] = ()
        self.software: Counter[str] = Counter()
        self.hosts: Counter[str] = Counter()
        self.pixel_versions: Counter[int] = Counter()
        self.bands: set[str] = set()
        self.problems: list[tuple[str, str]] = []

    def add(self, patch: PatchDigest) -> None:
        for name in ("n_images", "n_done", "n_rows", "n_drawn", "n_bytes", "looked", "written"):
            self.sums[name] += getattr(patch, name)
        key = patch.tract, patch.patch
        self.records[key] = patch.records
        self.tables[key] = patch.truth
        self.calibrations = fold((*self.calibrations, *patch.calibrations))
        self.software.update(dict(patch.software))
        self.hosts.update(dict(patch.hosts))
        self.pixel_versions.update(dict(patch.pixel_versions))
        self.bands.update(patch.bands)
        self.problems += patch.problems


class _Sources:
    """Sums of what was found of the patches of the catalogue."""

    def __init__(self) -> None:
        self.n_sources = self.n_on_images = self.n_written = 0
        self.tables: dict[Key, str] = {}
        self.pieces: dict[Key, tuple[str, int]] = {}

    def add(self, patches: Sequence[SourcesDigest]) -> None:
        for patch in patches:
            self.n_sources += patch.n_sources
            self.n_on_images += patch.n_on_images
            self.n_written += patch.written
            self.tables[patch.tract, patch.patch] = patch.fingerprint
        if patches[0].in_piece:
            keys = [(patch.tract, patch.patch, patch.fingerprint) for patch in patches]
            self.pieces[keys[0][:2]] = piece_fingerprint(keys), len(keys)


def _patches(plan: Plan, pairs: _Pairs, neighbours: Neighbours) -> Iterator[PatchImages]:
    """Yield the plan's images, home patch by home patch; `pairs` learns which catalogue patches each of them reads."""
    row = 0
    for home, found in itertools.groupby(_images(plan, pairs), key=lambda image: (image.tract, image.patch)):
        images = tuple(found)
        yield PatchImages(*home, images, neighbours.of(row, row + len(images)))
        row += len(images)


def _grouped(patches: Iterable[PatchImages]) -> Iterator[tuple[PatchImages, ...]]:
    """Yield patches, several small ones at a time, whose files are synced together."""
    waiting: list[PatchImages] = []
    for patch in patches:
        waiting.append(patch)
        if len(waiting) >= _PATCHES_TOGETHER or sum(len(one.images) for one in waiting) >= _IMAGES_TOGETHER:
            yield tuple(waiting)
            waiting = []
    if waiting:
        yield tuple(waiting)


def _images(plan: Plan, pairs: _Pairs) -> Iterator[PlacedImage]:
    for batch in plan.batches([*PlacedImage._fields, "reads"], _IMAGES_AT_ONCE):
        pairs.learn(numbers(batch.column("tract")), numbers(batch.column("patch")), batch.column("reads"))
        yield from map(PlacedImage, *(batch.column(name).to_pylist() for name in PlacedImage._fields))


class _Pairs:
    """The patches of the catalogue that the images of each home patch read: each pair once, 16 bytes a pair."""

    _COMPACT = 1 << 18

    def __init__(self) -> None:
        self._found: list[NDArray[np.int64]] = [np.empty((0, 2), dtype=np.int64)]

    def learn(self, tract: NDArray[np.int64], patch: NDArray[np.int64], reads: Any) -> None:
        image = numbers(pc.list_parent_indices(reads))
        read = numbers(reads.flatten().flatten()).reshape(-1, 2)
        homes = packed(tract, patch)
        self._found.append(_unique(np.column_stack([packed(*read.T), homes[image]])))
        if sum(len(piece) for piece in self._found[1:]) > max(self._COMPACT, len(self._found[0])):
            self._found = [_unique(np.concatenate(self._found))]

    def by_read(self) -> NDArray[np.int64]:
        """Rows of (patch of the catalogue, home patch), both packed, sorted."""
        self._found = [_unique(np.concatenate(self._found))]
        return self._found[0]


def _unique(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    if not len(rows):
        return rows
    rows = rows[np.lexsort(rows.T[::-1])]
    return rows[np.r_[True, np.any(rows[1:] != rows[:-1], axis=1)]]


def _sources(catalog: Mapping[Key, str], pairs: NDArray[np.int64], tables: Mapping[Key, str]) -> Iterator[PatchSources]:
    """Yield the catalogue's patches, each with the truth tables that may have rows of its sources."""
    for (tract, patch), sha256 in catalog.items():
        first, last = np.searchsorted(pairs[:, 0], packed(np.array([tract]), np.array([patch]))[0] + np.arange(2))
        homes = ((*home, tables.get(home, "")) for home in unpacked(pairs[first:last, 1]))
        yield PatchSources(tract, patch, tuple(home for home in homes if home[2]), sha256)


def _sweep(folder: Path, wanted: Container[Key]) -> None:
    """Remove tables, and what is remembered, of patches that the plan no longer has."""
    for tract in sorted(folder.glob("tract=*")):
        # By names: a Path for each of tens of thousands of patches takes seconds.
        for name in sorted(name for name in single_names(tract) if name.startswith("patch=")):
            key = int(tract.name.removeprefix("tract=")), int(name.partition(".")[0].removeprefix("patch="))
            if key in wanted:
                continue
            path = tract / name
            table = path if path.is_file() else path / "part-0.parquet"
            table.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not ours, if there is more in it
                path.rmdir()
        with contextlib.suppress(OSError):
            tract.rmdir()
