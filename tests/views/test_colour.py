"""Three bands on one grid: places, fluxes and colours are right."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.visualization import make_lupton_rgb
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import center_of_mass

from kits.views_kit import DEC, FAR, RA
from skygraft.errors import CampaignError, ConfigError
from skygraft.views import choose_bands, colour_figure, colour_image
from skygraft.views.colour import best_place
from skygraft.views.resampling import pixel_map, resample, tangent_wcs
from skygraft.wcs import FitsWcs


def test_stars_of_all_bands_fall_on_one_pixel(campaign) -> None:
    """Star 5 is in the middle; the galaxy 2 is 14 arcsec south: of the picture 70 pixels down."""
    colours = colour_image(campaign, RA, DEC, size=34.0)
    assert colours.bands == ("i", "r", "g") and colours.scale == pytest.approx(0.2)
    assert colours.after.shape == (171, 171, 3)
    assert colours.images == {"i": ("testcam-503-1",), "r": ("testcam-502-1",), "g": ("testcam-501-1",)}
    difference = colours.after.astype(float) - colours.before
    for channel in range(3):
        around = difference[75:96, 75:96, channel]
        assert around.max() > 60
        y, x = center_of_mass(np.clip(around, 0, None) ** 2)
        assert abs(x - 10) < 0.5 and abs(y - 10) < 0.5
        south = difference[5:26, 75:96, channel].sum()
        assert south > 20 * abs(difference[40:61, 75:96, channel].sum())
    # Where nothing was injected, both are the same to the last bit.
    np.testing.assert_array_equal(colours.after[35:55, 35:55], colours.before[35:55, 35:55])


def channels(monkeypatch, campaign, **options):
    """What is given to astropy's function, before and after, and its options."""
    calls = []

    def spy(*channels, **options):
        calls.append((np.array(channels), options))
        return make_lupton_rgb(*channels, **options)

    monkeypatch.setattr("astropy.visualization.make_lupton_rgb", spy)
    colour_image(campaign, RA, DEC, **options)
    return calls


def test_channels_are_fluxes_weighted_by_wavelength(campaign, monkeypatch) -> None:
    """All stars have g - r = 0.5 and r - i = 0.2; what is white rises as wavelength^1.5."""
    (before, first), (after, second) = channels(monkeypatch, campaign, size=10.0)
    assert first == second and first["Q"] == 8.0  # one scale for both
    assert np.isfinite(before).all() and np.isfinite(after).all()
    red, green, blue = (after - before).sum(axis=(1, 2))
    # The zeropoint holds for 12 pixels = 2.4 arcsec; nearly all of the star's light is there.
    middle = (0.475 * 0.64 * 0.775) ** (1 / 3)
    assert green == pytest.approx(3.631e12 * 10 ** (-0.4 * 17.5) * (0.64 / middle) ** -1.5, rel=0.05)
    assert red / green == pytest.approx(10 ** (0.4 * 0.2) * (0.775 / 0.64) ** -1.5, rel=0.02)
    assert blue / green == pytest.approx(10 ** (-0.4 * 0.5) * (0.475 / 0.64) ** -1.5, rel=0.02)


def test_green_of_two_bands_is_their_mean(campaign, monkeypatch) -> None:
    for channel, _ in channels(monkeypatch, campaign, size=10.0, bands=["r", "g"]):
        np.testing.assert_allclose(channel[1], (channel[0] + channel[2]) / 2, rtol=1e-5)


def test_bands_in_reverse_exchange_red_and_blue(campaign) -> None:
    one, other = (colour_image(campaign, RA, DEC, size=10.0, bands=list(bands)).after for bands in ("irg", "gri"))
    np.testing.assert_array_equal(one, other[..., ::-1])


def test_what_no_image_shows_is_left_grey(campaign) -> None:
    colours = colour_image(campaign, RA, DEC, size=60.0)
    assert not colours.covered[:10, :10].any() and colours.covered[130:170, 130:170].all()
    assert (colours.after[~colours.covered] == (58, 64, 72)).all()


def test_a_figure_rings_the_fakes(campaign) -> None:
    figure = colour_figure(campaign, RA, DEC, size=34.0, theme="dark")
    rings = [patch.center for patch in figure.axes[1].patches]
    # The nine of the grid, 14 arcsec apart: 70 pixels.
    expected = {(85 + 70 * a, 85 + 70 * b) for a in (-1, 0, 1) for b in (-1, 0, 1)}
    # The image of band i, which is turned by 40 degrees, does not reach the upper right corner.
    assert {(round(x), round(y)) for x, y in rings} == expected - {(155, 155)}
    assert not figure.axes[0].patches
    assert "red i, green r, blue g" in figure.texts[0].get_text()


def test_the_place_by_default_shows_all_bands(campaign) -> None:
    ra, dec = best_place(campaign, size=10.0)
    assert colour_image(campaign, ra, dec, size=10.0).covered.all()
    assert abs(dec - DEC) < 20 / 3600


@pytest.mark.parametrize(
    ("there", "wanted", "chosen"),
    [
        ("grizy", None, "irg"),
        (["u", "g", "r"], None, "rgu"),
        (["J", "H", "Ks", "Y"], None, ["Ks", "J", "Y"]),
        ("gr", None, "rg"),
        (["F1", "F2", "F3"], ["F3", "F2", "F1"], ["F3", "F2", "F1"]),
    ],
)
def test_bands_go_from_red_to_blue(there, wanted, chosen) -> None:
    assert choose_bands(list(there), wanted) == tuple(chosen)


@pytest.mark.parametrize(
    ("there", "wanted", "said"),
    [
        ("r", None, "two or three bands; the images of the place are of r"),
        ("", None, "are of none"),
        ("gr", ["i", "r", "g"], "no image of band i shows the place; those there are of g, r"),
        ("gri", ["r"], "1 bands are given"),
        ("gri", ["r", "r"], "2 bands are given"),
        (["F1", "F2"], None, "redder is not known of bands F1, F2"),
    ],
)
def test_bands_that_make_no_colour(there, wanted, said) -> None:
    with pytest.raises(ConfigError, match=said):
        choose_bands(list(there), wanted)


def test_places_that_make_no_colour(campaign) -> None:
    with pytest.raises(ConfigError, match="the images of the place are of r"):
        colour_image(campaign, *FAR)
    with pytest.raises(CampaignError, match="nearest is"):
        colour_image(campaign, 10.0, 10.0)
    with pytest.raises(ConfigError, match=r"picture of 10000 arcsec has 50001 pixels"):
        colour_image(campaign, RA, DEC, size=1e4)


def gaussian(x, y, at, sigma=3.0):
    return 1000 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * sigma**2))


@settings(max_examples=15, deadline=None)
@given(st.floats(-180, 180), st.floats(0.85, 1.6), st.sampled_from(["linear", "cubic"]), st.booleans())
def test_resampling_keeps_place_and_sum(angle, scale, interpolation, mirror) -> None:
    """A Gaussian at a place on the sky, drawn on a rotated, scaled, perhaps mirrored grid."""
    step = 0.2 * scale / 3600
    c, s = step * np.cos(np.radians(angle)), step * np.sin(np.radians(angle))
    flip = -1 if mirror else 1
    source = FitsWcs.tan(RA, DEC, crpix=(80.0, 70.0), cd=[[-c * flip, s], [s * flip, c]])
    y, x = np.mgrid[:150, :170]
    pixels = gaussian(x, y, (83.3, 66.6)).astype(np.float32)
    target = tangent_wcs(RA, DEC, 0.2, 101)
    where = pixel_map(target, (0, 0), (101, 101), source)
    found = resample(pixels, (0, 0), where, interpolation=interpolation)
    expected = np.array(target.world_to_pixel_values(*source.pixel_to_world_values(83.3, 66.6)))
    good = np.nan_to_num(found)
    np.testing.assert_allclose(center_of_mass(good)[::-1], expected, atol=0.02)
    # Sampled more coarsely than the image, sums of interpolated pixels beat.
    assert good.sum() == pytest.approx(pixels.sum(), rel=1e-2 if interpolation == "linear" else 3e-3)


def test_the_same_grid_gives_the_same_pixels_and_bad_ones_stay_bad() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(90, 70)).astype(np.float32)
    pixels[20, 30] = np.nan
    wcs = tangent_wcs(RA, DEC, 0.2, 70)
    for interpolation in ("linear", "cubic"):
        where = pixel_map(wcs, (5, 7), (90, 70), wcs)
        found = resample(pixels, (5, 7), where, interpolation=interpolation)
        np.testing.assert_allclose(found, pixels, atol=1e-5)
    with pytest.raises(ConfigError, match="'nearest'"):
        resample(pixels, (0, 0), where, interpolation="nearest")


def test_positions_between_nodes_follow_a_distorted_wcs() -> None:
    """Against astropy's own evaluation at every pixel, of a WCS with SIP polynomials."""
    header = {
        "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "CRVAL1": RA, "CRVAL2": DEC, "CRPIX1": 500.0,
        "CRPIX2": 500.0, "CD1_1": -5e-5, "CD1_2": 1e-5, "CD2_1": 1e-5, "CD2_2": 5e-5, "A_ORDER": 3, "B_ORDER": 3,
        "A_2_0": 1e-5, "A_0_3": 2e-9, "B_1_1": -8e-6, "B_3_0": 3e-9, "AP_ORDER": 0, "BP_ORDER": 0,
    }  # fmt: skip
    plain = WCS(header)
    wcs = FitsWcs(header)
    target = tangent_wcs(RA, DEC, 0.18, 601)
    x, y, area = pixel_map(target, (0, 0), (601, 601), wcs)
    columns, rows = np.meshgrid(np.arange(601), np.arange(601))
    expected = plain.all_world2pix(*target.pixel_to_world_values(columns, rows), 0, tolerance=1e-8)
    assert np.hypot(x - expected[0], y - expected[1]).max() < 1e-3
    (a, b), (c, d) = np.gradient(expected[0]), np.gradient(expected[1])
    inner = np.s_[5:-5, 5:-5]
    np.testing.assert_allclose(area[inner], np.abs(a * d - b * c)[inner], rtol=1e-4)


def test_a_grid_that_is_partly_not_on_the_plane() -> None:
    """A TAN image knows no sky 90 degrees away: those pixels are empty, the others right."""
    source = FitsWcs.tan(RA, DEC, crpix=(50.0, 50.0), cd=[[-0.5, 0.0], [0.0, 0.5]])
    target = FitsWcs(
        {"CTYPE1": "RA---CAR", "CTYPE2": "DEC--CAR", "CRVAL1": RA, "CRVAL2": 0.0, "CRPIX1": 61.0, "CRPIX2": 31.0,
         "CD1_1": -3.0, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 3.0}
    )  # fmt: skip
    x, y, _ = pixel_map(target, (0, 0), (61, 121), source)
    assert np.isnan(x[30, 0]) and np.isfinite(x[30, 60])
    expected = source.world_to_pixel_values(*target.pixel_to_world_values(60, 30))
    np.testing.assert_allclose((x[30, 60], y[30, 60]), expected)
    found = resample(np.ones((100, 100), np.float32), (0, 0), (x, y, np.ones_like(x)))
    assert np.isnan(found[30, 0]) and found[30, 60] == 1
