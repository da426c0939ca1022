"""Clusters: what is submitted where, who gets in, who is fit, and what is said where there is no such thing."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
import yaml
from distributed import Client, LocalCluster

from skygraft.campaign import Campaign
from skygraft.clusters.batch import BATCH_SYSTEMS, JobState, log_tail
from skygraft.clusters.cluster import open_cluster
from skygraft.clusters.dask_settings import CALM, WORKERS, as_environment
from skygraft.clusters.guard import Guard, guard_workers
from skygraft.clusters.kubernetes import manifest
from skygraft.clusters.mpi_roles import Launch, find_launch, open_launch, take_role
from skygraft.clusters.preflight import Expectation
from skygraft.config.cluster_kinds import (
    MODELS,
    KubernetesConfig,
    LocalConfig,
    MpiConfig,
    PbsConfig,
    SchedulerConfig,
    SlurmConfig,
    SlurmRunnerConfig,
)
from skygraft.errors import CampaignError, ConfigError

type MakeCampaign = Callable[..., Campaign]


# -- job scripts --------------------------------------------------------------------------------------------------


def script(tmp_path: Path, **settings: Any) -> str:
    from skygraft.clusters.jobs import job_script

    return job_script(MODELS[settings["kind"]](**settings), logs=tmp_path, task_seconds=60.0)


def worker_options(text: str) -> list[str]:
    return re.findall(r"(--[a-z-]+)(?: |$)", text[text.index("distributed.cli.dask_worker") :])


def test_a_slurm_job(tmp_path: Path) -> None:
    text = script(
        tmp_path, kind="slurm", queue="regular", account="m1", cores=8, processes=4, memory="16GiB",
        walltime="2-00:00:00", directives=["--constraint=cpu"], skip_directives=["--mem="], interface="ib0",
        prologue=["module load python"], scratch="$TMPDIR", python="/opt/a b/python",
        worker_options={"resources": "GPU=1"},
    )  # fmt: skip
    lines = text.splitlines()
    for line in ("-p regular", "-A m1", "--cpus-per-task=8", "-t 48:00:00", "--constraint=cpu", "-J skygraft"):
        assert f"#SBATCH {line}" in lines, line
    assert "--mem=" not in text
    assert lines.index("module load python") < next(i for i, line in enumerate(lines) if "dask_worker" in line)
    command = lines[-1]
    assert command.startswith("'/opt/a b/python' -m distributed.cli.dask_worker tls://")
    for words in (
        "--nthreads 2", "--nworkers 4", "--memory-limit 4.00GiB", '--local-directory "$TMPDIR"', "--nanny",
        "--interface ib0", "--resources GPU=1", "--dashboard-address 127.0.0.1:0",
        # Two days less the stagger, half a minute and a task.
        "--lifetime 172410s --lifetime-stagger 300s",
    ):  # fmt: skip
        assert words in command, words


def test_a_pbs_job(tmp_path: Path) -> None:
    text = script(tmp_path, kind="pbs", queue="long", account="m1", cores=8, memory="16GiB", directives=["-j oe"])
    for line in ("-q long", "-A m1", "-l select=1:ncpus=8:mem=16GB", "-l walltime=04:00:00", "-j oe"):
        assert f"#PBS {line}" in text.splitlines(), line
    assert "#PBS -l select=2\n" in script(tmp_path, kind="pbs", resources="select=2")


# dask-jobqueue leaves that file open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_lsf_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lsf.conf").write_text("LSF_UNIT_FOR_LIMITS=MB\n")
    monkeypatch.setenv("LSF_ENVDIR", str(tmp_path))
    text = script(tmp_path, kind="lsf", queue="long", account="p", cores=8, walltime="90 min")
    for line in ("-q long", '-P "p"', "-n 8", '-R "span[hosts=1]"', "-W 1:30"):
        assert f"#BSUB {line}" in text.splitlines(), line
    assert re.search(r"#BSUB -M \d{5}$", text, re.MULTILINE)


def test_an_htcondor_job(tmp_path: Path) -> None:
    text = script(
        tmp_path, kind="htcondor", walltime="2h", prologue=["source env.sh"], scratch="$_CONDOR_SCRATCH_DIR",
        directives=['Requirements = (Machine != "bad")'],
    )  # fmt: skip
    assert 'Requirements = (Machine != "bad")' in text.splitlines()
    assert "allowed_job_duration = 7200" in text.splitlines()
    assert "MY.DaskWorkerMemory = 4294967296" in text.splitlines()
    arguments = next(line for line in text.splitlines() if line.startswith("Arguments"))
    assert "-c 'source env.sh; export " in arguments
    assert '--local-directory ""$_CONDOR_SCRATCH_DIR""' in arguments
    assert "--lifetime 6810s" in arguments


def test_every_batch_job_has_its_own_lifetime_and_a_nanny(tmp_path: Path) -> None:
    for kind in ("slurm", "pbs", "lsf", "sge"):
        options = worker_options(script(tmp_path, kind=kind))
        assert {"--nanny", "--lifetime", "--lifetime-stagger", "--death-timeout"} <= set(options), kind
        assert len(options) == len(set(options)), kind


RUNS = "RUNNING"


# -- batch systems ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "output", "states"),
    [
        ("slurm", "12 PENDING Priority\n13 RUNNING None\n", {"12": ("PENDING (Priority)", False), "13": (RUNS, True)}),
        ("slurm", "14 PENDING Nodes are DOWN\n", {"14": ("PENDING (Nodes are DOWN)", False)}),
        (
            "pbs",
            "\npbs:\n                                                            Req'd  Req'd   Elap\n"
            "Job ID          Username Queue    Jobname    SessID NDS TSK Memory Time  S Time\n"
            "--------------- -------- -------- ---------- ------ --- --- ------ ----- - -----\n"
            "7.pbs           ann      workq    skygraft      --    1   4   16gb 04:00 Q   -- \n"
            "8.pbs           ann      workq    skygraft    4711    1   4   16gb 04:00 R 00:01\n",
            {"7": ("Q", False), "8": ("R", True)},
        ),
        ("lsf", "101 PEND\n102 RUN\n", {"101": ("PEND", False), "102": ("RUN", True)}),
        (
            "htcondor",
            "5 1 undefined\n6 2 undefined\n7 5 Memory usage exceeded a limit\n",
            {"5": ("idle", False), "6": ("running", True), "7": ("held (Memory usage exceeded a limit)", False)},
        ),
        (
            "sge",
            "job-ID  prior   name       user         state submit/start at     queue\n"
            "-----------------------------------------------------------------------\n"
            "     31 0.55500 skygraft   ann          qw    11/22/2026 10:00:00\n"
            "     32 0.55500 skygraft   ann          r     11/22/2026 10:00:00 all.q@n1\n",
            {"31": ("qw", False), "32": ("r", True)},
        ),
    ],
)  # fmt: skip
def test_lists_of_jobs(kind: str, output: str, states: dict[str, tuple[str, bool]]) -> None:
    wanted = {number: JobState(text, running) for number, (text, running) in states.items()}
    assert BATCH_SYSTEMS[kind].parse(output) == wanted


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put commands into PATH; each is given as the body of a shell script, and the first argument is kept."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(**bodies: str) -> Path:
        for name, body in bodies.items():
            (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n{body}\n')
            (folder / name).chmod(0o755)
        return tmp_path / "calls"

    return make


def test_no_batch_system_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for kind, batch in BATCH_SYSTEMS.items():
        started = time.monotonic()
        with (
            pytest.raises(
                CampaignError, match=f"there is no {batch.name} here: the command {batch.submit} is not found"
            ),
            open_cluster(MODELS[kind](), logs=tmp_path / "logs"),
        ):
            pass
        assert time.monotonic() - started < 5
    assert not (tmp_path / "logs").exists()


def test_a_server_that_does_not_answer(fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(
        qsub="exit 0", qdel="exit 0", qstat="echo 'Connection refused' >&2; echo 'qstat: cannot connect' >&2; exit 111"
    )
    with (
        pytest.raises(CampaignError, match=r"PBS does not answer: `qstat -u \w+` failed: qstat: cannot connect"),
        open_cluster(PbsConfig(), logs=tmp_path / "logs"),
    ):
        pass
    monkeypatch.setattr("skygraft.clusters.batch._ANSWER_SECONDS", 0.2)
    fake(qstat="exec sleep 5")
    with pytest.raises(CampaignError, match=r"PBS does not answer: .* did not answer within 0.2 s"):
        BATCH_SYSTEMS["pbs"].check()
    fake(bsub="", bkill="", bjobs="echo 'No unfinished job found' >&2; exit 255")
    BATCH_SYSTEMS["lsf"].check()


def test_a_package_that_is_missing(fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(sbatch="", scancel="", squeue="")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("dask_jobqueue", "dask_kubernetes")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    monkeypatch.setitem(sys.modules, "dask_kubernetes.operator", None)
    for config, words in (
        (SlurmConfig(), r"dask-jobqueue, which is not installed.*skygraft\[slurm\]"),
        (
            KubernetesConfig(image="x"),
            r"dask-kubernetes, which is not installed.*skygraft\[kubernetes\]",
        ),
    ):
        with pytest.raises(CampaignError, match=words), open_cluster(config, logs=tmp_path / "logs"):
            pass


def test_ctrl_c_is_still_ours_after_dask_jobqueue_was_imported() -> None:
    code = (
        "import signal; from skygraft.clusters.jobs import job_script;"
        "from skygraft.config.cluster_kinds import SlurmConfig; from pathlib import Path;"
        "job_script(SlurmConfig(), logs=Path('/tmp'));"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


JOBS_HERE = {
    # A batch system whose jobs run at once, as processes of this machine; a job's number is that of its group.
    "qsub": 'cp "$1" {0}/job-$$.sh; setsid sh {0}/job-$$.sh >{0}/job-$$.log 2>&1 & echo "$!.here"',
    "qdel": 'kill -TERM -- "-$1"',
    "qstat": "ps -eo pid=,sid=,args= | awk '$1 == $2 && /job-[0-9]*.sh/ {{print $1 \".here u q n - 1 1 1gb 1 R 0\"}}'",
}


@pytest.mark.dask
@pytest.mark.slow
def test_jobs_are_cancelled_however_it_ends(fake: Any, tmp_path: Path) -> None:
    """Through a PBS of our own, by the commands that dask-jobqueue calls: work is done, SIGTERM leaves no job."""
    calls = fake(**{name: body.format(tmp_path) for name, body in JOBS_HERE.items()})
    settings = {
        "kind": "pbs", "n_workers": 1, "cores": 1, "memory": "900MiB", "interface": "lo",
        "scheduler_options": {"host": "127.0.0.1"},
    }  # fmt: skip
    code = f"""
import os, sys, time
from pathlib import Path
from skygraft.clusters.cluster import open_cluster
from skygraft.config.cluster_kinds import MODELS
if __name__ == "__main__":
    with open_cluster(MODELS[{settings["kind"]!r}](**{settings!r}), logs=Path({str(tmp_path / "logs")!r})) as opened:
        assert opened.client.scheduler.address.startswith("tls://127.0.0.1:"), opened
        assert opened.dashboard.startswith("http://127.0.0.1:"), opened
        assert opened.max_threads == 1, opened
        print("sum", opened.client.submit(sum, [1, 2, 3]).result(), flush=True)
        time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "sum 6\n", process.communicate(timeout=60)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert "Terminated: signal 15" in said
    assert "qdel" in calls.read_text()
    deadline, left = time.monotonic() + 30, ["?"]
    while left and time.monotonic() < deadline:  # a worker that was told to end takes a moment
        listed = subprocess.run(["qstat"], capture_output=True, text=True, check=True).stdout
        left = [number for number in BATCH_SYSTEMS["pbs"].parse(listed) if f"{number}.here" in listed]
    assert left == []
    assert not list((tmp_path / "logs").glob(".tls-*"))


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "skygraft-12.err").write_text("\n".join(f"line {i}" for i in range(30)))
    (tmp_path / "skygraft-12.out").write_text("\n")
    (tmp_path / "skygraft-123.err").write_text("another job\n")
    tail = log_tail(tmp_path, "12")
    assert tail.startswith(f"{tmp_path}/skygraft-12.err:\n")
    assert "line 29" in tail
    assert "line 3\n" not in tail
    assert "another" not in tail
    assert "skygraft-12.out" not in tail


def test_jobs_that_get_nowhere_are_given_up_at_growing_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from skygraft.clusters import jobs

    now = 1000.0
    monkeypatch.setattr(jobs.time, "monotonic", lambda: now)
    watch = jobs._JobTracker(BATCH_SYSTEMS["slurm"], tmp_path)
    cluster = SimpleNamespace(workers={}, worker_spec={})

    def submit(name: str, number: str) -> None:
        cluster.workers[name] = cluster.worker_spec[name] = object()
        watch.submitted(name, number)

    def arrive(name: str) -> None:
        watch.add_worker(SimpleNamespace(workers={"a": SimpleNamespace(name=name)}), "a")

    running = JobState("RUNNING", True)
    for name, number in {"c-1": "1", "c-10": "10", "c-2": "2"}.items():
        submit(name, number)
    arrive("c-10-3")
    assert [job.name for job in watch.jobs.values() if job.arrived] == ["c-10"]
    now += 5
    watch.update({})  # too new to be in the list
    now += 60
    watch.update({"1": running})
    watch.update({"1": running})
    watch.forget_ended(cluster)
    # That with a worker is replaced at once, that without one after a while, that which runs is left alone.
    assert set(cluster.workers) == {"c-1", "c-2"}
    assert watch.ended == ["2"]
    now += 11
    watch.forget_ended(cluster)
    assert set(cluster.worker_spec) == {"c-1"}
    waits = []
    for number in range(20, 30):
        submit(f"c-{number}", str(number))
        now += 30
        watch.update({"1": running})
        watch.update({"1": running})
        waits.append(watch.jobs[f"c-{number}"].give_up_at - now)
    assert waits[:3] == [20.0, 40.0, 80.0]
    assert waits[-1] == 600.0
    arrive("c-1")
    submit("c-40", "40")
    watch.refused("c-41", RuntimeError("Command exited\nstderr:\nsbatch: error: too many jobs\n"))
    assert watch.refusal == "sbatch: error: too many jobs"
    assert watch.jobs["c-41"].give_up_at == now + 10.0
    assert watch.hopeless() == ""  # there were workers: this may pass


# -- security -----------------------------------------------------------------------------------------------------


@pytest.mark.dask
def test_a_running_scheduler_by_its_certificates(tmp_path: Path) -> None:
    """One that was started by hand, with the files that `deploy` makes; with others it does not answer."""
    from distributed import Security

    def files(folder: Path) -> dict[str, Any]:
        folder.mkdir()
        made = Security.temporary().get_tls_config_for_role("client")
        for name in ("ca_file", "cert", "key"):
            (folder / name).write_text(made[name])
        return {name: folder / name for name in ("ca_file", "cert", "key")}

    ours, theirs = files(tmp_path / "ours"), files(tmp_path / "theirs")
    security = Security(
        tls_ca_file=str(ours["ca_file"]), tls_scheduler_cert=str(ours["cert"]), tls_scheduler_key=str(ours["key"]),
        tls_worker_cert=str(ours["cert"]), tls_worker_key=str(ours["key"]), require_encryption=True,
        tls_client_cert=str(ours["cert"]), tls_client_key=str(ours["key"]),
    )  # fmt: skip
    with LocalCluster(
        n_workers=1, threads_per_worker=3, processes=False, protocol="tls", security=security, host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
    ) as cluster:  # fmt: skip
        address = cluster.scheduler_address
        with open_cluster(SchedulerConfig(address=address, tls=ours)) as opened:
            assert (opened.max_threads, opened.kind) == (3, "scheduler")
            assert opened.client.submit(sum, [1, 2]).result() == 3
        with (
            pytest.MonkeyPatch.context() as patch,
            pytest.raises(CampaignError, match=r"no Dask scheduler answers at tls://.*files of cluster.tls"),
        ):
            patch.setattr("skygraft.clusters.cluster._CONNECT_SECONDS", 2)
            with open_cluster(SchedulerConfig(address=address, tls=theirs)):
                pass


# -- who is fit ---------------------------------------------------------------------------------------------------


@pytest.fixture
def expectation(make_campaign: MakeCampaign) -> Expectation:
    campaign = make_campaign()
    campaign.layout.root.mkdir()
    return Expectation.of(campaign.config)


@pytest.fixture(scope="module")
def two() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:  # fmt: skip
        yield cluster


@pytest.mark.dask
def test_fit_workers_are_let_in(two: LocalCluster, expectation: Expectation) -> None:
    said: list[str] = []

    def guarded(dask_worker: Any) -> bool:
        return any(name.startswith("skygraft-preflight") for name in dask_worker.plugins)

    with Client(two, set_as_default=False) as client:
        with guard_workers(client, expectation, said.append) as guard:
            assert (guard.n_fit, guard.unfit, said) == (2, {}, [])
            guard.check()
            assert client.submit(sum, [1, 2]).result() == 3
            assert expectation.token_path.exists()  # for those that come later
            assert all(client.run(guarded).values())
        assert not expectation.token_path.exists()
        # A cluster that goes on is not guarded for a campaign that has ended.
        assert not any(client.run(guarded).values())


@pytest.mark.dask
@pytest.mark.slow
def test_unfit_workers_get_no_task(expectation: Expectation, tmp_path: Path) -> None:
    """One of two cannot write its scratch; one that joins later sees another output folder. Both go, named once."""
    said: list[str] = []

    # Workers cannot import this module.
    def without_scratch(dask_worker: Any) -> None:
        dask_worker.local_directory = "/no/such/folder"

    def where(number: int) -> str:
        from distributed import get_worker

        time.sleep(0.1)
        return str(get_worker().address)

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        before = sorted(client.nthreads())
        client.run(without_scratch, workers=[before[0]])
        guard = guard_workers(client, expectation, said.append)
        assert guard.n_fit == 1
        _until(lambda: sorted(client.nthreads()) == before[1:])
        assert len(said) == 1
        assert "no tasks for the worker on" in said[0]
        assert "the scratch folder" in said[0]
        # From now on whoever looks finds another file system there.
        expectation.remove_token()
        queue = client.map(where, range(20), pure=False)
        cluster.scale(3)  # the one that left still counts
        _until(lambda: len(said) == 2)
        assert "is on another file system than the client's" in said[1]
        assert set(client.gather(queue)) == {before[1]}
        guard.check()


def _until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.dask
def test_all_unfit(two: LocalCluster, expectation: Expectation) -> None:
    other = tuple((dict(expectation.software) | {"numpy": "1.26.0"}).items())
    with (
        Client(two, set_as_default=False) as client,
        pytest.raises(
            CampaignError, match=r"(?s)no worker is fit for this campaign:.*127.0.0.1: numpy is .*has 1.26.0"
        ),
    ):
        guard_workers(client, dataclasses.replace(expectation, software=other))


def test_many_unfit_in_a_row_end_it() -> None:
    said: list[str] = []
    guard = Guard(said.append)
    guard.record("w0", "good", [], [])
    for i in range(19):
        guard.record(f"w{i + 1}", "bad", ["the disk is full"], ["its clock is 90 s behind"])
    guard.check()
    guard.record("w99", "bad", ["the disk is full"], [])
    with pytest.raises(CampaignError, match="bad: the disk is full"):
        guard.check()
    assert said == ["no tasks for the worker on bad: the disk is full", "worker on bad: its clock is 90 s behind"]


# -- Kubernetes and MPI -------------------------------------------------------------------------------------------


def test_the_manifest_of_a_dask_cluster(tmp_path: Path) -> None:
    config = KubernetesConfig(
        image="r/x:1", cores=2, memory="4GiB", env={"A": "b"}, claims={"data": "/data", "out": "/o"},
        minimum_workers=3, scratch="/scratch", disk="2GiB",
    )  # fmt: skip
    made = manifest(config, "name")
    assert made["spec"]["worker"]["replicas"] == 3
    for part in ("worker", "scheduler"):
        spec = made["spec"][part]["spec"]
        container = spec["containers"][0]
        assert container["image"] == "r/x:1"
        assert {"name": "A", "value": "b"} in container["env"]
        amounts = {"cpu": "2", "memory": str(2**32), "ephemeral-storage": str(2**31)}
        assert container["resources"] == {"limits": amounts, "requests": amounts}
        assert [v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"]] == ["data", "out"]
        assert [m["mountPath"] for m in container["volumeMounts"]] == ["/data", "/o"]
    args = made["spec"]["worker"]["spec"]["containers"][0]["args"]
    assert args[:2] == ["dask", "worker"]
    assert " ".join(args[-8:]) == f"--nworkers 1 --nthreads 1 --memory-limit {2**32} --local-directory /scratch"
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(made))
    assert manifest(KubernetesConfig(spec=path), "other") == made
    path.write_text("kind: Pod\nmetadata: {name: a}\n")
    with pytest.raises(ConfigError, match=r"cluster.yaml.*not the manifest of a DaskCluster"):
        manifest(KubernetesConfig(spec=path), "other")


def test_no_kubernetes_here(tmp_path: Path) -> None:
    code = (
        "from skygraft.clusters.cluster import open_cluster\n"
        "from skygraft.config.cluster_kinds import KubernetesConfig\n"
        "from skygraft.errors import CampaignError\n"
        "try:\n"
        "    with open_cluster(KubernetesConfig(image='x')):\n"
        "        pass\n"
        "except CampaignError as error:\n"
        "    print(error)\n"
    )
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "none")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, timeout=120, check=True
    )
    assert "the Dask cluster cannot be started on Kubernetes" in done.stdout
    assert "kubectl get daskclusters" in done.stdout
    assert done.stderr == ""


def test_which_process_of_a_launch() -> None:
    assert find_launch("mpi", {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "8"}) == Launch(2, 8)
    assert find_launch("mpi", {"PMI_RANK": "0", "PMI_SIZE": "3"}) == Launch(0, 3)
    step = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"}
    assert find_launch("slurm-runner", step) == find_launch("mpi", step) == Launch(1, 4)
    for environ in (
        {},
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "9"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"},
    ):
        with pytest.raises(CampaignError, match=r"was started alone.*srun -n 64"):
            find_launch("slurm-runner", environ)
    with pytest.raises(CampaignError, match=r"has 2 processes; a scheduler, a driver and a worker"):
        find_launch("mpi", {"PMI_RANK": "0", "PMI_SIZE": "2"})


def test_not_under_mpirun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("OMPI_", "PMI", "SLURM_"))]:
        monkeypatch.delenv(name)
    with pytest.raises(CampaignError, match="mpirun -n 64"), take_role(MpiConfig(), tmp_path):
        pass
    with take_role(LocalConfig(), tmp_path) as is_driver:
        assert is_driver
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("PMI_SIZE", "4")
    with pytest.raises(CampaignError, match="have no roles yet"), open_launch(MpiConfig()):
        pass


def test_dask_reads_the_settings_of_workers_from_their_environment(tmp_path: Path) -> None:
    """Asked of Dask itself, in a process with nothing but these variables."""
    wanted = {name: dask.config.get(name) for name in WORKERS}
    assert all(wanted[name] != WORKERS[name] for name in CALM), "they say what Dask does anyway"
    code = "import json, dask, distributed, sys; print(json.dumps([dask.config.get(name) for name in sys.argv[1:]]))"
    env = {**os.environ, **as_environment(WORKERS), "DASK_CONFIG": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code, *WORKERS], env=env, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == list(WORKERS.values())


@pytest.mark.dask
def test_workers_of_a_local_cluster_are_calm() -> None:
    with open_cluster(LocalConfig(n_workers=1)) as cluster:
        found = cluster.client.run(lambda names: [dask.config.get(name) for name in names], list(CALM))
        (said,) = found.values()
    assert said == list(CALM.values())


def test_a_scratch_folder_of_a_variable_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be a folder of that very name, where the launch was started."""
    from skygraft.clusters import mpi_roles

    config = SlurmRunnerConfig(scratch="$NODE_DISK/work")
    monkeypatch.setenv("NODE_DISK", "/fast")
    assert mpi_roles._worker_options(config)["local_directory"] == "/fast/work"
    monkeypatch.delenv("NODE_DISK")
    with pytest.raises(CampaignError, match=r"scratch is '\$NODE_DISK/work', and not all of it is set"):
        mpi_roles._worker_options(config)


def test_a_person_without_a_name_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    def nobody(number: int) -> None:
        raise KeyError(number)

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert f"--user={os.getuid()}" in BATCH_SYSTEMS["slurm"].command()
