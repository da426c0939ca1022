"""What starts without being needed: heavy libraries that a command or an import must not load."""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys

import pytest

from kits.plain_images import write_plain_image
from skygraft.jit import Tally
from skygraft.lazy import lazy_module, left_out

# One process does all of this in turn: what a step would import alone, it or one before it has imported. An audit hook,
# which processes that are forked on the way inherit, reports what is imported by a statement.
_STEPS = """
import os, sys
report = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def note(event, arguments):
    if event == "import":
        os.write(report, f"{arguments[0]}\\n".encode())
def done(step):
    os.write(report, "".join(f"{name}\\n" for name in sys.modules).encode())
    os.write(report, f"= {step}\\n".encode())
sys.addaudithook(note)
images = sys.argv[2:]
import skygraft
done("import skygraft")
from skygraft.cli import main
def run(*words):
    sys.argv[:] = ["skygraft", *words]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (words, end.code)
for words in (["--help"], ["inspect", "--help"], ["inject", "--help"]):
    run(*words)
    done(" ".join(words))
run("inspect", images[0], "--psf", "moffat:0.9 arcsec")
done("inspect")
for calexp in images[1:]:
    run("inspect", calexp)
    done("inspect a calexp")
import numpy as np
import skygraft.fitsfile.rice
from skygraft.psf.linear import combine
combine(np.ones((1, 2)), np.ones((2, 3, 3)))
done("no loop")
combine(np.ones((9, 20)), np.ones((20, 99, 99)))
done("loop")
from skygraft.testing import make_exposure
catalog = {
    "injection_id": [0, 1], "ra": [150.0, 150.001], "dec": [2.0, 2.001],
    "mag": [20.0, 21.0], "source_type": ["Star"] * 2}
injection = skygraft.inject(make_exposure((64, 64)), catalog, band="r")
assert injection.summary["n_drawn"] == 2
seen = injection.exposure.image.sum(), injection.exposure.mask.max(), injection.exposure.replace(gain=None).shape
done("inject")
import skygraft.execution.task
done("worker")
make_exposure((8, 8)).planes
done("planes")
"""

type Steps = dict[str, frozenset[str]]


@pytest.fixture(scope="module")
def imported(tmp_path_factory, request) -> Steps:
    """What had been imported after each step."""
    folder = tmp_path_factory.mktemp("imports")
    image = write_plain_image(folder / "image.fits", 150.0, 2.0, 64)
    command = [sys.executable, "-c", _STEPS, str(folder / "report"), str(image)]
    with contextlib.suppress(pytest.skip.Exception):  # without the reference data the other steps remain
        command.append(str(request.getfixturevalue("data_dir") / "cfht_849375" / "calexp-849375-12.fits.fz"))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names: set[str] = set()
    steps: Steps = {}
    for line in (folder / "report").read_text().splitlines():
        if line.startswith("= "):
            steps[line[2:]] = frozenset(names)
        names.add(line)
    return steps


_LIBRARIES = {"astropy", "dask", "distributed", "galsim", "numba", "numpy", "pandas", "pyarrow", "scipy", "xarray"}


@pytest.mark.parametrize("step", ["import skygraft", "--help", "inspect --help", "inject --help"])
def test_importing_skygraft_and_help_load_no_library(imported, step):
    assert imported[step] & _LIBRARIES == set()
    assert "skygraft" in imported[step]


def test_inspect_loads_nothing_that_draws_or_distributes(imported):
    heavy = {
        "asdf", "charset_normalizer.api", "numcodecs.registry",
        "dask.array", "distributed", "galsim", "llvmlite", "matplotlib", "numba", "pandas.core", "pyarrow.compute",
        "pyarrow.lib", "pyarrow.parquet", "scipy.fft", "scipy.interpolate", "scipy.ndimage", "scipy.optimize",
        "scipy.stats", "skygraft.catalog.io", "skygraft.injection.core", "skygraft.noise.poisson",
        "skygraft.psf.measure_loops", "skygraft.render.engine", "skygraft.render.sersic", "xarray",
    }  # fmt: skip
    assert imported["inspect"] & heavy == set()


def test_inspecting_a_calexp_loads_nothing_compiled(imported, data_dir):
    assert imported["inspect a calexp"] & {"asdf", "llvmlite", "numba", "numcodecs.registry", "xarray"} == set()


def test_numba_is_loaded_when_a_loop_is_called(imported):
    assert "numba" not in imported["no loop"]
    assert "numba" in imported["loop"]


def test_a_small_injection_loads_nothing_for_labelled_arrays_or_for_many_kernels(imported):
    heavy = {
        "dask.array", "distributed", "galsim", "matplotlib", "pandas.core", "pyarrow.compute", "pyarrow.dataset",
        "scipy.fft", "scipy.interpolate", "scipy.ndimage", "scipy.optimize", "scipy.stats",
        "skygraft.psf.measure_loops", "skygraft.render.galsim_engine", "xarray",
    }  # fmt: skip
    assert imported["inject"] & heavy == set()
    assert "skygraft.injection.core" in imported["inject"]


def test_what_a_worker_imports_leaves_labelled_arrays_out(imported):
    heavy = {"dask.array", "galsim", "matplotlib", "pandas.core", "pyarrow.compute", "pyarrow.dataset", "xarray"}
    assert imported["worker"] & heavy == set()


def test_the_planes_load_xarray_when_asked_for(imported):
    assert "xarray" not in imported["worker"]
    assert "xarray" in imported["planes"]


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
