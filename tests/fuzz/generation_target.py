"""Damaged descriptions of catalogues to generate, and the tables and maps that they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from astropy.io import fits
from astropy.table import Table

from fuzz.judge import SilentError
from fuzz.kit import Fuzz, copy_tree
from fuzz.mutate_tables import table_mutator
from kits.generation_kit import outline, write_outlines

WEIGHTS: dict[str, float] = {}
RA, DEC, RADIUS, N = 150.0, 2.0, 0.3, 60
_MAGS = {"kind": "uniform", "low": 18.0, "high": 26.0}
_STARS = [{"type": "Star", "mag": _MAGS}]
_CIRCLE = {"region": {"ra": RA, "dec": DEC, "radius": RADIUS}}

_SPECS: dict[str, dict[str, Any]] = {
    "kinds": {
        "area": _CIRCLE, "bands": ["g", "r"], "n": N, "seed": 5,
        "sources": [
            {"type": "Star", "fraction": 0.3, "mag": {"kind": "power_law", "low": 18, "high": 26, "slope": 0.2},
             "colors": {"r": {"kind": "gaussian", "mean": -0.5, "sigma": 0.2}}},
            {"type": "Sersic", "mag": _MAGS, "columns": {"n": 1.5, "q": {"kind": "uniform", "low": 0.3, "high": 1}}},
            {"type": "Moffat", "fraction": 0.1, "mag": 20.5,
             "columns": {"moffat_beta": 3.0, "half_light_radius": 0.7, "variability": "sine", "period": 3.0,
                         "amplitude": {"kind": "uniform", "low": 0.1, "high": 0.4},
                         "inject_into": {"kind": "choice", "values": ["science", "template"]}}},
        ],
    },
    "polygon": {"area": {"region": {"polygon": [[150, 2], [150.3, 2], [150.2, 2.3]]}}, "bands": ["r"], "density": 0.5,
                "positions": {"kind": "halton"}, "sources": _STARS},
    "hexagonal": {"area": _CIRCLE, "bands": ["r"], "positions": {"kind": "hexagonal", "separation": "2 arcmin"},
                  "sources": _STARS, "object_ids": True, "first_id": 1000},
    "footprint": {"area": {"footprint": "index.parquet"}, "n": N, "sources": _STARS, "bands": ["r"],
                  "positions": {"separation": "20 arcsec"}},
    "moc": {"area": {"moc": "cover.fits"}, "n": N, "sources": _STARS, "bands": ["r"]},
    "moc_text": {"area": {"moc": "cover.json"}, "n": N, "sources": _STARS, "bands": ["r"]},
    "density_map": {"area": {"density_map": "map.fits"}, "n": N, "sources": _STARS, "bands": ["r"]},
    "around": {"area": _CIRCLE, "bands": ["r"], "sources": _STARS,
               "positions": {"kind": "around", "around": {"path": "hosts.csv", "radius": [1.0, 5.0], "each": 2}}},
    "avoid": {"area": _CIRCLE, "bands": ["r"], "n": N, "sources": _STARS, "avoid": {"tables": [
        {"path": "bright.csv", "mag": "mag", "radius_by_mag": [[12, 60], [20, 4]]},
        {"path": "hosts.csv", "radius": "30 arcsec"}]}},
    "population": {"area": _CIRCLE, "bands": ["r"], "n": N, "sources": [
        {"population": {"path": "real.parquet", "weight": "weight", "smooth": 0.1,
                        "columns": {"mag_r": "R", "half_light_radius": "size", "n": "=1", "q": "ba"}},
         "type": "Sersic"}]},
    "depth": {"area": _CIRCLE, "bands": ["r"], "n": N, "depth": {"m5": {"r": 24.5}}, "sources": [
        {"type": "Star", "mag": {"kind": "gaussian", "mean": -1, "sigma": 0.5}, "mag_relative_to": "depth"}]},
}  # fmt: skip


def _tables() -> dict[str, Any]:
    rng = np.random.default_rng(2)
    n = 12
    ra, dec = RA + rng.uniform(-0.2, 0.2, n), DEC + rng.uniform(-0.2, 0.2, n)
    return {
        "hosts": {"ra": ra, "dec": dec, "id": np.arange(n)},
        "bright": {"ra": ra, "dec": dec, "mag": rng.uniform(10, 20, n)},
        "real": {"R": rng.uniform(19, 23, n), "size": rng.uniform(0.3, 1, n), "ba": rng.uniform(0.3, 1, n),
                 "weight": rng.uniform(0, 1, n)},
    }  # fmt: skip


def _write_files(folder: Path, spec: dict[str, Any]) -> None:
    """Write those of the tables and maps that a description names."""
    named = yaml.safe_dump(spec)
    for name, columns in _tables().items():
        if f"{name}.csv" in named:
            Table(columns).write(folder / f"{name}.csv")
        if f"{name}.parquet" in named:
            pq.write_table(pa.table({k: pa.array(v) for k, v in columns.items()}), folder / f"{name}.parquet")
    if "index.parquet" in named:
        write_outlines(folder / "index.parquet", [outline(RA, DEC, 0.2), outline(RA + 0.1, DEC, 0.2)], ["r", "g"])
    if "cover" in named:
        (folder / "cover.json").write_text('{"9": [1000000, 1000001, 1000005], "10": [4100000]}')
        uniq = 4 * 4**9 + np.array([1000000, 1000001, 1000005])
        hdu = fits.BinTableHDU.from_columns([fits.Column("UNIQ", "K", array=uniq)])
        hdu.header.update({"MOCVERS": "2.0", "MOCDIM": "SPACE", "ORDERING": "NUNIQ", "COORDSYS": "C", "MOCORD_S": 9})
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(folder / "cover.fits")
        (folder / ("cover.json" if "cover.fits" in named else "cover.fits")).unlink()
    if "map.fits" in named:
        values = np.zeros(48)
        values[10:14] = [1, 2, 3, 0.5]
        hdu = fits.BinTableHDU.from_columns([fits.Column("DENSITY", "D", array=values)])
        hdu.header.update({"PIXTYPE": "HEALPIX", "ORDERING": "NESTED", "NSIDE": 2, "COORDSYS": "C",
                           "INDXSCHM": "IMPLICIT"})  # fmt: skip
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(folder / "map.fits")


def make(folder: Path) -> list[str]:
    """Write a description of each form, with the tables and maps that it names."""
    for name, spec in _SPECS.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "population.yaml").write_text(yaml.safe_dump(spec))
        _write_files(folder / name, spec)
    return list(_SPECS)


def attempt(fuzz: Fuzz, name: str, case: Path, rng: np.random.Generator, what: list[str]) -> None:
    """Generate; what comes out is complete, finite, in the area, and a catalogue that is read."""
    from skygraft.catalog import normalize_catalog
    from skygraft.generation import CatalogGenerator, load_spec

    sound = fuzz.folder / "generation" / name
    copy_tree(sound, case)
    others = sorted(p for p in case.iterdir() if p.name != "population.yaml")
    path = others[rng.integers(len(others))] if others and rng.random() < 0.5 else case / "population.yaml"
    more = (table_mutator(path.suffix),) if path.suffix in (".csv", ".parquet") and path.stem != "index" else ()
    fuzz.damage(path, rng, what, *more)
    spec = load_spec(case / "population.yaml")
    asked = spec.n or 0
    if spec.n is None and spec.density is None and spec.area.density_map is not None:
        spec = load_spec(case / "population.yaml", {"n": 50})  # whose values are numbers per square arcminute
    # A number that is large and right is no fault, and no case's time either.
    if asked > 20000 or (spec.density or 0) > 50 or _each(spec) > 1000 or _finest(spec) < 20:
        spec = load_spec(case / "population.yaml", {"n": 50} if asked else {"density": 0.01} if spec.density else {})
        if _each(spec) > 1000 or _finest(spec) < 20:
            return
    table = CatalogGenerator(spec, 1).table()
    if spec.n and len(table) != spec.n:
        raise SilentError(f"{len(table)} sources are made, and {spec.n} asked for")
    ids = np.asarray(table["injection_id"])
    if len(np.unique(ids)) != len(ids) or ids.min() != spec.first_id:
        raise SilentError("ids are repeated, or do not begin with first_id")
    for column in table.colnames:
        values = np.asarray(getattr(table[column], "value", table[column]))
        if values.dtype.kind == "f" and (
            np.isinf(values).any() or (column in ("ra", "dec") and np.isnan(values).any())
        ):
            raise SilentError(f"{column} is not finite")
    _check_area(spec.area.region, table)
    normalize_catalog(table)


def _each(spec: Any) -> int:
    around = spec.positions.around
    return 0 if around is None else int(around.each)


def _finest(spec: Any) -> float:
    """Separation in arcsec of a grid that fills the area."""
    positions = spec.positions
    if positions.kind != "hexagonal" or not isinstance(positions.separation, float):
        return 1e9
    return float(positions.separation)


def _check_area(region: Any, table: Any) -> None:
    """Raise if a source is outside of a circle that the description has."""
    if not isinstance(region, dict) or "radius" not in region or not isinstance(region.get("ra"), (int, float)):
        return
    ra, dec = (np.radians(np.asarray(table[n].value)) for n in ("ra", "dec"))
    ra0, dec0 = np.radians(float(region["ra"])), np.radians(float(region["dec"]))
    hav = np.sin((dec - dec0) / 2) ** 2 + np.cos(dec) * np.cos(dec0) * np.sin((ra - ra0) / 2) ** 2
    far = np.degrees(2 * np.arcsin(np.sqrt(np.clip(hav, 0, 1)))).max(initial=0)
    if far > float(region["radius"]) * (1 + 1e-6) + 5 / 3600:
        raise SilentError(f"a source is {far:.6g} deg from the centre of a circle of {region['radius']:g}")
