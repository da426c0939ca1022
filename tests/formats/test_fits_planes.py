"""Pixels of stored planes, as astropy reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from skygraft.formats.fits_layout import list_hdus
from skygraft.formats.fits_planes import header_planes, read_pixels

RNG = np.random.default_rng(7)
PIXELS: dict[str, np.ndarray[Any, Any]] = {
    "uint8": RNG.integers(0, 255, (23, 31)).astype(np.uint8),
    "int16": RNG.integers(-3000, 3000, (23, 31)).astype(np.int16),
    "uint16": RNG.integers(0, 65535, (23, 31)).astype(np.uint16),
    "int32": RNG.integers(-(2**30), 2**30, (23, 31)).astype(np.int32),
    "float32": RNG.normal(0, 10, (23, 31)).astype(np.float32),
    "float64": RNG.normal(0, 10, (23, 31)),
}


@pytest.mark.parametrize("ending", ["fits", "fits.gz"])
@pytest.mark.parametrize("compression", [None, "GZIP_1", "GZIP_2", "RICE_1"])
@pytest.mark.parametrize("kind", PIXELS)
def test_any_type_and_compression(tmp_path: Path, kind: str, compression: str | None, ending: str) -> None:
    pixels = PIXELS[kind].copy()
    if pixels.dtype.kind == "f":
        pixels[3, 4] = np.nan
    hdu: Any
    if compression is None:
        hdu = fits.ImageHDU(pixels)
    else:
        hdu = fits.CompImageHDU(pixels, compression_type=compression, tile_shape=(8, 16))
    path = tmp_path / f"image.{ending}"
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    [_, info] = list_hdus(path)
    assert info.tile_shape == (None if compression is None else (8, 16))
    found, header = read_pixels(info.plane("image", path))
    with fits.open(path) as hdus:
        expected = hdus[1].data
        assert header["NAXIS1"] == 31
    assert found.dtype == expected.dtype.newbyteorder("=")
    assert found.dtype.isnative
    assert found.flags.writeable
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("compressed", [False, True])
def test_blanks_and_scales_are_heeded(tmp_path: Path, compressed: bool) -> None:
    stored = PIXELS["int16"].copy()
    stored[2, 5] = -999
    path = tmp_path / "image.fits"
    header = fits.Header({"BSCALE": 0.5, "BZERO": 100.0, "BLANK": -999})
    plain = fits.ImageHDU(stored)
    plain.header.update(header)
    fits.HDUList([fits.PrimaryHDU(), plain]).writeto(path)
    if compressed:
        with fits.open(path, do_not_scale_image_data=True) as hdus:
            hdu = fits.CompImageHDU(hdus[1].data, hdus[1].header, compression_type="RICE_1")
            hdu.writeto(tmp_path / "tiled.fits")
        path = tmp_path / "tiled.fits"
    found, _ = read_pixels(list_hdus(path)[1].plane("image", path))
    with fits.open(path) as hdus:
        np.testing.assert_array_equal(found, hdus[1].data)


def test_names_of_planes_are_words() -> None:
    named = {"MSKN0003": " ", "MSKM0003": 8, "MSKN0004": "TWO WORDS ", "MSKM0004": 16, "MP_": 5, "MP_BAD": 0}
    assert header_planes(named) == {"TWO_WORDS": 4, "BAD": 0}
