"""The files beside README say what the project is: citation, changelog, hooks, templates and workflow."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

import skygraft
from skygraft.records.image_record import PIXEL_VERSION

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "type"} <= set(citation)
    assert citation["version"] == skygraft.__version__ == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"]


def test_the_changelog_says_what_each_pixel_version_changed() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    rows = re.findall(r"^\| (\d+) \| [\d-]{10} \| .{20,} \|$", text, re.M)
    assert [int(row) for row in rows] == list(range(PIXEL_VERSION, 0, -1))
    assert skygraft.__version__ in text


def test_hooks_run_what_ci_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    ci = (ROOT / ".ci/run").read_text()
    for hook in hooks:
        tool = " ".join(word for word in hook["entry"].split() if not word.startswith("--"))
        assert tool in ci, tool


def test_templates_of_issues_ask_something() -> None:
    templates = [path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(templates) >= 2
    for path in templates:
        template = yaml.safe_load(path.read_text())
        assert template["name"] and template["description"]
        ids = [part["id"] for part in template["body"]]
        assert len(set(ids)) == len(ids)
        assert any(part.get("validations", {}).get("required") for part in template["body"])
        assert all(part["attributes"]["label"] for part in template["body"])


def test_the_workflow_tests_every_python_and_the_oldest_dependencies() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]
    assert jobs["python"]["strategy"]["matrix"]["python"] == ["3.12", "3.13", "3.14"]
    assert PROJECT["project"]["requires-python"] == ">=3.12"
    commands = {name: "\n".join(step.get("run", "") for step in job["steps"]) for name, job in jobs.items()}
    assert "--resolution lowest-direct" in commands["oldest"]
    assert "--cov=skygraft" in commands["python"]
    assert "bash .ci/run" in commands["all"]
    for folder in re.findall(r"tests/\w+", commands["oldest"]):
        assert (ROOT / folder).is_dir(), folder
