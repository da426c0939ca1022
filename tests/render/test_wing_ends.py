"""Wings that end where it can be seen: every pixel on the right side of the end, on an image's edges too."""

from __future__ import annotations

import numpy as np
import pytest

from skygraft.errors import PsfError
from skygraft.psf import DrawnPSF
from skygraft.psf.wings import MoffatWing, PowerLawWing, TableWing, Wings
from skygraft.render import Canvas
from skygraft.render.wing_painter import WingPainter

WINGS = Wings(PowerLawWing(2.6), 20.0, 7.0, 400.0)


@pytest.mark.parametrize(
    ("reach", "at", "shape"),
    [
        (90.0, (120.3, 131.8), (257, 250)),
        (170.0, (200.5, 199.5), (403, 401)),
        (90.0, (30.2, 246.9), (257, 250)),  # cut by two edges
        (25.0, (60.1, 50.7), (120, 110)),  # where cells cannot stand for their pixels
    ],
)
def test_pixels_at_a_sharp_end_are_the_profiles(reach, at, shape):
    corner = (37, -11)
    canvas = Canvas.empty(shape, corner)
    x, y = np.array([at[0] + corner[0]]), np.array([at[1] + corner[1]])
    painter = WingPainter(canvas, WINGS)
    many = np.full(1, 3.0), np.full(1, reach), np.zeros(1, np.int64)
    deposited, clipped = painter.add(x, y, *many)
    painter.finish()
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    r = np.hypot(rows - at[1], columns - at[0])
    expected = np.where(r <= reach, 3.0 * WINGS.light(r), 0.0)
    sure = np.abs(r - reach) > 1e-4
    lit = sure & (expected > 0) & (r > 20)
    assert np.abs(canvas.model[lit] / expected[lit] - 1).max() < 1e-2
    assert (canvas.model[sure & (r > reach)] == 0).all()
    total = canvas.model.sum(dtype=float)
    assert total == pytest.approx(expected.sum(), rel=3e-3)
    if clipped[0]:
        assert deposited[0] == pytest.approx(total, rel=1e-5)


def test_wherever_a_source_and_the_canvas_are_each_pixel_is_the_profiles():
    rng = np.random.default_rng(5)
    radii = np.geomspace(3.0, 500.0, 30)
    waves = tuple(radii**-2.5 * (1 + 0.3 * np.sin(2 * np.log(radii))))
    shapes = WINGS, Wings(MoffatWing(2.2, 6.0), 15.0, 5.0), Wings(TableWing(tuple(radii), waves), 12.0, 5.0, 300.0)
    for k in range(120):
        wings = shapes[k % 3]
        reach = float((rng.uniform(1, 60), rng.uniform(20, 140), 130.0)[k // 3 % 3])
        shape, corner = rng.integers(20, 250, 2), rng.integers(-100, 100, 2)
        x, y = rng.uniform(-90, shape[::-1] + 90) + corner
        if k % 4 == 0:  # on pixels, where distances are equal
            x, y = np.round(x), np.round(y)
        canvas = Canvas.empty((int(shape[0]), int(shape[1])), (int(corner[0]), int(corner[1])))
        painter = WingPainter(canvas, wings)
        deposited, clipped = painter.add(*np.array([[x], [y], [3.0], [reach]]), np.zeros(1, np.int64))
        painter.finish()
        rows, columns = np.indices(canvas.model.shape)
        r = np.hypot(rows + corner[1] - y, columns + corner[0] - x)
        expected = np.where(r <= reach, 3.0 * wings.light(r), 0.0)
        sure = np.abs(r - reach) > 2e-4
        assert not canvas.model[sure & (r > reach)].any()
        lit = sure & (r <= reach)
        error = np.abs(canvas.model - expected)[lit] / (3.0 * wings.profile(np.maximum(r[lit], wings.join)))
        assert error.max(initial=0.0) < 8.5e-3
        if clipped[0]:
            assert deposited[0] == pytest.approx(canvas.model.sum(dtype=float), rel=1e-4, abs=1e-6)


def test_stars_that_end_in_the_same_cells_add_up():
    at = np.array([[120.3, 118.9], [131.8, 130.2]])
    models = []
    for some in ([0], [1], [0, 1]):
        canvas = Canvas.empty((257, 250), (0, 0))
        painter = WingPainter(canvas, WINGS)
        n = len(some)
        painter.add(*at[:, some], np.ones(n), np.full(n, 90.0), np.zeros(n, np.int64))
        painter.finish()
        models.append(canvas.model.astype(float))
    np.testing.assert_allclose(models[2], models[0] + models[1], rtol=3e-6, atol=1e-9)


def test_kernels_of_another_library_have_one_shape():
    psf = DrawnPSF(lambda x, y: np.ones((5, 5 if x < 10 else 7)), "theirs", average_position=(0.0, 0.0))
    assert psf.kernels([1.0, 2.0], [3.0, 4.0]).shape == (2, 5, 5)
    with pytest.raises(PsfError, match=r"position \(11.0, 4.0\) has shape \(5, 7\), and those before \(5, 5\)"):
        psf.kernels([1.0, 11.0], [3.0, 4.0])
