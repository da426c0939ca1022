"""Files whose names hold what a terminal would obey, or no text at all, through all commands."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from skygraft.campaign import Campaign
from skygraft.cli import app

NAMES = (b"evil-\x1b]0;pwned\x07\x1b[2J.fits", b"broken-\xc2\x9b31m-\xe2\x80\xae.fits", b"caf\xe9.fits")


def obeyed(text: str) -> set[str]:
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cs") or c == "\u202e"} - {"\n"}


@pytest.fixture
def campaign(survey: Path, make_campaign: Callable[..., Campaign]) -> Campaign:
    names = [os.fsdecode(name) for name in NAMES]
    for number, name in ((0, names[0]), (1, names[1]), (2, names[2])):
        folder = survey / f"raw/v{number // 2}"
        (folder / f"image-{number}.fits").rename(folder / name)
    (survey / "raw/v0" / names[1]).write_bytes(b"SIMPLE  =")
    return make_campaign()


def test_every_command_shows_them_written_out(campaign: Campaign, survey: Path) -> None:
    config = str(survey / "campaign.yaml")
    evil = str(survey / "raw/v0" / NAMES[0].decode())
    for arguments in (
        ["plan", config], ["run", config, "--workers", "0"], ["status", config], ["inspect", evil],
        ["inspect", str(survey / "raw/v0" / NAMES[1].decode())], ["verify", config],
    ):  # fmt: skip
        ended = CliRunner().invoke(app, arguments)
        assert not isinstance(ended.exception, UnicodeError), arguments
        assert obeyed(ended.stdout + ended.stderr) == set(), arguments
    said = CliRunner().invoke(app, ["status", config]).stdout
    assert "broken-\\x9b31m-\\u202e.fits" in said
    assert "caf\\xe9.fits" in said
    assert "not UTF-8 text" in said
    shown = CliRunner().invoke(app, ["status", config, "--json"]).stdout
    assert obeyed(shown) == set()
    found = json.loads(shown)
    assert (found["n_done"], found["n_unusable"], found["n_remaining"]) == (2, 2, 0)
    # JSON names the file as it is.
    assert f"raw/v0/{NAMES[1].decode()}" in {image["path"] for image in found["unusable"]}
