"""Written exposures differ from the file they follow in what was injected, and in nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from skygraft.errors import ApertureConflictError, FormatError, OutputExistsError
from skygraft.exposure import Exposure, add_mask_plane
from skygraft.fitsfile.open import map_fits, open_fits
from skygraft.formats import read_exposure, write_exposure
from skygraft.formats.conformance import check_format
from skygraft.formats.lsst_afw import LsstAfwFormat

pytestmark = pytest.mark.data
FORMAT = LsstAfwFormat()
NAMES = ["calexp_03_polymap_pca_xy0", "calexp_05_tansip_psfex_rice", "calexp_06_tan_afwgaussian", "coadd_10_coaddpsf"]
# Written by the real source_injection (noise off) from the file of the other name.
PAIRS = [
    ("calexp_03_polymap_pca_xy0", "injected_calexp_03_polymap_pca_xy0_exactvar"),
    ("coadd_10_coaddpsf", "injected_coadd_10_coaddpsf_exact"),
]


def spans(path: Path) -> list[bytes]:
    with map_fits(path) as raw:
        return [bytes(raw.buffer[s.start : s.end]) for s in raw.spans]


def inject(exposure: Exposure) -> tuple[Exposure, np.ndarray]:
    """An exposure with a bright square, and where it is."""
    planes = exposure.planes.copy(deep=True)
    box = (slice(60, 75), slice(100, 120))
    bits = 0
    for name in ("INJECTED", "INJECTED_CORE"):
        bits |= 1 << add_mask_plane(planes, name)
    planes["image"].values[box] += 250
    planes["variance"].values[box] += 25
    planes["mask"].values[box] |= bits
    where = np.zeros(exposure.shape, bool)
    where[box] = True
    return exposure.replace(planes=planes), where


@pytest.fixture(scope="module", params=NAMES)
def written(
    request: pytest.FixtureRequest, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Exposure, np.ndarray]:
    like = data_dir / "afw_reference" / f"{request.param}.fits"
    injected, where = inject(FORMAT.read(like))
    out = tmp_path_factory.mktemp("afw") / "out.fits"
    assert FORMAT.write(injected, out, like=like) == (out,)
    return like, out, injected, where


class TestRoundTrip:
    def test_pixels(self, written: tuple[Path, Path, Exposure, np.ndarray]) -> None:
        like, out, injected, where = written
        lossy = "rice" in like.name
        with open_fits(like) as before, open_fits(out) as after:
            for hdu, new in ((1, injected.image), (2, injected.mask), (3, injected.variance)):
                old, back = before[hdu].data, after[hdu].data
                assert new is not None
                np.testing.assert_array_equal(back[~where], old[~where])
                if lossy and hdu != 2:
                    with fits.open(out, disable_image_compression=True) as raw:
                        step = raw[hdu].data["ZSCALE"].max()
                    # Up or down, so that nothing is lost on average: within a step.
                    assert np.nanmax(np.abs(back[where] - new[where])) <= 1.01 * step
                else:
                    np.testing.assert_array_equal(back, new)
            after.verify("exception")

    def test_other_hdus_are_the_same_bytes(self, written: tuple[Path, Path, Exposure, np.ndarray]) -> None:
        like, out, _, _ = written
        before, after = spans(like), spans(out)
        assert after[4:] == before[4:]
        assert len(after) == len(before)

    def test_cards(self, written: tuple[Path, Path, Exposure, np.ndarray]) -> None:
        like, out, _, _ = written
        with open_fits(like) as before, open_fits(out) as after:
            assert after[0].header["HAS-SIMULATED-CONTENT"] is True
            old, new = before[2].header, after[2].header
            assert {k: new[k] for k in new if k not in old} == {"MP_INJECTED": 15, "MP_INJECTED_CORE": 16}
            changed = [k for k in old if k not in ("COMMENT", "", "PCOUNT", "TFORM1") and old[k] != new[k]]
            assert not changed
            for hdu in (1, 2, 3):
                assert type(before[hdu]) is type(after[hdu])

    def test_reads_the_same(self, written: tuple[Path, Path, Exposure, np.ndarray]) -> None:
        like, out, injected, _ = written
        first, again = FORMAT.read(like), FORMAT.read(out)
        x, y = np.mgrid[0:300:7j, 0:300:7j].reshape(2, -1) + np.array(first.xy0)[:, None]
        np.testing.assert_array_equal(first.wcs.pixel_to_world_values(x, y), again.wcs.pixel_to_world_values(x, y))
        assert first.photo_calib is not None
        assert again.photo_calib is not None
        np.testing.assert_array_equal(first.photo_calib.inst_flux(20, x, y), again.photo_calib.inst_flux(20, x, y))
        assert (first.psf is None) == (again.psf is None)
        if first.psf is not None and again.psf is not None:
            np.testing.assert_array_equal(first.psf.kernels(x, y), again.psf.kernels(x, y))
        assert again.mask_planes == injected.mask_planes
        assert (again.xy0, again.visit_info, again.gain) == (first.xy0, first.visit_info, first.gain)
        np.testing.assert_array_equal(again.mask, injected.mask)

    @pytest.mark.parametrize("name", NAMES)
    def test_unchanged_exposure_is_the_same_file(self, data_dir: Path, tmp_path: Path, name: str) -> None:
        like = data_dir / "afw_reference" / f"{name}.fits"
        (out,) = FORMAT.write(FORMAT.read(like), tmp_path / "out.fits", like=like)
        assert out.read_bytes() == like.read_bytes()


@pytest.mark.parametrize(("name", "real"), PAIRS)
def test_as_the_real_engine_writes(data_dir: Path, tmp_path: Path, name: str, real: str) -> None:
    """Its planes put into our copy of the input read as its own output does, mask planes and all."""
    like, theirs = (data_dir / "afw_reference" / f"{n}.fits" for n in (name, real))
    after = FORMAT.read(theirs)
    exposure = FORMAT.read(like).replace(planes=after.planes)
    (out,) = FORMAT.write(exposure, tmp_path / "out.fits", like=like)
    ours = FORMAT.read(out)
    np.testing.assert_array_equal(ours.image, after.image)
    np.testing.assert_array_equal(ours.mask, after.mask)
    np.testing.assert_array_equal(ours.variance, after.variance)
    assert ours.mask_planes == after.mask_planes
    assert ours.mask_planes["INJECTED"] == 1 << 15


@pytest.mark.parametrize(
    "name",
    [
        "afw_reference/calexp_03_polymap_pca_xy0.fits",
        "afw_reference/calexp_05_tansip_psfex_rice.fits",
        "afw/obs_base/calexp.fits",
        "afw/afw/HSC-0908120-056-small.fits",
        "afw/afw/exposure-noversion.fits",
        "afw/pipe_tasks/testCoaddInputs_coadd_with_version_1_data.fits",
    ],
)
def test_conformance(data_dir: Path, tmp_path: Path, name: str) -> None:
    check_format(FORMAT, data_dir / name, tmp_path)


def test_output_says_its_calibration_aperture(data_dir: Path, tmp_path: Path) -> None:
    """The source catalogue that said it is not beside the output."""
    folder = data_dir / "cfht_849375"
    like = Path(
        shutil.copy(data_dir / "afw_reference" / "calexp_06_tan_afwgaussian.fits", tmp_path / "calexp-849375-12.fits")
    )
    shutil.copy(folder / "SRC-849375-12.fits", tmp_path)
    exposure = read_exposure(like)
    assert exposure.photo_calib is not None
    assert exposure.photo_calib.aperture is not None
    injected, _ = inject(exposure)
    (tmp_path / "out").mkdir()
    write_exposure(injected, tmp_path / "out" / "x.fits")
    again = read_exposure(tmp_path / "out" / "x.fits")
    assert again.photo_calib is not None
    assert again.photo_calib.aperture is not None
    assert again.photo_calib.aperture.radius_pixels == 12
    assert again.photo_calib.reference_origin == "CALAPRAD = 12.0 in x.fits"
    assert again.header["CALAPORG"] == exposure.photo_calib.reference_origin[:68]
    with pytest.raises(ApertureConflictError):
        read_exposure(tmp_path / "out" / "x.fits", aperture="9 pix")


def test_many_classes_survive(data_dir: Path, tmp_path: Path) -> None:
    like = data_dir / "afw" / "obs_base" / "calexp.fits"
    exposure = FORMAT.read(like)
    planes = exposure.planes.copy(deep=True)
    planes["image"].values[3, 3] = 5e4
    FORMAT.write(exposure.replace(planes=planes), tmp_path / "out.fits", like=like)
    before, after = spans(like), spans(tmp_path / "out.fits")
    assert [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [1]


def test_old_mask_of_sixteen_bits_is_widened(data_dir: Path, tmp_path: Path) -> None:
    like = data_dir / "afw" / "afw" / "HSC-0908120-056-small.fits"
    exposure = FORMAT.read(like)
    with open_fits(like) as hdus:
        assert hdus[2].header["BITPIX"] == 16
    planes = exposure.planes.copy(deep=True)
    for number in range(17 - len(exposure.mask_planes)):
        bit = add_mask_plane(planes, f"EXTRA{number}")
    planes["mask"].values[0, 0] |= 1 << bit
    assert bit >= 16
    FORMAT.write(exposure.replace(planes=planes), tmp_path / "out.fits", like=like)
    again = FORMAT.read(tmp_path / "out.fits")
    np.testing.assert_array_equal(again.mask, planes["mask"].values)


def test_refusals(data_dir: Path, tmp_path: Path) -> None:
    like = Path(shutil.copy(data_dir / "afw" / "obs_base" / "calexp.fits", tmp_path))
    exposure = FORMAT.read(like)
    with pytest.raises(OutputExistsError, match="the input itself"):
        FORMAT.write(exposure, like, like=like, overwrite=True)
    FORMAT.write(exposure, tmp_path / "out.fits", like=like)
    with pytest.raises(OutputExistsError, match="exists already"):
        FORMAT.write(exposure, tmp_path / "out.fits", like=like)
    renamed = exposure.planes.copy(deep=True)
    renamed["mask"].attrs["flag_meanings"] = str(renamed["mask"].attrs["flag_meanings"]).replace("SAT", "WET")
    with pytest.raises(FormatError, match="mask plane WET is bit 1 here, but that file says that this bit is SAT"):
        FORMAT.write(exposure.replace(planes=renamed), tmp_path / "o2.fits", like=like)
    other = data_dir / "afw_reference" / "calexp_06_tan_afwgaussian.fits"
    with pytest.raises(FormatError):
        FORMAT.write(exposure, tmp_path / "o2.fits", like=other)
    assert not (tmp_path / "o2.fits").exists()
