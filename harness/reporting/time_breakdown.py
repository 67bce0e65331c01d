"""Where the time of a sweep goes: a breakdown of one suite in one session, whose parts add up to the whole."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Self

from ...policies.batching import Load

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
        render: Env seconds in which its pictures were drawn.
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
