"""Groups placed as one: right on the sky, on turned and mirrored images, at poles, and over the borders of patches."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord, SkyOffsetFrame
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS

from kits.plain_images import plain_header
from skygraft.catalog import partition_catalog, read_partitions
from skygraft.catalog.partition_read import list_partitions
from skygraft.errors import CatalogError
from skygraft.exposure import DataId, VisitInfo
from skygraft.generation.groups import LARGEST_ID, binaries, place_groups
from skygraft.injection import inject
from skygraft.psf import GaussianPSF
from skygraft.skymap import get_skymap
from skygraft.testing import make_exposure
from skygraft.wcs import read_fits_wcs

QUAD = {
    "source_type": ["Sersic", "Star", "Star", "Star"],
    "offset_east": [0.0, 1.2, -0.7, 0.5],
    "offset_north": [0.0, -0.4, 1.05, 1.1],
    "n": [4.0, np.nan, np.nan, np.nan],
    "half_light_radius": [1.0, np.nan, np.nan, np.nan],
    "q": [0.5, 1.0, 1.0, 1.0],
    "pa": [20.0, 0.0, 0.0, 0.0],
    "mag_r": [19.0, 20.0, 20.5, 21.0],
    "object_id": [-1, 3, 3, 3],
}


def sky(table: QTable) -> SkyCoord:
    return SkyCoord(table["ra"], table["dec"])


def tan_wcs(ra: float, dec: float, rotation: float) -> WCS:
    """Whose world coordinates are those at offsets in a tangent plane that is turned, arcsec for pixels."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [ra, dec], [1.0, 1.0]
    # The group's own East and North, which are turned from North towards East.
    s, c = np.sin(np.radians(rotation)), np.cos(np.radians(rotation))
    wcs.wcs.cd = np.array([[c, s], [-s, c]]) / 3600
    return wcs


@pytest.mark.parametrize("place", [(150.0, 2.0), (0.0, -45.0), (359.9999, 0.0), (77.0, 89.99), (10.0, -90.0)])
@pytest.mark.parametrize("rotation", [0.0, 37.0])
def test_offsets_in_the_tangent_plane_are_those_of_wcslib_over_degrees(place, rotation):
    rng = np.random.default_rng(3)
    east, north = rng.uniform(-2.0, 2.0, (2, 40)) * 3600
    members = {"source_type": ["Star"] * 40, "offset_east": east, "offset_north": north, "mag_r": np.full(40, 20.0)}
    table = place_groups(members, {"ra": [place[0]], "dec": [place[1]], "rotation": [rotation]})
    ra, dec = tan_wcs(*place, rotation).wcs_pix2world(east, north, 0)
    assert SkyCoord(ra, dec, unit="deg").separation(sky(table)).arcsec.max() < 1e-4
    assert ((table["ra"].value >= 0) & (table["ra"].value < 360)).all()


def test_separations_are_arcs_and_scale_with_the_group():
    members = {"source_type": ["Star"] * 3, "separation": [0.0, 10.0, 7200.0], "separation_pa": [0.0, 90.0, 200.0],
               "mag_r": [20.0] * 3}  # fmt: skip
    places = {"ra": [10.0, 300.0], "dec": [60.0, -80.0], "rotation": [30.0, 0.0], "scale": [2.0, 0.5]}
    table = place_groups(members, places)
    for k, (turn, scale) in enumerate(((30.0, 2.0), (0.0, 0.5))):
        centre, found = SkyCoord(places["ra"][k], places["dec"][k], unit="deg"), sky(table[3 * k : 3 * k + 3])
        assert centre.separation(found).arcsec == pytest.approx(np.array([0.0, 10.0, 7200.0]) * scale, abs=1e-5)
        assert centre.position_angle(found).deg[1:] == pytest.approx(np.array([90.0, 200.0]) + turn, abs=1e-5)
    assert table["ra"][0].value == 10.0 and table["dec"][0].value == 60.0, "to the last digit where nothing moves"


def test_angles_sizes_and_motions_turn_and_scale_with_the_group():
    members = {
        "source_type": ["Sersic", "BulgeDisk", "Trail"], "pa": [10.0, 0.0, 0.0], "bulge_pa": [0.0, 20.0, 0.0],
        "disk_pa": [0.0, 30.0, 0.0], "trail_pa": [0.0, 0.0, 40.0], "shear": [0.1, 0.0, 0.0],
        "shear_pa": [50.0, 0.0, 0.0], "n": [1.0, np.nan, np.nan], "half_light_radius": [1.0, np.nan, np.nan],
        "bulge_fraction": [np.nan, 0.5, np.nan], "bulge_half_light_radius": [np.nan, 1.0, np.nan],
        "disk_half_light_radius": [np.nan, 2.0, np.nan], "trail_length": [np.nan, np.nan, 3.0],
        "pm_ra_cosdec": [100.0, 0.0, 0.0], "epoch_mjd": [60000.0] * 3, "mag_r": [20.0] * 3,
    }  # fmt: skip
    table = place_groups(members, {"ra": [10.0], "dec": [0.0], "rotation": [30.0], "scale": [2.0]})
    assert [table["pa"][0].value, table["shear_pa"][0].value, table["trail_pa"][2].value] == [40.0, 80.0, 70.0]
    assert [table["bulge_pa"][1].value, table["disk_pa"][1].value] == [50.0, 60.0]
    assert table["half_light_radius"][0].value == 2.0 and table["trail_length"][2].value == 6.0
    # To the East, turned from North towards East: to the South of East.
    assert table["pm_ra_cosdec"][0].value == pytest.approx(100 * np.cos(np.radians(30)))
    assert table["pm_dec"][0].value == pytest.approx(-50.0)


def test_near_a_pole_a_galaxy_points_where_it_did_in_the_tangent_plane():
    """North at the member differs from that at the place by degrees; the ends of the galaxy say what is right."""
    east, north, pa, step = 1000.0, 500.0, 25.0, 1.0
    members = {"source_type": ["Sersic"], "offset_east": [east], "offset_north": [north], "pa": [pa], "n": [1.0],
               "half_light_radius": [1.0], "q": [0.5], "mag_r": [20.0]}  # fmt: skip
    place = (200.0, 89.9)
    table = place_groups(members, {"ra": [place[0]], "dec": [place[1]]})
    s, c = np.sin(np.radians(pa)), np.cos(np.radians(pa))
    ra, dec = tan_wcs(*place, 0.0).wcs_pix2world(
        [east - step * s, east + step * s], [north - step * c, north + step * c], 0
    )
    ends = SkyCoord(ra, dec, unit="deg")
    turned = sky(table)[0].position_angle(ends[1]).deg
    assert abs((table["pa"][0].value - turned + 180) % 360 - 180) < 2e-3
    assert abs((table["pa"][0].value - pa + 180) % 360 - 180) > 5


def test_ids_objects_and_hosts_are_numbered_by_the_group():
    members = QUAD | {"injection_id": [1, 2, 3, 4], "host_id": [77, 1, 1, -1]}
    places = {"ra": [10.0, 20.0], "dec": [0.0, 0.0], "group_id": [5, 2]}
    table = place_groups(members, places, first_id=1000)
    assert list(table["injection_id"]) == [1020, 1021, 1022, 1023, 1008, 1009, 1010, 1011]
    assert list(table["group_id"]) == [5] * 4 + [2] * 4
    assert list(table["object_id"]) == [-1, 1021, 1021, 1021, -1, 1009, 1009, 1009]
    assert list(table["host_id"]) == [77, 1020, 1020, -1, 77, 1008, 1008, -1]
    swapped = place_groups(members, {name: column[::-1] for name, column in places.items()}, first_id=1000)
    order = np.argsort(swapped["injection_id"]), np.argsort(table["injection_id"])
    for name in table.colnames:
        a, b = swapped[name][order[0]], table[name][order[1]]
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), name


def test_places_give_light_curves_magnitudes_and_times_to_their_members():
    members = QUAD | {"light_curve": ["", "*", "*", "*"], "time_delay": [0.0, 0.0, 8.5, 12.9]}
    places = {"ra": [10.0, 20.0], "dec": [0.0, 0.0], "light_curve": ["sn1", "sn2"],
              "light_curve_mjd": [60000.0, 60100.0], "mag_offset": [0.0, 1.5]}  # fmt: skip
    table = place_groups(members, places)
    assert list(table["light_curve"]) == ["", "sn1", "sn1", "sn1", "", "sn2", "sn2", "sn2"]
    assert list(table["light_curve_mjd"].value) == [60000.0] * 4 + [60100.0] * 4
    assert list(table["mag_r"].value[4:]) == [20.5, 21.5, 22.0, 22.5]
    few = {"source_type": ["Star", "Star"], "offset_east": [0.0, 1.0], "mag_offset": [0.0, 2.0]}
    table = place_groups(few, {"ra": [10.0], "dec": [0.0], "mag_g": [18.0], "mag_r": [17.0]})
    assert list(table["mag_g"].value) == [18.0, 20.0] and list(table["mag_r"].value) == [17.0, 19.0]


PLACE = {"ra": [10.0], "dec": [0.0]}
STAMP = {"source_type": ["Stamp"], "stamp": ["/some/arc.fits"], "mag_r": [20.0]}


@pytest.mark.parametrize(
    ("members", "places", "options", "said"),
    [
        (QUAD, {"ra": [10.0]}, {}, "no dec"),
        (QUAD, {"ra": [-1.0], "dec": [0.0]}, {}, "not within 0 to 360"),
        (QUAD, {"ra": [np.nan], "dec": [0.0]}, {}, "not within 0 to 360"),
        (QUAD, PLACE | {"rotation": [np.nan]}, {}, "rotation"),
        (QUAD, PLACE | {"scale": [0.0]}, {}, "not positive"),
        (QUAD, PLACE | {"colour": [1.0]}, {}, "'colour'"),
        (QUAD, PLACE | {"pa": [1.0]}, {}, "members' to have"),
        (QUAD, PLACE | {"mag_r": [1.0]}, {}, "mag_offset"),
        (QUAD | {"mag_offset": [0.0] * 4}, PLACE, {}, "no magnitudes"),
        (QUAD | {"light_curve": ["*"] * 4}, PLACE, {}, "light_curve"),
        (QUAD | {"separation": [1.0] * 4}, PLACE, {}, "both offset_east and separation"),
        (QUAD | {"offset_east": [np.nan] * 4}, PLACE, {}, "not finite"),
        ({"source_type": ["Star"], "ra": [1.0], "dec": [2.0]}, PLACE, {}, "no offsets"),
        ({"ra": [1.0]}, PLACE, {}, "source_type"),
        (QUAD, {"ra": [10.0, 11.0], "dec": [0.0, 0.0], "group_id": [4, 4]}, {}, "same group_id: 4"),
        (QUAD, PLACE | {"group_id": [-2]}, {}, "0 or more"),
        (QUAD, PLACE, {"first_id": LARGEST_ID - 2}, "9223372036854775808"),
        (QUAD, PLACE | {"group_id": [LARGEST_ID // 4 + 1]}, {}, "64 bits"),
        (QUAD, PLACE, {"first_id": -1}, "first_id"),
        (STAMP, PLACE | {"scale": [2.0]}, {}, "cannot be scaled"),
        (STAMP | {"stamp_alignment": ["pixel"]}, PLACE | {"rotation": [2.0]}, {}, "cannot be turned"),
    ],
)
def test_what_cannot_be_placed_is_said(members, places, options, said):
    with pytest.raises(CatalogError, match=said):
        place_groups(members, places, **options)


def test_the_largest_ids_fit():
    table = place_groups(QUAD, PLACE, first_id=LARGEST_ID - 3)
    assert table["injection_id"].max() == LARGEST_ID


@pytest.mark.parametrize(("rotation", "mirrored"), [(0.0, False), (0.0, True), (123.0, False), (250.0, True)])
def test_separations_hold_in_every_visit_by_truth_and_by_pixels(rotation, mirrored):
    """To 0.01 pixel, on images with other centres, rotators and parities, measured on what was drawn."""
    members = {"source_type": ["Star"] * 3, "offset_east": [0.0, 4.0, -3.0], "offset_north": [0.0, 2.0, 5.0],
               "mag_r": [18.0, 18.5, 19.0]}  # fmt: skip
    table = place_groups(members, {"ra": [359.9999], "dec": [-60.0], "rotation": [75.0]})
    centre = SkyCoord(359.9999, -60.0, unit="deg").spherical_offsets_by(9 * u.arcsec, -6 * u.arcsec)
    visit = make_exposure(
        (128, 128), psf=GaussianPSF(fwhm=3.0), center=(centre.ra.deg, centre.dec.deg), rotation=rotation,
        mirrored=mirrored, gain=None, data_id=DataId(visit=int(rotation), detector=1, band="r"),
        visit_info=VisitInfo(mjd=60000.0 + rotation, exposure_time=30.0),
    )  # fmt: skip
    done = inject(visit, table, noise=False)
    x, y = done.truth["x"], done.truth["y"]
    # Where SkyCoord says that they are, by the offset frame of the group's place.
    frame = SkyOffsetFrame(origin=SkyCoord(359.9999, -60.0, unit="deg"))
    east, north = np.array(members["offset_east"]), np.array(members["offset_north"])
    turned = np.arctan2(east, north) + np.radians(75.0)
    size = np.arctan(np.hypot(east, north) * u.arcsec.to(u.rad)) * u.rad
    places = SkyCoord(0 * u.deg, 0 * u.deg, frame=frame).directional_offset_by(turned * u.rad, size).icrs
    expected = visit.wcs.world_to_pixel_values(places.ra.deg, places.dec.deg)
    assert np.hypot(x - expected[0], y - expected[1]).max() < 1e-4
    image = done.exposure.planes["image"].values.astype(float)
    rows, columns = np.indices(image.shape)
    for k in range(3):
        near = np.hypot(columns - x[k], rows - y[k]) < 7
        weight = image[near] / image[near].sum()
        assert np.hypot((columns[near] * weight).sum() - x[k], (rows[near] * weight).sum() - y[k]) < 0.01


def test_a_group_on_the_border_of_patches_is_whole_on_each_image(tmp_path):
    """Each member is in one partition, and in what an image over the border reads once."""
    skymap = get_skymap("hsc_rings_v1")
    corner = skymap.patch_polygon(9813, 40)[0]
    members = {"source_type": ["Star"] * 4, "offset_east": [-2.0, 2.0, -2.0, 2.0],
               "offset_north": [-2.0, -2.0, 2.0, 2.0], "mag_r": [20.0] * 4}  # fmt: skip
    table = place_groups(members, {"ra": [corner[0]], "dec": [corner[1]]})
    done = partition_catalog(table, skymap, tmp_path / "parts")
    assert done.n_rows == 4
    parts = list_partitions(tmp_path / "parts")
    assert len(parts) > 1, "the border does not cut the group"
    read = read_partitions(tmp_path / "parts", list(parts))
    assert sorted(read["injection_id"]) == [0, 1, 2, 3] and len(set(read["group_id"])) == 1
    header = plain_header(corner[0], corner[1], 128, **{"MJD-AVG": None, "TIMESYS": None})
    image = make_exposure((128, 128), wcs=read_fits_wcs(header), gain=None)
    truth = inject(image, read, noise=False).truth
    assert len(truth) == 4 and (truth["flags"] == 0).all()
    expected = WCS(fits.Header(header)).all_world2pix(table["ra"].value, table["dec"].value, 0)
    assert np.allclose([truth["x"], truth["y"]], expected, atol=1e-3)


def test_binaries_have_companions_at_their_separations():
    primaries = {
        "injection_id": [0, 1, 2],
        "ra": [10.0, 0.00001, 50.0],
        "dec": [80.0, 0.0, -90.0],
        "source_type": ["Star"] * 3,
        "mag_g": [18.0, 19.0, 20.0],
        "mag_r": [17.0, 18.0, 19.0],
    }
    apart, angle = np.array([0.5, 1.0, 2.0]), np.array([10.0, 280.0, 30.0])
    both = binaries(primaries, separation=apart, pa=angle, mag_difference={"g": 2.0, "r": [1.0, 1.5, 0.0]}, first_id=10)
    assert list(both["injection_id"]) == [0, 1, 2, 10, 11, 12] and list(both["group_id"]) == [0, 1, 2] * 2
    one, two = sky(both[:3]), sky(both[3:])
    assert one.separation(two).arcsec == pytest.approx(apart, abs=1e-5)
    assert one.position_angle(two).deg[:2] == pytest.approx(angle[:2], abs=1e-3)
    assert list(both["mag_g"].value[3:]) == [20.0, 21.0, 22.0] and list(both["mag_r"].value[3:]) == [18.0, 19.5, 19.0]
    with pytest.raises(CatalogError, match="differ in bands: g"):
        binaries(primaries, separation=1.0, pa=0.0, mag_difference={"r": 1.0}, first_id=10)
    with pytest.raises(CatalogError, match="occur twice"):
        binaries(primaries, separation=1.0, pa=0.0, mag_difference=1.0, first_id=2)
