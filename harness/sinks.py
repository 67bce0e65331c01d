"""What takes what is measured: sinks get each chunk from the engine, trackers get numbers, step by step.

Every sweep has a sink that writes records, and one that warns of actions beyond their channels' bounds.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol, Self, TypeVar, get_args

import numpy as np

from ..envs.api import ChunkResult, Episode, Observation
from ..envs.errors import VlarigError
from ..policies.api import Reply, Request
from ..results.ledger import Ledger
from ..results.records import Attempt, EpisodeRecord


@dataclass(frozen=True)
class Transition:
    """One chunk of one episode.

    Attributes:
        episode: The episode.
        request: The request to the policy, with the observation before the chunk.
        reply: The policy's reply.
        actions: The steps sent to the simulator: the first ``n_action_steps`` of the reply's, or what :class:`.played_env.Execution`
            makes of them and of earlier replies. The simulator has run as many of them as there are in ``result.steps``.
        result: The result of the chunk.
        policy_version: The policy's version when it answered.
        observation: The observation after the chunk; at an episode's end the final one.
        next_first: The first observation of the env's next episode where this chunk ended one and the env goes on.
        seconds: Where the wall time went: ``simulate``, ``render``, ``policy``, ``wait``. An episode's first chunk has its reset's too.
        worker: Name of the worker that ran it.
    """

    episode: Episode
    request: Request
    reply: Reply
    actions: np.ndarray
    result: ChunkResult
    policy_version: int
    observation: Observation
    next_first: Observation | None
    seconds: dict[str, float]
    worker: str

    @property
    def following(self) -> Request:
        """The request at the observation after the chunk, for :meth:`~vlarig.policies.api.Policy.value`; never made by the engine."""
        return replace(self.request, chunk=self.request.chunk + 1, observation=self.observation)

    @property
    def success(self) -> bool | None:
        """Success of the episode by its protocol's own rule; ``None`` where it is too early for a result."""
        protocol = self.episode.protocol
        return self.result.snapshot.outcome.under(protocol.success_rule, protocol.hold_steps)


class Sink(Protocol):
    """Takes what the engine measures."""

    async def emit(self, transition: Transition) -> None:
        """Take one transition; those of an episode come in order.

        In rollouts an episode's last one comes when the env's next episode has begun.
        """
        ...

    async def fault(self, attempt: Attempt) -> None:
        """Take a failed attempt."""
        ...


@dataclass
class EpisodeSoFar:
    """What an episode's chunks came to: the steps that were run, rewards, and seconds; images, megabytes each, are dropped."""

    actions: list[np.ndarray] = field(default_factory=list)
    reward: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, transition: Transition) -> None:
        steps = transition.result.steps
        self.actions.append(transition.actions[: len(steps)])
        for step in steps:  # one by one: sum() rounds differently from Python 3.12 on
            self.reward += step.reward
        for name, value in transition.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value


class EpisodeSink:
    """A sink that takes whole episodes."""

    def __init__(self) -> None:
        self._under_way: dict[int, EpisodeSoFar] = {}

    async def emit(self, transition: Transition) -> None:
        """Add a chunk; with an episode's last, :meth:`finish` it."""
        env = transition.request.env
        if transition.request.chunk == 0:
            self._under_way[env] = EpisodeSoFar()
        self._under_way[env].add(transition)
        if transition.result.over:
            await self.finish(transition, self._under_way.pop(env))

    async def finish(self, last: Transition, episode: EpisodeSoFar) -> None:
        """Take an episode, after its last chunk."""
        raise NotImplementedError

    async def fault(self, attempt: Attempt) -> None:
        """A failed attempt is no episode."""


T = TypeVar("T")

#: Writes that may wait for the disk at a time; a caller with a further one waits too, so that a slow disk slows a sweep instead of
#: filling the memory.
MOST_WAITING = 64

#: Part of a channel's range by which an action may exceed it without a warning: networks overshoot by a little.
TOLERANCE = 0.01


class LedgerSink(EpisodeSink):
    """Writes finished episodes and failed attempts to a ledger, from a thread of its own.

    A commit waits for the disk, the event loop must not: up to :data:`MOST_WAITING` writes are queued, and a write that fails is raised
    at the next call. Use it as an asynchronous context manager; leaving it waits for the queue.
    """

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._writes: set[asyncio.Future[object]] = set()
        self._failure: BaseException | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Wait until all that was emitted is on the disk."""
        if self._writes:
            await asyncio.shield(asyncio.wait(set(self._writes)))  # a copy: those that end before it begins leave the set
        self._thread.shutdown()
        self._raise_failure()

    async def emit(self, transition: Transition) -> None:
        self._raise_failure()
        await super().emit(transition)

    async def finish(self, last: Transition, episode: EpisodeSoFar) -> None:
        await self._write(self._ledger.write_episode, _record(last, episode))

    async def fault(self, attempt: Attempt) -> None:
        self._raise_failure()
        await self._write(self._ledger.write_attempt, attempt)

    async def _write(self, write: Callable[[T], object], value: T) -> None:
        while len(self._writes) >= MOST_WAITING:
            await asyncio.wait(self._writes, return_when=asyncio.FIRST_COMPLETED)
            self._raise_failure()
        future = asyncio.get_running_loop().run_in_executor(self._thread, write, value)
        self._writes.add(future)
        future.add_done_callback(self._written)

    def _written(self, future: asyncio.Future[object]) -> None:
        self._writes.discard(future)
        if not future.cancelled() and future.exception() is not None:
            self._failure = self._failure or future.exception()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def _record(last: Transition, so_far: EpisodeSoFar) -> EpisodeRecord:
    """The record of an episode, after its last chunk."""
    episode, snapshot = last.episode, last.result.snapshot
    assert last.success is not None, f"{episode.key} ended before its own rule was decided"
    return EpisodeRecord(
        key=episode.key,
        suite=episode.suite,
        protocol=f"{episode.protocol.name}@{episode.protocol.version}",
        task=episode.task,
        variant=episode.variant,
        initial_state=episode.initial_state,
        repeat=episode.repeat,
        success=last.success,
        outcome=snapshot.outcome,
        reward=so_far.reward,
        steps=snapshot.step,
        primitives=snapshot.primitives,
        chunks=tuple(len(steps) for steps in so_far.actions),
        actions=np.concatenate(so_far.actions),
        metrics=snapshot.metrics,
        state_digest=snapshot.state_digest,
        image_digest=snapshot.image_digest,
        seconds={**so_far.seconds, "total": sum(so_far.seconds.values())},
        worker=last.worker,
        instruction=snapshot.instruction,
    )


class BoundsWatch(EpisodeSink):
    """A sink that warns once of each channel whose actions lie beyond its bounds, when the first such episode is over.

    Args:
        warn: Called with the message.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        super().__init__()
        self._warn = warn
        self._warned: defaultdict[str, set[int]] = defaultdict(set)

    async def finish(self, last: Transition, episode: EpisodeSoFar) -> None:
        """Check the episode's actions."""
        embodiment, actions = last.request.embodiment, np.concatenate(episode.actions)  # float32[T, A]
        low, high = np.array([(channel.low, channel.high) for channel in embodiment.channels]).T
        margin = TOLERANCE * (high - low)
        beyond = ((actions < low - margin) | (actions > high + margin)).sum(axis=0)
        new = set(np.flatnonzero(beyond).tolist()) - self._warned[embodiment.name]
        if not new:
            return
        self._warned[embodiment.name] |= new
        least, most = actions.min(axis=0), actions.max(axis=0)
        ranges = ", ".join(
            f"{embodiment.channels[number].name} from {least[number]:.4g} to {most[number]:.4g} (bounds {low[number]:.4g} to "
            f"{high[number]:.4g}) in {beyond[number]}"
            for number in sorted(new)
        )
        self._warn(
            f"the policy's actions lie beyond the bounds of {embodiment.name}: {ranges} of {len(actions)} steps of an episode; the env "
            "clips them, so check their scale and the policy's normalisation"
        )


#: Names of the trackers that come with vlarig.
TrackerName = Literal["tensorboard", "trackio", "wandb"]


class Tracker(Protocol):
    """Takes numbers as they come."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log numbers by name, such as ``eval/tabletop/push_to``, at a step of the training."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class _TensorBoard:
    """Event files in a folder, which ``tensorboard --logdir`` shows."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary import Writer

        self._writer = Writer(str(folder / "tensorboard"))

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step=step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Hosted:
    """Weights & Biases, or Hugging Face's Trackio, which has the same interface."""

    def __init__(self, package: str, folder: Path, project: str) -> None:
        self._module = import_module(package)
        self._module.init(project=project, name=folder.name)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._module.log(dict(numbers), step=step)

    def close(self) -> None:
        self._module.finish()


def make_tracker(name: str, folder: Path, project: str) -> Tracker:
    """The tracker of that name.

    Args:
        name: One of :data:`TrackerName`.
        folder: The run's folder.
        project: The run's project in hosted trackers.
    """
    if name not in get_args(TrackerName):
        raise VlarigError(f"unknown tracker {name!r}; expected one of {', '.join(get_args(TrackerName))}")
    try:
        return _TensorBoard(folder) if name == "tensorboard" else _Hosted(name, folder, project)
    except ImportError as error:
        raise _missing(name, error) from None


def check_trackers(names: Collection[str]) -> None:
    """Make sure that the trackers' packages are installed; none is imported."""
    for name in names:
        if find_spec(name) is None:
            raise _missing(name, ModuleNotFoundError(name=name))


def _missing(package: str, error: ImportError) -> VlarigError:
    if isinstance(error, ModuleNotFoundError):
        return VlarigError(f"{error.name} is not installed, which --track {package} needs; run: pip install {package}")
    return VlarigError(f"--track {package} needs a package that does not import ({error}); run: pip install -U {package}")
