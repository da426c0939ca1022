"""The pages on clusters: what they name exists, their commands have those options, their YAML is taken as it is."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from skygraft.cli import app
from skygraft.config.campaign import load_config
from skygraft.config.cluster import load_profile
from skygraft.config.cluster_kinds import KINDS
from skygraft.formats.psf_kinds import KINDS as PSF_KINDS
from skygraft.formats.psf_kinds import psf_kind

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DOCS = ROOT / "docs"
ENTRY = DOCS / "deploy" / "index.md"
PAGES = sorted([*DOCS.glob("deploy/*.md"), *DOCS.glob("*.md")])
CLUSTER_PAGES = [page for page in PAGES if page.parent == ENTRY.parent]
SITE_PAGES = [page for page in CLUSTER_PAGES if page.name not in {"index.md", "container.md", "profiles.md"}]
TEXTS = sorted([*PAGES, *(p for p in DEPLOY.rglob("*") if p.is_file() and p.suffix != ".pem")])
PROFILES = sorted((DEPLOY / "profiles").glob("*.yaml"))


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page that are in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def skygraft_commands(path: Path) -> Iterator[list[str]]:
    """Every command line of skygraft in a file, as words from its command on."""
    text = path.read_text()
    if path.suffix == ".md":
        inline = re.findall(r"`(skygraft [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
        text = "\n".join([*blocks(path, "sh"), *inline])
    text = re.sub(r"\\\n\s*", " ", text)
    text = re.sub(r"(?<!\w)skygraft, (\w+), ", r"skygraft \1 ", text)  # a list in YAML
    text = re.sub(r'arguments\s*=\s*"run', "skygraft run", text)
    for line in text.splitlines():
        found = re.search(
            r"(?:^|[\s/\[])skygraft ((?:run|plan|status|inspect|demo|verify|index|inject|--version)\b.*)", line
        )
        if found:
            cut = re.split(r"[;&|>`)\]]|\s#", found[1].replace(", ", " ").replace('"', ""))[0]
            yield cut.split()


COMMANDS = [
    (path.relative_to(ROOT).as_posix(), words)
    for path in [ROOT / "README.md", *TEXTS]
    for words in skygraft_commands(path)
]


def options_of(command: str) -> dict[str, click.Parameter]:
    root: Any = typer.main.get_command(app)
    found = root.commands[command]
    return {name: parameter for parameter in found.params for name in parameter.opts + parameter.secondary_opts}


def test_commands_are_found_in_pages_scripts_and_manifests() -> None:
    kinds = {Path(path).suffix for path, _ in COMMANDS}
    assert kinds >= {".md", ".sbatch", ".pbs", ".lsf", ".sub", ".yaml", ".sh", ".def"}


@pytest.mark.parametrize(("path", "words"), COMMANDS, ids=lambda value: value if isinstance(value, str) else "")
def test_skygraft_has_the_options_that_are_used(path: str, words: list[str]) -> None:
    if words[0] == "--version":
        return
    known = options_of(words[0])
    for word in words[1:]:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, (path, words)


def test_an_option_that_does_not_exist_would_be_found() -> None:
    assert "--clutser" not in options_of("run")
    assert "--workers" in options_of("run")


def test_kinds_of_cluster_exist() -> None:
    named = {
        word
        for path in TEXTS
        for word in re.findall(
            r"(?:--cluster |SKYGRAFT_CLUSTER:=|cluster = |kind: )([\w-]+)(?![\w./-])", path.read_text()
        )
    }
    assert named - {"ConfigMap", "PROFILE"} >= {"slurm", "pbs", "lsf", "htcondor", "mpi", "slurm-runner", "kubernetes"}
    # Kinds of other things: PSFs, sky maps, and what catalogues are generated from.
    assert psf_kind("legacy_coadd") in PSF_KINDS
    others = {*PSF_KINDS, "legacy_coadd", "moffat", "butler", "healpix", "explicit", "uniform", "around", "power_law"}
    assert {word for word in named if word.islower()} - others <= set(KINDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target
    text = re.sub(r"\]\([^)]+\)|^```{toctree}\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for name in re.findall(r"deploy/[\w./-]*\w", text):
        assert (ROOT / name).exists(), name


def test_the_entry_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", ENTRY.read_text()))
    assert linked == {page.name for page in CLUSTER_PAGES} - {"index.md"}


@pytest.mark.parametrize("page", [*SITE_PAGES, ENTRY], ids=lambda page: page.name)
def test_pages_say_how_connections_and_the_dashboard_are_kept_safe(page: Path) -> None:
    text = page.read_text()
    assert re.search(r"ssh (-J \w+ )?-L 8787:127\.0\.0\.1|port-forward", text)
    entry = ENTRY.read_text()
    assert "encrypted" in entry
    assert "run code as you" in entry


@pytest.mark.parametrize("page", SITE_PAGES, ids=lambda page: page.name)
def test_pages_say_how_to_resume(page: Path) -> None:
    assert re.search(r"resum", page.read_text())


def written_files(page: Path) -> Iterator[tuple[str, str]]:
    """Files that a page's commands write, or shows whole: name and content."""
    for block in blocks(page, "sh"):
        for name, content in re.findall(r"cat > (\S+) <<END\n(.*?)\nEND", block, re.DOTALL):
            yield name, content.replace("\\$", "$")
    for block in blocks(page, "yaml"):
        named = re.match(r"# ([\w.]+\.yaml)", block)
        assert named, f"{page.name}: what file is this?"
        yield named[1], block


WITH_FILES = [*CLUSTER_PAGES, DOCS / "butler.md"]
FILES = [(page.name, name, content) for page in WITH_FILES for name, content in written_files(page)]


@pytest.mark.parametrize(("page", "name", "content"), FILES, ids=[f"{page}:{name}" for page, name, _ in FILES])
def test_files_in_pages_are_taken_as_they_are(tmp_path: Path, page: str, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    if name == "campaign.yaml":
        config = load_config(tmp_path / name)
        assert str(config.survey.root).startswith("/survey")
        assert str(config.output).startswith("/output")
    else:
        config_kind = load_profile(tmp_path / name).kind
        assert config_kind in KINDS
        assert config_kind in page or page == "container.md"


def test_the_other_kind_on_the_page_of_two_is_taken_too(tmp_path: Path) -> None:
    (content,) = [content for page, _, content in FILES if page == "pbs-lsf.md"]
    (tmp_path / "site.yaml").write_text(content.replace("kind: pbs", "kind: lsf"))
    assert load_profile(tmp_path / "site.yaml").kind == "lsf"


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.name)
def test_profiles_are_taken_as_they_are(path: Path) -> None:
    assert load_profile(path).kind in KINDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_pages_are_shell(page: Path) -> None:
    for block in blocks(page, "sh"):
        assert subprocess.run(["bash", "-n"], check=False, input=block, text=True).returncode == 0, block


# Makes a virtual environment of stand-ins, which are there once pip has run.
PYTHON = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >>"$LOG"
mkdir -p "$3/bin"
echo "export PATH='$3/bin':\\$PATH" >"$3/bin/activate"
cat >"$3/bin/pip" <<'END'
#!/usr/bin/env bash
echo "pip $*" >>"$LOG"
for name in skygraft dask; do cp "$STAND_IN" "$(dirname "$0")/$name"; done
END
chmod +x "$3/bin/pip"
"""
# Says what was called, if the files that it is given are there.
STAND_IN = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >>"$LOG"
for word in "$@"; do
    case $word in deploy/*|campaign.yaml|site.yaml|*/scheduler.yaml) [ -r "$word" ] || exit 1 ;; esac
done
"""
ELSEWHERE = (
    "sbatch", "squeue", "scancel", "qsub", "bsub", "condor_submit", "condor_q", "mpirun", "ssh", "tail",
)  # fmt: skip


@pytest.mark.parametrize(
    ("page", "wanted"),
    [
        ("slurm.md", {"skygraft plan", "skygraft status", "sbatch --account=ab1234"}),
        ("htcondor.md", {"skygraft plan", "skygraft status", "condor_submit deploy/htcondor/driver.sub"}),
        ("pbs-lsf.md", {"skygraft plan", "qsub -v", "bsub"}),
        ("mpi.md", {"mpirun --bind-to none -n 256 skygraft run campaign.yaml --cluster mpi"}),
        ("by-hand.md", {"dask scheduler", "dask worker", "skygraft run campaign.yaml"}),
    ],
)
def test_the_commands_of_a_page_run_one_after_the_other(tmp_path: Path, page: str, wanted: set[str]) -> None:
    """In a shell that knows nothing of skygraft, as that of somebody new."""
    clone, tools = tmp_path / "clone", tmp_path / "tools"
    shutil.copytree(DEPLOY, clone / "deploy")
    (clone / "campaign.yaml").touch()
    tools.mkdir()
    for name in ELSEWHERE:
        (tools / name).write_text(STAND_IN)
    (tools / "python3.12").write_text(PYTHON)
    for tool in tools.iterdir():
        tool.chmod(0o755)
    environ = {
        "PATH": f"{tools}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "LOG": str(tmp_path / "log"),
        "STAND_IN": str(tools / "sbatch"),
    }
    run = subprocess.run(
        ["bash", "-eu"],
        check=False,
        input="\n".join(blocks(ENTRY.parent / page, "sh")),
        env=environ,
        cwd=clone,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "not found" not in run.stderr
    called = (tmp_path / "log").read_text().splitlines()
    assert {words for words in wanted if any(call.startswith(words) for call in called)} == wanted


def test_dask_has_the_options_that_are_used() -> None:
    from distributed.cli.dask_scheduler import main as scheduler
    from distributed.cli.dask_worker import main as worker

    known = {
        name: {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
        for name, command in (("scheduler", scheduler), ("worker", worker))
    }
    seen = set()
    lines = [line for block in blocks(ENTRY.parent / "by-hand.md", "sh") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("dask ")]
    for name in ("job.yaml", "cluster.yaml"):
        document = yaml.safe_load((DEPLOY / "kubernetes" / name).read_text())["spec"]
        spec = document["cluster"]["spec"] if "cluster" in document else document
        commands += [spec[role]["spec"]["containers"][0]["args"] for role in ("worker", "scheduler")]
    for words in commands:
        role = words[1]
        seen.add(role)
        used = {word.partition("=")[0] for word in words[2:] if word.startswith("--")}
        assert used <= known[role], words
    assert seen == {"scheduler", "worker"}


def test_the_readme_of_the_project_leads_here() -> None:
    assert "deploy/" in (ROOT / "README.md").read_text()
