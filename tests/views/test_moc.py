"""The footprint as a MOC agrees with the outlines, and with MOCPy's reading of it."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from hypothesis import given, settings
from hypothesis import strategies as st
from mocpy import MOC

from kits.views_kit import DEC, FAR, RA, SIZE
from skygraft.errors import ConfigError
from skygraft.records.plan_file import read_plan
from skygraft.skymap.geometry import tan_project
from skygraft.views import Moc, footprint_moc
from skygraft.views.moc import outline_cells
from skygraft.views.places import outline_distance

SUFFIXES = {"fits": "fits", "json": "json", "ascii": "txt"}


def square(ra: float, dec: float, side: float) -> np.ndarray:
    """Corners of a square in a tangent plane, degrees."""
    from skygraft.wcs import FitsWcs

    wcs = FitsWcs.tan(ra, dec, crpix=(0.0, 0.0), cd=[[-1e-3, 0.0], [0.0, 1e-3]])
    half = side / 2e-3
    return np.column_stack(wcs.pixel_to_world_values([-half, half, half, -half], [-half, -half, half, half]))


def test_all_centres_are_inside_and_nothing_beyond_half_a_cell(campaign) -> None:
    moc = footprint_moc(campaign)
    images = read_plan(campaign.layout.plan)
    # 44 arcsec wide images: cells of 1.6 arcsec.
    assert moc.order == 17
    assert moc.contains([i.ra for i in images], [i.dec for i in images]).all()
    rng = np.random.default_rng(1)
    near = np.repeat([(RA, DEC), FAR], 1500, axis=0) + rng.uniform(-0.012, 0.012, (3000, 2))
    ra, dec = near.T
    inside = moc.contains(ra, dec)
    distance = np.array([min(outline_distance(i.polygon, a, d) for i in images) for a, d in zip(ra, dec, strict=True)])
    assert 500 < inside.sum() < 2500
    assert distance[inside].max() < 1.2
    assert (~inside[distance == 0]).mean() < 0.08  # within half a cell of an edge


def test_the_area_is_that_of_the_images(campaign) -> None:
    moc = footprint_moc(campaign)
    images = read_plan(campaign.layout.plan)
    # By counting: points of a fine grid in a tangent plane that are in one of the images.
    t = np.arange(-0.08, 0.08, 0.3 / 3600)
    x, y = np.meshgrid(t, t)
    covered = np.zeros(x.shape, dtype=bool)
    from matplotlib.path import Path

    for image in images:
        corners = np.column_stack(tan_project(*np.array(image.polygon).T, 150.13, 2.225))
        covered |= Path(corners).contains_points(np.column_stack([x.ravel(), y.ravel()])).reshape(x.shape)
    expected = covered.sum() * (0.3 / 3600) ** 2
    assert moc.area == pytest.approx(expected, rel=0.02)
    # The two images that stand apart from each other and three that overlap: less than four, more than two.
    one = (SIZE * 0.2 / 3600) ** 2
    assert 2.05 * one < moc.area < 3.5 * one


@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize("order", [None, 14, 9])
def test_mocpy_reads_the_same(campaign, tmp_path, kind, order) -> None:
    moc = footprint_moc(campaign, order)
    path = tmp_path / f"moc.{SUFFIXES[kind]}"
    path.write_bytes(moc.to_bytes(kind))
    read = MOC.load(path, format=kind)
    assert read.max_order == moc.order
    assert read.sky_fraction * 4 * np.pi * np.degrees(1) ** 2 == pytest.approx(moc.area, rel=1e-9)
    ranges = [[a >> 2 * (29 - moc.order), b >> 2 * (29 - moc.order)] for a, b in read.to_depth29_ranges.tolist()]
    assert ranges == moc.ranges.tolist()


def test_the_footprint_lies_within_that_of_mocpy_with_all_cells_that_touch(campaign) -> None:
    moc = footprint_moc(campaign)
    touching = MOC.new_empty(moc.order)
    for image in read_plan(campaign.layout.plan):
        ra, dec = np.array(image.polygon).T
        touching = touching.union(MOC.from_polygon(ra * u.deg, dec * u.deg, max_depth=moc.order))
    ours = MOC.from_string(moc.to_bytes("ascii").decode(), "ascii")
    assert ours.difference(touching).empty()
    assert ours.sky_fraction > 0.85 * touching.sky_fraction


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 360), st.floats(-89.9, 89.9), st.floats(0.05, 3.0), st.integers(8, 11))
def test_cells_of_a_square_anywhere(ra, dec, side, order) -> None:
    cells = outline_cells(square(ra, dec, side), order)
    from astropy_healpix import HEALPix

    grid = HEALPix(2**order, order="nested")
    near = grid.cone_search_lonlat(ra * u.deg, dec * u.deg, side * u.deg)
    lon, lat = grid.healpix_to_lonlat(near)
    xi, eta = tan_project(lon.deg, lat.deg, ra, dec)
    depth = np.abs(np.maximum(np.abs(xi), np.abs(eta)) - side / 2)
    inside = np.maximum(np.abs(xi), np.abs(eta)) < side / 2
    expected, sure = near[inside], near[depth > 1e-9]
    assert set(cells.tolist()) & set(sure.tolist()) == set(expected.tolist()) & set(sure.tolist())
    assert np.all(np.diff(cells) > 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12 * 4**3 - 1), max_size=300))
def test_the_fewest_cells_of_all_orders_make_up_the_same(numbers) -> None:
    from skygraft.views.moc import _union

    cells = np.unique(np.array(numbers, dtype=np.int64))
    # In two parts, as of two batches of images.
    ranges = _union(_union(np.zeros((0, 2), np.int64), [cells[::2]]), [cells[1::2], cells[:3]])
    moc = Moc(3, ranges)
    back = [c * 4 ** (3 - o) + k for o, some in moc.cells().items() for c in some for k in range(4 ** (3 - o))]
    assert sorted(back) == cells.tolist()
    for order, some in moc.cells().items():
        if order:
            parents, n = np.unique(some // 4, return_counts=True)
            assert n.max(initial=0) < 4, parents
    if len(cells):
        read = MOC.from_string(moc.to_bytes("ascii").decode(), "ascii")
        assert read.max_order == 3
        assert read.sky_fraction == pytest.approx(len(cells) / (12 * 4**3))


def test_an_order_that_there_is_not(campaign) -> None:
    with pytest.raises(ConfigError, match=r"order is 30.*0 to 29"):
        footprint_moc(campaign, 30)


def test_the_header_says_what_the_standard_asks_for(campaign) -> None:
    import io

    from astropy.io import fits

    with fits.open(io.BytesIO(footprint_moc(campaign).to_bytes())) as hdus:
        header = hdus[1].header
        for key, value in {"PIXTYPE": "HEALPIX", "ORDERING": "NUNIQ", "COORDSYS": "C", "MOCVERS": "2.0",
                           "MOCDIM": "SPACE", "MOCORD_S": 17, "TFORM1": "K"}.items():  # fmt: skip
            assert header[key] in (value, f"1{value}")
        assert np.all(np.diff(hdus[1].data["UNIQ"]) > 0)
