"""The columns of the truth: one definition, which `inject`, the campaign's tables and the documentation follow.

A new column is a row here and one of docs/outputs.md, which `describe_columns` gives. If drawing finds its
values, it is a field of `skygraft.render.canvas.RenderReport` too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from astropy import units as u
from astropy.table import QTable

__all__ = ["TRUTH_COLUMNS", "TruthColumn", "describe_columns", "new_truth"]


class TruthColumn(NamedTuple):
    """One column of the truth.

    Parameters
    ----------
    name : str
        Its name.
    kind : {"int", "float", "text", "bool"}
        Of its values.
    meaning : str
        What it says, in Markdown; columns that follow each other and share a meaning are documented together.
    unit : str
        As astropy writes it; empty for none, and for fluxes, which are in the units of the image.
    quantity : bool
        Whether `inject` gives it as a Quantity; of other columns tables alone name the unit.
    before : float or int, optional
        Of columns that drawing fills: the value of sources that are not drawn.
    repeated : bool
        Whether it has few different values, which tables store once.
    """

    name: str
    kind: Literal["int", "float", "text", "bool"]
    meaning: str
    unit: str = ""
    quantity: bool = False
    before: float | int | None = None
    repeated: bool = False


_PLACE = "where the source was at the image's time, ICRS"
_PIXEL = "the same on the image, in the parent frame (first pixel's centre 0, plus XY0)"

TRUTH_COLUMNS = (
    TruthColumn("injection_id", "int", "the source, as in the catalogue"),
    TruthColumn(
        "object_id", "int", "the object that the source belongs to; its own injection id where it is one alone"
    ),
    TruthColumn("group_id", "int", "the group of objects that it belongs to; -1 for none"),
    TruthColumn("image_id", "text", "the image, as in the plan and the records", repeated=True),
    TruthColumn("ra", "float", _PLACE, "deg", quantity=True),
    TruthColumn("dec", "float", _PLACE, "deg", quantity=True),
    TruthColumn("x", "float", _PIXEL, "pix"),
    TruthColumn("y", "float", _PIXEL, "pix"),
    TruthColumn("source_type", "text", "what was drawn", repeated=True),
    TruthColumn("band", "text", "the image's band", repeated=True),
    TruthColumn(
        "mag",
        "float",
        "the magnitude asked for in that band, at the image's time and magnified; NaN where there is no positive flux",
        "mag",
    ),
    TruthColumn("inst_flux", "float", "its flux by the image's photometric calibration"),
    TruthColumn(
        "flux_deposited",
        "float",
        "noise-free flux that landed on the image: above `inst_flux` by the light outside the calibration aperture, "
        "below it where the image's edge cuts",
        before=0.0,
    ),
    TruthColumn(
        "aperture_fraction",
        "float",
        "part of the PSF model's own light inside the calibration aperture, at the source: the flux measured in the "
        "aperture over all the flux of a star. A model's sum (PSFEx: 1.01 to 1.08) does not enter; NaN where the "
        "calibration refers to no aperture",
        before=np.nan,
    ),
    TruthColumn("kernel_scale", "float", "what the PSF kernel was multiplied by", before=np.nan),
    TruthColumn("psf_fwhm", "float", "of the PSF at the source", "arcsec", quantity=True, before=np.nan),
    TruthColumn("stamp_size", "int", "side of the stamp drawn; 0 where nothing was", "pix", before=0),
    TruthColumn("flags", "int", "what happened to the source (below)"),
)
"""Columns of the truth of one image, in order."""

_DTYPES = {"int": np.int64, "float": np.float64}


def new_truth(n: int, values: Mapping[str, Any]) -> QTable:
    """The truth of `n` sources before they are drawn.

    Parameters
    ----------
    n : int
        Sources.
    values : mapping of str to array_like, shape (n,)
        Every column that drawing does not fill, in the unit of `TRUTH_COLUMNS`.

    Returns
    -------
    QTable
    """
    columns = {}
    for column in TRUTH_COLUMNS:
        if column.before is None:
            content = values[column.name]
        else:
            content = np.broadcast_to(np.array(column.before, dtype=_DTYPES[column.kind]), n)
        content = u.Quantity(content, column.unit, copy=False) if column.quantity else content
        columns[column.name] = content
    return QTable(columns, copy=False)


def describe_columns(columns: Iterable[TruthColumn]) -> list[tuple[str, str]]:
    """Names, in Markdown, and meaning of some columns, as the rows of a documentation's table."""
    groups = itertools.groupby(columns, key=lambda column: column.meaning)
    return [(", ".join(f"`{column.name}`" for column in group), meaning) for meaning, group in groups]
