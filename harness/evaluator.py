"""Sweeps that a program starts: one by :func:`evaluate`, or one at each of many training steps by an :class:`Evaluator`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from ..benchmarks.suite import Footprint
from ..envs.api import Episode
from ..envs.background import BackgroundLoop, run_to_end
from ..envs.errors import VlarigError, refuse_unknown_options
from ..policies.api import Policy
from ..policies.registry import check_members, parse_options
from .children.simulator import WorkerSpec
from .machines.fleets import Fleet, Lease
from .plan import SweepConfig
from .reporting.logs import EventLog
from .run import Evaluation, policy_state, warn_if_nothing_was_played
from .screen import Screen
from .sinks import Tracker, TrackerName, make_tracker
from .sweep import cluster, find_fleet, named_policy, run_sweep
from .workers import Worker


def evaluate(suites: str | tuple[str, ...] | list[str], policy: str | Policy, **options: Any) -> Evaluation:
    """Sweep suites with a policy; a run that was begun is resumed.

    Args:
        suites: Names of the suites, or one name.
        policy: A policy's name, or a policy. The weights that an object holds belong to the run's identity, unless its class has
            ``revision`` as a property, which then has to change with them; see :func:`~vlarig.harness.run.policy_state`.
        options: The other fields of :class:`~vlarig.harness.plan.SweepConfig`, and ``console``, a rich console for the live
            display (none is shown without it).
    """
    refuse_unknown_options("evaluate", options, [*SweepConfig.model_fields, "console"])
    console = options.pop("console", None) or Screen(quiet=True)
    config = sweep_config(suites, policy, **options)
    with EventLog(console) as event_log, cluster(config):
        evaluation = _sweep_with(policy, config, event_log)
    if console.quiet:
        warn_if_nothing_was_played(evaluation)
    return evaluation


def _sweep_with(
    policy: str | Policy,
    config: SweepConfig,
    event_log: EventLog,
    fleet: Fleet | None = None,
    run_loop: Callable[[Coroutine[Any, Any, None]], None] = run_to_end,
) -> Evaluation:
    """Run the sweep with a policy, or the one of that name; arguments as for :func:`~.sweep.run_sweep`."""
    if isinstance(policy, str):
        with named_policy(config, event_log.say) as named:
            return run_sweep(config, named, event_log, None, fleet, run_loop)
    return run_sweep(config, policy, event_log, policy_state(policy), fleet, run_loop)


def sweep_config(suites: str | tuple[str, ...] | list[str], policy: str | Policy, **options: Any) -> SweepConfig:
    """The configuration of a sweep that a program starts; arguments as for :func:`evaluate`."""
    named = policy if isinstance(policy, str) else f"{type(policy).__module__}:{type(policy).__qualname__}"
    try:
        config = SweepConfig(suites=(suites,) if isinstance(suites, str) else tuple(suites), policy=named, **options)
    except ValidationError as error:
        first = error.errors()[0]
        raise VlarigError(f"evaluate cannot take {first['loc'][0]}={first['input']!r}: {first['msg'].lower()}") from None
    options = parse_options(config.policy_options)
    if options and not isinstance(policy, str):
        raise VlarigError(
            f"evaluate got policy_options {list(config.policy_options)} beside a policy object; give the policy's name instead"
        )
    if config.replicas and not isinstance(policy, str):
        raise VlarigError(f"evaluate got replicas={config.replicas} beside a policy object; give the policy's name instead")
    if not isinstance(policy, str):
        check_members(named, policy)
    return config


class WarmFleet(Fleet):
    """A fleet whose workers stay alive from one sweep to the next.

    Args:
        fleet: Where the workers run.
        stack: Ends them.
    """

    def __init__(self, fleet: Fleet, stack: contextlib.AsyncExitStack) -> None:
        self._fleet = fleet
        self._stack = stack
        self._leases: dict[str, Lease] = {}
        self._workers: dict[str, Sequence[Worker]] = {}

    def for_envs(self, count: int, share: float) -> Fleet:
        """The fleet's own, not warm."""
        return self._fleet.for_envs(count, share)

    def lease(self, footprint: Footprint, episodes: Sequence[Episode]) -> Lease:
        """The lease of the suite's first sweep."""
        suite = episodes[0].suite
        if suite not in self._leases:
            self._leases[suite] = self._fleet.lease(footprint, episodes)
        return self._leases[suite]

    @contextlib.asynccontextmanager
    async def launch(self, worker_spec: WorkerSpec, lease: Lease, logs: Path) -> AsyncIterator[Sequence[Worker]]:
        """The suite's workers, started once."""
        suite = worker_spec.suite.name
        if suite not in self._workers:
            self._workers[suite] = await self._stack.enter_async_context(self._fleet.launch(worker_spec, lease, logs))
        yield self._workers[suite]


class Evaluator:
    """Sweeps suites with the policy of each call. Use it as a context manager.

    Args:
        suites: Names of the suites, or one name.
        folder: Gets the run of each call, as ``step-00001000``.
        trackers: Get the success rates of each call, see :meth:`Evaluation.rates`. One that is named, such as ``tensorboard``, is
            made for the folder, and closed in the end.
        options: The other fields of :class:`~vlarig.harness.plan.SweepConfig` but ``run``, such as ``episodes=5`` or ``workers=4``.

    Example::

        with Evaluator("tabletop", Path("runs/mine"), episodes=5) as evaluator:
            for step in range(10_000):
                train_a_step(policy)
                if step % 1000 == 0:
                    print(evaluator(policy, step).success_rate)
    """

    def __init__(
        self, suites: str | Sequence[str], folder: Path, *, trackers: Sequence[Tracker | TrackerName] = (), **options: Any
    ) -> None:
        self._suites = (suites,) if isinstance(suites, str) else tuple(suites)
        self._folder = folder
        self._trackers = trackers
        self._options = options

    def __enter__(self) -> Self:
        """Workers are started by the first call."""
        self._stack = contextlib.ExitStack()
        self._tracking = [self._tracker(each) for each in self._trackers]
        self._loop = BackgroundLoop("vlarig-evaluator")
        self._stack.callback(self._loop.close)
        self._workers = contextlib.AsyncExitStack()
        self._stack.callback(lambda: self._loop.run(self._workers.aclose()))
        self._fleet: WarmFleet | None = None
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _tracker(self, tracker: Tracker | TrackerName) -> Tracker:
        if not isinstance(tracker, str):
            return tracker
        return self._stack.enter_context(contextlib.closing(make_tracker(tracker, self._folder, self._folder.name)))

    def __call__(self, policy: Policy | str, step: int, kind: str = "step") -> Evaluation:
        """Measure a policy at a step of its training; the same call resumes an interrupted one.

        Args:
            policy: The policy as it is now, or the name of one, such as ``qwen-vla:CHECKPOINT``.
            step: Names the run, and is what trackers get.
            kind: Begins the run's name, where a step has several.

        Raises:
            VlarigError: Something the user can fix. What was measured until then is in the run.
        """
        config = sweep_config(self._suites, policy, run=self._folder / f"{kind}-{step:08d}", **self._options)
        with EventLog(Screen(quiet=True)) as event_log:
            if self._fleet is None:
                self._stack.enter_context(cluster(config))
                self._fleet = WarmFleet(find_fleet(config, event_log), self._workers)
            evaluation = _sweep_with(policy, config, event_log, self._fleet, self._loop.run)
        warn_if_nothing_was_played(evaluation)
        for tracker in self._tracking:
            tracker.log(evaluation.rates(), step)
        return evaluation
