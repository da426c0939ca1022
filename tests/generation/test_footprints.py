"""Footprints of surveys, and what their images are like: depth, seeing, masks."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kits.generation_kit import STARS, outline, write_outlines, write_survey
from skygraft.errors import CatalogError, ConfigError, FormatError
from skygraft.generation import generate_table
from skygraft.generation.cells import Area, Points
from skygraft.generation.conditions import depth_at, measure_images, read_masks
from skygraft.generation.footprint import FootprintArea, read_images
from skygraft.wcs.base import to_vectors

FIELDS = [(10.0, 20.0), (359.95, -60.0), (77.0, 89.97)]


def many_outlines(seed=0):
    rng = np.random.default_rng(seed)
    return [
        outline(ra + rng.uniform(-0.1, 0.1) / max(np.cos(np.radians(dec)), 0.05), dec + rng.uniform(-0.02, 0.02), 0.2,
                rng.uniform(0, 90))
        for ra, dec in FIELDS
        for _ in range(6)
    ]  # fmt: skip


def on_images(ra, dec, outlines):
    """Which positions are on which convex outlines: on the inner side of every great circle."""
    points = to_vectors(ra, dec)
    inside = []
    for corners in outlines:
        v = to_vectors(corners[:, 0], corners[:, 1])
        sides = np.cross(v, np.roll(v, -1, 0)) @ points.T
        inside.append((sides > 0).all(axis=0) | (sides < 0).all(axis=0))
    return np.array(inside)


@pytest.mark.parametrize("at_least", [1, 3])
def test_positions_are_on_the_images_that_brute_force_finds(tmp_path, at_least):
    outlines = many_outlines()
    images = read_images(write_outlines(tmp_path / "index.parquet", outlines))
    part = FootprintArea(images, at_least)
    rng = np.random.default_rng(1)
    ra, dec, total = [], [], 0.0
    for a, d in FIELDS:
        corners = outline(a, d, 0.5)
        u, v = rng.uniform(-0.25, 0.25, (2, 4000))
        ra.append((a + u / max(np.cos(np.radians(d)), 1e-3)) % 360)
        dec.append(np.clip(d + v, -90, 90))
        total += len(corners)
    ra, dec = np.concatenate(ra), np.concatenate(dec)
    inside = on_images(ra, dec, outlines)
    points = Points.at(ra, dec)
    np.testing.assert_array_equal(part.holds(points), inside.sum(axis=0) >= at_least)
    if at_least == 1:
        point, image = part.pairs(points)
        found = np.zeros_like(inside)
        found[image, point] = True
        np.testing.assert_array_equal(found, inside)


def test_the_area_of_a_union(tmp_path):
    shapely = pytest.importorskip("shapely")
    outlines = [outline(10.0 + 0.07 * k, 0.0, 0.2, 20.0 * k) for k in range(4)]
    # At the equator and over half a degree, the plane is the sky to 1e-5.
    flat = shapely.union_all([shapely.Polygon(corners) for corners in outlines])
    images = read_images(write_outlines(tmp_path / "index.parquet", outlines))
    assert Area([FootprintArea(images)]).area == pytest.approx(flat.area, rel=1e-3)
    table = generate_table({
        "area": {"footprint": str(tmp_path / "index.parquet"), "images_at_least": 2}, "n": 3000, "sources": STARS,
    })  # fmt: skip
    assert (on_images(table["ra"].value, table["dec"].value, outlines).sum(axis=0) >= 2).all()


def test_bands_of_the_images(tmp_path):
    outlines = [outline(10.0, 0.0, 0.1), outline(11.0, 0.0, 0.1), outline(12.0, 0.0, 0.1)]
    index = write_outlines(tmp_path / "index.parquet", outlines, ["g", "r", "g"])
    spec = {"area": {"footprint": str(index)}, "n": 300, "sources": STARS}
    table = generate_table(spec)
    assert [name for name in table.colnames if name.startswith("mag_")] == ["mag_g", "mag_r"]
    ra = generate_table(spec, area={"image_bands": ["r"]})["ra"].value
    assert (np.abs(ra - 11.0) < 0.06).all()
    with pytest.raises(CatalogError, match=r"no image is of band z; the images are of g, r"):
        generate_table(spec, bands=["z"])
    with pytest.raises(CatalogError, match=r"no image is of band i; they are of g, r"):
        generate_table(spec, area={"image_bands": ["i"]})
    with pytest.raises(CatalogError, match="no place is on 2 images"):
        generate_table(spec, area={"images_at_least": 2})
    far = {"region": {"ra": 100.0, "dec": 0.0, "radius": 1.0}}
    with pytest.raises(CatalogError, match="no place is in all of footprint, region"):
        generate_table(spec, area=far)


def test_files_that_list_no_images(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_images(tmp_path / "absent.yaml")
    fakes = tmp_path / "fakes.parquet"
    pq.write_table(pa.table({"ra": [1.0]}), fakes)
    with pytest.raises(FormatError, match="lists no images"):
        read_images(fakes)
    (tmp_path / "image.fits").write_bytes(b"SIMPLE  = T")
    with pytest.raises(FormatError, match=r"it is an image.*skygraft index IMAGES"):
        read_images(tmp_path / "image.fits")
    empty = write_outlines(tmp_path / "index.parquet", [])
    with pytest.raises(CatalogError, match="no image can be used"):
        read_images(empty)


def test_depths_are_those_of_the_variance_in_the_aperture(tmp_path):
    variances = [25.0, 400.0]
    config = write_survey(tmp_path, variances, offset=64.0)
    images = read_images(config)
    kept = tmp_path / "depths.parquet"
    found = measure_images(images, depth=True, file=kept)
    wanted = 27.0 - 2.5 * np.log10(5 * np.sqrt(np.pi * 12.0**2 * np.array(variances)))
    np.testing.assert_allclose(found.m5, wanted, atol=1e-4)
    np.testing.assert_allclose(found.fwhm, 0.8, rtol=5e-3)
    # What was measured is not read again.
    for path in (tmp_path / "raw").glob("*"):
        path.unlink()
    np.testing.assert_array_equal(measure_images(images, depth=True, file=kept).m5, found.m5)
    with pytest.raises(CatalogError, match="no image has a depth"):
        measure_images(images, depth=True)
    # At places of one image or of both.
    part = FootprintArea(images)
    east = 150.0 + np.array([-6.4, 6.4, 19.2]) / 3600  # images are 25.6 arcsec wide, and 12.8 apart
    places = Points.at(east - np.array([0.0, 0.0, 0.0]), np.zeros(3))
    np.testing.assert_allclose(depth_at(part, found.m5, places), [wanted[0], wanted.mean(), wanted[1]], atol=1e-4)
    np.testing.assert_allclose(depth_at(part, found.m5, places, "deepest"), wanted[[0, 0, 1]], atol=1e-4)
    np.testing.assert_allclose(depth_at(part, found.m5, places, "shallowest"), wanted[[0, 1, 1]], atol=1e-4)
    nothing = Points.at(np.array([151.0]), np.zeros(1))
    assert np.isnan(depth_at(part, found.m5, nothing)).all()


def test_magnitudes_follow_the_depth_of_each_place(tmp_path):
    config = write_survey(tmp_path, [25.0, 400.0], offset=64.0)
    sources = [{"type": "Star", "mag": {"kind": "uniform", "low": -1.0, "high": 1.0}, "mag_relative_to": "depth"}]
    spec = {"area": {"footprint": str(config)}, "n": 2000, "sources": sources}
    table = generate_table(spec)
    east = (table["ra"].value - 150.0) * 3600
    m5 = 27.0 - 2.5 * np.log10(5 * np.sqrt(np.pi * 12.0**2 * np.array([25.0, 400.0])))
    for mine, depth in ((east < -0.1, m5[0]), ((east > 0.1) & (east < 12.7), m5.mean()), (east > 12.9, m5[1])):
        low, high = np.quantile(table["mag_r"].value[mine] - depth, [0, 1])
        assert -1 <= low < -0.95 and 0.95 < high <= 1.0001
    given = generate_table(spec, depth={"m5": {"r": 24.0}})["mag_r"].value
    assert given.min() >= 23.0 and given.max() <= 25.0


def test_masked_places_are_avoided(tmp_path):
    config = write_survey(tmp_path, [25.0, 25.0], offset=64.0)
    part = FootprintArea(read_images(config))
    masked = read_masks(part, ["BAD"])
    # By hand: the mask covers the southern quarter, and of it the lower half of x, which is the East.
    rng = np.random.default_rng(2)
    x, y = rng.uniform(-0.5, 127.5, 3000), rng.uniform(-0.5, 127.5, 3000)
    ra, dec = 150.0 - (x - 63.5) * 0.2 / 3600, (y - 63.5) * 0.2 / 3600
    points = Points.at(ra, dec)
    second = x + 64.0
    in_first = (x < 63.5) & (y < 31.5)
    in_second = (second < 127.5) & (second < 63.5) & (y < 31.5)
    edge = np.minimum(np.abs(x - 63.5), np.abs(y - 31.5)) < 0.01
    wanted = in_first | in_second
    assert (masked.near(points) == wanted)[~edge].all()
    every = read_masks(part, ["BAD"], every=True).near(points)
    both = second < 127.5
    assert (every == np.where(both, in_first & in_second, in_first))[~edge].all()
    grown = read_masks(part, None, grow=3).near(points)
    near = (x < 63.5) & (y < 34.4) | (second < 127.5) & (second < 63.5) & (y < 34.4)
    assert grown[wanted & ~edge].all() and grown[near & ~edge].all()
    assert not grown[(y > 34.6) & ~edge].any()
    spec = {"area": {"footprint": str(config)}, "n": 500, "sources": STARS}
    table = generate_table(spec, avoid={"masks": {"planes": ["BAD"]}})
    assert not masked.near(Points.at(table["ra"].value, table["dec"].value)).any()
    with pytest.raises(ConfigError, match=r"no image has the mask plane SAT; there are BAD"):
        generate_table(spec, avoid={"masks": {"planes": ["SAT"]}})


def test_a_separation_in_fwhm_of_the_images(tmp_path):
    config = write_survey(tmp_path, [25.0])
    spec = {"area": {"footprint": str(config)}, "sources": STARS, "n": 40}
    for kind in ("uniform", "hexagonal"):
        table = generate_table(spec, positions={"kind": kind, "separation": "3 fwhm"})
        vectors = to_vectors(table["ra"].value, table["dec"].value)
        apart = np.linalg.norm(vectors[:, None] - vectors[None], axis=2) + np.eye(len(vectors))
        assert np.degrees(apart.min()) * 3600 >= 2.4 * 0.995
    with pytest.raises(CatalogError, match=r"only \d+ of 400 sources fit"):
        generate_table(spec, n=400, positions={"kind": "hexagonal", "separation": "3 fwhm"})


def test_the_footprint_of_real_images(data_dir, tmp_path):
    mocpy = pytest.importorskip("mocpy")
    from astropy import units as u

    text = (
        "name: v\nsurvey: {root: " + str(data_dir / "video_H") + ", images: 'image_?.fits', calibration: {aperture: "
        "2 arcsec, psf: '{stem}.psf', gain: 4}}\ncatalog: {path: fakes.parquet}\noutput: out\n"
    )
    (tmp_path / "campaign.yaml").write_text(text)
    images = read_images(tmp_path / "campaign.yaml")
    assert len(images) == 4 and images.bands == ["H"]
    moc = None
    for polygon in images.table.column("polygon").to_pylist():
        ra, dec = np.array(polygon).T
        one = mocpy.MOC.from_polygon(ra * u.deg, dec * u.deg, max_depth=16)
        moc = one if moc is None else moc.union(one)
    area = Area([FootprintArea(images)])
    # A MOC holds all cells that touch the border, 3 arcsec wide: 1.5 % of an area 10 arcmin across.
    wanted = moc.sky_fraction * 4 * np.pi * np.degrees(1) ** 2
    assert 0.98 * wanted < area.area < wanted
