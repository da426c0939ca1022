"""Matching against brute force, and its laws."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from skygraft.recovery.match import Match, assign, decide, nearest
from skygraft.recovery.table import REASONS

PLACES = st.integers(0, 12).flatmap(lambda n: arrays(float, (n, 2), elements=st.floats(0, 20)))


@settings(max_examples=200, deadline=None)
@given(fakes=PLACES, detections=PLACES, radius=st.floats(0.1, 8.0), seed=st.integers(0, 99))
def test_laws(fakes: np.ndarray, detections: np.ndarray, radius: float, seed: int) -> None:
    flux = np.random.default_rng(seed).uniform(1, 2, len(fakes))
    radii = np.full(len(fakes), radius)
    found = assign(*fakes.T.reshape(2, -1), flux, radii, *detections.T.reshape(2, -1))
    used = found.detection[found.detection >= 0]
    assert len(set(used.tolist())) == len(used), "one detection to one fake"
    for i, k in enumerate(found.detection):
        gap = np.hypot(*(detections - fakes[i]).T) if len(detections) else np.zeros(0)
        if k >= 0:
            assert np.isclose(found.distance[i], gap[k]) and gap[k] <= radius and not found.taken[i]
        else:
            assert np.isnan(found.distance[i])
            assert found.taken[i] == bool((gap <= radius).any())
    # The brightest fake has the detection nearest to it.
    if len(fakes) and len(detections):
        best = int(np.argmax(flux))
        gap = np.hypot(*(detections - fakes[best]).T)
        if gap.min() <= radius:
            assert np.isclose(found.distance[best], gap.min())


def test_fakes_far_from_each_other_have_the_nearest_by_brute_force() -> None:
    rng = np.random.default_rng(4)
    fakes = np.stack([grid.ravel() for grid in np.meshgrid(np.arange(0, 200, 20.0), np.arange(0, 200, 20.0))], axis=1)
    detections = np.concatenate([fakes + rng.normal(0, 2.5, fakes.shape), rng.uniform(0, 200, (40, 2))])
    found = assign(*fakes.T, np.ones(100), np.full(100, 4.0), *detections.T)
    gaps = np.hypot(*(fakes[:, None] - detections[None]).transpose(2, 0, 1))
    expected = np.where(gaps.min(axis=1) <= 4.0, gaps.argmin(axis=1), -1)
    np.testing.assert_array_equal(found.detection, expected)


def test_the_brighter_of_two_fakes_has_the_detection() -> None:
    found = assign(
        np.array([10.0, 10.5]),
        np.array([5.0, 5.0]),
        np.array([1.0, 9.0]),
        np.full(2, 2.0),
        np.array([10.1]),
        np.array([5.0]),
    )
    assert found.detection.tolist() == [-1, 0] and found.taken.tolist() == [True, False]


def test_detections_at_one_place_are_one_for_each_fake() -> None:
    """A detection that is listed twice is not found twice, and two fakes there may have one each."""
    x = np.array([3.0, 3.0])
    one = assign(x[:1], x[:1], np.ones(1), np.ones(1), x, x)
    both = assign(x, x, np.ones(2), np.ones(2), x, x)
    assert one.detection[0] in (0, 1) and sorted(both.detection.tolist()) == [0, 1]


def test_positions_that_are_not_finite_match_nothing() -> None:
    x = np.array([np.nan, 1.0])
    found = assign(x, x, np.ones(2), np.ones(2), np.array([1.0]), np.array([1.0]))
    assert found.detection.tolist() == [-1, 0]
    index, gap = nearest(x, x, np.array([4.0]), np.array([5.0]))
    assert index.tolist() == [-1, 0] and np.isnan(gap[0]) and gap[1] == 5.0
    index, gap = nearest(x, x, np.zeros(0), np.zeros(0))
    assert index.tolist() == [-1, -1] and np.isnan(gap).all()


def test_every_reason() -> None:
    """One fake for each reason, in the order in which reasons count."""
    names = [
        "",
        "not drawn",
        "off the image",
        "masked",
        "ambiguous",
        "blended",
        "blended",
        "not matched",
        "below threshold",
        "negative",
    ]
    n = len(names)
    flags = {
        name: np.zeros(n, dtype=bool)
        for name in ("drawn", "on_image", "masked", "ambiguous", "covered", "shared", "negative")
    }
    flags["drawn"][:] = flags["on_image"][:] = True
    detection, taken = np.full(n, -1), np.zeros(n, dtype=bool)
    detection[[0, 3, 4]] = [5, 6, 7]
    flags["drawn"][1] = flags["on_image"][2] = False
    flags["masked"][3] = flags["ambiguous"][4] = taken[5] = True
    flags["covered"][[6, 7]] = True
    flags["shared"][6] = flags["negative"][9] = True
    found, usable, reason = decide(Match(detection, np.zeros(n), taken), **flags)
    assert reason.tolist() == names and set(names) == set(REASONS)
    assert found.tolist() == [True] + [False] * 9
    assert usable.tolist() == [True, False, False, False, *[True] * 5, False]
