"""Small coadds as surveys publish them: cards and compression of the real files, written by astropy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

SIZE = 128
BRICK = "0001p000"
MASK_NAMES = (
    *("NPRIMARY", "BRIGHT", "SATUR_G", "SATUR_R", "SATUR_Z", "ALLMASK_G", "ALLMASK_R", "ALLMASK_Z", "WISEM1", "WISEM2"),
    *("BAILOUT", "MEDIUM", "GALAXY", "CLUSTER", "SATUR_I", "ALLMASK_I", "SUB_BLOB", "RESOLVED", "MCLOUDS", "WISE_GAIA"),
)
_SKY = np.random.default_rng(11)


def brick_header(band: str = "r", size: int = SIZE, release: str = "dr10") -> fits.Header:
    """The cards of a brick's image that matter, in the order of legacypipe's."""
    header = fits.Header()
    cards: dict[str, Any] = {
        "LEGPIPEV": "DR10.0.12-2-g1c85ab17",
        "LSDIR": "/global/cfs/cdirs/cosmo/work/legacysurvey/dr10",
        "LSDR": release.upper(),
        "SURVEY": "DECaLS",
        "SURVEYID": "DECaLS BASS MzLS",
        "DRVERSIO": int(release.removeprefix("dr")) * 1000,
        "OBSTYPE": "object",
        "PROCTYPE": "tile",
        "BRICK": BRICK,
        "BRICKID": 330368,
        "RAMIN": 0.0,
        "RAMAX": 0.25,
        "DECMIN": -0.125,
        "DECMAX": 0.125,
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": 0.125,
        "CRVAL2": 0.0,
        "CRPIX1": (size + 1) / 2,
        "CRPIX2": (size + 1) / 2,
        "CD1_1": -0.262 / 3600,
        "CD1_2": 0.0,
        "CD2_1": 0.0,
        "CD2_2": 0.262 / 3600,
        "EQUINOX": 2000.0,
        "OBSERVAT": "CTIO",
        "TELESCOP": "CTIO 4.0-m telescope",
        "INSTRUME": "DECam",
        "FILTER": f"{band} DECam SDSS c0002 6415.0 1480.0",
        "FILTERX": band,
        "MJD_MIN": 56536.2,
        "MJD_MAX": 58420.1,
        "MJD_MEAN": 57534.2061,
        "DATEOBS": "2016-05-26T04:56:10",
    }
    header.update(cards)
    return header


def brick_name(kind: str, band: str | None = "r") -> str:
    """Name of a file of the brick."""
    return "-".join(part for part in ("legacysurvey", BRICK, kind, band) if part) + ".fits.fz"


def write_brick(
    folder: Path,
    band: str = "r",
    *,
    kinds: tuple[str, ...] = ("image", "invvar", "psfsize", "maskbits"),
    image: np.ndarray | None = None,
    sizes: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    bits: str = "MBIT_{}",
    release: str = "dr10",
    size: int = SIZE,
    cards: dict[str, Any] | None = None,
) -> Path:
    """Write some files of a brick in one band as legacypipe compresses them; the path of its image."""
    sigma = 0.004
    rng = np.random.default_rng(5)
    image = rng.normal(0, sigma, (size, size)).astype(np.float32) if image is None else image
    if sizes is None:
        sizes = np.full((size, size), 1.25, np.float32)
        sizes[:, size // 2 :] = 1.4
    mask = np.zeros((size, size), np.int32) if mask is None else mask
    tiles = {"tile_shape": (100, 100)}
    dither = {"compression_type": "RICE_1", "quantize_method": 2, "quantize_level": -1e-4, "dither_seed": 7}
    lossless = {"compression_type": "GZIP_1", "quantize_level": 0.0}
    planes: dict[str, tuple[np.ndarray, str, dict[str, Any], dict[str, Any]]] = {
        "image": (image, "image", {"MAGZERO": 22.5, "BUNIT": "nanomaggy"}, dither),
        "model": (image, "model", {"MAGZERO": 22.5, "BUNIT": "nanomaggy"}, dither),
        "blobmodel": (image, "blobmodel", {"MAGZERO": 22.5, "BUNIT": "nanomaggy"}, dither),
        "invvar": (
            np.full((size, size), sigma**-2, np.float32)
            * (1 + 0.01 * rng.normal(size=(size, size)).astype(np.float32)),
            "wtmap",
            {"BUNIT": "1/nanomaggy^2"},
            {"compression_type": "RICE_1", "quantize_method": -1, "quantize_level": 16.0},
        ),
        "psfsize": (sizes, "psfsize", {"BUNIT": "arcsec"}, lossless),
        "chi2": (np.ones((size, size), np.float32), "chi2", {}, lossless),
        "depth": (np.ones((size, size), np.float32), "psfdepth", {"BUNIT": "1/nanomaggy^2"}, lossless),
        "galdepth": (np.ones((size, size), np.float32), "galdepth", {"BUNIT": "1/nanomaggy^2"}, lossless),
        "nexp": (np.full((size, size), 7, np.int16), "expmap", {}, {"compression_type": "HCOMPRESS_1"}),
    }
    for kind in kinds:
        header = brick_header(band, size, release)
        if kind == "maskbits":
            path = folder / brick_name("maskbits", None)
            header.update({"IMTYPE": "maskbits"})
            header.update({bits.format(bit): name for bit, name in enumerate(MASK_NAMES)} if bits else {})
            planes_of_mask = {"MASKBITS": mask, "WISEM1": mask.astype(np.uint8), "WISEM2": mask.astype(np.uint8)}
            hdus = [
                fits.CompImageHDU(data, header if n == "MASKBITS" else None, n, compression_type="HCOMPRESS_1", **tiles)
                for n, data in planes_of_mask.items()
            ]
            fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path, overwrite=True)
            continue
        data, product, more, how = planes[kind]
        header.update({"IMTYPE": kind, "PRODTYPE": product, **more, **(cards or {})})
        hdu = fits.CompImageHDU(data, header, f"{kind.upper()}_{band}", **tiles, **how)
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(folder / brick_name(kind, band))
    return folder / brick_name("image", band)


def tan_cards(size: int, ra: float, dec: float, scale: float) -> dict[str, Any]:
    """A TAN projection centred on the image."""
    return {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CUNIT1": "deg",
        "CUNIT2": "deg",
        "CRVAL1": ra,
        "CRVAL2": dec,
        "CRPIX1": (size + 1) / 2,
        "CRPIX2": (size + 1) / 2,
        "CD1_1": -scale / 3600,
        "CD1_2": 0.0,
        "CD2_1": 0.0,
        "CD2_2": scale / 3600,
        "RADESYS": "ICRS",
        "EQUINOX": 2000.0,
    }


def psfex_hdu(size: int = SIZE, sigma: float = 1.8) -> fits.BinTableHDU:
    """A PSFEx model of degree 1 for an image of so many pixels: a Gaussian that widens along x."""
    y, x = np.mgrid[-12:13, -12:13] * 1.0
    planes = np.array([np.exp(-(x**2 + y**2) / (2 * s**2)) for s in (sigma, 1.2 * sigma)])
    planes /= planes.sum(axis=(1, 2), keepdims=True)
    mask = np.stack([planes[0], 0.3 * (planes[1] - planes[0]), 0 * planes[0]]).astype(np.float32)
    column = fits.Column("PSF_MASK", f"{mask.size}E", dim="(25,25,3)", array=mask[None])
    hdu = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    middle, half = (size + 1) / 2, size / 2
    cards: dict[str, Any] = {
        "LOADED": 40, "ACCEPTED": 38, "CHI2": 1.0, "POLNAXIS": 2, "POLGRP1": 1, "POLNAME1": "X_IMAGE",
        "POLZERO1": middle, "POLSCAL1": half, "POLGRP2": 1, "POLNAME2": "Y_IMAGE", "POLZERO2": middle,
        "POLSCAL2": half, "POLNGRP": 1, "POLDEG1": 1, "PSF_FWHM": 4.2, "PSF_SAMP": 1.0, "PSFNAXIS": 3, "PSFAXIS1": 25,
        "PSFAXIS2": 25, "PSFAXIS3": 3,
    }  # fmt: skip
    hdu.header.update(cards)
    return hdu


def write_psfex(path: Path, size: int = SIZE) -> None:
    """Write a PSFEx model."""
    fits.HDUList([fits.PrimaryHDU(), psfex_hdu(size)]).writeto(path)


DES_TILE = "DES0001-4914_r4575p01_r"


def write_des(
    folder: Path,
    stem: str = DES_TILE,
    *,
    size: int = SIZE,
    image: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    psf: str | None = f"{DES_TILE}_psfcat.psf",
    cards: dict[str, Any] | None = None,
    packed: bool = True,
) -> Path:
    """Write an image of DESDM as its packages compress it: SCI, MSK and WGT; the path."""
    rng = np.random.default_rng(6)
    image = rng.normal(0, 3, (size, size)).astype(np.float32) if image is None else image
    mask = np.zeros((size, size), np.int32) if mask is None else mask
    weight = (np.full((size, size), 1 / 9) * (1 + 0.01 * rng.normal(size=(size, size)))).astype(np.float32)
    wcs = tan_cards(size, 0.28, -49.24, 0.263)
    science: dict[str, Any] = {
        **wcs,
        "EXPTIME": 630.0,
        "GAIN": (0.0, "Maximum equivalent gain (e-/ADU)"),
        "SATURATE": (12345.6, "Weighted average saturation level (ADU)"),
        "SOFTNAME": "SWarp",
        "BAND": ("r", "Short name for filter"),
        "MAGZERO": (30.0, "Mag Zero-point in magnitudes/s"),
        "TILENAME": ("DES0001-4914", "DES Tilename"),
        "TILEID": (111111, "Tile ID for DES Tilename"),
        "BUNIT": ("COUNTS/S", "units of pixels"),
        "DES_EXT": "IMAGE",
        **(cards or {}),
    }
    rows = {"tile_shape": (1, size)}
    dither = {"compression_type": "RICE_1", "quantize_method": 2, "quantize_level": 16.0, "dither_seed": 3, **rows}
    planes = {
        "SCI": (image, science, dither),
        "MSK": (mask, {**wcs, "DES_EXT": "MASK"}, {"compression_type": "PLIO_1", **rows}),
        "WGT": (weight, {**wcs, "DES_EXT": "WEIGHT"}, dither),
    }
    hdus: list[Any] = [fits.PrimaryHDU()]
    for name, (data, more, how) in planes.items():
        header = fits.Header()
        header.update({key: value for key, value in more.items() if value is not None})
        hdus.append(fits.CompImageHDU(data, header, name, **how) if packed else fits.ImageHDU(data, header, name))
    path = folder / f"{stem}.fits{'.fz' if packed else ''}"
    fits.HDUList(hdus).writeto(path)
    if psf is not None:
        write_psfex(folder / psf, size)
    return path


def write_megapipe(
    folder: Path,
    stem: str = "CFIS.191.307.r",
    *,
    size: int = SIZE,
    image: np.ndarray | None = None,
    weight: bool = True,
    psf: bool = True,
    cards: dict[str, Any] | None = None,
) -> Path:
    """Write a tile of MegaPipe: an image in the primary HDU, its weights in a compressed file; the path."""
    rng = np.random.default_rng(7)
    image = rng.normal(0, 4, (size, size)).astype(np.float32) if image is None else image
    hdu = fits.PrimaryHDU(image)
    hdu.header.update(
        {
            **tan_cards(size, 210.1, 54.3, 0.1857),
            "EXPTIME": (600.0, "Maximum equivalent exposure time (s)"),
            "GAIN": (5.25, "Maximum equivalent gain (e-/ADU)"),
            "FILTER": "r.MP9602",
            "SOFTNAME": "SWarp",
            **(cards or {}),
        }
    )
    hdu.writeto(folder / f"{stem}.fits")
    if weight:
        data = np.full((size, size), 1 / 16, np.float32) + rng.normal(0, 1e-3, (size, size)).astype(np.float32)
        tiled = fits.CompImageHDU(data, compression_type="RICE_1", tile_shape=(1, size), quantize_level=16.0)
        fits.HDUList([fits.PrimaryHDU(), tiled]).writeto(folder / f"{stem}.weight.fits.fz")
    if psf:
        write_psfex(folder / f"{stem}.psf", size)
    return folder / f"{stem}.fits"


def write_cutout(
    path: Path,
    bands: str = "r",
    *,
    size: int = 64,
    scale: float = 0.262,
    invvar: bool = True,
    mask: np.ndarray | None = None,
    version: str = "DR10",
) -> Path:
    """Write a cut-out as the Legacy Surveys' viewer does, of several bands in a cube; the path."""
    shape = (size, size) if len(bands) == 1 else (len(bands), size, size)
    rng = np.random.default_rng(8)
    planes: list[tuple[str, np.ndarray]] = [("IMAGE", rng.normal(0, 0.004, shape).astype(np.float32))]
    if invvar:
        planes.append(("INVVAR", np.full(shape, 0.004**-2, np.float32)))
    if mask is not None:
        planes.append(("MASKBITS", mask))
    hdus: list[Any] = []
    for kind, data in planes:
        header = fits.Header()
        header.update({"SURVEY": "LegacySurvey", "VERSION": version, "IMAGETYP": kind, "BANDS": bands})
        header.update({f"BAND{i}": band for i, band in enumerate(bands)})
        wcs = tan_cards(size, 154.1, 12.3, scale)
        header.update({key: wcs[key] for key in wcs if key not in ("CUNIT1", "CUNIT2", "RADESYS", "EQUINOX")})
        hdus.append(fits.PrimaryHDU(data, header) if not hdus else fits.ImageHDU(data, header))
    fits.HDUList(hdus).writeto(path)
    return path
