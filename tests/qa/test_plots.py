"""The pictures are drawn without a display, and show what they say."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest
from astropy.table import QTable

from skygraft.errors import InjectionError
from skygraft.photometry import PhotoCalib
from skygraft.qa.plots import best_cutout, closure_figure, composite_figure, save_figure, triplet_figure
from skygraft.testing import make_exposure


@pytest.fixture
def scene():
    rng = np.random.default_rng(1)
    before = make_exposure((200, 300), noise=True, xy0=(1000, 500))
    planes = before.planes.copy(deep=True)
    planes["image"].values[40, 70] += 5000
    truth = QTable(
        {
            "injection_id": [1, 2],
            "x": [1070.0, 1250.0],
            "y": [540.0, 660.0],
            "source_type": ["Star", "Sersic"],
            "mag": [19.0, 22.0],
            "stamp_size": [41, 81],
        }
    )
    n = 60
    closure = QTable(
        {
            "band": np.repeat(["r", "g"], n // 2),
            "mag_in": rng.uniform(18, 22, n),
            "residual": 0.01 * rng.standard_normal(n),
            "sigma": np.full(n, 0.01),
            "psf_sum_residual": np.full(n, 0.03),
        }
    )
    return before, before.replace(planes=planes), truth, closure


def test_pictures_are_written(scene, tmp_path) -> None:
    before, after, truth, closure = scene
    figures = {
        "triplet": triplet_figure(before, after, truth, faintest=20),
        "closure": closure_figure(closure),
        "composite": composite_figure(before, after, truth, closure, cutout=(1020, 510, 150, 150), title="a title"),
    }
    for name, figure in figures.items():
        path = save_figure(figure, tmp_path / f"{name}.png", dpi=50)
        pixels = matplotlib.image.imread(path)
        assert pixels.shape[1] > 300 and pixels[..., :3].std() > 0.05
    # Circles only around what is bright enough, on the two panels that show it.
    assert [len(axis.patches) for axis in figures["triplet"].axes] == [0, 1, 1]
    assert [len(axis.patches) for axis in figures["composite"].axes[:3]] == [0, 2, 2]


def test_all_panels_share_one_scale(scene) -> None:
    before, after, truth, _ = scene
    axes = triplet_figure(before, after, truth).axes
    images = [axis.images[0] for axis in axes]
    assert {image.get_clim() for image in images} == {(0, 1)}
    blank = images[2].get_array()
    assert np.unique(blank).size == 2  # the difference is zero but for one pixel
    # The same sky looks the same before and after.
    np.testing.assert_array_equal(images[0].get_array()[100:], images[1].get_array()[100:])


def test_bands_are_in_order_and_share_the_axis(scene) -> None:
    axes = closure_figure(scene[3]).axes
    assert [axis.get_title(loc="left")[0] for axis in axes] == ["g", "r"]
    assert axes[0].get_ylim() == axes[1].get_ylim()
    low, high = axes[0].get_ylim()
    assert low < -0.03 and high > 0.03


def test_cutout_is_where_the_sources_are(scene) -> None:
    before, _, truth, _ = scene
    x0, y0, width, height = best_cutout(before, truth[:1], 80)
    assert (width, height) == (80, 80)
    assert x0 < 1070 < x0 + 80 and y0 < 540 < y0 + 80
    assert best_cutout(before, truth, 5000) == (1000, 500, 300, 200)


def test_no_stars_no_closure_picture(scene) -> None:
    with pytest.raises(InjectionError, match="no injected star"):
        closure_figure(scene[3][:0])


def test_uncalibrated_image_can_be_shown(scene) -> None:
    before, after, truth, _ = scene
    bare = before.replace(photo_calib=PhotoCalib.from_zeropoint(27.0))
    assert len(triplet_figure(bare, after, truth).axes) == 3
