"""Damaged catalogues of detections, as pipelines write them: of each kind, in each format."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from fuzz.judge import SilentError
from fuzz.kit import Fuzz
from fuzz.mutate_tables import FORMATS, table_mutator, written
from fuzz.time_tables import check_same
from kits.plain_images import write_plain_image

WEIGHTS: dict[str, float] = {}
RA, DEC, N = 150.1, 2.2, 8


def _kinds() -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(3)
    ra, dec = RA + rng.uniform(-15, 15, N) / 3600, DEC + rng.uniform(-15, 15, N) / 3600
    flux = rng.uniform(100, 1000, N)
    ones = np.ones(N)
    return {
        "lsst": {"objectId": np.arange(N) + (1 << 60), "coord_ra": ra, "coord_dec": dec, "r_psfFlux": flux,
                 "r_psfFluxErr": flux / 10, "r_ap12Flux": flux * 1.2, "r_ap12FluxErr": flux / 8,
                 "r_extendedness": np.arange(N) % 2.0, "detect_isPrimary": ones.astype(bool)},
        "sextractor": {"NUMBER": np.arange(1, N + 1), "ALPHA_J2000": ra, "DELTA_J2000": dec, "FLUX_AUTO": flux,
                       "FLUXERR_AUTO": flux / 10, "FLAGS": np.zeros(N, int), "CLASS_STAR": ones},
        "tractor": {"objid": np.arange(N), "ra": ra, "dec": dec, "type": np.array(["PSF", "EXP"] * (N // 2)),
                    "brick_primary": ones.astype(bool), "flux_r": flux, "flux_ivar_r": 25 / flux**2, "shape_r": ones,
                    "shape_e1": 0.2 * ones, "shape_e2": 0 * ones},
        "columns": {"RA": ra, "DEC": dec, "MAG": 27 - 2.5 * np.log10(flux), "ERR": 0.1 * ones, "SIZE": ones,
                    "ID": np.arange(N)},
    }  # fmt: skip


_NEEDED = {
    "lsst": ("coord_ra", "coord_dec"), "sextractor": ("ALPHA_J2000", "DELTA_J2000"), "tractor": ("ra", "dec", "flux_r"),
    "columns": ("RA", "DEC", "MAG"), "ldac": ("ALPHA_J2000", "DELTA_J2000"), "text": ("ALPHA_J2000", "DELTA_J2000"),
}  # fmt: skip
_GIVEN: dict[str, dict[str, Any]] = {
    "columns": {"columns": {"ra": "RA", "dec": "DEC", "mag": "MAG", "error": "ERR", "size": "SIZE", "id": "ID"}},
    **{kind: {"zeropoint": 27.0} for kind in ("sextractor", "ldac", "text")},
}
_ENDINGS = {"lsst": (".parquet", ".fits"), "sextractor": (".fits", ".csv"), "tractor": (".fits", ".parquet"),
            "columns": (".csv", ".ecsv", ".vot")}  # fmt: skip


def _ldac(path: Path, columns: dict[str, Any]) -> None:
    """Source Extractor's FITS_LDAC: the image's header in a table of its own."""
    header = np.array(["".join(card.ljust(80) for card in ("SIMPLE  =                    T", "END"))])
    first = fits.BinTableHDU.from_columns([fits.Column("Field Header Card", "160A", array=header)], name="LDAC_IMHEAD")
    second = fits.BinTableHDU(Table(columns), name="LDAC_OBJECTS")
    fits.HDUList([fits.PrimaryHDU(), first, second]).writeto(path)


def _text(path: Path, columns: dict[str, Any]) -> None:
    """Source Extractor's ASCII_HEAD."""
    units = {"ALPHA_J2000": "[deg]", "DELTA_J2000": "[deg]", "FLUX_AUTO": "[count]", "FLUXERR_AUTO": "[count]"}
    lines = [f"# {i + 1:3} {name:15} a comment {units.get(name, '')}" for i, name in enumerate(columns)]
    rows = zip(*(np.asarray(c).tolist() for c in columns.values()), strict=True)
    lines += [" ".join(repr(v) for v in row) for row in rows]
    path.write_text("\n".join(lines) + "\n")


def make(folder: Path) -> list[str]:
    """Write them by astropy and pyarrow, and an image."""
    folder.mkdir(parents=True)
    write_plain_image(folder / "image.fits", RA, DEC, 256, EXPNUM=77, CCDNUM=3)
    names = []
    for kind, columns in _kinds().items():
        for ending in _ENDINGS[kind]:
            names.append(f"{kind}{ending}")
            (folder / names[-1]).write_bytes(written(Table(columns), ending))
    _ldac(folder / "ldac.ldac", _kinds()["sextractor"])
    _text(folder / "text.cat", _kinds()["sextractor"])
    return [*names, "ldac.ldac", "text.cat"]


def _context(folder: Path) -> Any:
    from skygraft import read_exposure
    from skygraft.recovery.catalogs_terms import ImageContext

    exposure = read_exposure(folder / "image.fits", psf={"kind": "moffat", "fwhm": "0.8 arcsec"})
    return ImageContext("one", exposure, "r", 77, "3", 12.0, "aperture", (6.0,))


def _read(path: Path, context: Any) -> dict[str, Any]:
    from skygraft.config.recovery_catalogs import RecoveryCatalogs
    from skygraft.recovery.catalogs import read_detections

    settings = RecoveryCatalogs(injected="x", **_GIVEN.get(path.stem, {}))
    found = read_detections(path, settings, context)
    order = np.lexsort((found.dec, found.ra))
    arrays = {"ra": found.ra, "dec": found.dec, "id": found.id, "class_star": found.class_star, "size": found.size}
    for kind, flux in found.fluxes.items():
        arrays |= {f"{kind} flux": flux.value, f"{kind} error": flux.error}
    return {name: np.asarray(values)[order] for name, values in arrays.items()}


def attempt(fuzz: Fuzz, name: str, case: Path, rng: np.random.Generator, what: list[str]) -> None:
    """Read what is damaged: places and fluxes that are finite or missing, none without its columns."""
    folder = fuzz.folder / "detections"
    context = fuzz.known("context", lambda: _context(folder))
    before = fuzz.known(f"detections/{name}", lambda: _read(folder / name, context))
    case.mkdir()
    path = Path(shutil.copyfile(folder / name, case / name))
    more = (table_mutator(path.suffix),) if path.suffix in FORMATS else ()
    change = fuzz.damage(path, rng, what, *more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        after = _read(path, context)
    for key in ("ra", "dec"):
        if not np.isfinite(after[key]).all():
            raise SilentError(f"{key} is not finite")
    for key, values in after.items():
        if values.dtype.kind == "f" and np.isinf(values).any():
            raise SilentError(f"{key} is infinite")
    missing = change.what.endswith(" nothing")  # in every row, as it may be in some
    if change.loses and change.column in _NEEDED[path.stem] and len(after["ra"]) and not missing:
        raise SilentError(f"{change.loses} is gone, and nothing was said")
    if change.keeps:
        kept = {k: v for k, v in after.items() if k != "id" or "order" not in change.what}
        check_same({k: v for k, v in before.items() if k in kept or "order" not in change.what}, kept, change.what)
