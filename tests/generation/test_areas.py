"""Areas of the sky: cells and exact borders, against closed forms, mocpy, and brute force."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy_healpix import HEALPix
from scipy import stats

from skygraft.errors import CatalogError, ConfigError, CorruptFileError
from skygraft.generation.cells import Area, CellArea, Points, RegionArea, cells_near, in_polygon
from skygraft.generation.moc import read_density_map, read_moc
from skygraft.generation.positions import Field, halton, uniform
from skygraft.generation.region import Region, as_region
from skygraft.generation.streams import Streams
from skygraft.wcs.base import to_vectors


def first(places, n):
    """The first n positions, degrees."""
    ra, dec, found = [], [], 0
    for place in places:
        ra.append(place.points.ra)
        dec.append(place.points.dec)
        found += len(place.points)
        if found >= n:
            break
    return np.concatenate(ra)[:n], np.concatenate(dec)[:n]


def scattered(n, ra, dec, radius, seed=0):
    """Positions all over a circle and somewhat around it."""
    rng = np.random.default_rng(seed)
    middle = SkyCoord(ra, dec, unit="deg")
    apart = np.sqrt(rng.random(n)) * radius * 1.4
    sky = middle.directional_offset_by(rng.random(n) * 360 * u.deg, apart * u.deg)
    return sky.ra.deg, sky.dec.deg


CIRCLES = [(10.0, 0.0, 1.0), (359.9, 85.0, 3.0), (120.0, -89.5, 2.0), (0.0, 90.0, 0.01), (200.0, 30.0, 40.0)]


@pytest.mark.parametrize("circle", CIRCLES)
@pytest.mark.parametrize("kind", [uniform, halton])
def test_circles_are_filled_uniformly(circle, kind):
    area = Area([RegionArea(as_region(circle))])
    ra, dec = first(kind(Field(area), Streams(3)), 4000)
    sky, middle = SkyCoord(ra, dec, unit="deg"), SkyCoord(*circle[:2], unit="deg")
    apart = middle.separation(sky).rad
    share = (np.sin(apart / 2) / np.sin(np.radians(circle[2]) / 2)) ** 2
    assert share.max() <= 1 + 1e-9
    found = stats.kstest(share, "uniform")
    if kind is uniform:
        assert found.pvalue > 1e-3
    else:  # more even than at random, whose statistic is 0.87 / sqrt(n) on average
        assert found.statistic < 0.5 / np.sqrt(4000)
    assert area.area == pytest.approx(Region.circle(*circle).area, rel=3e-3)


@pytest.mark.parametrize("circle", CIRCLES)
def test_cells_of_a_circle_miss_nothing_and_whole_ones_are_inside(circle):
    part = RegionArea(as_region(circle))
    ra, dec = scattered(5000, *circle)
    points = Points.at(ra, dec)
    inside = SkyCoord(*circle[:2], unit="deg").separation(SkyCoord(ra, dec, unit="deg")).deg <= circle[2]
    np.testing.assert_array_equal(part.holds(points), inside)
    assert part.whole.mean() > 0.2


def test_cells_near_a_circle_against_all_cells_of_an_order():
    for ra, dec, radius in ((33.0, 12.0, 4.0), (0.1, -88.0, 3.0), (180.0, 89.9, 7.0), (45.0, 41.8, 2.0)):
        cells, _, reach = cells_near(5, to_vectors(ra, dec), np.radians(radius))
        grid = HEALPix(32, order="nested")
        fine = np.linspace(0, 1, 9)
        dx, dy = (axis.ravel() for axis in np.meshgrid(fine, fine))
        lon, lat = grid.healpix_to_lonlat(np.repeat(np.arange(grid.npix), dx.size), np.tile(dx, grid.npix),
                                          np.tile(dy, grid.npix))  # fmt: skip
        apart = SkyCoord(ra, dec, unit="deg").separation(SkyCoord(lon, lat)).deg.reshape(grid.npix, -1)
        assert set(np.flatnonzero(apart.min(axis=1) < radius)) <= set(cells.tolist())
        middle = SkyCoord(*grid.healpix_to_lonlat(np.repeat(cells, dx.size)))
        lon, lat = grid.healpix_to_lonlat(np.repeat(cells, dx.size), np.tile(dx, cells.size), np.tile(dy, cells.size))
        far = SkyCoord(lon, lat).separation(middle).rad.reshape(cells.size, -1).max(axis=1)
        assert (far <= reach).all()


def test_distances_from_the_sides_of_a_polygon():
    corners = np.array([(359.0, 60.0), (3.0, 60.5), (2.0, 62.0), (1.0, 61.0), (358.5, 62.5)])
    vectors = to_vectors(corners[:, 0], corners[:, 1])
    centre = vectors.mean(axis=0) / np.linalg.norm(vectors.mean(axis=0))
    ra, dec = scattered(2000, 0.9, 61.2, 2.0)
    inside, apart = in_polygon(to_vectors(ra, dec), vectors, centre)
    t = np.linspace(0, 1, 4001)[:, None]
    sides = np.concatenate([(1 - t) * a + t * b for a, b in zip(vectors, np.roll(vectors, -1, 0), strict=True)])
    sides /= np.linalg.norm(sides, axis=1, keepdims=True)
    from scipy.spatial import cKDTree

    brute = cKDTree(sides).query(to_vectors(ra, dec))[0]
    np.testing.assert_allclose(apart, brute, rtol=1e-3, atol=2e-6)
    # A step towards the outside changes sides only across the border.
    region = Region.from_polygon(corners)
    np.testing.assert_array_equal(inside, region.contains(ra, dec))


@pytest.mark.parametrize("form", ["fits", "json", "ascii"])
def test_coverage_maps_of_mocpy(tmp_path, form):
    mocpy = pytest.importorskip("mocpy")

    def cone(ra, dec, radius, depth):
        return mocpy.MOC.from_cone(lon=ra * u.deg, lat=dec * u.deg, radius=radius * u.deg, max_depth=depth)

    skies = [(10.0, 20.0, 0.5, 12), (359.9, -5.0, 1.0, 9), (100.0, 89.0, 2.0, 8)]
    moc = cone(*skies[0])
    for ra, dec, radius, depth in skies[1:]:
        moc = moc.union(cone(ra, dec, radius, depth))
    path = tmp_path / f"moc.{'txt' if form == 'ascii' else form}"
    if form == "fits":
        moc.save(path, format="fits")
    else:
        path.write_text(json.dumps(moc.serialize("json")) if form == "json" else moc.to_string())
    area = read_moc(path)
    for ra, dec, radius, _ in skies:
        points = Points.at(*scattered(4000, ra, dec, radius))
        wanted = moc.contains_lonlat(points.ra * u.deg, points.dec * u.deg)
        np.testing.assert_array_equal(area.holds(points), wanted)
    assert Area([area]).area == pytest.approx(moc.sky_fraction * 4 * np.pi * np.degrees(1) ** 2, rel=1e-9)
    ra, dec = first(uniform(Field(Area([area])), Streams(0)), 3000)
    assert moc.contains_lonlat(ra * u.deg, dec * u.deg).all()


def test_coverage_maps_with_cells_of_several_orders_by_nuniq(tmp_path):
    """By hand: the ranges of cells of all orders, also cells that lie in others."""
    cells = {0: [3], 3: [0, 1, 700], 12: [5, 6, 7, 3 * 4**12 + 9], 29: [11 * 4**29 + 8]}
    uniq = np.concatenate([4 * 4**order + np.array(some) for order, some in cells.items()])
    table = fits.BinTableHDU.from_columns([fits.Column("UNIQ", "1K", array=uniq)])
    table.header.update(ORDERING="NUNIQ", COORDSYS="C", MOCORDER=29)
    table.writeto(tmp_path / "m.fits")
    area = read_moc(tmp_path / "m.fits")
    # The cell of order 12 below 3 lies in the cell 3 of order 0, and 5, 6, 7 in the cell 0 of order 3.
    wanted = 1 / 12 + 3 / (12 * 4**3) + 1 / (12 * 4.0**29)
    assert Area([area]).area / (4 * np.pi * np.degrees(1) ** 2) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        ("nonsense", CorruptFileError, "not a readable coverage map"),
        ('{"3": [-1]}', CorruptFileError, "not on the sphere"),
        ('{"3": [768]}', CorruptFileError, "not on the sphere"),
        ('{"31": [0]}', CorruptFileError, "0 to 29"),
        ('{"3": []}', CatalogError, "empty"),
        ("3/", CatalogError, "empty"),
        ('{"3": [1e400]}', CorruptFileError, "not a readable coverage map"),
    ],
)
def test_coverage_maps_that_are_none(tmp_path, content, error, said):
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(error, match=said):
        read_moc(tmp_path / "m.json")


def test_coverage_maps_of_another_frame_or_of_times(tmp_path):
    for cards, said in (({"COORDSYS": "G"}, "galactic"), ({"MOCDIM": "TIME"}, "of time"), ({"ORDERING": "X"}, "'X'")):
        table = fits.BinTableHDU.from_columns([fits.Column("UNIQ", "1K", array=np.array([4]))])
        table.header.update(ORDERING="NUNIQ", COORDSYS="C")
        table.header.update(cards)
        table.writeto(tmp_path / "m.fits", overwrite=True)
        with pytest.raises((CatalogError, CorruptFileError), match=said):
            read_moc(tmp_path / "m.fits")
    with pytest.raises(ConfigError, match="no such file"):
        read_moc(tmp_path / "absent.fits")


def test_cards_that_are_no_fits_are_named(tmp_path):
    table = fits.BinTableHDU.from_columns([fits.Column("UNIQ", "1K", array=np.array([4]))])
    table.header.update(COORDSYS="C", NSIDE=1)
    table.writeto(tmp_path / "m.fits")
    content = (tmp_path / "m.fits").read_bytes()
    (tmp_path / "m.fits").write_bytes(content.replace(b"COORDSYS= 'C", b"COORDSYS= C'", 1))
    (tmp_path / "n.fits").write_bytes(
        content.replace(b"NAXIS   =                    2", b"NAXIS   =           2147483647")
    )
    for read in (read_moc, read_density_map):
        with pytest.raises(CorruptFileError, match="header card is not FITS"):
            read(tmp_path / "m.fits")
        with pytest.raises(CorruptFileError, match="NAXIS"):
            read(tmp_path / "n.fits")


@pytest.mark.parametrize(
    "region",
    [
        {"ra": 1.0, "dec": None, "radius": 1.0}, {"ra": "a", "dec": 1.0, "radius": 1.0},
        {"ra": 1.0, "dec": 1.0, "radius": True},
        {"ra": 10**30, "dec": 1.0, "radius": 1.0}, {"polygon": [[1, 2], [3]]}, {"polygon": "here"},
        {"skymap": {"kind": "healpix", "nside": 4, "patch_nside": 16}, "tract": None, "patch": 1}, None, [["a", "b"]],
    ],
)  # fmt: skip
def test_regions_that_are_none(region):
    with pytest.raises(CatalogError):
        as_region(region)


def write_map(path, nside, values, *, ring=True, pixels=None, **cards):
    columns = [fits.Column("SIGNAL", "1D", array=values)]
    if pixels is not None:
        columns.insert(0, fits.Column("PIXEL", "1K", array=pixels))
    table = fits.BinTableHDU.from_columns(columns)
    table.header.update(PIXTYPE="HEALPIX", NSIDE=nside, ORDERING="RING" if ring else "NESTED", COORDSYS="C")
    table.header.update(INDXSCHM="IMPLICIT" if pixels is None else "EXPLICIT", **cards)
    table.writeto(path, overwrite=True)
    return path


@pytest.mark.parametrize(("ring", "explicit"), [(True, False), (False, False), (True, True), (False, True)])
def test_density_maps_set_the_density(tmp_path, ring, explicit):
    nside = 8
    grid = HEALPix(nside, order="ring" if ring else "nested")
    lon, lat = grid.healpix_to_lonlat(np.arange(grid.npix))
    values = np.where(lat.deg > 40, 1.0 + 3.0 * (lon.deg < 90), 0.0)
    values[lat.deg < -50] = -1.6375e30
    values[0 if ring else grid.lonlat_to_healpix(0 * u.deg, 89 * u.deg)] = np.nan
    pixels = np.flatnonzero(values > 0)[::-1] if explicit else None
    path = write_map(tmp_path / "map.fits", nside, values if pixels is None else values[pixels], ring=ring,
                     pixels=pixels)  # fmt: skip
    part = read_density_map(path)
    area = Area([part])
    ra, dec = first(uniform(Field(area), Streams(1)), 40_000)
    counts = np.bincount(grid.lonlat_to_healpix(ra * u.deg, dec * u.deg), minlength=grid.npix)
    good = np.nan_to_num(values) > 0
    assert counts[~good].sum() == 0
    expected = values[good] / values[good].sum() * 40_000
    assert stats.chisquare(counts[good], expected).pvalue > 1e-4
    per_arcmin = values[good].sum() * grid.pixel_area.to_value(u.arcmin**2)
    assert area.expected == pytest.approx(per_arcmin, rel=1e-9)


def test_maps_of_healsparse(tmp_path):
    healsparse = pytest.importorskip("healsparse")
    made = healsparse.HealSparseMap.make_empty(32, 512, np.float32)
    pixels = np.arange(2000, 2600)
    made.update_values_pix(pixels, np.linspace(1, 4, pixels.size).astype(np.float32))
    made.write(str(tmp_path / "map.hsp"))
    part = read_density_map(tmp_path / "map.hsp")
    assert part.order == 9
    np.testing.assert_array_equal(part.cells, pixels)
    np.testing.assert_allclose(part.weights, np.linspace(1, 4, pixels.size), rtol=1e-6)


def test_density_maps_that_are_none(tmp_path):
    ones = np.ones(12)
    for path, said in (
        (write_map(tmp_path / "a.fits", 1, ones, COORDSYS="G"), "galactic"),
        (write_map(tmp_path / "b.fits", 3, np.ones(108)), "power of two"),
        (write_map(tmp_path / "c.fits", 1, -ones), "no pixel of the map"),
        (write_map(tmp_path / "d.fits", 1, ones, pixels=np.full(12, 3)), "occur twice"),
        (write_map(tmp_path / "e.fits", 1, ones, pixels=np.arange(12) + 1), "not those of NSIDE"),
    ):
        with pytest.raises((CatalogError, CorruptFileError), match=said):
            read_density_map(path)
    with pytest.raises(CatalogError, match=r"no column 'X'; it has SIGNAL"):
        read_density_map(write_map(tmp_path / "f.fits", 1, ones), "X")


def test_areas_together_hold_what_all_hold(tmp_path):
    grid = HEALPix(16, order="nested")
    cells = np.sort(grid.cone_search_lonlat(30 * u.deg, 10 * u.deg, 8 * u.deg))
    density = CellArea(4, cells, None, np.arange(1.0, cells.size + 1))
    circles = [RegionArea(as_region((30.0, 10.0, 5.0))), RegionArea(as_region((34.0, 10.0, 5.0)))]
    area = Area([*circles, density])
    points = Points.at(*scattered(5000, 32.0, 10.0, 8.0))
    sky = SkyCoord(points.ra, points.dec, unit="deg")
    wanted = np.isin(grid.lonlat_to_healpix(sky.ra, sky.dec), cells)
    for ra in (30.0, 34.0):
        wanted &= SkyCoord(ra, 10.0, unit="deg").separation(sky).deg <= 5.0
    np.testing.assert_array_equal(area.holds(points), wanted)
    ra, dec = first(uniform(Field(area), Streams(2)), 2000)
    assert area.holds(Points.at(ra, dec)).all()
    apart = Area([circles[0], RegionArea(as_region((60.0, 10.0, 5.0)))])
    assert len(apart) == 0 or apart.area == 0
