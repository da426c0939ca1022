"""HATS catalogues written by hand, as the IVOA note describes them, for tests of how they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy import units as u
from astropy_healpix import lonlat_to_healpix

PROPERTIES = {
    "obs_collection": "by_hand",
    "dataproduct_type": "object",
    "hats_col_ra": "ra",
    "hats_col_dec": "dec",
    "hats_col_healpix": "_healpix_29",
    "hats_version": "v1.0",
}


def sky_rows(n: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Stars all over the sky, with object ids that double precision cannot hold."""
    rng = np.random.default_rng(seed)
    return {
        "injection_id": np.arange(n) * 7 + 3,
        "ra": rng.uniform(0, 360, n),
        "dec": np.degrees(np.arcsin(rng.uniform(-1, 1, n))),
        "source_type": np.full(n, "Star"),
        "mag_r": rng.uniform(18, 25, n),
        "object_id": 2**53 + np.arange(n) * 2 + 1,
    }


def write_hats(
    folder: Path,
    rows: dict[str, np.ndarray],
    *,
    order: int = 0,
    files: bool = True,
    info: bool = True,
    nrows: bool = True,
    properties: dict[str, str | None] | None = None,
    name: str = "hats.properties",
) -> list[Path]:
    """Write a catalogue: one file (or with `files` false, a folder of two) for each pixel of an order.

    Returns
    -------
    list of Path
        Its Parquet files.
    """
    place = rows["ra"] * u.deg, rows["dec"] * u.deg
    pixels, index = (lonlat_to_healpix(*place, 2**k, order="nested") for k in (order, 29))
    written, listed = [], ["Norder,Npix"]
    for pixel in np.unique(pixels).tolist():
        mine = np.flatnonzero(pixels == pixel)
        mine = mine[np.argsort(index[mine], kind="stable")]
        path = folder / f"dataset/Norder={order}/Dir={pixel // 10000 * 10000}/Npix={pixel}.parquet"
        pieces = {path: mine}
        if not files:
            inside = path.with_suffix("")
            pieces = {inside / "part0.parquet": mine[::2], inside / "part1.snappy.parquet": mine[1::2]}
        for at, part in pieces.items():
            if part.size:
                at.parent.mkdir(parents=True, exist_ok=True)
                columns = {"_healpix_29": index[part], **{key: pa.array(v[part].tolist()) for key, v in rows.items()}}
                pq.write_table(pa.table(columns), at)
                written.append(at)
        listed.append(f"{order},{pixel}")
    if info:
        (folder / "partition_info.csv").write_text("\n".join(listed) + "\n")
    about = {**PROPERTIES, **({"hats_nrows": str(len(rows["ra"]))} if nrows else {}), **(properties or {})}
    lines = [f"{key}={value}" for key, value in about.items() if value is not None]
    (folder / name).write_text("#HATS catalog\n" + "\n".join(lines) + "\n")
    return written


def write_collection(folder: Path, rows: dict[str, np.ndarray], **options) -> list[Path]:
    """Write a collection of a catalogue, and of a margin that repeats a third of its rows."""
    written = write_hats(folder / "main", rows, **options)
    third = {key: values[::3] for key, values in rows.items()}
    about = {"dataproduct_type": "margin", "hats_margin_threshold": "10", "hats_primary_table_url": "main"}
    write_hats(folder / "margin_10arcs", third, properties=about)
    (folder / "collection.properties").write_text(
        "#HATS Collection\nobs_collection=pair\nhats_primary_table_url=main\nall_margins=margin_10arcs\n"
        "default_margin=margin_10arcs\n"
    )
    return written
