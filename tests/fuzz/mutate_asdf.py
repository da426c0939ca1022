"""Damage ASDF: its YAML tree, and the headers and data of its blocks; also inside a FITS file."""

from __future__ import annotations

import re

import numpy as np

from fuzz.mutate import Change, text_cell, text_line, text_word

_MAGIC, _TREE_END = b"\xd3BLK", re.compile(rb"\n\.\.\.\r?\n")
_VALUES = ("-1", "0", "1e300", ".nan", ".inf", "null", "[]", "{}", "text", "99999999999", "true", "!!python/none x")


def _tree(data: bytes) -> tuple[int, int] | None:
    """Where the tree begins and ends: after the comments, and before the end of the document."""
    start = data.find(b"#ASDF ")
    end = _TREE_END.search(data, max(start, 0))
    if start < 0 or end is None:
        return None
    begin = data.find(b"\n--- ", start, end.start())
    return (begin + 1 if begin >= 0 else start, end.start())


def tree_text(data: bytes, rng: np.random.Generator) -> Change | None:
    """A number, a word or a line of the tree is another; inside a FITS file at the same length."""
    if (place := _tree(data)) is None:
        return None
    start, end = place
    made = (text_cell, text_word, text_line)[rng.integers(3)](data[start:end], rng)
    if made is None:
        return None
    return Change(data[:start] + _fitted(data, made.data, end - start) + data[end:], f"tree: {made.what}")


def tree_value(data: bytes, rng: np.random.Generator) -> Change | None:
    """The value of a key of the tree is anything, or the key is gone."""
    if (place := _tree(data)) is None:
        return None
    start, end = place
    keys = list(re.finditer(rb"(?m)(?<=[\s{,])([A-Za-z_]\w*): ([^\n{\[]+?)(?=[,}\n])", data[start:end]))
    if not keys:
        return None
    found = keys[rng.integers(len(keys))]
    key, tree = found[1].decode(), data[start:end]
    if rng.random() < 0.3:
        new, what = tree[: found.start()] + key.encode() + b"_: " + found[2] + tree[found.end() :], f"key {key} renamed"
    else:
        value = _VALUES[rng.integers(len(_VALUES))]
        new, what = tree[: found.start(2)] + value.encode() + tree[found.end(2) :], f"{key}: {value}"
    return Change(data[:start] + _fitted(data, new, end - start) + data[end:], f"tree: {what}")


def _fitted(data: bytes, tree: bytes, length: int) -> bytes:
    """A tree of any length in a file of its own; in a column of a FITS table one of the same length."""
    if data.startswith(b"#ASDF "):
        return tree
    return tree[:length].ljust(length)


def block_header(data: bytes, rng: np.random.Generator) -> Change | None:
    """A field of a block's header is another: sizes, compression, checksum."""
    blocks = [m.start() for m in re.finditer(re.escape(_MAGIC), data)]
    if not blocks:
        return None
    start = blocks[rng.integers(len(blocks))]
    name, at, length = (("size of the header", 4, 2), ("flags", 6, 4), ("compression", 10, 4), ("allocated", 14, 8),
                        ("used", 22, 8), ("size", 30, 8), ("checksum", 38, 16))[rng.integers(7)]  # fmt: skip
    old = data[start + at : start + at + length]
    kind = rng.integers(5)
    if kind == 0:
        new = b"\0" * len(old)
    elif kind == 1:
        new = b"\xff" * len(old)
    elif kind == 2:
        new = ((b"lz4\0", b"bzp2", b"zlib", b"zstd")[rng.integers(4)] * 4)[: len(old)]
    else:
        number = int.from_bytes(old, "big") + (1, -1, 1000, -1000)[rng.integers(4)]
        new = (number % 256 ** len(old)).to_bytes(len(old), "big")
    changed = data[: start + at] + new + data[start + at + len(old) :]
    return Change(changed, f"block at {start}: {name} {old.hex()} -> {new.hex()}")


ASDF = (tree_text, tree_text, tree_value, tree_value, block_header)
