"""A source that cannot be drawn is flagged with the reason, and the others of its image are drawn."""

from __future__ import annotations

import subprocess
import sys

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable

import skygraft.render.sersic
from skygraft.catalog import Flag, validate
from skygraft.errors import CatalogError
from skygraft.psf import PSF, Box, FixedKernelPSF, MoffatPSF
from skygraft.render import Canvas, Sources, render

KERNEL = MoffatPSF(4.0, 3.0, shape=(45, 45)).basis[0]
SIZE = 200
BOX = Box(-0.5, SIZE - 0.5, -0.5, SIZE - 0.5)
JACOBIAN = np.array([[-0.2, 0.0], [0.0, 0.2]])


class AsItIs:
    def __call__(self, kernels, x, y):
        return np.ones(len(x)), np.full(len(x), np.nan)

    def of_coefficients(self, coefficients, x, y):
        return np.ones(len(x)), np.full(len(x), np.nan)


def sources(kinds, **shape):
    n = len(kinds)
    x = np.linspace(40, SIZE - 40, n)
    jacobian = np.repeat(JACOBIAN[None], n, axis=0)
    columns = {name: np.asarray(values) for name, values in shape.items()}
    return Sources(np.arange(n), np.array(kinds), x, np.full(n, 100.0), np.ones(n), jacobian, columns)


def draw(given, psf=None, **options):
    canvas = Canvas.empty((SIZE, SIZE), (0, 0))
    return render(given, psf or FixedKernelPSF(KERNEL), canvas, BOX, AsItIs(), **options), canvas.model


NAN = np.nan
BROKEN = {
    "a profile that ends within sqrt(2) half-light radii": ("Sersic", {"n": 2.0, "trunc": 0.7}, Flag.PARAMETERS_BAD),
    "an index that no table has": ("Sersic", {"n": 60.0, "trunc": NAN}, Flag.PARAMETERS_BAD),
    "no size": ("Sersic", {"n": 1.0, "half_light_radius": NAN}, Flag.FFT_SIZE_ERROR),
    "a negative size": ("Gaussian", {"half_light_radius": -1.0}, Flag.PARAMETERS_BAD),
    "an impossible axis ratio": ("Sersic", {"n": 1.0, "q": 7.0}, Flag.PARAMETERS_BAD),
    "an exponent without a flux": ("Moffat", {"moffat_beta": 0.5}, Flag.PARAMETERS_BAD),
    "a trail without end": ("Trail", {"trail_length_pix": 1e300}, Flag.FFT_SIZE_ERROR),
    "an edge beyond any transform": ("Sersic", {"n": 1.0, "half_light_radius": 3e3, "trunc": 5e3}, Flag.FFT_SIZE_ERROR),
}


@pytest.mark.parametrize("galaxies", ["fast", "galsim"])
@pytest.mark.parametrize("what", BROKEN)
def test_a_row_that_cannot_be_drawn(what, galaxies):
    kind, wrong, flag = BROKEN[what]
    good = {
        "n": 1.0,
        "half_light_radius": 0.5,
        "q": 0.9,
        "pa": 0.0,
        "moffat_beta": 3.0,
        "trail_length_pix": 8.0,
        "trunc": NAN,
    }
    shape = {name: [value, wrong.get(name, value), value] for name, value in good.items()}
    report, image = draw(sources(["Sersic", kind, "Sersic"], **shape), galaxies=galaxies)
    assert report.flags[1] & int(flag | Flag.PARAMETERS_BAD | Flag.FFT_SIZE_ERROR)
    assert report.messages[1]
    assert report.flux_deposited[1] == 0
    assert (report.flags[[0, 2]] == 0).all()
    np.testing.assert_allclose(report.flux_deposited[[0, 2]], KERNEL.sum(), rtol=2e-3)
    alone, expected = draw(sources(["Sersic", "Star", "Sersic"], **shape), galaxies=galaxies)
    star, _ = draw(sources(["Star", "Star", "Star"], **shape))
    assert image.sum(dtype=float) == pytest.approx(expected.sum(dtype=float) - star.flux_deposited[1], rel=1e-4)
    assert alone.messages == {}


@pytest.mark.parametrize("galaxies", ["fast", "precise", "galsim"])
@pytest.mark.parametrize("n", [0.3, 0.5, 1.0, 2.0, 4.0, 6.2])
@pytest.mark.parametrize("ratio", [2**0.5, 1.41421357, 1.4143, 1.4149, 1.43, 1.46])
def test_profiles_that_are_nearly_flat_disks(n, ratio, galaxies):
    shape = {
        "n": [n] * 2,
        "half_light_radius": [1.0, 9.0],
        "trunc": [ratio, 9.0 * ratio],
        "q": [0.8] * 2,
        "pa": [20.0] * 2,
    }
    report, _ = draw(sources(["Sersic"] * 2, **shape), galaxies=galaxies, flux_tolerance=1e-3)
    assert report.messages == {}
    assert report.flux_deposited[0] == pytest.approx(KERNEL.sum(), rel=2e-3)
    assert not (report.flags & int(Flag.PARAMETERS_BAD | Flag.FFT_SIZE_ERROR)).any()


def test_what_crashed_the_process_does_not():
    script = """
import numpy as np
from skygraft.psf import Box, FixedKernelPSF, MoffatPSF
from skygraft.render import Canvas, Sources, render
class AsItIs:
    def __call__(self, kernels, x, y): return np.ones(len(x)), np.full(len(x), np.nan)
    of_coefficients = __call__
for engine in ("fast", "galsim"):
    for n in (0.3, 2.0, 6.2):
        for ratio in (1.0, 1.4142, 1.41422, 1.4143):
            given = Sources(np.arange(1), np.array(["Sersic"]), np.full(1, 50.0), np.full(1, 50.0), np.ones(1),
                            0.2 * np.eye(2)[None],
                            {"n": np.full(1, n), "half_light_radius": np.ones(1), "trunc": np.full(1, ratio)})
            report = render(given, FixedKernelPSF(MoffatPSF(4.0).basis[0]), Canvas.empty((101, 101), (0, 0)),
                            Box(-0.5, 100.5, -0.5, 100.5), AsItIs(), galaxies=engine)
            assert (report.flags[0] == 0) == (ratio > 2**0.5), (n, ratio, report.flags, report.messages)
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("alive")


def test_the_catalogue_refuses_what_cannot_be():
    table = QTable(
        {
            "injection_id": [1, 2, 3],
            "ra": [1.0, 1.0, 1.0] * u.deg,
            "dec": [0.0, 0.0, 0.0] * u.deg,
            "source_type": ["Sersic"] * 3,
            "n": [2.0] * 3,
            "half_light_radius": [1.0] * 3 * u.arcsec,
            "trunc": [1.41, 2**0.5, 1.4143] * u.arcsec,
            "mag_r": [20.0] * 3,
        }
    )
    with pytest.raises(CatalogError, match=r"trunc = 1.41 arcsec is less than sqrt\(2\) half-light radii"):
        validate(table)
    flags = validate(table, on_bad="flag")["flags"]
    assert flags.tolist() == [int(Flag.PARAMETERS_BAD), 0, 0]


def test_a_psf_whose_own_code_fails_costs_those_sources_only():
    class Failing(PSF):
        shape = (45, 45)

        def kernels(self, x, y):
            if (np.asarray(x) > 150).any():
                raise ZeroDivisionError("no denominator there")
            return np.repeat(KERNEL[None], len(x), axis=0)

    given = sources(["Star", "Star", "Star"])
    wide = Sources(**{**vars(given), "x": np.array([30.0, 100.0, 160.0])})
    # Where the core is, is looked up over the image itself.
    canvas = Canvas.empty((SIZE, SIZE), (0, 0))
    report = render(wide, Failing(), canvas, Box(-0.5, 149.5, -0.5, 149.5), AsItIs())
    assert (report.flags & int(Flag.PSF_COMPUTE_ERROR) != 0).tolist() == [False, False, True]
    assert report.messages == {2: "ZeroDivisionError: no denominator there"}
    np.testing.assert_allclose(report.flux_deposited[:2], KERNEL.sum(), rtol=1e-5)


def test_a_source_that_needs_more_memory_than_there_is_costs_itself_only(monkeypatch):
    real = skygraft.render.sersic.aligned

    def limited(shape, *rest):
        if np.prod(shape) > 1 << 20:
            raise MemoryError(f"{np.prod(shape)} numbers")
        return real(shape, *rest)

    monkeypatch.setattr(skygraft.render.sersic, "aligned", limited)
    shape = {"n": [0.8, 0.8, 0.8], "half_light_radius": [0.5, 30.0, 0.5]}
    report, image = draw(sources(["Sersic"] * 3, **shape))
    assert [bool(f & Flag.FFT_SIZE_ERROR) for f in report.flags] == [False, True, False]
    assert report.messages[1].startswith("MemoryError")
    assert image.sum(dtype=float) == pytest.approx(2 * KERNEL.sum(), rel=1e-3)


@pytest.mark.parametrize("galaxies", ["fast", "galsim"])
def test_what_a_source_costs_is_bounded_by_its_image(galaxies):
    shape = {"half_light_radius": [0.5, 300.0, 0.5], "n": [1.0] * 3}
    report, image = draw(sources(["Star", "Gaussian", "Star"], **shape), galaxies=galaxies)
    assert [bool(f & Flag.FFT_SIZE_ERROR) for f in report.flags] == [False, True, False]
    assert "2048 are allowed on this image" in report.messages[1]
    assert image.sum(dtype=float) == pytest.approx(2 * KERNEL.sum(), rel=1e-3)
