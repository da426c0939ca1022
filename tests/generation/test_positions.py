"""Positions: grids and separations against distances between all pairs, rings against formulas, avoided places."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from scipy import stats
from scipy.spatial import cKDTree

from kits.generation_kit import STARS, circle, outline, write_outlines
from skygraft.errors import CatalogError, ConfigError
from skygraft.generation import generate_table
from skygraft.generation.avoid import AvoidedSources, radius_of_magnitude
from skygraft.generation.cells import Points
from skygraft.generation.generator import CatalogGenerator
from skygraft.generation.spec import parse_spec
from skygraft.wcs.base import to_vectors

AREA_110 = {"ra": 150.0, "dec": 2.0, "radius": float(np.sqrt(110.7 / np.pi) / 60)}


def nearest(table):
    """Distance of each source from its nearest neighbour, arcsec."""
    vectors = to_vectors(table["ra"].value, table["dec"].value)
    chord = cKDTree(vectors).query(vectors, k=2)[0][:, 1]
    return np.degrees(2 * np.arcsin(chord / 2)) * 3600


def make(area, **changes):
    return generate_table({"area": area, "bands": ["r"], "sources": STARS}, **changes)


@pytest.mark.parametrize(("kind", "part"), [("uniform", 0.1), ("hexagonal", 1.0)])
def test_10450_sources_5_arcsec_apart_fit_into_110_square_arcmin(kind, part):
    """At random a tenth of them in a tenth of the area, which takes a tenth of the time."""
    n, radius = int(10_450 * part), AREA_110["radius"] * part**0.5
    table = make({"region": AREA_110 | {"radius": radius}}, n=n, positions={"kind": kind, "separation": "5 arcsec"})
    assert len(table) == n
    assert nearest(table).min() >= 5.0
    inside = SkyCoord(150.0, 2.0, unit="deg").separation(SkyCoord(table["ra"], table["dec"])).deg
    assert inside.max() <= radius * (1 + 1e-9)


def test_what_does_not_fit_is_said_with_what_does():
    # A hexagonal grid of 5 arcsec has 166.3 points per square arcminute, the most that there can be: 18 400.
    with pytest.raises(CatalogError, match=r"only (\d+) of 20000 sources fit on a hexagonal grid") as caught:
        make({"region": AREA_110}, n=20_000, positions={"kind": "hexagonal", "separation": 5})
    fit = int(str(caught.value).split("only ")[1].split()[0])
    assert fit == pytest.approx(110.7 * 3600 / (25 * np.sqrt(0.75)), rel=0.01)
    table = make({"region": AREA_110}, n=fit, positions={"kind": "hexagonal", "separation": 5})
    assert len(table) == fit and nearest(table).min() >= 5.0
    small = {"ra": 150.0, "dec": 2.0, "radius": 0.02}
    with pytest.raises(CatalogError, match=r"only \d+ of 2000 sources fit at random.*hexagonal"):
        make({"region": small}, n=2000, positions={"separation": 5})


@pytest.mark.parametrize("where", [(10.0, 0.0, 0.2), (0.0, 90.0, 1.0), (359.9, -70.0, 20.0)])
def test_a_grid_is_hexagonal_wherever_it_is(where):
    area = circle(*where)
    spacing = where[2] * 3600 / 20
    table = make(area, positions={"kind": "hexagonal", "separation": spacing})
    apart = nearest(table)
    # Distances across are stretched by cos(radius / 2) squared between middle and border.
    stretch = np.cos(np.radians(where[2] / 2)) ** 2
    assert apart.min() >= spacing and apart.max() <= spacing / stretch * 1.001
    vectors = to_vectors(table["ra"].value, table["dec"].value)
    inner = np.flatnonzero(vectors @ to_vectors(*where[:2]) > np.cos(np.radians(0.8 * where[2])))
    chord = 2 * np.sin(np.radians(1.3 * spacing / stretch / 3600) / 2)
    neighbours = cKDTree(vectors).query_ball_point(vectors[inner], chord, return_length=True)
    assert (neighbours == 7).all()  # six, and itself


def test_a_grid_as_wide_as_its_number_allows(tmp_path):
    # Fields far apart: cells between them are never looked at.
    index = write_outlines(tmp_path / "i.parquet", [outline(10.0, 0.0, 0.2), outline(40.0, 10.0, 0.2, 30)])
    table = make({"footprint": str(index)}, n=500, positions={"kind": "hexagonal"})
    assert len(table) == 500
    ideal = np.sqrt(2 * 0.08 / (np.sqrt(3) * 500)) * 3600
    assert nearest(table).min() == pytest.approx(ideal, rel=0.06)
    dense = make({"footprint": str(index)}, density=1.0, positions={"kind": "hexagonal"})
    assert len(dense) == pytest.approx(0.08 * 3600, rel=0.01)


def test_grids_depend_on_the_seed():
    area = circle(10.0, 20.0, 0.1)
    one, two, three = (
        make(area, seed=seed, positions={"kind": "hexagonal", "separation": 30})["ra"].value for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, two)
    assert len(three) != len(one) or not np.array_equal(np.sort(one), np.sort(three))


def test_rings_around_given_positions(tmp_path):
    hosts = Table({"RA": [359.9999, 10.0, 20.0], "DEC": [89.9, 0.0, -45.0], "NUM": [7, 2**62 + 1, 5]})
    hosts.write(tmp_path / "hosts.fits")
    around = {"path": str(tmp_path / "hosts.fits"), "ra": "RA", "dec": "DEC", "id": "NUM", "radius": [2, "0.1 arcmin"],
              "each": 500}  # fmt: skip
    sky = {"region": {"ra": 0.0, "dec": 90.0, "radius": 180.0}}
    table = make(sky, positions={"kind": "around", "around": around})
    assert table["host_id"].tolist() == np.repeat([7, 2**62 + 1, 5], 500).tolist()
    centres = SkyCoord(np.repeat(hosts["RA"], 500), np.repeat(hosts["DEC"], 500), unit="deg")
    own = SkyCoord(table["ra"], table["dec"])
    apart = centres.separation(own).arcsec
    share = (apart**2 - 4) / (36 - 4)
    assert stats.kstest(share, "uniform").pvalue > 1e-3
    angle = centres.position_angle(own).deg / 360
    assert stats.kstest(angle, "uniform").pvalue > 1e-3
    some = make(sky, n=4, positions={"kind": "around", "around": around | {"each": 1}})
    assert some["host_id"].tolist() == [7, 2**62 + 1, 5, 7]
    with pytest.raises(CatalogError, match="none of the 3 positions is in the area"):
        make(circle(100.0, 0.0, 1.0), positions={"kind": "around", "around": around})
    with pytest.raises(CatalogError, match="no column ra, dec; it has RA, DEC, NUM"):
        make(sky, positions={"kind": "around", "around": {"path": str(tmp_path / "hosts.fits")}})


def test_real_sources_are_avoided_by_their_own_radius():
    rng = np.random.default_rng(1)
    n = 300
    ra, dec = 359.95 + rng.uniform(0, 0.1, n), 60 + rng.uniform(-0.05, 0.05, n)
    radius = np.where(rng.random(n) < 0.1, 0.0, 10 ** rng.uniform(-1, 1.3, n))
    radius[0], ra[1] = np.nan, np.nan
    points = Points.at((359.95 + rng.uniform(0, 0.1, 4000)) % 360, 60 + rng.uniform(-0.05, 0.05, 4000))
    found = AvoidedSources(ra % 360, dec, radius).near(points)
    sky = SkyCoord(points.ra, points.dec, unit="deg")
    wanted = np.zeros(4000, dtype=bool)
    for a, d, r in zip(ra % 360, dec, radius, strict=True):
        if np.isfinite(a) and r > 0:
            wanted |= sky.separation(SkyCoord(a, d, unit="deg")).arcsec < r
    np.testing.assert_array_equal(found, wanted)
    assert 0.1 < wanted.mean() < 0.9
    np.testing.assert_array_equal(
        AvoidedSources(ra % 360, dec, np.where(radius > 0, 9.0, 0.0)).near(points),
        np.any([sky.separation(SkyCoord(a, d, unit="deg")).arcsec < 9
                for a, d, r in zip(ra % 360, dec, radius, strict=True) if np.isfinite(a) and r > 0], axis=0),
    )  # fmt: skip


def test_avoided_tables(tmp_path):
    stars = Table(
        {"ra": [10.0, 10.05] * u.deg, "dec": [0.0, 0.0] * u.deg, "mag": [10.0, 21.0], "r": [0.5, 1] * u.arcmin}
    )
    stars.write(tmp_path / "stars.fits")
    path = str(tmp_path / "stars.fits")
    area = circle(10.0, 0.0, 0.1)
    by_mag = {"path": path, "mag": "mag", "radius_by_mag": [[12, 120], [16, 30], [20, 5]]}
    for table, radii in (
        (by_mag, [120.0, 0.0]),
        ({"path": path, "radius": 20}, [20.0, 20.0]),
        ({"path": path, "radius_column": "r"}, [30.0, 60.0]),
    ):
        made = make(area, n=3000, avoid={"tables": [table]})
        for ra, radius in zip((10.0, 10.05), radii, strict=True):
            apart = SkyCoord(ra, 0.0, unit="deg").separation(SkyCoord(made["ra"], made["dec"])).arcsec
            assert radius <= apart.min() < radius + 15
    np.testing.assert_allclose(
        radius_of_magnitude(np.array([5.0, 12, 14, 16, 20, 20.1, np.nan]), by_mag["radius_by_mag"]),
        [120, 120, 60, 30, 5, 0, 0],
    )
    with pytest.raises(CatalogError, match="no column MAG"):
        make(area, n=10, avoid={"tables": [by_mag | {"mag": "MAG"}]})
    radians = Table({"ra": np.radians([10.0, 10.05]), "dec": [0.001, 0.002]})
    radians.write(tmp_path / "radians.fits")
    far = {"path": str(tmp_path / "radians.fits"), "radius": 20}
    spec = {"area": area, "bands": ["r"], "sources": STARS, "n": 10}
    notes = CatalogGenerator(parse_spec(spec | {"avoid": {"tables": [far]}})).notes
    assert notes == ["no source of radians.fits is near the area: are its positions in degrees?"]
    assert CatalogGenerator(parse_spec(spec | {"avoid": {"tables": [by_mag]}})).notes == []
    with pytest.raises(CatalogError, match="almost all of the area is avoided"):
        make(area, n=10, avoid={"tables": [{"path": path, "radius": "20 arcmin"}]})
    with pytest.raises(ConfigError, match="ascending magnitudes"):
        make(area, n=10, avoid={"tables": [by_mag | {"radius_by_mag": [[16, 30], [12, 120]]}]})


@pytest.mark.parametrize(
    ("positions", "said"),
    [
        ({"separation": 0}, "must be positive"),
        ({"separation": "three fwhm"}, "not a number of FWHM"),
        ({"separation": "3 fwhm"}, "needs the images of a footprint"),
        ({"separation": "3 mag"}, "not an angle"),
        ({"kind": "halton", "separation": 3}, "cannot be kept"),
        ({"kind": "around"}, "belong together"),
        ({"kind": "spiral"}, "'uniform', 'halton', 'hexagonal' or 'around'"),
    ],
)
def test_positions_that_make_no_sense(positions, said):
    with pytest.raises(ConfigError, match=said):
        make(circle(10.0, 0.0, 0.1), n=10, positions=positions)
