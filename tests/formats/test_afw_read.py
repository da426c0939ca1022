"""Exposures of the LSST pipelines against what the pipelines' own code says of the very same files."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from skygraft.errors import (
    CalibrationError,
    ConfigError,
    CorruptFileError,
    FormatError,
    MissingWcsError,
    PsfError,
    SkygraftError,
    UncalibratedImageError,
)
from skygraft.exposure import NO_PHOTO_CALIB, NO_PSF, Exposure
from skygraft.fitsfile.open import map_fits, open_fits
from skygraft.formats.afw_archive import Archive, Table
from skygraft.formats.afw_names import find_source_catalog
from skygraft.formats.afw_objects import Amplifier, Detector, build_photo_calib
from skygraft.formats.afw_piff import build_piff_psf
from skygraft.formats.afw_psfs import build_psf
from skygraft.formats.base import CANDIDATES, FILES
from skygraft.formats.lsst_afw import LsstAfwFormat
from skygraft.photometry import enclosed_flux, resolve_reference
from skygraft.psf import Box, GaussianPSF

pytestmark = pytest.mark.data
FORMAT = LsstAfwFormat()
REFERENCE = [
    ("afw_reference/calexp_01_tan_singlegauss.fits", "afw_reference/calexp_01_tan_singlegauss.json"),
    ("afw_reference/calexp_02_tansip_doublegauss_gzip2.fits", "afw_reference/calexp_02_tansip_doublegauss_gzip2.json"),
    ("afw_reference/calexp_03_polymap_pca_xy0.fits", "afw_reference/calexp_03_polymap_pca_xy0.json"),
    ("afw_reference/calexp_05_tansip_psfex_rice.fits", "afw_reference/calexp_05_tansip_psfex_rice.json"),
    ("afw_reference/calexp_06_tan_afwgaussian.fits", "afw_reference/calexp_06_tan_afwgaussian.json"),
    ("afw_reference/calexp_08_tan_warpedpsf.fits", "afw_reference/calexp_08_tan_warpedpsf.json"),
    ("afw_reference/coadd_10_coaddpsf.fits", "afw_reference/coadd_10_coaddpsf.json"),
    ("cfht_849375/calexp-849375-12.fits.fz", "cfht_849375/truth_849375.json"),
    ("afw/obs_base/calexp.fits", "afw/obs_base/truth_calexp.json"),
]


@pytest.fixture(scope="module", params=REFERENCE, ids=lambda pair: Path(pair[0]).name)
def case(request: pytest.FixtureRequest, data_dir: Path) -> tuple[Exposure, dict[str, Any], Path]:
    path, truth = (data_dir / part for part in request.param)
    return FORMAT.read(path), json.loads(truth.read_text()), truth.parent


class TestAgainstThePipelines:
    def test_wcs(self, case: tuple[Exposure, dict[str, Any], Path]) -> None:
        exposure, truth, _ = case
        points = truth["wcs"]["points"]
        pixels, sky = np.array([p["pixel"] for p in points], float), np.array([p["sky_deg"] for p in points])
        back = np.array([p["sky_to_pixel"] for p in points])
        np.testing.assert_allclose(np.transpose(exposure.wcs.world_to_pixel_values(*sky.T)), back, atol=1e-6)
        found = np.transpose(exposure.wcs.pixel_to_world_values(*pixels.T))
        np.testing.assert_allclose(found, sky, atol=1e-9 / 3600)

    def test_box_and_pixels(self, case: tuple[Exposure, dict[str, Any], Path]) -> None:
        exposure, truth, _ = case
        box = truth["bbox"]
        assert exposure.xy0 == (box["minX"], box["minY"])
        assert exposure.shape == (box["height"], box["width"])
        for pixel in truth.get("pixels_local_xy", []):
            at = pixel["y"], pixel["x"]
            assert exposure.variance is not None
            np.testing.assert_equal(exposure.image[at], np.float32(pixel["image"]))
            np.testing.assert_equal(exposure.variance[at], np.float32(pixel["variance"]))
            assert exposure.mask[at] == pixel["mask"]
        if "sums" in truth:
            assert np.nansum(exposure.image, dtype=float) == pytest.approx(truth["sums"]["image"], rel=1e-9)
            assert exposure.mask.sum() == truth["sums"]["mask"]

    def test_planes_are_what_astropy_reads(self, case: tuple[Exposure, dict[str, Any], Path]) -> None:
        exposure, _, _ = case
        assert exposure.path is not None
        with open_fits(exposure.path) as hdus:
            np.testing.assert_array_equal(exposure.image, hdus[1].data)
            np.testing.assert_array_equal(exposure.mask, hdus[2].data)
            np.testing.assert_array_equal(exposure.variance, hdus[3].data)
        assert exposure.image.dtype == exposure.planes["variance"].dtype == np.float32
        assert exposure.image.flags.writeable
        assert exposure.image.dtype.isnative

    def test_mask_planes(self, case: tuple[Exposure, dict[str, Any], Path]) -> None:
        exposure, truth, folder = case
        planes = {name: 1 << bit for name, bit in truth["mask_planes"].items()}
        if folder.name == "afw_reference":
            assert exposure.mask_planes == planes
        else:
            # The pipelines renumber the planes of old files to those of the process that reads them.
            assert exposure.mask_planes.keys() <= planes.keys()
            with fits.open(exposure.path) as hdus:
                cards = {k[3:]: 1 << v for k, v in hdus[2].header.items() if k.startswith("MP_")}
            assert exposure.mask_planes == cards

    def test_photo_calib(self, case: tuple[Exposure, dict[str, Any], Path]) -> None:
        exposure, truth, _ = case
        calib = exposure.photo_calib
        assert calib is not None
        for point in truth.get("photocalib", {}).get("points", []):
            # A pixel's area is a difference of unit vectors: it has but ten digits, in the pipelines too.
            digits = 1e-9 if "polymap" in str(exposure.path) else 1e-12
            expected = point["mag20_to_instFlux"]
            assert float(calib.inst_flux(20.0, *point["pixel"])) == pytest.approx(expected, rel=digits)

    def test_psf(self, case: tuple[Exposure, dict[str, Any], Path]) -> None:
        exposure, truth, folder = case
        kind = truth["psf"]["type"]
        assert exposure.psf is not None
        for position in truth["psf"]["positions"]:
            expected = np.load(folder / position["kernel_npy"])
            kernel = exposure.psf.kernels(*([v] for v in position["pixel"]))[0]
            assert tuple(exposure.psf.kernel_shapes(*([v] for v in position["pixel"]))[0]) == expected.shape
            # A kernel whose size varies has zeros around it here.
            extra = (np.array(kernel.shape) - expected.shape) // 2
            expected = np.pad(expected, [(n, n) for n in extra])
            # PsfexPsf is evaluated in single precision by the pipelines, also inside of a CoaddPsf.
            digits = {"PsfexPsf": 2e-6, "CoaddPsf": 1e-7, "WarpedPsf": 1e-8}.get(kind, 1e-12)
            np.testing.assert_allclose(kernel, expected, rtol=0, atol=digits * expected.max())

    def test_aperture_flux(self, case: tuple[Exposure, dict[str, Any], Path]) -> None:
        exposure, truth, _ = case
        assert exposure.psf is not None
        if isinstance(exposure.psf, GaussianPSF):
            return  # the pipelines' GaussianPsf answers by the closed form
        for position in truth["psf"]["positions"]:
            kernels = exposure.psf.kernels(*([v] for v in position["pixel"]))
            for radius, expected in position["aperture_flux"].items():
                if float(radius) >= 9:
                    assert enclosed_flux(kernels, float(radius))[0] == pytest.approx(expected, abs=1e-6)

    def test_average_position(self, case: tuple[Exposure, dict[str, Any], Path]) -> None:
        exposure, truth, _ = case
        average = getattr(exposure.psf, "average_position", None)
        if average is not None:
            assert average == pytest.approx(truth["psf"]["average_position"], abs=1e-9)

    def test_survives_pickle(self, case: tuple[Exposure, dict[str, Any], Path]) -> None:
        exposure, truth, _ = case
        twin = pickle.loads(pickle.dumps(exposure))
        pixel = truth["wcs"]["points"][0]["pixel"]
        assert twin.wcs.pixel_to_world_values(*pixel) == exposure.wcs.pixel_to_world_values(*pixel)
        assert twin.photo_calib == exposure.photo_calib
        copy.copy(exposure)

    def test_footprint_agrees(self, case: tuple[Exposure, dict[str, Any], Path]) -> None:
        exposure, truth, _ = case
        assert exposure.path is not None
        found = FORMAT.footprint(exposure.path)
        assert (found.shape, found.xy0, found.data_id) == (exposure.shape, exposure.xy0, exposure.data_id)
        assert found.visit_info == exposure.visit_info
        assert found.n_bytes >= exposure.path.stat().st_size
        (x0, y0), (ny, nx) = exposure.xy0, exposure.shape
        ra, dec = exposure.wcs.pixel_to_world_values(x0 + (nx - 1) / 2, y0 + (ny - 1) / 2)
        assert found.center == (pytest.approx(float(ra)), pytest.approx(float(dec)))
        scales = [abs(np.linalg.det(np.array(p["jac_pix2sky_arcsec"])[:2, :2])) ** 0.5 for p in truth["wcs"]["points"]]
        assert min(scales) * (1 - 1e-4) <= found.pixel_scale <= max(scales) * (1 + 1e-4)


class TestWhatAFileSaysOfItself:
    def test_cfht(self, data_dir: Path) -> None:
        path = data_dir / "cfht_849375" / "calexp-849375-12.fits.fz"
        exposure = FORMAT.read(path)
        assert str(exposure.data_id) == "MegaPrime-849375-12"
        assert exposure.data_id.band == "r"
        assert exposure.visit_info.exposure_time == pytest.approx(300.202)
        assert exposure.visit_info.mjd == pytest.approx(53875.505706597, abs=1e-8)  # 2006-05-20T12:08:13.05 TAI
        assert isinstance(exposure.gain, np.ndarray)
        np.testing.assert_array_equal(np.unique(exposure.gain[:, :1024]), np.float32(1.66))
        np.testing.assert_array_equal(np.unique(exposure.gain[:, 1024:]), np.float32(1.74))
        assert "ccd12" in exposure.gain_origin
        assert exposure.photo_calib is not None
        assert exposure.photo_calib.njy_per_unit == 0.5432242058849329
        assert exposure.photo_calib.reference is None
        reference, origin = resolve_reference(exposure.photo_calib.candidates, pixel_scale=0.187)
        assert reference.radius_pixels == 12
        assert origin == "slot_CalibFlux -> base_CircularApertureFlux_12_0 in SRC-849375-12.fits"
        assert [Path(name).name for name in exposure.extra[FILES]] == [path.name, "SRC-849375-12.fits"]
        assert "base_PsfFlux_instFlux" in exposure.extra["aperture_corrections"]
        assert exposure.header["OBJECT"] == "D3"

    def test_source_catalogue_options(self, data_dir: Path, tmp_path: Path) -> None:
        folder = data_dir / "cfht_849375"
        small = data_dir / "afw_reference" / "calexp_06_tan_afwgaussian.fits"
        image = Path(shutil.copy(small, tmp_path / "calexp-849375-12.fits"))
        levels = {c.level for c in FORMAT.read(image).photo_calib.candidates}  # type: ignore[union-attr]
        assert levels == {"default"}
        given = FORMAT.read(image, source_catalog=folder / "SRC-849375-12.parq")
        assert given.photo_calib is not None
        assert {c.radius_pixels for c in given.photo_calib.candidates if c.level == "schema"} <= {12.0}
        shutil.copy(folder / "src.fits", tmp_path)
        assert find_source_catalog(image) == tmp_path / "src.fits"
        shutil.copy(folder / "SRC-849375-12.fits", tmp_path)
        assert find_source_catalog(image) == tmp_path / "SRC-849375-12.fits"
        assert [Path(f).name for f in FORMAT.footprint(image).files] == [image.name, "SRC-849375-12.fits"]
        assert FORMAT.footprint(image, source_catalog=False).files == (str(image),)
        with pytest.raises(CorruptFileError, match="absent"):
            FORMAT.read(image, source_catalog=tmp_path / "absent.fits")
        with pytest.raises(ConfigError, match="Did you mean 'source_catalog'"):
            FORMAT.read(image, source_catalogue="x")

    def test_coadd(self, data_dir: Path) -> None:
        exposure = FORMAT.read(data_dir / "afw_reference" / "coadd_10_coaddpsf.fits", tract=9813, patch=41)
        assert exposure.extra["coadd_inputs"]
        assert exposure.gain is None
        assert str(exposure.data_id) == "9813-41-i"
        # The pipelines go by the PhotoCalib (zeropoint 27), whatever BUNIT says.
        assert exposure.photo_calib is not None
        assert float(exposure.photo_calib.zeropoint()) == pytest.approx(27, abs=1e-9)
        assert exposure.photo_calib.unit == "adu"

    def test_polygon(self, data_dir: Path) -> None:
        exposure = FORMAT.read(data_dir / "afw_reference" / "calexp_03_polymap_pca_xy0.fits")
        np.testing.assert_array_equal(exposure.extra["valid_polygon"][0], [1240, 570])
        assert len(exposure.extra["valid_polygon"]) == 4

    @pytest.mark.parametrize(
        ("name", "njy"),
        # 1e6 counts at magnitude zero, and 1e6 nJy for one count.
        [("noversion", 3630780.5477010026), ("version-0", 3630780.5477010026), ("version-1", 1e6), ("version-2", 1e6)],
    )
    def test_every_version(self, data_dir: Path, name: str, njy: float) -> None:
        exposure = FORMAT.read(data_dir / "afw" / "afw" / f"exposure-{name}.fits")
        assert exposure.photo_calib is not None
        assert exposure.photo_calib.njy_per_unit == pytest.approx(njy, rel=1e-12)
        assert exposure.data_id.band == ("N656" if name == "version-2" else "ha")
        assert exposure.data_id.detector == 1
        assert exposure.visit_info.exposure_time == 30
        assert exposure.visit_info.mjd == pytest.approx(58868.524259259, abs=1e-8)  # 2020-01-20T12:34:56 TAI
        assert exposure.mask_planes["NO_DATA"] == 1 << 8
        assert "has no PSF" in str(exposure.extra[NO_PSF])

    def test_old_uncalibrated_cutout(self, data_dir: Path) -> None:
        path = data_dir / "afw" / "afw" / "HSC-0908120-056-small.fits"
        exposure = FORMAT.read(path)
        assert exposure.xy0 == (100, 100)
        assert exposure.data_id.visit == 908120
        assert exposure.data_id.detector == 56
        assert exposure.photo_calib is None
        error = exposure.extra[NO_PHOTO_CALIB]
        assert isinstance(error, UncalibratedImageError)
        assert error.path == str(path)
        assert "FLUXMAG0" in str(error)
        assert CANDIDATES in exposure.extra
        # Header CRPIX (866.84, 2004.39) counts from 1 in the cut-out; its sky position is CRVAL, FK5 at heart.
        x, y = 866.842697735752 - 1 + 100, 2004.38916604442 - 1 + 100
        ra, dec = exposure.wcs.pixel_to_world_values(x, y)
        assert (ra, dec) == (pytest.approx(151.319266199627, abs=1e-5), pytest.approx(1.6150446085464, abs=1e-5))

    def test_pickled_psf_is_not_executed(self, data_dir: Path) -> None:
        path = data_dir / "afw" / "meas_extensions_piff" / "exp.fits"
        exposure = FORMAT.read(path)
        assert exposure.psf is None
        message = str(exposure.extra[NO_PSF])
        assert "PiffPsf" in message
        assert "pickle" in message
        assert str(path) in message
        assert "allow_pickle=True" in message and "any program" in message
        assert isinstance(exposure.extra[NO_PHOTO_CALIB], UncalibratedImageError)

    def test_pickled_psf_with_permission(self, data_dir: Path) -> None:
        pytest.importorskip("piff")
        path = data_dir / "afw" / "meas_extensions_piff" / "exp.fits"
        psf = FORMAT.read(path, allow_pickle=True).psf
        with fits.open(path) as hdus:
            width, _, piff_psf = pickle.loads(bytes(hdus["PiffPsf"].data["bytes"][0]))
        # An older Piff wrote it; its own later version needs these to draw.
        piff_psf._num = piff_psf.model._num = piff_psf.interp._num = piff_psf.model._fit_flux = None
        piff_psf.model._maxk = piff_psf.model._stepk = 0.0
        x, y = np.random.default_rng(3).uniform([[0], [0]], [[110], [301]], (2, 8))
        for kernel, at in zip(psf.kernels(x, y), zip(x, y, strict=True), strict=True):
            drawn = piff_psf.draw(*at, stamp_size=int(width), center=True).array
            np.testing.assert_allclose(kernel, drawn / drawn.sum(), rtol=0, atol=1e-8 * kernel.max())
        stars = [star.image_pos for star in piff_psf.stars]
        assert psf.average_position == pytest.approx((np.mean([p.x for p in stars]), np.mean([p.y for p in stars])))

    @pytest.mark.parametrize(
        ("stored", "says"),
        [
            (b"no pickle", "Piff cannot read it"),
            (pickle.dumps((25, 25)), "Piff cannot read it"),
            (pickle.dumps((25.0, 25.0, "a word")), "Piff cannot read it"),
        ],
    )
    def test_damaged_pickles_are_errors(self, stored: bytes, says: str) -> None:
        pytest.importorskip("piff")
        with pytest.raises(PsfError, match=says):
            build_piff_psf(stored, Box(-0.5, 99.5, -0.5, 99.5))

    def test_permission_is_true_or_false(self, data_dir: Path) -> None:
        with pytest.raises(ConfigError, match="neither true nor false"):
            FORMAT.read(data_dir / "afw" / "meas_extensions_piff" / "exp.fits", allow_pickle="no")

    def test_first_version_of_the_archive(self, data_dir: Path) -> None:
        path = data_dir / "afw" / "afw" / "archiveImportTest.fits"
        assert FORMAT.matches(path)
        with pytest.raises(MissingWcsError):
            FORMAT.read(path)
        with map_fits(path) as raw:
            assert Archive(raw, 4).names == {1: "DummyPsf"}

    def test_what_is_no_exposure(self, data_dir: Path, tmp_path: Path) -> None:
        others = [
            "cfht_849375/SRC-849375-12.fits",
            "cfht_849375/bkgd-849375-12.fits",
            "rubin/dp1_visit_image.fits",
            "rubin/dp1_cell_coadd.fits",
            "afw/afw/ticketdm26260.fits.fz",
        ]
        assert not any(FORMAT.matches(data_dir / name) for name in others)
        with pytest.raises(FormatError, match="not an afw exposure"):
            FORMAT.read(data_dir / others[0])
        with pytest.raises(CorruptFileError):
            FORMAT.matches(tmp_path / "absent.fits")


class TestArchive:
    def test_rows(self, data_dir: Path) -> None:
        path = data_dir / "afw" / "obs_base" / "calexp.fits"
        with map_fits(path) as raw, fits.open(path) as hdus:
            for hdu in range(4, len(hdus)):
                table, oracle = Table(raw, hdu), hdus[hdu]
                for index in {0, len(oracle.data) - 1} if len(oracle.data) else set():
                    row = table.row(index)
                    for column in oracle.columns:
                        if column.format.endswith("X"):
                            continue
                        expected = oracle.data[column.name][index]
                        if isinstance(row[column.name], str):
                            joined = "".join(c or " " for c in expected) if not isinstance(expected, str) else expected
                            assert row[column.name] == joined.rstrip()
                        else:
                            np.testing.assert_array_equal(row[column.name], expected)
            with pytest.raises(FormatError, match="refers to row"):
                table.row(10**6)

    def test_ids_and_names(self, data_dir: Path) -> None:
        with map_fits(data_dir / "afw_reference" / "calexp_03_polymap_pca_xy0.fits") as raw:
            archive = Archive(raw, 4)
            assert archive.names[13] == "ProductBoundedField"
            assert len(archive.find("FixedKernel")) == 3
            assert 13 in archive
            with pytest.raises(FormatError, match="no object 99"):
                archive.get(99)
            with pytest.raises(PsfError, match="a Polygon, which cannot be read"):
                build_psf(archive, 1)
            with pytest.raises(FormatError, match="not the index"):
                Archive(raw, 5)
            with pytest.raises(FormatError, match="HDU 77"):
                Archive(raw, 77)

    @pytest.mark.parametrize(("name", "good"), [("noversion", False), ("version0", False), ("version1", True)])
    def test_photo_calib_versions(self, data_dir: Path, name: str, good: bool) -> None:
        """Before version 1 the unit of a stored calibration was another; the pipelines refuse them too."""
        with map_fits(data_dir / "afw" / "afw" / f"photoCalib-{name}.fits") as raw:
            archive = Archive(raw, 1)
            (found,) = archive.find("PhotoCalib")
            if good:
                assert build_photo_calib(archive, found.id, unit="adu").njy_per_unit == 123
            else:
                with pytest.raises(CalibrationError, match="version 0"):
                    build_photo_calib(archive, found.id, unit="adu")

    def test_file_cut_between_hdus(self, data_dir: Path, tmp_path: Path) -> None:
        path = data_dir / "afw_reference" / "calexp_06_tan_afwgaussian.fits"
        with map_fits(path) as raw:
            end = raw.spans[6].end
        (tmp_path / "cut.fits").write_bytes(path.read_bytes()[:end])
        with pytest.raises(CorruptFileError, match=r"truncated.*not whole") as caught:
            FORMAT.read(tmp_path / "cut.fits")
        assert caught.value.path == str(tmp_path / "cut.fits")


@pytest.mark.parametrize("name", ["exposure-version-2", "HSC-0908120-056-small"])
def test_damaged_bytes_are_always_named(data_dir: Path, tmp_path: Path, name: str) -> None:
    """Whatever bytes of headers and archive are damaged, the file is read or the error says which it is."""
    whole = (data_dir / "afw" / "afw" / f"{name}.fits").read_bytes()
    rng = np.random.default_rng(5)
    path = tmp_path / "damaged.fits"
    for _ in range(20):
        damaged = bytearray(whole)
        for at in rng.integers(0, min(len(whole), 60_000), 12):
            damaged[at] = rng.integers(32, 127)
        path.write_bytes(damaged)
        try:
            FORMAT.read(path)
        except SkygraftError as error:
            assert str(path) in str(error)


def test_gain_map() -> None:
    detector = Detector("d", 1, (Amplifier("a", 0, 0, 10, 20, 1.5), Amplifier("b", 10, 0, 10, 20, 2.5)))
    assert detector.gain_map((0, 0), (20, 8)) == 1.5
    mixed = detector.gain_map((8, 3), (5, 4))
    assert isinstance(mixed, np.ndarray)
    np.testing.assert_array_equal(mixed, [[1.5, 1.5, 2.5, 2.5]] * 5)
    assert detector.gain_map((8, 18), (5, 4)) is None
    assert detector.gain_map((-1, 0), (5, 4)) is None
    assert Detector("d", 1, (Amplifier("a", 0, 0, 10, 20, np.nan),)).gain_map((0, 0), (5, 5)) is None
