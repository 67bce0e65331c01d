"""A suite: named tasks with fixed initial states, the protocols under which they are run, and the simulator that runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..envs.api import Episode, Protocol
from ..envs.embodiments import Embodiment
from ..envs.errors import VlarigError, suggestion
from ..envs.faults import message_of, outcome_of, traceback_of
from .captions import Describer, Description
from .trial import Trial

#: Variation of the episodes that a policy is trained on.
TRAINING = "training"


@dataclass(frozen=True)
class Task:
    """One task of a suite.

    Attributes:
        name: Name within the suite.
        initial_states: The benchmark's literal seeds of initial states, or their indices.
        variant: Name of the variation; ``base`` where there is none.
        initial_states_under: Name of a protocol to its own initial states, where an evaluator plays others.
    """

    name: str
    initial_states: tuple[int, ...]
    variant: str = "base"
    initial_states_under: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def initial_states_of(self, protocol: Protocol) -> tuple[int, ...]:
        """The initial states that are played under a protocol; one that was derived plays those of the protocol it comes from."""
        return self.initial_states_under.get(protocol.derived_from or protocol.name, self.initial_states)


@dataclass(frozen=True)
class Patience:
    """How long a simulator may take before the watchdog holds it for hung and kills it, in seconds.

    Attributes:
        load: To load and build its first env.
        reset: To begin an episode.
        step: To carry out one step.
        prepare: To try a candidate for an initial state.
    """

    load: float = 300.0
    reset: float = 120.0
    step: float = 60.0
    prepare: float = 600.0


@dataclass(frozen=True)
class Footprint:
    """Memory that a worker takes, in MB (10^6 bytes), by which workers and envs are chosen. It is an estimate, and changes no result.

    Attributes:
        process: A worker with one env.
        env: A further env of the same task.
        task: A further task at the same time.
    """

    process: int = 1000
    env: int = 250
    task: int = 0

    def worker_bytes(self, envs: int, tasks: int) -> int:
        """Bytes that a worker takes with ``envs`` envs that play ``tasks`` tasks."""
        return (self.process + self.env * (envs - 1) + self.task * (tasks - 1)) * 10**6


@dataclass(frozen=True)
class Preparation:
    """How the initial states of a suite are found beforehand, by ``vlarig envs prepare``, where not every one will do.

    The initial states of a task are tried in the simulator, in the order of their numbers, by :meth:`vlarig.envs.api.Env.prepare`. The
    first ones that will do are the task's.

    Attributes:
        count: Initial states of each task.
        first: The initial state that is tried first.
        most: Tried initial states of a task after which it is given up.
        same: Names of entries of what is found which all initial states of the suite must share, such as the planner that solved them.
        name: Suites of one name share what is found, where adapter's code, data and payloads are the same. Default: the suite's name.
    """

    count: int
    first: int = 0
    most: int = 10_000
    same: tuple[str, ...] = ()
    name: str = ""


@dataclass(frozen=True)
class ReadStates:
    """Initial states out of data files.

    Attributes:
        states: Task to its initial states, each with what its payload gets.
        training: As :attr:`Suite.training`, out of the files for training; ``None`` where these are not there.
        note: What is remarkable about the files, such as that they are not the official ones.
    """

    states: Mapping[str, Mapping[int, dict[str, Any]]]
    training: Callable[[Task, int, Protocol], dict[str, Any]] | None = None
    note: str = ""


@dataclass(frozen=True)
class Suite:
    """A benchmark that can be swept.

    Attributes:
        name: What the user types.
        title: One line for listings.
        adapter: The :class:`~vlarig.envs.api.Env` subclass, as ``module:Class``; imported in the simulator's runtime alone.
        runtime: Name of the runtime (virtual environment) that holds the simulator.
        embodiment: The robot and its control convention.
        tasks: The tasks, in the order of tables.
        protocols: The named protocols; the first is the default.
        learned: The protocol that RL plays unless another is named, where that is not the default: a reward for what a default scores
            at an episode's end comes at the first success, and the episode ends there.
        source: Where tasks and protocols come from.
        payload: Gives the plain data that an episode carries to the adapter, of its task, initial state and protocol; none where the
            adapter finds everything by the task's name and the initial state.
        training: The same for the initial states that a policy is trained from, of the task and the number of one. There is no end of
            them, and none is played under any protocol; ``None`` where the suite has no such. An adapter that samples all by the
            episode's seed gets other seeds for them, so that ``payload`` will do.
        assorted: Samples the payload of a scene that is only looked at, with more variety than the tasks' scenes have: labels of its
            images are vision-language data; ``None`` where the tasks' scenes serve.
        describer: Puts a recorded demonstration into words, from an expert's stages and the simulator's truth; ``None`` where the
            suite has no words for it.
        preparation: How initial states are found beforehand; ``None`` where they are known. The payload of an episode then holds
            what was found, beside what ``payload`` gives.
        read_states: Reads the initial states from the data files, where these alone know them, given the folder of each bundle by
            name. Its tasks have none before.
        prepared: Task to its initial states that were found or read, each with what was found for it; set by ``vlarig``.
        patience: How long its simulator may take.
        footprint: Memory that its simulator takes.
        assets: Names of the asset bundles that the simulator reads; the adapter finds the folder of a bundle ``name`` in the
            environment variable ``VLARIG_ASSETS_<NAME>``.
        note: Note beside every number of the suite; empty where its definitions are a published benchmark's own.
        trial: What tests and measurements play of it.
        walks: What the ways of its robot are demonstrations of, one of the kinds of navigation data (paper, section 3.2.4): its
            recordings are walks. Empty for a robot that does not only move about.
    """

    name: str
    title: str
    adapter: str
    runtime: str
    embodiment: Embodiment
    tasks: tuple[Task, ...]
    protocols: tuple[Protocol, ...]
    source: str
    payload: Callable[[Task, int, Protocol], dict[str, Any]] = lambda task, initial_state, protocol: {}
    training: Callable[[Task, int, Protocol], dict[str, Any]] | None = None
    assorted: Callable[[np.random.Generator], dict[str, Any]] | None = None
    describer: Describer | None = None
    preparation: Preparation | None = None
    read_states: Callable[[Mapping[str, Path]], ReadStates] | None = None
    prepared: Mapping[str, Mapping[int, dict[str, Any]]] | None = None
    patience: Patience = Patience()
    footprint: Footprint = Footprint()
    assets: tuple[str, ...] = ()
    note: str = ""
    trial: Trial = field(default_factory=Trial)
    walks: str = ""
    learned: Protocol | None = None

    def __post_init__(self) -> None:
        if not self.tasks or not self.protocols:
            raise ValueError(f"suite {self.name!r} has no {'protocol' if self.tasks else 'task'}; give it one or more")
        for task in self.tasks:
            if not (task.initial_states or self.read_states):
                raise ValueError(f"task {task.name!r} of suite {self.name!r} has no initial states; give it one or more")

    def task(self, name: str) -> Task:
        """The task of that name."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise unknown("task", name, [task.name for task in self.tasks], f"suite {self.name!r}")

    def protocol(self, name: str | None = None) -> Protocol:
        """The protocol of that name; the default without a name."""
        for protocol in self.protocols:
            if name in (protocol.name, None):
                return protocol
        raise unknown("protocol", str(name), [protocol.name for protocol in self.protocols], f"suite {self.name!r}")

    @property
    def without_ensemble(self) -> list[str]:
        """Names of the protocols that run a policy's own steps."""
        return [protocol.name for protocol in self.protocols if protocol.ensemble is None]

    def episodes(
        self, tasks: Sequence[str] = (), per_task: int | None = None, protocol: Protocol | None = None
    ) -> list[Episode]:
        """The suite's episodes, task by task.

        Args:
            tasks: Names of the tasks wanted; all when empty.
            per_task: Episodes of each task: its first initial states, then the same initial states again as further repeats. Every
                initial state as often as in the protocol when ``None``.
            protocol: The protocol; the suite's default when ``None``.
        """
        chosen = [self.task(name) for name in tasks] or list(self.tasks)
        resolved = protocol or self.protocols[0]
        episodes = []
        for task in chosen:
            initial_states = task.initial_states_of(resolved)
            if not initial_states:  # the protocol plays other tasks
                continue
            for index in range(len(initial_states) * resolved.repeats if per_task is None else per_task):
                repeat, place = divmod(index, len(initial_states))
                episodes.append(self.episode(task, initial_states[place], repeat, resolved))
        return episodes

    def episode(self, task: Task, initial_state: int, repeat: int, protocol: Protocol) -> Episode:
        """One episode with its payload."""
        payload = self._made(self.payload, task, initial_state, protocol)
        if self.prepared is not None:
            payload = {**payload, **self.prepared[task.name].get(initial_state, {})}
        return Episode(self.name, protocol, task.name, task.variant, initial_state, repeat, payload)

    def training_episode(self, task: Task, number: int, protocol: Protocol) -> Episode:
        """One episode to train on, of the variation :data:`TRAINING`, from an initial state that no evaluation plays."""
        if self.training is None:
            raise VlarigError(
                f"suite {self.name!r} has no initial states for training, and those of its protocols are for evaluation; give it "
                "Suite.training, or give episodes of your own"
            )
        payload = self._made(self.training, task, number, protocol)
        return Episode(self.name, protocol, task.name, TRAINING, number, 0, payload)

    def training_episodes(self, tasks: Sequence[str], per_task: int, protocol: Protocol) -> list[Episode]:
        """The first ``per_task`` episodes to train on of each task, task by task; all tasks when none is named."""
        chosen = [self.task(name) for name in tasks] or list(self.tasks)
        return [self.training_episode(task, number, protocol) for task in chosen for number in range(per_task)]

    def episode_again(self, task: str, variant: str, initial_state: int, repeat: int, protocol: Protocol) -> Episode:
        """The episode that the parts of a key name, for evaluation or for training."""
        if variant == TRAINING:
            return self.training_episode(self.task(task), initial_state, protocol)
        return self.episode(self.task(task), initial_state, repeat, protocol)

    def described(
        self, stages: Sequence[str], truth: Sequence[Mapping[str, np.ndarray]], states: np.ndarray
    ) -> Description | None:
        """An episode in words by the :attr:`describer`, whose arguments these are; ``None`` where the suite has none."""
        if self.describer is None:
            return None
        with self._errors_named("put an episode into words"):
            return self.describer(stages, truth, states, self.embodiment)

    def _made(
        self, make: Callable[[Task, int, Protocol], dict[str, Any]], task: Task, initial_state: int, protocol: Protocol
    ) -> dict[str, Any]:
        with self._errors_named(f"made the payload of {task.name} {initial_state}"):
            return make(task, initial_state, protocol)

    @contextmanager
    def _errors_named(self, doing: str) -> Iterator[None]:
        """Turn what the suite's own code raises into a sentence that says so."""
        try:
            yield
        except (VlarigError, KeyboardInterrupt):
            raise
        except BaseException as error:
            message = f"suite {self.name!r} {outcome_of(error)} while it {doing}: {message_of(error)}"
            raise VlarigError(message, traceback=traceback_of(error)) from error


def refuse_unknown_tasks(names: Iterable[str], suites: Sequence[Suite]) -> None:
    """Make sure that each of the names is a task of at least one of the suites."""
    known = [task.name for suite in suites for task in suite.tasks]
    for name in names:
        if name not in known:
            raise unknown("task", name, known, " and ".join(suite.name for suite in suites))


def unknown(kind: str, name: str, known: Iterable[str], where: str) -> VlarigError:
    """The error for a name that does not exist: it offers the nearest ones, or all where none is near."""
    return VlarigError(f"unknown {kind} {name!r} in {where}; {suggestion(name, known)}")
