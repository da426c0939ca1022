"""WCS of gwcs pipelines, against gwcs and astropy themselves."""

from __future__ import annotations

import io
import pickle
import warnings

import gwcs
import numpy as np
import pytest
from astropy import coordinates, units
from astropy.coordinates import SkyCoord
from astropy.modeling import models
from gwcs import coordinate_frames

from kits.space_images import SIZE, pipeline
from skygraft.errors import ConfigError, WcsError
from skygraft.wcs import GwcsWcs, footprint, local_jacobian, pixel_scale
from skygraft.wcs import gwcs as module


class Edges:
    x_min, x_max, y_min, y_max = -0.5, SIZE - 0.5, -0.5, SIZE - 0.5


def places(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.random.default_rng(3).uniform(-20, SIZE + 20, (2, n)))


@pytest.fixture(scope="module")
def made() -> gwcs.WCS:
    return pipeline(distorted=True)


def test_positions_are_those_of_gwcs_beyond_the_bounding_box_too(made) -> None:
    x, y = places()
    ra, dec = GwcsWcs.of(made).pixel_to_world_values(x, y)
    expected = made(x, y, with_bounding_box=False)
    np.testing.assert_allclose([ra, dec], expected, rtol=0, atol=1e-12)


def test_the_inverse_closes_although_that_of_the_pipeline_is_off_by_pixels(made) -> None:
    x, y = places()
    wcs = GwcsWcs.of(made)
    ra, dec = wcs.pixel_to_world_values(x, y)
    theirs = np.hypot(*(np.array(made.backward_transform(ra, dec)) - (x, y)))
    assert theirs.max() > 0.1
    np.testing.assert_allclose(wcs.world_to_pixel_values(ra, dec), (x, y), rtol=0, atol=1e-6)


def test_the_inverse_needs_no_inverse_transform() -> None:
    # A mapping that is not one to one has no inverse in astropy.
    wcs = GwcsWcs.of(pipeline(distorted=True))
    wcs.__dict__["_inverse_model"] = None
    x, y = places()
    np.testing.assert_allclose(wcs.world_to_pixel_values(*wcs.pixel_to_world_values(x, y)), (x, y), rtol=0, atol=1e-6)


def test_positions_off_the_sky_are_nan(made) -> None:
    wcs = GwcsWcs.of(made)
    ra, dec = wcs.pixel_to_world_values(10.0, 10.0)
    x, y = wcs.world_to_pixel_values([np.nan, ra + 180, 10.0], [0.0, -dec, 91.0])
    assert np.isnan(x).all() and np.isnan(y).all()
    assert np.isscalar(ra) and wcs.world_to_pixel_values(ra, dec)[0] == pytest.approx(10.0, abs=1e-6)


def test_scale_jacobian_and_footprint(made) -> None:
    wcs = GwcsWcs.of(made)
    assert pixel_scale(wcs, 40, 50)[0] == pytest.approx(0.063, rel=1e-6)
    np.testing.assert_allclose(local_jacobian(wcs, 40, 50)[0], [[-0.063, 0], [0, 0.063]], atol=1e-6)
    assert footprint(wcs, Edges()).shape == (32, 2)


def test_pickled_and_equal(made) -> None:
    wcs = GwcsWcs.of(made)
    copy = pickle.loads(pickle.dumps(wcs))
    assert (
        copy == wcs and hash(copy) == hash(wcs) and copy.pixel_to_world_values(3, 4) == wcs.pixel_to_world_values(3, 4)
    )
    assert wcs != GwcsWcs.of(pipeline(distorted=False)) and "detector -> world" in repr(wcs)


@pytest.mark.parametrize("frame", [coordinates.FK5(), coordinates.Galactic()])
def test_other_frames_become_icrs(frame) -> None:
    steps = models.Scale(1e-5) & models.Scale(1e-5) | models.Pix2Sky_TAN() | models.RotateNative2Celestial(80, 20, 180)
    sky = coordinate_frames.CelestialFrame(name="sky", reference_frame=frame, unit=(units.deg, units.deg))
    made = gwcs.WCS([(coordinate_frames.Frame2D(name="detector"), steps), (sky, None)])
    wcs = GwcsWcs.of(made)
    x, y = places(20)
    lon, lat = made(x, y)
    expected = SkyCoord(lon, lat, unit="deg", frame=frame).icrs
    ra, dec = wcs.pixel_to_world_values(x, y)
    assert SkyCoord(ra, dec, unit="deg").separation(expected).arcsec.max() < 1e-9
    np.testing.assert_allclose(wcs.world_to_pixel_values(ra, dec), (x, y), rtol=0, atol=1e-6)


def test_models_with_units() -> None:
    def shift(value: float) -> models.Shift:
        return models.Shift(value * units.pix)

    scale = models.Multiply(1e-5 * units.deg / units.pix)
    steps = shift(-40) & shift(-50) | scale & scale | models.Pix2Sky_TAN()
    steps = steps | models.RotateNative2Celestial(80 * units.deg, 20 * units.deg, 180 * units.deg)
    sky = coordinate_frames.CelestialFrame(name="sky", reference_frame=coordinates.ICRS(), unit=(units.deg, units.deg))
    made = gwcs.WCS([(coordinate_frames.Frame2D(name="detector", unit=(units.pix, units.pix)), steps), (sky, None)])
    wcs = GwcsWcs.of(made)
    x, y = places(20)
    found = wcs.pixel_to_world_values(x, y)
    np.testing.assert_allclose(found, made.pixel_to_world_values(x, y), rtol=0, atol=1e-12)
    np.testing.assert_allclose(wcs.world_to_pixel_values(*found), (x, y), rtol=0, atol=1e-6)


def test_a_spectrum_is_refused() -> None:
    steps = models.Scale(1e-5) & models.Scale(1e-5)
    frame = coordinate_frames.Frame2D(name="plane")
    made = gwcs.WCS([(coordinate_frames.Frame2D(name="detector"), steps), (frame, None)])
    with pytest.raises(WcsError, match="no direct image"):
        GwcsWcs.of(made)


def test_what_is_no_pipeline_is_refused() -> None:
    import asdf

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asdf.AsdfFile({"wcs": {"steps": []}}).write_to(buffer)
    with pytest.raises(WcsError, match="it is a dict"):
        GwcsWcs(buffer.getvalue(), "image.asdf")
    with pytest.raises(WcsError, match="cannot be read"):
        GwcsWcs(b"#ASDF 1.0.0\nno tree", "image.asdf")


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch, made) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name == "gwcs" else object())
    with pytest.raises(ConfigError, match=r"gwcs is not installed.*pip install 'skygraft\[asdf\]'"):
        GwcsWcs.of(made, "image.asdf")
