"""Clusters as they are written down: what may be said, what is filled in, and what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from skygraft.campaign import load_config, parse_config
from skygraft.clusters.base import expanded_scratch
from skygraft.config.cluster import load_profile, named_cluster
from skygraft.config.cluster_kinds import KINDS, MODELS, ClusterConfig, LocalConfig, MpiConfig, SlurmConfig
from skygraft.config.yaml_schema import parse_bytes, parse_duration
from skygraft.errors import CampaignError, ConfigError

GOOD: dict[str, Any] = {
    "name": "a",
    "survey": {"images": "raw/*.fits"},
    "catalog": {"path": "fakes.parquet"},
    "output": "out",
}


def cluster(value: Any, **more: Any) -> ClusterConfig:
    return parse_config(GOOD | {"cluster": value} | more).cluster


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("04:00:00", 14400), ("2-00:00:01", 172801), ("100:00:00", 360000), ("90 min", 5400), ("4h", 14400),
        ("1d", 86400), (14400, 14400), ("1.5 hours", 5400), ("30s", 30),
    ],
)  # fmt: skip
def test_lengths_of_time(text: Any, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["04:00", "4 parsecs", "", "-3", "0", "00:00:00", "1:99:00", "nan"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("16GiB", 2**34), ("16G", 2**34), ("16GB", 16 * 10**9), ("500 MB", 5 * 10**8), ("1.5GiB", 3 * 2**29), ("7", 7)],
)
def test_sizes(text: str, n_bytes: int) -> None:
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize("text", ["", "lots", "0", "-1GB", "3 PB", "4 iB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_bytes(text)


QUEUED = {"n_workers": 16, "cores": 4, "memory": "16GiB", "walltime": "04:00:00", "job_name": "skygraft"}
DEFAULTS: dict[str, dict[str, Any]] = {
    "htcondor": {"n_workers": 16, "cores": 1, "memory": "4GiB", "disk": "4GiB", "job_name": "skygraft"},
    **dict.fromkeys(("slurm", "pbs", "lsf", "sge"), QUEUED),
}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("scheduler", "kubernetes")])
def test_every_kind_can_be_named_alone(kind: str) -> None:
    config = cluster(kind)
    assert config.kind == kind
    # What is written to the resolved configuration: the size of the jobs, and no other default.
    assert config.model_dump(mode="json") == {"kind": kind, **DEFAULTS.get(kind, {})}
    assert named_cluster(kind, task_seconds=60.0) == config


def test_pods_have_a_default_size() -> None:
    assert cluster({"kind": "kubernetes", "image": "x"}).model_dump(mode="json") == {
        "kind": "kubernetes", "n_workers": 16, "cores": 1, "memory": "4GiB", "disk": "10GiB", "image": "x",
    }  # fmt: skip


def test_given_settings_override_the_defaults() -> None:
    config = cluster({"kind": "slurm", "queue": "regular", "cores": 8, "processes": 4})
    assert (config.queue, config.cores, config.n_workers) == ("regular", 8, 16)
    assert (config.processes_per_job, config.threads_per_process) == (4, 2)


def test_a_profile_is_relative_to_the_campaign(tmp_path: Path) -> None:
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "ours.yaml").write_text("kind: pbs\nqueue: long\nlogs: joblogs\nwalltime: 12:00:00\n")
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(GOOD | {"cluster": "sites/ours.yaml"}))
    config = load_config(tmp_path / "campaign.yaml").cluster
    assert (config.kind, config.queue, config.logs) == ("pbs", "long", tmp_path / "sites" / "joblogs")
    # YAML makes a number of seconds of an unquoted 12:00:00.
    assert config.lifetime(60.0) == pytest.approx(12 * 3600 - 300 - 30 - 60)


def test_the_resolved_configuration_is_read_back(tmp_path: Path) -> None:
    said = {"kind": "htcondor", "n_workers": 40, "directives": 'Requirements = (Machine != "bad")', "logs": "l"}
    for value in (said, "local", "tcp://h:1", {"kind": "kubernetes", "image": "x", "claims": {"data": "/data"}}):
        config = parse_config(GOOD | {"cluster": value}, base_dir=tmp_path)
        again = parse_config(yaml.safe_load(config.to_yaml()), base_dir=tmp_path / "elsewhere")
        assert again == config


TLS = {"kind": "scheduler", "tls": {"ca_file": "a", "cert": "b", "key": "c"}}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("slrum", ("unknown cluster 'slrum'", "did you mean 'slurm'?", "a profile")),
        ({"kind": "slurm", "queu": "x"}, ("key cluster.queu:", "did you mean 'queue'?")),
        ({"kind": "slurm", "memory_limit": "4GiB"}, ("memory_limit is not of kind: slurm, but of local",)),
        ({"kind": "slurm", "walltime": "4:00"}, ("cluster.walltime", "'4:00' is not a length of time", "04:00:00")),
        ({"kind": "slurm", "memory": "much"}, ("cluster.memory", "'16GiB'")),
        ({"kind": "slurm", "cores": 0}, ("cluster.cores", "greater than or equal to 1")),
        ({"kind": "slurm", "cores": 2, "processes": 3}, ("processes is 3, more than the 2 cores",)),
        ({"kind": "slurm", "cores": None}, ("cluster.cores", "valid integer (given: null)")),
        ({"kind": "slurm", "minimum_workers": 100}, ("minimum_workers is 100, more than n_workers (16)",)),
        ({"kind": "slurm", "queue": "a; rm -rf /"}, ("queue", "prologue")),
        ({"kind": "slurm", "directives": ["-a\n-b"]}, ("cluster.directives", "one for each")),
        ({"kind": "slurm", "worker_options": {"nthreads": 3}}, ("worker_options.nthreads", "use cores")),
        ({"kind": "slurm", "tls": {"ca_file": "a", "cert": "b", "key": "c"}}, ("files for a running scheduler only",)),
        (TLS | {"address": "tls://h:1"}, ("cluster.tls.ca_file: there is no such file", "cluster.tls.key:")),
        ({"kind": "slurm", "address": "tcp://h:1"}, ("address is not of kind: slurm, but of scheduler",)),
        ({"address": "tcp://h:1"}, ("address is not of kind: local, but of scheduler",)),
        ({"kind": "scheduler"}, ("key cluster.address: is missing",)),
        ({"kind": "htcondor", "directives": "--big"}, ("'--big' is not like 'key = value'",)),
        ({"kind": "htcondor", "queue": "x"}, ("queue is not of kind: htcondor",)),
        ({"kind": "kubernetes"}, ("needs an image",)),
        ({"kind": "kubernetes", "image": "x", "tls": True}, ("operator", "NetworkPolicy")),
        ({"kind": "kubernetes", "image": "x", "claims": {"data": "data"}}, ("claims.data", "absolute")),
        ({"kind": "kubernetes", "image": "x", "scratch": "$TMPDIR"}, ("scratch", "no shell expands it in a pod")),
        ({"kind": "mpi", "scheduler_options": {"port": 1}}, ("scheduler_options is not of kind: mpi",)),
        ({"kind": "mpi", "logs": "l"}, ("logs is not of kind: mpi",)),
        ({"kind": "kubernetes", "spec": "none.yaml"}, ("no such file",)),
        ({"kind": "mpi", "n_workers": 3}, ("n_workers is not of kind: mpi",)),
        ({"kind": "scheduler", "address": "tls://h:1"}, ("tls with its files",)),
        ("tls://h:1", ("tls with its files",)),
        ({"kind": "local", "n_workers": "many"}, ("cluster.n_workers",)),
        (["slurm"], ("cluster", "given: [\"slurm\"]")),
        ({"kind": ["slurm"]}, ("unknown cluster ['slurm']",)),
        ({"kind": 3}, ("unknown cluster 3; there are: local",)),
        (None, ("key cluster:", "given: null")),
        (TLS | {"address": "tls://h:1", "tls": {"ca_fil": "a"}}, ("cluster.tls.ca_fil: unknown key", "'ca_file'?")),
        ({"worker_timeout": True}, ("cluster.worker_timeout", "is not a length of time")),
        ({"tls": "yes"}, ("cluster.tls", "valid boolean")),
        ("no/such.yaml", ("no/such.yaml", "cannot be read")),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(value: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        cluster(value)
    for word in words:
        assert word in str(caught.value)


def test_a_walltime_shorter_than_a_task() -> None:
    with pytest.raises(ConfigError, match=r"walltime is 00:10:00, too short for tasks of 600 s.*1295 s are needed"):
        cluster({"kind": "slurm", "walltime": "00:10:00"}, task_seconds=600)
    assert cluster({"kind": "slurm", "walltime": 1295}, task_seconds=600).lifetime(600) == pytest.approx(600.25)
    with pytest.raises(ConfigError, match="too short for tasks"):
        cluster({"kind": "slurm", "walltime": 1294}, task_seconds=600)
    with pytest.raises(ConfigError, match="too short for tasks"):
        named_cluster("slurm", task_seconds=4 * 3600)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: slurm\nqueu: x\nmemry: 3\n", ("site.yaml", "2 problems in the profile", "'queue'?", "'memory'?")),
        ("queue: x\n", ("site.yaml", "a kind is needed")),
        ("- slurm\n", ("site.yaml", "a kind is needed")),
        ("kind: [\n", ("site.yaml", "not valid YAML")),
        ("kind: slurm\nqueue: a\nqueue: b\n", ("site.yaml", "'queue' occurs twice")),
        ("kind: slurm\nwalltime: 10s\n", ("site.yaml", "too short for tasks")),
    ],
)
def test_profiles_with_something_wrong(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        named_cluster(str(path), task_seconds=60.0)
    for word in words:
        assert word in str(caught.value)


def test_encryption_is_on_wherever_we_start_the_scheduler(tmp_path: Path) -> None:
    assert not LocalConfig(tls=False).uses_tls
    for kind in ("local", "slurm", "pbs", "lsf", "sge", "htcondor", "mpi", "slurm-runner"):
        assert MODELS[kind]().uses_tls, kind
    assert not SlurmConfig(tls=False).uses_tls
    for name in ("ca", "cert", "key"):
        (tmp_path / name).touch()
    files = {"ca_file": "ca", "cert": "cert", "key": "key"}
    value = {"kind": "scheduler", "address": "tls://h:1", "tls": files}
    config = parse_config(GOOD | {"cluster": value}, base_dir=tmp_path).cluster
    assert config.uses_tls
    with pytest.raises(ConfigError, match="one like tls://"):
        parse_config(GOOD | {"cluster": value | {"address": "tcp://h:1"}}, base_dir=tmp_path)


def test_the_number_of_workers_on_the_command_line() -> None:
    config = SlurmConfig(n_workers=40, minimum_workers=30)
    assert config.with_workers(None) is config
    fewer = config.with_workers(8)
    assert (fewer.n_workers, fewer.minimum_workers) == (8, 8)
    with pytest.raises(ConfigError, match="cannot be set on a cluster of kind mpi"):
        MpiConfig().with_workers(3)


SITES = sorted((Path(__file__).parents[2] / "deploy" / "profiles").glob("*.yaml"))


def test_there_are_site_profiles() -> None:
    assert {"slurm", "pbs", "lsf", "htcondor", "kubernetes"} <= {load_profile(path).kind for path in SITES}


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.stem)
def test_site_profiles_fit_the_default_campaign(path: Path) -> None:
    config = named_cluster(str(path), task_seconds=parse_config(GOOD).task_seconds)
    assert config.uses_tls == (config.kind != "kubernetes")


def test_scratch_of_workers_that_this_process_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is not set would become the name of a folder."""
    monkeypatch.setenv("SKYGRAFT_TEST_SCRATCH", "/fast")
    assert expanded_scratch("$SKYGRAFT_TEST_SCRATCH/me") == "/fast/me"
    assert expanded_scratch(None) is None
    monkeypatch.delenv("SKYGRAFT_TEST_SCRATCH")
    with pytest.raises(CampaignError, match=r"scratch is '\$SKYGRAFT_TEST_SCRATCH/me', and not all of it is set"):
        expanded_scratch("$SKYGRAFT_TEST_SCRATCH/me")
