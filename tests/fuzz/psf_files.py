"""Damaged PSF files of every kind: recognised, read for an image and evaluated."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from fuzz.images import DATA, crop, psfex_hdu
from fuzz.judge import SilentError
from fuzz.kit import Fuzz, copy_tree
from kits.survey_frames import CAMCOL, FIELD, RUN, write_psfield

WEIGHTS = {"piff": 0.4, "exposure": 0.5}
SCALE, SIDE = 0.2, 64
"""Arcsec per pixel and pixels a side of the image."""


def spot(n: int, sampling: float, sigma: float) -> np.ndarray[Any, Any]:
    """A star, light per sample."""
    y, x = (np.mgrid[:n, :n] - (n - 1) / 2) / sampling
    image = np.exp(-(x**2 + 1.1 * y**2) / (2 * sigma**2)) + 1e-5 / (1 + x**2 + y**2)
    return np.asarray(image / image.sum())


def _write(path: Path, *hdus: tuple[np.ndarray[Any, Any], dict[str, Any]]) -> dict[str, Any]:
    made: list[Any] = [fits.PrimaryHDU(hdus[0][0].astype(np.float32), fits.Header(hdus[0][1]))]
    made += [fits.ImageHDU(data.astype(np.float32), fits.Header(cards)) for data, cards in hdus[1:]]
    fits.HDUList(made).writeto(path)
    return {"path": path.name}


def _image(folder: Path) -> dict[str, Any]:
    return _write(folder / "psf.fits", (spot(21, 1, 1.5), {"PIXSCALE": SCALE}))


def _oversampled(folder: Path) -> dict[str, Any]:
    return _write(folder / "psf.fits", (spot(31, 3, 0.9), {})) | {"oversampling": 3, "pixel_integrated": True}


def _stpsf(folder: Path) -> dict[str, Any]:
    """The four extensions of a stamp of STPSF."""
    fine = 0.97 * spot(36, 4, 0.6)
    binned = fine.reshape(9, 4, 9, 4).sum(axis=(1, 3))
    cards = {"INSTRUME": "NIRCam", "DETECTOR": "NRCA1", "FILTER": "r", "DET_SAMP": 4, "PIXUNIT": "arcsec"}
    over, det = cards | {"PIXELSCL": SCALE / 4, "OVERSAMP": 4}, cards | {"PIXELSCL": SCALE, "OVERSAMP": 1}
    planes = {"OVERSAMP": (fine, over), "DET_SAMP": (binned, det), "OVERDIST": (fine, over), "DET_DIST": (binned, det)}
    return _write(folder / "psf.fits", *((data, how | {"EXTNAME": name}) for name, (data, how) in planes.items()))


def _grid(folder: Path) -> dict[str, Any]:
    """A cube with positions, which is photutils' GriddedPSFModel and a grid of STPSF."""
    images = np.array([0.98 * spot(25, 4, 0.6 * s) for s in (1, 1.1, 1.2, 1.3)]) * 16
    places = [(0.0, 0.0), (0.0, SIDE - 1.0), (SIDE - 1.0, 0.0), (SIDE - 1.0, SIDE - 1.0)]
    cards = {f"DET_YX{i}": str(place) for i, place in enumerate(places)}
    return _write(folder / "psf.fits", (images, {"OVERSAMP": 4, "DET_SAMP": 4, "PIXELSCL": SCALE / 4, **cards}))


def _stdpsf(folder: Path) -> dict[str, Any]:
    images = np.array([spot(21, 4, 0.5 + 0.002 * i) for i in range(6)]) * 16
    cards = {"NXPSFS": 3, "NYPSFS": 2, "IPSFX01": 1, "IPSFX02": 32, "IPSFX03": SIDE, "JPSFY01": 1, "JPSFY02": SIDE}
    return _write(folder / "STDPSF_NRCA1_F150W.fits", (images, cards)) | {"insist": True}


def _saved(folder: Path) -> dict[str, Any]:
    """What the product itself writes."""
    from skygraft.psf import Box, MoffatPSF, write_psf

    write_psf(MoffatPSF(3.0, 3.0, shape=(15, 15)), folder / "psf.fits", Box(-0.5, SIDE - 0.5, -0.5, SIDE - 0.5),
              pixel_scale=SCALE, n_grid=2, band="r")  # fmt: skip
    return {"path": "psf.fits"}


def _psfex(folder: Path) -> dict[str, Any]:
    fits.HDUList([fits.PrimaryHDU(), psfex_hdu()]).writeto(folder / "image.psf")
    return {"path": "image.psf"}


def _psfex_rows(folder: Path) -> dict[str, Any]:
    """A merged table of PSFEx models, a row for each CCD, as the Legacy Surveys have them."""
    hdu = psfex_hdu()
    mask = np.repeat(np.asarray(hdu.data["PSF_MASK"]), 2, axis=0)
    keys = {"POLNAXIS": "J", "POLZERO1": "D", "POLZERO2": "D", "POLSCAL1": "D", "POLSCAL2": "D", "POLDEG1": "J",
            "PSF_SAMP": "D", "PSF_FWHM": "D", "PSFAXIS1": "J", "PSFAXIS2": "J", "PSFAXIS3": "J"}  # fmt: skip
    columns = [fits.Column(k.lower(), form, array=[hdu.header[k]] * 2) for k, form in keys.items()]
    columns += [fits.Column(f"polname{i + 1}", "8A", array=[f"{a}_IMAGE"] * 2) for i, a in enumerate("XY")]
    columns += [fits.Column("expnum", "J", array=[7, 7]), fits.Column("ccdname", "3A", array=["S10", "N06"])]
    columns.append(fits.Column("psf_mask", f"{mask[0].size}E", dim="(25,25,3)", array=mask))
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(folder / "psfex.fits")
    return {"kind": "psfex", "path": "psfex.fits", "ccdname": "N06", "expnum": 7}


def _psfield(folder: Path) -> dict[str, Any]:
    name = f"psField-{RUN:06d}-{CAMCOL}-{FIELD:04d}.fit"
    write_psfield(folder / name)
    return {"kind": "psfield", "path": name, "band": "r"}


def _piff(folder: Path) -> dict[str, Any]:
    import galsim
    import piff

    stars, rng = [], np.random.default_rng(1)
    for x, y in rng.uniform(5, SIDE - 5, (8, 2)):
        star = piff.Star.makeTarget(x=x, y=y, wcs=galsim.PixelScale(SCALE), stamp_size=11)
        galsim.Gaussian(sigma=0.4 + 1e-3 * x).drawImage(star.image, method="no_pixel")
        stars.append(star)
    psf = piff.SimplePSF(piff.Gaussian(include_pixel=False), piff.Polynomial(order=1))
    psf.fit(stars, {0: galsim.PixelScale(SCALE)}, None)
    psf.write(str(folder / "model.piff"))
    return {"kind": "piff", "path": "model.piff", "allow_pickle": True}


def _exposure(folder: Path) -> dict[str, Any]:
    crop(DATA / "afw_reference/calexp_05_tansip_psfex_rice.fits", folder / "other.fits")
    return {"kind": "exposure", "path": "other.fits", "insist": True}


_KINDS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "image": _image, "oversampled": _oversampled, "stpsf": _stpsf, "grid": _grid, "stdpsf": _stdpsf, "saved": _saved,
    "psfex": _psfex, "psfex_rows": _psfex_rows, "psfield": _psfield, "piff": _piff, "exposure": _exposure,
}  # fmt: skip


def make(folder: Path) -> list[str]:
    """Write a folder a kind, with the settings in ``given.json``."""
    names = []
    for name, write in _KINDS.items():
        (folder / name).mkdir(parents=True)
        try:
            given = write(folder / name)
        except (FileNotFoundError, ModuleNotFoundError):
            continue
        (folder / name / "given.json").write_text(json.dumps(given))
        names.append(name)
    return names


def _read(folder: Path, given: dict[str, Any]) -> Any:
    from skygraft.exposure import DataId
    from skygraft.formats.given import make_psf
    from skygraft.formats.psf_target import PsfTarget
    from skygraft.psf import Box

    box = Box(-0.5, SIDE - 0.5, -0.5, SIDE - 0.5)
    target = PsfTarget(SCALE, None, DataId(band="r", visit=7), box)
    return make_psf(given | {"path": str(folder / given["path"])}, SCALE, target)


def _evaluated(psf: Any) -> Any:
    x, y = np.array([3.0, 30.4, 60.0]), np.array([5.0, 31.7, 58.0])
    return np.array(psf.kernels(x, y))


def attempt(fuzz: Fuzz, name: str, case: Path, rng: np.random.Generator, what: list[str]) -> None:
    """Read and evaluate; what is accepted is finite and has light, and is the sound PSF if only cards were lost."""
    from skygraft.formats.psf_kinds import recognise_psf
    from skygraft.psf import Box, check_psf_soundness

    sound = fuzz.folder / "psf" / name
    given = json.loads((sound / "given.json").read_text())
    before = fuzz.known(f"psf/{name}", lambda: _evaluated(_read(sound, given)))
    copy_tree(sound, case)
    change = fuzz.damage(case / given["path"], rng, what)
    if rng.random() < 0.3:
        recognise_psf(case / given["path"])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        psf = _read(case, given)
        # As injection does before a source is drawn.
        check_psf_soundness(psf, Box(-0.5, SIDE - 0.5, -0.5, SIDE - 0.5))
        after = _evaluated(psf)
    if not np.isfinite(after).all():
        raise SilentError("kernels are not finite")
    total = after.sum(axis=(1, 2))
    if not (total > 0).all():
        raise SilentError("kernels have no light")
    if not np.isfinite(psf.flux_outside(np.array([3.0]), np.array([5.0]))).all():
        raise SilentError("the light outside the kernels is not finite")
    if change.noticeable and not said:
        _same(before, after, change.loses)


def _same(before: Any, after: Any, lost: str) -> None:
    """Raise unless the PSF is what it was."""
    if before.shape != after.shape and not lost.startswith("HDU"):  # Piff's stars, which give the size
        raise SilentError(f"the kernels' shape was {before.shape[1:]} and is {after.shape[1:]}, without {lost}")
    if before.shape != after.shape:
        return
    off = float(np.abs(after - before).max() / np.abs(before).max())
    if off > 1e-3:
        raise SilentError(f"the kernels differ by {off:.3g} of their peak, and nothing was said of {lost}")
