"""A cell, played once: its servers started, its commands run and measured, a process of it killed where the cell requires that."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from cells import STRUCK, Cell
from drivers import ADDRESS, DRIVERS, PORT, Driver, Job, Outcome, policy_server
from measuring import Measured, run, serving, start


@dataclass(frozen=True)
class Played:
    """What a cell gave in one turn.

    Attributes:
        measured: What its commands took; the first time, where they were typed twice.
        outcome: Its result in the end.
        after_kill: Its result after the kill, before the same command ran again.
        again: What that took.
        begun: Episodes begun before the kill, or by processes that it did not hit, and by the same command again.
    """

    measured: Measured
    outcome: Outcome
    after_kill: Outcome | None = None
    again: Measured | None = None
    begun: tuple[int, int] = (0, 0)

    def line(self) -> dict[str, Any]:
        return asdict(self)


def play(cell: Cell, folder: Path) -> Played:
    """Play a cell in ``folder``, which is empty; a ``RuntimeError`` where a process does not do what it should."""
    driver = DRIVERS[cell.peer]
    with _servers(driver, Job(cell, folder)) as (job, servers):
        if not cell.killed:
            measured = run(driver.commands(job), servers)
            return Played(measured, _outcome(driver, job))
        striker = Striker(job)
        measured = run(driver.commands(job), servers, watch=striker)
        if not striker.struck:
            raise RuntimeError(f"{cell.key} ended before it could be killed")
        first, after = _begun(job), _outcome(driver, job)
        again = run(driver.commands(job), servers)
        return Played(measured, _outcome(driver, job), after, again, (first, _begun(job) - first))


@contextlib.contextmanager
def _servers(driver: Driver, job: Job) -> Iterator[tuple[Job, list[psutil.Process]]]:
    """The job with its servers' addresses, and the servers."""
    with contextlib.ExitStack() as stack:
        servers = []
        if job.cell.policy != "instant" and not driver.embeds:
            process, address = stack.enter_context(serving(policy_server(job.folder), ADDRESS))
            job, servers = replace(job, policy=address), [process]
        if (command := driver.server(job)) is not None:
            process, port = stack.enter_context(serving(command, PORT))
            job, servers = replace(job, server=port), [*servers, process]
        yield job, servers


class Striker:
    """Kills once, when the episode that is to be struck has begun and its first steps are under way.

    The simulator's process is the one with the most memory; with two commands, that of the last of them.

    Attributes:
        struck: Whether it has.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self.struck = False

    def __call__(self, roots: list[psutil.Process]) -> None:
        if self.struck or not _under_way(self._job):
            return
        self.struck, victim = True, roots[-1]
        if self._job.cell.killed == "simulator":
            victim = max([victim, *victim.children(recursive=True)], key=lambda process: process.memory_info().rss)
        victim.kill()


def _under_way(job: Job) -> bool:
    """Whether the episode of the kill is at its second request (the first of several at a time: a request)."""
    words = job.record.read_text(encoding="ascii").split() if job.record.exists() else []
    begins = [index for index, word in enumerate(words) if word == "begin"]
    return len(begins) >= STRUCK and words[begins[STRUCK - 1] :].count("chunk") >= 2


def _begun(job: Job) -> int:
    return job.record.read_text(encoding="ascii").split().count("begin") if job.record.exists() else 0


def _outcome(driver: Driver, job: Job) -> Outcome:
    """The result, summed up where the peer needs that done by hand."""
    for command in driver.summing_up(job):
        start(command).wait()
    return driver.outcome(job)
