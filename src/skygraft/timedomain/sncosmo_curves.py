"""Light curves of `sncosmo <https://sncosmo.readthedocs.io>`_ models (``pip install skygraft[sncosmo]``)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog.columns import ColumnReader
from skygraft.catalog.tables import as_table
from skygraft.errors import CatalogError, ConfigError
from skygraft.photometry.units import AB_REFERENCE_FLUX_NJY

__all__ = ["sncosmo_light_curves"]

_OTHERS = ("id", "peak_mag")


def sncosmo_light_curves(
    model: Any, parameters: Any, bands: Mapping[str, Any], *, step: float = 1.0, peak_band: str | None = None
) -> QTable:
    """Make a table of light curves from a model of sncosmo and a table of its parameters.

    Parameters
    ----------
    model : sncosmo.Model, sncosmo.Source or str
        The model, or the name of one of sncosmo's (which it downloads when it is first used).
    parameters : table-like
        A row for each curve: ``id`` (by default the row's number), the model's parameters by their names (``z``, ``t0``
        in days, ``x0``, ``c``, ...; those without a column keep the model's values), and optionally ``peak_mag``.
    bands : mapping of str to str or sncosmo.Bandpass
        Bands as the images call them, and as sncosmo does, such as ``{"g": "lsstg"}``.
    step : float
        Days between two times of a curve; between them its flux will be linear.
    peak_band : str, optional
        One of `bands`: the curves are scaled so that their brightest AB magnitude in it is ``peak_mag``.

    Returns
    -------
    QTable
        Columns ``id``, ``mjd`` (d), ``band`` and ``flux`` (nJy), that `skygraft.inject` takes as ``light_curves=``, and
        a campaign from a file.

    Raises
    ------
    ConfigError
        If sncosmo is not installed, or an argument is not one of those allowed.
    CatalogError
        If a parameter is missing or not the model's, or the model does not cover a band.
    """
    try:
        import sncosmo
    except ImportError as error:
        raise ConfigError(
            "light curves of sncosmo need that package", fix="Install it: pip install 'skygraft[sncosmo]'"
        ) from error
    if not step > 0 or not bands:
        raise ConfigError(f"step is {step!r} and bands {dict(bands)!r}; a positive number and some bands are needed")
    table = as_table(parameters)
    if ("peak_mag" in table.colnames) != (peak_band is not None) or (peak_band is not None and peak_band not in bands):
        raise ConfigError(
            f"peak_band is {peak_band!r}", key="peak_band", fix="Give one of the bands together with a column peak_mag"
        )
    own = copy.deepcopy(model) if isinstance(model, sncosmo.Model) else sncosmo.Model(source=model)
    known = [name for name in table.colnames if name not in _OTHERS]
    odd = [name for name in known if name not in own.param_names]
    if odd:
        raise CatalogError(
            f"the model has no parameter {odd[0]!r}; it has {', '.join(own.param_names)}",
            key=odd[0],
            fix="Rename the column, or remove it",
        )
    columns = {name: ColumnReader(table[name], name).floats() for name in known}
    ids = ColumnReader(table["id"], "id").texts() if "id" in table.colnames else np.arange(len(table)).astype(str)
    peaks = ColumnReader(table["peak_mag"], "peak_mag").floats("mag") if peak_band is not None else None
    parts: list[dict[str, NDArray[Any]]] = []
    for row, name in enumerate(ids.tolist()):
        values = {key: float(column[row]) for key, column in columns.items()}
        missing = [key for key, value in values.items() if not np.isfinite(value)]
        if missing or (peaks is not None and not np.isfinite(peaks[row])):
            raise CatalogError(
                f"{(missing or ['peak_mag'])[0]} of {name!r} is missing", row=row, key=(missing or ["peak_mag"])[0]
            )
        own.set(**values)
        count = max(int(np.ceil((own.maxtime() - own.mintime()) / step)), 1) + 1
        times = np.linspace(own.mintime(), own.maxtime(), count)
        curves = {band: _flux(own, of, times, name, row) for band, of in bands.items()}
        if peaks is not None and peak_band is not None:
            brightest = float(np.max(curves[peak_band]))
            if not brightest > 0:
                raise CatalogError(f"{name!r} has no light in {peak_band!r}", row=row, key="peak_mag")
            scale = AB_REFERENCE_FLUX_NJY * 10 ** (-0.4 * float(peaks[row])) / brightest
            curves = {band: scale * flux for band, flux in curves.items()}
        parts += [_part(name, band, times, flux) for band, flux in curves.items()]
    if not parts:
        raise CatalogError("the table of parameters has no rows", fix="Give at least one")
    out = {key: np.concatenate([part[key] for part in parts]) for key in ("id", "band", "mjd", "flux")}
    return QTable({"id": out["id"], "mjd": out["mjd"] * u.d, "band": out["band"], "flux": out["flux"] * u.nJy})


def _part(name: str, band: str, times: NDArray[np.float64], flux: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    return {"id": np.full(times.size, name), "band": np.full(times.size, band), "mjd": times, "flux": flux}


def _flux(model: Any, band: Any, times: NDArray[np.float64], name: str, row: int) -> NDArray[np.float64]:
    """Flux in a band at some times, nJy."""
    try:
        flux = np.asarray(model.bandflux(band, times, zp=0.0, zpsys="ab"), dtype=np.float64)
    except Exception as error:  # sncosmo raises what its interpolators and registries raise
        raise CatalogError(
            f"sncosmo cannot give the flux of {name!r} in {band!r} ({error})",
            row=row,
            key="band",
            fix="Choose bands that the model covers at this redshift, by sncosmo's names",
        ) from error
    return flux * AB_REFERENCE_FLUX_NJY
