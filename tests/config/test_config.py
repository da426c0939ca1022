"""The campaign's configuration: what is wrong is named, all at once, with where it is."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from skygraft.campaign import load_config, parse_config
from skygraft.config.campaign import CampaignConfig, InjectionConfig
from skygraft.config.cluster_kinds import MODELS
from skygraft.errors import ConfigError, PsfError
from skygraft.injection import InjectionOptions

GOOD: dict[str, Any] = {
    "name": "a",
    "survey": {"images": "raw/*.fits"},
    "catalog": {"path": "fakes.parquet"},
    "output": "out",
}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "campaign.yaml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, yaml.safe_dump(GOOD | {"output": "../x/./out"})))
    assert config.catalog.path == tmp_path / "fakes.parquet"
    assert config.output == tmp_path.parent / "x" / "out"
    assert config.survey.root == tmp_path


def test_resolved_configuration_round_trips_from_anywhere(tmp_path: Path) -> None:
    text = """
    name: video-stars
    survey:
      images: [image_*.fits, more/**/*.fits]
      format: fits
      calibration: {aperture: {diameter: 4 arcsec}, zeropoint: 30, gain: 4.2, psf: "{stem}.psf"}
      options: {weight: "{stem}.weight.fits"}
    catalog: {path: fakes.parquet, dialect: auto, band: H}
    skymap: {kind: rings, num_rings: 120, pixel_scale: 0.168, patch_inner: 4000}
    injection: {flux_mode: calibrated, noise: false, seed: 42, flux_tolerance: 1e-3}
    output: out
    cluster: tcp://127.0.0.1:8786
    """
    config = load_config(write(tmp_path, text))
    other = tmp_path / "elsewhere"
    other.mkdir()
    again = load_config(write(other, config.to_yaml()))
    assert again == config
    assert again.cluster.address == "tcp://127.0.0.1:8786"
    assert again.injection.flux_tolerance == 1e-3  # YAML 1.1 reads 1e-3 as text


def test_unknown_keys_name_the_nearest_known_one(tmp_path: Path) -> None:
    bad = GOOD | {"survey": {"images": "*.fits", "calibration": {"apperture": "12 pix"}}, "catalogue": {}}
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, yaml.safe_dump(bad)))
    text = str(caught.value)
    assert str(tmp_path / "campaign.yaml") in text
    assert "survey.calibration.apperture: unknown key; did you mean 'aperture'?" in text
    assert "catalogue: unknown key; did you mean 'catalog'?" in text


def test_a_single_problem_has_its_key() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(GOOD | {"injection": {"sead": 1}})
    assert caught.value.key == "injection.sead"
    assert "'seed'" in caught.value.message


def test_all_problems_at_once() -> None:
    bad = {
        "name": "no spaces",
        "survey": {"images": "*.fits", "ccds": "ccds.fits", "calibration": {"aperture": "12 parsecs"}},
        "catalog": {},
        "injection": {"seed": -1, "flux_mode": "calibratd", "noise": "perhaps"},
        "margin_arcsec": -3,
    }
    with pytest.raises(ConfigError) as caught:
        parse_config(bad)
    text = caught.value.message
    for place in (
        "name",
        "survey.calibration.aperture",
        "catalog.path: is missing",
        "injection.seed",
        "injection.flux_mode",
        "injection.noise",
        "margin_arcsec",
        "output: is missing",
    ):
        assert f"\n  {place}" in text, place


def test_psf_models_are_checked() -> None:
    for psf in (
        {"kind": "moffat", "fwm": "1 arcsec"},
        {"kind": "psfex"},
        {"kind": "image", "path": "a", "oversampled": 4},
        {"kind": "imge", "path": "a"},
        {"path": "{stemm}.fits"},
        {"band": {}},
        {"band": {"g": 3}},
        {"band": {"g": "{x}.fits"}},
        {"kind": "function", "function": "no function"},
        3,
    ):
        with pytest.raises(ConfigError, match="psf"):
            parse_config(GOOD | {"survey": {"images": "*", "calibration": {"psf": psf}}})


@pytest.mark.parametrize("ending", ["fits", "fits.fz", "fits.gz", "fits.bz2", "fits.xz", "fits.zst"])
def test_the_stem_of_a_packed_image_is_that_of_the_image(tmp_path: Path, ending: str) -> None:
    config = parse_config(GOOD | {"survey": {"images": "*", "calibration": {"psf": "{stem}.psf"}}})
    assert config.survey.calibration.psf_of(tmp_path / f"b.c.{ending}", tmp_path, {}) == tmp_path / "b.c.psf"


def test_psfs_of_bands_and_images(tmp_path: Path) -> None:
    def psf_of(psf: Any, **known: Any) -> Any:
        config = parse_config(GOOD | {"survey": {"images": "*", "calibration": {"psf": psf}}})
        return config.survey.calibration.psf_of(tmp_path / "raw" / "a.fits.fz", tmp_path, known)

    raw = tmp_path / "raw"
    (tmp_path / "psfs").mkdir()
    (tmp_path / "psfs" / "g.fits").touch()
    assert psf_of("{visit:06d}-{ccd}.psf", visit=12, detector="S3") == raw / "000012-S3.psf"
    # beside the image, else in the survey's folder
    assert psf_of("psfs/{band}.fits", band="g") == tmp_path / "psfs" / "g.fits"
    assert psf_of("psfs/{band}.fits", band="r") == raw / "psfs" / "r.fits"
    image = {"kind": "image", "path": "{stem}-psf.fits", "oversampling": 4}
    assert psf_of(image) == image | {"path": str(raw / "a-psf.fits")}
    bands = {"band": {"g": {"kind": "gaussian", "fwhm": "3 pix"}, "r": "{stem}.psf"}}
    assert psf_of(bands, band="g") == bands["band"]["g"]
    assert psf_of(bands, band="r") == raw / "a.psf"
    assert psf_of(bands, band="i") == bands
    with pytest.raises(PsfError, match=r"\{visit\}, which is not known of this image"):
        psf_of("{visit}.psf")


def test_images_and_ccds_exclude_each_other() -> None:
    for survey in ({}, {"images": "*.fits", "ccds": "c.fits"}):
        with pytest.raises(ConfigError, match="exactly one of images"):
            parse_config(GOOD | {"survey": survey})


def test_duplicate_keys_are_errors(tmp_path: Path) -> None:
    text = yaml.safe_dump(GOOD) + "injection: {seed: 1, seed: 2}\n"
    with pytest.raises(ConfigError, match=r"'seed' occurs twice.*") as caught:
        load_config(write(tmp_path, text))
    assert "line" in str(caught.value)


@pytest.mark.parametrize("text", ["name: [", "- a\n- b\n", "", "!!python/object/apply:os.system ['true']"])
def test_not_a_configuration(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"campaign\.yaml"):
        load_config(write(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")


def test_unknown_cluster_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"unknown cluster 'locl'; did you mean 'local'\?; there are: local"):
        parse_config(GOOD | {"cluster": "locl"})


def test_a_cluster_of_a_running_scheduler_has_its_own_workers() -> None:
    with pytest.raises(ConfigError, match="has its workers"):
        parse_config(GOOD | {"cluster": {"kind": "scheduler", "address": "tcp://h:1", "n_workers": 3}})


def test_unknown_sky_map() -> None:
    with pytest.raises(ConfigError, match="hsc_rings"):
        parse_config(GOOD | {"skymap": "hsc_rings_v9"})


def test_output_that_holds_the_survey(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a folder of its own"):
        parse_config(GOOD | {"output": "."}, base_dir=tmp_path)


def test_psf_template_is_not_evaluated() -> None:
    with pytest.raises(ConfigError, match=r"only \{stem\}, \{name\}"):
        parse_config(GOOD | {"survey": {"images": "*", "calibration": {"psf": "{stem.__class__.x}.psf"}}})
    config = parse_config(GOOD | {"survey": {"images": "*", "calibration": {"psf": "psf/{stem}.psf"}}})
    assert config.survey.calibration.psf_of(Path("/d/a.b.fits.fz")) == Path("/d/psf/a.b.psf")


def test_injection_settings_are_those_of_inject() -> None:
    assert list(InjectionConfig().model_dump()) == [f.name for f in dataclasses.fields(InjectionOptions)]
    # Two settings are stored by the names that they had before, see `skygraft.render.engines`.
    assert InjectionConfig().options() == InjectionOptions()
    defaults = {f.name: f.default for f in dataclasses.fields(InjectionOptions)}
    assert InjectionConfig().model_dump() == defaults | {"stars": "fourier", "galaxies": "fourier"}
    assert parse_config(GOOD | {"injection": {"seed": 3, "noise": False}}).injection.options() == InjectionOptions(
        seed=3, noise=False
    )


def test_pixel_settings_leave_out_what_pixels_do_not_depend_on() -> None:
    base = parse_config(GOOD)
    same = parse_config(GOOD | {"output": "b", "cluster": {"n_workers": 3}, "task_seconds": 5, "name": "b"})
    other = parse_config(GOOD | {"injection": {"seed": 1}})
    assert same.pixel_settings() == base.pixel_settings()
    changed = {k for k, v in other.pixel_settings().items() if v != base.pixel_settings()[k]}
    assert changed == {"injection.seed"}


@pytest.mark.parametrize("key", ["images_per_task", "retries"])
@pytest.mark.parametrize("value", [True, "3", 3.0])
def test_integers_are_written_as_integers(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        parse_config(GOOD | {key: value})


def test_every_key_of_the_yaml_has_a_description_in_the_schema() -> None:
    schema = CampaignConfig.model_json_schema()
    sections = {name: section for name, section in schema["$defs"].items() if "properties" in section}
    kinds = {model.__name__ for model in MODELS.values()}
    assert sections.keys() >= kinds | {"SurveyConfig", "ButlerConfig", "CatalogConfig", "InjectionConfig", "TlsConfig"}
    sections["CampaignConfig"] = schema
    described = {
        f"{name}.{key}": about.get("description", "")
        for name, section in sections.items()
        for key, about in section["properties"].items()
        # The kind of a cluster, and a key that says no more than its section, are described there.
        if "const" not in about and "$ref" not in about
    }
    assert [key for key, text in described.items() if not text] == []
    assert [name for name, section in sections.items() if not section.get("description")] == []
    assert described["SlurmConfig.queue"].startswith("Queue or partition")
    assert schema["properties"]["margin_arcsec"]["default"] == 60.0


def test_reading_a_configuration_does_not_import_dask() -> None:
    """Its import takes longer than what `skygraft status` does."""
    code = "import sys, skygraft.config.campaign; print({'dask', 'distributed'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
