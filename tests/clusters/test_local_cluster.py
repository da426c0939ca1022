"""The cluster that a run has without any options: who is let in, how it begins and ends, and how large it is."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

from skygraft.campaign import Campaign
from skygraft.clusters.cluster import open_cluster
from skygraft.clusters.connection import insist
from skygraft.clusters.guard import guard_workers
from skygraft.clusters.preflight import Expectation
from skygraft.config.cluster_kinds import LocalConfig, SchedulerConfig, SlurmConfig
from skygraft.errors import CampaignError
from skygraft.execution.jobs import Jobs

type MakeCampaign = Callable[..., Campaign]


@pytest.fixture
def expectation(make_campaign: MakeCampaign) -> Expectation:
    campaign = make_campaign()
    campaign.layout.root.mkdir()
    return Expectation.of(campaign.config)


STRANGER = """
import socket, ssl, sys
for port in map(int, sys.argv[1:]):
    # Dask speaks first. One that is encrypted waits for a word; at a wrong one it hangs up, or answers with an alert.
    with socket.create_connection(("127.0.0.1", port), timeout=120) as plain:
        try:
            plain.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n" + bytes(64))
            heard = plain.recv(1)
        except ConnectionError:
            heard = b""
    print("plain", "refused" if heard in (b"", b"\\x15") else "heard")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=120) as plain, context.wrap_socket(plain) as secret:
            secret.sendall(bytes(64))
            print("tls", "heard" if secret.recv(1) else "refused")
    except (ssl.SSLError, ConnectionError):
        print("tls refused")
"""
"""A program of somebody else on this machine, without any keys; it needs the standard library only."""


def stranger(*addresses: str) -> set[str]:
    """What the program gets from some addresses, run as another user where this one may choose."""
    ports = [address.rpartition(":")[2] for address in addresses]
    python, user = sys.executable, None
    if os.getuid() == 0 and (plain := shutil.which("python3", path="/usr/bin:/usr/local/bin")):
        python, user = plain, 65534
    done = subprocess.run(
        [python, "-c", STRANGER, *ports], capture_output=True, text=True, check=True, user=user, cwd="/", timeout=600
    )
    return set(done.stdout.splitlines())


@pytest.mark.dask
def test_strangers_are_refused_without_being_asked_for_it() -> None:
    """A cluster with no options is encrypted: scheduler, nannies and workers let in who has this run's keys."""
    import psutil
    from distributed import Security

    with open_cluster(LocalConfig(n_workers=1)) as opened:
        address = opened.client.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        assert opened.dashboard.startswith("http://127.0.0.1:")
        assert opened.client.submit(sum, [1, 2]).result() == 3
        [(worker, about)] = opened.client.scheduler_info(n_workers=-1)["workers"].items()
        assert stranger(address, worker, about["nanny"]) == {"plain refused", "tls refused"}
        for security, where in ((Security.temporary(), address), (None, address.replace("tls://", "tcp://"))):
            with pytest.raises((OSError, TimeoutError)):
                Client(where, security=security, timeout=3, set_as_default=False)
        # Keys are handed over through pipes: nobody reads them in a list of processes.
        for process in psutil.Process().children(recursive=True):
            shown = " ".join(process.cmdline()) + str(process.environ())
            assert "PRIVATE KEY" not in shown
            assert "tls" not in " ".join(process.cmdline())
        assert opened.client.submit(sum, [1, 3]).result() == 4


def _measure() -> Callable[[], int]:
    """Return a function that spawned workers, who have no tests to import, get as a whole."""

    def mapped_bytes() -> int:
        """How much more memory is mapped, not taken from the heap, when an array of 64 MB is allocated."""

        import numpy as np

        library = ctypes.CDLL(None)
        # The structure of `man mallinfo2`: ten numbers, of which the fifth is the bytes that are mapped.
        fields = {"_fields_": [("numbers", ctypes.c_size_t * 10)]}
        library.mallinfo2.restype = type("Info", (ctypes.Structure,), fields)
        before = library.mallinfo2().numbers[4]
        kept = np.empty(1 << 26, np.uint8)
        return int(library.mallinfo2().numbers[4] - before) // kept.size

    return mapped_bytes


mapped_bytes = _measure()


@pytest.mark.dask
def test_workers_keep_their_memory_and_leave_no_environment_to_the_process_that_started_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dask sets variables in that process, too: later programs of a notebook would have them."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # what somebody sets stays as it is
    before = dict(os.environ)
    # Forked ones have the environment of the process that they are forked from.
    spawned = dask.config.set({"distributed.worker.multiprocessing-method": "spawn"})
    with spawned, open_cluster(LocalConfig(n_workers=1)) as opened:
        [theirs] = opened.client.run(lambda: dict(os.environ)).values()
        assert [*opened.client.run(mapped_bytes).values()] == [0]
    assert mapped_bytes() == 1
    assert theirs["OMP_NUM_THREADS"] == "1"
    assert not {name for name in {*theirs, *os.environ} if name.startswith("MALLOC_")} - {*before}
    changed = {name for name in {*os.environ, *before} if os.environ.get(name) != before.get(name)}
    # What Dask's processes know their parent by; it says nothing to others.
    assert changed <= {"__DASK_PARENT_PID"}


@pytest.mark.dask
def test_workers_of_another_scheduler_keep_their_memory_during_a_run(expectation: Expectation) -> None:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        mapped = [*client.run(mapped_bytes).values()]
        with guard_workers(client, expectation):
            mapped += client.run(mapped_bytes).values()
        mapped += client.run(mapped_bytes).values()
    assert mapped == [1, 0, 1]


@pytest.mark.dask
def test_a_stranger_would_be_heard_without_encryption() -> None:
    with open_cluster(LocalConfig(n_workers=1, tls=False)) as opened:
        assert "plain heard" in stranger(opened.client.scheduler.address)


@pytest.mark.dask
def test_a_connection_that_breaks_once_ends_no_start(expectation: Expectation) -> None:
    """As each worker's first one does at times with encryption: what asks all workers asks again, but not for ever."""
    said: list[str] = []
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        scheduler = cluster.scheduler
        answered, broken = scheduler.handlers["broadcast"], {"left": 2}

        async def breaks(*args: Any, **kwargs: Any) -> Any:
            if broken["left"]:
                broken["left"] -= 1
                raise BrokenPipeError(32, "Broken pipe")
            return await answered(*args, **kwargs)

        scheduler.handlers["broadcast"] = breaks
        with guard_workers(client, expectation, said.append) as guard:
            assert (guard.n_fit, broken["left"]) == (1, 0)
        broken["left"] = 10**6
        with pytest.raises(BrokenPipeError):
            guard_workers(client, expectation, said.append)


def test_only_what_broke_is_asked_again() -> None:
    calls = []

    def call(error: Exception | None, after: int = 0) -> Any:
        calls.clear()

        def made() -> int:
            calls.append(1)
            if error is not None and (not after or len(calls) <= after):
                raise error
            return 7

        return made

    assert insist(call(ConnectionResetError(), after=3), pause=0.0) == 7
    assert len(calls) == 4
    for error, tries in ((BrokenPipeError(), 5), (TimeoutError(), 1), (ValueError(), 1)):
        with pytest.raises(type(error)):
            insist(call(error), pause=0.0)
        assert len(calls) == tries
    with pytest.raises(BrokenPipeError):
        insist(call(BrokenPipeError()), pause=0.0, hopeless=lambda: True)
    assert len(calls) == 1


def test_no_more_workers_than_there_is_work_for() -> None:
    def useful(n: int, seconds: float, worth: float = 10.0) -> int:
        return Jobs(np.arange(n), np.zeros(n), np.full(n, seconds), np.zeros(n)).useful_workers(worth)

    # 24 images of a third of a second are one job's; four of ten minutes are four.
    assert (useful(24, 0.3), useful(4, 600.0), useful(100, 20.0), useful(1, 0.0)) == (1, 4, 100, 1)
    slurm = SlurmConfig(n_workers=240, minimum_workers=8, cores=4, memory="4GiB", walltime="1h")
    assert (slurm.at_most(4).n_workers, slurm.at_most(4).minimum_workers) == (4, 4)
    assert slurm.at_most(1000).n_workers == 240
    assert LocalConfig().at_most(1).n_workers == 1
    running = SchedulerConfig(address="tcp://127.0.0.1:1")
    assert running.at_most(1) == running


@pytest.mark.dask
def test_a_scheduler_without_workers_says_so_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one that was lost and started again have ended with it."""
    monkeypatch.setattr("skygraft.clusters.base._FIRST_MESSAGE_SECONDS", 0.2)
    said: list[str] = []
    with LocalCluster(n_workers=0, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0") as cluster:
        config = SchedulerConfig(address=cluster.scheduler_address, start_timeout="2s")
        with (
            pytest.raises(CampaignError, match=r"has no workers after 2s \(start_timeout\).*dask worker"),
            open_cluster(config, say=said.append),
        ):
            pass
    assert len(said) == 1
    assert "has no workers, for" in said[0]
    assert "`dask worker`" in said[0]


LEAVING = """
import sys, time
import skygraft.execution.task, skygraft.formats, distributed
from skygraft.clusters.cluster import _LocalProcess
if sys.argv[1] == "leaves":
    _LocalProcess().teardown(None)
print(time.process_time(), flush=True)
"""


@pytest.mark.slow
def test_a_worker_process_ends_at_once() -> None:
    """Its interpreter searched all it had imported for garbage first; its nanny waited, and killed it with a word."""
    import resource

    def seconds_to_end(how: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", LEAVING, how], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - float(done.stdout)

    assert seconds_to_end("leaves") < 0.5 * seconds_to_end("stays")
