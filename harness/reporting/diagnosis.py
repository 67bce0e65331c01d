"""Why a sweep is as slow as it is: what held it up, what to change, and what that could bring at most.

Two stations work for an episode in turn, a worker and the policy; each serves one request (the policy: one batch) at a time. So a
sweep takes at least as long as the busier of the two is busy, and relieving one helps until the other is full. That gives the bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from ...policies.batching import Load, SizeLoad
from .account import Account, share

#: A station that is busy for this share of the time holds the others up.
BUSY = 0.75

#: Savings below this share of the time are not worth a sentence.
WORTH = 0.02

#: A policy that is the bottleneck and uses this many cores computes in the driver's process.
COMPUTING = 0.5

#: One that uses less than this waits for something else, even on a machine where cores are scarce.
IDLING = 0.05

#: Slots of a worker from which on one of its episodes nearly always has something for it to do.
ENOUGH_SLOTS = 4

#: Batches of a size that it takes to judge by them.
TELLING_BATCHES = 3

#: A request in a larger batch that is cheaper by this factor makes larger batches worth while.
CHEAPER = 1.25


@dataclass(frozen=True)
class Setting:
    """How suites were swept.

    Attributes:
        suites: Their names.
        cores: Cores that the driver could use.
        workers: Simulator processes.
        slots: Slots of each.
        batch: Largest batch.
        episodes: Episodes that were owed, of the suite with the most.
        why: Why so many workers and slots.
        asked_for_workers: Whether the user named their number; else it is one a core, or what memory allows.
        strict: Whether the policy was asked one request at a time for the sake of its rounding.
        protocol: The first suite's protocol.
        renderer: What drew the pictures.
        load: The machine's load average.
    """

    suites: tuple[str, ...]
    cores: int
    workers: int
    slots: int
    batch: int
    episodes: int
    why: str = ""
    asked_for_workers: bool = False
    strict: bool = False
    protocol: dict[str, Any] = field(default_factory=dict)
    renderer: str = ""
    load: float | None = None

    @property
    def all_slots(self) -> int:
        """Slots of all workers."""
        return self.workers * self.slots


@dataclass(frozen=True)
class Verdict:
    """One cause.

    Attributes:
        seconds: What mending it could save at most.
        text: What it is, what to change, and what that could bring.
    """

    seconds: float
    text: str


def bottleneck(account: Account) -> str:
    """What holds the account's suite up most: ``policy``, ``workers``, ``driver``, or ``turns`` where nothing is full."""
    at_work = max(1 - _away(account), 1e-9)
    driver = share(account.loop_cpu, account.playing)
    policy, workers = account.policy_busy, account.workers_occupied
    if driver / at_work >= BUSY and driver >= policy:
        return "driver"
    if max(policy, workers) / at_work < BUSY:
        return "turns"
    return "policy" if policy >= workers else "workers"


def _away(account: Account) -> float:
    """Share of their time in which slots could not ask for anything: what is busy is judged by the others."""
    return share(account.idle + account.saving, account.slot_seconds)


def diagnose(account: Account, setting: Setting) -> list[Verdict]:
    """The causes for suites of one bottleneck, the most weighty first."""
    if account.chunks == 0:
        return []
    held_up: dict[str, Callable[[Account, Setting], Verdict]] = {
        "policy": _policy,
        "workers": _workers,
        "driver": _driver,
        "turns": _turns,
    }
    kind = bottleneck(account)
    verdicts = [
        held_up[kind](account, setting),
        *_no_episode_left(account, setting),
        *_slow_disk(account),
        *_others(account, setting),
    ]
    if kind == "workers":
        verdicts += [*_rendering(account, setting), *_resets(account), *_beside(account, setting)]
        verdicts += _more_slots_than_needed(account, setting)
    return sorted(verdicts, key=lambda verdict: -verdict.seconds)


def _cause(least: float, part: float, account: Account, text: str) -> list[Verdict]:
    """A cause that takes this part of the time, from a least part on."""
    return [Verdict(account.playing * part, text)] if part >= least else []


def _policy(account: Account, setting: Setting) -> Verdict:
    load, occupied = account.load, account.workers_occupied
    parts = [
        f"The policy is the bottleneck: it was busy {percent(account.policy_busy)} of the time, in batches of {account.mean_batch:.1f} "
        f"on average from {setting.all_slots} slots; the workers had something to do {percent(occupied)} of the time."
    ]
    if setting.strict:
        parts.append("--strict has it answer one request at a time, which is its price.")
    elif share(load.held_back, load.batches) > 0.2 and setting.batch < setting.all_slots:
        parts.append(f"Batches are held to {setting.batch} while more requests wait: --batch {setting.all_slots}.")
    parts.append(_about_batches(load, setting))
    parts.append(_about_device(account, setting))
    parts.append(f"An instant policy would make the sweep {at_most(1 / max(occupied, 1e-3))} before the workers are full.")
    return Verdict(account.playing * (1 - occupied), " ".join(parts))


def _about_batches(load: Load, setting: Setting) -> str:
    known = [(size, each) for size, each in sorted(load.sizes.items()) if each.batches >= TELLING_BATCHES]
    if setting.strict:
        return ""
    if len(known) < 2:
        return f"Where it answers many requests nearly as fast as one, more slots make larger batches{_more_slots(setting)}."
    (_, small), (_, large) = known[0], known[-1]
    told = (
        f"a request took it {duration(_each(small))} in batches of {small.requests / small.batches:.1f}, "
        f"{duration(_each(large))} in batches of {large.requests / large.batches:.1f}"
    )
    if _each(small) / max(_each(large), 1e-9) >= CHEAPER:
        return f"Larger batches are cheaper ({told}), and more slots make larger ones{_more_slots(setting)}."
    return f"Larger batches are hardly cheaper ({told}), so more slots would not help."


def _each(size: SizeLoad) -> float:
    """Seconds of a request."""
    return size.seconds / size.requests


def _about_device(account: Account, setting: Setting) -> str:
    computing = _computing(account)
    cores = f"{computing:.1f} of {_count(setting.cores, 'core')}"
    less = "Asking it less often, with --execute, is a protocol of its own, whose numbers are not comparable."
    if computing >= COMPUTING:
        return f"It computes on this machine's CPU ({cores}, beside the simulators): a GPU, or a model server elsewhere, helps. {less}"
    if _shared(setting) and computing >= IDLING:
        return f"It got {cores} of a machine that others use too, so whether it lacked them or waited for a device is not known. {less}"
    return f"It waits for its device or server (it uses {cores} here): a faster one helps. {less}"


def _computing(account: Account) -> float:
    """Cores that the driver used beside moving messages: those of a policy that computes in it."""
    return max(0.0, account.driver_cpu - account.loop_cpu) / max(account.playing, 1e-9)


def _workers(account: Account, setting: Setting) -> Verdict:
    policy = account.policy_busy
    room = 1 / max(policy, 1e-3)
    parts = [
        f"The simulators are the bottleneck: the {_count(setting.workers, 'worker')} had something to do "
        f"{percent(account.workers_occupied)} of the time, the policy {percent(policy)}."
    ]
    useful = min(setting.cores, setting.episodes)
    limited_by_memory = setting.workers < useful and not setting.asked_for_workers
    if setting.workers < useful and not limited_by_memory:
        factor = min(useful / setting.workers, room)
        which = "core" if useful == setting.cores else "episode"
        parts.append(f"--workers {useful}, one for each {which}, would make the sweep {at_most(factor)}.")
        return Verdict(account.playing * (1 - 1 / factor), " ".join(parts))
    if setting.workers < setting.cores and not limited_by_memory:
        parts.append(f"There are only {setting.episodes} episodes for them.")
        return Verdict(0.0, " ".join(parts))
    if limited_by_memory:
        parts.append(f"The machine has {_count(setting.cores, 'core')}, but memory is what limits them ({setting.why}).")
    elif setting.workers > setting.cores:
        parts.append(f"They share {_count(setting.cores, 'core')}; --workers {setting.cores} would be as fast in less memory.")
    else:
        parts.append(f"They fill the machine's {_count(setting.cores, 'core')}.")
    parts.append(f"More machines, each with its --shard, would make the sweep {at_most(room)} before the policy is full.")
    return Verdict(account.playing * (1 - policy), " ".join(parts))


def _rendering(account: Account, setting: Setting) -> list[Verdict]:
    part = share(account.render, account.worker_seconds)
    rows, views = setting.protocol.get("execute", 1), len(setting.protocol.get("cameras", ()))
    parts = [
        f"Drawing pictures takes {percent(part)} of the workers' time: the protocol shows {_count(views, 'view')} every "
        f"{_count(rows, 'row')}. --execute with more rows draws fewer of them, but is a protocol of its own, whose numbers are not "
        "comparable."
    ]
    if any(name in setting.renderer for name in ("osmesa", "lavapipe")):
        parts.append(f"{setting.renderer} draws in software: with a GPU, VLARIG_RENDERER=egl (SimplerEnv: gpu) draws there.")
    parts.append(f"Without any picture the sweep would be {_without(part)}.")
    return _cause(0.2, part, account, " ".join(parts))


def _resets(account: Account) -> list[Verdict]:
    part = share(account.reset, account.slot_seconds - account.idle)
    text = (
        f"Episodes were being started for about {percent(part)} of the slots' time. What a reset does is the benchmark's; the first in "
        f"each slot builds its env too, so fewer slots build fewer. Without resets the sweep would be {_without(part)}."
    )
    return _cause(0.3, part, account, text)


def _beside(account: Account, setting: Setting) -> list[Verdict]:
    """What the workers did beside simulating, drawing and coming back from failures."""
    beside = account.worker_seconds * account.workers_occupied - account.worked - account.recovering / setting.slots
    part = share(beside, account.worker_seconds)
    text = (
        f"For {percent(part)} of their time the workers had something to do, but neither simulated nor drew: they built envs, made, "
        f"digested and sent observations, one for every {account.steps / account.chunks:.1f} rows, or waited for a core. Without that "
        f"the sweep would be {_without(part)}."
    )
    return _cause(0.2, part, account, text)


def _more_slots_than_needed(account: Account, setting: Setting) -> list[Verdict]:
    """Waiting for a worker's turn: no time is lost by it, only memory."""
    at_work = account.slot_seconds - account.idle
    served = account.worker_seconds * account.workers_occupied + account.policy
    enough = max(1, round(served / max(account.worker_seconds * account.workers_occupied, 1e-9))) + 1
    if share(account.wait, at_work) < 0.5 or enough >= setting.slots:
        return []
    text = (
        f"Slots waited {percent(share(account.wait, at_work))} of their time, since there are more of them than the workers can serve: "
        f"that costs memory, not time. --slots {enough} would do."
    )
    return [Verdict(0.0, text)]


def _turns(account: Account, setting: Setting) -> Verdict:
    busiest = max(account.policy_busy, account.workers_occupied)
    parts = [
        f"Nothing is full: the workers had something to do {percent(account.workers_occupied)} of the time, the policy was busy "
        f"{percent(account.policy_busy)}."
    ]
    if setting.slots < ENOUGH_SLOTS:
        parts.append(
            f"Each episode waits for one and then for the other, and {_count(setting.slots, 'slot')} a worker cannot keep both at "
            f"work{_more_slots(setting)}."
        )
    else:
        parts.append(
            f"{_count(setting.slots, 'slot')} a worker are enough to keep both at work, so time is lost between them: {_late(account)}."
        )
    between = max(0.0, 1 - _away(account) - busiest)
    parts.append(f"At best the sweep would be {_without(between)}.")
    return Verdict(account.playing * between, " ".join(parts))


def _driver(account: Account, setting: Setting) -> Verdict:
    between = max(0.0, 1 - _away(account) - max(account.policy_busy, account.workers_occupied))
    text = (
        f"The driver is the bottleneck: {_late(account)}. It is one thread however many workers there are: several drivers, each with "
        f"its --shard, share the work. At best the sweep would be {_without(between)}."
    )
    return Verdict(account.playing * between, text)


def _no_episode_left(account: Account, setting: Setting) -> list[Verdict]:
    idle = share(account.idle, account.slot_seconds)
    text = (
        f"Slots had no episode left for {percent(idle)} of their time: towards the end of a suite the last episodes run alone, and "
        f"{account.episodes} episodes are few for {setting.all_slots} slots. In a longer sweep that is a smaller part."
    )
    return _cause(0.1, idle, account, text)


def _others(account: Account, setting: Setting) -> list[Verdict]:
    """Other programs on the machine."""
    own = (account.occupied + account.driver_cpu) / account.playing
    if setting.load is None or not _shared(setting) or setting.load < own + 1:
        return []
    if bottleneck(account) == "policy" and _computing(account) < IDLING:
        return []  # what it waits for is elsewhere
    text = (
        f"Other programs use the machine: its load was {setting.load:.1f} on average on {_count(setting.cores, 'core')}, and the "
        f"sweep's own part of it {own:.1f} at most. Everything here is slower for it."
    )
    return [Verdict(account.playing * (1 - setting.cores / setting.load), text)]


def _shared(setting: Setting) -> bool:
    """Whether more wants to run on the machine than it has cores for."""
    return setting.load is not None and setting.load > setting.cores + 1


def _slow_disk(account: Account) -> list[Verdict]:
    part = share(account.saving, account.slot_seconds)
    text = (
        f"Slots waited {percent(part)} of their time for the ledger: the disk is slow, and an episode must be on it before it counts. "
        "Put the run on a local disk with --run."
    )
    return _cause(WORTH, part, account, text)


def _more_slots(setting: Setting) -> str:
    """What to type for more slots, if there are episodes for them."""
    more = min(2 * setting.slots, -(-setting.episodes // setting.workers))
    return f": --slots {more}" if more > setting.slots else f", but there are only {setting.episodes} episodes for them"


def _late(account: Account) -> str:
    """How hard the driver's event loop worked, in words."""
    cpu, late = share(account.loop_cpu, account.playing), account.late / max(account.looks, 1)
    return (
        f"the driver's thread that moves the messages used {percent(cpu)} of a core, and came {duration(late)} late on average"
    )


def at_most(factor: float) -> str:
    """A bound in words."""
    if factor < 1.05:
        return "hardly faster"
    return f"at most {factor:.1f} times as fast" if factor < 20 else "many times as fast"


def _without(part: float) -> str:
    """What a sweep would be without something that takes this part of its time, in words."""
    return at_most(1 / (1 - min(part, 0.99)))


def percent(part: float) -> str:
    """A share in percent."""
    return f"{100 * part:.0f} %" if part == 0 or part >= 0.095 else f"{100 * part:.1f} %"


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
