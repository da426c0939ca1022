"""Detection, against SEP called directly, and on images that are not as SEP wants them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import sep

from kits.recovery_pairs import catalogue, make_pair
from skygraft.errors import ConfigError
from skygraft.exposure import Exposure
from skygraft.recovery import detect as module
from skygraft.recovery.detect import detect, image_fwhm, prepare
from skygraft.recovery.settings import RecoverySettings
from skygraft.testing import make_exposure


@pytest.fixture(scope="module")
def crowded() -> Exposure:
    before = make_exposure((256, 256), noise=True, sky=50.0, seed=3)
    rng = np.random.default_rng(1)
    x, y = rng.uniform(10, 246, (2, 60))
    return make_pair(before, catalogue(before, x, y, rng.uniform(15.0, 21.0, 60))).after


def changed(exposure: Exposure, **planes: np.ndarray) -> Exposure:
    """A copy with other planes, as they are: also of another byte order."""
    data = exposure.planes.copy(deep=True)
    for name, values in planes.items():
        data[name] = (("y", "x"), values, exposure.planes[name].attrs)
    return dataclasses.replace(exposure, planes=data)


def test_it_is_what_sep_finds(crowded: Exposure) -> None:
    settings = RecoverySettings(threshold=2.0, min_area=6, background_size=48, deblend_cont=0.01)
    image = prepare(crowded, settings)
    found = detect(image, image.variance, settings)
    bad = crowded.bad()
    back = sep.Background(crowded.image, mask=bad, bw=48, bh=48)
    pixels, noise = crowded.image - back.back(), np.sqrt(crowded.variance)
    theirs = sep.extract(pixels, 2.0, err=noise, mask=bad, minarea=6, deblend_cont=0.01, filter_type="conv")
    np.testing.assert_allclose(image.pixels, pixels, atol=1e-3)
    assert len(found) == len(theirs) > 30
    for name in ("x", "y", "flux"):
        np.testing.assert_allclose(found.objects[name], theirs[name], rtol=1e-4)


def test_byte_order_and_layout_do_not_matter(crowded: Exposure) -> None:
    settings = RecoverySettings()
    plain = prepare(crowded, settings)
    expected = detect(plain, plain.variance, settings)
    other = changed(
        crowded,
        image=np.asfortranarray(crowded.image.astype(">f4")),
        variance=np.repeat(crowded.variance, 2, axis=1)[:, ::2],
    )
    image = prepare(other, settings)
    np.testing.assert_array_equal(detect(image, image.variance, settings).objects, expected.objects)


def test_pixels_that_are_not_finite_are_left_out(crowded: Exposure) -> None:
    settings = RecoverySettings()
    image = crowded.image.copy()
    image[100:104, :] = np.nan
    image[:, 50] = np.inf
    variance = crowded.variance.copy()
    variance[200] = 0.0
    found = prepare(changed(crowded, image=image, variance=variance), settings)
    assert found.bad[100:104].all() and found.bad[:, 50].all() and found.bad[200].all()
    assert np.isfinite(found.pixels).all()
    assert (detect(found, found.variance, settings).segments[100:104] == 0).all()


def test_injected_pixels_are_not_bad_and_saturated_ones_are(crowded: Exposure) -> None:
    assert (crowded.bad("INJECTED") & ~prepare(crowded, RecoverySettings()).bad).any()
    mask = crowded.mask.copy()
    mask[60:80, 60:80] |= crowded.mask_planes["SAT"]
    saturated = changed(crowded, mask=mask)
    assert prepare(saturated, RecoverySettings()).bad[60:80, 60:80].all()
    assert not prepare(saturated, RecoverySettings(bad_planes=("BAD",))).bad[60:80, 60:80].any()
    with pytest.raises(ConfigError, match="no mask plane 'SATUR'"):
        prepare(saturated, RecoverySettings(bad_planes=("SATUR",)))


def test_without_a_good_pixel_nothing_is_detected(crowded: Exposure) -> None:
    settings = RecoverySettings()
    image = prepare(changed(crowded, mask=np.full(crowded.shape, crowded.mask_planes["BAD"], np.int32)), settings)
    found = detect(image, image.variance, settings)
    assert len(found) == 0 and not found.segments.any() and np.isnan(image.sky_rms).all()
    whole = prepare(crowded, settings)
    assert found.objects.dtype.names == detect(whole, whole.variance, settings).objects.dtype.names


def test_without_a_variance_plane_the_background_says_the_noise(crowded: Exposure) -> None:
    bare = dataclasses.replace(crowded, planes=crowded.planes.drop_vars("variance"))
    image = prepare(bare, RecoverySettings())
    assert not image.has_variance
    assert np.median(np.sqrt(image.variance)) == pytest.approx(10.0, rel=0.1)
    assert len(detect(image, image.variance, RecoverySettings())) > 30


def test_a_constant_image_has_no_detection() -> None:
    flat = make_exposure((64, 64), sky=7.0)
    bare = dataclasses.replace(flat, planes=flat.planes.drop_vars("variance"))
    for exposure in (flat, bare):
        image = prepare(exposure, RecoverySettings())
        assert len(detect(image, image.variance, RecoverySettings())) == 0


def test_limits_of_sep_are_raised_once_and_set_back(crowded: Exposure, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RecoverySettings(threshold=0.3, min_area=1)
    image = prepare(crowded, settings)
    before = sep.get_extract_pixstack(), sep.get_sub_object_limit()
    sep.set_extract_pixstack(50)
    try:
        monkeypatch.setattr(module, "_PIXEL_STACK", 50)
        assert len(detect(image, image.variance, settings)) > 0
        assert sep.get_extract_pixstack() == 50
        monkeypatch.setattr(module, "_LARGEST_PIXEL_STACK", 60)
        with pytest.raises(ConfigError, match="more memory") as caught:
            detect(image, image.variance, settings)
        assert "recovery.threshold" in str(caught.value)
    finally:
        sep.set_extract_pixstack(before[0])
        sep.set_sub_object_limit(before[1])


def test_the_width_of_the_psf() -> None:
    assert image_fwhm(make_exposure((64, 64))) == pytest.approx(4.0, rel=0.03)  # and the pixel
    assert image_fwhm(dataclasses.replace(make_exposure((64, 64)), psf=None)) is None


def test_filters(crowded: Exposure) -> None:
    image = prepare(crowded, RecoverySettings())
    found = {
        name: len(detect(image, image.variance, RecoverySettings(filter=name), 4.0))
        for name in ("default", "psf", "none")
    }
    assert min(found.values()) > 30 and found["none"] != found["psf"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"treshold": 1}, "recovery.treshold: unknown key; did you mean 'threshold'"),
        ({"threshold": 0}, r"recovery.threshold: .*greater than or equal to 0.001 \(given: 0\)"),
        ({"threshold": "high"}, r"recovery.threshold: .*number.* \(given: \"high\"\)"),
        ({"min_area": 2.5}, r"recovery.min_area: .*integer \(given: 2.5\)"),
        ({"filter": "gauss"}, "'default', 'psf' or 'none'"),
        ({"apertures": 3.0}, "a list"),
        ({"apertures": [3, -1]}, r"recovery.apertures.1: .*greater than 0 \(given: -1\)"),
        ({"apertures": [3, 3.0]}, "each radius once"),
        ({"match_radius": 0.0}, r"recovery.match_radius: .*greater than or equal to 0.001 \(given: 0.0\)"),
        ({"clean": 1}, r"recovery.clean: .*boolean \(given: 1\)"),
        ({"columns": "host"}, "a list"),
    ],
)
def test_settings_that_are_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RecoverySettings.from_mapping(wrong)


def test_settings_survive_json() -> None:
    given = RecoverySettings(apertures=(2.0, 4.5), bad_planes=("SAT",), match_radius=0.7)
    assert RecoverySettings.from_mapping(json.loads(json.dumps(given.settings()))) == given
