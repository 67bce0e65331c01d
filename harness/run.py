"""A sweep's run: what identifies it, its folder, the episodes that it shares with the runs beside it, and what it measured."""

from __future__ import annotations

import argparse
import hashlib
import inspect
import logging
import re
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..benchmarks.registry import find_suite, load_suite_of_run
from ..envs.api import Episode
from ..envs.errors import VlarigError
from ..envs.runtimes.spec import load_spec, requested_renderers
from ..envs.sources import Source, find_sources, source_hashes
from ..policies.api import Policy, PolicyError
from ..policies.calls import policy_code
from ..policies.registry import find_experts, find_policy, option_sources, parse_options, policy_sources
from ..results.ledger import Ledger
from ..results.manifest import MANIFEST_NAME, Identity, Manifest
from ..results.merging import take_over
from ..results.planning import episodes_digest, suite_plans
from ..results.records import EpisodeRecord
from ..results.runs import DEFAULT_RUNS, sibling_runs, summarize
from ..results.tables import Tally, run_table
from .plan import PlannedSuite, SweepConfig
from .preparation import prepared_hash
from .replay import Replay

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PolicyState:
    """What identifies a policy object beside its revision.

    Attributes:
        sha256: Hash of the weights that it holds, in hex; ``None`` where its own revision says all.
        modules: The modules of the objects that hold them.
    """

    sha256: str | None
    modules: tuple[str, ...] = ()


def policy_state(policy: Policy) -> PolicyState:
    """The state of a policy object as it is now; acting may change it.

    A revision that is a property says all. Else a hash is taken of the arrays, tensors, numbers and texts that its attributes hold,
    those of its class too: in maps, lists, tuples, sets and other objects as well, and in what an object's ``state_dict()`` gives.
    What else decides its answers, such as a random generator, a global or a closure, is not seen. Where no array and no tensor is
    found, a revision that is set on the object and differs from its class's says all.
    """
    kind = type(policy)
    declared = inspect.getattr_static(kind, "revision")
    if isinstance(declared, property):
        return PolicyState(None)
    own = policy.revision != declared
    mend = "give its class 'revision' as a property that changes whenever it would act differently, such as a count of updates"
    if not own and not Path(getattr(sys.modules.get(kind.__module__), "__file__", None) or "").is_file():
        sentence = f"the class of the policy {policy.name!r} is in no file, so an edit of it would not be noticed"
        raise PolicyError(f"{sentence}; put it into a file, or {mend}")
    attributes = {name: value for name, value in inspect.getmembers_static(policy) if not name.startswith("__")}
    with policy_code(policy.name, "while its weights were read"):
        state, weights = _hashed(attributes)
    if not weights and not own:
        raise PolicyError(f"the policy {policy.name!r} holds no weights, so a change of them would not be noticed; {mend}")
    return state if weights else PolicyState(None)


def _hashed(attributes: Mapping[str, Any]) -> tuple[PolicyState, int]:
    """The state that is in attributes, and the number of arrays and tensors in it."""
    torch = sys.modules.get("torch")
    digest, modules, weights = hashlib.sha256(), set[str](), 0
    seen: dict[int, Any] = {}  # they live on, so no id is used twice
    waiting: list[tuple[str, Any]] = [("", attributes)]
    while waiting:
        path, value = waiting.pop()
        kind, parts = type(value), list[tuple[Any, Any]]()
        if torch is not None and isinstance(value, torch.Tensor):
            numbers = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            digest.update(f"{path} {value.dtype} {tuple(value.shape)}\n".encode() + numbers.tobytes())
            weights += 1
        elif hasattr(kind, "__array__") and not (array := np.asarray(value)).dtype.hasobject:
            digest.update(f"{path} {array.dtype.descr} {array.shape}\n".encode() + array.tobytes())
            weights += 1
        elif value is None or isinstance(value, bool | int | float | complex | str | bytes):
            digest.update(f"{path} {value!r}\n".encode(errors="surrogatepass"))
        elif id(value) not in seen:
            seen[id(value)] = value
            parts = _parts(value)
            modules.add(kind.__module__)
        waiting += [(f"{path}.{name}", part) for name, part in parts]
    return PolicyState(digest.hexdigest(), tuple(sorted(modules))), weights


def _parts(value: Any) -> list[tuple[Any, Any]]:
    """What an object holds, each part with its name, in an order that does not depend on how it was filled."""
    kind = type(value)
    if isinstance(value, Mapping):
        return sorted(value.items(), key=lambda item: repr(item[0]))
    if isinstance(value, list | tuple | deque):
        return [*enumerate(value)]
    if isinstance(value, set | frozenset):
        return [*enumerate(sorted(value, key=repr))]
    if hasattr(kind, "__array__"):
        return [("", np.asarray(value).tolist())]
    if isinstance(value, type):
        return []
    if hasattr(kind, "state_dict"):
        return [("state_dict", value.state_dict())]
    standard = kind.__module__.partition(".")[0] in sys.stdlib_module_names  # functions, locks, loggers: all hold the process
    if standard and not isinstance(value, SimpleNamespace | argparse.Namespace):
        return []
    return [("", object.__getstate__(value))]


def run_identity(
    config: SweepConfig, policy: Policy, plans: Sequence[PlannedSuite], state: PolicyState | None = None
) -> Identity:
    """What identifies the run: not its workers, envs, batches, place or videos.

    Args:
        config: The sweep.
        policy: Its policy.
        plans: Its suites.
        state: State of a policy that was given as an object, before it acted; ``None`` for one that was named.
    """
    episodes = [episode for plan in plans for episode in plan.episodes]
    options, beside = parse_options(config.policy_options), policy.transport_options
    return Identity(
        suites=suite_plans(episodes),
        episodes=len(episodes),
        episodes_digest=episodes_digest(episodes),
        seed=config.seed,
        policy=config.policy,
        policy_options={name: value for name, value in options.items() if name not in beside},
        policy_revision=policy.revision,
        policy_state=None if state is None else state.sha256,
        prepared={plan.suite.name: prepared_hash(plan.episodes) for plan in plans if plan.suite.prepared is not None},
        policy_privileged=policy.needs.privileged,
        strict=config.strict,
        runtimes={plan.suite.runtime: plan.worker_spec.runtime.lock_sha256 for plan in plans},
        sources=_sources(config, plans, state, option_sources(config.policy, policy, options)),
        assets={bundle.name: bundle.identity for plan in plans for bundle in plan.worker_spec.assets},
        renderer=rendered_by(plans),
        vlarig_version=version("vlarig"),
    )


def rendered_by(plans: Sequence[PlannedSuite]) -> str:
    """What renders the images of the suites, by name; ``own`` where no runtime's needs are known."""
    return (
        " ".join(sorted({plan.worker_spec.renderer.name for plan in plans if plan.worker_spec.renderer is not None})) or "own"
    )


def origins(config: SweepConfig, plans: Sequence[PlannedSuite]) -> dict[str, str]:
    """``suite NAME``, ``policy NAME`` and ``expert of SUITE``, to the installed package that each comes from, as ``NAME VERSION``.

    An object in no package, such as a file of the user's, is left out.
    """
    names = [plan.suite.name for plan in plans]
    found = {f"suite {name}": find_suite(given) for name, given in zip(names, dict.fromkeys(config.suites), strict=True)}
    found[f"policy {config.policy}"] = find_policy(config.policy)
    found |= {f"expert of {suite}": expert for suite, expert in find_experts(config.policy, names).items()}
    return {name: origin for name, registration in found.items() if (origin := registration.origin)}


def _sources(
    config: SweepConfig, plans: Sequence[PlannedSuite], state: PolicyState | None, files: Sequence[Source]
) -> dict[str, str]:
    """What third parties give the run: the code of its suites, adapters, policy and experts, and the files of the policy's options."""
    adapters = [source for plan in plans for source in plan.worker_spec.sources]
    experts = find_experts(config.policy, [plan.suite.name for plan in plans])
    registered = [*map(find_suite, config.suites), *experts.values()]
    suites = find_sources([each.module for each in registered])
    named = config.policy.partition(":")[0]
    policy = policy_sources(config.policy) if state is None else find_sources([named], state.modules)
    return source_hashes({source.root: source for source in [*suites, *policy, *adapters, *files]}.values())


def run_folder(config: SweepConfig, identity: Identity, plans: Sequence[PlannedSuite]) -> Path:
    """The folder of a run: readable, and the same for the same identity.

    A renderer counts where the user requests it, not where it is the machine's default.
    """
    if config.run is not None:
        return config.run
    known = [plan.suite.runtime for plan in plans if plan.worker_spec.renderer is not None]
    requested = sorted({name for runtime in known for name in requested_renderers(load_spec(runtime))})
    identity_hash = identity.model_copy(update={"renderer": " ".join(requested)}).identity_hash()
    words = "-".join([*config.suites, *filter(None, [config.protocol]), config.policy])
    shard = f"-shard-{config.shard.replace('/', '-of-')}" if config.shard else ""
    return DEFAULT_RUNS / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', words)[:80]}-{identity_hash[:8]}{shard}"


def as_begun(run: Path, plans: list[PlannedSuite]) -> list[PlannedSuite]:
    """The plans with the renderers that the run was begun with, if it was."""
    if not (run / MANIFEST_NAME).exists():
        return plans
    renderers = Manifest.load(run).identity.renderer.split()
    return [replace(plan, worker_spec=plan.worker_spec.rendered_by(renderers, run.name)) for plan in plans]


def use_siblings(
    run: Path, new: bool, wanted: Manifest, ledger: Ledger, episodes: Sequence[Episode], say: Callable[[str], None]
) -> None:
    """Report that a new run begins because code has changed, and copy the finished episodes of sibling runs, by keys.

    A sibling run has the same identity except its episodes. Its episodes are made again, and their digest proves that they equal those
    of its manifest, with their payloads.

    Args:
        run: Folder of the run, as shown to the user.
        new: Whether the run begins now.
        wanted: Its manifest.
        ledger: Its ledger.
        episodes: The episodes that it consists of.
        say: Called with a message for each finding.
    """
    owed = {episode.key for episode in episodes} - ledger.finished_keys()
    siblings = sibling_runs(run) if owed else []
    if new and (reason := _why_another(siblings, wanted)):
        say(reason)
    for folder, manifest in siblings:
        if manifest.identity.beside_episodes() != wanted.identity.beside_episodes():
            continue
        shared = owed & _keys_of(manifest.identity, wanted)
        try:
            count = take_over(run, folder, shared) if shared else 0
        except VlarigError as error:
            say(f"nothing is taken over from {folder}: {error}")
            continue
        if count:
            say(f"{count} finished episode{'s are' if count > 1 else ' is'} taken over from {folder}; --fresh plays all again")
            owed -= ledger.finished_keys()


def _why_another(siblings: Sequence[tuple[Path, Manifest]], wanted: Manifest) -> str:
    """Why a new run begins although the same command began one before: its code has changed; empty for any other reason."""
    for folder, manifest in siblings:
        same_but_code = manifest.identity.model_copy(update={"sources": wanted.identity.sources}) == wanted.identity
        if same_but_code and manifest.record.shard == wanted.record.shard and manifest.identity.sources:
            before, now = manifest.identity.sources, wanted.identity.sources
            changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
            summary = summarize(folder)
            finished = f"{summary.finished} of {summary.expected} finished"
            return f"{', '.join(changed)} changed since the run {folder} ({finished}), so this is another run"
    return ""


def _keys_of(identity: Identity, wanted: Manifest) -> set[str]:
    """Keys of a run's episodes under the protocols of another; none where its episodes cannot be made as they were."""
    protocols = {plan.name: plan.protocol for plan in wanted.identity.suites}
    episodes: list[Episode] = []
    try:
        for plan in identity.suites:
            suite = load_suite_of_run(plan.name, wanted.record.suites)
            episodes += [each for task in plan.tasks for each in suite.episodes([task.name], task.episodes, plan.resolved)]
        if episodes_digest(episodes) != identity.episodes_digest:
            return set()
    except (VlarigError, ValueError, TypeError):
        return set()
    same = {plan.name for plan in identity.suites if protocols.get(plan.name) == plan.protocol}
    return {episode.key for episode in episodes if episode.suite in same}


@dataclass(frozen=True)
class Evaluation:
    """A sweep that came to its end.

    Attributes:
        run: Folder of the run.
        complete: Whether every episode of the run, or of the shard, is finished.
        errors: Episodes given up in this session; the same command tries them again.
        unfilmed: Episodes that were to be filmed and could not be, with the reason.
        played: Episodes finished in this session; 0 where the run was complete already.
    """

    run: Path
    complete: bool
    errors: int
    unfilmed: tuple[Replay, ...] = ()
    played: int = 0

    def records(self) -> list[EpisodeRecord]:
        """Every finished episode of the run, with its actions."""
        with Ledger.open_read_only(self.run) as ledger:
            return ledger.records(with_actions=True)

    @property
    def success_rate(self) -> float | None:
        """Share of the run's finished episodes that succeeded, its suites pooled; ``None`` where none finished.

        Episodes that were given up or are missing are no part of it: see ``complete``, or the tallies of :meth:`by_task`.
        """
        return run_table(self.run).total.rate

    @property
    def interval(self) -> tuple[float, float]:
        """The Wilson 95 % interval of :attr:`success_rate`; ``(0.0, 1.0)`` where no episode finished."""
        return run_table(self.run).total.interval

    def rates(self) -> dict[str, float]:
        """Success rates as trackers get them: ``eval/success`` of all episodes, and ``eval/KEY`` for each key of :meth:`by_task`.

        What has no finished episode is left out.
        """
        by_task = {name: tally.rate for name, tally in self.by_task().items()}
        return {f"eval/{name}": rate for name, rate in ({"success": self.success_rate} | by_task).items() if rate is not None}

    def by_task(self) -> dict[str, Tally]:
        """Each task's tally (``rate``, ``interval``, ``finished``, ``successes``, ``errors``, ``missing``), in the order of the table.

        Keys are the tasks' names, with the variation where there is one; ``suite/task`` where the run has several suites.
        """
        suites = run_table(self.run).suites
        return {
            row.label if len(suites) == 1 else f"{suite.suite}/{row.label}": row.tally for suite in suites for row in suite.rows
        }


def warn_if_nothing_was_played(evaluation: Evaluation) -> None:
    """Log a warning where all episodes were there already: a program's user does not see what a sweep says."""
    if evaluation.complete and not evaluation.played:
        episodes = run_table(evaluation.run).total.finished
        logger.warning(
            "nothing was played: the %d episodes of %s were there already; fresh=True plays them again",
            episodes,
            evaluation.run,
        )
