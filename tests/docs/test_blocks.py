"""Every code block of README and of the documentation runs as it stands, or is what a campaign takes."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from typer.testing import CliRunner

from skygraft.cli import app
from skygraft.config.campaign import load_config
from skygraft.config.cluster import load_profile
from skygraft.generation import load_spec

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if not {"_build", "generated"} & set(page.parts)]
BLOCKS = [
    (page.relative_to(ROOT).as_posix(), language, text)
    for page in PAGES
    for language, text in re.findall(r"^```([\w{}-]*)[^\n]*\n(.*?)^```", page.read_text(), re.M | re.S)
]
# They read what the campaign of tests/deploy/test_outputs.py has left, which runs them.
RUN_ELSEWHERE = {"docs/outputs.md"}
# They run the demo's campaign anew, which takes as long as the demo: two of its eight images are enough.
RUN_ANEW = {"docs/paired_runs.md"}


def of(language: str) -> list[tuple[str, str]]:
    return [(page, text) for page, kind, text in BLOCKS if kind == language]


def named(blocks: list[tuple[str, str]]) -> list[str]:
    return [f"{page}-{k}" for k, (page, _) in enumerate(blocks)]


PYTHON = [(page, text) for page, text in of("python") if page not in RUN_ELSEWHERE]
YAML = of("yaml")


def test_every_block_says_what_language_it_is_in() -> None:
    kinds = {kind for _, kind, _ in BLOCKS if not kind.startswith("{")}
    assert kinds <= {"python", "sh", "yaml", "text"}
    assert {page for page, _ in of("python")} - {page for page, _ in PYTHON} == RUN_ELSEWHERE


@pytest.mark.slow
@pytest.mark.parametrize(("page", "text"), PYTHON, ids=named(PYTHON))
def test_python_runs_and_prints_what_its_comments_say(beside_demo: Path, page: str, text: str) -> None:
    if page in RUN_ANEW:
        leave_two_images(beside_demo / "skygraft-demo")
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(text, page, "exec"), {})
    # Comments right under a print are what it prints.
    lines = iter(printed.getvalue().splitlines())
    for comments in re.findall(r"^ *print\(.*\n((?:# .*\n)+)", text, re.M):
        for comment in comments.splitlines():
            assert comment.removeprefix("# ") == next(lines)
    if page in RUN_ANEW:
        assert len({path.name for path in beside_demo.glob("lensed/**/calexp-*-?.fits")}) == 2
    for name in re.findall(r'write_(?:exposure|catalog)\(.*?"([\w.-]+)"', text):
        assert (beside_demo / name).stat().st_size > 0


def leave_two_images(demo: Path) -> None:
    """Put a demo of one image in each band in the place of the link to the whole one."""
    whole = demo.resolve()
    demo.unlink()
    (demo / "survey").mkdir(parents=True)
    for path in (whole / "campaign.yaml", whole / "fakes.parquet", *whole.glob("survey/*-[12]002-0.fits")):
        shutil.copy2(path, demo / path.relative_to(whole))


@pytest.mark.parametrize(("page", "text"), YAML, ids=named(YAML))
def test_yaml_is_a_campaign_or_a_profile(tmp_path: Path, page: str, text: str) -> None:
    (tmp_path / "some.yaml").write_text(text)
    if page == "docs/generation.md":
        changes = {} if "density" in text else {"n": 1, "bands": ["r"]}
        assert load_spec(tmp_path / "some.yaml", changes).sources
    elif "kind" in yaml.safe_load(text):
        assert load_profile(tmp_path / "some.yaml").kind
    else:
        assert load_config(tmp_path / "some.yaml").name


class Ended(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def by_shell(line: str) -> Ended:
    """Run a command of skygraft in the current folder, as a shell does."""
    command = f'PATH="{Path(sys.executable).parent}:$PATH"; {line}'
    done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True)
    return Ended(done.returncode, done.stdout, done.stderr)


def here(line: str) -> Ended:
    """Run it in this process, where nothing is imported again; its words and its comment are those of a shell."""
    program, *words = shlex.split(line, comments=True)
    assert program == "skygraft" and not set("|&;<>$`*?") & set("".join(words)), f"needs a shell: {line}"
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, words)
    return Ended(done.exit_code, done.stdout, done.stderr)


def test_commands_on_the_demo_run(beside_demo: Path) -> None:
    commands = [
        line for _, text in of("sh") for line in text.splitlines() if re.match(r"skygraft \w+ skygraft-demo/", line)
    ]
    assert commands
    for line in commands:
        done = here(line)
        assert done.returncode == 0, done.stderr
        assert "12 pix = 2.40 arcsec" in done.stdout


@pytest.mark.slow
@pytest.mark.dask
@pytest.mark.usefixtures("forked_processes")
def test_the_campaign_of_the_page_runs_by_its_commands(beside_demo: Path) -> None:
    """On one of the demo's images, without the source catalogue that would say another aperture."""
    page = "docs/campaigns.md"
    (campaign,) = [text for found, text in YAML if found == page]
    (commands,) = [text for found, text in of("sh") if found == page and "skygraft inspect" in text]
    (beside_demo / "campaign.yaml").write_text(campaign)
    (beside_demo / "images").mkdir()
    shutil.copy(beside_demo / "skygraft-demo/survey/calexp-1002-0.fits", "images/one.fits")
    shutil.copy(beside_demo / "skygraft-demo/fakes.parquet", "fakes.parquet")
    said = {}
    for line in commands.splitlines():
        done = (by_shell if line.startswith("skygraft status") else here)(line)
        said[line.split()[1]] = done.stdout
        # Of its calibration the image says nothing, which inspect says.
        assert done.returncode == 0 or line.startswith("skygraft inspect"), done.stdout + done.stderr
    assert list(said) == ["inspect", "plan", "run", "status", "verify"]
    assert "aperture" in said["inspect"]
    assert "1 image made" in said["run"] or "1 images made" in said["run"]
    assert (beside_demo / "out/images/images/one.fits").is_file()
    assert "2 arcsec" in (beside_demo / "out/provenance.json").read_text()


SHELL = of("sh")


@pytest.mark.parametrize(("page", "text"), SHELL, ids=named(SHELL))
def test_shell_blocks_are_shell(page: str, text: str) -> None:
    assert subprocess.run(["bash", "-n"], check=False, input=text, text=True).returncode == 0, page


def test_extras_that_pages_install_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = {
        extra
        for page in PAGES
        for extras in re.findall(r"(?:\.|skygraft)\[([\w,]+)\]", page.read_text())
        for extra in extras.split(",")
    }
    assert {"rubin", "butler", "slurm", "htcondor", "mpi"} <= named
    assert named <= set(project["project"]["optional-dependencies"])
    groups = {group for page in PAGES for group in re.findall(r"uv (?:run|sync) --group (\w+)", page.read_text())}
    assert groups == {"docs"} <= set(project["dependency-groups"])
