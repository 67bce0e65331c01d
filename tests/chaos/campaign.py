"""A campaign: many storms over several simulators, some in parallel; a killed campaign continues where it was."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos import disk
from chaos.blows import NEEDS_CLOCK, NEEDS_DISK, TARGETS, Blow, every_kill
from chaos.cases import Case, case_of
from chaos.judge import finished
from chaos.preload import can_compile
from chaos.report import write_report
from chaos.runner import Outcome, Runner, run_calm
from vlarig.envs.plugins import find_plugins


@dataclass(frozen=True)
class Campaign:
    """Storms over real sweeps, whose results must equal an undisturbed run's.

    Attributes:
        out: Folder of the storms and of the report.
        suites: Suites whose sweeps are stormed, or ``toy``. Default: the first suite of each plug-in.
        kills: Processes to kill in all; other blows fall beside them, half as many.
        lanes: Storms at a time.
        seed: Of the schedules.
        blows: Kinds of blows beside the kills. Default: all that this machine allows.
    """

    out: Path
    suites: tuple[str, ...] = tuple(next(iter(plugin.suites)) for _, plugin in find_plugins()[0] if plugin.runtimes)
    kills: int = 1000
    lanes: int = 4
    seed: int = 0
    blows: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedStorm:
    """A storm of a campaign."""

    suite: str
    number: int
    blows: list[Blow]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.suite}-{self.number:03d}"

    @property
    def kills(self) -> int:
        """Kills that it is to have."""
        return sum(blow.kind == "kill" for blow in self.blows)


def possible_kinds(folder: Path) -> list[str]:
    """The kinds of blows that can be struck on this machine, kills aside; ``folder`` is for trying that out."""
    with disk.small_disk(folder) as small:
        missing = {NEEDS_DISK} if small is None else set()
    missing |= set() if can_compile() else {NEEDS_CLOCK}
    return [kind for kind in TARGETS if kind != "kill" and kind not in missing]


def sample_blows(rng: random.Random, kills: int, others: Sequence[tuple[str, str]]) -> list[Blow]:
    """The blows of a storm in their order: that many kills, at every moment of every target in turn, and the others."""
    pairs = every_kill()
    first = rng.randrange(len(pairs))
    blows = []
    for number in range(kills):
        moment, target = pairs[(first + number) % len(pairs)]
        blows.append(Blow.sample("kill", rng, target, moment))
    blows += [Blow.sample(kind, rng, target) for kind, target in others]
    rng.shuffle(blows)
    return blows


def plan_storms(campaign: Campaign, kinds: Sequence[str]) -> list[PlannedStorm]:
    """The storms of a campaign, a function of its fields: the same after it was killed."""
    shares = sum(case_of(suite).share for suite in campaign.suites)
    by_suite = []
    for suite in campaign.suites:
        case = case_of(suite)
        kills = round(campaign.kills * case.share / shares)
        others = _endless_others(kinds, random.Random(f"{campaign.seed}/{suite}"))
        storms = []
        for number, first in enumerate(range(0, kills, case.kills)):
            rng, count = random.Random(f"{campaign.seed}/{suite}/{number}"), min(case.kills, kills - first)
            beside = [next(others) for _ in range((count + 1) // 2)] if kinds else []
            storms.append(PlannedStorm(suite, number, sample_blows(rng, count, beside)))
        by_suite.append(storms)
    # The simulators' storms lie evenly among each other.
    return sorted((storm for storms in by_suite for storm in storms), key=lambda storm: _place(storm, by_suite))


def _place(storm: PlannedStorm, by_suite: list[list[PlannedStorm]]) -> float:
    (count,) = [len(storms) for storms in by_suite if storms and storms[0].suite == storm.suite]
    return (storm.number + 0.5) / count


def _endless_others(kinds: Sequence[str], rng: random.Random) -> Iterator[tuple[str, str]]:
    """Every kind of blow on every target, shuffled, again and again."""
    while True:
        pairs = [(kind, target) for kind in kinds for target in TARGETS[kind]]
        rng.shuffle(pairs)
        yield from pairs


def run_campaign(campaign: Campaign) -> bool:
    """Run the rest of a campaign and write its report; returns whether there are no differences and no problems."""
    campaign.out.mkdir(parents=True, exist_ok=True)
    out = campaign.out.resolve()
    kinds = list(campaign.blows) or possible_kinds(out / "disk")
    storms = plan_storms(campaign, kinds)
    expected = {suite: undisturbed(case_of(suite), out / "undisturbed" / suite) for suite in campaign.suites}
    began, kills_now, kills_before = time.monotonic(), 0, 0
    outcomes: dict[str, Outcome] = {}

    def weather(storm: PlannedStorm) -> Outcome:
        return Runner(case_of(storm.suite), out / "storms" / storm.name, storm.blows, expected[storm.suite]).run()

    for storm in storms:
        outcome = Outcome.load(out / "storms" / storm.name)
        if outcome.done:
            outcomes[storm.name] = outcome
            kills_before += storm.kills
    left = [storm for storm in storms if storm.name not in outcomes]
    with ThreadPoolExecutor(campaign.lanes) as pool:
        running = {pool.submit(weather, storm): storm for storm in left}
        try:
            for future in as_completed(running):
                storm = running[future]
                outcomes[storm.name] = outcome = future.result()
                kills_now += storm.kills
                minutes = (time.monotonic() - began) / 60
                to_go = campaign.kills - kills_before - kills_now
                _say(
                    f"{storm.name}: {_summary(storm, outcome)}; {kills_before + kills_now} of {campaign.kills} kills, "
                    f"{kills_now / minutes:.1f} a minute, {to_go / max(kills_now, 1) * minutes:.0f} min to go"
                )
                for line in [*outcome.differences, *outcome.problems]:
                    _say(f"  {storm.name}: {line}")
                write_report(out, campaign, storms, outcomes)
        except KeyboardInterrupt:
            _say("interrupted; the same command continues")
            os._exit(130)  # running storms end with this process, and are not judged
    write_report(out, campaign, storms, outcomes)
    return not any(outcome.differences or outcome.problems for outcome in outcomes.values())


def _summary(storm: PlannedStorm, outcome: Outcome) -> str:
    return (
        f"{storm.kills} kills, {len(storm.blows) - storm.kills} other blows, {outcome.drivers} drivers, {outcome.runs} runs, "
        f"{outcome.episodes} episodes, {len(outcome.differences)} differences, {len(outcome.problems)} problems, "
        f"{outcome.seconds:.0f} s"
    )


def undisturbed(case: Case, folder: Path) -> dict[str, Any]:
    """The results of the case's sweep without a storm; an existing run is resumed."""
    run = folder / "run"
    folder.mkdir(parents=True, exist_ok=True)
    run_calm(case, run)
    found = finished(run)
    assert len(found) == case.episodes, f"{len(found)} episodes instead of {case.episodes}"
    return found


def _say(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()
