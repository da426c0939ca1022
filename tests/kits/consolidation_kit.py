"""Small surveys for the tests of consolidation: a sky map that can be worked out by hand, and a random one."""

from __future__ import annotations

import hashlib
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from astropy.table import QTable

from kits.finished_images import CENTERS, Outputs, planned
from skygraft.catalog import normalize_catalog
from skygraft.catalog.io import to_arrow
from skygraft.tables.consolidate import Consolidation, consolidate

# Pixels of 3.6 arcsec are a thousandth of a degree. Tract 0 is centred on ra 10.0, tract 1 on 10.19; each is 200 x 100
# pixels, cut into two patches of 100 x 100 whose x grows to the West, with a border of 10 pixels. So
#   tract 0 spans ra 9.90 to 10.10, patch 1 to the west and patch 0 to the east of 10.0;
#   tract 1 spans ra 10.09 to 10.29, patch 1 to the west and patch 0 to the east of 10.19;
# and what lies in both (10.09 to 10.10) belongs to the tract with the nearer centre: tract 0 up to 10.095.
SKYMAP = {
    "kind": "explicit",
    "tracts": [
        {"ra": ra, "dec": 0.0, "pixel_scale": 3.6, "size": [200, 100], "patches": [2, 1], "border": 10}
        for ra in (10.0, 10.19)
    ],
}
EVERYWHERE = [(0, 0), (0, 1), (1, 0), (1, 1)]

SOURCES = {  # injection id: (ra, tract and patch that own it)
    0: (9.95, (0, 1)),
    1: (9.995, (0, 1)),  # within the border of patch 0
    2: (10.004, (0, 0)),  # within the border of patch 1
    3: (10.05, (0, 0)),
    4: (10.093, (0, 0)),  # within tract 1 too
    5: (10.097, (1, 1)),  # within tract 0 too
    6: (10.15, (1, 1)),
    7: (10.25, (1, 0)),
    8: (50.0, (-1, -1)),  # in no tract
}


def here(function: Callable[..., Any], items: Iterable[Any], **arguments: Any) -> Iterator[Any]:
    return (function(item, **arguments) for item in items)


def backwards(function: Callable[..., Any], items: Iterable[Any], **arguments: Any) -> Iterator[Any]:
    """As a cluster may: items pickled, results in another order."""
    waiting = list(items)
    random.Random(5).shuffle(waiting)
    for item in waiting:
        yield pickle.loads(pickle.dumps(function(pickle.loads(pickle.dumps(item)), **arguments)))


def make_catalog() -> QTable:
    ids = list(SOURCES)
    return QTable(
        {
            "injection_id": ids,
            "ra": [SOURCES[i][0] for i in ids],
            "dec": np.zeros(len(ids)),
            "source_type": ["Star"] * len(ids),
            "mag_g": [20.0 + i for i in ids],
            "mag_r": [19.0 + i for i in ids],
        }
    )


def rows_of(ids: Iterable[int], **columns: Any) -> QTable:
    """Those sources of the catalogue, some columns changed: what is to be injected into an image."""
    table = normalize_catalog(make_catalog())
    table = table[np.isin(table["injection_id"], list(ids))]
    for name, value in columns.items():
        table[name] = value
    return table


# What lies on the coadd of each patch, border included.
ON_COADD = {(0, 1): [0, 1, 2], (0, 0): [1, 2, 3, 4, 5], (1, 1): [4, 5, 6], (1, 0): [7]}


def make_coadds(folder: Path) -> Outputs:
    """A coadd of every patch in two bands, all of them done."""
    images = [planned(f"{b}-{t}-{p}", (t, p), EVERYWHERE, band=b) for b in "gr" for t, p in EVERYWHERE]
    outputs = Outputs(folder, make_catalog(), SKYMAP, images)
    for image in images:
        outputs.finish(image.image_id, rows_of(ON_COADD[image.tract, image.patch]))
    return outputs


def run(outputs: Outputs, call: Any = here) -> Consolidation:
    return consolidate(outputs.config, outputs.plan, call)


def truth(outputs: Outputs) -> list[dict[str, Any]]:
    found = []
    for path in sorted((outputs.root / "truth").rglob("*.parquet")):
        home = tuple(int(name.split("=")[1]) for name in path.parts[-3:-1])
        found += [row | {"home": home} for row in pq.read_table(path, partitioning=None).to_pylist()]
    return found


def sources(outputs: Outputs) -> dict[int, dict[str, Any]]:
    return {row["injection_id"]: row for row in pq.read_table(outputs.root / "sources.parquet").to_pylist()}


def files(outputs: Outputs) -> dict[str, tuple[str, int]]:
    """Checksum and inode of every table."""
    paths = [p for d in ("truth", "sources") for p in (outputs.root / d).rglob("*") if p.is_file()]
    paths.append(outputs.root / "sources.parquet")
    return {
        p.relative_to(outputs.root).as_posix(): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_ino)
        for p in paths
    }


def contents(outputs: Outputs) -> dict[str, str]:
    return {name: checksum for name, (checksum, _) in files(outputs).items()}


def survey(folder: Path, *, n_images: int = 40, seed: int = 3) -> tuple[Outputs, list[dict[str, Any]]]:
    """A random survey of visits and coadds in three bands, and all its rows of truth as plain dicts."""
    rng = np.random.default_rng(seed)
    n = 400
    kind = rng.choice(["Star", "Sersic"], n)
    catalog = QTable(
        {
            "injection_id": rng.permutation(5 * n)[:n],
            "ra": rng.uniform(9.9, 10.29, n),
            "dec": rng.uniform(-0.05, 0.05, n),
            "source_type": kind,
            "n": np.where(kind == "Sersic", 1.0, np.nan),
            "half_light_radius": np.where(kind == "Sersic", 5.0, np.nan),
            # Some are in no band, or have none.
            **{f"mag_{band}": np.where(rng.random(n) < 0.1, np.nan, rng.uniform(18, 24, n)) for band in "grz"},
        }
    )
    homes = [EVERYWHERE[i] for i in rng.integers(0, 4, n_images)]
    images = [
        planned(
            f"im{i:03d}",
            home,
            EVERYWHERE,
            band=str(rng.choice(["g", "r", "z"])),
            visit=None if rng.random() < 0.3 else int(rng.integers(1, 6)),
            mjd=None if rng.random() < 0.3 else 60000 + float(rng.uniform(0, 100)),
            ra=CENTERS[home] + float(rng.uniform(-0.04, 0.04)),
            dec=float(rng.uniform(-0.04, 0.04)),
        )
        for i, home in enumerate(homes)
    ]
    outputs = Outputs(folder, catalog, SKYMAP, images)
    whole = normalize_catalog(catalog)
    everything = []
    for image in images:
        chosen = whole[rng.random(n) < rng.uniform(0, 1)]
        mode = "psf_sum" if rng.random() < 0.2 else "calibrated"
        truth = outputs.finish(image.image_id, chosen, flux_mode=mode)
        rows = to_arrow(truth).to_pylist()
        everything += [row | {"image": image} for row in rows]
    return outputs, everything
