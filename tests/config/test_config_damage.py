"""Configurations that nobody should write: each is refused with its file, line and key, in no time and memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from skygraft.config.campaign import load_config
from skygraft.errors import ConfigError
from skygraft.yaml_text import YamlError, check_yaml, key_lines

GOOD = """name: demo
survey:
  root: .
  images: "*.fits"
  calibration:
    aperture: 12 pix
catalog:
  path: fakes.parquet
  band: r
output: out
injection:
  seed: 3
margin_arcsec: 60
retries: 1
cluster: {kind: local, n_workers: 2}
"""
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(8)
)


def refused(path: Path, content: str | bytes, *words: str) -> ConfigError:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    for word in words:
        assert word in text, text
    return caught.value


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seed: 3", "seed: !!int x", ("line 12", "'x' cannot be read as int")),
        ("seed: 3", "seed: !!bool x", ("line 12", "cannot be read as bool")),
        ("seed: 3", "seed: !!timestamp x", ("line 12", "cannot be read as timestamp")),
        ("seed: 3", "seed: !!python/object/apply:os.system [ls]", ("line 12",)),
        ("seed: 3", "seed: " + "[" * 5000, ("line 12", "nested more than")),
        ("seed: 3", "seed: " + "{" * 5000, ("line 12", "nested more than")),
        ("name: demo", "x:\n" + "- " * 5000 + "\nname: demo", ("line 2", "nested more than")),
        ("name: demo", "name: demo\n" + BOMB, ("line 5", "aliases stand for more than")),
        ("name: demo", "name: &a [*a]", ("line 1", "*a is inside the value that it refers to")),
        ("root: .", "root: .\n  options: &o {x: *o}", ("line 4", "*o is inside the value that it refers to")),
        ("root: .", "root: *nope", ("line 3", "refers to no anchor")),
        ("seed: 3", "<<: {seed: 3}", ("line 12", "merge keys")),
        ("  seed: 3", "\tseed: 3", ("line 12", "'\\t'")),
        ("seed: 3", "seed: 3\n  seed: 4", ("line 13", "'seed' occurs twice")),
        ("seed: 3", "2020-01-01: 3", ("injection", "keys should be strings", "line 1")),
        ("seed: 3", "[a]: 3", ("line 12",)),
        ("seed: 3", "seed: 1" + "0" * 400, ("injection.seed", "64 bits", "(line 12)")),
        ("margin_arcsec: 60", "margin_arcsec: .nan", ("margin_arcsec", "(line 13)")),
        ("margin_arcsec: 60", "margin_arcsec: .inf", ("margin_arcsec", "(line 13)")),
        ("margin_arcsec: 60", "margin_arcsec: no", ("margin_arcsec", "false is given", "(line 13)")),
        ("retries: 1", "retries: yes", ("retries", "true is given", "(line 14)")),
        ("n_workers: 2", "n_workers: on", ("cluster.n_workers", "true is given", "(line 15)")),
        ("band: r", "band: no", ("catalog.band", "(line 9)")),
        ("band: r", "band: 3", ("catalog.band", "(line 9)")),
        ("band: r", "band: ''", ("catalog.band", "(line 9)")),
        ("path: fakes.parquet", "pth: fakes.parquet", ("catalog.path", "is missing (line 7)", "catalog.pth")),
        ("path: fakes.parquet", 'path: "a\\0b"', ("catalog.path", "NUL", "(line 8)")),
        ("path: fakes.parquet", "path: " + "x" * 5000, ("catalog.path", "longer than", "(line 8)")),
        ("path: fakes.parquet", "path: ~nobody-of-this-name/x", ("catalog.path", "no such home", "(line 8)")),
        ("aperture: 12 pix", "psf: '{stem:>99999999999}'", ("only {stem}, {name}, {band}", "(line 5)")),
        ("aperture: 12 pix", "psf: '{stem.__class__}'", ("only {stem}, {name}, {band}",)),
        ("{kind: local, n_workers: 2}", "/dev/zero.yaml", ("cluster", "cannot be read", "(line 15)")),
        ("{kind: local, n_workers: 2}", "/dev/../dev/zero", ("cluster", "not a regular file", "(line 15)")),
    ],
)
def test_what_nobody_should_write(tmp_path: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    assert old in GOOD
    refused(tmp_path / "campaign.yaml", GOOD.replace(old, new, 1), *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD.encode("utf-16"), "cannot be read"),
        (bytes(range(256)) * 10, "cannot be read"),
        (GOOD.replace("seed", "se\0ed").encode(), "not valid YAML"),
        ((GOOD + "---\n" + GOOD).encode(), "expected a single document"),
        (b"x: " + b"a" * (17 << 20), "bytes"),
        ("".join(f"k{i}: 1\n" for i in range(500)).encode(), "more"),
    ],
)
def test_bytes_that_are_no_configuration(tmp_path: Path, content: bytes, words: str) -> None:
    error = refused(tmp_path / "campaign.yaml", content, words)
    assert len(str(error)) < 10000


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "campaign.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_config(path).name == "demo"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match="not a regular file"):
        load_config(tmp_path / "pipe.yaml")


def test_aliases_that_repeat_a_little_are_yaml() -> None:
    check_yaml("a: &a {x: [1, 2]}\nb: *a\nc: [*a, *a]\n")
    with pytest.raises(YamlError, match="line 1, column 5"):
        check_yaml("a: [*a]")
    lines = key_lines("a:\n  b: [1,\n   2]\nc: 3\n")
    assert lines == {"a": 1, "a.b": 2, "a.b.0": 2, "a.b.1": 3, "c": 4}
