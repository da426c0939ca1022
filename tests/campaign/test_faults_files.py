"""Disks that fill or turn read-only, inputs that cannot be read, clocks that disagree, an image that kills workers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from astropy.io import fits

from kits.faults_kit import (
    N_IMAGES,
    Cluster,
    Ended,
    Scene,
    Tmpfs,
    Undisturbed,
    damage,
    differences,
    failures,
    image_id,
    image_name,
    scene,
    soak,
    undisturbed,
    wait_for,
    write_image,
)

pytestmark = [pytest.mark.dask, pytest.mark.slow]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder on disk, whatever those of other tests are: what goes to memory is done before it can be caught."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return undisturbed(tmp_path_factory.getbasetemp())[0]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed(tmp_path_factory.getbasetemp())[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as made:
        made.wait_for_workers()
        yield made


@pytest.fixture
def campaign(pristine: Path, tmp_path: Path) -> Iterator[Scene]:
    with scene(pristine, tmp_path) as made:
        yield made


def assert_says(ended: Ended, *words: str) -> None:
    """One message that names the file and what to do; no traceback, and no success."""
    assert ended.code == 1, (ended.out, ended.err)
    said = ended.out + ended.err
    for word in words:
        assert re.search(word, said), said
    assert "Traceback" not in said


def test_disk_full_half_way(pristine: Path, tmp_path: Path, cluster: Cluster, expected: Undisturbed) -> None:
    with Tmpfs(tmp_path / "disk", "200m") as disk, scene(pristine, tmp_path, "disk/out") as campaign:
        driver = campaign.start("run", "--scheduler", cluster.address)
        with cluster.held(driver, lambda: campaign.n_records() >= 4):
            disk.fill()
        assert_says(driver.wait(), "No space left on device", "free space", re.escape(str(campaign.out)))
        # What a worker was at when its driver ended may still come to its record, or fail.
        wait_for(lambda: _quiet(campaign))
        n_before = campaign.n_records()
        assert 4 <= n_before < N_IMAGES
        assert damage(campaign.out, expected) == []
        disk.remount("size=400m")
        summary = campaign.finish(cluster.address)
        assert summary.ok
        assert n_before <= summary.n_skipped < N_IMAGES
        assert differences(campaign.out, expected) == []


@soak
def test_no_space_for_the_ledger(campaign: Scene, cluster: Cluster, expected: Undisturbed, tmp_path: Path) -> None:
    assert campaign.start("plan").wait().code == 0
    ledger = campaign.out / "ledger.jsonl"
    with Tmpfs(tmp_path / "tiny", "4k") as tiny:
        ledger.symlink_to(tiny.path / "ledger.jsonl")
        (tiny.path / "ledger.jsonl").touch()
        full = campaign.run("--scheduler", cluster.address)
        assert_says(full, "No space left on device", re.escape(str(ledger)), "free space")
        assert damage(campaign.out, expected) == []
        kept = ledger.read_bytes()
        assert len(kept) == 4096, "it was not the ledger that was full"
    # Moved to where there is room: its last line is half a one.
    ledger.unlink()
    ledger.write_bytes(kept)
    summary = campaign.finish(cluster.address)
    assert summary.ok
    assert differences(campaign.out, expected) == []


@soak
def test_no_space_for_the_truth_tables(campaign: Scene, cluster: Cluster, expected: Undisturbed) -> None:
    assert campaign.start("plan").wait().code == 0
    with Tmpfs(campaign.out / "truth", "4k"):
        full = campaign.run("--scheduler", cluster.address)
        assert_says(full, "No space left on device", "free space", str(campaign.out / "truth"))
    assert campaign.n_records() == N_IMAGES
    again = campaign.run("--scheduler", cluster.address)
    assert again.code == 0, again.err
    assert again.summary["n_skipped"] == N_IMAGES
    assert differences(campaign.out, expected) == []


@soak
def test_output_read_only_from_the_start(
    pristine: Path, tmp_path: Path, cluster: Cluster, expected: Undisturbed
) -> None:
    with Tmpfs(tmp_path / "disk", "200m") as disk, scene(pristine, tmp_path, "disk/out") as campaign:
        disk.remount("ro")
        assert_says(campaign.run("--scheduler", cluster.address), "Read-only file system", re.escape(str(campaign.out)))
        disk.remount("rw")
        driver = campaign.start("run", "--scheduler", cluster.address)
        with cluster.held(driver, lambda: campaign.n_records() >= 3):
            driver.end()
        wait_for(lambda: _quiet(campaign))
        n_before = campaign.n_records()
        disk.remount("ro")
        assert_says(
            campaign.run("--scheduler", cluster.address), "[Rr]ead-only|not writable", re.escape(str(campaign.out))
        )
        assert_says(campaign.run("--workers", "0"), "[Rr]ead-only|not writable", re.escape(str(campaign.out)))
        disk.remount("rw")
        again = campaign.run("--scheduler", cluster.address)
        assert again.code == 0, again.err
        assert again.summary["n_skipped"] == n_before
        assert differences(campaign.out, expected) == []


def _quiet(campaign: Scene) -> bool:
    """Whether tasks that flew when their driver was killed are at an end."""
    before = campaign.n_records()
    time.sleep(0.5)
    return before == campaign.n_records() and not campaign.leftovers()


def test_output_turns_read_only_half_way(campaign: Scene, cluster: Cluster, expected: Undisturbed) -> None:
    assert campaign.start("plan").wait().code == 0
    with Tmpfs(campaign.out / "images", "64m") as disk:
        driver = campaign.start("run", "--scheduler", cluster.address, "--json")

        def turned() -> bool:
            if campaign.n_records() < 4:
                return False
            try:
                disk.remount("ro")
            except subprocess.CalledProcessError:
                return False  # somebody writes just now
            return True

        with cluster.held(driver, turned):
            pass
        assert_says(driver.wait(), "Read-only file system", str(campaign.out / "images"))
        assert 4 <= campaign.n_records() < N_IMAGES
        assert damage(campaign.out, expected) == []
        disk.remount("rw")
        assert campaign.finish(cluster.address).ok
        assert differences(campaign.out, expected) == []


def test_unreadable_inputs_in_the_mix(campaign: Scene, cluster: Cluster, expected: Undisturbed) -> None:
    raw = campaign.survey / "raw"
    whole = (campaign.survey / image_name(0)).read_bytes()
    (raw / "v0/bad-header.fits").write_bytes(whole[:1000])
    (raw / "v1/bad-data.fits").write_bytes(whole[:50_000])
    (raw / "v1/bad-empty.fits").touch()
    (raw / "v2/bad-link.fits").symlink_to("nowhere.fits")
    (raw / "v2/bad-noise.fits").write_bytes(bytes(range(256)) * 200)
    os.mkfifo(raw / "v3/bad-pipe.fits")
    bad = sorted(raw.rglob("bad-*"))
    assert campaign.start("plan").wait().err == ""
    assert (campaign.out / "plan.parquet").exists()

    # After planning: one vanishes, one becomes a folder, one is cut short, one looks elsewhere, one is a pipe now, and
    # one is made anew of the same sky, which can be made.
    lost = [image_id(i) for i in (0, 7, 8, 13, 19)]
    paths = [campaign.survey / image_name(i) for i in (0, 7, 8, 13, 19)]
    kept = campaign.root / "kept"
    for path in paths:
        kept.mkdir(exist_ok=True)
        shutil.copy2(path, kept / path.name)
        path.unlink()
    paths[1].mkdir()
    paths[2].write_bytes((kept / paths[2].name).read_bytes()[:90_000])
    write_image(campaign.survey, 13, CRVAL1=150.9)
    os.mkfifo(paths[4])
    os.utime(campaign.survey / image_name(20))

    ended = campaign.run("--scheduler", cluster.address)
    assert ended.code == 1, ended.err
    said = {row["image_id"] or row["path"]: row for row in failures(campaign.out)}
    assert len(said) == len(failures(campaign.out)) == len(lost) + len(bad)
    reasons = {
        lost[0]: "No such file", lost[1]: "directory", lost[2]: "truncated", lost[3]: "not the one that was planned",
        lost[4]: "empty|no ordinary file",
    }  # fmt: skip
    for name, reason in reasons.items():
        assert re.search(reason, said[name]["message"]), said[name]
    unusable = {row["path"]: row["message"] for row in said.values() if row["tract"] is None}
    assert sorted(unusable) == [path.relative_to(campaign.survey).as_posix() for path in bad]
    found = differences(campaign.out, expected, lost)
    assert [text for text in found if "testcam-503-2" not in text] == []
    record = json.loads(next(campaign.out.rglob(f"{image_id(20)}.json")).read_text())
    assert record["inputs"][image_name(20)][1] == (campaign.survey / image_name(20)).stat().st_mtime_ns

    # All put right, and run again.
    for path in bad:
        path.unlink()
    paths[1].rmdir()
    for path in paths:
        path.unlink(missing_ok=True)
        shutil.copy2(kept / path.name, path)
    summary = campaign.finish(cluster.address)
    assert (summary.ok, summary.n_done) == (True, len(lost))
    found = differences(campaign.out, expected)
    assert [text for text in found if "testcam-503-2" not in text] == []
    assert failures(campaign.out) == []


def test_times_of_inputs_and_records_say_nothing(campaign: Scene, cluster: Cluster, expected: Undisturbed) -> None:
    """Written by machines whose clocks are decades off."""
    early, late = 1, 4_102_444_800  # 1970 and 2100
    for number, seconds in {2: early, 3: late, 9: 0}.items():
        os.utime(campaign.survey / image_name(number), (seconds, seconds))
    touched = {image_id(number) for number in (2, 3, 9)}
    assert campaign.finish(cluster.address).ok
    found = differences(campaign.out, expected)
    # Their stamps are part of what the images were made from.
    assert {text.split(":")[0].removeprefix("record of ") for text in found} == touched
    assert {text.split(": ")[1] for text in found} == {"inputs differs", "key differs"}
    outputs = [path for path in campaign.out.rglob("*") if path.is_file() and path.parent != campaign.out]
    for number, path in enumerate(outputs):
        seconds = (early, late)[number % 2]
        os.utime(path, (seconds, seconds))
    assert campaign.finish(cluster.address).n_skipped == N_IMAGES
    assert differences(campaign.out, expected) == found


@soak
@pytest.mark.parametrize(("driver", "workers"), [("+5h", "-3h"), ("-400d", "+0")])
def test_clocks_that_disagree(
    driver: str, workers: str, campaign: Scene, cluster: Cluster, expected: Undisturbed, tmp_path: Path
) -> None:
    with Cluster(tmp_path / "skewed", worker_env=_clock(workers)) as skewed:
        first = campaign.start("run", "--scheduler", skewed.address, env=_clock(driver))
        with skewed.held(first, lambda: campaign.n_records() >= 8):
            first.end()
        ended = campaign.run("--scheduler", skewed.address, env=_clock(driver))
        assert ended.code == 0, ended.err
        assert ended.summary["n_skipped"] >= 8
        assert differences(campaign.out, expected) == []
        assert abs(_hours(campaign.ledger()[-1]["time"]) - _hours(driver)) < 1, "the clock was not turned"
    # And by clocks that are right again.
    assert campaign.finish(cluster.address).n_skipped == N_IMAGES
    assert differences(campaign.out, expected) == []


def _clock(shift: str) -> dict[str, str]:
    """What makes a process believe that it is another time; of Debian's package faketime."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("clocks cannot be turned here: libfaketime is not installed")
    return {"LD_PRELOAD": str(found[0]), "FAKETIME": shift, "DONT_FAKE_MONOTONIC": "1"}


def _hours(shift: str) -> float:
    """How far a clock is ahead: as it was turned, or by a time that it told."""
    if shift[-1] in "hd":
        return float(shift[:-1]) * (24 if shift[-1] == "d" else 1)
    return (datetime.fromisoformat(shift) - datetime.now(UTC)).total_seconds() / 3600


POISON_SIZE = 18_000
POISONED = 3


def write_poison(path: Path) -> None:
    """Replace an image by one of the same place, honest but for its size: 1.3 GB of zeros that take no disk."""
    header = fits.Header([("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2)])
    header.update({"NAXIS1": POISON_SIZE, "NAXIS2": POISON_SIZE})
    before = fits.getheader(path)
    header.extend((card for card in before.cards if card.keyword not in ("SIMPLE", "BITPIX", "EXTEND")), unique=True)
    header.update({"CRPIX1": (POISON_SIZE + 1) / 2, "CRPIX2": (POISON_SIZE + 1) / 2})
    path.unlink()
    path.write_bytes(header.tostring().encode())
    os.truncate(path, -(-(path.stat().st_size + 4 * POISON_SIZE**2) // 2880) * 2880)


def test_an_image_that_kills_its_workers_is_quarantined_and_the_others_are_made(
    campaign: Scene, expected: Undisturbed, tmp_path: Path
) -> None:
    path, kept = campaign.survey / image_name(POISONED), tmp_path / "kept.fits"
    shutil.copy2(path, kept)
    write_poison(path)
    poisoned = image_id(POISONED)
    # A worker's death counts at once: Dask tries three times otherwise, and each time takes a worker's start.
    with Cluster(
        tmp_path / "small", memory="900MB", env={"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    ) as small:
        ended = campaign.run("--scheduler", small.address)
        assert ended.code == 1, ended.err
        (row,) = failures(campaign.out)
        assert row["path"] == image_name(POISONED)
        assert row["error"] == "KilledWorker"
        assert "memory" in row["message"]
        assert differences(campaign.out, expected, [poisoned]) == []

        # It stays where it is until it is asked for.
        summary = campaign.finish(small.address)
        assert (summary.n_done, summary.n_quarantined, summary.ok) == (0, 1, False)
        assert differences(campaign.out, expected, [poisoned]) == []

        path.unlink()
        shutil.copy2(kept, path)
        assert campaign.start("plan").wait().code == 0
        ended = campaign.run("--scheduler", small.address, "--retry-failed")
        assert ended.code == 0, ended.err
        assert ended.summary["n_done"] == 1
        assert differences(campaign.out, expected) == []
