"""Damaged exposures of afw: a lost card is found by what else the file says, and none is read as another image."""

from __future__ import annotations

from pathlib import Path

import pytest
from astropy.io import fits

from skygraft.errors import FormatError, SkygraftError
from skygraft.formats import read_calibration, read_exposure, read_footprint
from skygraft.formats.afw_layout import check_planes, read_xy0

ORIGIN = {"CRPIX1A": 1, "CRPIX2A": 1, "CRVAL1A": 100, "CRVAL2A": 200, "LTV1": -100, "LTV2": -200}
HDUS = {"IMAGE": 1, "MASK": 2, "VARIANCE": 3}


def headers(name: str = "", **changes: object) -> dict[str, fits.Header]:
    """Headers of the three planes, with cards of one of them changed (None: removed)."""
    made = {}
    for plane, bits in (("IMAGE", -32), ("MASK", 32), ("VARIANCE", -32)):
        cards = {"BITPIX": bits, "EXTNAME": plane, "EXTTYPE": plane} | ORIGIN
        cards |= changes if plane == name else {}
        made[plane] = fits.Header([(key, value) for key, value in cards.items() if value is not None])
    return made


@pytest.mark.parametrize("archive", [True, False])
def test_a_sound_exposure(archive: bool) -> None:
    check_planes(headers(), HDUS, archive, Path("a.fits"))
    assert read_xy0(headers(), HDUS, archive, Path("a.fits")) == (100, 200)


@pytest.mark.parametrize("key", ["CRVAL1A", "CRVAL2A", "CRPIX1A", "CRPIX2A", "LTV1", "LTV2"])
def test_a_lost_card_of_the_origin_is_named(key: str) -> None:
    with pytest.raises(FormatError, match=f"there is no {key}") as caught:
        read_xy0(headers("IMAGE", **{key: None}), HDUS, True, Path("a.fits"))
    assert (caught.value.key, caught.value.hdu) == (key, 1)


@pytest.mark.parametrize("changes", [{"CRVAL1A": 7}, {"CRVAL2A": 0}, {"LTV1": 3}])
def test_origins_that_disagree(changes: dict[str, int]) -> None:
    with pytest.raises(FormatError, match="disagree"):
        read_xy0(headers("IMAGE", **changes), HDUS, True, Path("a.fits"))


def test_planes_that_lie_elsewhere() -> None:
    with pytest.raises(FormatError, match=r"image is \(100, 200\) .* and that of the mask \(101, 200\)"):
        read_xy0(headers("MASK", CRVAL1A=101, LTV1=-101), HDUS, True, Path("a.fits"))


@pytest.mark.parametrize("value", ["text", 1e30, 2**31, 0.5, True])
def test_origins_that_are_no_pixels(value: object) -> None:
    with pytest.raises(FormatError, match="a whole number of pixels is needed"):
        read_xy0(headers("IMAGE", CRVAL1A=value, LTV1=None, LTV2=None), HDUS, True, Path("a.fits"))


def test_without_an_archive_an_image_may_say_less() -> None:
    less = headers("IMAGE", CRPIX1A=None, CRPIX2A=None, CRVAL1A=None, CRVAL2A=None)
    assert read_xy0({"IMAGE": less["IMAGE"]}, HDUS, False, Path("a.fits")) == (100, 200)
    none = headers("IMAGE", **dict.fromkeys(ORIGIN))
    assert read_xy0({"IMAGE": none["IMAGE"]}, HDUS, False, Path("a.fits")) == (0, 0)
    with pytest.raises(FormatError, match="CRPIX1A"):
        read_xy0({"IMAGE": none["IMAGE"]}, HDUS, True, Path("a.fits"))


@pytest.mark.parametrize("lost", ["IMAGE", "MASK", "VARIANCE"])
def test_a_lost_plane_is_named(lost: str) -> None:
    hdus = {name: hdu for name, hdu in HDUS.items() if name != lost}
    with pytest.raises(FormatError, match=f"EXTTYPE = '{lost}'"):
        check_planes({name: headers()[name] for name in hdus}, hdus, True, Path("a.fits"))


def test_planes_that_are_not_what_they_say() -> None:
    with pytest.raises(FormatError, match="EXTNAME that it is VARIANCE"):
        check_planes(headers("MASK", EXTNAME="VARIANCE"), HDUS, True, Path("a.fits"))
    with pytest.raises(FormatError, match="a mask is of integers"):
        check_planes(headers("MASK", BITPIX=-32), HDUS, True, Path("a.fits"))
    with pytest.raises(FormatError, match="a variance of floats"):
        check_planes(headers("VARIANCE", BITPIX=16, EXTNAME=None), HDUS, True, Path("a.fits"))


@pytest.mark.data
@pytest.mark.parametrize(
    ("hdu", "card"),
    [(1, "EXTTYPE"), (2, "EXTTYPE"), (3, "EXTTYPE"), (1, "CRVAL2A"), (0, "AR_HDU"), (0, "PSF_ID"), (1, "BUNIT")],
)
def test_a_real_exposure_that_lost_a_card(data_dir: Path, tmp_path: Path, hdu: int, card: str) -> None:
    source = data_dir / "afw_reference/calexp_03_polymap_pca_xy0.fits"
    raw = bytearray(source.read_bytes())
    with fits.open(source, disable_image_compression=True) as hdus:
        begin = hdus[hdu]._header_offset
    at = next(p for p in range(begin, len(raw), 80) if raw[p : p + 80].decode("ascii").split("=")[0].strip() == card)
    new = "PSF_ID  = 99" if card == "PSF_ID" else "COMMENT"
    raw[at : at + 80] = new.ljust(80).encode()
    path = tmp_path / "image.fits"
    path.write_bytes(raw)
    for read in (read_footprint, read_calibration, read_exposure):
        if read is read_footprint and card in ("PSF_ID", "BUNIT"):
            continue  # which needs neither
        with pytest.raises(SkygraftError) as caught:
            read(path)
        assert caught.value.key == card
