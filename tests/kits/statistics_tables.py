"""Tables of fakes that were found by a known law."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def logistic(x: Any, plateau: float = 0.97, center: float = 21.5, width: float = 0.25) -> NDArray[np.float64]:
    return plateau / (1.0 + np.exp((np.asarray(x) - center) / width))


def fakes(n: int = 4000, seed: int = 1, visits: int = 1, **law: float) -> dict[str, NDArray[Any]]:
    """Sources of magnitudes 18 to 24, each in some visits, found by a logistic; measured 0.01 mag too faint."""
    rng = np.random.default_rng(seed)
    source = np.repeat(np.arange(n // visits), visits)
    mag = rng.uniform(18.0, 24.0, n // visits)[source]
    size = source.size
    error = 0.02 * 10 ** (0.2 * (mag - 20.0))
    return {
        "injection_id": source,
        "mag": mag,
        "found": rng.random(size) < logistic(mag, **law),
        "mag_cal": mag + 0.01 + rng.normal(0.0, error),
        "mag_cal_error": error,
        "band": rng.choice(["g", "r", "i"], size),
        "tract": np.full(size, 7),
        "patch": rng.integers(0, 9, size),
        "usable": rng.random(size) < 0.95,
    }
