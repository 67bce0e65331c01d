"""The policy API: a batch of requests goes in, a chunk of actions for each comes out.

Shapes: ``H`` rows of a chunk, ``A`` action channels of the request's embodiment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..envs.api import Needs, Observation
from ..envs.embodiments import Embodiment
from ..envs.errors import VlarigError

#: Environment variable of a replica's process, where it is on Linux: path of a file in memory that is the same for all replicas on the
#: machine, empty at first and gone with the last of them. It is for what they can share, such as weights.
SHARED_FILE_VARIABLE = "VLARIG_SHARED_FILE"


class PolicyError(VlarigError):
    """A policy broke its contract, or does not fit the suite it was asked to play."""


class PolicyLost(Exception):
    """The process that a policy ran in is gone, and with it what it knew of the episode; nobody's fault. Begin the episode again."""


@dataclass(frozen=True)
class Request:
    """One slot's question: what to do next.

    Attributes:
        slot: Number of the slot that asks; a policy that keeps notes keeps them by slot.
        key: The episode's key.
        chunk: Chunks executed so far in this episode; at 0 a policy forgets its notes on the slot.
        seed: Seed of the policy's own randomness, a function of (run seed, key, chunk).
        observation: What the policy sees.
        embodiment: Whom it moves.
        execute: How many rows of the answer will be run.
        privileged: Simulator truth by name, empty unless the policy declares that it needs it.
    """

    slot: int
    key: str
    chunk: int
    seed: int
    observation: Observation
    embodiment: Embodiment
    execute: int
    privileged: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """The answer to a request.

    Attributes:
        actions: ``float32[H, A]`` in the env's own units.
        extras: What a recording policy adds (log-probability, denoising states, value); opaque to the engine.
    """

    actions: np.ndarray
    extras: dict[str, Any] = field(default_factory=dict)


class Policy(Protocol):
    """What the engine asks of a policy. Any class with these members can be named as ``module:Name`` on the command line.

    The class is made once, with the user's ``--policy-options`` as keyword arguments. ``act`` is called from one thread, never twice
    at a time, with requests of different episodes, tasks and slots in one batch; its answer to a request must not depend on the
    others in the batch.

    Members more are used where a policy has them: ``check(suite, embodiment)``, called for each suite before anything is
    started, raises :class:`PolicyError` where the policy does not fit; ``make_strict()``, called for ``--strict``, makes it
    compute in one thread in float32; ``rows(embodiment)`` says how many rows it answers to whom, where that is not always its
    ``horizon``; ``rounds_by_batch``, true for a neural policy whose rounding depends on the batch's shape and that may be asked the
    same twice, has that measured; ``keeps_notes``, false for one whose answer is a function of the request alone, lets an episode go on
    where one of several replicas died; ``embodiments`` and ``reads_state`` are told to clients where the policy is served;
    ``transport_options`` names options that change no answer (a timeout), which are no part of a run's identity; ``close()`` is called
    once at the end where the policy was loaded by its name; ``version``, an int that a policy in training raises with each update, is
    kept with every transition. A policy in several processes or on several servers is a :class:`~vlarig.policies.pool.PolicyPool`.
    """

    name: str
    """Names the policy in tables and in the run's identity."""

    revision: str
    """Changes whenever the policy would act differently: a version, a checkpoint's hash."""

    needs: Needs
    """What the policy wants to see."""

    horizon: int | None
    """``H``, the rows of each answer; ``None`` when it answers with as many as the request's ``execute``."""

    def act(self, requests: Sequence[Request]) -> Sequence[Reply]:
        """One reply for each request, in order."""
        ...


def policy_seed(run_seed: int, key: str, chunk: int) -> int:
    """The seed of a policy's draw: 64 bits of SHA-256 over the run's seed, the episode's key and the chunk's index."""
    identity = f"{run_seed}/{key}/{chunk}"
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big")
