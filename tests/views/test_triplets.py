"""Pictures of an image before and after injection are drawn without a display, and show what they say."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest
from astropy.table import QTable

from skygraft.demo.picture import composite_figure
from skygraft.errors import ConfigError, OutputError
from skygraft.photometry import PhotoCalib
from skygraft.testing import make_exposure
from skygraft.views import best_cutout, figure_bytes, save_figure, triplet_figure
from skygraft.views.figures import THEMES


@pytest.fixture
def scene():
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
    return before, before.replace(planes=planes), truth


def test_pictures_are_written(scene, tmp_path) -> None:
    before, after, truth = scene
    rng = np.random.default_rng(1)
    closure = QTable(
        {
            "band": np.repeat(["r", "g"], 30),
            "mag_in": rng.uniform(18, 22, 60),
            "residual": 0.01 * rng.standard_normal(60),
            "sigma": np.full(60, 0.01),
            "psf_sum_residual": np.full(60, 0.03),
        }
    )
    figures = {
        "triplet": triplet_figure(before, after, truth, faintest=20),
        "composite": composite_figure(before, after, truth, closure, cutout=(1020, 510, 150, 150), title="a title"),
    }
    for name, figure in figures.items():
        path = save_figure(figure, tmp_path / f"{name}.png", dpi=50)
        pixels = matplotlib.image.imread(path)
        assert pixels.shape[1] > 300 and pixels[..., :3].std() > 0.05
    # Circles only around what is bright enough, on the two panels that show it.
    assert [len(axis.patches) for axis in figures["triplet"].axes] == [0, 1, 1]
    assert [len(axis.patches) for axis in figures["composite"].axes[:3]] == [0, 2, 2]
    assert not any(axis.patches for axis in triplet_figure(before, after).axes)


def test_all_panels_share_one_scale(scene) -> None:
    before, after, truth = scene
    axes = triplet_figure(before, after, truth).axes
    images = [axis.images[0] for axis in axes]
    assert {image.get_clim() for image in images} == {(0, 1)}
    blank = images[2].get_array()
    assert np.unique(blank).size == 2  # the difference is zero but for one pixel
    # The same sky looks the same before and after.
    np.testing.assert_array_equal(images[0].get_array()[100:], images[1].get_array()[100:])


def test_cutout_is_where_the_sources_are(scene) -> None:
    before, _, truth = scene
    x0, y0, width, height = best_cutout(before, truth[:1], 80)
    assert (width, height) == (80, 80)
    assert x0 < 1070 < x0 + 80 and y0 < 540 < y0 + 80
    assert best_cutout(before, truth, 5000) == (1000, 500, 300, 200)


def test_uncalibrated_image_can_be_shown(scene) -> None:
    before, after, truth = scene
    bare = before.replace(photo_calib=PhotoCalib.from_zeropoint(27.0))
    assert len(triplet_figure(bare, after, truth).axes) == 3


@pytest.mark.parametrize("theme", THEMES)
def test_text_stands_out_from_the_page(scene, theme, tmp_path) -> None:
    before, after, truth = scene
    figure = triplet_figure(before, after, truth, title="a title", theme=theme)
    pixels = matplotlib.image.imread(save_figure(figure, tmp_path / "one.png", dpi=60))[..., :3]
    page = np.array([int(THEMES[theme].background[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    np.testing.assert_allclose(pixels[0, 0], page, atol=0.01)
    # The line of the title holds both colours.
    line = pixels[: round(0.34 * 60)].mean(axis=2)
    assert np.ptp(line) > 0.6


def test_a_figure_is_the_same_bytes_each_time(scene) -> None:
    for kind in ("png", "pdf", "svg"):
        first, second = (figure_bytes(triplet_figure(*scene, cutout=(1000, 500, 60, 60)), kind, dpi=40) for _ in "ab")
        assert first == second
        assert first.startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[kind])


def test_what_cannot_be_is_refused(scene, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"no theme 'blue'.*light, dark"):
        triplet_figure(*scene, theme="blue")
    with pytest.raises(OutputError, match="cannot be written"):
        save_figure(triplet_figure(*scene), tmp_path / "no-folder" / "one.png")
    assert not list(tmp_path.iterdir())
