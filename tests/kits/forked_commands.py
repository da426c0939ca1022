"""Command lines as processes of their own that are forked from one that has imported everything.

A command that a shell starts takes three to four seconds of processor time until it has imported and loaded all that a
run needs; one that is forked takes a tenth of that. All else is as in a shell: a process number, a session of its own,
standard streams, the environment, signals and an exit code.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import skygraft.processes
from kits.forked_workers import fork_a_server, forking, server

_FORKING = {"DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "forkserver"}
"""Workers of Dask are forked from it in turn."""


class ForkedCommand:
    """A running command, with what is used of `subprocess.Popen`.

    Parameters
    ----------
    arguments : sequence of str
        ``skygraft``, ``dask`` or ``kernel``, a Jupyter kernel, and what follows it.
    out, err : Path
        Where standard output and error go; may be the same.
    cwd : Path
        Its working directory.
    env : mapping, optional
        Added to the environment.
    """

    def __init__(
        self, arguments: Sequence[str], out: Path, err: Path, cwd: Path, env: Mapping[str, str] | None = None
    ) -> None:
        told = (list(arguments), str(out), str(err), str(cwd), {**os.environ, **_FORKING, **(env or {})})
        self._process = server().Process(target=_become, args=told)
        self._process.start()
        self.pid = int(self._process.pid or 0)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        self.returncode = self._process.exitcode
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("forked command", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal to it alone, if it has not ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _become(arguments: list[str], out: str, err: str, cwd: str, env: dict[str, str]) -> None:
    """Be the command, in a process that was just forked."""
    os.setsid()
    os.chdir(cwd)
    for number, path, mode in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
        opened = os.open(path, mode | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(env)
    program, *_ = sys.argv = list(arguments)
    # That of this command's own processes.
    fork_a_server()
    # Dask reads its settings when it is imported, which was long ago and elsewhere.
    import dask

    dask.config.refresh(paths=dask.config._get_paths())
    if dask.config.get("distributed.worker.multiprocessing-method", None) == "forkserver":
        skygraft.processes.multiprocessing = forking()  # type: ignore[attr-defined]
    if program == "skygraft":
        from skygraft.cli import main
    elif program == "kernel":
        from ipykernel.kernelapp import launch_new_instance as main

        _choose_backend_later()
    else:
        from dask.__main__ import main
    main()


def _choose_backend_later() -> None:
    """Let the first figure be drawn by what a kernel shows figures with, as it is where matplotlib is imported anew."""
    import matplotlib as mpl

    # A kernel says it by a variable, which matplotlib reads when it is imported.
    mpl.rcParams._set("backend", "module://matplotlib_inline.backend_inline")
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot._backend_mod = None  # type: ignore[attr-defined]
    # It asks for the kernel to show its figures when it is imported.
    sys.modules.pop("matplotlib_inline.backend_inline", None)
