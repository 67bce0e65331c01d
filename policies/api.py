"""The policy API: a batch of requests goes in, a chunk of actions for each comes out.

Shapes: ``H`` steps of a chunk, ``A`` action channels of the request's embodiment.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..envs.api import Needs, Observation
from ..envs.embodiments import Embodiment
from ..envs.errors import VlarigError

#: Environment variable of a replica's process on Linux: path of a file in memory, one for all replicas on the machine. The file is for
#: what they can share, such as weights. It is empty at first and is deleted with the last replica.
SHARED_FILE_VARIABLE = "VLARIG_SHARED_FILE"


class PolicyError(VlarigError):
    """A policy broke its contract, or does not fit the suite."""


class PolicyLost(Exception):
    """The process of a policy is dead, and its state of the episode is lost; no failed attempt counts. Begin the episode again."""


@dataclass(frozen=True)
class Request:
    """One env's request for its next actions.

    Attributes:
        env: Number of the env; a stateful policy keeps its state by env.
        key: The episode's key.
        chunk: Chunks executed so far in this episode; at 0 a policy resets its state for the env.
        seed: Seed of the policy's own randomness, a function of (run seed, key, chunk).
        observation: What the policy sees.
        embodiment: The embodiment that the actions move.
        n_action_steps: How many steps of the answer may be run, from its first on; with a latency more than are run.
        prefix: For a policy that takes one: the steps that are run before the answer arrives, ``float32[delay_steps, A]``; the first
            steps of its chunk are to equal them. ``None`` where nothing is run meanwhile.
        privileged: Simulator truth by name, empty unless the policy declares that it needs it.
    """

    env: int
    key: str
    chunk: int
    seed: int
    observation: Observation
    embodiment: Embodiment
    n_action_steps: int
    privileged: dict[str, np.ndarray] = field(default_factory=dict)
    prefix: np.ndarray | None = None


@dataclass(frozen=True)
class Recorded:
    """What a policy that records adds to a reply, for learning from it.

    Attributes:
        log_probability: Of what the policy sampled for this reply, under the weights of its :attr:`Policy.version`.
        value: The policy's estimate of the discounted return from the request's observation on.
        arrays: The policy's own arrays by name, from which it can compute the log-probability under other weights.
    """

    log_probability: float = 0.0
    value: float = 0.0
    arrays: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """The answer to a request.

    Attributes:
        actions: ``float32[H, A]`` in the env's own units.
        recorded: What learning needs, where :meth:`Policy.record` enables it; opaque to the engine.
        stages: The stage that each of the ``H`` steps belongs to, in words ("grasp the red cube"); ``None`` from a policy that knows
            none. The stages segment a recorded episode.
        labels: ``float32[H, A]``, what a recording keeps in place of the actions: those that are to be learned, where the ones that
            are run are disturbed on purpose; ``None`` where they are the same.
        keypoints: ``float32[H, 14]``, the keypoints of each step by the simulator's truth (:mod:`vlarig.envs.keypoints`); ``None`` from
            a policy that does not know them.
    """

    actions: np.ndarray
    recorded: Recorded | None = None
    stages: tuple[str, ...] | None = None
    labels: np.ndarray | None = None
    keypoints: np.ndarray | None = None


class Policy(ABC):
    """The contract of a policy: a batch of requests goes in, a chunk of actions for each comes out.

    A subclass writes :meth:`act`; every other member has a default. On the command line it is named ``module:Name``, and is made once,
    with the user's ``--policy-options`` as keyword arguments of its ``__init__``, read by their annotations.

    ``act`` is called from one thread, never twice at a time, with requests of different episodes, tasks and envs in one batch. The
    reply to a request must not depend on the others in the batch. Other members are called before the first request, between
    batches, or at the end.
    """

    name: str
    """Names the policy in tables and in the run's identity; the class's name by default."""

    revision: str = "0"
    """Changes whenever the policy would act differently: a version, a checkpoint's hash. The class's source is part of a run's identity
    in any case."""

    needs: Needs = Needs()
    """What the policy has to see."""

    horizon: int | None = None
    """``H``, the steps of each reply's chunk; ``None`` when it replies with as many as the request's ``n_action_steps``."""

    n_action_steps: int | None = None
    """Steps of each chunk that are best run before the next request; ``None``: as many as the protocol says. The user's own number
    comes first."""

    takes_prefix: bool = False
    """Whether it fits its chunk to a request's :attr:`Request.prefix`."""

    stateful: bool = True
    """Whether it keeps state from one chunk of an episode to the next. False for one whose reply is a function of the request
    alone: an episode then goes on where one of several replicas died."""

    batch_sensitive: bool = False
    """Whether its rounding depends on the batch's shape, as a neural network's does, and a request may be repeated: then the rounding
    is measured."""

    reads_state: bool = True
    """Whether it reads the observation's ``state``; clients of a served policy learn it."""

    embodiments: tuple[Embodiment, ...] = ()
    """The robots that it was made for; empty where it moves any. Clients of a served policy learn it."""

    table_note: str = ""
    """A note beside every number that it gets, such as that it plays zero-shot; empty where there is none."""

    transport_options: frozenset[str] = frozenset()
    """Names of options that change no reply (a timeout) and are no part of a run's identity."""

    version: int = 0
    """Raised by training with each update of the weights; kept with every transition."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if not hasattr(cls, "name"):
            cls.name = cls.__name__

    @abstractmethod
    def act(self, requests: Sequence[Request]) -> Sequence[Reply]:
        """One reply for each request, in order."""

    def horizon_for(self, embodiment: Embodiment) -> int | None:
        """The steps of each chunk for this embodiment, where that is not always :attr:`horizon`."""
        return self.horizon

    def check(self, suite: str, embodiment: Embodiment) -> None:  # noqa: B027  a default
        """Make sure that the policy fits a suite; called for each before anything is started.

        Raises:
            PolicyError: It does not fit; the message names the difference.
        """

    def strict(self) -> None:  # noqa: B027
        """Compute in one thread and in float32 from now on, for ``--strict``.

        Raises:
            PolicyError: It cannot.
        """

    def record(self, options: Mapping[str, Any] | None) -> None:
        """From now on sample each reply as learning needs it, and add what it was made of as :attr:`Reply.recorded`.

        Args:
            options: The policy's own, plain data; ``None`` ends it.

        Raises:
            PolicyError: The policy cannot be learned from.
        """
        raise PolicyError(f"the policy {self.name!r} cannot be learned from: its class has no record()")

    def value(self, requests: Sequence[Request]) -> np.ndarray:
        """The policy's estimate of the discounted return from each request's observation on, ``float32[B]``; it samples nothing.

        Raises:
            PolicyError: The policy has no such estimate.
        """
        raise PolicyError(
            f"the policy {self.name!r} has no value(), from which the return of a rollout that was cut is estimated"
        )

    def load_weights(self, version: int, state: Mapping[str, Any]) -> None:
        """Take new weights and set :attr:`version`; called between batches.

        Args:
            version: Theirs.
            state: Tensors by name, as in a torch ``state_dict``; those that are missing stay as they are.

        Raises:
            PolicyError: The policy does not learn, or they are not its own.
        """
        raise PolicyError(f"the policy {self.name!r} does not learn: its class has no load_weights()")

    def close(self) -> None:  # noqa: B027
        """Close connections and files; called once at the end where the policy was loaded by its name."""


def policy_seed(run_seed: int, key: str, chunk: int) -> int:
    """The seed of a policy's sampling: 64 bits of SHA-256 over the run's seed, the episode's key and the chunk's index."""
    identity = f"{run_seed}/{key}/{chunk}"
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big")


def weights_revision(revision: str, version: int) -> str:
    """The revision of a policy that took new weights in training: from its own and their version."""
    return revision if version == 0 else f"{revision}, weights {version}"
