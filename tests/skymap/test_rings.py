"""The rings sky map against the LSST pipelines' own, and against what it promises."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skygraft.skymap import RingsSkyMap, get_skymap

HSC = get_skymap("hsc_rings_v1")


@pytest.fixture(scope="module")
def reference(data_dir):
    return json.loads((data_dir / "afw_reference" / "skymap_rings.json").read_text())["hsc_rings_v1"]


@pytest.fixture(scope="module")
def points(reference):
    return reference["points"]


def test_cosmos_is_in_tract_9813_patch_41():
    tract, patch = HSC.locate(150.1163, 2.2058)
    assert (int(tract), int(patch)) == (9813, 41)
    assert tract.shape == patch.shape == ()


@pytest.mark.data
def test_all_reference_positions_have_their_home(reference, points):
    tract, patch = HSC.locate([p["ra"] for p in points], [p["dec"] for p in points])
    assert tract.tolist() == [p["tract"] for p in points]
    assert patch.tolist() == [p["patch_seq"] for p in points]
    assert HSC.n_tracts == reference["num_tracts"]


@pytest.mark.data
def test_boxes_of_tracts_and_patches(points):
    for p in points:
        tract = HSC.tract(p["tract"])
        patch = tract.patch(p["patch_seq"])
        assert patch.index == tuple(p["patch_index"])
        assert patch.sequential == patch.index[0] + patch.index[1] * tract.patch_grid[0] == p["patch_seq"]
        assert patch.inner_box.indices == tuple(p["patch_inner_bbox"])
        assert patch.outer_box.indices == tuple(p["patch_outer_bbox"])
        assert tract.outer_box.indices == tuple(p["tract_bbox"])
        assert tract.patch_grid == tuple(p["tract_num_patches"])


@pytest.mark.data
def test_projections(points):
    for p in points[::4] + [q for q in points if abs(q["dec"]) > 85]:
        tract = HSC.tract(p["tract"])
        assert tract.center == pytest.approx(p["tract_center_deg"], abs=1e-12)
        assert tract.crpix == tuple(p["crpix0"])
        assert tract.wcs.world_to_pixel_values(p["ra"], p["dec"]) == pytest.approx(p["tract_pixel"], abs=1e-7)
        assert tract.project(p["ra"], p["dec"]) == pytest.approx(p["tract_pixel"], abs=1e-7)
        # The reference's corners are pulled in by 0.001 pixel.
        here = np.array(tract.wcs.world_to_pixel_values(*tract.vertices.T))
        there = np.array(tract.wcs.world_to_pixel_values(*np.transpose(p["tract_vertices_deg"])))
        np.testing.assert_allclose(here, there, atol=0.00101)


@pytest.mark.data
def test_every_tract_and_patch_that_shows_a_position(points):
    for p in points:
        found = HSC.find_all(p["ra"], p["dec"])
        assert [t for t, _ in found] == p["find_all_tracts"]
        assert found == [(t, sorted(patches)) for t, patches in p["all_tract_patches"]]


def test_every_position_of_the_sky_has_a_tract_and_a_patch():
    rng = np.random.default_rng(0)
    ra, dec = rng.uniform(0, 360, 10**6), np.degrees(np.arcsin(rng.uniform(-1, 1, 10**6)))
    tract, patch = HSC.locate(ra, dec)
    assert tract.min() >= 0 and tract.max() < HSC.n_tracts
    assert patch.min() >= 0 and patch.max() < 81


@settings(max_examples=150, deadline=None)
@given(ra=st.floats(0, 360), dec=st.floats(-90, 90))
def test_a_position_is_in_the_inner_box_of_its_patch_and_in_the_nearest_tract_of_its_ring(ra, dec):
    number, patch = (int(v) for v in HSC.locate(ra, dec))
    tract = HSC.tract(number)
    x, y = tract.wcs.world_to_pixel_values(ra, dec)
    inner = tract.patch(patch).inner_box
    assert inner.x_min - 1e-6 <= x <= inner.x_max + 1e-6
    assert inner.y_min - 1e-6 <= y <= inner.y_max + 1e-6
    assert tract.project(ra, dec) == pytest.approx((x, y), abs=1e-6)
    # Closed form: rings are 180/121 degrees high, the caps half of that.
    height = 180 / 121
    if number in (0, HSC.n_tracts - 1):
        assert 90 - abs(dec) <= height / 2 + 1e-9
    else:
        assert abs(tract.center[1] - dec) <= height / 2 + 1e-9
        east, west = HSC.tract(min(number + 1, HSC.n_tracts - 2)), HSC.tract(max(number - 1, 1))
        for other in (east, west):
            if other.center[1] == tract.center[1]:
                assert abs(_wrap(ra - tract.center[0])) <= abs(_wrap(ra - other.center[0])) + 1e-9


def _wrap(angle):
    return (angle + 180) % 360 - 180


def test_tracts_are_numbered_ring_by_ring_from_the_south():
    # A ring has one tract more than fit by their height, at the declination nearest the equator.
    size, number = math.pi / 121, 1
    for ring in range(120):
        low = size * (ring + 0.5) - math.pi / 2
        nearest = 0 if low < 0 < low + size else min(abs(low), abs(low + size))
        assert HSC.tract(number).center == pytest.approx((0.0, math.degrees(size * (ring + 1)) - 90), abs=1e-9)
        number += int(2 * math.pi * math.cos(nearest) / size) + 1
    assert number == HSC.n_tracts - 1
    assert HSC.tract(0).center == (0.0, -90.0)
    assert HSC.tract(number).center == (0.0, 90.0)


def test_right_ascension_zero_and_the_last_half_tract_belong_to_the_first_tract():
    height = 180 / 121
    tract, _ = HSC.locate([0.0, 360.0, 359.9, 0.1, 1e-300], [0.0, 0.0, 0.0, 0.0, 0.0])
    assert len(set(tract.tolist())) == 1
    assert HSC.tract(int(tract[0])).center[0] == 0.0
    assert height / 2 > 0.7
    assert int(HSC.locate(0.8, 0.0)[0]) == int(tract[0]) + 1


def test_where_a_coarse_map_does_not_reach_the_nearest_patch_is_taken():
    coarse = RingsSkyMap(num_rings=4, pixel_scale=60.0, patch_inner=(559, 745), patch_border=0, tract_overlap=0.0)
    rng = np.random.default_rng(5)
    ra, dec = rng.uniform(0, 360, 20000), np.degrees(np.arcsin(rng.uniform(-1, 1, 20000)))
    tract, patch = coarse.locate(ra, dec)
    outside = 0
    for i in range(0, 20000, 20):
        t = coarse.tract(int(tract[i]))
        x, y = t.wcs.world_to_pixel_values(ra[i], dec[i])
        ix = min(max(math.floor((x + 0.5) / 559), 0), t.patch_grid[0] - 1)
        iy = min(max(math.floor((y + 0.5) / 745), 0), t.patch_grid[1] - 1)
        assert int(patch[i]) == ix + iy * t.patch_grid[0]
        outside += not t.outer_box.contains(x, y)
    assert outside > 0
