"""Workers and envs from cores and memory: the choice, and its one-line reason."""

from __future__ import annotations

import pytest
from toy.suite import TOY_SUITE

from vlarig.benchmarks.libero.suites import LIBERO_OBJECT
from vlarig.benchmarks.suite import Footprint
from vlarig.benchmarks.tabletop.suite import TABLETOP
from vlarig.envs.messages import Capacity
from vlarig.harness.machines.fleets import ListedFleet
from vlarig.harness.machines.remote_machines import RemoteMachine
from vlarig.harness.sizing import GB, Machine, choose_size

MANY = TABLETOP.episodes()
ROOMY = Machine(16, 128 * GB)


def test_a_roomy_machine_gets_a_worker_a_core_and_128_envs_on_16() -> None:
    size = choose_size(TABLETOP.footprint, MANY, ROOMY)
    assert (size.workers, size.num_envs) == (16, 128)
    assert size.reason.startswith(
        "128 envs in 16 workers: a worker a core (16 cores), envs to simulate in while the policy computes"
    )
    assert "\n" not in size.reason
    assert "GB are free" in size.reason.rpartition(", ")[2], "what is free is not what is taken"
    assert not size.warning


def test_memory_takes_envs_first_and_then_workers() -> None:
    footprint = Footprint(process=2000, env=1000)
    assert choose_size(footprint, MANY, Machine(4, 40 * GB)).num_envs == 28
    tight = choose_size(footprint, MANY, Machine(4, 12 * GB))
    assert (tight.workers, tight.num_envs) == (4, 4)
    assert "memory is for 1 env each, not 8" in tight.reason
    tighter = choose_size(footprint, MANY, Machine(4, 6 * GB))
    assert (tighter.workers, tighter.num_envs) == (2, 2)
    assert "a worker takes 2.0 GB, so memory is for 2, not one a core (4 cores)" in tighter.reason
    assert tighter.memory <= 6 * GB


def test_one_worker_runs_with_any_free_memory() -> None:
    size = choose_size(Footprint(process=2000), MANY, Machine(4, GB))
    assert (size.workers, size.num_envs) == (1, 1)
    assert "will take about 2.0 GB, and 1.0 GB are free" in size.warning


def test_tasks_of_few_episodes_are_counted_as_they_meet_in_a_worker() -> None:
    machine = Machine(8, 24 * GB)
    whole = choose_size(LIBERO_OBJECT.footprint, LIBERO_OBJECT.episodes(), machine)
    single = choose_size(LIBERO_OBJECT.footprint, LIBERO_OBJECT.episodes(per_task=2), machine)
    assert whole.num_envs == 64
    assert single.num_envs < whole.num_envs
    assert single.memory <= 24 * GB


def test_few_episodes_get_no_more_workers_or_envs_than_there_are_episodes() -> None:
    few = choose_size(TABLETOP.footprint, TABLETOP.episodes(["stack"], 3), ROOMY)
    assert (few.workers, few.num_envs) == (3, 3)
    assert "3 episodes to run" in few.reason
    assert choose_size(TABLETOP.footprint, MANY[:1], ROOMY, workers=4).workers == 1
    assert choose_size(TABLETOP.footprint, MANY[:20], ROOMY).num_envs == 32


@pytest.mark.parametrize(("workers", "num_envs"), [(3, None), (None, 5), (3, 5), (4, 128)])
def test_the_users_numbers_are_taken(workers: int | None, num_envs: int | None) -> None:
    size = choose_size(TOY_SUITE.footprint, MANY, ROOMY, workers, num_envs)
    assert size.workers == (workers or num_envs)
    assert size.num_envs == (num_envs or 24)
    assert size.envs_per_worker == {None: 8, 5: 2 if workers else 1, 128: 32}[num_envs]


def test_requested_envs_go_to_as_many_workers_as_memory_has_room_for() -> None:
    size = choose_size(Footprint(process=2000, env=100), MANY, Machine(16, 15 * GB), num_envs=24)
    assert (size.workers, size.num_envs, size.envs_per_worker) == (5, 24, 5)
    assert size.memory <= 12 * GB


@pytest.mark.parametrize(("num_envs", "workers"), [(2, [1, 1]), (3, [2, 1]), (12, [4, 2])])
def test_no_machine_starts_workers_for_which_there_is_no_env(num_envs: int, workers: list[int]) -> None:
    capacities = tuple(Capacity(6, "0", name, cores, 128 * GB, cores) for name, cores in (("big", 4), ("small", 2)))
    machines = tuple(RemoteMachine(f"ws://{capacity.host}:8770") for capacity in capacities)
    lease = ListedFleet(machines, capacities, num_envs=num_envs).lease(TABLETOP.footprint, MANY)
    assert [size.workers for size in lease.sizes] == workers
    assert lease.num_envs == num_envs


def test_a_wish_beyond_memory_is_granted_with_a_warning() -> None:
    size = choose_size(LIBERO_OBJECT.footprint, MANY, Machine(2, 8 * GB), 16, 128)
    assert (size.workers, size.num_envs) == (16, 128)
    assert "128 envs in 16 workers as requested will take about" in size.warning
    assert "take fewer workers or envs" in size.warning


def test_a_simulator_that_takes_what_it_should_is_never_held_for_broken() -> None:
    roomy = choose_size(LIBERO_OBJECT.footprint, MANY, Machine(2, 40 * GB))
    assert roomy.memory_share == 20 * GB
    crowded = choose_size(LIBERO_OBJECT.footprint, MANY, Machine(2, 8 * GB), 16, 128)
    assert crowded.memory_share >= 2 * crowded.memory // crowded.workers
