"""The demo from end to end, at a reduced size."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from skygraft.demo import SurveySpec, print_report, run_demo
from skygraft.errors import OutputExistsError

SPEC = SurveySpec(seed=5, bands=("r",), visits_per_band=1, detector_size=512, patch_size=512, star_density=30)


def check(result, folder) -> None:
    assert result.ok and result.run.n_done == 2
    closure = result.closure["r"]
    assert closure.n > 15
    assert abs(closure.median) < 1e-3 + 4 * closure.median_error
    assert 0.6 < closure.pull < 1.5
    assert closure.psf_sum_offset > 5 * closure.median_error  # the mistake would have been seen
    scale = result.survey_scale["r"]
    assert abs(scale.difference) < 0.01 + 4 * scale.error
    for picture in result.pictures:
        assert picture.stat().st_size > 20_000
    assert (folder / "demo.png").is_file() and (folder / "injected" / "provenance.json").is_file()
    stream = io.StringIO()
    print_report(result, Console(file=stream, width=140))
    text = stream.getvalue()
    for words in ("12 pix = 2.4", "slot_CalibFlux", "closes", "skygraft verify", "images/s"):
        assert words in text


@pytest.mark.slow
def test_demo_in_this_process(tmp_path) -> None:
    folder = tmp_path / "demo"
    check(run_demo(folder, workers=0, spec=SPEC), folder)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        run_demo(folder, workers=0, spec=SPEC)


@pytest.mark.slow
@pytest.mark.dask
def test_demo_on_a_local_cluster(tmp_path) -> None:
    folder = tmp_path / "demo"
    check(run_demo(folder, workers=1, spec=SPEC), folder)
