"""Completeness, biases, maps and selection functions, as datasets with errors, of any table.

Every function takes a table in any form (Parquet, Arrow, pandas, polars, astropy, a mapping of arrays) and streams it.
"""

from __future__ import annotations

from skygraft.statistics.biases import bias, position_bias
from skygraft.statistics.completeness import completeness
from skygraft.statistics.files import load_dataset, save_dataset
from skygraft.statistics.fits import CompletenessFit, Level, fit_completeness
from skygraft.statistics.intervals import wilson
from skygraft.statistics.maps import sky_map

__all__ = [
    "CompletenessFit",
    "Level",
    "bias",
    "completeness",
    "fit_completeness",
    "load_dataset",
    "position_bias",
    "save_dataset",
    "sky_map",
    "wilson",
]
