"""Confusion of classes and purity, against loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kits.statistics_tables import fakes
from skygraft.errors import CatalogError, ConfigError
from skygraft.statistics import completeness, confusion, purity, wilson


@pytest.fixture(scope="module")
def columns() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    out = fakes(2000)
    out["source_type"] = rng.choice(["Star", "Sersic", "BulgeDisk"], 2000)
    star = out["source_type"] == "Star"
    out["class_star_out"] = np.clip(np.where(star, 0.8, 0.2) + rng.normal(0, 0.3, 2000), 0, 1)
    out["class_star_out"][::23] = np.nan
    out["weight"] = np.where(star, 1.0, 3.0)
    return out


def test_confusion_is_that_of_a_loop(columns: dict[str, Any]) -> None:
    got = confusion(columns, by={"mag": [18.0, 21.0, 24.0]}, threshold=0.6)
    for i, (low, high) in enumerate(((18.0, 21.0), (21.0, 24.0))):
        n, w, w2 = np.zeros((2, 2), int), np.zeros((2, 2)), np.zeros((2, 2))
        lost = 0
        for row in range(2000):
            inside = low <= columns["mag"][row] < high
            if not (inside and columns["found"][row] and columns["usable"][row]):
                continue
            if np.isnan(columns["class_star_out"][row]):
                lost += 1
                continue
            t = 0 if columns["source_type"][row] == "Star" else 1
            a = 0 if columns["class_star_out"][row] > 0.6 else 1
            weight = columns["weight"][row]
            n[t, a], w[t, a], w2[t, a] = n[t, a] + 1, w[t, a] + weight, w2[t, a] + weight**2
        cell = got.isel(mag=i)
        np.testing.assert_array_equal(cell["n"], n)
        for t in range(2):
            for a in range(2):
                assert float(cell["fraction"][t, a]) == pytest.approx(w[t, a] / w[t].sum())
            assert float(cell["completeness"][t]) == pytest.approx(w[t, t] / w[t].sum())
            assert float(cell["purity"][t]) == pytest.approx(w[t, t] / w[:, t].sum())
            ends = [float(x) for x in wilson(w[t, t] / w[:, t].sum(), w[:, t].sum() ** 2 / w2[:, t].sum())]
            assert [float(cell["purity_lower"][t]), float(cell["purity_upper"][t])] == pytest.approx(ends)
    assert got.attrs["n_unclassified"] > 0
    assert got["true_class"].values.tolist() == ["star", "galaxy"]


def test_classes_can_be_text_and_more_than_two(columns: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    kinds = {"star": ["Star"], "disk": ["Sersic"], "bulge": ["BulgeDisk"]}
    named = columns | {"kind": rng.choice(["star", "disk", "bulge", "odd"], 2000)}
    got = confusion(named, measured="kind", classes=kinds, weight=None)
    used = columns["found"] & columns["usable"]
    assert (
        int(got["n"].sel(true_class="disk", assigned_class="bulge"))
        == (used & (columns["source_type"] == "Sersic") & (named["kind"] == "bulge")).sum()
    )
    assert got.attrs["n_unclassified"] == (used & (named["kind"] == "odd")).sum()
    only_stars = confusion(columns, classes={"star": ["Star"], "galaxy": ["Sersic"]}, weight=None)
    assert int(only_stars["n"].sum()) < int(confusion(columns, weight=None)["n"].sum())
    with pytest.raises(ConfigError, match="cannot tell 3 classes"):
        confusion(columns, classes=kinds)
    with pytest.raises(ConfigError, match="the classes are"):
        confusion(columns, classes={"star": ["Star"]})
    with pytest.raises(CatalogError, match="nearest names are class_star: class_star_out"):
        confusion(columns, measured="class_star")


def test_classes_without_fakes_are_nan(columns: dict[str, Any]) -> None:
    got = confusion(columns | {"source_type": np.full(2000, "Star")})
    assert np.isnan(got["completeness"].sel(assigned_class="galaxy"))
    assert float(got["purity"].sel(assigned_class="star")) == 1.0


def test_purity_is_the_fraction_of_genuine_detections() -> None:
    rng = np.random.default_rng(1)
    detections = {
        "mag_cal": rng.uniform(18, 24, 500),
        "genuine": rng.random(500) < 0.9,
        "patch": rng.integers(0, 5, 500),
    }
    got = purity(detections, {"mag_cal": [18.0, 21.0, 24.0]}, patch="patch")
    for i, (low, high) in enumerate(((18.0, 21.0), (21.0, 24.0))):
        inside = (detections["mag_cal"] >= low) & (detections["mag_cal"] < high)
        assert float(got["purity"][i]) == pytest.approx(detections["genuine"][inside].mean(), rel=1e-12)
        assert int(got["n_genuine"][i]) == detections["genuine"][inside].sum()
    assert np.isfinite(got["error_patch"]).all()
    assert got.attrs["title"] == "purity"
    assert "completeness" not in got
    assert "completeness" in completeness(detections, None, found="genuine")
