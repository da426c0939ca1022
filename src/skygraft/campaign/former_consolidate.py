"""What the campaign calls until it calls `consolidate`; to be removed then."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from skygraft.campaign.config import CampaignConfig
from skygraft.campaign.files import Layout, atomic_path, digest, sha256_file, write_json
from skygraft.campaign.ledger import Failure
from skygraft.campaign.planned import PlannedImage
from skygraft.campaign.records import PIXEL_VERSION, read_record
from skygraft.errors import CampaignError
from skygraft.provenance import prov_document

__all__ = ["consolidate_patch", "write_failures", "write_provenance"]

_KEYS = b"skygraft-records"


@dataclass(frozen=True)
class FormerDigest:
    """What the records of one home patch say together.

    Parameters
    ----------
    tract, patch : int
        The home patch.
    n_images, n_rows, n_drawn, n_bytes : int
        Images done, rows of truth, sources drawn, and bytes of their outputs.
    keys : str
        Fingerprint of the records' keys.
    calibrations : tuple of (dict, int)
        Each calibration reference used, and in how many images.
    software : tuple of (dict, int)
        Each set of software versions, and of how many images.
    """

    tract: int
    patch: int
    n_images: int
    n_rows: int
    n_drawn: int
    n_bytes: int
    keys: str
    calibrations: tuple[tuple[dict[str, Any], int], ...]
    software: tuple[tuple[dict[str, str], int], ...]


def consolidate_patch(images: Sequence[PlannedImage], output: str) -> FormerDigest:
    """Merge the truth tables of the images of one home patch; the order of rows is that of image and injection id.

    A table that was made from the same records is left alone. Images that are not done are left out.

    Parameters
    ----------
    images : sequence of PlannedImage
        All images of one home patch.
    output : str
        The campaign's output folder.

    Raises
    ------
    CampaignError
        If an image's truth table cannot be read although its record is there.
    """
    layout = Layout(Path(output))
    tract, patch = images[0].tract, images[0].patch
    records: dict[str, dict[str, Any]] = {}
    parts: dict[str, Path] = {}
    for image in sorted(images, key=lambda item: item.image_id):
        record = read_record(layout.record(tract, patch, image.stem))
        if record is not None:
            records[image.image_id] = record
            parts[image.image_id] = layout.truth_part(tract, patch, image.stem)
    keys = digest(
        [[name, record["key"], [o["sha256"] for o in record["outputs"].values()]] for name, record in records.items()]
    )
    table_path = layout.truth_table(tract, patch)
    if not records:
        table_path.unlink(missing_ok=True)
    elif _keys_of(table_path) != keys:
        merged = pa.concat_tables([_read_part(path) for path in parts.values()], promote_options="permissive")
        merged = merged.sort_by([("image_id", "ascending"), ("injection_id", "ascending")])
        merged = merged.replace_schema_metadata({_KEYS: keys.encode()})
        with atomic_path(table_path) as temporary:
            pq.write_table(merged, temporary)
    return FormerDigest(
        tract,
        patch,
        n_images=len(records),
        n_rows=sum(record["n_sources"] for record in records.values()),
        n_drawn=sum(record["n_drawn"] for record in records.values()),
        n_bytes=sum(o["n_bytes"] for record in records.values() for o in record["outputs"].values()),
        keys=keys,
        calibrations=tuple(_count([_generalised(r["calibration"]) for r in records.values()])),
        software=tuple(_count([r["software"] for r in records.values()])),
    )


def _keys_of(path: Path) -> str | None:
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):
        return None
    return str(metadata.get(_KEYS, b"").decode())


def _read_part(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise CampaignError(
            f"the truth table cannot be read ({error})",
            path=path,
            fix="Delete the record beside it and run the campaign again; its image is then made again",
        ) from error


def _generalised(calibration: Mapping[str, Any]) -> dict[str, Any]:
    """A calibration whose origin is that of all images alike: numbers in the file name become ``#``."""
    content = {name: calibration.get(name) for name in ("kind", "radius_pixels", "radius_arcsec", "origin")}
    origin = str(content["origin"] or "")
    head, middle, tail = origin.rpartition(" in ")
    content["origin"] = head + middle + re.sub(r"\d+", "#", tail) if middle else origin
    arcsec = content["radius_arcsec"]
    # The local pixel scale makes every image's radius on the sky a little different.
    content["radius_arcsec"] = None if arcsec is None else float(f"{arcsec:.3g}")
    return content


def _count(items: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    counts = Counter(tuple(sorted(item.items(), key=lambda pair: pair[0])) for item in items)
    return [(dict(item), n) for item, n in sorted(counts.items(), key=lambda pair: repr(pair[0]))]


def _merge(counted: Iterable[tuple[dict[str, Any], int]]) -> list[tuple[dict[str, Any], int]]:
    total: Counter[tuple[tuple[str, Any], ...]] = Counter()
    for item, n in counted:
        total[tuple(sorted(item.items()))] += n
    return [(dict(item), n) for item, n in sorted(total.items(), key=lambda pair: repr(pair[0]))]


def calibrations_used(patches: Iterable[FormerDigest]) -> list[dict[str, Any]]:
    """Every calibration reference used: kind, radius_pixels, radius_arcsec, origin, n_images."""
    return [item | {"n_images": n} for item, n in _merge(c for patch in patches for c in patch.calibrations)]


def write_failures(
    path: Path,
    failures: Mapping[str, Failure],
    images: Iterable[PlannedImage],
    unusable: Iterable[Mapping[str, str]],
) -> None:
    """Write ``failures.parquet``: one row per image that failed, or that could not be planned; else an empty table.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    rows = [
        {**asdict(failures[image.image_id]), "path": image.path, "tract": image.tract, "patch": image.patch}
        for image in images
        if image.image_id in failures
    ]
    rows += [
        {"image_id": bad["image_id"], "path": bad["path"], "error": bad["error"], "message": bad["reason"], "tries": 1}
        for bad in unusable
    ]
    text, number = pa.string(), pa.int64()
    schema = pa.schema(
        [
            ("image_id", text),
            ("path", text),
            ("tract", number),
            ("patch", number),
            ("error", text),
            ("message", text),
            ("where", text),
            ("host", text),
            ("tries", number),
        ]
    )
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)


def write_provenance(
    config: CampaignConfig, patches: Sequence[FormerDigest], *, n_images: int, n_failed: int, started: str, ended: str
) -> None:
    """Write ``provenance.json``, a W3C PROV-JSON document.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    layout = Layout(config.output)
    calibrations = calibrations_used(patches)
    settings = config.pixel_settings()
    catalog = config.catalog.path
    known = catalog.is_file()
    inputs: dict[str, tuple[str, dict[str, Any]]] = {
        "configuration": (
            "the configuration, as resolved",
            {"path": "campaign.yaml", "sha256": sha256_file(layout.config), "settings-sha256": digest(settings)},
        ),
        "catalog": (
            "the catalogue of sources",
            {
                "path": str(catalog),
                "n_bytes": catalog.stat().st_size if known else None,
                "sha256": sha256_file(catalog) if known else None,
            },
        ),
        "survey": (
            "the images; the stamps of each one's files are in its record",
            {
                "path": str(config.survey.root),
                "pattern": str(config.survey.images or config.survey.ccds),
                "n_images": n_images,
            },
        ),
    }
    outputs: dict[str, tuple[str, dict[str, Any]]] = {
        "images": (
            "the injected images; the checksums of each are in its record",
            {
                "path": "images",
                "n_images": sum(patch.n_images for patch in patches),
                "n_bytes": sum(patch.n_bytes for patch in patches),
                "records-sha256": digest([patch.keys for patch in patches]),
            },
        ),
        "truth": ("what was injected", {"path": "truth", "n_rows": sum(patch.n_rows for patch in patches)}),
    }
    document = prov_document(
        name=config.name,
        started=started,
        ended=ended,
        inputs=inputs,
        outputs=outputs,
        calibrations=calibrations,
        activity={
            "seed": config.injection.seed,
            "flux_mode": config.injection.flux_mode,
            "noise": config.injection.noise,
            "pixel_version": PIXEL_VERSION,
            "n_drawn": sum(patch.n_drawn for patch in patches),
            "n_failed": n_failed,
        },
        software=[dict(versions) for versions, _ in _merge(s for patch in patches for s in patch.software)],
    )
    write_json(layout.provenance, document)
