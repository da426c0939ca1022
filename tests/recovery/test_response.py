"""The response of counts and fluxes: against closed forms, and against campaigns that share no noise."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skygraft.errors import CatalogError, ConfigError
from skygraft.recovery.response import response

DELTA = 0.02
STEP = 2 * DELTA


def simulate(mu: float, *, n: int = 4000, sources: int = 1, noise: int = 2, images: int = 2) -> pa.Table:
    """Fluxes of sources of a power law, on images with noise, found above a limit; the noise is keyed by its seed."""
    rng = np.random.default_rng(sources)
    mag = 20.0 + 4.0 * rng.random(n)
    flux = np.tile(10 ** (-0.4 * (mag - 25.0)), images)
    drawn = np.random.default_rng(noise).normal(size=flux.size)
    measured = flux * mu + 4.0 * drawn
    found = measured > 40.0
    with np.errstate(invalid="ignore", divide="ignore"):
        mag_cal = np.where(found, 25.0 - 2.5 * np.log10(measured), np.nan)
    return pa.table(
        {
            "image_id": np.repeat([f"i{k}" for k in range(images)], n),
            "injection_id": np.tile(np.arange(n), images),
            "mag": np.tile(mag - 2.5 * math.log10(mu), images),
            "found": found,
            "usable": np.ones(flux.size, dtype=bool),
            "flux_cal": np.where(found, measured, np.nan),
            "mag_cal": mag_cal,
            "band": np.tile(np.where(np.arange(n) % 2, "r", "i"), images),
        }
    )


def pair(**changes: Any) -> tuple[pa.Table, pa.Table]:
    return simulate(1 + DELTA, **changes), simulate(1 - DELTA, **changes)


def test_slope_of_counts_and_its_error() -> None:
    """Counts of a uniform distribution in magnitude above a flux limit: dN/dmu = n / 4 mag * 2.5 / ln 10."""
    n, images = 4000, 2
    found = response(pair(), step=STEP)
    expected = images * n / 4.0 * 2.5 / math.log(10.0)
    assert abs(float(found.response) - expected) < 4 * float(found.error)
    # The error that the bootstrap gives is the scatter of the estimate over many such pairs.
    many = [float(response(pair(sources=s, noise=100 + s), step=STEP, bootstrap=0).response) for s in range(2, 62)]
    assert np.std(many) == pytest.approx(float(found.error), rel=0.3)
    assert abs(np.mean(many) - expected) < 4 * np.std(many) / math.sqrt(len(many))


def test_error_is_much_smaller_than_of_two_runs() -> None:
    found = response(pair(), step=STEP)
    apart = []
    for s in range(2, 42):
        one, two = simulate(1 + DELTA, sources=s, noise=s), simulate(1 - DELTA, sources=100 + s, noise=100 + s)
        counts = [np.count_nonzero(side["found"].to_numpy()) for side in (one, two)]
        apart.append((counts[0] - counts[1]) / STEP)
    print(f"{np.std(apart) / float(found.error):.1f} times smaller")
    assert float(found.error) < np.std(apart) / 3
    assert float(found.unpaired_error) == pytest.approx(np.std(apart), rel=0.35)


def test_counts_in_bins_of_what_is_measured_flow_between_them() -> None:
    edges = np.array([20.0, 20.25, 20.5])
    plus, minus = pair()
    found = response((plus, minus), step=STEP, by={"mag_cal": edges})
    by_hand = [np.histogram(side["mag_cal"].to_numpy()[side["found"].to_numpy()], edges)[0] for side in (plus, minus)]
    assert np.array_equal(found.response, (by_hand[0] - by_hand[1]) / STEP)
    assert np.array_equal(found["count"], (by_hand[0] + by_hand[1]) / 2)
    assert found.mag_cal_lower.values.tolist() == [20.0, 20.25]
    # By what was asked for, each source stays in its bin, and bright ones are found in both.
    still = response((plus, minus), step=STEP, by={"mag": edges})
    assert np.array_equal(still.response, [0.0, 0.0]) and np.array_equal(still.error, [0.0, 0.0])


def test_slope_of_fluxes() -> None:
    found = response(pair(), "flux_cal", step=STEP, by={"mag": np.arange(20.0, 20.5, 0.1)})
    # d flux / d mu is the flux.
    assert np.allclose(found.response / found["mean"], 1.0, atol=5e-3)
    assert np.all(found.error < found.unpaired_error / 10)
    assert found.attrs["kind"] == "mean" and found.n_sources.sum() == pytest.approx(4000 * 0.4 / 4, rel=0.1)


def test_categories_weights_and_order() -> None:
    plus, minus = (side.append_column("weight", pa.array(np.full(len(side), 3.0))) for side in pair())
    shuffled = minus.take(np.random.default_rng(1).permutation(len(minus)))
    found = response((plus, shuffled), step=STEP, by="band")
    plain = response((plus.drop_columns("weight"), minus.drop_columns("weight")), step=STEP, by="band")
    assert found.band.values.tolist() == ["i", "r"]
    assert np.allclose(found.response, 3 * plain.response) and np.allclose(found.relative, plain.relative)
    same = response((plus, minus), step=STEP, by="band")
    assert same.equals(found)


def test_files(tmp_path: Path) -> None:
    for name, side in zip(("plus", "minus"), pair(), strict=True):
        folder = tmp_path / name / "tract=1" / "patch=2"
        folder.mkdir(parents=True)
        pq.write_table(side, folder / "part-0.parquet")
    found = response((tmp_path / "plus", tmp_path / "minus"), step=STEP)
    assert found.equals(response(pair(), step=STEP))
    with pytest.raises(CatalogError, match="no recovery table"):
        response((tmp_path / "plus", tmp_path), step=STEP)


def test_bad_input() -> None:
    plus, minus = pair(n=50)
    with pytest.raises(ConfigError, match="step"):
        response((plus, minus))
    with pytest.raises(CatalogError, match="no column 'flux_kal'") as caught:
        response((plus, minus), "flux_kal", step=STEP)
    assert "flux_cal" in str(caught.value) and str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(CatalogError, match="no source in common"):
        other = minus.set_column(0, "image_id", pa.array(["x"] * len(minus)))
        response((plus, other), step=STEP)
    with pytest.raises(ConfigError, match="increase"):
        response((plus, minus), step=STEP, by={"mag": [1, 1]})
