"""A ledger read as columns, in parts and by several processes, and compared with files: always the same."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from skygraft.records import comparison as comparison_module
from skygraft.records import ledger_scan as scan_module
from skygraft.records.comparison import Comparison
from skygraft.records.events import RunStarted
from skygraft.records.image_summary import ImageSummary
from skygraft.records.ledger import Ledger
from skygraft.records.ledger_scan import DONE, QUARANTINED, fingerprint_key, fingerprint_keys, scan_ledger

N = 300
CHANGED, GONE, LONGER, TOUCHED, LOOP, OTHER_SETTINGS, OTHER_CODE, FAILED = 3, 50, 120, 130, 140, 170, 230, 290


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    return Comparison(str(tmp_path / "out"), str(tmp_path / "root"), settings=fingerprint_key("5"), code=7)


@pytest.fixture
def ledger(tmp_path: Path, comparison: Comparison) -> Path:
    """The ledger of `N` images, of which eight are not as it says; half a line in the middle."""
    root, out = Path(comparison.root), Path(comparison.output)
    root.mkdir()
    out.mkdir()
    path = tmp_path / "ledger.jsonl"
    for i in range(N):
        (root / f"{i}.fits").write_bytes(b"x" * i)
        (out / f"{i}.fits").write_bytes(b"y" * i)
        summary = ImageSummary(
            f"image-{i}",
            "failed" if i == FAILED else "done",
            inputs={f"{i}.fits": [i, (root / f"{i}.fits").stat().st_mtime_ns]},
            outputs={f"{i}.fits": i},
            # A ledger of an older skygraft has no times of outputs.
            output_times=[(out / f"{i}.fits").stat().st_mtime_ns] if i % 2 == 0 else [],
            catalog=f"{i:064x}",
            settings="4" if i == OTHER_SETTINGS else "5",
            code=6 if i == OTHER_CODE else 7,
            quarantined=i == FAILED,
        )
        with Ledger(path) as book:
            book.append([RunStarted()])
            book.images([summary])
        if i == N // 2:
            with path.open("ab") as handle:
                handle.write(b'{"event": "image", "image_')
    os.utime(root / f"{CHANGED}.fits", ns=(1, 1))
    (out / f"{GONE}.fits").unlink()
    (out / f"{LONGER}.fits").write_bytes(b"")
    os.utime(out / f"{TOUCHED}.fits", ns=(1, 1))
    (root / f"{LOOP}.fits").unlink()
    (root / f"{LOOP}.fits").symlink_to(f"{LOOP}.fits")
    return path


def scanned(ledger: Path, start: int = 0, stop: int | None = None) -> tuple[pa.Table, list[int]]:
    parts = list(scan_ledger(ledger, start, stop))
    return pa.Table.from_batches([part.images for part in parts]), [p for part in parts for p in part.run_starts]


def test_columns_say_what_the_lines_say(ledger: Path) -> None:
    images, run_starts = scanned(ledger)
    content = ledger.read_bytes()
    assert images["image_id"].to_pylist() == [f"image-{i}" for i in range(N)]
    states = np.array(images["state"])
    assert np.flatnonzero(states != DONE).tolist() == [FAILED] and states[FAILED] == QUARANTINED
    done = [i for i in range(N) if i != FAILED]
    assert [images["sources"][i].as_py() for i in done] == [fingerprint_key(f"{i:064x}") for i in done]
    for i, row in enumerate(images.to_pylist()):
        line = json.loads(content[row["place"] :].split(b"\n", 1)[0])
        assert line["image_id"] == f"image-{i}"
        if i != FAILED:
            [(name, identity)] = line["inputs"].items()
            time = line["output_times"][0] if i % 2 == 0 else scan_module.ANY_TIME
            assert (row["n_inputs"], row["names"]) == (1, [name, f"{i}.fits"])
            assert (row["sizes"], row["times"]) == ([identity[0], i], [identity[1], time])
    assert len(run_starts) == N
    assert all(json.loads(content[at:].split(b"\n", 1)[0])["event"] == "run_started" for at in run_starts)


def test_what_is_not_as_the_ledger_says(ledger: Path, comparison: Comparison) -> None:
    images, _ = scanned(ledger)
    [batch] = images.combine_chunks().to_batches()
    wrong = [CHANGED, GONE, LONGER, TOUCHED, LOOP, OTHER_SETTINGS, OTHER_CODE, FAILED]
    with comparison:
        assert np.flatnonzero(~comparison.agrees(batch)).tolist() == wrong
        assert np.flatnonzero(~comparison.agrees(batch.slice(100, 75))).tolist() == [20, 30, 40, 70]
    with Comparison(comparison.output) as outputs:
        assert np.flatnonzero(~outputs.agrees(batch)).tolist() == [GONE, LONGER, TOUCHED, FAILED]


def test_parts_do_not_matter(ledger: Path, comparison: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scanned(ledger)
    middle = whole[1][N // 3]
    for part_bytes, batch in ((1, 1), (1000, 3), (7777, 64)):
        monkeypatch.setattr(scan_module, "_PART_BYTES", part_bytes)
        monkeypatch.setattr(scan_module, "_BATCH", batch)
        assert scanned(ledger) == whole
        before, after = scanned(ledger, 0, middle), scanned(ledger, middle)
        assert pa.concat_tables([before[0], after[0]]) == whole[0] and before[1] + after[1] == whole[1]
    with comparison:
        [one] = whole[0].combine_chunks().to_batches()
        agrees = comparison.agrees(one).tolist()
        monkeypatch.setattr(comparison_module, "_FILES_AT_ONCE", 7)
        assert comparison.agrees(one).tolist() == agrees


@pytest.mark.slow
def test_processes_do_not_matter(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scanned(ledger)
    monkeypatch.setattr(scan_module, "_PART_BYTES", 20_000)
    monkeypatch.setattr(scan_module, "_LARGE", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert len(list(scan_ledger(ledger))) > 3
    assert scanned(ledger) == whole


def test_no_ledger(tmp_path: Path) -> None:
    assert list(scan_ledger(tmp_path / "none")) == []
    (tmp_path / "empty").touch()
    assert list(scan_ledger(tmp_path / "empty")) == []


def test_damaged_entries_agree_with_no_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    size_and_time = [1, (tmp_path / "a").stat().st_mtime_ns]
    bad = [
        {"inputs": {"a": [1]}, "outputs": {"a": 1}},
        {"inputs": {"a": size_and_time}, "outputs": {"a": 1}, "output_times": [1, 2]},
        {"inputs": {}, "outputs": {"a": 1}},
        {"inputs": {"a": size_and_time}, "outputs": {}},
        {"inputs": {"": size_and_time}, "outputs": {"a": 1}},
        {"inputs": {"a\0": size_and_time}, "outputs": {"a": 1}},
    ]
    with Ledger(tmp_path / "ledger") as ledger:
        ledger.images(ImageSummary(str(i), "done", **entry) for i, entry in enumerate(bad))
        ledger.images([ImageSummary("good", "done", inputs={str(tmp_path / "a"): size_and_time}, outputs={"a": 1})])
    [found] = scan_ledger(tmp_path / "ledger")
    with Comparison(str(tmp_path), str(tmp_path), settings=fingerprint_key("")) as comparison:
        assert comparison.agrees(found.images).tolist() == [False] * len(bad) + [True]


def test_keys_of_fingerprints() -> None:
    keys = [fingerprint_key(text) for text in ("", "f" * 64, "0" * 64, "8" + "0" * 63, "not hex", "not hey")]
    keys.append(fingerprint_key("f" * 64, "dataset"))
    assert len(set(keys)) == len(keys)
    assert all(-(2**63) <= key < 2**63 for key in keys)


def test_keys_of_many_fingerprints_are_those_of_each() -> None:
    digests = [hashlib.sha256(bytes([i])).hexdigest() for i in range(200)]
    odd = (["x" * 64, *digests], ["", "a"], ["0" * 16, "f" * 16], ["F" * 16], ["0x" + "1" * 14], ["1_1" * 6], [])
    for fingerprints in (digests, *odd):
        column = pa.array([*digests[:3], *fingerprints], pa.string()).slice(3)
        assert fingerprint_keys(column).tolist() == [fingerprint_key(one) for one in fingerprints]
    ids = [str(i % 3 or "") for i in range(200)]
    wanted = [fingerprint_key(one, id) for one, id in zip(digests, ids, strict=True)]
    assert fingerprint_keys(pa.array(digests), ids).tolist() == wanted
