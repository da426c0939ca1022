"""Sky maps as values; HEALPix and explicit maps; errors that say what to do."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skygraft.errors import SkyMapError
from skygraft.skymap import ExplicitSkyMap, HealpixSkyMap, PixelBox, RingsSkyMap, get_skymap

RINGS = {"kind": "rings", "num_rings": 120, "pixel_scale": 0.2, "patch_inner": 3000}
HEALPIX = {"kind": "healpix", "nside": 32, "patch_nside": 256}
DEMO = {
    "kind": "explicit",
    "tracts": [{"ra": 150.0, "dec": 2.0, "pixel_scale": 0.2, "size": [2001, 1000], "patches": [2, 2], "border": 50}],
}
SPECS = ["hsc_rings_v1", RINGS, HEALPIX, DEMO]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_maps_are_values(spec):
    skymap = get_skymap(spec)
    for other in (
        get_skymap(skymap.to_dict()),
        get_skymap(json.loads(json.dumps(skymap.to_dict()))),
        pickle.loads(pickle.dumps(skymap)),
        copy.deepcopy(skymap),
        get_skymap(skymap),
    ):
        assert other == skymap
        assert hash(other) == hash(skymap)
        assert other.to_dict() == skymap.to_dict()
    with pytest.raises(AttributeError):
        skymap.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_tracts_are_made_once_and_travel(spec):
    skymap = get_skymap(spec)
    tract = skymap.tract(0)
    assert skymap.tract(0) is tract
    tract.wcs  # noqa: B018  (a tract whose WCS has been made must still travel)
    again = pickle.loads(pickle.dumps(tract))
    assert again == tract
    assert again.wcs == tract.wcs
    assert len(tract.patches) == tract.n_patches


def test_maps_that_differ_are_not_equal():
    maps = [get_skymap(s) for s in SPECS]
    assert len({*maps}) == len(maps)
    assert get_skymap({**RINGS, "num_rings": 119}) != get_skymap(RINGS)
    assert isinstance(maps[0], RingsSkyMap)
    assert isinstance(maps[2], HealpixSkyMap)
    assert isinstance(maps[3], ExplicitSkyMap)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_middle_of_a_patch_belongs_to_that_patch(spec, data):
    skymap = get_skymap(spec)
    tract = data.draw(st.integers(0, skymap.n_tracts - 1))
    patch = data.draw(st.integers(0, skymap.tract(tract).n_patches - 1))
    outline = skymap.patch_polygon(tract, patch)
    vectors = np.stack(
        [
            np.cos(np.radians(outline[:, 1])) * np.cos(np.radians(outline[:, 0])),
            np.cos(np.radians(outline[:, 1])) * np.sin(np.radians(outline[:, 0])),
            np.sin(np.radians(outline[:, 1])),
        ]
    ).mean(axis=1)
    ra = np.degrees(np.arctan2(vectors[1], vectors[0])) % 360
    dec = np.degrees(np.arctan2(vectors[2], np.hypot(vectors[0], vectors[1])))
    home = tuple(int(v) for v in skymap.locate(ra, dec))
    if not isinstance(skymap, HealpixSkyMap):
        found = {(t, p) for t, patches in skymap.find_all(float(ra), float(dec)) for p in patches}
        assert {home, (tract, patch)} <= found
    nx, ny = skymap.tract(tract).patch_grid
    ix, iy = skymap.tract(tract).patch(patch).index
    # Tracts of a rings map overlap: only the middle of a tract is surely its own.
    whole_sky = isinstance(skymap, RingsSkyMap)
    if not whole_sky or (min(ix, iy) >= 3 and max(ix - nx, iy - ny) < -3 and 0 < tract < skymap.n_tracts - 1):
        assert home == (tract, patch)


def test_the_demonstration_map():
    skymap = get_skymap(DEMO)
    tract = skymap.tract(0)
    # 2001 x 1000 pixels in 2 x 2 patches: whole patches of 1001 x 500.
    assert tract.patch_inner == (1001, 500)
    assert tract.outer_box.shape == (1000, 2002)
    assert [p.index for p in tract.patches] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert tract.patch(3).inner_box.indices == (1001, 500, 2001, 999)
    assert tract.patch(3).outer_box.indices == (951, 450, 2001, 999)
    # x grows to the West: a little East and North is patch x = 0, y = 1.
    assert [int(v) for v in skymap.locate(150.01, 2.01)] == [0, 2]
    assert [int(v) for v in skymap.locate(149.99, 1.99)] == [0, 1]
    tracts, patches = skymap.locate([[150.0, 151.0], [330.0, 150.0]], [[2.0, 2.0], [-2.0, 2.06]])
    assert tracts.tolist() == [[0, -1], [-1, -1]]
    assert (patches == -1).tolist() == [[False, True], [True, True]]


def test_of_overlapping_tracts_the_nearest_centre_wins():
    entry = {"dec": 0.0, "pixel_scale": 1.0, "size": 3600}
    skymap = get_skymap({"kind": "explicit", "tracts": [{"ra": 10.0, **entry}, {"ra": 10.5, **entry}]})
    assert skymap.locate([9.9, 10.24, 10.26, 10.9], [0.0, 0, 0, 0])[0].tolist() == [0, 0, 1, 1]
    assert [t for t, _ in skymap.find_all(10.26, 0.0)] == [0, 1]


@settings(max_examples=60, deadline=None)
@given(ra=st.floats(0, 360), z=st.floats(-1, 1))
def test_healpix_pixels_by_their_own_formula(ra, z):
    """In the equatorial belt, from the definition (Gorski et al. 2005, eq. 4-9): straight lines in (phi, z)."""
    nside = 256
    dec = float(np.degrees(np.arcsin(z)))
    tract, patch = (int(v) for v in get_skymap(HEALPIX).locate(ra, dec))
    pixel = tract * 64 + patch
    t = (ra % 360.0) / 90.0
    za = abs(np.sin(np.radians(dec)))
    if za > 2 / 3:
        return
    jp, jm = (nside * (0.5 + t - sign * np.sin(np.radians(dec)) * 0.75) for sign in (1, -1))
    if min(abs(v - round(v)) for v in (jp, jm)) < 1e-6:
        return
    jp, jm = int(jp), int(jm)
    fp, fm = jp // nside, jm // nside
    face = (fp % 4) + 4 if fp == fm else (fp % 4 if fp < fm else (fm % 4) + 8)
    ix, iy = jm % nside, nside - jp % nside - 1
    nested = sum((((ix >> b) & 1) << (2 * b)) | (((iy >> b) & 1) << (2 * b + 1)) for b in range(8))
    assert pixel == face * nside**2 + nested


def test_healpix_patches_lie_within_their_boxes():
    skymap = get_skymap(HEALPIX)
    for number in (0, 500, 5000, skymap.n_tracts - 1):
        tract = skymap.tract(number)
        for seq in (0, 7, 63):
            patch = tract.patch(seq)
            x, y = tract.wcs.world_to_pixel_values(*skymap.patch_polygon(number, seq).T)
            assert patch.inner_box.contains(x, y).all()
            assert tract.outer_box.contains(x, y).all()
    assert skymap.tract(0).patch(6).index == (2, 1)
    with pytest.raises(SkyMapError, match="has no patch 64"):
        skymap.tract(0).patch(64)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize(
    ("ra", "dec", "row", "value"),
    [
        ([1.0, 370.0], [0.0, 0.0], 1, "370"),
        ([-0.1, 1.0], [0.0, 0.0], 0, "-0.1"),
        ([1.0, 2.0, 3.0], [0.0, 0.0, 90.1], 2, "90.1"),
        ([1.0, 2.0], [-91.0, 0.0], 0, "-91"),
        ([1.0, np.nan], [0.0, 0.0], 1, "nan"),
        ([1.0, 1.0], [0.0, np.inf], 1, "inf"),
    ],
)
def test_positions_off_the_sphere_are_named(spec, ra, dec, row, value):
    with pytest.raises(SkyMapError, match=value) as caught:
        get_skymap(spec).locate(ra, dec)
    assert caught.value.row == row
    assert f"row {row}" in str(caught.value)


def test_no_positions_have_no_homes():
    for spec in SPECS:
        tract, patch = get_skymap(spec).locate([], [])
        assert tract.shape == patch.shape == (0,)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hsc_ring_v1", "Did you mean 'hsc_rings_v1'"),
        ({"num_rings": 3}, "has no kind"),
        ({"kind": "ring"}, "Did you mean 'rings'"),
        ({**RINGS, "num_ring": 3}, "Did you mean 'num_rings'"),
        ({"kind": "rings", "pixel_scale": 0.2}, "needs 'num_rings'"),
        ({**RINGS, "num_rings": 0}, "whole number within 1"),
        ({**RINGS, "num_rings": True}, "whole number"),
        ({**RINGS, "pixel_scale": "0.2"}, "a number within"),
        ({**RINGS, "patch_inner": [1, 2, 3]}, "two of them"),
        ({**RINGS, "version": 0}, "version 0"),
        ({"kind": "healpix", "nside": 3, "patch_nside": 8}, "power of two"),
        ({"kind": "healpix", "nside": 8, "patch_nside": 4}, "within 8"),
        ({"kind": "healpix", "nside": 8}, "needs 'patch_nside'"),
        ({"kind": "explicit", "tracts": []}, "at least one"),
        ({"kind": "explicit", "tracts": "all"}, "not a list"),
        ({"kind": "explicit", "tracts": [{"ra": 1, "dec": 2, "size": 5}]}, "needs 'pixel_scale'"),
        ({"kind": "explicit", "tracts": [{"ra": 1, "dec": 99, "size": 5, "pixel_scale": 1}]}, "tract 0.*dec = 99"),
        ({"kind": "explicit", "tracts": [{"ra": 1, "dec": 9, "size": 5, "pixel_scale": 1, "sizes": 1}]}, "'size'"),
        ({"kind": "explicit", "tracts": [{"ra": 1, "dec": 9, "size": 5000, "pixel_scale": 100}]}, "at most 90"),
        (5, "not by 5"),
    ],
    ids=str,
)
def test_a_wrong_map_is_an_error_that_helps(spec, message):
    with pytest.raises(SkyMapError, match=message):
        get_skymap(spec)


def test_tracts_and_patches_that_are_not_there():
    skymap = get_skymap("hsc_rings_v1")
    with pytest.raises(SkyMapError, match="0 to 18937"):
        skymap.tract(18938)
    with pytest.raises(SkyMapError, match="0 to 18937"):
        skymap.tract(-1)
    with pytest.raises(SkyMapError, match="0 to 80"):
        skymap.patch_polygon(9813, 81)


def test_boxes():
    box = PixelBox.from_indices(100, 200, 299, 249)
    assert (box.x_min, box.x_max, box.y_min, box.y_max) == (99.5, 299.5, 199.5, 249.5)
    assert box.indices == (100, 200, 299, 249)
    assert box.xy0 == (100, 200)
    assert box.shape == (50, 200)
    assert box.contains([99.5, 99.4, 150], [200, 200, 249.6]).tolist() == [True, False, False]


@settings(max_examples=60, deadline=None)
@given(
    ra=st.one_of(st.floats(0, 360), st.sampled_from([0.0, 360.0, 1e-9, 359.99999])),
    dec=st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, 90.0, 89.9, -89.99, 0.0])),
)
def test_no_tract_that_contains_a_position_is_missed(ra, dec):
    skymap = get_skymap({"kind": "rings", "num_rings": 9, "pixel_scale": 5.0, "patch_inner": 700, "ra_start": 123.4})
    every = [t for t in range(skymap.n_tracts) if skymap.tract(t).outer_box.contains(*skymap.tract(t).project(ra, dec))]
    assert [t for t, _ in skymap.find_all(ra, dec)] == every
