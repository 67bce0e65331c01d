"""Rollouts for RL: exact numbers of chunks from envs that live on between calls, of one suite or several.

Shapes: ``N`` envs, ``T`` chunks of a rollout.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from ..benchmarks.registry import load_suite
from ..benchmarks.suite import Suite, Task
from ..envs.api import Episode, Protocol
from ..envs.background import BackgroundLoop
from ..envs.errors import VlarigError
from ..policies.api import Policy
from ..policies.batching import Batcher, Batching
from .children.liveness import together
from .engine import Engine, EnvProgress
from .machines.fleets import Fleet, LocalFleet
from .plan import PlannedSuite, plan_suite
from .sinks import Sink, Transition

T = TypeVar("T")


def training_stream(suite: Suite, task: Task, protocol: Protocol, env: int, envs: int) -> Iterator[Episode]:
    """The endless training episodes of one env out of the ``envs`` that play a task: together they take every number once.

    It depends only on the number of envs: not on workers, and not on which env is the quickest.
    """
    for number in itertools.count(env, envs):
        yield suite.training_episode(task, number, protocol)


def check_learnable(suite: Suite, protocol: Protocol, policy: Policy) -> None:
    """Make sure that the simulator executes exactly the policy's actions, to which log-probabilities belong.

    Raises:
        VlarigError: The protocol's ensemble combines them with actions of earlier replies, or an answer arrives late.
    """
    if protocol.delay_steps:
        raise VlarigError(
            f"protocol {protocol.name!r} runs an answer's steps {protocol.delay_steps} steps late, so they cannot be learned from; "
            "choose a protocol without delay_steps"
        )
    if protocol.combines(policy.horizon or protocol.n_action_steps):
        others = ", ".join(suite.without_ensemble) or f"none in {suite.name!r}"
        raise VlarigError(
            f"protocol {protocol.name!r} combines overlapping chunks of the policy, so the executed actions are not the policy's "
            f"and cannot be learned from; choose a protocol without an ensemble ({others})"
        )


@dataclass(frozen=True)
class _Group:
    """The envs of one suite.

    Attributes:
        plan: The suite.
        streams: Each env's endless episodes.
        share: Their part of all envs.
    """

    plan: PlannedSuite
    streams: list[Iterator[Episode]]
    share: float


class Rollouts:
    """A policy acting in a fixed number of envs, collected chunk by chunk. Use it as a context manager.

    Args:
        envs: Suite to its number of envs, or to the number for each of its tasks:
            ``{"tabletop": 8, "simpler_widowx": {"stack_green_on_yellow": 4, "put_spoon_on_towel": 2}}``. Envs of a suite are dealt to
            its tasks in turn.
        policy: The policy. It may get new weights between two calls.
        protocols: Suite to the name of one of its protocols; its default for a suite that is not named.
        fleet: Where to simulate; this machine when ``None``.
        streams: Suite to the endless episodes of each of its envs, in place of :func:`training_stream`. None may be under a
            protocol whose ensemble changes the policy's actions (:func:`check_learnable`).
        seed: Seed of the policy's randomness.
        batch: Most requests in a batch; as many as there are envs when ``None``.
        groups: Equal groups of envs, in the order of their numbers, whose requests are always answered together: one group simulates
            while the policy computes another's actions. So each batch is of the same envs, whatever the timing, and a neural policy's
            replies are the same for any workers. ``None``: batches of the requests that come first.
        sinks: Get every transition too.
        logs: Folder of the workers' logs.

    Raises:
        VlarigError: A suite, task or protocol does not exist, the policy does not fit, or a suite has no initial states for training.
    """

    def __init__(
        self,
        envs: Mapping[str, int | Mapping[str, int]],
        policy: Policy,
        *,
        protocols: Mapping[str, str] | None = None,
        fleet: Fleet | None = None,
        streams: Mapping[str, Sequence[Iterator[Episode]]] | None = None,
        seed: int = 0,
        batch: int | None = None,
        groups: int | None = None,
        sinks: Sequence[Sink] = (),
        logs: Path = Path("logs"),
    ) -> None:
        self._policy = policy
        self._fleet = fleet or LocalFleet()
        self._seed, self._sinks, self._logs = seed, list(sinks), logs
        counts = {name: _task_counts(load_suite(name), wanted) for name, wanted in envs.items()}
        self.num_envs = sum(sum(tasks.values()) for tasks in counts.values())
        """Envs in all. Those of the first suite come first, of a suite those of its first task."""
        if groups is not None and self.num_envs % groups:
            raise VlarigError(
                f"{self.num_envs} envs cannot be put into {groups} equal groups; choose a number that divides them"
            )
        self._batching = Batching(batch or self.num_envs, cohort=groups and self.num_envs // groups)
        self._groups = [
            self._group(name, tasks, (protocols or {}).get(name), (streams or {}).get(name)) for name, tasks in counts.items()
        ]

    def __enter__(self) -> Self:
        """Start the workers.

        Raises:
            VlarigError: They cannot be started.
        """
        self._loop = BackgroundLoop("vlarig-engine")
        self._stack = AsyncExitStack()
        try:
            self._engines = self._loop.run(self._open())
        except BaseException:
            self._loop.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._loop.run(self._stack.aclose())
        finally:
            self._loop.close()

    def collect(self, chunks: int, keep: Callable[[Transition], T] | None = None) -> list[list[T]]:
        """The next transitions, ``[N][T]``: exactly ``chunks`` of each env, which may end in mid-episode.

        Where a chunk ends an episode, its transition holds the final observation and the next episode's first one. A rollout that was
        cut is bootstrapped with the value at its last transition's :attr:`~.sinks.Transition.following`.

        Args:
            chunks: How many of each env.
            keep: What to keep of a transition, called as it comes; all of it when ``None``. Two views of 224 x 224 take 0.3 MB in each
                of its observations.

        Raises:
            VlarigError: The policy misbehaved, a simulator failed again and again, or a machine is lost.
        """
        wanted: Callable[[Transition], T] = keep or (lambda transition: transition)  # type: ignore[assignment, return-value]
        return [env for group in self._loop.run(self._collect(chunks, wanted)) for env in group]

    def progress(self) -> list[EnvProgress]:
        """How far each env is, ``[N]``; :meth:`go_on` brings the envs of another process there."""
        return [env.progress for engine in self._engines for env in engine.envs]

    def go_on(self, progress: Sequence[EnvProgress]) -> None:
        """Bring each env to where one of another process was; called before anything is collected.

        Args:
            progress: From :meth:`progress` of rollouts with the same envs and streams.

        Raises:
            VlarigError: A simulator failed again and again.
        """
        self._loop.run(self._go_on(progress))

    def _group(
        self, name: str, tasks: Mapping[str, int], protocol: str | None, given: Sequence[Iterator[Episode]] | None
    ) -> _Group:
        plan = plan_suite(load_suite(name), self._policy, protocol=protocol)
        suite, count = plan.suite, sum(tasks.values())
        if given is None:
            check_learnable(suite, plan.protocol, self._policy)
            given = [
                training_stream(suite, suite.task(task), plan.protocol, env, number)
                for task, number in tasks.items()
                for env in range(number)
            ]
            suite.training_episode(suite.tasks[0], 0, plan.protocol)  # refuses a suite that has none
        if len(given) != count:
            raise VlarigError(f"{len(given)} streams were given for the {count} envs of {name!r}; give one for each")
        return _Group(plan, [map(partial(_learnable, suite, self._policy), each) for each in given], count / self.num_envs)

    async def _open(self) -> list[Engine]:
        try:
            batcher = await self._stack.enter_async_context(Batcher(self._policy, self._batching))
            return await together([self._engine(group, batcher) for group in self._groups])
        except BaseException:
            await self._stack.aclose()
            raise

    async def _engine(self, group: _Group, batcher: Batcher) -> Engine:
        plan, count = group.plan, len(group.streams)
        fleet = self._fleet.for_envs(count, group.share)
        episodes = [plan.suite.episode(task, task.initial_states[0], 0, plan.protocol) for task in plan.suite.tasks]
        lease = fleet.lease(plan.suite.footprint, (episodes * math.ceil(count / len(episodes)))[:count])
        workers = await self._stack.enter_async_context(fleet.launch(plan.worker_spec, lease, self._logs))
        needs = replace(self._policy.needs, final_frame=True)
        first = sum(len(before.streams) for before in itertools.takewhile(lambda each: each is not group, self._groups))
        return Engine(workers, count, plan.suite.embodiment, needs, batcher, self._seed, self._sinks, group.streams, first)

    async def _go_on(self, progress: Sequence[EnvProgress]) -> None:
        given = iter(progress)
        await together([engine.go_on(list(itertools.islice(given, len(engine.envs)))) for engine in self._engines])

    async def _collect(self, chunks: int, keep: Callable[[Transition], T]) -> list[list[list[T]]]:
        return await together([engine.collect(chunks, keep) for engine in self._engines])


def _task_counts(suite: Suite, wanted: int | Mapping[str, int]) -> dict[str, int]:
    """Envs for each task of a suite.

    Raises:
        VlarigError: There is no such task, or no env.
    """
    if isinstance(wanted, int):
        each, more = divmod(wanted, len(suite.tasks))
        wanted = {task.name: each + (place < more) for place, task in enumerate(suite.tasks)}
    counts = {suite.task(name).name: count for name, count in wanted.items() if count}
    if not counts or min(counts.values()) < 0:
        raise VlarigError(f"{wanted} is no number of envs for the tasks of {suite.name!r}; expected 1 or more")
    return counts


def _learnable(suite: Suite, policy: Policy, episode: Episode) -> Episode:
    """The episode, unless its protocol cannot be learned from."""
    check_learnable(suite, episode.protocol, policy)
    return episode
