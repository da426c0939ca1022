"""Compiled loops over names of files, against the calls of Python that they take the place of."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from skygraft.records.file_loops import file_keys, look_up


def test_they_find_what_stat_finds(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    os.utime(tmp_path / "a", ns=(0, 1_700_000_000_987_654_321))
    (tmp_path / "b").mkdir()
    (tmp_path / "b/old").touch()
    os.utime(tmp_path / "b/old", ns=(0, -1_500_000_000))  # before 1970
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "broken").symlink_to("nowhere")
    whole = os.fsencode(tmp_path / "a")
    names = [b"a", b"b/old", b"link", whole, b"broken", b"gone", b"", b"a\0b", b"x" * 5000, "é".encode(), b"a/b"]
    content = np.frombuffer(b"".join(names), np.uint8)
    offsets = np.cumsum([0, *map(len, names)])
    n = len(names)
    descriptor = os.open(tmp_path, os.O_PATH)
    try:
        found = look_up(content, offsets, np.arange(n), np.full(n, descriptor))
        expected = [(status.st_size, status.st_mtime_ns) for status in map(os.stat, (whole, tmp_path / "b/old"))]
        a, old, nothing = *expected, (-1, -1)
        assert [*map(tuple, found.tolist())] == [a, old, a, a, *[nothing] * 7]
    finally:
        os.close(descriptor)


def test_keys_tell_names_and_sizes_apart() -> None:
    rng = np.random.default_rng(3)
    letters, offsets = rng.integers(97, 99, 40_000).astype(np.uint8), np.arange(0, 40_001, 4)
    sizes = rng.integers(0, 3, 10_000)
    keys = file_keys(letters, offsets, sizes, sizes)
    names = {
        (letters[a : a + 4].tobytes(), size) for a, size in zip(offsets[:-1].tolist(), sizes.tolist(), strict=True)
    }
    assert 0 not in keys and len({*keys.tolist()}) == len(names)
