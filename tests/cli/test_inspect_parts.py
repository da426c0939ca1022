"""`skygraft inspect` reads some of an image's pixels: as sure of a wrong gain as with all of them, and few bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

import skygraft
from kits.http_kit import http_server
from kits.plain_images import plain_header
from kits.s3_kit import KEY, SECRET, Bucket, s3_server
from skygraft.cli.describe import describe_exposure, describe_rows
from skygraft.cli.gain_sample import sample_pixels
from skygraft.errors import CalibrationError
from skygraft.exposure import Exposure
from skygraft.noise import Gain, check_gain
from skygraft.places import Scratch, Storage, scratch, stores, stubs
from skygraft.planes import Planes, plane_attrs
from skygraft.testing import make_exposure

GAIN = 2.0
SHAPE = (1500, 1800)


def sky(shape: tuple[int, int], n_stars: int, seed: int, gain: float = GAIN) -> tuple[NDArray[Any], NDArray[Any]]:
    """An image of stars on a sky that rises across it, and its variance; the sky's own noise is not in the latter."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-12:13, -12:13]
    star = np.exp(-(x**2 + y**2) / 9.0)
    light = np.broadcast_to(np.linspace(0, 20, shape[1]), shape).astype(np.float32)
    for _ in range(n_stars):
        j, i = rng.integers(12, shape[0] - 12), rng.integers(12, shape[1] - 12)
        light[j - 12 : j + 13, i - 12 : i + 13] += (10 ** rng.uniform(2, 4) * star).astype(np.float32)
    variance = (100 + light / gain).astype(np.float32)
    return (light + rng.standard_normal(shape, np.float32) * np.sqrt(variance)).astype(np.float32), variance


class InPieces(Planes):
    """Planes in memory that are to be read in pieces, and count what is read."""

    size = (1, SHAPE[1])
    n_read = 0

    @property
    def pieces(self) -> tuple[int, int]:
        return self.size

    def parts(self, name: str, parts: Any) -> list[NDArray[Any]]:
        self.n_read += sum(len(rows) * len(columns) for rows, columns in parts)
        return super().parts(name, parts)


def in_pieces(image: NDArray[Any], variance: NDArray[Any], size: tuple[int, int]) -> Exposure:
    mask = np.zeros(image.shape, np.int32)
    mask[image > 9000] = 2
    image = np.where(mask == 2, np.float32(1e6), image)  # saturated: far from the line
    arrays = {"image": image, "variance": variance, "mask": mask}
    planes = InPieces(arrays, plane_attrs({"DETECTED": 0, "SAT": 1}, "adu"), (0, 0))
    planes.size = size
    return make_exposure((8, 8)).replace(planes=planes)


def verdict(gain: float, planes: tuple[Any, Any, Any]) -> str:
    try:
        return "right" if check_gain(Gain(gain, "header"), *planes) else "nothing"
    except CalibrationError:
        return "wrong"


@pytest.mark.parametrize("n_stars", [0, 40, 2000])
@pytest.mark.parametrize("size", [(1, SHAPE[1]), (64, 64), (256, 256)])
def test_the_verdicts_on_gains_are_those_of_the_whole_image(n_stars: int, size: tuple[int, int]) -> None:
    exposure = in_pieces(*sky(SHAPE, n_stars, seed=n_stars + size[0]), size)
    whole = exposure.image, exposure.variance, exposure.mask & 2 == 0
    sample = sample_pixels(exposure, for_fit=False)
    assert sample.words == f"{sample.image.size} of {SHAPE[0] * SHAPE[1]} pixels"
    assert exposure.plain.n_read == 3 * sample.image.size <= 3 * 1.2e6  # type: ignore[attr-defined]
    for factor in (0.25, 0.6, 0.72, 0.9, 1.0, 1.1, 1.4, 1.6, 4.0):
        assert verdict(GAIN * factor, sample.planes) == verdict(GAIN * factor, whole), factor
    if n_stars:
        assert [verdict(GAIN * factor, sample.planes) for factor in (0.7, 1.0, 1.45)] == ["wrong", "right", "wrong"]


def test_small_images_and_those_in_memory_are_taken_whole() -> None:
    small = in_pieces(*sky((200, 300), 30, seed=1), (1, 300))
    assert sample_pixels(small, for_fit=False).words == ""
    image, variance = sky(SHAPE, 30, seed=2)
    exposure = make_exposure((8, 8)).replace(planes=Planes.from_arrays(image, variance))
    assert sample_pixels(exposure, for_fit=True).image.shape == SHAPE


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of 1500 x 1800 pixels with a variance and a mask, in rows, and its calibration in the header."""
    image, variance = sky(SHAPE, 600, seed=3)
    header = plain_header(150.0, 2.0, 1500)
    header["GAIN"], header["CALAPRAD"] = GAIN, 12.0
    mask = np.zeros(SHAPE, np.int16)
    mask[3:5, 7] = 5
    settings: dict[str, Any] = {"compression_type": "GZIP_2", "quantize_level": 0}
    planes = [(image, header, "IMAGE"), (variance, None, "VARIANCE"), (mask, fits.Header({"MP_BAD": 0}), "MASK")]
    hdus = [fits.CompImageHDU(pixels, cards, name=name, **settings) for pixels, cards, name in planes]
    path = tmp_path_factory.mktemp("compressed") / "image.fits"
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


def test_what_is_said_is_what_the_whole_image_says(compressed: Path) -> None:
    options: dict[str, Any] = {"psf": {"kind": "moffat", "fwhm": "0.9 arcsec"}}
    opened = describe_exposure(skygraft.open_exposure(compressed, **options))
    whole = describe_exposure(skygraft.read_exposure(compressed, **options))
    # Bits of the mask without a name are named as where all of it is read.
    assert opened["mask_planes"] == whole["mask_planes"] == {"BAD": 1, "BIT2": 4}
    said = opened.pop("gain")
    assert said["origin"] == (
        "GAIN in the header of HDU 1, in accord with the variance (from 115200 of 2700000 pixels)"
    )
    assert whole.pop("gain")["electrons_per_unit"] == said["electrons_per_unit"] == GAIN
    assert opened == whole
    estimated = describe_exposure(skygraft.open_exposure(compressed, **options).replace(gain=None))["gain"]
    assert estimated["electrons_per_unit"] == pytest.approx(GAIN, rel=0.02)
    assert "slope of variance against image" in estimated["origin"] and "of 2700000 pixels" in estimated["origin"]
    wrong = describe_exposure(skygraft.open_exposure(compressed, **options).replace(gain=3.0))["gain"]
    assert wrong["electrons_per_unit"] is None and "two gains disagree: 3 " in wrong["origin"]
    assert wrong["origin"].endswith("(from 115200 of 2700000 pixels)")


@pytest.fixture
def own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYGRAFT_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(stores, "_FIRST_WAIT", 0.001)
    monkeypatch.setattr(stubs, "_seen", {})
    scratch.use_scratch(None)


@pytest.mark.usefixtures("own_scratch")
def test_few_bytes_of_a_file_at_a_url(compressed: Path, tmp_path: Path) -> None:
    local = describe_exposure(skygraft.open_exposure(compressed))
    (tmp_path / "www").mkdir()
    for name in ("image.fits", "other.fits"):
        (tmp_path / "www" / name).symlink_to(compressed)
    with http_server(tmp_path / "www") as web:
        content = describe_exposure(skygraft.open_exposure(f"{web.url}/image.fits"))
        fetched = sum(n for _, n in web.sent)
        assert fetched < 0.15 * compressed.stat().st_size
        assert content == {**local, "no_psf": content["no_psf"]}
        web.ranges = False
        content = describe_exposure(skygraft.open_exposure(f"{web.url}/other.fits"))
    assert content["fetched_whole"] == compressed.stat().st_size and content["gain"] == local["gain"]
    assert "the whole file" in dict(describe_rows(content))["fetched"]
    assert "fetched" not in dict(describe_rows(local))


@pytest.mark.usefixtures("own_scratch")
def test_few_bytes_of_an_object_in_s3(compressed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    sizes: list[int] = []
    read, read_ranges = stores.Store.read, stores.Store.read_ranges

    def count(self: Any, *given: Any) -> bytes:
        found = read(self, *given)
        sizes.append(len(found))
        return found

    def count_all(self: Any, *given: Any) -> list[bytes]:
        found = read_ranges(self, *given)
        sizes.extend(map(len, found))
        return found

    monkeypatch.setattr(stores.Store, "read", count)
    monkeypatch.setattr(stores.Store, "read_ranges", count_all)
    monkeypatch.setattr(stores.Store, "download", None)  # not called
    with s3_server() as endpoint:
        bucket = Bucket(endpoint, "inspected")
        scratch.use_scratch(Scratch(scratch.default_folder(), Storage(endpoint_url=endpoint)))
        bucket.put(compressed.parent)
        content = describe_exposure(skygraft.open_exposure(f"{bucket.url}/image.fits"))
    scratch.use_scratch(None)
    assert content["gain"]["electrons_per_unit"] == GAIN and content["fetched_whole"] is None
    assert 0 < sum(sizes) < 0.15 * compressed.stat().st_size
