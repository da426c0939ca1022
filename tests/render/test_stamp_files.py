"""Stamps in FITS files, cubes, HDF5 and Zarr: the right plane with the right WCS, and every way to be wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np
import pytest
import zarr
from astropy.io import fits

from kits.stamp_kit import turned, wcs_header
from skygraft.errors import SkygraftError
from skygraft.render import stamp_files
from skygraft.render.stamp_files import ByteCache, read_stamp, read_stamps

CUBE = np.random.default_rng(3).uniform(0.1, 1.0, (5, 6, 7))
JACOBIAN = turned(0.21, 33.0, squeezed=1.2)
HEADER = wcs_header(JACOBIAN, (6, 7))


def fits_file(path: Path) -> str:
    """Primary: nothing; SCI: an image; CUBE: five with a third axis of wavelengths; SCI,2: another image."""
    cube = HEADER.copy()
    cube["CTYPE3"], cube["CRVAL3"], cube["CRPIX3"], cube["CDELT3"] = "WAVE", 5e-7, 1.0, 1e-9
    hdus = [
        fits.PrimaryHDU(),
        fits.ImageHDU(CUBE[0], HEADER, name="SCI"),
        fits.ImageHDU(CUBE, cube, name="CUBE"),
        fits.ImageHDU(CUBE[4].astype(np.float32), HEADER, name="SCI", ver=2),
    ]
    fits.HDUList(hdus).writeto(path)
    return str(path)


def hdf5_file(path: Path) -> str:
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("deep/cube", data=CUBE, chunks=(1, 6, 7))
        dataset.attrs.update({key: value for key, value in HEADER.items() if key != "COMMENT"})
        file.create_dataset("flat", data=CUBE[3]).attrs["pixel_scale"] = 0.1
        file.create_dataset("table", data=np.arange(4))
    return str(path)


def zarr_store(path: Path) -> str:
    root = zarr.open_group(str(path), mode="w")
    array = root.create_array("deep/cube", shape=CUBE.shape, chunks=(1, 6, 7), dtype="f8")
    array[:] = CUBE
    array.attrs.update(dict(HEADER.items()))
    root.create_array("flat", shape=(6, 7), dtype="f4")[:] = CUBE[3]
    return str(path)


CASES: dict[str, tuple[Callable[[Path], str], str, str, int, int, bool]] = {
    "the first image": (fits_file, "a.fits", "", -1, 0, True),
    "the first cube": (fits_file, "a.fits", "", 2, 2, True),
    "an HDU by name": (fits_file, "a.fits", "[SCI]", -1, 0, True),
    "an HDU by name and version": (fits_file, "a.fits", "[SCI,2]", -1, 4, True),
    "an HDU by number": (fits_file, "a.fits", "[3]", -1, 4, True),
    "a plane of a cube by name": (fits_file, "a.fits", "[cube]", 3, 3, True),
    "a name with brackets": (fits_file, "a[1].fits", "", -1, 0, True),
    "a plane in HDF5": (hdf5_file, "a.h5", ":/deep/cube", 1, 1, True),
    "an image in HDF5": (hdf5_file, "a.hdf5", ":flat", -1, 3, False),
    "a plane in Zarr": (zarr_store, "a.zarr", "/deep/cube", 4, 4, True),
    "an image in Zarr": (zarr_store, "a.zarr", "/flat", -1, 3, False),
}


@pytest.mark.parametrize("case", CASES)
def test_the_right_plane_is_read_with_the_right_wcs(tmp_path: Path, case: str) -> None:
    make, name, part, index, plane, has_wcs = CASES[case]
    stamp = read_stamp(make(tmp_path / name) + part, index)
    np.testing.assert_allclose(stamp.pixels, CUBE[plane], rtol=1e-7)
    assert stamp.total == pytest.approx(CUBE[plane].sum(), rel=1e-6)
    if has_wcs:
        np.testing.assert_allclose(stamp.jacobian, JACOBIAN, atol=1e-8)
    elif part == ":flat":
        np.testing.assert_array_equal(stamp.jacobian, [[-0.1, 0.0], [0.0, 0.1]])
    else:
        assert stamp.jacobian is None


def test_images_of_a_file_without_a_cube_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "many.fits"
    fits.HDUList([fits.PrimaryHDU(CUBE[0]), fits.ImageHDU(CUBE[1]), fits.ImageHDU(CUBE[2])]).writeto(path)
    for k, stamp in enumerate(read_stamps([str(path)] * 3, [0, 1, 2])):
        assert not isinstance(stamp, Exception)
        np.testing.assert_array_equal(stamp.pixels, CUBE[k])


def test_integers_and_compressed_tiles(tmp_path: Path) -> None:
    path = tmp_path / "c.fits"
    numbers = (1000 * CUBE).astype(np.int16)
    hdus = [fits.PrimaryHDU(), fits.CompImageHDU(numbers, compression_type="RICE_1", name="A")]
    fits.HDUList(hdus).writeto(path)
    np.testing.assert_array_equal(read_stamp(f"{path}[A]", 2).pixels, numbers[2])


def _singular(path: Path) -> str:
    header = HEADER.copy()
    for name in ("CD1_1", "CD1_2", "CD2_1", "CD2_2"):
        header[name] = 1e-5
    fits.writeto(path, CUBE[0], header)
    return str(path)


def _half(path: Path) -> str:
    header = HEADER.copy()
    del header["CTYPE1"]
    fits.writeto(path, CUBE[0], header)
    return str(path)


def _short_chunk(path: Path) -> str:
    """A store of the second version, whose chunks are compressed by Blosc, one of which is cut."""
    array = zarr.create_array(str(path), shape=(2, 6, 7), chunks=(1, 6, 7), dtype="f8", zarr_format=2,
                              compressors=numcodecs.Blosc())  # fmt: skip
    array[:] = CUBE[:2]
    assert np.array_equal(read_stamp(str(path), 0).pixels, CUBE[0])
    content = (path / "1.0.0").read_bytes()
    (path / "1.0.0").write_bytes(content[:-11])
    return str(path)


def _texts(path: Path) -> str:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.array([["a", "bc"], ["d", "e"]], dtype=object), dtype=h5py.string_dtype())
    return str(path)


def _written(pixels: Any) -> Callable[[Path], str]:
    def write(path: Path) -> str:
        fits.writeto(path, pixels)
        return str(path)

    return write


def _huge(path: Path) -> str:
    """A file as large as ten thousand pixels squared, with holes for pixels."""
    header = fits.PrimaryHDU(np.zeros((1, 1), dtype=np.uint8)).header
    header["NAXIS1"] = header["NAXIS2"] = 10_000
    path.write_bytes(header.tostring().encode())
    size = path.stat().st_size + 100_000_000
    os.truncate(path, -(-size // 2880) * 2880)
    return str(path)


BAD: dict[str, tuple[Callable[[Path], str], str, str, int, str]] = {
    "gone": (str, "a.fits", "", -1, "cannot be read"),
    "no path": (lambda path: "", "a", "", -1, "needs the path"),
    "elsewhere": (lambda path: "https://a.b/c.fits", "a", "", -1, "network"),
    "no band": (lambda path: "a-{band}.fits", "a", "", -1, "not known"),
    "not a number": (_written(np.where(CUBE[0] > 0.9, np.nan, CUBE[0])), "a.fits", "", -1, "not finite"),
    "all zero": (_written(np.zeros((5, 5))), "a.fits", "", -1, "all zero"),
    "one axis": (_written(np.ones(5)), "a.fits", "", -1, "no HDU holds a two-dimensional image"),
    "four axes": (_written(np.ones((2, 2, 5, 5))), "a.fits", "", 0, "has the shape"),
    "a cube without a number": (_written(CUBE), "a.fits", "", -1, "5 planes"),
    "beyond the cube": (_written(CUBE), "a.fits", "", 5, "0 to 4"),
    "beyond an image": (_written(CUBE[0]), "a.fits", "", 1, "there is one stamp"),
    "no such HDU": (fits_file, "a.fits", "[DEEP]", -1, "there is no HDU 'DEEP'; there are PRIMARY, SCI, CUBE, SCI"),
    "an empty HDU": (fits_file, "a.fits", "[0]", -1, "holds no image"),
    "no such dataset": (hdf5_file, "a.h5", ":/shallow", -1, "there is no dataset 'shallow'; there are deep/cube, flat"),
    "which dataset": (hdf5_file, "a.h5", "", -1, "deep/cube, flat"),
    "a table in HDF5": (hdf5_file, "a.h5", ":table", -1, "has the shape (4,)"),
    "a cube in HDF5": (hdf5_file, "a.h5", ":deep/cube", -1, "5 planes"),
    "no such array": (zarr_store, "a.zarr", "/shallow", -1, "cannot be read"),
    "a group": (zarr_store, "a.zarr", "", -1, "with the arrays flat"),
    "no store": (str, "a.zarr", "/deep", 0, "cannot be read"),
    "a singular WCS": (_singular, "a.fits", "", -1, "WCS"),
    "half a WCS": (_half, "a.fits", "", -1, "it has CTYPE2 = 'DEC--TAN'"),
    "a chunk that is cut": (_short_chunk, "a.zarr", "", 1, "and its header says"),
    "texts": (_texts, "a.h5", ":x", -1, "numbers are needed"),
    "enormous": (_huge, "a.fits", "", -1, "10000 x 10000"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_says_why_and_names_the_file(tmp_path: Path, case: str) -> None:
    make, name, part, index, message = BAD[case]
    path = make(tmp_path / name)
    with pytest.raises(SkygraftError) as caught:
        read_stamp(path + part, index)
    assert message in str(caught.value)
    if path:
        assert path in str(caught.value)


@pytest.mark.parametrize("name", ["a.fits", "a.h5"])
@pytest.mark.parametrize("at", [10, 700, 3000])
def test_a_damaged_file_is_an_error_of_its_own_kind(tmp_path: Path, name: str, at: int) -> None:
    path = tmp_path / name
    part = (fits_file if name == "a.fits" else hdf5_file)(path).removeprefix(str(path))
    raw = path.read_bytes()
    path.write_bytes(raw[:at])
    with pytest.raises(SkygraftError):
        read_stamp(str(path) + part + (":flat" if name == "a.h5" else ""), -1)


def test_one_bad_stamp_of_a_file_costs_no_other(tmp_path: Path) -> None:
    path = str(tmp_path / "a.fits")
    cube = CUBE.copy()
    cube[1] = np.nan
    fits.writeto(path, cube)
    found = read_stamps([path] * 4 + [str(tmp_path / "gone.fits")], [0, 1, 2, 9, -1])
    assert [isinstance(one, Exception) for one in found] == [False, True, False, True, True]


def test_planes_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a cube that is larger than what may be held; its file is opened once for all of them."""
    path = str(tmp_path / "a.fits")
    fits.writeto(path, CUBE)
    asked: list[Any] = []
    real = stamp_files._Section.__getitem__
    monkeypatch.setattr(
        stamp_files._Section, "__getitem__", lambda self, which: asked.append(which) or real(self, which)
    )
    read_stamps([path] * 3, [4, 0, 4])
    assert [which[0] for which in asked] == [4, 0]
    read_stamp(path, 4)
    assert len(asked) == 2


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = str(tmp_path / "a.fits")
    fits.writeto(path, CUBE[0])
    before = read_stamp(path)
    assert read_stamp(path) is before
    fits.writeto(path, CUBE[1], overwrite=True)
    os.utime(path, ns=(1, 1))
    assert read_stamp(path).pixels[0, 0] == CUBE[1][0, 0]


def test_an_array_of_zarr_that_changed_is_read_again(tmp_path: Path) -> None:
    path = zarr_store(tmp_path / "a.zarr")
    before = read_stamp(f"{path}/flat")
    zarr.open_array(f"{path}/flat", mode="r+")[:] = 2 * CUBE[3]
    assert read_stamp(f"{path}/flat").total == pytest.approx(2 * before.total)


def test_a_cache_holds_no_more_bytes_than_it_may() -> None:
    cache: ByteCache[int] = ByteCache(100)
    for k in range(10):
        cache.put(k, k, 30)
        cache.get(0)
    assert cache.n_bytes == 90
    assert [cache.get(k) for k in (0, 1, 8, 9)] == [0, None, 8, 9]
    cache.put("large", 1, 101)
    assert cache.get("large") is None
