"""No pixel that was finite leaves `inject` as another: the source is flagged, or the plane is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from skygraft import inject
from skygraft.catalog import Flag
from skygraft.errors import InjectionError
from skygraft.exposure import VisitInfo
from skygraft.injection import differences
from skygraft.photometry import CalibrationAperture, PhotoCalib
from skygraft.render import RenderReport
from skygraft.testing import make_exposure

MODEL = CalibrationAperture(8.0, 1.6, "made for a test")


def catalog(n: int = 3, **columns: Any) -> dict[str, Any]:
    return {
        "injection_id": np.arange(n),
        "ra": 150.0 + (np.arange(n) - 1) / 3600,
        "dec": np.full(n, 2.0),
        "source_type": ["Star"] * n,
        "mag_r": np.full(n, 20.0),
    } | columns


@pytest.mark.parametrize("column", [{"mag_r": [20.0, -300.0, 20.0]}, {"mag_r": [20.0, -60.0, 20.0]}])
def test_a_flux_that_single_precision_does_not_hold(column: dict[str, Any]) -> None:
    made = inject(make_exposure((64, 64)), catalog(**column), band="r", seed=1, on_bad="flag")
    assert np.isfinite(made.exposure.image).all()
    assert np.isfinite(made.exposure.variance).all()
    assert (made.truth["flags"][[0, 2]] & int(Flag.MAG_BAD) == 0).all()
    assert made.truth["flux_deposited"][0] > 0
    assert np.isfinite(made.truth["inst_flux"][1]) or made.truth["flags"][1] & int(Flag.MAG_BAD)


@pytest.mark.parametrize(("pixel", "deposited"), [(np.inf, np.nan), (-1e22, -1e22), (1e9, 1e9)])
def test_a_source_whose_pixels_make_no_sense_is_left_out(
    monkeypatch: pytest.MonkeyPatch, pixel: float, deposited: float
) -> None:
    """Not finite, or many times the source's flux."""
    real = differences.render

    def spoilt(sources: Any, psf: Any, canvas: Any, *rest: Any, **options: Any) -> RenderReport:
        report = real(sources, psf, canvas, *rest, **options)
        for row in np.flatnonzero(sources.injection_id == 1):
            canvas.model[10, 10] = pixel
            report.flux_deposited[row] = deposited
        return report

    exposure = make_exposure((64, 64))
    expected = inject(exposure, catalog(mag_r=[20.0, np.nan, 21.0]), band="r", seed=1, on_bad="flag")
    monkeypatch.setattr(differences, "render", spoilt)
    made = inject(exposure, catalog(mag_r=[20.0, 20.0, 21.0]), band="r", seed=1)
    assert made.truth["flags"].tolist() == [0, int(Flag.MAG_BAD), 0]
    np.testing.assert_array_equal(made.exposure.image, expected.exposure.image)
    np.testing.assert_array_equal(made.truth["flux_deposited"], expected.truth["flux_deposited"])
    assert made.summary["n_drawn"] == 2
    assert any("injection_id 1: its pixels would not be finite" in text for text in made.summary["messages"])


def test_a_variance_that_would_not_be_finite() -> None:
    calib = PhotoCalib.from_zeropoint(60.0, reference=MODEL)
    with pytest.raises(InjectionError, match="pixels of the variance plane would not be finite"):
        inject(make_exposure((64, 64), photo_calib=calib, gain=1e-35), catalog(), band="r", seed=1)


def test_pixels_that_came_in_infinite_stay_so() -> None:
    exposure = make_exposure((64, 64))
    exposure.image[5, 5] = np.nan
    made = inject(exposure, catalog(), band="r", seed=1)
    assert np.isnan(made.exposure.image[5, 5])
    assert np.isfinite(made.exposure.image).sum() == 64 * 64 - 1


@pytest.mark.parametrize("seconds", [None, 0.0, -30.0, np.nan, np.inf])
def test_a_trail_of_a_rate_without_an_exposure_time(seconds: float | None) -> None:
    trails = catalog(
        source_type=["Star", "Trail", "Star"],
        rate_ra_cosdec=[0.0, 60.0, 0.0],
        rate_dec=[0.0] * 3,
        epoch_mjd=[60000.0] * 3,
    )
    exposure = make_exposure((64, 64), visit_info=VisitInfo(60000.0, seconds))
    made = inject(exposure, trails, band="r", noise=False)
    assert made.truth["flags"].tolist() == [0, int(Flag.PARAMETERS_BAD), 0]
    assert "no exposure time" in made.summary["messages"][0]
