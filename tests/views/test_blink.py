"""A blink has two frames: the image before, and after."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from skygraft.errors import ConfigError
from skygraft.views import blink_bytes, find_scene


@pytest.mark.parametrize("kind", ["gif", "png"])
def test_two_frames_of_the_right_size_with_the_star_on_the_second(campaign, kind) -> None:
    scene = find_scene(campaign, injection_id=5, size=8.0)
    assert scene.cutout[2:] == (41, 41)
    content = blink_bytes(scene, kind, zoom=5, milliseconds=600)
    assert content == blink_bytes(scene, kind, zoom=5, milliseconds=600)
    with Image.open(io.BytesIO(content)) as film:
        assert film.format == kind.upper()
        assert film.n_frames == 2 and film.size == (205, 205)
        frames = []
        for k in range(2):
            film.seek(k)
            assert film.info["duration"] == 600
            frames.append(np.asarray(film.convert("L"), dtype=float))
    first, second = frames
    middle = np.s_[95:110, 95:110]
    assert second[middle].mean() > 140 and first[middle].mean() < 80
    # The lower part, away from stars and labels, is the same sky, with rows upward.
    np.testing.assert_array_equal(first[-20:, :50], second[-20:, :50])
    grey = first[2::5, 2::5]
    image = scene.before.image[scene.part]
    assert np.corrcoef(grey[15:].ravel(), image[::-1][15:].ravel())[0, 1] > 0.9


def test_a_small_part_is_enlarged(campaign) -> None:
    with Image.open(io.BytesIO(blink_bytes(find_scene(campaign, injection_id=5, size=8.0)))) as film:
        assert film.size == (41 * 12, 41 * 12)


def test_blinks_that_are_not_made(campaign) -> None:
    scene = find_scene(campaign, injection_id=5)
    for arguments in ({"format": "mp4"}, {"zoom": 1000}, {"milliseconds": 1}, {"zoom": 0}):
        with pytest.raises(ConfigError, match="animation"):
            blink_bytes(scene, **arguments)
