"""Damaged catalogues of every file type and dialect: read, inject, write and read again."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import QTable, Table

from fuzz.images import DATA, DEC, RA, SCALE, SIZE
from fuzz.judge import SilentError, check_drawn
from fuzz.kit import Fuzz

WEIGHTS = {"galaxies.parquet": 0.3}
N = 12


def sources(n: int = N) -> QTable:
    """Stars and galaxies around the middle of the seed images."""
    rng = np.random.default_rng(3)
    x, y = rng.uniform(-SIZE / 3, SIZE / 3, (2, n)) * SCALE / 3600
    kind = np.where(np.arange(n) % 3 == 2, "Sersic", "Star")
    galaxy = kind == "Sersic"
    return QTable(
        {
            "injection_id": np.arange(n),
            "ra": RA + x,
            "dec": DEC + y,
            "source_type": kind,
            "mag_r": rng.uniform(19, 22, n),
            "n": np.where(galaxy, 1.0, np.nan),
            "half_light_radius": np.where(galaxy, 0.5, np.nan),
            "q": np.where(galaxy, 0.7, np.nan),
            "pa": np.where(galaxy, 30.0, np.nan),
        }
    )


def _dialects() -> dict[str, Table]:
    """The same places in the columns of other injectors and simulations."""
    table = sources()
    ra, dec, mag, ids = (np.asarray(table[name]) for name in ("ra", "dec", "mag_r", "injection_id"))
    half, flux = np.full(N, 0.5), 10 ** (-0.4 * (mag - 22.5))
    place = {"ra": ra, "dec": dec}
    parts = {
        f"{p}_{c}": np.full(N, v)
        for p, n in (("bulge", 4.0), ("disk", 1.0))
        for c, v in (("semimajor", 0.6), ("axis_ratio", 0.7), ("pa", 40.0), ("n", n))
    }
    axes = {f"{c}_{p}": np.full(N, v) for p in "bd" for c, v in (("a", 0.6), ("b", 0.5))}
    return {
        "lsst": Table(
            {"injection_id": ids, **place, "source_type": table["source_type"], "mag": mag, "n": table["n"],
             "half_light_radius": half, "q": np.full(N, 0.7), "beta": np.full(N, 30.0)}
        ),
        "insertfakes": Table(
            {"fakeId": ids, "ra": np.radians(ra), "dec": np.radians(dec), "sourceType": np.full(N, "galaxy"),
             "r_mag": mag, "bulge_disk_flux_ratio": half, **parts}
        ),
        "insertfakes_old": Table(
            {"fakeId": ids, "raJ2000": np.radians(ra), "decJ2000": np.radians(dec), "rmagVar": mag,
             "sourceType": np.full(N, "galaxy"), **axes, "pa_bulge": half, "pa_disk": half,
             "DiskHalfLightRadius": half, "BulgeHalfLightRadius": half, "disk_n": np.full(N, 1.0),
             "bulge_n": np.full(N, 4.0)}
        ),
        "synpipe": Table(
            {"ID": ids, "RA": ra, "DEC": dec, "mag": mag, "reff": half, "sersic_n": np.full(N, 2.0),
             "b_a": np.full(N, 0.4), "theta": np.full(N, 25.0)}
        ),
        "obiwan": Table(
            {"id": ids, **place, "flux_r": flux, "sersic": np.full(N, 1.0), "shape_r": half,
             "shape_e1": np.full(N, 0.1), "shape_e2": np.full(N, -0.2)}
        ),
        "romanisim": Table(
            {**place, "type": np.full(N, "SER"), "n": np.full(N, 1.5), "half_light_radius": half,
             "pa": np.full(N, 10.0), "ba": np.full(N, 0.6), "r": 10 ** (-0.4 * mag)}
        ),
        "catsim": Table(
            {"id": ids, **place, **axes, "pa_bulge": half, "pa_disk": half, "fluxnorm_bulge": flux,
             "fluxnorm_disk": flux, "r_ab": mag}
        ),
    }  # fmt: skip


def _nested(path: Path) -> None:
    """Parquet with a dictionary for text, and columns of lists and structures that nobody asked for."""
    table = sources()
    columns: dict[str, Any] = {name: pa.array(np.asarray(table[name])) for name in table.colnames}
    columns["source_type"] = pa.array(table["source_type"].tolist()).dictionary_encode()
    columns["sed"] = pa.array([[1.0, 2.0]] * N)
    columns["host"] = pa.array([{"id": i, "z": 0.1} for i in range(N)])
    pq.write_table(pa.table(columns), path, row_group_size=5, compression="zstd")


def make(folder: Path) -> list[str]:
    """Write them."""
    from skygraft.catalog import write_catalog

    folder.mkdir(parents=True)
    names = [f"fakes.{ending}" for ending in ("ecsv", "csv", "fits", "parquet", "vot")]
    for name in names:
        if name.endswith(".csv"):
            sources().write(folder / name)
        else:
            write_catalog(sources(), folder / name)
    _nested(folder / "nested.parquet")
    writers: dict[str, Callable[[Table, Path], Any]] = {
        "csv": lambda t, p: t.write(p),
        "fits": lambda t, p: t.write(p),
        "parquet": lambda t, p: pq.write_table(pa.Table.from_pandas(t.to_pandas()), p),
    }
    for i, (dialect, table) in enumerate(_dialects().items()):
        for ending in ("csv", ("fits", "parquet")[i % 2]):
            writers[ending](table, folder / f"{dialect}.{ending}")
            names.append(f"{dialect}.{ending}")
    real = DATA / "catalogues/skycatalogs/pointsource_9556.parquet"
    if real.is_file():
        shutil.copyfile(real, folder / "points.parquet")
        names.append("points.parquet")
    return [*names, "nested.parquet"]


def _read(path: Path, band: str = "r") -> Any:
    from skygraft import read_catalog

    return read_catalog(path, band=band)


def attempt(fuzz: Fuzz, name: str, case: Path, rng: np.random.Generator, what: list[str]) -> None:
    """Read, inject, write again; what is drawn must be finite, and what is written must be what was read."""
    from skygraft import inject, write_catalog
    from skygraft.testing import make_exposure

    case.mkdir()
    path = case / name
    shutil.copyfile(fuzz.folder / "catalogue" / name, path)
    change = fuzz.damage(path, rng, what)
    band = "magnorm" if name.startswith("points") else "r"
    table = _read(path, band)
    if path.suffix == ".csv" and (cell := re.fullmatch(r"b'(\S+)' at byte \d+ -> .*", change.what)):
        sound = fuzz.known(f"catalogue/{name}", lambda: _read(fuzz.folder / "catalogue" / name))
        _check_others(sound, table, cell[1])
    exposure = fuzz.known("exposure", lambda: make_exposure((SIZE, SIZE), center=(RA, DEC)))
    made = inject(exposure, table, band=band, seed=1, noise=False)
    image = np.asarray(made.exposure.image, float)
    if not np.isfinite(image).all():
        raise SilentError("pixels are not finite after injection")
    check_drawn(made.truth, image - exposure.image, image)
    ending = ("ecsv", "parquet", "fits")[rng.integers(3)]
    write_catalog(table, case / f"again.{ending}")
    again = _read(case / f"again.{ending}", band)
    for column in table.colnames:
        if column not in again.colnames:
            raise SilentError(f"column {column} is gone after it was written and read")
        if not _equal(table[column], again[column]):
            raise SilentError(f"column {column} is another after it was written as {ending} and read")


def _plain(column: Any) -> Any:
    values = np.ma.filled(np.ma.asanyarray(getattr(column, "value", column)), np.nan if column.dtype.kind == "f" else 0)
    return np.asarray(values)


def _equal(one: Any, other: Any) -> bool:
    a, b = _plain(one), _plain(other)
    if a.dtype.kind in "SU":
        return [str(v) for v in a.tolist()] == [str(v) for v in b.tolist()]
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def _check_others(sound: Any, table: Any, old: str) -> None:
    """Raise if a changed cell changed more than its own row."""
    if len(sound) != len(table) or set(sound.colnames) != set(table.colnames):
        raise SilentError(f"one cell ({old}) changed the table's rows or columns")
    rows: set[int] = set()
    for column in sound.colnames:
        a, b = _plain(sound[column]), _plain(table[column])
        both = np.isnan(a) & np.isnan(b) if a.dtype.kind == b.dtype.kind == "f" else np.zeros(len(a), bool)
        rows |= set(np.flatnonzero((a != b) & ~both).tolist())
    if len(rows) > 1:
        raise SilentError(f"one cell ({old}) changed {len(rows)} rows")
