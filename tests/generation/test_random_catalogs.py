"""Generated catalogues: uniform on the sphere, distributed as documented, the same for a seed."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import cKDTree

from skygraft.catalog import COLUMNS
from skygraft.errors import CatalogError
from skygraft.generation import (
    Population,
    Region,
    cosmos_shapes,
    grid_catalog,
    random_catalog,
    random_catalogs,
    separated,
    star_catalog,
)
from skygraft.generation.region import as_region


@pytest.mark.parametrize("centre", [(10.0, 0.0), (359.9, 85.0), (120.0, -89.5), (0.0, 90.0)])
def test_circles_are_filled_uniformly(centre):
    radius = 1.0
    t = random_catalog((*centre, radius), bands=["r"], n=20000, seed=3)
    sky, middle = SkyCoord(t["ra"], t["dec"]), SkyCoord(*centre, unit="deg")
    apart = middle.separation(sky).rad
    # The share of a cap within t is (1 - cos t) / (1 - cos radius) = (sin(t/2) / sin(radius/2))**2.
    inside = (np.sin(apart / 2) / np.sin(np.radians(radius) / 2)) ** 2
    assert inside.max() <= 1 + 1e-9
    assert stats.kstest(inside, "uniform").pvalue > 1e-3
    if centre[1] < 90:
        angle = middle.position_angle(sky).deg / 360.0
        assert stats.kstest(angle, "uniform").pvalue > 1e-3


def test_polygon_at_high_declination_is_uniform_in_sin_dec():
    # A box of meridians from dec 60 to the pole side: corners close together so that sides follow the meridians.
    west, east = 100.0, 140.0
    low = [(ra, 70.0) for ra in np.linspace(west, east, 400)]
    high = [(ra, 85.0) for ra in np.linspace(east, west, 400)]
    t = random_catalog(np.array(low + high), bands=["r"], n=20000, seed=8)
    ra, dec = t["ra"].value, t["dec"].value
    assert stats.kstest((ra - west) / (east - west), "uniform").pvalue > 1e-3
    bottom, top = np.sin(np.radians([70.0, 85.0]))
    assert stats.kstest((np.sin(np.radians(dec)) - bottom) / (top - bottom), "uniform").pvalue > 1e-3
    # Uniform in dec it would not be.
    assert stats.kstest((dec - 70.0) / 15.0, "uniform").pvalue < 1e-6


def test_areas_are_those_of_closed_forms():
    octant = Region.from_polygon([(0, 0), (90, 0), (0, 90)])
    assert octant.area == pytest.approx(4 * np.pi / 8 * np.degrees(1) ** 2, rel=1e-9)
    assert Region.circle(5, 80, 2.0).area == pytest.approx(
        2 * np.pi * (1 - np.cos(np.radians(2.0))) * np.degrees(1) ** 2, rel=1e-9
    )
    small = 10 / 3600.0
    tiny = Region.from_polygon([(10, 0), (10 + small, 0), (10 + small, small), (10, small)])
    assert tiny.area * 3600**2 == pytest.approx(100.0, rel=1e-6)
    # Not convex, wound the other way, across ra 0: an L of three squares.
    corners = [(359.0, 0), (359.0, 2), (0, 2), (0, 1), (1, 1), (1, 0)]
    assert Region.from_polygon(corners).area == pytest.approx(3.0, rel=2e-3)
    t = random_catalog(corners, bands=["r"], n=3000, seed=1)
    x, y = (t["ra"].value + 180) % 360 - 180, t["dec"].value
    assert not ((x > 0.001) & (y > 1.001)).any()
    for box in ((x < 0) & (y < 1), (x < 0) & (y > 1), (x > 0) & (y < 1)):
        assert abs(box.sum() - 1000) < 4 * np.sqrt(1000 * 2 / 3)


def test_a_polygon_around_the_pole():
    t = random_catalog([(0, 88), (90, 88), (180, 88), (270, 88)], bands=["r"], n=4000, seed=1)
    quarter = np.histogram(t["ra"].value, bins=[0, 90, 180, 270, 360])[0]
    assert abs(quarter - 1000).max() < 4 * np.sqrt(750)
    assert t["dec"].value.min() > 87.9 and t["dec"].value.max() > 89.9


def test_density_is_per_square_arcminute():
    t = random_catalog(Region.circle(30, 40, 0.25), bands=["r"], density=10.0)
    assert len(t) == pytest.approx(10 * np.pi * 15**2, rel=1e-4)
    with pytest.raises(CatalogError, match="either n or density"):
        random_catalog((30, 40, 0.1), bands=["r"])
    with pytest.raises(CatalogError, match="no sources"):
        random_catalog((30, 40, 0.1), bands=["r"], density=1e-9)


def test_deterministic_and_each_property_by_itself():
    args = {"region": (30.0, 40.0, 0.5), "n": 200}
    pop = Population(colors={"i": -0.3}, color_scatter=0.2)
    one = random_catalog(**args, bands=["r", "i"], seed=5, population=pop)
    two = random_catalog(**args, bands=["r", "i"], seed=5, population=pop)
    for name in one.colnames:
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(two[name]))
    more = random_catalog(**args, bands=["r", "z", "i"], seed=5, population=pop)
    for name in one.colnames:
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(more[name]), err_msg=name)
    assert set(one.colnames) < set(COLUMNS) | {"mag_r", "mag_i"}
    other = random_catalog(**args, bands=["r", "i"], seed=6, population=pop)
    assert not np.isin(other["ra"].value, one["ra"].value).any()
    zero = random_catalog(**args, bands=["r"], seed=0)
    assert not np.isin(zero["ra"].value, one["ra"].value).any()
    colour = (one["mag_i"] - one["mag_r"]).value
    assert np.mean(colour) == pytest.approx(-0.3, abs=4 * 0.2 / np.sqrt(200))


def test_population_is_as_documented():
    pop = Population(mag_range=(20.0, 25.0), mag_slope=0.3, star_fraction=0.3, log_radius=(0.6, 0.3), radius_slope=-0.1)
    t = random_catalog((10, 10, 1.0), bands=["r"], n=20000, population=pop, seed=2)
    star = np.asarray(t["source_type"]) == "Star"
    assert abs(star.mean() - 0.3) < 4 * np.sqrt(0.21 / 20000)
    mag = t["mag_r"].value
    cdf = (10 ** (0.3 * (mag - 20)) - 1) / (10 ** (0.3 * 5) - 1)
    assert stats.kstest(cdf, "uniform").pvalue > 1e-3
    logr = np.log(t["half_light_radius"].value[~star] / (0.6 * 10 ** (-0.1 * (mag[~star] - 22))))
    assert stats.kstest(logr / 0.3, "norm").pvalue > 1e-3
    assert stats.kstest((t["q"][~star] - 0.2) / 0.8, "uniform").pvalue > 1e-3
    assert stats.kstest(t["pa"].value[~star] / 180, "uniform").pvalue > 1e-3
    n = np.asarray(t["n"][~star])
    low, high = stats.norm.cdf(np.log(np.array([0.3, 6.2]) / 1.5) / 0.5)
    assert stats.kstest((stats.norm.cdf(np.log(n / 1.5) / 0.5) - low) / (high - low), "uniform").pvalue > 1e-3
    assert np.isnan(t["n"][star]).all()
    with pytest.raises(CatalogError, match=r"star_fraction is 1\.5"):
        Population(star_fraction=1.5)
    with pytest.raises(CatalogError, match="mag_range"):
        Population(mag_range=(25.0, 20.0))


def test_min_separation_holds_for_every_pair():
    t = random_catalog((10, 60, 0.05), bands=["r"], n=300, min_separation=10.0, seed=1)
    sky = SkyCoord(t["ra"], t["dec"])
    _, apart, _ = sky.match_to_catalog_sky(sky, nthneighbor=2)
    assert len(t) == 300
    assert apart.arcsec.min() >= 10.0
    free = random_catalog((10, 60, 0.05), bands=["r"], n=300, seed=1)
    sky = SkyCoord(free["ra"], free["dec"])
    assert sky.match_to_catalog_sky(sky, nthneighbor=2)[1].arcsec.min() < 10.0
    with pytest.raises(CatalogError, match="of 300 sources fit"):
        random_catalog((10, 60, 0.02), bands=["r"], n=300, min_separation=20.0)


def square_arcmin(area):
    """A circle of this area, as (ra, dec, radius)."""
    return 150.0, 2.0, np.degrees(2 * np.arcsin(np.sqrt(np.radians(np.sqrt(area) / 60) ** 2 / (4 * np.pi))))


def test_a_density_near_the_limit_of_random_placement_is_reached():
    t = random_catalog(square_arcmin(110.7), bands=["r"], n=10450, min_separation=5.0, seed=1)
    sky = SkyCoord(t["ra"], t["dec"])
    assert len(t) == 10450
    assert sky.match_to_catalog_sky(sky, nthneighbor=2)[1].arcsec.min() >= 5.0


@pytest.mark.parametrize(
    "region",
    [
        square_arcmin(11.0),
        (0.0, 90.0, 0.031),
        [(359.97, 0.0), (0.03, 0.0), (0.03, 0.03), (0.0, 0.01), (359.97, 0.03)],
    ],
)
def test_a_region_is_called_full_when_it_is(region, monkeypatch):
    kept = []
    place = separated.separated_vectors

    def watched(*args):
        original = separated._far_enough
        monkeypatch.setattr(separated, "_far_enough", lambda *a: kept.append(original(*a)) or kept[-1])
        return place(*args)

    monkeypatch.setattr(random_catalogs, "separated_vectors", watched)
    with pytest.raises(CatalogError, match=r"only (\d+) of 5000 sources fit at random.*within 5 arcsec") as caught:
        random_catalog(region, bands=["r"], n=5000, min_separation=5.0, seed=3)
    sources = np.concatenate(kept)
    assert f"only {len(sources)} of" in str(caught.value)
    # Of any places in the region, none is further from all sources than the separation.
    where = as_region(region)
    places = where.sample(200_000, np.random.default_rng(0))
    apart = np.degrees(2 * np.arcsin(cKDTree(sources).query(places)[0] / 2)) * 3600
    assert apart.max() < 5.0 * (1 + 2 * separated._FINEST)
    # Disks at random cover 0.547 of the plane (Renyi's constant in two dimensions); a small region's edge adds some.
    covered = len(sources) * np.pi * 2.5**2 / (where.area * 3600**2)
    assert 0.54 < covered < 0.66


def test_sources_placed_into_the_last_gaps_depend_on_the_seed_only():
    region = square_arcmin(5.0)
    one, two = (random_catalog(region, bands=["r"], n=480, min_separation=5.0, seed=7) for _ in range(2))
    assert one["ra"].value.tolist() == two["ra"].value.tolist()


def test_grid():
    t = grid_catalog((10.0, 88.0, 0.05), spacing=20.0, bands=["g", "r"])
    assert len(t) == pytest.approx(np.pi * (180 / 20.0) ** 2, rel=0.05)
    sky = SkyCoord(t["ra"], t["dec"])
    apart = sky.match_to_catalog_sky(sky, nthneighbor=2)[1].arcsec
    np.testing.assert_allclose(apart, 20.0, rtol=1e-5)
    moved = grid_catalog((10.0, 88.0, 0.05), spacing=20.0, bands=["g", "r"], jitter=0.5, seed=1)
    shift = sky.separation(SkyCoord(moved["ra"], moved["dec"])).arcsec
    assert shift.min() > 0 and shift.max() <= 0.5 * np.sqrt(2)
    assert 0.3 < shift.mean() < 0.45
    with pytest.raises(CatalogError, match="positive spacing"):
        grid_catalog((10, 0, 0.1), spacing=0, bands=["r"])


@settings(max_examples=40, deadline=None)
@given(ra=st.floats(0, 359.9), dec=st.floats(-89.9, 89.9), radius=st.floats(1e-3, 20), seed=st.integers(0, 2**63))
def test_all_positions_are_inside_and_valid(ra, dec, radius, seed):
    t = random_catalog((ra, dec, radius), bands=["r"], n=50, seed=seed)
    apart = SkyCoord(ra, dec, unit="deg").separation(SkyCoord(t["ra"], t["dec"])).deg
    assert apart.max() <= radius * (1 + 1e-7) + 1e-9


def test_real_cosmos_galaxies(data_dir):
    folder = data_dir / "catalogues" / "galsim_cosmos"
    shapes = cosmos_shapes(folder / "real_galaxy_catalog_23.5_example_fits.fits")
    raw = fits.getdata(folder / "real_galaxy_catalog_23.5_example_fits.fits", 1)
    assert 50 < len(shapes) <= len(raw)
    # GalSim's own circularised radii, recorded in the same file.
    by_mag = {float(m): float(h) for m, h in zip(raw["mag_auto"], raw["hlr"][:, 0], strict=True)}
    theirs = np.array([by_mag[m] for m in shapes["mag"].value])
    np.testing.assert_allclose(shapes["half_light_radius"].value, theirs, rtol=1e-5)
    t = random_catalog((150, 2, 0.1), bands=["i"], n=500, shapes=shapes, seed=4)
    galaxy = np.asarray(t["source_type"]) == "Sersic"
    assert np.isin(t["n"][galaxy], shapes["n"]).all()
    assert np.isin(t["mag_i"].value[galaxy], shapes["mag"].value).all()
    # A row is drawn whole.
    pairs = set(zip(shapes["n"].tolist(), shapes["q"].tolist(), strict=True))
    assert set(zip(t["n"][galaxy].tolist(), t["q"][galaxy].tolist(), strict=True)) <= pairs
    with pytest.raises(CatalogError, match="no sersicfit"):
        cosmos_shapes(folder / "real_galaxy_catalog_23.5_example.fits")


def test_regions_from_descriptions():
    assert as_region({"ra": 1, "dec": 2, "radius": 3}) == Region.circle(1, 2, 3)
    assert as_region({"polygon": [(0, 0), (1, 0), (1, 1)]}).polygon.shape == (3, 2)
    for bad in ({"ra": 1}, {}):
        with pytest.raises(CatalogError, match="Give ra, dec and radius, or polygon, or skymap"):
            as_region(bad)
    with pytest.raises(CatalogError, match="at least three"):
        as_region([(0, 0), (1, 1)])
    with pytest.raises(CatalogError, match="radius -1"):
        as_region((0, 0, -1))
    with pytest.raises(CatalogError, match="80 degrees"):
        as_region([(0, 0), (120, 0), (240, 0)])


def test_bands_must_make_sense():
    with pytest.raises(CatalogError, match="list of different names"):
        random_catalog((0, 0, 1), bands="r", n=3)
    with pytest.raises(CatalogError, match="a colour is given for y"):
        random_catalog((0, 0, 1), bands=["r"], n=3, population=Population(colors={"y": 1.0}))
    with pytest.raises(CatalogError, match="seed is -1"):
        random_catalog((0, 0, 1), bands=["r"], n=3, seed=-1)


def test_star_catalog():
    t = star_catalog([10.0, 20.0], 5.0, {"g": 20.0, "r": [19.0, 18.0]}, first_id=7, visit=3)
    assert t["injection_id"].tolist() == [7, 8]
    assert t["dec"].value.tolist() == [5.0, 5.0]
    assert t["mag_r"].unit == u.mag
    assert t["visit"].tolist() == [3, 3]


def test_a_patch_is_filled_and_nothing_else():
    from skygraft.skymap import get_skymap

    t = random_catalog({"skymap": "hsc_rings_v1", "tract": 9813, "patch": 41}, bands=["r"], n=400)
    tract, patch = get_skymap("hsc_rings_v1").locate(t["ra"].value, t["dec"].value)
    assert set(zip(tract.tolist(), patch.tolist(), strict=True)) == {(9813, 41)}
    # 4000 pixels of 0.168 arcsec on a side.
    region = as_region({"skymap": "hsc_rings_v1", "tract": 9813, "patch": 41})
    assert region.area * 3600 == pytest.approx((4000 * 0.168 / 60) ** 2, rel=2e-3)
