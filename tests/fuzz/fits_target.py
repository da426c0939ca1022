"""Damaged images: read, inject, write and describe them, and hold what is accepted against the sound image."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from astropy.table import QTable

from fuzz.images import DEAR, FEW, make_images
from fuzz.judge import CommandFailedError, SilentError, check_drawn, command
from fuzz.kit import Fuzz, copy_tree

WEIGHTS = DEAR
make = make_images
__all__ = ["FEW", "WEIGHTS", "attempt", "make"]

_ENDINGS = (".fits", ".fit", ".asdf", ".psf", ".fz", ".gz", ".json")


@dataclass(frozen=True, eq=False)
class Meaning:
    """What an image is taken for: how it was read, its planes, and what injection adds to it."""

    kinds: dict[str, Any]
    planes: dict[str, Any]
    added: Any
    caution: str


def _sources(how: dict[str, Any]) -> QTable:
    n = len(how["ra"])
    galaxy = np.arange(n) % 3 == 2
    return QTable(
        {
            "injection_id": np.arange(n),
            "ra": how["ra"],
            "dec": how["dec"],
            "source_type": np.where(galaxy, "Sersic", "Star"),
            "mag_r": np.linspace(19, 21, n),
            "n": np.where(galaxy, 1.0, np.nan),
            "half_light_radius": np.where(galaxy, 0.5, np.nan),
            "q": np.where(galaxy, 0.7, np.nan),
            "pa": np.where(galaxy, 30.0, np.nan),
        }
    )


def _kinds(exposure: Any) -> dict[str, Any]:
    """What kind of image it is, and what its flux is the flux of."""
    reference = exposure.photo_calib.reference if exposure.photo_calib is not None else None
    radius = getattr(reference, "radius_pixels", None)
    psf = type(exposure.psf).__name__
    if exposure.format == "lsst_images" and psf == "DrawnPSF":
        psf = "KernelBasisPSF"  # of its Piff models, which of the two it is depends on the numbers
    return {
        "format": exposure.format,
        "WCS": type(exposure.wcs).__name__,
        "PSF": psf,
        "calibration reference": type(reference).__name__ if radius is None else f"{radius:.6g} pixels",
        "unit": str(exposure.planes["image"].attrs.get("units", "")),
    }


def _inject(exposure: Any, how: dict[str, Any]) -> Any:
    from skygraft import inject

    return inject(
        exposure, _sources(how), band="r", noise=False, seed=1, image_id="image", flux_mode=how["mode"], gain=1.0
    )


def _meaning(exposure: Any, made: Any) -> Meaning:
    from skygraft.formats.base import CAUTION

    planes = {"image": exposure.image, "variance": exposure.variance, "mask": exposure.mask}
    added = np.asarray(made.exposure.image, float) - np.asarray(exposure.image, float)
    copies = {k: None if v is None else np.array(v) for k, v in planes.items()}
    return Meaning(_kinds(exposure), copies, added, exposure.extra.get(CAUTION, ""))


def _sound(folder: Path, how: dict[str, Any]) -> Meaning:
    from skygraft import read_exposure

    exposure = read_exposure(folder / how["image"], **how["options"])
    return _meaning(exposure, _inject(exposure, how))


def attempt(fuzz: Fuzz, name: str, case: Path, rng: np.random.Generator, what: list[str]) -> None:
    """Read, inject, write, read again; a number that the damage took away must not be made up."""
    from skygraft import read_exposure
    from skygraft.formats import read_calibration, read_footprint

    sound = fuzz.folder / "fits" / name
    how = json.loads((sound / "how.json").read_text())
    before = fuzz.known(f"fits/{name}", lambda: _sound(sound, how))
    copy_tree(sound, case)
    image, options = case / how["image"], how["options"]
    others = sorted(p for p in case.rglob("*") if p.suffix in _ENDINGS and p.name != "how.json" and p.is_file())
    change = fuzz.damage(others[rng.integers(len(others))] if rng.random() < 0.25 else image, rng, what)
    dice = rng.random(4)
    # What is given for any image; formats have other options.
    own = {key: value for key, value in options.items() if key not in ("psf", "photo_calib")}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if dice[0] < 0.2:
            _describe(image, how, what, rng)
        if dice[1] < 0.4:
            footprint = read_footprint(image, **own)
            if not np.isfinite(footprint.corners).all():
                raise SilentError("the footprint is not finite")
        if dice[2] < 0.4:
            read_calibration(image, **own)
        exposure = read_exposure(image, **options)
        made = _inject(exposure, how)
    after = _meaning(exposure, made)
    finite = np.isfinite(after.planes["image"])
    if not np.isfinite(np.asarray(made.exposure.image))[finite].all():
        raise SilentError("pixels that were finite are not after injection")
    check_drawn(made.truth, after.added, after.planes["image"])
    cautioned = bool(after.caution) and after.caution != before.caution
    loud = bool(said) or bool(after.caution)
    if change.noticeable and not cautioned:
        _same(before, after, change.loses)
    elif not loud and not change.loses:
        for key in ("format", "PSF"):
            if after.kinds[key] != before.kinds[key]:
                raise SilentError(f"the {key} became {after.kinds[key]}, and nothing was said")
    if dice[3] < 0.6:
        # By its name a file of the Legacy Surveys finds its companions, and an ending says how to compress.
        (case / "written").mkdir()
        _write(exposure, made, case / "written" / image.resolve().name, how)


def _same(before: Meaning, after: Meaning, lost: str) -> None:
    """Raise unless an image that lost information still means what it did."""
    for key, value in before.kinds.items():
        if after.kinds[key] != value:
            raise SilentError(f"the {key} was {value} and is {after.kinds[key]}, and nothing was said of {lost}")
    if before.added.shape != after.added.shape:
        raise SilentError(f"the image's shape is another, and nothing was said of {lost}")
    for key, plane in before.planes.items():
        now = after.planes[key]
        if now is None and plane is not None and before.kinds["format"] in ("fits", "sdss_frame", "legacy_cutout"):
            continue  # such a file may have the plane or not; a frame cut out of another has no variance
        if (now is None) != (plane is None):
            raise SilentError(f"the {key} plane is {'gone' if now is None else 'new'}, and nothing was said of {lost}")
        if now is not None and not np.array_equal(now, plane, equal_nan=now.dtype.kind == "f"):
            if key == "mask" and before.kinds["format"] == "fits" and not (now & ~plane).any():
                continue  # its mask is where its weights are bad, too
            raise SilentError(f"the {key} plane is another, and nothing was said of {lost}")
    peak = float(np.nanmax(np.abs(before.added)))
    off = float(np.nanmax(np.abs(after.added - before.added), initial=0)) / peak
    if off > 1e-3:
        raise SilentError(f"what is added differs by {off:.3g} of its peak, and nothing was said of {lost}")


def _write(exposure: Any, made: Any, out: Path, how: dict[str, Any]) -> None:
    """Write the image, and read again what was written."""
    from skygraft import read_exposure, write_exposure

    write_exposure(made.exposure, out)
    again = read_exposure(out, format=exposure.format, **how["options"])
    was, now = np.asarray(made.exposure.image), np.asarray(again.image)
    if was.shape != now.shape:
        raise SilentError("the image has another shape after it was written and read")
    if not np.array_equal(np.isfinite(was), np.isfinite(now)):
        raise SilentError("pixels that are finite are others after the image was written and read")


def _describe(image: Path, how: dict[str, Any], what: list[str], rng: np.random.Generator) -> None:
    """What the command line says of the image: an index, a plan, or everything that it holds."""
    options, kind = how["options"], rng.integers(3)
    if kind == 0:
        words = ("index", image.name, "--root", str(image.parent))
    elif kind == 1:
        words = ("plan", str(_campaign(image, how)), "--processes", "1")
    else:
        zeropoint = options.get("photo_calib", {}).get("zeropoint")
        words = ("inspect", str(image), *(("--zeropoint", str(zeropoint)) if zeropoint else ()))
    code, text = command(*words)
    what.append(f"{words[0]}: {code}")
    if code:
        raise CommandFailedError(text)


def _campaign(image: Path, how: dict[str, Any]) -> Path:
    """A campaign of the image alone."""
    from skygraft.catalog import write_catalog

    folder, options = image.parent, how["options"]
    write_catalog(_sources(how), folder / "fakes.ecsv")
    calibration = {"psf": options.get("psf"), "zeropoint": options.get("photo_calib", {}).get("zeropoint")}
    content = {
        "name": "one",
        "survey": {"images": image.name, "calibration": {k: v for k, v in calibration.items() if v is not None}},
        "catalog": {"path": "fakes.ecsv"},
        "injection": {"flux_mode": how["mode"], "noise": False},
        "output": "planned",
    }
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump(content))
    return path
