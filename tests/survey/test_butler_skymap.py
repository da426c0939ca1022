"""The sky map that a Butler repository defines: its numbers are taken out of a pickle that is never executed."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from lsst.daf.butler import DatasetRef, DatasetType, FileDataset

from kits.butler_kit import Butler
from skygraft.config.campaign import parse_config
from skygraft.errors import ConfigError, SkyMapError
from skygraft.skymap import get_skymap
from skygraft.survey.butler_skymap import RingsDefinition, read_definition, read_skymap

HSC = {
    "numRings": 120, "raStart": 0.0, "pixelScale": 0.168, "tractOverlap": 1 / 60, "projection": "TAN", "rotation": 0.0,
    "tractBuilder['legacy'].patchInnerDimensions": [4000, 4000], "tractBuilder['legacy'].patchBorder": 100,
    "tractBuilder['cells'].cellInnerDimensions": [150, 150], "tractBuilder['cells'].cellBorder": 50,
    "tractBuilder['cells'].numCellsPerPatchInner": 20, "tractBuilder['cells'].numCellsInPatchBorder": 1,
    "tractBuilder.name": "legacy",
}  # fmt: skip
OURS = HSC | {"numRings": 20, "pixelScale": 0.5, "tractBuilder['legacy'].patchInnerDimensions": [2000, 1500]}


def text(config: dict[str, Any]) -> str:
    """The text that a configuration of the stack is saved as."""
    lines = ["import lsst.skymap.ringsSkyMap", "assert type(config) is lsst.skymap.ringsSkyMap.RingsSkyMapConfig"]
    return "\n".join([*lines, *(f"# what it is\nconfig.{key}={value!r}\n" for key, value in config.items())])


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stands for the stack's classes, as far as pickling needs them; it bursts if anything unpickles them."""

    def burst(*args: Any) -> None:
        raise AssertionError("the pickle was executed")

    skymap, config = ModuleType("lsst.skymap.ringsSkyMap"), ModuleType("lsst.pex.config.config")
    for module in (skymap, config):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    class Config:
        def __init__(self, content: str) -> None:
            self.content = content

        def __reduce__(self) -> Any:
            return config.unreduceConfig, (skymap.RingsSkyMapConfig, self.content.encode())

    class RingsSkyMap:
        def __init__(self, content: str, version: int) -> None:
            self.content, self.version = content, version

        def __reduce__(self) -> Any:
            return RingsSkyMap, (Config(self.content), self.version)

    config.unreduceConfig = burst
    burst.__module__, burst.__qualname__ = config.__name__, "unreduceConfig"
    for module, kind, name in ((skymap, RingsSkyMap, "RingsSkyMap"), (skymap, Config, "RingsSkyMapConfig")):
        kind.__module__, kind.__qualname__, kind.__name__ = module.__name__, name, name
        setattr(module, name, kind)
    return skymap


def test_the_hash_is_the_pipelines(data_dir: Path) -> None:
    reference = json.loads((data_dir / "afw_reference" / "skymap_rings.json").read_text())["hsc_rings_v1"]
    definition = RingsDefinition(120, pixel_scale=0.168, tract_overlap=1 / 60, projection="TAN")
    assert definition.sha1().hex() == reference["sha1"]
    assert RingsDefinition(120, pixel_scale=0.1681, tract_overlap=1 / 60, projection="TAN").sha1() != definition.sha1()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numbers_of_a_pickle(stack: Any, protocol: int) -> None:
    found = read_definition(pickle.dumps(stack.RingsSkyMap(text(HSC), 1), protocol))
    assert found == RingsDefinition(120, pixel_scale=0.168, tract_overlap=1 / 60, projection="TAN")
    assert found.skymap("hsc_rings_v1") == get_skymap("hsc_rings_v1")


def test_versions_and_builders(stack: Any) -> None:
    old = {key: value for key, value in HSC.items() if "Builder" not in key}
    old |= {"patchInnerDimensions": [2000, 2000], "patchBorder": 50}
    found = read_definition(pickle.dumps(stack.RingsSkyMap(text(old), 0)))
    assert (found.patch_inner, found.patch_border, found.version) == ((2000, 2000), 50, 0)
    with pytest.raises(SkyMapError, match="version 0"):
        found.skymap("old")
    cells = HSC | {"pixelScale": 0.2, "tractBuilder.name": "cells"}
    made = read_definition(pickle.dumps(stack.RingsSkyMap(text(cells), 1))).skymap("lsst_cells_v1")
    assert made == get_skymap("lsst_cells_v1")
    turned = read_definition(pickle.dumps(stack.RingsSkyMap(text(HSC | {"rotation": 45.0}), 1)))
    with pytest.raises(SkyMapError, match="turned by 45 degrees"):
        turned.skymap("turned")


def test_cells_of_rubin() -> None:
    one, two = get_skymap("lsst_cells_v1"), get_skymap("lsst_cells_v2")
    rng = np.random.default_rng(0)
    ra, dec = rng.uniform(0, 360, 1000), np.degrees(np.arcsin(rng.uniform(-1, 1, 1000)))
    np.testing.assert_array_equal(one.locate(ra, dec), two.locate(ra, dec))
    # Of the same rings as HSC's, with patches of 600 arcsec.
    np.testing.assert_array_equal(one.locate(ra, dec)[0], get_skymap("hsc_rings_v1").locate(ra, dec)[0])
    patch = one.tract(9813).patch(43)
    assert (patch.inner_box.shape, patch.outer_box.shape, patch.index) == ((3000, 3000), (3300, 3300), (3, 4))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no pickle", "not a pickle that can be read"),
        (b"", "not a pickle that can be read"),
        (pickle.dumps({"a": 1}), "of no class that is known"),
        (pickle.dumps("config.numRings=120\nconfig.pixelScale=open('x')\n"), 'pixelScale is "open'),
        (pickle.dumps("config.numRingsX=1 config.numRings"), "not whole"),
        (pickle.dumps("config.numRings=1.5"), "numRings is '1.5'"),
        (pickle.dumps("config.numRings=99999999999"), "numRings is '99999999999'"),
        (pickle.dumps("config.numRings=3\nconfig.projection=b'TAN'"), "projection is"),
        (pickle.dumps("config.numRings=3\nconfig.patchInnerDimensions=[4000]"), "patchInnerDimensions is"),
        (pickle.dumps("config.numRings=3\nconfig.pixelScale=1e999"), "pixelScale is"),
    ],
)
def test_what_is_no_sky_map(content: bytes, said: str) -> None:
    with pytest.raises(SkyMapError, match=said):
        read_definition(content)


def test_damaged_pickles(stack: Any) -> None:
    """Never an error of another kind, whichever bytes are wrong."""
    rng, n_read = np.random.default_rng(0), 0
    for protocol in (0, 2, 4):
        whole = pickle.dumps(stack.RingsSkyMap(text(OURS), 1), protocol)
        for _ in range(100):
            damaged = bytearray(whole)
            for place in rng.integers(len(whole), size=rng.integers(1, 5)):
                damaged[place] = rng.integers(256)
            try:
                found = read_definition(bytes(damaged[: len(damaged) - rng.integers(2) * rng.integers(200)]))
                assert len(found.sha1()) == 20
                found.skymap("damaged")
            except SkyMapError:
                continue
            n_read += 1
    assert 0 < n_read < 300


@pytest.fixture
def repo(stack: Any, tmp_path: Path) -> Path:
    """A repository of four sky maps: one that is known by its hash, one by its pickle, one by neither, one changed."""
    path = tmp_path / "repo"
    Butler.makeRepo(str(path))
    hashes = {
        "hsc_rings_v1": RingsDefinition(120, pixel_scale=0.168, tract_overlap=1 / 60, projection="TAN").sha1(),
        "ours": RingsDefinition(
            20, pixel_scale=0.5, tract_overlap=1 / 60, projection="TAN", patch_inner=(2000, 1500)
        ).sha1(),
        "bare": b"1" * 20,
        "changed": b"2" * 20,
    }
    with Butler.from_config(str(path), writeable=True, run="skymaps") as butler:
        kind = DatasetType("skyMap", ["skymap"], "SkyMap", universe=butler.dimensions)
        butler.registry.registerDatasetType(kind)
        for name, value in hashes.items():
            size = {"tract_max": 18938, "patch_nx_max": 9, "patch_ny_max": 9}
            butler.registry.insertDimensionData("skymap", {"name": name, "hash": value, **size})
        for name in ("ours", "changed"):
            ref = DatasetRef(kind, butler.registry.expandDataId(skymap=name), run="skymaps")
            file = tmp_path / f"{name}.pickle"
            file.write_bytes(pickle.dumps(stack.RingsSkyMap(text(OURS), 1)))
            butler.ingest(FileDataset(str(file), ref), transfer="copy")
    return path


def test_of_a_repository(repo: Path) -> None:
    assert read_skymap(str(repo), "hsc_rings_v1") == "hsc_rings_v1"
    ours = get_skymap(read_skymap(str(repo), "ours"))
    assert (ours.num_rings, ours.pixel_scale, ours.patch_inner, ours.name) == (20, 0.5, (2000, 1500), "ours")
    with pytest.raises(SkyMapError, match="only the hash of the sky map 'bare'"):
        read_skymap(str(repo), "bare")
    with pytest.raises(SkyMapError, match="its hash is another"):
        read_skymap(str(repo), "changed")
    with pytest.raises(ConfigError, match=r"no sky map 'hsc'.*It has: bare, changed"):
        read_skymap(str(repo), "hsc")
    with pytest.raises(ConfigError, match="several sky maps"):
        read_skymap(str(repo))


def test_in_a_configuration(repo: Path) -> None:
    butler = {"repo": "repo", "collections": "a", "dataset_type": "visit_image"}
    content: dict[str, Any] = {"name": "x", "catalog": {"path": "c"}, "output": "out", "survey": {"butler": butler}}
    config = parse_config(content | {"skymap": {"kind": "butler", "name": "ours"}}, base_dir=repo.parent)
    assert config.skymap["pixel_scale"] == 0.5
    # What is written beside the outputs needs no repository.
    assert parse_config(config.resolved()) == config
    elsewhere = content | {"survey": {"images": "*.fits"}}
    named = {"kind": "butler", "name": "hsc_rings_v1", "repo": "repo"}
    assert parse_config(elsewhere | {"skymap": named}, base_dir=repo.parent).skymap == "hsc_rings_v1"
    with pytest.raises(SkyMapError, match="needs its repository"):
        parse_config(elsewhere | {"skymap": {"kind": "butler", "name": "ours"}}, base_dir=repo.parent)
    with pytest.raises(SkyMapError, match=r"name is \['ours'\]; a text"):
        parse_config(content | {"skymap": {"kind": "butler", "name": ["ours"]}}, base_dir=repo.parent)
    with pytest.raises(SkyMapError, match="no parameter 'nmae'"):
        parse_config(content | {"skymap": {"kind": "butler", "nmae": "ours"}}, base_dir=repo.parent)
