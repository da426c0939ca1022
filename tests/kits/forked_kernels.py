"""Jupyter kernels, and the commands of skygraft in their shells, forked from a process that has imported everything.

Each is a process of its own, as it is for a reader; only what it would import and load is there already, which is most
of the processor time of a notebook of small images.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from kits.forked_commands import ForkedCommand

# What stands for a program: it asks for a forked one with its own streams, folder and environment, and ends as it does.
_CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    told = {{"program": {program!r}, "pid": os.getpid(), "words": sys.argv[1:], "cwd": os.getcwd(),
             "env": dict(os.environ)}}
    server.sendall(json.dumps(told).encode() + b"\\n")
    sys.exit(int(server.recv(16) or 70))
"""


@contextlib.contextmanager
def forked_kernels(folder: Path) -> Iterator[type[AsyncKernelManager]]:
    """Yield the class of kernel managers whose kernels are forked, and whose shells find a forked ``skygraft``.

    Parameters
    ----------
    folder : Path
        An empty folder, whose path is short enough for a socket.
    """
    address = str(folder / "socket")
    for program in ("kernel", "skygraft"):
        client = folder / program
        client.write_text(_CLIENT.format(python=sys.executable, address=address, program=program))
        client.chmod(0o755)

    class Forked(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(argv=[str(folder / "kernel"), "-f", "{connection_file}"], language="python")

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    threading.Thread(target=_serve, args=[listener, folder], daemon=True).start()
    try:
        yield Forked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _serve(listener: socket.socket, folder: Path) -> None:
    """Answer each client in a thread of its own, until the listener is closed."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=[client, folder], daemon=True).start()


def _answer(client: socket.socket, folder: Path) -> None:
    """Fork what a client stands for, and tell it the exit code."""
    with client, client.makefile() as lines:
        told: dict[str, Any] = json.loads(lines.readline())
        out, err = (Path(f"/proc/{told['pid']}/fd/{number}") for number in (1, 2))
        env = told["env"]
        if not env["PATH"].startswith(f"{folder}{os.pathsep}"):
            env["PATH"] = f"{folder}{os.pathsep}{env['PATH']}"
        env["DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD"] = "forkserver"
        command = ForkedCommand([told["program"], *told["words"]], out, err, Path(told["cwd"]), env)
        code = command.wait()
        with contextlib.suppress(OSError):
            client.sendall(str(code if code >= 0 else 128 - code).encode())
