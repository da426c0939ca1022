"""A small survey on disk, a catalogue for it, and campaigns on them."""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from astropy.table import QTable

from kits.plain_images import MJD, write_plain_image
from skygraft.campaign import Campaign
from skygraft.catalog import write_catalog

CENTRES = [(150.10, 2.20), (150.105, 2.205), (150.40, 2.20), (150.40, 2.40)]
"""Degrees; the first two overlap, the others lie in patches of their own."""
SIZE = 200


def write_image(path: Path, ra: float, dec: float, visit: int, detector: int, **cards: Any) -> None:
    cards = {"EXPNUM": visit, "CCDNUM": detector, **cards}
    write_plain_image(path, ra, dec, SIZE, seed=1000 * visit + detector, sky=100.0, **cards)


def make_catalog(n: int = 40) -> QTable:
    """Stars and Sersic galaxies within 15 arcsec of each centre, as `n` for each."""
    rng = np.random.default_rng(7)
    ra, dec = (np.concatenate(c) for c in zip(*(np.full((2, n), [[r], [d]]) for r, d in CENTRES), strict=True))
    total = len(ra)
    is_star = np.arange(total) % 4 != 0
    return QTable(
        {
            "injection_id": np.arange(total)[::-1].copy(),
            "ra": ra + rng.uniform(-15, 15, total) / 3600,
            "dec": dec + rng.uniform(-15, 15, total) / 3600,
            "source_type": np.where(is_star, "Star", "Sersic"),
            "mag_r": rng.uniform(19, 22, total),
            "mag_i": rng.uniform(19, 22, total),
            "n": np.where(is_star, np.nan, 1.0),
            "half_light_radius": np.where(is_star, np.nan, 0.6),
            "q": np.where(is_star, np.nan, 0.7),
            "pa": np.where(is_star, np.nan, 30.0),
        }
    )


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the survey; not to be changed."""
    return _pristine(tmp_path_factory.getbasetemp() / "campaign-survey")


@functools.cache
def _pristine(root: Path) -> Path:
    # Each folder has the fixture; what it makes is made once in a process.
    for i, (ra, dec) in enumerate(CENTRES):
        write_image(root / f"raw/v{i // 2}" / f"image-{i}.fits", ra, dec, 500 + i // 2, i % 2)
    write_catalog(make_catalog(), root / "fakes.parquet")
    return root


@pytest.fixture
def survey(pristine: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of it that a test may change; times of last change are kept."""
    place = tmp_path
    if "finished" in request.fixturenames:
        place = request.getfixturevalue("finished_folder")
        for name in ("survey", "out"):
            shutil.rmtree(place / name, ignore_errors=True)
    return Path(shutil.copytree(pristine, place / "survey"))


@pytest.fixture
def finished(finished_folder: Path, survey: Path, make_campaign: Callable[..., Campaign]) -> Campaign:
    """The campaign of `make_campaign`, all of whose images are made, put back where it was made."""
    shutil.copytree(finished_folder / "finished", survey.with_name("out"))
    return make_campaign()


@pytest.fixture(scope="session")
def finished_folder(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it was made, and its outputs are kept; before anything of a test is."""
    return _finished_folder(pristine, tmp_path_factory.getbasetemp() / "campaign-finished")


@functools.cache
def _finished_folder(pristine: Path, place: Path) -> Path:
    root = Path(shutil.copytree(pristine, place / "survey"))
    (root / "campaign.yaml").write_text(yaml.safe_dump(SETTINGS))
    assert Campaign.from_yaml(root / "campaign.yaml").run(n_workers=0).ok
    (place / "out").rename(place / "finished")
    return place


SETTINGS: dict[str, Any] = {
    "name": "test",
    "survey": {"images": "raw/**/*.fits", "calibration": {"psf": {"kind": "moffat", "fwhm": "0.8 arcsec"}}},
    "catalog": {"path": "fakes.parquet"},
    "injection": {"seed": 42, "noise": True},
    "output": "../out",
    "margin_arcsec": 5.0,
}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


@pytest.fixture
def make_campaign(survey: Path) -> Callable[..., Campaign]:
    """Make a campaign on the survey; keywords change its settings."""

    def make(**changes: Any) -> Campaign:
        path = survey / "campaign.yaml"
        path.write_text(yaml.safe_dump(merged(SETTINGS, changes)))
        return Campaign.from_yaml(path)

    return make


def checksums(output: Path) -> dict[str, str]:
    """SHA-256 of every image and truth table."""
    files = [p for folder in ("images", "truth") for p in sorted((output / folder).rglob("*")) if p.is_file()]
    return {p.relative_to(output).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="session")
def expected(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checksums of the campaign's outputs, made one image after the other without Dask."""
    return _expected(pristine, tmp_path_factory.getbasetemp() / "campaign-serial")


@functools.cache
def _expected(pristine: Path, root: Path) -> dict[str, str]:
    # Each folder has the fixture; what it makes is made once in a process.
    root.mkdir()
    path = root / "campaign.yaml"
    settings = merged(
        SETTINGS, {"survey": {"root": str(pristine)}, "catalog": {"path": str(pristine / "fakes.parquet")}}
    )
    path.write_text(yaml.safe_dump(settings | {"output": str(root / "out")}))
    assert Campaign.from_yaml(path).run(n_workers=0).ok
    return checksums(root / "out")


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The functions and numbers of this file; test modules cannot import it."""
    return SimpleNamespace(
        CENTRES=CENTRES, MJD=MJD, checksums=checksums, make_catalog=make_catalog, write_image=write_image
    )
