"""Measurements for the tests of sweeps: quick, and importable by processes and workers."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from skygraft.campaign.pairs import ImagePair
from skygraft.catalog.io import to_arrow


def measure_added(pair: ImagePair, settings: Mapping[str, Any]) -> pa.Table:
    """One row a source: its truth, and the light added in the box of so many pixels around it.

    Settings: `half` (pixels), `fail` (image ids that raise), `log` (a folder with a file for each measurement made).
    """
    if log := settings.get("log"):
        (Path(log) / f"{pair.image.stem}.{os.getpid()}.{time.time_ns()}").touch()
    if pair.image.image_id in settings.get("fail", ()):
        raise ZeroDivisionError(f"asked for by {pair.image.image_id}")
    difference = pair.after.image.astype(float) - pair.before.image
    x0, y0 = pair.before.xy0
    half = int(settings["half"])
    added = []
    for x, y in zip(pair.truth["x"], pair.truth["y"], strict=True):
        i, j = round(float(y) - y0), round(float(x) - x0)
        added.append(difference[max(i - half, 0) : max(i + half + 1, 0), max(j - half, 0) : max(j + half + 1, 0)].sum())
    table = to_arrow(pair.truth)
    field = pa.field("added", pa.float64(), metadata={"unit": "adu"})
    return table.append_column(field, pa.array(np.array(added, dtype=float).tolist(), pa.float64()))


def measure_image(pair: ImagePair, settings: Mapping[str, Any]) -> pa.Table:
    """One row an image, without sources."""
    columns = {"image_id": [pair.image.image_id], "tract": [pair.image.tract], "n": [len(pair.truth)]}
    if settings.get("band"):
        columns["band"] = [pair.image.band]
    return pa.table(columns)


def measure_nothing(pair: ImagePair, settings: Mapping[str, Any]) -> Any:
    """Not a table."""
    return None


def measure_until_interrupted(pair: ImagePair, settings: Mapping[str, Any]) -> pa.Table:
    """As `measure_added`, but Ctrl-C comes at the image that `stop` names, if the file `there` exists."""
    if pair.image.image_id == settings["stop"] and Path(settings["there"]).exists():
        raise KeyboardInterrupt
    return measure_added(pair, settings)


def measure_or_die(pair: ImagePair, settings: Mapping[str, Any]) -> pa.Table:
    """As `measure_added`, but the image that `fatal` names takes its process with it, as a crash of a library would."""
    if pair.image.image_id == settings["fatal"]:
        os._exit(11)
    return measure_added(pair, settings)
