"""Images before and after injection, in memory, for tests of what is measured on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.table import QTable
from numpy.typing import NDArray

from kits.finished_images import planned
from skygraft import inject
from skygraft.campaign.pairs import ImagePair
from skygraft.execution.task import _on_image
from skygraft.exposure import Exposure
from skygraft.recovery.measuring import measure_pair


def catalogue(exposure: Exposure, x: Any, y: Any, mag: Any, **columns: Any) -> QTable:
    """Sources at pixels (parent frame) of an exposure; stars unless `columns` say otherwise."""
    x, y = np.broadcast_arrays(np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float)))
    ra, dec = exposure.wcs.pixel_to_world_values(x, y)
    table = QTable({"injection_id": np.arange(x.size), "ra": np.asarray(ra), "dec": np.asarray(dec)})
    table["source_type"] = columns.pop("source_type", np.full(x.size, "Star"))
    table["mag_r"] = np.broadcast_to(np.asarray(mag, float), x.shape).copy()
    for name, values in columns.items():
        table[name] = np.broadcast_to(np.asarray(values), x.shape).copy()
    return table


def make_pair(before: Exposure, catalog: QTable, **options: Any) -> ImagePair:
    """Inject a catalogue; `options` are those of `inject`, by default without photon noise."""
    injection = inject(before, catalog, image_id="one", band="r", **{"noise": False} | options)
    image = planned("one", (0, 0), ra=150.0, dec=2.0, exposure_time=30.0, mjd=60000.0, visit=7, detector="3")
    return ImagePair(image, {}, before, injection.exposure, _on_image(injection.truth), catalog)


def measure(before: Exposure, catalog: QTable, settings: Mapping[str, Any] | None = None, **options: Any) -> pa.Table:
    """The recovery table of a catalogue injected into an exposure."""
    return measure_pair(make_pair(before, catalog, **options), settings or {})


def numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column of numbers; NaN for nulls."""
    return np.array([np.nan if value is None else value for value in table[name].to_pylist()], dtype=float)


def texts(table: pa.Table, name: str) -> list[str]:
    return list(table[name].to_pylist())


def places(n: int, spacing: float, first: float = 40.0, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """n by n positions, `spacing` pixels apart, each at another place among the pixels."""
    shift = np.random.default_rng(seed).uniform(-0.5, 0.5, (2, n * n))
    y, x = (first + spacing * grid.ravel() for grid in np.indices((n, n)))
    return x + shift[0], y + shift[1]
