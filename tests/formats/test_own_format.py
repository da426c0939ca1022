"""A format of one's own: registered in a session, named by its class in a campaign, and in workers of their own."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from astropy.table import QTable

import skygraft
from skygraft import Campaign, read_exposure
from skygraft.catalog import write_catalog
from skygraft.clusters.cluster import open_cluster
from skygraft.config.cluster_kinds import LocalConfig
from skygraft.errors import ConfigError, CorruptFileError
from skygraft.formats import available, format_names, get_format, read_footprint, recognise_format, resolve_format
from skygraft.testing import check_format

EXAMPLE = Path(__file__).parents[2] / "examples" / "npz_format.py"
RA, DEC, SIZE = 150.1, 2.2, 80


def write_npz(path: Path, visit: int = 7, seed: int = 1) -> Path:
    """An image of the example's format, written by numpy alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-10:11, -10:11]
    psf = np.exp(-(x**2 + y**2) / 8.0)
    wcs = {"CRVAL1": RA, "CRVAL2": DEC, "CRPIX1": SIZE / 2 + 0.5, "CRPIX2": SIZE / 2 + 0.5}
    wcs |= {"CD1_1": -5.5e-5, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 5.5e-5}
    cards = {"WCS": wcs, "NAXIS1": SIZE, "NAXIS2": SIZE, "VISIT": visit, "BAND": "r", "MJD": 60000.0, "EXPTIME": 30.0}
    cards |= {"ZEROPOINT": 27.0, "APERTURE": 9.0, "GAIN": 2.0, "MASK": {"BAD": 0}}
    np.savez(
        path,
        image=rng.normal(20, 5, (SIZE, SIZE)).astype(np.float32),
        variance=np.full((SIZE, SIZE), 25, np.float32),
        mask=np.zeros((SIZE, SIZE), np.int32),
        psf=psf / psf.sum(),
        weather=np.arange(3),
        cards=json.dumps(cards),
    )
    return path


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Path]:
    """The example's module in a folder of its own; the session forgets it afterwards."""
    module = tmp_path / "campaign" / "npz_format.py"
    module.parent.mkdir()
    shutil.copyfile(EXAMPLE, module)
    before = list(sys.path)
    yield module
    sys.path[:] = before
    sys.modules.pop("npz_format", None)
    available._REGISTERED.clear()
    available._REFERENCED.clear()
    available._specific.cache_clear()


def class_of(module: Path) -> Any:
    spec = importlib.util.spec_from_file_location("npz_format", module)
    assert spec is not None and spec.loader is not None
    made = sys.modules["npz_format"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made.NpzFormat


def write_campaign(folder: Path, n_images: int = 3, output: str = "out") -> Path:
    for i in range(n_images):
        write_npz(folder / f"images/image-{i}.npz", visit=10 + i, seed=i)
    offsets = np.random.default_rng(2).uniform(-5, 5, (2, 6)) / 3600
    ids = np.arange(6)
    stars = {"injection_id": ids, "ra": RA + offsets[0], "dec": DEC + offsets[1], "mag_r": 20.0 + 0.2 * ids}
    write_catalog(QTable({**stars, "source_type": ["Star"] * 6}), folder / "fakes.parquet", overwrite=True)
    content = {
        "name": "own",
        "survey": {"images": "images/*.npz", "format": "npz_format:NpzFormat"},
        "catalog": {"path": "fakes.parquet"},
        "output": output,
        "margin_arcsec": 5.0,
    }
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_conformance_and_a_session_that_registers_it(tmp_path: Path, example: Path) -> None:
    cls = class_of(example)
    path = write_npz(tmp_path / "image.npz")
    with pytest.raises(CorruptFileError, match="zip"):
        recognise_format(path)
    assert skygraft.register_format(cls) is cls
    assert "npz" in format_names() and format_names()[-1] == "fits"
    exposure = read_exposure(path)
    assert exposure.format == "npz" and exposure.photo_calib is not None
    assert exposure.photo_calib.aperture.radius_pixels == 9.0
    (tmp_path / "out").mkdir()
    check_format(cls(), path, tmp_path / "out")
    written = skygraft.write_exposure(exposure, tmp_path / "again.npz")
    np.testing.assert_array_equal(np.load(written[0])["weather"], [0, 1, 2])
    # What other processes are told is where the class is.
    assert read_footprint(path).format == f"{example}:NpzFormat"


def test_errors_of_damaged_files_name_them_and_those_of_the_code_do_not(tmp_path: Path, example: Path) -> None:
    fmt = class_of(example)()
    path = write_npz(tmp_path / "image.npz")
    whole = path.read_bytes()
    for damaged in (
        whole[:200],
        b"PK\x03\x04" + whole[4:900],
        whole.replace("ZEROP".encode("utf-32-le"), "ZEROB".encode("utf-32-le")),
    ):
        path.write_bytes(damaged)
        with pytest.raises(CorruptFileError, match=r"cannot be read as npz \(\w+") as caught:
            fmt.read(path)
        assert caught.value.path == str(path)
    path.write_bytes(whole)
    broken = type("Broken", (type(fmt),), {"load": lambda self, path, options: None.nothing})()
    with pytest.raises(AttributeError):
        broken.read(path)
    with pytest.raises(ConfigError, match="'hdu' is not an option of format 'npz'"):
        fmt.footprint(path, hdu=1)
    with pytest.raises(skygraft.errors.OutputExistsError):
        fmt.write(fmt.read(path), path, like=path, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["image.npz"]


def test_what_is_no_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="derived from"):
        skygraft.register_format(dict)  # type: ignore[type-var]
    half = type("Half", (skygraft.formats.Format,), {"name": "half", "looked_for": "nothing"})
    with pytest.raises(ConfigError, match="lacks footprint, matches, read, write"):
        skygraft.register_format(half)
    with pytest.raises(ConfigError, match="'fits' already"):
        skygraft.register_format(type(get_format("fits")))


def test_a_class_of_a_notebook_is_known_by_name_alone(tmp_path: Path, example: Path) -> None:
    cls = class_of(example)
    local = type("Local", (cls,), {"name": "local", "__module__": "__main__"})
    skygraft.register_format(local)
    assert read_footprint(write_npz(tmp_path / "image.npz"), format="local").format == "local"


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("no_such_module:Format", "no module 'no_such_module'"),
        ("json:JSONDecoder", "derived from"),
        ("json:NoSuchClass", "cannot be loaded"),
        ("nowhere.py:NpzFormat", "no file"),
        ("os.system('x'):y", "does not name"),
        (":NpzFormat", "does not name"),
    ],
)
def test_bad_references_are_refused_in_words(tmp_path: Path, reference: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        resolve_format(reference, tmp_path)


def test_a_module_that_fails_is_named_with_its_error(tmp_path: Path, example: Path) -> None:
    example.write_text("raise RuntimeError('not today')\n")
    with pytest.raises(ConfigError, match=r"npz_format\.py:NpzFormat.*not today"):
        resolve_format("npz_format:NpzFormat", example.parent)


@pytest.mark.dask
def test_a_campaign_of_two_processes_finds_the_module_beside_its_file(tmp_path: Path, example: Path) -> None:
    # The workers are there before anything in this process knows of the format.
    with open_cluster(LocalConfig(n_workers=2)) as cluster:
        made = {}
        for name, client in (("alone", None), ("workers", cluster.client)):
            path = write_campaign(example.parent, output=name)
            campaign = Campaign.from_yaml(path)
            assert campaign.config.survey.format == f"{example.resolve()}:NpzFormat"
            assert campaign.config.pixel_settings()["survey.format"] == "npz_format.py:NpzFormat"
            summary = campaign.run(n_workers=0) if client is None else campaign.run(client)
            assert (summary.n_done, summary.n_failed) == (3, 0)
            images = example.parent / name / "images"
            made[name] = [(p.relative_to(images), p.read_bytes()) for p in sorted(images.rglob("*.npz"))]
    assert len(made["alone"]) == 3 and made["alone"] == made["workers"]
    before = np.load(example.parent / "images/image-0.npz")
    after = np.load(sorted((example.parent / "alone").rglob("*.npz"))[0])
    assert (after["image"] != before["image"]).sum() > 100 and (after["weather"] == before["weather"]).all()
    assert pq.read_table(example.parent / "alone" / "truth").num_rows == 18


def test_a_process_in_another_directory_finds_the_class_by_its_file(tmp_path: Path, example: Path) -> None:
    code = "import sys; from skygraft.formats import get_format; print(get_format(sys.argv[1]).name)"
    command = [sys.executable, "-c", code, resolve_format("npz_format:NpzFormat", example.parent)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "npz\n", done.stderr[-2000:]
