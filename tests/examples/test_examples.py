"""The example campaigns run as they stand, and come out right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from kits.oracles import band_limited_aperture_flux
from skygraft import Campaign, read_exposure

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(request, tmp_path, data_dir):
    """One example, copied so that its output lands in a temporary folder, and run; its name is the parameter."""
    name = request.param
    folder = tmp_path / name
    shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns("out"))
    config = yaml.safe_load((folder / "campaign.yaml").read_text())
    # as it stands, it expects the data where this repository's neighbours would have them
    assert config["survey"]["root"] == f"../../../shared/data/{name}"
    config["survey"]["root"] = str(data_dir / name)
    (folder / "campaign.yaml").write_text(yaml.safe_dump(config))
    campaign = Campaign.from_yaml(folder / "campaign.yaml")
    summary = campaign.run(n_workers=0)
    assert summary.n_failed == 0
    out = folder / "out"
    records = [json.loads(path.read_text()) for path in sorted((out / "records").rglob("*.json"))]
    assert summary.n_done == len(records)
    return out, records


def truth_of(out: Path, record: dict):
    with pa.ipc.open_file(next(out / p for p in record["outputs"] if p.endswith(".truth.arrow"))) as file:
        table = file.read_all()
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


@pytest.mark.slow
@pytest.mark.parametrize("example", ["cfht_849375"], indirect=True)
def test_cfht(example):
    out, (record,) = example
    assert record["calibration"]["radius_pixels"] == 12.0
    assert record["calibration"]["origin"].startswith(
        "slot_CalibFlux -> base_CircularApertureFlux_12_0 in SRC-849375-12"
    )
    assert record["closure"]["max_abs_mag"] < 1e-4
    image = read_exposure(next(out / p for p in record["outputs"] if ".fits" in p))
    truth = truth_of(out, record)
    assert image.image.any()
    alone = [
        i
        for i in np.flatnonzero((truth["source_type"] == "Star") & (truth["flags"] == 0))
        if (np.hypot(truth["x"] - truth["x"][i], truth["y"] - truth["y"][i]) < 120).sum() == 1
    ]
    # the brightest, on which the far wings of neighbours do not show
    alone.sort(key=lambda i: truth["mag"][i])
    assert len(alone) > 20
    for i in alone[:10]:
        flux = band_limited_aperture_flux(image.image, truth["x"][i], truth["y"][i], 12.0)
        assert -2.5 * np.log10(flux / truth["inst_flux"][i]) == pytest.approx(0, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("example", ["video_H"], indirect=True)
def test_video(example):
    out, records = example
    assert len(records) == 4
    assert {record["calibration"]["radius_arcsec"] for record in records} == {2.0}
    magnitudes: dict[int, set[float]] = {}
    for record in records:
        truth = truth_of(out, record)
        for identity, mag in zip(truth["injection_id"], truth["mag"], strict=True):
            magnitudes.setdefault(int(identity), set()).add(float(mag))
    # one object, one magnitude, in as many of the four exposures as it lies on
    assert all(len(values) == 1 for values in magnitudes.values())
    assert sum(record["n_sources"] for record in records) > 2 * len(magnitudes)


@pytest.mark.slow
@pytest.mark.parametrize("example", ["decam_grz"], indirect=True)
def test_decam(example):
    _, records = example
    assert sorted(record["band"] for record in records) == ["g", "r", "z"]
    assert {record["calibration"]["kind"] for record in records} == {"psf_model"}
    assert all("Legacy Surveys" in record["calibration"]["origin"] for record in records)
