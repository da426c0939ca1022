"""Cut-outs have their fake in the middle, and a grid shows those that were found and missed."""

from __future__ import annotations

import matplotlib.colors
import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pytest
from astropy.io import fits
from astropy.table import QTable
from scipy.ndimage import center_of_mass

from kits.recovery_kit import make_recovery
from kits.views_kit import SIZE
from skygraft.campaign import Campaign
from skygraft.errors import CampaignError, ConfigError
from skygraft.views import choose_fakes, cutout_grid, find_scene, found_and_missed_figure, triplet_figure
from skygraft.views.cutouts import cut_square
from skygraft.views.figures import FOUND_COLOR, MISSED_COLOR, STAR_COLOR
from skygraft.views.places import rows_of_source


def test_a_square_is_cut_around_the_pixel_of_the_position() -> None:
    pixels = np.arange(48.0).reshape(6, 8)
    np.testing.assert_array_equal(cut_square(pixels, 3.4, 2.49, 3), pixels[1:4, 2:5])
    corner = cut_square(pixels, 7.0, 5.4, 3)
    np.testing.assert_array_equal(corner[:2, :2], pixels[4:6, 6:8])
    assert np.isnan(corner[2]).all() and np.isnan(corner[:, 2]).all()
    assert np.isnan(cut_square(pixels, 50.0, -20.0, 5)).all()


def test_the_star_is_in_the_middle_of_its_cutout(campaign, made) -> None:
    """Of the difference of the files themselves, read by astropy."""
    for row in rows_of_source(campaign, 5).to_pylist():
        scene = find_scene(campaign, injection_id=5, image_id=row["image_id"], size=5.0)
        band = row["band"]
        before, after = (fits.getdata(folder / f"raw/{band}.fits").astype(float)
                         for folder in (made.parent, campaign.layout.images))  # fmt: skip
        x0, y0, width, height = scene.cutout
        assert width == height == 25
        part = np.clip((after - before)[y0 : y0 + height, x0 : x0 + width], 0, None)
        y, x = center_of_mass(part)
        assert abs(x - 12) < 0.5 and abs(y - 12) < 0.5
        # And so it is on the picture: the brightest pixel of the difference.
        shown = triplet_figure(scene.before, scene.after, scene.truth, cutout=scene.cutout).axes[2].images[0]
        peak = np.unravel_index(np.argmax(shown.get_array()), (25, 25))
        assert max(abs(peak[0] - 12), abs(peak[1] - 12)) <= 1
        left, right, low, high = shown.get_extent()
        assert (left + right) / 2 == pytest.approx(row["x"], abs=0.5)
        assert (low + high) / 2 == pytest.approx(row["y"], abs=0.5)


def test_places_near_an_edge_are_trimmed(campaign) -> None:
    from skygraft.views.scenes import square_around

    scene = find_scene(campaign, image_id="testcam-502-2", whole=True)
    assert scene.cutout == (0, 0, SIZE, SIZE)
    assert square_around(scene.before, (1.0, 100.0), 5.0) == (0, 88, 14, 25)
    with pytest.raises(ConfigError, match=r"position \(-5\.0, 100\.0\) is not on the image"):
        square_around(scene.before, (-5.0, 100.0), 5.0)


def test_scenes_that_cannot_be(campaign) -> None:
    with pytest.raises(ConfigError, match="both given"):
        find_scene(campaign, at=(150.1, 2.2), injection_id=5)
    with pytest.raises(CampaignError, match="testcam-502-2 does not show the source 5"):
        find_scene(campaign, image_id="testcam-502-2", injection_id=5)
    with pytest.raises(CampaignError, match=r"testcam-502-2 does not show the place.*testcam-501-1"):
        find_scene(campaign, image_id="testcam-502-2", at=(150.1, 2.2))
    with pytest.raises(ConfigError, match="size is -1"):
        find_scene(campaign, at=(150.1, 2.2), size=-1)


def test_a_grid_shows_the_pixels_of_the_image(campaign) -> None:
    rows = choose_fakes(campaign, 3, order="bright", where=pc.field("band") == "r")
    assert rows["injection_id"].to_pylist() == [5, 10, 2]
    figure = cutout_grid(campaign, rows, panels="triplet", size=4.0, columns=2, title="three")
    assert len(figure.axes) == 9
    for k, row in enumerate(rows.to_pylist()):
        file = "far" if row["image_id"].endswith("-2") else "r"
        after = fits.getdata(campaign.layout.images / f"raw/{file}.fits")
        x, y = round(row["x"]), round(row["y"])
        expected = after[y - 10 : y + 11, x - 10 : x + 11]
        shown = np.asarray(figure.axes[3 * k + 1].images[0].get_array())
        assert shown.shape == (21, 21)
        # The stretch keeps the order of pixels.
        clipped = (shown > 0) & (shown < 1)
        assert np.all(np.diff(shown[clipped][np.argsort(expected[clipped], kind="stable")]) >= 0)
        assert clipped.sum() > 200
        ring = figure.axes[3 * k + 1].patches[0]
        assert np.hypot(ring.center[0] - 10, ring.center[1] - 10) < 0.75
        assert ring.radius == pytest.approx(0.42 * 21)  # the calibration aperture of 12 pixels would not fit
        assert not figure.axes[3 * k].patches
    texts = [text.get_text() for text in figure.texts]
    assert texts[0] == "three" and "r 17.50 Star" in [" ".join(text.split()) for text in texts]


@pytest.mark.parametrize("kind", ["arrow", "pandas", "astropy", "list", "mapping"])
def test_rows_of_any_kind(campaign, kind) -> None:
    rows = choose_fakes(campaign, 2, order="bright")
    given = {
        "arrow": lambda: rows,
        "pandas": lambda: pd.DataFrame(rows.to_pydict()),
        "astropy": lambda: QTable(rows.to_pydict()),
        "list": rows.to_pylist,
        "mapping": rows.to_pydict,
    }[kind]()
    figure = cutout_grid(campaign, given)
    assert [len(figure.axes), len(figure.texts)] == [2, 4]
    assert {matplotlib.colors.to_hex(a.patches[0].get_edgecolor()) for a in figure.axes} == {STAR_COLOR}


def test_a_sample_does_not_depend_on_the_order_of_tables(campaign) -> None:
    first, again = (choose_fakes(campaign, 5, seed=1).to_pylist() for _ in "ab")
    assert first == again
    assert [r["mag"] for r in first] == sorted(r["mag"] for r in first)
    assert choose_fakes(campaign, 5, seed=2).to_pylist() != first
    everything = choose_fakes(campaign, 1000)
    assert all(row in everything.to_pylist() for row in first)
    # Off the image: not among them, though light of it may reach the image.
    x, y = everything["x"].to_numpy(), everything["y"].to_numpy()
    assert ((x > -0.5) & (x < SIZE - 0.5) & (y > -0.5) & (y < SIZE - 0.5)).all()
    faint = choose_fakes(campaign, 2, order="faint", image_id="testcam-501-1")
    assert faint["mag"].to_pylist() == [22.0, 22.5]


def test_found_and_missed_are_shown_apart(copied) -> None:
    campaign = Campaign.from_yaml(copied)
    with pytest.raises(CampaignError, match=r"no recovery tables.*skygraft recover"):
        choose_fakes(campaign, found=True)
    make_recovery(campaign, lambda row: row["mag"] < 20)
    found, missed = (choose_fakes(campaign, 100, found=which) for which in (True, False))
    assert max(found["mag"].to_pylist()) < 20 <= min(missed["mag"].to_pylist())
    assert set(missed["reason"].to_pylist()) == {"below threshold"}
    figure = found_and_missed_figure(campaign, 4, title="small")
    colors = [matplotlib.colors.to_hex(axis.patches[0].get_edgecolor()) for axis in figure.axes]
    assert colors == [FOUND_COLOR] * 4 + [MISSED_COLOR] * 4
    texts = [text.get_text() for text in figure.texts]
    assert (
        "found (4 shown)" in texts
        and "missed (4 shown)" in texts
        and any(t.startswith("below threshold") for t in texts)
    )


def test_a_pair_is_two_panels_and_a_large_galaxy_leaves_the_sky_grey(campaign) -> None:
    rows = choose_fakes(campaign, 2, order="bright")
    figure = cutout_grid(campaign, rows, panels="pair")
    assert len(figure.axes) == 4
    # The same sky before and after, away from the star: about what 0 sigma is drawn as.
    grey = np.arcsinh(2.5 / 3) / (np.arcsinh(2.5 / 3) + np.arcsinh(40 / 3))
    for axis in figure.axes:
        assert np.median(np.asarray(axis.images[0].get_array())[:8]) == pytest.approx(grey, abs=0.04)
    # Of a star that fills the cut-out, half of the pixels are not taken for the sky.
    tight = np.asarray(cutout_grid(campaign, rows, size=2.0).axes[0].images[0].get_array())
    assert np.median(tight) > grey + 0.1


def test_what_a_grid_cannot_show(campaign) -> None:
    rows = choose_fakes(campaign, 2).to_pydict()
    with pytest.raises(ConfigError, match=r"no column x, y; they have image_id.*truth tables"):
        cutout_grid(campaign, {"image_id": rows["image_id"]})
    with pytest.raises(ConfigError, match="no fake to show"):
        cutout_grid(campaign, [])
    with pytest.raises(CampaignError, match="no image 'other'"):
        cutout_grid(campaign, rows | {"image_id": ["other", "other"]})
    with pytest.raises(ConfigError, match="panels is 'both'"):
        cutout_grid(campaign, rows, panels="both")
    with pytest.raises(ConfigError, match="order is 'big'"):
        choose_fakes(campaign, order="big")
