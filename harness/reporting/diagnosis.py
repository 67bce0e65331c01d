"""The diagnosis of a sweep's speed: the bottleneck, what to change, and an upper bound of the gain.

A worker and the policy work for an episode in turn; each serves one request (the policy: one batch) at a time. So a sweep takes at
least as long as the busier of the two is busy, and relieving one helps until the other is full. That gives the bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from ...policies.member_queue import Load
from .events import TimeBreakdown, share

#: A stage (workers, or the policy) that is busy for this share of the time is a bottleneck.
BUSY = 0.75

#: A policy that is the bottleneck and uses this many cores computes in the driver's process.
COMPUTING = 0.5

#: Envs of a worker from which one of its episodes nearly always has a request for it.
ENOUGH_ENVS = 4

#: Fewest batches of a size that count as a measurement.
MIN_BATCHES = 3

#: A request in a larger batch that is cheaper by this factor makes larger batches worth while.
CHEAPER = 1.25


@dataclass(frozen=True)
class Setting:
    """How suites were swept.

    Attributes:
        cores: Cores that the driver could use.
        workers: Simulator processes.
        num_envs: Envs of all workers together.
        batch: Largest batch.
        episodes: Episodes that were owed, of the suite with the most.
        workers_given: Whether the user set their number; else it is one a core, or what memory or the episodes allow.
        strict: Whether the policy answered one request at a time, for the sake of its rounding.
        protocol: The first suite's protocol.
        renderer: What rendered the images.
        load: The machine's load average.
    """

    cores: int
    workers: int
    num_envs: int
    batch: int
    episodes: int
    workers_given: bool = False
    strict: bool = False
    protocol: dict[str, Any] = field(default_factory=dict)
    renderer: str = ""
    load: float | None = None

    @property
    def envs(self) -> int:
        """Envs of a worker, or one less."""
        return math.ceil(self.num_envs / self.workers)


@dataclass(frozen=True)
class Verdict:
    """One cause.

    Attributes:
        seconds: Most seconds that removing it could save.
        text: The cause, what to change, and the possible gain.
    """

    seconds: float
    text: str


def bottleneck(breakdown: TimeBreakdown) -> str:
    """The bottleneck of the breakdown's suite: ``policy``, ``workers``, or ``turns`` where neither is full."""
    policy, workers = breakdown.policy_busy, breakdown.workers_occupied
    if max(policy, workers) < BUSY * (1 - _away(breakdown)):
        return "turns"
    return "policy" if policy >= workers else "workers"


def _away(breakdown: TimeBreakdown) -> float:
    """Share of their time in which envs could send no request; whether a stage is busy is judged by the rest."""
    return share(breakdown.idle + breakdown.saving, breakdown.env_seconds)


def diagnose(breakdown: TimeBreakdown, setting: Setting) -> list[Verdict]:
    """The causes for suites of one bottleneck, the most weighty first."""
    if breakdown.chunks == 0:
        return []
    kind = bottleneck(breakdown)
    if kind == "policy":
        verdicts = [_policy(breakdown, setting)]
    elif kind == "workers":
        verdicts = [
            _workers(breakdown, setting),
            *_rendering(breakdown, setting),
            *_resets(breakdown),
            *_beside(breakdown, setting),
        ]
    else:
        verdicts = [_turns(breakdown, setting)]
    verdicts += [*_no_episode_left(breakdown, setting), *_slow_disk(breakdown), *_others(breakdown, setting)]
    return sorted(verdicts, key=lambda verdict: -verdict.seconds)


def _cause(least: float, part: float, breakdown: TimeBreakdown, text: str) -> list[Verdict]:
    """A cause that takes this part of the time, from a least part on."""
    return [Verdict(breakdown.playing * part, text)] if part >= least else []


def _policy(breakdown: TimeBreakdown, setting: Setting) -> Verdict:
    load, occupied = breakdown.load, breakdown.workers_occupied
    parts = [
        f"The policy is the bottleneck: it was busy {percent(breakdown.policy_busy)} of the time, in batches of "
        f"{breakdown.mean_batch:.1f} on average from {setting.num_envs} envs; the workers had something to do "
        f"{percent(occupied)} of the time."
    ]
    if setting.strict:
        parts.append("--strict has it answer one request at a time, which is its price.")
    else:
        if share(load.held_back, load.batches) > 0.2 and setting.batch < setting.num_envs:
            parts.append(f"Batches are held to {setting.batch} while more requests wait: --batch {setting.num_envs}.")
        parts.append(_about_batches(load, setting))
    parts.append(_about_device(breakdown, setting))
    parts.append(f"An instant policy would make the sweep {at_most(1 / max(occupied, 1e-3))} before the workers are full.")
    return Verdict(breakdown.playing * (1 - occupied), " ".join(parts))


def _about_batches(load: Load, setting: Setting) -> str:
    """What more envs, whose batches are larger, would bring."""
    known = [each for _, each in sorted(load.sizes.items()) if each.batches >= MIN_BATCHES]
    if len(known) < 2:
        return f"Where it answers many requests nearly as fast as one, more envs make larger batches{_more_envs(setting)}."
    small, large = ((each.requests / each.batches, each.seconds / each.requests) for each in (known[0], known[-1]))
    measured = f"a request took it {duration(small[1])} in batches of {small[0]:.1f}, {duration(large[1])} in batches of {large[0]:.1f}"
    if small[1] >= CHEAPER * large[1]:
        return f"Larger batches are cheaper ({measured}), and more envs make larger ones{_more_envs(setting)}."
    return f"Larger batches are hardly cheaper ({measured}), so more envs would not help."


def _about_device(breakdown: TimeBreakdown, setting: Setting) -> str:
    # What the driver uses beside moving messages is a policy that computes in it.
    computing = max(0.0, breakdown.driver_cpu - breakdown.loop_cpu) / max(breakdown.playing, 1e-9)
    cores = f"{computing:.1f} of {_count(setting.cores, 'core')}"
    less = "Querying it less often, with --n-action-steps, is a protocol of its own, whose numbers are not comparable."
    if computing >= COMPUTING:
        return f"It computes on this machine's CPU ({cores}, beside the simulators): a GPU, or a model server elsewhere, helps. {less}"
    return f"It waits for its device or server (it uses {cores} here): a faster one helps. {less}"


def _workers(breakdown: TimeBreakdown, setting: Setting) -> Verdict:
    policy = breakdown.policy_busy
    room = 1 / max(policy, 1e-3)
    parts = [
        f"The simulators are the bottleneck: the {_count(setting.workers, 'worker')} had something to do "
        f"{percent(breakdown.workers_occupied)} of the time, the policy {percent(policy)}."
    ]
    useful = min(setting.cores, setting.episodes)
    if setting.workers_given and setting.workers < useful:
        room = min(useful / setting.workers, room)
        parts.append(f"--workers {useful} would make the sweep {at_most(room)}.")
    else:
        parts.append(f"More machines, each with its --shard, would make the sweep {at_most(room)} before the policy is full.")
    return Verdict(breakdown.playing * (1 - 1 / room), " ".join(parts))


def _rendering(breakdown: TimeBreakdown, setting: Setting) -> list[Verdict]:
    part = share(breakdown.render, breakdown.worker_seconds)
    steps, views = setting.protocol.get("n_action_steps", 1), len(setting.protocol.get("cameras", ()))
    parts = [
        f"Rendering images takes {percent(part)} of the workers' time: the protocol shows {_count(views, 'view')} every "
        f"{_count(steps, 'step')}. More by --n-action-steps render fewer, but are a protocol of their own, whose numbers are not "
        "comparable."
    ]
    if any(name in setting.renderer for name in ("osmesa", "lavapipe")):
        parts.append(
            f"{setting.renderer} renders in software: with a GPU, VLARIG_RENDERER=egl (SimplerEnv: gpu) renders there."
        )
    parts.append(f"Without any image the sweep would be {_without(part)}.")
    return _cause(0.2, part, breakdown, " ".join(parts))


def _resets(breakdown: TimeBreakdown) -> list[Verdict]:
    part = share(breakdown.reset, breakdown.env_seconds - breakdown.idle)
    text = (
        f"Episodes were being started for about {percent(part)} of the envs' time. A reset's work is the benchmark's; the first one "
        f"also builds the env, so fewer envs mean fewer builds. Without resets the sweep would be {_without(part)}."
    )
    return _cause(0.3, part, breakdown, text)


def _beside(breakdown: TimeBreakdown, setting: Setting) -> list[Verdict]:
    """The workers' time beside simulating, rendering and recovering from failures."""
    beside = breakdown.worker_seconds * breakdown.workers_occupied - breakdown.worked - breakdown.recovering / setting.envs
    part = share(beside, breakdown.worker_seconds)
    text = (
        f"For {percent(part)} of their time the workers had something to do, but neither simulated nor rendered: they built envs, "
        f"made, digested and sent observations, one for every {breakdown.steps / breakdown.chunks:.1f} steps, or waited for a core. "
        f"Without that the sweep would be {_without(part)}."
    )
    return _cause(0.2, part, breakdown, text)


def _turns(breakdown: TimeBreakdown, setting: Setting) -> Verdict:
    busiest = max(breakdown.policy_busy, breakdown.workers_occupied)
    parts = [
        f"Nothing is full: the workers had something to do {percent(breakdown.workers_occupied)} of the time, the policy was busy "
        f"{percent(breakdown.policy_busy)}."
    ]
    if setting.envs < ENOUGH_ENVS:
        parts.append(
            f"Each episode waits for one and then for the other, and {_count(setting.envs, 'env')} a worker cannot keep both at "
            f"work{_more_envs(setting)}."
        )
    else:
        cpu, late = share(breakdown.loop_cpu, breakdown.playing), breakdown.late / max(breakdown.looks, 1)
        parts.append(
            f"{_count(setting.envs, 'env')} a worker are enough to keep both at work, so time is lost between them: the driver's "
            f"thread that moves the messages used {percent(cpu)} of a core, and came {duration(late)} late on average. Several "
            "drivers, each with its --shard, share the work."
        )
    between = max(0.0, 1 - _away(breakdown) - busiest)
    parts.append(f"At best the sweep would be {_without(between)}.")
    return Verdict(breakdown.playing * between, " ".join(parts))


def _no_episode_left(breakdown: TimeBreakdown, setting: Setting) -> list[Verdict]:
    idle = share(breakdown.idle, breakdown.env_seconds)
    text = (
        f"Envs had no episode left for {percent(idle)} of their time: towards the end of a suite the last episodes run alone, and "
        f"{breakdown.episodes} episodes are few for {setting.num_envs} envs. In a longer sweep that is a smaller part."
    )
    return _cause(0.1, idle, breakdown, text)


def _others(breakdown: TimeBreakdown, setting: Setting) -> list[Verdict]:
    own = (breakdown.occupied + breakdown.driver_cpu) / breakdown.playing
    if setting.load is None or setting.load < max(own, setting.cores) + 1:
        return []
    text = (
        f"Other programs use the machine: its load was {setting.load:.1f} on average on {_count(setting.cores, 'core')}, and the "
        f"sweep's own part of it {own:.1f} at most. Everything here is slower for it."
    )
    return [Verdict(breakdown.playing * (1 - setting.cores / setting.load), text)]


def _slow_disk(breakdown: TimeBreakdown) -> list[Verdict]:
    part = share(breakdown.saving, breakdown.env_seconds)
    text = (
        f"Envs waited {percent(part)} of their time for the ledger: the disk is slow, and an episode must be on it before it counts. "
        "Put the run on a local disk with --run."
    )
    return _cause(0.05, part, breakdown, text)


def _more_envs(setting: Setting) -> str:
    """The option for more envs, if there are episodes for them."""
    more = min(2 * setting.num_envs, setting.episodes)
    return f": --num-envs {more}" if more > setting.num_envs else f", but there are only {setting.episodes} episodes for them"


def at_most(factor: float) -> str:
    if factor < 1.05:
        return "hardly faster"
    return f"at most {factor:.1f} times as fast" if factor < 20 else "many times as fast"


def _without(part: float) -> str:
    """The speed of a sweep without something that takes this part of its time, in words."""
    return at_most(1 / (1 - min(part, 0.99)))


def percent(part: float) -> str:
    return f"{100 * part:.0f} %" if part == 0 or part >= 0.095 else f"{100 * part:.1f} %"


def duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
