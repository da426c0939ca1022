"""Where a campaign's tasks run: the ways to name a cluster, and how its settings are read and checked.

A cluster is given by its kind (``cluster: slurm``), by the address of a running scheduler, by a profile, which is a
YAML file (``cluster: site.yaml``), or in place (``cluster: {kind: slurm, queue: regular}``). The kind selects the model
in `skygraft.config.cluster_kinds` that checks the keys. Nothing is started.
"""

from __future__ import annotations

import difflib
import functools
import json
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Discriminator, Tag, TypeAdapter, ValidationError, ValidationInfo

from skygraft.config.cluster_kinds import KINDS, MODELS, ClusterConfig
from skygraft.config.yaml_schema import BASE_DIR, base_dir, config_error, describe_problems, read_yaml
from skygraft.errors import ConfigError
from skygraft.paths import home_expanded

__all__ = ["AnyCluster", "load_profile", "named_cluster"]


def _expand(value: Any, info: ValidationInfo) -> Any:
    """Replace a name, an address or the path of a profile by the settings that it stands for, and fill in the kind."""
    if isinstance(value, str):
        value = _named(value, base_dir(info))
    if isinstance(value, ClusterConfig):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(
            "a kind, the address of a scheduler, the path of a profile, or a mapping with a kind is needed (given: "
            f"{json.dumps(value, default=str)[:80]})"
        )
    kind = value.get("kind", "local")
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"unknown cluster {kind!r}{hint}; there are: {', '.join(KINDS[:-1])}, scheduler (with an "
            "address), the address of a running scheduler such as tcp://host:8786, or a profile (a .yaml file)"
        )
    return {"kind": "local", **value}


def _kind_of(value: Any) -> Any:
    return value.kind if isinstance(value, ClusterConfig) else value["kind"]


if TYPE_CHECKING:
    AnyCluster = ClusterConfig
else:
    # A function selects the model, since pydantic allows no validators on a field that does, and `Section` has one.
    AnyCluster = Annotated[
        functools.reduce(operator.or_, (Annotated[model, Tag(kind)] for kind, model in MODELS.items())),
        Discriminator(_kind_of),
        BeforeValidator(_expand),
    ]
"""Type of a field with the settings of a cluster, which takes all forms of them that YAML has."""

_ADAPTER: TypeAdapter[ClusterConfig] = TypeAdapter(AnyCluster)


def _validated(value: Any, what: str, path: Path | None = None) -> ClusterConfig:
    base = Path.cwd() if path is None else path.resolve().parent
    try:
        return _ADAPTER.validate_python(value, context={BASE_DIR: base})
    except ValidationError as error:
        raise config_error(describe_problems(error, AnyCluster), what, path) from error


def load_profile(path: str | os.PathLike[str]) -> ClusterConfig:
    """Read and check the profile of a cluster, a YAML file; relative paths in it are relative to its folder.

    A file that cannot be read, or in which anything is not allowed, is a `ConfigError` with all problems and their
    lines.
    """
    path = Path(path)
    content = read_yaml(path, "profile of a cluster")
    if not isinstance(content, Mapping) or "kind" not in content:
        raise ConfigError(
            "this is not the profile of a cluster: a mapping with a kind is needed",
            path=path,
            fix=f"Start with kind:, one of {', '.join(KINDS)}",
        )
    return _validated(dict(content), "profile", path)


def _named(name: str, base: Path) -> Any:
    if "://" in name:
        return {"kind": "scheduler", "address": name}
    if name.endswith((".yaml", ".yml")) or os.sep in name:
        return load_profile(base / home_expanded(name))
    return {"kind": name}


def named_cluster(name: str, *, task_seconds: float) -> ClusterConfig:
    """Return the settings of a cluster that is named on a command line.

    Parameters
    ----------
    name : str
        A kind, the address of a scheduler, or the path of a profile.
    task_seconds : float
        Length of a task of the campaign that is to run there, seconds.

    Raises
    ------
    ConfigError
        If there is no such cluster, its profile is wrong, or its jobs are too short for a task.
    """
    cluster = _validated(name, "cluster")
    try:
        cluster.check_task(task_seconds)
    except ValueError as error:
        raise ConfigError(str(error), path=name if name.endswith((".yaml", ".yml")) else None) from error
    return cluster
