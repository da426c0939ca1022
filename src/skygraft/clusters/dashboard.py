"""Find the address at which a scheduler's dashboard listens, which may differ from Dask's own link."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import Any

from distributed import Client
from distributed.utils import format_dashboard_link

from skygraft.clusters.connection import insist

__all__ = ["DashboardAddress", "dashboard_applications", "dashboard_prefix", "find_dashboard"]

_TRIES = 3


@dataclass(frozen=True)
class DashboardAddress:
    """Address of a scheduler's dashboard."""

    url: str  # of its first page, ending in /status; empty if the scheduler has no dashboard
    host: str = ""  # name of the machine, if it listens on the loopback of that machine only
    port: int = 0  # on that machine

    def describe(self, kind: str) -> str:
        """Return the address and, unless the cluster is of kind ``local``, how to reach it from another machine."""
        if not self.host or kind == "local":
            return self.url
        return f"{self.url} on {self.host}; from elsewhere: ssh -L 8787:127.0.0.1:{self.port} {self.host}"

    def page(self, name: str) -> str:
        """Return the address of another page of the dashboard."""
        return f"{self.url.removesuffix('/status')}/{name}"


def dashboard_applications(scheduler: Any) -> list[Any]:
    """Return the Bokeh applications of a scheduler; empty if it was started without a dashboard."""
    return [app for app in scheduler.http_application.applications if hasattr(app, "app_paths")]


def dashboard_prefix(scheduler: Any) -> str:
    """Return the path at which the dashboard's addresses begin: ``/``, or ``/prefix/``."""
    for application in dashboard_applications(scheduler):
        return f"/{str(application.prefix).strip('/')}/".replace("//", "/")
    return "/"


def _bound(dask_scheduler: Any) -> tuple[str, int, str, str] | None:
    """Run on the scheduler: return the dashboard's host, port and prefix, and the name of the machine."""
    if not dashboard_applications(dask_scheduler):
        return None
    host, port = dask_scheduler.http_server.address, dask_scheduler.http_server.port
    return str(host), int(port), dashboard_prefix(dask_scheduler), socket.gethostname()


def find_dashboard(client: Client) -> DashboardAddress:
    """Find the dashboard of a client's scheduler.

    Dask derives its link from the address of the scheduler, even if the dashboard listens on the loopback only, or if
    there is none.

    Parameters
    ----------
    client : distributed.Client
        Client of a scheduler that can import skygraft.

    Returns
    -------
    DashboardAddress
        With an empty `url` if there is no dashboard, or the scheduler does not answer.
    """
    try:
        bound = insist(lambda: client.run_on_scheduler(_bound), tries=_TRIES)
    except Exception:
        # A scheduler without skygraft, or one that runs no code: no address is better than one that may be wrong.
        bound = None
    if bound is None:
        return DashboardAddress("")
    host, port, prefix, machine = bound
    address = ipaddress.ip_address(host)
    try:
        if address.is_unspecified:
            # Reachable like the scheduler; Dask's cluster classes, such as that of Kubernetes, know how.
            url = str(client.dashboard_link)
        else:
            url = str(format_dashboard_link(f"[{host}]" if address.version == 6 else host, port))
    except KeyError:
        # The user's own distributed.dashboard.link names a variable that is not set here.
        return DashboardAddress("")
    if prefix != "/" and url.endswith("/status") and not url.endswith(f"{prefix}status"):
        url = f"{url.removesuffix('/status')}{prefix}status"
    return DashboardAddress(url, machine if address.is_loopback else "", port)
