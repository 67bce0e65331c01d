"""The values that a run's ledger holds: finished episodes, failed attempts, and the sessions of its driver.

Shapes: ``A`` action channels of the episode's embodiment.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np

from ..envs.api import Outcome
from ..envs.untrusted import one_line

#: Digest of no images: the policy got none.
NO_IMAGES = hashlib.sha256().hexdigest()


class TaskKey(NamedTuple):
    """What a row of a table is about."""

    suite: str
    protocol: str
    task: str
    variant: str

    @classmethod
    def of(cls, key: str) -> Self:
        """The task of the episode of that key; a ``ValueError`` where it is none."""
        return cls(*split_key(key)[:4])


@dataclass(frozen=True, eq=False)
class EpisodeRecord:
    """A finished episode: what was measured, and what is needed to simulate it again.

    Attributes:
        key: The episode's key, ``suite/protocol@version/task/variant/initial_state/repeat``.
        suite: Name of the suite.
        protocol: The protocol as ``name@version``.
        task: Name of the task within the suite.
        variant: Name of the variation of the task.
        initial_state: The benchmark's literal seed of the initial state, or its index.
        repeat: Counts episodes that share all of the above.
        success: Success under the protocol's own rule.
        outcome: What the episode says under every rule.
        reward: Sum of the simulator's rewards.
        steps: Steps of actions that were executed.
        primitives: Simulator moves that the steps were carried out with.
        chunks: Steps executed in each chunk, in order.
        actions: ``float32[steps, A]``, the executed steps; ``float32[0, A]`` in a record that was read without its actions.
        metrics: The benchmark's own measures at the end.
        state_digest: SHA-256, in hex, over the simulator's states.
        image_digest: SHA-256, in hex, over the images that the policy was shown; :data:`NO_IMAGES` where it was shown none.
        seconds: Wall time by activity: ``simulate``, ``render``, ``policy``, ``wait`` and ``total``.
        worker: Name of the env process that ran the episode.
        instruction: The instruction that the policy got; empty where the ledger is older than this field.
        written: When it was written, in UTC, ISO 8601; the ledger fills it in.
    """

    key: str
    suite: str
    protocol: str
    task: str
    variant: str
    initial_state: int
    repeat: int
    success: bool
    outcome: Outcome
    reward: float
    steps: int
    primitives: int
    chunks: tuple[int, ...]
    actions: np.ndarray
    metrics: dict[str, float]
    state_digest: str
    image_digest: str
    seconds: dict[str, float]
    worker: str
    instruction: str = ""
    written: str = ""

    def __post_init__(self) -> None:
        parts = f"{self.suite}/{self.protocol}/{self.task}/{self.variant}/{self.initial_state}/{self.repeat}"
        if self.key != parts:
            raise ValueError(f"key is {self.key!r}, but the record's other fields say {parts!r}")
        actions = np.array(self.actions, dtype=np.float32, order="C")  # a copy: the record must not change with its source
        if actions.ndim != 2 or actions.shape[0] not in (0, self.steps):
            raise ValueError(f"actions of {self.key} have shape {list(actions.shape)}, expected [{self.steps}, A]")
        if sum(self.chunks) != self.steps:
            raise ValueError(f"chunks of {self.key} sum to {sum(self.chunks)} steps, expected steps, which is {self.steps}")
        actions.flags.writeable = False
        object.__setattr__(self, "actions", actions)
        object.__setattr__(self, "chunks", tuple(int(steps) for steps in self.chunks))
        object.__setattr__(self, "reward", float(self.reward) + 0.0)  # SQLite keeps no negative zero
        object.__setattr__(self, "metrics", {name: float(self.metrics[name]) for name in sorted(self.metrics)})
        object.__setattr__(self, "seconds", {name: float(self.seconds[name]) for name in sorted(self.seconds)})

    @property
    def saw_images(self) -> bool:
        return self.image_digest != NO_IMAGES

    def result(self) -> dict[str, Any]:
        """The part that must be equal in two runs of the same episode, as plain values that compare exactly.

        Timings and the worker are left out, and the instruction, which older ledgers lack. Floats are given by their shortest exact
        text, so that NaN equals NaN and nothing is rounded; actions by a SHA-256 over their shape and bytes.

        Raises:
            ValueError: The record was read without its actions.
        """
        if len(self.actions) != self.steps:
            raise ValueError(f"the record of {self.key} was read without its actions, so its result cannot be compared")
        data = np.ascontiguousarray(self.actions, dtype="<f4").tobytes()
        actions = hashlib.sha256(f"{list(self.actions.shape)}".encode() + data).hexdigest()
        return {
            "key": self.key,
            "success": self.success,
            "outcome": self.outcome,
            "reward": repr(self.reward),
            "steps": self.steps,
            "primitives": self.primitives,
            "chunks": self.chunks,
            "actions": actions,
            "metrics": {name: repr(value) for name, value in self.metrics.items()},
            "state_digest": self.state_digest,
            "image_digest": self.image_digest,
        }


def differing_fields(one: EpisodeRecord, other: EpisodeRecord) -> list[str]:
    """Names of the fields of :meth:`EpisodeRecord.result` in which two records differ; a metric is ``metrics.<name>``."""
    mine, theirs = one.result(), other.result()
    names = [name for name in mine if name != "metrics" and mine[name] != theirs[name]]
    metrics, others = mine["metrics"], theirs["metrics"]
    names += [f"metrics.{name}" for name in sorted(metrics.keys() | others.keys()) if metrics.get(name) != others.get(name)]
    return names


@dataclass(frozen=True)
class Attempt:
    """An attempt at an episode that failed for a reason that is not the policy's.

    Attributes:
        key: Key of the episode that was running.
        number: Counts the attempts at the episode within one session of the driver, from 1.
        kind: ``crash``, ``hang``, ``env_error`` or another word for what went wrong.
        message: What is known about the cause.
        worker: Name of the env process.
        gave_up: Whether this was the last attempt of the session: the episode counts as an error until a later session
            finishes it.
        host: Name of the machine that the driver ran on; the ledger fills it in.
        written: When it was written, in UTC, ISO 8601; the ledger fills it in.
    """

    key: str
    number: int
    kind: str
    message: str
    worker: str
    gave_up: bool = False
    host: str = field(default="", compare=False)
    written: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        split_key(self.key)


@dataclass(frozen=True)
class Session:
    """One start of a run's driver.

    Attributes:
        git_revision: Commit of the source tree; ``None`` outside a checkout.
        packages: Versions of the installed packages that matter, by name.
        host: Name of the machine.
        workers: Number of env processes.
        num_envs: Number of concurrent envs.
        started: Start in UTC, ISO 8601; the ledger fills it in.
        ended: End in UTC, ISO 8601; ``None`` while running, and where the driver was killed.
    """

    git_revision: str | None
    host: str
    workers: int
    num_envs: int
    packages: dict[str, str] = field(default_factory=dict)
    started: str = ""
    ended: str | None = None


def split_key(key: str) -> tuple[str, str, str, str, int, int]:
    """The parts of an episode's key: suite, protocol, task, variant, initial state, repeat; a ``ValueError`` where it is none."""
    try:
        suite, protocol, task, variant, initial_state, repeat = key.split("/")
        return suite, protocol, task, variant, int(initial_state), int(repeat)
    except ValueError:
        wanted = "suite/protocol@version/task/variant/initial_state/repeat"
        raise ValueError(f"{one_line(repr(key))} is no episode key; expected {wanted}") from None
