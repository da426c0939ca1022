"""Images of which parts are read: the same pixels as of the whole, few bytes, and what goes wrong."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

import skygraft
from kits.butler_kit import small_calexp
from kits.http_kit import FileServer
from kits.plain_images import plain_header
from kits.s3_kit import Bucket
from skygraft.errors import ConfigError, CorruptFileError, FormatError, PlaceError
from skygraft.fitsfile import tile_parts
from skygraft.formats.fits import FitsFormat
from skygraft.jit import Tally
from skygraft.planes import make_planes

SIZE = 4096
RNG = np.random.default_rng(3)


def write_image(path: Path, size: int, tiles: tuple[int, int] | None = (64, 64), **how: Any) -> Path:
    """An image with a weight and a mask, in tiles; floats that Rice quantises, or integers."""
    dtype = how.pop("dtype", "f4")
    image = RNG.normal(100, 9, (size, size)).astype(dtype)
    weight = RNG.uniform(0, 2, (size, size)).astype("f4")
    weight[size // 2, size // 2] = 0
    mask = RNG.integers(0, 4, (size, size)).astype("i2")
    header = plain_header(150.0, 2.0, size)
    planes = [
        (image, header, "IMAGE"),
        (weight, fits.Header(), "WEIGHT"),
        (mask, fits.Header({"MP_BAD": 0, "MP_SAT": 1}), "MASK"),
    ]
    hdus: list[Any] = [fits.PrimaryHDU()]
    for pixels, cards, name in planes:
        if tiles is None:
            hdus.append(fits.ImageHDU(pixels, cards, name=name))
            continue
        settings = {"compression_type": "RICE_1", "quantize_method": 1, "dither_seed": 7} | how
        if pixels.dtype.kind == "f" and settings["compression_type"].startswith("GZIP"):
            settings |= {"quantize_level": 0}
        hdus.append(fits.CompImageHDU(pixels, cards, name=name, tile_shape=tiles, **settings))
    fits.HDUList(hdus).writeto(path)
    return path


KINDS: dict[str, dict[str, Any]] = {
    "plain": {"tiles": None},
    "scaled": {"tiles": None, "dtype": "u2"},
    "rice": {},
    "gzip": {"compression_type": "GZIP_2"},
    "rows": {"compression_type": "GZIP_2", "tiles": (1, 200)},
    "gzip of bytes": {"compression_type": "GZIP_1", "tiles": (50, 200)},
    "hcompress": {"compression_type": "HCOMPRESS_1"},
    "integers": {"dtype": "i2", "tiles": (33, 47)},
    "bytes": {"dtype": "u1", "tiles": (33, 47)},
    "second dither": {"quantize_method": 2},
}


def same(part: Any, whole: Any) -> None:
    assert {*part} == {*whole}
    for name in whole:
        assert part[name].dtype == whole[name].dtype
        np.testing.assert_array_equal(part[name].values, whole[name].values)
        np.testing.assert_array_equal(part[name].x, whole[name].x)


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_is_what_the_whole_has_there(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_image(tmp_path / "image.fits", 200, **KINDS[kind])
    whole = skygraft.read_exposure(path)
    with fits.open(path) as file:
        stored = {name: file[name].data.astype("f8") for name in ("IMAGE", "WEIGHT", "MASK")}
    for chunks, in_numpy in ((None, True), (None, False), ({}, False), ({"y": 60, "x": 90}, True)):
        monkeypatch.setattr(tile_parts, "_decoded", Tally(10**9 if in_numpy else 0))
        opened = skygraft.open_exposure(path, chunks=chunks)
        part = opened.cutout((100, 100), size=(30, 41))
        rows, columns = slice(85, 115), slice(80, 121)
        np.testing.assert_array_equal(part.image, stored["IMAGE"][rows, columns].astype("f4"))
        np.testing.assert_array_equal(part.mask, stored["MASK"][rows, columns].astype("i4"))
        with np.errstate(divide="ignore"):
            weight = stored["WEIGHT"][rows, columns]
            wanted = np.where(weight > 0, 1 / weight, np.inf)
        np.testing.assert_allclose(part.variance, wanted, rtol=1e-6)
        assert part == whole.cutout((100, 100), size=(30, 41)).replace(extra=part.extra)
        assert "BAD" in part.mask_planes and part.path == path and opened.psf is None
        same(
            opened.planes.isel(y=slice(190, 3, -7), x=[3, 199, 4]),
            whole.planes.isel(y=slice(190, 3, -7), x=[3, 199, 4]),
        )
        same(opened.planes.isel(y=-1), whole.planes.isel(y=-1))
        np.testing.assert_array_equal(opened.image, whole.image)
    assert opened.planes["image"].chunks == ((60, 60, 60, 20), (90, 90, 20))


def test_planes_are_read_once_and_no_dataset_is_made_for_them(tmp_path: Path) -> None:
    path = write_image(tmp_path / "image.fits", 100)
    opened, whole = skygraft.open_exposure(path), skygraft.read_exposure(path)
    assert opened.image is opened.image and opened.shape == (100, 100) and "variance" in opened.plain
    opened.image[3, 4] = 77  # a plane that was read is kept, with what is done to it
    assert opened.cutout((4, 3), size=1).image == 77 and opened.planes["image"].values[3, 4] == 77
    changed = skygraft.open_exposure(path)
    other = changed.replace(planes=changed.plain.with_arrays({"image": whole.image + 1}))
    np.testing.assert_array_equal(other.image, whole.image + 1)
    np.testing.assert_array_equal(other.mask, whole.mask)
    again = pickle.loads(pickle.dumps(skygraft.open_exposure(path)))
    assert again.mask_planes == {"BAD": 1, "SAT": 2}
    np.testing.assert_array_equal(again.variance, whole.variance)


def test_exposures_of_the_pipelines_are_read_in_parts(tmp_path: Path) -> None:
    path = small_calexp(tmp_path / "calexp-1-2.fits", visit=1, detector=2)
    whole, opened = skygraft.read_exposure(path), skygraft.open_exposure(path, chunks={"y": 9})
    (ny, nx), (x0, y0) = whole.shape, whole.xy0
    assert opened.planes["variance"].chunks is not None and opened.mask_planes == whole.mask_planes
    box = np.s_[y0 + ny // 3 : y0 + ny // 2, x0 + 1 : x0 + nx // 2]
    assert opened[box] == whole[box].replace(extra=opened[box].extra)
    np.testing.assert_array_equal(opened.psf.kernels(x0 + 5.0, y0 + 5.0), whole.psf.kernels(x0 + 5.0, y0 + 5.0))
    assert opened.photo_calib == whole.photo_calib


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of 4096 x 4096 pixels in tiles of 256 x 256."""
    pixels = np.broadcast_to(RNG.integers(-999, 999, (256, SIZE), dtype="i2"), (16, 256, SIZE)).reshape(SIZE, SIZE)
    path = tmp_path_factory.mktemp("large") / "large.fits"
    hdu = fits.CompImageHDU(pixels, plain_header(150.0, 2.0, SIZE), compression_type="RICE_1", tile_shape=(256, 256))
    hdu.writeto(path)
    return path


def fraction(web: FileServer, n_bytes: int) -> float:
    """What the server has sent of a file, and forget it."""
    found = sum(n for _, n in web.sent) / n_bytes
    web.sent.clear()
    return found


def test_a_cutout_of_a_large_image_fetches_little(web: FileServer, large: Path) -> None:
    os.link(large, web.folder / "large.fits")
    url, n_bytes = f"{web.url}/large.fits", large.stat().st_size
    assert n_bytes > 20e6
    calibration = skygraft.formats.read_calibration(url)
    assert calibration.shape == (SIZE, SIZE) and fraction(web, n_bytes) < 0.01
    opened = skygraft.open_exposure(url)
    assert fraction(web, n_bytes) < 0.001  # the headers are known
    part = opened.cutout((1000, 2000), size=100)  # at most four tiles of 256
    assert 0 < fraction(web, n_bytes) < 0.02
    whole = skygraft.read_exposure(large)
    np.testing.assert_array_equal(part.image, whole.image[1950:2050, 950:1050])
    assert part.photo_calib == whole.photo_calib and part.wcs == whole.wcs
    # With Dask, a chunk needs its own tiles, wherever it is worked on.
    lazy = pickle.loads(pickle.dumps(skygraft.open_exposure(url, chunks={}).planes["image"]))
    assert lazy.chunks == ((1024,) * 4, (1024,) * 4)
    web.sent.clear()
    found = lazy[:1024, 1024:2048].sum(dtype="f8").compute(scheduler="synchronous")
    assert found == whole.image[:1024, 1024:2048].sum(dtype="f8")
    assert 1 / 17 < fraction(web, n_bytes) < 1 / 15


def test_rows_of_an_image_without_tiles(web: FileServer) -> None:
    path = write_image(web.folder / "image.fits", 1000, None)
    part = skygraft.open_exposure(f"{web.url}/image.fits").cutout((500, 500), size=(20, 30))
    assert fraction(web, path.stat().st_size) < 0.06  # of three planes
    assert part == skygraft.read_exposure(path).cutout((500, 500), size=(20, 30)).replace(
        extra=part.extra, path=part.path
    )


def test_parts_of_an_object_in_s3(bucket: Bucket, tmp_path: Path) -> None:
    path = write_image(tmp_path / "image.fits", 600, None)
    bucket.put(tmp_path, "x/")
    opened = skygraft.open_exposure(f"{bucket.url}/x/image.fits", chunks={"y": 300, "x": 300})
    np.testing.assert_array_equal(
        opened.cutout((450, 450), size=50).image, skygraft.read_exposure(path).image[425:475, 425:475]
    )
    # Another object under this name.
    bucket.fs.pipe_file(f"{bucket.name}/x/image.fits", path.read_bytes()[:-2880])
    with pytest.raises(PlaceError, match=r"x/image\.fits: it was changed since it was opened. Open it again"):
        opened.cutout((20, 20), size=5)


def test_files_that_are_read_as_a_whole(web: FileServer, tmp_path: Path) -> None:
    path = write_image(tmp_path / "image.fits", 700)
    packed = web.folder / "packed.fits.gz"
    packed.write_bytes(gzip.compress(path.read_bytes(), 1))
    (web.folder / "image.fits").write_bytes(path.read_bytes())
    wanted = skygraft.read_exposure(path).planes
    for name, ranges in (("packed.fits.gz", True), ("image.fits", False)):
        web.ranges = ranges
        opened = skygraft.open_exposure(f"{web.url}/{name}", chunks={"x": 350})
        assert opened.planes["image"].chunks == ((700,), (350, 350))
        same(opened.planes, wanted)

    # Formats with a way of their own to read, and integers with a scale in tiles.
    class Own(FitsFormat):
        def read(self, path: Any, **options: Any) -> skygraft.Exposure:
            exposure = super().read(path, **options)
            return exposure.replace(planes=make_planes(2 * exposure.image))

    assert (Own().open(path).image == 2 * wanted["image"].values).all()
    scaled = write_image(tmp_path / "scaled.fits", 100, dtype="u2")
    np.testing.assert_array_equal(skygraft.open_exposure(scaled).image, skygraft.read_exposure(scaled).image)


def test_servers_that_fail(web: FileServer, large: Path) -> None:
    os.link(large, web.folder / "large.fits")
    opened = skygraft.open_exposure(f"{web.url}/large.fits")
    web.cut["/large.fits"] = 2
    assert opened.cutout((9, 9), size=5).shape == (5, 5)  # tried again
    web.cut["/large.fits"] = 99
    with pytest.raises(PlaceError, match=r"large\.fits: it cannot be read by ranges after 5 attempts"):
        opened.cutout((3000, 9), size=5)
    web.cut.clear()
    web.ranges = False
    with pytest.raises(PlaceError, match="the server gives whole files"):
        opened.cutout((3000, 9), size=5)
    web.ranges = True
    os.utime(large, (1, 1))
    with pytest.raises(PlaceError, match="it was changed since it was opened"):
        opened.cutout((3000, 9), size=5)
    (web.folder / "large.fits").unlink()
    with pytest.raises(PlaceError, match="there is no such file"):
        opened.cutout((3000, 9), size=5)


def damage(path: Path, hdu: int, at: int) -> NDArray[Any]:
    """Overwrite bytes of the data of an HDU, and keep its size."""
    with fits.open(path, disable_image_compression=True) as file:
        start = file[hdu].fileinfo()["datLoc"]
    with path.open("r+b") as handle:
        handle.seek(start + at)
        handle.write(b"\xff" * 64)
    return np.array([start])


def test_damage_is_noticed_where_it_is_read(tmp_path: Path) -> None:
    path = write_image(tmp_path / "image.fits", 200, (50, 200), compression_type="GZIP_1")
    with fits.open(path, disable_image_compression=True) as file:
        heap = file[1].header["NAXIS1"] * file[1].header["NAXIS2"]
    damage(path, 1, heap + 40)
    opened = skygraft.open_exposure(path)
    assert opened.cutout((100, 150), size=9).shape == (9, 9)  # another tile
    with pytest.raises(CorruptFileError, match=r"image\.fits\[1\].*tile 0"):
        opened.cutout((100, 20), size=9)
    os.utime(path, (1, 1))
    with pytest.raises(CorruptFileError, match=r"image\.fits: it was changed since it was opened"):
        opened.cutout((100, 150), size=9)


@pytest.mark.parametrize("chunks", ["large", 0, True, 2.5, {"z": 3}, {"y": -2}, {"y": "auto"}])
def test_chunks_that_are_none(tmp_path: Path, chunks: Any) -> None:
    with pytest.raises(ConfigError, match=r"chunks.*Give None"):
        skygraft.open_exposure(tmp_path / "none.fits", chunks=chunks)


def test_an_image_in_parts_is_not_written(web: FileServer, tmp_path: Path) -> None:
    write_image(web.folder / "image.fits", 700, None)
    opened = skygraft.open_exposure(f"{web.url}/image.fits")
    with pytest.raises(FormatError, match=r"Read it with skygraft\.read_exposure"):
        skygraft.write_exposure(opened, tmp_path / "out.fits")
    # On this machine the whole file is there.
    here = skygraft.open_exposure(web.folder / "image.fits")
    skygraft.write_exposure(here, tmp_path / "out.fits")
    assert (tmp_path / "out.fits").read_bytes() == (web.folder / "image.fits").read_bytes()
