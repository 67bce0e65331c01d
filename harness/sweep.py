"""A sweep from end to end: plan it, open or resume its run, run what is owed, film what is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from ..envs.errors import VlarigError
from ..policies.api import Policy
from ..policies.batching import Batcher, Batching, Rounding
from ..policies.registry import loaded_policy, parse_options
from ..results.ledger import Ledger
from ..results.manifest import Manifest
from ..results.planning import package_versions, surroundings
from ..results.records import EpisodeRecord, Session
from ..results.runs import open_run
from .display import live_display
from .engine import Engine
from .episode_queue import EpisodeQueue
from .film import need_video_extra
from .placement import local_hosts
from .plan import SuitePlan, SweepConfig, plan_suites, run_identity
from .progress import Progress, TaskProgress
from .replay import film_run
from .sinks import LedgerSink

#: Folder of runs that were given no folder of their own.
RUNS = Path("runs")

#: Largest batch where the user names none.
DEFAULT_BATCH = 64


@dataclass(frozen=True)
class Evaluation:
    """A sweep that came to its end.

    Attributes:
        run: Folder of the run.
        complete: Whether every episode of the run is finished.
        errors: Episodes given up in this session; the same command tries them again.
    """

    run: Path
    complete: bool
    errors: int

    def records(self) -> list[EpisodeRecord]:
        """Every finished episode of the run, with its actions."""
        with Ledger.open_read_only(self.run) as ledger:
            return ledger.records(with_actions=True)


def evaluate(suites: str | tuple[str, ...] | list[str], policy: str | Policy, **options: Any) -> Evaluation:
    """Sweep suites with a policy; a run that was begun is gone on with.

    Args:
        suites: Names of the suites.
        policy: A policy's name, or a policy.
        options: The other fields of :class:`~vlarig.harness.plan.SweepConfig`, and ``console``, a rich console for the live
            display (none is shown without it).

    Raises:
        VlarigError: Something the user can mend. What was measured until then is in the run.
    """
    console = options.pop("console", None) or Console(quiet=True)
    named = policy if isinstance(policy, str) else f"{type(policy).__module__}:{type(policy).__qualname__}"
    try:
        config = SweepConfig(suites=(suites,) if isinstance(suites, str) else tuple(suites), policy=named, **options)
    except ValidationError as error:
        first = error.errors()[0]
        raise VlarigError(f"evaluate cannot take {first['loc'][0]}={first['input']!r}: {first['msg'].lower()}") from None
    told = parse_options(config.policy_options)
    if told and not isinstance(policy, str):
        raise VlarigError(
            f"evaluate got policy_options {list(config.policy_options)} beside a policy that is made already; name it instead"
        )
    if not isinstance(policy, str):
        return run_sweep(config, policy, console)
    with loaded_policy(policy, told) as loaded:
        return run_sweep(config, loaded, console)


def run_sweep(config: SweepConfig, policy: Policy, console: Console) -> Evaluation:
    """Run the sweep that ``config`` describes. Raises like :func:`evaluate`."""
    if config.video != "none":
        need_video_extra()
    if config.strict:
        make_strict(policy)
    plans = plan_suites(config, policy, lambda line: console.print(line, highlight=False, soft_wrap=True))
    identity = run_identity(config, policy, plans)
    run = config.run or RUNS / default_run_name(config, identity.identity_hash())
    suite_notes = {plan.suite.name: plan.suite.note for plan in plans if plan.suite.note}
    manifest = Manifest(identity=identity, record=surroundings(config.model_dump(mode="json"), suite_notes))
    workers = config.workers or os.cpu_count() or 1
    with open_run(run, manifest) as ledger:
        record = manifest.record
        ledger.start_session(Session(record.git_revision, record.host, workers, workers * config.slots, package_versions()))
        for note in manifest.notes():
            console.print(note, style="yellow", highlight=False, soft_wrap=True)
        for plan in plans:
            if plan.protocol != plan.named:
                console.print(_derived(plan, policy), highlight=False, soft_wrap=True)
        try:
            asyncio.run(_sweep(config, policy, plans, workers, ledger, run, console))
        except VlarigError as error:
            raise VlarigError(f"{error} ({_kept(ledger, run)})") from error
        except (KeyboardInterrupt, asyncio.CancelledError):
            raise KeyboardInterrupt(f"interrupted; {_kept(ledger, run)}, and the same command goes on from there") from None
        finished, errors = ledger.finished_keys(), ledger.error_keys()
    if config.video != "none":
        film_run(run, config.video, console)
    owed = [episode for plan in plans for episode in plan.episodes if episode.key not in finished]
    return Evaluation(run, not owed, len(errors))


def default_run_name(config: SweepConfig, identity_hash: str) -> str:
    """The folder of a run below :data:`RUNS`: readable, and the same for the same identity."""
    words = "-".join([*config.suites, *filter(None, [config.protocol]), config.policy])
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', words)[:80]}-{identity_hash[:8]}"


def _kept(ledger: Ledger, run: Path) -> str:
    return f"{len(ledger.finished_keys())} finished episodes are kept in {run}"


def make_strict(policy: Policy) -> None:
    """Ask the policy to compute in a fixed way (one thread, float32), if it has anything to do for that."""
    make = getattr(policy, "make_strict", None)
    if make is not None:
        make()


async def _sweep(
    config: SweepConfig, policy: Policy, plans: list[SuitePlan], workers: int, ledger: Ledger, run: Path, console: Console
) -> None:
    with contextlib.suppress(NotImplementedError, RuntimeError):  # not in a thread of the user's, not on every system
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    progress = _progress(plans, ledger, workers)
    batching = Batching(1 if config.strict else config.batch or min(workers * config.slots, DEFAULT_BATCH))
    engines: list[Engine] = []
    roundings: list[Rounding] = []
    title = f"{' '.join(config.suites)}, policy {config.policy}, seed {config.seed}, {workers} workers x {config.slots} slots, {run}"
    async with LedgerSink(ledger) as sink, live_display(console, title, progress, engines):
        finished = ledger.finished_keys()
        for plan in plans:
            owed = [episode for episode in plan.episodes if episode.key not in finished]
            if not owed:
                continue
            count = min(workers, len(owed))
            async with local_hosts(plan.workplace, count, run / "logs") as hosts, Batcher(policy, batching) as batcher:
                engine = Engine(
                    hosts, config.slots, plan.suite.embodiment, policy.needs, batcher, config.seed, [sink, progress]
                )
                engines[:] = [engine]
                await engine.sweep(EpisodeQueue(owed))
            roundings.append(batcher.rounding)
    compared = sum(rounding.compared for rounding in roundings)
    if compared:
        largest = max(rounding.largest for rounding in roundings)
        console.print(
            f"batching moved the policy's answers by {largest:.1e} at most, in the actions' own units ({compared} were asked for alone "
            "too); --strict makes them exact",
            highlight=False,
            soft_wrap=True,
        )


def _progress(plans: list[SuitePlan], ledger: Ledger, workers: int) -> Progress:
    tasks: dict[tuple[str, str], TaskProgress] = {}
    for plan in plans:
        for episode in plan.episodes:
            tasks.setdefault((episode.suite, episode.task), TaskProgress(0)).expected += 1
    for key, count in ledger.counts().items():
        tasks[key.suite, key.task].finished += count.finished
        tasks[key.suite, key.task].successes += count.successes
    return Progress(tasks, workers)


def _derived(plan: SuitePlan, policy: Policy) -> str:
    standard = plan.named
    reason = f"the policy predicts {policy.horizon} row{'s' * (policy.horizon != 1)}" if policy.horizon else "as asked"
    return (
        f"{plan.suite.name} runs under protocol {plan.protocol.name}@{plan.protocol.version}, not {standard.name}@{standard.version}: "
        f"{plan.protocol.execute} of {standard.execute} rows are executed before the policy is asked again ({reason})"
    )
