"""What starts without being needed: heavy libraries that a command or an import must not load."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from kits.plain_images import write_plain_image
from skygraft.lazy import Tally, lazy_module, left_out

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
        "asdf", "charset_normalizer.api", "numcodecs.registry",
        "dask.array", "distributed", "galsim", "llvmlite", "matplotlib", "numba", "pandas.core", "pyarrow.compute",
        "pyarrow.lib", "pyarrow.parquet", "scipy.fft", "scipy.interpolate", "scipy.ndimage", "scipy.optimize",
        "scipy.stats", "skygraft.catalog.io", "skygraft.injection.core", "skygraft.noise.poisson",
        "skygraft.psf.measure_loops", "skygraft.render.engine", "skygraft.render.sersic", "xarray",
    }  # fmt: skip
    code = "from skygraft.cli import main; main()"
    assert imported(heavy, tmp_path / "report", code, "inspect", str(image), "--psf", "moffat:0.9 arcsec") == set()


def test_inspecting_a_calexp_loads_nothing_compiled(tmp_path, data_dir):
    image = data_dir / "cfht_849375/calexp-849375-12.fits.fz"
    heavy = {"asdf", "llvmlite", "numba", "numcodecs.registry", "xarray"}
    code = "from skygraft.cli import main; main()"
    assert imported(heavy, tmp_path / "report", code, "inspect", str(image)) == set()


_INJECT = """
import numpy as np, skygraft
from skygraft.testing import make_exposure
catalog = {
    "injection_id": [0, 1], "ra": [150.0, 150.001], "dec": [2.0, 2.001],
    "mag": [20.0, 21.0], "source_type": ["Star"] * 2}
injection = skygraft.inject(make_exposure((64, 64)), catalog, band="r")
assert injection.summary["n_drawn"] == 2
seen = injection.exposure.image.sum(), injection.exposure.mask.max(), injection.exposure.replace(gain=None).shape
"""


def test_a_small_injection_loads_nothing_for_labelled_arrays_or_for_many_kernels(tmp_path):
    heavy = {
        "dask.array", "distributed", "galsim", "matplotlib", "pandas.core", "pyarrow.compute", "pyarrow.dataset",
        "scipy.fft", "scipy.interpolate", "scipy.ndimage", "scipy.optimize", "scipy.stats",
        "skygraft.psf.measure_loops", "skygraft.render.galsim_engine", "xarray",
    }  # fmt: skip
    assert imported(heavy, tmp_path / "report", _INJECT) == set()


def test_the_planes_load_xarray_when_asked_for(tmp_path):
    code = "from skygraft.testing import make_exposure; make_exposure((8, 8)).planes"
    assert imported({"xarray"}, tmp_path / "report", code) == {"xarray"}


def test_what_a_worker_imports_leaves_labelled_arrays_out(tmp_path):
    heavy = {"dask.array", "galsim", "matplotlib", "pandas.core", "pyarrow.compute", "pyarrow.dataset", "xarray"}
    assert imported(heavy, tmp_path / "report", "import skygraft.execution.task") == set()


def test_numba_is_loaded_when_a_loop_is_called(tmp_path):
    code = "import numpy as np; import skygraft.fitsfile.rice; from skygraft.psf.linear import combine"
    assert imported({"numba"}, tmp_path / "imported", code) == set()
    assert imported({"numba"}, tmp_path / "one", f"{code}; combine(np.ones((1, 2)), np.ones((2, 3, 3)))") == set()
    assert imported({"numba"}, tmp_path / "many", f"{code}; combine(np.ones((9, 20)), np.ones((20, 99, 99)))") == {
        "numba"
    }


def test_a_lazy_module_is_the_library_itself():
    lazy = lazy_module("json")
    assert lazy.dumps is json.dumps
    with pytest.raises(AttributeError, match="no_such_function"):
        _ = lazy.no_such_function
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        _ = lazy_module("no_such_library").anything


def test_libraries_that_are_left_out_can_be_imported_afterwards():
    sys.modules.pop("this_is_not_there", None)
    with left_out("wave", "json", "this_is_not_there"):
        with pytest.raises(ModuleNotFoundError, match="wave"):
            importlib.import_module("wave")
        assert importlib.import_module("json") is json  # which had been imported before
    assert importlib.import_module("wave").open
    assert "this_is_not_there" not in sys.modules


def test_a_tally_adds_up():
    tally = Tally(10)
    assert [tally.is_much(n) for n in (4, 6, 1, 0)] == [False, False, True, True]
