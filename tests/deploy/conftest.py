"""What the tests of `deploy/` share: the folder, its pages in `docs/deploy/` and the commands in them."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PAGES = ROOT / "docs" / "deploy"


def code_blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page that are in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(script: str) -> list[str]:
    """The lines of a shell script with continued lines joined, comments and prompts left out."""
    joined = re.sub(r"\\\n\s*", " ", script)
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line]


@pytest.fixture(scope="session")
def deploy() -> SimpleNamespace:
    """The folders and functions of this file; test modules cannot import it."""
    return SimpleNamespace(
        root=ROOT,
        folder=DEPLOY,
        page_folder=PAGES,
        pages=sorted(PAGES.glob("*.md")),
        scripts=sorted(
            path for path in DEPLOY.rglob("*") if path.suffix in {".sh", ".sbatch", ".pbs", ".lsf"} and path.is_file()
        ),
        code_blocks=code_blocks,
        commands=commands,
    )
