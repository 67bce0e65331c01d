"""A sweep's run: its folder, the episodes that it shares with the runs beside it, and what it measured."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..benchmarks.registry import load_suite_of_run
from ..envs.api import Episode
from ..envs.errors import VlarigError
from ..results.ledger import Ledger
from ..results.manifest import MANIFEST_NAME, Identity, Manifest
from ..results.merging import take_over
from ..results.planning import episodes_digest
from ..results.records import EpisodeRecord
from ..results.runs import DEFAULT_RUNS, sibling_runs, summarize
from ..results.tables import Tally, run_table
from .plan import PlannedSuite, SweepConfig
from .replay import Replay
from .runtimes.spec import load_spec, requested_renderers


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


logger = logging.getLogger(__name__)


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
