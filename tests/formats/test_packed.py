"""Files that are compressed as a whole: read, written, and named where they are not unpacked."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits

from kits.plain_images import plain_header
from skygraft.errors import CorruptFileError
from skygraft.exposure import Exposure
from skygraft.formats import read_exposure, read_footprint, write_exposure

SIZE = 40


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


def unzstd(content: bytes) -> bytes:
    return pa.CompressedInputStream(pa.BufferReader(content), "zstd").read()


PACKINGS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    ".gz": (gzip.compress, gzip.decompress),
    ".bz2": (bz2.compress, bz2.decompress),
    ".xz": (lzma.compress, lzma.decompress),
    ".zst": (zstd, unzstd),
}


def plain(path: Path, data: np.ndarray | None = None) -> Path:
    image = np.random.default_rng(1).normal(100, 5, (SIZE, SIZE)).astype(np.float32) if data is None else data
    fits.PrimaryHDU(image, plain_header(150.0, 2.0, SIZE)).writeto(path)
    return path


def changed(exposure: Exposure) -> Exposure:
    planes = exposure.planes.copy(deep=True)
    planes["image"].values[3, 4] += 100
    return exposure.replace(planes=planes)


@pytest.mark.parametrize("suffix", PACKINGS)
def test_compressed_images_are_read_and_written(tmp_path: Path, suffix: str) -> None:
    pack, unpack = PACKINGS[suffix]
    original = plain(tmp_path / "a.fits")
    path = tmp_path / f"b.fits{suffix}"
    path.write_bytes(pack(original.read_bytes()))
    variance = plain(tmp_path / "v.fits", np.full((SIZE, SIZE), 25, np.float32))
    (tmp_path / f"b.var.fits{suffix}").write_bytes(pack(variance.read_bytes()))
    exposure = read_exposure(path)
    np.testing.assert_array_equal(exposure.image, read_exposure(original).image)
    assert exposure.variance is not None and (exposure.variance == 25).all()
    assert read_footprint(path).data_id == exposure.data_id
    for number in (1, 2):
        write_exposure(changed(exposure), tmp_path / f"c{number}.fits{suffix}")
    assert (tmp_path / f"c1.fits{suffix}").read_bytes() == (tmp_path / f"c2.fits{suffix}").read_bytes()
    (tmp_path / "c.fits").write_bytes(unpack((tmp_path / f"c1.fits{suffix}").read_bytes()))
    difference = fits.getdata(tmp_path / "c.fits") - fits.getdata(original)
    assert difference[3, 4] == 100 and np.count_nonzero(difference) == 1
    assert (read_exposure(tmp_path / f"c1.fits{suffix}").variance == 25).all()


@pytest.mark.parametrize("change", [False, True])
@pytest.mark.parametrize("suffix", PACKINGS)
def test_the_outputs_name_says_how_it_is_compressed(tmp_path: Path, suffix: str, change: bool) -> None:
    pack, unpack = PACKINGS[suffix]
    original = plain(tmp_path / "a.fits")
    path = tmp_path / f"b.fits{suffix}"
    path.write_bytes(pack(original.read_bytes()))
    for source, name in ((path, "c.fits"), (original, f"d.fits{suffix}")):
        exposure = read_exposure(source)
        write_exposure(changed(exposure) if change else exposure, tmp_path / name)
    assert (tmp_path / "c.fits").read_bytes()[:9] == b"SIMPLE  ="
    assert unpack((tmp_path / f"d.fits{suffix}").read_bytes()) == (tmp_path / "c.fits").read_bytes()


@pytest.mark.parametrize("suffix", PACKINGS)
def test_damaged_compression_is_named(tmp_path: Path, suffix: str) -> None:
    whole = PACKINGS[suffix][0](plain(tmp_path / "a.fits").read_bytes())
    path = tmp_path / f"b.fits{suffix}"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptFileError, match=r"damaged|truncated"):
        read_exposure(path)


def test_other_compressions_say_how_to_undo_them(tmp_path: Path) -> None:
    content = plain(tmp_path / "a.fits").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.fits", content)
    (tmp_path / "a.fits.Z").write_bytes(b"\x1f\x9d\x90" + content)
    (tmp_path / "a.fits.lz4").write_bytes(b"\x04\x22\x4d\x18" + content)
    for name, words in (("a.zip", "zip archive"), ("a.fits.Z", "uncompress"), ("a.fits.lz4", "lz4")):
        for format in ("auto", "fits"):
            with pytest.raises(CorruptFileError, match=rf"{words}.*Decompress it|Decompress it.*{words}"):
                read_exposure(tmp_path / name, format=format)
