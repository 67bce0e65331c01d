"""An env as the policy plays it: its activity, its requests, and which of the predicted steps are run.

:class:`Execution` decides the latter where chunks overlap (ensembles) and where answers are late (latency). It runs in the driver: its
steps are those that the simulator gets and the ledger records, so a replay does not need it, and its state outlives a simulator that
dies.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..envs.api import Episode, Observation, Snapshot, observe
from ..envs.embodiments import Embodiment
from ..envs.episode import Ensemble, Protocol
from ..policies.api import Request, policy_seed
from ..policies.batching import Batcher
from .durable_env import DurableEnv
from .sinks import Transition
from .workers import Worker


@dataclass(frozen=True)
class EnvProgress:
    """How far an env of :meth:`Engine.collect` is, from which another process goes on.

    Attributes:
        given: Episodes that its stream has given.
        actions: The chunks that the last of them has run; ``None`` where it is over.
    """

    given: int
    actions: tuple[np.ndarray, ...] | None


class PlayedEnv:
    """One env as the policy plays it."""

    def __init__(
        self,
        number: int,
        sim: DurableEnv,
        batcher: Batcher,
        embodiment: Embodiment,
        seed: int,
        stream: Iterator[Episode] | None = None,
    ) -> None:
        self.number = number
        self.activity = "idle"
        """The env's present activity: ``idle``, ``reset``, ``simulate`` or ``policy``."""
        self.given = 0
        """Episodes that its stream has given."""
        self._sim = sim
        self._batcher = batcher
        self._embodiment = embodiment
        self._seed = seed
        self._stream = stream
        self._reset_seconds: dict[str, float] = {}

    @property
    def worker(self) -> Worker:
        return self._sim.worker

    def abandon(self) -> None:
        self._sim.episode = None

    @property
    def under_way(self) -> bool:
        """Whether an episode has begun and is not over."""
        return self._sim.episode is not None

    @property
    def progress(self) -> EnvProgress:
        return EnvProgress(self.given, self._sim.actions if self.under_way else None)

    async def next_episode(self) -> Episode:
        """The next episode of its stream. Taking one may take a while, in which other envs go on."""
        assert self._stream is not None
        episode = await asyncio.to_thread(next, self._stream)
        self.given += 1
        return episode

    async def begin(self, episode: Episode, actions: Sequence[np.ndarray] = ()) -> Observation:
        """Start an episode, run the chunks that it had run before, and return the observation after them.

        Raises:
            GivenUpError: It failed too often, see :class:`.durable_env.Losses`.
            ChildLostError: Its worker is away, in a sweep.
        """
        self._execution = Execution(episode.protocol, self._embodiment)
        began = time.perf_counter()
        self.activity = "reset"
        snapshot = await self._sim.begin(episode, actions)
        self.activity = "idle"
        self._reset_seconds = _split(time.perf_counter() - began, snapshot.seconds, 0.0)
        self.observation = observe(snapshot)
        return self.observation

    async def advance(self) -> Transition:
        """Query the policy and run one chunk.

        Raises:
            GivenUpError: It failed too often.
            ChildLostError: Its worker is away and the env does not wait, or the worker is given up.
            PolicyLost: The policy's process is dead, and with it the policy's state of the episode.
        """
        episode, snapshot = self._sim.episode, self._sim.snapshot
        assert episode is not None
        assert snapshot is not None
        began = time.perf_counter()
        request = self._request(episode, snapshot)
        self.activity = "policy"
        answer = await self._batcher.ask(request)
        self.activity = "simulate"
        actions = self._execution.steps(answer.reply.actions)
        result = await self._sim.step(actions)
        self.activity = "idle"
        seconds = _split(time.perf_counter() - began, result.snapshot.seconds, answer.seconds)
        for name, value in self._reset_seconds.items():
            seconds[name] += value
        self._reset_seconds = {}
        self.observation = observe(result.snapshot)
        return Transition(
            episode=episode,
            request=request,
            reply=answer.reply,
            actions=actions,
            result=result,
            policy_version=answer.policy_version,
            observation=self.observation,
            next_first=None,
            seconds=seconds,
            worker=self.worker.name,
        )

    def _request(self, episode: Episode, snapshot: Snapshot) -> Request:
        chunk = self._sim.chunks
        return Request(
            env=self.number,
            key=episode.key,
            chunk=chunk,
            seed=policy_seed(self._seed, episode.key, chunk),
            observation=self.observation,
            embodiment=self._embodiment,
            n_action_steps=episode.protocol.read_steps,
            privileged=snapshot.privileged,
            prefix=self._execution.ask(self.observation["state"]),
        )


def _split(wall: float, simulator: dict[str, float], policy: float) -> dict[str, float]:
    """Wall seconds by activity; what neither the simulator nor the policy worked in is ``wait``."""
    worked = {"simulate": simulator["simulate"], "render": simulator["render"], "policy": policy}
    return worked | {"wait": max(0.0, wall - sum(worked.values()))}


#: Keeps the cosine with an action of zeros finite (starVLA/starVLA examples/simBenchmarks/SimplerEnv/eval_files/adaptive_ensemble.py
#: @0ed0aad, ``ensemble_action``).
TINY = 1e-7


class Execution:
    """The steps of one episode.

    Without ``delay_steps`` they are the first ``n_action_steps`` of each chunk, or the ensemble's. With it, a request is followed by
    the steps that are run before its answer arrives, then by the answer's. The delay is counted in control steps and not in seconds: it
    is the same on every machine.

    Args:
        protocol: The episode's.
        embodiment: What it moves.
    """

    def __init__(self, protocol: Protocol, embodiment: Embodiment) -> None:
        self._protocol = protocol
        self._embodiment = embodiment
        self._ensembler = Ensembler(protocol.ensemble)
        self._late = np.zeros((0, embodiment.action_size), np.float32)
        """The steps that are run before the answer to the newest request arrives."""
        self._left = self._late
        """What is left of the newest chunk."""
        self._last: np.ndarray | None = None
        """The last step of the episode so far."""

    def ask(self, state: np.ndarray) -> np.ndarray | None:
        """Begin a request at the state ``[P]``; its :attr:`~vlarig.policies.api.Request.prefix`."""
        delay = self._protocol.delay_steps
        if not delay:
            return None
        waits = np.tile(self._still(state), (delay - len(self._left), 1))
        self._late = np.concatenate([self._left, waits])
        return self._late if self._protocol.meanwhile == "prefix" and self._last is not None else None

    def steps(self, chunk: np.ndarray) -> np.ndarray:
        """The steps to run until the next request, ``float32[run_steps, A]`` or fewer where the chunk is shorter.

        Args:
            chunk: ``float32[H, A]``, the answer.
        """
        count, delay = self._protocol.n_action_steps, self._protocol.delay_steps
        if not delay:
            return self._ensembler.steps(chunk, count)
        if self._protocol.meanwhile == "still":
            begin, end = 0, count
        else:  # the first chunk begins where the robot has waited for it
            begin = 0 if self._last is None else delay
            end = begin + count - delay
            self._left = chunk[end : end + delay]
        steps = np.concatenate([self._late, chunk[begin:end]])
        self._last = steps[-1]
        return steps

    def _still(self, state: np.ndarray) -> np.ndarray:
        """The step that stays where the robot is: an absolute channel keeps what it was last sent, such as a closed gripper."""
        still = self._embodiment.still(state)
        if self._last is not None:
            absolute = [channel.kind == "absolute" for channel in self._embodiment.channels]
            still = np.where(absolute, self._last, still)
        return still


class Ensembler:
    """One episode's predictions for steps that are still to come.

    Arithmetic is float64 and the result float32. For float32 predictions the result equals that of SimplerEnv's evaluators to the last
    bit. StarVLA's evaluators work in float32, whose exponential differs between processors; rounding aside, theirs equals it too.

    Args:
        ensemble: The protocol's; ``None`` leaves every chunk as it is.
    """

    def __init__(self, ensemble: Ensemble | None) -> None:
        self._ensemble = ensemble
        self._ahead: deque[np.ndarray] = deque(maxlen=ensemble.horizon if ensemble else 0)
        """The newest chunks, oldest first, each without the steps that are past."""

    def steps(self, chunk: np.ndarray, n_action_steps: int) -> np.ndarray:
        """The steps to carry out now, once for each chunk that a policy predicts.

        A step combines the predictions that reach it; a chunk that is too short for it does not count. So where chunks do not
        overlap, as with a policy that answers with one step, nothing changes.

        Args:
            chunk: ``float32[H, A]``, the newest chunk.
            n_action_steps: How many of its steps are carried out before the next one is predicted.

        Returns:
            ``float32[min(n_action_steps, H), A]``.
        """
        if self._ensemble is None:
            return chunk[:n_action_steps]
        count = min(n_action_steps, len(chunk))
        self._ahead.append(chunk)
        combined = [combine([each[step] for each in self._ahead if step < len(each)], self._ensemble) for step in range(count)]
        self._ahead = deque((each[count:] for each in self._ahead), self._ahead.maxlen)
        return np.stack(combined)


def combine(predictions: list[np.ndarray], ensemble: Ensemble) -> np.ndarray:
    """The weighted mean of ``predictions``, each ``float32[A]`` for the same step, oldest first; ``float32[A]``."""
    if len(predictions) == 1:
        return predictions[0]
    steps = np.array(predictions, dtype=np.float64)
    if ensemble.rule == "mean":
        scores = -ensemble.alpha * np.arange(len(steps))
    else:
        lengths = np.sqrt((steps * steps).sum(axis=1))
        scores = ensemble.alpha * (steps * steps[-1]).sum(axis=1) / (lengths * lengths[-1] + TINY)
    weights = np.exp(scores - scores.max())  # the largest is 1, so that none overflows
    return ((weights / weights.sum())[:, None] * steps).sum(axis=0).astype(np.float32)
