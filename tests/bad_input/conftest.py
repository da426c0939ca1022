"""A night's worth of files in an empty folder, and the command line with a watch on what it leaves behind."""

from __future__ import annotations

import hashlib
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pytest
import yaml
from astropy.table import QTable
from click.testing import Result
from typer.testing import CliRunner

from kits.plain_images import SCALE, write_plain_image
from skygraft.campaign import Campaign
from skygraft.cli import app

SIZE, RA, DEC = 120, 150.1, 2.2
WCS_CARDS = ("CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CD1_1", "CD2_2")


class Night:
    """One folder with an image, a catalogue and a campaign; and what is done to them."""

    PSF = ("--psf", "moffat:0.8 arcsec")
    WITHOUT_WCS = dict.fromkeys(WCS_CARDS)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image = self.write_image("image.fits")
        self.catalog = self.write_catalog("fakes.ecsv")
        self.out = folder / "out.fits"

    def write_image(self, name: str, *, size: int = SIZE, detector: int = 1, **cards: Any) -> Path:
        """An ordinary FITS image; a card given as None is left out."""
        return write_plain_image(self.folder / name, RA, DEC, size, seed=detector, CCDNUM=detector, **cards)

    def sources(self, **columns: Any) -> QTable:
        """Nine stars on the image; a column given as None is left out."""
        step = np.array([-8.0, 0.0, 8.0]) / 3600
        ra, dec = (axis.ravel() for axis in np.meshgrid(RA + step, DEC + step))
        table = QTable(
            {
                "injection_id": np.arange(9),
                "ra": ra * u.deg,
                "dec": dec * u.deg,
                "source_type": np.full(9, "Star"),
                "mag_r": np.linspace(18, 20, 9) * u.mag,
            }
        )
        for name, values in columns.items():
            if values is None:
                table.remove_column(name)
            else:
                table[name] = values
        return table

    def write_catalog(self, name: str, **columns: Any) -> Path:
        path = self.folder / name
        self.sources(**columns).write(path, overwrite=True)
        return path

    def write_campaign(self, **changes: Any) -> Path:
        """A campaign on every ``ccd_*.fits``; mappings are merged, None takes a key out."""
        content: dict[str, Any] = {
            "name": "night",
            "survey": {
                "images": "ccd_*.fits",
                "calibration": {"psf": {"kind": "moffat", "fwhm": "0.8 arcsec", "beta": 3.0}},
            },
            "catalog": {"path": self.catalog.name},
            "skymap": {
                "kind": "explicit",
                "tracts": [{"ra": RA, "dec": DEC, "pixel_scale": SCALE, "size": 600, "patches": [1, 1]}],
            },
            "injection": {"seed": 3},
            "output": "out",
        }
        path = self.folder / "campaign.yaml"
        path.write_text(yaml.safe_dump(_merged(content, changes)))
        return path

    def campaign(self, **changes: Any) -> Campaign:
        return Campaign.from_yaml(self.write_campaign(**changes))

    def run(self, *arguments: Any) -> Result:
        return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(a) for a in arguments])

    def inject(self, *more: Any, image: Any = None, catalog: Any = None, out: Any = None, psf: Any = PSF) -> Result:
        """``skygraft inject``."""
        return self.run("inject", image or self.image, catalog or self.catalog, "-o", out or self.out, *psf, *more)

    def refused(self, *words: str, code: int = 1, **kwargs: Any) -> str:
        """Assert that ``skygraft inject`` fails, says these words and why, and leaves the folder as it was."""
        more = kwargs.pop("more", ())
        before = self.snapshot()
        said = failed(self.inject(*more, **kwargs), *words, code=code)
        assert self.snapshot() == before
        return said

    def snapshot(self) -> dict[str, str]:
        """Every file with its content."""
        files = sorted(p for p in self.folder.rglob("*") if p.is_file())
        return {str(p.relative_to(self.folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    def outputs(self) -> list[str]:
        """Injected images of the campaign; no temporary file may lie about."""
        assert not list(self.folder.rglob("*.tmp*"))
        return sorted(p.name for p in (self.folder / "out").rglob("ccd_*.fits") if ".mask" not in p.name)


def failed(result: Result, *words: str, code: int = 1) -> str:
    """Assert that a command failed with one message that has these words; returns it on one line."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    said = " ".join(result.stderr.split())
    assert said.startswith("error: ")
    assert said.count("error: ") == 1
    assert not re.search(r"(?<!\.)[.?]\.(\s|$)", said), said
    for word in words:
        assert word in said, f"{word!r} is not in: {said}"
    return said


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in changes.items():
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = _merged(out[key], value)
        else:
            out[key] = value
    return out


@contextmanager
def full_disk(n_bytes: int) -> Iterator[None]:
    """No file grows beyond `n_bytes`: writing fails half way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


@pytest.fixture(scope="session")
def expect() -> Any:
    """The functions of this file that test modules need, which cannot import it."""

    class Expect:
        failed = staticmethod(failed)
        full_disk = staticmethod(full_disk)

    return Expect
