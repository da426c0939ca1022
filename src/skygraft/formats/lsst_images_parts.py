"""Parts that only some of Rubin's ``lsst.images`` have: a coadd's noise realizations."""

from __future__ import annotations

from typing import Any

import numpy as np

from skygraft.exposure import COADD_NOISE
from skygraft.noise import CellGrid, CoaddNoise

__all__ = ["coadd_noise"]


def coadd_noise(image: Any) -> dict[str, Any]:
    """What a cell coadd tells about the correlation of its noise, for `Exposure.extra`; empty for other images."""
    if not hasattr(image, "noise_realizations"):
        return {}
    grid = image.grid
    cells = CellGrid((int(grid.bbox.x.start), int(grid.bbox.y.start)), (int(grid.cell_shape.x), int(grid.cell_shape.y)))
    planes = tuple(np.asarray(one.array, dtype=np.float32) for one in image.noise_realizations)
    return {COADD_NOISE: CoaddNoise(planes, cells)}
