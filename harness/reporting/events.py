"""The events of a sweep, which its log holds, ``--json`` prints, and ``vlarig doctor RUN`` reads. One JSON object a line.

An event's fields are those of its class, which writer, reader and documentation share. Unknown names and fields are errors where an
event is made; a reader skips lines that it cannot parse.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from .time_breakdown import TimeBreakdown

LOG_NAME = "events.jsonl"

#: Where a log goes when it has grown too large; one such file is kept.
OLD_LOG_NAME = "events.1.jsonl"


class _Event(BaseModel):
    """The fields that every event has; on a line the event's name, ``event``, comes first."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    time: str = ""
    """UTC, ISO 8601 with milliseconds, by the machine's clock."""
    seconds: float = 0.0
    """Seconds since the command began, by a clock that never jumps."""
    session: int = 0
    """Which start of the driver it belongs to, counted from 1 over the run's life; 0 before the run was opened."""


class SessionStarted(_Event):
    """The driver has opened the run."""

    event: Literal["session_started"] = "session_started"
    run: str
    """Folder of the run."""
    pid: int
    """Process id of the driver."""
    host: str
    """Name of the machine."""
    cores: int
    """Cores that this process may use."""
    memory: int
    """Bytes of memory that were free."""
    policy: str
    """Name of the policy."""
    policy_revision: str | None
    """What fixes its weights."""
    episodes: int
    """Episodes of the run, or of its shard."""
    finished: int
    """Those that earlier sessions finished."""
    config: dict[str, Any]
    """The sweep's configuration."""
    packages: dict[str, str]
    """Versions of the packages that matter, by name, with `python`."""


class SessionEnded(_Event):
    """The driver is done with the run; it is missing where it was killed."""

    event: Literal["session_ended"] = "session_ended"
    outcome: Literal["complete", "incomplete", "interrupted", "failed"]
    """`complete` where every episode has a result, `incomplete` where some were given up, else what ended it early."""
    finished: int
    """Finished episodes of the run."""
    errors: int
    """Episodes that were given up."""


class SuiteStarted(_Event):
    """A suite's workers are about to be started."""

    event: Literal["suite_started"] = "suite_started"
    suite: str
    """Name of the suite."""
    protocol: str
    """Its protocol, as `name@version`."""
    owed: int
    """Episodes to be run."""
    workers: int
    """Simulator processes."""
    num_envs: int
    """Episodes under way at a time, in all."""
    batch: int
    """Largest batch of the policy."""
    why: str
    """The reason for the numbers of workers and envs."""


class SuiteEnded(_Event):
    """A suite is done with: its episodes are finished or given up, or the sweep ends early."""

    event: Literal["suite_ended"] = "suite_ended"
    suite: str
    """Name of the suite."""
    breakdown: TimeBreakdown
    """Where its time went."""


class WorkerStarted(_Event):
    """A worker is up, for the first time or after it died."""

    event: Literal["worker_started"] = "worker_started"
    suite: str
    """Name of the suite."""
    worker: str
    """Name of the worker."""
    pid: int | None
    """Its process id, on its machine."""


class WorkerDied(_Event):
    """A worker died, and its state is lost; where it was carrying out a request, that is a failed attempt too."""

    event: Literal["worker_died"] = "worker_died"
    suite: str
    """Name of the suite."""
    worker: str
    """Name of the worker."""
    pid: int | None
    """Process id that it had."""


class EpisodeFinished(_Event):
    """An episode has a result."""

    event: Literal["episode_finished"] = "episode_finished"
    key: str
    """The episode's key."""
    success: bool
    """Success by the protocol's own rule."""
    steps: int
    """Steps that were carried out."""
    chunks: int
    """Queries of the policy."""
    spent: dict[str, float]
    """Seconds by activity: `simulate`, `render`, `policy`, `wait`."""
    worker: str
    """Name of the worker."""
    attempt: int
    """1, and 1 more for each attempt that failed before in this session."""


class AttemptFailed(_Event):
    """An attempt at an episode failed for a reason that is not the policy's."""

    event: Literal["attempt_failed"] = "attempt_failed"
    key: str
    """The episode's key."""
    number: int
    """Which attempt of this session it was."""
    kind: str
    """What went wrong: `crash`, `hang`, `memory`, `env_error`."""
    message: str
    """The cause, as far as it is known."""
    worker: str
    """Name of the worker."""
    gave_up: bool
    """Whether the episode is given up for this session."""


class ProgressMade(_Event):
    """How far the sweep is: two seconds after a suite's start, then every ten, and after an hour every minute."""

    event: Literal["progress"] = "progress"
    expected: int
    """Episodes of the run."""
    finished: int
    """Those with a result."""
    successes: int
    """Finished episodes that succeeded."""
    errors: int
    """Episodes that were given up in this session."""
    left: int
    """Episodes that are neither."""
    episodes_per_minute: float
    """The present rate."""
    steps_per_second: float
    """The mean rate of this session."""
    seconds_left: float | None
    """Seconds that the rest takes at the present rate; `null` while there is no rate."""
    shares: dict[str, float]
    """Share of `simulate`, `render`, `policy` and `wait` in the envs' time, from 0 to 1, for this suite."""
    workers_busy: float
    """Share of their time in which the workers simulated or rendered, from 0 to 1, for this suite."""
    workers_occupied: float
    """Share of their time in which the workers had a request to carry out, from 0 to 1, for this suite."""
    policy_busy: float
    """Share of the time in which the policy was busy, from 0 to 1, for this suite."""
    mean_batch: float
    """Requests in a batch on average, for this suite."""
    envs: dict[str, int]
    """Number of envs by present activity: `simulate`, `policy`, `reset`, `idle`."""
    cpu: float
    """Cores that the driver has kept busy on average, for this suite."""
    memory: int | None
    """Bytes of memory that the driver holds; `null` where it is unknown."""
    load: float | None
    """The machine's load average of a minute, of all that runs on it."""
    suite: str
    """The suite that is being played."""
    breakdown: TimeBreakdown
    """Where its time went so far."""


class Note(_Event):
    """A message beside the numbers, or about something that takes a while."""

    event: Literal["note"] = "note"
    text: str
    """The message."""


class Warned(_Event):
    """A message that the user should read; the sweep goes on."""

    event: Literal["warning"] = "warning"
    text: str
    """The message."""


class FilmingStarted(_Event):
    """Films are about to be made."""

    event: Literal["filming_started"] = "filming_started"
    which: str
    """Which episodes: `failures` or `all`."""


class FilmingEnded(_Event):
    """The films are made."""

    event: Literal["filming_ended"] = "filming_ended"
    films: int
    """Films of the run, those of earlier sessions among them."""
    unfilmed: int
    """Episodes that were to be filmed and could not be."""
    folder: str
    """Where they are."""


class Failed(_Event):
    """The command ends early, with this message."""

    event: Literal["error"] = "error"
    message: str
    """The message."""


class TaskResult(BaseModel):
    """The result of a task so far."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    suite: str
    """Name of the suite."""
    protocol: str
    """Its protocol, as `name@version`."""
    task: str
    """Name of the task."""
    variant: str
    """Name of its variation."""
    success_rate: float | None
    """Share of its finished episodes that succeeded, from 0 to 1; `null` without any."""
    interval: tuple[float, float]
    """Its 95 % interval (Wilson)."""
    n: int
    """Finished episodes."""
    successes: int
    """Those that succeeded."""
    errors: int
    """Episodes that were given up."""
    missing: int
    """Episodes that were not run."""


class Result(_Event):
    """The last line: what was measured, and how the command ends."""

    event: Literal["result"] = "result"
    run: str | None
    """Folder of the run; `null` where none was opened."""
    complete: bool
    """Whether every episode has a result."""
    status: int
    """Exit status: 0 complete, 1 incomplete, 2 a mistake that the user can fix, 130 interrupted, 143 by SIGTERM."""
    tasks: list[TaskResult]
    """The result of each task."""


Event = (
    SessionStarted
    | SessionEnded
    | SuiteStarted
    | SuiteEnded
    | WorkerStarted
    | WorkerDied
    | EpisodeFinished
    | AttemptFailed
    | ProgressMade
    | Note
    | Warned
    | FilmingStarted
    | FilmingEnded
    | Failed
    | Result
)

#: Name of an event to its class.
KINDS: dict[str, type[_Event]] = {kind.model_fields["event"].default: kind for kind in get_args(Event)}

_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def line_of(event: Event) -> str:
    """The event as a line of JSON in ASCII, without the line's end; its floats are rounded to a millionth."""
    return json.dumps({"event": event.event} | _rounded(event.model_dump(mode="json")), separators=(",", ":"))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


def parse(line: str | bytes) -> Event:
    """The event on a line.

    Raises:
        ValueError: It is no event of this version, or cut short.
    """
    return _ADAPTER.validate_json(line)


def read_events(folder: Path, leave_out: Collection[str] = ()) -> Iterator[Event | None]:
    """The events of a log, oldest first, and ``None`` for each line that cannot be parsed.

    The last line of a log whose writer was killed, or is just writing, may be torn: it gives nothing.

    Args:
        folder: The run's folder of logs.
        leave_out: Names of events to skip; lines begin with the name, so these cost next to nothing.
    """
    skipped = tuple(f'{{"event":"{name}"'.encode() for name in leave_out)
    for name in (OLD_LOG_NAME, LOG_NAME):
        path = folder / name
        if not path.is_file():
            continue
        with path.open("rb") as file:
            for line in file:
                if line.startswith(skipped) or not line.strip():
                    continue
                try:
                    yield parse(line)
                except ValidationError:
                    if line.endswith(b"\n"):
                        yield None
