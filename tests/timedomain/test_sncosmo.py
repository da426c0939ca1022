"""Light curves of sncosmo: fluxes against the model's own formula, in an image, and refusals."""

from __future__ import annotations

from typing import Any

import astropy.units as u
import numpy as np
import pytest

from skygraft.errors import CatalogError, ConfigError
from skygraft.timedomain.light_curves import LightCurves
from skygraft.timedomain.sncosmo_curves import sncosmo_light_curves

sncosmo = pytest.importorskip("sncosmo")

WIDTH = 12.0  # d, rest frame
DENSITY = 1e-15  # erg / s / cm2 / Angstrom, the same at all wavelengths


@pytest.fixture(scope="module")
def model() -> Any:
    phase, wave = np.arange(-40.0, 61.0), np.linspace(3000, 25000, 200)
    flux = DENSITY * np.exp(-0.5 * (phase[:, None] / WIDTH) ** 2) * np.ones_like(wave)
    return sncosmo.Model(source=sncosmo.TimeSeriesSource(phase, wave, flux))


@pytest.fixture(scope="module")
def band() -> Any:
    return sncosmo.Bandpass(np.linspace(15000, 17000, 201), np.ones(201), name="flat H")


def test_curves_are_stretched_by_redshift(model: Any, band: Any) -> None:
    table = sncosmo_light_curves(model, {"id": ["a"], "z": [0.2], "t0": [60000.0], "amplitude": [2.0]}, {"H": band})
    times = 60000 + np.array([0.0, 10.0, 25.0])
    got = LightCurves.of(table).flux_at([0, 0, 0], "H", times)
    np.testing.assert_allclose(got / got[0], np.exp(-0.5 * ((times - 60000) / 1.2 / WIDTH) ** 2), rtol=2e-3)
    # The model given is as it was.
    assert model.get("amplitude") == 1.0


def test_the_magnitude_at_zero_redshift(model: Any, band: Any) -> None:
    table = sncosmo_light_curves(model, {"z": [0.0], "t0": [10.0]}, {"H": band})
    wave = np.linspace(15000, 17000, 20001)
    density = DENSITY * u.erg / u.s / u.cm**2 / u.AA
    reference = (3630.7805477 * u.Jy).to(density.unit, u.spectral_density(wave * u.AA)).value
    want = DENSITY * np.trapezoid(wave, wave) / np.trapezoid(reference * wave, wave) * 3630.7805477e9
    assert LightCurves.of(table).flux_at([0], "H", 10.0)[0] == pytest.approx(want, rel=1e-3)


def test_peak_magnitudes(model: Any, band: Any) -> None:
    parameters = {"id": ["a", "b"], "z": [0.1, 0.3], "t0": [60000.0, 60020.0], "peak_mag": [20.0, 23.5]}
    curves = LightCurves.of(sncosmo_light_curves(model, parameters, {"H": band}, peak_band="H", step=0.5))
    flux = curves.flux_at([0, 1], "H", [60000.0, 60020.0])
    np.testing.assert_allclose(-2.5 * np.log10(flux / 3630780547701.0), [20.0, 23.5], atol=1e-4)


def test_refusals(model: Any, band: Any) -> None:
    with pytest.raises(CatalogError, match="no parameter 'x9'; it has z, t0, amplitude"):
        sncosmo_light_curves(model, {"x9": [1.0]}, {"H": band})
    with pytest.raises(CatalogError, match="z of '1' is missing"):
        sncosmo_light_curves(model, {"z": [0.0, np.nan]}, {"H": band})
    with pytest.raises(CatalogError, match="cannot give the flux of '0' in"):
        far = sncosmo.Bandpass([40000.0, 41000.0, 42000.0], [0.0, 1.0, 0.0], name="far")
        sncosmo_light_curves(model, {"z": [0.0]}, {"M": far})
    with pytest.raises(ConfigError, match="peak_band is None"):
        sncosmo_light_curves(model, {"peak_mag": [20.0]}, {"H": band})
