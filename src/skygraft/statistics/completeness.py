"""Completeness: the fraction of fakes that is found, over any columns, with its errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from skygraft.errors import ConfigError
from skygraft.statistics.cells import By, Cells, check_groups, make_cells
from skygraft.statistics.counts import Group, count, groups_of, weights_of
from skygraft.statistics.intervals import wilson
from skygraft.statistics.rows import Rows, Where, open_rows

__all__ = ["check_bootstrap", "completeness", "fractions"]


def check_bootstrap(bootstrap: int) -> int:
    """The number of bootstrap replicates, if it is 0 or from 2 to 10 000; else a `ConfigError`."""
    if isinstance(bootstrap, bool) or int(bootstrap) != bootstrap or not (bootstrap == 0 or 2 <= bootstrap <= 10_000):
        raise ConfigError(
            f"the number of bootstrap replicates is {bootstrap!r}", key="bootstrap", fix="Give 200; 0 for no errors"
        )
    return int(bootstrap)


def completeness(
    data: Any,
    by: By | None = "mag",
    *,
    found: str = "found",
    where: Where = None,
    usable: str | None = "usable",
    weight: str | None = "weight",
    source: Group = "injection_id",
    patch: Group = ("tract", "patch"),
    interval: float = 0.6827,
    bootstrap: int = 200,
    seed: int = 0,
) -> xr.Dataset:
    """The fraction of fakes that is found, in bins of any columns, with its errors.

    Rows are streamed: tables of 10⁸ rows need no more memory than their bins. Results do not depend on the order of the
    rows or on how they are read.

    Parameters
    ----------
    data : path-like, table or mapping
        The recovery table, or any table with a row for each fake and image: the path of a Parquet folder or file, a
        pyarrow Dataset or Table, a pandas or polars DataFrame, an astropy Table, a mapping of arrays.
    by : str, sequence of str, mapping or None
        Columns to bin by, or a mapping of columns to bins: edges, a number of bins, a list of categories, or "auto".
        None for one number of all rows.
    found : str
        Column that says whether the fake was found.
    where : pyarrow.compute.Expression, str, list or None
        Rows to keep: an expression, the name of a column of true and false, or ``[("band", "==", "r")]``.
    usable : str or None
        Column of true and false that rows must fulfil as well, by default ``usable`` if there is one. None for all.
    weight : str or None
        Column of weights, by default ``weight`` if there is one. None for equal weights.
    source, patch : str, sequence of str or None
        Columns that tell sources, and patches of the sky, apart: rows that share one are not independent.
    interval : float
        Probability of the Wilson interval.
    bootstrap : int
        Number of replicates; 0 for no bootstrap errors.
    seed : int
        Of the bootstrap.

    Returns
    -------
    xarray.Dataset
        Over the columns of `by`, with ``<column>_lower`` and ``<column>_upper`` edges: ``n`` and ``n_found`` (rows),
        ``n_effective`` (Kish's for weighted rows), ``completeness``, ``lower`` and ``upper`` (Wilson 1927, as if rows
        were independent), ``error_source`` and ``error_patch`` (bootstrap by source and by patch). Empty bins are NaN.
        Attributes: ``design_effect_source`` and ``design_effect_patch``, the variance over that of independent rows,
        ``n_outside`` (rows in no bin), and provenance.

    Raises
    ------
    CatalogError
        If a column is missing (with the nearest names), or cannot be used.
    ConfigError
        If an argument is not allowed.
    """
    rows = open_rows(data, where=where, usable=usable)
    check_bootstrap(bootstrap)
    rows.require([found])
    weight = weights_of(rows, weight)
    groups = groups_of(rows, source, patch)
    cells = make_cells(rows, by)
    return fractions(rows, cells, found, weight, groups, interval, bootstrap, seed)


def fractions(
    rows: Rows,
    cells: Cells,
    found: str,
    weight: str | None,
    groups: dict[str, list[str]],
    interval: float,
    bootstrap: int,
    seed: int,
) -> xr.Dataset:
    """The fraction of rows that are true, in cells: what `completeness` returns."""
    if bootstrap and groups:
        check_groups(cells)
    sums = count(rows, cells, found=found, weight=weight, groups=groups if bootstrap else {}, seed=seed)
    fraction, effective = sums.fraction, sums.n_effective
    lower, upper = wilson(fraction, effective, interval)
    nothing = np.full(cells.size, np.nan)
    errors = {kind: sums.error(kind, bootstrap, seed) for kind in sums.by_group}
    percent = f"{100 * interval:g} %"
    return cells.dataset(
        {
            "n": (sums.n, "", "fakes and images"),
            "n_found": (sums.n_found, "", "of these, found"),
            "n_effective": (effective, "", "number of equally weighted ones with the same variance"),
            "completeness": (fraction, "", "fraction found"),
            "lower": (lower, "", f"lower end of the {percent} Wilson interval"),
            "upper": (upper, "", f"upper end of the {percent} Wilson interval"),
            "error_source": (errors.get("source", nothing), "", "standard error by bootstrap of sources"),
            "error_patch": (errors.get("patch", nothing), "", "standard error by bootstrap of patches"),
        },
        {
            "title": "completeness",
            "found": found,
            "weights": weight or "none",
            "interval": interval,
            "n_outside": sums.n_outside,
            "bootstrap": bootstrap,
            "seed": seed,
        }
        | {f"{kind}_columns": ", ".join(names) for kind, names in groups.items()}
        | {f"design_effect_{kind}": sums.design_effect(kind) for kind in sums.by_group}
        | rows.attrs(),
    )
