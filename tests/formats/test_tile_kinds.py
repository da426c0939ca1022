"""Every kind of compressed tile takes new values as they are, or as near as its type holds; astropy reads back."""

from __future__ import annotations

import ast
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

import skygraft
from skygraft.errors import FormatError
from skygraft.fitsfile.rewrite import rewrite_fits
from skygraft.formats.fits_layout import Plane
from skygraft.formats.fits_planes import read_pixels

SHAPE, TILE = (32, 40), (16, 40)
INTS = np.random.default_rng(1).integers(0, 200, SHAPE).astype(np.int32)
TOUCHED = np.zeros(SHAPE, bool)
TOUCHED[3:6, 2:38] = True
SCALED = {"BSCALE": (0.5, ""), "BZERO": (10.0, "")}
ALGORITHMS = ["RICE_1", "HCOMPRESS_1", "PLIO_1", "GZIP_1", "GZIP_2", "NOCOMPRESS"]


def compressed(tmp_path: Path, algorithm: str, data: np.ndarray, cards: dict[str, Any], **how: Any) -> Path:
    """A file whose cards are changed after astropy wrote it: it does not write all kinds that there are."""
    hdu = fits.CompImageHDU(data, compression_type=algorithm, tile_shape=TILE, hcomp_scale=0, **how)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "plain.fits")
    return rewrite_fits(tmp_path / "plain.fits", tmp_path / "in.fits", {}, {1: cards})


def astropy_pixels(path: Path) -> np.ndarray:
    with fits.open(path) as hdus:
        return np.array(hdus[1].data)


def with_light(old: np.ndarray) -> np.ndarray:
    new = old.astype(np.float32)
    new[TOUCHED] += np.float32(7.16)
    return new


@pytest.mark.parametrize("cards", [{}, SCALED], ids=["plain", "scaled"])
@pytest.mark.parametrize("bitpix", [-32, -64])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_floats_without_a_scale_are_not_cut_to_whole_numbers(
    tmp_path: Path, algorithm: str, bitpix: int, cards: dict[str, Any]
) -> None:
    path = compressed(tmp_path, algorithm, INTS, cards | {"ZBITPIX": (bitpix, "")})
    old = astropy_pixels(path)
    assert old.dtype.kind == "f"
    np.testing.assert_array_equal(read_pixels(Plane("image", path, 1, TILE))[0], old)
    new = with_light(old)
    back = astropy_pixels(rewrite_fits(path, tmp_path / "out.fits", {1: new}))
    np.testing.assert_array_equal(back[~TOUCHED], old[~TOUCHED])
    np.testing.assert_allclose(back[TOUCHED], new[TOUCHED], rtol=1e-7)


@pytest.mark.parametrize("cards", [{}, SCALED, {"ZBLANK": (7, "")}, {"BLANK": (7, "")}], ids="-".join)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_integers_take_new_values_to_a_step_and_without_bias(
    tmp_path: Path, algorithm: str, dtype: type, cards: dict[str, Any]
) -> None:
    path = compressed(tmp_path, algorithm, INTS.astype(dtype), cards)
    old = astropy_pixels(path).astype(np.float32)
    read = read_pixels(Plane("image", path, 1, TILE))[0]
    np.testing.assert_array_equal(read, old)
    assert np.isnan(old).any() == bool({"ZBLANK", "BLANK"} & set(cards))
    new = with_light(old)
    back = astropy_pixels(rewrite_fits(path, tmp_path / "out.fits", {1: new}))
    np.testing.assert_array_equal(back[~TOUCHED], old[~TOUCHED])
    error = (back[TOUCHED] - new[TOUCHED])[np.isfinite(new[TOUCHED])]
    step = 0.5 if cards is SCALED else 1.0
    assert np.abs(error).max() < step
    # A fraction f of a step is rounded up with probability f.
    assert abs(error.mean()) < 4 * 0.5 * step / np.sqrt(error.size)
    np.testing.assert_array_equal(np.isnan(back), np.isnan(new))


@pytest.mark.parametrize("algorithm", ["RICE_1", "HCOMPRESS_1", "GZIP_1", "GZIP_2"])
@pytest.mark.parametrize("value", [107.16, 1e12])
@pytest.mark.parametrize("cards", [{}, SCALED], ids=["plain", "scaled"])
def test_quantised_floats_keep_their_scale_or_become_lossless(
    tmp_path: Path, algorithm: str, value: float, cards: dict[str, Any]
) -> None:
    floats = np.random.default_rng(2).normal(100, 5, SHAPE).astype(np.float32)
    path = compressed(tmp_path, algorithm, floats, cards, quantize_method=1, dither_seed=3)
    old = astropy_pixels(path)
    new = old.astype(np.float32)
    new[TOUCHED] = value
    back = astropy_pixels(rewrite_fits(path, tmp_path / "out.fits", {1: new}))
    np.testing.assert_array_equal(back[~TOUCHED], old[~TOUCHED])
    with fits.open(path, disable_image_compression=True) as hdus:
        step = hdus[1].data["ZSCALE"].max() * cards.get("BSCALE", (1.0, ""))[0]
    np.testing.assert_allclose(back[TOUCHED], value, atol=step if value < 1e6 else 0.0, rtol=1e-7)


def test_a_coder_that_astropy_moved_makes_only_its_own_images_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {}
    for algorithm in ALGORITHMS:
        (tmp_path / algorithm).mkdir()
        paths[algorithm] = compressed(tmp_path / algorithm, algorithm, INTS, {})
    for module in ("_codecs", "_compression"):
        monkeypatch.setitem(sys.modules, f"astropy.io.fits.hdu.compressed.{module}", None)
    for algorithm, path in paths.items():
        plane = Plane("image", path, 1, TILE)
        if algorithm in ("HCOMPRESS_1", "PLIO_1"):
            with pytest.raises(FormatError, match=r"astropy's coder .*compress the image with GZIP_2") as caught:
                read_pixels(plane)
            assert (caught.value.path, caught.value.hdu) == (str(path), 1)
        else:
            np.testing.assert_array_equal(read_pixels(plane)[0], INTS)


def test_no_module_imports_private_astropy_when_it_is_imported() -> None:
    found = [
        f"{path.name}:{node.lineno}"
        for path in Path(skygraft.__file__).parent.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [f"{getattr(node, 'module', '')}.{alias.name}" for alias in node.names]
        if "astropy" in name and "._" in name
    ]
    assert found == []


def test_threads_read_hcompress_tiles_at_once(tmp_path: Path) -> None:
    """cfitsio's coder keeps its state in global variables."""
    data = np.random.default_rng(2).normal(100, 9, (256, 256)).astype(np.int32)
    path = tmp_path / "image.fits"
    fits.CompImageHDU(data, compression_type="HCOMPRESS_1", tile_shape=(64, 64), hcomp_scale=0).writeto(path)
    plane = Plane("image", path, 1, (64, 64))
    with ThreadPoolExecutor(4) as pool:
        for found, _ in pool.map(lambda _: read_pixels(plane), range(16)):
            np.testing.assert_array_equal(found, data)
