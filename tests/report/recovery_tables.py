"""Recovery tables with a known completeness and bias, from the truth of a campaign: what `skygraft recover` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skygraft.campaign import Campaign

UNITS = {
    "ra": "deg",
    "dec": "deg",
    "x": "pix",
    "y": "pix",
    "mag": "mag",
    "psf_fwhm": "arcsec",
    "half_light_radius": "arcsec",
    "surface_brightness": "mag / arcsec2",
    "distance": "arcsec",
    "depth": "mag",
    "seeing": "arcsec",
    "edge_distance": "arcsec",
    "neighbour_distance": "arcsec",
    "mag_cal": "mag",
    "mag_cal_error": "mag",
    "mag_below_depth": "mag",
    "exposure_time": "s",
}


def logistic(mag: NDArray[np.float64], m50: float, width: float = 0.25, plateau: float = 0.98) -> NDArray[np.float64]:
    return plateau / (1 + np.exp((mag - m50) / width))


def recovery_table(truth: pa.Table, *, m50: float = 24.0, seed: int = 1, found: bool | None = None) -> pa.Table:
    """A recovery table for rows of truth.

    Parameters
    ----------
    truth : pyarrow.Table
        Rows of truth with all their columns.
    m50 : float
        Where completeness of stars is half of its plateau; that of others lies 0.5 mag brighter.
    seed : int
        Of what is found and of the measurements.
    found : bool, optional
        Whether all are found, or none.
    """
    rng = np.random.default_rng(seed)
    n = truth.num_rows
    column = {name: truth[name].to_numpy() for name in ("mag", "x", "y", "ra", "dec", "psf_fwhm", "stamp_size")}
    mag = column["mag"].astype(float)
    kinds = truth["source_type"].to_numpy().astype(str)
    star = kinds == "Star"
    depth = 24.6 + rng.normal(0, 0.12, n) - 0.2 * (column["psf_fwhm"].astype(float) - 0.8)
    probability = logistic(mag - (depth - 24.6), np.where(star, m50, m50 - 0.5))
    seen = rng.random(n) < probability if found is None else np.full(n, found)
    usable = (column["stamp_size"] > 0) & (rng.random(n) > 0.03)
    seen &= usable
    why = np.where(mag > depth - 0.8, "below threshold", np.where(rng.random(n) < 0.7, "blended", "ambiguous"))
    reason = np.where(seen, "", np.where(column["stamp_size"] <= 0, "not drawn", np.where(usable, why, "masked")))
    error = 0.2 * 1.0857 * 10 ** (0.4 * (mag - depth))
    nan = np.where(seen, 0.0, np.nan)
    size = np.where(star, np.nan, rng.uniform(0.3, 1.5, n))
    mag_out = mag + error * rng.normal(0, 1.1, n) + 0.02 * 10 ** (0.4 * (mag - 23)) + nan
    extra: dict[str, Any] = {
        "exposure_time": np.full(n, 30.0),
        "airmass": rng.uniform(1, 1.6, n),
        "half_light_radius": size,
        "axis_ratio": np.where(star, np.nan, rng.uniform(0.3, 1, n)),
        "position_angle": np.where(star, np.nan, rng.uniform(-90, 90, n)),
        "sersic_n": np.where(star, np.nan, 1.0),
        "weight": np.ones(n),
        "surface_brightness": mag + 2.5 * np.log10(2 * np.pi * size**2),
        "found": seen,
        "reason": reason,
        "usable": usable,
        "distance": np.where(seen, np.abs(rng.normal(0, 0.05, n)), np.nan),
        "detection_id": np.where(seen, np.arange(n), -1),
        "x_out": column["x"] + rng.normal(0, 0.1, n) + nan,
        "y_out": column["y"] + rng.normal(0, 0.1, n) + nan,
        "ra_out": column["ra"] + rng.normal(0, 1e-5, n) + nan,
        "dec_out": column["dec"] + rng.normal(0, 1e-5, n) + nan,
        "mag_cal": mag_out,
        "mag_cal_error": error + nan,
        "mag_kron": mag_out - 0.03,
        "mag_kron_error": 1.1 * error + nan,
        "mag_psf": mag_out + 0.01,
        "mag_psf_error": 0.9 * error + nan,
        "snr": 1.0857 / error + nan,
        "half_light_radius_out": np.hypot(np.where(star, 0, size), 0.5) + nan,
        "axis_ratio_out": np.clip(rng.normal(0.8, 0.1, n), 0, 1) + nan,
        "position_angle_out": rng.uniform(-90, 90, n) + nan,
        "fwhm_out": column["psf_fwhm"] + nan,
        "class_star_out": np.full(n, np.nan),
        "detection_flags": np.zeros(n, np.int64),
        "blend": np.where(rng.random(n) < 0.1, "real", ""),
        "blend_fraction": np.zeros(n),
        "depth": depth,
        "sky": rng.normal(100, 3, n),
        "sky_rms": rng.normal(10, 0.5, n),
        "seeing": column["psf_fwhm"],
        "edge_distance": rng.uniform(0, 100, n),
        "neighbour_distance": rng.exponential(10, n),
        "neighbour_mag": rng.uniform(18, 25, n),
        "mag_below_depth": mag - depth,
    }
    for name, values in extra.items():
        # Not the text of NumPy, which Arrow does not read.
        array = pa.array(values.tolist(), pa.string()) if np.asarray(values).dtype.kind == "U" else pa.array(values)
        metadata = {"unit": UNITS[name]} if name in UNITS else None
        truth = truth.append_column(pa.field(name, array.type, metadata=metadata), array)
    return truth


def write_recovery(campaign: Campaign, **options: Any) -> Path:
    """Write recovery tables beside a campaign's truth, patch by patch.

    Parameters
    ----------
    campaign : Campaign
        One that has been run.
    **options
        As for `recovery_table`.
    """
    folder = campaign.layout.root / "recovery"
    parts = sorted(campaign.layout.truth.glob("tract=*/patch=*/*.parquet"))
    for n, part in enumerate(parts):
        table = recovery_table(pq.read_table(part, partitioning=None), seed=n, **options)
        path = folder / part.relative_to(campaign.layout.truth)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        names = [name for name in table.schema.names if name not in ("tract", "patch")]
        pq.write_metadata(table.select(names).schema, folder / "_common_metadata")
    settings = {"product": "recovery", "version": 1, "settings": {"threshold": 1.5, "min_area": 5}}
    (folder / "_settings.json").write_text(json.dumps(settings))
    return folder
