"""A map of the sky has East to the left, and everything where it is."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from kits.views_kit import FAR
from skygraft.campaign import Campaign
from skygraft.errors import CampaignError
from skygraft.records.packs import remove_record
from skygraft.views import figure_bytes, sky_axes, sky_map_figure
from skygraft.views import sky as sky_module
from skygraft.views.places import images_at


def outlines(figure: Figure) -> list[int]:
    """Number of outlines of each collection."""
    return [len(c.get_paths()) for c in figure.axes[0].collections if isinstance(c, PolyCollection)]


def test_images_done_or_not_and_fakes(copied) -> None:
    campaign = Campaign.from_yaml(copied)
    figure = sky_map_figure(campaign)
    assert outlines(figure) == [4]
    (image,) = images_at(campaign, *FAR)
    remove_record(campaign.layout.record(image.tract, image.patch, image.stem))
    figure = sky_map_figure(campaign, theme="dark")
    assert outlines(figure) == [1, 3]
    axis = figure.axes[0]
    dots = axis.lines[0].get_xydata()
    assert len(dots) == 9 * 3 + 3
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["1 image not done", "3 images done", "30 fakes on images"]
    # The far image is in the north-east: the upper left.
    gone = axis.collections[0].get_paths()[0].vertices
    rest = np.concatenate([path.vertices for path in axis.collections[1].get_paths()])
    assert gone[:, 0].max() < rest[:, 0].min() and gone[:, 1].min() > rest[:, 1].max()
    # 3.6 arcmin apart in declination: offsets are in arcmin.
    assert gone[:, 1].mean() - rest[:, 1].mean() == pytest.approx(3.0, abs=0.05)
    assert "arcmin" in axis.get_xlabel()


def test_many_fakes_are_a_density(campaign, monkeypatch) -> None:
    monkeypatch.setattr(sky_module, "_DOTS", 5)
    figure = sky_map_figure(campaign)
    cells, images = figure.axes[0].collections
    area = float(np.abs(polygon_area(cells.get_paths()[0].vertices)))
    assert cells.get_array().sum() * area == pytest.approx(30, rel=0.02)  # every row once
    assert len(images.get_paths()) == 4
    assert "arcmin²" in figure.axes[1].get_ylabel()
    assert figure_bytes(figure, dpi=40)[:4] == b"\x89PNG"


def polygon_area(points: np.ndarray) -> float:
    x, y = points[:4].T
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def test_the_whole_sky_is_drawn_with_equal_areas() -> None:
    figure = Figure()
    rng = np.random.default_rng(0)
    sky = sky_axes(figure, "light", rng.uniform(0, 360, 500), np.degrees(np.arcsin(rng.uniform(-1, 1, 500))))
    assert not sky.is_flat
    drawn = sky.draw_cells(np.arange(12 * 64), np.ones(12 * 64), 8)
    areas = [abs(polygon_area(path.vertices)) for path in drawn.get_paths()]
    assert len(areas) > 650  # without those that the edge cuts
    assert np.median(areas) == pytest.approx(4 * np.pi * np.degrees(1) ** 2 / 768, rel=0.02)
    middle = sky.project([sky.center[0] + 1, sky.center[0]], [0.0, 1.0])
    assert middle[0][0] < 0 and abs(middle[1][1] - 1) < 0.01  # East is left, North up
    assert figure_bytes(figure, dpi=30)[:4] == b"\x89PNG"


def test_a_map_across_ra_zero_and_at_the_pole() -> None:
    sky = sky_axes(Figure(), "light", [359.9, 0.1], [10.0, 10.1])
    assert sky.is_flat and sky.center[0] in (pytest.approx(0, abs=1e-3), pytest.approx(360, abs=1e-3))
    assert np.ptp(sky.axis.get_xlim()) < 20  # arcmin
    pole = sky_axes(Figure(), "dark", [0.0, 90.0, 180.0, 270.0], np.full(4, 89.0))
    assert pole.is_flat and abs(pole.center[1]) == pytest.approx(90)
    x, y = pole.project([0.0, 90.0], [89.0, 89.0])
    np.testing.assert_allclose(np.hypot(x, y), np.degrees(np.tan(np.radians(1.0))), rtol=1e-6)


def test_without_tables_the_map_can_be_drawn_without_fakes(copied) -> None:
    campaign = Campaign.from_yaml(copied)
    campaign.layout.truth.rename(campaign.layout.root / "gone")
    with pytest.raises(CampaignError, match="no truth tables"):
        sky_map_figure(campaign)
    assert outlines(sky_map_figure(campaign, fakes=False)) == [4]
