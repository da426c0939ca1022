"""PSFEx files: every layout that surveys use, and every way in which they are broken."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from skygraft.errors import CorruptFileError, PsfError
from skygraft.psf import Box, PsfexPSF, read_psfex

CARDS = {
    "POLNAXIS": 2, "POLGRP1": 1, "POLNAME1": "X_IMAGE", "POLZERO1": 101.0, "POLSCAL1": 160.0,
    "POLGRP2": 1, "POLNAME2": "Y_IMAGE", "POLZERO2": 201.0, "POLSCAL2": 80.0, "POLNGRP": 1, "POLDEG1": 1,
    "PSF_SAMP": 0.5, "PSFNAXIS": 3, "PSFAXIS1": 11, "PSFAXIS2": 9, "PSFAXIS3": 3, "ACCEPTED": 12,
}  # fmt: skip


def model(n: int = 3) -> np.ndarray:
    rng = np.random.default_rng(8)
    y, x = np.mgrid[-4:5, -5:6]
    core = np.exp(-0.5 * (x * x + y * y) / 2.0**2) / 6
    return np.array([core] + [0.1 * core * rng.uniform(0.5, 1.5, core.shape) for _ in range(n - 1)], "f4")


def table(mask: np.ndarray | None = None, name: str | None = "PSF_DATA", **cards: Any) -> fits.BinTableHDU:
    mask = model() if mask is None else mask
    dim = f"({', '.join(map(str, mask.shape[::-1]))})" if mask.ndim > 1 else None
    column = fits.Column("PSF_MASK", f"{mask.size}E", dim=dim, array=mask[None])
    hdu = fits.BinTableHDU.from_columns([column], name=name)
    for key, value in (CARDS | cards).items():
        if value is not None:
            hdu.header[key] = value
    return hdu


def write(path: Path, *hdus: fits.BinTableHDU) -> Path:
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


def merged(path: Path, ccds: list[str], expnums: list[int]) -> Path:
    """A Legacy Surveys table: cards as columns, a row for each CCD."""
    n = len(ccds)
    columns = [
        fits.Column("psf_mask", f"{model().size}E", dim="(11,9,3)", array=[model() * (i + 1) for i in range(n)]),
        fits.Column("ccdname", "4A", array=ccds),
        fits.Column("expnum", "K", array=expnums),
    ]
    for key, value in CARDS.items():
        kind = {int: "K", float: "D"}.get(type(value), "7A")
        columns.append(fits.Column(key.lower(), kind, array=[value] * n))
    return write(path, fits.BinTableHDU.from_columns(columns))


def peak(psf: PsfexPSF, x: float = 100.0, y: float = 200.0) -> float:
    return float(psf.kernels(x, y)[0].max())


def test_what_is_read(tmp_path: Path) -> None:
    psf = read_psfex(write(tmp_path / "a.psf", table()))
    assert psf.shape == (5, 5)
    assert psf.step == 0.5
    # 0-based 100 and 200 are the file's POLZERO: only the first image counts there
    assert peak(psf) == pytest.approx(model()[0].max(), rel=1e-6)
    np.testing.assert_allclose(psf.coefficients([180.0], [240.0]), [[1, 0.5, 0.5]])
    assert psf.valid_box == Box(100 - 88, 100 + 88, 200 - 44, 200 + 44)
    assert read_psfex(tmp_path / "a.psf", valid_box=Box(0, 1, 0, 1)).valid_box == Box(0, 1, 0, 1)


def test_without_polnaxis(tmp_path: Path) -> None:
    whole = read_psfex(write(tmp_path / "a.psf", table()))
    bare = read_psfex(write(tmp_path / "b.psf", table(name=None, POLNAXIS=None, PSFNAXIS=None, ACCEPTED=None)))
    np.testing.assert_array_equal(bare.kernels(20.0, 30.0), whole.kernels(20.0, 30.0))


@pytest.mark.parametrize("cards", [{"POLNAXIS": 0}, {"POLNAXIS": None}])
@pytest.mark.parametrize("ndim", [2, 3])
def test_constant_models(tmp_path: Path, cards: dict[str, Any], ndim: int) -> None:
    mask = model(1) if ndim == 3 else model(1)[0]
    none = dict.fromkeys(("POLNAME1", "POLNAME2", "POLZERO1", "POLZERO2", "POLSCAL1", "POLSCAL2", "POLDEG1"))
    psf = read_psfex(write(tmp_path / "a.psf", table(mask, **cards, **none)))
    assert psf.valid_box is None
    np.testing.assert_array_equal(psf.kernels(0, 0), psf.kernels(5000, 7000))
    assert peak(psf) == pytest.approx(model()[0].max(), rel=1e-6)


def test_images_without_dimensions(tmp_path: Path) -> None:
    flat = read_psfex(write(tmp_path / "a.psf", table(model().ravel())))
    np.testing.assert_array_equal(flat.kernels(20, 30), read_psfex(write(tmp_path / "b.psf", table())).kernels(20, 30))
    with pytest.raises(PsfError, match="cannot be images"):
        read_psfex(write(tmp_path / "c.psf", table(model().ravel(), PSFAXIS1=12)))


def test_windowed_positions(tmp_path: Path) -> None:
    psf = read_psfex(write(tmp_path / "a.psf", table(POLNAME1="XWIN_IMAGE", POLNAME2="YWIN_IMAGE")))
    assert peak(psf) == pytest.approx(model()[0].max(), rel=1e-6)


def test_merged_tables(tmp_path: Path) -> None:
    path = merged(tmp_path / "m.fits", ["N4", "S31", "N4"], [7, 7, 8])
    assert peak(read_psfex(path, ccdname="S31")) == pytest.approx(2 * model()[0].max(), rel=1e-6)
    assert peak(read_psfex(path, ccdname="n4 ", expnum=8)) == pytest.approx(3 * model()[0].max(), rel=1e-6)
    with pytest.raises(PsfError, match=r"another CCD: CCD N5 .* holds CCDs N4, S31, N4 of exposures 7, 8") as caught:
        read_psfex(path, ccdname="N5")
    assert caught.value.path == str(path)
    with pytest.raises(PsfError, match=r"exposure 9 was asked for"):
        read_psfex(path, ccdname="S31", expnum=9)
    with pytest.raises(PsfError, match="2 rows"):
        read_psfex(path, ccdname="N4")
    path.write_bytes(path.read_bytes().replace(b"S31", b"S\xff1"))
    with pytest.raises(PsfError, match=r"holds CCDs N4, S\\xff1, N4"):
        read_psfex(path, ccdname="S31")
    with pytest.raises(PsfError, match="3 rows"):
        read_psfex(path)
    single = merged(tmp_path / "s.fits", ["N4"], [7])
    assert peak(read_psfex(single)) == pytest.approx(model()[0].max(), rel=1e-6)


def test_a_file_with_an_extension_for_each_ccd(tmp_path: Path) -> None:
    path = write(tmp_path / "a.psf", table(), table(model() * 5, name="OTHER"))
    for hdu in (2, "OTHER", "other"):
        assert peak(read_psfex(path, hdu=hdu)) == pytest.approx(5 * model()[0].max(), rel=1e-6)
    with pytest.raises(PsfError, match="several extensions"):
        read_psfex(path)
    with pytest.raises(PsfError, match="holds no PSFEx model; these do: 1"):
        read_psfex(path, hdu=3)


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"POLNAME1": "MAG_AUTO"}, "varies with 'MAG_AUTO'"),
        ({"POLNAME1": "Y_IMAGE", "POLNAME2": "X_IMAGE"}, "varies with 'Y_IMAGE'; axis 1"),
        ({"POLNAME1": "X2_IMAGE"}, "X2_IMAGE"),
        ({"POLNAXIS": 3}, "3 quantities"),
        ({"POLNAXIS": 1}, "1 quantities"),
        ({"POLNGRP": 2}, "2 groups"),
        ({"POLDEG1": 2}, "3 images for a polynomial of degree 2"),
        ({"POLDEG1": None}, "no usable POLDEG1"),
        ({"POLZERO2": None}, "no usable POLZERO2"),
        ({"POLSCAL1": 0.0}, "scale"),
        ({"PSF_SAMP": None}, "no usable PSF_SAMP"),
        ({"PSF_SAMP": 0.0}, "sampling step"),
        ({"PSF_SAMP": 1e12}, "sampling step"),
        ({"PSF_SAMP": "half"}, "no usable PSF_SAMP"),
        ({"ACCEPTED": 0}, "no star was accepted"),
    ],
)
def test_models_that_cannot_be_used(tmp_path: Path, cards: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "a.psf", table(**cards))
    with pytest.raises(PsfError, match=message) as caught:
        read_psfex(path)
    assert caught.value.path == str(path)
    assert caught.value.hdu == 1
    assert caught.value.fix


def test_no_light(tmp_path: Path) -> None:
    with pytest.raises(PsfError, match=r"b\.psf\[1\], row 0: .*no light"):
        read_psfex(write(tmp_path / "b.psf", table(model() * 0)))
    with pytest.raises(PsfError, match="not finite"):
        read_psfex(write(tmp_path / "c.psf", table(model() * np.float32("nan"))))


def test_files_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(PsfError, match="not a PSFEx model"):
        read_psfex(write(tmp_path / "a.fits", fits.BinTableHDU.from_columns([fits.Column("x", "D", array=[1.0])])))
    with pytest.raises(PsfError, match="no rows"):
        read_psfex(write(tmp_path / "b.fits", fits.BinTableHDU(table().data[:0], name="PSF_DATA")))


@pytest.mark.parametrize("size", [0, 1, 100, 2880, 2881, 5000, 5760, 6500, 8639])
def test_truncated_files(tmp_path: Path, size: int) -> None:
    whole = write(tmp_path / "a.psf", table()).read_bytes()
    assert len(whole) == 8640
    path = tmp_path / "short.psf"
    path.write_bytes(whole[:size])
    # cut exactly after an HDU a file is shorter, not broken
    with pytest.raises(PsfError if size == 2880 else CorruptFileError) as caught:
        read_psfex(path)
    assert caught.value.path == str(path)


def test_other_broken_files(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="absent"):
        read_psfex(tmp_path / "absent.psf")
    (tmp_path / "text.psf").write_text("this is no FITS file" * 300)
    with pytest.raises(CorruptFileError):
        read_psfex(tmp_path / "text.psf")
    whole = write(tmp_path / "a.psf", table()).read_bytes()
    packed = gzip.compress(whole)
    (tmp_path / "a.psf.gz").write_bytes(packed)
    assert peak(read_psfex(tmp_path / "a.psf.gz")) == pytest.approx(model()[0].max(), rel=1e-6)
    (tmp_path / "b.psf.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(CorruptFileError):
        read_psfex(tmp_path / "b.psf.gz")


@pytest.mark.parametrize(("form", "values"), [("4A", "text"), ("4L", [True] * 4), ("2C", [1j, 2j])])
def test_images_that_are_no_numbers(tmp_path: Path, form: str, values: Any) -> None:
    hdu = fits.BinTableHDU.from_columns([fits.Column("PSF_MASK", form, array=[values])], name="PSF_DATA")
    hdu.header.update(CARDS)
    with pytest.raises(PsfError, match="no numbers"):
        read_psfex(write(tmp_path / "a.psf", hdu))
