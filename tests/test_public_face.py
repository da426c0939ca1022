"""What a session sees after `import skygraft`: names, modules, conformance suites, and objects that show themselves."""

from __future__ import annotations

import dataclasses
import doctest
import html
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from numpy.typing import ArrayLike, NDArray

import skygraft
import skygraft.testing
from kits.plain_images import write_plain_image
from skygraft.errors import CalibrationError
from skygraft.exposure import NO_PHOTO_CALIB, Exposure
from skygraft.formats import get_format
from skygraft.photometry import PSF_MODEL, CalibrationAperture, ChebyshevField, PhotoCalib, ReferenceCandidate
from skygraft.psf import PSF, Box, GaussianPSF, KernelBasisPSF, MoffatPSF
from skygraft.testing import make_exposure


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_import_is_light_and_every_public_name_is_found() -> None:
    code = """
import sys, skygraft
heavy = {"numpy", "astropy", "xarray", "numba", "galsim", "dask", "pyarrow", "scipy"} & set(sys.modules)
assert not heavy, heavy
assert set(skygraft.__all__) <= set(dir(skygraft))
psf = skygraft.psf.MoffatPSF(fwhm=3.5)
assert skygraft.testing.make_exposure((8, 8), psf=psf).psf is psf
for name in skygraft.__all__:
    assert getattr(skygraft, name) is not None, name
try:
    skygraft.no_such_name
except AttributeError as error:
    print(error)
"""
    assert "no attribute 'no_such_name'" in python(code)


EXAMPLES = (
    *("exposure", "testing", "psf.analytic", "psf.kernel", "photometry.fields", "photometry.origins"),
    *("photometry.reference", "photometry.units"),
)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_give_what_they_say(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"skygraft.{name}"))
    assert found.attempted
    assert not found.failed


def test_every_public_name_of_testing_is_found_and_described() -> None:
    for name in skygraft.testing.__all__:
        assert getattr(skygraft.testing, name).__doc__, name
        if name.startswith("check_"):
            assert name in ("check_psf", *skygraft.testing._OF_FORMATS)
    with pytest.raises(AttributeError, match="no_such_check"):
        skygraft.testing.no_such_check  # noqa: B018


class BoxPSF(PSF):
    """A PSF of one's own: a square of equal pixels."""

    def __init__(self, size: int, light: float = 1.0) -> None:
        self._size, self._light = size, light

    @property
    def shape(self) -> tuple[int, int]:
        return self._size, self._size

    def kernels(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        n = np.broadcast(np.atleast_1d(x), np.atleast_1d(y)).size
        return np.full((n, *self.shape), self._light / self._size**2)


def test_the_suite_of_psfs_is_for_everybody() -> None:
    skygraft.testing.check_psf(BoxPSF(5), x=[10.0, 20.5], y=[3.0, 4.25])
    with pytest.raises(AssertionError, match="even size"):
        skygraft.testing.check_psf(BoxPSF(4), x=[10.0], y=[3.0])
    assert BoxPSF(5) == BoxPSF(5)
    assert BoxPSF(5) != BoxPSF(5, light=2.0)
    assert repr(BoxPSF(5)).startswith("BoxPSF, 5 x 5 pixels\n")


def test_the_suite_of_formats_is_for_everybody(tmp_path: Path) -> None:
    fmt = get_format("fits")
    path = write_plain_image(tmp_path / "in" / "image.fits", 150.0, 2.0, 60)
    out = tmp_path / "out"
    out.mkdir()
    skygraft.testing.check_format(fmt, path, out)

    class Forgetful(type(fmt)):  # type: ignore[misc]
        def read(self, path: Any, **options: Any) -> Exposure:
            found: Exposure = super().read(path, **options)
            return found.replace(data_id=dataclasses.replace(found.data_id, detector=99))

    with pytest.raises(AssertionError, match="detector=99"):
        skygraft.testing.check_footprint(Forgetful(), path, Forgetful().read(path))


def test_an_exposure_shows_what_matters_first() -> None:
    exposure = make_exposure((60, 70), xy0=(1000, 2000))
    text = repr(exposure)
    lines = text.splitlines()
    for part in (
        "TestCam-1-2",
        "visit 1, detector 2, band r",
        "70 x 60, first pixel (1000, 2000), in adu, with variance",
        "FitsWcs, 0.2000 arcsec/pix, centre 150.00000 +2.00000",
        "4.09 pix = 0.82 arcsec",
        "zeropoint 27.0000 AB mag for 1 adu",
        "aperture of 12 pix = 2.40 arcsec (made for a test)",
    ):
        assert part in text, part
    order = [next(i for i, line in enumerate(lines) if key in line) for key in ("data id", "pixels", "wcs", "psf")]
    assert order == [1, 2, 3, 4]
    assert "array" not in text
    given = exposure.photo_calib.with_reference(CalibrationAperture(10.0, 2.0, "--aperture", unit="arcsec"))
    assert "2 arcsec = 10 pix (--aperture)" in repr(exposure.replace(photo_calib=given))
    page = exposure._repr_html_()
    for part in ("4.09 pix = 0.82 arcsec", "aperture of 12 pix = 2.40 arcsec"):
        assert html.escape(part) in page


def test_an_exposure_whose_calibrations_vary_shows_their_range() -> None:
    kernels = [np.pad(GaussianPSF(s, shape=(15, 15)).basis[0], 0) for s in (1.5, 2.5)]
    box = Box(-0.5, 69.5, -0.5, 59.5)
    psf = KernelBasisPSF(kernels, [[0.5, 0.5, 0.0], [0.5, -0.5, 0.0]], chebyshev_box=box)
    field = ChebyshevField([[1.0, 0.1]], (0, 69, 0, 59))
    exposure = make_exposure((60, 70), psf=psf, photo_calib=PhotoCalib.from_zeropoint(27.0, field=field))
    text = repr(exposure)
    low, high = psf.fwhm_range(exposure.box)
    assert 3.5 < low < 4.2
    assert 5.0 < high < 5.9
    assert f"{low:.2f} to {high:.2f} pix = {0.2 * low:.2f} to {0.2 * high:.2f} arcsec" in text
    corners = 27.0 - 2.5 * np.log10(1.0 + 0.1 * np.array([1.0, -1.0]))
    # Numbers of the lines as they are wrapped.
    for number in ("27.0000", f"{corners[0]:.4f}", f"{corners[1]:.4f}", "unknown"):
        assert number in text, number


def test_long_lines_are_wrapped_not_lost() -> None:
    origin = "slot_CalibFlux -> base_CircularApertureFlux_12_0 in the source catalogue of visit 849375 END"
    calib = PhotoCalib.from_zeropoint(27.0, reference=CalibrationAperture(12.0, 2.4, origin))
    lines = repr(make_exposure((60, 70), photo_calib=calib)).splitlines()
    assert max(map(len, lines)) <= 100
    assert any("END" in line for line in lines)
    endless = calib.with_reference(calib.reference, "word " * 500)
    assert len(repr(make_exposure((60, 70), photo_calib=endless)).splitlines()) < 24


def test_what_is_absent_says_why() -> None:
    exposure = make_exposure((60, 70)).replace(
        photo_calib=None, psf=None, gain=None, extra={NO_PHOTO_CALIB: CalibrationError("no zeropoint found")}
    )
    assert "no zeropoint found" in repr(exposure)
    assert "gain         not recorded" in repr(exposure)


@pytest.mark.parametrize(
    "psf",
    [
        MoffatPSF(4.0),
        KernelBasisPSF([np.ones((5, 5))], [[1.0]], valid_box=Box(0, 9, 0, 9), average_position=(3.25, 4.0)),
        skygraft.psf.FixedKernelPSF(np.eye(3)),  # has no width
    ],
)
def test_a_psf_shows_its_model_width_and_where_it_holds(psf: PSF) -> None:
    lines = repr(psf).splitlines()
    assert lines[0] == psf.description
    assert lines[1].split()[0] == "FWHM"
    assert lines[2].split()[0] == "holds"
    assert len(lines) == 3 + (psf.average_position is not None)
    assert psf._repr_html_().count("<tr>") == len(lines) - 1
    assert "array" not in repr(psf)


def test_the_widest_and_narrowest_kernel_are_found() -> None:
    low, high = MoffatPSF(4.0, pixel_integrated=False).fwhm_range(Box(0, 99, 0, 99))
    assert low == high == pytest.approx(4.0, rel=1e-3)
    assert np.isnan(skygraft.psf.FixedKernelPSF(np.eye(3)).fwhm_range()).all()


def test_a_photo_calib_is_one_argument_a_line_and_evaluates_to_itself() -> None:
    candidate = ReferenceCandidate("aperture", 12.0, origin="slot", level="schema")
    for calib in (
        PhotoCalib.nanojansky(),
        PhotoCalib.from_zeropoint(27.0, reference=CalibrationAperture(12.0, 2.4, "slot"), candidates=(candidate,)),
        PhotoCalib.from_zeropoint(27.0, "electron", reference=PSF_MODEL, reference_origin="header"),
    ):
        text = repr(calib)
        names = {
            n: getattr(skygraft.photometry, n) for n in ("PhotoCalib", "CalibrationAperture", "ReferenceCandidate")
        }
        assert eval(text.replace(repr(PSF_MODEL), "PSF_MODEL"), names | {"PSF_MODEL": PSF_MODEL}) == calib
        assert f"zeropoint {float(calib.zeropoint()):.4f} AB mag" in text.splitlines()[1]
    assert "unknown" in PhotoCalib.nanojansky()._repr_html_()


def test_an_injection_shows_the_aperture_in_pixels_and_arcsec() -> None:
    catalog = {"ra": [150.0], "dec": [2.0], "source_type": ["Star"], "mag_r": [18.0]}
    injection = skygraft.inject(make_exposure((40, 50)), catalog)
    for text in (repr(injection), injection._repr_html_()):
        assert "calibrated; calibrated to aperture of 12 pix = 2.40 arcsec (made for a test)" in text


def test_the_wcs_gives_and_takes_sky_coordinates() -> None:
    exposure = make_exposure((60, 70), xy0=(1000, 2000))
    sky = exposure.wcs.pixel_to_world([1010.0, 1020.5], [2003.0, 2004.25])
    assert isinstance(sky, SkyCoord)
    ra, dec = exposure.wcs.pixel_to_world_values([1010.0, 1020.5], [2003.0, 2004.25])
    np.testing.assert_allclose((sky.ra.deg, sky.dec.deg), (ra, dec), rtol=0, atol=1e-12)
    np.testing.assert_allclose(exposure.wcs.world_to_pixel(sky.galactic), ([1010.0, 1020.5], [2003.0, 2004.25]))
    rows, columns = exposure.wcs.world_to_array_index(sky)
    assert (rows.tolist(), columns.tolist()) == ([2003, 2004], [1010, 1021])
    assert exposure.wcs.low_level_wcs is exposure.wcs


def test_help_of_settings_describes_them_before_anything_else_was_used() -> None:
    shown = python(
        "import pydoc, skygraft; print(pydoc.render_doc(skygraft.InjectionOptions, renderer=pydoc.plaintext))"
    )
    assert "Parameters" in shown and "wings : " in shown and "flux_tolerance : " in shown
