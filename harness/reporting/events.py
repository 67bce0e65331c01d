"""The events of a sweep, which its log holds, ``--json`` prints, and ``vlarig doctor RUN`` reads. One JSON object a line.

An event's fields are those of its class, which writer, reader and documentation share. A reader skips lines that it cannot parse. Where
the time of a suite goes is an event's ``breakdown``, whose parts add up to the whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from ...policies.member_queue import Load

LOG_NAME = "events.jsonl"

#: Activities that env time is divided into, in the order in which they are shown.
ACTIVITIES = ("simulate", "render", "policy", "wait")


@dataclass
class TimeBreakdown:
    """Where the time of a suite's part of a session went; breakdowns add up.

    Env seconds are seconds of all envs together: eight envs that play for a minute make 480. They are divided into ``simulate``,
    ``render``, ``policy``, ``wait``, ``saving``, ``idle`` and what :meth:`rest` gives.

    Attributes:
        starting: Seconds until all workers were up.
        playing: Seconds from then until the last episode ended.
        worker_seconds: ``playing`` times the workers.
        env_seconds: ``playing`` times the envs.
        simulate: Env seconds in which the env's episode was simulated.
        render: Env seconds in which its images were rendered.
        policy: Env seconds in which the policy worked on its request.
        wait: Env seconds in which it waited: for the policy's or the worker's turn, or for its simulator to be restored.
        recovering: Those of ``wait`` in chunks during which an attempt failed on the same worker.
        saving: Env seconds in which it waited for the ledger, because the disk was slow.
        idle: Env seconds in which there was no episode left for it; sampled a few times a second.
        reset: Env seconds in which an episode was being started; sampled likewise.
        occupied: Worker seconds in which a worker had a request to carry out; sampled likewise.
        episodes: Finished episodes.
        chunks: Chunks that were carried out.
        steps: Steps that were carried out.
        deaths: Workers that died between requests; a death during one is a failed attempt.
        load: The policy's load.
        driver_cpu: Seconds of CPU that the driver used, with a policy that computes in it.
        loop_cpu: Those of the thread that moves the messages.
        looks: Number of samples.
        late: Seconds by which the samples came too late, all together.
    """

    starting: float = 0.0
    playing: float = 0.0
    worker_seconds: float = 0.0
    env_seconds: float = 0.0
    simulate: float = 0.0
    render: float = 0.0
    policy: float = 0.0
    wait: float = 0.0
    recovering: float = 0.0
    saving: float = 0.0
    idle: float = 0.0
    reset: float = 0.0
    occupied: float = 0.0
    episodes: int = 0
    chunks: int = 0
    steps: int = 0
    deaths: int = 0
    load: Load = field(default_factory=Load)
    driver_cpu: float = 0.0
    loop_cpu: float = 0.0
    looks: int = 0
    late: float = 0.0

    @property
    def played(self) -> float:
        """Env seconds of the chunks that were carried out."""
        return self.simulate + self.render + self.policy + self.wait

    @property
    def rest(self) -> float:
        """Env seconds of chunks that are under way or were given up."""
        return max(0.0, self.env_seconds - self.played - self.saving - self.idle)

    @property
    def worked(self) -> float:
        """Seconds in which workers simulated or rendered."""
        return self.simulate + self.render

    @property
    def workers_busy(self) -> float:
        """Share of their time in which the workers simulated or rendered, from 0 to 1."""
        return share(self.worked, self.worker_seconds)

    @property
    def workers_occupied(self) -> float:
        """Share of their time in which the workers had a request to carry out, from 0 to 1."""
        return share(max(self.occupied, self.worked), self.worker_seconds)

    @property
    def policy_busy(self) -> float:
        """Share of the time in which the policy was working on a batch, from 0 to 1."""
        return share(self.load.seconds, self.playing)

    @property
    def mean_batch(self) -> float:
        """Requests in a batch on average; 0 without any."""
        return self.load.requests / self.load.batches if self.load.batches else 0.0

    def waits(self) -> dict[str, float]:
        """Env seconds of ``wait`` by what was waited for; a worker's turn includes its answer on the way."""
        queued = max(0.0, min(self.load.queued, self.wait - self.recovering))
        rest = max(0.0, self.wait - self.recovering - queued)
        return {"a worker's turn": rest, "the policy's turn": queued, "failed attempts": self.recovering}

    def shares(self) -> dict[str, float]:
        """Share of each of :data:`ACTIVITIES` in the env seconds of the chunks that were carried out, from 0 to 1."""
        return {name: share(getattr(self, name), self.played) for name in ACTIVITIES}

    def __add__(self, other: Self) -> Self:
        return type(self)(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})


def share(part: float, whole: float) -> float:
    """``part`` of ``whole``, from 0 to 1; 0 of nothing."""
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0


class _Event(msgspec.Struct, forbid_unknown_fields=True, tag_field="event"):
    """The fields that every event has; on a line the event's name, ``event``, comes first.

    Attributes:
        time: UTC, ISO 8601 with milliseconds, by the machine's clock.
        seconds: Seconds since the command began, by a clock that never jumps.
        session: Which start of the driver it belongs to, counted from 1 over the run's life; 0 before the run was opened.
    """

    time: str = ""
    seconds: float = 0.0
    session: int = 0


class SessionEvent(_Event, kw_only=True, tag="session"):
    """The driver has opened the run, or is done with it; the second is missing where it was killed.

    Attributes:
        state: ``started``, or how it ended: ``complete`` where every episode has a result, ``incomplete`` where some were given up,
            else what ended it early.
        run: Folder of the run.
        pid: Process id of the driver.
        host: Name of the machine.
        cores: Cores that this process may use.
        memory: Bytes of memory that were free.
        policy: Name of the policy.
        policy_revision: What fixes its weights.
        episodes: Episodes of the run, or of its shard.
        finished: Those that are finished.
        errors: Those that were given up in this session.
        config: The sweep's configuration.
        packages: Versions of the packages that matter, by name, with ``python``.
    """

    state: Literal["started", "complete", "incomplete", "interrupted", "failed"]
    run: str
    pid: int
    host: str
    cores: int
    memory: int
    policy: str
    policy_revision: str | None
    episodes: int
    finished: int
    errors: int
    config: dict[str, Any]
    packages: dict[str, str]


class SuiteEvent(_Event, kw_only=True, tag="suite"):
    """A suite's workers are about to be started; or it is done with: its episodes have a result, or the sweep ends early.

    Attributes:
        state: ``started`` or ``ended``.
        suite: Name of the suite.
        protocol: Its protocol, as ``name@version``.
        owed: Episodes to be run.
        workers: Simulator processes.
        num_envs: Episodes under way at a time, in all.
        batch: Largest batch of the policy.
        why: The reason for the numbers of workers and envs.
        breakdown: Where its time went.
    """

    state: Literal["started", "ended"]
    suite: str
    protocol: str
    owed: int
    workers: int
    num_envs: int
    batch: int
    why: str
    breakdown: TimeBreakdown


class ProgressEvent(_Event, kw_only=True, tag="progress"):
    """How far the sweep is: two seconds after a suite's start, then every ten, and after an hour every minute.

    Attributes:
        expected: Episodes of the run.
        finished: Those with a result.
        successes: Finished episodes that succeeded.
        errors: Episodes that were given up in this session.
        episodes_per_minute: The present rate.
        steps_per_second: The mean rate of this session.
        seconds_left: Seconds that the rest takes at the present rate; ``null`` while there is no rate.
        envs: Number of envs by present activity: ``simulate``, ``policy``, ``reset``, ``idle``.
        load: The machine's load average of a minute, of all that runs on it.
        suite: The suite that is being played.
        breakdown: Where its time went so far.
    """

    expected: int
    finished: int
    successes: int
    errors: int
    episodes_per_minute: float
    steps_per_second: float
    seconds_left: float | None
    envs: dict[str, int]
    load: float | None
    suite: str
    breakdown: TimeBreakdown


class EpisodeEvent(_Event, kw_only=True, tag="episode"):
    """An episode has a result, or an attempt at it failed for a reason that is not the policy's.

    Attributes:
        key: The episode's key.
        worker: Name of the worker.
        attempt: Which attempt of this session it was, counted from 1.
        success: Success by the protocol's own rule; ``null`` where the attempt failed.
        steps: Steps that were carried out, of a result.
        chunks: Queries of the policy, of a result.
        spent: Seconds by activity, of a result: ``simulate``, ``render``, ``policy``, ``wait``.
        kind: What went wrong, of a failed attempt: ``crash``, ``hang``, ``memory``, ``env_error``.
        message: The cause of a failed attempt, as far as it is known.
        gave_up: Whether the episode is given up for this session.
    """

    key: str
    worker: str
    attempt: int
    success: bool | None = None
    steps: int = 0
    chunks: int = 0
    spent: dict[str, float] = {}
    kind: str = ""
    message: str = ""
    gave_up: bool = False


class Note(_Event, kw_only=True, tag="note"):
    """A message beside the numbers.

    Attributes:
        level: ``info``; ``warning`` where the user should read it, and the sweep goes on; ``error`` where the command ends early.
        text: The message.
    """

    level: Literal["info", "warning", "error"]
    text: str


class TaskResult(msgspec.Struct, kw_only=True):
    """The result of a task so far.

    Attributes:
        suite: Name of the suite.
        protocol: Its protocol, as ``name@version``.
        task: Name of the task.
        variant: Name of its variation.
        success_rate: Share of its finished episodes that succeeded, from 0 to 1; ``null`` without any.
        interval: Its 95 % interval (Wilson).
        n: Finished episodes.
        successes: Those that succeeded.
        errors: Episodes that were given up.
        missing: Episodes that were not run.
    """

    suite: str
    protocol: str
    task: str
    variant: str
    success_rate: float | None
    interval: tuple[float, float]
    n: int
    successes: int
    errors: int
    missing: int


class Result(_Event, kw_only=True, tag="result"):
    """The last line: what was measured, and how the command ends.

    Attributes:
        run: Folder of the run; ``null`` where none was opened.
        complete: Whether every episode has a result.
        status: Exit status: 0 complete, 1 incomplete, 2 a mistake that the user can fix, 130 interrupted, 143 by SIGTERM.
        tasks: The result of each task.
    """

    run: str | None
    complete: bool
    status: int
    tasks: list[TaskResult]


Event = SessionEvent | SuiteEvent | ProgressEvent | EpisodeEvent | Note | Result

_DECODER = msgspec.json.Decoder(Event)


def line_of(event: Event) -> str:
    """The event as a line of JSON in ASCII, without the line's end."""
    return json.dumps(msgspec.to_builtins(event), separators=(",", ":"))


def parse(line: str | bytes) -> Event:
    """The event on a line.

    Raises:
        msgspec.DecodeError: It is no event of this version, or cut short.
    """
    return _DECODER.decode(line)


def read_events(folder: Path) -> Iterator[Event | None]:
    """The events in a run's folder of logs, oldest first, and ``None`` for each line that cannot be parsed.

    The last line of a log whose writer was killed, or is just writing, may be torn: it gives nothing.
    """
    path = folder / LOG_NAME
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                yield parse(line)
            except msgspec.DecodeError:
                if line.endswith(b"\n"):
                    yield None
