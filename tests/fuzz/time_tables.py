"""Damaged tables of light curves, ephemerides and wings, in every format that they are read from."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from fuzz.judge import SilentError
from fuzz.kit import Fuzz
from fuzz.mutate import Change
from fuzz.mutate_tables import table_mutator, written
from kits.orbits_kit import degrees, direction, sky_rates

WEIGHTS: dict[str, float] = {}
TIMES = 60100.0 + np.arange(7) / 8

type Arrays = dict[str, Any]


def _light_curves() -> dict[str, Table]:
    ids = np.repeat([f"sn{i}" for i in range(3)], 4)
    mjd, mag = np.tile(60000.0 + 5 * np.arange(4), 3), 20 + np.arange(12) / 4
    flux = 3631e9 * 10 ** (-0.4 * mag)
    long = Table({"id": ids, "mjd": mjd, "band": np.tile(["g", "r"], 6), "mag": mag})
    fluxes = Table({"light_curve": np.repeat(np.arange(3), 4), "time": mjd, "filter": np.full(12, "r"), "flux": flux})
    fluxes["flux"].unit, fluxes["time"].unit = "nJy", "d"
    wide = Table({"id": np.repeat(np.arange(3), 4), "mjd": mjd, "mag_g": np.where(mag < 21, np.nan, mag), "mag_r": mag})
    wide["mjd"].unit = "d"
    return {"long": long, "fluxes": fluxes, "wide": wide}


def _ephemerides() -> dict[str, Table]:
    ra, dec = degrees(direction(TIMES))
    rates = sky_rates(direction, TIMES)
    n, mag = len(TIMES), 19 + np.arange(len(TIMES)) / 10
    native = Table({"id": np.full(n, 7), "mjd": TIMES, "ra": ra, "dec": dec, "rate_ra_cosdec": rates[0],
                    "rate_dec": rates[1], "mag_r": mag})  # fmt: skip
    for name, unit in {"mjd": "d", "ra": "deg", "dec": "deg", "rate_ra_cosdec": "arcsec/h",
                       "rate_dec": "arcsec/h"}.items():  # fmt: skip
        native[name].unit = unit
    sorcha = Table({"ObjID": np.full(n, "S1"), "fieldMJD_TAI": TIMES, "RA_deg": ra, "Dec_deg": dec,
                    "RARateCosDec_deg_day": rates[0] / 150, "DecRate_deg_day": rates[1] / 150,
                    "trailedSourceMag": mag, "optFilter": np.full(n, "r")})  # fmt: skip
    kbmod = Table({"Name": np.full(n, "K1"), "mjd_mid": TIMES, "RA": ra, "DEC": dec})
    horizons = Table({"targetname": np.full(n, "(433) Eros"), "datetime_jd": TIMES + 2400000.5, "RA": ra, "DEC": dec,
                      "RA_rate": rates[0], "DEC_rate": rates[1]})  # fmt: skip
    return {"native": native, "sorcha": sorcha, "kbmod": kbmod, "horizons": horizons}


def _wings() -> dict[str, Table]:
    radius = np.geomspace(3, 60, 12)
    linear = Table({"radius": radius, "surface_brightness": radius**-3.0})
    linear["radius"].unit = "arcsec"
    mags = Table({"radius": radius, "surface_brightness": 20 + 7.5 * np.log10(radius)})
    mags["radius"].unit, mags["surface_brightness"].unit = "arcsec", "mag / arcsec2"
    return {"linear": linear, "mags": mags}


_ENDINGS = {
    "long": (".parquet", ".csv"), "fluxes": (".fits", ".ecsv"), "wide": (".parquet", ".vot"),
    "native": (".parquet", ".fits"), "sorcha": (".csv", ".parquet"), "kbmod": (".csv",), "horizons": (".ecsv", ".vot"),
    "linear": (".ecsv", ".fits"), "mags": (".ecsv", ".parquet"),
}  # fmt: skip
_ESSENTIAL = {
    "long": ("id", "mjd", "band", "mag"), "fluxes": ("light_curve", "time", "filter", "flux"), "wide": ("id", "mjd"),
    "native": ("id", "mjd", "ra", "dec"), "sorcha": ("ObjID", "fieldMJD_TAI", "RA_deg", "Dec_deg"),
    "kbmod": ("Name", "mjd_mid", "RA", "DEC"), "horizons": ("targetname", "datetime_jd", "RA", "DEC"),
    "linear": ("radius", "surface_brightness"), "mags": ("radius", "surface_brightness"),
}  # fmt: skip
"""Columns without which a table of each kind means nothing."""
_NAMES = ("id", "light_curve", "ObjID", "Name", "targetname")
"""Columns of names, for which any word is as good as another."""


def _curves(path: Path) -> Arrays:
    """Light curves: what is kept, and fluxes between the times."""
    from skygraft.timedomain import LightCurves

    curves = LightCurves.read(path)
    found: Arrays = {"ids": curves.ids, "starts": curves.starts, "mjd": curves.mjd, "flux": curves.flux}
    which = np.repeat(np.arange(len(curves)), 3)
    times = np.tile([60001.0, 60007.3, 60012.0], len(curves))
    for band in curves.bands:
        found[f"flux of {band}"] = curves.flux_at(which, band, times)
    return found


def _ways(path: Path) -> Arrays:
    """Ephemerides: the pieces of their ways, and their magnitudes."""
    from skygraft.timedomain.ephemerides import read_ephemerides

    found = read_ephemerides(path)
    stars = found.stars(("r",))
    columns = {n: np.asarray(getattr(stars[n], "value", stars[n])) for n in stars.colnames}
    out = {n: v for n, v in columns.items() if n in ("ra", "dec", "pm_ra_cosdec", "pm_dec") or "rate" in n}
    return out | ({"magnitudes": found.light_curves().flux} if found.has_magnitudes else {})


def _profile(path: Path) -> Arrays:
    """Wings: the profile, and its light on an image."""
    from skygraft.injection.wing_settings import WingSettings

    wings = WingSettings.of({"model": "profile", "file": str(path), "join": "8 arcsec"}).on(0.5)
    r = np.geomspace(5, 100, 20)
    return {"light": wings.light(r), "total": np.array([wings.total]), "reach": np.array([wings.reach])}


_READ: dict[str, Callable[[Path], Arrays]] = {
    **dict.fromkeys(("long", "fluxes", "wide"), _curves),
    **dict.fromkeys(("native", "sorcha", "kbmod", "horizons"), _ways),
    **dict.fromkeys(("linear", "mags"), _profile),
}


def make(folder: Path) -> list[str]:
    """Write the tables by astropy and pyarrow, as the programs that make them do."""
    folder.mkdir(parents=True)
    names = []
    for kind, table in (_light_curves() | _ephemerides() | _wings()).items():
        for ending in _ENDINGS[kind]:
            (folder / f"{kind}{ending}").write_bytes(written(table, ending))
            names.append(f"{kind}{ending}")
    return names


def attempt(fuzz: Fuzz, name: str, case: Path, rng: np.random.Generator, what: list[str]) -> None:
    """Read what is damaged; what is accepted is finite, lacks nothing, and is the same where nothing was lost."""
    kind, ending = Path(name).stem, Path(name).suffix
    sound = fuzz.folder / "tables" / name
    before = fuzz.known(f"tables/{name}", lambda: _READ[kind](sound))
    case.mkdir()
    path = Path(shutil.copyfile(sound, case / name))
    change = fuzz.damage(path, rng, what, table_mutator(ending))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        after = _READ[kind](path)
    check_table(before, after, change, _ESSENTIAL[kind], bool(said))


def check_table(before: Arrays, after: Arrays, change: Change, essential: tuple[str, ...], loud: bool) -> None:
    """Raise unless what was read of a damaged table can be what it says.

    Parameters
    ----------
    before, after : dict of str to ndarray
        What the sound and the damaged table mean.
    change : Change
        What was done.
    essential : tuple of str
        Columns without which the table means nothing.
    loud : bool
        Whether something was said.

    Raises
    ------
    SilentError
        If numbers are not finite, an essential column or number is gone, or another form has another meaning.
    """
    for key, values in after.items():
        if np.asarray(values).dtype.kind != "f" or key.startswith("flux of"):
            continue  # NaN where a curve is not in the band
        new = ~np.isfinite(values)
        if key in before and np.shape(before[key]) == np.shape(values):
            new &= np.isfinite(before[key])
        elif key in before and not np.isfinite(before[key]).all():
            continue
        if new.any():
            raise SilentError(f"{key} is not finite")
    named = change.column in _NAMES and change.what.endswith((" words", " two numbers a cell"))
    if change.loses and change.column in essential and not named:
        raise SilentError(f"{change.loses} is gone, and nothing was said")
    missing = change.value is None or not np.isfinite(change.value)
    if change.value == np.inf and change.column == "mag":
        return  # no light
    if missing and change.column in essential and not loud:
        raise SilentError(f"{change.column} has {change.value}, and nothing was said")
    if change.keeps:
        check_same(before, after, change.what)


def check_same(before: Arrays, after: Arrays, what: str) -> None:
    """Raise unless both mean the same."""
    if before.keys() != after.keys():
        raise SilentError(f"{sorted(before.keys() ^ after.keys())} only before or after; {what}")
    for key, values in before.items():
        now = np.asarray(after[key])
        if now.shape != np.shape(values):
            raise SilentError(f"{key} has shape {now.shape}, before {np.shape(values)}; {what}")
        close = np.allclose(now, values, rtol=1e-8, atol=1e-12, equal_nan=True) if now.dtype.kind == "f" else (
            np.array_equal(now.astype(str), np.asarray(values).astype(str)))  # fmt: skip
        if not close:
            raise SilentError(f"{key} is another; {what}")
