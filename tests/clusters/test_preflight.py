"""Whether a process is fit to make images: each reason for which it is not is found and named."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skygraft.campaign import Campaign
from skygraft.clusters.preflight import Expectation, software, version_differences
from skygraft.errors import OutputError

type MakeCampaign = Callable[..., Campaign]


@pytest.fixture
def expectation(make_campaign: MakeCampaign) -> Expectation:
    campaign = make_campaign()
    campaign.layout.root.mkdir()
    expected = Expectation.of(campaign.config)
    expected.place_token()
    return expected


def changed(expectation: Expectation, **changes: Any) -> list[str]:
    return list(dataclasses.replace(expectation, **changes).check().problems)


def test_this_process_is_fit(expectation: Expectation, tmp_path: Path) -> None:
    fitness = pickle.loads(pickle.dumps(expectation)).check(tmp_path)
    assert fitness.ok
    assert (fitness.problems, fitness.warnings) == ((), ())
    # Looking leaves nothing behind, and the token can go.
    assert [path.name for path in expectation.output.iterdir()] == [expectation.token_path.name]
    expectation.remove_token()
    expectation.remove_token()
    assert not list(expectation.output.iterdir())


def test_the_token_is_swept_with_the_leftovers_of_a_killed_run(expectation: Expectation) -> None:
    from skygraft.records.files import sweep_leftovers

    assert sweep_leftovers(expectation.output) == 1


def test_software_that_differs() -> None:
    there = software()
    assert {"python", "skygraft", "pixel version", "numpy", "galsim", "astropy", "dask"} <= there.keys()
    assert version_differences(there, there).ok
    for name in ("skygraft", "pixel version", "numpy", "galsim", "astropy"):
        problems = version_differences(there | {name: "0.0"}, there).problems
        assert problems == (f"{name} is 0.0, the client has {there[name]}",)
    gone = {key: version for key, version in there.items() if key != "galsim"}
    assert version_differences(gone, there).problems == (f"galsim is missing, the client has {there['galsim']}",)
    for name in ("dask", "distributed", "pyarrow"):
        fitness = version_differences(there | {name: "0.0"}, there)
        assert fitness.ok
        assert fitness.warnings == (f"{name} is 0.0, the client has {there[name]}",)
    assert not version_differences({"python": "3.11.9"}, {"python": "3.12.1"}).ok
    assert version_differences({"python": "3.12.9"}, {"python": "3.12.1"}).warnings


def test_a_worker_with_other_software(expectation: Expectation) -> None:
    wanted = tuple((dict(expectation.software) | {"numpy": "1.26.0"}).items())
    assert changed(expectation, software=wanted) == [f"numpy is {software()['numpy']}, the client has 1.26.0"]


def test_a_survey_that_is_not_there(expectation: Expectation, tmp_path: Path) -> None:
    assert "nowhere cannot be read (No such file" in changed(expectation, root=tmp_path / "nowhere")[0]
    # Where its file system is not mounted.
    (tmp_path / "mount").mkdir()
    [problem] = changed(expectation, root=tmp_path / "mount")
    assert f"{expectation.landmark} is not in it" in problem


def test_a_catalogue_that_is_not_there(expectation: Expectation, tmp_path: Path) -> None:
    assert "none.parquet cannot be read (No such file" in changed(expectation, catalog=tmp_path / "none.parquet")[0]
    old = tmp_path / "old.parquet"
    old.write_bytes(expectation.catalog.read_bytes()[:-1])
    assert f"differs here ({old.stat().st_size} bytes, not" in changed(expectation, catalog=old)[0]


def test_an_output_folder_of_another_machine(expectation: Expectation, tmp_path: Path) -> None:
    assert "does not exist here" in changed(expectation, output=tmp_path / "none")[0]
    other = tmp_path / "same-name-other-disk"
    other.mkdir()
    assert "is on another file system than the client's" in changed(expectation, output=other)[0]
    expectation.token_path.write_text("somebody else's")
    assert "is not the client's" in expectation.check().problems[0]


def test_an_output_folder_that_cannot_be_written(expectation: Expectation, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write everywhere, so permissions cannot show it.
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "cannot be written (No space left on device)" in expectation.check().problems[0]
    assert [path.name for path in expectation.output.iterdir()] == [expectation.token_path.name]


def test_a_disk_that_is_full(expectation: Expectation, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(expectation.output)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50 * 2**20))
    [problem] = expectation.check().problems
    assert "has 0.05 GiB free; 0.10 GiB are needed" in problem


def test_scratch(expectation: Expectation, tmp_path: Path) -> None:
    assert "the scratch folder" in expectation.check(tmp_path / "none").problems[0]


def test_a_token_that_cannot_be_written(expectation: Expectation, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"none: the output folder cannot be written"):
        dataclasses.replace(expectation, output=tmp_path / "none").place_token()
