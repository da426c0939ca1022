"""What an exposure was when it was read is known tile by tile, and writing changes what changed and nothing else."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kits.plain_images import plain_header
from skygraft import read_exposure, write_exposure
from skygraft.exposure import Exposure
from skygraft.fitsfile import tiles
from skygraft.formats import fits_write
from skygraft.formats.fits_fingerprints import (
    AS_READ,
    FINGERPRINTS,
    Fingerprint,
    find_touched,
    without_fingerprints,
)
from skygraft.formats.fits_layout import Plane

SIZE = 96
TILE = (32, 40)


@given(
    plane=hnp.arrays(np.float32, (7, 9), elements=st.floats(width=32)),
    tile=st.tuples(st.integers(1, 8), st.integers(1, 10)),
    where=st.tuples(st.integers(0, 6), st.integers(0, 8)),
    bit=st.integers(0, 31),
)
def test_any_bit_of_any_pixel_is_noticed_in_its_tile_alone(
    plane: np.ndarray, tile: tuple[int, int], where: tuple[int, int], bit: int
) -> None:
    before = Fingerprint.of(plane, tile)
    assert not before.touched(plane.copy()).any()
    plane.view(np.uint32)[where] ^= np.uint32(1 << bit)
    rows, columns = -(-7 // tile[0]), -(-9 // tile[1])
    touched = before.touched(plane).reshape(rows, columns)
    assert touched[where[0] // tile[0], where[1] // tile[1]]
    assert touched.sum() == 1


@pytest.mark.parametrize("compression", [None, "GZIP_2", "RICE_1"])
def test_planes_kept_as_they_were_read_serve_as_well_as_fingerprints(tmp_path: Path, compression: str | None) -> None:
    """As in a campaign: without fingerprints, and with the exposure before injection."""
    image = make_image(tmp_path, compression)
    with without_fingerprints():
        as_read = read(image)
    assert FINGERPRINTS not in as_read.extra
    copied = as_read.replace(planes=as_read.planes.copy(deep=True), extra={**as_read.extra, AS_READ: as_read})
    marked, plane = read(image), Plane("image", image, 1, TILE if compression else None)
    for exposure, name in ((copied, "kept.fits"), (marked, "marked.fits")):
        write_exposure(changed(exposure), tmp_path / name)
    kept, by_digest = find_touched(copied, plane), find_touched(marked, plane)
    assert kept is not None
    assert by_digest is not None
    np.testing.assert_array_equal(kept, by_digest)
    assert kept.any()
    assert (tmp_path / "kept.fits").read_bytes() == (tmp_path / "marked.fits").read_bytes()
    # A plane of another shape is not compared.
    cut = as_read.replace(planes=as_read.planes.isel(y=slice(1, None)))
    assert find_touched(copied.replace(extra={**copied.extra, AS_READ: cut}), plane) is None


def make_image(folder: Path, compression: str | None, noise: str = "variance") -> Path:
    rng = np.random.default_rng(5)
    sky = rng.normal(10, 5, (SIZE, SIZE)).astype(np.float32)
    sky[3, 5] = np.nan
    variance = rng.uniform(20, 30, (SIZE, SIZE)).astype(np.float32)
    planes = {"SCI": sky, "VAR": variance if noise == "variance" else 1 / variance, "MSK": np.zeros_like(sky, np.int32)}
    planes["MSK"][7, 80] = 2
    hdus: list[Any] = [fits.PrimaryHDU()]
    for name, plane in planes.items():
        header = plain_header(150.0, 2.0, SIZE) if name == "SCI" else fits.Header()
        if compression is None:
            hdus.append(fits.ImageHDU(plane, header, name=name))
        else:
            level = 0.0 if compression.startswith("GZIP") else 16.0
            hdus.append(
                fits.CompImageHDU(
                    plane, header, name=name, compression_type=compression, tile_shape=TILE, quantize_level=level
                )
            )
    path = folder / "image.fits"
    fits.HDUList(hdus).writeto(path)
    return path


def read(path: Path, noise: str = "variance") -> Exposure:
    return read_exposure(path, psf={"kind": "moffat", "fwhm": "0.8 arcsec"}, **{noise: "VAR", "mask": "MSK"})


def changed(exposure: Exposure) -> Exposure:
    """The exposure with some pixels changed by hand: in place, which nobody is told of."""
    exposure.image[40:44, 50:60] += 7.5
    exposure.variance[40:44, 50:60] += 1.5
    exposure.mask[41, 51] |= 2
    return exposure


@pytest.mark.parametrize("noise", ["variance", "weight"])
@pytest.mark.parametrize("compression", [None, "GZIP_1", "GZIP_2", "RICE_1"])
def test_the_same_file_comes_out_as_without_them(tmp_path: Path, compression: str | None, noise: str) -> None:
    path = make_image(tmp_path, compression, noise)
    known = changed(read(path, noise))
    assert len(known.extra[FINGERPRINTS]) == 3
    unknown = known.replace(extra={k: v for k, v in known.extra.items() if k != FINGERPRINTS})
    first, second = tmp_path / "first.fits", tmp_path / "second.fits"
    write_exposure(known, first)
    write_exposure(unknown, second)
    assert first.read_bytes() == second.read_bytes()
    back = read(first, noise)
    if compression != "RICE_1":  # which quantises
        np.testing.assert_array_equal(back.image, known.image)
        np.testing.assert_allclose(back.variance, known.variance, rtol=3e-7)
    np.testing.assert_array_equal(back.mask, known.mask)


@pytest.mark.parametrize("compression", [None, "GZIP_2", "RICE_1"])
def test_what_is_unchanged_is_copied_byte_by_byte(tmp_path: Path, compression: str | None) -> None:
    path = make_image(tmp_path, compression)
    write_exposure(read(path), tmp_path / "out.fits")
    assert (tmp_path / "out.fits").read_bytes() == path.read_bytes()


def test_nothing_is_decoded_to_write_lossless_planes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_image(tmp_path, "GZIP_2")
    exposure = changed(read(path))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a plane was read again")

    monkeypatch.setattr(tiles.TiledImage, "decode", refuse)
    monkeypatch.setattr(tiles.TiledImage, "stored", refuse)
    monkeypatch.setattr(fits_write, "read_pixels", refuse)
    monkeypatch.setattr(fits_write, "read_mask", refuse)
    write_exposure(exposure, tmp_path / "out.fits")
    monkeypatch.undo()
    np.testing.assert_array_equal(read(tmp_path / "out.fits").image, exposure.image)


def test_a_file_gzipped_as_a_whole_is_known_too(tmp_path: Path) -> None:
    path = make_image(tmp_path, None)
    zipped = tmp_path / "zipped.fits.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    exposure = read(zipped)
    assert len(exposure.extra[FINGERPRINTS]) == 3
    write_exposure(changed(exposure), tmp_path / "out.fits.gz")
    write_exposure(changed(read(path)), tmp_path / "out.fits")
    assert gzip.decompress((tmp_path / "out.fits.gz").read_bytes()) == (tmp_path / "out.fits").read_bytes()


def test_another_file_to_follow_is_compared_pixel_by_pixel(tmp_path: Path) -> None:
    """Its planes may be others than those that were read."""
    path = make_image(tmp_path, "GZIP_2")
    exposure = read(path)
    other = tmp_path / "other.fits"
    write_exposure(changed(read(path)), other)
    out = tmp_path / "out.fits"
    write_exposure(exposure, out, like=other)
    np.testing.assert_array_equal(read(out).image, exposure.image)
    np.testing.assert_array_equal(read(out).variance, exposure.variance)
