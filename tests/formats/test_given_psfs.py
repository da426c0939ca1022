"""PSFs that replace an image's own: every kind, and those that belong to another image."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.nddata import NDData
from astropy.table import QTable
from photutils.psf import GriddedPSFModel, make_epsf_from_psf

from kits.plain_images import SCALE, plain_header, write_plain_image
from skygraft.campaign import Campaign
from skygraft.catalog import write_catalog
from skygraft.errors import CampaignError, ConfigError, CorruptFileError, PsfError
from skygraft.formats import psf_kinds, read_calibration, read_exposure
from skygraft.formats.base import FILES
from skygraft.formats.given import make_psf
from skygraft.formats.psf_kinds import recognise_psf
from skygraft.formats.psf_target import PsfTarget
from skygraft.injection import inject
from skygraft.psf import FixedKernelPSF, GaussianPSF, GriddedPSF, check_psf

RA, DEC, SIZE = 150.0, 2.0, 96


def spot(n: int, sampling: float, sigma: float) -> np.ndarray:
    y, x = (np.mgrid[:n, :n] - (n - 1) / 2) / sampling
    image = np.exp(-(x**2 + 1.1 * y**2) / (2 * sigma**2))
    return np.asarray(image / image.sum())


def write_psf(path: Path, data: np.ndarray | None = None, **cards: Any) -> Path:
    """A PSF image on the pixels of plain images, if nothing else is said."""
    header = fits.Header({"PIXSCALE": SCALE, **cards})
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(spot(25, 1, 1.5) if data is None else data, header).writeto(path, overwrite=True)
    return path


def write_grid(path: Path, last: float = SIZE - 1.0, **cards: Any) -> Path:
    images = make_epsf_from_psf(np.array([spot(61, 4, 0.55 * s) for s in (1, 1.1, 1.2, 1.3)]) * 16, oversampling=4)
    places = [(0.0, 0.0), (0.0, last), (last, 0.0), (last, last)]
    keys = {f"DET_YX{i}": str(place) for i, place in enumerate(places)}
    return write_psf(path, images, OVERSAMP=4, DET_SAMP=4, PIXELSCL=SCALE / 4, **keys, **cards)


def empty_image(path: Path, **cards: Any) -> Path:
    fits.PrimaryHDU(np.zeros((SIZE, SIZE), np.float32), plain_header(RA, DEC, SIZE, **cards)).writeto(path)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return empty_image(tmp_path / "image.fits")


def test_undersampled_stars_are_drawn_at_their_own_phase(image: Path, tmp_path: Path) -> None:
    path = write_grid(tmp_path / "grid.fits")
    exposure = read_exposure(image, psf=path)
    stars = QTable({"injection_id": [1, 2], "source_type": ["Star"] * 2, "mag_r": [15.0, 15.0]})
    x, y = np.array([25.31, 70.87]), np.array([66.52, 21.09])
    stars["ra"], stars["dec"] = exposure.wcs.pixel_to_world_values(x, y)
    drawn = inject(exposure, stars, noise=False, flux_mode="psf_sum").exposure.image
    with fits.open(path) as hdus:
        places = [(0, 0), (SIZE - 1, 0), (0, SIZE - 1), (SIZE - 1, SIZE - 1)]
        model = GriddedPSFModel(NDData(hdus[0].data.astype(float), meta={"grid_xypos": places, "oversampling": 4}))
    columns, rows = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    total = 0.0
    for at_x, at_y in zip(x, y, strict=True):
        model.x_0, model.y_0 = at_x, at_y
        expected = model(columns, rows)
        near = np.hypot(columns - at_x, rows - at_y) < 12
        scale = drawn[near].sum(dtype=float) / expected[near].sum()
        assert np.abs(drawn - scale * expected)[near].max() < 1e-6 * scale * expected.max()
        total += scale
    # the factor is that of psf_sum: unit light is the calibrated flux
    assert total == pytest.approx(2 * 10 ** (0.4 * (27 - 15)), rel=2e-4)


@pytest.mark.parametrize(
    "name", ["image", "grid", "stamp", "psfex", "psfex-kind", "psfield", "exposure", "function", "kernels", "band"]
)
def test_every_kind_keeps_the_contract_of_psfs(name: str, image: Path, tmp_path: Path, data_dir: Path) -> None:
    given: Any
    match name:
        case "image":
            given = write_psf(tmp_path / "psf.fits")
        case "grid":
            given = {"path": write_grid(tmp_path / "grid.fits", FILTER="r")}
        case "stamp":
            stamp = write_psf(tmp_path / "psf.fits", spot(52, 4, 0.6), DET_SAMP=4, OVERSAMP=4, PIXELSCL=SCALE / 4)
            given = {"kind": "webbpsf", "path": stamp}
        case "psfex":
            given = data_dir / "video_H" / "image_1.psf"
        case "psfex-kind":
            given = {"kind": "psfex", "path": data_dir / "video_H" / "image_1.psf"}
        case "psfield":
            from psf.test_psf_image_files import psfield

            given = psfield(tmp_path / "psField.fit", np.random.default_rng(1))
        case "exposure":
            given = data_dir / "afw_reference" / "calexp_05_tansip_psfex_rice.fits"
            image = empty_image(tmp_path / "same.fits", CD1_1=-0.17 / 3600, CD2_2=0.17 / 3600)
            given = {"kind": "exposure", "path": given, "insist": True}
        case "function":
            given = {"kind": "function", "function": f"{__name__}:made_for", "arguments": {"fwhm": 3.1}}
        case "kernels":
            given = {"kind": "function", "function": f"{__name__}:kernels_for"}
        case _:
            given = {"band": {"g": "absent.fits", "r": {"kind": "gaussian", "fwhm": "0.7 arcsec"}}}
    exposure = read_exposure(image, psf=given)
    assert exposure.psf is not None
    check_psf(exposure.psf, [3.0, 50.0, 94.0], [90.0, 48.0, 2.0])
    assert read_calibration(image, psf=given).psf == exposure.psf
    if isinstance(given, Path):
        assert os.fspath(given) in exposure.extra[FILES]
    elif "path" in given:
        assert os.fspath(given["path"]) in exposure.extra[FILES]


def made_for(image: dict[str, Any], fwhm: float) -> GaussianPSF:
    assert image["band"] == "r"
    assert image["visit"] == 77
    return GaussianPSF(fwhm=fwhm * 0.2 / image["pixel_scale"])


def _kernels(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([spot(21, 1, 1.5 + at / 1000) for at in x])


def kernels_for(image: dict[str, Any]) -> Any:
    return _kernels


def bad(image: dict[str, Any], what: str) -> Any:
    match what:
        case "text":
            return "moffat"
        case "even":
            return lambda x, y: np.ones((len(x), 4, 4))
        case "raise":
            raise ValueError("no such\nimage")
        case _:
            return lambda x, y: np.ones((len(x), 5, 5))


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("text", "returned a str, neither a PSF nor a function"),
        ("even", "even size"),
        ("raise", "ValueError: no such image"),
        ("lambda", "pickle"),
    ],
)
def test_functions_that_make_no_psf(image: Path, what: str, match: str) -> None:
    with pytest.raises(PsfError, match=match) as caught:
        read_exposure(image, psf={"kind": "function", "function": f"{__name__}:bad", "arguments": {"what": what}})
    assert caught.value.path == str(image)


def test_function_names(image: Path) -> None:
    for name, match in ((f"{__name__}:absent", "cannot be imported"), ("os:sep", "is no function"), ("os", "needed")):
        with pytest.raises(ConfigError, match=match):
            read_exposure(image, psf={"kind": "function", "function": name})


def test_kinds_that_packages_add(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "site" / "survey_psfs-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: survey_psfs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[skygraft.psfs]\nour_survey = {__name__}:made_for\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    importlib.invalidate_caches()
    psf_kinds._installed.cache_clear()
    try:
        psf = read_exposure(image, psf={"kind": "our_survey", "fwhm": 3.0}).psf
        assert psf is not None
        assert psf.description.startswith("GaussianPSF, sigma 1.274")
    finally:
        monkeypatch.undo()
        psf_kinds._installed.cache_clear()
    with pytest.raises(ConfigError, match="psf kind is 'our_survey'; allowed: gaussian, moffat, psfex, piff"):
        read_exposure(image, psf={"kind": "our_survey", "fwhm": 3.0})


@pytest.mark.parametrize(
    ("cards", "match"),
    [
        ({"FILTER": "g"}, "of band 'g' .FILTER., the image image.fits of band 'r'"),
        ({"BAND": "R"}, "of band 'R' .BAND."),
        ({"EXPNUM": 78}, "of exposure 78 .EXPNUM., the image image.fits of exposure 77"),
        ({"CCDNUM": 2}, "of detector 2 .CCDNUM., the image image.fits of detector 1"),
    ],
)
def test_a_psf_of_another_image_is_refused(image: Path, tmp_path: Path, cards: dict[str, Any], match: str) -> None:
    path = write_psf(tmp_path / "psf.fits", **cards)
    with pytest.raises(PsfError, match=match) as caught:
        read_exposure(image, psf=path)
    assert caught.value.path == str(path)
    assert "insist: true" in str(caught.value.fix)
    assert read_exposure(image, psf={"path": path, "insist": True}).psf is not None


def test_what_agrees_is_not_refused(image: Path, tmp_path: Path) -> None:
    path = write_psf(tmp_path / "psf.fits", FILTER="r DECam SDSS c0002", EXPNUM=77, CCDNUM=1, DETECTOR="MULTIPLE")
    assert read_exposure(image, psf=path).psf is not None


def test_a_grid_that_does_not_cover_the_image_is_refused(image: Path, tmp_path: Path) -> None:
    path = write_grid(tmp_path / "grid.fits", last=40.0)
    with pytest.raises(PsfError, match=r"covers x 0 to 40, y 0 to 40, and the image image.fits has x 0 to 95"):
        read_exposure(image, psf=path)
    assert isinstance(read_exposure(image, psf={"path": path, "insist": True}).psf, GriddedPSF)


def test_a_psf_for_other_pixels_is_refused(image: Path, tmp_path: Path) -> None:
    path = write_psf(tmp_path / "psf.fits", spot(52, 4, 0.6), DET_SAMP=4, OVERSAMP=4, PIXELSCL=0.063 / 4)
    with pytest.raises(PsfError, match=r"made for pixels of 0.063 arcsec .*, the image has pixels of 0.2 arcsec"):
        read_exposure(image, psf=path)


def test_kinds_are_recognised_by_content(tmp_path: Path, data_dir: Path) -> None:
    from psf.test_psf_image_files import psfield

    files = {
        write_psf(tmp_path / "a.psf"): "image",
        write_grid(tmp_path / "b.dat"): "image",
        psfield(tmp_path / "c.fits", np.random.default_rng(1)): "psfield",
        shutil.copyfile(data_dir / "video_H" / "image_1.psf", tmp_path / "d.fits"): "psfex",
        data_dir / "afw_reference" / "calexp_01_tan_singlegauss.fits": "exposure",
    }
    assert {path: recognise_psf(path) for path in files} == files


def test_what_no_reader_takes_is_refused_by_name(image: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("FWHM 0.8 arcsec")
    fits.BinTableHDU.from_columns([fits.Column("A", "E", array=[1.0])]).writeto(tmp_path / "table.fits")
    for name in ("notes.txt", "table.fits"):
        with pytest.raises(PsfError, match=r"no PSF that is recognised: no PSFEx model .*, no psField table") as caught:
            read_exposure(image, psf=tmp_path / name)
        assert caught.value.path == str(tmp_path / name)
    (tmp_path / "empty.fits").touch()
    with pytest.raises(CorruptFileError, match="empty"):
        read_exposure(image, psf={"kind": "image", "path": tmp_path / "empty.fits"})
    with pytest.raises(CorruptFileError):
        read_exposure(image, psf={"path": tmp_path / "absent.fits"})
    with pytest.raises(ConfigError, match="'oversampling' is not a part of a psfield psf"):
        from psf.test_psf_image_files import psfield

        path = psfield(tmp_path / "psField.fit", np.random.default_rng(1))
        read_exposure(image, psf={"path": path, "oversampling": 4})
    with pytest.raises(PsfError, match="is of band 'r', and PSFs are given for g, i"):
        read_exposure(image, psf={"band": {"g": "g.fits", "i": "i.fits"}})


def test_without_an_image_only_the_pixel_scale_is_known(tmp_path: Path) -> None:
    path = write_psf(tmp_path / "psf.fits", FILTER="g", EXPNUM=3)
    assert make_psf(path, SCALE).shape == (25, 25)
    psf = FixedKernelPSF(spot(5, 1, 1))
    assert make_psf(psf, SCALE, PsfTarget(SCALE)) is psf


def test_piff_files(image: Path, tmp_path: Path) -> None:
    piff, galsim = pytest.importorskip("piff"), pytest.importorskip("galsim")
    stars = []
    for x, y in np.random.default_rng(3).uniform(5, 90, (12, 2)):
        star = piff.Star.makeTarget(x=x, y=y, wcs=galsim.PixelScale(SCALE), stamp_size=21)
        galsim.Gaussian(sigma=0.3 + 0.001 * x).drawImage(star.image, center=star.image_pos)
        stars.append(star)
    model, interp = piff.Gaussian(include_pixel=False), piff.Polynomial(order=1)
    psf = piff.SimplePSF(model, interp)
    psf.fit(stars, {0: galsim.PixelScale(SCALE)}, None)
    path = tmp_path / "model.piff"
    psf.write(str(path))
    assert recognise_psf(path) == "piff"
    with pytest.raises(PsfError, match="allow_pickle"):
        read_exposure(image, psf=path)
    ours = read_exposure(image, psf={"path": path, "allow_pickle": True, "size": 25}).psf
    assert ours is not None
    check_psf(ours, [3.0, 50.0], [90.0, 48.0])
    for x, y in ((10.0, 20.0), (80.0, 3.5)):
        # Piff counts pixels from one
        expected = psf.draw(x + 1, y + 1, chipnum=0, stamp_size=25, center=True).array
        assert np.abs(ours.kernels([x], [y])[0] - expected / expected.sum()).max() < 1e-6


def test_a_package_that_a_piff_file_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DES's files hold WCS of the package pixmappy."""
    piff = pytest.importorskip("piff")

    def read(path: str) -> None:
        raise ModuleNotFoundError("No module named 'pixmappy'", name="pixmappy")

    monkeypatch.setattr(piff, "read", read)
    table = fits.BinTableHDU(QTable({"type": ["Simple"]}), name="psf")
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path := tmp_path / "des_piff.fits")
    with pytest.raises(PsfError, match=r"the package pixmappy, which is not installed.*pip install pixmappy"):
        make_psf({"kind": "piff", "path": path, "allow_pickle": True}, SCALE)


def write_campaign(folder: Path, psf: Any) -> Campaign:
    for visit, band in ((1, "g"), (2, "r"), (3, "r")):
        write_plain_image(folder / f"raw/{visit}.fits", RA, DEC, SIZE, seed=visit, EXPNUM=visit, FILTER=band)
    stars = {"injection_id": [1], "ra": [RA], "dec": [DEC], "source_type": ["Star"], "mag_g": [17.0], "mag_r": [17.0]}
    write_catalog(QTable(stars), folder / "fakes.parquet")
    content = {
        "name": "psfs",
        "survey": {"images": "raw/*.fits", "calibration": {"psf": psf}},
        "catalog": {"path": "fakes.parquet"},
        "output": "out",
    }
    (folder / "psfs.yaml").write_text(yaml.safe_dump(content))
    return Campaign.from_yaml(folder / "psfs.yaml")


def outcome(folder: Path) -> dict[str, list[int]]:
    """The PSF file of each record, by visit, with its identity."""
    import json

    found = {}
    for path in sorted((folder / "out").rglob("*.json")):
        record = json.loads(path.read_text())
        if isinstance(record, dict) and "inputs" in record:
            visit = next(name for name in record["inputs"] if name.startswith("raw/"))
            found[visit] = [record["inputs"][name] for name in record["inputs"] if name.startswith("psfs/")]
    return found


def test_a_campaign_with_a_psf_for_each_image(tmp_path: Path) -> None:
    campaign = write_campaign(tmp_path, {"kind": "image", "path": "psfs/{visit:03d}-{band}.fits"})
    for visit, band in ((1, "g"), (2, "r")):
        write_psf(tmp_path / f"psfs/{visit:03d}-{band}.fits", FILTER=band, EXPNUM=visit)
    result = campaign.run(n_workers=0)
    # that of one image is missing
    assert (result.n_done, result.n_failed) == (2, 1)
    assert "003-r.fits" in str(result.failures[0])
    before = outcome(tmp_path)
    assert {name: len(files) for name, files in before.items()} == {"raw/1.fits": 1, "raw/2.fits": 1}

    # It appears, and another one changes: only these images are made.
    write_psf(tmp_path / "psfs/003-r.fits", FILTER="r", EXPNUM=3)
    write_psf(tmp_path / "psfs/001-g.fits", spot(25, 1, 1.8), FILTER="g", EXPNUM=1)
    again = Campaign.from_yaml(tmp_path / "psfs.yaml")
    with pytest.raises(CampaignError, match=r"input psfs/001-g.fits was changed"):
        again.run(n_workers=0)
    again = again.run(n_workers=0, redo=True)
    after = outcome(tmp_path)
    assert (again.n_done, again.n_failed) == (2, 0)
    assert after["raw/2.fits"] == before["raw/2.fits"]
    assert after["raw/1.fits"] != before["raw/1.fits"]
    assert len(after["raw/3.fits"]) == 1


def test_this_module_can_be_imported_by_name() -> None:
    assert sys.modules[__name__].made_for is made_for
