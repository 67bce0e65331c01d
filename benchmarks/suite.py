"""A suite: named tasks with fixed starts, the protocols under which they are run, and the simulator that runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..envs.api import Episode, Protocol
from ..envs.embodiments import Embodiment
from ..envs.errors import VlarigError, suggestion
from ..envs.faults import deed, message_of, traceback_of

#: Variation of the episodes that a policy is trained on.
TRAINING = "training"


@dataclass(frozen=True)
class Task:
    """One task of a suite.

    Attributes:
        name: Name within the suite.
        starts: The benchmark's literal seeds or rows of its fixed starts.
        variant: Name of the variation; ``base`` where there is none.
        starts_under: Name of a protocol to its own starts, where an evaluator plays others.
    """

    name: str
    starts: tuple[int, ...]
    variant: str = "base"
    starts_under: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def starts_of(self, protocol: Protocol) -> tuple[int, ...]:
        """The starts that are played under a protocol; one that was derived plays those of the protocol it comes from."""
        return self.starts_under.get(protocol.derived_from or protocol.name, self.starts)


@dataclass(frozen=True)
class Patience:
    """How long a simulator may take before the watchdog holds it for hung and kills it, in seconds.

    Attributes:
        load: To load and build its first env.
        start: To start an episode.
        row: To carry out one row of actions.
        prepare: To try a candidate for an initial state.
    """

    load: float = 300.0
    start: float = 120.0
    row: float = 60.0
    prepare: float = 600.0


@dataclass(frozen=True)
class Footprint:
    """Memory that a worker takes, in MB (10^6 bytes), by which workers and slots are chosen. It is an estimate, and changes no result.

    Attributes:
        process: A worker with one slot.
        slot: A further slot of the same task.
        task: A further task at the same time.
    """

    process: int = 1000
    slot: int = 250
    task: int = 0

    def worker_bytes(self, slots: int, tasks: int) -> int:
        """Bytes that a worker takes with ``slots`` slots that play ``tasks`` tasks."""
        return (self.process + self.slot * (slots - 1) + self.task * (tasks - 1)) * 10**6


@dataclass(frozen=True)
class Preparation:
    """How the initial states of a suite are found beforehand, by ``vlarig prepare``, where not every candidate will do.

    The candidates of a task are tried in the simulator, in the order of their numbers, by :meth:`vlarig.envs.api.Env.prepare`. The
    first ones that will do become the task's initial states, in that order.

    Attributes:
        count: Initial states of each task.
        candidate: Gives the payload of the task's candidate of that number.
        most: Candidates of a task after which it is given up.
    """

    count: int
    candidate: Callable[[Task, int], dict[str, Any]]
    most: int = 10_000


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
        source: Where tasks and protocols come from.
        payload: Gives the plain data that an episode carries to the adapter, of its task, start and protocol; none where the adapter
            finds everything by the task's name and the start.
        training: The same for the initial states that a policy is trained from, of the task and the number of one. There is no end of
            them, and none is played under any protocol; ``None`` where the suite has no such. An adapter that draws all by the
            episode's seed gets other seeds for them, so that ``payload`` will do.
        preparation: How initial states are found beforehand; ``None`` where they are known. The payload of an episode then holds
            what was found, beside what ``payload`` gives.
        prepared: Task to what was found for each of its initial states; set by ``vlarig``.
        patience: How long its simulator may take for things.
        footprint: Memory that its simulator takes.
        assets: Names of the asset bundles that the simulator reads; the adapter finds the folder of a bundle ``name`` in the
            environment variable ``VLARIG_ASSETS_<NAME>``.
        note: What must be said beside every number of the suite; empty where its definitions are a published benchmark's own.
    """

    name: str
    title: str
    adapter: str
    runtime: str
    embodiment: Embodiment
    tasks: tuple[Task, ...]
    protocols: tuple[Protocol, ...]
    source: str
    payload: Callable[[Task, int, Protocol], dict[str, Any]] = lambda task, start, protocol: {}
    training: Callable[[Task, int, Protocol], dict[str, Any]] | None = None
    preparation: Preparation | None = None
    prepared: Mapping[str, Sequence[dict[str, Any]]] | None = None
    patience: Patience = Patience()
    footprint: Footprint = Footprint()
    assets: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if not self.tasks or not self.protocols:
            raise ValueError(f"suite {self.name!r} has no {'protocol' if self.tasks else 'task'}; give it one or more")
        for task in self.tasks:
            if not task.starts:
                raise ValueError(f"task {task.name!r} of suite {self.name!r} has no starts; give it one or more")

    def task(self, name: str) -> Task:
        """The task of that name.

        Raises:
            VlarigError: There is none; the nearest names are offered.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        raise unknown("task", name, [task.name for task in self.tasks], f"suite {self.name!r}")

    def protocol(self, name: str | None = None) -> Protocol:
        """The protocol of that name; the default without a name.

        Raises:
            VlarigError: There is none; the nearest names are offered.
        """
        for protocol in self.protocols:
            if name in (protocol.name, None):
                return protocol
        raise unknown("protocol", str(name), [protocol.name for protocol in self.protocols], f"suite {self.name!r}")

    def episodes(
        self, tasks: Sequence[str] = (), per_task: int | None = None, protocol: Protocol | None = None
    ) -> list[Episode]:
        """The suite's episodes, task by task.

        Args:
            tasks: Names of the tasks wanted; all when empty.
            per_task: Episodes of each task: its first starts, then the same starts again as further repeats. Every start as
                often as the protocol says when ``None``.
            protocol: The protocol; the suite's default when ``None``.
        """
        chosen = [self.task(name) for name in tasks] or list(self.tasks)
        resolved = protocol or self.protocols[0]
        episodes = []
        for task in chosen:
            starts = task.starts_of(resolved)
            for index in range(len(starts) * resolved.repeats if per_task is None else per_task):
                repeat, place = divmod(index, len(starts))
                episodes.append(self.episode(task, starts[place], repeat, resolved))
        return episodes

    def episode(self, task: Task, start: int, repeat: int, protocol: Protocol) -> Episode:
        """One episode with its payload.

        Raises:
            VlarigError: The function that makes payloads raised; the sentence names the line.
        """
        payload = self._made(self.payload, task, start, protocol)
        if self.prepared is not None:
            payload = {**payload, **self.prepared[task.name][start]}
        return Episode(self.name, protocol, task.name, task.variant, start, repeat, payload)

    def training_episode(self, task: Task, number: int, protocol: Protocol) -> Episode:
        """One episode to train on, of the variation :data:`TRAINING`, from an initial state that no evaluation plays.

        Raises:
            VlarigError: The suite has none, or the function that makes payloads raised.
        """
        if self.training is None:
            raise VlarigError(
                f"suite {self.name!r} has no initial states for training, and those of its protocols are for evaluation; give it "
                "Suite.training, or give episodes of your own"
            )
        payload = self._made(self.training, task, number, protocol)
        return Episode(self.name, protocol, task.name, TRAINING, number, 0, payload)

    def _made(
        self, make: Callable[[Task, int, Protocol], dict[str, Any]], task: Task, start: int, protocol: Protocol
    ) -> dict[str, Any]:
        try:
            return make(task, start, protocol)
        except (VlarigError, KeyboardInterrupt):
            raise
        except BaseException as error:
            story = f"suite {self.name!r} {deed(error)} while it made the payload of {task.name}, start {start}: {message_of(error)}"
            raise VlarigError(story, traceback=traceback_of(error)) from error


def refuse_unknown_tasks(names: Iterable[str], suites: Sequence[Suite]) -> None:
    """Make sure that each of the names is a task of at least one of the suites.

    Raises:
        VlarigError: One is not; the nearest names are offered.
    """
    known = [task.name for suite in suites for task in suite.tasks]
    for name in names:
        if name not in known:
            raise unknown("task", name, known, " and ".join(suite.name for suite in suites))


def unknown(kind: str, name: str, known: Iterable[str], where: str) -> VlarigError:
    """The error for a name that does not exist: it offers the nearest ones, or all where none is near."""
    return VlarigError(f"unknown {kind} {name!r} in {where}; {suggestion(name, known)}")
