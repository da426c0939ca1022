"""The recovery of a whole campaign: its table, its summary, and its settings."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from skygraft.campaign import Campaign, read_plan
from skygraft.campaign.sweep import product_dataset
from skygraft.config.campaign import parse_config
from skygraft.config.recovery import RecoveryConfig
from skygraft.errors import CampaignError, ConfigError
from skygraft.recovery.recover import _half, recover
from skygraft.recovery.settings import RECOVERY_DEFAULTS, RecoverySettings

type MakeCampaign = Callable[..., Campaign]


@pytest.fixture
def done(copied: MakeCampaign) -> Campaign:
    return copied()


def test_the_summary_counts_the_rows_of_the_table_whose_numbers_are_finite_where_found(done: Campaign) -> None:
    summary = recover(done, n_workers=0)
    assert summary.ok and summary.n_images == 4
    table = product_dataset(done, "recovery").to_table()
    found, flux = table["found"].to_numpy(), table["flux_cal"].to_numpy()
    assert np.isfinite(flux[found]).mean() > 0.95 and np.isnan(flux[~found]).all()
    rows = table.to_pylist()
    truth = pq.read_table(done.layout.root / "truth").to_pylist()
    assert {(row["image_id"], row["injection_id"]) for row in rows} == {
        (row["image_id"], row["injection_id"]) for row in truth
    }
    assert summary.n == len(rows) == len(truth)
    for kind in summary.kinds:
        mine = [row for row in rows if (row["band"], row["source_type"]) == (kind.band, kind.source_type)]
        usable = [row for row in mine if row["usable"]]
        assert (kind.n, kind.n_usable) == (len(mine), len(usable))
        assert kind.n_found == sum(row["found"] for row in usable)
    assert summary.n_usable > 50 and summary.n_found > 0.5 * summary.n_usable
    assert summary.reasons == Counter(row["reason"] for row in rows if not row["found"])
    content = json.loads(json.dumps(summary.to_dict()))
    assert (content["n"], content["n_found"]) == (summary.n, summary.n_found)
    text = str(summary)
    assert str(done.layout.root / "recovery") in text and "4 measured" in text
    for kind in summary.kinds:
        (line,) = [line for line in text.splitlines() if line.split()[:2] == [kind.band, kind.source_type]]
        assert line.split()[2:5] == [str(kind.n), str(kind.n_usable), str(kind.n_found)]


def test_settings_of_the_campaign_hold_unless_others_are_given(copied: MakeCampaign) -> None:
    campaign = copied(recovery={"threshold": 5.0, "apertures": [4]})
    deep = recover(campaign, {"threshold": 1.5}, n_workers=0)
    assert deep.sweep.n_measured == 4
    shallow = recover(campaign, n_workers=0)
    assert shallow.sweep.n_measured == 4 and shallow.n_found < deep.n_found
    known = json.loads((campaign.layout.root / "recovery" / "_settings.json").read_text())["settings"]
    assert known == RECOVERY_DEFAULTS | {"threshold": 5.0, "apertures": [4.0]}
    assert "mag_ap_4" in product_dataset(campaign, "recovery").schema.names
    with pytest.raises(ConfigError, match=r"recovery\.treshold.*threshold"):
        recover(campaign, {"treshold": 2}, n_workers=0)
    with pytest.raises(ConfigError, match=r"recovery\.threshold"):
        recover(campaign, {"threshold": -1.0}, n_workers=0)


def test_a_sample(done: Campaign) -> None:
    summary = recover(done, sample=2, n_workers=0)
    assert (summary.n_images, summary.sweep.n_measured) == (2, 2)
    assert recover(done, sample=2, n_workers=0).sweep.n_measured == 0
    assert recover(done, n_workers=0).sweep.n_measured == 2
    with pytest.raises(ConfigError, match="sample is 0"):
        recover(done, sample=0, n_workers=0)
    with pytest.raises(ConfigError, match="both"):
        recover(done, sample=1, rows=[0], n_workers=0)


def test_none_found_and_none_usable_are_said(done: Campaign) -> None:
    none = recover(done, {"threshold": 1e5}, n_workers=0)
    assert none.ok and none.n_usable > 0 and none.n_found == 0 and "no source was found" in str(none)
    assert all(kind.half is None for kind in none.kinds)


def test_what_is_wrong_with_the_campaign(done: Campaign, make_campaign: MakeCampaign) -> None:
    image = read_plan(done.layout.plan)[2]
    (done.layout.images / image.output).write_bytes(b"SIMPLE")
    summary = recover(done, n_workers=0)
    assert not summary.ok and summary.sweep.n_failed == 1 and image.image_id in str(summary)
    assert summary.n_images == 3
    with pytest.raises(CampaignError, match="no plan"):
        recover(make_campaign(output="../elsewhere"), n_workers=0)
    # A column that the catalogue does not have fails on every image, and is named.
    summary = recover(done, {"columns": ["redshift"]}, n_workers=0)
    assert summary.sweep.n_failed == 4 and "redshift" in str(summary)
    assert "nothing to recover" in str(summary)


def test_where_half_is_found() -> None:
    # Bins of 0.5 mag, centred on 20.25, 20.75, ...: 100 %, 80 %, 30 %, 10 % are found.
    binned = {}
    for place, found in zip((40, 41, 42, 43), (100, 80, 30, 10), strict=True):
        binned |= {(place, True): found, (place, False): 100 - found}
    assert _half(binned) == pytest.approx(20.75 + 0.5 * (80 - 50) / (80 - 30))
    assert _half({key: n for key, n in binned.items() if key[0] < 42}) is None
    assert _half(binned | {(44, True): 5}) == _half(binned)  # too few to say
    assert _half({}) is None


def test_the_section_of_the_yaml_is_the_measurement_s_settings() -> None:
    config = RecoveryConfig()
    assert config.settings() == RECOVERY_DEFAULTS
    assert RecoverySettings.from_mapping(config.settings()) == RecoverySettings()
    assert list(RecoveryConfig.model_fields) == [*RECOVERY_DEFAULTS, "catalogs"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("threshold", v) for v in (0, -1, 1e-4, 1e7, float("nan"), float("inf"), True, "deep")],
        *[("min_area", v) for v in (0, 2.5, 10**7)],
        *[("filter", v) for v in ("gauss", None)],
        *[("deblend_nthresh", v) for v in (0, 65)],
        *[("deblend_cont", v) for v in (-0.1, 1.1)],
        *[("clean", v) for v in (1, "yes")],
        *[("clean_param", v) for v in (0.01, 11)],
        *[("background_size", v) for v in (3, 10**6)],
        *[("background_filter", v) for v in (0, 100)],
        *[("match_radius", v) for v in (0, 3601.0)],
        *[("ambiguous_fraction", v) for v in (-1, float("nan"))],
        *[("blend_fraction", v) for v in (-1, float("inf"))],
        *[("apertures", v) for v in ([0], [501], [3, 3.0], 3)],
        *[("bad_planes", v) for v in ("SAT",)],
        *[("columns", v) for v in ("z",)],
    ],
)
def test_both_refuse_the_same_values(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        parse_config(GOOD | {"recovery": {name: value}})
    with pytest.raises(ConfigError, match=name):
        RecoverySettings.from_mapping({name: value})


GOOD = {"name": "a", "survey": {"images": "*.fits"}, "catalog": {"path": "c.parquet"}, "output": "out"}


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 3}, {"min_area": 1}, {"filter": "psf"}, {"deblend_cont": 1}, {"clean": False},
        {"match_radius": 0.5}, {"apertures": []}, {"bad_planes": ["SAT"]}, {"bad_planes": []}, {"columns": ["z"]},
    ],
)  # fmt: skip
def test_both_take_the_same_values(change: dict[str, Any]) -> None:
    config = parse_config(GOOD | {"recovery": change}).recovery
    (name,) = change
    expected = tuple(change[name]) if isinstance(change[name], list) else change[name]
    assert getattr(RecoverySettings.from_mapping(config.settings()), name) == expected


def test_pixels_do_not_depend_on_it(make_campaign: MakeCampaign) -> None:
    assert parse_config(GOOD).pixel_settings() == parse_config(GOOD | {"recovery": {"threshold": 3}}).pixel_settings()
    assert not any("recovery" in key for key in parse_config(GOOD).pixel_settings())
    before = make_campaign()
    assert before.run(n_workers=0).n_done == 4
    # A campaign of a skygraft that did not have the section, too.
    content = yaml.safe_load(before.layout.config.read_text())
    del content["recovery"]
    before.layout.config.write_text(yaml.safe_dump(content))
    after = make_campaign(recovery={"threshold": 4.0})
    summary = after.run(n_workers=0)
    assert (summary.n_done, summary.n_skipped) == (0, 4)
