"""Headers that claim what the file cannot hold, and tiles that are not what they should be: each is refused by name."""

from __future__ import annotations

import io
import math
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from skygraft import read_exposure
from skygraft.errors import CorruptFileError, FormatError, SkygraftError, WcsError
from skygraft.fitsfile.cards import header_of
from skygraft.fitsfile.open import fits_errors, map_fits, scan_fits
from skygraft.fitsfile.pixels import PixelScaling
from skygraft.fitsfile.structure import BLOCK, CARD
from skygraft.fitsfile.tiles import TiledImage
from skygraft.formats.afw_archive import Table
from skygraft.formats.fits_layout import list_hdus
from skygraft.formats.fits_planes import read_pixels
from skygraft.survey import index_survey

PIXELS = np.random.default_rng(1).normal(20, 5, (32, 40)).astype(np.float32)


def file_of(*hdus: Any) -> bytes:
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(stream)
    return stream.getvalue()


def with_card(content: bytes, key: str, value: str | None, *, again: bool = False) -> bytes:
    """The last card of that keyword with another value, without one, or with a second one before END."""
    card = f"{key:8}= {value:>20}".ljust(CARD).encode() if value is not None else b" " * CARD
    at = max(i for i in range(0, len(content), CARD) if content[i : i + 8] == f"{key:8}".encode())
    if not again:
        return content[:at] + card + content[at + CARD :]
    end = next(i for i in range(at, len(content), CARD) if content[i : i + CARD].strip() == b"END")
    assert not content[end + CARD : end + 2 * CARD].strip()
    return content[:end] + card + content[end : end + CARD] + content[end + 2 * CARD :]


COLUMNS = [fits.Column("a", "J", array=[1, 2]), fits.Column("b", "PD()", array=[[1.0], [2.0, 3.0]])]
TABLE = file_of(fits.BinTableHDU.from_columns(COLUMNS))
IMAGE = file_of(fits.ImageHDU(PIXELS))
RICE = file_of(fits.CompImageHDU(PIXELS, compression_type="RICE_1", quantize_method=1, tile_shape=(8, 40)))
GZIP = file_of(fits.CompImageHDU(PIXELS, compression_type="GZIP_2", quantize_level=0, tile_shape=(8, 40)))
QUANTISED = file_of(fits.CompImageHDU(PIXELS, compression_type="GZIP_1", quantize_level=8, tile_shape=(8, 40)))
COUNTS = file_of(fits.CompImageHDU(PIXELS.astype(np.int16), compression_type="RICE_1", tile_shape=(8, 40)))
HCOMPRESS = file_of(fits.CompImageHDU(PIXELS, compression_type="HCOMPRESS_1", tile_shape=(32, 40)))
PLIO = file_of(fits.CompImageHDU(PIXELS.astype(np.int16), compression_type="PLIO_1", tile_shape=(8, 40)))
KINDS = {
    "rice": RICE,
    "gzip": GZIP,
    "quantised gzip": QUANTISED,
    "counts": COUNTS,
    "hcompress": HCOMPRESS,
    "plio": PLIO,
}
HUGE = "2147483647"


@pytest.mark.parametrize("content", [TABLE, IMAGE, *KINDS.values()], ids=["table", "image", *KINDS])
def test_sound_files_pass(content: bytes) -> None:
    assert len(scan_fits(memoryview(content), "x.fits")) == 2


@pytest.mark.parametrize(
    ("content", "key", "value", "words"),
    [
        (IMAGE, "NAXIS", "-2147483648", "0 to 999"),
        (IMAGE, "NAXIS", HUGE, "0 to 999"),
        (IMAGE, "NAXIS", "'text'", "whole number"),
        (IMAGE, "NAXIS1", "-1", "0 or more"),
        (IMAGE, "NAXIS1", HUGE, "truncated"),
        (IMAGE, "NAXIS2", "1", "one begins at byte"),
        (IMAGE, "NAXIS2", None, "whole number"),
        (IMAGE, "BITPIX", "7", "one of 8, 16"),
        (IMAGE, "BITPIX", "1E30", "whole number"),
        (IMAGE, "PCOUNT", "-99999", "PCOUNT is -99999"),
        (IMAGE, "PCOUNT", "80", "PCOUNT is 80; it can be 0"),
        (IMAGE, "GCOUNT", "0", "GCOUNT is 0; it can be 1"),
        (TABLE, "TFIELDS", "1000000", "0 to 999"),
        (TABLE, "TFIELDS", "1", "4 bytes of a row, and NAXIS1 is 12"),
        (TABLE, "TFORM1", "'2147483647J'", "bytes of a row"),
        (TABLE, "TFORM1", "'?'", "not a column format"),
        (TABLE, "TFORM2", None, "not a column format"),
        (TABLE, "NAXIS1", "0", "bytes of a row"),
        (TABLE, "BITPIX", "16", "two axes of bytes"),
        (RICE, "ZNAXIS1", HUGE, "rows for"),
        (RICE, "ZNAXIS", "1000", "1 to 999"),
        (RICE, "ZNAXIS2", "-5", "1 or more"),
        (RICE, "ZTILE1", "0", "1 or more"),
        (RICE, "ZTILE2", "1", "4 rows for 32 tiles"),
        (RICE, "ZBITPIX", "0", "one of 8"),
    ],
)  # fmt: skip
def test_a_size_that_cannot_be(content: bytes, key: str, value: str | None, words: str) -> None:
    damaged = with_card(content, key, value)
    if words == "one begins at byte":
        damaged = damaged + TABLE[BLOCK:]
    with pytest.raises(CorruptFileError, match=words) as caught:
        scan_fits(memoryview(damaged), "x.fits")
    assert caught.value.path == "x.fits" and caught.value.hdu in (1, 2)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("value", ["-1", "3", HUGE])
def test_a_heap_outside_of_the_data(value: str) -> None:
    content = TABLE.replace(b"GCOUNT  =                    1", f"THEAP   = {value:>20}".encode())
    with pytest.raises(CorruptFileError, match="THEAP is"):
        scan_fits(memoryview(content), "x.fits")


@pytest.mark.parametrize("key", ["BITPIX", "NAXIS1", "PCOUNT", "TFORM1", "TTYPE1", "ZNAXIS1", "ZCMPTYPE", "ZVAL1"])
def test_a_card_that_is_there_twice(key: str) -> None:
    with pytest.raises(CorruptFileError, match=f"{key} is there twice"):
        scan_fits(memoryview(with_card(RICE, key, "3", again=True)), "x.fits")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: b.replace(b"END" + b" " * 77, b"END     / or not".ljust(CARD)), "END card has something behind"),
        (lambda b: b.replace(b"END" + b" " * 77, b" " * CARD), "inside the header"),
        (lambda b: b[:BLOCK] + b"XTENSION= 'IMAGE   '".ljust(CARD), "inside the header"),
        (lambda b: b.replace(b"END" + b" " * 77, b" " * CARD) + b" " * (200_000 * CARD), "no END within 200000"),
    ],
    ids=["garbage behind END", "no END", "a header of one card", "cards without end"],
)  # fmt: skip
def test_a_header_without_end(change: Callable[[bytes], bytes], words: str) -> None:
    with pytest.raises(CorruptFileError, match=words):
        scan_fits(memoryview(change(file_of())), "x.fits")


def tiled(content: bytes) -> TiledImage:
    [_, span] = scan_fits(memoryview(content), "x.fits")
    cards = [content[i : i + CARD] for i in range(span.start, span.data_start, CARD)]
    header = header_of(cards[: next(i for i, card in enumerate(cards) if card.strip() == b"END")])
    data = memoryview(content)[span.data_start : span.data_start + span.data_size]
    return TiledImage(header, data, path="x.fits", hdu=1)


@pytest.mark.parametrize(
    ("kind", "key", "value", "words"),
    [
        ("rice", "ZVAL1", "'text'", "BLOCKSIZE is 'text'"),
        ("rice", "ZVAL1", "1E30", "BLOCKSIZE is 1e"),
        ("rice", "ZVAL1", "0", "BLOCKSIZE .* is 0; it can be 1 to 1024"),
        ("rice", "ZVAL1", "16", "tile 0 cannot be uncompressed"),
        ("rice", "ZVAL2", "3", "BYTEPIX .* is 3; it can be 1, 2, 4"),
        ("rice", "ZVAL2", "2", "tile 0 cannot be uncompressed"),
        ("rice", "ZVAL1", None, "BLOCKSIZE is None"),
        ("rice", "ZNAME1", None, "ZNAME1 is None"),
        ("rice", "ZNAME1", "-1E300", "the name of a setting"),
        ("rice", "ZCMPTYPE", "'BZIP9'", "known are RICE_1"),
        ("rice", "ZQUANTIZ", "'DITHER'", "ZQUANTIZ is 'DITHER'"),
        ("rice", "ZDITHER0", None, "seed ZDITHER0"),
        ("rice", "ZDITHER0", "-7", "seed ZDITHER0"),
        ("rice", "TTYPE2", "'ZZERO'", "two columns are called 'ZZERO'"),
        ("rice", "TTYPE2", "7", "TTYPE2 is 7"),
        ("rice", "TTYPE2", None, "TTYPE2 is ''"),
        ("rice", "TTYPE1", "'DATA'", "no column COMPRESSED_DATA"),
        ("rice", "TTYPE3", "'XSCALE'", "without ZSCALE and ZZERO both"),
        ("quantised gzip", "TTYPE3", "'XSCALE'", "without ZSCALE and ZZERO both"),
        ("gzip", "ZTILE1", "41", None),
        ("gzip", "ZCMPTYPE", "'RICE_1'", "tile 0 cannot be uncompressed"),
        ("hcompress", "ZCMPTYPE", "'RICE_1'", "tile 0 cannot be uncompressed"),
        ("hcompress", "ZNAXIS1", "39", "does not begin as an HCOMPRESS tile"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be(kind: str, key: str, value: str | None, words: str | None) -> None:
    content = with_card(KINDS[kind], key, value)
    if words is None:
        assert np.array_equal(tiled(content).decode(), PIXELS)
        return
    with pytest.raises((CorruptFileError, FormatError), match=words) as caught:
        tiled(content).decode()
    assert (caught.value.path, caught.value.hdu) == ("x.fits", 1)


def test_an_image_that_its_bytes_cannot_hold() -> None:
    """As many tiles, but of a thousand times as many pixels: nothing is allocated for them."""
    for content in (RICE, GZIP, PLIO):
        wide = with_card(with_card(content, "ZNAXIS1", "100000000"), "ZTILE1", "100000000")
        with pytest.raises(CorruptFileError, match="does not fit into"):
            tiled(wide)


def with_descriptor(content: bytes, tile: int, count: int, offset: int) -> bytes:
    [_, span] = scan_fits(memoryview(content), "x.fits")
    at = content.index(b"NAXIS1  =", span.start)
    width = int(content[at + 10 : at + 30])
    at = span.data_start + tile * width
    return content[:at] + struct.pack(">2I", count, offset) + content[at + 8 :]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "offset"), [(2**31, 0), (2**32 - 1, 2**32 - 1), (8, 10**6)])
def test_descriptors_that_point_outside(kind: str, count: int, offset: int) -> None:
    with pytest.raises(CorruptFileError, match=r"tile 0 .*outside of the data") as caught:
        tiled(with_descriptor(KINDS[kind], 0, count, offset))
    assert caught.value.hdu == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("less", [1, 2, 5])
def test_tiles_cut_short_or_of_another_place(kind: str, less: int) -> None:
    image = tiled(KINDS[kind])
    count, offset = image.descriptors["COMPRESSED_DATA"][0].tolist()
    for size in (count - less, 0):
        with pytest.raises(CorruptFileError, match=r"tile 0|does not fit"):
            tiled(with_descriptor(KINDS[kind], 0, size, offset)).decode()
    if kind != "hcompress":  # whose bits end where its decoder finds that they do
        with pytest.raises(CorruptFileError, match="tile 0"):
            tiled(with_descriptor(KINDS[kind], 0, count + less, offset)).decode()


def test_scaled_integers_that_astropy_reads_are_checked(tmp_path: Path) -> None:
    """It goes by the coder's own library, which takes no offence at bytes left over."""
    counts = file_of(fits.CompImageHDU(PIXELS.astype(np.uint16), compression_type="RICE_1", tile_shape=(8, 40)))
    count, offset = tiled(counts).descriptors["COMPRESSED_DATA"][0].tolist()
    path = tmp_path / "x.fits"
    path.write_bytes(counts)
    [_, info] = list_hdus(path)
    assert np.array_equal(read_pixels(info.plane("image", path))[0], PIXELS.astype(np.uint16))
    path.write_bytes(with_descriptor(counts, 0, count + 9, offset))
    with pytest.raises(CorruptFileError, match="9 of its bytes are left over"):
        read_pixels(info.plane("image", path))


@pytest.mark.parametrize(("scale", "zero"), [(0.0, 1.0), (math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan)])
def test_a_scale_of_a_tile_that_is_none(scale: float, zero: float) -> None:
    [_, span] = scan_fits(memoryview(RICE), "x.fits")
    columns = tiled(RICE).columns
    at = span.data_start + columns["ZSCALE"].offset
    assert columns["ZZERO"].offset == columns["ZSCALE"].offset + 8
    content = RICE[:at] + struct.pack(">2d", scale, zero) + RICE[at + 16 :]
    with pytest.raises(CorruptFileError, match=r"tile 0 .*ZSCALE is"):
        tiled(content)


@pytest.mark.parametrize(
    ("cards", "words"),
    [
        ({"BSCALE": 0}, "BSCALE is 0"),
        ({"BSCALE": "one"}, "BSCALE is 'one'"),
        ({"BZERO": True}, "BZERO is True"),
        ({"BLANK": 1.5}, "BLANK is 1.5"),
        ({"BITPIX": 9}, "BITPIX is 9"),
        ({"BITPIX": "x"}, "BITPIX is 'x'"),
    ],
)
def test_a_scaling_that_is_none(cards: dict[str, Any], words: str) -> None:
    with pytest.raises(CorruptFileError, match=words) as caught:
        PixelScaling.from_header(fits.Header({"BITPIX": 16, **cards}), path="x.fits", hdu=3)
    assert (caught.value.path, caught.value.hdu) == ("x.fits", 3)


def test_an_image_of_no_pixels_is_none(tmp_path: Path) -> None:
    content = file_of(fits.ImageHDU(PIXELS))
    path = tmp_path / "x.fits"
    path.write_bytes(with_card(with_card(content, "NAXIS1", "0"), "NAXIS2", HUGE)[: 2 * BLOCK])
    assert list_hdus(path)[1].shape is None


def test_what_astropy_raises_names_the_file_and_what_others_raise_passes(tmp_path: Path) -> None:
    path = tmp_path / "x.fits"
    path.write_bytes(with_card(RICE, "ZNAME1", "-1E300"))
    with pytest.raises(CorruptFileError, match="astropy cannot read the file") as caught:
        list_hdus(path)
    pickle.loads(pickle.dumps(caught.value))
    with pytest.raises(ZeroDivisionError), fits_errors(path):
        print(1 / len(""))
    with pytest.raises(SkygraftError, match="a table of the file is damaged"), fits_errors(path, also=(ValueError,)):
        int("seven")
    with pytest.raises(SkygraftError, match="refer to each other in a circle"), fits_errors(path):
        raise RecursionError


def test_a_row_of_an_archive_whose_array_lies_outside(tmp_path: Path) -> None:
    path = tmp_path / "x.fits"
    [_, span] = scan_fits(memoryview(TABLE), "x.fits")
    at = span.data_start + 4
    path.write_bytes(TABLE[:at] + struct.pack(">2I", 2**31, 0) + TABLE[at + 8 :])
    with map_fits(path) as raw, pytest.raises(FormatError, match="outside of the table's data"):
        Table(raw, 1).row(0)


def test_a_tile_that_is_announced_larger_than_its_image(tmp_path: Path) -> None:
    """It is all of the image, and takes no more memory."""
    path = tmp_path / "image.fits"
    wcs = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 2.0, "CRPIX1": 1.0, "CRPIX2": 1.0}
    header = fits.Header(wcs | {"CDELT1": -5e-5, "CDELT2": 5e-5, "MAGZERO": 27.0})
    hdu = fits.CompImageHDU(PIXELS, header, compression_type="GZIP_2", quantize_level=0, tile_shape=(32, 40))
    path.write_bytes(with_card(file_of(hdu), "ZTILE1", HUGE))
    assert np.array_equal(read_exposure(path).image, PIXELS)


def sky_image(path: Path, **cards: Any) -> Path:
    wcs = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 2.0, "CRPIX1": 1.0, "CRPIX2": 1.0}
    header = fits.Header(wcs | {"CDELT1": -5e-5, "CDELT2": 5e-5, "MAGZERO": 27.0} | cards)
    fits.PrimaryHDU(PIXELS, header).writeto(path)
    return path


def test_a_pixel_scale_of_zero_is_refused_before_a_width_is_divided_by_it(tmp_path: Path) -> None:
    path = sky_image(tmp_path / "a.fits", CRVAL1=-1e300)
    with pytest.raises(WcsError):
        read_exposure(path, psf={"kind": "moffat", "fwhm": "0.8 arcsec"})


def test_a_visit_that_no_table_can_hold(tmp_path: Path) -> None:
    path = sky_image(tmp_path / "a.fits", EXPNUM=-1e300)
    found = index_survey({"images": [str(path)]})
    assert (len(found), list(found.failures)) == (1, [])
    assert read_exposure(path).data_id.visit is None
    with pytest.raises(FormatError, match=r"visit = 1000.* does not fit into 64 bits"):
        read_exposure(path, visit=10**30)


def test_a_header_whose_end_is_lost_does_not_swallow_the_next(tmp_path: Path) -> None:
    content = file_of(fits.ImageHDU(PIXELS), fits.ImageHDU(PIXELS))
    at = content.index(b"END".ljust(CARD), 2880)
    with pytest.raises(CorruptFileError, match="XTENSION is there twice"):
        scan_fits(memoryview(content[:at] + b"XND".ljust(CARD) + content[at + CARD :]), "x.fits")
