"""The columns of the truth that drawing finds."""

from __future__ import annotations

import astropy.units as u
import numpy as np
from astropy.table import Column, QTable
from numpy.typing import NDArray

from skygraft.catalog import Flag
from skygraft.catalog.flags import has_flag
from skygraft.catalog.truth_columns import TRUTH_COLUMNS
from skygraft.exposure import Exposure
from skygraft.render import RenderReport
from skygraft.wcs import pixel_scales

__all__ = ["forget_what_did_not_land", "report_into"]


def forget_what_did_not_land(truth: QTable, rows: NDArray[np.intp], report: RenderReport) -> None:
    """Report sources off the image that left no light on it as out of reach: the corner of their stamp is empty.

    Parameters
    ----------
    truth : QTable
        The truth table; its flags are changed.
    rows : ndarray of int, shape (M,)
        Rows of the sources that were drawn.
    report : RenderReport
        What drawing found of them; changed.
    """
    off = has_flag(truth["flags"][rows], Flag.CENTER_OFF_IMAGE)
    none = off & (report.stamp_size > 0) & (report.flux_deposited == 0)
    report.stamp_size[none] = 0
    for empty in (report.aperture_fraction, report.kernel_scale, report.psf_fwhm):
        empty[none] = np.nan
    report.flags[none] = int(Flag.NO_OVERLAP)
    truth["flags"][rows[none]] &= ~int(Flag.CENTER_OFF_IMAGE | Flag.PHOTOCALIB_EXTRAPOLATED)


def report_into(truth: QTable, rows: NDArray[np.intp], report: RenderReport, exposure: Exposure) -> None:
    """Fill in the columns of the truth that drawing finds.

    Parameters
    ----------
    truth : QTable
        The truth table, changed in place.
    rows : ndarray of int, shape (M,)
        Rows of the sources that were drawn.
    report : RenderReport
        What drawing found of them; its arrays become columns where all rows were drawn, the FWHM in arcsec.
    exposure : Exposure
        The image, for its pixel scale.
    """
    truth["flags"][rows] |= report.flags
    report.psf_fwhm *= pixel_scales(exposure.wcs, *(np.asarray(truth[name])[rows] for name in ("x", "y")))
    for column in TRUTH_COLUMNS:
        if column.before is None:
            continue
        found = getattr(report, column.name)
        if len(rows) == len(truth):  # no second copy of ten million rows
            whole = found
        else:
            whole = np.full(len(truth), column.before, dtype=found.dtype)
            whole[rows] = found
        content = u.Quantity(whole, column.unit, copy=False) if column.quantity else Column(whole, copy=False)
        truth.replace_column(column.name, content)
