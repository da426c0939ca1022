"""Find where a scheduler's dashboard really listens, which Dask's own link does not say."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from distributed import Client
from distributed.utils import format_dashboard_link

if TYPE_CHECKING:
    from skygraft.clusters.cluster import OpenCluster

__all__ = ["DashboardAddress", "dashboard_applications", "dashboard_prefix", "find_dashboard", "with_dashboard"]

_TRIES = 3


@dataclass(frozen=True)
class DashboardAddress:
    """Where the dashboard of a scheduler is.

    Parameters
    ----------
    url : str
        Of its first page, ending in ``/status``; empty where the scheduler has no dashboard.
    host : str
        Machine on whose loopback it listens; empty where other machines reach it.
    port : int
        Port on that machine.
    """

    url: str
    host: str = ""
    port: int = 0

    def words(self, kind: str) -> str:
        """The address, and how to reach it from another machine where the cluster is not one of this machine."""
        if not self.host or kind == "local":
            return self.url
        return f"{self.url} on {self.host}; from elsewhere: ssh -L 8787:127.0.0.1:{self.port} {self.host}"

    def page(self, name: str) -> str:
        """Address of another of its pages."""
        return f"{self.url.removesuffix('/status')}/{name}"


def dashboard_applications(scheduler: Any) -> list[Any]:
    """The Bokeh applications of a scheduler; empty where it was started without dashboard."""
    return [app for app in scheduler.http_application.applications if hasattr(app, "app_paths")]


def dashboard_prefix(scheduler: Any) -> str:
    """Where the dashboard's addresses begin: ``/``, or ``/prefix/``."""
    for application in dashboard_applications(scheduler):
        return f"/{str(application.prefix).strip('/')}/".replace("//", "/")
    return "/"


def _bound(dask_scheduler: Any) -> tuple[str, int, str, str] | None:
    """On the scheduler: host and port that the dashboard is bound to, its prefix, and the machine's name."""
    if not dashboard_applications(dask_scheduler):
        return None
    host, port = dask_scheduler.http_server.address, dask_scheduler.http_server.port
    return str(host), int(port), dashboard_prefix(dask_scheduler), socket.gethostname()


def find_dashboard(client: Client) -> DashboardAddress:
    """Find the dashboard of a client's scheduler.

    Dask makes its link from the address of the scheduler's other port, also where the dashboard is bound to the
    loopback alone, and where there is none.

    Parameters
    ----------
    client : distributed.Client
        Of a scheduler where skygraft is installed.

    Returns
    -------
    DashboardAddress
        With an empty `url` where there is no dashboard, or the scheduler does not say.
    """
    bound = None
    for _ in range(_TRIES):
        try:
            bound = client.run_on_scheduler(_bound)
            break
        except OSError:
            continue  # a connection that broke
        except Exception:
            # A scheduler without skygraft, or one that takes no code: no address is better than one that may be wrong.
            break
    if bound is None:
        return DashboardAddress("")
    host, port, prefix, machine = bound
    address = ipaddress.ip_address(host)
    try:
        if address.is_unspecified:
            # Reached like the scheduler; a cluster such as Kubernetes' knows better than we do how.
            url = str(client.dashboard_link)
        else:
            url = str(format_dashboard_link(f"[{host}]" if address.version == 6 else host, port))
    except KeyError:
        # The person's own distributed.dashboard.link names a variable that is not set here.
        return DashboardAddress("")
    if prefix != "/" and url.endswith("/status") and not url.endswith(f"{prefix}status"):
        url = f"{url.removesuffix('/status')}{prefix}status"
    return DashboardAddress(url, machine if address.is_loopback else "", port)


def with_dashboard(cluster: OpenCluster) -> OpenCluster:
    """A cluster with the address at which its dashboard really is."""
    return replace(cluster, dashboard=find_dashboard(cluster.client).words(cluster.kind))
