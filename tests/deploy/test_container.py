"""The container's recipes, as far as they can be checked without a registry to build from."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "container"
DOCKERFILE = FOLDER / "Dockerfile"
DEFINITION = FOLDER / "skygraft.def"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions: name and arguments, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def extras() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return set(project["optional-dependencies"])


def sources() -> list[str]:
    """What the Dockerfile copies from the build's folder."""
    copied = [rest.split() for name, rest in instructions() if name == "COPY" and not rest.startswith("--from")]
    return [source for words in copied for source in words[:-1]]


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    return subprocess.run(
        [hadolint, "--failure-threshold", "style", str(path)], check=False, capture_output=True, text=True
    )


def test_hadolint_finds_nothing() -> None:
    result = lint(DOCKERFILE)
    assert result.returncode == 0, result.stdout


def test_hadolint_would_find_an_unpinned_package(tmp_path: Path) -> None:
    broken = tmp_path / "Dockerfile"
    broken.write_text(DOCKERFILE.read_text().replace("uv==", "uv>"))
    assert lint(broken).returncode != 0


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    lines = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert sources()
    for source in sources():
        assert (ROOT / source).exists(), source
        assert source.removeprefix("./") in allowed
    assert allowed == {source.removeprefix("./") for source in sources()}


def test_what_the_build_needs_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"pyproject.toml", project["readme"], *project["license-files"], "src"} <= set(sources())


def test_keys_and_data_stay_out() -> None:
    patterns = [
        line for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line and line[0] not in "#!"
    ]
    assert patterns[0] == "*"  # everything, unless it is named
    assert any(fnmatch.fnmatch("src/key.pem", pattern) for pattern in patterns[1:])


def test_versions_are_pinned_by_the_project() -> None:
    runs = [rest for name, rest in instructions() if name == "RUN"]
    install = next(run for run in runs if "uv pip install" in run)
    # uv reads the versions that pyproject.toml pins from the folder it runs in.
    workdir = next(rest for name, rest in instructions() if name == "WORKDIR")
    copy = next(rest for name, rest in instructions() if name == "COPY" and "pyproject.toml" in rest)
    assert workdir == "/src"
    assert copy.split()[-1] == "./"
    assert '".[${EXTRAS}]"' in install
    assert re.search(r"pip install --no-cache-dir uv==\d+\.\d+\.\d+", " ".join(runs))
    arguments = dict(rest.split("=", 1) for name, rest in instructions() if name == "ARG")
    assert set(arguments["EXTRAS"].split(",")) <= extras()
    python = (ROOT / ".python-version").read_text().strip()
    assert arguments["PYTHON"].startswith(f"{python}.")


def test_nobody_is_root_and_nothing_is_secret() -> None:
    names = [name for name, _ in instructions()]
    last_stage = instructions()[len(names) - 1 - names[::-1].index("FROM") :]
    users = [rest for name, rest in last_stage if name == "USER"]
    assert users == ["1000:1000"]
    assert not re.search(r"(?i)token|passw|secret|credential", DOCKERFILE.read_text() + DEFINITION.read_text())
    caches = next(rest for name, rest in last_stage if name == "ENV")
    for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR"):
        assert re.search(rf"{name}=/tmp/", caches)


def test_its_user_is_that_of_the_pods() -> None:
    job = (ROOT / "deploy" / "kubernetes" / "job.yaml").read_text()
    user = next(rest for name, rest in instructions() if name == "USER")
    assert f"runAsUser: {user.split(':')[0]}" in job
    assert f"runAsGroup: {user.split(':')[1]}" in job


def test_apptainer_installs_the_same() -> None:
    definition = DEFINITION.read_text()
    header = dict(line.split(": ", 1) for line in definition.split("\n\n")[0].splitlines())
    arguments = dict(rest.split("=", 1) for name, rest in instructions() if name == "ARG")
    assert header == {"Bootstrap": "docker", "From": f"python:{arguments['PYTHON']}"}
    sections = dict(re.findall(r"^%(\w+)\n(.*?)(?=^%|\Z)", definition, re.MULTILINE | re.DOTALL))
    files = [line.split() for line in sections["files"].splitlines() if line.strip()]
    assert {source for source, _ in files} == {source.removeprefix("./") for source in sources()}
    assert all(target == f"/src/{source}" for source, target in files)
    defaults = dict(line.strip().split("=") for line in sections["arguments"].splitlines() if line.strip())
    assert set(defaults["extras"].split(",")) <= extras()
    install = next(run for name, run in instructions() if name == "RUN" and "uv pip" in run)
    for command in ("uv venv /opt/skygraft", "uv pip install --no-cache --compile-bytecode"):
        assert command in install
        assert command in sections["post"]
    uv = re.search(r"uv==[\d.]+", DOCKERFILE.read_text())
    assert uv
    assert uv[0] in sections["post"]


@pytest.mark.parametrize("section", ["post", "environment", "runscript", "test"])
def test_apptainers_scripts_are_shell(section: str) -> None:
    sections = dict(re.findall(r"^%(\w+)\n(.*?)(?=^%|\Z)", DEFINITION.read_text(), re.MULTILINE | re.DOTALL))
    assert subprocess.run(["bash", "-n"], check=False, input=sections[section], text=True).returncode == 0


def test_the_page_builds_them_from_where_they_work(deploy: SimpleNamespace) -> None:
    text = (deploy.page_folder / "container.md").read_text()
    assert "docker build -f deploy/container/Dockerfile" in text
    assert "deploy/container/skygraft.def" in text
