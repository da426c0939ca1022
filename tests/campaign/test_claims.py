"""What a ledger claims, read in pieces, by processes and by threads: always the same."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from skygraft.records import ledger_scan as room
from skygraft.records.events import RunStarted
from skygraft.records.image_summary import ImageSummary
from skygraft.records.ledger import Ledger
from skygraft.records.ledger_scan import DONE, QUARANTINED, Claims, Now, claims, source_key

N = 300
CHANGED, GONE, LONGER, OTHER_SETTINGS, OTHER_CODE, FAILED = 3, 50, 120, 170, 230, 290


@pytest.fixture
def now(tmp_path: Path) -> Now:
    return Now(str(tmp_path / "root"), str(tmp_path / "out"), settings="s", code=7)


@pytest.fixture
def ledger(tmp_path: Path, now: Now) -> Path:
    """The ledger of `N` images, of which six are not as it says; half a line in the middle."""
    root, out = Path(now.root), Path(now.output)
    root.mkdir()
    out.mkdir()
    path = tmp_path / "ledger.jsonl"
    for i in range(N):
        (root / f"{i}.fits").write_bytes(b"x" * i)
        (out / f"{i}.fits").write_bytes(b"y" * i)
        stamp = (root / f"{i}.fits").stat().st_mtime_ns
        summary = ImageSummary(
            f"image-{i}",
            "failed" if i == FAILED else "done",
            inputs={f"{i}.fits": [i, stamp]},
            outputs={f"{i}.fits": i},
            catalog=f"{i:064x}",
            settings="t" if i == OTHER_SETTINGS else "s",
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
    return path


def joined(pieces: list[Claims]) -> dict[str, list[object]]:
    names = ("places", "states", "sources", "agrees")
    found: dict[str, list[object]] = {
        name: np.concatenate([getattr(p, name) for p in pieces]).tolist() for name in names
    }
    return found | {"image_ids": [name for piece in pieces for name in piece.image_ids]}


def test_what_is_not_as_it_says(ledger: Path, now: Now) -> None:
    [found] = claims(ledger, now)
    assert found.image_ids == [f"image-{i}" for i in range(N)]
    assert np.flatnonzero(~found.agrees).tolist() == [CHANGED, GONE, LONGER, OTHER_SETTINGS, OTHER_CODE, FAILED]
    assert np.flatnonzero(found.states != DONE).tolist() == [FAILED] and found.states[FAILED] == QUARANTINED
    assert found.sources.tolist() == [source_key(f"{i:064x}") for i in range(N)]
    content = ledger.read_bytes()
    for i, place in enumerate(found.places.tolist()):
        assert json.loads(content[place:].split(b"\n", 1)[0])["image_id"] == f"image-{i}"


@pytest.mark.parametrize("stretch", [1, 1000, 7777])
def test_pieces_and_threads_do_not_matter(
    ledger: Path, now: Now, stretch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = joined(list(claims(ledger, now)))
    monkeypatch.setattr(room, "_STRETCH", stretch)
    assert joined(list(claims(ledger, now))) == whole
    monkeypatch.setattr(room, "_STRETCH", 1 << 20)
    monkeypatch.setattr(room, "_FAR_SECONDS", 0.0)
    assert joined(list(claims(ledger, now))) == whole


@pytest.mark.slow
def test_processes_do_not_matter(ledger: Path, now: Now, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = joined(list(claims(ledger, now)))
    monkeypatch.setattr(room, "_STRETCH", 20_000)
    monkeypatch.setattr(room, "_LARGE", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    pieces = list(claims(ledger, now))
    assert len(pieces) > 3
    assert joined(pieces) == whole


def test_nothing_is_looked_at_unless_asked(ledger: Path) -> None:
    [found] = claims(ledger)
    assert not found.agrees.any()
    assert len(found.image_ids) == N


def test_no_ledger(tmp_path: Path) -> None:
    assert list(claims(tmp_path / "none")) == []
    (tmp_path / "empty").touch()
    assert list(claims(tmp_path / "empty")) == []


def test_keys_of_sources() -> None:
    keys = [source_key(text) for text in ("", "f" * 64, "0" * 64, "8" + "0" * 63, "not hex", "not hey")]
    assert len(set(keys)) == len(keys)
    assert all(-(2**63) <= key < 2**63 for key in keys)
