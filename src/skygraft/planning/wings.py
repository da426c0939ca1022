"""What will go wrong with a PSF's extended wings: told before a run, from PSFs and the catalogue, without pixels."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np

from skygraft.config.campaign import CampaignConfig
from skygraft.errors import SkygraftError
from skygraft.records.files import Layout

__all__ = ["brightest_magnitude", "wing_troubles"]


def wing_troubles(found: Any, band: str | None, config: CampaignConfig) -> dict[str, str]:
    """Find what is wrong with the wings on an image.

    Parameters
    ----------
    found : ImageCalibration
        The image's WCS, PSF and calibration.
    band : str or None
        The image's band.
    config : CampaignConfig
        The campaign; with wings.

    Returns
    -------
    dict of str to str
        Keys of `skygraft.planning.check.TROUBLES`, ``wings`` and ``wing margin``, with what is wrong, in words.
    """
    from skygraft.psf import Box
    from skygraft.psf.tapered import Joined, check_join
    from skygraft.wcs import pixel_scale

    if found.psf is None or config.injection.wings is None:
        return {}
    settings = config.injection.options().wings
    (ny, nx), (x0, y0) = found.shape, found.xy0
    box = Box(x0 - 0.5, x0 + nx - 0.5, y0 - 0.5, y0 + ny - 0.5)
    try:
        scale = float(np.ravel(pixel_scale(found.wcs, *box.center))[0])
        wings = settings.on(scale)
        joined = Joined(found.psf, wings)
        check_join(joined, box)
        reach, whose = wings.reach, "they are given to reach"
        if not math.isfinite(reach):
            mag = brightest_magnitude(Layout(config.output).catalog, band or config.catalog.band)
            if mag is None:
                return {}
            center = np.array([box.center[0]]), np.array([box.center[1]])
            part = float(joined.amplitudes(*center)[0] / found.psf.kernels(*center).sum())
            limit = 10.0 ** (-0.4 * (settings.limit - mag)) * scale**2
            left = config.injection.flux_tolerance / part
            reach = float(max(wings.brightness_radius(limit / part), wings.flux_radius(left)))
            whose = f"those of the brightest source, of magnitude {mag:.2f}, reach"
    except SkygraftError as error:
        return {"wings": error.message}
    reach *= scale
    if reach > config.margin_arcsec * (1 + 1e-6):
        return {
            "wing margin": (
                f"the wings of sources further away than margin_arcsec, {config.margin_arcsec:g}, are left out, and "
                f"{whose} {reach:.0f} arcsec"
            )
        }
    return {}


@functools.lru_cache(maxsize=32)
def brightest_magnitude(catalog: Path, band: str | None) -> float | None:
    """Find the smallest magnitude of a partitioned catalogue in a band; None if it has no such column.

    Parameters
    ----------
    catalog : Path
        Folder of the partitioned catalogue.
    band : str or None
        The band.

    Returns
    -------
    float or None
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    column, least = f"mag_{band}", math.inf
    for path in sorted(catalog.glob("tract=*/patch=*/*.parquet")):
        file = pq.ParquetFile(path)
        if column not in file.schema_arrow.names:
            continue
        for batch in file.iter_batches(columns=[column]):
            values = batch.column(0)
            value = pc.min(values.filter(pc.is_finite(values))).as_py()
            if value is not None:
                least = min(least, float(value))
    return least if math.isfinite(least) else None
