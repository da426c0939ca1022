"""Surveys for tests of generated catalogues: indexes of outlines, and small images with weight and mask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from astropy.io import fits

from kits.plain_images import plain_header
from skygraft.survey.index_file import INDEX_SCHEMA, SurveyIndex, write_index
from skygraft.wcs.base import to_lonlat, to_vectors

STARS = [{"type": "Star", "mag": {"kind": "uniform", "low": 18.0, "high": 26.0}}]


def circle(ra: float, dec: float, radius: float) -> dict[str, Any]:
    """An area."""
    return {"region": {"ra": ra, "dec": dec, "radius": radius}}


def outline(ra: float, dec: float, side: float, turn: float = 0.0) -> np.ndarray:
    """Corners, degrees, of a square on the tangent plane, turned; sides are great circles."""
    half = np.tan(np.radians(side) / 2)
    z = half * np.array([-1 - 1j, 1 - 1j, 1 + 1j, -1 + 1j]) * np.exp(1j * np.radians(turn))
    centre = to_vectors(ra, dec)
    east = np.array([-np.sin(np.radians(ra)), np.cos(np.radians(ra)), 0.0])
    north = np.cross(centre, east)
    return np.stack(to_lonlat(centre + z.real[:, None] * east + z.imag[:, None] * north), axis=1)


def write_outlines(path: Path, outlines: list[np.ndarray], bands: list[str] | None = None) -> Path:
    """Write an index of images that do not exist, with these outlines."""
    rows = [
        {
            "image_id": f"image-{k:04}", "path": f"{k}.fits", "hdu": "", "format": "fits", "instrument": None,
            "visit": k, "detector": None, "band": bands[k] if bands else "r", "mjd": 60000.0 + k,
            "exposure_time": 30.0, "nx": 100, "ny": 100, "ra": float(corners[0, 0]), "dec": float(corners[0, 1]),
            "polygon": corners.tolist(), "pixel_scale": 1.0, "n_bytes": 1, "options": json.dumps({}), "dataset": None,
        }
        for k, corners in enumerate(outlines)
    ]  # fmt: skip
    write_index(SurveyIndex(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)), path)
    return path


def write_survey(folder: Path, variances: list[float], *, offset: float = 0.0, size: int = 128) -> Path:
    """Write images in a row along dec with these variances, and a campaign; pixels of mask bit BAD (1) in a corner.

    They are 0.2 arcsec a pixel, of zeropoint 27 in 12 pixels; each is `offset` pixels further East.
    """
    for k, variance in enumerate(variances):
        header = plain_header(150.0 + k * offset * 0.2 / 3600, 0.0, size, EXPNUM=10 + k)
        pixels = np.random.default_rng(k).normal(0, variance**0.5, (size, size)).astype(np.float32)
        path = folder / "raw" / f"image-{k}.fits"
        path.parent.mkdir(parents=True, exist_ok=True)
        fits.PrimaryHDU(pixels, header).writeto(path)
        weight = fits.PrimaryHDU(np.full((size, size), 1 / variance, np.float32), header)
        weight.writeto(path.with_name(f"image-{k}.weight.fits"))
        mask = np.zeros((size, size), np.int32)
        mask[: size // 4, : size // 2] = 1
        made = fits.PrimaryHDU(mask, header)
        made.header["MP_BAD"] = 0
        made.writeto(path.with_name(f"image-{k}.mask.fits"))
    content = {
        "name": "tiny",
        "survey": {"images": "raw/*.fits", "calibration": {"psf": {"kind": "moffat", "fwhm": "0.8 arcsec"}}},
        "catalog": {"path": "fakes.parquet"},
        "output": "out",
    }
    (folder / "campaign.yaml").write_text(yaml.safe_dump(content))
    return folder / "campaign.yaml"
