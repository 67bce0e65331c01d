"""Workers and slots from cores and memory: what is chosen, and the line that says why."""

from __future__ import annotations

import pytest
from toy.suite import TOY_SUITE

from vlarig.benchmarks.libero.suites import LIBERO_OBJECT
from vlarig.benchmarks.suite import Footprint
from vlarig.benchmarks.tabletop.suite import TABLETOP
from vlarig.harness.machine import Machine
from vlarig.harness.sizing import GB, choose_size

MANY = TABLETOP.episodes()
ROOMY = Machine(16, 128 * GB)


def test_a_roomy_machine_gets_a_worker_a_core_and_128_slots_on_16() -> None:
    size = choose_size(TABLETOP.footprint, MANY, ROOMY)
    assert (size.workers, size.slots) == (16, 8)
    assert size.reason.startswith(
        "16 workers x 8 slots: a worker a core (16 cores), slots to simulate in while the policy thinks"
    )
    assert "\n" not in size.reason
    assert "GB are free" in size.reason.rpartition(", ")[2], "what is free is not what is taken"
    assert not size.warning


def test_memory_takes_slots_first_and_then_workers() -> None:
    footprint = Footprint(process=2000, slot=1000)
    assert choose_size(footprint, MANY, Machine(4, 40 * GB)).slots == 7
    tight = choose_size(footprint, MANY, Machine(4, 12 * GB))
    assert (tight.workers, tight.slots) == (4, 1)
    assert "memory is for 1 slot each, not 8" in tight.reason
    tighter = choose_size(footprint, MANY, Machine(4, 6 * GB))
    assert (tighter.workers, tighter.slots) == (2, 1)
    assert "a worker takes 2.0 GB, so memory is for 2, not one a core (4 cores)" in tighter.reason
    assert tighter.memory <= 6 * GB


def test_one_worker_runs_however_little_memory_is_free() -> None:
    size = choose_size(Footprint(process=2000), MANY, Machine(4, GB))
    assert (size.workers, size.slots) == (1, 1)
    assert "will take about 2.0 GB, and 1.0 GB are free" in size.warning


def test_tasks_of_few_episodes_are_counted_as_they_meet_in_a_worker() -> None:
    machine = Machine(8, 24 * GB)
    whole = choose_size(LIBERO_OBJECT.footprint, LIBERO_OBJECT.episodes(), machine)
    single = choose_size(LIBERO_OBJECT.footprint, LIBERO_OBJECT.episodes(per_task=2), machine)
    assert whole.slots == 8
    assert single.slots < whole.slots
    assert single.memory <= 24 * GB


def test_few_episodes_get_no_more_workers_or_slots_than_there_are_episodes() -> None:
    few = choose_size(TABLETOP.footprint, TABLETOP.episodes(["stack"], 3), ROOMY)
    assert (few.workers, few.slots) == (3, 1)
    assert "3 episodes to run" in few.reason
    assert choose_size(TABLETOP.footprint, MANY[:1], ROOMY, workers=4).workers == 1
    assert choose_size(TABLETOP.footprint, MANY[:20], ROOMY).slots == 2


@pytest.mark.parametrize(("workers", "slots"), [(3, None), (None, 5), (3, 5)])
def test_what_the_user_asks_for_is_taken(workers: int | None, slots: int | None) -> None:
    size = choose_size(TOY_SUITE.footprint, MANY, ROOMY, workers, slots)
    assert size.workers == (workers or 16)
    assert size.slots == (slots or 8)


def test_a_wish_beyond_memory_is_granted_with_a_warning() -> None:
    size = choose_size(LIBERO_OBJECT.footprint, MANY, Machine(2, 8 * GB), 16, 8)
    assert (size.workers, size.slots) == (16, 8)
    assert "16 workers x 8 slots as asked will take about" in size.warning
    assert "take fewer workers or slots" in size.warning


def test_a_simulator_that_takes_what_it_should_is_never_held_for_broken() -> None:
    roomy = choose_size(LIBERO_OBJECT.footprint, MANY, Machine(2, 40 * GB))
    assert roomy.memory_share == 20 * GB
    crowded = choose_size(LIBERO_OBJECT.footprint, MANY, Machine(2, 8 * GB), 16, 8)
    assert crowded.memory_share >= 2 * crowded.memory // crowded.workers
