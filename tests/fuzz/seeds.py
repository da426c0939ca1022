"""The sound files that are damaged: small ones of every kind, made by the product where it makes such files."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import QTable

from plain_images import SCALE, plain_header, write_plain_image
from tiny_campaign import write_tiny_campaign

SIZE, RA, DEC = 64, 150.1, 2.2
PSF = {"kind": "moffat", "fwhm": "0.8 arcsec", "beta": 3.0}
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

FITS_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"psf": PSF},
    "sip": {"psf": PSF},
    "planes": {},
    "rice": {"psf": PSF},
    "gzip": {"psf": PSF},
    "hcompress": {"psf": PSF},
    "calexp": {},
    "afw_rice": {},
    "afw_gauss": {},
    "legacy": {},
}
"""Seed images, each a folder with ``image.fits``, and how they are read."""


def _pixels(size: int = SIZE) -> np.ndarray[Any, Any]:
    return np.random.default_rng(7).normal(20, 5, (size, size)).astype(np.float32)


def psfex_hdu() -> fits.BinTableHDU:
    """A small PSFEx model of degree 1: a Gaussian that widens along x."""
    y, x = np.mgrid[-12:13, -12:13] * 0.5
    planes = np.array([np.exp(-(x**2 + y**2) / (2 * s**2)) for s in (1.8, 2.0)])
    planes /= planes[0].sum() * 0.25
    mask = np.stack([planes[0], 0.1 * (planes[1] - planes[0]), 0 * planes[0]]).astype(np.float32)
    column = fits.Column("PSF_MASK", f"{mask.size}E", dim="(25,25,3)", array=mask[None])
    hdu = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    cards = {
        "LOADED": 10, "ACCEPTED": 9, "CHI2": 1.0, "POLNAXIS": 2, "POLGRP1": 1, "POLNAME1": "X_IMAGE", "POLZERO1": 32.0,
        "POLSCAL1": 64.0, "POLGRP2": 1, "POLNAME2": "Y_IMAGE", "POLZERO2": 32.0, "POLSCAL2": 64.0, "POLNGRP": 1,
        "POLDEG1": 1, "PSF_FWHM": 4.2, "PSF_SAMP": 0.5, "PSFNAXIS": 3, "PSFAXIS1": 25, "PSFAXIS2": 25, "PSFAXIS3": 3,
    }  # fmt: skip
    hdu.header.update(cards)
    return hdu


def _compressed(path: Path, **how: Any) -> None:
    header = plain_header(RA, DEC, SIZE)
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(_pixels(), header, **how)]).writeto(path)


def _calexp(folder: Path) -> None:
    """A calexp and its source catalogue, as the demo writes them."""
    from skygraft.demo.sky import SurveySpec
    from skygraft.demo.survey import make_survey

    spec = SurveySpec(bands=("r",), visits_per_band=1, detector_size=384, star_density=40)
    made = make_survey(folder, spec)[0].path
    (folder / "image.fits").symlink_to(made.name)


def make_fits(folder: Path) -> list[str]:
    """Write one folder a seed image; the names of those that could be made."""
    for name in FITS_OPTIONS:
        (folder / name).mkdir(parents=True)
    write_plain_image(folder / "plain/image.fits", RA, DEC, SIZE)
    sip = {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-6, "B_1_1": -2e-6}
    write_plain_image(folder / "sip/image.fits", RA, DEC, SIZE, CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP", **sip)
    write_plain_image(folder / "planes/image.fits", RA, DEC, SIZE)
    fits.PrimaryHDU(np.full((SIZE, SIZE), 0.04, np.float32)).writeto(folder / "planes/image.weight.fits")
    fits.PrimaryHDU(np.zeros((SIZE, SIZE), np.int16)).writeto(folder / "planes/image.mask.fits")
    fits.HDUList([fits.PrimaryHDU(), psfex_hdu()]).writeto(folder / "planes/image.psf")
    _compressed(folder / "rice/image.fits", compression_type="RICE_1", quantize_method=2, tile_shape=(1, SIZE))
    _compressed(folder / "gzip/image.fits", compression_type="GZIP_2", quantize_level=0, tile_shape=(16, SIZE))
    _compressed(folder / "hcompress/image.fits", compression_type="HCOMPRESS_1", tile_shape=(32, 32))
    _calexp(folder / "calexp")
    for name, source in (
        ("afw_rice", "afw_reference/calexp_05_tansip_psfex_rice.fits"),
        ("afw_gauss", "afw/obs_base/calexp.fits"),
    ):
        if (DATA / source).is_file():
            shutil.copyfile(DATA / source, folder / name / "image.fits")
    found = DATA / "decam_grz"
    if found.is_dir():
        image = next(found.rglob("*_ooi_r_*.fits"))
        shutil.copytree(found, folder / "legacy", dirs_exist_ok=True, copy_function=shutil.copyfile)
        for made in (folder / "legacy").rglob("*"):
            made.chmod(0o755 if made.is_dir() else 0o644)
        (folder / "legacy/image.fits").symlink_to(Path(*image.relative_to(found).parts))
    return [name for name in FITS_OPTIONS if (folder / name / "image.fits").exists()]


def sources(n: int = 12) -> QTable:
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


def make_catalogues(folder: Path) -> list[str]:
    """Write the same sources in every format; the files' names."""
    from skygraft.catalog import write_catalog

    folder.mkdir(parents=True)
    names = [f"fakes.{ending}" for ending in ("ecsv", "csv", "fits", "parquet", "vot")]
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if name.endswith(".csv"):
                sources().write(folder / name)
            else:
                write_catalog(sources(), folder / name)
    return names


def make_campaign(folder: Path, *, finished: bool) -> list[str]:
    """Write a campaign of two images; also run it."""
    from skygraft.campaign import Campaign

    folder.mkdir(parents=True)
    path = write_tiny_campaign(folder, 2)
    if finished:
        summary = Campaign.from_yaml(path).run(n_workers=0)
        assert summary.ok, summary
    return ["campaign.yaml"]
