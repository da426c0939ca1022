"""Why nothing comes back, from facts alone: what is said, what is started anew, and what ends a run."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from skygraft.clusters.watchdog import Facts, Outlook, Patience, Verdict, Watchdog, WorkerFacts, WorkerMonitor

PATIENCE = Patience(report=100.0, paused=50.0, lost=60.0, stuck=1000.0, coming=9000.0)
COMING, NONE_LEFT = Outlook(True, "Slurm: 3 x PENDING (Priority)"), Outlook(False, "its nannies have ended")


def worker(name: str = "a", **of: Any) -> WorkerFacts:
    return WorkerFacts(f"tcp://{name}:1", host=name, **of)


def watch(
    facts: Facts, *, until: float, step: float = 2.0, patience: Patience = PATIENCE
) -> list[tuple[float, Verdict]]:
    """Judge the same facts every two seconds; what was said or done, with its time."""
    dog, found, now = Watchdog(patience, 0.0), [], 0.0
    while now <= until:
        verdict = dog.judge(facts, now)
        if verdict != Verdict():
            found.append((now, verdict))
        if verdict.end:
            break
        now += step
    return found


def test_nothing_is_said_while_all_is_well() -> None:
    dog = Watchdog(PATIENCE, 0.0)
    for now in range(0, 5000, 10):
        if now % 90 == 0:
            dog.task_finished(now)
        assert dog.judge(Facts(3, (worker(executing=1), worker("b"))), now) == Verdict()


def test_without_tasks_nothing_is_missed() -> None:
    assert watch(Facts(0, (), NONE_LEFT), until=20_000, step=100) == []


def test_no_worker_and_none_can_come_ends_it_at_once() -> None:
    [(at, verdict)] = watch(Facts(3, (), NONE_LEFT), until=100)
    assert at <= 2.0  # the second look: the first may have come between a worker's end and its nanny's
    assert verdict.end == "no worker is left, and none can come: its nannies have ended"


@pytest.mark.parametrize(("outlook", "limit"), [(Outlook(), PATIENCE.stuck), (COMING, PATIENCE.coming)])
def test_no_worker_is_said_within_seconds_and_ends_it_only_after_long(outlook: Outlook, limit: float) -> None:
    found = watch(Facts(3, (), outlook), until=20_000)
    assert found[0][0] <= 6.0
    assert found[0][1].message.startswith("there is no worker: 3 tasks are waiting")
    assert outlook.text in found[0][1].message
    at, verdict = found[-1]
    assert limit <= at <= limit + 4
    assert verdict.end.startswith("there has been no worker for ")
    pauses = [b - a for (a, _), (b, _) in itertools.pairwise(found[:-1])]
    assert pauses == sorted(pauses), "it is said less and less often"
    assert len(found) < 25


def test_a_worker_that_comes_back_starts_all_waiting_anew() -> None:
    dog = Watchdog(PATIENCE, 0.0)
    for start in (0.0, 900.0, 1800.0):
        assert not dog.judge(Facts(3), start).end
        assert not dog.judge(Facts(3), start + 890.0).end
        assert not dog.judge(Facts(3, (worker(executing=1),)), start + 895.0).end


def test_a_worker_that_comes_after_hours_in_a_queue_is_given_time_to_begin() -> None:
    dog = Watchdog(PATIENCE, 0.0)
    for now in range(0, 8000, 2):
        assert not dog.judge(Facts(3, (), COMING), now).end
    for now in range(8000, 9000, 2):
        assert not dog.judge(Facts(3, (worker(),)), now).end
    assert dog.judge(Facts(3, (worker(),)), 9002).end


def test_a_worker_that_makes_a_long_image_is_left_alone() -> None:
    found = watch(Facts(1, (worker(executing=1),)), until=50_000, step=50)
    assert found[0][0] == 100.0
    assert found[0][1].message == "no task has finished for 100 s: 1 worker at work (a)"
    assert not any(verdict.end or verdict.restart for _, verdict in found)


def test_a_paused_worker_is_started_anew_and_given_up_after_three_times() -> None:
    held = worker(status="paused", memory=850_000_000, memory_limit=1_000_000_000)
    found = watch(Facts(4, (held,)), until=5000)
    assert [(at, verdict.restart) for at, verdict in found if verdict.restart] == [
        (50.0, (held.address,)), (102.0, (held.address,)), (154.0, (held.address,)),
    ]  # fmt: skip
    assert "1 worker paused at the memory limit, 850.0 MB of 1.0 GB used (a)" in found[0][1].message
    at, verdict = found[-1]
    assert at == 206.0
    assert "paused at their memory limit before they can start a task" in verdict.end
    assert "850.0 MB of 1.0 GB" in verdict.end


def test_a_paused_worker_that_still_makes_an_image_or_goes_on_is_left_alone() -> None:
    assert watch(Facts(4, (worker(status="paused", executing=1),)), until=98) == []
    dog = Watchdog(PATIENCE, 0.0)
    for now in range(0, 96, 2):
        status = "paused" if now % 40 < 38 else "running"
        assert dog.judge(Facts(4, (worker(status=status),)), now) == Verdict()


def test_one_paused_worker_does_not_end_what_others_do() -> None:
    facts = Facts(4, (worker("a", status="paused"), worker("b", executing=1)))
    found = watch(facts, until=5000)
    assert {address for _, verdict in found for address in verdict.restart} == {"tcp://a:1"}
    assert not any(verdict.end for _, verdict in found)


def test_a_lost_worker_does_not_count_as_one_at_work() -> None:
    found = watch(Facts(1, (worker(executing=1, silent_seconds=300.0),)), until=5000)
    assert "1 worker not responding, with tasks (a)" in found[0][1].message
    assert found[-1][1].end.startswith("no worker has made progress for ")
    assert 1000 <= found[-1][0] <= 1004


def test_workers_without_a_task_though_tasks_wait() -> None:
    found = watch(Facts(7, tuple(worker(f"n{i}") for i in range(6))), until=5000)
    assert "6 workers without a task (n0, n1, n2 and 3 more)" in found[0][1].message
    assert found[-1][1].end


def test_what_the_scheduler_tells_becomes_facts() -> None:
    """Silence is counted by the clock of this process: that of the scheduler may be hours off."""
    told = {
        "tcp://a:1": {
            "host": "a", "status": "paused", "last_seen": 5e9, "memory_limit": 100,
            "metrics": {"memory": 90, "task_counts": {"executing": 2, "ready": 5}},
        },
        "tcp://b:1": {"host": "b", "status": "running", "last_seen": 5e9, "memory_limit": None, "metrics": {}},
    }  # fmt: skip
    monitor = WorkerMonitor()
    assert [w.silent_seconds for w in monitor.workers(told, 10.0)] == [0.0, 0.0]
    told["tcp://b:1"]["last_seen"] = 5e9 + 1
    a, b = monitor.workers(told, 50.0)
    assert a == WorkerFacts("tcp://a:1", "a", "paused", 2, 40.0, 90, 100)
    assert b == WorkerFacts("tcp://b:1", "b", "running", 0, 0.0, 0, 0)
