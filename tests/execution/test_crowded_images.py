"""What a task does with the truth of an image of very many stars, and what the plan thinks that they cost."""

from __future__ import annotations

import numpy as np
from astropy.table import QTable

from skygraft.catalog import Flag
from skygraft.execution.task import _alone, _on_image
from skygraft.planning.patches import _saved_seconds
from skygraft.render.crowded import least_stars
from skygraft.render.star_grid import Tiling


def test_stars_that_stand_alone_are_found():
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 500, (2, 300))
    candidates = rng.permutation(300)[:200]
    distance = np.hypot(x[:, None] - x, y[:, None] - y) + 1e9 * np.eye(300)
    assert _alone(x, y, candidates, 20.0) == [i for i in candidates.tolist() if distance[i].min() >= 20.0]


def test_rows_that_reach_an_image_keep_columns_of_one_value():
    flags = np.array([0, int(Flag.NO_OVERLAP), 0, 0])
    truth = QTable({"x": np.arange(4.0), "image_id": np.broadcast_to(np.array("one"), 4), "flags": flags}, copy=False)
    on = _on_image(truth)
    assert on["x"].tolist() == [0, 2, 3]
    assert on["image_id"].tolist() == ["one"] * 3
    assert not any(np.asarray(on["image_id"]).strides)
    assert _on_image(on) is on
    assert len(_on_image(truth[1:2])) == 0


def test_a_crowd_costs_less_than_its_stars_one_by_one():
    assert _saved_seconds(100_000, 16.8) == 0.0
    assert 180 < _saved_seconds(10_000_000, 16.8) < 190  # of 250 seconds
    for images, kernel in ((1, (25, 25)), (1, (101, 101)), (10, (45, 45)), (40, (45, 45))):
        tiling = Tiling.of((4096, 4096), kernel, images)
        least = least_stars(images, tiling, kernel)
        assert 4096 <= least < 0.2 * tiling.tile**2
    assert Tiling.of((4096, 4096), (1501, 1501)) is None
    assert Tiling.of((4096, 4096), (45, 45), 1000) is None
