"""The index of a survey: complete, in order, and never stopped by one bad image."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from skygraft.errors import ConfigError
from skygraft.formats import read_exposure
from skygraft.survey import index_images, index_kinds, register_index_kind

NX, NY, SCALE = 30, 20, 0.36


def make_image(path: Path, *, visit: int | None = 1, ccds: int = 0, ra: float = 10.0, **cards: Any) -> Path:
    """An image of 30 x 20 pixels; with several CCDs, one HDU each."""
    wcs = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": ra, "CRVAL2": 0.0, "CRPIX1": 15.5, "CRPIX2": 10.5}
    wcs |= {"CD1_1": -SCALE / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": SCALE / 3600, "MAGZERO": 27.0, "FILTER": "r"}
    if visit is not None:
        wcs |= {"EXPNUM": visit}
    data = np.ones((NY, NX), np.float32)
    hdus = [fits.ImageHDU(data, name=f"C{i}") for i in range(1, ccds + 1)] or [fits.ImageHDU(data, name="SCI")]
    for i, hdu in enumerate(hdus):
        hdu.header.update(wcs | {"CCDNUM": i + 1, "INSTRUME": "cam"} | cards)
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Good images in two folders, and one of every kind of bad one."""
    make_image(tmp_path / "b" / "two.fits", visit=2, ra=350.0)
    make_image(tmp_path / "a" / "one.fits", visit=1)
    fits.ImageHDU(np.ones((NY, NX), np.float32)).writeto(tmp_path / "a" / "one.weight.fits")
    make_image(tmp_path / "c" / "again.fits", visit=1)
    whole = make_image(tmp_path / "d" / "cut.fits", visit=4)
    whole.write_bytes(whole.read_bytes()[:5000])
    (tmp_path / "d" / "empty.fits").touch()
    (tmp_path / "d" / "text.fits").write_text("hello")
    (tmp_path / "d" / ".hidden.fits").write_text("being written")
    make_image(tmp_path / "d" / "nowcs.fits", visit=5, CTYPE1="X", CTYPE2="Y")
    return tmp_path


def test_index_is_sorted_and_complete(folder: Path) -> None:
    index = index_images({"images": "**/*.fits"}, folder)
    assert list(index["image_id"]) == ["cam-1-1", "cam-2-1"]
    assert list(index["path"]) == ["a/one.fits", "b/two.fits"]
    row = index[1]
    assert (row["ra"], row["dec"]) == pytest.approx((350, 0), abs=1e-9)
    assert (row["nx"], row["ny"], row["band"], row["visit"], row["detector"]) == (NX, NY, "r", 2, "1")
    assert row["pixel_scale"] == pytest.approx(SCALE, rel=1e-6)
    assert np.ma.is_masked(row["mjd"])
    polygon = np.asarray(row["polygon"])
    assert np.ptp(polygon[:, 0]) * 3600 == pytest.approx(NX * SCALE, rel=1e-5)
    assert np.ptp(polygon[:, 1]) * 3600 == pytest.approx(NY * SCALE, rel=1e-5)
    sizes = [(folder / "a" / name).stat().st_size for name in ("one.fits", "one.weight.fits")]
    assert index[0]["n_bytes"] == sum(sizes)


def test_bad_images_are_rows_with_reasons(folder: Path) -> None:
    index = index_images({"images": "**/*.fits"}, folder)
    failures = index.meta["failures"]
    assert {row["path"]: (row["kind"], row["error"]) for row in failures} == {
        "c/again.fits": ("duplicate", "FormatError"),
        "d/cut.fits": ("error", "CorruptFileError"),
        "d/empty.fits": ("error", "CorruptFileError"),
        "d/text.fits": ("error", "UnknownFormatError"),
        "d/nowcs.fits": ("error", "MissingWcsError"),
    }
    duplicate = failures[failures["kind"] == "duplicate"][0]
    assert duplicate["image_id"] == "cam-1-1" and "a/one.fits" in duplicate["reason"]
    assert index.meta["companions"] == ["a/one.weight.fits"]


def test_same_result_however_it_is_made(folder: Path) -> None:
    plain = index_images({"images": "**/*.fits"}, folder)
    seen: list[tuple[int, int]] = []
    with ThreadPoolExecutor(4) as pool:
        other = index_images(
            {"images": ["d/*.fits", "c/*", "b/two.fits", "a/*.fits", "a/one.fits"]},
            folder,
            progress=lambda done, total: seen.append((done, total)),
            mapper=pool.map,
        )
    for name in plain.colnames:
        assert list(plain[name]) == list(other[name]) or name == "mjd"
    for name in plain.meta["failures"].colnames:
        assert list(plain.meta["failures"][name]) == list(other.meta["failures"][name])
    assert seen == [(i + 1, 8) for i in range(8)]


def test_a_file_named_outright_that_is_missing_is_a_failure(tmp_path: Path) -> None:
    index = index_images({"images": "nothing.fits"}, tmp_path)
    assert len(index) == 0
    assert list(index.meta["failures"]["path"]) == ["nothing.fits"]
    empty = index_images({"images": "*.fits"}, tmp_path)
    assert len(empty) == 0 and len(empty.meta["failures"]) == 0 and "polygon" in empty.colnames


def test_directories_with_brackets_and_absolute_patterns(tmp_path: Path) -> None:
    make_image(tmp_path / "run[1]" / "one.fits")
    for spec, base in ((("*.fits"), tmp_path / "run[1]"), (str(tmp_path / "run*" / "*.fits"), tmp_path / "x")):
        index = index_images({"images": spec}, base)
        assert list(index["image_id"]) == ["cam-1-1"]
        assert (base / index["path"][0]).samefile(tmp_path / "run[1]" / "one.fits")


def test_every_ccd_of_a_file(tmp_path: Path) -> None:
    make_image(tmp_path / "m.fits", ccds=3)
    single = index_images({"images": "m.fits"}, tmp_path)
    assert len(single) == 0 and "Choose one with hdu=" in single.meta["failures"]["reason"][0]
    index = index_images({"images": "m.fits", "options": {"hdu": "all"}}, tmp_path)
    assert list(index["image_id"]) == ["cam-1-1", "cam-1-2", "cam-1-3"]
    assert list(index["hdu"]) == ["1", "2", "3"]
    options = json.loads(index["options"][2])
    assert str(read_exposure(tmp_path / "m.fits", **options).data_id) == "cam-1-3"


def test_options_reach_the_format(tmp_path: Path) -> None:
    make_image(tmp_path / "a.fits", visit=None)
    index = index_images({"images": "a.fits", "format": "fits", "options": {"visit": 9, "band": "z"}}, tmp_path)
    assert (index["image_id"][0], index["band"][0]) == ("cam-9-1", "z")
    assert json.loads(index["options"][0]) == {"visit": 9, "band": "z"}
    bad = index_images({"images": "a.fits", "options": {"vizit": 9}}, tmp_path)
    assert "Did you mean 'visit'" in bad.meta["failures"]["reason"][0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "one way to list images is needed"),
        ({"images": "*", "ccds": "c.fits"}, "images and ccds are given"),
        ({"image": "*"}, "Did you mean 'images'"),
        ({"stack": {"repo": "x"}}, "those are: images, ccds, butler"),
        ({"images": 3}, "a path or a list of paths"),
        ({"images": "*", "options": "x"}, "a mapping is needed"),
    ],
)
def test_bad_specifications(tmp_path: Path, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        index_images(spec, tmp_path)


def test_a_kind_can_be_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from skygraft.survey import index as survey

    monkeypatch.setattr(survey, "_KINDS", dict(survey._KINDS))
    path = make_image(tmp_path / "a.fits")
    register_index_kind("listed", lambda value, base, fmt, options: iter([survey.ImageJob(str(path), fmt, options)]))
    assert "listed" in index_kinds()
    assert list(index_images({"listed": True}, tmp_path)["image_id"]) == ["cam-1-1"]


@pytest.mark.data
def test_real_surveys(data_dir: Path, tmp_path: Path) -> None:
    vircam = index_images({"images": "image_*.fits"}, data_dir / "video_H")
    assert list(vircam["image_id"]) == ["11981-13", "12023-13", "32369-13", "43136-13"]
    # Four exposures of one field: their centres lie within some arcseconds.
    assert np.ptp(vircam["ra"]) * 3600 < 10 and np.ptp(vircam["dec"]) * 3600 < 10
    table = data_dir / "decam_grz" / "survey-ccds-1.fits.gz"
    ccds = index_images({"ccds": "survey-ccds-1.fits.gz"}, data_dir / "decam_grz")
    assert len(ccds) == 3 and set(ccds["format"]) == {"legacy_survey"}
    rows = Table.read(table)
    for row in ccds:
        own = rows[rows["expnum"] == row["visit"]][0]
        # The table's centres are those of a plain TAN: a few arcseconds from the distorted WCS.
        assert abs(row["dec"] - own["dec"]) * 3600 < 6 and abs(row["ra"] - own["ra"]) * 3600 < 6
        exposure = read_exposure(
            data_dir / "decam_grz" / row["path"],
            format=row["format"],
            hdu=int(row["hdu"]),
            **json.loads(row["options"]),
        )
        assert str(exposure.data_id) == row["image_id"]
    everything = index_images({"images": "**/*_oo?_*.fits"}, data_dir / "decam_grz")
    # The table was found above the image; a copy elsewhere is read with the same one.
    copied = data_dir / "decam_grz" / everything["path"][0]
    for kind in ("ooi", "oow", "ood"):
        name = copied.name.replace("_ooi_", f"_{kind}_")
        (tmp_path / name).write_bytes(copied.with_name(name).read_bytes())
    elsewhere = read_exposure(tmp_path / copied.name, **json.loads(everything["options"][0]))
    assert elsewhere.photo_calib == read_exposure(copied).photo_calib and elsewhere.psf is not None
    assert list(everything["image_id"]) == list(ccds["image_id"])
    assert len(everything.meta["companions"]) == 6
