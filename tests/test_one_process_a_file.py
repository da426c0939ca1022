"""Tests of a file run in one process, which makes what they share once; few processes wait at a time."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kits.grouping import WAITING, group, schedule

ran: list[int] = []


@pytest.mark.parametrize("number", range(6))
def test_those_before_ran_here(number: int, request: pytest.FixtureRequest) -> None:
    here = [item for item in request.session.items if item.path == request.path]
    chosen = [item.callspec.params["number"] for item in here if hasattr(item, "callspec")]
    ran.append(number)
    assert ran == chosen[: chosen.index(number) + 1]


class Node:
    """A process that notes which tests it was given."""

    gateway = SimpleNamespace(id="gw")
    shutting_down = False

    def __init__(self) -> None:
        self.given: list[int] = []

    def send_runtest_some(self, indices: list[int]) -> None:
        self.given += indices

    def shutdown(self) -> None:
        self.shutting_down = True


def test_few_wait_at_a_time_and_each_file_is_whole() -> None:
    pytest.importorskip("xdist")
    files = [*sorted(WAITING), *(f"tests/test_{number}.py" for number in range(9))]
    tests = [f"{file}::test_{number}" for file in files for number in range(4)]
    options: dict[str, Any] = {"tx": ["4*popen"], "dist": "loadgroup"}
    config = SimpleNamespace(getvalue=options.get, option=SimpleNamespace(loadscopereorder=False))
    scheduler, nodes = schedule(config), [Node() for _ in range(4)]
    for node in nodes:
        scheduler.add_node(node)
        scheduler.add_node_collection(node, tests)
    scheduler.schedule()
    done: list[list[int]] = [[] for _ in nodes]
    first: list[str] = []
    while any(len(node.given) > len(mine) for node, mine in zip(nodes, done, strict=True)):
        runs = [
            group(tests[node.given[len(mine)]])
            for node, mine in zip(nodes, done, strict=True)
            if len(node.given) > len(mine)
        ]
        first = first or runs
        assert sum(file in WAITING for file in runs) <= 2
        for node, mine in zip(nodes, done, strict=True):
            if len(node.given) > len(mine):
                mine.append(node.given[len(mine)])
                scheduler.mark_test_complete(node, mine[-1])
    assert sum(file in WAITING for file in first) == 2
    assert sorted(index for mine in done for index in mine) == list(range(len(tests)))
    whole = [[group(tests[index]) for index in mine] for mine in done]
    assert all(len(set(mine)) * 4 == len(mine) for mine in whole)


def test_the_files_that_wait_are_there() -> None:
    root = Path(__file__).parents[1]
    assert [file for file in sorted(WAITING) if not (root / file).is_file()] == []
