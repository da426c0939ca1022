"""What workers leave of images that they do not make: records as tasks write them, of images that exist on paper only.

`rehearse_bare` leaves no more of an image than ten million of them have room for on one disk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import itertools
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "at_once",
    "know_packs",
    "multiply_plan",
    "no_syncs",
    "no_tables",
    "record_of",
    "rehearse_bare",
    "rehearse_on_paper",
    "share_folders",
]

_STAGES = {"read": {"wall": 0.4, "cpu": 0.4}, "inject": {"wall": 0.5, "cpu": 0.5}}
_IMAGE = b"image"
_MADE_NS = 1_767_225_600 * 10**9
"""Time of last change of what stands for images."""


@contextlib.contextmanager
def no_syncs() -> Iterator[None]:
    """Leave out waiting for the disk: of a million tiny files nothing else would be left."""
    sync, os.fsync = os.fsync, lambda _: None
    try:
        yield
    finally:
        os.fsync = sync


def record_of(
    image: Any,
    inputs: Mapping[str, Sequence[int]],
    outputs: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    *,
    n_sources: int,
    closure_mag: float,
) -> dict[str, Any]:
    """The record of a planned image, as its task would write it."""
    from skygraft.records.image_record import PIXEL_VERSION, RECORD_VERSION, content_key

    return {
        "version": RECORD_VERSION,
        "image": image.image_id,
        "key": content_key(image.image_id, inputs, image.catalog_key, settings, PIXEL_VERSION),
        "inputs": inputs,
        "catalog": image.catalog_key,
        "settings": settings,
        "code": PIXEL_VERSION,
        "outputs": outputs,
        "band": image.band,
        "n_sources": n_sources,
        "n_drawn": n_sources,
        "calibration": {
            "kind": "aperture",
            "radius_pixels": 12.0,
            "radius_arcsec": 2.016,
            "origin": f"slot_CalibFlux -> base_CircularApertureFlux_12_0 in SRC-{image.visit}.fits",
        },
        "closure": {"median_mag": closure_mag, "n_stars": 3, "max_abs_mag": 0.001},
        "flags": {},
        "injection": {},
        "timings": _STAGES,
        "host": platform.node(),
        "software": {"skygraft": "0"},
        "written": "2026-01-01T00:00:00+00:00",
    }


def at_once(rows: Sequence[int], *, run: str, work: Any) -> list[Any]:
    """Do the work of a task in one go: the driver's own `unless_halted` asks after each image whether to go on."""
    del run
    found: list[Any] = work(rows)
    return found


def rehearse_bare(rows: Sequence[int], output: str, stamp: tuple[int, int]) -> list[Any]:
    """Leave what a finished and packed campaign has of some images: records in packs, and the images' names.

    Records go into the pack of their patch at once, by the product's own writer; in a campaign each is a file until
    the tables are made. There is no truth. The files before and after injection are hard links to a few small ones:
    each has its name in a folder, of which a disk holds any number, but no inode of its own.
    """
    with no_syncs():
        return [*_rehearse_bare(rows, output, stamp)]


def _rehearse_bare(rows: Sequence[int], output: str, stamp: tuple[int, int]) -> Iterator[Any]:
    import orjson

    from skygraft.disk import FileIdentity
    from skygraft.execution.task import _plan
    from skygraft.records.files import RECORD_SUFFIX, TRUTH_SUFFIX, Layout, digest
    from skygraft.records.image_record import _checksum
    from skygraft.records.image_summary import ImageSummary

    layout = Layout(Path(output))
    root, settings = _campaign(layout.config)
    settings_key, link = digest(settings), _links(root)
    no_truth = {"n_bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    now = time.time_ns()
    images = _plan(output, stamp).images(rows)
    for (tract, patch), group in itertools.groupby(images, key=lambda image: (image.tract, image.patch)):
        files: dict[str, tuple[str, Any]] = {}
        inside = f"records/tract={tract}/patch={patch}"
        for image in group:
            target = f"images/{image.output}"
            link(f"{root}/{image.path}")
            link(f"{output}/{target}")
            part, path = f"{inside}/{image.stem}{TRUTH_SUFFIX}", f"{inside}/{image.stem}{RECORD_SUFFIX}"
            outputs = {target: {"n_bytes": len(_IMAGE), "sha256": _of_image()}, part: no_truth}
            record = record_of(
                image, {image.path: [len(_IMAGE), _MADE_NS]}, outputs, settings, n_sources=3, closure_mag=1e-4
            )
            content = orjson.dumps(record | {"checksum": _checksum(record)})
            files[image.stem] = (
                image.image_id,
                {
                    RECORD_SUFFIX: (content, FileIdentity(len(content), now, now)),
                    TRUTH_SUFFIX: (b"", FileIdentity(0, now, now)),
                },
            )
            yield ImageSummary(
                image.image_id,
                "done",
                tract=tract,
                patch=patch,
                band=image.band,
                key=record["key"],
                n_sources=3,
                n_bytes=len(_IMAGE) + len(content),
                wall_seconds=0.9,
                cpu_seconds=0.9,
                stages={name: stage["wall"] for name, stage in _STAGES.items()},
                closure_mag=1e-4,
                inputs=record["inputs"],
                outputs={target: len(_IMAGE), part: 0, path: len(content)},
                output_times=[_MADE_NS, now, now],
                catalog=image.catalog_key,
                settings=settings_key,
                code=record["code"],
                host=record["host"],
            )
        _pack(layout, tract, patch, files)


@functools.cache
def _campaign(path: Path) -> tuple[str, dict[str, Any]]:
    """The survey's folder and the settings of pixels of a campaign."""
    from skygraft.config.campaign import load_config

    config = load_config(path)
    return str(config.survey.root), config.pixel_settings()


@functools.cache
def _of_image() -> str:
    return hashlib.sha256(_IMAGE).hexdigest()


@functools.cache
def _links(root: str) -> Any:
    """What gives an image's file a name, in a folder that is made if need be; one that is there is left alone."""
    seeds, numbers = Path(root, ".seeds"), itertools.count()
    seeds.mkdir(exist_ok=True)

    def new_seed() -> Path:
        seed = seeds / f"{os.getpid()}-{next(numbers)}"
        seed.write_bytes(_IMAGE)
        os.utime(seed, ns=(_MADE_NS, _MADE_NS))
        return seed

    seed = new_seed()

    def link(path: str) -> None:
        nonlocal seed
        for _ in range(3):
            try:
                os.link(seed, path)
            except FileExistsError:
                return
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
            except OSError as error:
                if error.errno != errno.EMLINK:
                    raise
                seed = new_seed()
            else:
                return

    return link


def _pack(layout: Any, tract: int, patch: int, new: Mapping[str, tuple[str, Any]]) -> None:
    """Add images to the pack of a patch, which another task may be at too."""
    from skygraft.disk import NamedTogether
    from skygraft.records.packs import PACK_NAME, REOPENED_SUFFIX, PackWriter, PatchFiles, read_index

    folder = layout.patch_folder(layout.records, tract, patch)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        files, pack = PatchFiles(str(folder)), folder / PACK_NAME
        before = read_index(pack).image_ids if PACK_NAME in files.names else {}
        with NamedTogether() as together:
            with PackWriter(pack, layout.checksum(pack), together) as writer:
                for stem in sorted({*before, *new}):
                    suffixes = (".json", ".truth.arrow")
                    image_id, content = new.get(stem) or (before[stem], {s: files.read(stem + s) for s in suffixes})
                    writer.add(stem, image_id, content)
            together.commit()
        for name in files.names:
            if name.endswith(REOPENED_SUFFIX):
                (folder / name).unlink()
    finally:
        os.close(descriptor)


def know_packs(run: Any, client: Any, watch: Any) -> list[str]:
    """Find out what the packs of a campaign hold, and write it, as the tables of a run do; instead of them."""
    from skygraft.execution.mapping import map_items
    from skygraft.records.events import TablesStarted
    from skygraft.records.known_packs import KnownPacks

    run.ledger.append([TablesStarted()])
    packs = KnownPacks()
    call = functools.partial(map_items, client, watch=watch)
    for tract, patch, known in call(_know_pack, _patches(run.plan), output=str(run.layout.root)):
        packs.add(tract, patch, known)
    packs.write(run.layout)
    return []


def _patches(plan: Any) -> Iterator[tuple[int, int, list[str]]]:
    rows = (
        row
        for batch in plan.batches(["tract", "patch", "stem"])
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    )
    for home, some in itertools.groupby(rows, key=lambda row: row[:2]):
        yield *home, [stem for *_, stem in some]


def _know_pack(patch: tuple[int, int, list[str]], *, output: str) -> tuple[int, int, Any]:
    from skygraft.records.files import Layout
    from skygraft.records.known_packs import packed_patch

    return *patch[:2], packed_patch(Layout(Path(output)), *patch)


def multiply_plan(plan: Any, target: Path, times: int, metadata: Mapping[str, Any]) -> None:
    """Write a plan of so many times the images of another, with files whose folders may be shared."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from skygraft.records.plan_file import PlanWriter

    with PlanWriter(target) as writer:
        writer.metadata.update(metadata)
        for k in range(times):
            for batch in plan.batches():
                visit = pc.add(batch.column("visit"), k * 1_000_000)
                name = pc.binary_join_element_wise(
                    pc.cast(visit, pa.string()), "/calexp-", batch.column("detector"), ".fits", ""
                )
                changed = {
                    "visit": visit,
                    "path": name,
                    "output": name,
                    "tract": pc.add(batch.column("tract"), k * 100_000),
                } | {c: pc.binary_join_element_wise(str(k), batch.column(c), "-") for c in ("image_id", "stem")}
                table = pa.Table.from_batches([batch])
                for column, values in changed.items():
                    place = table.schema.get_field_index(column)
                    table = table.set_column(place, column, values)
                writer.write_table(table)


def share_folders(plan: Any, *roots: str, detectors: Sequence[str]) -> None:
    """Give each visit of a plan a folder in some folders: a link to one that has the files of all detectors."""
    import numpy as np
    import pyarrow.compute as pc

    visits = np.unique(np.concatenate([np.unique(pc.unique(b.column(0)).to_numpy()) for b in plan.batches(["visit"])]))
    for root in roots:
        shared = Path(root, "shared")
        shared.mkdir(parents=True)
        for detector in detectors:
            for name in (f"calexp-{detector}.fits", f"{detector}.json", f"{detector}.truth.arrow"):
                (shared / name).write_bytes(_IMAGE)
                os.utime(shared / name, ns=(_MADE_NS, _MADE_NS))
        for visit in visits.tolist():
            Path(root, str(visit)).symlink_to("shared")


def rehearse_on_paper(rows: Sequence[int], output: str, stamp: tuple[int, int]) -> list[Any]:
    """Report images as made of which there is nothing but the files of `share_folders`; no record is written."""
    from skygraft.execution.task import _plan
    from skygraft.records.files import Layout, digest
    from skygraft.records.image_record import PIXEL_VERSION
    from skygraft.records.image_summary import ImageSummary

    _, settings = _campaign(Layout(Path(output)).config)
    key = digest(settings)
    return [
        ImageSummary(
            image.image_id,
            "done",
            tract=image.tract,
            patch=image.patch,
            band=image.band,
            key=hashlib.sha256(image.image_id.encode()).hexdigest(),
            n_sources=3,
            n_bytes=3 * len(_IMAGE),
            wall_seconds=0.9,
            cpu_seconds=0.9,
            stages={name: stage["wall"] for name, stage in _STAGES.items()},
            closure_mag=1e-4,
            inputs={f"paper/{image.path}": [len(_IMAGE), _MADE_NS]},
            outputs={
                name: len(_IMAGE)
                for name in (
                    f"images/{image.output}",
                    f"records/{image.visit}/{image.detector}.truth.arrow",
                    f"records/{image.visit}/{image.detector}.json",
                )
            },
            output_times=[_MADE_NS] * 3,
            catalog=image.catalog_key,
            settings=key,
            code=PIXEL_VERSION,
            host=platform.node(),
        )
        for image in _plan(output, stamp).images(rows)
    ]


def no_tables(run: Any, client: Any, watch: Any) -> list[str]:
    """Instead of the tables: nothing."""
    del run, client, watch
    return []
