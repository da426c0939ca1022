"""Coadds of the Legacy Surveys: the survey's documents, astropy, fitsio and Source Extractor are the oracles."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from kits.coadd_tiles import BRICK, MASK_NAMES, SIZE, brick_name, write_brick
from skygraft import inject
from skygraft.catalog import normalize_catalog
from skygraft.errors import ConfigError, FormatError, OutputExistsError, PsfError
from skygraft.exposure import add_mask_plane
from skygraft.formats import read_calibration, read_exposure, read_footprint, recognise_format, write_exposure
from skygraft.formats.conformance import check_format
from skygraft.formats.legacy_brick import LegacyBrickFormat
from skygraft.photometry import PSF_MODEL
from skygraft.psf import MoffatMapPSF
from skygraft.survey import index_images

MAG = 19.0


def stars(path: Path, *places: tuple[float, float], mag: float = MAG):
    with fits.open(path) as hdus:
        ra, dec = WCS(hdus[1].header).pixel_to_world_values(*np.transpose(places))
    table = {"ra": ra, "dec": dec, "source_type": ["Star"] * len(places), "mag": [mag] * len(places)}
    return normalize_catalog(Table({"injection_id": np.arange(len(places)), **table}), band="r")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_conformance(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    path = write_brick(tmp_path / "in")
    assert recognise_format(path).name == "legacy_brick"
    check_format(LegacyBrickFormat(), path, tmp_path / "out")


def test_what_the_survey_says(tmp_path):
    path = write_brick(tmp_path)
    exposure = read_exposure(path)
    calib = exposure.photo_calib
    assert calib.zeropoint() == pytest.approx(22.5, abs=1e-12) and calib.unit == "nanomaggy"
    assert calib.reference is PSF_MODEL and "PSF fits" in calib.reference_origin
    assert (exposure.data_id.band, exposure.data_id.tract) == ("r", 330368)
    assert str(exposure.data_id) == f"legacysurvey-{BRICK}-r"
    assert exposure.visit_info.mjd == pytest.approx(57534.2061)
    assert exposure.gain is None
    np.testing.assert_allclose(np.median(exposure.variance), 0.004**2, rtol=0.01)
    assert list(exposure.mask_planes)[:20] == list(MASK_NAMES)
    assert read_calibration(path).photo_calib == calib


def test_positions_are_those_of_gaia(tmp_path):
    """The header has EQUINOX = 2000 and no RADESYS, which is FK5 by the standard; the survey's positions are ICRS."""
    path = write_brick(tmp_path, kinds=("image",))
    wcs = read_exposure(path).wcs
    with fits.open(path) as hdus:
        oracle = WCS(hdus[1].header)
    x, y = np.random.default_rng(1).uniform(0, SIZE, (2, 50))
    found = wcs.world_to_pixel_values(*oracle.pixel_to_world_values(x, y))
    np.testing.assert_allclose(found, (x, y), rtol=0, atol=1e-6)
    path = write_brick(tmp_path, "g", kinds=("image",), cards={"RADESYS": "FK5"})
    apart = np.array(read_exposure(path).wcs.world_to_pixel_values(*wcs.pixel_to_world_values(x, y))) - (x, y)
    assert np.hypot(*apart).mean() == pytest.approx(0.0234 / 0.262, rel=0.1)


@pytest.mark.parametrize(
    ("release", "radius"), [("dr3", 3.5), ("dr5", 3.5), ("dr6", None), ("dr8", None), ("dr11", None)]
)
def test_what_the_zeropoint_of_a_release_was_measured_in(tmp_path, release, radius):
    path = write_brick(tmp_path, kinds=("image",), release=release)
    calib = read_exposure(path).photo_calib
    if radius is None:
        assert calib.reference is PSF_MODEL
    else:
        assert calib.aperture.radius_arcsec == radius
        assert "dr5/description" in calib.reference_origin


def test_closure_in_the_aperture_of_early_releases(tmp_path):
    """Of a Gaussian, the flux inside a radius is known: 1 - exp(-r^2 / 2 sigma^2)."""
    path = write_brick(tmp_path, kinds=("image",), release="dr5", image=np.zeros((SIZE, SIZE), np.float32))
    exposure = read_exposure(path, psf={"kind": "gaussian", "fwhm": f"{5 * 2.3548200450309493} pix"})
    injection = inject(exposure, stars(path, (60.3, 64.6)), seed=1, noise=False)
    inside = 1 - np.exp(-((3.5 / 0.262) ** 2) / (2 * 5**2))
    total = injection.exposure.image.astype(float).sum()
    assert 22.5 - 2.5 * np.log10(total * inside) == pytest.approx(MAG, abs=1e-4)


@pytest.mark.parametrize("bits", ["MBIT_{}", "BITNM{}", ""])
def test_names_of_mask_bits(tmp_path, bits):
    """In the header since DR8, and of DR11's new bits, which need 32."""
    mask = np.zeros((SIZE, SIZE), np.int32)
    mask[3, 4], mask[5, 6] = 1 << 19, (1 << 14) | 1
    exposure = read_exposure(write_brick(tmp_path, bits=bits, mask=mask))
    planes = exposure.mask_planes
    assert planes["WISE_GAIA"] == 1 << 19 and planes["SATUR_I"] == 1 << 14 and planes["NPRIMARY"] == 1
    assert exposure.mask[3, 4] == 1 << 19 and exposure.mask[5, 6] == (1 << 14) | 1


def test_names_in_the_header_hold(tmp_path):
    """A survey of other bands uses the same bits for them."""
    path = write_brick(tmp_path)
    mask = tmp_path / brick_name("maskbits", None)
    with fits.open(mask) as hdus:
        hdus[1].header["MBIT_2"] = "SATUR_M411"
        hdus.writeto(tmp_path / "new.fits")
    (tmp_path / "new.fits").replace(mask)
    planes = read_exposure(path).mask_planes
    assert planes["SATUR_M411"] == 4 and "SATUR_G" not in planes
    assert read_exposure(path, mask_planes={"MINE": 2}).mask_planes["MINE"] == 4


def test_the_psf_has_the_effective_area_of_the_map(tmp_path):
    path = write_brick(tmp_path)
    exposure = read_exposure(path)
    assert isinstance(exposure.psf, MoffatMapPSF) and exposure.psf.shape == (63, 63)
    assert "approximation" in exposure.psf.description and "approximation" in exposure.extra["caution"]
    for x, fwhm in ((10.0, 1.25), (100.0, 1.4)):
        kernel = exposure.psf.kernels([x], [50.0])[0]
        # psfsize is 2.3548 times sigma of the Gaussian with the same sum of squares (legacypipe/coadds.py).
        psfnorm = np.sqrt(np.sum(kernel**2))
        assert 2.354820 / (2 * np.sqrt(np.pi) * psfnorm) * 0.262 == pytest.approx(fwhm, rel=1e-3)
    narrow = read_exposure(path, psf_beta=2.5).psf.kernels([10.0], [50.0])[0]
    assert narrow.max() > exposure.psf.kernels([10.0], [50.0])[0].max()
    with pytest.raises(ConfigError, match="psf_beta"):
        read_exposure(path, psf_beta=1.0)


def test_a_brick_that_is_covered_in_part(tmp_path):
    """The map of sizes is zero where no exposure is; a source there has the PSF of the nearest."""
    sizes = np.full((SIZE, SIZE), 1.2, np.float32)
    sizes[:, : SIZE // 2] = 0
    path = write_brick(tmp_path, sizes=sizes)
    injection = inject(read_exposure(path), stars(path, (45.0, 60.0), (80.0, 60.0)), seed=1, noise=False)
    np.testing.assert_allclose(injection.truth["flux_deposited"], 10 ** (0.4 * (22.5 - MAG)), rtol=1e-4)


def test_a_psf_image_of_the_coadd_comes_first(tmp_path):
    path = write_brick(tmp_path)
    y, x = np.mgrid[-20:21, -20:21]
    stamp = np.exp(-(x**2 + y**2) / 18.0).astype(np.float32)
    fits.PrimaryHDU(stamp).writeto(tmp_path / brick_name("copsf"))
    psf = read_exposure(path).psf
    kernel, expected = psf.kernels([5.0], [5.0])[0], stamp / stamp.astype(float).sum()
    np.testing.assert_allclose(kernel, expected, rtol=0, atol=1e-6 * expected.max())
    assert "caution" not in read_exposure(path).extra
    fits.PrimaryHDU(np.roll(stamp, 7, axis=0)).writeto(tmp_path / brick_name("copsf"), overwrite=True)
    with pytest.raises(PsfError, match="centr"):
        read_exposure(path)
    assert read_exposure(path, psf={"kind": "moffat", "fwhm": "1 arcsec"}).psf.beta == 2.5


def test_an_image_alone(tmp_path):
    path = write_brick(tmp_path, kinds=("image",))
    exposure = read_exposure(path)
    assert exposure.variance is None and exposure.psf is None and not exposure.mask.any()
    assert brick_name("psfsize") in str(exposure.extra["no_psf"])
    assert read_footprint(path).files == (str(path),)
    exposure = read_exposure(write_brick(tmp_path / "..", "g", kinds=("image", "invvar")), weight=False)
    assert exposure.variance is None


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("invvar", r"inverse variances \(weights\)"),
        ("model", "the Tractor's model"),
        ("blobmodel", "cut to its blobs"),
        ("chi2", "chi squared"),
        ("depth", "depth for point sources"),
        ("galdepth", "depth for galaxies"),
        ("nexp", "numbers of exposures"),
        ("psfsize", "a map of PSF sizes"),
        ("maskbits", "the mask of all bands"),
    ],
)
def test_other_files_of_a_brick_are_refused_by_what_they_are(tmp_path, kind, what):
    write_brick(tmp_path, kinds=(kind,))
    path = tmp_path / brick_name(kind, None if kind == "maskbits" else "r")
    with pytest.raises(FormatError, match=what) as caught:
        read_exposure(path)
    assert f"legacysurvey-{BRICK}-image-" in caught.value.fix
    assert ("found beside the image" in caught.value.fix) == (kind in ("invvar", "psfsize", "maskbits"))


def test_a_folder_of_bricks_has_its_images_only(tmp_path):
    kinds = ("image", "invvar", "psfsize", "maskbits", "model", "nexp", "chi2")
    for band in ("g", "r"):
        write_brick(tmp_path, band, kinds=kinds)
    Table({"a": [1]}).write(tmp_path / f"legacysurvey-{BRICK}-ccds.fits")
    index = index_images({"images": "*.fits*"}, tmp_path)
    assert list(index["image_id"]) == [f"legacysurvey-{BRICK}-{band}" for band in "gr"]
    assert list(index["band"]) == ["g", "r"]
    assert len(index.meta["companions"]) == 5  # invvar and psfsize of each, and one mask
    reasons = {row["path"]: row["reason"] for row in index.meta["failures"]}
    assert len(reasons) == 7
    assert "the Tractor's model" in reasons[brick_name("model")]
    assert "a table" in reasons[f"legacysurvey-{BRICK}-ccds.fits"]


def test_what_is_injected_comes_back(tmp_path):
    """Closure in the calibration reference, through the quantisation, as astropy and fitsio read it."""
    fitsio = pytest.importorskip("fitsio")
    (tmp_path / "out").mkdir()
    path = write_brick(tmp_path, image=np.zeros((SIZE, SIZE), np.float32))
    exposure = read_exposure(path)
    injection = inject(exposure, stars(path, (40.3, 50.7)), seed=1, noise=False)
    out = tmp_path / "out" / path.name
    written = write_exposure(injection.exposure, out)
    assert {p.name for p in written} == {brick_name(kind) for kind in ("image", "invvar", "psfsize", "injected")} | {
        brick_name("maskbits", None)
    }
    with fits.open(out) as hdus:
        pixels = np.asarray(hdus[1].data, dtype=np.float64)
    np.testing.assert_array_equal(fitsio.read(str(out), ext=1), pixels.astype(np.float32))
    kernel = exposure.psf.kernels([40.3], [50.7])[0]
    assert kernel.sum() == pytest.approx(1, abs=1e-9)
    # The amplitude of a unit-sum PSF: all flux in the kernel's area, in nanomaggies.
    assert 22.5 - 2.5 * np.log10(pixels.sum()) == pytest.approx(MAG, abs=1e-4)
    for name in (brick_name("psfsize"), brick_name("invvar"), brick_name("maskbits", None)):
        assert digest(tmp_path / name) == digest(tmp_path / "out" / name), name
    again = read_exposure(out)
    assert again.mask_planes["INJECTED"] and (again.mask & again.mask_planes["INJECTED"]).any()
    assert again.psf == exposure.psf or again.psf.description == exposure.psf.description


def test_tiles_without_sources_keep_their_bytes(tmp_path):
    (tmp_path / "out").mkdir()
    path = write_brick(tmp_path, size=220)
    exposure = read_exposure(path)
    injection = inject(exposure, stars(path, (30.0, 30.0), mag=22.0), seed=1, noise=False)
    out = tmp_path / "out" / path.name
    write_exposure(injection.exposure, out)
    with (
        fits.open(path, disable_image_compression=True) as before,
        fits.open(out, disable_image_compression=True) as after,
    ):
        same = [
            np.array_equal(a, b) for a, b in zip(*(h[1].data["COMPRESSED_DATA"] for h in (before, after)), strict=True)
        ]
        np.testing.assert_array_equal(before[1].data["ZSCALE"], after[1].data["ZSCALE"])
        scale = float(before[1].data["ZSCALE"].max())
    assert not same[0] and all(same[1:])
    assert scale == pytest.approx(1e-4, rel=1e-3)
    with fits.open(out) as hdus:
        np.testing.assert_allclose(hdus[1].data, injection.exposure.image, rtol=0, atol=1.01 * scale)


def test_bands_of_a_brick_are_written_to_one_folder(tmp_path):
    (tmp_path / "out").mkdir()
    write_brick(tmp_path, kinds=("maskbits",))
    for band in ("g", "r"):
        path = write_brick(tmp_path, band, kinds=("image", "invvar", "psfsize"))
        injection = inject(read_exposure(path), stars(path, (60.0, 60.0)), seed=1, noise=False, band="r")
        write_exposure(injection.exposure, tmp_path / "out" / path.name)
    with fits.open(tmp_path / "out" / brick_name("injected", "g")) as hdus:
        assert any("INJECTED" in key for key in hdus[1].header)
    (tmp_path / "other").mkdir()
    shutil.copyfile(path, tmp_path / "other" / brick_name("maskbits", None))
    with pytest.raises(OutputExistsError, match="maskbits"):
        write_exposure(injection.exposure, tmp_path / "other" / path.name)
    assert len(list((tmp_path / "other").iterdir())) == 1


def test_planes_of_the_mask_of_all_bands_are_not_changed(tmp_path):
    (tmp_path / "out").mkdir()
    path = write_brick(tmp_path)
    exposure = read_exposure(path)
    planes = exposure.planes.copy(deep=True)
    planes["mask"].values[3, 3] |= 2
    with pytest.raises(FormatError, match="only copied"):
        write_exposure(exposure.replace(planes=planes), tmp_path / "out" / path.name)
    planes = exposure.planes.copy(deep=True)
    planes["mask"].values[3, 3] |= np.int32(1 << add_mask_plane(planes, "MINE"))
    for _ in range(2):  # what was marked is kept when it is written again
        write_exposure(exposure.replace(planes=planes), tmp_path / "out" / path.name, overwrite=True)
    again = read_exposure(tmp_path / "out" / path.name)
    assert again.mask[3, 3] == again.mask_planes["MINE"]
    with pytest.raises(FormatError, match="not called"):
        write_exposure(exposure, tmp_path / "out" / "other.fits")


def test_companions_that_do_not_fit(tmp_path):
    path = write_brick(tmp_path)
    write_brick(tmp_path / "..", "z", kinds=())
    (tmp_path / "small").mkdir()
    write_brick(tmp_path / "small", size=64)
    for kind, band in (("psfsize", "r"), ("invvar", "r"), ("maskbits", None)):
        name = brick_name(kind, band)
        kept = (tmp_path / name).read_bytes()
        shutil.copyfile(tmp_path / "small" / name, tmp_path / name)
        with pytest.raises(FormatError, match=r"shape \(64, 64\), the image \(128, 128\)"):
            read_exposure(path)
        (tmp_path / name).write_bytes(kept)


@pytest.mark.parametrize(("sizes", "words"), [(4.8e3, "sizes in arcsec are needed"), (0.0, "no exposure covers")])
def test_maps_of_sizes_that_are_none(tmp_path, sizes, words):
    path = write_brick(tmp_path, sizes=np.full((SIZE, SIZE), sizes, np.float32))
    with pytest.raises(PsfError, match=words):
        read_exposure(path)
    assert read_exposure(path, psf=False).psf is None


def test_images_of_wise_are_not_calibrated_so(tmp_path):
    path = write_brick(tmp_path, "W1", kinds=("image",), cards={"MAGSYS": "Vega"})
    found = read_calibration(path, photo_calib=22.5)
    assert found.photo_calib.reference is None


@pytest.mark.skipif(not shutil.which("source-extractor"), reason="Source Extractor is not installed")
def test_source_extractor_measures_the_output(tmp_path):
    """With the output's inverse variance as its weights; it does not read tile compression."""
    (tmp_path / "out").mkdir()
    path = write_brick(tmp_path)
    places = [(35.2, 40.4), (90.8, 85.1)]
    injection = inject(read_exposure(path), stars(path, *places), seed=1, noise=False)
    write_exposure(injection.exposure, tmp_path / "out" / path.name)
    for kind in ("image", "invvar"):
        with fits.open(tmp_path / "out" / brick_name(kind)) as hdus:
            fits.PrimaryHDU(hdus[1].data, hdus[1].header).writeto(tmp_path / f"{kind}.fits")
    (tmp_path / "names").write_text("XWIN_IMAGE\nYWIN_IMAGE\nMAG_APER")
    (tmp_path / "filter").write_text("CONV NORM\n0 0 0\n0 1 0\n0 0 0\n")
    command = ["source-extractor", "image.fits", "-c", "/dev/null", "-PARAMETERS_NAME", "names", "-CATALOG_TYPE",
               "FITS_1.0", "-CATALOG_NAME", "cat.fits", "-FILTER_NAME", "filter", "-WEIGHT_TYPE", "MAP_WEIGHT",
               "-WEIGHT_IMAGE", "invvar.fits", "-MAG_ZEROPOINT", "22.5", "-PHOT_APERTURES", "60",
               "-BACK_TYPE", "MANUAL", "-BACK_VALUE", "0", "-DETECT_THRESH", "20",
               "-VERBOSE_TYPE", "QUIET"]  # fmt: skip
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    found = Table.read(tmp_path / "cat.fits")
    assert len(found) == 2
    found.sort("XWIN_IMAGE")
    np.testing.assert_allclose(found["XWIN_IMAGE"] - 1, [x for x, _ in places], atol=0.02)
    # Noise in the aperture is 0.0064 mag.
    np.testing.assert_allclose(found["MAG_APER"], MAG, atol=0.02)
