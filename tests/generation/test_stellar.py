"""Stellar systems: profiles, mass functions and isochrones as published, whatever the chunks."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from scipy import integrate, stats

from skygraft.catalog import read_catalog
from skygraft.errors import CatalogError, CorruptFileError, OutputExistsError
from skygraft.generation.mass_functions import mass_function
from skygraft.generation.star_positions import Exponential, King, Plummer, SersicStars, Stream
from skygraft.generation.stellar import StellarSystem
from skygraft.generation.stellar_populations import isochrone, luminosity_function, read_isochrones

MASS = np.array([0.12, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.78, 0.80, 0.805, 0.81, 0.815, 0.818, 0.8195])
MAG_R = np.array([10.9, 9.2, 8.3, 7.5, 6.5, 5.6, 4.7, 4.2, 3.6, 3.2, 2.6, 1.5, 0.5, -1.2, -2.9])
COLOR = np.array([1.25, 1.05, 0.95, 0.85, 0.70, 0.52, 0.38, 0.32, 0.27, 0.33, 0.47, 0.52, 0.57, 0.75, 1.1])
SEQUENCE = Table({"Mini": MASS, "gmag": MAG_R + COLOR, "rmag": MAG_R})
BANDS = {"g": "gmag", "r": "rmag"}


def system(**changes):
    given = {"population": isochrone(SEQUENCE, BANDS), "profile": Plummer(60.0), "ra": 150.0, "dec": 2.0,
             "distance_modulus": 19.5, "n_stars": 20_000, "seed": 1}  # fmt: skip
    return StellarSystem(**(given | changes))


def kroupa(m):
    return np.where(m < 0.08, m**-0.3, np.where(m < 0.5, 0.08 * m**-1.3, 0.08 * 0.5 * m**-2.3))


def chabrier(m):
    low = np.exp(-((np.log10(m / 0.079)) ** 2) / (2 * 0.69**2)) / m
    return np.where(m < 1, low, np.exp(-((np.log10(1 / 0.079)) ** 2) / (2 * 0.69**2)) * m**-2.3)


@pytest.mark.parametrize(
    ("name", "density"), [("kroupa", kroupa), ("chabrier", chabrier), ("salpeter", lambda m: m**-2.35)]
)
@pytest.mark.parametrize("limits", [(0.05, 20.0), (0.3, 0.82), (1.5, 3.0)])
def test_mass_functions_are_those_published(name, density, limits):
    function = mass_function(name, *limits)
    grid = np.geomspace(*limits, 20001)
    number = integrate.cumulative_simpson(density(grid) * grid, x=np.log(grid), initial=0.0)
    found = function.number(grid)
    assert np.allclose(found / found[-1], number / number[-1], atol=1e-6)
    share = np.linspace(0, found[-1], 101)
    assert function.number(function.inverse(share)) == pytest.approx(share, rel=1e-9, abs=1e-12 * found[-1])


def radii(table, ra=150.0, dec=2.0, q=1.0, pa=0.0):
    centre, sky = SkyCoord(ra, dec, unit="deg"), SkyCoord(table["ra"], table["dec"])
    apart, angle = centre.separation(sky).arcsec, centre.position_angle(sky).rad - np.radians(pa)
    return np.hypot(apart * np.cos(angle) * np.sqrt(q), apart * np.sin(angle) / np.sqrt(q)), angle


def growth(brightness, ends):
    grid = np.linspace(0.0, ends, 40001)
    number = integrate.cumulative_simpson(brightness(grid) * grid, x=grid, initial=0.0)
    return lambda r: np.interp(r, grid, number / number[-1])


PROFILES = {
    "plummer": (Plummer(60.0, within=5.0), lambda r: (1 + (r / 60.0) ** 2) ** -2, 300.0),
    "exponential": (Exponential(60.0), lambda r: np.exp(-1.67834699 * r / 60.0), 600.0),
    "sersic": (SersicStars(60.0, n=2.0, within=8.0), lambda r: np.exp(-3.67206075 * np.sqrt(r / 60.0)), 480.0),
    "king": (King(30.0, 300.0), lambda r: (1 / np.sqrt(1 + (r / 30) ** 2) - 1 / np.sqrt(1 + 100.0)) ** 2, 300.0),
}


@pytest.mark.parametrize("name", list(PROFILES))
def test_stars_follow_the_profile(name):
    profile, brightness, ends = PROFILES[name]
    found, angle = radii(system(profile=profile).stars())
    assert found.max() <= ends * (1 + 1e-9)
    assert stats.kstest(found, growth(brightness, ends)).pvalue > 1e-3
    assert stats.kstest(angle / (2 * np.pi) % 1.0, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("centre", [(0.0, -89.9), (359.99, 45.0)])
def test_ellipses_are_right_at_poles_and_across_ra_0(centre):
    table = system(profile=Plummer(600.0, q=0.4, pa=30.0, within=5.0), ra=centre[0], dec=centre[1]).stars()
    found, _ = radii(table, *centre, q=0.4, pa=30.0)
    assert found.max() <= 3000.0 + 1e-3
    assert stats.kstest(found, growth(lambda r: (1 + (r / 600.0) ** 2) ** -2, 3000.0)).pvalue > 1e-3


def test_streams_run_along_great_circles():
    length, width, pa = 40 * 3600.0, 600.0, 70.0
    table = system(profile=Stream(length, width, pa), ra=350.0, dec=60.0).stars()
    centre = SkyCoord(350.0, 60.0, unit="deg")
    pole = centre.directional_offset_by((pa + 90) * u.deg, 90 * u.deg)
    sky = SkyCoord(table["ra"], table["dec"])
    across = 90 * 3600.0 - pole.separation(sky).arcsec
    assert stats.kstest(across, stats.norm(0, width).cdf).pvalue > 1e-3
    # Around the pole of the great circle.
    along = (pole.position_angle(sky) - pole.position_angle(centre)).wrap_at(180 * u.deg).arcsec
    assert stats.kstest((along + length / 2) / length, "uniform").pvalue > 1e-3


def test_magnitudes_are_those_of_masses_by_the_mass_function():
    table = system(extinction={"g": 0.3}).stars()
    r, g = table["mag_r"].value - 19.5, table["mag_g"].value - 19.8
    mass = np.interp(r, MAG_R[::-1], MASS[::-1])
    assert np.allclose(g - r, np.interp(mass, MASS, COLOR), atol=1e-9)
    grid = np.geomspace(MASS[0], MASS[-1], 20001)
    number = integrate.cumulative_simpson(kroupa(grid) * grid, x=np.log(grid), initial=0.0)
    assert stats.kstest(mass, lambda m: np.interp(m, grid, number / number[-1])).pvalue > 1e-3


def test_faint_stars_left_out_leave_the_bright_ones_as_they_are_distributed():
    every, bright = system(n_stars=200_000).stars(), system(n_stars=20_000, faintest={"r": 24.0, "g": 24.2}).stars()
    r, g = bright["mag_r"].value, bright["mag_g"].value
    assert ((r < 24.0) | (g < 24.2)).all()
    among = every[(every["mag_r"].value < 24.0) | (every["mag_g"].value < 24.2)]
    assert stats.ks_2samp(r, among["mag_r"].value).pvalue > 1e-3
    summary = system(n_stars=20_000, faintest={"r": 24.0, "g": 24.2}).summary()
    assert summary["n_stars"] / summary["n_all"] == pytest.approx(len(among) / 200_000, rel=0.05)


def test_light_adds_up_to_what_was_asked_for():
    def total(table, band):
        return -2.5 * np.log10(np.sum(10 ** (-0.4 * table[f"mag_{band}"].value)))

    asked = system(n_stars=None, mag_total={"r": 11.0}, extinction={"r": 0.2})
    table, summary = asked.stars(), asked.summary()
    assert len(table) == len(asked) == summary["n_stars"] == summary["n_all"] > 10_000
    assert total(table, "r") == pytest.approx(11.0, abs=0.05), "but for the luck of few giants"
    assert summary["mag_total"]["r"] == pytest.approx(11.0, abs=1e-3)
    assert summary["abs_mag_total"]["r"] == pytest.approx(11.0 - 19.7, abs=1e-3)
    assert np.isnan(summary["mag_unresolved"]["r"])
    some = system(n_stars=None, mag_total={"r": 11.0}, extinction={"r": 0.2}, faintest={"r": 25.0})
    summary, stars = some.summary(), some.stars()
    assert summary["n_all"] == pytest.approx(len(asked), rel=1e-3) and len(stars) < len(asked)
    assert total(stars, "r") == pytest.approx(summary["mag_stars"]["r"], abs=0.05)
    parts = [10 ** (-0.4 * summary[name]["r"]) for name in ("mag_stars", "mag_unresolved")]
    assert -2.5 * np.log10(sum(parts)) == pytest.approx(11.0, abs=1e-3)
    # What is too faint, by adding up the stars that were drawn.
    faint = table[table["mag_r"].value > 25.0]
    assert total(faint, "r") == pytest.approx(summary["mag_unresolved"]["r"], abs=0.05)


def test_neither_chunks_nor_files_change_a_star(tmp_path):
    dwarf = system(n_stars=1000, first_id=50, group_id=3)
    whole = dwarf.stars()
    assert list(whole["injection_id"]) == list(range(50, 1050)) and (whole["group_id"] == 3).all()
    for rows in (1, 7, 400):
        chunk = next(iter(dwarf.chunks(rows)))
        assert np.array_equal(chunk["ra"], whole["ra"][:rows])
    dwarf.write(tmp_path / "a.parquet", rows=333)
    dwarf.write(tmp_path / "b.parquet")
    a, b = (read_catalog(tmp_path / f"{name}.parquet") for name in "ab")
    for name in whole.colnames:
        assert np.array_equal(a[name], whole[name]) and np.array_equal(b[name], whole[name])
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 4
    with pytest.raises(OutputExistsError):
        dwarf.write(tmp_path / "a.parquet")
    with pytest.raises(CatalogError, match="Parquet"):
        dwarf.write(tmp_path / "a.fits")
    other = system(n_stars=1000, first_id=50, seed=2).stars()
    assert (
        not (other["ra"] == whole["ra"]).any() and not (system(first_id=1050).stars()["ra"][:1000] == whole["ra"]).any()
    )


def test_a_million_stars():
    assert len(system(n_stars=10**6, faintest={"r": 27.5}).stars()) == 10**6


def test_luminosity_functions_are_histograms():
    edges, numbers = [0.0, 1.0, 2.0, 4.0], [1.0, 0.0, 3.0]
    population = luminosity_function(edges, numbers, "r", {"g": [0.5, 0.6, 0.7, 0.9]})
    table = system(population=population).stars()
    r = table["mag_r"].value - 19.5
    assert not ((r > 1) & (r < 2)).any()
    assert np.histogram(r, edges)[0] / len(r) == pytest.approx([0.25, 0.0, 0.75], abs=0.02)
    assert stats.kstest((r[r > 2] - 2) / 2, "uniform").pvalue > 1e-3
    assert np.allclose(table["mag_g"].value - 19.5 - r, np.interp(r, edges, [0.5, 0.6, 0.7, 0.9]), atol=1e-9)
    mean = population.mean_flux()["r"]
    expected = 0.25 * np.mean(10 ** (-0.4 * np.linspace(0, 1, 100001))) + 0.75 * np.mean(
        10 ** (-0.4 * np.linspace(2, 4, 100001))
    )
    assert mean == pytest.approx(expected, rel=1e-4)


PARSEC = """# File generated by CMD 3.7
# isochrones based on PARSEC release v1.2S
# Zini MH logAge Mini label gmag rmag
 0.0001 -2.0 10.1 0.12 1 12.1 10.9
 0.0001 -2.0 10.1 0.80 2 3.5 3.2
 0.0001 -2.0 10.1 0.81 9 99.0 99.0
#isochrone terminated
# Zini MH logAge Mini label gmag rmag
 0.0001 -2.0 9.5 0.12 1 12.1 10.9
 0.0001 -2.0 9.5 1.20 2 3.1 2.9
"""


def test_isochrones_of_parsec_are_read_and_chosen(tmp_path):
    path = tmp_path / "parsec.dat"
    path.write_text(PARSEC)
    table = read_isochrones(path, logAge=10.1, MH=-2.0)
    assert list(table["Mini"]) == [0.12, 0.80, 0.81]
    population = isochrone(table, BANDS, to_ab={"r": 0.1})
    assert list(population.nodes) == [0.12, 0.80], "where 99 is the magnitude of no star"
    assert list(population.magnitudes["r"]) == pytest.approx([11.0, 3.3])
    with pytest.raises(CatalogError, match=r"there are 9.5, 10.1"):
        read_isochrones(path, logAge=8.0)
    with pytest.raises(CatalogError, match="'age'"):
        read_isochrones(path, age=8.0)
    with pytest.raises(CatalogError, match="not ascending"):
        isochrone(read_isochrones(path), BANDS)
    path.write_text("a b c\n")
    with pytest.raises(CorruptFileError):
        read_isochrones(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_stars": 0}, "0 stars"), ({"n_stars": None}, "n_stars or mag_total"), ({"mag_total": {"r": 1.0}}, "either"),
        ({"n_stars": None, "mag_total": {"r": 99.0}}, "0 stars"), ({"ra": -1.0}, "sphere"),
        ({"n_stars": None, "mag_total": {"r": 15.0, "g": 15.0}}, "disagree"), ({"extinction": {"z": 0.1}}, "bands g"),
        ({"faintest": {"r": np.nan}}, "faintest"), ({"faintest": {"r": 10.0}}, "no star is brighter"),
        ({"first_id": 2**63 - 100}, "64 bits"), ({"first_id": -1}, "first_id"), ({"distance_modulus": np.nan}, "mod"),
    ],
)  # fmt: skip
def test_impossible_systems_are_refused(changes, said):
    with pytest.raises(CatalogError, match=said):
        system(**changes)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Plummer(0.0), lambda: Plummer(1.0, q=1.5), lambda: Plummer(np.nan), lambda: Plummer(1.0, pa=np.nan),
        lambda: King(10.0, 5.0), lambda: King(-1.0, 5.0), lambda: Stream(0.0, 1.0), lambda: SersicStars(1.0, n=-1.0),
        lambda: isochrone(SEQUENCE, {"z": "zmag"}), lambda: isochrone(SEQUENCE, {}),
        lambda: isochrone(SEQUENCE, BANDS, imf="miller"), lambda: isochrone(SEQUENCE[:1], BANDS),
        lambda: isochrone(SEQUENCE, BANDS, to_ab={"z": 1.0}), lambda: luminosity_function([1.0, 2.0], [1.0, 2.0], "r"),
        lambda: luminosity_function([1.0, 2.0], [-1.0], "r"), lambda: luminosity_function([2.0, 1.0], [1.0], "r"),
    ],
)  # fmt: skip
def test_impossible_profiles_and_populations_are_refused(make):
    with pytest.raises(CatalogError):
        make()
