"""A survey that exists on paper only: an index of images that lie nowhere on disk, and a catalogue for it.

What a planner, a runner and a ledger see of a survey of a million images, without its pixels. Everything is
deterministic: equal arguments give equal tables.

    uv run python tests/benchmarks/simulated.py FOLDER --images 100000 --sources 1000000
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

__all__ = ["AREA", "BANDS", "share_of_area", "write_campaign", "write_catalogue", "write_index"]

BANDS = ("g", "r", "i")
AREA = (330.0, 71.5, -7.0, 14.0)
"""Where the survey begins and how wide it is in right ascension (across 0), then in declination: 1000 square deg."""

_SCALE = 0.168
_SIZE = (2048, 4176)
_FIELD = 0.75
_CHUNK = 250_000
_INDEX = pa.schema(
    [
        ("image_id", pa.string()), ("path", pa.string()), ("hdu", pa.string()), ("format", pa.string()),
        ("instrument", pa.string()), ("visit", pa.int64()), ("detector", pa.string()), ("band", pa.string()),
        ("mjd", pa.float64()), ("exposure_time", pa.float64()), ("nx", pa.int64()), ("ny", pa.int64()),
        ("ra", pa.float64()), ("dec", pa.float64()), ("polygon", pa.list_(pa.list_(pa.float64()))),
        ("pixel_scale", pa.float64()), ("n_bytes", pa.int64()), ("options", pa.string()),
    ]
)  # fmt: skip


type Area = tuple[float, float, float, float]


def share_of_area(share: float) -> Area:
    """A part of the area, of the same shape, so that fewer images lie as densely; at least of a few fields of view."""
    ra0, width, dec0, height = AREA
    scale = max(share**0.5, 3 * _FIELD / height)
    return ra0, width * scale, dec0, height * scale


def _uniform_on_sky(
    rng: np.random.Generator, n: int, area: Area, inset: float = 0.0
) -> tuple[NDArray[np.float64], ...]:
    ra0, width, dec0, height = area
    ra = (ra0 + inset + rng.uniform(0, width - 2 * inset, n)) % 360.0
    low, high = np.sin(np.radians([dec0 + inset, dec0 + height - inset]))
    return ra, np.degrees(np.arcsin(rng.uniform(low, high, n)))


def _from_plane(
    xi: NDArray[np.float64], eta: NDArray[np.float64], ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions of tangent plane coordinates (East, North) about centres; everything in degrees."""
    xi, eta, lat = np.radians(xi), np.radians(eta), np.radians(dec)
    depth = np.cos(lat) - eta * np.sin(lat)
    north = np.arctan2(np.sin(lat) + eta * np.cos(lat), np.hypot(depth, xi))
    return (ra + np.degrees(np.arctan2(xi, depth))) % 360.0, np.degrees(north)


def detectors() -> NDArray[np.float64]:
    """Middles (x, y) of the detectors in the focal plane, degrees."""
    width, height = (n * _SCALE / 3600 for n in _SIZE)
    x, y = np.meshgrid(np.arange(-10, 11) * (width + 0.003), np.arange(-6, 7) * (height + 0.003))
    return np.column_stack([x.ravel(), y.ravel()])[np.hypot(x, y).ravel() < _FIELD]


def index_tables(n_images: int, seed: int = 1, area: Area = AREA) -> Iterator[pa.Table]:
    """The index of `n_images` detectors, visit after visit, in tables of whole visits."""
    places = detectors()
    per_visit = len(places)
    n_visits = -(-n_images // per_visit)
    rng = np.random.default_rng([seed, 1])
    ra, dec = _uniform_on_sky(rng, n_visits, area, inset=_FIELD)
    turn = np.radians(rng.choice([0.0, 90.0, 180.0, 270.0], n_visits) + rng.uniform(-10, 10, n_visits))
    bands = rng.integers(0, len(BANDS), n_visits)
    half = [n * _SCALE / 3600 / 2 for n in _SIZE]
    # The middle, and the four corners.
    offsets = np.array([[0, 0], [-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    step = max(_CHUNK // per_visit, 1)
    for first in range(0, n_visits, step):
        visits = np.arange(first, min(first + step, n_visits))
        points = places[None, :, None, :] + offsets[None, None]
        cos, sin = np.cos(turn[visits])[:, None, None], np.sin(turn[visits])[:, None, None]
        xi, eta = points[..., 0] * cos - points[..., 1] * sin, points[..., 0] * sin + points[..., 1] * cos
        lon, lat = _from_plane(xi, eta, ra[visits][:, None, None], dec[visits][:, None, None])
        n = min(len(visits) * per_visit, n_images - first * per_visit)
        lon, lat = (a.reshape(-1, 5)[:n] for a in (lon, lat))
        visit = np.repeat(visits + 1000, per_visit)[:n]
        detector = np.tile(np.arange(per_visit), len(visits))[:n]
        names = [f"{v}-{d}" for v, d in zip(visit.tolist(), detector.tolist(), strict=True)]
        corners = np.stack([lon[:, 1:], lat[:, 1:]], axis=-1)
        pairs = pa.ListArray.from_arrays(np.arange(0, 8 * n + 1, 2, dtype=np.int32), corners.ravel())
        band = np.array(BANDS)[bands[visit - 1000]].tolist()
        columns = [
            [f"sim-{name}" for name in names],
            [f"{name.partition('-')[0]}/calexp-{name}.fits" for name in names],
            [""] * n, ["lsst_afw"] * n, ["sim"] * n, visit, [str(d) for d in detector.tolist()], band,
            60000.0 + visit * 5e-4, np.full(n, 200.0), np.full(n, _SIZE[0]), np.full(n, _SIZE[1]), lon[:, 0], lat[:, 0],
            pa.ListArray.from_arrays(np.arange(0, 4 * n + 1, 4, dtype=np.int32), pairs), np.full(n, _SCALE),
            np.full(n, 12 * _SIZE[0] * _SIZE[1]), ["{}"] * n,
        ]  # fmt: skip
        arrays = [
            pa.array(c, type=t) if not isinstance(c, pa.Array) else c
            for c, t in zip(columns, _INDEX.types, strict=True)
        ]
        yield pa.Table.from_arrays(arrays, schema=_INDEX)


def write_index(path: Path, n_images: int, seed: int = 1, area: Area = AREA) -> Path:
    """Write the index of `n_images` images, as ``skygraft index -o`` would."""
    with pq.ParquetWriter(path, _INDEX, compression="zstd") as writer:
        for table in index_tables(n_images, seed, area):
            writer.write_table(table)
    return path


def write_catalogue(path: Path, n_sources: int, seed: int = 1, *, movers: float = 0.0, area: Area = AREA) -> Path:
    """Write a catalogue of `n_sources` sources, seven of ten of them stars, the others Sersic galaxies.

    Parameters
    ----------
    path : Path
        A Parquet file.
    n_sources : int
        Rows.
    seed : int
        Chooses the catalogue.
    movers : float
        Share of the sources that have a proper motion, of some 100 mas/yr.
    area : tuple of float
        Where they lie, as `AREA`.
    """
    writer = None
    try:
        for start in range(0, n_sources, _CHUNK):
            rng = np.random.default_rng([seed, 2, start])
            n = min(_CHUNK, n_sources - start)
            ra, dec = _uniform_on_sky(rng, n, area)
            star = rng.random(n) < 0.7
            mag = 18 + 8 * np.sqrt(rng.random(n))

            def galaxies(values: NDArray[np.float64], star: NDArray[np.bool_] = star) -> NDArray[np.float64]:
                return np.where(star, np.nan, values)

            columns = {
                "injection_id": np.arange(start, start + n),
                "ra": ra,
                "dec": dec,
                "source_type": np.where(star, "Star", "Sersic").tolist(),
                **{f"mag_{band}": mag + rng.normal(k / 2, 0.3, n) for k, band in enumerate(BANDS)},
                "n": galaxies(np.where(rng.random(n) < 0.8, rng.uniform(0.6, 1.6, n), rng.uniform(2.5, 4.5, n))),
                "half_light_radius": galaxies(0.35 * np.exp(rng.normal(0, 0.5, n))),
                "q": galaxies(rng.uniform(0.2, 1.0, n)),
                "pa": galaxies(rng.uniform(0, 180, n)),
            }
            if movers:
                moves = star & (rng.random(n) < movers / 0.7)
                columns["pm_ra_cosdec"] = np.where(moves, rng.normal(0, 100, n), 0.0)
                columns["pm_dec"] = np.where(moves, rng.normal(0, 100, n), 0.0)
                columns["epoch_mjd"] = np.full(n, 57388.0)
            table = pa.table(columns)
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    return path


def write_campaign(
    folder: Path, n_images: int, n_sources: int, seed: int = 1, *, movers: float = 0.0, area: Area = AREA
) -> Path:
    """Write an index, a catalogue and a campaign of them; gives the campaign's file."""
    folder.mkdir(parents=True, exist_ok=True)
    write_index(folder / "images.parquet", n_images, seed, area)
    write_catalogue(folder / "fakes.parquet", n_sources, seed, movers=movers, area=area)
    settings = {
        "name": "simulated",
        "survey": {"index": "images.parquet"},
        "catalog": {"path": "fakes.parquet"},
        "output": "../out",
    }
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--sources", type=int, default=1_000_000)
    parser.add_argument("--movers", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    path = write_campaign(given.folder, given.images, given.sources, given.seed, movers=given.movers)
    print(json.dumps({"campaign": str(path), "images": given.images, "sources": given.sources}))


if __name__ == "__main__":
    main()
