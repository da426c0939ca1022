"""A Campaign page in Dask's dashboard, a JSON route beside it, and metrics for Prometheus.

`DashboardReporter` belongs to the driver: it installs `CampaignDashboard` on the scheduler, which may be on another
machine, and publishes the campaign's progress there every few seconds. A failure of any of this is reported once and
never stops the campaign.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from distributed import Client
from distributed.diagnostics.plugin import SchedulerPlugin
from tornado.web import RequestHandler

from skygraft.clusters.dashboard import dashboard_applications, dashboard_prefix, find_dashboard
from skygraft.monitoring.overview import Overview
from skygraft.monitoring.progress import Progress
from skygraft.monitoring.published import MESSAGE_VERSION, PublishedRuns, pack_patches, pack_progress, to_json
from skygraft.monitoring.reporters import Reporter
from skygraft.records.image_summary import ImageSummary

__all__ = ["CampaignDashboard", "DashboardReporter"]

_PLUGIN = "skygraft-campaign"
_HANDLER = "skygraft_publish"
_INTERVAL = 2.0
_HEARTBEAT = 5.0
_PATIENCE = 10.0

logger = logging.getLogger(__name__)


class _CampaignJson(RequestHandler):
    """``/campaign.json``: the newest run, or that of ``?run=``; ``?patches=0`` leaves out the patches.

    Beside the run, ``runs`` lists those that the scheduler knows and ``workers`` counts its workers by status.
    """

    def initialize(self, runs: PublishedRuns) -> None:
        self.runs = runs

    def get(self) -> None:
        run = self.runs.get(self.get_query_argument("run", None))
        content: dict[str, Any]
        if run is None:
            self.set_status(404)
            content = {"error": "no such campaign has run on this scheduler"}
        else:
            content = run.to_dict(self.runs.now(), patches=self.get_query_argument("patches", "1") != "0")
        content["runs"] = [
            {"run": each.run, "campaign": each.snapshot["campaign"], "state": each.state} for each in self.runs.all()
        ]
        content["workers"] = self.runs.workers()
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.finish(to_json(content))


class CampaignDashboard(SchedulerPlugin):
    """Shows campaigns on the dashboard of the scheduler that it is installed on; once installed, it stays."""

    name = _PLUGIN
    idempotent = True

    runs: PublishedRuns
    missing: list[str]  # what cannot be shown, and why

    async def start(self, scheduler: Any) -> None:
        """Add the page, the route, the metrics, and the handler through which drivers publish."""

        def workers() -> dict[str, int]:
            counted = Counter(worker.status.name for worker in scheduler.workers.values())
            return {"running": 0, **counted}

        self.runs, self.missing = PublishedRuns(workers=workers), []
        scheduler.handlers[_HANDLER] = self.runs.publish
        for what, add in (
            ("the Campaign page", self._add_page),
            ("the route /campaign.json", self._add_route),
            ("metrics for Prometheus", self._add_metrics),
        ):
            try:
                add(scheduler)
            except Exception as error:
                # Dask documents no way to add a page: what works with one version may not with another.
                logger.exception("skygraft cannot add %s", what)
                self.missing.append(f"{what} ({type(error).__name__}: {error})")

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Note that a driver has disconnected."""
        del scheduler
        self.runs.lose(client)

    async def close(self) -> None:
        """Remove the metrics from the process."""
        from skygraft.monitoring.metrics import hide_metrics

        hide_metrics(self.runs)

    def _add_page(self, scheduler: Any) -> None:
        if not dashboard_applications(scheduler):
            self.missing.append("the Campaign page (the scheduler has no dashboard)")
            return
        from skygraft.monitoring.page import add_page

        add_page(scheduler, self.runs, prefix=dashboard_prefix(scheduler).strip("/"))

    def _add_route(self, scheduler: Any) -> None:
        route = (f"{dashboard_prefix(scheduler)}campaign.json", _CampaignJson, {"runs": self.runs})
        scheduler.http_application.add_handlers(r".*", [route])

    def _add_metrics(self, scheduler: Any) -> None:
        from skygraft.monitoring.metrics import show_metrics  # loaded on the scheduler alone, as the page is

        del scheduler
        show_metrics(self.runs)


def _installed(dask_scheduler: Any) -> tuple[int, list[str]]:
    """Return the version of messages that the scheduler reads, and what it cannot show."""
    plugin = dask_scheduler.plugins[_PLUGIN]
    return MESSAGE_VERSION, list(plugin.missing)


class DashboardReporter(Reporter):
    """A `Reporter` that publishes a campaign's progress on the dashboard of a scheduler.

    Parameters
    ----------
    client : distributed.Client
        The cluster; skygraft must be installed where its scheduler runs.
    say : callable
        Called with messages for people: the address of the page, or what cannot be shown.
    interval : float
        Shortest time between two messages to the scheduler, seconds.

    Notes
    -----
    Everything that waits for the network is done in a thread, so that a slow scheduler does not slow down the campaign.
    """

    def __init__(
        self, client: Client, *, say: Callable[[str], None] = lambda text: None, interval: float = _INTERVAL
    ) -> None:
        self._client, self._say, self._interval = client, say, interval
        self._run = uuid.uuid4().hex[:12]
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._changed = True
        self._has_failed = False

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._progress is None or self._thread is None:
            return
        with self._lock:
            interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
            self._progress.end(None if kind is None else "stopped" if interrupted else "crashed")
        self._over.set()
        # The last message is worth some seconds; a scheduler that does not answer is not worth more.
        self._thread.join(_PATIENCE)

    def start(self, overview: Overview) -> None:
        """Install the dashboard on the scheduler and begin to publish."""
        self._progress = Progress(overview)
        self._thread = threading.Thread(
            target=self._publish_until_over, args=(self._progress,), name="skygraft-dashboard", daemon=True
        )
        self._thread.start()

    def images(self, summaries: Iterable[ImageSummary]) -> None:
        """Count what became of some images."""
        if self._progress is None:
            return
        with self._lock:
            self._progress.add(summaries)
            self._changed = True

    # -- in the thread

    def _publish_until_over(self, progress: Progress) -> None:
        if not self._install():
            return
        with self._lock:
            patches = pack_patches(progress)
        is_received, waited = False, 0.0
        while True:
            is_last = self._over.is_set()
            if self._changed or waited >= _HEARTBEAT or is_last or not is_received:
                is_received, waited = self._publish(progress, patches), 0.0
            if is_last:
                return
            # After a message was lost the next one may wait: most likely the scheduler is gone.
            pause = self._interval if is_received else _HEARTBEAT
            self._over.wait(pause)
            waited += pause

    def _install(self) -> bool:
        try:
            self._client.register_plugin(CampaignDashboard())
            version, missing = self._client.run_on_scheduler(_installed)
        except Exception as error:
            # A scheduler without skygraft, an old one, one that takes no code, a connection that broke: whatever it
            # is, the campaign runs without the page.
            self._say(f"no Campaign page: the scheduler cannot show it ({_words(error)})")
            return False
        if version != MESSAGE_VERSION:
            self._say("no Campaign page: the scheduler has another version of skygraft")
            return False
        for what in missing:
            self._say(f"the scheduler does not show {what}")
        if not any("page" in what for what in missing) and (address := find_dashboard(self._client)).url:
            self._say(f"Campaign page: {address.page('campaign')}")
        return True

    def _publish(self, progress: Progress, patches: bytes) -> bool:
        """Send the present state; returns whether the scheduler has received it."""
        try:
            with self._lock:
                data, self._changed = pack_progress(progress), False
            # The places of the patches are most of the bytes: only for a scheduler that does not have them.
            is_received = self._send(data=data) or self._send(data=data, patches=patches)
        except Exception as error:
            # As above; the ledger, not the page, is what counts.
            if not self._has_failed and not self._over.is_set():
                self._say(f"the Campaign page is not updated any more ({_words(error)})")
            self._has_failed = True
            return False
        self._has_failed = False
        return is_received

    def _send(self, **content: bytes) -> bool:
        # To a handler of the scheduler, as Dask's own queues and locks do. Of events it keeps the last thousand, 100 MB
        # for a large survey; functions that are run on it are logged.
        handler = getattr(self._client.scheduler, _HANDLER)
        head = {"version": MESSAGE_VERSION, "run": self._run, "driver": str(self._client.id)}
        return bool(self._client.sync(handler, **head, **content, callback_timeout=_PATIENCE))


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:200]}"
