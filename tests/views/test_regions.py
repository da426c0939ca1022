"""Region files say where fakes are, of what shape and magnitude, to an independent parser (the package regions)."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from regions import CircleSkyRegion, EllipseSkyRegion, LineSkyRegion, Regions

from kits.views_kit import make_catalog
from skygraft.campaign import Campaign
from skygraft.errors import CampaignError, ConfigError
from skygraft.views import region_text
from skygraft.views.places import image_by_id
from skygraft.views.regions import truth_regions


def by_id(text: str) -> dict[int, object]:
    return {int(region.meta["text"].split()[0]): region for region in Regions.parse(text, format="ds9")}


@pytest.mark.parametrize("frame", ["icrs", "fk5"])
def test_regions_are_where_the_truth_is(campaign, frame) -> None:
    regions = by_id(region_text(campaign, frame=frame))
    catalog = make_catalog()
    assert sorted(regions) == list(range(1, 13))
    for row in catalog:
        region = regions[row["injection_id"]]
        assert region.center.frame.name == frame
        there = SkyCoord(row["ra"], row["dec"], unit="deg")
        assert there.separation(region.center.icrs) < 0.001 * u.arcsec
        kind, name, *mags = region.meta["text"].split()
        assert (int(kind), name) == (row["injection_id"], row["source_type"])
        # The far stars are on an image of r only.
        bands = ("g", "i", "r") if row["injection_id"] <= 9 else ("r",)
        assert mags == [f"{band}={row[f'mag_{band}']:.2f}" for band in bands]
        assert region.meta["tag"] == [row["source_type"]]


def test_a_star_is_a_circle_of_the_seeing_and_a_galaxy_its_ellipse(campaign) -> None:
    regions = by_id(region_text(campaign))
    star, galaxy = regions[5], regions[2]
    assert isinstance(star, CircleSkyRegion)
    assert star.radius.to_value(u.arcsec) == pytest.approx(0.8, rel=0.05)
    assert isinstance(galaxy, EllipseSkyRegion)
    # 0.8 arcsec circularised and q = 0.5: a = 0.8 / sqrt(0.5).
    assert galaxy.width.to_value(u.arcsec) == pytest.approx(2 * 0.8 / np.sqrt(0.5), rel=1e-3)
    assert galaxy.height.to_value(u.arcsec) == pytest.approx(2 * 0.8 * np.sqrt(0.5), rel=1e-3)


def test_the_ellipse_lies_along_the_position_angle(campaign) -> None:
    """On pixels with North up and East left: the direction of the ellipse's longest extent, by `regions` itself."""
    from astropy.wcs import WCS

    galaxy = by_id(region_text(campaign))[2]
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [galaxy.center.ra.deg, galaxy.center.dec.deg]
    wcs.wcs.cdelt, wcs.wcs.crpix = [-0.02 / 3600, 0.02 / 3600], [200.5, 200.5]
    mask = galaxy.to_pixel(wcs).to_mask(mode="center").to_image((400, 400))
    y, x = np.nonzero(mask)
    east, north = -(x - x.mean()), y - y.mean()
    _, vectors = np.linalg.eigh(np.cov(east, north))
    along = vectors[:, 1]
    assert np.degrees(np.arctan2(along[0], along[1])) % 180 == pytest.approx(30.0, abs=1.0)


def test_regions_of_one_image(campaign) -> None:
    far = image_by_id(campaign, "testcam-502-2")
    text = region_text(campaign, far)
    assert sorted(by_id(text)) == [10, 11, 12]
    assert "image testcam-502-2" in text and "3 injected sources" in text
    assert "i=" not in text


def row(name, **values):
    first = {"injection_id": name, "ra": 10.0, "dec": 60.0, "source_type": "Star", "band": "r", "mag": 20.0,
             "psf_fwhm": 0.7}  # fmt: skip
    return first | values


def test_movers_variables_trails_and_odd_names() -> None:
    rows = [
        row(1), row(1, ra=10.001), row(1, mag=20.5),
        row(2, source_type="Trail"),
        row(3, source_type="BulgeDisk", mag=float("nan"), psf_fwhm=None),
        row(4, source_type="St}ar\n#", band=None),
        row(5, psf_fwhm=float("nan")),
        row(6, source_type="Trail"),
    ]  # fmt: skip
    shapes = {
        2: {"trail_length": 8.0, "trail_pa": 90.0},
        3: {"disk_half_light_radius": 2.0, "disk_q": 0.25, "disk_pa": 100.0},
    }
    text = "icrs\n" + "\n".join(truth_regions(rows, shapes))
    found = Regions.parse(text, format="ds9")
    assert len(found) == 7
    assert [r.meta["text"] for r in found[:2]] == ["1 Star r=20.00-20.50", "1 Star r=20.00"]
    trail = found[2]
    assert isinstance(trail, LineSkyRegion)
    assert trail.start.separation(trail.end).to_value(u.arcsec) == pytest.approx(8.0, rel=1e-4)
    assert abs(trail.start.position_angle(trail.end).deg - 90) < 0.01
    disk = found[3]
    assert disk.width.to_value(u.arcsec) == pytest.approx(8.0) and disk.angle.to_value(u.deg) == pytest.approx(10.0)
    assert disk.meta["text"] == "3 BulgeDisk"
    assert found[4].meta["text"].split() == ["4", "St", "ar", "#", "mag=20.00"]
    assert found[5].radius.to_value(u.arcsec) == pytest.approx(1.0)
    assert isinstance(found[6], CircleSkyRegion)  # of a length in pixels only the image would know


def test_regions_that_are_refused(copied) -> None:
    campaign = Campaign.from_yaml(copied)
    with pytest.raises(ConfigError, match="frame is 'galactic'"):
        region_text(campaign, frame="galactic")
    # Without the tables of sources, shapes are not known and places are.
    campaign.layout.sources.rename(campaign.layout.root / "gone")
    assert {type(r) for r in by_id(region_text(campaign)).values()} == {CircleSkyRegion}
    campaign.layout.truth.rename(campaign.layout.root / "gone-too")
    with pytest.raises(CampaignError, match="no truth tables"):
        region_text(campaign)
