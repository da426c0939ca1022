"""Workers that are pods: a ``DaskCluster`` of the Dask operator, made for one run and deleted after it."""

from __future__ import annotations

import contextlib
import importlib
import logging
import secrets
from collections.abc import Callable, Iterator
from typing import Any

from distributed import Client

from skygraft.clusters.opened import OpenCluster
from skygraft.clusters.settings import WORKERS, as_environment
from skygraft.clusters.waiting import wait_for_worker
from skygraft.config.cluster import ClusterConfig
from skygraft.config.yaml_schema import parse_bytes, read_yaml
from skygraft.errors import CampaignError, ConfigError

__all__ = ["manifest", "open_kubernetes"]

_OPERATOR_SECONDS = 120
"""In which the operator is to have started the scheduler's pod, its image fetched."""


def _operator() -> Any:
    try:
        return importlib.import_module("dask_kubernetes.operator")
    except ImportError as error:
        raise CampaignError(
            f"Kubernetes needs dask-kubernetes, which is not installed ({error})",
            key="cluster.kind",
            fix="Install it with `pip install 'skygraft[kubernetes]'`",
        ) from error


def manifest(config: ClusterConfig, name: str) -> dict[str, Any]:
    """The ``DaskCluster`` that a configuration asks for.

    Parameters
    ----------
    config : ClusterConfig
        Of kind ``kubernetes``.
    name : str
        What to call it, unless the configuration's manifest has a name.

    Raises
    ------
    ConfigError
        If the configuration's manifest is none of a ``DaskCluster``.
    """
    if config.spec is not None:
        given = read_yaml(config.spec, "manifest")
        if not isinstance(given, dict) or given.get("kind") != "DaskCluster" or "name" not in given.get("metadata", {}):
            raise ConfigError(
                "this is not the manifest of a DaskCluster with a name", path=config.spec, key="cluster.spec"
            )
        return given
    assert config.memory is not None
    n_bytes = parse_bytes(config.memory)
    amounts = {"cpu": str(config.cores or 1), "memory": str(n_bytes)}
    if config.disk is not None:
        # Without it a pod is the first to be evicted when its node's disk is short.
        amounts["ephemeral-storage"] = str(parse_bytes(config.disk))
    made: dict[str, Any] = _operator().make_cluster_spec(
        name,
        image=config.image,
        n_workers=config.minimum_workers,
        resources={"requests": amounts, "limits": amounts},
        env={**as_environment(WORKERS), **config.env},
        worker_command=["dask", "worker"],
    )
    volumes = [
        {"name": f"claim-{i}", "persistentVolumeClaim": {"claimName": claim}} for i, claim in enumerate(config.claims)
    ]
    mounts = [{"name": f"claim-{i}", "mountPath": folder} for i, folder in enumerate(config.claims.values())]
    for part in ("worker", "scheduler"):
        spec = made["spec"][part]["spec"]
        if volumes:
            spec["volumes"] = volumes
            spec["containers"][0]["volumeMounts"] = mounts
    # One process and one thread: the operator retires workers by the names of their pods.
    args = ["--nworkers", "1", "--nthreads", "1", "--memory-limit", str(n_bytes)]
    args += ["--local-directory", config.scratch] if config.scratch else []
    made["spec"]["worker"]["spec"]["containers"][0]["args"] += args
    return made


@contextlib.contextmanager
def open_kubernetes(config: ClusterConfig, *, say: Callable[[str], None]) -> Iterator[OpenCluster]:
    """Workers as pods, as many as there is work for; deleted at the end, however it ends.

    Parameters
    ----------
    config : ClusterConfig
        Of kind ``kubernetes``.
    say : callable
        Hears what is waited for.

    Yields
    ------
    OpenCluster
        Once the first worker is there.

    Raises
    ------
    CampaignError
        If there is no Kubernetes, no operator in it, or no worker comes.
    """
    operator = _operator()
    spec = manifest(config, f"skygraft-{secrets.token_hex(4)}")
    say(f"starting the Dask cluster {spec['metadata']['name']} on Kubernetes")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        cluster = operator.KubeCluster(
            custom_cluster_spec=spec,
            namespace=config.namespace,
            shutdown_on_close=True,
            resource_timeout=_OPERATOR_SECONDS,
            quiet=True,
        )
    except Exception as error:
        # Else it tries once more at the end of the process, and fails once more.
        operator.KubeCluster._instances.clear()
        raise CampaignError(
            f"the Dask cluster cannot be started on Kubernetes ({type(error).__name__}: {error})",
            key="cluster",
            fix="See that `kubectl get daskclusters` works from here: that takes a kubeconfig or a service account, "
            "and the Dask operator",
        ) from error
    assert config.n_workers is not None
    with cluster, Client(cluster, set_as_default=False) as client:
        cluster.adapt(minimum=config.minimum_workers, maximum=config.n_workers)
        wait_for_worker(
            client,
            config,
            say,
            what="no worker's pod has come",
            fix=f"See `kubectl get pods -l dask.org/cluster-name={spec['metadata']['name']}`",
        )
        yield OpenCluster(client, config.n_workers, cluster.dashboard_link, config.kind)
