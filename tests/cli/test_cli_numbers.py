"""Options with numbers that nobody can mean: refused before anything is done."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from skygraft.cli import app
from skygraft.config.cluster_kinds import LocalConfig
from skygraft.errors import CampaignError
from skygraft.processes import process_mapper


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (("status", "c.yaml", "--watch", "--interval", "nan"), "--interval", 2),
        (("inspect", "x.fits", "--zeropoint", "inf"), "inf is not finite", 2),
        (("inject", "x.fits", "c.csv", "-o", "o.fits", "--gain", "nan"), "nan is not finite", 2),
        (("inject", "x.fits", "c.csv", "-o", "o.fits", "--seed", "-1"), "--seed", 2),
        (("run", "c.yaml", "--workers", "-1"), "--workers", 2),
        (("index", "x.fits", "--processes", "0"), "--processes", 2),
        (("index", "x.fits", "--processes", "1000000000"), "1024 are allowed", 1),
        (("inspect", "x.fits", "--option", "a=" + "[" * 5000), "nested more than", 2),
        (("inspect", "x.fits", "--option", "a=&a [*a]"), "is inside the value", 2),
        (("inspect", "x.fits", "--option", "a=!!timestamp x"), "cannot be read as timestamp", 2),
        (("plan", "/dev/zero"), "not a regular file", 1),
    ],
)
def test_numbers_and_values_that_nobody_can_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str, code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    assert said in " ".join(result.output.split())


def test_no_machine_takes_a_thousand_million_processes() -> None:
    with pytest.raises(CampaignError, match="1024 are allowed"), process_mapper(10**9):
        pass
    for make in (lambda: LocalConfig().with_workers(10**9), lambda: LocalConfig(n_workers=10**9)):
        with pytest.raises(ValueError, match="1024 are allowed"):
            make()
