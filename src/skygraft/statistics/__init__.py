"""Completeness, biases, maps and selection functions, as datasets with errors, of any table.

Every function takes a table in any form (Parquet, Arrow, pandas, polars, astropy, a mapping of arrays) and streams it.
"""

from __future__ import annotations

from skygraft.statistics.biases import bias, position_bias
from skygraft.statistics.classification import confusion, purity
from skygraft.statistics.completeness import completeness
from skygraft.statistics.conditions import CONDITIONS, correlations
from skygraft.statistics.files import load_dataset, save_dataset
from skygraft.statistics.fits import CompletenessFit, Level, fit_completeness
from skygraft.statistics.intervals import wilson
from skygraft.statistics.maps import sky_map
from skygraft.statistics.selection import SelectionFunction, selection
from skygraft.statistics.transients import detected_by, first_detection, transient_efficiency

__all__ = [
    "CONDITIONS",
    "CompletenessFit",
    "Level",
    "SelectionFunction",
    "bias",
    "completeness",
    "confusion",
    "correlations",
    "detected_by",
    "first_detection",
    "fit_completeness",
    "load_dataset",
    "position_bias",
    "purity",
    "save_dataset",
    "selection",
    "sky_map",
    "transient_efficiency",
    "wilson",
]
