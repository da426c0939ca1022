"""The scripts of `deploy/`, run with stand-ins for the batch systems: what they start, how they stop and go on."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SCRIPTS = sorted(p for p in DEPLOY.rglob("*") if p.suffix in {".sh", ".sbatch", ".pbs", ".lsf"})

# Runs for as long as $SECONDS_TO_RUN says; asked to stop, it takes a moment and ends as an interrupted campaign does.
SKYGRAFT = """#!/usr/bin/env bash
echo "skygraft $*" >>"$LOG"
trap 'echo "asked to stop" >>"$LOG"; sleep 0.3; echo stopped >>"$LOG"; exit 130' TERM
echo $$ >"$LOG.pid"
[ -z "${KILLED:-}" ] || kill -KILL $$
for _ in $(seq "$((SECONDS_TO_RUN * 20))"); do sleep 0.05; done
exit "${EXIT_CODE:-0}"
"""
RECORDER = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >>"$LOG"
"""
# As PBS does: the variables that are named, a copy elsewhere, and later, when the job that submits has ended.
QSUB = """#!/usr/bin/env bash
echo "qsub $*" >>"$LOG"
cp "${@: -1}" "$LOG.spooled" && bash "$LOG.spooled"
"""
# Only the parts of a step: its tasks one after the other would do, but signals want them at once.
SRUN = """#!/usr/bin/env bash
echo "srun $*" >>"$LOG"
while [ "${1#--}" != "$1" ]; do shift; done
for rank in 0 1 2; do SLURM_PROCID=$rank "$@" & pids+=($!); done
echo "${pids[@]}" >"$LOG.tasks"
trap '' TERM
wait "${pids[1]}"
code=$?
kill -KILL "${pids[0]}" "${pids[2]}" 2>/dev/null
exit "$code"
"""
SCANCEL = """#!/usr/bin/env bash
echo "scancel $*" >>"$LOG"
for pid in $(cat "$LOG.tasks"); do kill -TERM "$pid"; done
"""
# Nobody takes the job down here, so nobody has to wait for it.
SLEEP = """#!/usr/bin/env bash
[ "$1" = 60 ] || exec /bin/sleep "$1"
"""


@pytest.fixture
def site(tmp_path: Path) -> SimpleNamespace:
    """A machine with stand-ins for skygraft and the batch systems' commands, and a log of what was called."""
    bin_dir = tmp_path / "venv" / "bin"
    bin_dir.mkdir(parents=True)
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    commands = dict.fromkeys(("scontrol", "qsub", "apptainer", "mpirun"), RECORDER)
    commands |= {"skygraft": SKYGRAFT, "srun": SRUN, "scancel": SCANCEL, "sleep": SLEEP}
    for name, text in commands.items():
        (bin_dir / name).write_text(text)
        (bin_dir / name).chmod(0o755)
    (bin_dir / "activate").write_text(f'export PATH="{bin_dir}:$PATH"\n')
    log = tmp_path / "calls"
    log.touch()
    environ = {
        "PATH": f"{bin_dir}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "USER": "somebody",
        "LOG": str(log),
        "SECONDS_TO_RUN": "20",
        "SKYGRAFT_VENV": str(tmp_path / "venv"),
        "SKYGRAFT_SCRATCH": str(tmp_path),
        "SLURM_JOB_ID": "17",
        "SLURM_NTASKS": "3",
        "SLURM_JOB_NODELIST": "node1",
    }

    def start(script: str, *arguments: str, without: str = "", **more: str) -> subprocess.Popen[str]:
        # As batch systems do: a copy, elsewhere.
        copy = Path(shutil.copy(DEPLOY / script, tmp_path / "spooled"))
        return subprocess.Popen(
            ["bash", str(copy), *arguments],
            env={name: value for name, value in (environ | more).items() if name != without},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def calls() -> list[str]:
        return log.read_text().splitlines()

    def until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 300
        while not condition():
            assert time.monotonic() < deadline, calls()
            time.sleep(0.02)

    return SimpleNamespace(start=start, calls=calls, until=until, folder=tmp_path, bin=bin_dir)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_are_sound(script: Path) -> None:
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    result = subprocess.run([shellcheck, str(script)], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_scripts_that_are_run_directly_are_executable() -> None:
    for script in SCRIPTS:
        assert os.access(script, os.X_OK) == (script.suffix == ".sh"), script


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_what_is_yours_is_in_one_place(script: Path) -> None:
    text = script.read_text()
    settings = re.findall(r'^: "\$\{(SKYGRAFT_\w+):=', text, re.MULTILINE)
    if script.name == "tls.sh":
        assert not settings
        return
    block = re.search(r"^# ---- yours.*?^# -{20,}$", text, re.MULTILINE | re.DOTALL)
    assert block
    assert set(settings) == set(re.findall(r'^: "\$\{(SKYGRAFT_\w+):=', block[0], re.MULTILINE))
    # And nothing is set that is not used.
    rest = text.replace(block[0], "")
    assert all(f"${name}" in rest for name in settings), settings


def test_the_slurm_driver_runs_the_campaign_and_says_how_it_ended(site: SimpleNamespace) -> None:
    run = site.start("slurm/driver.sbatch", "campaign.yaml", "--retry-failed", SECONDS_TO_RUN="0", EXIT_CODE="1")
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 1
    assert site.calls() == ["skygraft run campaign.yaml --cluster slurm --retry-failed"]
    assert "ended with 1" in output


def test_the_slurm_driver_stops_cleanly_and_requeues_itself_before_its_walltime(site: SimpleNamespace) -> None:
    run = site.start("slurm/driver.sbatch", "campaign.yaml", SKYGRAFT_CLUSTER="site.yaml")
    site.until((site.folder / "calls.pid").exists)
    run.send_signal(signal.SIGUSR1)
    run.communicate(timeout=300)
    assert site.calls() == [
        "skygraft run campaign.yaml --cluster site.yaml",
        "asked to stop",
        "stopped",
        "scontrol requeue 17",
    ]
    assert run.returncode == 130


def test_the_slurm_driver_that_is_cancelled_stops_cleanly_for_good(site: SimpleNamespace) -> None:
    run = site.start("slurm/driver.sbatch", "campaign.yaml")
    site.until((site.folder / "calls.pid").exists)
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=300)
    assert site.calls()[1:] == ["asked to stop", "stopped"]
    assert run.returncode == 130


@pytest.mark.parametrize("script", ["slurm/driver.sbatch", "slurm/runner.sbatch", "mpi/launch.sh"])
def test_a_script_without_a_campaign_says_so(site: SimpleNamespace, script: str) -> None:
    run = site.start(script)
    output, _ = run.communicate(timeout=300)
    assert run.returncode != 0
    assert "campaign.yaml" in output
    assert site.calls() == []


@pytest.mark.parametrize("script", ["slurm/driver.sbatch", "slurm/runner.sbatch", "pbs/driver.pbs", "lsf/driver.lsf"])
def test_a_script_without_an_installation_starts_nothing(site: SimpleNamespace, script: str) -> None:
    run = site.start(script, "campaign.yaml", SKYGRAFT_VENV=str(site.folder / "nowhere"))
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 1
    assert "nowhere/bin/activate" in output
    assert site.calls() == []


def test_the_slurm_runner_stops_its_driver_alone_and_requeues_itself(site: SimpleNamespace) -> None:
    run = site.start("slurm/runner.sbatch", "campaign.yaml")
    site.until(lambda: sum(call.startswith("skygraft") for call in site.calls()) == 3)
    run.send_signal(signal.SIGUSR1)
    run.communicate(timeout=300)
    calls = site.calls()
    assert calls[0].startswith("srun --cpu-bind=none")
    assert calls.count("skygraft run campaign.yaml --cluster slurm-runner") == 3
    assert "scancel --signal=TERM 17.0" in calls
    # Of three tasks one listened.
    assert calls.count("asked to stop") == 1
    assert calls[-1] == "scontrol requeue 17"


def test_the_slurm_runner_that_has_finished_is_not_requeued(site: SimpleNamespace) -> None:
    run = site.start("slurm/runner.sbatch", "campaign.yaml", SECONDS_TO_RUN="1")
    run.communicate(timeout=300)
    assert run.returncode == 0
    assert not any("requeue" in call for call in site.calls())


def test_the_pbs_driver_submits_itself_again_when_time_is_up(site: SimpleNamespace) -> None:
    run = site.start("pbs/driver.pbs", PBS_O_WORKDIR=str(site.folder), SKYGRAFT_STOP_AFTER="1s")
    run.communicate(timeout=300)
    *before, last = site.calls()
    campaign = site.folder / "campaign.yaml"
    assert before == [f"skygraft run {campaign} --cluster pbs", "asked to stop", "stopped"]
    words = shlex.split(last)
    assert words[0] == "qsub"
    assert words[-1] == str(site.folder / "deploy/pbs/driver.pbs")
    text = (DEPLOY / "pbs/driver.pbs").read_text()
    # Whatever can be set goes on to the next job.
    assert set(words[2].split(",")) == set(re.findall(r'^: "\$\{(SKYGRAFT_\w+):=', text, re.MULTILINE))


@pytest.mark.parametrize("code", [0, 1])
def test_the_pbs_driver_that_has_finished_is_not_submitted_again(site: SimpleNamespace, code: int) -> None:
    run = site.start("pbs/driver.pbs", SECONDS_TO_RUN="0", EXIT_CODE=str(code))
    run.communicate(timeout=300)
    assert run.returncode == code
    assert not any(call.startswith("qsub") for call in site.calls())


def test_the_lsf_driver_goes_back_into_the_queue_when_time_is_up(site: SimpleNamespace) -> None:
    run = site.start("lsf/driver.lsf", SKYGRAFT_STOP_AFTER="1s", SKYGRAFT_CAMPAIGN="c.yaml")
    run.communicate(timeout=300)
    assert site.calls() == ["skygraft run c.yaml --cluster lsf", "asked to stop", "stopped"]
    requeued = directives("lsf/driver.lsf")["-Q"].strip('"').split()
    assert requeued == [str(run.returncode)]
    assert not {"0", "1", "130", "137", "143"} & set(requeued)  # finished, images failed, stopped, killed


JOBS = {
    "slurm/driver.sbatch": ("campaign.yaml",),
    "slurm/runner.sbatch": ("campaign.yaml",),
    "pbs/driver.pbs": (),
    "lsf/driver.lsf": (),
}


@pytest.mark.parametrize("script", JOBS)
def test_a_driver_that_the_kernel_killed_is_not_started_again(site: SimpleNamespace, script: str) -> None:
    run = site.start(script, *JOBS[script], KILLED="1", SKYGRAFT_STOP_AFTER="60s")
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 137
    assert "ended with 137" in output
    # What LSF puts back into the queue is another code.
    assert not any("qsub" in call or "requeue" in call for call in site.calls())


@pytest.mark.parametrize("script", JOBS)
def test_a_script_does_not_need_user_in_its_environment(site: SimpleNamespace, script: str) -> None:
    run = site.start(script, *JOBS[script], without="USER", SECONDS_TO_RUN="0")
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 0, output
    assert any(call.startswith("skygraft run") for call in site.calls())


@pytest.mark.parametrize("script", ["pbs/driver.pbs", "lsf/driver.lsf"])
def test_a_driver_whose_job_is_deleted_is_not_started_again(site: SimpleNamespace, script: str) -> None:
    """qdel and bkill signal every process of the job; the script may be the last to hear of it."""
    run = site.start(script, SKYGRAFT_STOP_AFTER="600s")
    site.until((site.folder / "calls.pid").exists)
    for process in psutil.Process(run.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    output, _ = run.communicate(timeout=300)
    assert "the driver ended with" in output
    assert run.returncode in (130, 143)
    assert not any(call.startswith("qsub") for call in site.calls())


def test_the_pbs_driver_whose_file_is_not_there_says_so_before_it_starts(site: SimpleNamespace) -> None:
    """It could not submit itself again: better to hear of it now than after two days."""
    run = site.start("pbs/driver.pbs", SKYGRAFT_SCRIPT="/nowhere/driver.pbs", SECONDS_TO_RUN="0")
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 1
    assert "/nowhere/driver.pbs" in output
    assert "SKYGRAFT_SCRIPT" in output
    assert site.calls() == []


def test_a_pbs_driver_that_never_finishes_is_submitted_so_often_and_no_more(site: SimpleNamespace) -> None:
    (site.bin / "qsub").write_text(QSUB)
    run = site.start("pbs/driver.pbs", SKYGRAFT_STOP_AFTER="0.5s", SKYGRAFT_RESTARTS="2")
    output, _ = run.communicate(timeout=300)
    calls = [call.split()[0] for call in site.calls() if call.startswith(("skygraft", "qsub"))]
    assert calls == ["skygraft", "qsub", "skygraft", "qsub", "skygraft"]
    assert output.count("no restarts are left (SKYGRAFT_RESTARTS)") == 1


def test_pbs_that_refuses_the_next_job_is_heard_of(site: SimpleNamespace) -> None:
    (site.bin / "qsub").write_text("#!/usr/bin/env bash\necho qsub: over quota >&2\nexit 1\n")
    run = site.start("pbs/driver.pbs", SKYGRAFT_STOP_AFTER="0.5s")
    output, _ = run.communicate(timeout=300)
    assert "over quota" in output
    assert "qsub refused it: to resume, submit it yourself" in output
    assert run.returncode == 130


def test_an_lsf_driver_that_never_finishes_is_requeued_so_often_and_no_more(site: SimpleNamespace) -> None:
    codes = []
    while not codes or str(codes[-1]) == directives("lsf/driver.lsf")["-Q"].strip('"'):
        assert len(codes) < 5
        run = site.start("lsf/driver.lsf", LSB_JOBID="4", SKYGRAFT_STOP_AFTER="0.5s", SKYGRAFT_RESTARTS="2")
        output, _ = run.communicate(timeout=300)
        codes.append(run.returncode)
    assert codes == [99, 99, 130]
    assert "after 2 restarts (SKYGRAFT_RESTARTS)" in output
    # The next job begins to count anew.
    assert not list(site.folder.glob("*.restarts"))


@pytest.mark.parametrize("script", ["slurm/driver.sbatch", "slurm/runner.sbatch"])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"SLURM_RESTART_COUNT": "20"}, "not requeued after 20 restarts (SKYGRAFT_RESTARTS)"),
        ({}, "Slurm does not requeue this job; to resume, submit it again"),
    ],
    ids=["too often", "refused"],
)
def test_a_slurm_job_that_is_not_requeued_says_so(
    site: SimpleNamespace, script: str, settings: dict[str, str], words: str
) -> None:
    (site.bin / "scontrol").write_text('#!/usr/bin/env bash\necho "scontrol $*" >>"$LOG"\nexit 1\n')
    run = site.start(script, "campaign.yaml", **settings)
    n_tasks = 3 if "runner" in script else 1
    site.until(lambda: sum(call.startswith("skygraft") for call in site.calls()) == n_tasks)
    site.until((site.folder / "calls.pid").exists)
    run.send_signal(signal.SIGUSR1)
    output, _ = run.communicate(timeout=300)
    assert words in output
    assert ("scontrol requeue 17" in site.calls()) == (not settings)
    assert run.returncode == 130


def test_an_htcondor_driver_leaves_the_queue_however_it_ends() -> None:
    lines = (DEPLOY / "htcondor/driver.sub").read_text().splitlines()
    settings = dict(re.split(r"\s*=\s*", line, maxsplit=1) for line in lines if re.match(r"\w+\s*=", line))
    assert settings["on_exit_remove"] == "true"
    # HTCondor itself starts it again when the machine comes back: not over and over.
    assert re.fullmatch(r"NumJobStarts > \d+ && JobStatus == 1", settings["periodic_hold"])


def test_mpi_starts_one_process_for_each_rank(site: SimpleNamespace) -> None:
    run = site.start("mpi/launch.sh", "campaign.yaml", "--retry-failed", SKYGRAFT_RANKS="8")
    run.communicate(timeout=300)
    assert site.calls() == ["mpirun --bind-to none -n 8 skygraft run campaign.yaml --cluster mpi --retry-failed"]


def test_mpi_with_too_few_ranks_is_refused(site: SimpleNamespace) -> None:
    run = site.start("mpi/launch.sh", "campaign.yaml", SKYGRAFT_RANKS="2")
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 2
    assert "at least 3" in output


def test_apptainers_python_passes_everything_on(site: SimpleNamespace) -> None:
    run = site.start("container/apptainer-python.sh", "-m", "distributed.cli.dask_worker", SKYGRAFT_IMAGE="a.sif")
    run.communicate(timeout=300)
    assert site.calls() == ["apptainer exec --bind /scratch,/project a.sif python -m distributed.cli.dask_worker"]


def directives(script: str) -> dict[str, str]:
    """The batch system's options in the head of a script."""
    lines = re.findall(r"^#(?:SBATCH|PBS|BSUB) (\S+?)(?:[= ](.*))?$", (DEPLOY / script).read_text(), re.MULTILINE)
    assert len({option for option, _ in lines if option != "-l"}) == sum(option != "-l" for option, _ in lines)
    return dict(lines)


KNOWN = {
    "slurm/driver.sbatch": "--job-name --time --cpus-per-task --mem --output --requeue --open-mode --signal",
    "slurm/runner.sbatch": "--job-name --time --ntasks --cpus-per-task --mem-per-cpu --output --requeue --open-mode"
    " --signal",
    "pbs/driver.pbs": "-N -l -j -r",
    "lsf/driver.lsf": "-J -n -R -W -o -r -Q",
}


@pytest.mark.parametrize("script", KNOWN)
def test_directives_are_ones_that_the_batch_system_knows(script: str) -> None:
    assert set(directives(script)) == set(KNOWN[script].split())
    lines = (DEPLOY / script).read_text().splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    # Batch systems stop looking at the first command.
    assert not any(re.match(r"#(SBATCH|PBS|BSUB)", line) for line in lines[first_command:])


@pytest.mark.parametrize("script", ["slurm/driver.sbatch", "slurm/runner.sbatch"])
def test_slurm_warns_the_script_in_time(script: str) -> None:
    from skygraft.config.campaign import CampaignConfig

    to, name, seconds = re.match(r"(B):(\w+)@(\d+)", directives(script)["--signal"]).groups()  # type: ignore[union-attr]
    assert (to, name) == ("B", "USR1")
    assert int(seconds) > 2 * CampaignConfig.model_fields["task_seconds"].default
    assert f"' {name}\n" in (DEPLOY / script).read_text()  # its trap


@pytest.mark.parametrize(("script", "unit"), [("pbs/driver.pbs", 3600), ("lsf/driver.lsf", 3600)])
def test_time_to_stop_is_below_the_walltime(script: str, unit: int) -> None:
    text = (DEPLOY / script).read_text()
    hours = re.search(r"(?:walltime=|-W )(\d+):", text)
    stop = re.search(r"SKYGRAFT_STOP_AFTER:=(\d+)m", text)
    assert hours
    assert stop
    kill = re.search(r"--kill-after=(\d+)", text)
    assert kill
    assert int(stop[1]) * 60 + int(kill[1]) < int(hours[1]) * unit


def test_tls_keys_are_for_you_alone_and_dask_takes_them(tmp_path: Path) -> None:
    folder = tmp_path / "my keys"
    run = subprocess.run(
        [str(DEPLOY / "tls.sh"), str(folder), "tls://node1:8786"], check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert {p.name for p in folder.iterdir()} == {"ca.pem", "cert.pem", "key.pem", "tls.env", "scheduler.yaml"}
    assert all(p.stat().st_mode & 0o077 == 0 for p in [folder, *folder.iterdir()])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.pem")
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    code = "import distributed; print(distributed.Security().get_tls_config_for_role('worker'))"
    program = f"source {shlex.quote(str(folder / 'tls.env'))} && {sys.executable} -W ignore -c {shlex.quote(code)}"
    settings = subprocess.run(["bash", "-c", program], check=True, capture_output=True, text=True).stdout
    assert str(folder / "key.pem") in settings
    assert yaml.safe_load((folder / "scheduler.yaml").read_text())["address"] == "tls://node1:8786"


def test_tls_keys_are_not_replaced(tmp_path: Path) -> None:
    assert subprocess.run([str(DEPLOY / "tls.sh"), str(tmp_path)], check=False).returncode == 0
    before = (tmp_path / "key.pem").read_bytes()
    again = subprocess.run([str(DEPLOY / "tls.sh"), str(tmp_path)], check=False, capture_output=True, text=True)
    assert again.returncode == 1
    assert "key.pem is there already" in again.stderr
    assert (tmp_path / "key.pem").read_bytes() == before
