"""Draw an image's sources again, without noise, to compare with what its output holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import QTable, vstack
from numpy.typing import NDArray
from scipy import signal

from skygraft.campaign.pairs import ImagePair
from skygraft.catalog.flags import Flag, has_flag
from skygraft.conventions import LSST
from skygraft.exposure import DIFFERENCE, Exposure
from skygraft.injection import InjectionOptions, inject
from skygraft.injection.calibrating import image_gain
from skygraft.injection.coadd_noise import image_noise
from skygraft.noise import NoiseCorrelation

__all__ = ["NoiseLaw", "Redrawn", "noise_law", "redraw", "stored_step"]

_FLOATS = (-32, -64)


@dataclass(frozen=True, eq=False)
class Redrawn:
    """The noise-free light of an image's sources, and their truth.

    Parameters
    ----------
    stars, others : ndarray of float32, shape (ny, nx)
        Light of the stars, and of all other sources, image units; stars that are in the template of a difference image
        count among the others.
    lit : ndarray of float32, shape (ny, nx) or (0, 0)
        Light that noise was drawn of, where it is not stars + others: that of a difference image without what it loses
        to the sources in its template.
    truth : QTable
        One row per source that reaches the image, in order of ``injection_id``.
    """

    stars: NDArray[np.float32]
    others: NDArray[np.float32]
    lit: NDArray[np.float32]
    truth: QTable


def redraw(pair: ImagePair, options: InjectionOptions) -> Redrawn:
    """Draw the sources of an image again: stars, and all others, each on an empty image without noise.

    Parameters
    ----------
    pair : ImagePair
        The image.
    options : InjectionOptions
        How it was injected.

    Returns
    -------
    Redrawn

    Raises
    ------
    SkygraftError
        As `skygraft.inject`.
    """
    before = pair.before
    empty = before.replace(planes=before.plain.with_arrays({"image": np.zeros(before.shape, np.float32)}))
    how = InjectionOptions.from_kwargs(options, noise=False, variance=None, mark_injected=False)
    band = pair.record.get("injection", {}).get("band") or pair.image.band

    def draw(chosen: QTable) -> tuple[NDArray[np.float32], QTable]:
        if not len(chosen):
            return np.zeros(before.shape, np.float32), pair.truth[:0]
        found = inject(
            empty,
            chosen,
            options=how,
            image_id=pair.image.image_id,
            band=band,
            on_bad="flag",
            light_curves=pair.light_curves,
            role=pair.role,
        )
        return found.exposure.image, found.truth[~has_flag(found.truth["flags"], Flag.NO_OVERLAP)]

    is_star = np.asarray(pair.sources["source_type"]).astype(str) == "Star"
    into, is_difference = _into(pair.sources), before.extra.get(DIFFERENCE) is not None
    if is_difference:
        is_star &= ~np.isin(into, ("template", "both"))
    stars, truth_of_stars = draw(pair.sources[is_star])
    others, truth_of_others = draw(pair.sources[~is_star])
    parts = [part for part in (truth_of_stars, truth_of_others) if len(part)]
    truth = vstack(parts, metadata_conflicts="silent") if parts else truth_of_stars
    if len(truth):
        truth.sort("injection_id")
    lit = np.zeros((0, 0), np.float32)
    if "inject_into" in pair.sources.colnames and is_difference:
        in_image = pair.sources[into != "template"]
        in_image.remove_column("inject_into")
        lit = draw(in_image)[0]
    return Redrawn(stars, others, lit, truth)


def _into(sources: QTable) -> NDArray[np.str_]:
    """The catalogue's `inject_into`; empty where it has no such column."""
    if "inject_into" not in sources.colnames:
        return np.full(len(sources), "", dtype=np.str_)
    return np.asarray(sources["inject_into"]).astype(np.str_)


@dataclass(frozen=True, eq=False)
class NoiseLaw:
    """How an image's photon noise was drawn.

    Parameters
    ----------
    quantum : ndarray of float32, shape (1, 1) or (ny, nx)
        Variance of the noise per expected flux, image units: one over the gain, of Poisson numbers the value of one; 0
        without noise.
    variance : ndarray of float32, shape (1, 1) or (ny, nx)
        Variance added to the variance plane per flux; 0 where none was added.
    of_noisy : bool
        Whether that is per flux as drawn, with its noise (LSST's source_injection), and not as expected.
    correlation : NoiseCorrelation or None
        Between pixels.
    """

    quantum: NDArray[np.float32]
    variance: NDArray[np.float32]
    of_noisy: bool = False
    correlation: NoiseCorrelation | None = None

    @property
    def is_noisy(self) -> bool:
        """Whether noise was drawn."""
        return bool(self.quantum.any())

    @property
    def gain(self) -> float | NDArray[np.float32] | None:
        """Electrons per image unit, as far as the noise goes: one number or a map; None without noise."""
        if not self.is_noisy:
            return None
        inverse = (1 / self.quantum).astype(np.float32)
        return float(inverse[0, 0]) if inverse.size == 1 else inverse

    @property
    def sum_factor(self) -> float:
        """Largest factor by which the correlation increases the variance of a sum over many pixels."""
        if self.correlation is None:
            return 1.0
        return max(float(np.abs(one).sum() ** 2) for one in self.correlation.filters)

    @property
    def square_factor(self) -> float:
        """Largest factor by which the correlation increases the variance of a sum of squares."""
        if self.correlation is None:
            return 1.0
        return max(float((signal.fftconvolve(one, one) ** 2).sum()) for one in self.correlation.filters)


def noise_law(before: Exposure, options: InjectionOptions, n_drawn: int) -> NoiseLaw:
    """Find how the photon noise of an image was drawn, from the image before injection alone.

    Parameters
    ----------
    before : Exposure
        The image before injection.
    options : InjectionOptions
        How it was injected.
    n_drawn : int
        Number of sources.

    Returns
    -------
    NoiseLaw

    Raises
    ------
    SkygraftError
        If the gain is not known any more.
    """
    none = np.zeros((1, 1), np.float32)
    if not n_drawn or not (options.noise or options.adds_variance):
        return NoiseLaw(none, none)
    if options.conventions == LSST:
        # Imported here, since it imports GalSim.
        from skygraft.injection.lsst.gains import fitted_gains
        from skygraft.injection.lsst.photon_noise import is_coadd

        gain, inverse = _maps(fitted_gains(before).value)
        quantum = (inverse if is_coadd(before) else gain) if options.noise else none
        return NoiseLaw(quantum, inverse if options.adds_variance else none, of_noisy=options.noise)
    inverse = _maps(image_gain(before, options).value)[1]
    model = image_noise(before, options.coadd_noise)
    return NoiseLaw(inverse, inverse, correlation=model.correlation)


def _maps(value: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A gain and its inverse, as maps of one number or of all pixels."""
    gain = np.atleast_2d(np.asarray(value, dtype=np.float32))
    return gain, (1 / gain).astype(np.float32)


def stored_step(path: Path) -> float:
    """Find the largest step between two values that a file's first image can hold.

    Parameters
    ----------
    path : Path
        A FITS file.

    Returns
    -------
    float
        0 for plain floats, and where the file does not say.
    """
    try:
        with fits.open(path, memmap=True, disable_image_compression=True) as hdus:
            for hdu in hdus:
                header = hdu.header
                if header.get("ZIMAGE", False):
                    if int(header.get("ZBITPIX", 0)) not in _FLOATS:
                        return abs(float(header.get("BSCALE", 1.0)))
                    if "ZSCALE" not in hdu.columns.names:
                        return abs(float(header.get("ZSCALE", 0.0)))
                    known = np.asarray(hdu.data["ZSCALE"], dtype=np.float64)
                    return float(np.max(known[np.isfinite(known)], initial=0.0))
                if hdu.is_image and int(header.get("NAXIS", 0)) >= 2:
                    return abs(float(header.get("BSCALE", 1.0))) if int(header["BITPIX"]) > 0 else 0.0
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0.0
