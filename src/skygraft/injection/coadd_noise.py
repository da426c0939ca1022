"""The correlation between pixels of the photon noise that is added: that of a coadd's own noise, or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.exposure import COADD_NOISE, Exposure
from skygraft.noise import CoaddNoise, NoiseCorrelation, measure_correlation
from skygraft.noise.correlation import LEAST_PIXELS

__all__ = ["NoiseModel", "image_noise", "noise_words"]

_DEFECTS = (
    *("BAD", "SAT", "SATURATED", "CR", "COSMIC_RAY", "NO_DATA", "INTRP", "INTERPOLATED", "SUSPECT", "EDGE"),
    *("DETECTION_EDGE", "UNMASKEDNAN", "UNMASKED_NAN", "STREAK", "BRIGHT_OBJECT", "SPIKE", "VIGNETTED"),
    "DO_NOT_USE",
)
_LIGHT = ("DETECTED", "INJECTED")
"""Prefixes of the mask planes of pixels that hold light."""
_LARGEST_LAG, _LARGEST_MISFIT = 0.95, 0.1
"""Larger values mean that light or a background was measured, not noise."""


@dataclass(frozen=True, eq=False)
class NoiseModel:
    """The correlation that photon noise is drawn with, and where it comes from.

    Parameters
    ----------
    correlation : NoiseCorrelation or None
        None for noise that is independent between pixels.
    origin : str
        Where the correlation comes from, or why there is none.
    """

    correlation: NoiseCorrelation | None
    origin: str

    def describe(self) -> dict[str, Any]:
        """Describe the model by JSON types: kind, origin, correlation at lags (rows, columns), pixels measured."""
        found = self.correlation
        return {
            "kind": "white" if found is None else "correlated",
            "origin": self.origin,
            "lags": None if found is None else {lag: round(value, 6) for lag, value in found.lags.items()},
            "n_pixels": None if found is None else found.n_pixels,
        }


def noise_words(described: Mapping[str, Any]) -> str:
    """Put what `NoiseModel.describe` gives into words.

    Parameters
    ----------
    described : mapping
        What it gave.

    Returns
    -------
    str
    """
    if described["lags"] is None:
        return f"white ({described['origin']})"
    lags = ", ".join(f"{value:.3f} at ({lag})" for lag, value in described["lags"].items())
    return f"correlated, {lags} pixels (rows, columns; {described['origin']})"


def image_noise(exposure: Exposure, coadd_noise: str) -> NoiseModel:
    """Measure how the noise of an image is correlated between pixels, as far as that is known.

    Parameters
    ----------
    exposure : Exposure
        Only coadds have correlated noise: those whose ``extra[COADD_NOISE]`` is a `CoaddNoise`.
    coadd_noise : {"correlated", "white"}
        See `InjectionOptions`.

    Notes
    -----
    It is measured from the coadd's noise realizations; without any, or where they hold too few pixels, from its own
    sky pixels, divided by their standard deviations. Where these are too few as well, the noise is white.
    """
    coadd = exposure.extra.get(COADD_NOISE)
    if not isinstance(coadd, CoaddNoise):
        return NoiseModel(None, "a single image, whose pixels are independent")
    if coadd_noise == "white":
        return NoiseModel(None, "coadd_noise is white")
    seen = _with_data(exposure)
    reasons = []
    if coadd.realizations:
        n = len(coadd.realizations)
        what = f"{n} noise realization{'s' if n > 1 else ''} of the coadd"
        if all(plane.shape == exposure.shape for plane in coadd.realizations):
            found = measure_correlation(coadd.realizations, seen, xy0=exposure.xy0, cells=coadd.cells, what=what)
            if (reason := _unfit(found)) is None:
                assert found is not None
                return NoiseModel(found, found.origin)
        else:
            reason = "another shape than the image"
        reasons.append(f"{what}: {reason}")
    found = measure_correlation([_scaled(exposure)], seen & _sky(exposure), xy0=exposure.xy0, sky=True, what="sky")
    if (reason := _unfit(found)) is None:
        assert found is not None
        return NoiseModel(found, "; ".join([f"{found.origin}, pixels that are neither masked nor detected", *reasons]))
    return NoiseModel(None, "; ".join(["its correlation is not known", *reasons, f"sky pixels: {reason}"]))


def _unfit(found: NoiseCorrelation | None) -> str | None:
    """Say why a measurement cannot be used; None where it can."""
    if found is None:
        return f"fewer than {LEAST_PIXELS} good pixels that vary"
    most = max(found.lags.values())
    if found.misfit > _LARGEST_MISFIT:
        return f"no noise has the correlation measured, the nearest one is off by {found.misfit:.2f}"
    return f"a correlation of {most:.2f} between neighbours is not that of noise" if most > _LARGEST_LAG else None


def _with_data(exposure: Exposure) -> NDArray[np.bool_]:
    """Find the pixels that have data: a finite variance, where there is such a plane, and no NO_DATA bit."""
    bits = np.int32(exposure.mask_planes.get("NO_DATA", 0))
    seen = (exposure.mask & bits) == 0
    variance = exposure.variance
    return np.asarray(seen if variance is None else seen & np.isfinite(variance) & (variance > 0))


def _sky(exposure: Exposure) -> NDArray[np.bool_]:
    """Find the pixels whose mask marks neither defects nor detected light."""
    planes = exposure.mask_planes
    bits = sum(bit for name, bit in planes.items() if name in _DEFECTS or name.startswith(_LIGHT))
    return np.asarray((exposure.mask & np.int64(bits)) == 0)


def _scaled(exposure: Exposure) -> NDArray[np.float32]:
    """Divide the image by its standard deviation, where there is a variance plane."""
    if exposure.variance is None:
        return exposure.image
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(exposure.image / np.sqrt(exposure.variance), dtype=np.float32)
