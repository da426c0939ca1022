"""Rows of a verification: the verdict of each check on each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

__all__ = ["CHECKS", "SCHEMA", "Row", "Verdict", "judge", "rows_table"]

type Verdict = Literal["passes", "fails", "too few stars", "not applicable"]

CHECKS = {
    "outputs": "the outputs of the image can be read",
    "checksum": "its files are as they were written",
    "version": "this skygraft would make the same pixels",
    "closure": "isolated stars have their flux in the calibration aperture (mag)",
    "flux": "sources have their flux, all pixels together (relative)",
    "centroid": "isolated sources are where they were put (pixels)",
    "position angle": "elongated sources have their position angle (degrees)",
    "untouched": "pixels that no light reaches are as they were (number that are not)",
    "variance": "the variance of the sources was added (relative)",
    "mask": "INJECTED and INJECTED_CORE are set where the sources are (number of pixels off)",
    "truth": "record, truth and catalogue agree (number of rows and values that do not)",
    "residual": "what is left without the sources is their photon noise, block by block (standard deviations)",
    "primary": "one primary row at most for each source, band and visit (number with more)",
    "tables": "the tallies of the sources are those of the truth (number that are not)",
}
"""What each check says if it passes, and the unit of its value."""

_STAR = pa.struct([(name, pa.float32()) for name in ("mag_in", "residual", "sigma", "psf_sum_residual")])

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("band", pa.string()),
        ("check", pa.string()),
        ("verdict", pa.string()),
        ("value", pa.float64()),
        ("limit", pa.float64()),
        ("error", pa.float64()),
        ("n", pa.int64()),
        ("note", pa.string()),
        ("stars", pa.list_(_STAR)),
    ]
)
"""Columns of a verification."""


@dataclass(frozen=True)
class Row:
    """The verdict of one check.

    Parameters
    ----------
    check : str
        One of `CHECKS`.
    verdict : {"passes", "fails", "too few stars", "not applicable"}
        Whether it holds; ``too few stars`` where a mistake would not be seen.
    value, limit, error : float
        What was found, up to where it passes, and its standard error.
    n : int
        Sources, pixels, blocks, rows or files that were looked at.
    note : str
        What is wrong, or why nothing can be said.
    stars : list of dict
        Of closure: ``mag_in``, ``residual``, ``sigma`` and ``psf_sum_residual`` of each star, mag.
    """

    check: str
    verdict: Verdict
    value: float = np.nan
    limit: float = np.nan
    error: float = np.nan
    n: int = 0
    note: str = ""
    stars: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def of(cls, check: str, passes: bool, value: float, limit: float, **more: Any) -> Row:
        """A check that passes or fails."""
        return cls(check, "passes" if passes else "fails", float(value), limit, **more)


SURE, GROSS = 5.5, 10.0
"""Standard errors beyond the tolerance from which on an image fails, and one that is measured less well than needed."""


def judge(value: float, error: float, tolerance: float, resolution: float) -> tuple[Verdict, float]:
    """Judge a measured deviation from what it should be.

    Parameters
    ----------
    value, error : float
        The deviation, and its standard error.
    tolerance : float
        Deviation that passes whatever its error.
    resolution : float
        Deviation that must be seen: where it would not, a value that passes is too uncertain.

    Returns
    -------
    verdict : {"passes", "fails", "too few stars"}
    limit : float
        Deviation from which on it fails.
    """
    seen = tolerance + SURE * error <= resolution
    limit = tolerance + (SURE if seen else GROSS) * error
    return ("fails" if abs(value) > limit else "passes" if seen else "too few stars"), limit


def rows_table(image_id: str, band: str, rows: Sequence[Row]) -> pa.Table:
    """Put the rows of an image into a table.

    Parameters
    ----------
    image_id, band : str
        The image.
    rows : sequence of Row

    Returns
    -------
    pyarrow.Table
        With the columns of `SCHEMA`.
    """
    names = [name for name in SCHEMA.names if name not in ("image_id", "band")]
    columns: dict[str, Any] = {"image_id": [image_id] * len(rows), "band": [band] * len(rows)}
    columns |= {name: [getattr(row, name) for row in rows] for name in names}
    return pa.table(columns, schema=SCHEMA)
