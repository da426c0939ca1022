"""Images are found by place, id, source and file; what is not there is named, with what is near."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

from kits.views_kit import DEC, FAR, RA, SIZE
from skygraft.campaign import Campaign
from skygraft.errors import CampaignError, ConfigError, SkyMapError
from skygraft.records.packs import remove_record
from skygraft.records.plan_file import read_plan
from skygraft.views.places import (
    as_campaign,
    done_images,
    image_by_id,
    image_of_file,
    images_at,
    outline_distance,
    rows_of_source,
    separation,
)


def test_images_of_a_place_are_those_whose_pixels_hold_it(campaign, made) -> None:
    rng = np.random.default_rng(2)
    for ra, dec in np.column_stack([RA + rng.uniform(-30, 30, 60) / 3600, DEC + rng.uniform(-30, 30, 60) / 3600]):
        expected = set()
        for image in read_plan(campaign.layout.plan):
            header = fits.getheader(made.parent / image.path)
            del header["MJD-AVG"]
            wcs = WCS(header)
            x, y = wcs.all_world2pix(ra, dec, 0)
            if max(abs(x - (SIZE - 1) / 2), abs(y - (SIZE - 1) / 2)) < SIZE / 2:
                expected.add(image.image_id)
        try:
            found = {image.image_id for image in images_at(campaign, ra, dec)}
        except CampaignError:
            found = set()
        assert found == expected


def test_the_nearest_centre_is_first(campaign) -> None:
    assert [image.band for image in images_at(campaign, RA, DEC)] == ["g", "r", "i"]
    assert [image.image_id for image in images_at(campaign, *FAR)] == ["testcam-502-2"]


def test_a_place_off_every_image_names_the_nearest_and_how_far_it_is(campaign) -> None:
    # 1 arcmin above the upper edge of the far image, which is not rotated.
    place = FAR[0], FAR[1] + (0.1 * SIZE + 60) / 3600
    with pytest.raises(CampaignError, match=r"nearest is testcam-502-2, whose edge is 1\.00 arcmin away"):
        images_at(campaign, *place)
    with pytest.raises(CampaignError, match=r"testcam-502-2, whose edge is 8\d\.\d+ deg away"):
        images_at(campaign, 240.0, -3.0)
    with pytest.raises(SkyMapError, match="dec = 95"):
        images_at(campaign, 10.0, 95.0)


def test_images_that_are_not_done_are_not_shown(copied) -> None:
    campaign = Campaign.from_yaml(copied)
    (image,) = images_at(campaign, *FAR)
    remove_record(campaign.layout.record(image.tract, image.patch, image.stem))
    with pytest.raises(CampaignError, match=r"testcam-502-2.*skygraft run"):
        images_at(campaign, *FAR)
    with pytest.raises(CampaignError, match="the image testcam-502-2 is not done"):
        image_by_id(campaign, "testcam-502-2")
    assert "testcam-502-2" not in {i.image_id for i in done_images(campaign)}
    for other in list(done_images(campaign)):
        remove_record(campaign.layout.record(other.tract, other.patch, other.stem))
    with pytest.raises(CampaignError, match=r"no image of the campaign is done.*skygraft run"):
        done_images(campaign)


def test_images_by_id_and_by_file(campaign, made) -> None:
    image = image_by_id(campaign, "testcam-503-1")
    assert image.band == "i"
    with pytest.raises(CampaignError, match=r"no image 'testcam-503'.*mean 'testcam-503-1'"):
        image_by_id(campaign, "testcam-503")
    found = image_of_file(campaign.layout.images / image.output)
    assert found is not None and found[1].image_id == "testcam-503-1"
    assert image_of_file(made.parent / image.path) is None
    assert as_campaign(campaign.layout.root).config.name == as_campaign(made).config.name == "small"


def test_rows_of_a_source_begin_with_images_that_have_its_centre(campaign) -> None:
    rows = rows_of_source(campaign, "5")
    assert rows["image_id"].to_pylist() == ["testcam-501-1", "testcam-502-1", "testcam-503-1"]
    assert set(rows["injection_id"].to_pylist()) == {5}
    with pytest.raises(CampaignError, match=r"has the source 77; .*1 and 12"):
        rows_of_source(campaign, 77)
    with pytest.raises(ConfigError, match="'first' is not a whole number"):
        rows_of_source(campaign, "first")


def test_without_truth_tables_it_says_what_makes_them(copied) -> None:
    campaign = Campaign.from_yaml(copied)
    campaign.layout.truth.rename(campaign.layout.root / "gone")
    with pytest.raises(CampaignError, match=r"no truth tables.*skygraft run"):
        rows_of_source(campaign, 5)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 360), st.floats(-89, 89), st.floats(0, 360), st.floats(-89, 89))
def test_separation_is_that_of_astropy(ra, dec, ra2, dec2) -> None:
    expected = SkyCoord(ra, dec, unit="deg").separation(SkyCoord(ra2, dec2, unit="deg")).to_value(u.arcsec)
    assert separation(ra, dec, ra2, dec2) == pytest.approx(expected, rel=1e-6, abs=2e-3)


@settings(max_examples=80, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3))
def test_distance_from_an_outline(x, y) -> None:
    """On the equator, of a square 2 arcmin wide around (0, 0)."""
    square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) / 60
    polygon = np.column_stack([square[:, 0] % 360, square[:, 1]])
    found = outline_distance(polygon, (x / 60) % 360, y / 60)
    expected = 60 * np.hypot(max(abs(x) - 1, 0), max(abs(y) - 1, 0))
    assert found == pytest.approx(expected, abs=1e-3)
    if max(abs(x), abs(y)) < 0.999:
        assert Outline(square * 60).contains_point((x, y)) and found == 0
