"""Cut-outs of Legacy Surveys coadds, as the sky viewer writes them."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from kits.coadd_tiles import write_brick, write_cutout
from skygraft import inject
from skygraft.catalog import normalize_catalog
from skygraft.errors import FormatError, PsfError
from skygraft.formats import read_calibration, read_exposure, recognise_format, write_exposure
from skygraft.formats.conformance import check_format
from skygraft.formats.legacy_cutout import LegacyCutoutFormat
from skygraft.photometry import PSF_MODEL


def test_conformance(tmp_path):
    path = write_cutout(tmp_path / "cutout_154.1_12.3.fits", mask=np.zeros((64, 64), np.int16))
    (tmp_path / "out").mkdir()
    assert recognise_format(path).name == "legacy_cutout"
    check_format(LegacyCutoutFormat(), path, tmp_path / "out")


def test_what_it_is(tmp_path):
    mask = np.zeros((64, 64), np.int16)
    mask[3, 4] = 2
    exposure = read_exposure(write_cutout(tmp_path / "cutout.fits", mask=mask))
    assert exposure.photo_calib.zeropoint() == pytest.approx(22.5) and exposure.photo_calib.reference is PSF_MODEL
    assert exposure.data_id.band == "r" and str(exposure.data_id) == "cutout"
    np.testing.assert_allclose(exposure.variance, 0.004**2, rtol=1e-6)
    assert exposure.mask[3, 4] == exposure.mask_planes["BRIGHT"]
    assert "coadd-psf" in str(exposure.extra["no_psf"])
    old = read_exposure(write_cutout(tmp_path / "old.fits", version="DR5"))
    assert old.photo_calib.aperture.radius_arcsec == 3.5


@pytest.mark.parametrize("bands", ["r", "grz"])
def test_cut_outs_without_the_kind_of_their_image(tmp_path, bands):
    """Those from before the viewer gave weights have no IMAGETYP."""
    path = write_cutout(tmp_path / "cutout.fits", bands)
    old = tmp_path / "old.fits"
    with fits.open(path) as hdus:
        header = hdus[0].header.copy()
        del header["IMAGETYP"]
        fits.PrimaryHDU(hdus[0].data, header).writeto(old)
    exposure = read_exposure(old, **({"band": "r"} if bands == "grz" else {}))
    assert exposure.format == "legacy_cutout" and exposure.photo_calib.zeropoint() == pytest.approx(22.5)
    assert exposure.photo_calib.reference is PSF_MODEL and exposure.data_id.band == "r"


def test_what_is_injected_comes_back(tmp_path):
    path = write_cutout(tmp_path / "cutout.fits")
    with fits.open(path) as hdus:
        ra, dec = WCS(hdus[0].header).pixel_to_world_values(30.4, 33.2)
        before = hdus[0].data.astype(float)
    columns = {"injection_id": [1], "ra": [ra], "dec": [dec], "source_type": ["Star"], "mag": [19.0]}
    exposure = read_exposure(path, psf={"kind": "gaussian", "fwhm": "1 arcsec"})
    injection = inject(exposure, normalize_catalog(Table(columns), band="r"), seed=1, noise=False)
    write_exposure(injection.exposure, tmp_path / "out.fits")
    with fits.open(tmp_path / "out.fits") as hdus:
        added = hdus[0].data - before
        assert hdus[1].data.tobytes() == fits.getdata(path, 1).tobytes()
    assert 22.5 - 2.5 * np.log10(added.sum()) == pytest.approx(19.0, abs=1e-4)
    y, x = np.mgrid[:64, :64]
    assert (added * x).sum() / added.sum() == pytest.approx(30.4, abs=1e-3)
    assert (added * y).sum() / added.sum() == pytest.approx(33.2, abs=1e-3)


@pytest.mark.parametrize("packed", [False, True])
def test_one_band_of_a_cube(tmp_path, packed):
    """What the viewer gives unless it is asked for one band; the planes of other bands keep their pixels."""
    path = write_cutout(tmp_path / "cutout.fits", "grz", mask=np.zeros((64, 64), np.int16))
    if packed:
        with fits.open(path) as hdus:
            lossless = {"compression_type": "GZIP_2", "quantize_level": 0.0, "tile_shape": (1, 64, 64)}
            tiled = [fits.CompImageHDU(hdu.data, hdu.header, **lossless) for hdu in hdus[:2]]
            rest = fits.ImageHDU(hdus[2].data, hdus[2].header)
            fits.HDUList([fits.PrimaryHDU(), *tiled, rest]).writeto(path := tmp_path / "cutout.fits.fz")
    (tmp_path / "out").mkdir()
    check_format(LegacyCutoutFormat(), path, tmp_path / "out", options={"band": "r"})
    with fits.open(path) as hdus:
        before = [hdu.data.astype(float) for hdu in hdus if hdu.data is not None]
        ra, dec = WCS(fits.getheader(write_cutout(tmp_path / "r.fits"))).pixel_to_world_values(30.4, 33.2)
    exposure = read_exposure(path, band="r", psf={"kind": "gaussian", "fwhm": "1 arcsec"})
    assert exposure.data_id.band == "r" and exposure.photo_calib.zeropoint() == pytest.approx(22.5)
    np.testing.assert_array_equal(exposure.image, before[0][1].astype(np.float32))
    np.testing.assert_allclose(exposure.variance, 0.004**2, rtol=1e-6)
    columns = {"injection_id": [1], "ra": [ra], "dec": [dec], "source_type": ["Star"], "mag_r": [19.0]}
    injection = inject(exposure, normalize_catalog(Table(columns)), seed=1, gain=1e4)
    out = tmp_path / path.name.replace("cutout", "out")
    write_exposure(injection.exposure, out)
    again = read_exposure(out, band="r")
    np.testing.assert_array_equal(again.image, injection.exposure.image)
    np.testing.assert_allclose(again.variance, injection.exposure.variance, rtol=1e-6)
    with fits.open(out) as hdus:
        after = [hdu.data.astype(float) for hdu in hdus if hdu.data is not None]
    for old, new in zip(before[:2], after[:2], strict=True):
        assert np.array_equal(old[[0, 2]], new[[0, 2]]) and not np.array_equal(old[1], new[1])
    added = injection.exposure.image - exposure.image.astype(float)
    np.testing.assert_allclose(after[0][1] - before[0][1], added, rtol=0, atol=1e-12)
    assert 22.5 - 2.5 * np.log10(added.sum()) == pytest.approx(19.0, abs=0.05)


def test_the_psf_of_the_viewer(tmp_path):
    """``coadd-psf`` has an HDU for each band, in the image's pixels; a brick takes it, too."""
    y, x = np.mgrid[-31:32, -31:32]
    stamps = {band: np.exp(-(x**2 + y**2) / (2 * s**2)).astype(np.float32) for band, s in (("g", 2.2), ("r", 1.8))}
    hdus = [fits.PrimaryHDU(stamps["g"]), fits.ImageHDU(stamps["r"])]
    for hdu, band in zip(hdus, "gr", strict=True):
        hdu.header["BAND"] = band
    fits.HDUList(hdus).writeto(tmp_path / "copsf_154.1000_12.3000.fits")
    for path in (write_cutout(tmp_path / "cutout.fits"), write_brick(tmp_path)):
        psf = read_exposure(path, psf=tmp_path / "copsf_154.1000_12.3000.fits").psf
        expected = stamps["r"] / stamps["r"].sum()
        np.testing.assert_allclose(psf.kernels([30.0], [30.0])[0], expected, rtol=0, atol=1e-6 * expected.max())
        assert read_calibration(path, psf=tmp_path / "copsf_154.1000_12.3000.fits").psf is not None  # when planning


def test_an_image_that_does_not_say_its_scale_is_not_taken_for_one_of_a_coadd(tmp_path):
    y, x = np.mgrid[-31:32, -31:32]
    stamp = tmp_path / "stamp.fits"
    fits.PrimaryHDU(np.exp(-(x**2 + y**2) / 6.5).astype(np.float32)).writeto(stamp)
    path = write_cutout(tmp_path / "cutout.fits")
    with pytest.raises(PsfError, match="does not say how far apart"):
        read_exposure(path, psf=stamp)
    assert read_exposure(path, psf={"kind": "legacy_coadd", "path": stamp}).psf.shape == (63, 63)


def test_what_is_refused(tmp_path):
    cube = write_cutout(tmp_path / "cube.fits", "grz")
    with pytest.raises(FormatError, match=r"a cube of several bands \(g, r, z\) of the .* viewer\.") as caught:
        read_exposure(cube)
    assert "band='g'" in caught.value.fix
    with pytest.raises(FormatError, match="none of which is i"):
        read_exposure(cube, band="i")
    with fits.open(cube, mode="update") as hdus:
        del hdus[0].header["BAND2"]
    with pytest.raises(FormatError, match=r"shape \(3, 64, 64\), and its bands .* are g, r\."):
        read_exposure(cube, band="r")
    wide = write_cutout(tmp_path / "wide.fits", scale=0.524)
    missing = read_exposure(wide).extra["no_photo_calib"]
    assert "pixels of 0.524 arcsec" in str(missing) and "20.995 for averages" in str(missing)
    assert read_exposure(wide, zeropoint=20.995).photo_calib.zeropoint() == pytest.approx(20.995)


def test_one_of_several_bands(tmp_path):
    """``subimage`` writes image and inverse variance of each brick and band as HDUs."""
    hdus = [fits.PrimaryHDU()]
    for band in ("g", "r"):
        path = write_cutout(tmp_path / f"{band}.fits", band)
        with fits.open(path) as made:
            for kind, hdu in zip(("image", "invvar"), made, strict=True):
                header = hdu.header.copy()
                header.update({"BAND": band, "BRICK": "1541p122", "IMAGETYP": kind})
                hdus.append(fits.ImageHDU(hdu.data * (1 if band == "g" else 2), header))
    fits.HDUList(hdus).writeto(tmp_path / "sub.fits")
    with pytest.raises(FormatError, match="2 images of the Legacy Surveys: 1 1541p122 g; 3 1541p122 r"):
        read_exposure(tmp_path / "sub.fits")
    exposure = read_exposure(tmp_path / "sub.fits", hdu=3)
    assert exposure.data_id.band == "r"
    np.testing.assert_allclose(exposure.variance, 0.004**2 / 2, rtol=1e-6)
    with pytest.raises(FormatError, match="inverse variances"):
        read_exposure(tmp_path / "sub.fits", hdu=2)


def test_a_psf_of_another_band_is_refused(tmp_path):
    y, x = np.mgrid[-31:32, -31:32]
    one = fits.PrimaryHDU(np.exp(-(x**2 + y**2) / 6.5).astype(np.float32))
    one.header["BAND"] = "g"
    one.writeto(tmp_path / "copsf.fits")
    for path in (write_cutout(tmp_path / "cutout.fits"), write_brick(tmp_path)):
        with pytest.raises(PsfError, match="of band 'g'"):
            read_exposure(path, psf=tmp_path / "copsf.fits")
