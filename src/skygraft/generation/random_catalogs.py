"""Generate catalogues of fake sources, at random positions or on a grid, from explicit populations.

Results are a function of the seed. Each property has its own random stream, so that adding a band or changing shapes
does not move the sources.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog.checks import validate
from skygraft.catalog.schema import SERSIC_RANGE, values
from skygraft.errors import CatalogError, CorruptFileError
from skygraft.fitsfile.open import open_fits
from skygraft.generation.region import as_region, tangent_to_sky
from skygraft.generation.separated import separated_vectors

__all__ = ["Population", "cosmos_shapes", "grid_catalog", "random_catalog", "star_catalog"]

Array = NDArray[np.float64]
COSMOS_PIXEL = 0.03  # arcsec, of the GalSim COSMOS fits


@dataclass(frozen=True)
class Population:
    """A population of sources: distributions of types, magnitudes, colours and shapes.

    Parameters
    ----------
    mag_range : (float, float)
        AB magnitudes of the first band.
    mag_slope : float
        Number counts are ``dN/dm ~ 10**(mag_slope * m)``; 0 is uniform, 0.3 is typical of faint galaxies.
    colors : mapping of str to float
        Mean of (band - first band) for other bands; 0 by default.
    color_scatter : float
        Standard deviation of each colour, mag.
    star_fraction : float
        Fraction of stars; the others are Sersic galaxies.
    log_radius : (float, float)
        Lognormal distribution of half-light radii (circularised, arcsec): median at magnitude 22, and standard
        deviation of the natural logarithm.
    radius_slope : float
        Change of log10(median radius) per magnitude; -0.1 makes fainter galaxies smaller.
    log_n : (float, float)
        Lognormal distribution of Sersic indices, truncated to [0.3, 6.2]: median, and standard deviation of the natural
        logarithm.
    q_range : (float, float)
        Range of axis ratios, which are uniform. Position angles are uniform in [0, 180) degrees.
    """

    mag_range: tuple[float, float] = (18.0, 26.0)
    mag_slope: float = 0.0
    colors: Mapping[str, float] | None = None
    color_scatter: float = 0.0
    star_fraction: float = 0.5
    log_radius: tuple[float, float] = (0.5, 0.4)
    radius_slope: float = -0.1
    log_n: tuple[float, float] = (1.5, 0.5)
    q_range: tuple[float, float] = (0.2, 1.0)

    def __post_init__(self) -> None:
        for name, low, high in (("mag_range", -50.0, 60.0), ("q_range", 0.0, 1.0)):
            first, last = getattr(self, name)
            if not low < first <= last <= high:
                raise CatalogError(
                    f"{name} is ({first}, {last}); both must be in ({low:g}, {high:g}], in order", key=name
                )
        if not 0.0 <= self.star_fraction <= 1.0:
            raise CatalogError(f"star_fraction is {self.star_fraction}; it must be in [0, 1]", key="star_fraction")
        if not SERSIC_RANGE[0] <= self.log_n[0] <= SERSIC_RANGE[1] or self.log_n[1] < 0:
            raise CatalogError(f"log_n is {self.log_n}; the median must be in {list(SERSIC_RANGE)}", key="log_n")
        if self.log_radius[0] <= 0 or self.log_radius[1] < 0:
            raise CatalogError(f"log_radius is {self.log_radius}; the median must be positive", key="log_radius")


def _stream(seed: int, what: int) -> np.random.Generator:
    """Return the random stream of one property."""
    if seed < 0:
        raise CatalogError(f"the seed is {seed}; it must be 0 or more", key="seed")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, what])))


def random_catalog(
    region: Any,
    *,
    bands: Sequence[str],
    n: int | None = None,
    density: float | None = None,
    seed: int = 0,
    population: Population | None = None,
    shapes: QTable | None = None,
    min_separation: float = 0.0,
    first_id: int = 0,
) -> QTable:
    """Generate sources that are uniformly distributed over a region of the sky.

    Parameters
    ----------
    region : Region or description of one
        See `skygraft.generation.region.as_region`; ``skymap.patch_polygon`` returns the polygon of a patch.
    bands : sequence of str
        Bands; `Population.mag_range` applies to the first.
    n : int, optional
        Number of sources. Give either `n` or `density`.
    density : float, optional
        Sources per square arcminute.
    seed : int
    population : Population, optional
    shapes : QTable, optional
        Galaxies from which rows of ``n``, ``half_light_radius`` and ``q`` are drawn with replacement (see
        `cosmos_shapes`), instead of the population's shapes; a column ``mag`` replaces the first band's magnitudes.
    min_separation : float
        Smallest distance between sources, arcsec.
    first_id : int
        First injection id; the others follow.

    Returns
    -------
    QTable
        Canonical table; the same for the same arguments, on every machine.

    Raises
    ------
    CatalogError
        If an argument is invalid, or the region has no room for more sources at this separation.
    """
    where = as_region(region)
    if (n is None) == (density is None):
        raise CatalogError("give either n or density (sources per square arcminute)", key="density")
    count = int(n) if n is not None else round(float(density or 0.0) * where.area * 3600.0)
    if count < 1:
        raise CatalogError(
            f"no sources: the region of {where.area:.3g} square degrees would hold {count}",
            key="density" if n is None else "n",
            fix="Raise the density or the number",
        )
    if min_separation > 0:
        vectors = separated_vectors(where, count, min_separation, _stream(seed, 0))
    else:
        vectors = where.sample(count, _stream(seed, 0))
    ra, dec = where.positions(vectors)
    return _populate(ra, dec, bands, population or Population(), shapes, seed, first_id)


def grid_catalog(
    region: Any,
    *,
    spacing: float,
    bands: Sequence[str],
    seed: int = 0,
    population: Population | None = None,
    shapes: QTable | None = None,
    jitter: float = 0.0,
    first_id: int = 0,
) -> QTable:
    """Generate sources on a square grid in the tangent plane at the region's centre.

    Parameters
    ----------
    region : Region or description of one
        Region with a radius of less than 30 degrees.
    spacing : float
        Distance between neighbours, arcsec.
    jitter : float
        Each source is moved by a random offset, uniform in a square of this half side, arcsec; sources that all lie at
        the same sub-pixel position would hide errors of sub-pixel shifts.
    bands, seed, population, shapes, first_id
        As in `random_catalog`.

    Returns
    -------
    QTable
        Canonical table.

    Raises
    ------
    CatalogError
        If the spacing is not positive or no grid point is inside the region.
    """
    where = as_region(region)
    if spacing <= 0 or where.radius >= 30.0:
        raise CatalogError(
            f"a grid of {spacing} arcsec over a radius of {where.radius:.3g} degrees",
            key="spacing",
            fix="Give a positive spacing and a region of less than 30 degrees in radius",
        )
    half = int(np.ceil(np.tan(np.radians(where.radius)) * np.degrees(3600.0) / spacing))
    steps = np.arange(-half, half + 1) * spacing
    eta, xi = (axis.ravel() for axis in np.meshgrid(steps, steps, indexing="ij"))
    inside = where.contains(*tangent_to_sky(where.ra, where.dec, xi, eta))
    xi, eta = xi[inside], eta[inside]
    if xi.size == 0:
        raise CatalogError("no point of the grid is inside the region", key="spacing", fix="Lower the spacing")
    if jitter:
        rng = _stream(seed, 0)
        xi = xi + rng.uniform(-jitter, jitter, xi.size)
        eta = eta + rng.uniform(-jitter, jitter, eta.size)
    ra, dec = tangent_to_sky(where.ra, where.dec, xi, eta)
    return _populate(ra, dec, bands, population or Population(), shapes, seed, first_id)


def star_catalog(ra: Any, dec: Any, mags: Mapping[str, Any], *, first_id: int = 0, **columns: Any) -> QTable:
    """Build a catalogue of stars with given positions and magnitudes.

    Parameters
    ----------
    ra, dec : array-like, shape (N,)
        ICRS degrees.
    mags : mapping of str to float or array-like
        AB magnitudes per band.
    first_id : int
        First injection id; the others follow.
    **columns
        Other canonical columns.

    Returns
    -------
    QTable
        Canonical table.
    """
    ra, dec = np.broadcast_arrays(np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float)))
    table = QTable()
    table["injection_id"] = np.arange(first_id, first_id + ra.size, dtype=np.int64)
    table["ra"], table["dec"] = ra.copy() * u.deg, dec.copy() * u.deg
    table["source_type"] = np.full(ra.size, "Star")
    for band, mag in mags.items():
        table[f"mag_{band}"] = np.broadcast_to(np.asarray(mag, float), ra.shape).copy() * u.mag
    for name, value in columns.items():
        table[name] = np.broadcast_to(value, ra.shape).copy() if np.ndim(value) == 0 else value
    return validate(table)


def _populate(
    ra: Array, dec: Array, bands: Sequence[str], population: Population, shapes: QTable | None, seed: int, first_id: int
) -> QTable:
    """Add types, magnitudes and shapes to positions."""
    if isinstance(bands, str) or not bands or len(set(bands)) != len(bands):
        raise CatalogError(f"bands is {bands!r}; a list of different names is needed", key="bands")
    colors = dict(population.colors or {})
    unknown = sorted(set(colors) - set(bands[1:]))
    if unknown:
        raise CatalogError(f"a colour is given for {', '.join(unknown)}, not among the later bands", key="colors")
    size = ra.size
    star = _stream(seed, 1).random(size) < population.star_fraction
    mag = _magnitudes(population, size, _stream(seed, 2))
    rng = _stream(seed, 3)
    if shapes is not None:
        pick = rng.integers(0, len(shapes), size)
        n, radius, q = (values(shapes, name)[pick] for name in ("n", "half_light_radius", "q"))
        if "mag" in shapes.colnames:
            mag = np.where(star, mag, values(shapes, "mag")[pick])
    else:
        n = _lognormal_within(*population.log_n, SERSIC_RANGE, size, rng)
        shift = 10.0 ** (population.radius_slope * (mag - 22.0))
        radius = population.log_radius[0] * shift * np.exp(population.log_radius[1] * rng.standard_normal(size))
        q = rng.uniform(*population.q_range, size)
    pa = _stream(seed, 4).uniform(0.0, 180.0, size)
    table = QTable()
    table["injection_id"] = np.arange(first_id, first_id + size, dtype=np.int64)
    table["ra"], table["dec"] = ra * u.deg, dec * u.deg
    table["source_type"] = np.where(star, "Star", "Sersic")
    for i, band in enumerate(bands):
        # Random streams are named after bands, so that another band does not change these.
        key = int.from_bytes(band.encode()[:16].ljust(16, b"\0"), "little")
        scatter = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, 5, key]))).standard_normal(size)
        offset = colors.get(band, 0.0) + population.color_scatter * scatter if i else 0.0
        table[f"mag_{band}"] = (mag + offset) * u.mag
    if not star.all():
        for name, array, unit in (
            ("n", n, None),
            ("half_light_radius", radius, u.arcsec),
            ("q", q, None),
            ("pa", pa, u.deg),
        ):
            column = np.where(star, np.nan, array)
            table[name] = column if unit is None else column * unit
    return validate(table)


def _magnitudes(population: Population, size: int, rng: np.random.Generator) -> Array:
    """Draw magnitudes with dN/dm ~ 10**(slope m), by inverting the cumulative distribution."""
    low, high = population.mag_range
    uniform = rng.random(size)
    rate = population.mag_slope * np.log(10.0)
    if abs(rate) * (high - low) < 1e-12:
        return low + uniform * (high - low)
    return np.asarray(low + np.log1p(uniform * np.expm1(rate * (high - low))) / rate, dtype=np.float64)


def _lognormal_within(
    median: float, sigma: float, limits: tuple[float, float], size: int, rng: np.random.Generator
) -> Array:
    """Draw lognormal values within limits, by rejection."""
    out = median * np.exp(sigma * rng.standard_normal(size))
    while (bad := (out < limits[0]) | (out > limits[1])).any():
        out[bad] = median * np.exp(sigma * rng.standard_normal(int(bad.sum())))
    return out


def cosmos_shapes(path: str | os.PathLike[str]) -> QTable:
    """Read single-Sersic fits of real galaxies from a GalSim COSMOS catalogue (``real_galaxy_catalog_*_fits.fits``).

    The table contains the half-light *semi-major* axis in 0.03 arcsec pixels, the index and the axis ratio (see
    `COSMOSCatalog` of GalSim). Failed fits and indices outside [0.3, 6.2] are left out.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    QTable
        ``n``, ``half_light_radius`` (circularised, arcsec), ``q``, and ``mag`` (F814W AB).

    Raises
    ------
    CatalogError
        If columns are missing or no fit is usable.
    CorruptFileError
        If the file cannot be read.
    """
    try:
        with open_fits(path, memmap=False) as hdus:
            data = hdus[1].data
    except IndexError as error:
        raise CorruptFileError(f"not a readable FITS table: {error}", path=path) from error
    names = set(data.dtype.names or ())
    if not {"sersicfit", "mag_auto", "fit_status"} <= names:
        raise CatalogError(
            "the table has no sersicfit, mag_auto and fit_status",
            path=path,
            fix="Give the *_fits.fits file of a GalSim COSMOS catalogue",
        )
    fit = np.asarray(data["sersicfit"], dtype=np.float64)
    axis, n, q = fit[:, 1], fit[:, 2], fit[:, 3]
    status = np.asarray(data["fit_status"])[:, 4]
    usable = (status > 0) & (status < 5) & (n >= SERSIC_RANGE[0]) & (n <= SERSIC_RANGE[1])
    usable &= (q > 0) & (q <= 1) & (axis > 0)
    if not usable.any():
        raise CatalogError("none of the fits is usable", path=path)
    table = QTable()
    table["n"] = n[usable]
    table["half_light_radius"] = (axis * np.sqrt(q))[usable] * COSMOS_PIXEL * u.arcsec
    table["q"] = q[usable]
    table["mag"] = np.asarray(data["mag_auto"], dtype=np.float64)[usable] * u.mag
    return table
