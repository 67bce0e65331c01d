"""The latency that a sweep plays with where it is measured: what the policy needs on this machine for one request."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..envs.api import observe
from ..envs.background import run_to_end
from ..policies.api import Policy, Request, policy_seed
from ..policies.batching import Batcher, Batching
from ..results.manifest import Manifest
from .durable_env import DurableEnv
from .plan import PlannedSuite, SweepConfig, plan_suites
from .workers import local_workers

#: Requests that are timed; the first, which may compile and fill caches, is not.
TIMED = 5


async def answer_seconds(plan: PlannedSuite, policy: Policy, logs: Path) -> float:
    """Median seconds of an answer to one request at a time, at the beginning of the suite's first episode."""
    episode = plan.episodes[0]
    async with local_workers(plan.worker_spec, 1, logs) as (worker,), Batcher(policy, Batching(1)) as batcher:
        batcher.playing = 1
        snapshot = await DurableEnv(worker, 0, policy.needs).begin(episode)
        seconds = []
        for number in range(1 + TIMED):
            request = Request(
                env=0,
                key=episode.key,
                chunk=0,
                seed=policy_seed(number, episode.key, 0),
                observation=observe(snapshot),
                embodiment=plan.suite.embodiment,
                n_action_steps=episode.protocol.read_steps,
                privileged=snapshot.privileged,
            )
            seconds.append((await batcher.ask(request)).seconds)
    return statistics.median(seconds[1:])


def plan_with_latency(config: SweepConfig, policy: Policy, say: Callable[[str], None]) -> list[PlannedSuite]:
    """The suites of a sweep, each with the policy's latency in control steps; a run that was begun keeps its own.

    ``say`` is called with each finding, and where something takes a while.
    """
    at_once = plan_suites(config.model_copy(update={"meanwhile": None}), policy, say)
    names = {plan.suite.name for plan in at_once}
    delays: dict[str, int] = {}
    if config.run is not None and config.run.exists():
        delays = {suite.name: suite.resolved.delay_steps for suite in Manifest.load(config.run).identity.suites}
    if not names <= delays.keys():
        with tempfile.TemporaryDirectory(prefix="vlarig-latency-") as logs:
            delays = {plan.suite.name: _measured(plan, policy, Path(logs), say) for plan in at_once}
    return plan_suites(config, policy, say, delays)


def _measured(plan: PlannedSuite, policy: Policy, logs: Path, say: Callable[[str], None]) -> int:
    seconds, frequency = run_to_end(answer_seconds(plan, policy, logs)), plan.suite.embodiment.control_frequency
    late = math.ceil(seconds * frequency)
    say(
        f"{plan.suite.name}: an answer takes {seconds * 1000:.0f} ms on this machine, {late} control step{'s' * (late != 1)} at "
        f"{frequency:g} Hz; --latency {late} plays the same elsewhere"
    )
    return late
