"""``vlarig envs prepare``: find a suite's initial states, once, where every candidate has to be tried in the simulator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ...benchmarks.registry import load_suite
from ...benchmarks.suite import Task
from ...envs.background import run_to_end
from ...envs.errors import VlarigError
from ...envs.home import home
from ..machines.fleets import LocalFleet, listed_fleet
from ..preparation import prepare, prepared_hash, with_prepared
from ..screen import Screen
from ..termination import sigterm_interrupts, until_sigterm
from ..worker_spec import WorkerSpec


@dataclass(frozen=True)
class PrepareConfig:
    """Find the initial states of a suite that have to be tried first: can an expert do the task from here?

    They are tried in order, and the first that will do are kept, below vlarig's home, for later sweeps. The same command resumes an
    interrupted preparation, and one that asks for more finds the rest. Workers change its speed, never its result.

      vlarig envs prepare robotwin_easy
      vlarig envs prepare robotwin_easy --tasks stack_blocks_two --episodes 10
      vlarig envs prepare robotwin_easy --hosts gpu1 gpu2
    """

    suite: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SUITE")]
    """The suite."""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK...")] = ()
    """Only these tasks. Default: all."""
    episodes: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Only the first initial states of each task, as many as a sweep with this number of episodes plays. Default: all."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Simulator processes. Default: one a core, as far as memory allows."""
    hosts: Annotated[tuple[str, ...], tyro.conf.arg(metavar="HOST[:PORT]...")] = ()
    """Machines to do it on instead of this one, each with 'vlarig serve envs'; as for 'vlarig sweep'."""
    hosts_token_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File with the token that they require."""
    hosts_ca_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Certificates of the authorities to trust for wss://, in PEM format."""


def find_initial_states(config: PrepareConfig) -> int:
    """Run the command and return its exit status."""
    for name, value in (("workers", config.workers), ("episodes", config.episodes)):
        if value is not None and value < 1:
            raise VlarigError(f"{name} is {value}; expected 1 or more")
    worker_spec, screen = WorkerSpec.of(load_suite(config.suite)), Screen(soft_wrap=True)
    suite = worker_spec.suite
    tasks = [suite.task(name) for name in config.tasks] or list(suite.tasks)

    def report(task: Task, initial_state: int, good: bool) -> None:
        screen.print(f"{task.name}: initial state {initial_state} {'will do' if good else 'will not do'}")

    wanted = config.episodes
    if suite.preparation is not None:
        wanted = min(config.episodes or suite.preparation.count, suite.preparation.count)
    fleet = listed_fleet(config.hosts, None, config.hosts_token_file, config.hosts_ca_file, config.workers, 1)
    logs = home() / "prepared" / "logs"
    with sigterm_interrupts():
        trying = prepare(worker_spec, tasks, wanted or 1, fleet or LocalFleet(config.workers, 1), logs, report)
        tried = run_to_end(until_sigterm(trying))
    known = with_prepared(worker_spec, config.tasks, config.episodes)
    episodes = known.episodes(config.tasks, wanted)
    screen.print(f"{suite.name}: {len(episodes)} initial states, sha256 {prepared_hash(episodes)}, in {tried.file}")
    return 0
