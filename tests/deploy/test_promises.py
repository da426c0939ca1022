"""What README.md and the pages of docs/ promise and no other test looks at: their tables, snippets and messages."""

from __future__ import annotations

import io
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from astropy.table import QTable

from kits.forked_commands import ForkedCommand
from kits.tiny_campaign import checksums, write_tiny_campaign
from skygraft import read_exposure
from skygraft.catalog import write_catalog
from skygraft.catalog.schema import COLUMNS, SERSIC_RANGE, SOURCE_TYPES
from skygraft.config.campaign import load_config
from skygraft.config.cluster_kinds import KINDS, MODELS, BatchConfig
from skygraft.photometry.flux_modes import FLUX_MODES

ROOT = Path(__file__).resolve().parents[2]
BATCH_KINDS = {kind for kind, model in MODELS.items() if issubclass(model, BatchConfig)}
DEPLOY = ROOT / "deploy"
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
PAGES = {page.stem: page.read_text() for page in DOCS.glob("*.md")}


def block(text: str, language: str, containing: str) -> str:
    """The code block of a page that contains a text."""
    found = [b for b in re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S) if containing in b]
    assert len(found) == 1, containing
    return str(found[0])


def table(text: str, head: str) -> list[list[str]]:
    """The rows of the table with a head."""
    found = re.search(rf"^{re.escape(head)}\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.M)
    assert found, head
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in found[1].splitlines()]


def code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


# -- README.md and the pages that it leads to


def test_the_ten_lines_on_a_real_calexp(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its name instead of that of the demo's image; tests/docs runs them as they stand."""
    snippet = block(README, "python", "read_exposure")
    for there, here in {
        "skygraft-demo/survey/calexp-1002-0.fits": "calexp-849375-12.fits.fz",
        'skygraft-demo/fakes.parquet", band="g"': 'fakes.ecsv", band="r"',
        "injected.fits": "injected.fits.fz",
    }.items():
        assert there in snippet
        snippet = snippet.replace(there, here)
    for name in ("calexp-849375-12.fits.fz", "SRC-849375-12.fits"):
        (tmp_path / name).symlink_to(data_dir / "cfht_849375" / name)
    exposure = read_exposure(tmp_path / "calexp-849375-12.fits.fz")
    x, y = (np.linspace(300, 900, 5) for _ in range(2))
    ra, dec = exposure.wcs.pixel_to_world_values(x, y)
    stars = {"injection_id": np.arange(5), "ra": ra, "dec": dec, "source_type": ["Star"] * 5, "mag_r": np.full(5, 20.0)}
    write_catalog(QTable(stars), tmp_path / "fakes.ecsv")
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(snippet, "README.md", "exec"), {})
    first, *rest = printed.getvalue().splitlines()
    (comment,) = re.findall(r"^# (.*)", snippet, re.M)
    assert first == comment.replace("2.40", "2.24").replace("SRC-1002-0", "SRC-849375-12")
    assert len(rest) >= 7  # a head, units, a row for each star
    assert read_exposure(tmp_path / "injected.fits.fz").shape == exposure.shape


def test_the_campaign_of_the_page_is_taken_as_it_is(tmp_path: Path) -> None:
    text = block(PAGES["campaigns"], "yaml", "name: video-stars")
    (tmp_path / "campaign.yaml").write_text(text)
    config = load_config(tmp_path / "campaign.yaml")
    assert (config.name, config.output) == ("video-stars", tmp_path / "out")
    # What its comments offer instead.
    other = text.replace("images: images/*.fits  ", "ccds: survey-ccds.fits.gz  ")
    assert other != text
    (tmp_path / "campaign.yaml").write_text(other)
    assert load_config(tmp_path / "campaign.yaml").survey.ccds is not None


def test_the_columns_of_catalogues_are_those_of_the_schema() -> None:
    """Those that every catalogue has; tests/docs/test_generated.py holds the table of all."""
    rows = {cells[0]: cells[1] for cells in table(PAGES["catalogues"], "| column | meaning |")}
    columns = COLUMNS
    named = {name for cell in rows for name in code(cell)} - {"mag_<band>"}
    assert named <= set(columns)
    types = table(PAGES["catalogues"], "| type | what it is | needs | may have |")
    assert {code(cells[0])[0] for cells in types} == set(SOURCE_TYPES)
    assert (columns["ra"].low, columns["ra"].high) == (0, 360)
    low, high = map(float, re.findall(r"any index from ([\d.]+) to ([\d.]+)", PAGES["accuracy"])[0])
    assert (low, high) == SERSIC_RANGE


def test_the_flux_modes_are_those_that_there_are() -> None:
    head = "| `flux_mode` | the PSF is scaled so that | factor on $K$ |"
    modes = [code(cells[0])[0] for cells in table(PAGES["science"], head)]
    assert sorted(modes) == sorted(FLUX_MODES)


@pytest.mark.parametrize("page", ["README", *PAGES])
def test_what_pages_name_is_there(page: str) -> None:
    text, folder = (README, ROOT) if page == "README" else (PAGES[page], DOCS)
    for name in re.findall(r"`((?:tests|deploy|examples)/[\w./-]*)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`(bench_\w+\.py)`", text):
        assert (ROOT / "tests/benchmarks" / name).exists(), name
    for name in re.findall(r"\]\(([^)#:]+)[)#]", text):
        assert (folder / name).exists(), name


def test_the_benchmark_of_the_page_has_its_option() -> None:
    script, option = re.findall(r"`uv run python (tests/benchmarks/\w+\.py) (--\w+) \d+`", PAGES["accuracy"])[0]
    assert option in (ROOT / script).read_text()


# -- docs/deploy/profiles.md


def kinds_of(text: str) -> set[str]:
    """The kinds of cluster that a cell of the table means."""
    if text in ("", "all"):
        return set(KINDS)
    if found := re.fullmatch(r"(all|batch) but (\w+)", text):
        return kinds_of(found[1]) - {found[2]}
    named = {word.strip() for word in text.split(",")}
    return (named - {"batch"}) | (BATCH_KINDS if "batch" in named else set())


def test_the_keys_of_profiles_are_those_that_are_taken() -> None:
    """Of every kind, each key of the table is taken and no other: in both directions."""
    told: dict[str, set[str]] = {}
    for keys, of, _ in table((DOCS / "deploy/profiles.md").read_text(), "| key | of | meaning |"):
        for key in code(keys):
            told.setdefault(key, set()).update(kinds_of(of))
    taken: dict[str, set[str]] = {}
    for kind, model in MODELS.items():
        for key in model.model_fields:
            taken.setdefault(key, set()).add(kind)
    assert told == taken


def test_every_kind_of_the_readme_is_one_and_back() -> None:
    text = (DOCS / "deploy/profiles.md").read_text()
    rows = {cells[0]: cells[2] for cells in table(text, "| key | of | meaning |")}
    assert set(code(rows["`kind`"])) == set(KINDS)


def test_pieces_of_profiles_in_pages_are_taken() -> None:
    """`interface: ib0` and the like, on the page of a kind."""
    base: dict[str, Any] = {"n_workers": 16, "cores": 16, "memory": "64GiB", "walltime": "04:00:00"}
    seen = 0
    for page, kind in (("slurm.md", "slurm"), ("htcondor.md", "htcondor"), ("pbs-lsf.md", "pbs")):
        text = re.sub(r"^```.*?^```", "", (DOCS / "deploy" / page).read_text(), flags=re.M | re.S)
        for piece in re.findall(r"`(\w+: [^`]+)`", text):
            content = yaml.safe_load(piece)
            if not isinstance(content, dict):  # a command
                continue
            seen += 1
            more = {"disk": "10GiB"} if kind == "htcondor" else {}
            MODELS[kind](**base | more | content)
    assert seen >= 3


# -- messages and abilities that pages speak of


def test_messages_that_pages_quote_are_ones_that_skygraft_has() -> None:
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    seen = 0
    for page in DOCS.glob("deploy/*.md"):
        text = page.read_text()
        if "| what you see |" not in text:
            continue
        for cells in table(text, "| what you see | what to do |"):
            for quoted in re.findall(r'"([^"]+)"|`(\w[^`]*\.\.\.[^`]*)`', cells[0]):
                for part in (quoted[0] or quoted[1]).split(" ... "):
                    seen += 1
                    assert part in source, f"{page.name}: {part}"
    assert seen >= 3


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def started() -> Iterator[list[ForkedCommand]]:
    """Commands that are ended at the end."""
    running: list[ForkedCommand] = []
    yield running
    for command in running:
        command.send_signal(signal.SIGKILL)
        command.wait(timeout=300)


@pytest.mark.dask
@pytest.mark.slow
def test_by_hand_as_the_page_says(tmp_path: Path, started: list[ForkedCommand]) -> None:
    """Keys, scheduler, workers and a campaign by the page's commands; a lost scheduler takes its workers along."""
    commands = re.sub(r"\\\n\s*", " ", block((DOCS / "deploy/by-hand.md").read_text(), "sh", "dask scheduler"))
    campaign = write_tiny_campaign(tmp_path / "work", 2)
    port, dashboard = free_port(), free_port()
    for there, here in {
        "~/skygraft-tls": str(tmp_path / "tls"), "tls://HOST:8786": f"tls://127.0.0.1:{port}",
        "--port 8786": f"--port {port}", "127.0.0.1:8787": f"127.0.0.1:{dashboard}", "--nworkers 32": "--nworkers 1",
        "4GiB": "1GiB", "campaign.yaml": str(campaign), "--local-directory /tmp": f"--local-directory {tmp_path}",
        "deploy/tls.sh": str(DEPLOY / "tls.sh"),
    }.items():  # fmt: skip
        assert there in commands
        commands = commands.replace(there, here)
    lines = [line for line in commands.splitlines() if line and not line.startswith("#")]
    (source, *_) = [line for line in lines if "tls.env" in line]

    def start(word: str) -> ForkedCommand:
        (line,) = [line for line in lines if line.startswith(word)]
        before = f"{source} && " if word.startswith("dask") else ""
        # What the shell makes of the page's lines: an environment and a command.
        script = f"{before}env -0 && printf '\\0' && printf '%s\\0' {line}"
        shell = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True)
        environ, words = (text.split("\0") for text in shell.stdout.removesuffix("\0").split("\0\0"))
        env = dict(entry.split("=", 1) for entry in environ)
        started.append(ForkedCommand(words, tmp_path / f"{word}.out", tmp_path / f"{word}.err", Path.cwd(), env))
        return started[-1]

    (tls,) = [line for line in lines if "tls.sh" in line]
    subprocess.run(["bash", "-c", tls], check=True, capture_output=True)
    scheduler, worker, run = map(start, ("dask scheduler", "dask worker", "skygraft run"))
    said = tmp_path / "skygraft run.err"
    assert run.wait(timeout=1800) == 0, said.read_text()
    assert "2 images made" in (tmp_path / "skygraft run.out").read_text()
    assert f"Campaign page: http://127.0.0.1:{dashboard}/campaign" in said.read_text()
    assert len(checksums(tmp_path / "work")) == 4
    assert scheduler.poll() is worker.poll() is None
    scheduler.send_signal(signal.SIGKILL)
    assert worker.wait(timeout=300) is not None
