from __future__ import annotations

import pickle

import numpy as np
import pytest
from astropy.io import fits
from photutils.psf import GriddedPSFModel, ImagePSF, make_epsf_from_psf

from skygraft.errors import ConfigError, CorruptFileError, PsfError, SkygraftError
from skygraft.formats.given import check_psf_settings
from skygraft.psf import GriddedPSF, OversampledPSF, check_psf, read_psf_image, read_psfield

NIRCAM = 0.0311
"""Arcsec per pixel of NIRCam's short-wave detectors."""


def spot(n, sampling, sigma=0.6, center=None, wings=0.0):
    """An image of a star, light per sample; without wings, all of it."""
    c = (n - 1) / 2 if center is None else center
    y, x = (np.mgrid[:n, :n] - np.reshape(np.broadcast_to(c, 2)[::-1], (2, 1, 1))) / sampling
    r2 = x**2 + 1.1 * y**2
    image = np.exp(-r2 / (2 * sigma**2)) + wings / (1 + r2) ** 1.5
    return image / image.sum()


def write(path, *hdus):
    fits.HDUList([fits.PrimaryHDU(hdus[0][0], fits.Header(hdus[0][1])),
                  *(fits.ImageHDU(data, fits.Header(cards)) for data, cards in hdus[1:])]).writeto(path)  # fmt: skip
    return path


STPSF = {"INSTRUME": "NIRCam", "DETECTOR": "NRCA1", "FILTER": "F200W", "OVERSAMP": 4, "NORMALIZ": "first"}


def stamp(path, n=13, oversampling=4, light=0.97, scale=NIRCAM):
    """A stamp with the four extensions of STPSF's files."""
    fine = light * spot(n * oversampling, oversampling, wings=1e-4)
    binned = fine.reshape(n, oversampling, n, oversampling).sum(axis=(1, 3))
    over = STPSF | {"PIXELSCL": scale / oversampling, "PIXUNIT": "arcsec", "DET_SAMP": oversampling}
    det = STPSF | {"PIXELSCL": scale, "PIXUNIT": "arcsec", "DET_SAMP": oversampling, "OVERSAMP": 1}
    names = ("OVERSAMP", "DET_SAMP", "OVERDIST", "DET_DIST")
    planes = [(fine[::-1], over), (binned[::-1], det), (fine, over), (binned, det)]
    return write(path, *((data, cards | {"EXTNAME": name}) for name, (data, cards) in zip(names, planes, strict=True)))


def test_stpsf_stamp_is_its_optical_psf_with_distortion_integrated_over_pixels(tmp_path):
    psf = read_psf_image(stamp(tmp_path / "stamp.fits"), NIRCAM)
    assert isinstance(psf, OversampledPSF)
    assert not psf.pixel_integrated
    assert psf.oversampling == (4, 4)
    fine = fits.getdata(tmp_path / "stamp.fits", "OVERDIST")
    epsf = make_epsf_from_psf(fine * 16, oversampling=4)
    ny, nx = psf.shape
    expected = ImagePSF(epsf, oversampling=4, x_0=nx // 2, y_0=ny // 2)(*np.mgrid[:ny, :nx][::-1])
    # photutils evaluates a spline through the integrals, not the integrals
    assert np.abs(psf.kernels([9], [9])[0] - expected)[2:-2, 2:-2].max() < 1e-3 * expected.max()
    assert psf.kernels([9], [9]).sum() + psf.flux_outside([9], [9])[0] == pytest.approx(1.0)
    assert psf.flux_outside([9], [9]) == pytest.approx(0.03, abs=2e-3)
    assert "STPSF stamp stamp.fits[2]" in psf.description
    check_psf(psf, [1.0, 2.0], [3.0, 4.0])


def test_detector_sampled_extension_of_a_stamp(tmp_path):
    psf = read_psf_image(stamp(tmp_path / "stamp.fits"), NIRCAM, hdu="DET_DIST")
    data = fits.getdata(tmp_path / "stamp.fits", "DET_DIST")
    assert psf.oversampling == (1, 1)
    assert psf.pixel_integrated
    assert np.array_equal(psf.kernels([0], [0])[0], data)


def grid_file(path, *, summed_to_one=False, n=45, **cards):
    places = [(0, 0), (0, 2047), (2047, 0), (2047, 2047)]  # (y, x)
    images = np.array([0.98 * spot(n, 4, 0.6 * s) for s in (1, 1.1, 1.2, 1.3)]) * (1 if summed_to_one else 16)
    cards = STPSF | {"DET_SAMP": 4, "PIXELSCL": NIRCAM / 4} | cards
    cards |= {f"DET_YX{i}": str((float(y), float(x))) for i, (y, x) in enumerate(places)}
    return write(path, (images, cards))


@pytest.mark.parametrize("summed_to_one", [False, True])
def test_stpsf_grid_is_photutils_model(tmp_path, summed_to_one):
    path = grid_file(tmp_path / "grid.fits", summed_to_one=summed_to_one)
    psf = read_psf_image(path, NIRCAM)
    assert isinstance(psf, GriddedPSF)
    model = GriddedPSFModel.read(path, format="webbpsf")
    ny, nx = psf.shape
    y, x = np.mgrid[:ny, :nx]
    for at_x, at_y in ((100.0, 1900.0), (1234.0, 77.0)):
        model.x_0, model.y_0 = at_x, at_y
        expected = model(x + at_x - nx // 2, y + at_y - ny // 2) * (16 if summed_to_one else 1)
        assert np.abs(psf.kernels([at_x], [at_y])[0] - expected).max() < 1e-12
    assert psf.flux_outside([5], [5]) == pytest.approx(0.02, abs=6e-3)
    moved = read_psf_image(path, NIRCAM, xy0=(100, 50))
    assert np.array_equal(moved.kernels([150], [70]), psf.kernels([50], [20]))


def stdpsf_file(path, n_x, n_y, x, y):
    images = np.array([spot(21, 4, 0.5 + 0.002 * i) for i in range(n_x * n_y)]) * 16
    cards = {"NXPSFS": n_x, "NYPSFS": n_y}
    cards |= {f"IPSFX{i + 1:02d}": v for i, v in enumerate(x)} | {f"JPSFY{i + 1:02d}": v for i, v in enumerate(y)}
    return write(path, (images, cards))


def test_stdpsf_of_one_detector(tmp_path):
    path = stdpsf_file(tmp_path / "STDPSF_NRCA1_F150W.fits", 3, 2, (1, 1025, 2048), (1, 2048))
    psf, model = read_psf_image(path, NIRCAM), GriddedPSFModel.read(path, format="stdpsf")
    assert np.array_equal(psf.grid_xypos, model.grid_xypos)
    assert np.array_equal(psf.images, model.data)
    assert psf.oversampling == (4, 4)


@pytest.mark.parametrize(
    ("name", "detector", "number"), [("STDPSF_ACSWFC_F814W", "WFC2", 1), ("STDPSF_ACSWFC_F814W", "WFC1", 2)]
)
def test_stdpsf_of_two_detectors(tmp_path, name, detector, number):
    x, y = np.arange(9) * 512 + 1, np.r_[np.arange(5) * 500 + 1, np.arange(5) * 500 + 2049]
    path = stdpsf_file(tmp_path / f"{name}.fits", 9, 10, x, y)
    psf = read_psf_image(path, 0.05, detector=detector)
    model = GriddedPSFModel.read(path, format="stdpsf", detector_id=number)
    assert np.array_equal(psf.grid_xypos, model.grid_xypos)
    assert np.array_equal(psf.images, model.data)
    with pytest.raises(PsfError, match="several detectors, 2, 1; none was named"):
        read_psf_image(path, 0.05)


@pytest.mark.parametrize(("detector", "number"), [("NRCA3", 3), ("B4", 8), ("NRCB1", 5)])
def test_stdpsf_of_eight_detectors(tmp_path, detector, number):
    images = np.array([spot(13, 4, 0.5 + 0.001 * i) for i in range(200)]) * 16
    x, y = np.arange(20) * 409 + 1, np.arange(10) * 409 + 1
    cards = {"NXPSFS": 20, "NYPSFS": 10}
    cards |= {f"IPSFX{c}5": " ".join(map(str, x[5 * i : 5 * i + 5])) for i, c in enumerate("ABCD")}
    cards |= {f"JPSFY{c}5": " ".join(map(str, y[5 * i : 5 * i + 5])) for i, c in enumerate("AB")}
    path = write(tmp_path / "STDPSF_NRCSW_F150W.fits", (images, cards))
    psf = read_psf_image(path, NIRCAM, detector=detector)
    model = GriddedPSFModel.read(path, format="stdpsf", detector_id=number)
    assert np.array_equal(psf.grid_xypos, model.grid_xypos)
    assert np.array_equal(psf.images, model.data)


SCALES = [
    {"PIXSCALE": 0.1},
    {"PIXELSCL": 0.1, "PIXUNIT": "arcsec"},
    {"PIXSCAL1": 0.1, "PIXSCAL2": 0.1},
    {"CTYPE1": "RA---TAN", "CD1_1": -0.1 / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.1 / 3600},
    {"CDELT1": -0.1 / 3600, "CDELT2": 0.1 / 3600},
    {"CTYPE1": "RA---TAN", "CDELT1": -0.1, "CDELT2": 0.1, "CUNIT1": "arcsec"},
    # GalSim's pixel scale and affine transform, in arcsec
    {"GS_SCALE": 0.1, "CTYPE1": "LINEAR", "CD1_1": 0.1, "CD2_2": 0.1, "CD1_2": 0, "CD2_1": 0},
    {"GS_WCS": "AffineTransform", "CTYPE1": "LINEAR", "CD1_1": 1e-5, "CD1_2": -0.1, "CD2_1": -0.1, "CD2_2": -1e-5},
]


@pytest.mark.parametrize("cards", SCALES, ids=[next(iter(cards)) for cards in SCALES])
def test_scale_of_the_samples_from_the_header(tmp_path, cards):
    path = write(tmp_path / "psf.fits", (spot(41, 2.5, 1.2), cards))
    psf = read_psf_image(path, 0.25, pixel_integrated=True)
    assert psf.oversampling == pytest.approx((2.5, 2.5))
    assert psf.kernels([0], [0]).sum() == pytest.approx(1.0, abs=1e-4)


def test_linear_axes_without_a_unit_say_nothing(tmp_path):
    """A scale of one is GalSim's for pixels, and axes of others are not known to be angles."""
    cards = {"CTYPE1": "LINEAR", "CD1_1": 1.0, "CD2_2": 1.0, "CD1_2": 0, "CD2_1": 0}
    for more in ({"GS_SCALE": 1.0}, {"CD1_1": 0.1, "CD2_2": 0.1}):
        path = write(tmp_path / f"{len(more)}.fits", (spot(41, 2.5, 1.2), cards | more))
        with pytest.raises(PsfError, match="does not say how far apart"):
            read_psf_image(path, 0.25, pixel_integrated=True)


def test_counts_are_scaled_and_the_sum_is_noted(tmp_path):
    path = write(tmp_path / "psf.fits", (730.0 * spot(25, 1, 1.7), {"PIXSCALE": 0.2}))
    psf = read_psf_image(path, 0.2)
    assert psf.kernels([0], [0]).sum() == pytest.approx(1.0)
    assert "scaled from a sum of 730" in psf.description
    assert psf.flux_outside([0], [0]) == 0


def test_images_of_several_bands(tmp_path):
    # the layout of PSFs of coadds that the Legacy Surveys' viewer gives: an HDU for each band
    hdus = [(spot(25, 1, 1.5 + i / 10), {"BAND": band}) for i, band in enumerate("grz")]
    path = write(tmp_path / "coadd-psf.fits", *hdus)
    for i, band in enumerate("grz"):
        kernel = read_psf_image(path, 0.262, band=band, oversampling=1).kernels([0], [0])[0]
        assert np.allclose(kernel, hdus[i][0], rtol=1e-12)
    with pytest.raises(PsfError, match="no image of the file is of band 'i'; it has 'g', 'r', 'z'"):
        read_psf_image(path, 0.262, band="i", oversampling=1)
    with pytest.raises(PsfError, match="several HDUs hold images"):
        read_psf_image(path, 0.262, oversampling=1)


WAVES = {"PIXSCALE": 0.3, "WAVELN00": 2e-6, "WAVELN01": 3e-6}


def datacube(path, wavelengths, key="WAVELN{:02d}"):
    """What poppy's calc_datacube makes of a stamp: each of its extensions with a plane for each wavelength."""
    stamps = [stamp(path.parent / f"{path.stem}{i}.fits", light=0.99 - 0.01 * i) for i in range(len(wavelengths))]
    cards = {key.format(i): metres for i, metres in enumerate(wavelengths)} | {"NWAVES": len(wavelengths)}
    hdus = []
    for k in range(4):
        header = fits.getheader(stamps[0], k)
        header.update(cards)
        hdus.append((np.stack([fits.getdata(one, k) for one in stamps]), header))
    return write(path, *hdus)


@pytest.mark.parametrize("key", ["WAVELN{:02d}", "WVLN{:04d}"])
def test_one_wavelength_of_a_datacube_is_the_stamp_of_that_wavelength(tmp_path, key):
    path = datacube(tmp_path / "cube.fits", [2.0e-6, 3.0e-6, 4.44e-6], key)
    of_stamp = read_psf_image(tmp_path / "cube2.fits", NIRCAM)
    for given in ({"wavelength": "4.44 um"}, {"wavelength": "50000 Angstrom"}, {"plane": 2}, {"plane": np.int64(2)}):
        psf = read_psf_image(path, NIRCAM, **given)
        assert np.array_equal(psf.images, of_stamp.images)
        assert (psf.pixel_integrated, psf.oversampling) == (False, (4, 4))
        assert psf.flux_outside([0], [0]) == of_stamp.flux_outside([0], [0])
        assert "plane 2 (4.44 micrometres) of STPSF stamp cube.fits[2]" in psf.description
    binned = read_psf_image(path, NIRCAM, hdu="DET_DIST", wavelength="2 um")
    assert np.array_equal(binned.kernels([0], [0])[0], fits.getdata(tmp_path / "cube0.fits", "DET_DIST"))
    with pytest.raises(PsfError, match=r"several wavelengths: planes 0 to 2, of 2, 3, 4.44 micrometres") as caught:
        read_psf_image(path, NIRCAM)
    assert caught.value.key == "wavelength"
    assert caught.value.hdu == 2
    with pytest.raises(ConfigError, match="plane and wavelength are both given"):
        read_psf_image(path, NIRCAM, plane=1, wavelength="3 um")
    alone = read_psf_image(datacube(tmp_path / "one.fits", [2.5e-6]), NIRCAM)
    assert "2.5 micrometres of STPSF stamp" in alone.description


def test_a_cube_of_four_axes_is_read_plane_by_plane(tmp_path):
    """No function of STPSF writes one; grids of several wavelengths that were put together by hand have them."""
    images, header = fits.getdata(grid_file(tmp_path / "a.fits"), header=True)
    both = write(tmp_path / "both.fits", (np.stack([images, images[::-1]]), header))
    psf = read_psf_image(both, NIRCAM, plane=0)
    assert isinstance(psf, GriddedPSF)
    assert np.array_equal(psf.images, read_psf_image(tmp_path / "a.fits", NIRCAM).images)
    with pytest.raises(PsfError, match=r"4 axes .* datacubes .calc_datacube. a plane for each wavelength"):
        read_psf_image(both, NIRCAM)


@pytest.mark.parametrize(
    ("image", "cards", "given", "match"),
    [
        (spot(25, 1, 1.7), {}, {}, "does not say how far apart"),
        (spot(75, 3, 1.7), {"PIXSCALE": 0.1}, {}, "does not say what they are"),
        (spot(25, 1, 1.7, center=(13, 12)), {"PIXSCALE": 0.3}, {}, r"centroid at \(13.00, 12.00\), 1.00 pixels"),
        (spot(24, 1, 1.7, center=(12, 12)), {"PIXSCALE": 0.3}, {}, "between samples since a size is even"),
        (spot(25, 1, 1.7) + 1e-4, {"PIXSCALE": 0.3}, {}, "background of 0.0001"),
        (spot(25, 1, 1.7) - 1e-4, {"PIXSCALE": 0.3}, {}, "background of -0.0001"),
        (np.full((25, 25), 1.3), {"PIXSCALE": 0.3}, {}, "may be no image of a point source, but a map"),
        (-spot(25, 1, 1.7), {"PIXSCALE": 0.3}, {}, "sums to -1"),
        (np.where(spot(25, 1, 1.7) < 1e-9, np.nan, spot(25, 1, 1.7)), {"PIXSCALE": 0.3}, {}, "values that are not fin"),
        (np.ones((2, 2, 9, 9)), {"PIXSCALE": 0.3}, {}, r"cube with 4 axes \(2, 2, 9, 9\)"),
        (np.ones((3, 9, 9)), {"PIXSCALE": 0.3}, {}, "3 images and no positions"),
        (np.ones((3, 9, 9)), {"PIXSCALE": 0.3}, {"plane": 3}, "plane is 3; the cube has planes 0 to 2"),
        (np.ones((3, 9, 9)), {"PIXSCALE": 0.3}, {"wavelength": "2 um"}, "says no wavelengths of its planes"),
        (np.ones((2, 9, 9)), WAVES, {}, "several wavelengths: planes 0 to 1, of 2, 3 micrometres"),
        (np.ones((2, 9, 9)), WAVES, {"wavelength": "4 um"}, "no plane of the cube is of 4 micrometres"),
        (spot(25, 1, 1.7), {"PIXSCALE": 1.0}, {}, "0.3 x 0.3 samples per pixel"),
        (spot(25, 1, 1.7), {"IMTYPE": "psfsize"}, {}, "map of the PSF's size"),
        (spot(49, 4), STPSF | {"PIXELSCL": 0.063 / 4, "DET_SAMP": 4}, {}, "made for pixels of 0.063 arcsec"),
        (spot(25, 1, 1.7), {"PIXSCALE": 0.3}, {"center": "top"}, "center is 'top'"),
        (spot(25, 1, 1.7), {"PIXSCALE": 0.3}, {"hdu": 3}, "HDU 3 holds no image; these do: 0"),
    ],
)  # fmt: skip
def test_what_is_no_psf_of_this_image_is_refused(tmp_path, image, cards, given, match):
    path = write(tmp_path / "psf.fits", (image, cards))
    with pytest.raises(PsfError, match=match) as caught:
        read_psf_image(path, 0.3, **given)
    assert caught.value.path == str(path)
    assert caught.value.fix


@pytest.mark.parametrize(
    "given",
    [
        {"pixel_integrated": "no"},  # a text, which would count as true
        {"subtract_background": "false"},
        {"insist": 1},
        {"oversampling": "four"},
        {"oversampling": 0},
        {"oversampling": [4, 4, 4]},
        {"sampling": "0.05 arcsec"},
        {"sampling": float("nan")},
        {"center": [12, 12, 12]},
        {"center": ["left", "top"]},
        {"grid_xypos": [1, 2]},
        {"grid_xypos": "corners"},
        {"plane": "first"},
        {"plane": True},
        {"wavelength": "4.4"},
        {"wavelength": "4 Jy"},
    ],
)
def test_settings_of_the_wrong_type_are_refused(tmp_path, given):
    """In a campaign too, before any file is read."""
    path = write(tmp_path / "psf.fits", (spot(25, 1, 1.7), {"PIXSCALE": 0.3}))
    with pytest.raises(ConfigError, match=f"^key psf.{next(iter(given))}.*Give ") as caught:
        read_psf_image(path, 0.3, **given)
    assert pickle.loads(pickle.dumps(caught.value)).key == caught.value.key
    for settings in ({"path": "missing.fits"}, {"kind": "stpsf", "path": "missing.fits"}):
        with pytest.raises(ConfigError, match=f"psf.{next(iter(given))}"):
            check_psf_settings(settings | given)


def test_what_can_be_put_right_when_asked(tmp_path):
    off = spot(25, 1, 1.7, center=(13.2, 11.4))
    path = write(tmp_path / "off.fits", (off, {"PIXSCALE": 0.3}))
    kernel = read_psf_image(path, 0.3, center="centroid").kernels([0], [0])[0]
    y, x = np.indices(kernel.shape) - np.reshape(kernel.shape, (2, 1, 1)) // 2
    assert abs((kernel * x).sum()) < 1e-3
    assert abs((kernel * y).sum()) < 1e-3

    even = write(tmp_path / "even.fits", (spot(24, 1, 1.7, center=(12, 12)), {"PIXSCALE": 0.3}))
    odd = write(tmp_path / "odd.fits", (spot(24, 1, 1.7, center=(10, 13)), {"PIXSCALE": 0.3}))
    with pytest.raises(PsfError, match=r"center: \[10, 13\] \(column and row, from 0\) if it is the brightest sample"):
        read_psf_image(odd, 0.3)
    assert read_psf_image(even, 0.3, center=(12, 12)).kernels([0], [0])[0].argmax() == 25 * 25 // 2

    high = write(tmp_path / "high.fits", (spot(35, 1, 1.7) + 1e-4, {"PIXSCALE": 0.3}))
    kernel = read_psf_image(high, 0.3, subtract_background=True).kernels([0], [0])[0]
    assert np.abs(kernel - spot(35, 1, 1.7)).max() < 1e-6

    other = write(tmp_path / "other.fits", (spot(49, 4), STPSF | {"PIXELSCL": 0.063 / 4, "DET_SAMP": 4}))
    assert read_psf_image(other, 0.03, insist=True).oversampling[0] == pytest.approx(0.03 / 0.063 * 4)


def test_soft_bias_of_sdss_images(tmp_path):
    image = np.rint(1000 + 30000 * spot(51, 1, 1.4) / spot(51, 1, 1.4).max()).astype(np.uint16)
    path = write(tmp_path / "sdss.fits", (image, {"SOFTBIAS": 1000, "PIXSCALE": 0.396}))
    assert np.abs(read_psf_image(path, 0.396).kernels([0], [0])[0] - spot(51, 1, 1.4)).max() < 1e-5
    plain = write(tmp_path / "plain.fits", (image, {"PIXSCALE": 0.396}))
    with pytest.raises(PsfError, match="background of 1000"):
        read_psf_image(plain, 0.396)


def test_an_image_of_the_core_only(tmp_path):
    """Grids of which only the innermost samples were kept, as in the test data of photutils."""
    core = np.stack([spot(49, 4)[22:27, 22:27]] * 4)
    places = {f"DET_YX{i}": f"({y}, {x})" for i, (y, x) in enumerate([(0, 0), (0, 99), (99, 0), (99, 99)])}
    path = write(tmp_path / "grid.fits", (core, STPSF | places))
    with pytest.raises(PsfError, match=r"image 0 of the cube has a background.*of 5 x 5 samples.*insist: true"):
        read_psf_image(path, NIRCAM)
    psf = read_psf_image(path, NIRCAM, insist=True)
    assert psf.oversampling == (4, 4) and 0.2 < psf.kernels([50], [50])[0].max() < 1


def test_wide_wings_are_no_background(tmp_path):
    for n, slope in ((25, 1.5), (61, 1.25), (101, 1.5)):
        r2 = np.sum((np.mgrid[:n, :n] - n // 2) ** 2, axis=0)
        path = write(tmp_path / f"{n}.fits", ((1 + r2 / 4) ** -slope, {"PIXSCALE": 0.3}))
        assert read_psf_image(path, 0.3).kernels([0], [0]).sum() == pytest.approx(1)


def test_damaged_files(tmp_path):
    path = write(tmp_path / "psf.fits", (spot(49, 1, 2.0), {"PIXSCALE": 0.3}))
    (tmp_path / "cut.fits").write_bytes(path.read_bytes()[:4000])
    (tmp_path / "empty.fits").touch()
    for name in ("cut", "empty", "absent"):
        with pytest.raises(CorruptFileError):
            read_psf_image(tmp_path / f"{name}.fits", 0.3)
    fits.BinTableHDU.from_columns([fits.Column("A", "E", array=[1.0])]).writeto(tmp_path / "table.fits")
    with pytest.raises(PsfError, match="holds no image"):
        read_psf_image(tmp_path / "table.fits", 0.3)


def psfield(path, rng, status=(0, 0, 1, 0, 3), n_images=4):
    """A psField file, as the SDSS's photo pipeline writes them."""
    hdus = [fits.PrimaryHDU()]
    for _ in range(5):
        rows = rng.normal(0, 1e-4, (n_images, 51 * 51))
        rows[0] += spot(51, 1, 1.3).ravel()
        c = rng.normal(0, 0.05, (n_images, 5, 5))
        c[0, 0, 0] = 1
        columns = [
            fits.Column("NROW_B", "J", array=[3] * n_images), fits.Column("NCOL_B", "J", array=[2, 3, 3, 3][:n_images]),
            fits.Column("LAMBDA", "E", array=np.ones(n_images)), fits.Column("RNROW", "J", array=[51] * n_images),
            fits.Column("RNCOL", "J", array=[51] * n_images), fits.Column("C", "25E", dim="(5,5)", array=c),
            fits.Column("RROWS", "PE()", array=np.array([*map(np.float32, rows), None], dtype=object)[:-1]),
        ]  # fmt: skip
        hdus.append(fits.BinTableHDU.from_columns(columns))
    hdus.append(fits.BinTableHDU.from_columns([fits.Column("status", "5J", array=[status])]))
    fits.HDUList(hdus).writeto(path)
    return path


def test_psfield_is_the_documented_sum(tmp_path):
    path = psfield(tmp_path / "psField-001336-2-0051.fit", np.random.default_rng(1))
    psf = read_psfield(path, "r")
    with fits.open(path) as hdus:
        table = hdus[3].data
        for x, y in ((0.0, 0.0), (1021.3, 733.8), (2047.0, 1488.0)):
            expected = np.zeros((51, 51))
            for k in range(4):
                weight = sum(
                    float(table["C"][k][i, j]) * (0.001 * (y + 0.5)) ** i * (0.001 * (x + 0.5)) ** j
                    for i in range(table["NROW_B"][k])
                    for j in range(table["NCOL_B"][k])
                )
                expected += weight * table["RROWS"][k].astype(float).reshape(51, 51)
            expected /= expected.sum()
            assert np.abs(psf.kernels([x], [y])[0] - expected).max() < 1e-9 * expected.max()
    assert psf.valid_box.contains(2047, 1488)
    assert psf.description == "SDSS psField-001336-2-0051.fit (r), 4 eigenimages, 51 x 51 pixels, sum one"
    moved = read_psfield(path, "r", xy0=(-30, 500))
    assert np.allclose(moved.kernels([70], [900]), psf.kernels([100], [400]), rtol=0, atol=1e-13)
    check_psf(psf, [10.0, 2000.0], [3.0, 1400.0])


def test_psfield_without_a_psf(tmp_path):
    path = psfield(tmp_path / "psField.fit", np.random.default_rng(1))
    with pytest.raises(PsfError, match="no PSF was found"):
        read_psfield(path, "z")
    with pytest.raises(PsfError, match="SDSS has no band 'y'"):
        read_psfield(path, "y")
    plain = write(tmp_path / "psf.fits", (spot(25, 1), {}))
    with pytest.raises(PsfError, match="no psField file"):
        read_psfield(plain, "g")


@pytest.mark.parametrize("seed", range(4))
def test_damaged_bytes_and_cards_are_refused_or_read(tmp_path, seed):
    rng = np.random.default_rng(seed)
    whole = [
        (stamp(tmp_path / "stamp.fits", n=5), lambda path: read_psf_image(path, NIRCAM)),
        (grid_file(tmp_path / "grid.fits", n=13), lambda path: read_psf_image(path, NIRCAM)),
        (psfield(tmp_path / "field.fit", rng, n_images=1), lambda path: read_psfield(path, "r")),
    ]
    values = [b"'x'", b"-1", b"0", b"1e300", b"NaN", b"T", b"99999999", b"0.5", b"'(1,2,3)'", b""]
    for k in range(24):
        path, read = whole[k % 3]
        content = bytearray(path.read_bytes())
        cards = [i for i in range(0, min(len(content), 2880 * 4), 80) if content[i + 8 : i + 10] == b"= "]
        match k % 4:
            case 0:
                content = content[: rng.integers(1, len(content))]
            case 1:
                for at in rng.integers(0, len(content), 4):
                    content[at] = rng.integers(0, 256)
            case _:
                for i in rng.choice(cards, 2):
                    content[i + 10 : i + 80] = values[rng.integers(len(values))].ljust(70)
        damaged = path.with_name("damaged.fits")
        damaged.write_bytes(content)
        try:
            assert np.isfinite(read(damaged).kernels([5.0], [5.0])).all()
        except SkygraftError as error:
            assert str(error)
