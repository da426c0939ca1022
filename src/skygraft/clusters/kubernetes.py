"""Workers as pods of a ``DaskCluster`` of the Dask operator for Kubernetes, created for one run and then deleted."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable, Iterator
from typing import Any

from distributed import Client

from skygraft.clusters.base import OpenCluster, import_extra, wait_for_worker
from skygraft.clusters.dask_settings import WORKERS, as_environment
from skygraft.config.cluster_kinds import KubernetesConfig
from skygraft.config.yaml_schema import parse_bytes, read_yaml
from skygraft.errors import CampaignError, ConfigError

__all__ = ["manifest", "open_kubernetes"]

_OPERATOR_SECONDS = 120
"""Time for the operator to start the scheduler's pod, which includes fetching its image."""


def manifest(config: KubernetesConfig, name: str) -> dict[str, Any]:
    """Return the manifest of the ``DaskCluster`` that a configuration asks for, under a name.

    That of the configuration has a name of its own; a file that is none is a `ConfigError`.
    """
    if config.spec is not None:
        given = read_yaml(config.spec, "manifest")
        if not isinstance(given, dict) or given.get("kind") != "DaskCluster" or "name" not in given.get("metadata", {}):
            raise ConfigError(
                "this is not the manifest of a DaskCluster with a name", path=config.spec, key="cluster.spec"
            )
        return given
    n_bytes = parse_bytes(config.memory)
    amounts = {"cpu": str(config.cores), "memory": str(n_bytes)}
    if config.disk is not None:
        # Pods without it are evicted first when the disk of their node is full.
        amounts["ephemeral-storage"] = str(parse_bytes(config.disk))
    made: dict[str, Any] = import_extra("dask_kubernetes.operator", "kubernetes").make_cluster_spec(
        name,
        image=config.image,
        n_workers=config.minimum_workers,
        resources={"requests": amounts, "limits": amounts},
        env={**as_environment(WORKERS), **config.env},
        worker_command=["dask", "worker"],
    )
    claims = [(f"claim-{i}", *claim) for i, claim in enumerate(config.claims.items())]
    for part in ("worker", "scheduler") if claims else ():
        spec = made["spec"][part]["spec"]
        spec["volumes"] = [{"name": name, "persistentVolumeClaim": {"claimName": claim}} for name, claim, _ in claims]
        spec["containers"][0]["volumeMounts"] = [{"name": name, "mountPath": folder} for name, _, folder in claims]
    # One process and one thread: the operator retires workers by the names of their pods.
    args = ["--nworkers", "1", "--nthreads", "1", "--memory-limit", str(n_bytes)]
    args += ["--local-directory", config.scratch] if config.scratch else []
    made["spec"]["worker"]["spec"]["containers"][0]["args"] += args
    return made


@contextlib.contextmanager
def open_kubernetes(config: KubernetesConfig, *, say: Callable[[str], None]) -> Iterator[OpenCluster]:
    """Start workers as pods, as many as there is work for, and wait for one; delete them when the context is left.

    `CampaignError` is raised if Kubernetes or its Dask operator is not available, or no worker comes.
    """
    operator = import_extra("dask_kubernetes.operator", "kubernetes")
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
        # Otherwise dask-kubernetes tries to close it at the end of the process, and fails again.
        operator.KubeCluster._instances.clear()
        raise CampaignError(
            f"the Dask cluster cannot be started on Kubernetes ({type(error).__name__}: {error})",
            key="cluster",
            fix="See that `kubectl get daskclusters` works from here: that takes a kubeconfig or a service account, "
            "and the Dask operator",
        ) from error
    with cluster, Client(cluster, set_as_default=False) as client:
        cluster.adapt(minimum=config.minimum_workers, maximum=config.n_workers)
        wait_for_worker(
            client,
            config.start_timeout,
            say,
            problem="no worker's pod has come",
            fix=f"See `kubectl get pods -l dask.org/cluster-name={spec['metadata']['name']}`",
        )
        yield OpenCluster(client, config.n_workers, config.kind)
