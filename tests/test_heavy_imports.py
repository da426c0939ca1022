"""What starts without being needed: heavy libraries that a command or an import must not load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kits.plain_images import write_plain_image

# Reported by an audit hook, which processes that are forked on the way inherit.
_WATCH = """
import os, sys
heavy = set(sys.argv.pop(1).split(","))
report = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def note(event, arguments):
    if event == "import" and arguments[0] in heavy:
        os.write(report, f"{arguments[0]}\\n".encode())
sys.addaudithook(note)
"""


def imported(heavy: set[str], report: Path, code: str, *arguments: str) -> set[str]:
    command = [sys.executable, "-c", _WATCH + code, ",".join(sorted(heavy)), str(report), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(report.read_text().split())


def test_importing_skygraft_loads_no_library(tmp_path):
    heavy = {"astropy", "dask", "distributed", "galsim", "numba", "numpy", "pandas", "pyarrow", "scipy", "xarray"}
    assert imported(heavy, tmp_path / "report", "import skygraft") == set()


@pytest.mark.parametrize("command", ["--help", "inspect --help", "inject --help"])
def test_help_loads_no_library(tmp_path, command):
    heavy = {"astropy", "dask", "distributed", "galsim", "numba", "numpy", "pandas", "pyarrow", "scipy", "xarray"}
    code = "from skygraft.cli import main; main()"
    assert imported(heavy, tmp_path / "report", code, *command.split()) == set()


def test_inspect_loads_nothing_that_draws_or_distributes(tmp_path):
    image = write_plain_image(tmp_path / "image.fits", 150.0, 2.0, 64)
    heavy = {
        "distributed", "galsim", "matplotlib", "scipy.interpolate", "scipy.ndimage", "scipy.optimize", "scipy.stats",
        "skygraft.injection.core", "skygraft.noise.poisson", "skygraft.render.engine", "skygraft.render.sersic",
    }  # fmt: skip
    code = "from skygraft.cli import main; main()"
    assert imported(heavy, tmp_path / "report", code, "inspect", str(image), "--psf", "moffat:0.9 arcsec") == set()
