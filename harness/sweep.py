"""A sweep from end to end: plan it, open or resume its run, run what is owed, film what is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from ..envs.api import Episode
from ..envs.background import run_to_end
from ..envs.errors import VlarigError
from ..policies.api import Policy
from ..policies.batching import Batcher, Batching
from ..policies.calls import make_strict
from ..policies.member_queue import Rounding
from ..policies.registry import loaded_policy, parse_options
from ..results.ledger import Ledger
from ..results.manifest import Manifest
from ..results.planning import package_versions, surroundings
from ..results.records import Attempt, Session
from ..results.runs import open_run, set_aside
from ..results.shards import Shard, take_share
from ..results.tables import Tally
from .engine import Engine, EpisodeQueue
from .film import need_video_extra
from .machines.fleets import Fleet, Lease, LocalFleet, listed_fleet
from .machines.ray_fleet import RayFleet, connected
from .machines.ray_replicas import ray_replicas
from .plan import MEASURED, PlannedSuite, SweepConfig, check_suites, in_words, plan_suites, plan_with_latency
from .replay import Replay, film_run
from .replicas import replicated_policy
from .reporting.display import live_display
from .reporting.events import SessionEvent, SuiteEvent, TimeBreakdown
from .reporting.logs import LIBRARY_LOG, EventLog, library_messages, log_of
from .reporting.progress import Progress, Reporter, SavingTime
from .run import Evaluation, PolicyState, as_begun, origins, rendered_by, run_folder, run_identity, use_siblings
from .sinks import BoundsWatch, LedgerSink, Sink, make_tracker
from .sizing import Machine
from .termination import Terminated, exits_refused, sigterm_interrupts, until_sigterm

logger = logging.getLogger(__name__)

#: Largest batch where the user names none.
DEFAULT_BATCH = 64


def cluster(config: SweepConfig) -> contextlib.AbstractContextManager[None]:
    """A connection to the Ray cluster, where the sweep is placed on one."""
    return connected() if config.placement == "ray" else contextlib.nullcontext()


@contextlib.contextmanager
def named_policy(config: SweepConfig, report: Callable[[str], None]) -> Iterator[Policy]:
    """The policy that the sweep names, in this process or in replicas, for as long as the context lasts; inside :func:`cluster`."""
    check_suites(config, report)
    options = parse_options(config.policy_options)
    if config.replicas is None:
        loaded = loaded_policy(config.policy, options)
    elif config.placement == "ray":
        loaded = contextlib.closing(ray_replicas(config.policy, options, config.replicas))
    else:
        loaded = contextlib.closing(replicated_policy(config.policy, options, config.replicas))
    with loaded as policy:
        yield policy


def run_sweep(
    config: SweepConfig,
    policy: Policy,
    event_log: EventLog,
    state: PolicyState | None = None,
    fleet: Fleet | None = None,
    run_loop: Callable[[Coroutine[Any, Any, None]], None] = run_to_end,
    recorder: Sink | None = None,
) -> Evaluation:
    """Run the sweep that ``config`` describes, and write its events.

    Args:
        config: The sweep.
        policy: Its policy.
        event_log: Gets the events.
        state: State of a policy that was given as an object.
        fleet: The machines; those that ``config`` names when ``None``.
        run_loop: Runs the sweep in an event loop.
        recorder: Gets each transition before the ledger does, with every frame.

    Raises:
        KeyboardInterrupt: The user ended it.
        BrokenPipeError: The reader of the event log's stream went away.
    """
    if config.video != "none":
        need_video_extra()
    if config.strict:
        make_strict(policy)
    plan = plan_with_latency if config.latency == MEASURED else plan_suites
    plans = plan(config, policy, event_log.say)
    identity = run_identity(config, policy, plans, state)
    shown = run_folder(config, identity, plans)
    run = shown.absolute()  # a policy may change the working directory
    if config.fresh and (aside := set_aside(shown)) is not None:
        event_log.say(f"played again: the run that was in {shown} is {aside} now")
    plans = as_begun(shown, plans)
    identity = identity.model_copy(update={"renderer": rendered_by(plans)})
    suite_notes = {
        plan.suite.name: text for plan in plans if (text := "; ".join(filter(None, [plan.suite.note, policy.table_note])))
    }
    packages = {plan.suite.runtime: plan.worker_spec.runtime.packages for plan in plans}
    record = surroundings(config.model_dump(mode="json"), suite_notes, config.shard, packages, origins(config, plans))
    manifest = Manifest(identity=identity, record=record)
    new = not run.exists()
    plans = _shared_out(config, plans, event_log)
    fleet = fleet or find_fleet(config, event_log)
    with open_run(run, manifest) as ledger:
        trackers = [make_tracker(name, run, "vlarig") for name in config.track]
        if config.run is None and not Manifest.load(run).record.fresh:
            use_siblings(shown, new, manifest, ledger, [each for plan in plans for each in plan.episodes], event_log.say)
        before = ledger.finished_keys()
        parts = _parts(fleet, plans, ledger)
        workers = max((part.lease.workers for part in parts), default=0)
        num_envs = max((part.lease.num_envs for part in parts), default=0)
        ledger.start_session(Session(record.git_revision, record.host, workers, num_envs, package_versions()))
        event_log.open_log(run, len(ledger.sessions()))
        progress = _progress(plans, ledger, workers)
        with library_messages(run / "logs" / LIBRARY_LOG), _logged_session(config, policy, progress, event_log):
            for note in manifest.notes():
                event_log.say(note, "yellow")
            for plan in plans:
                if plan.protocol != plan.named:
                    event_log.say(in_words(plan, policy, config.n_action_steps))
            for part in parts:
                event_log.say(f"{part.plan.suite.name}: {part.lease.reason}")
                for warning in part.lease.warnings:
                    event_log.warn(warning)
            if not parts and before:
                event_log.say(
                    f"nothing was played: the {len(before)} episodes of {shown} were there already; --fresh plays them again"
                )
            title = f"{' '.join(config.suites)}, policy {config.policy}, seed {config.seed}, {shown}"
            sweep = _sweep(config, policy, fleet, parts, progress, ledger, title, run / "logs", event_log, recorder)
            try:
                with sigterm_interrupts(), exits_refused():
                    run_loop(until_sigterm(sweep))
            except VlarigError as error:
                log = f"; its traceback is in {shown / 'logs' / LIBRARY_LOG}" if error.traceback else ""
                if log:
                    logger.error("%s\n%s", error, error.traceback)
                raise VlarigError(f"{error} ({_kept(ledger, shown)}{log})") from error
            except (KeyboardInterrupt, asyncio.CancelledError) as interrupt:
                kept = f"{_kept(ledger, shown)}, and the same command resumes there"
                if event_log.reader_left:
                    raise BrokenPipeError(f"the reader of the events closed them; {kept}") from None
                kind = Terminated if isinstance(interrupt, Terminated) else KeyboardInterrupt
                raise kind(f"interrupted; {kept}") from None
            if (commonest := progress.commonest_fault()) is not None:
                event_log.warn(_fault_summary(progress, *commonest, shown))
        finished, errors = ledger.finished_keys(), ledger.error_keys()
    unfilmed = _film(config, run, event_log) if config.video != "none" else []
    owed = [episode for plan in plans for episode in plan.episodes if episode.key not in finished]
    evaluation = Evaluation(run, not owed, len(errors), tuple(unfilmed), len(finished - before))
    for tracker in trackers:
        tracker.log(evaluation.rates(), len(finished))
        tracker.close()
    return evaluation


def _shared_out(config: SweepConfig, plans: list[PlannedSuite], event_log: EventLog) -> list[PlannedSuite]:
    """The plans with only the episodes that this sweep runs: all, or its shard's."""
    if config.shard is None:
        return plans
    whole = [episode for plan in plans for episode in plan.episodes]
    share = take_share(whole, Shard.parse(config.shard))
    keys = {episode.key for episode in share}
    size = f"{len(share)} of the run's {len(whole)} episodes" if share else f"empty: the run has {len(whole)} episodes in all"
    event_log.say(f"shard {config.shard}: {size}")
    return [replace(plan, episodes=[episode for episode in plan.episodes if episode.key in keys]) for plan in plans]


@contextlib.contextmanager
def _logged_session(config: SweepConfig, policy: Policy, progress: Progress, event_log: EventLog) -> Iterator[None]:
    """Write the events of the session's beginning and, on every way out, of its end."""
    machine, before = Machine.here(), progress.counts()
    started = SessionEvent(
        state="started",
        run=str(event_log.run),
        pid=os.getpid(),
        host=platform.node(),
        cores=machine.cores,
        memory=machine.memory,
        policy=config.policy,
        policy_revision=policy.revision,
        episodes=before.expected,
        finished=before.finished,
        errors=0,
        config=config.model_dump(mode="json"),
        packages={"python": platform.python_version()} | package_versions(),
    )
    event_log.write(started)
    outcome = "failed"
    try:
        yield
        outcome = "incomplete" if progress.counts().finished < before.expected else "complete"
    except (KeyboardInterrupt, BrokenPipeError):
        outcome = "interrupted"
        raise
    finally:
        counts = progress.counts()
        event_log.write(msgspec.structs.replace(started, state=outcome, finished=counts.finished, errors=counts.errors))


def _film(config: SweepConfig, run: Path, event_log: EventLog) -> list[Replay]:
    """Make the films that are wanted, and write notes of it; the console shows more."""
    event_log.note(f"filming {config.video}")
    unfilmed = film_run(run, config.video, event_log.console, config.workers)
    event_log.note(f"films: {run / 'videos'}; {len(unfilmed)} could not be made")
    return unfilmed


def _fault_summary(progress: Progress, attempt: Attempt, times: int, run: Path) -> str:
    """The message at the end of a sweep that gave episodes up."""
    given_up, failed = progress.counts().errors, len(progress.attempts)
    return (
        f"{given_up} episode{'s were' if given_up > 1 else ' was'} given up. The commonest error, in {times} of {failed} "
        f"failed attempts: {attempt.kind}: {attempt.message.rstrip('.')}. See {log_of(run, attempt)}"
    )


def _kept(ledger: Ledger, run: Path) -> str:
    return f"{len(ledger.finished_keys())} finished episodes are kept in {run}"


@dataclass(frozen=True)
class _Part:
    """The episodes of one suite that a sweep owes, at least one."""

    plan: PlannedSuite
    owed: list[Episode]
    lease: Lease


def find_fleet(config: SweepConfig, event_log: EventLog) -> Fleet:
    if config.placement == "ray":
        return RayFleet(config.workers, config.num_envs)
    fleet = listed_fleet(
        config.hosts, config.host_file, config.hosts_token_file, config.hosts_ca_file, config.workers, config.num_envs
    )
    if fleet is None:
        return LocalFleet(config.workers, config.num_envs)
    for machine in fleet.machines:
        if machine.in_the_clear:
            event_log.warn(
                f"{machine.url} is reached without encryption: the token can be read on the way; see wss:// in the docs"
            )
    return fleet


def _parts(fleet: Fleet, plans: list[PlannedSuite], ledger: Ledger) -> list[_Part]:
    finished = ledger.finished_keys()
    parts = []
    for plan in plans:
        owed = [episode for episode in plan.episodes if episode.key not in finished]
        if owed:
            parts.append(_Part(plan, owed, fleet.lease(plan.suite.footprint, owed)))
    return parts


async def _sweep(
    config: SweepConfig,
    policy: Policy,
    fleet: Fleet,
    parts: list[_Part],
    progress: Progress,
    ledger: Ledger,
    title: str,
    logs: Path,
    event_log: EventLog,
    recorder: Sink | None,
) -> None:
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    event_log.when_reader_leaves(partial(_end, loop, task))
    reporter = Reporter(event_log, progress)
    engines: list[Engine] = []
    roundings: list[Rounding] = []
    async with LedgerSink(ledger) as ledger_sink, live_display(event_log.console, title, progress, engines):
        sinks: list[Sink] = [SavingTime(ledger_sink, progress), progress, reporter, BoundsWatch(event_log.warn)]
        needs = policy.needs
        if recorder is not None:
            sinks.insert(0, SavingTime(recorder, progress))  # first: what the ledger calls finished is recorded
            needs = replace(needs, every_frame=True)
        for part in parts:
            plan, lease = part.plan, part.lease
            batching = Batching(1 if config.strict else config.batch or min(lease.num_envs, DEFAULT_BATCH))
            started = SuiteEvent(
                state="started",
                suite=plan.suite.name,
                protocol=f"{plan.protocol.name}@{plan.protocol.version}",
                owed=len(part.owed),
                workers=lease.workers,
                num_envs=lease.num_envs,
                batch=batching.most,
                why=lease.reason,
                breakdown=TimeBreakdown(),
            )
            event_log.write(started)
            began = time.monotonic()
            async with fleet.launch(plan.worker_spec, lease, logs) as workers, Batcher(policy, batching) as batcher:
                engine = Engine(workers, lease.num_envs, plan.suite.embodiment, needs, batcher, config.seed, sinks)
                engines[:] = [engine]
                async with reporter.watching(started, engine, time.monotonic() - began):
                    await engine.sweep(EpisodeQueue(part.owed), fleet.joining(plan.worker_spec, lease, logs))
            roundings.append(batcher.rounding)
    compared = sum(rounding.compared for rounding in roundings)
    if compared:
        largest = max(rounding.largest for rounding in roundings)
        event_log.say(
            f"batching moved the policy's answers by {largest:.1e} at most, in the actions' own units ({compared} were computed alone "
            "too); --strict makes them exact"
        )


def _end(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    """End the sweep from another thread."""
    with contextlib.suppress(RuntimeError):  # it has ended by itself
        loop.call_soon_threadsafe(task.cancel)


def _progress(plans: list[PlannedSuite], ledger: Ledger, workers: int) -> Progress:
    expected = Counter((episode.suite, episode.task) for plan in plans for episode in plan.episodes)
    tasks = {place: Tally(count) for place, count in expected.items()}
    for key, count in ledger.counts().items():
        tasks[key.suite, key.task] += Tally(0, count.finished, count.successes)
    return Progress(tasks, workers)
