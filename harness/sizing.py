"""How many workers and slots a sweep gets: from cores, free memory and what its suite takes, said in one line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..benchmarks.suite import Footprint, Suite
from ..envs.api import Episode
from .machine import Machine

#: Slots of a worker where memory does not forbid: enough that its simulator has work while the policy thinks about others, and that
#: the paper's 128 rollouts ("Rollout infrastructure") are 16 cores.
SLOTS = 8

#: Share of the free memory that is planned with; the rest is for the driver, the policy's batches and estimates that are wrong.
USABLE = 0.8

GB = 10**9


@dataclass(frozen=True)
class Size:
    """Workers and slots of one suite's part of a sweep.

    Attributes:
        workers: Simulator processes.
        slots: Episodes under way in each.
        memory: Bytes that the workers are expected to take together.
        memory_share: Bytes above which a worker's simulator is held for broken, see :func:`memory_share`.
        reason: Why these numbers, in one line.
        warning: What the user should know, in one line, or empty.
    """

    workers: int
    slots: int
    memory: int
    memory_share: int
    reason: str
    warning: str = ""


def choose_size(
    footprint: Footprint, episodes: Sequence[Episode], machine: Machine, workers: int | None = None, slots: int | None = None
) -> Size:
    """Workers and slots for ``episodes``, at least one of which there must be.

    Args:
        footprint: What the suite's simulator takes.
        episodes: What is to be run.
        machine: What there is.
        workers: What the user asked for, if anything.
        slots: What the user asked for, if anything.
    """
    usable = round(machine.memory * USABLE)
    most_workers = min(workers or machine.cores, len(episodes))
    wanted_slots = slots or min(SLOTS, math.ceil(len(episodes) / most_workers))

    def takes(count: int) -> int:
        return footprint.worker_bytes(count, _tasks_at_once(episodes, count))

    chosen_slots = wanted_slots
    while slots is None and chosen_slots > 1 and most_workers * takes(chosen_slots) > usable:
        chosen_slots -= 1
    fitting = max(1, usable // takes(chosen_slots))
    chosen_workers = most_workers if workers else min(most_workers, fitting)
    memory = chosen_workers * takes(chosen_slots)

    asked = " as asked" if workers and slots else ""
    reasons = [] if workers else [_workers_reason(chosen_workers, machine, len(episodes), takes(chosen_slots))]
    if slots is None:
        reasons.append(_slots_reason(chosen_slots, wanted_slots, len(episodes) < SLOTS * chosen_workers))
    size = f"{chosen_workers} worker{_s(chosen_workers)} x {chosen_slots} slot{_s(chosen_slots)}{asked}"
    reason = f"{': '.join([size, ', '.join(reasons)] if reasons else [size])}; {memory_line(memory, machine.memory)}"
    warning = ""
    if memory > machine.memory:
        warning = (
            f"{size} will take about {memory / GB:.1f} GB, and {machine.memory / GB:.1f} GB are free; where memory runs out "
            "simulators are killed and started anew, so take fewer workers or slots"
        )
    return Size(
        chosen_workers, chosen_slots, memory, memory_share(takes(chosen_slots), chosen_workers, machine), reason, warning
    )


def memory_line(needed: int, free: int) -> str:
    """How much memory a sweep takes, and how much of it there is, in words; both in bytes."""
    return f"takes about {needed / GB:.1f} GB of memory, {free / GB:.1f} GB are free"


def memory_share(expected: int, workers: int, machine: Machine) -> int:
    """Bytes above which one of ``workers`` simulators is held for broken: its part of what is free.

    However many workers the user asks for, it is at least twice what is expected of a worker: expectations may be too low, and a
    simulator that does nothing wrong must not be killed.
    """
    return max(machine.memory // workers, 2 * expected)


def suite_share(suite: Suite, workers: int, slots: int) -> int:
    """The same for workers with so many slots of a suite on this machine, whatever tasks are played."""
    return memory_share(suite.footprint.worker_bytes(slots, min(slots, len(suite.tasks))), workers, Machine.here())


def _workers_reason(workers: int, machine: Machine, episodes: int, each: int) -> str:
    if workers == episodes < machine.cores:
        return f"{episodes} episode{_s(episodes)} to run"
    if workers < machine.cores:
        return f"a worker takes {each / GB:.1f} GB, so memory is for {workers}, not one a core ({machine.cores} cores)"
    return f"a worker a core ({machine.cores} core{_s(machine.cores)})"


def _slots_reason(slots: int, wanted: int, few: bool) -> str:
    if slots < wanted:
        return f"memory is for {slots} slot{_s(slots)} each, not {wanted}"
    if few:
        return "a slot for each episode"
    return "slots to simulate in while the policy thinks about others"


def _tasks_at_once(episodes: Sequence[Episode], slots: int) -> int:
    """Tasks that a worker may have under way at a time: it keeps to one for as long as that has episodes, then begins the next."""
    tasks = len({(episode.task, episode.variant) for episode in episodes})
    per_task = max(1, len(episodes) // tasks)
    return min(tasks, slots, math.ceil(slots / per_task) + 1)


def _s(count: int) -> str:
    return "" if count == 1 else "s"
