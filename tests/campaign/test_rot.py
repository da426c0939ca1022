"""Every file that a campaign leaves, damaged in every way: status, run and verify name it, and a run makes it again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kits.plain_images import write_plain_image
from kits.tiny_campaign import RA, write_tiny_campaign
from skygraft.campaign import Campaign, read_plan
from skygraft.campaign.checksums import discard
from skygraft.errors import SkygraftError
from skygraft.records.events import ImageReopened
from skygraft.records.ledger import Ledger
from skygraft.records.packs import PACK_NAME, pack_of

CHECKPOINT = "ledger_checkpoint.arrow"
BLIND = {"ledger.jsonl", ".lock", "patch memory", CHECKPOINT}
"""A run does without these and writes them again; nothing tells what they were."""
REPORTS = {"plan_summary.csv", "plan_checks.parquet", "plan_findings.parquet"}
"""Written by `skygraft plan` alone."""
_VOLATILE = (
    "ledger.jsonl",
    CHECKPOINT,
    ".lock",
    ".consolidated",
    "provenance.json",
    "records/",
    "campaign.yaml",
)
"""Hold times of their making. (The checksums of images and truth in the records are compared by verify.)"""


def truncate(path: Path) -> None:
    content = path.read_bytes()
    # A configuration that can be read is taken for what somebody wants: what is left is none.
    path.write_bytes(content[: content.index(b":") if path.suffix == ".yaml" else len(content) * 2 // 3])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = content.index(b":") if path.suffix == ".yaml" else len(content) // 2
    for place in (middle, middle + 1):
        content[place] ^= 1
    path.write_bytes(content)


def rot(path: Path) -> None:
    """As a disk does it: neither size nor time tell."""
    status = path.stat()
    flip(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def put_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def loop(path: Path) -> None:
    """Nobody can open it, whatever their rights."""
    path.unlink()
    path.symlink_to(path.name)


def take_rows(path: Path) -> None:
    """A whole file, with a row less; of a table of one row, without any."""
    if path.suffix == ".parquet":
        pq.write_table(pq.read_table(path, partitioning=None).slice(1), path)
        return
    with pa.ipc.open_file(pa.BufferReader(path.read_bytes())) as file:
        table = file.read_all().slice(1)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": truncate,
    "flipped": flip,
    "rotten": rot,
    "emptied": lambda path: path.write_bytes(b""),
    "removed": Path.unlink,
    "a folder": put_a_folder,
    "unreadable": loop,
    "a row less": take_rows,
}


class Sound:
    """A campaign that is done, put back for every test where it was made."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._copy = folder / "campaign", folder / "sound"
        self._folder.mkdir()
        path = write_tiny_campaign(self._folder, 2)
        # Another piece of sky: the catalogue's sources do not lie on all images.
        write_plain_image(self._folder / "raw/image-001.fits", RA + 0.002, 2.2, 100, seed=1, EXPNUM=501)
        campaign = Campaign.from_yaml(path)
        campaign.plan()
        assert campaign.run(n_workers=0).ok
        assert campaign.status().files == () and campaign.check_checksums(processes=1).ok
        self.files = self._kinds(campaign)
        self._folder.rename(self._copy)
        self.results = results(self._copy / "out")

    @staticmethod
    def _kinds(campaign: Campaign) -> dict[str, str]:
        layout, image = campaign.layout, read_plan(campaign.layout.plan)[1]
        home = image.tract, image.patch
        paths = {
            "image": layout.images / image.output,
            "mask": (layout.images / image.output).with_suffix(".mask.fits"),
            "record": layout.record(*home, image.stem),
            "truth part": layout.truth_part(*home, image.stem),
            "truth table": layout.truth_table(*home),
            "source table": layout.source_table(*image.reads[0]),
            "sources.parquet": layout.campaign_sources,
            "catalogue part": layout.catalog_part(*image.reads[0]),
            "_partition.json": layout.catalog / "_partition.json",
            "_partitions.arrow": layout.catalog / "_partitions.arrow",
            "plan.parquet": layout.plan,
            "plan_summary.csv": layout.plan_summary,
            "plan_checks.parquet": layout.plan_checks,
            "plan_findings.parquet": layout.plan_findings,
            "failures.parquet": layout.failures,
            "provenance.json": layout.provenance,
            "campaign.yaml": layout.config,
            "ledger.jsonl": layout.ledger,
            CHECKPOINT: layout.checkpoint,
            ".lock": layout.lock,
            "patch memory": layout.patch_memory(*home),
            "truth checksum": layout.checksum(layout.truth_table(*home)),
            "plan checksum": layout.checksum(layout.plan),
            "pack": pack_of(layout.record(*home, image.stem)),
            "pack checksum": layout.checksum(pack_of(layout.record(*home, image.stem))),
        }
        return {kind: path.relative_to(layout.root).as_posix() for kind, path in paths.items()}

    def put_back(self) -> Campaign:
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._copy, self._folder, copy_function=shutil.copy2)
        return Campaign.from_yaml(self._folder / "campaign.yaml")


def results(out: Path) -> dict[str, bytes]:
    files = ((path.relative_to(out).as_posix(), path) for path in sorted(out.rglob("*")) if path.is_file())
    return {name: path.read_bytes() for name, path in files if not name.startswith(_VOLATILE)}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    return Sound(tmp_path_factory.mktemp("rot"))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """The same, with its records packed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skygraft.tables.consolidate._PACKED_FROM", 1)
        return Sound(tmp_path_factory.mktemp("packed"))


def said(command: Callable[[], object]) -> tuple[bool, str]:
    """Whether a command finds that all is well, and what it says; nothing but errors of skygraft is raised."""
    try:
        found = command()
    except SkygraftError as error:
        return False, str(error)
    if hasattr(found, "n_damaged"):
        return not (found.n_damaged or found.files), str(found)
    return found.ok, str(found)  # type: ignore[attr-defined]


TABLES = ("truth table", "source table", "sources.parquet", "catalogue part", "plan.parquet")
FEW = {"flipped", "removed", "a folder", "unreadable"}
CASES = [(kind, damage) for kind in ("truth part", *TABLES) for damage in DAMAGES]
CASES += [("_partitions.arrow", damage) for damage in DAMAGES]
CASES += [
    (kind, damage)
    for kind in ("image", "mask", "record", "_partition.json", "campaign.yaml", "failures.parquet", "provenance.json")
    for damage in DAMAGES
    if damage != "a row less"
]
CASES += [
    (kind, damage)
    for kind in (*sorted(REPORTS), *sorted(BLIND), "truth checksum", "plan checksum")
    for damage in sorted(FEW)
]


@pytest.mark.parametrize(("kind", "damage"), CASES)
def test_damage_is_named_and_mended(sound: Sound, kind: str, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skygraft.tables.truth._SETTLED_NS", -(10**9))
    campaign = sound.put_back()
    if kind in ("truth table", "patch memory"):
        campaign.run(n_workers=0)  # what is remembered of a patch is by the inodes of its files
    path = campaign.layout.root / sound.files[kind]
    DAMAGES[damage](path)
    is_folder = damage == "a folder"
    by_time = damage != "rotten" or kind in ("campaign.yaml", "plan.parquet", "_partition.json", "_partitions.arrow")
    without = kind == "plan checksum" and damage == "removed"  # of nothing else could be told that it is gone
    well, text = said(lambda: campaign.check_checksums(processes=1))
    if kind == CHECKPOINT:
        assert well == (damage == "removed"), text  # anybody may delete it
    elif kind not in BLIND and not without:
        assert not well and (path.name in text or kind.endswith("checksum")), text
    well, text = said(campaign.status)
    if by_time and kind not in BLIND and not kind.endswith("checksum"):
        assert not well, text
    well, text = said(lambda: campaign.run(n_workers=0))
    if kind in REPORTS:
        assert well == (damage in ("rotten", "removed")) and (well or path.name in text), text
        path.rmdir() if is_folder else path.unlink(missing_ok=True)
        campaign.plan(processes=1)
    elif is_folder:
        assert well if kind == CHECKPOINT else not well and path.name in text, text
        path.rmdir()
    elif damage == "unreadable" and kind in ("image", "mask", "record", "ledger.jsonl", ".lock"):
        assert not well and path.name in text, text
        path.unlink()
    elif damage == "rotten" and kind in ("record", "catalogue part"):
        assert not well and path.name in text, text  # what is read is compared; the next run makes it
    elif damage == "rotten" and not (report := campaign.check_checksums(processes=1)).ok:
        # A run does not read what neither size nor time tell of: that is what verify is for.
        assert well and kind in ("image", "mask", "truth part", "truth table", "source table", "sources.parquet")
        discard(report)
    elif well:
        assert results(campaign.layout.root) == sound.results
    else:
        assert "the next run makes" in text and kind == "record", text
    assert campaign.run(n_workers=0).ok
    assert {**results(campaign.layout.root), **_reports(sound)} == sound.results
    assert campaign.check_checksums(processes=1).ok
    status = campaign.status()
    assert status.files == () and status.n_damaged == 0


def _reports(sound: Sound) -> dict[str, bytes]:
    """The summary tells how much is free, and how much is to be made, which is another number later."""
    return {name: content for name, content in sound.results.items() if name in REPORTS}


@pytest.mark.parametrize("kind", ["image", "mask", "truth part", "record"])
def test_the_file_of_another_image_of_the_same_size(sound: Sound, kind: str) -> None:
    campaign = sound.put_back()
    images = read_plan(campaign.layout.plan)
    path = campaign.layout.root / sound.files[kind]
    other = path.with_name(path.name.replace(images[1].stem, images[0].stem).replace("image-001", "image-000"))
    assert other != path and other.is_file()
    shutil.copy2(other, path)
    assert not campaign.check_checksums(processes=1).ok
    assert campaign.status().damaged == (images[1].image_id,)
    assert campaign.run(n_workers=0).ok
    assert {**results(campaign.layout.root), **_reports(sound)} == sound.results
    assert campaign.check_checksums(processes=1).ok


def test_what_was_only_touched_is_read_and_not_made_again(sound: Sound) -> None:
    campaign = sound.put_back()
    for path in campaign.layout.root.rglob("*"):
        if path.is_file():
            os.utime(path)
    assert campaign.status().n_damaged == 2
    summary = campaign.run(n_workers=0)
    assert (summary.n_done, summary.n_skipped, summary.ok) == (0, 2, True)
    assert campaign.status().n_damaged == 0
    assert results(campaign.layout.root) == sound.results


def test_a_plan_of_no_image_is_no_success(sound: Sound) -> None:
    campaign = sound.put_back()
    path = campaign.layout.plan
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    for command in (campaign.status, lambda: campaign.check_checksums(processes=1)):
        well, text = said(command)
        assert not well and "plan" in text
    assert campaign.run(n_workers=0).ok and campaign.status().n_done == 2


def test_an_image_that_was_opened_again_is_read_before_it_counts(sound: Sound) -> None:
    """A run that found it changed, and died before it was made."""
    campaign = sound.put_back()
    path, image = campaign.layout.root / sound.files["image"], read_plan(campaign.layout.plan)[1]
    rot(path)
    with Ledger(campaign.layout.ledger) as ledger:
        ledger.append([ImageReopened(image.image_id)])
    summary = campaign.run(n_workers=0)
    assert (summary.n_done, summary.n_skipped, summary.ok) == (1, 1, True)
    assert results(campaign.layout.root) == sound.results


def test_a_ledger_made_anew_does_not_vouch_for_what_was_changed(sound: Sound) -> None:
    campaign = sound.put_back()
    flip(campaign.layout.root / sound.files["mask"])
    campaign.rescan()
    assert campaign.status().n_damaged == 1
    assert campaign.run(n_workers=0).n_done == 1
    assert results(campaign.layout.root) == sound.results


@pytest.mark.parametrize("kind", ["pack", "pack checksum", "image", "mask"])
@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_damage_of_a_packed_campaign_is_named_and_mended(
    packed: Sound, kind: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if damage == "a row less" and kind != "pack":
        pytest.skip("is no table")
    monkeypatch.setattr("skygraft.tables.consolidate._PACKED_FROM", 1)
    campaign = packed.put_back()
    path = campaign.layout.root / packed.files[kind]
    DAMAGES[damage](path)
    is_folder, is_unreadable = damage == "a folder", damage == "unreadable"
    well, text = said(lambda: campaign.check_checksums(processes=1))
    if not (kind == "pack checksum" and damage == "removed"):
        assert not well and (path.name in text or kind == "pack checksum"), text
    well, text = said(campaign.status)
    if damage != "rotten" and kind != "pack checksum":
        assert not well, text
    well, text = said(lambda: campaign.run(n_workers=0))
    if is_folder:
        assert not well and path.name in text, text
        path.rmdir()
    elif is_unreadable and kind != "pack checksum":
        assert not well and path.name in text, text
        path.unlink()
    elif damage == "rotten" and not (report := campaign.check_checksums(processes=1)).ok:
        assert well, text  # nothing tells a run of it
        discard(report)
    else:
        assert well, text
    summary = campaign.run(n_workers=0)
    assert summary.ok
    assert {**results(campaign.layout.root), **_reports(packed)} == packed.results
    assert campaign.check_checksums(processes=1).ok
    status = campaign.status()
    assert status.files == () and status.n_damaged == 0
    assert [p for p in campaign.layout.records.rglob("*") if p.is_file() and p.name != PACK_NAME] == []


def test_a_packed_campaign_that_was_only_touched_is_read_and_not_made_again(
    packed: Sound, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skygraft.tables.consolidate._PACKED_FROM", 1)
    campaign = packed.put_back()
    for path in campaign.layout.root.rglob("*"):
        if path.is_file():
            os.utime(path)
    assert campaign.status().n_damaged == 2
    summary = campaign.run(n_workers=0)
    assert (summary.n_done, summary.n_skipped, summary.ok) == (0, 2, True)
    assert campaign.status().n_damaged == 0 and campaign.check_checksums(processes=1).ok
    assert campaign.run(n_workers=0).n_skipped == 2
    assert results(campaign.layout.root) == packed.results
