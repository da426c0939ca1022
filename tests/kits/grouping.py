"""Which tests run in one process, and which process gets which of them."""

from __future__ import annotations

from typing import Any

WAITING = frozenset(
    f"tests/{path}.py"
    for path in (
        "campaign/test_faults_files",
        "campaign/test_faults_processes",
        "clusters/test_slurm",
        "clusters/test_slurm_scripts",
        "execution/test_lost_workers",
    )
)
"""Files whose tests wait, most of their time, for other programs."""

_MAX_WAITING = 2


def group(nodeid: str) -> str:
    """Name of the tests that one process runs: those of a file; of long ones that share nothing, each alone."""
    path = nodeid.partition("::")[0]
    return nodeid if path.endswith("/test_notebooks.py") else path


def schedule(config: Any, log: Any = None) -> Any:
    """Return a scheduler that gives all tests of a file to one process, since they share fixtures.

    Files that wait come first, but two processes at most have one: the others compute meanwhile, and nobody waits at
    the end. Groups of xdist's own (``--dist loadgroup`` with the mark ``xdist_group``) group nothing under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

        def _assign_work_unit(self, node: Any) -> None:
            others = [given for other, given in self.assigned_work.items() if other is not node]
            waiting = sum(any(name in WAITING and not all(given[name].values()) for name in given) for given in others)
            chosen = (name for name in self.workqueue if (name in WAITING) == (waiting < _MAX_WAITING))
            self.workqueue.move_to_end(next(chosen, next(iter(self.workqueue))), last=False)
            super()._assign_work_unit(node)

    return Groups(config, log)
