"""The plan of a sweep: from the user's options to episodes, protocols and the workers' recipes, before it begins."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

import tyro
from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

from ..benchmarks.registry import load_suite
from ..benchmarks.suite import Suite, refuse_unknown_tasks
from ..envs.api import Episode, Protocol, observe
from ..envs.assets.bundle import find_bundle
from ..envs.background import run_to_end
from ..envs.embodiments import Embodiment
from ..envs.errors import VlarigError
from ..policies.api import Policy, Request, policy_seed
from ..policies.batching import Batcher, Batching
from ..policies.calls import check_fit, horizon_for, n_action_steps_for
from ..results.manifest import Manifest
from ..results.shards import Shard, take_initial_states
from .children.simulator import WorkerSpec
from .durable_env import DurableEnv
from .preparation import with_prepared
from .sinks import TrackerName, check_trackers
from .workers import local_workers

Count = Annotated[int | None, tyro.conf.arg(metavar="N")]

#: The latency that is measured when a run begins.
MEASURED = "measured"


class SweepConfig(BaseModel):
    """The configuration of a sweep; saved whole with the run."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    suites: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SUITE...")]
    """Suites to sweep, one after the other; 'vlarig envs list' shows them."""
    policy: Annotated[str, tyro.conf.arg(metavar="POLICY")]
    """Policy to evaluate: expert, random, still, zero, a registered policy, a checkpoint or model server (qwen-vla:CHECKPOINT,
    openpi:URL, vla-eval:URL, lerobot:FOLDER), or any class of yours as module:Name."""
    policy_options: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE...")] = ()
    """Options of the policy, such as temperature=0.6; part of the run's identity."""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK...")] = ()
    """Only these tasks. Default: all."""
    episodes: Count = None
    """Episodes of each task: its first initial states, then the same initial states again. Default: every initial state once."""
    initial_states: Literal["evaluation", "training"] = "evaluation"
    """Where episodes begin: at the protocol's initial states, or at those that are for training, which no protocol evaluates and no
    published number is of."""
    protocol: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Protocol to run under, one that every suite has; 'vlarig envs list SUITE' compares them. Default: each suite's first."""
    workers: Count = None
    """Simulator processes. Default: one a core, as far as memory allows."""
    num_envs: Count = None
    """Episodes under way at a time, in all. A worker has several, so that it simulates one while the policy computes actions for
    others. Default: 8 a worker, as far as memory allows."""
    batch: Count = None
    """Most requests that the policy answers at once. Default: as many as there are envs, at most 64."""
    replicas: Count = None
    """Processes of the policy that act side by side; their weights are loaded once a machine. Default: the policy is in the sweep's own
    process."""
    seed: int = 0
    """Seed of the policy's randomness. The simulators' comes from the episodes alone."""
    n_action_steps: Count = None
    """Steps of each predicted chunk to run before the policy is queried again. Default: the policy's own number, or the protocol's."""
    latency: Annotated[str | None, tyro.conf.arg(metavar="N|measured")] = None
    """Control steps after a request at which its answer arrives, while the world moves on; 'measured' takes what the policy needs on
    this machine for one request. Default: the protocol's; vlarig's own wait for the answer."""
    meanwhile: Annotated[Literal["chunk", "prefix", "still"] | None, tyro.conf.arg(metavar="chunk|prefix|still")] = None
    """What the robot does until then: 'chunk' runs the rest of the chunk before; 'prefix' too, and the policy fits its chunk to that,
    as in real-time chunking; 'still' waits. Default: the protocol's, which is 'chunk'."""
    part: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None
    """Only part I of N of each task's initial states, as a run of its own: choose settings on 1/2, and report what 2/2 gives."""
    shard: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None
    """Run part I of N of the episodes alone, as one of N sweeps that share no machine; 'vlarig runs merge' puts their runs together."""
    placement: Literal["local", "ray"] = "local"
    """Where to simulate: on this machine, or on the nodes of a Ray cluster, which may be lost and join meanwhile; 'ray' goes by the
    environment's RAY_ADDRESS, and takes a worker for each of the cluster's cores unless --workers is given."""
    hosts: Annotated[tuple[str, ...], tyro.conf.arg(metavar="HOST[:PORT]...")] = ()
    """Machines on which to simulate instead of this one, each with 'vlarig serve envs'; wss://HOST:PORT where it encrypts. Workers are
    then counted on each."""
    host_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File with such machines, one a line."""
    hosts_token_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File with the token that they require. Default: the environment's VLARIG_ENVS_TOKEN, and on this machine your own."""
    hosts_ca_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Certificates of the authorities to trust for wss://, in PEM format. Default: the system's."""
    run: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the run. Default: one below runs/ named after what identifies the run, so that the same command resumes it; a new one
    there takes over what its siblings have finished of the same episodes."""
    fresh: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Play all episodes again: a run in that folder is renamed (-old-1), and nothing is taken over. The same command without --fresh
    resumes the new one."""
    video: Literal["none", "failures", "all"] = "none"
    """Which episodes to film, by simulating them again after the sweep."""
    track: Annotated[tuple[TrackerName, ...], tyro.conf.arg(metavar="TRACKER...")] = ()
    """Where else the success rates go at the end: tensorboard (in the run's folder), trackio, wandb."""
    strict: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Make a neural policy's numbers independent of batching: every request alone, one thread, float32."""

    @field_validator("policy_options", "tasks", "hosts", "track", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("suites", mode="after")
    @classmethod
    def _named(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise VlarigError("no suite was named; name one or more, as in: vlarig sweep tabletop --policy expert")
        return value

    @field_validator("episodes", "workers", "num_envs", "batch", "replicas", "n_action_steps", mode="after")
    @classmethod
    def _positive(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value < 1:
            raise VlarigError(f"{info.field_name} is {value}; expected 1 or more")
        return value

    @field_validator("latency", mode="after")
    @classmethod
    def _late(cls, value: str | None) -> str | None:
        if value is not None and value != MEASURED and not (value.isascii() and value.isdecimal()):
            raise VlarigError(f"latency is {value!r}; expected a number of control steps, or {MEASURED}")
        return value

    @field_validator("part", "shard", mode="after")
    @classmethod
    def _share(cls, value: str | None) -> str | None:
        return None if value is None else str(Shard.parse(value))

    @property
    def delay_steps(self) -> int | None:
        """The latency in control steps; ``None`` for the protocol's, or where it is measured."""
        return None if self.latency in (None, MEASURED) else int(self.latency)

    @model_validator(mode="after")
    def _alone(self) -> Self:
        if self.strict and self.batch not in (None, 1):
            raise VlarigError(
                f"batch is {self.batch}, but strict sends the policy one request at a time; leave out one of them"
            )
        if self.placement == "ray" and (self.hosts or self.host_file):
            raise VlarigError("hosts are named beside placement=ray, which finds its own; leave out one of them")
        return self


@dataclass(frozen=True)
class PlannedSuite:
    """One suite, resolved.

    Attributes:
        worker_spec: The recipe of its workers.
        protocol: The protocol, derived where the user or the policy requests another number of steps.
        episodes: All episodes of the run in this suite.
    """

    worker_spec: WorkerSpec
    protocol: Protocol
    episodes: list[Episode]

    @property
    def suite(self) -> Suite:
        return self.worker_spec.suite

    @property
    def named(self) -> Protocol:
        """The suite's own protocol, from which :attr:`protocol` was derived if it is another."""
        return self.suite.protocol(self.protocol.derived_from or self.protocol.name)


def check_suites(config: SweepConfig, report: Callable[[str], None]) -> None:
    """Make sure that what a sweep needs beside its policy is here, before that is loaded.

    ``report`` is called with a message where something takes a while, such as unpacking data files.
    """
    suites = [load_suite(name) for name in dict.fromkeys(config.suites)]
    refuse_unknown_tasks(config.tasks, suites)
    check_trackers(config.track)
    for suite in suites:
        suite.protocol(config.protocol)
        for name in suite.assets:
            find_bundle(name, report)
        WorkerSpec.of(suite)


def plan_suites(
    config: SweepConfig, policy: Policy, report: Callable[[str], None], delays: Mapping[str, int] | None = None
) -> list[PlannedSuite]:
    """Resolve every suite of the sweep.

    Args:
        config: The sweep.
        policy: Its policy.
        report: Called with a message where something takes a while.
        delays: Suite to the control steps after which an answer arrives, in place of the configuration's.
    """
    suites = [load_suite(name) for name in dict.fromkeys(config.suites)]
    refuse_unknown_tasks(config.tasks, suites)
    for name in dict.fromkeys(name for suite in suites for name in suite.assets):
        find_bundle(name, report)
    training = config.initial_states == "training"
    plans = [
        plan_suite(
            suite,
            policy,
            config.tasks,
            config.episodes,
            config.n_action_steps,
            config.protocol,
            training,
            config.delay_steps if delays is None else delays[suite.name],
            config.meanwhile,
        )
        for suite in suites
    ]
    if config.part is None:
        return plans
    part = Shard.parse(config.part)
    plans = [replace(plan, episodes=take_initial_states(plan.episodes, part)) for plan in plans]
    if not any(plan.episodes for plan in plans):
        raise VlarigError(f"part {part} of the initial states is empty; take fewer parts")
    return plans


def plan_suite(
    suite: Suite,
    policy: Policy,
    tasks: Sequence[str] = (),
    episodes: int | None = None,
    n_action_steps: int | None = None,
    protocol: str | None = None,
    training: bool = False,
    delay_steps: int | None = None,
    meanwhile: str | None = None,
) -> PlannedSuite:
    """Resolve one suite; tasks that it does not have are another suite's.

    With ``training``, ``episodes`` of each task begin where none is evaluated. ``delay_steps`` and ``meanwhile`` take the place of the
    protocol's.
    """
    check_fit(policy, suite.name, suite.embodiment)
    named = suite.protocol(protocol)
    worker_spec = WorkerSpec.of(suite)
    own_tasks = [task.name for task in suite.tasks if task.name in tasks]
    if (own_tasks or not tasks) and (suite.read_states or not training):
        suite = with_prepared(worker_spec, own_tasks, episodes)
    steps = n_action_steps_for(policy, suite.embodiment, named.n_action_steps, n_action_steps)
    resolved = _delayed(named, policy, suite.embodiment, steps, delay_steps, meanwhile)
    chosen: list[Episode] = []
    if own_tasks or not tasks:
        chosen = (
            suite.training_episodes(own_tasks, episodes or 1, resolved)
            if training
            else suite.episodes(own_tasks, episodes, resolved)
        )
        if not chosen:
            raise VlarigError(f"{suite.name!r} has no episode for the protocol {resolved.name!r} in its data; see its page")
    return PlannedSuite(replace(worker_spec, suite=suite), resolved, chosen)


def _delayed(
    named: Protocol, policy: Policy, embodiment: Embodiment, steps: int, delay: int | None, meanwhile: str | None
) -> Protocol:
    """The protocol with ``n_action_steps``, and with the delay and what is done meanwhile where these are given."""
    late = named.delay_steps if delay is None else delay
    if meanwhile is not None and not late:
        raise VlarigError(f"meanwhile is {meanwhile!r}, and no answer is late; give latency too, as in: --latency 4")
    try:
        resolved = named.derive(n_action_steps=steps, delay_steps=late, meanwhile=meanwhile or named.meanwhile)
    except ValueError as error:
        raise VlarigError(f"protocol {named.name!r} cannot be played so: {error}") from None
    horizon = horizon_for(policy, embodiment)
    if late and horizon is not None and resolved.read_steps > horizon:
        raise VlarigError(
            f"n_action_steps is {steps} and latency {late}, which takes {resolved.read_steps} steps of each chunk, and the policy "
            f"{policy.name!r} predicts {horizon}; choose fewer"
        )
    if late and resolved.meanwhile == "prefix" and not policy.takes_prefix:
        raise VlarigError(f"meanwhile is 'prefix', and the policy {policy.name!r} takes none; choose chunk or still")
    return resolved


def in_words(plan: PlannedSuite, policy: Policy, requested: int | None) -> str:
    """How a derived protocol differs from the suite's own, and why."""
    standard, steps = plan.named, plan.protocol.n_action_steps
    if requested is not None:
        reason = "as requested"
    elif steps == policy.n_action_steps:
        reason = "the policy's own number; --n-action-steps gives another"
    else:
        reason = f"the policy predicts {steps} step{'s' * (steps != 1)}"
    found = []
    if steps != standard.n_action_steps:
        found.append(f"{steps} of {standard.n_action_steps} steps are executed before the policy is queried again ({reason})")
    if plan.protocol.delay_steps != standard.delay_steps:
        meanwhile = {"chunk": "the chunk before goes on", "prefix": "the chunk before goes on, which the policy is shown"}
        late = plan.protocol.delay_steps
        found.append(
            f"an answer arrives {late} control step{'s' * (late != 1)} late, and meanwhile "
            f"{meanwhile.get(plan.protocol.meanwhile, 'the robot stays where it is')}"
        )
    return (
        f"{plan.suite.name} runs under protocol {plan.protocol.name}@{plan.protocol.version}, not {standard.name}@{standard.version}: "
        + "; ".join(found)
    )


#: Requests that are timed; the first, which may compile and fill caches, is not.
TIMED = 5


def plan_with_latency(config: SweepConfig, policy: Policy, say: Callable[[str], None]) -> list[PlannedSuite]:
    """The suites of a sweep, each with the policy's latency in control steps; a run that was begun keeps its own.

    ``say`` is called with each finding, and where something takes a while.
    """
    at_once = plan_suites(config.model_copy(update={"meanwhile": None}), policy, say)
    delays: dict[str, int] = {}
    if config.run is not None and config.run.exists():
        delays = {suite.name: suite.resolved.delay_steps for suite in Manifest.load(config.run).identity.suites}
    if not {plan.suite.name for plan in at_once} <= delays.keys():
        delays = {plan.suite.name: _measured_delay(plan, policy, say) for plan in at_once}
    return plan_suites(config, policy, say, delays)


def _measured_delay(plan: PlannedSuite, policy: Policy, say: Callable[[str], None]) -> int:
    with tempfile.TemporaryDirectory(prefix="vlarig-latency-") as logs:
        seconds = run_to_end(_answer_seconds(plan, policy, Path(logs)))
    frequency = plan.suite.embodiment.control_frequency
    late = math.ceil(seconds * frequency)
    say(
        f"{plan.suite.name}: an answer takes {seconds * 1000:.0f} ms on this machine, {late} control step{'s' * (late != 1)} at "
        f"{frequency:g} Hz; --latency {late} plays the same elsewhere"
    )
    return late


async def _answer_seconds(plan: PlannedSuite, policy: Policy, logs: Path) -> float:
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
