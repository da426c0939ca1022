"""One driver at a time, on file systems with locks and without."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skygraft.campaign import Campaign
from skygraft.errors import CampaignError, OutputError
from skygraft.records import lock
from skygraft.records.files import Layout

NO_LOCKS = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP]


@contextlib.contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[None]:
    """A file system whose ``flock`` gives an error."""

    def flock(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", flock)
        yield


def hold(layout: Layout, *, locks: bool, seconds: float = 60) -> subprocess.Popen[str]:
    """Another process that holds the campaign."""
    code = f"""
import errno, fcntl, os, sys, time
from pathlib import Path
from skygraft.records.files import Layout
def flock(file, operation):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
if not {locks}:
    fcntl.flock = flock
with Layout(Path({str(layout.root)!r})).locked():
    print("held", flush=True)
    sys.stdin.readline()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("locks", [True, False])
def test_one_driver_at_a_time(tmp_path: Path, locks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path / "out")
    assert not layout.is_locked()
    process = hold(layout, locks=locks)
    try:
        with contextlib.nullcontext() if locks else failing(monkeypatch, errno.ENOLCK):
            assert layout.is_locked()
            who = f"process {process.pid} on {os.uname().nodename}"
            with pytest.raises(CampaignError, match=rf"another process runs this campaign \({who}\)"), layout.locked():
                pass
            # It goes with the process, however that ends.
            process.kill()
            process.wait()
            assert not layout.is_locked()
            with layout.locked():
                assert layout.is_locked()
            assert not layout.is_locked()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", NO_LOCKS)
def test_a_campaign_where_there_are_no_locks(
    make_campaign: Callable[..., Campaign], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = make_campaign()
    with failing(monkeypatch, number):
        campaign.plan()
        assert not campaign.status().running
        assert not lock.lease_path(campaign.layout.lock).exists()
        with campaign.layout.locked():
            assert campaign.status().running
            with pytest.raises(CampaignError, match=rf"another process runs .*{os.getpid()}.*has no locks"):
                campaign.plan()
        assert not campaign.status().running


def test_a_driver_of_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path)
    lease = lock.lease_path(layout.lock)
    with failing(monkeypatch, errno.ENOLCK):
        with layout.locked():
            text = lease.read_text()
        lease.write_text(text.replace(f" on {os.uname().nodename} ", " on elsewhere "))
        assert layout.is_locked()
        with pytest.raises(CampaignError, match=r"on elsewhere.*180 s after it was last renewed"), layout.locked():
            pass
        # It was last renewed long ago.
        then = lease.stat().st_mtime - 1000
        os.utime(lease, (then, then))
        assert not layout.is_locked()
        with layout.locked():
            assert f"process {os.getpid()} on {os.uname().nodename}" in lease.read_text()
        assert not lease.exists()


def test_a_number_that_another_process_has_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a driver left that was killed, when its number was given to somebody else since."""
    layout = Layout(tmp_path)
    with failing(monkeypatch, errno.ENOLCK):
        process = hold(layout, locks=False)
        process.kill()
        process.communicate()
        lease = lock.lease_path(layout.lock)
        lease.write_text(lease.read_text().replace(f"process {process.pid} ", f"process {os.getpid()} "))
        assert not layout.is_locked()


def test_it_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path)
    monkeypatch.setattr(lock, "_BEAT_SECONDS", 0.01)
    lease = lock.lease_path(layout.lock)
    with failing(monkeypatch, errno.ENOLCK), layout.locked():
        os.utime(lease, (0, 0))
        while lease.stat().st_mtime == 0:
            pass


def test_what_is_not_about_locks_is_told_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path)
    with failing(monkeypatch, errno.EIO):
        with pytest.raises(OutputError, match=r"lock cannot be taken.*Input/output error"), layout.locked():
            pass
        with pytest.raises(OutputError, match="Input/output error"):
            layout.is_locked()
    layout.lock.unlink()
    layout.lock.mkdir()
    with pytest.raises(OutputError, match="lock cannot be written"), layout.locked():
        pass
    with pytest.raises(OutputError, match="unknown whether the campaign runs"):
        layout.is_locked()
