"""A Campaign page in Dask's dashboard, a JSON route beside it, and metrics for Prometheus.

`DashboardReporter` belongs to the driver: it installs `CampaignDashboard` on the scheduler, which may be on another
machine, and tells it the campaign's numbers twice a second. Whatever goes wrong with that is said once, and never
stops the campaign.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from distributed import Client
from distributed.diagnostics.plugin import SchedulerPlugin
from tornado.web import RequestHandler

from skygraft.clusters.dashboard import dashboard_applications, dashboard_prefix, find_dashboard
from skygraft.monitoring.feed import FEED_VERSION, TOPIC, Boards, Feed
from skygraft.monitoring.progress import Overview
from skygraft.records.image_summary import ImageSummary

__all__ = ["CampaignDashboard", "DashboardReporter"]

_PLUGIN = "skygraft-campaign"
_INTERVAL = 0.5
_HEARTBEAT = 5.0
_PATIENCE = 10.0

logger = logging.getLogger(__name__)


class _CampaignJson(RequestHandler):
    """``/campaign.json``: the newest run, or that of ``?run=``; ``?patches=0`` leaves the patches out.

    Beside the run, ``runs`` lists those that the scheduler knows and ``workers`` counts its workers by status.
    """

    def initialize(self, boards: Boards) -> None:
        self.boards = boards

    def get(self) -> None:
        board = self.boards.get(self.get_query_argument("run", None))
        runs = [
            {"run": each.run, "campaign": each.snapshot["campaign"], "state": each.state} for each in self.boards.all()
        ]
        if board is None:
            self.set_status(404)
            content: dict[str, Any] = {"error": "no such campaign has run on this scheduler", "runs": runs}
        else:
            patches = self.get_query_argument("patches", "1") != "0"
            content = {**board.to_dict(self.boards.now(), patches=patches), "runs": runs}
        content["workers"] = self.boards.workers()
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(content, allow_nan=False))


class CampaignDashboard(SchedulerPlugin):
    """Shows campaigns on the dashboard of the scheduler that it is installed on; installed once, it stays.

    Attributes
    ----------
    boards : Boards
        What the scheduler knows; the runs of the last few campaigns stay to be looked at.
    missing : list of str
        What could not be shown, and why.
    """

    name = _PLUGIN
    idempotent = True

    boards: Boards
    missing: list[str]

    async def start(self, scheduler: Any) -> None:
        """Add the page, the route and the metrics."""

        def workers() -> dict[str, int]:
            counted = Counter(worker.status.name for worker in scheduler.workers.values())
            return {"running": 0, **counted}

        self.boards, self.missing = Boards(workers=workers), []
        self._try("the Campaign page", self._add_page, scheduler)
        self._try("the route /campaign.json", self._add_route, scheduler)
        self._try("metrics for Prometheus", self._add_metrics, scheduler)

    def log_event(self, topic: str, msg: Any) -> None:
        """Hear the driver."""
        if topic == TOPIC:
            self.boards.hear(msg)

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Note that a driver has gone."""
        del scheduler
        self.boards.lose(client)

    async def close(self) -> None:
        """Take the metrics out of the process."""
        if not any("Prometheus" in what for what in self.missing):
            from skygraft.monitoring.metrics import hide_metrics

            hide_metrics(self.boards)

    def _try(self, what: str, add: Callable[[Any], None], scheduler: Any) -> None:
        try:
            add(scheduler)
        except ImportError as error:
            self.missing.append(f"{what} ({error.name or error} is not installed where the scheduler runs)")
        except Exception as error:
            # Dask documents no way to add a page: what works with one version may not with another.
            logger.exception("skygraft cannot add %s", what)
            self.missing.append(f"{what} ({type(error).__name__}: {error})")

    def _add_page(self, scheduler: Any) -> None:
        if not dashboard_applications(scheduler):
            self.missing.append("the Campaign page (the scheduler has no dashboard)")
            return
        from skygraft.monitoring.page import add_page

        add_page(scheduler, self.boards, prefix=dashboard_prefix(scheduler).strip("/"))

    def _add_route(self, scheduler: Any) -> None:
        route = (f"{dashboard_prefix(scheduler)}campaign.json", _CampaignJson, {"boards": self.boards})
        scheduler.http_application.add_handlers(r".*", [route])

    def _add_metrics(self, scheduler: Any) -> None:
        from skygraft.monitoring.metrics import show_metrics

        del scheduler
        show_metrics(self.boards)


def _installed(dask_scheduler: Any) -> tuple[int, list[str]]:
    """What the plugin on the scheduler speaks and could not show."""
    plugin = dask_scheduler.plugins[_PLUGIN]
    return FEED_VERSION, list(plugin.missing)


class DashboardReporter:
    """Tells the dashboard of a scheduler how far a campaign is; a `Reporter`.

    Parameters
    ----------
    client : distributed.Client
        The cluster; skygraft must be installed where its scheduler runs.
    say : callable
        Called with what there is to tell people: where the page is, or what is not there.
    interval : float
        Seconds between two messages, at least.

    Notes
    -----
    Counting is done here, in the driver. Everything that waits for the network is done in a thread, so that a slow
    scheduler does not slow down the campaign.
    """

    def __init__(
        self, client: Client, *, say: Callable[[str], None] = lambda text: None, interval: float = _INTERVAL
    ) -> None:
        self._client, self._say, self._interval = client, say, interval
        self._lock = threading.Lock()
        self._feed: Feed | None = None
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._changed = False
        self._is_silent = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._feed is None or self._thread is None:
            return
        with self._lock:
            interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
            self._feed.progress.end(None if kind is None else "stopped" if interrupted else "crashed")
        self._over.set()
        # The last word is worth some seconds; a scheduler that does not listen is not worth more.
        self._thread.join(_PATIENCE)

    def start(self, overview: Overview) -> None:
        """Install what shows the campaign, and begin to tell."""
        self._feed = Feed(overview, client=str(self._client.id))
        self._thread = threading.Thread(target=self._tell, name="skygraft-dashboard", daemon=True)
        self._thread.start()

    def images(self, summaries: Iterable[ImageSummary]) -> None:
        """Count what became of some images."""
        if self._feed is None:
            return
        with self._lock:
            self._feed.progress.add(summaries)
            self._changed = True

    def say(self, text: str) -> None:
        """Do nothing: the page has its own words."""

    # -- in the thread

    def _tell(self) -> None:
        if not self._install():
            return
        told_all, waited = False, _HEARTBEAT
        while True:
            last = self._over.is_set()
            with self._lock:
                due, self._changed = self._changed or waited >= _HEARTBEAT or last or not told_all, False
            if due:
                told_all = self._send(all_of_it=not told_all)
                waited = 0.0
            if last:
                return
            # After a message was lost the next one may wait: most likely the scheduler is gone.
            pause = self._interval if told_all else _HEARTBEAT
            self._over.wait(pause)
            waited += pause

    def _install(self) -> bool:
        try:
            self._client.register_plugin(CampaignDashboard())
            version, missing = self._client.run_on_scheduler(_installed)
        except Exception as error:
            # A scheduler without skygraft, an old one, one that takes no code, a connection that broke: whatever it
            # is, the campaign runs without the page.
            self._say(f"no Campaign page: the scheduler cannot show it ({type(error).__name__}: {_first_line(error)})")
            return False
        if version != FEED_VERSION:
            self._say("no Campaign page: the scheduler has another version of skygraft")
            return False
        for what in missing:
            self._say(f"the scheduler does not show {what}")
        if not any("page" in what for what in missing) and (address := find_dashboard(self._client)).url:
            self._say(f"Campaign page: {address.page('campaign')}")
        return True

    def _send(self, *, all_of_it: bool) -> bool:
        if self._feed is None:
            return False
        try:
            with self._lock:
                messages = list(self._feed.start()) if all_of_it else [self._feed.update()]
            for message in messages:
                self._client.log_event(TOPIC, message)
        except Exception as error:
            # As above; the ledger, not the page, is what counts.
            if not self._is_silent and not self._over.is_set():
                self._say(f"the Campaign page hears nothing any more ({type(error).__name__}: {_first_line(error)})")
            self._is_silent = True
            return False
        self._is_silent = False
        return True


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")[:200]
