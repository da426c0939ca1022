"""The Campaign page, its JSON and its metrics, on real schedulers and in a real browser."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster, Security

from skygraft.clusters.dashboard import find_dashboard
from skygraft.monitoring.dashboard import DashboardReporter
from skygraft.monitoring.overview import Overview, PatchTable
from skygraft.monitoring.page_text import header
from skygraft.monitoring.progress import Progress
from skygraft.monitoring.published import MESSAGE_VERSION, PublishedRun, PublishedRuns, pack_patches, pack_progress
from skygraft.records.image_summary import ImageSummary

pytestmark = pytest.mark.dask

SIDE = 8
PER_PATCH = 5
EVIL = "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"


def make_overview(name: str = "survey", **changes: Any) -> Overview:
    """Patches on a square grid across right ascension zero, 0.2 deg apart."""
    index = np.arange(SIDE * SIDE)
    patches = PatchTable.of(
        tract=np.full(index.size, 3),
        patch=index,
        ra=(359.2 + 0.2 * (index % SIDE)) % 360,
        dec=0.2 * (index // SIDE),
        n_images=np.full(index.size, PER_PATCH),
    )
    content: dict[str, Any] = {
        "name": name,
        "output": "/somewhere/out",
        "image_cost": np.ones(index.size),
        "n_unusable": 2,
        "n_sources_planned": 5000,
        "cost_seconds_left": 5.0 * SIDE * SIDE,
        "patches": patches,
    }
    return Overview(**{**content, **changes})


def summary(k: int, **changes: Any) -> ImageSummary:
    content: dict[str, Any] = {
        "tract": 3,
        "patch": k // PER_PATCH,
        "band": "gr"[k % 2],
        "n_sources": 20,
        "n_bytes": 1_000_000,
        "wall_seconds": 2.0,
        "stages": {"read": 0.5, "inject": 1.0, "write": 0.4},
        "closure_mag": 0.001,
        "host": f"node{k % 3}",
    }
    return ImageSummary(f"image-{k}", **{"status": "done", **content, **changes})


def failure(k: int, **changes: Any) -> ImageSummary:
    return summary(k, **{"status": "failed", "error": "OSError", "message": EVIL, "closure_mag": None, **changes})


@pytest.fixture(scope="module")
def cluster() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=0, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as c,
        Client(c, set_as_default=False) as client,
    ):
        yield client


def address(client: Client, page: str) -> str:
    return str(client.dashboard_link).replace("/status", page)


def get(client: Client, page: str) -> str:
    with urllib.request.urlopen(address(client, page), timeout=100) as answer:
        return str(answer.read().decode())


def get_json(client: Client, page: str = "/campaign.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads(get(client, page))
    return content


def eventually(check: Callable[[], bool], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(urllib.error.HTTPError):  # the page is not there yet
            if check():
                return
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_json_has_what_the_driver_counted(cluster: Client) -> None:
    said: list[str] = []
    with DashboardReporter(cluster, say=said.append, interval=0.05) as reporter:
        reporter.start(make_overview())
        eventually(lambda: any("Campaign page" in text for text in said))
        assert said == [f"Campaign page: {address(cluster, '/campaign')}"]
        reporter.images(summary(k) for k in range(30))
        reporter.images([failure(30), failure(31, error="FormatError", host="")])
        eventually(lambda: get_json(cluster)["images"]["failed"] == 2)
        shot = get_json(cluster)
        assert (shot["campaign"], shot["state"], shot["version"]) == ("survey", "running", 1)
        assert shot["images"]["done"] == 30 and shot["images"]["left"] == 320 - 32 and shot["images"]["unusable"] == 2
        assert shot["sources"] == {"planned": 5000, "drawn": 640} and shot["bytes_written"] == 32_000_000
        patches = shot["patches"]
        assert patches["n_done"] == [5] * 6 + [0] * 58 and patches["n_failed"] == [0] * 6 + [2] + [0] * 57
        assert shot["failures"]["last"][1]["message"] == EVIL  # JSON is no HTML
        reporter.images([summary(30)])
    shot = get_json(cluster, "/campaign.json?patches=0")
    assert "patches" not in shot
    assert shot["state"] == "stopped" and shot["images"]["done"] == 31 and shot["images"]["recovered"] == 1
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(cluster, "/campaign.json?run=nothing")


def test_several_campaigns_one_after_the_other(cluster: Client) -> None:
    for name in ("first", "second"):
        with DashboardReporter(cluster, interval=0.05) as reporter:
            reporter.start(make_overview(name))
            reporter.images(summary(k) for k in range(320))
    shot = get_json(cluster)
    assert shot["campaign"] == "second" and shot["state"] == "finished"
    runs = {run["campaign"]: run["run"] for run in shot["runs"]}
    assert get_json(cluster, f"/campaign.json?run={runs['first']}")["campaign"] == "first"
    with pytest.raises(RuntimeError), DashboardReporter(cluster, interval=0.05) as reporter:
        reporter.start(make_overview("third"))
        raise RuntimeError
    assert get_json(cluster)["state"] == "crashed"
    # The page is one, however often it was installed.
    pages = get(cluster, "/status").count('href="campaign"')
    assert pages == 1


def metrics(client: Client) -> dict[str, float]:
    lines = [line for line in get(client, "/metrics").splitlines() if line.startswith("skygraft_campaign_")]
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


def test_metrics_for_prometheus(cluster: Client) -> None:
    with DashboardReporter(cluster, interval=0.05) as reporter:
        reporter.start(make_overview('quote"d'))
        reporter.images([*(summary(k) for k in range(100)), failure(100), failure(101, error="FormatError")])
        label = 'campaign="quote\\"d"'
        eventually(lambda: metrics(cluster).get(f"skygraft_campaign_images_made_total{{{label}}}") == 100)
        found = metrics(cluster)
        assert found[f'skygraft_campaign_images{{{label},state="left"}}'] == 320 - 102
        assert found[f'skygraft_campaign_images_failed{{{label},error="FormatError"}}'] == 1
        assert found[f'skygraft_campaign_stage_seconds_total{{{label},stage="inject"}}'] == 102
        assert found[f"skygraft_campaign_sources_drawn_total{{{label}}}"] == 2040
        assert found[f'skygraft_campaign_closure_median_mag{{band="g",{label}}}'] == pytest.approx(0.001, abs=6e-5)
        assert found[f"skygraft_campaign_running{{{label}}}"] == 1
        assert found[f"skygraft_campaign_eta_seconds{{{label}}}"] > 0
    assert metrics(cluster)[f"skygraft_campaign_running{{{label}}}"] == 0


def published(client: Client) -> PublishedRun:
    """The newest run, in the scheduler's own memory."""
    run = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.plugins["skygraft-campaign"].runs.get())
    assert isinstance(run, PublishedRun)
    return run


def test_many_images_cost_few_messages(cluster: Client) -> None:
    with DashboardReporter(cluster, interval=0.5) as reporter:
        reporter.start(make_overview("many"))
        eventually(lambda: get_json(cluster)["campaign"] == "many")
        before, began, cpu = published(cluster).version, time.monotonic(), time.thread_time()
        for k in range(5000):
            reporter.images([summary(k % 320)])
        took, cpu = time.monotonic() - began, time.thread_time() - cpu
        assert published(cluster).version - before <= took / 0.5 + 2
        eventually(lambda: published(cluster).version > before)
        assert cpu < 5000 * 0.5e-3  # half of what the whole driver may take
    assert len(published(cluster)._data) < 20_000
    # The scheduler keeps the last message, not all of them.
    assert not cluster.get_events("skygraft-campaign")


def test_a_run_that_the_scheduler_has_forgotten_is_published_again(cluster: Client) -> None:
    def forget(dask_scheduler: Any) -> None:
        dask_scheduler.plugins["skygraft-campaign"].runs._runs.clear()

    with DashboardReporter(cluster, interval=0.05) as reporter:
        reporter.start(make_overview("forgotten"))
        eventually(lambda: get_json(cluster)["campaign"] == "forgotten")
        cluster.run_on_scheduler(forget)
        reporter.images(summary(k) for k in range(7))
    shot = get_json(cluster)
    assert (shot["campaign"], shot["images"]["done"], shot["patches"]["n_done"][:3]) == ("forgotten", 7, [5, 2, 0])
    assert shot["patches"]["ra"][1] == pytest.approx(359.4)


def test_a_driver_that_disconnects_during_a_run_is_shown_as_lost(cluster: Client) -> None:
    with Client(cluster.scheduler.address, set_as_default=False) as other:
        reporter = DashboardReporter(other, interval=0.05)
        reporter.start(make_overview("lost"))
        eventually(lambda: get_json(cluster)["campaign"] == "lost")
        reporter._over.set()  # its thread ends as the process would, without saying how the run ended
        reporter._thread.join()
    eventually(lambda: get_json(cluster)["state"] == "lost")


def test_without_dashboard_the_json_is_there() -> None:
    said: list[str] = []
    with (
        LocalCluster(
            n_workers=0,
            processes=False,
            protocol="tcp",
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
        ) as local,
        Client(local, set_as_default=False) as client,
        DashboardReporter(client, say=said.append, interval=0.05) as reporter,
    ):
        reporter.start(make_overview())
        reporter.images([summary(0)])
        eventually(lambda: bool(said))
        port = local.scheduler.http_server.port
        url = f"http://127.0.0.1:{port}/campaign.json"

        def n_done() -> int:
            try:
                return int(json.load(urllib.request.urlopen(url, timeout=100))["images"]["done"])
            except urllib.error.HTTPError:
                return -1

        eventually(lambda: n_done() == 1)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url.replace(".json", ""), timeout=100)
        assert find_dashboard(client).url == ""
    assert said == ["the scheduler does not show the Campaign page (the scheduler has no dashboard)"]


def is_answered(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=100) as answer:
        return int(answer.status) == 200


@pytest.mark.parametrize(
    ("scheduler", "dashboard", "prefix"),
    [
        # As on a node of a cluster: workers come by its network, the dashboard is on its loopback.
        ("127.0.0.2", "127.0.0.1:0", ""),
        ("127.0.0.1", "127.0.0.2:0", ""),
        ("127.0.0.2", ":0", ""),
        ("127.0.0.1", "127.0.0.1:0", "far/away"),
        ("127.0.0.2", ":0", "far"),
    ],
)
def test_the_reported_addresses_answer(
    scheduler: str, dashboard: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not prefix:
        # Whether they answer is of their routes; what is drawn on them takes a second, and is the same for all.
        monkeypatch.setattr("bokeh.application.handlers.function.FunctionHandler.modify_document", lambda *_: None)
    said: list[str] = []
    with (
        LocalCluster(
            n_workers=0,
            processes=False,
            protocol="tcp",
            host=scheduler,
            dashboard_address=dashboard,
            scheduler_kwargs={"http_prefix": prefix},
        ) as local,
        Client(local.scheduler_address, set_as_default=False) as client,
    ):
        found = find_dashboard(client)
        assert is_answered(found.url)
        assert found.describe("local") == found.url
        # The machine is named only where the address is of its loopback.
        assert (socket.gethostname() in found.describe("slurm")) == (dashboard != ":0")
        with DashboardReporter(client, say=said.append, interval=0.05) as reporter:
            reporter.start(make_overview())
            eventually(lambda: bool(said))
        (message,) = said
        assert message.startswith("Campaign page: http://")
        assert is_answered(message.removeprefix("Campaign page: "))


def test_the_workers_are_counted(cluster: Client) -> None:
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=False,
            protocol="tcp",
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as local,
        Client(local, set_as_default=False) as client,
        DashboardReporter(client, interval=0.05) as reporter,
    ):
        reporter.start(make_overview())
        eventually(lambda: get_json(client)["workers"] == {"running": 2})
        local.scale(0)
        eventually(lambda: get_json(client)["workers"] == {"running": 0})


def published_run(state: str, summaries: list[ImageSummary], **overview: Any) -> PublishedRun:
    """A run as the scheduler knows it, from the driver's own messages."""
    progress = Progress(make_overview(**overview))
    progress.add(summaries)
    if state != "running":
        progress.end(None if state == "finished" else state)  # type: ignore[arg-type]
    runs = PublishedRuns()
    assert runs.publish(MESSAGE_VERSION, "run", "driver", pack_progress(progress), pack_patches(progress))
    run = runs.get()
    assert run is not None
    return run


def test_a_run_with_failures_does_not_look_like_a_success() -> None:
    every = [summary(k) for k in range(320)]
    good = header(published_run("finished", every, n_unusable=0), 0.0)
    assert ">finished<" in good
    assert '<span class="good state">' in good
    some = [*every[:-3], *(failure(k) for k in range(317, 320))]
    for run, words in (
        (published_run("finished", some, n_unusable=2), "finished, but 3 images failed, 2 cannot be used"),
        (published_run("finished", every, n_unusable=2), "finished, but 2 cannot be used"),
    ):
        bad = header(run, 0.0)
        assert f'<span class="warning state">{words}</span>' in bad
        assert "good" not in bad
        # Nor where it stands beside another run.
        assert f"({words})" in header(published_run("running", []), 0.0, [run])


@pytest.mark.parametrize(
    ("workers", "tile", "note"),
    [
        ({"running": 3}, "<b>3</b>", ""),
        ({"running": 1, "paused": 1234}, "<b>1\u202f235</b><span>1\u202f234 paused; ", ""),
        ({"running": 0, "paused": 2}, "<b>2</b><span>2 paused; ", "All 2 workers are paused at their memory limit"),
        ({"running": 0}, "<b>0</b>", "There is no worker: the images that are left wait for one."),
    ],
)
def test_the_page_says_how_many_workers_there_are(workers: dict[str, int], tile: str, note: str) -> None:
    run = published_run("running", [summary(0)])
    text = header(run, run._heard, workers=workers)
    assert f'<span class="label">workers</span>{tile}' in text
    assert note in text
    assert bool(note) == ('class="note"' in text)


def test_with_tls() -> None:
    with (
        LocalCluster(
            n_workers=0,
            processes=False,
            protocol="tls",
            security=Security.temporary(),
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as local,
        Client(local, set_as_default=False) as client,
    ):
        with DashboardReporter(client, interval=0.05) as reporter:
            reporter.start(make_overview("secret"))
            reporter.images([summary(0)])
        assert get_json(client)["images"]["done"] == 1


SCHEDULER = """
import sys
if {without}:
    sys.modules["skygraft"] = None
from distributed.cli.dask_scheduler import main
main(["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", {file!r}])
"""


def publish(file: Path) -> tuple[list[str], int]:
    """Publish a campaign of one image on a scheduler; the messages, and how many images its JSON has as done."""
    said: list[str] = []
    with Client(scheduler_file=str(file), set_as_default=False) as client:
        with DashboardReporter(client, say=said.append, interval=0.05) as reporter:
            reporter.start(make_overview("far away"))
            reporter.images([summary(0)])
        try:
            return said, int(get_json(client)["images"]["done"])
        except urllib.error.HTTPError:
            return said, -1


def test_schedulers_in_other_processes_with_and_without_skygraft(tmp_path: Path) -> None:
    files = {without: tmp_path / f"{without}.json" for without in (False, True)}
    processes = []
    try:
        for without, file in files.items():
            code = SCHEDULER.format(without=without, file=str(file))
            with file.with_suffix(".log").open("w") as log:
                processes.append(subprocess.Popen([sys.executable, "-c", code], stderr=log, stdout=log))
        eventually(lambda: all(file.exists() and file.stat().st_size > 0 for file in files.values()))
        said, n_done = publish(files[False])
        assert n_done == 1 and len(said) == 1 and said[0].startswith("Campaign page: http://127.0.0.1:")
        said, n_done = publish(files[True])
        assert n_done == -1 and len(said) == 1
        assert said[0].startswith("no Campaign page: the scheduler cannot show it") and "skygraft" in said[0]
    finally:
        for process in processes:
            process.terminate()
            process.wait(20)


def test_a_scheduler_that_goes_away_is_reported_once() -> None:
    said: list[str] = []
    began = time.monotonic()
    with LocalCluster(
        n_workers=0, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as local:
        client = Client(local, set_as_default=False)
        with DashboardReporter(client, say=said.append, interval=0.05) as reporter:
            reporter.start(make_overview("cut off"))
            eventually(lambda: len(said) == 1)
            client.close()
            for k in range(20):
                reporter.images([summary(k)])
                time.sleep(0.02)
            eventually(lambda: len(said) > 1)
    assert len(said) == 2 and "is not updated any more" in said[1]
    assert time.monotonic() - began < 200  # nobody waits for a scheduler that is gone


# -- in a browser


_ALLOWED = (
    "--explicitly-allowed-ports=1719,1720,1723,2049,3659,4045,4190,5060,5061,6000,6566,6665,6666,6667,6668,6669,6679,"
    "6697,10080"
)
"""Ports that a dashboard may get, and that Chromium refuses."""
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", _ALLOWED])
        try:
            yield opened
        finally:
            opened.close()


READY = "window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle"
COUNTS = """() => {
    const data = Bokeh.documents[0].get_model_by_name('patches').data;
    const sum = (values) => Array.from(values).reduce((a, b) => a + b, 0);
    return [sum(data.n_done), sum(data.n_failed), sum(data.fraction), data.n_done.length];
}"""

CLOSURE = """() => {
    const data = Bokeh.documents[0].get_model_by_name('closure-data').data;
    return [data.band0, data.band1].map((values) => Array.from(values).reduce((a, b) => a + b, 0));
}"""


def colours(page: Any) -> dict[str, int]:
    """Pixels of the sky map in the colours of nothing done, all done, and failed."""
    from PIL import Image

    box = page.locator(".bk-Figure").first.bounding_box()
    # Without the colour bar on the right and the legend below.
    box = {**box, "y": box["y"] + 30, "width": box["width"] - 90, "height": box["height"] - 100}
    image = Image.open(io.BytesIO(page.screenshot(clip=box))).convert("RGB")
    near = {"none": (227, 231, 236), "all": (8, 69, 138), "failed": (213, 94, 0)}
    found = dict.fromkeys(near, 0)
    for n, colour in image.getcolors(maxcolors=1 << 24) or []:
        for name, wanted in near.items():
            if max(abs(a - b) for a, b in zip(colour, wanted, strict=True)) <= 3:
                found[name] += n
    return found


def text_of(page: Any, name: str) -> str:
    """Text of a piece of the page."""
    return str(page.locator(f".campaign-{name} .bk-clearfix").text_content()).replace("\u202f", "")


PIECES = """() => {
    const found = [];
    const look = (root) => {
        for (const each of root.querySelectorAll('*')) {
            if (each.matches('.bk-Figure, [class*=campaign-]') && each.offsetHeight > 0) {
                const box = each.getBoundingClientRect();
                found.push([each.className, box.left, box.top, box.right, box.bottom]);
            }
            if (each.shadowRoot) look(each.shadowRoot);
        }
    };
    look(document);
    return found;
}"""


@pytest.mark.parametrize(("width", "height", "is_mobile"), [(390, 844, True), (768, 1024, False), (1400, 900, False)])
def test_the_page_fits_on_a_phone_and_on_a_desk(
    cluster: Client, browser: Any, width: int, height: int, is_mobile: bool
) -> None:
    """Nothing is cut off, and nothing overlaps."""
    with DashboardReporter(cluster, interval=0.05) as reporter:
        reporter.start(make_overview("fits", output="/scratch/users/somebody/surveys/video/outputs/2026-11"))
        where = "/data/survey/images/2026/video_H_image_0000123.fits: HDU 3 has no column PSF_MASK"
        host = "node0001.cluster.example.org"
        reporter.images(summary(k, host=host) for k in range(160) if k % 40)
        reporter.images(failure(k, message=where, host=host) for k in range(0, 160, 40))
        eventually(lambda: get_json(cluster)["campaign"] == "fits")
        page = browser.new_page(viewport={"width": width, "height": height}, is_mobile=is_mobile)
        page.goto(address(cluster, "/campaign"))
        page.wait_for_function(READY, timeout=300_000)
        # Until it is drawn.
        page.wait_for_function(f"({PIECES})().length >= 9", timeout=300_000)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        pieces = page.evaluate(PIECES)
        page.close()
    assert len(pieces) == 9
    for name, left, _, right, _ in pieces:
        assert left >= 0 and right <= width, name
    for i, (name, *box) in enumerate(pieces):
        for other, *there in pieces[:i]:
            across = min(box[2], there[2]) - max(box[0], there[0])
            down = min(box[3], there[3]) - max(box[1], there[1])
            assert across <= 1 or down <= 1, (name, other)


def test_the_page_in_a_browser(cluster: Client, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    with DashboardReporter(cluster, interval=0.05) as reporter:
        reporter.start(make_overview(f"evil {EVIL}"))
        eventually(lambda: get_json(cluster)["campaign"].startswith("evil"))
        page.goto(address(cluster, "/status"))
        page.get_by_role("link", name="Campaign", exact=True).click()
        page.wait_for_function(READY, timeout=300_000)
        assert page.evaluate(COUNTS) == [0, 0, 0, SIDE * SIDE]
        start = colours(page)
        assert start["none"] > 20_000 and start["all"] == start["failed"] == 0
        assert "0of 320 (0 %)" in text_of(page, "header") and EVIL in text_of(page, "header")
        assert "workers0" in text_of(page, "header") and "There is no worker" in text_of(page, "header")

        # Half of the patches, without the page being loaded again.
        reporter.images(summary(k) for k in range(160) if k % 40)
        reporter.images(failure(k, host=EVIL, error=f"Evil{EVIL}Error") for k in range(0, 160, 40))
        page.wait_for_function(f"({COUNTS})()[0] == 156", timeout=300_000)
        page.wait_for_function(READY)
        assert page.evaluate(COUNTS)[:3] == [156, 4, pytest.approx(31.2)]
        page.wait_for_timeout(300)
        half = colours(page)
        assert half["none"] == pytest.approx(start["none"] / 2, rel=0.1)
        assert half["all"] == pytest.approx(start["none"] * 28 / 64, rel=0.1)  # 28 patches are full
        assert half["failed"] > 20
        header = text_of(page, "header")
        assert "156of 320 (48.8 %)" in header and "failed42 more cannot be used" in header and "left160" in header
        failures = text_of(page, "failures")
        assert EVIL in failures and "× 4" in failures and "image-120" in failures
        assert "node1" in text_of(page, "hosts")
        assert "read 25.0 %" in text_of(page, "stages")
        assert "+1.0" in text_of(page, "closure")
        assert page.evaluate(CLOSURE) == [76, 80]  # images of the two bands in the stacked bars
        assert "image-1" in text_of(page, "slowest")

        reporter.images(summary(k) for k in range(160, 320))
        reporter.images(summary(k) for k in range(0, 160, 40))
    page.wait_for_function(f"({COUNTS})()[0] == 320", timeout=300_000)
    page.wait_for_timeout(1500)
    end = colours(page)
    assert end["failed"] < 10 and end["none"] < 100 and end["all"] > start["none"] * 0.9
    header = text_of(page, "header")
    assert "finished" in header and "4 made when tried again" in header
    assert "No image has failed" in text_of(page, "failures")
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("() => document.querySelectorAll('script[src=x], img[src=x]').length") == 0
    assert problems == []
    page.close()
