"""The demo's catalogue of fake stars and galaxies, and the campaign that injects them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import yaml
from astropy.table import QTable

from skygraft.demo.sky import CENTER, PIXEL_SCALE, SurveySpec

__all__ = ["make_fakes", "write_campaign"]

SEPARATION = 7.0  # arcsec, at least, between neighbours
DENSITY = 12.0  # per square arcminute


def make_fakes(spec: SurveySpec) -> QTable:
    """Return a canonical catalogue of stars and Sérsic galaxies over the whole tract.

    Sources are at least `SEPARATION` apart, so that many stars are isolated and can be measured.
    """
    rng = np.random.default_rng([spec.seed, 4])
    side = 2 * spec.patch_size * PIXEL_SCALE
    xi, eta = _scatter(rng, round(DENSITY * (side / 60) ** 2), side)
    n = xi.size
    dec = CENTER[1] + eta / 3600
    ra = CENTER[0] + xi / 3600 / np.cos(np.deg2rad(CENTER[1]))
    is_star = rng.random(n) < 0.65
    r = np.where(is_star, rng.uniform(17.5, 22.0, n), rng.triangular(18.0, 21.5, 22.0, n))
    red = np.where(is_star, rng.normal(0.7, 0.35, n), rng.normal(0.65, 0.2, n))
    colors = {"g": red, "r": 0 * red, "i": -0.45 * red, "z": -0.75 * red}
    size = 1.1 * 10 ** (-0.12 * (r - 20.5)) * np.exp(0.3 * rng.standard_normal(n))
    shapes = {
        "n": rng.choice([0.8, 1.0, 1.5, 2.5], n, p=[0.25, 0.4, 0.25, 0.1]),
        "half_light_radius": np.clip(size, 0.2, 2.5) * u.arcsec,
        "q": rng.uniform(0.25, 1.0, n),
        "pa": rng.uniform(0.0, 180.0, n) * u.deg,
    }
    table = QTable()
    table["injection_id"] = np.arange(1, n + 1)
    table["ra"], table["dec"] = ra * u.deg, dec * u.deg
    table["source_type"] = np.where(is_star, "Star", "Sersic")
    for band in spec.bands:
        table[f"mag_{band}"] = (r + colors[band]) * u.mag
    for name, values in shapes.items():
        values[is_star] = np.nan
        table[name] = values
    return table


def write_campaign(path: Path, spec: SurveySpec, *, survey: str, catalog: str, output: str) -> None:
    """Write the campaign's YAML file; the other paths are relative to it."""
    content: dict[str, Any] = {
        "name": "demo",
        "survey": {"images": f"{survey}/calexp-*.fits"},
        "catalog": {"path": catalog},
        "skymap": spec.skymap,
        "injection": {"flux_mode": "calibrated", "noise": True, "seed": spec.seed},
        "margin_arcsec": 60,
        "output": output,
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _scatter(rng: np.random.Generator, n: int, side: float) -> tuple[Any, Any]:
    """Draw random positions in a square centred on zero, rejecting those too close to an earlier one."""
    points = np.empty((0, 2))
    while len(points) < n:
        dart = rng.uniform(-side / 2, side / 2, 2)
        if not len(points) or np.hypot(*(points - dart).T).min() > SEPARATION:
            points = np.vstack([points, dart])
    return points[:, 0], points[:, 1]
