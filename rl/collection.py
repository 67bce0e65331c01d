"""Experience of the present policy: chunks of each env, with what PPO needs of them.

Shapes: ``N`` envs, ``T`` chunks of a rollout.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ..benchmarks.registry import load_suite
from ..benchmarks.suite import Suite
from ..envs.api import Episode
from ..envs.api import Protocol as EnvProtocol
from ..envs.errors import VlarigError
from ..harness.engine import EnvProgress
from ..harness.machines.fleets import Fleet, LocalFleet, listed_fleet
from ..harness.machines.ray_fleet import RayFleet
from ..harness.rollouts import Rollouts, check_learnable, training_stream
from ..harness.sinks import Transition
from ..harness.sizing import Machine
from ..policies.api import Policy, Recorded, Request
from ..policies.calls import n_action_steps_for
from ..policies.qwen_vla.flow import Sde
from ..policies.qwen_vla.recording import shortened
from ..results.tables import run_table
from .allotment import Known, StateStream, allot, weights
from .config import PpoConfig, RolloutSettings

#: Episodes of a task before those of the next seed, which no run plays to their end.
SEEDS_APART = 1_000_003


@dataclass(frozen=True)
class Chunk:
    """One chunk of experience.

    Attributes:
        task: ``SUITE/TASK``.
        state: Number of its initial state.
        recorded: What the policy sampled, of the steps that were run.
        reward: 1 where the episode ended in success with it, else 0.
        ended: Whether it ended the episode.
        steps: Steps of the episode so far.
        run: Steps of it that were run.
        seconds: Wall time by activity, see :attr:`~vlarig.harness.sinks.Transition.seconds`.
        following: The request at the observation after it, where its value may be needed.
        request: The request that it answers, where the backbone is trained.
    """

    task: str
    state: int
    recorded: Recorded
    reward: float
    ended: bool
    steps: int
    run: int
    seconds: dict[str, float]
    following: Request | None
    request: Request | None


@dataclass(frozen=True)
class Rollout:
    """The experience of an iteration; chunks of an env are in the order in which it ran them.

    Attributes:
        chunks: ``[N * T]``, env after env.
        rewards: ``float32[N, T]``.
        values: ``float32[N, T]``, at the observation before each chunk, when it was sampled.
        following: ``float32[N, T]``, what is expected beyond each chunk: the value at the observation after it where the episode goes
            on, and at ends as :attr:`~.config.PpoSettings.bootstrap` says.
        ended: ``bool[N, T]``.
        sde: How its chunks were sampled.
    """

    chunks: list[Chunk]
    rewards: Tensor
    values: Tensor
    following: Tensor
    ended: Tensor
    sde: Sde


@dataclass(frozen=True)
class Allotment:
    """Which envs play what.

    Attributes:
        envs: Suite to the envs of each of its tasks, over all processes.
        first: ``SUITE/TASK`` to the number of the first training episode that its envs play, where that is not the seed's first.
    """

    envs: dict[str, dict[str, int]]
    first: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SavedEnv:
    """How far an env is, as it is written to a checkpoint.

    Attributes:
        given: Episodes that its stream has given.
        chunks: Shape and ``float32`` bytes of each chunk that the last of them has run; ``None`` where it is over.
        states: Numbers of the initial states that were sampled, where they come again.
    """

    given: int
    chunks: list[tuple[tuple[int, ...], bytes]] | None
    states: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, progress: EnvProgress, states: Sequence[int] = ()) -> Self:
        chunks = progress.actions
        written = None if chunks is None else [(chunk.shape, chunk.tobytes()) for chunk in chunks]
        return cls(progress.given, written, list(states))

    def progress(self) -> EnvProgress:
        if self.chunks is None:
            return EnvProgress(self.given, None)
        return EnvProgress(self.given, tuple(np.frombuffer(data, np.float32).reshape(shape) for shape, data in self.chunks))


@dataclass
class Saved:
    """What a process keeps of a run beside its weights, as it is written to a checkpoint.

    Attributes:
        allotment: Which envs there are.
        outcomes: ``SUITE/TASK`` to successes and episodes since the allotment, over all processes.
        envs: How far each env of this process was when the newest rollout ended; none before the first.
        states: ``SUITE/TASK`` to the successes and episodes of each initial state, where they come again, over all processes.
        best: Greatest success of a rollout's episodes.
        best_iteration: Iterations that had made the weights of that rollout.
        tuned: Revision of the policy that the run began with.
        steps: Steps of all envs of all processes so far.
    """

    allotment: Allotment
    outcomes: dict[str, tuple[int, int]] = field(default_factory=dict)
    envs: list[SavedEnv] = field(default_factory=list)
    states: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    best: float = 0.0
    best_iteration: int = 0
    tuned: str = ""
    steps: int = 0


def allotted(settings: RolloutSettings, success: Mapping[str, float] | None = None) -> dict[str, dict[str, int]]:
    """Suite to the envs of each of its tasks; ``success`` is ``SUITE/TASK`` to a rate, the settings' by default."""
    tasks = [f"{name}/{task.name}" for name in settings.suites for task in load_suite(name).tasks]
    unknown = set(settings.tasks) - {task.partition("/")[2] for task in tasks}
    if unknown:
        raise VlarigError(f"{min(unknown)!r} is a task of none of {', '.join(settings.suites)}; see `vlarig envs list SUITE`")
    chosen = [task for task in tasks if not settings.tasks or task.partition("/")[2] in settings.tasks]
    known = _success(settings.success) if success is None else success
    missing = [task for task in chosen if known is not None and task not in known]
    if missing:
        raise VlarigError(
            f"rollout.success does not say how well {missing[0]!r} is done; name a sweep of every task, or its rate"
        )
    if known is not None and success is None and not any(known[task] for task in chosen):
        raise VlarigError(
            "rollout.success is 0 for every task, and where no episode succeeds there is no reward to learn from; clone the tasks "
            "first, or choose tasks that the policy sometimes does"
        )
    counts: dict[str, dict[str, int]] = {}
    for task, count in allot(settings.envs, {task: 0.0 if known is None else known[task] for task in chosen}).items():
        suite, _, name = task.partition("/")
        counts.setdefault(suite, {})[name] = count
    return counts


def _success(given: Mapping[str, float] | Path | None) -> Mapping[str, float] | None:
    if not isinstance(given, Path):
        return given
    rows = [(suite.suite, row) for suite in run_table(given).suites for row in suite.rows]
    return {f"{suite}/{row.task}": row.tally.rate for suite, row in rows if row.tally.rate is not None}


class Collector:
    """A policy that records, in envs that live on between iterations. Use it as a context manager.

    Args:
        config: The run's.
        allotment: Which envs there are.
        policy: Acts, and records from now on.
        rank: This process's number.
        world: Processes that collect; each has every ``world``-th env.
        logs: Folder of the workers' logs.
    """

    def __init__(
        self,
        config: PpoConfig,
        allotment: Allotment,
        policy: Policy,
        rank: int = 0,
        world: int = 1,
        logs: Path = Path("logs"),
    ) -> None:
        self._settings = settings = config.rollout
        self._policy = policy
        self._bootstrap = config.ppo.bootstrap
        self._requests = config.model.backbone_learns
        """Whether chunks keep their requests."""
        self._seed = seed = config.seed
        self.explore(settings.sde())
        suites = {name: load_suite(name) for name in allotment.envs}
        protocols = {name: learned_protocol(suite, settings, policy) for name, suite in suites.items()}
        own: dict[str, Counter[str]] = {}
        streams: dict[str, list[Iterator[Episode]]] = {}
        self._numbers: list[tuple[str, int, int]] = []
        """Of each env of this process: its task, the number of its first episode, and how far apart its episodes' numbers are."""
        every = [
            (name, task, env, count)
            for name, tasks in allotment.envs.items()
            for task, count in tasks.items()
            for env in range(count)
        ]
        for name, task, env, count in every[rank::world]:
            suite, begin = suites[name], allotment.first.get(f"{name}/{task}", seed * SEEDS_APART) + env
            streams.setdefault(name, []).append(self._stream(suite, task, protocols[name], begin, count))
            own.setdefault(name, Counter())[task] += 1
            self._numbers.append((f"{name}/{task}", begin, count))
        self._repeated = [
            stream for own_streams in streams.values() for stream in own_streams if isinstance(stream, StateStream)
        ]
        self._rollouts = Rollouts(
            own,
            policy,
            protocols=settings.protocols,
            fleet=find_fleet(settings),
            streams=streams,
            seed=seed,
            groups=settings.groups,
            logs=logs,
        )

    def _stream(self, suite: Suite, task: str, protocol: EnvProtocol, begin: int, envs: int) -> Iterator[Episode]:
        if self._settings.states is None:
            return training_stream(suite, suite.task(task), protocol, begin, envs)

        def make(number: int, repeat: int) -> Episode:
            return dataclasses.replace(
                suite.training_episode(suite.task(task), self._seed * SEEDS_APART + number, protocol), repeat=repeat
            )

        return StateStream(make, self._settings.states, begin, envs, self._seed)

    def choose(self, known: Mapping[str, Known]) -> None:
        """Sample initial states by the success so far from now on, of those tasks that are named."""
        for stream, (task, *_) in zip(self._repeated, self._numbers, strict=True):
            stream.weights = weights(known[task]) if task in known else None

    def explore(self, sde: Sde) -> None:
        """Sample chunks so from now on."""
        self.sde = sde
        self._policy.record({"sde": dataclasses.asdict(sde), "states": not self._requests})

    def __enter__(self) -> Self:
        self._rollouts.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._rollouts.__exit__(*error)

    def collect(self, watch: Callable[[Chunk], None] = lambda chunk: None) -> Rollout:
        """The chunks of an iteration; ``watch`` is called with each as it comes, in another thread."""
        count = self._settings.chunks
        last: dict[int, Request] = {}

        def keep(transition: Transition) -> Chunk:
            last[transition.request.env] = transition.following
            chunk = self._kept(transition)
            watch(chunk)
            return chunk

        collected = self._rollouts.collect(count, keep)
        rewards = torch.tensor([[chunk.reward for chunk in env] for env in collected])
        values = torch.tensor([[chunk.recorded.value for chunk in env] for env in collected])
        ended = torch.tensor([[chunk.ended for chunk in env] for env in collected])
        following = torch.zeros_like(values)
        following[:, :-1] = torch.where(ended[:, :-1], 0.0, values[:, 1:])
        wanted = {(env, count - 1): last[env] for env, chunks in enumerate(collected) if not chunks[-1].ended}
        wanted |= {
            (env, index): chunk.following
            for env, chunks in enumerate(collected)
            for index, chunk in enumerate(chunks)
            if chunk.following is not None
        }
        for place, value in zip(wanted, self._values([*wanted.values()]), strict=True):
            following[place] = value
        return Rollout([chunk for env in collected for chunk in env], rewards, values, following, ended, self.sde)

    def progress(self) -> list[SavedEnv]:
        """How far each env is, for :meth:`go_on`."""
        progress = self._rollouts.progress()
        if not self._repeated:
            return list(map(SavedEnv.of, progress))
        pairs = zip(progress, self._repeated, strict=True)
        return [SavedEnv.of(each, stream.numbers[: each.given]) for each, stream in pairs]

    def go_on(self, envs: Sequence[SavedEnv]) -> None:
        """Bring each env to where it was."""
        if self._repeated:
            for stream, env in zip(self._repeated, envs, strict=True):
                stream.numbers = list(env.states)
        self._rollouts.go_on([each.progress() for each in envs])

    def next_numbers(self) -> dict[str, int]:
        """``SUITE/TASK`` to the number after the last episode that an env of it has begun."""
        numbers: dict[str, int] = {}
        for (task, begin, apart), each in zip(self._numbers, self._rollouts.progress(), strict=True):
            numbers[task] = max(numbers.get(task, 0), begin + (each.given - 1) * apart + 1)
        return numbers

    def _kept(self, transition: Transition) -> Chunk:
        result = transition.result
        recorded = transition.reply.recorded
        assert recorded is not None  # the policy records
        last = result.steps[-1]
        solved = last.over and transition.success
        truncated = last.truncated and not solved
        expected = {"cut": False, "truncated": truncated, "always": last.over}[self._bootstrap]
        return Chunk(
            task=f"{transition.episode.suite}/{transition.episode.task}",
            state=transition.episode.initial_state,
            recorded=shortened(recorded, len(result.steps), self.sde),
            reward=float(bool(solved)),
            ended=last.over,
            steps=result.snapshot.step,
            run=len(result.steps),
            seconds=transition.seconds,
            following=transition.following if expected else None,
            request=transition.request if self._requests else None,
        )

    def _values(self, requests: Sequence[Request]) -> list[float]:
        most = self._rollouts.num_envs // self._settings.groups
        batches = [requests[begin : begin + most] for begin in range(0, len(requests), most)]
        return [float(value) for batch in batches for value in self._policy.value(batch)]


def find_fleet(settings: RolloutSettings) -> Fleet:
    """The machines that simulate. Processes that ``torchrun`` started share this machine's cores."""
    if settings.placement == "ray":
        return RayFleet(settings.workers)
    named = listed_fleet(settings.hosts, None, settings.hosts_token_file, settings.hosts_ca_file, settings.workers, None)
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    share = None if beside == 1 else max(1, Machine.here().cores // beside)  # None: as many as cores and memory allow
    return named or LocalFleet(settings.workers or share)


def learned_protocol(suite: Suite, settings: RolloutSettings, policy: Policy) -> EnvProtocol:
    """The protocol to learn under: with the chunk's steps of the settings, and episodes that end at success where that counts."""
    name = settings.protocols.get(suite.name)
    named = suite.learned if name is None and suite.learned is not None else suite.protocol(name)
    steps = n_action_steps_for(policy, suite.embodiment, named.n_action_steps, settings.n_action_steps)
    protocol = named.derive(n_action_steps=steps, stop_on_success=named.success_rule != "final")
    check_learnable(suite, protocol, policy)
    return protocol
