"""A campaign whose images, catalogue and outputs are in an S3 store, with what goes wrong there."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from kits.proxy_kit import Proxy, proxy_of
from kits.s3_kit import KEY, SECRET, Bucket
from kits.tiny_campaign import write_tiny_campaign
from skygraft.campaign import Campaign
from skygraft.campaign.pairs import read_pair
from skygraft.errors import CampaignError, ConfigError, OutputExistsError, PlaceError
from skygraft.places import Store, stubs
from skygraft.records.lock import DEAD_SECONDS

N_IMAGES = 3


class KilledError(BaseException):
    """Stands for a process that is killed: nothing catches it."""


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign on this machine, which is done."""
    folder = tmp_path_factory.mktemp("local")
    Campaign.from_yaml(write_tiny_campaign(folder, N_IMAGES)).run(n_workers=0)
    return folder


@pytest.fixture
def proxy(endpoint: str) -> Iterator[Proxy]:
    with proxy_of(endpoint) as proxy:
        yield proxy


class Setting:
    """The same campaign in a bucket, as different machines see it."""

    def __init__(self, bucket: Bucket, local: Path, folder: Path, endpoint: str) -> None:
        self.bucket, self.local, self.folder, self.endpoint = bucket, local, folder, endpoint
        for name in ("raw", "fakes.parquet"):
            path = local / name
            if path.is_dir():
                bucket.put(path, f"survey/{name}/")
            else:
                bucket.fs.put_file(str(path), f"{bucket.name}/survey/{name}")

    def campaign(self, machine: str = "one", **settings: Any) -> Campaign:
        content = yaml.safe_load((self.local / "campaign.yaml").read_text())
        content["survey"]["images"] = f"{self.bucket.url}/survey/raw/*.fits"
        content["catalog"]["path"] = f"{self.bucket.url}/survey/fakes.parquet"
        content |= {
            "output": f"{self.bucket.url}/results/tiny",
            "storage": {"endpoint_url": self.endpoint},
            "scratch": {"folder": str(self.folder / machine)},
        }
        path = self.folder / f"{machine}.yaml"
        path.write_text(yaml.safe_dump(content | settings))
        stubs._seen.clear()
        return Campaign.from_yaml(path)

    def keys(self, folder: str = "") -> list[str]:
        return [key.removeprefix("results/tiny/") for key in self.bucket.keys(f"results/tiny/{folder}")]

    def check_images(self) -> None:
        """Images, masks and tables are those of the campaign on this machine."""
        images = self.local / "out" / "images" / "raw"
        wanted = {f"images/{path.name}": path.read_bytes() for path in images.iterdir()}
        assert {key: self.bucket.get(f"results/tiny/{key}") for key in self.keys("images")} == wanted
        for name in ("truth", "sources"):
            [table] = (self.local / "out" / name).rglob("*.parquet")
            key = table.relative_to(self.local / "out").as_posix()
            there = self.folder / "table.parquet"
            there.write_bytes(self.bucket.get(f"results/tiny/{key}"))
            assert pq.read_table(there).equals(pq.read_table(table))

    def check(self) -> None:
        """Images, masks, truth and tables are those of the campaign on this machine."""
        self.check_images()
        for path in sorted((self.local / "out" / "records").rglob("*.*")):
            key = path.relative_to(self.local / "out").as_posix()
            content = self.bucket.get(f"results/tiny/{key}")
            if path.suffix == ".arrow":
                assert content == path.read_bytes()
            else:
                ours, theirs = json.loads(content), json.loads(path.read_text())
                assert [*ours["inputs"]] == [Path(name).name for name in theirs["inputs"]]
                assert ours["catalog"] == theirs["catalog"] and ours["calibration"] == theirs["calibration"]


@pytest.fixture
def setting(bucket: Bucket, local: Path, tmp_path: Path, endpoint: str) -> Setting:
    return Setting(bucket, local, tmp_path, endpoint)


def test_from_store_to_store_the_same_as_on_this_machine(
    setting: Setting, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG, "skygraft")
    campaign = setting.campaign()
    plan = campaign.plan()
    assert plan.n_images == N_IMAGES and plan.output == f"{setting.bucket.url}/results/tiny"
    summary = campaign.run(n_workers=0)
    assert summary.n_done == N_IMAGES and not summary.failures
    setting.check()

    # Nobody else makes anything, and everything can be read from there.
    other = setting.campaign("two")
    assert other.status().n_done == N_IMAGES
    again = other.run(n_workers=0)
    assert (again.n_done, again.n_skipped) == (0, N_IMAGES)
    assert other.check_checksums().ok
    from skygraft.records.plan_file import read_plan

    pair = read_pair(other.config, read_plan(other.layout.plan)[0])
    assert len(pair.truth) == 12 and (pair.after.image != pair.before.image).any()

    # No image stays here, and no name of a copy is written anywhere, and no secret.
    assert not [path for path in (campaign.layout.root / "images").rglob("*") if path.is_file()]
    written = {key: setting.bucket.get(key) for key in setting.bucket.keys("results")}
    here = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    shown = (caplog.text + "".join(capfd.readouterr()) + f"{campaign!r}{plan}{summary}").encode()
    for name, content in [*written.items(), *here.items(), ("shown", shown)]:
        assert SECRET.encode() not in content, name
        assert KEY.encode() not in content, name
        assert b".skygraft-places" not in content, name
    record = json.loads(next(c for k, c in written.items() if "/records/" in k and k.endswith(".json")))
    assert [*record["inputs"]] == ["image-000.fits"]
    provenance = written["results/tiny/provenance.json"].decode()
    assert f"{setting.bucket.url}/survey/fakes.parquet" in provenance


@pytest.mark.parametrize("place", [0, 8, 12])
def test_killed_anywhere_and_resumed_on_another_machine(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    written, put = [0], Store._put

    def killed(store: Store, url: str, *rest: Any) -> Any:
        written[0] += ".lock" not in url
        if written[0] > place + 1:
            raise KilledError
        return put(store, url, *rest)

    monkeypatch.setattr(Store, "_put", killed)
    campaign = setting.campaign()
    with pytest.raises(KilledError):
        campaign.run(n_workers=0)
    monkeypatch.setattr(Store, "_put", put)

    records = [key for key in setting.keys("records") if key.endswith(".json")]
    for key in records:  # what a record says is there
        outputs = json.loads(setting.bucket.get(f"results/tiny/{key}"))["outputs"]
        assert outputs.keys() <= {*setting.keys()}
    read, download = [], Store.download

    def noted(store: Store, url: str, *rest: Any) -> None:
        read.append(url)
        download(store, url, *rest)

    monkeypatch.setattr(Store, "download", noted)
    summary = setting.campaign("two").run(n_workers=0)
    assert summary.n_done == N_IMAGES - len(records) and summary.n_remaining == 0
    assert not [url for url in read if "/results/tiny/images/" in url]  # what is done is not read again
    setting.check()


@pytest.mark.parametrize("killed", ["before the pack", "half-way"])
def test_records_are_packed_in_the_store_too(setting: Setting, monkeypatch: pytest.MonkeyPatch, killed: str) -> None:
    monkeypatch.setattr("skygraft.tables.consolidate._PACKED_FROM", 1)
    upload, remove, removed = Store.upload, Store.remove, [0]

    def no_pack(store: Store, source: Path, url: str) -> Any:
        if "/records/" in url and url.endswith(".parquet"):
            raise KilledError
        return upload(store, source, url)

    def few(store: Store, url: str) -> None:
        removed[0] += "/records/" in url
        if "/records/" in url and removed[0] > 2:
            raise KilledError
        remove(store, url)

    monkeypatch.setattr(Store, *(("upload", no_pack) if killed == "before the pack" else ("remove", few)))
    with pytest.raises(KilledError):
        setting.campaign().run(n_workers=0)
    monkeypatch.setattr(Store, "upload", upload)
    monkeypatch.setattr(Store, "remove", remove)
    singles = [key for key in setting.keys("records") if not key.endswith(".parquet")]
    assert bool(singles) and (len(singles) < 2 * N_IMAGES) == (killed == "half-way")
    # Nothing is lost, nothing is made twice, and what was left is removed.
    other = setting.campaign("two")
    assert (other.status().n_done, other.run(n_workers=0).n_done) == (N_IMAGES, 0)
    [pack] = setting.keys("records")
    assert pack.endswith("/part-0.parquet") and other.check_checksums().ok
    setting.check_images()
    if killed != "half-way":
        return
    # An image that is made again counts, wherever it was packed, and whoever has old records.
    name = f"{setting.bucket.name}/results/tiny/images/image-001.fits"
    content = setting.bucket.fs.cat_file(name)
    setting.bucket.fs.pipe_file(name, content[:-2880])
    assert setting.campaign("two").status().n_damaged == 1
    setting.bucket.fs.rm_file(name)
    monkeypatch.setattr("skygraft.execution.task.read_image", _dies)
    with pytest.raises(KilledError):
        setting.campaign("two").run(n_workers=0)
    monkeypatch.undo()
    monkeypatch.setattr("skygraft.tables.consolidate._PACKED_FROM", 1)
    setting.bucket.fs.pipe_file(name, content)
    for machine in ("one", "three"):
        assert setting.campaign(machine).status().n_done == N_IMAGES - 1  # it was reopened
    assert setting.campaign("three").run(n_workers=0).n_done == 1
    assert setting.keys("records") == [pack]
    for machine in ("two", "one"):
        assert setting.campaign(machine).status().n_done == N_IMAGES
    setting.check_images()


def _dies(*_: object) -> None:
    raise KilledError


def test_a_second_driver_is_refused_until_the_first_is_dead(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = setting.campaign("one"), setting.campaign("two")
    lock = "results/tiny/.lock"
    with one.layout.locked():
        assert two.layout.is_locked()
        with pytest.raises(CampaignError, match=r"another process runs this campaign \(process \d+ on .*renewed \d+ s"):
            two.run(n_workers=0)
    assert lock not in setting.bucket.keys("results") and not two.layout.is_locked()
    # A driver of another machine that died: its lock is void when it has not been renewed.
    setting.bucket.fs.pipe_file(f"{setting.bucket.name}/{lock}", b"process 1 on elsewhere since 5 pid:[1] abc")
    with pytest.raises(CampaignError, match="process 1 on elsewhere"):
        two.run(n_workers=0)
    from skygraft.records import store_lock

    monkeypatch.setattr(store_lock, "_age", lambda *_: DEAD_SECONDS + 1)
    assert two.run(n_workers=0).n_done == N_IMAGES
    # One of this machine that died is seen to be dead.
    monkeypatch.undo()
    text = f"process 999999999 on {__import__('os').uname().nodename} since 1 "
    from skygraft.records.lock import Owner

    setting.bucket.fs.pipe_file(f"{setting.bucket.name}/{lock}", f"{text}{Owner.me().processes} abc".encode())
    assert not one.layout.is_locked()


def test_a_changed_image_is_noticed(setting: Setting) -> None:
    setting.campaign().run(n_workers=0)
    name = f"{setting.bucket.name}/survey/raw/image-002.fits"
    content = setting.bucket.fs.cat_file(name)
    time.sleep(1.1)
    setting.bucket.fs.pipe_file(name, content[:-2880] + bytes(2880))
    for machine in ("one", "two"):
        with pytest.raises(CampaignError, match=r"1 images .* input image-002\.fits was changed"):
            setting.campaign(machine).run(n_workers=0)
    before = setting.bucket.fs.info(f"{setting.bucket.name}/results/tiny/images/image-000.fits")["LastModified"]
    assert setting.campaign().run(n_workers=0, redo=True).n_done == 1
    assert setting.bucket.fs.info(f"{setting.bucket.name}/results/tiny/images/image-000.fits")["LastModified"] == before


def test_an_output_that_is_gone_is_made_again(setting: Setting) -> None:
    setting.campaign().run(n_workers=0)
    setting.bucket.fs.rm_file(f"{setting.bucket.name}/results/tiny/images/image-001.fits")
    assert setting.campaign("two").status().n_damaged == 1
    assert setting.campaign("two").run(n_workers=0).n_done == 1
    setting.check()


def test_a_folder_of_something_else_is_left_alone(setting: Setting) -> None:
    setting.bucket.fs.pipe_file(f"{setting.bucket.name}/results/tiny/holiday.jpg", b"x")
    with pytest.raises(OutputExistsError, match=r"holds something else \(holiday\.jpg\)"):
        setting.campaign().run(n_workers=0)
    assert setting.keys() == ["holiday.jpg"]


def test_a_bucket_without_permission_is_named(setting: Setting, proxy: Proxy) -> None:
    setting.endpoint = proxy.url
    proxy.judge = lambda method, path: "403" if method == "PUT" else ""
    with pytest.raises(PlaceError, match=r"results/tiny/\.lock: it must not be written .*permission denied") as caught:
        setting.campaign().run(n_workers=0)
    assert SECRET not in str(caught.value)
    proxy.judge = lambda method, path: "403" if method == "GET" else ""
    with pytest.raises(PlaceError, match=r"it must not be .* with these credentials: permission denied"):
        setting.campaign().status()


def test_images_without_permission_do_not_stop_the_others(setting: Setting, proxy: Proxy) -> None:
    setting.endpoint = proxy.url
    campaign = setting.campaign()
    campaign.plan()
    proxy.judge = lambda method, path: "403" if "image-001.fits" in path and method == "GET" else ""
    shutil.rmtree(campaign.layout.root.parents[3] / "files", ignore_errors=True)
    summary = campaign.run(n_workers=0)
    assert (summary.n_done, summary.n_failed) == (N_IMAGES - 1, 1)
    [failure] = summary.failures
    assert failure.error == "PlaceError" and "raw/image-001.fits: it must not be read" in failure.message
    proxy.judge = lambda method, path: ""
    assert setting.campaign().run(n_workers=0).n_done == 1
    setting.check()


def test_a_store_that_loses_connections_half_way(setting: Setting, proxy: Proxy) -> None:
    setting.endpoint = proxy.url
    count = [0]

    def judge(method: str, path: str) -> str:
        count[0] += 1
        return {5: "lose", 3: "cut", 7: "503"}.get(count[0] % 11, "") if ".fits" in path else ""

    proxy.judge = judge
    summary = setting.campaign().run(n_workers=0)
    assert summary.n_done == N_IMAGES and not summary.failures
    setting.check()


def test_credentials_have_no_place_in_the_configuration(setting: Setting) -> None:
    for storage in ({"key": SECRET}, {"secret": SECRET}, {"endpoint_url": f"https://u:{SECRET}@host"}):
        with pytest.raises(ConfigError) as caught:
            setting.campaign(storage=storage)
        assert SECRET not in str(caught.value)
    with pytest.raises(ConfigError, match="signed") as caught:
        setting.campaign(output=f"s3://b/x?X-Amz-Signature={SECRET}")
    assert SECRET not in str(caught.value)


def test_a_worker_with_another_scratch_folder_fetches_what_it_needs(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on another machine: plan, configuration and partitions come from the store, records go there."""
    import pickle

    import numpy as np

    from skygraft.campaign.run import CampaignRun
    from skygraft.execution.task import run_task
    from skygraft.monitoring.reporters import NoReporter
    from skygraft.places import scratch
    from skygraft.records.interruption import Interruption
    from skygraft.records.ledger import Ledger
    from skygraft.records.status import ImageStates

    campaign = setting.campaign(scratch={})
    campaign.plan()
    plan = campaign._current_plan(str)
    states = ImageStates(len(plan))
    with Ledger(campaign.layout.ledger) as ledger:
        run = CampaignRun(campaign.config, plan, states, np.arange(N_IMAGES), NoReporter(), Interruption(), ledger)
        work = pickle.dumps(run.work())
    assert SECRET.encode() not in work
    campaign.layout.root.rename(campaign.layout.root.with_name("gone"))
    monkeypatch.setenv("SKYGRAFT_SCRATCH", str(tmp_path / "worker"))
    scratch.use_scratch(None)
    done = pickle.loads(work)([0, 1])
    assert [(one.status, one.message) for one in done] == [("done", "")] * 2 and run_task
    campaign.layout.root.with_name("gone").rename(campaign.layout.root)
    monkeypatch.setenv("SKYGRAFT_SCRATCH", str(tmp_path / "scratch"))
    assert setting.campaign(scratch={}).run(n_workers=0).n_done == N_IMAGES - 2
    setting.check()
