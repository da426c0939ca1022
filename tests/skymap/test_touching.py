"""No source may be missed: whatever lies in a grown footprint is in a partition that `touching` names."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skygraft.errors import SkyMapError
from skygraft.skymap import SkyMap, get_skymap

MAPS = {
    "hsc": get_skymap("hsc_rings_v1"),
    # Coarse enough that tracts do not reach the corners of their cells, and that shapes are far from flat.
    "coarse": get_skymap(
        {"kind": "rings", "num_rings": 4, "pixel_scale": 60.0, "patch_inner": [559, 745], "tract_overlap": 0.0}
    ),
    "shifted": get_skymap(
        {"kind": "rings", "num_rings": 30, "pixel_scale": 5.0, "patch_inner": 700, "ra_start": 123.4}
    ),
    "healpix": get_skymap({"kind": "healpix", "nside": 32, "patch_nside": 256}),
    "healpix_coarse": get_skymap({"kind": "healpix", "nside": 2, "patch_nside": 4}),
    # So wide that a degree at its edge is one and a half in the middle.
    "wide": get_skymap(
        {
            "kind": "explicit",
            "tracts": [{"ra": 80.0, "dec": 40.0, "pixel_scale": 60.0, "size": 4000, "patches": 40}],
        }
    ),
    "explicit": get_skymap(
        {
            "kind": "explicit",
            "tracts": [
                {"ra": 0.1, "dec": 0.0, "pixel_scale": 1.0, "size": 3000, "patches": 3},
                {"ra": 0.6, "dec": 0.1, "pixel_scale": 2.0, "size": [2000, 1001], "patches": [2, 4]},
                {"ra": 33.0, "dec": 90.0, "pixel_scale": 3.0, "size": 3001, "patches": 4},
                {"ra": 200.0, "dec": -89.5, "pixel_scale": 3.0, "size": 3001, "patches": 5},
            ],
        }
    ),
}


def unit(ra, dec):
    ra, dec = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def lonlat(v):
    return np.degrees(np.arctan2(v[..., 1], v[..., 0])) % 360, np.degrees(
        np.arctan2(v[..., 2], np.hypot(v[..., 0], v[..., 1]))
    )


def rectangle(ra, dec, width, height, angle):
    """Corners of a rectangle (degrees) on the tangent plane at a position, as unit vectors."""
    center = unit(ra, dec)
    lon, lat = np.radians(ra), np.radians(dec)
    east = np.array([-np.sin(lon), np.cos(lon), 0.0])
    north = np.array([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)])
    c, s = np.cos(angle), np.sin(angle)
    half = np.tan(np.radians([width, height]) / 2)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half @ np.array([[c, s], [-s, c]])
    v = center + corners[:, :1] * east + corners[:, 1:] * north
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def sample(corners, margin, rng, n=1500):
    """Random positions in the rectangle's convex cone, moved by up to `margin` degrees, and on its rim."""
    weights = rng.dirichlet(np.full(4, 0.5), n)
    v = weights @ corners
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    shift = rng.normal(size=(n, 3))
    shift -= np.einsum("ni,ni->n", shift, v)[:, None] * v
    shift /= np.linalg.norm(shift, axis=1, keepdims=True)
    angle = np.radians(margin) * np.sqrt(rng.uniform(0, 1, n))
    angle[: n // 2] = np.radians(margin) * (1 - 1e-9)
    return lonlat(np.cos(angle)[:, None] * v + np.sin(angle)[:, None] * shift)


@pytest.mark.parametrize("name", MAPS)
@settings(max_examples=35, deadline=None)
@given(
    ra=st.one_of(st.floats(0, 360), st.sampled_from([0.0, 360.0, 1e-9, 359.99999, 0.74])),
    dec=st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, 90.0, 89.9, -89.99, 0.0, 0.7438])),
    width=st.floats(1e-4, 4.0),
    height=st.floats(1e-4, 4.0),
    angle=st.floats(0, 2 * np.pi),
    margin=st.one_of(st.just(0.0), st.floats(0, 3600.0)),
    seed=st.integers(0, 2**32 - 1),
)
@example(ra=0.0, dec=90.0, width=1.0, height=1.0, angle=0.3, margin=0.0, seed=1)
@example(ra=10.0, dec=-89.8, width=0.1, height=0.1, angle=0.3, margin=1800.0, seed=2)
@example(ra=0.0, dec=0.0, width=0.2, height=0.2, angle=0.0, margin=10.0, seed=3)
def test_whatever_lies_in_the_grown_polygon_is_among_those_touched(name, ra, dec, width, height, angle, margin, seed):
    skymap: SkyMap = MAPS[name]
    size = 12 if "coarse" in name else 1
    corners = rectangle(ra, dec, size * width, size * height, angle)
    touched = set(skymap.touching(np.column_stack(lonlat(corners)), margin))
    found = skymap.locate(*sample(corners, margin / 3600, np.random.default_rng(seed)))
    homes = {(int(t), int(p)) for t, p in zip(*found, strict=True) if t >= 0}
    assert homes <= touched


@settings(max_examples=40, deadline=None)
@given(
    tract=st.integers(0, MAPS["hsc"].n_tracts - 1),
    x=st.integers(0, 9),
    y=st.integers(0, 9),
    angle=st.floats(0, 2 * np.pi),
    seed=st.integers(0, 2**32 - 1),
)
def test_footprints_on_patch_corners_and_tract_edges_miss_nothing(tract, x, y, angle, seed):
    skymap = MAPS["hsc"]
    ra, dec = skymap.tract(tract).wcs.pixel_to_world_values(4000 * x - 0.5, 4000 * y - 0.5)
    corners = rectangle(float(ra), float(dec), 0.1, 0.05, angle)
    touched = set(skymap.touching(np.column_stack(lonlat(corners)), 20.0))
    found = skymap.locate(*sample(corners, 20.0 / 3600, np.random.default_rng(seed)))
    assert {(int(t), int(p)) for t, p in zip(*found, strict=True)} <= touched


def homes_near(skymap, ra, dec, margin, n=720):
    """Where positions all around the rim of a circle (degrees) belong."""
    angle = np.linspace(0, 2 * np.pi, n)
    lon, lat = np.radians(ra), np.radians(dec)
    east = np.array([-np.sin(lon), np.cos(lon), 0.0])
    north = np.array([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)])
    shift = np.cos(angle)[:, None] * north + np.sin(angle)[:, None] * east
    rim = np.radians(margin * (1 - 1e-9))
    found = skymap.locate(*lonlat(np.cos(rim) * unit(ra, dec) + np.sin(rim) * shift))
    return {(int(t), int(p)) for t, p in zip(*found, strict=True) if t >= 0}


@pytest.mark.parametrize("name", ["wide", "coarse", "shifted"])
@settings(max_examples=60, deadline=None)
@given(data=st.data(), u=st.floats(0, 1), v=st.floats(0, 1), margin=st.floats(0, 2.0))
def test_the_margin_is_measured_on_the_sky_not_on_the_stretched_plane(name, data, u, v, margin):
    skymap = MAPS[name]
    tract = skymap.tract(data.draw(st.integers(0, skymap.n_tracts - 1)))
    ny, nx = tract.outer_box.shape
    ra, dec = (float(c) for c in tract.wcs.pixel_to_world_values(u * nx - 0.5, v * ny - 0.5))
    touched = set(skymap.touching([(ra, dec)], margin * 3600))
    assert homes_near(skymap, ra, dec, margin) <= touched


@pytest.mark.parametrize("name", ["hsc", "coarse", "shifted"])
@settings(max_examples=60, deadline=None)
@given(data=st.data(), corner=st.sampled_from([-1, 1]), off=st.floats(-1.0, 1.0), margin=st.floats(0, 0.7))
def test_footprints_by_the_corners_of_cells_miss_nothing(name, data, corner, off, margin):
    """Where rings meet and tracts change with right ascension, at all declinations."""
    skymap = MAPS[name]
    number = data.draw(st.integers(1, skymap.n_tracts - 3))
    here, there = skymap.tract(number).center, skymap.tract(number + 1).center
    height = 180 / (skymap.num_rings + 1) / 2
    step = (there[0] - here[0]) % 360 if there[1] == here[1] else height
    dec = float(np.clip(here[1] + corner * height * (1 - 0.1 * off**2), -90, 90))
    ra = (here[0] + step / 2 + off * margin / max(np.cos(np.radians(dec)), 0.01)) % 360
    touched = set(skymap.touching([(ra, dec)], margin * 3600))
    assert homes_near(skymap, ra, dec, margin) <= touched


@pytest.mark.parametrize("name", ["hsc", "healpix", "shifted"])
def test_few_patches_are_touched_in_vain(name):
    """A 0.2 degree detector reads not many more partitions than it needs."""
    skymap, rng = MAPS[name], np.random.default_rng(7)
    needed = touched = 0
    for _ in range(60):
        ra, dec = rng.uniform(0, 360), np.degrees(np.arcsin(rng.uniform(-1, 1)))
        corners = rectangle(ra, dec, 0.2, 0.1, rng.uniform(0, 2 * np.pi))
        touched += len(skymap.touching(np.column_stack(lonlat(corners)), 10.0))
        found = skymap.locate(*sample(corners, 10 / 3600, rng, 4000))
        needed += len(set(zip(*(f.tolist() for f in found), strict=True)))
    assert needed <= touched <= 1.6 * needed


def test_a_footprint_within_a_patch_touches_that_patch_alone():
    skymap = MAPS["hsc"]
    polygon = skymap.tract(9813).wcs.pixel_to_world_values([20100, 23900, 23900, 20100], [16100, 16100, 19900, 19900])
    assert skymap.touching(np.column_stack(polygon)) == [(9813, 41)]
    # 100 pixels are 16.8 arcsec: with less than that nothing is added, with more all eight neighbours' sides are.
    assert skymap.touching(np.column_stack(polygon), 16.0) == [(9813, 41)]
    assert {p for _, p in skymap.touching(np.column_stack(polygon), 17.5)} >= {32, 40, 42, 50}


def test_a_polygon_that_holds_a_whole_patch_touches_it():
    skymap = MAPS["hsc"]
    outline = skymap.tract(9813).wcs.pixel_to_world_values([11000, 25000, 25000, 11000], [11000, 11000, 25000, 25000])
    assert {(9813, 31), (9813, 40), (9813, 41)} <= set(skymap.touching(np.column_stack(outline)))


def test_positions_off_an_explicit_map_touch_nothing():
    assert MAPS["explicit"].touching([(50, 10), (51, 10), (51, 11)], 60) == []


def test_a_thousand_footprints_take_seconds_not_minutes():
    skymap, rng = MAPS["hsc"], np.random.default_rng(3)
    polygons = [
        np.column_stack(lonlat(rectangle(rng.uniform(149, 151), rng.uniform(1, 3), 0.2, 0.1, 0.3))) for _ in range(200)
    ]
    start = time.perf_counter()
    for polygon in polygons:
        skymap.touching(polygon, 30.0)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("polygon", "margin", "message"),
    [
        ([(0, 0), (1, 0), (400, 1)], 0, "400"),
        ([(0, 0), (1, 0), (np.nan, 1)], 0, "nan"),
        ([(0, 0), (120, 0), (240, 0)], 0, "90.0 degrees"),
        ([1, 2, 3], 0, "shape"),
        ([(0, 0), (1, 0), (1, 1)], -1, "-1"),
        ([(0, 0), (1, 0), (1, 1)], np.nan, "nan"),
        ([(0, 0), (1, 0), (1, 1)], 1e6, "10 degrees"),
    ],
)
def test_polygons_that_make_no_sense_are_refused(polygon, margin, message):
    with pytest.raises(SkyMapError, match=message):
        MAPS["hsc"].touching(polygon, margin)
